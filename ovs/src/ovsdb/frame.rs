//! Cuts a byte stream into JSON values (RFC 7047 section 4: JSON-RPC 1.0 over a stream, without any other framing).
//!
//! Owns the limits that bound memory whatever a peer sends. Must never parse: it only finds where a value ends.

use bytes::{Buf as _, Bytes, BytesMut};

/// Longest message in bytes. The initial reply for 10,000 ports is about 10 MB.
pub const MAX_FRAME: usize = 32 << 20;
/// Deepest nesting of arrays and objects. OVSDB's own messages need about ten levels.
pub const MAX_DEPTH: usize = 64;
/// Most separators and brackets in one message, which bounds what parsing it can allocate.
pub const MAX_VALUES: usize = 4 << 20;

/// How much room is made for one read, in bytes.
const READ: usize = 64 << 10;

/// The stream is not what OVSDB speaks; the connection has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Something other than `{` where a message should begin.
    #[error("a message begins with byte 0x{0:02x} instead of '{{'")]
    NotAnObject(u8),
    /// More than [`MAX_FRAME`] bytes.
    #[error("a message is longer than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// More than [`MAX_DEPTH`] levels.
    #[error("a message is nested deeper than {limit} levels")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// More than [`MAX_VALUES`] values.
    #[error("a message holds more than {limit} values")]
    TooMany {
        /// The limit.
        limit: usize,
    },
}

/// The splitter. Feed it through [`Framer::buffer`], then call [`Framer::next_frame`] until it gives nothing.
#[derive(Debug)]
pub struct Framer {
    buffer: BytesMut,
    scanned: usize,
    depth: usize,
    values: usize,
    in_string: bool,
    escaped: bool,
    limit: usize,
}

impl Default for Framer {
    fn default() -> Self {
        Self::with_limit(MAX_FRAME)
    }
}

impl Framer {
    /// A splitter with another limit of bytes per message.
    pub fn with_limit(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            scanned: 0,
            depth: 0,
            values: 0,
            in_string: false,
            escaped: false,
            limit,
        }
    }

    /// Where the next bytes of the stream go; has room for one read.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.buffer.reserve(READ);
        &mut self.buffer
    }

    /// Bytes held now: at most one message and one read.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole message, or nothing until more bytes are there.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        if self.scanned == 0 {
            let blank = self.buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            self.buffer.advance(blank);
            match self.buffer.first() {
                None => return Ok(None),
                Some(b'{') => {}
                Some(other) => return Err(FrameError::NotAnObject(*other)),
            }
        }
        while let Some(byte) = self.buffer.get(self.scanned).copied() {
            self.scanned += 1;
            if self.scanned > self.limit {
                return Err(FrameError::TooLong { limit: self.limit });
            }
            if self.step(byte)? {
                let frame = self.buffer.split_to(self.scanned).freeze();
                self.scanned = 0;
                self.values = 0;
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// Takes one byte; true when it ends the message.
    fn step(&mut self, byte: u8) -> Result<bool, FrameError> {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return Ok(false);
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => {
                self.depth += 1;
                self.count()?;
                if self.depth > MAX_DEPTH {
                    return Err(FrameError::TooDeep { limit: MAX_DEPTH });
                }
            }
            b',' => self.count()?,
            b'}' | b']' => {
                self.depth -= 1; // Never below zero: a message starts with `{` and ends when this reaches zero.
                return Ok(self.depth == 0);
            }
            _ => {}
        }
        Ok(false)
    }

    fn count(&mut self) -> Result<(), FrameError> {
        self.values += 1;
        if self.values > MAX_VALUES { Err(FrameError::TooMany { limit: MAX_VALUES }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
