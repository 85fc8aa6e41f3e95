//! What is known about each bridge: for readiness of attachments, metrics, the node's dump and Node Events.
//!
//! Owns the published shape and the words of every condition; must never decide anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use trunkline_api::{BridgeName, Mtu, VlanSet};

use crate::desired::{BridgeFacts, BridgeObstacle};

/// All bridges that are configured or still being drained, by name.
pub type BridgeStates = Arc<BTreeMap<BridgeName, BridgeState>>;

/// Which of OVS' datapaths a bridge runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatapathKind {
    /// The kernel module.
    System,
    /// Userspace.
    Netdev,
}

impl DatapathKind {
    /// As OVSDB's `datapath_type` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Netdev => "netdev",
        }
    }

    /// From OVSDB's `datapath_type`; the empty string is `system` (`ovs-vswitchd.conf.db(5)`).
    pub fn from_column(text: &str) -> Self {
        if text == "netdev" { Self::Netdev } else { Self::System }
    }
}

/// How a bridge came to be ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// We made it; it goes when it leaves the configuration and no pod is on it.
    Created,
    /// It was there; it stays.
    Adopted,
}

impl Origin {
    /// As `external_ids:trunkline-origin` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Adopted => "adopted",
        }
    }
}

/// One uplink as configured and as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkState {
    /// NIC.
    pub nic: String,
    /// The node has it.
    pub present: bool,
    /// Carrier, as the kernel reports it.
    pub carrier: bool,
    /// MTU in bytes.
    pub mtu: Option<Mtu>,
    /// `allowedVLANs` of the configuration.
    pub vlans: VlanSet,
    /// `OpenFlow` port number once vswitchd has it.
    pub ofport: Option<u32>,
}

/// One bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is asked for alone, by metrics, dumps and callers")]
pub struct BridgeState {
    /// Name.
    pub name: BridgeName,
    /// In the configuration; if not, it is being drained or removed.
    pub configured: bool,
    /// It exists in OVSDB and is ours.
    pub exists: bool,
    /// Pods may be attached.
    pub ready: bool,
    /// Every flow that should be there is, as of the last comparison.
    pub flows_installed: bool,
    /// Datapath, once it exists.
    pub datapath: Option<DatapathKind>,
    /// How it became ours.
    pub origin: Option<Origin>,
    /// Uplinks in the configuration's order.
    pub uplinks: Vec<UplinkState>,
    /// Pod ports on it.
    pub pod_ports: usize,
    /// What is wrong or worth knowing.
    pub conditions: Vec<BridgeCondition>,
}

impl BridgeState {
    /// The facts that `desired` judges a pod's networks by.
    pub fn facts(&self) -> BridgeFacts {
        let pending = || BridgeObstacle::Pending { reason: "it is not set up yet".to_owned() };
        let blocking = self.conditions.iter().find_map(BridgeCondition::obstacle);
        BridgeFacts {
            name: self.name.clone(),
            uplink_mtu: self.uplinks.iter().filter_map(|uplink| uplink.mtu).min(),
            uplinks: self.uplinks.iter().map(|uplink| uplink.vlans.clone()).collect(),
            obstacle: blocking.or_else(|| (!self.ready).then(pending)),
        }
    }
}

