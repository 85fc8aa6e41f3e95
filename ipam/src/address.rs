//! Addresses as numbers, and how requested ones are written.
//!
//! Owns the conversion and the parsing of requests. Must never know a pool.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::PickError;

/// An address family. Every pool has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// 32 bits.
    V4,
    /// 128 bits.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Number of bits of an address.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The address with this value; of IPv4, the lower 32 bits count.
    pub(crate) fn address(self, value: u128) -> IpAddr {
        match self {
            Self::V4 => {
                let low = u32::try_from(value & u128::from(u32::MAX)).expect("masked to 32 bits");
                Ipv4Addr::from_bits(low).into()
            }
            Self::V6 => Ipv6Addr::from_bits(value).into(),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The value of an address.
pub(crate) fn value(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// An address that a pod asks for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requested {
    /// The address.
    pub address: IpAddr,
    /// The prefix length, where the pod states one; it must then be the pool's.
    pub prefix_length: Option<u8>,
}

impl Requested {
    /// Reads "10.0.0.5" or "10.0.0.5/24".
    pub fn parse(text: &str) -> Result<Self, PickError> {
        let malformed = || PickError::Malformed { text: text.to_owned() };
        let Some((address, length)) = text.split_once('/') else {
            let address = text.parse().map_err(|_| malformed())?;
            return Ok(Self { address, prefix_length: None });
        };
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let length: u8 = length.parse().map_err(|_| malformed())?;
        if length > Family::of(address).bits() {
            return Err(malformed());
        }
        Ok(Self { address, prefix_length: Some(length) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requested_address_may_carry_a_prefix_length() {
        for (text, expected) in [
            ("10.0.0.5", Some(("10.0.0.5", None))),
            ("10.0.0.5/24", Some(("10.0.0.5", Some(24)))),
            ("fd00::5/64", Some(("fd00::5", Some(64)))),
            ("10.0.0.5/33", None),
            ("fd00::/129", None),
            ("10.0.0", None),
            ("", None),
            ("10.0.0.5/", None),
        ] {
            let got = Requested::parse(text).ok();
            let expected = expected.map(|(address, prefix_length)| Requested {
                address: address.parse().expect("a test's address"),
                prefix_length,
            });
            assert_eq!(got, expected, "{text}");
        }
    }

    #[test]
    fn values_and_addresses_are_inverse() {
        for text in ["0.0.0.0", "10.0.0.5", "255.255.255.255", "::", "fd00::5"] {
            let address: IpAddr = text.parse().expect("a test's address");
            assert_eq!(Family::of(address).address(value(address)), address);
        }
    }
}
