//! The result of `desired`: one [`Attachment`] per interface that a pod asks of us, and what is worth a warning.
//!
//! Owns these shapes only; must never look anything up.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use trunkline_api::{BridgeName, Dns, IfName, MacAddr, Mtu, Route, StaticAddress, VlanId};

/// The pod that asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Key of a `NetworkAttachmentDefinition`, printed as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NadKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for NadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One pool that an attachment may take an address from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolChoice {
    /// Name of the `IPPool`.
    pub name: String,
    /// The subnet as the pool states it: its gateway's address and the prefix length. Its family is the pool's.
    pub subnet: IpNet,
}

impl PoolChoice {
    /// The subnet's gateway, which no pod ever gets.
    pub fn gateway(&self) -> IpAddr {
        self.subnet.addr()
    }

    /// Whether the pool hands out IPv6.
    pub fn is_v6(&self) -> bool {
        self.subnet.addr().is_ipv6()
    }
}

/// One interface that the pod gets from us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Name inside the pod.
    pub interface: IfName,
    /// The network.
    pub nad: NadKey,
    /// The bridge of this node that carries it.
    pub bridge: BridgeName,
    /// Effective VLAN: the NAD's, else the pools'; `None` is untagged.
    pub vlan: Option<VlanId>,
    /// MTU of both ends of the veth, bytes.
    pub mtu: Mtu,
    /// The MAC that the pod asked for.
    pub mac: Option<MacAddr>,
    /// The addresses that the pod asked for, at most one per family, each in the subnet of one of the pools.
    pub requested_ips: Vec<IpAddr>,
    /// Pools in the order of the NAD; pools of one family are alternatives, each family gets one address.
    pub pools: Vec<PoolChoice>,
    /// Addresses that the NAD fixes.
    pub addresses: Vec<StaticAddress>,
    /// Routes that the NAD asks for; one without a next hop goes by the gateway of its family, if there is one.
    pub routes: Vec<Route>,
    /// Name servers, for network-status only.
    pub dns: Dns,
}

impl Attachment {
    /// Whether the interface gets no address from us, so that the pod's own means (SLAAC, DHCP) stay open to it.
    pub fn is_layer2_only(&self) -> bool {
        self.pools.is_empty() && self.addresses.is_empty()
    }

    /// Whether we serve addresses of IPv6 on it, so that router advertisements must not add others.
    pub fn serves_v6(&self) -> bool {
        self.pools.iter().any(PoolChoice::is_v6)
            || self.addresses.iter().any(|fixed| fixed.address.addr().is_ipv6())
    }
}

/// Everything that a pod's annotation comes to on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Interfaces to make, in the annotation's order.
    pub attachments: Vec<Attachment>,
    /// What works but should be looked at; each becomes a Warning Event of the pod.
    pub warnings: Vec<DesiredWarning>,
    /// NADs of another type, left to whoever serves them.
    pub left_alone: Vec<NadKey>,
}

/// Something that is allowed and yet probably not meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DesiredWarning {
    /// No uplink carries the attachment's VLAN.
    #[error(
        "interface {interface} (network {nad}) is on VLAN {vlan}, which no uplink of bridge {bridge} on node {node} carries: \
         it reaches only pods on this node; add {vlan} to an uplink's allowedVLANs"
    )]
    VlanNotCarried {
        /// Interface in the pod.
        interface: IfName,
        /// Network.
        nad: NadKey,
        /// Its VLAN.
        vlan: VlanId,
        /// Bridge.
        bridge: BridgeName,
        /// This node.
        node: String,
    },
    /// No uplink carries untagged frames.
    #[error(
        "interface {interface} (network {nad}) is untagged, and no uplink of bridge {bridge} on node {node} carries untagged \
         frames: it reaches only pods on this node; set a vlan, or add \"0\" to an uplink's allowedVLANs"
    )]
    UntaggedNotCarried {
        /// Interface in the pod.
        interface: IfName,
        /// Network.
        nad: NadKey,
        /// Bridge.
        bridge: BridgeName,
        /// This node.
        node: String,
    },
}
