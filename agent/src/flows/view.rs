//! Flows as `trunkline-agent flows` prints them and `trunkctl flows` shows them.
//!
//! Owns the shape only. Keys are stable: fields are added, never renamed.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use trunkline_api::FlowProtocol;
use trunkline_ebpf::{Conversation, FlowKey, Tag};

use super::record::{Endpoint, TapIdentity, code_name};
use super::table::{DnsSummary, LiveFlow};

/// The flows of one node, the busiest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FlowsDump {
    /// Node name.
    pub node: String,
    /// When the table was last brought up to date, milliseconds since the Unix epoch.
    pub as_of_unix_ms: u64,
    /// Flows that are left out because there were more than were asked for.
    pub left_out: usize,
    /// The flows.
    pub flows: Vec<FlowRow>,
}

/// One flow of one tap in one direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FlowRow {
    /// `sent` or `received`, as the pod sees it; on an uplink, as the node sees it.
    pub direction: String,
    /// "namespace/name" of the pod; empty for an uplink.
    pub pod: String,
    /// Interface in the pod, or the uplink.
    pub interface: String,
    /// Network namespace of an interface that is not ours; empty for pods' interfaces and uplinks.
    pub netns: String,
    /// Device that carries the tap.
    pub device: String,
    /// "namespace/name" of the network; empty for an uplink.
    pub network: String,
    /// The network's VLAN, 0 when untagged or on an uplink.
    pub vlan: u16,
    /// Bridge.
    pub bridge: String,
    /// Tags as they were on the wire, outermost first, such as "100" or "ad:200,100"; empty where there was none.
    pub tags: String,
    /// `tcp`, `udp`, `icmp`, …, the protocol's number, `arp`, or `0x88cc` for an ethertype.
    pub protocol: String,
    /// Source address: IP, or Ethernet where there is no IP.
    pub source: String,
    /// Source port; ICMP's type; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// Destination address.
    pub destination: String,
    /// Destination port; ICMP's code; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
    /// "namespace/name" of the pod at the other end, where it is known.
    pub peer: String,
    /// Whether the numbers below are estimates: not every frame was looked at.
    pub estimated: bool,
    /// One frame in so many was looked at; 1: every frame.
    pub one_in: u32,
    /// Packets on the wire.
    pub packets: u64,
    /// Bytes on the wire, Ethernet headers included.
    pub bytes: u64,
    /// Socket buffers: what the device counts.
    pub skbs: u64,
    /// Bytes of those.
    pub skb_bytes: u64,
    /// Bytes a second over the last interval.
    pub bytes_per_second: u64,
    /// TCP flags seen, such as "SYN,ACK"; empty for other protocols.
    pub flags: String,
    /// Round trip of the TCP handshake in microseconds, where it was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<f64>,
    /// Questions to name servers, those asked in this flow or answered in it; absent where there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsRow>,
    /// First packet, milliseconds since the Unix epoch.
    pub first_unix_ms: u64,
    /// Last packet, milliseconds since the Unix epoch.
    pub last_unix_ms: u64,
    /// What else is to know: "fragments", "truncated", "gap", …
    pub notes: Vec<String>,
}

/// What became of a flow's questions to name servers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DnsRow {
    /// How many were answered.
    pub answered: u32,
    /// How many were not, within ten seconds.
    pub unanswered: u32,
    /// How many of the answers had another code than `NOERROR`.
    pub failed: u32,
    /// The longest that an answer took, milliseconds; absent where there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slowest_ms: Option<f64>,
    /// The code of the last answer, such as `NXDOMAIN`; `none` where the last question has none.
    pub last_code: String,
}

/// Names of TCP's flags (RFC 9293 3.1), from the lowest bit: the order in which a row lists them.
pub const TCP_FLAGS: [&str; 9] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "AE"];

/// A row of the table. `wall` turns the programs' clock into milliseconds since the Unix epoch.
pub(super) fn row(
    tap: &TapIdentity,
    peer: Option<&Endpoint>,
    key: &FlowKey,
    flow: &LiveFlow,
    interval: Duration,
    wall: impl Fn(u64) -> u64,
) -> FlowRow {
    let pod = |endpoint: &Endpoint| format!("{}/{}", endpoint.namespace, endpoint.name);
    let rate = |bytes: u64| {
        let millis = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
        bytes.saturating_mul(1000) / millis
    };
    let mut row = FlowRow {
        direction: key.direction().name().to_owned(),
        pod: tap.pod.as_ref().map(pod).unwrap_or_default(),
        interface: tap.interface.clone(),
        netns: tap.netns.clone().unwrap_or_default(),
        device: tap.device.clone(),
        network: tap.network.clone().unwrap_or_default(),
        vlan: tap.vlan.map_or(0, u16::from),
        bridge: tap.bridge.clone().unwrap_or_default(),
        tags: tags(key),
        protocol: protocol(&key.conversation()).to_string(),
        peer: peer.map(pod).unwrap_or_default(),
        estimated: flow.one_in > 1,
        one_in: flow.one_in,
        packets: flow.whole.packets,
        bytes: flow.whole.bytes,
        skbs: flow.whole.skbs,
        skb_bytes: flow.whole.skb_bytes,
        bytes_per_second: rate(flow.last_epoch.bytes),
        flags: flags(flow.flags),
        rtt_us: flow.rtt.map(|nanos| f64::from(nanos) / 1000.0),
        dns: flow.dns.as_deref().map(dns),
        first_unix_ms: wall(flow.began),
        last_unix_ms: wall(flow.stretch.last),
        notes: notes(key, flow),
        ..FlowRow::default()
    };
    fill_addresses(&mut row, &key.conversation());
    row
}

