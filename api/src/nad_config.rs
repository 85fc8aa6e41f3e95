//! The CNI configuration inside a `NetworkAttachmentDefinition` of type `antrea`.
//!
//! Owns its keys, their bounds and every refusal. Must never interpret `cniVersion`, and leaves other types alone.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{BridgeName, Mtu, VlanId};

mod parse;

/// Whose network a NAD is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nad {
    /// Ours: `type: antrea`.
    Ours(Box<NadConfig>),
    /// Another plugin's; left alone.
    NotOurs {
        /// Its `type`, empty where there is no configuration at all.
        kind: String,
    },
}

/// A network of type `antrea`, `networkType: vlan`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NadConfig {
    /// CNI `name`, where given; not interpreted.
    pub name: Option<String>,
    /// MTU of the pod's interface; none (or 0, as Antrea has it) is the agent's default.
    pub mtu: Option<Mtu>,
    /// VLAN that overrides the pools'; none (or 0, as Antrea has it) overrides nothing.
    pub vlan: Option<VlanId>,
    /// The bridge; none is the node's only one.
    pub bridge: Option<BridgeName>,
    /// Address management; none is layer 2 only.
    pub ipam: Option<NadIpam>,
    /// Routes through the interface.
    pub routes: Vec<Route>,
    /// Addresses that every pod of this network gets, beside those of the pools.
    pub addresses: Vec<StaticAddress>,
    /// Name servers, reported in network-status only.
    pub dns: Dns,
}

/// The `ipam` section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NadIpam {
    /// Names of `IPPool` objects in the order of the user; empty with static addresses only.
    pub pools: Vec<String>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination; never the default route in this version.
    pub dst: IpNet,
    /// Next hop; none is the pool's gateway of that family, or on link.
    pub gw: Option<IpAddr>,
}

/// A static address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticAddress {
    /// Address and prefix length.
    pub address: IpNet,
    /// Gateway of its subnet.
    pub gateway: Option<IpAddr>,
}

/// Name servers (CNI specification 1.1, "DNS").
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Addresses of name servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// Local domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Search domains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// Nothing in it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl NadConfig {
    /// Reads `spec.config`. The error names key, value and what is right; the caller names the NAD.
    pub fn parse(config: Option<&str>) -> Result<Nad, NadConfigError> {
        parse::parse(config)
    }
}

/// Why a NAD of type `antrea` cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NadConfigError {
    /// Not JSON, or not an object.
    #[error("spec.config: {0}")]
    Malformed(String),
    /// One key is at fault.
    #[error("spec.config: {key}: {problem}")]
    Key {
        /// Path of the key, such as `ipam.routes[0].dst`.
        key: String,
        /// The value, and what is right.
        problem: String,
    },
}

#[cfg(test)]
mod tests;
