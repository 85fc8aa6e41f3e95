//! The information elements that Trunkline sends, each with where its value comes from.
//!
//! Pure tables. Numbers of enterprise elements are for ever: a new meaning gets a new number. They begin at 1001, where
//! IANA has none, so that a collector that overlooks the enterprise bit takes none of them for another element.
//! The Total elements 85 and 86 are never here: collectors add them to the deltas.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use trunkline_ebpf::{Conversation, Tag};

use super::element::{DataType, Element, Semantics, Source, Units, Value};
use crate::flows::record::{DnsRecord, Endpoint, FlowRecord, Record};

/// From when: of a question, when it was asked first.
const START: Element = iana(152, "flowStartMilliseconds", DataType::DateTimeMilliseconds, |s| {
    millis(match s.record {
        Record::Flow(flow) => flow.start,
        Record::Dns(query) => query.asked_at(),
    })
});
/// Until when: of a question, when it was answered.
const END: Element = iana(153, "flowEndMilliseconds", DataType::DateTimeMilliseconds, |s| {
    millis(match s.record {
        Record::Flow(flow) => flow.end,
        Record::Dns(query) => query.at,
    })
});

/// When and how much: in every record of a flow.
pub(super) const MEASURES: [Element; 7] = [
    START,
    END,
    iana(1, "octetDeltaCount", DataType::Unsigned64, |s| Value::U64(of_flow(s, |flow| flow.totals.bytes))),
    iana(2, "packetDeltaCount", DataType::Unsigned64, |s| Value::U64(of_flow(s, |flow| flow.totals.packets))),
    counter(1001, "socketBufferOctetDeltaCount", Units::Octets, |s| {
        Value::U64(of_flow(s, |flow| flow.totals.skb_bytes))
    }),
    counter(1002, "socketBufferDeltaCount", Units::Packets, |s| {
        Value::U64(of_flow(s, |flow| flow.totals.skbs))
    }),
    // Never the standard's samplingInterval (34), nor a selector's: collectors would scale once more what is scaled.
    quantity(1018, "samplingOneIn", DataType::Unsigned32, |s| Value::U32(of_flow(s, |flow| flow.one_in))),
];

/// Which way: in every record.
pub(super) const DIRECTION: Element =
    iana(61, "flowDirection", DataType::Unsigned8, |s| Value::U8(s.record.sent().into()));
/// What else is to know: in every record.
pub(super) const FLAGS: Element =
    Element { semantics: Semantics::Flags, ..ours(1003, "recordFlags", DataType::Unsigned16, flags) };
/// How the flow went: in every record of a flow.
pub(super) const CIRCUMSTANCES: [Element; 5] = [
    DIRECTION,
    iana(136, "flowEndReason", DataType::Unsigned8, |s| Value::U8(of_flow(s, |flow| flow.reason as u8))),
    FLAGS,
    iana(56, "sourceMacAddress", DataType::MacAddress, |s| Value::Mac(of_flow(s, |flow| flow.src_mac))),
    iana(80, "destinationMacAddress", DataType::MacAddress, |s| Value::Mac(of_flow(s, |flow| flow.dst_mac))),
];

/// A question to a name server and its answer.
pub(super) const DNS: [Element; 5] = [
    START,
    END,
    identifier(1019, "dnsQueryId", DataType::Unsigned16, |s| Value::U16(of_dns(s, |query| query.id))),
    identifier(1020, "dnsResponseCode", DataType::Unsigned8, |s| {
        Value::U8(of_dns(s, |query| query.answer.map_or(NO_ANSWER, |answer| answer.code)))
    }),
    quantity(1021, "dnsAskedCount", DataType::Unsigned32, |s| Value::U32(of_dns(s, |query| query.asked))),
];
/// From the first question to the answer; left out where none came.
pub(super) const DNS_LATENCY: Element = Element {
    units: Units::Nanoseconds,
    ..quantity(1022, "dnsResponseTime", DataType::Unsigned64, |s| {
        nanos(of_dns(s, |query| query.answer.map(|answer| answer.latency)))
    })
};
/// A response code that no answer has.
const NO_ANSWER: u8 = 255;

/// Who and where, by name: in every record, empty where unknown.
pub(super) const NAMES: [Element; 12] = [
    iana(82, "interfaceName", DataType::String, |s| text(&s.record.tap().device)),
    ours(1005, "podInterfaceName", DataType::String, |s| text(&s.record.tap().interface)),
    ours(1006, "podNamespace", DataType::String, |s| pod(s, |pod| &pod.namespace)),
    ours(1007, "podName", DataType::String, |s| pod(s, |pod| &pod.name)),
    ours(1008, "podUid", DataType::String, |s| pod(s, |pod| &pod.uid)),
    ours(1009, "peerPodNamespace", DataType::String, |s| peer(s, |peer| &peer.namespace)),
    ours(1010, "peerPodName", DataType::String, |s| peer(s, |peer| &peer.name)),
    ours(1011, "peerPodInterfaceName", DataType::String, |s| peer(s, |peer| &peer.interface)),
    ours(1012, "networkName", DataType::String, |s| {
        text(s.record.tap().network.as_deref().unwrap_or_default())
    }),
    ours(1013, "bridgeName", DataType::String, |s| {
        text(s.record.tap().bridge.as_deref().unwrap_or_default())
    }),
    ours(1014, "nodeName", DataType::String, |s| text(s.node)),
    ours(1023, "networkNamespaceName", DataType::String, |s| {
        text(s.record.tap().netns.as_deref().unwrap_or_default())
    }),
];

