//! The pod annotation `k8s.v1.cni.cncf.io/network-status` (NPWG specification 1.3, section 5).
//!
//! Owns its shape, which is that of the community's Go client 1.7.7. Must never be read back as truth: anybody who
//! may patch pods can change it.

use std::net::IpAddr;

use ipnet::IpNet;
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
/// `conflist_name` is the name of the node's network configuration, `ifname` is `CNI_IFNAME`. What the result does
/// not say, or says in a way that nobody understands, is left out: the pod has its network all the same.
pub fn primary_status(conflist_name: &str, ifname: &str, prev_result: &Value) -> NetworkStatus {
    let interfaces = prev_result["interfaces"].as_array().map_or(&[][..], Vec::as_slice);
    // Chained plugins also list the host's side, which has no sandbox.
    let in_pod = |interface: &Value| interface["sandbox"].as_str().is_some_and(|path| !path.is_empty());
    let index = interfaces.iter().position(|interface| in_pod(interface) && interface["name"] == ifname);
    let interface = index.map_or(&Value::Null, |index| &interfaces[index]);
    let mut status = NetworkStatus {
        name: conflist_name.to_owned(),
        interface: ifname.to_owned(),
        mac: interface["mac"].as_str().and_then(|mac| mac.parse().ok()),
        mtu: interface["mtu"].as_u64().and_then(|mtu| u32::try_from(mtu).ok()).filter(|mtu| *mtu > 0),
        default: true,
        ..NetworkStatus::default()
    };
    for ip in prev_result["ips"].as_array().into_iter().flatten() {
        let elsewhere =
            ip["interface"].as_u64().is_some_and(|of| index.is_some_and(|mine| of != mine as u64));
        if elsewhere {
            continue;
        }
        status
            .ips
            .extend(ip["address"].as_str().and_then(|net| net.parse::<IpNet>().ok()).map(|net| net.addr()));
        add_gateway(&mut status.gateway, &ip["gateway"]);
    }
    for route in prev_result["routes"].as_array().into_iter().flatten() {
        let default = route["dst"].as_str().is_some_and(|dst| dst == "0.0.0.0/0" || dst == "::/0");
        if default {
            add_gateway(&mut status.gateway, &route["gw"]);
        }
    }
    status
}

fn add_gateway(gateways: &mut Vec<IpAddr>, value: &Value) {
    let address = value.as_str().and_then(|text| text.parse().ok());
    gateways.extend(address.filter(|address| !gateways.contains(address)));
}

#[cfg(test)]
mod tests;
