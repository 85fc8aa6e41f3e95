//! OpenFlow framing and primitive fields (OpenFlow 1.3.5, section 7.1).
//!
//! Owns the header, the splitter and the checked reader. A message holds at most 65,535 bytes by its own length field,
//! which is what bounds memory; must never trust a length before it has been compared with what is there.

use bytes::{Buf as _, Bytes, BytesMut};

/// OpenFlow 1.3.
pub(super) const VERSION: u8 = 0x04;
/// Bytes of a header.
pub const HEADER_LEN: usize = 8;
/// How much room is made for one read, in bytes: the longest message.
const READ: usize = 64 << 10;

/// Message types (section 7.1.2, `ofp_type`).
pub(super) mod kind {
    pub(in super::super) const HELLO: u8 = 0;
    pub(in super::super) const ERROR: u8 = 1;
    pub(in super::super) const ECHO_REQUEST: u8 = 2;
    pub(in super::super) const ECHO_REPLY: u8 = 3;
    pub(in super::super) const EXPERIMENTER: u8 = 4;
    pub(in super::super) const FEATURES_REQUEST: u8 = 5;
    pub(in super::super) const FEATURES_REPLY: u8 = 6;
    pub(in super::super) const FLOW_MOD: u8 = 14;
    pub(in super::super) const MULTIPART_REQUEST: u8 = 18;
    pub(in super::super) const MULTIPART_REPLY: u8 = 19;
    pub(in super::super) const BARRIER_REQUEST: u8 = 20;
    pub(in super::super) const BARRIER_REPLY: u8 = 21;
}

/// The bytes are not OpenFlow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Something ends before its time.
    #[error("{what} is cut short: {needed} bytes are needed, {left} are left")]
    Truncated {
        /// What was read.
        what: &'static str,
        /// Bytes it needs.
        needed: usize,
        /// Bytes there are.
        left: usize,
    },
    /// A length field that cannot be.
    #[error("{what} claims a length of {length} bytes")]
    Length {
        /// What was read.
        what: &'static str,
        /// The length it claims.
        length: usize,
    },
    /// A version that was not negotiated.
    #[error("a message of OpenFlow version 0x{0:02x} where 0x04 was agreed on")]
    Version(u8),
    /// A type that is not understood where only one is possible.
    #[error("{what} has type {found}")]
    Kind {
        /// What was read.
        what: &'static str,
        /// The type found.
        found: u16,
    },
}

/// The start of every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Version of the protocol.
    pub version: u8,
    /// Type of the message.
    pub kind: u8,
    /// Length of the whole message in bytes, the header's eight among them.
    pub length: u16,
    /// Transaction id.
    pub xid: u32,
}

/// Splits a byte stream into messages. Feed it through [`MessageBuffer::buffer`], then call [`MessageBuffer::next_message`]
/// until it gives nothing.
#[derive(Debug, Default)]
pub struct MessageBuffer {
    buffer: BytesMut,
}

impl MessageBuffer {
    /// Where the next bytes of the stream go; has room for one read.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.buffer.reserve(READ);
        &mut self.buffer
    }

    /// Bytes held now: less than one message and one read.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole message: its header, and the body behind it.
    pub fn next_message(&mut self) -> Result<Option<(Header, Bytes)>, WireError> {
        let Some(first) = self.buffer.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let [version, kind, l1, l2, x1, x2, x3, x4] = *first;
        let header = Header {
            version,
            kind,
            length: u16::from_be_bytes([l1, l2]),
            xid: u32::from_be_bytes([x1, x2, x3, x4]),
        };
        let length = usize::from(header.length);
        if length < HEADER_LEN {
            return Err(WireError::Length { what: "a message", length });
        }
        if self.buffer.len() < length {
            return Ok(None);
        }
        let mut message = self.buffer.split_to(length).freeze();
        message.advance(HEADER_LEN);
        Ok(Some((header, message)))
    }
}

/// Reads fields one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    what: &'static str,
    left: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, left: bytes }
    }

    pub(super) fn left(&self) -> &'a [u8] {
        self.left
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// The next bytes.
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let cut = WireError::Truncated { what: self.what, needed: count, left: self.left.len() };
        let (taken, left) = self.left.split_at_checked(count).ok_or(cut)?;
        self.left = left;
        Ok(taken)
    }

    /// The next bytes, as something of its own.
    pub(super) fn part(&mut self, what: &'static str, count: usize) -> Result<Cursor<'a>, WireError> {
        self.take(count).map(|bytes| Cursor::new(what, bytes))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let cut = WireError::Truncated { what: self.what, needed: N, left: self.left.len() };
        let (taken, left) = self.left.split_first_chunk::<N>().ok_or(cut)?;
        self.left = left;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, WireError> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }
}

/// Appends a message: the header, then what `body` writes. The length is filled in afterwards.
pub(super) fn message(out: &mut BytesMut, kind: u8, xid: u32, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.extend_from_slice(&[VERSION, kind, 0, 0]);
    out.extend_from_slice(&xid.to_be_bytes());
    body(out);
    let length = u16::try_from(out.len() - start).expect("our messages hold some hundred bytes");
    out[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests;
