//! The `IPAllocation` object, `ipam.trunkline.io/v1alpha1`: one claimed address.
//!
//! Owns its shape and its name, which is what makes the claim unique. Must never be created by anything but the
//! controller.

#![expect(unreachable_pub, reason = "the derive's private copies of these types carry their visibility")]

use std::net::IpAddr;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// An address of a pool, claimed for one interface of one pod. Its name is a function of pool and address, so
/// that the API server itself refuses a second claim.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "ipam.trunkline.io",
    version = "v1alpha1",
    kind = "IPAllocation",
    plural = "ipallocations",
    shortname = "ipa",
    category = "trunkline",
    derive = "PartialEq",
    doc = "An address of an IPPool, claimed for one interface of one pod.",
    selectable = ".spec.pool",
    selectable = ".spec.node",
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.pool"),
    printcolumn(name = "Address", type_ = "string", json_path = ".spec.address"),
    printcolumn(name = "Namespace", type_ = "string", json_path = ".spec.owner.podNamespace"),
    printcolumn(name = "Pod", type_ = "string", json_path = ".spec.owner.podName"),
    printcolumn(name = "Interface", type_ = "string", json_path = ".spec.owner.interface"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.node"),
    printcolumn(name = "Network", type_ = "string", json_path = ".spec.owner.nad", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new(RULE_NAME).message(
        "the name must be <pool>.ip-<a>-<b>-<c>-<d> or <pool>.ip6-<32 hexadecimal digits>, after spec.pool and spec.address"
    ),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.pool == oldSelf.pool").message("pool cannot change"),
    validation = Rule::new("self.address == oldSelf.address").message("address cannot change"),
    validation = Rule::new("self.node == oldSelf.node").message("node cannot change"),
    validation = Rule::new("isIP(self.address) && ip.isCanonical(self.address)")
        .message("address must be an IP address in its canonical form"),
)]
pub struct IPAllocationSpec {
    /// The `IPPool`.
    #[schemars(length(min = 1, max = 200))]
    pub pool: String,
    /// The address, in its canonical form.
    #[schemars(with = "String", length(max = 39))]
    pub address: IpAddr,
    /// Node that the pod is bound to.
    #[schemars(length(min = 1, max = 253))]
    pub node: String,
    /// The interface that has the address.
    pub owner: AllocationOwner,
}

/// Compares name and spec without arithmetic, which CEL's addresses lack: the 32 digits, cut into groups of four,
/// are an IPv6 address again. The one-element list stands for a variable.
const RULE_NAME: &str = "!isIP(self.spec.address) || (ip(self.spec.address).family() == 4 \
    ? self.metadata.name == self.spec.pool + '.ip-' + self.spec.address.replace('.', '-') \
    : self.metadata.name.startsWith(self.spec.pool + '.ip6-') \
    && [self.metadata.name.substring(size(self.spec.pool) + 5)].all(h, h.matches('^[0-9a-f]{32}$') \
    && ip(h.substring(0, 4) + ':' + h.substring(4, 8) + ':' + h.substring(8, 12) + ':' + h.substring(12, 16) + ':' \
    + h.substring(16, 20) + ':' + h.substring(20, 24) + ':' + h.substring(24, 28) + ':' + h.substring(28, 32)) \
    == ip(self.spec.address)))";

/// One interface of one pod. Identity is (pod UID, interface); only the sandbox may change.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.podNamespace == oldSelf.podNamespace && self.podName == oldSelf.podName \
        && self.podUID == oldSelf.podUID && self.interface == oldSelf.interface && self.nad == oldSelf.nad")
        .message("nothing but sandbox can change"),
)]
pub struct AllocationOwner {
    /// Pod namespace.
    #[schemars(length(min = 1, max = 63))]
    pub pod_namespace: String,
    /// Pod name.
    #[schemars(length(min = 1, max = 253))]
    pub pod_name: String,
    /// Pod UID; a static pod's is its configuration hash.
    #[serde(rename = "podUID")]
    #[schemars(length(min = 1, max = 63))]
    pub pod_uid: String,
    /// Sandbox (CNI container id) that uses the address now.
    #[schemars(length(max = 128))]
    pub sandbox: String,
    /// Interface name in the pod.
    #[schemars(length(min = 1, max = 15))]
    pub interface: String,
    /// The network, as "namespace/name".
    #[schemars(length(min = 1, max = 317))]
    pub nad: String,
}

/// The one name that a claim of this address can have.
pub fn allocation_name(pool: &str, address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{pool}.ip-{a}-{b}-{c}-{d}")
        }
        IpAddr::V6(v6) => format!("{pool}.ip6-{:032x}", v6.to_bits()),
    }
}

#[cfg(test)]
mod tests;