/// The device's index where the record's direction is received.
pub(super) const INGRESS_INTERFACE: Element =
    iana(10, "ingressInterface", DataType::Unsigned32, |s| Value::U32(s.record.tap().ifindex));
/// The same where it is sent.
pub(super) const EGRESS_INTERFACE: Element =
    iana(14, "egressInterface", DataType::Unsigned32, |s| Value::U32(s.record.tap().ifindex));
/// The network's VLAN where the record's direction is received.
pub(super) const VLAN: Element = iana(58, "vlanId", DataType::Unsigned16, network_vlan);
/// The same where it is sent.
pub(super) const POST_VLAN: Element = iana(59, "postVlanId", DataType::Unsigned16, network_vlan);
/// The outer tag as it was on the wire.
pub(super) const OUTER_TAG: Element =
    iana(243, "dot1qVlanId", DataType::Unsigned16, |s| Value::U16(vid(s.record.key().outer())));
/// The tag behind it.
pub(super) const INNER_TAG: Element =
    iana(245, "dot1qCustomerVlanId", DataType::Unsigned16, |s| Value::U16(vid(s.record.key().inner())));

/// Addresses of IPv4.
pub(super) const V4_ADDRESSES: [Element; 2] = [
    iana(8, "sourceIPv4Address", DataType::Ipv4Address, |s| v4(addresses(s.record).0)),
    iana(12, "destinationIPv4Address", DataType::Ipv4Address, |s| v4(addresses(s.record).1)),
];
/// Addresses of IPv6.
pub(super) const V6_ADDRESSES: [Element; 2] = [
    iana(27, "sourceIPv6Address", DataType::Ipv6Address, |s| v6(addresses(s.record).0)),
    iana(28, "destinationIPv6Address", DataType::Ipv6Address, |s| v6(addresses(s.record).1)),
];
/// What both versions of IP have.
pub(super) const PROTOCOL: Element =
    iana(4, "protocolIdentifier", DataType::Unsigned8, |s| Value::U8(protocol(s.record)));
/// The same, of a flow.
pub(super) const TOS: Element =
    iana(5, "ipClassOfService", DataType::Unsigned8, |s| Value::U8(of_flow(s, |flow| flow.tos)));
/// Ports.
pub(super) const PORTS: [Element; 2] = [
    iana(7, "sourceTransportPort", DataType::Unsigned16, |s| Value::U16(ports(s.record).0)),
    iana(11, "destinationTransportPort", DataType::Unsigned16, |s| Value::U16(ports(s.record).1)),
];
/// TCP's flags (RFC 7125: 16 bits).
pub(super) const TCP_FLAGS: Element =
    iana(6, "tcpControlBits", DataType::Unsigned16, |s| Value::U16(of_flow(s, |flow| flow.tcp_flags)));
/// ICMP's type × 256 + code.
pub(super) const ICMP_V4: Element = iana(32, "icmpTypeCodeIPv4", DataType::Unsigned16, icmp);
/// The same of version 6.
pub(super) const ICMP_V6: Element = iana(139, "icmpTypeCodeIPv6", DataType::Unsigned16, icmp);
/// Round trip of the TCP handshake; left out where none was seen.
pub(super) const RTT: Element = Element {
    units: Units::Nanoseconds,
    ..quantity(1004, "tcpHandshakeRoundTripTime", DataType::Unsigned64, |s| {
        nanos(of_flow(s, |flow| flow.rtt))
    })
};
/// What is not IP.
pub(super) const ETHERTYPE: Element =
    iana(256, "ethernetType", DataType::Unsigned16, |s| Value::U16(ethertype(s.record)));
/// ARP's own words.
pub(super) const ARP: [Element; 3] = [
    ours(1015, "arpSenderIPv4Address", DataType::Ipv4Address, |s| Value::V4(arp(s.record).0)),
    ours(1016, "arpTargetIPv4Address", DataType::Ipv4Address, |s| Value::V4(arp(s.record).1)),
    identifier(1017, "arpOperation", DataType::Unsigned16, |s| Value::U16(arp(s.record).2)),
];

/// Every element with an enterprise number, by number.
pub(super) fn enterprise_elements() -> Vec<Element> {
    let tables = [&MEASURES[..], &CIRCUMSTANCES, &NAMES, &[RTT, DNS_LATENCY], &ARP, &DNS];
    let mut found: Vec<Element> =
        tables.into_iter().flatten().filter(|element| element.enterprise).copied().collect();
    found.sort_by_key(|element| element.id);
    found
}

