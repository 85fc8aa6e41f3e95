//! Row identifiers as OVSDB writes them.
//!
//! Owns parsing and printing only; must never make identifiers up: the server does.

use std::fmt;
use std::str::FromStr;

/// A row's `_uuid` (RFC 7047 section 3.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(u128);

/// The text is not a UUID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a UUID like 550e8400-e29b-41d4-a716-446655440000")]
pub struct ParseUuidError(String);

impl Uuid {
    /// From its 128 bits, most significant first.
    pub const fn from_u128(bits: u128) -> Self {
        Self(bits)
    }

    /// The 128 bits, most significant first.
    pub const fn as_u128(self) -> u128 {
        self.0
    }
}

/// Lengths of the five groups of hex digits.
const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];

impl FromStr for Uuid {
    type Err = ParseUuidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseUuidError(text.chars().take(64).collect());
        let mut bits = 0_u128;
        let mut groups = text.split('-');
        for length in GROUPS {
            let group = groups.next().ok_or_else(bad)?;
            if group.len() != length {
                return Err(bad());
            }
            for digit in group.chars() {
                bits = (bits << 4) | u128::from(digit.to_digit(16).ok_or_else(bad)?);
            }
        }
        if groups.next().is_some() { Err(bad()) } else { Ok(Self(bits)) }
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = |from: u32, digits: u32| (self.0 >> from) & ((1_u128 << (4 * digits)) - 1);
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            group(96, 8),
            group(80, 4),
            group(64, 4),
            group(48, 4),
            group(0, 12)
        )
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_prints_as_it_was_read() {
        for text in ["00000000-0000-0000-0000-000000000000", "550e8400-e29b-41d4-a716-446655440000"] {
            assert_eq!(text.parse::<Uuid>().expect("a uuid").to_string(), text);
        }
    }

    #[test]
    fn what_is_not_a_uuid_is_refused() {
        for text in [
            "",
            "550e8400",
            "550e8400-e29b-41d4-a716-44665544000g",
            "550e8400-e29b-41d4-a716-446655440000-",
            "é50e8400-e29b-41d4-a716-446655440000",
        ] {
            assert!(text.parse::<Uuid>().is_err(), "{text:?} was taken");
        }
    }
}
