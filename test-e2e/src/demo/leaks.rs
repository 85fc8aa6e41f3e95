//! What is on the nodes and in the API before the first pod, and what of it is too much afterwards.
//!
//! Asks Open vSwitch, the API server and the kernel by their own tools, never our agent.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::{BRIDGE, OVS_RUN_DIR};
use crate::cluster::Cluster;

/// How long what is being undone may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// Names of everything that could leak, each as `<node>/<name>` but for addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// `ovs-vsctl list-ports` of the bridge.
    pub ports: BTreeSet<String>,
    /// `kubectl get ipa`.
    pub addresses: BTreeSet<String>,
    /// `ip -j link` of each node.
    pub links: BTreeSet<String>,
    /// `/run/netns` of each node.
    pub namespaces: BTreeSet<String>,
}

impl Snapshot {
    /// What is there now.
    pub fn take(cluster: &Cluster) -> Result<Self> {
        let mut now = Self::default();
        let addresses = cluster.plane.kubectl(&["get", "ipa", "-o", "name"])?;
        now.addresses.extend(addresses.lines().map(str::to_owned));
        for node in &cluster.nodes {
            let of_node = |name: &str| format!("{}/{name}", node.name());
            let ports = node.ovs_vsctl(OVS_RUN_DIR, &["list-ports", BRIDGE])?;
            now.ports.extend(ports.lines().map(of_node));
            now.links.extend(node.netns().links()?.iter().map(|link| of_node(link)));
            now.namespaces.extend(node.namespaces()?.iter().map(|name| of_node(name)));
        }
        Ok(now)
    }

    /// What is in `self` and not in `before`.
    #[must_use]
    pub fn minus(&self, before: &Self) -> Self {
        let minus = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect();
        Self {
            ports: minus(&self.ports, &before.ports),
            addresses: minus(&self.addresses, &before.addresses),
            links: minus(&self.links, &before.links),
            namespaces: minus(&self.namespaces, &before.namespaces),
        }
    }

    /// Nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Waits until nothing is there that was not in `self`, and returns what is after all.
    pub async fn wait_until_back(&self, cluster: &Cluster) -> Result<Self> {
        let begin = Instant::now();
        loop {
            let left = Self::take(cluster)?.minus(self);
            if left.is_empty() || begin.elapsed() > PATIENCE {
                return Ok(left);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_before_is_no_leak() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let before = Snapshot { ports: set(&["a/eth1"]), ..Snapshot::default() };
        let after = Snapshot { ports: set(&["a/eth1", "a/tl1"]), ..Snapshot::default() };
        assert!(before.minus(&before).is_empty());
        assert_eq!(after.minus(&before).ports, set(&["a/tl1"]));
    }
}