const fn iana(id: u16, name: &'static str, kind: DataType, value: Getter) -> Element {
    let (semantics, units) = (Semantics::Default, Units::None);
    Element { id, enterprise: false, name, kind, semantics, units, value }
}

const fn ours(id: u16, name: &'static str, kind: DataType, value: Getter) -> Element {
    Element { enterprise: true, ..iana(id, name, kind, value) }
}

const fn counter(id: u16, name: &'static str, units: Units, value: Getter) -> Element {
    let semantics = Semantics::DeltaCounter;
    Element { semantics, units, ..ours(id, name, DataType::Unsigned64, value) }
}

const fn quantity(id: u16, name: &'static str, kind: DataType, value: Getter) -> Element {
    Element { semantics: Semantics::Quantity, ..ours(id, name, kind, value) }
}

const fn identifier(id: u16, name: &'static str, kind: DataType, value: Getter) -> Element {
    Element { semantics: Semantics::Identifier, ..ours(id, name, kind, value) }
}

type Getter = for<'a> fn(&Source<'a>) -> Value<'a>;

/// A part of a flow. No template of flows has a question's record, nor the other way round.
fn of_flow<T: Default>(source: &Source<'_>, part: fn(&FlowRecord) -> T) -> T {
    source.record.flow().map(part).unwrap_or_default()
}

/// A part of a question.
fn of_dns<T: Default>(source: &Source<'_>, part: fn(&DnsRecord) -> T) -> T {
    source.record.dns().map(part).unwrap_or_default()
}

fn text(text: &str) -> Value<'_> {
    Value::Text(text.into())
}

fn pod<'a>(source: &Source<'a>, part: fn(&Endpoint) -> &str) -> Value<'a> {
    text(source.record.tap().pod.as_ref().map_or("", part))
}

fn peer<'a>(source: &Source<'a>, part: fn(&Endpoint) -> &str) -> Value<'a> {
    text(source.record.peer().map_or("", part))
}

/// Milliseconds since 1970; 0 for what was before.
fn millis(time: SystemTime) -> Value<'static> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Value::U64(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Nanoseconds; where none were measured the record has no such element.
fn nanos(time: Option<Duration>) -> Value<'static> {
    Value::U64(u64::try_from(time.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX))
}

fn network_vlan(source: &Source<'_>) -> Value<'static> {
    Value::U16(source.record.tap().vlan.map_or(0, trunkline_api::VlanId::get))
}

fn vid(tag: Option<Tag>) -> u16 {
    tag.map_or(0, |tag| tag.vid)
}

/// Bits of `recordFlags`, lowest first.
fn flags(source: &Source<'_>) -> Value<'static> {
    let key = source.record.key();
    let service = |tag: Option<Tag>| tag.is_some_and(|tag| tag.service);
    let bits = [
        of_flow(source, |flow| flow.fragmented),
        key.later_fragment(),
        key.truncated(),
        key.more_tags(),
        of_flow(source, |flow| flow.gap),
        service(key.outer()),
        service(key.inner()),
    ];
    Value::U16(bits.into_iter().enumerate().map(|(bit, set)| u16::from(set) << bit).sum())
}

fn addresses(record: &Record) -> (IpAddr, IpAddr) {
    match record.key().conversation() {
        Conversation::Ip { src, dst, .. } | Conversation::Icmp { src, dst, .. } => (src, dst),
        _ => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()),
    }
}

fn v4(address: IpAddr) -> Value<'static> {
    Value::V4(match address {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    })
}

fn v6(address: IpAddr) -> Value<'static> {
    Value::V6(match address {
        IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED,
        IpAddr::V6(v6) => v6,
    })
}

fn protocol(record: &Record) -> u8 {
    match record.key().conversation() {
        Conversation::Ip { protocol, .. } => protocol,
        Conversation::Icmp { src, .. } if src.is_ipv4() => 1,
        Conversation::Icmp { .. } => 58,
        _ => 0,
    }
}

fn ports(record: &Record) -> (u16, u16) {
    match record.key().conversation() {
        Conversation::Ip { src_port, dst_port, .. } => (src_port, dst_port),
        _ => (0, 0),
    }
}

fn icmp(source: &Source<'_>) -> Value<'static> {
    Value::U16(match source.record.key().conversation() {
        Conversation::Icmp { kind, code, .. } => u16::from_be_bytes([kind, code]),
        _ => 0,
    })
}

fn ethertype(record: &Record) -> u16 {
    match record.key().conversation() {
        Conversation::Ethernet { ethertype, .. } => ethertype,
        Conversation::Arp { .. } => 0x0806,
        _ => 0,
    }
}

fn arp(record: &Record) -> (Ipv4Addr, Ipv4Addr, u16) {
    match record.key().conversation() {
        Conversation::Arp { sender, target, operation } => (sender, target, operation),
        _ => (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED, 0),
    }
}