fn dns(summary: &DnsSummary) -> DnsRow {
    let DnsSummary { answered, unanswered, failed, slowest, last_code } = summary;
    DnsRow {
        answered: *answered,
        unanswered: *unanswered,
        failed: *failed,
        slowest_ms: slowest.map(|slowest| slowest.as_secs_f64() * 1000.0),
        last_code: last_code.map_or_else(|| "none".to_owned(), |code| code_name(code).into_owned()),
    }
}

fn fill_addresses(row: &mut FlowRow, conversation: &Conversation) {
    match *conversation {
        Conversation::Ip { src, dst, src_port, dst_port, protocol } => {
            (row.source, row.destination) = (src.to_string(), dst.to_string());
            if has_ports(protocol) {
                (row.source_port, row.destination_port) = (Some(src_port), Some(dst_port));
            }
        }
        Conversation::Icmp { src, dst, kind, code } => {
            (row.source, row.destination) = (src.to_string(), dst.to_string());
            (row.source_port, row.destination_port) = (Some(kind.into()), Some(code.into()));
        }
        Conversation::Arp { sender, target, .. } => {
            (row.source, row.destination) = (sender.to_string(), target.to_string());
        }
        Conversation::Ethernet { src, dst, .. } => {
            (row.source, row.destination) = (ethernet(src), ethernet(dst));
        }
    }
}

/// TCP, UDP, DCCP, SCTP, UDP-Lite.
fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 33 | 132 | 136)
}

fn ethernet(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}

/// What it speaks.
pub(super) fn protocol(conversation: &Conversation) -> FlowProtocol {
    match *conversation {
        Conversation::Ip { protocol, .. } => FlowProtocol::Ip(protocol),
        Conversation::Icmp { src, .. } => FlowProtocol::Ip(if src.is_ipv4() { 1 } else { 58 }),
        Conversation::Arp { .. } => FlowProtocol::Arp,
        Conversation::Ethernet { ethertype, .. } => FlowProtocol::Ethernet(ethertype),
    }
}

/// The IP addresses at both ends, where there are any.
pub(super) fn ip_addresses(conversation: &Conversation) -> Option<[IpAddr; 2]> {
    match *conversation {
        Conversation::Ip { src, dst, .. } | Conversation::Icmp { src, dst, .. } => Some([src, dst]),
        Conversation::Arp { sender, target, .. } => Some([sender.into(), target.into()]),
        Conversation::Ethernet { .. } => None,
    }
}

fn tags(key: &FlowKey) -> String {
    let one = |tag: Tag| if tag.service { format!("ad:{}", tag.vid) } else { tag.vid.to_string() };
    let mut tags: Vec<String> = [key.outer(), key.inner()].into_iter().flatten().map(one).collect();
    if key.more_tags() {
        tags.push("…".to_owned());
    }
    tags.join(",")
}

fn flags(bits: u16) -> String {
    let set = TCP_FLAGS.iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join(",")
}

fn notes(key: &FlowKey, flow: &LiveFlow) -> Vec<String> {
    let notes = [
        (key.later_fragment(), "later fragments, whose ports nobody knows"),
        (flow.stretch.fragmented, "first fragments"),
        (key.truncated(), "truncated or malformed"),
        (flow.gap, "the tap was off for a while"),
    ];
    notes.into_iter().filter(|(holds, _)| *holds).map(|(_, words)| words.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_protocols_have_their_usual_names() {
        assert_eq!(flags(0x12), "SYN,ACK");
        assert_eq!(flags(0), "");
        let lldp = Conversation::Ethernet { src: [0; 6], dst: [1; 6], ethertype: 0x88cc };
        assert_eq!(protocol(&lldp).to_string(), "0x88cc");
        let ospf = Conversation::Ip {
            src: [10, 0, 0, 1].into(),
            dst: [10, 0, 0, 2].into(),
            protocol: 89,
            src_port: 0,
            dst_port: 0,
        };
        assert_eq!(protocol(&ospf).to_string(), "89");
        assert_eq!(ethernet([0, 1, 2, 0xab, 4, 5]), "00:01:02:ab:04:05");
    }
}
