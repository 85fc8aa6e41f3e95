//! The `IPPool` object, `crd.antrea.io/v1beta1`, as users of Antrea know it.
//!
//! Owns its shape and what the API server itself refuses. Must never hand out an address: that is the allocator's.

#![expect(unreachable_pub, reason = "the derive's private copies of these types carry their visibility")]

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::vlan::{InvalidVlan, VlanId};

/// The longest pool name, so that an allocation's name fits into 253 bytes.
pub const MAX_POOL_NAME: usize = 200;

/// A set of addresses of one family, given to pods' interfaces one by one.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "crd.antrea.io",
    version = "v1beta1",
    kind = "IPPool",
    plural = "ippools",
    shortname = "ipp",
    status = "IPPoolStatus",
    derive = "PartialEq",
    doc = "A set of addresses of one family, given to pods' interfaces one by one.",
    printcolumn(name = "Total", type_ = "integer", json_path = ".status.usage.total",
        description = "Addresses that can be given out"),
    printcolumn(name = "Used", type_ = "integer", json_path = ".status.usage.used",
        description = "Addresses that are claimed"),
    printcolumn(name = "VLAN", type_ = "integer", json_path = ".spec.subnetInfo.vlan",
        description = "VLAN of the pool's network, none or 0 when untagged"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether the pool gives out addresses"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new(RULE_VLAN_IN_USE)
        .message("subnetInfo.vlan cannot change while addresses of the pool are in use"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(RULE_RANGE_FAMILIES)
        .message("every range must be of the family of subnetInfo.gateway"),
    validation = Rule::new(rule_range_subnet())
        .message("every range must lie in the subnet of subnetInfo.gateway and prefixLength"),
)]
pub struct IPPoolSpec {
    /// Ranges of addresses; more may be appended, none changed or taken away.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("oldSelf.all(r, self.indexOf(r) == oldSelf.indexOf(r))")
        .message("ranges may only be appended: the old list must be the beginning of the new one"))]
    pub ip_ranges: Vec<IPRange>,
    /// The subnet that the ranges lie in.
    pub subnet_info: SubnetInfo,
}

const RULE_VLAN_IN_USE: &str = "!has(oldSelf.status) || !has(oldSelf.status.usage) || oldSelf.status.usage.used == 0 \
    || (has(self.spec.subnetInfo.vlan) ? self.spec.subnetInfo.vlan : 0) \
    == (has(oldSelf.spec.subnetInfo.vlan) ? oldSelf.spec.subnetInfo.vlan : 0)";

const RULE_RANGE_FAMILIES: &str = "!isIP(self.subnetInfo.gateway) || self.ipRanges.all(r, \
    (!has(r.cidr) || !isCIDR(r.cidr) || cidr(r.cidr).ip().family() == ip(self.subnetInfo.gateway).family()) \
    && (!has(r.start) || !isIP(r.start) || ip(r.start).family() == ip(self.subnetInfo.gateway).family()))";

/// Containment, for each range. The prefix length becomes text through a table, because the API server assumes the
/// worst of `string(n)` and then finds the rule too dear; the one-element lists stand for variables.
fn rule_range_subnet() -> String {
    let lengths: Vec<String> = (0..=128).map(|length| format!("'/{length}'")).collect();
    let subnet = format!("self.subnetInfo.gateway + [{}][self.subnetInfo.prefixLength]", lengths.join(","));
    let within = "(!has(r.cidr) || !isCIDR(r.cidr) || cidr(n).containsCIDR(cidr(r.cidr))) \
        && (!has(r.start) || !isIP(r.start) || cidr(n).containsIP(ip(r.start))) \
        && (!has(r.end) || !isIP(r.end) || cidr(n).containsIP(ip(r.end)))";
    format!("[{subnet}].all(n, !isCIDR(n) || self.ipRanges.all(r, {within}))")
}

/// Addresses: either a `cidr`, or all from `start` to `end`.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.cidr) ? !has(self.start) && !has(self.end) : has(self.start) && has(self.end)")
        .message("a range is either cidr, or start and end"),
    validation = Rule::new("!has(self.cidr) || isCIDR(self.cidr)")
        .message("cidr must be an address and a prefix length, such as 10.10.0.0/24"),
    validation = Rule::new("!has(self.start) || isIP(self.start)").message("start must be an IP address"),
    validation = Rule::new("!has(self.end) || isIP(self.end)").message("end must be an IP address"),
    validation = Rule::new("!has(self.start) || !has(self.end) || !isIP(self.start) || !isIP(self.end) \
        || ip(self.start).family() == ip(self.end).family()")
        .message("start and end must be of one family"),
)]
pub struct IPRange {
    /// All addresses of this prefix, such as "10.10.0.0/24".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = 43))]
    pub cidr: Option<String>,
    /// First address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = 39))]
    pub start: Option<String>,
    /// Last address, itself included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = 39))]
    pub end: Option<String>,
}

