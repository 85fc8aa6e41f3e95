//! Dependencies that a crate must never have, directly or through others.
//!
//! Owns the list; it is the table of ARCHITECTURE.md in a form that fails. Must never look at features of a whole
//! workspace build: each crate is asked alone.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::bail;

use super::{cargo, output};

/// A crate, what it must not lead to, and why.
const FORBIDDEN: [(&str, &[&str], &str); 5] = [
    (
        "trunkline-api",
        &[
            "tokio",
            "kube-client",
            "hyper",
            "tonic",
            "trunkline-agent",
            "trunkline-controller",
            "trunkline-ipam",
            "trunkline-ovs",
        ],
        "types and parsers do no I/O",
    ),
    (
        "trunkline-ipam",
        &["kube", "kube-core", "kube-client", "k8s-openapi", "trunkline-api", "trunkline-ovs"],
        "the allocator is pure and knows no Kubernetes",
    ),
    (
        "trunkline-ovs",
        &["kube", "kube-core", "kube-client", "k8s-openapi", "trunkline-api", "trunkline-ipam", "tonic"],
        "Open vSwitch's clients know neither Kubernetes nor pods",
    ),
    (
        "trunkline-ebpf",
        &["kube", "kube-core", "kube-client", "k8s-openapi", "tokio", "trunkline-api", "trunkline-ovs"],
        "taps know interfaces and namespaces, neither pods nor bridges",
    ),
    (
        "trunkline-controller",
        &["trunkline-ovs", "trunkline-agent", "rtnetlink", "netlink-packet-route"],
        "the controller touches no node",
    ),
];

/// Fails on the first forbidden edge of each crate.
pub(super) fn check(root: &Path) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for (package, forbidden, reason) in FORBIDDEN {
        let arguments =
            ["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}", "-p", package];
        let tree = output(cargo(root).args(arguments))?;
        let reached: BTreeSet<&str> =
            tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
        let found = forbidden.iter().filter(|name| reached.contains(*name));
        wrong.extend(found.map(|name| {
            format!("{package} leads to {name}: {reason}; see `cargo tree -p {package} -i {name}`")
        }));
    }
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n")) }
}
