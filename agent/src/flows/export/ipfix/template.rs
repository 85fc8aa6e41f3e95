//! Which elements a record has: templates by shape, and the options records that type our own elements (RFC 5610).
//!
//! Pure. A template is made of the same list as its records, so that the two cannot disagree. A field of which a
//! record knows nothing is not sent as 0 where 0 has a meaning (VLANs, tags, round trips): the record has another
//! shape then. Texts may be empty.

use std::net::IpAddr;

use trunkline_ebpf::Conversation;

use super::element::{DataType, Element, Source, Value};
use super::fields;
use crate::flows::record::Record;

/// The options template of element types; 256 is the lowest number that a template may have.
pub(super) const TYPES_TEMPLATE: u16 = 256;
/// The first template of records.
const FIRST: u16 = 257;
/// Names of our elements are far shorter.
const NAME_LONGEST: usize = 100;

/// What decides a record's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Shape {
    kind: Kind,
    sent: bool,
    /// Whether the network has a VLAN.
    vlan: bool,
    /// How many tags were on the wire, 0–2.
    tags: u8,
    /// Whether there is a time that was measured: of a flow's handshake, or to a question's answer.
    timed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    V4,
    V4Icmp,
    V6,
    V6Icmp,
    Arp,
    Ethernet,
    V4Dns,
    V6Dns,
}

impl Shape {
    /// The shape of a record.
    pub(super) fn of(record: &Record) -> Self {
        let (key, dns) = (record.key(), record.dns());
        let kind = match key.conversation() {
            Conversation::Ip { src: IpAddr::V4(_), .. } if dns.is_some() => Kind::V4Dns,
            _ if dns.is_some() => Kind::V6Dns,
            Conversation::Ip { src: IpAddr::V4(_), .. } => Kind::V4,
            Conversation::Ip { .. } => Kind::V6,
            Conversation::Icmp { src: IpAddr::V4(_), .. } => Kind::V4Icmp,
            Conversation::Icmp { .. } => Kind::V6Icmp,
            Conversation::Arp { .. } => Kind::Arp,
            Conversation::Ethernet { .. } => Kind::Ethernet,
        };
        let tags = match (key.outer(), key.inner()) {
            (None, _) => 0,
            (Some(_), None) => 1,
            (Some(_), Some(_)) => 2,
        };
        let timed = match record {
            Record::Flow(flow) => flow.rtt.is_some(),
            Record::Dns(query) => query.answer.is_some(),
        };
        Self { kind, sent: record.sent(), vlan: record.tap().vlan.is_some(), tags, timed }
    }

    /// The template's number: the same for the same shape in every run.
    pub(super) fn template(self) -> u16 {
        let digits: [(u16, u16); 4] =
            [(self.sent.into(), 2), (self.vlan.into(), 2), (self.tags.into(), 3), (self.timed.into(), 2)];
        FIRST + digits.into_iter().fold(self.kind as u16, |number, (digit, base)| number * base + digit)
    }

    /// Its elements in their order.
    pub(super) fn elements(self) -> Vec<Element> {
        let mut elements = if self.kind.is_dns() { fields::DNS.to_vec() } else { fields::MEASURES.to_vec() };
        elements.push(if self.sent { fields::EGRESS_INTERFACE } else { fields::INGRESS_INTERFACE });
        if self.kind.is_dns() {
            elements.extend([fields::DIRECTION, fields::FLAGS]);
        } else {
            elements.extend(fields::CIRCUMSTANCES);
        }
        if self.vlan {
            elements.push(if self.sent { fields::POST_VLAN } else { fields::VLAN });
        }
        elements.extend([fields::OUTER_TAG, fields::INNER_TAG].into_iter().take(self.tags.into()));
        self.kind.add(&mut elements);
        if self.timed {
            elements.push(if self.kind.is_dns() { fields::DNS_LATENCY } else { fields::RTT });
        }
        elements.extend(fields::NAMES);
        elements
    }

    /// Its template record (RFC 7011, 3.4.1).
    pub(super) fn define(self, enterprise: u32) -> Vec<u8> {
        let elements = self.elements();
        let mut out = self.template().to_be_bytes().to_vec();
        out.extend(count(&elements));
        for element in &elements {
            element.specify(enterprise, &mut out);
        }
        out
    }

    /// A record of it, texts cut to `longest` bytes.
    pub(super) fn encode(self, source: &Source<'_>, longest: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        for element in self.elements() {
            element.write(source, longest, &mut out);
        }
        out
    }
}

impl Kind {
    fn is_dns(self) -> bool {
        matches!(self, Self::V4Dns | Self::V6Dns)
    }

    fn add(self, elements: &mut Vec<Element>) {
        match self {
            Self::V4 | Self::V4Icmp | Self::V4Dns => elements.extend(fields::V4_ADDRESSES),
            Self::V6 | Self::V6Icmp | Self::V6Dns => elements.extend(fields::V6_ADDRESSES),
            Self::Arp | Self::Ethernet => elements.push(fields::ETHERTYPE),
        }
        let ip = [fields::PROTOCOL, fields::TOS].into_iter();
        match self {
            Self::V4 | Self::V6 => elements.extend(ip.chain(fields::PORTS).chain([fields::TCP_FLAGS])),
            Self::V4Icmp => elements.extend(ip.chain([fields::ICMP_V4])),
            Self::V6Icmp => elements.extend(ip.chain([fields::ICMP_V6])),
            Self::V4Dns | Self::V6Dns => elements.extend([fields::PROTOCOL].into_iter().chain(fields::PORTS)),
            Self::Arp => elements.extend(fields::ARP),
            Self::Ethernet => {}
        }
    }
}

/// The elements of element types: their id, length, in the order of a record (RFC 5610, 3.9). The first two are the
/// scope.
const TYPES: [(u16, DataType); 6] = [
    (346, DataType::Unsigned32), // privateEnterpriseNumber
    (303, DataType::Unsigned16), // informationElementId
    (339, DataType::Unsigned8),  // informationElementDataType
    (344, DataType::Unsigned8),  // informationElementSemantics
    (345, DataType::Unsigned16), // informationElementUnits
    (341, DataType::String),     // informationElementName
];
const TYPES_SCOPE: u16 = 2;

/// The options template of element types (RFC 7011, 3.4.2.2).
pub(super) fn define_types() -> Vec<u8> {
    let mut out = TYPES_TEMPLATE.to_be_bytes().to_vec();
    out.extend(count(&TYPES));
    out.extend(TYPES_SCOPE.to_be_bytes());
    for (id, kind) in TYPES {
        out.extend(id.to_be_bytes());
        out.extend(kind.length().to_be_bytes());
    }
    out
}

/// One record of [`define_types`] for each of our elements.
pub(super) fn types(enterprise: u32) -> impl Iterator<Item = Vec<u8>> {
    fields::enterprise_elements().into_iter().map(move |element| {
        let Element { id, enterprise: _, name, kind, semantics, units, value: _ } = element;
        let values = [
            Value::U32(enterprise),
            Value::U16(id),
            Value::U8(kind as u8),
            Value::U8(semantics as u8),
            Value::U16(units as u16),
            Value::Text(name.into()),
        ];
        let mut out = Vec::new();
        for value in values {
            value.write(NAME_LONGEST, &mut out);
        }
        out
    })
}

fn count<T>(fields: &[T]) -> [u8; 2] {
    u16::try_from(fields.len()).unwrap_or(u16::MAX).to_be_bytes()
}
