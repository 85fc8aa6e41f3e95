//! One flow record: who talked to whom on which network, how much, when, and why it ended.
//!
//! Pure data, made by the flow table and read by every exporter, by `trunkctl flows` and by the metrics. What a tap
//! belongs to is known from its attachment and never guessed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use trunkline_api::VlanId;
use trunkline_ebpf::{FlowKey, Totals};

/// What a tap is on, as known when it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapIdentity {
    /// The device that carries the programs: the node's end of a pair, an uplink, or an interface inside a pod.
    pub device: String,
    /// Its index, in the namespace that it is in.
    pub ifindex: u32,
    /// The interface as its owner calls it: `eth1` in the pod, or the uplink's own name.
    pub interface: String,
    /// The network namespace's name, for an interface that is not ours.
    pub netns: Option<String>,
    /// Whose interface it is; `None` for an uplink.
    pub pod: Option<Endpoint>,
    /// `<namespace>/<name>` of the `NetworkAttachmentDefinition`; `None` for an uplink.
    pub network: Option<String>,
    /// The network's VLAN, known also where the wire carries no tag; `None` for an uplink.
    pub vlan: Option<VlanId>,
    /// The bridge that it is plugged into.
    pub bridge: Option<String>,
    /// When it was attached; a record never begins earlier.
    pub since: SystemTime,
}

/// An interface of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The interface in it.
    pub interface: String,
}

/// Why a record was closed. The numbers are those of IPFIX `flowEndReason` (information element 136, RFC 5102 5.11.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// Nothing was seen of it for the idle timeout.
    Idle = 1,
    /// It goes on; this record covers its last active timeout.
    Active = 2,
    /// TCP said so: FIN in both directions, or RST.
    EndOfFlow = 3,
    /// The tap is gone: its pod was deleted, or it was asked for by a person.
    Forced = 4,
    /// The table was full and this flow was the one silent the longest.
    LackOfResources = 5,
}

/// One flow of one tap in one direction, over one stretch of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// Where it was seen.
    pub tap: Arc<TapIdentity>,
    /// The other side, where an allocation of the same network or a port of this node says who it was.
    pub peer: Option<Arc<Endpoint>>,
    /// Addresses, ports, tags and direction.
    pub key: FlowKey,
    /// How much, in this stretch; an estimate where not every frame was looked at.
    pub totals: Totals,
    /// One frame in so many was looked at, and totals are scaled by it; 1: exact.
    pub one_in: u32,
    /// First packet of this stretch.
    pub start: SystemTime,
    /// Last packet.
    pub end: SystemTime,
    /// OR of the TCP flags in this stretch (12 bits, RFC 9293 3.1).
    pub tcp_flags: u16,
    /// IPv4 TOS or IPv6 traffic class of the first packet.
    pub tos: u8,
    /// Round trip of the TCP handshake, where it was seen.
    pub rtt: Option<Duration>,
    /// Whether a first fragment was among the packets.
    pub fragmented: bool,
    /// Source address of the first packet's Ethernet header.
    pub src_mac: [u8; 6],
    /// Its destination address.
    pub dst_mac: [u8; 6],
    /// Whether the tap was off for a part of this stretch, so that packets may be missing.
    pub gap: bool,
    /// Why it was closed.
    pub reason: EndReason,
}

impl FlowRecord {
    /// Whether its totals are an estimate.
    pub fn estimated(&self) -> bool {
        self.one_in > 1
    }
}
