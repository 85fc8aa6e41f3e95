//! What `desired` has to know about the bridges of this node.
//!
//! Owns the facts' shape and the question which VLANs leave the node; must never look at OVS itself.

use std::fmt;

use trunkline_api::{BridgeName, Mtu, VlanId, VlanSet};

/// One bridge of this node's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeFacts {
    /// Name.
    pub name: BridgeName,
    /// Smallest MTU of its uplinks, bytes; `None` without an uplink.
    pub uplink_mtu: Option<Mtu>,
    /// What each uplink carries.
    pub uplinks: Vec<VlanSet>,
    /// Why no pod can be attached now.
    pub obstacle: Option<BridgeObstacle>,
}

impl BridgeFacts {
    /// Whether frames of this VLAN (`None`: untagged) leave the node. An isolated bridge has no uplink and is not
    /// asked: nobody expects it to.
    pub fn carries(&self, vlan: Option<VlanId>) -> bool {
        self.uplinks.is_empty() || self.uplinks.iter().any(|uplink| uplink.contains(vlan))
    }
}

/// Why a configured bridge takes no pods at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BridgeObstacle {
    /// The node lacks the NIC.
    UplinkMissing {
        /// NIC as the configuration names it.
        nic: String,
    },
    /// A NIC cannot be taken.
    UplinkRefused {
        /// NIC.
        nic: String,
        /// Why, in words.
        reason: String,
    },
    /// A bridge of this name exists and is somebody else's.
    NotAdopted {
        /// Why, in words.
        reason: String,
    },
    /// Not made yet, or Open vSwitch does not answer.
    Pending {
        /// What is waited for, in words.
        reason: String,
    },
}

impl fmt::Display for BridgeObstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UplinkMissing { nic } => write!(f, "the node has no network interface {nic}"),
            Self::UplinkRefused { nic, reason } => write!(f, "its uplink {nic} cannot be used: {reason}"),
            Self::NotAdopted { reason } => {
                write!(f, "a bridge of this name exists and is not ours: {reason}")
            }
            Self::Pending { reason } => f.write_str(reason),
        }
    }
}
