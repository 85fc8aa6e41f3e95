//! Pod ports as OVSDB keeps them: the `external_ids` that the agent rebuilds itself from.
//!
//! Owns the key names and the parsing of a port's row; must never talk to OVSDB.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use trunkline_api::{BridgeName, IfName, MacAddr, VlanId};

/// Keys of `external_ids`. On ports unless said otherwise.
pub mod keys {
    /// `pod` or `uplink`.
    pub const TYPE: &str = "trunkline-type";
    /// Value of [`TYPE`] on a pod's port.
    pub const TYPE_POD: &str = "pod";
    /// Value of [`TYPE`] on an uplink.
    pub const TYPE_UPLINK: &str = "uplink";
    /// Pod UID.
    pub const POD_UID: &str = "trunkline-pod-uid";
    /// Pod namespace.
    pub const POD_NAMESPACE: &str = "trunkline-pod-namespace";
    /// Pod name.
    pub const POD_NAME: &str = "trunkline-pod-name";
    /// CNI container id.
    pub const SANDBOX: &str = "trunkline-sandbox";
    /// Interface in the pod.
    pub const INTERFACE: &str = "trunkline-interface";
    /// NAD as `namespace/name`.
    pub const NAD: &str = "trunkline-nad";
    /// MAC of the pod's side.
    pub const MAC: &str = "trunkline-mac";
    /// Addresses with prefix lengths, separated by commas.
    pub const ADDRESSES: &str = "trunkline-addresses";
    /// Pools, separated by commas.
    pub const POOLS: &str = "trunkline-pools";
    /// Effective VLAN, 0 when untagged.
    pub const VLAN: &str = "trunkline-vlan";
    /// `/proc/sys/kernel/random/boot_id` when the port was made.
    pub const BOOT_ID: &str = "trunkline-boot-id";
    /// Path of the pod's network namespace.
    pub const NETNS: &str = "trunkline-netns";
    /// Wall time of the ADD in milliseconds.
    pub const ATTACH_MS: &str = "trunkline-attach-ms";
    /// On bridges: `true`.
    pub const MANAGED: &str = "trunkline-managed";
    /// On bridges and uplinks: `created` or `adopted`.
    pub const ORIGIN: &str = "trunkline-origin";
    /// On bridges: `datapathType` of the configuration when the bridge was made.
    pub const DATAPATH: &str = "trunkline-datapath";
    /// What each key of ours starts with.
    pub const PREFIX: &str = "trunkline-";
}

/// A pod port to be made. The link of this name must exist already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPort {
    /// Port and host interface name; see [`super::host_veth_name`].
    pub name: IfName,
    /// Access VLAN; `None` is untagged.
    pub vlan: Option<VlanId>,
    /// Our keys; `trunkline-type`, `trunkline-boot-id` and `trunkline-vlan` are added.
    /// `trunkline-pod-uid` and `trunkline-interface` must be there: the flow's cookie is made of them.
    pub external_ids: BTreeMap<String, String>,
}

/// A pod port that passes traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortReady {
    /// `OpenFlow` port number, 1–65279.
    pub ofport: u32,
    /// Cookie of its flow.
    pub cookie: u64,
}

/// Why a pod port could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// No such bridge on this node, or not ready.
    #[error("bridge {bridge} takes no pods now: {reason}")]
    BridgeNotReady {
        /// Bridge.
        bridge: BridgeName,
        /// Why.
        reason: String,
    },
    /// OVSDB said no.
    #[error("Open vSwitch's database refused the change to {what}")]
    Database {
        /// Port or bridge.
        what: String,
        /// What it said.
        source: trunkline_ovs::TransactError,
    },
    /// vswitchd could not open the link.
    #[error("Open vSwitch cannot use port {port} on bridge {bridge}: {message}")]
    Refused {
        /// Port.
        port: String,
        /// Bridge.
        bridge: BridgeName,
        /// `Interface.error` in OVSDB.
        message: String,
    },
    /// vswitchd or its `OpenFlow` socket did not answer in time.
    #[error("port {port} on bridge {bridge} was not ready within {}: waited for {stage}", Seconds(*.waited))]
    Deadline {
        /// Port.
        port: String,
        /// Bridge.
        bridge: BridgeName,
        /// How long.
        waited: Duration,
        /// What was missing.
        stage: &'static str,
    },
    /// The caller's `external_ids` lack a key.
    #[error("port {port} has no {key} in its external_ids")]
    MissingKey {
        /// Port.
        port: String,
        /// Key.
        key: &'static str,
    },
    /// The agent stops.
    #[error("the agent is stopping")]
    Stopping,
}

impl PortError {
    /// Whether the same call may succeed later without anybody changing an object.
    pub fn is_transient(&self) -> bool {
        !matches!(self, Self::MissingKey { .. })
    }
}

/// Prints a duration in seconds with one decimal.
struct Seconds(Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} s", self.0.as_secs_f64())
    }
}

/// A pod port of this node, parsed from OVSDB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodPortRow {
    /// Port and host interface name.
    pub name: String,
    /// Bridge that it is on.
    pub bridge: String,
    /// Pod UID.
    pub pod_uid: String,
    /// Pod namespace.
    pub pod_namespace: String,
    /// Pod name.
    pub pod_name: String,
    /// Sandbox (CNI container id).
    pub sandbox: String,
    /// Interface in the pod.
    pub interface: String,
    /// NAD as `namespace/name`.
    pub nad: String,
    /// MAC of the pod's side, if it was recorded.
    pub mac: Option<MacAddr>,
    /// Addresses with prefix lengths.
    pub addresses: Vec<IpNet>,
    /// Pools that they came from.
    pub pools: Vec<String>,
    /// Access VLAN, from the port's tag: what really applies.
    pub vlan: Option<VlanId>,
    /// Boot that it was made in.
    pub boot_id: String,
    /// Path of the pod's namespace.
    pub netns: String,
    /// Wall time of the ADD in milliseconds.
    pub attach_ms: Option<u64>,
    /// `OpenFlow` port number; `None` until vswitchd has opened the link, or when it could not.
    pub ofport: Option<u32>,
    /// What vswitchd says is wrong.
    pub error: Option<String>,
}
