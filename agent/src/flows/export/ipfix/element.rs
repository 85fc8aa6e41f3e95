//! What an information element is (RFC 7011, 3.2 and RFC 5610, 3), and how its value is written.
//!
//! Pure. Owns types and lengths; which elements there are is said in [`super::fields`].

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::flows::record::Record;

/// Length of an element of which every record says the length itself (RFC 7011, 7).
const VARIABLE: u16 = 0xffff;
/// Lengths from here on are written in three bytes (RFC 7011, 7).
const LONG: usize = 255;

/// A record and what the exporter knows beside it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) record: &'a Record,
    pub(super) node: &'a str,
}

/// Abstract data types, numbered as in IANA's registry `informationElementDataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataType {
    Unsigned8 = 1,
    Unsigned16 = 2,
    Unsigned32 = 3,
    Unsigned64 = 4,
    MacAddress = 12,
    String = 13,
    DateTimeMilliseconds = 15,
    Ipv4Address = 18,
    Ipv6Address = 19,
}

/// Numbered as in IANA's registry `informationElementSemantics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Semantics {
    Default = 0,
    Quantity = 1,
    DeltaCounter = 3,
    Identifier = 4,
    Flags = 5,
}

/// Numbered as in IANA's registry `informationElementUnits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Units {
    None = 0,
    Octets = 2,
    Packets = 3,
    Nanoseconds = 8,
}

/// A value of one of the types above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    U8(u8),
    U16(u16),
    U32(u32),
    U64(u64),
    Mac([u8; 6]),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    Text(Cow<'a, str>),
}

/// An element with its place in a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Element {
    pub(super) id: u16,
    /// Whether the number is of the configured enterprise instead of IANA.
    pub(super) enterprise: bool,
    pub(super) name: &'static str,
    pub(super) kind: DataType,
    pub(super) semantics: Semantics,
    pub(super) units: Units,
    pub(super) value: for<'a> fn(&Source<'a>) -> Value<'a>,
}

impl DataType {
    /// Field length in a template. Unsigned numbers are never shortened (RFC 7011, 6.2 allows it; readers differ).
    pub(super) fn length(self) -> u16 {
        match self {
            Self::Unsigned8 => 1,
            Self::Unsigned16 => 2,
            Self::Unsigned32 | Self::Ipv4Address => 4,
            Self::Unsigned64 | Self::DateTimeMilliseconds => 8,
            Self::MacAddress => 6,
            Self::Ipv6Address => 16,
            Self::String => VARIABLE,
        }
    }
}

impl Element {
    /// Appends its field specifier (RFC 7011, 3.2).
    pub(super) fn specify(&self, enterprise: u32, out: &mut Vec<u8>) {
        let bit = if self.enterprise { 0x8000 } else { 0 };
        out.extend((self.id | bit).to_be_bytes());
        out.extend(self.kind.length().to_be_bytes());
        if self.enterprise {
            out.extend(enterprise.to_be_bytes());
        }
    }

    /// Appends its value, strings cut to `longest` bytes.
    pub(super) fn write(&self, source: &Source<'_>, longest: usize, out: &mut Vec<u8>) {
        (self.value)(source).write(longest, out);
    }
}

impl Value<'_> {
    pub(super) fn write(&self, longest: usize, out: &mut Vec<u8>) {
        match self {
            Self::U8(value) => out.push(*value),
            Self::U16(value) => out.extend(value.to_be_bytes()),
            Self::U32(value) => out.extend(value.to_be_bytes()),
            Self::U64(value) => out.extend(value.to_be_bytes()),
            Self::Mac(octets) => out.extend(octets),
            Self::V4(address) => out.extend(address.octets()),
            Self::V6(address) => out.extend(address.octets()),
            Self::Text(text) => write_text(cut(text, longest), out),
        }
    }
}

/// As much of a text as fits into `longest` bytes and ends between characters.
pub(super) fn cut(text: &str, longest: usize) -> &str {
    &text[..text.floor_char_boundary(longest)]
}

/// `text` is shorter than 64 KiB, for it was cut.
fn write_text(text: &str, out: &mut Vec<u8>) {
    match u8::try_from(text.len()) {
        Ok(short) if text.len() < LONG => out.push(short),
        _ => {
            out.push(0xff);
            out.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    out.extend(text.as_bytes());
}
