//! Names of network interfaces and OVS bridges.
//!
//! Owns the kernel's rules for them (`dev_valid_name` in net/core/dev.c); must never look whether one exists.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `IFNAMSIZ` without its terminating zero.
const MAX_BYTES: usize = 15;

/// A name for a network interface: 1–15 bytes, no slash, colon, white space or control character; not "." or "..".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

/// A name for an OVS bridge, which is also the name of its local interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BridgeName(String);

macro_rules! link_name {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidLinkName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                check(text).map(|()| Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidLinkName;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                check(&text).map(|()| Self(text))
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidLinkName;

            fn try_from(text: &str) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

link_name!(IfName);
link_name!(BridgeName);

impl From<BridgeName> for IfName {
    fn from(bridge: BridgeName) -> Self {
        Self(bridge.0)
    }
}

/// Why a text cannot name an interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLinkName {
    /// No text at all.
    #[error("is empty; use 1 to 15 bytes")]
    Empty,
    /// More than the kernel stores.
    #[error("{name:?} is {bytes} bytes long; use at most 15")]
    TooLong {
        /// The text.
        name: String,
        /// Its length in bytes.
        bytes: usize,
    },
    /// "." or "..": names of directories in sysfs.
    #[error("{0:?} is not an interface name")]
    Reserved(String),
    /// A character that the kernel or its tools refuse.
    #[error("{name:?} contains {character:?}; use letters, digits, '-', '_' and '.'")]
    Character {
        /// The text.
        name: String,
        /// The first such character.
        character: char,
    },
}

fn check(name: &str) -> Result<(), InvalidLinkName> {
    if name.is_empty() {
        return Err(InvalidLinkName::Empty);
    }
    if name.len() > MAX_BYTES {
        return Err(InvalidLinkName::TooLong { name: name.to_owned(), bytes: name.len() });
    }
    if name == "." || name == ".." {
        return Err(InvalidLinkName::Reserved(name.to_owned()));
    }
    let refused = |c: &char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control();
    match name.chars().find(refused) {
        Some(character) => Err(InvalidLinkName::Character { name: name.to_owned(), character }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
