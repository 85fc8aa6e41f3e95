//! What a flow matches: OXM fields (OpenFlow 1.3.5, section 7.2.3).
//!
//! Owns the fields that the allow-list needs in typed form and keeps all others as they came, so that a foreign flow
//! prints and compares truly. Must never drop a field.

use std::fmt;

use bytes::{BufMut as _, BytesMut};

use super::wire::{Cursor, WireError};

/// `OFPXMC_OPENFLOW_BASIC`.
const BASIC: u16 = 0x8000;
/// `OXM_OF_IN_PORT`.
const IN_PORT: u8 = 0;
/// `OXM_OF_ETH_TYPE`.
const ETH_TYPE: u8 = 5;
/// `OXM_OF_VLAN_VID`.
const VLAN_VID: u8 = 6;
/// `OFPVID_PRESENT`: the bit of `OXM_OF_VLAN_VID` that says "there is a tag".
const VLAN_PRESENT: u16 = 0x1000;
/// `OFPMT_OXM`.
const MATCH_OXM: u16 = 1;

/// What a flow says about the outermost VLAN tag, of type 802.1Q or 802.1ad alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum VlanMatch {
    /// Nothing.
    #[default]
    Any,
    /// There is no tag at all, not even one with VID 0 (`OFPVID_NONE`, without a mask).
    Untagged,
    /// There is a tag, with any VID.
    Tagged,
    /// There is a tag with this VID, 0–4095.
    Id(u16),
    /// Some bits of `OXM_OF_VLAN_VID`, bit 12 being "there is a tag".
    Masked {
        /// Bits.
        value: u16,
        /// Which of them count.
        mask: u16,
    },
}

/// A field that has no typed form here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Oxm {
    /// Class.
    pub class: u16,
    /// Field, 0–127.
    pub field: u8,
    /// Whether the second half of the payload is a mask.
    pub masked: bool,
    /// Value and mask, at most 255 bytes.
    pub payload: Vec<u8>,
}

/// What a flow matches. The default matches every packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Match {
    /// OpenFlow port that the packet came in by.
    pub in_port: Option<u32>,
    /// VLAN tag.
    pub vlan: VlanMatch,
    /// `EtherType` behind the tags.
    pub eth_type: Option<u16>,
    /// Everything else.
    pub other: Vec<Oxm>,
}

impl Match {
    /// Appends `ofp_match`, padded to eight bytes.
    pub(super) fn write(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_u16(MATCH_OXM);
        out.put_u16(0);
        if let Some(port) = self.in_port {
            oxm(out, IN_PORT, false, &port.to_be_bytes());
        }
        if let Some(eth_type) = self.eth_type {
            oxm(out, ETH_TYPE, false, &eth_type.to_be_bytes());
        }
        match self.vlan {
            VlanMatch::Any => {}
            VlanMatch::Untagged => oxm(out, VLAN_VID, false, &[0, 0]),
            VlanMatch::Tagged => masked(out, VLAN_PRESENT, VLAN_PRESENT),
            VlanMatch::Id(id) => oxm(out, VLAN_VID, false, &(VLAN_PRESENT | (id & 0x0fff)).to_be_bytes()),
            VlanMatch::Masked { value, mask } => masked(out, value, mask),
        }
        for other in &self.other {
            put(out, other.class, other.field, other.masked, &other.payload);
        }
        let length = u16::try_from(out.len() - start).expect("our matches hold some dozen bytes");
        out[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
        out.put_bytes(0, padding(length.into()));
    }

    /// Reads `ofp_match` with its padding.
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self, WireError> {
        let kind = cursor.u16()?;
        let length = usize::from(cursor.u16()?);
        if kind != MATCH_OXM {
            return Err(WireError::Kind { what: "a match", found: kind });
        }
        let payload = length.checked_sub(4).ok_or(WireError::Length { what: "a match", length })?;
        let mut fields = cursor.part("a match", payload)?;
        cursor.take(padding(length))?;
        let mut matching = Self::default();
        while !fields.is_empty() {
            matching.read_field(&mut fields)?;
        }
        Ok(matching)
    }

    fn read_field(&mut self, fields: &mut Cursor<'_>) -> Result<(), WireError> {
        let (class, field, length) = (fields.u16()?, fields.u8()?, fields.u8()?);
        let payload = fields.take(length.into())?;
        let (field, masked) = (field >> 1, field & 1 == 1);
        match (class, field, masked, payload) {
            (BASIC, IN_PORT, false, [a, b, c, d]) => {
                self.in_port = Some(u32::from_be_bytes([*a, *b, *c, *d]));
            }
            (BASIC, ETH_TYPE, false, [a, b]) => self.eth_type = Some(u16::from_be_bytes([*a, *b])),
            (BASIC, VLAN_VID, false, [a, b]) => self.vlan = exact_vlan(u16::from_be_bytes([*a, *b])),
            (BASIC, VLAN_VID, true, [a, b, c, d]) => {
                self.vlan = masked_vlan(u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
            }
            _ => self.other.push(Oxm { class, field, masked, payload: payload.to_vec() }),
        }
        Ok(())
    }
}

fn exact_vlan(value: u16) -> VlanMatch {
    match value {
        0 => VlanMatch::Untagged,
        tagged if tagged & VLAN_PRESENT != 0 => VlanMatch::Id(tagged & 0x0fff),
        value => VlanMatch::Masked { value, mask: 0xffff },
    }
}

fn masked_vlan(value: u16, mask: u16) -> VlanMatch {
    match (value, mask) {
        (VLAN_PRESENT, VLAN_PRESENT) => VlanMatch::Tagged,
        (value, mask) => VlanMatch::Masked { value, mask },
    }
}

fn masked(out: &mut BytesMut, value: u16, mask: u16) {
    let ([a, b], [c, d]) = (value.to_be_bytes(), mask.to_be_bytes());
    oxm(out, VLAN_VID, true, &[a, b, c, d]);
}

fn oxm(out: &mut BytesMut, field: u8, masked: bool, payload: &[u8]) {
    put(out, BASIC, field, masked, payload);
}

fn put(out: &mut BytesMut, class: u16, field: u8, masked: bool, payload: &[u8]) {
    let payload = &payload[..payload.len().min(255)];
    out.put_u16(class);
    out.put_u8((field << 1) | u8::from(masked));
    out.put_u8(u8::try_from(payload.len()).expect("cut to 255 above"));
    out.put_slice(payload);
}

/// Bytes that bring a length to a multiple of eight.
pub(super) fn padding(length: usize) -> usize {
    length.next_multiple_of(8) - length
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.in_port.map(|port| format!("in_port={port}")));
        match self.vlan {
            VlanMatch::Any => {}
            VlanMatch::Untagged => parts.push("untagged".to_owned()),
            VlanMatch::Tagged => parts.push("tagged".to_owned()),
            VlanMatch::Id(id) => parts.push(format!("dl_vlan={id}")),
            VlanMatch::Masked { value, mask } => parts.push(format!("vlan_vid=0x{value:04x}/0x{mask:04x}")),
        }
        parts.extend(self.eth_type.map(|eth_type| format!("dl_type=0x{eth_type:04x}")));
        parts.extend(self.other.iter().map(|oxm| format!("oxm(0x{:04x},{})", oxm.class, oxm.field)));
        f.write_str(if parts.is_empty() { "any".to_owned() } else { parts.join(",") }.as_str())
    }
}
