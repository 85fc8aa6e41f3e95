//! Records: who talked to whom on which network, how much, when, and why it ended; what became of a question to a name
//! server.
//!
//! Pure data, read by every exporter and by the metrics. What a tap belongs to is known from its attachment and never
//! guessed.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use trunkline_api::VlanId;
use trunkline_ebpf::{Direction, DnsAnswer, FlowKey, Totals};

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

/// What an exporter is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A flow.
    Flow(FlowRecord),
    /// A question to a name server.
    Dns(DnsRecord),
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

/// One question to a name server, as one tap saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsRecord {
    /// Where it was seen.
    pub tap: Arc<TapIdentity>,
    /// The other side, as of a flow.
    pub peer: Option<Arc<Endpoint>>,
    /// The question's flow: its source asked, its destination was asked, and `sent` is what the tap's own pod asked.
    pub key: FlowKey,
    /// When it was answered, or where it was not, when it was asked first.
    pub at: SystemTime,
    /// The question's id.
    pub id: u16,
    /// How often it was asked, at least once.
    pub asked: u32,
    /// `None`: no answer within ten seconds.
    pub answer: Option<DnsAnswer>,
}

impl DnsRecord {
    /// When it was asked first.
    pub fn asked_at(&self) -> SystemTime {
        let latency = self.answer.map_or(Duration::ZERO, |answer| answer.latency);
        self.at.checked_sub(latency).unwrap_or(self.at)
    }
}

impl Record {
    /// Where it was seen.
    pub fn tap(&self) -> &TapIdentity {
        match self {
            Self::Flow(flow) => &flow.tap,
            Self::Dns(query) => &query.tap,
        }
    }

    /// The other side, where it is known.
    pub fn peer(&self) -> Option<&Endpoint> {
        match self {
            Self::Flow(flow) => flow.peer.as_deref(),
            Self::Dns(query) => query.peer.as_deref(),
        }
    }

    /// Addresses, ports, tags and direction.
    pub fn key(&self) -> &FlowKey {
        match self {
            Self::Flow(flow) => &flow.key,
            Self::Dns(query) => &query.key,
        }
    }

    /// Whether the pod sent it; on an uplink, the node.
    pub fn sent(&self) -> bool {
        self.key().direction() == Direction::Sent
    }

    /// The flow that it tells of.
    pub fn flow(&self) -> Option<&FlowRecord> {
        match self {
            Self::Flow(flow) => Some(flow),
            Self::Dns(_) => None,
        }
    }

    /// The question that it tells of.
    pub fn dns(&self) -> Option<&DnsRecord> {
        match self {
            Self::Dns(query) => Some(query),
            Self::Flow(_) => None,
        }
    }
}

impl From<FlowRecord> for Record {
    fn from(flow: FlowRecord) -> Self {
        Self::Flow(flow)
    }
}

impl From<DnsRecord> for Record {
    fn from(query: DnsRecord) -> Self {
        Self::Dns(query)
    }
}

impl FlowRecord {
    /// Whether its totals are an estimate.
    pub fn estimated(&self) -> bool {
        self.one_in > 1
    }
}

impl DnsRecord {
    /// The name of the answer's code; `none` where there was no answer.
    pub fn code(&self) -> Cow<'static, str> {
        self.answer.map_or(Cow::Borrowed("none"), |answer| code_name(answer.code))
    }
}

/// The name of a response code (RFC 6895 2.3).
pub fn code_name(code: u8) -> Cow<'static, str> {
    let name = match code {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        other => return Cow::Owned(format!("RCODE{other}")),
    };
    Cow::Borrowed(name)
}
