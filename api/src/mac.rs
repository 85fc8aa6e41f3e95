//! Ethernet addresses.
//!
//! Owns their one spelling, `aa:bb:cc:dd:ee:ff`; must never guess at another (dashes, dots, EUI-64).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A 48-bit MAC address, printed in lower case with colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// From its bytes in transmission order.
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// Its bytes in transmission order.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Group bit set (IEEE 802-2014, 8.2.2); broadcast is one of these.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// `00:00:00:00:00:00`, which the kernel refuses on a link.
    pub fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }

    /// May an interface have it: neither zero nor a group address.
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && !self.is_zero()
    }

    /// Makes an address of one's own out of random bytes: group bit cleared, local bit set.
    pub const fn local(mut octets: [u8; 6]) -> Self {
        octets[0] = (octets[0] & !1) | 2;
        Self(octets)
    }
}

impl FromStr for MacAddr {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidMac(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or_else(invalid)?;
            if part.len() != 2 || !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(invalid());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        if parts.next().is_some() { Err(invalid()) } else { Ok(Self(octets)) }
    }
}

impl TryFrom<String> for MacAddr {
    type Error = InvalidMac;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|octet| write!(f, ":{octet:02x}"))
    }
}

/// Text that is no MAC address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address; use six hexadecimal bytes such as \"02:00:00:00:00:01\"")]
pub struct InvalidMac(String);

#[cfg(test)]
mod tests;
