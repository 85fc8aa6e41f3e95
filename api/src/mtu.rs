//! Maximum transmission units.
//!
//! Owns the bounds of RFC 791 and RFC 8200; must never know a link.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An MTU in bytes, 68 (RFC 791, 3.2) to 65535. IPv6 needs [`Mtu::MIN_IPV6`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Mtu(u16);

impl Mtu {
    /// What interfaces get that ask for nothing, as Antrea has it.
    pub const DEFAULT: Self = Self(1500);
    /// The least that IPv6 works with (RFC 8200, section 5).
    pub const MIN_IPV6: Self = Self(1280);

    /// Bytes, 68–65535.
    pub fn get(self) -> u32 {
        u32::from(self.0)
    }

    /// Can an interface of this MTU carry IPv6.
    pub fn carries_ipv6(self) -> bool {
        self >= Self::MIN_IPV6
    }
}

impl TryFrom<u32> for Mtu {
    type Error = InvalidMtu;

    fn try_from(bytes: u32) -> Result<Self, Self::Error> {
        match u16::try_from(bytes) {
            Ok(mtu) if mtu >= 68 => Ok(Self(mtu)),
            _ => Err(InvalidMtu(bytes.to_string())),
        }
    }
}

impl FromStr for Mtu {
    type Err = InvalidMtu;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes: u32 = text.parse().map_err(|_| InvalidMtu(text.to_owned()))?;
        Self::try_from(bytes)
    }
}

impl From<Mtu> for u32 {
    fn from(mtu: Mtu) -> Self {
        mtu.get()
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number that is no MTU.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not an MTU; use 68 to 65535 bytes")]
pub struct InvalidMtu(String);

#[cfg(test)]
mod tests;
