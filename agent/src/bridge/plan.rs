//! From what the configuration wants of one bridge and what is there to the steps between them.
//!
//! Owns the rules of creating, adopting, repairing and giving up a bridge and its uplinks (not pod ports, which the
//! attach pipeline asks for, nor flows). Must never do I/O: the same facts always give the same plan, and a plan that
//! was carried out leaves nothing to do.

mod facts;
mod rules;
#[cfg(test)]
mod tests;

use trunkline_api::{Mtu, VlanSet};

pub use facts::{
    Actual, BridgeRow, FlowCensus, NicFacts, PortKind, PortRow, UplinkSettings, Wanted, WantedUplink,
};
pub use rules::plan;

use super::state::{BridgeCondition, DatapathKind, Origin};

/// One change to the node. Steps are carried out in order; neighbours that only touch OVSDB share a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make the bridge, `fail_mode=secure` from its first moment.
    CreateBridge {
        /// Datapath.
        datapath: DatapathKind,
        /// `datapathType` as configured, kept in `external_ids`.
        wish: &'static str,
        /// Multicast snooping.
        snooping: bool,
    },
    /// Mark an existing bridge as ours and close it (`fail_mode=secure` deletes every flow on it).
    AdoptBridge {
        /// `datapathType` as configured.
        wish: &'static str,
        /// `fail_mode` to restore when it is given up; empty when it was unset.
        previous_fail_mode: String,
    },
    /// Somebody changed `fail_mode`: set it back.
    CloseBridge,
    /// Set multicast snooping.
    SetSnooping(bool),
    /// Set the MTU of the bridge's own interface.
    SetMtu(Mtu),
    /// Switch receive coalescing of a NIC off; the previous values go to the journal first.
    OffloadsOff {
        /// NIC.
        nic: String,
    },
    /// Put back what the journal has for a NIC.
    OffloadsRestore {
        /// NIC.
        nic: String,
    },
    /// Set a NIC administratively up.
    LinkUp {
        /// NIC.
        nic: String,
    },
    /// Add a NIC to the bridge.
    AddUplink {
        /// NIC.
        nic: String,
        /// VLANs and flooding.
        settings: UplinkSettings,
    },
    /// A port of the NIC's name is on the bridge already: mark it as our uplink.
    ClaimUplink {
        /// NIC.
        nic: String,
    },
    /// Set an uplink's columns.
    SetUplink {
        /// NIC.
        nic: String,
        /// VLANs and flooding.
        settings: UplinkSettings,
    },
    /// Take an uplink that we added off the bridge.
    RemoveUplink {
        /// NIC.
        nic: String,
    },
    /// Take our keys off an uplink that was there before us.
    ReleaseUplink {
        /// NIC.
        nic: String,
    },
    /// Remove a bridge that we made.
    DeleteBridge,
    /// Take our keys off a bridge that we adopted and put its `fail_mode` back.
    ReleaseBridge {
        /// `fail_mode` from before us; empty unsets it.
        fail_mode: String,
    },
}

impl Step {
    /// Whether the step is nothing but a change in OVSDB.
    pub fn is_database(&self) -> bool {
        !matches!(self, Self::OffloadsOff { .. } | Self::OffloadsRestore { .. } | Self::LinkUp { .. })
    }
}

/// What to do about one bridge, and what to tell about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Changes, in order.
    pub steps: Vec<Step>,
    /// What holds once they are done.
    pub conditions: Vec<BridgeCondition>,
    /// Pods may be attached once the steps are done.
    pub ready: bool,
    /// How the bridge is ours, once the steps are done.
    pub origin: Option<Origin>,
}

/// The uplinks' sets must not meet: frames of a common VLAN would loop (design decision 13).
fn first_common(sets: &[(&str, &VlanSet)]) -> Option<(usize, usize, u16)> {
    (0..sets.len()).find_map(|left| {
        (left + 1..sets.len()).find_map(|right| Some((left, right, sets[left].1.common(sets[right].1)?)))
    })
}
