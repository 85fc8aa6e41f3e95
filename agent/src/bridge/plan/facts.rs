//! What the planner is told: the wish for one bridge, and what OVSDB, the kernel and the switch say.
//!
//! Owns plain data only; `observe` fills it in.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use trunkline_api::{BridgeName, DatapathType, Mtu, VlanSet};

use crate::bridge::state::{DatapathKind, Origin};

/// One bridge of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Name.
    pub name: BridgeName,
    /// Uplinks, 0–8, in the configuration's order.
    pub uplinks: Vec<WantedUplink>,
    /// Multicast snooping.
    pub snooping: bool,
    /// Take over a bridge that is in use by somebody else.
    pub adopt: bool,
    /// Let uplinks share VLANs.
    pub parallel_uplinks: bool,
    /// Datapath.
    pub datapath: DatapathType,
    /// MTU of the bridge's own interface; `None` leaves it alone.
    pub mtu: Option<Mtu>,
}

/// One uplink of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedUplink {
    /// NIC.
    pub nic: String,
    /// VLANs that it carries.
    pub vlans: VlanSet,
}

/// The columns that we set on an uplink's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkSettings {
    /// VLAN ids, 0 for untagged; empty means all. In `vlan_mode=trunk` a frame without a tag counts as VLAN 0, so that
    /// exactly the listed ones pass (`ovs-vswitchd.conf.db(5)`, Port, `vlan_mode`).
    pub trunks: BTreeSet<u16>,
    /// Flood multicast and membership reports to it: with snooping on, routers and queriers sit behind uplinks.
    pub flood_multicast: bool,
}

/// What is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// The bridge, if OVSDB has one of this name.
    pub bridge: Option<BridgeRow>,
    /// The wanted uplinks' links and those of uplinks on the bridge, by name.
    pub nics: BTreeMap<String, NicFacts>,
    /// Bridge of each wanted NIC that is a port of another bridge.
    pub elsewhere: BTreeMap<String, String>,
    /// Whether the kernel has the openvswitch module; `None` until somebody looked.
    pub kernel_datapath: Option<bool>,
    /// Flows on an existing bridge that is not ours yet.
    pub flows: FlowCensus,
}

/// What was learnt about the flows of a bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlowCensus {
    /// Nobody has looked yet, or vswitchd does not answer.
    #[default]
    Unknown,
    /// This many flows that are neither ours nor the default one of a standalone bridge.
    Foreign(usize),
}

/// A bridge in OVSDB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeRow {
    /// Carries `trunkline-managed`.
    pub managed: bool,
    /// How it became ours; `None` before.
    pub origin: Option<Origin>,
    /// `fail_mode`, empty when unset.
    pub fail_mode: String,
    /// `fail_mode` from before it was adopted.
    pub previous_fail_mode: String,
    /// A controller is set.
    pub has_controller: bool,
    /// Datapath.
    pub datapath: DatapathKind,
    /// `mcast_snooping_enable`.
    pub snooping: bool,
    /// `mtu_request` of its own interface.
    pub mtu: Option<Mtu>,
    /// Ports by name, the local one left out.
    pub ports: BTreeMap<String, PortRow>,
}

/// Whose port it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// An uplink of ours, and whether we added it.
    Uplink(Origin),
    /// A pod's.
    Pod,
    /// Not ours.
    Foreign,
}

/// A port in OVSDB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRow {
    /// Whose.
    pub kind: PortKind,
    /// `tag`, 0 when unset.
    pub tag: u16,
    /// `vlan_mode`, empty when unset.
    pub vlan_mode: String,
    /// `trunks` and the multicast keys of `other_config`.
    pub settings: UplinkSettings,
    /// `Interface:error`, empty when there is none.
    pub error: String,
}

/// A link of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "facts of a link that do not depend on each other")]
pub struct NicFacts {
    /// Administratively up.
    pub up: bool,
    /// Bond, bridge or VRF that it belongs to.
    pub master: Option<String>,
    /// VLAN links on top of it.
    pub vlan_children: Vec<String>,
    /// Addresses, link-local ones left out.
    pub addresses: Vec<IpNet>,
    /// A default route leaves through it.
    pub has_default_route: bool,
    /// Receive coalescing is on, which the userspace datapath cannot take.
    pub coalesces: bool,
    /// The journal has values to put back.
    pub journalled: bool,
}