/// The subnet of a pool.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("isIP(self.gateway)").message("gateway must be an IP address"),
    validation = Rule::new("!isIP(self.gateway) || (ip(self.gateway).family() == 4 \
        ? self.prefixLength <= 32 : self.prefixLength <= 128)")
        .message("prefixLength must be 1 to 32 for IPv4, 1 to 128 for IPv6"),
)]
pub struct SubnetInfo {
    /// The subnet's gateway; never given to a pod. Its family is the pool's. Cannot change.
    #[schemars(length(max = 39))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("gateway cannot change"))]
    pub gateway: String,
    /// Prefix length of the subnet, 1–32 or 1–128. Cannot change.
    #[schemars(with = "i32", range(min = 1, max = 128))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("prefixLength cannot change"))]
    pub prefix_length: u8,
    /// VLAN of the network, 1–4094; 0 or none is untagged. Cannot change while addresses are in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 0, max = 4094))]
    pub vlan: Option<u16>,
}

/// What is known of a pool. Written by the controller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IPPoolStatus {
    /// Addresses in use; a view for small pools. The `IPAllocation` objects are the truth.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_addresses: Vec<IPAddressState>,
    /// How full the pool is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "IPPoolUsage")]
    pub usage: Option<IPPoolUsage>,
    /// `Ready`, `Invalid`, `Overlap`, `Exhausted`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The address after the one given last, saved now and then, so that freed addresses rest before reuse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub cursor: Option<String>,
}

/// One address in use, in Antrea's shape.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IPAddressState {
    /// The address.
    pub ip_address: String,
    /// `Allocated` or `Reserved`.
    pub phase: String,
    /// Who has it.
    #[serde(default)]
    pub owner: IPAddressOwner,
}

/// Who has an address, in Antrea's shape.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IPAddressOwner {
    /// The pod, while one has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PodOwner")]
    pub pod: Option<PodOwner>,
    /// The `StatefulSet` for which Antrea reserved it; never set by Trunkline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "StatefulSetOwner")]
    pub stateful_set: Option<StatefulSetOwner>,
}

/// A pod's interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodOwner {
    /// Pod name.
    pub name: String,
    /// Pod namespace.
    pub namespace: String,
    /// Sandbox.
    #[serde(rename = "containerID", default)]
    pub container_id: String,
    /// Interface in the pod; empty is the primary one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub if_name: String,
}

/// A `StatefulSet`'s replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatefulSetOwner {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Ordinal of the replica, from 0.
    pub index: i32,
}

/// How full a pool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IPPoolUsage {
    /// Addresses that can be given out, saturating at `i64::MAX`.
    #[serde(default)]
    pub total: i64,
    /// Addresses that are claimed.
    #[serde(default)]
    pub used: i64,
}

impl SubnetInfo {
    /// The VLAN as a type; `None` is untagged.
    pub fn vlan_id(&self) -> Result<Option<VlanId>, InvalidVlan> {
        VlanId::from_tag(self.vlan.unwrap_or(0))
    }

    /// The gateway's address with the subnet's prefix length; its family is the pool's.
    pub fn subnet(&self) -> Result<IpNet, InvalidSubnet> {
        let gateway: IpAddr =
            self.gateway.parse().map_err(|_| InvalidSubnet::Gateway(self.gateway.clone()))?;
        let invalid = |_| InvalidSubnet::PrefixLength { length: self.prefix_length, gateway };
        IpNet::new(gateway, self.prefix_length).map_err(invalid)
    }
}

/// Why a pool's subnet cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSubnet {
    /// Not an address.
    #[error("subnetInfo.gateway {0:?} is not an IP address")]
    Gateway(String),
    /// Longer than the family has bits.
    #[error("subnetInfo.prefixLength {length} is too long for gateway {gateway}")]
    PrefixLength {
        /// As given.
        length: u8,
        /// Which tells the family.
        gateway: IpAddr,
    },
}

impl IPRange {
    /// First and last address, both included, as the user wrote them; the order is checked.
    pub fn bounds(&self) -> Result<(IpAddr, IpAddr), InvalidRange> {
        match (&self.cidr, &self.start, &self.end) {
            (Some(cidr), None, None) => {
                let net: IpNet = cidr.parse().map_err(|_| InvalidRange::Cidr(cidr.clone()))?;
                let net = net.trunc();
                Ok((net.network(), net.broadcast()))
            }
            (None, Some(start), Some(end)) => {
                let parse = |text: &String| text.parse().map_err(|_| InvalidRange::Address(text.clone()));
                let (first, last): (IpAddr, IpAddr) = (parse(start)?, parse(end)?);
                if first.is_ipv4() != last.is_ipv4() {
                    return Err(InvalidRange::Families { first, last });
                }
                if first > last { Err(InvalidRange::Order { first, last }) } else { Ok((first, last)) }
            }
            _ => Err(InvalidRange::Form),
        }
    }
}

/// Why a range gives out nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRange {
    /// Neither or both of the two forms.
    #[error("a range is either cidr, or start and end")]
    Form,
    /// `cidr` is no prefix.
    #[error("cidr {0:?} is not an address and a prefix length, such as \"10.10.0.0/24\"")]
    Cidr(String),
    /// `start` or `end` is no address.
    #[error("{0:?} is not an IP address")]
    Address(String),
    /// Mixed families.
    #[error("start {first} and end {last} are of different families")]
    Families {
        /// `start`.
        first: IpAddr,
        /// `end`.
        last: IpAddr,
    },
    /// Backwards.
    #[error("start {first} comes after end {last}")]
    Order {
        /// `start`.
        first: IpAddr,
        /// `end`.
        last: IpAddr,
    },
}

#[cfg(test)]
mod tests;
