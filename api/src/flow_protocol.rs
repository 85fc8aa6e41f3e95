//! Protocols of flows as people write and read them.
//!
//! Owns the names: what `trunkctl flows` shows, and what it and exporters filter by. Must never know a packet.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// IP protocols that go by a name; others go by their number (IANA, Assigned Internet Protocol Numbers).
const NAMES: [(u8, &str); 10] = [
    (1, "icmp"),
    (6, "tcp"),
    (17, "udp"),
    (33, "dccp"),
    (47, "gre"),
    (50, "esp"),
    (51, "ah"),
    (58, "icmpv6"),
    (132, "sctp"),
    (136, "udplite"),
];
const ARP: &str = "arp";

/// What a flow speaks: `tcp`, `89`, `arp` or `0x88cc`. Letters may be of either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowProtocol {
    /// A protocol of IP, by its number.
    Ip(u8),
    /// ARP.
    Arp,
    /// Neither IP nor ARP, by its ethertype.
    Ethernet(u16),
}

/// No protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is no protocol; use tcp, udp, icmp, icmpv6, sctp, dccp, udplite, gre, esp, ah, arp, a number from 0 to 255, \
     or an ethertype such as \"0x88cc\""
)]
pub struct InvalidProtocol(String);

impl fmt::Display for FlowProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Ip(number) => match NAMES.iter().find(|(named, _)| *named == number) {
                Some((_, name)) => f.write_str(name),
                None => number.fmt(f),
            },
            Self::Arp => f.write_str(ARP),
            Self::Ethernet(ethertype) => write!(f, "{ethertype:#06x}"),
        }
    }
}

impl FromStr for FlowProtocol {
    type Err = InvalidProtocol;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.to_ascii_lowercase();
        let named = NAMES.iter().find(|(_, name)| *name == lower).map(|(number, _)| Self::Ip(*number));
        let number = || plain(&lower).and_then(|digits| digits.parse().ok()).map(Self::Ip);
        let ethertype = || {
            let digits = lower.strip_prefix("0x").and_then(plain)?;
            u16::from_str_radix(digits, 16).ok().map(Self::Ethernet)
        };
        let arp = (lower == ARP).then_some(Self::Arp);
        let found = named.or(arp).or_else(number).or_else(ethertype);
        found.ok_or_else(|| InvalidProtocol(format!("{text:?}")))
    }
}

/// Without a sign, which `parse` would take.
fn plain(digits: &str) -> Option<&str> {
    Some(digits).filter(|digits| !digits.starts_with('+'))
}

impl Serialize for FlowProtocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FlowProtocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrNumber;

        impl de::Visitor<'_> for NameOrNumber {
            type Value = FlowProtocol;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a protocol's name or number")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<FlowProtocol, E> {
                let number =
                    u8::try_from(number).map_err(|_| E::custom(InvalidProtocol(number.to_string())))?;
                Ok(FlowProtocol::Ip(number))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<FlowProtocol, E> {
                let number =
                    u8::try_from(number).map_err(|_| E::custom(InvalidProtocol(number.to_string())))?;
                Ok(FlowProtocol::Ip(number))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<FlowProtocol, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(NameOrNumber)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_one_protocol() {
        for (text, protocol, shown) in [
            ("tcp", FlowProtocol::Ip(6), "tcp"),
            ("TCP", FlowProtocol::Ip(6), "tcp"),
            ("6", FlowProtocol::Ip(6), "tcp"),
            ("89", FlowProtocol::Ip(89), "89"),
            ("IcmpV6", FlowProtocol::Ip(58), "icmpv6"),
            ("arp", FlowProtocol::Arp, "arp"),
            ("0x88CC", FlowProtocol::Ethernet(0x88cc), "0x88cc"),
            ("0x4", FlowProtocol::Ethernet(4), "0x0004"),
        ] {
            assert_eq!(text.parse(), Ok(protocol), "{text}");
            assert_eq!(protocol.to_string(), shown);
        }
        for text in ["", "tpc", "256", "-1", "+6", "0x", "0x+1", "0x10000", "tcp ", "six"] {
            let refused = text.parse::<FlowProtocol>().map_err(|error| error.to_string());
            assert!(
                refused.is_err_and(|said| said.starts_with(&format!("{text:?} is no protocol"))),
                "{text}"
            );
        }
    }

    #[test]
    fn every_protocol_is_read_back_as_it_is_shown() {
        let ip = (0..=u8::MAX).map(FlowProtocol::Ip);
        let ethernet = (0..=u16::MAX).map(FlowProtocol::Ethernet);
        for protocol in ip.chain(ethernet).chain([FlowProtocol::Arp]) {
            assert_eq!(protocol.to_string().parse(), Ok(protocol));
        }
    }
}
