//! Why a pod's networks cannot be made, for the person who reads `kubectl describe pod`.
//!
//! Owns the words: each names object, field and value, and what would be right.

use trunkline_api::{BridgeName, IfName, Mtu, NadConfigError};

use super::attachment::NadKey;
use super::bridges::BridgeObstacle;

/// The first thing that is wrong with a pod's request on this node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DesiredError {
    /// No such NAD.
    #[error(
        "network {nad}: namespace {} has no NetworkAttachmentDefinition {}; create it, or correct the pod's annotation \
         k8s.v1.cni.cncf.io/networks",
        nad.namespace, nad.name
    )]
    NadMissing {
        /// As the annotation has it.
        nad: NadKey,
    },
    /// The NAD's configuration cannot be used.
    #[error("NetworkAttachmentDefinition {nad}: {problem}")]
    NadInvalid {
        /// Which.
        nad: NadKey,
        /// Key, value and what is right.
        problem: NadConfigError,
    },
    /// `namespaceIsolation` forbids networks of other namespaces.
    #[error(
        "network {nad} is in another namespace than the pod ({pod_namespace}), which namespaceIsolation: true \
         forbids; use a network of namespace {pod_namespace}"
    )]
    OtherNamespace {
        /// Which.
        nad: NadKey,
        /// The pod's namespace.
        pod_namespace: String,
    },
    /// The NAD has `ipam` and the gate is off.
    #[error(
        "network {nad} has an ipam section, and feature gate AntreaIPAM is off on node {node}; set featureGates.AntreaIPAM: true \
         in trunkline-agent.conf of ConfigMap trunkline-config, or remove ipam from the network (layer 2 only)"
    )]
    IpamGateOff {
        /// Which.
        nad: NadKey,
        /// This node.
        node: String,
    },
    /// No such pool.
    #[error(
        "network {nad}: ipam.ippools names IPPool {pool}, which does not exist; create it, or correct the network"
    )]
    PoolMissing {
        /// Which network.
        nad: NadKey,
        /// Which pool.
        pool: String,
    },
    /// The pool's subnet cannot be used.
    #[error("network {nad}: IPPool {pool}: {problem}")]
    PoolInvalid {
        /// Which network.
        nad: NadKey,
        /// Which pool.
        pool: String,
        /// Field, value and what is right.
        problem: String,
    },
    /// The pools disagree and the NAD does not decide.
    #[error(
        "network {nad}: its pools are on different VLANs ({}); use pools of one VLAN, or set vlan in the network, which overrides \
         them",
        pools.join(", ")
    )]
    PoolVlansDiffer {
        /// Which network.
        nad: NadKey,
        /// Each as "pool: VLAN 100" or "pool: untagged".
        pools: Vec<String>,
    },
    /// `ips` on a network that has no pools to take them from.
    #[error(
        "network {nad}: the annotation asks for ips ({ips}), and the network has no ipam.ippools to take them from; remove ips"
    )]
    IpsWithoutPool {
        /// Which network.
        nad: NadKey,
        /// What was asked for.
        ips: String,
    },
    /// A requested address fits none of the pools.
    #[error("network {nad}: the annotation asks for {ip}, which is in none of the network's subnets ({})", subnets.join(", "))]
    IpOutsidePools {
        /// Which network.
        nad: NadKey,
        /// What was asked for.
        ip: String,
        /// Each as "10.0.0.0/24 (pool)".
        subnets: Vec<String>,
    },
    /// Two requested addresses of one family.
    #[error(
        "network {nad}: the annotation asks for both {first} and {second}; an interface gets one address per family"
    )]
    TwoIpsOfOneFamily {
        /// Which network.
        nad: NadKey,
        /// The one.
        first: String,
        /// The other.
        second: String,
    },
    /// The node has no bridge at all.
    #[error(
        "network {nad}: node {node} has no bridge for it: secondaryNetwork.ovsBridges is empty in trunkline-agent.conf"
    )]
    NoBridge {
        /// Which network.
        nad: NadKey,
        /// This node.
        node: String,
    },
    /// Several bridges and the NAD names none.
    #[error(
        "network {nad} does not say which bridge it is on, and node {node} has {}; set bridge in the network",
        list(bridges)
    )]
    BridgeAmbiguous {
        /// Which network.
        nad: NadKey,
        /// This node.
        node: String,
        /// Its bridges.
        bridges: Vec<BridgeName>,
    },
    /// The NAD names a bridge that this node's configuration lacks.
    #[error("network {nad} is on bridge {bridge}, which node {node} does not have; it has {}", list(bridges))]
    BridgeUnknown {
        /// Which network.
        nad: NadKey,
        /// The bridge it names.
        bridge: BridgeName,
        /// This node.
        node: String,
        /// Its bridges.
        bridges: Vec<BridgeName>,
    },
    /// The bridge takes no pods now.
    #[error("network {nad}: bridge {bridge} on node {node} is not ready: {obstacle}")]
    BridgeNotReady {
        /// Which network.
        nad: NadKey,
        /// The bridge.
        bridge: BridgeName,
        /// This node.
        node: String,
        /// Why.
        obstacle: Box<BridgeObstacle>,
    },
    /// The NAD's MTU does not fit the uplink.
    #[error(
        "network {nad}: mtu {mtu} is larger than the {limit} of the uplinks of bridge {bridge} on node {node}; use {limit} or less"
    )]
    MtuTooLarge {
        /// Which network.
        nad: NadKey,
        /// As the NAD has it.
        mtu: Mtu,
        /// The uplinks'.
        limit: Mtu,
        /// The bridge.
        bridge: BridgeName,
        /// This node.
        node: String,
    },
    /// IPv6 does not run on so small an MTU.
    #[error(
        "network {nad}: mtu {mtu} is too small for its IPv6 addresses; IPv6 needs 1280 or more (RFC 8200)"
    )]
    MtuTooSmallForV6 {
        /// Which network.
        nad: NadKey,
        /// The effective one.
        mtu: Mtu,
    },
    /// The requested interface name is in use in the pod.
    #[error(
        "network {nad}: the annotation asks for interface {interface}, which the pod has already; use another name"
    )]
    InterfaceTaken {
        /// Which network.
        nad: NadKey,
        /// The name.
        interface: IfName,
    },
    /// No name is left under the prefix.
    #[error(
        "network {nad}: no interface name of the form {prefix}1 to {prefix}{last} is free; name the interface in the annotation"
    )]
    NoFreeName {
        /// Which network.
        nad: NadKey,
        /// `interfacePrefix`.
        prefix: String,
        /// The last number tried.
        last: u32,
    },
}

impl DesiredError {
    /// Whether the same request may succeed within an ADD's deadline, so that waiting is worth while: objects that are
    /// applied together with the pod, and a bridge that is being made.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NadMissing { .. } | Self::PoolMissing { .. } => true,
            Self::BridgeNotReady { obstacle, .. } => matches!(**obstacle, BridgeObstacle::Pending { .. }),
            _ => false,
        }
    }
}

fn list(bridges: &[BridgeName]) -> String {
    match bridges {
        [] => "none".to_owned(),
        [one] => one.to_string(),
        [most @ .., last] => {
            let most = most.iter().map(BridgeName::as_str).collect::<Vec<_>>().join(", ");
            format!("{most} and {last}")
        }
    }
}
