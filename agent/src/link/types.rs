//! What callers ask of links, what they get back, and how it fails.
//!
//! Owns plain data only.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::netns::NetnsError;

/// Octets of an Ethernet address.
pub type MacOctets = [u8; 6];

/// A route inside a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRoute {
    /// Where to.
    pub destination: IpNet,
    /// By which neighbour; `None` means on the link itself.
    pub gateway: Option<IpAddr>,
}

/// The veth pair of an interface that a pod is to get: all that is known of it before it has addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPairSpec {
    /// Name of the node's end (1–15 bytes, `tl…`).
    pub host_name: String,
    /// Name inside the pod (1–15 bytes).
    pub pod_name: String,
    /// Ethernet address of the pod's end.
    pub mac: MacOctets,
    /// MTU of both ends in bytes.
    pub mtu: u32,
}

/// What the pod's end of a pair is to get before it goes up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodEndSpec {
    /// Addresses with their prefix; none for a layer-2-only network. The kernel adds the connected routes. A v6 address
    /// among them also sets `accept_ra=0`.
    pub addresses: Vec<IpNet>,
    /// Further routes.
    pub routes: Vec<PodRoute>,
    /// Turn transmit checksum and segmentation offloads off (userspace datapath).
    pub disable_offloads: bool,
}

/// A veth pair that is in place, the node's end up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodLink {
    /// Index of the node's end.
    pub host_ifindex: u32,
    /// Ethernet address of the node's end.
    pub host_mac: MacOctets,
    /// Index of the pod's end in the pod's namespace.
    pub pod_ifindex: u32,
    /// Whether it was there already, as asked for.
    pub adopted: bool,
}

/// What the bridge planner has to know of a link of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkFacts {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// `IFLA_INFO_KIND` (`veth`, `bond`, `vlan`, …); empty for a plain NIC.
    pub kind: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Ethernet address; `None` where it has none or one of another length.
    pub mac: Option<MacOctets>,
    /// Name of the bond, bridge or VRF that it belongs to.
    pub master: Option<String>,
    /// Name of the link's type as its master sees it: `IFLA_INFO_SLAVE_KIND`, or the kind of `master`.
    pub master_kind: Option<String>,
    /// Names of VLAN links on top of it.
    pub vlan_children: Vec<String>,
    /// Its addresses, link-local ones left out.
    pub addresses: Vec<IpNet>,
    /// Whether a default route of the main table leaves through it.
    pub has_default_route: bool,
    /// Administratively up.
    pub up: bool,
    /// Whether it has carrier.
    pub carrier: bool,
    /// The driver's bus device (`0000:01:00.0`); `None` for virtual links.
    pub parent_device: Option<String>,
    /// Its alternative names.
    pub altnames: Vec<String>,
}

/// Something changed in the node's links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// A link appeared or changed, its addresses or its routes included.
    Changed {
        /// Its index.
        ifindex: u32,
        /// Its name; empty where the message was about an address or a route.
        name: String,
    },
    /// A link went away.
    Removed {
        /// Its index.
        ifindex: u32,
        /// Its name.
        name: String,
    },
    /// Messages were lost: look at everything again.
    Resync,
}

/// Offload features by their kernel names (`rx-gro`, `rx-lro`, `rx-gro-hw`) and whether each is wanted.
///
/// Only features that the link can change appear in what [`super::set_uplink_offloads`] returns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OffloadSet(pub BTreeMap<String, bool>);

impl OffloadSet {
    /// What an uplink of a userspace datapath must have: receive coalescing off.
    pub fn coalescing_off() -> Self {
        Self(super::UPLINK_FEATURES.iter().map(|name| ((*name).to_owned(), false)).collect())
    }
}

/// What was being done to a link when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkStep {
    /// Talking to rtnetlink at all.
    Socket,
    /// Looking at links.
    Inspect,
    /// Removing a stale link of the same name.
    RemoveStale,
    /// Creating the veth pair.
    Create,
    /// Writing a sysctl.
    Sysctl(&'static str),
    /// Setting offloads.
    Offloads,
    /// Adding an address.
    Address,
    /// Setting it up.
    Up,
    /// Adding a route.
    Route,
    /// Removing it.
    Delete,
}

impl std::fmt::Display for LinkStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket => f.write_str("open a netlink socket"),
            Self::Inspect => f.write_str("read its state"),
            Self::RemoveStale => f.write_str("remove the stale link of that name"),
            Self::Create => f.write_str("create the veth pair"),
            Self::Sysctl(key) => write!(f, "set the sysctl {key}"),
            Self::Offloads => f.write_str("set the offloads"),
            Self::Address => f.write_str("add the address"),
            Self::Up => f.write_str("set the link up"),
            Self::Route => f.write_str("add the route"),
            Self::Delete => f.write_str("remove the link"),
        }
    }
}

/// Where a link is, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the node's own namespace.
    Node,
    /// In the namespace at this path.
    Namespace(String),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node => f.write_str("on the node"),
            Self::Namespace(path) => write!(f, "in {path}"),
        }
    }
}

/// What went wrong with a link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The kernel refused a step.
    #[error("interface {link} {place}: cannot {step}{}", spaced(.detail))]
    Step {
        /// The link's name.
        link: String,
        /// Where it is.
        place: Place,
        /// What was being done.
        step: LinkStep,
        /// The object in question, such as an address or a route; may be empty.
        detail: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The pod already has an interface of that name that is not ours to replace.
    #[error("interface {link} {place} exists already and is not Trunkline's")]
    NameTaken {
        /// The link's name.
        link: String,
        /// Where it is.
        place: Place,
    },
    /// The namespace could not be used.
    #[error("interface {link}: its network namespace cannot be used")]
    Namespace {
        /// The link's name.
        link: String,
        /// Why.
        source: NetnsError,
    },
    /// A blocking worker ended early; the runtime is shutting down.
    #[error("interface {link}: the work was cut short by shutdown")]
    Interrupted {
        /// The link's name.
        link: String,
    },
}

fn spaced(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" {text}") }
}
