//! What flows and questions to name servers are called in OpenTelemetry: the one table of attributes, version 1.
//!
//! Pure. No convention names flows yet, so a name is the convention's where it has one and begins with `trunkline.`
//! where it has none. Within a version attributes are only added; one that changes its name or meaning makes a new
//! version. What is unknown is left out. docs/flow-export.md shows this table; a test compares the two.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use trunkline_api::MacAddr;
use trunkline_ebpf::{Conversation, Tag};

use crate::flows::record::{EndReason, Endpoint, FlowRecord, Record, code_name};

/// The version of the table: the value of `trunkline.flow.schema`.
pub(super) const SCHEMA: i64 = 1;
/// The version of the conventions that the names without `trunkline.` are from.
pub(super) const CONVENTIONS: &str = "https://opentelemetry.io/schemas/1.42.0";

/// One attribute of a log record.
pub(super) struct Attribute {
    pub(super) name: &'static str,
    value: Getter,
}

/// Where a value comes from; flags are there only when they hold.
enum Getter {
    Text(fn(&Record) -> Option<String>),
    Integer(fn(&Record) -> Option<i64>),
    Flag(fn(&Record) -> bool),
}

/// All of them.
pub(super) const ATTRIBUTES: [Attribute; 54] = [
    integer("trunkline.flow.schema", |_| Some(SCHEMA)),
    integer("trunkline.flow.start_time_unix_nano", |record| Some(count(nanoseconds(record.flow()?.start)))),
    text("trunkline.flow.end_reason", |record| Some(reason(record.flow()?.reason).to_owned())),
    integer("trunkline.flow.packets", |record| Some(count(record.flow()?.totals.packets))),
    integer("trunkline.flow.bytes", |record| Some(count(record.flow()?.totals.bytes))),
    integer("trunkline.flow.skbs", |record| Some(count(record.flow()?.totals.skbs))),
    integer("trunkline.flow.skb_bytes", |record| Some(count(record.flow()?.totals.skb_bytes))),
    integer("trunkline.flow.one_in", |record| Some(record.flow()?.one_in.into())),
    flag("trunkline.flow.estimated", |record| record.flow().is_some_and(FlowRecord::estimated)),
    integer("trunkline.dns.id", |record| Some(record.dns()?.id.into())),
    integer("trunkline.dns.asked", |record| Some(record.dns()?.asked.into())),
    text("trunkline.dns.response_code", |record| {
        record.dns()?.answer.map(|answer| code_name(answer.code).into_owned())
    }),
    integer("trunkline.dns.latency_nano", |record| Some(duration(record.dns()?.answer?.latency))),
    flag("trunkline.dns.unanswered", |record| record.dns().is_some_and(|query| query.answer.is_none())),
    text("network.io.direction", |record| Some(direction(record).to_owned())),
    text("network.type", |record| {
        ip(record).map(|ip| if ip.src.is_ipv4() { "ipv4" } else { "ipv6" }.to_owned())
    }),
    text("network.transport", transport),
    text("source.address", |record| addresses(record).map(|(source, _)| source.to_string())),
    integer("source.port", |record| ports(record).map(|(source, _)| source.into())),
    text("destination.address", |record| addresses(record).map(|(_, destination)| destination.to_string())),
    integer("destination.port", |record| ports(record).map(|(_, destination)| destination.into())),
    text("trunkline.source.mac", |record| Some(MacAddr::new(record.flow()?.src_mac).to_string())),
    text("trunkline.destination.mac", |record| Some(MacAddr::new(record.flow()?.dst_mac).to_string())),
    integer("trunkline.ethernet.type", ethertype),
    integer("trunkline.ip.protocol", |record| ip(record).map(|ip| ip.protocol.into())),
    integer("trunkline.ip.dscp", |record| tos(record).map(|tos| (tos >> 2).into())),
    integer("trunkline.ip.ecn", |record| tos(record).map(|tos| (tos & 3).into())),
    integer("trunkline.tcp.flags", |record| {
        let tcp = ip(record).is_some_and(|ip| ip.protocol == 6);
        record.flow().filter(|_| tcp).map(|flow| flow.tcp_flags.into())
    }),
    integer("trunkline.tcp.handshake_rtt_nano", |record| record.flow()?.rtt.map(duration)),
    integer("trunkline.icmp.type", |record| icmp(record).map(|(kind, _)| kind.into())),
    integer("trunkline.icmp.code", |record| icmp(record).map(|(_, code)| code.into())),
    integer("trunkline.arp.operation", |record| arp(record).map(|(_, _, operation)| operation.into())),
    text("network.interface.name", |record| Some(record.tap().device.clone())),
    integer("trunkline.interface.index", |record| Some(record.tap().ifindex.into())),
    text("trunkline.interface.name", |record| Some(record.tap().interface.clone())),
    text("trunkline.interface.netns", |record| record.tap().netns.clone()),
    text("k8s.namespace.name", |record| pod(record, |pod| &pod.namespace)),
    text("k8s.pod.name", |record| pod(record, |pod| &pod.name)),
    text("k8s.pod.uid", |record| pod(record, |pod| &pod.uid)),
    text("trunkline.peer.namespace.name", |record| peer(record, |peer| &peer.namespace)),
    text("trunkline.peer.pod.name", |record| peer(record, |peer| &peer.name)),
    text("trunkline.peer.pod.uid", |record| peer(record, |peer| &peer.uid)),
    text("trunkline.peer.interface.name", |record| peer(record, |peer| &peer.interface)),
    text("trunkline.network.name", |record| record.tap().network.clone()),
    integer("trunkline.network.vlan", |record| record.tap().vlan.map(|vlan| vlan.get().into())),
    text("trunkline.bridge.name", |record| record.tap().bridge.clone()),
    integer("trunkline.wire.outer_vlan", |record| record.key().outer().map(|tag| tag.vid.into())),
    text("trunkline.wire.outer_protocol", |record| record.key().outer().map(tag_protocol)),
    integer("trunkline.wire.inner_vlan", |record| record.key().inner().map(|tag| tag.vid.into())),
    text("trunkline.wire.inner_protocol", |record| record.key().inner().map(tag_protocol)),
    flag("trunkline.flow.more_tags", |record| record.key().more_tags()),
    flag("trunkline.flow.fragmented", |record| {
        record.flow().is_some_and(|flow| flow.fragmented) || record.key().later_fragment()
    }),
    flag("trunkline.flow.truncated", |record| record.key().truncated()),
    flag("trunkline.flow.gap", |record| record.flow().is_some_and(|flow| flow.gap)),
];