/// One thing to know about a bridge. `Display` is the sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum BridgeCondition {
    /// The node lacks a NIC.
    #[error(
        "bridge {bridge}: this node has no network interface {nic}; the bridge is set up when it appears"
    )]
    UplinkMissing {
        /// Bridge.
        bridge: BridgeName,
        /// NIC as configured.
        nic: String,
    },
    /// A NIC cannot be taken.
    #[error("bridge {bridge}: network interface {nic} is not taken as an uplink: {reason}")]
    UplinkRefused {
        /// Bridge.
        bridge: BridgeName,
        /// NIC.
        nic: String,
        /// Why, and what would be right.
        reason: String,
    },
    /// vswitchd cannot use a NIC that is joined.
    #[error("bridge {bridge}: Open vSwitch cannot use uplink {nic}: {reason}")]
    UplinkFailed {
        /// Bridge.
        bridge: BridgeName,
        /// NIC.
        nic: String,
        /// What vswitchd says.
        reason: String,
    },
    /// A bridge of this name is somebody else's.
    #[error(
        "bridge {bridge} exists and is not adopted: {reason}; set adopt: true for it if it is meant for Trunkline"
    )]
    NotAdopted {
        /// Bridge.
        bridge: BridgeName,
        /// What is on it.
        reason: String,
    },
    /// `datapathType: auto` ended with the userspace datapath.
    #[error(
        "bridge {bridge} runs on the userspace datapath: the kernel module openvswitch was not to be had when it was created; \
         pods work, at lower throughput"
    )]
    DatapathNetdev {
        /// Bridge.
        bridge: BridgeName,
    },
    /// `datapathType: system` and there is no kernel module.
    #[error(
        "bridge {bridge} asks for datapathType system, and this node has no kernel module openvswitch; load it, or choose \
         datapathType auto or netdev"
    )]
    DatapathUnavailable {
        /// Bridge.
        bridge: BridgeName,
    },
    /// The configured datapath differs from the one that the bridge was made with.
    #[error(
        "bridge {bridge} keeps its {actual} datapath; datapathType {wanted} takes effect when the bridge is made anew, with \
         no pod on it"
    )]
    DatapathKept {
        /// Bridge.
        bridge: BridgeName,
        /// What it runs on.
        actual: &'static str,
        /// What the configuration says.
        wanted: &'static str,
    },
    /// It left the configuration while pods use it.
    #[error(
        "bridge {bridge} is no longer configured; it takes no new pods and goes when its other ports ({ports}) are gone"
    )]
    Draining {
        /// Bridge.
        bridge: BridgeName,
        /// Ports left that are no uplinks of ours.
        ports: usize,
    },
    /// Something has to happen first.
    #[error("bridge {bridge}: {reason}")]
    Pending {
        /// Bridge.
        bridge: BridgeName,
        /// What is waited for.
        reason: String,
    },
}

impl BridgeCondition {
    /// Reason in `CamelCase`, for dumps and Events.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UplinkMissing { .. } => "UplinkMissing",
            Self::UplinkRefused { .. } => "UplinkRefused",
            Self::UplinkFailed { .. } => "UplinkFailed",
            Self::NotAdopted { .. } => "BridgeNotAdopted",
            Self::DatapathNetdev { .. } => "DatapathNetdev",
            Self::DatapathUnavailable { .. } => "DatapathUnavailable",
            Self::DatapathKept { .. } => "DatapathKept",
            Self::Draining { .. } => "BridgeDraining",
            Self::Pending { .. } => "BridgePending",
        }
    }

    /// Whether it is posted as a Warning Event on the Node when it appears.
    pub fn is_node_event(&self) -> bool {
        !matches!(self, Self::Pending { .. } | Self::Draining { .. })
    }

    /// What keeps pods off the bridge, if this does.
    pub fn obstacle(&self) -> Option<BridgeObstacle> {
        match self {
            Self::UplinkMissing { nic, .. } => Some(BridgeObstacle::UplinkMissing { nic: nic.clone() }),
            Self::UplinkRefused { nic, reason, .. } | Self::UplinkFailed { nic, reason, .. } => {
                Some(BridgeObstacle::UplinkRefused { nic: nic.clone(), reason: reason.clone() })
            }
            Self::NotAdopted { reason, .. } => Some(BridgeObstacle::NotAdopted { reason: reason.clone() }),
            Self::DatapathNetdev { .. } | Self::DatapathKept { .. } => None,
            Self::DatapathUnavailable { .. } => Some(BridgeObstacle::Pending {
                reason: "it asks for datapathType system, and the node has no kernel module openvswitch"
                    .to_owned(),
            }),
            Self::Draining { .. } => {
                Some(BridgeObstacle::Pending { reason: "it is no longer in the configuration".to_owned() })
            }
            Self::Pending { reason, .. } => Some(BridgeObstacle::Pending { reason: reason.clone() }),
        }
    }
}
