//! A record as one JSON object: the schema, version 1, of docs/flow-export.md.
//!
//! Pure. Keys are only ever added within a version; what is unknown is left out, never null.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use trunkline_ebpf::{Conversation, Tag};

use crate::flows::record::{DnsRecord, EndReason, Endpoint, FlowRecord, Record, code_name};

/// What `schema` says.
const SCHEMA: u32 = 1;

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Line<'a> {
    Flow(FlowLine<'a>),
    Dns(DnsLine<'a>),
}

/// A line of a flow has no `type`: it came first.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FlowLine<'a> {
    schema: u32,
    node: &'a str,
    start: jiff::Timestamp,
    end: jiff::Timestamp,
    reason: EndReason,
    #[serde(flatten)]
    place: Place<'a>,
    src_mac: String,
    dst_mac: String,
    #[serde(flatten)]
    conversation: Talk,
    estimated: bool,
    one_in: u32,
    packets: u64,
    bytes: u64,
    skbs: u64,
    skb_bytes: u64,
    tcp_flags: u16,
    tos: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_nanoseconds: Option<u64>,
    /// Only those that hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    marks: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DnsLine<'a> {
    schema: u32,
    r#type: &'static str,
    node: &'a str,
    at: jiff::Timestamp,
    #[serde(flatten)]
    place: Place<'a>,
    #[serde(flatten)]
    conversation: Talk,
    id: u16,
    asked: u32,
    answered: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<Cow<'static, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_nanoseconds: Option<u64>,
}

/// Where it was seen and between whom: in every line.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Place<'a> {
    direction: &'static str,
    device: &'a str,
    ifindex: u32,
    interface: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<Who<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<Who<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bridge: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    wire_tags: Vec<WireTag>,
}

#[derive(Debug, Serialize)]
struct Who<'a> {
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
    interface: &'a str,
}

#[derive(Debug, Serialize)]
struct WireTag {
    vid: u16,
    protocol: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "camelCase")]
enum Talk {
    Ip { src: IpAddr, dst: IpAddr, protocol: u8, src_port: u16, dst_port: u16 },
    Icmp { src: IpAddr, dst: IpAddr, protocol: u8, icmp_type: u8, icmp_code: u8 },
    Arp { src: Ipv4Addr, dst: Ipv4Addr, operation: u16 },
    Ethernet { ethertype: u16 },
}

impl<'a> Line<'a> {
    pub(super) fn of(record: &'a Record, node: &'a str) -> Self {
        let place = Place::of(record);
        match record {
            Record::Flow(flow) => Self::Flow(FlowLine::of(flow, place, node)),
            Record::Dns(query) => Self::Dns(DnsLine::of(query, place, node)),
        }
    }
}

impl<'a> FlowLine<'a> {
    fn of(record: &FlowRecord, place: Place<'a>, node: &'a str) -> Self {
        let totals = &record.totals;
        Self {
            schema: SCHEMA,
            node,
            start: timestamp(record.start),
            end: timestamp(record.end),
            reason: record.reason,
            place,
            src_mac: mac(record.src_mac),
            dst_mac: mac(record.dst_mac),
            conversation: Talk::of(record.key.conversation()),
            estimated: record.estimated(),
            one_in: record.one_in,
            packets: totals.packets,
            bytes: totals.bytes,
            skbs: totals.skbs,
            skb_bytes: totals.skb_bytes,
            tcp_flags: record.tcp_flags,
            tos: record.tos,
            rtt_nanoseconds: record.rtt.map(nanoseconds),
            marks: marks(record),
        }
    }
}

impl<'a> DnsLine<'a> {
    fn of(query: &DnsRecord, place: Place<'a>, node: &'a str) -> Self {
        Self {
            schema: SCHEMA,
            r#type: "dns",
            node,
            at: timestamp(query.at),
            place,
            conversation: Talk::of(query.key.conversation()),
            id: query.id,
            asked: query.asked,
            answered: query.answer.is_some(),
            code: query.answer.map(|answer| code_name(answer.code)),
            latency_nanoseconds: query.answer.map(|answer| nanoseconds(answer.latency)),
        }
    }
}

impl<'a> Place<'a> {
    fn of(record: &'a Record) -> Self {
        let (tap, key) = (record.tap(), record.key());
        Self {
            direction: key.direction().name(),
            device: &tap.device,
            ifindex: tap.ifindex,
            interface: &tap.interface,
            netns: tap.netns.as_deref(),
            pod: tap.pod.as_ref().map(Who::of),
            peer: record.peer().map(Who::of),
            network: tap.network.as_deref(),
            vlan: tap.vlan.map(trunkline_api::VlanId::get),
            bridge: tap.bridge.as_deref(),
            wire_tags: [key.outer(), key.inner()].into_iter().flatten().map(WireTag::of).collect(),
        }
    }
}

impl<'a> Who<'a> {
    fn of(endpoint: &'a Endpoint) -> Self {
        let Endpoint { namespace, name, uid, interface } = endpoint;
        Self { namespace, name, uid, interface }
    }
}

impl WireTag {
    fn of(tag: Tag) -> Self {
        Self { vid: tag.vid, protocol: if tag.service { "802.1ad" } else { "802.1Q" } }
    }
}

impl Talk {
    fn of(conversation: Conversation) -> Self {
        match conversation {
            Conversation::Ip { src, dst, protocol, src_port, dst_port } => {
                Self::Ip { src, dst, protocol, src_port, dst_port }
            }
            Conversation::Icmp { src, dst, kind, code } => {
                let protocol = if src.is_ipv4() { 1 } else { 58 };
                Self::Icmp { src, dst, protocol, icmp_type: kind, icmp_code: code }
            }
            Conversation::Arp { sender, target, operation } => {
                Self::Arp { src: sender, dst: target, operation }
            }
            Conversation::Ethernet { ethertype, .. } => Self::Ethernet { ethertype },
        }
    }
}

fn marks(record: &FlowRecord) -> Vec<&'static str> {
    let key = &record.key;
    let marks = [
        (record.fragmented, "fragmented"),
        (key.later_fragment(), "later-fragment"),
        (key.truncated(), "truncated"),
        (key.more_tags(), "more-tags"),
        (record.gap, "gap"),
    ];
    marks.into_iter().filter_map(|(set, mark)| set.then_some(mark)).collect()
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Times that no clock shows become 1970.
fn timestamp(time: SystemTime) -> jiff::Timestamp {
    jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

fn mac(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}