/// The attributes of a record, those that it has, in the table's order.
pub(super) fn of(record: &Record) -> Vec<KeyValue> {
    let known = |attribute: &Attribute| Some(pair(attribute.name, attribute.value(record)?));
    ATTRIBUTES.iter().filter_map(known).collect()
}

/// A name and its value.
pub(super) fn pair(name: &str, value: Value) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), key_strindex: 0 }
}

/// Nanoseconds since 1970; 0 for what was before.
pub(super) fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// As the pod sees it; on an uplink, as the node does.
pub(super) fn direction(record: &Record) -> &'static str {
    if record.sent() { "transmit" } else { "receive" }
}

impl Attribute {
    fn value(&self, record: &Record) -> Option<Value> {
        match self.value {
            Getter::Text(value) => value(record).map(Value::StringValue),
            Getter::Integer(value) => value(record).map(Value::IntValue),
            Getter::Flag(value) => value(record).then_some(Value::BoolValue(true)),
        }
    }

    /// OTLP's word for its type.
    #[cfg(test)]
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Getter::Text(_) => "string",
            Getter::Integer(_) => "int",
            Getter::Flag(_) => "bool",
        }
    }
}

const fn text(name: &'static str, value: fn(&Record) -> Option<String>) -> Attribute {
    Attribute { name, value: Getter::Text(value) }
}

const fn integer(name: &'static str, value: fn(&Record) -> Option<i64>) -> Attribute {
    Attribute { name, value: Getter::Integer(value) }
}

const fn flag(name: &'static str, value: fn(&Record) -> bool) -> Attribute {
    Attribute { name, value: Getter::Flag(value) }
}

/// OTLP has no unsigned integers.
fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// In nanoseconds.
fn duration(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

fn reason(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Idle => "idle",
        EndReason::Active => "active",
        EndReason::EndOfFlow => "end-of-flow",
        EndReason::Forced => "forced",
        EndReason::LackOfResources => "lack-of-resources",
    }
}

/// What every packet of IP has.
struct Ip {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
}

fn ip(record: &Record) -> Option<Ip> {
    match record.key().conversation() {
        Conversation::Ip { src, dst, protocol, .. } => Some(Ip { src, dst, protocol }),
        Conversation::Icmp { src, dst, .. } => {
            Some(Ip { src, dst, protocol: if src.is_ipv4() { 1 } else { 58 } })
        }
        Conversation::Arp { .. } | Conversation::Ethernet { .. } => None,
    }
}

/// The convention knows these names of what IP carries.
fn transport(record: &Record) -> Option<String> {
    let name = match ip(record)?.protocol {
        6 => "tcp",
        17 => "udp",
        _ => return None,
    };
    Some(name.to_owned())
}

fn addresses(record: &Record) -> Option<(IpAddr, IpAddr)> {
    let of_arp = || arp(record).map(|(sender, target, _)| (sender.into(), target.into()));
    ip(record).map(|ip| (ip.src, ip.dst)).or_else(of_arp)
}

/// Where there are any: not of later fragments, nor of protocols that have none.
fn ports(record: &Record) -> Option<(u16, u16)> {
    match record.key().conversation() {
        Conversation::Ip { src_port, dst_port, .. } if (src_port, dst_port) != (0, 0) => {
            Some((src_port, dst_port))
        }
        _ => None,
    }
}

/// IPv4's TOS or IPv6's traffic class, where a flow has one.
fn tos(record: &Record) -> Option<u8> {
    ip(record).and(record.flow()).map(|flow| flow.tos)
}

fn icmp(record: &Record) -> Option<(u8, u8)> {
    match record.key().conversation() {
        Conversation::Icmp { kind, code, .. } => Some((kind, code)),
        _ => None,
    }
}

fn arp(record: &Record) -> Option<(Ipv4Addr, Ipv4Addr, u16)> {
    match record.key().conversation() {
        Conversation::Arp { sender, target, operation } => Some((sender, target, operation)),
        _ => None,
    }
}

fn ethertype(record: &Record) -> Option<i64> {
    match record.key().conversation() {
        Conversation::Ethernet { ethertype, .. } => Some(ethertype.into()),
        Conversation::Arp { .. } => Some(0x0806),
        Conversation::Ip { .. } | Conversation::Icmp { .. } => None,
    }
}

fn tag_protocol(tag: Tag) -> String {
    if tag.service { "802.1ad" } else { "802.1Q" }.to_owned()
}

fn pod(record: &Record, part: fn(&Endpoint) -> &String) -> Option<String> {
    record.tap().pod.as_ref().map(part).cloned()
}

fn peer(record: &Record, part: fn(&Endpoint) -> &String) -> Option<String> {
    record.peer().map(part).cloned()
}
