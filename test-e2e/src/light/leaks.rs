//! What is there before a test and must be all that is there after it: ports, addresses, links, namespaces.
//!
//! Asks OVS, the API server and the kernel by their own tools, never our agent.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::light::LightCluster;
use crate::{objects, wait};

/// How long what is being undone may take: agents look for orphans every 30 s, and act on what they see twice.
const PATIENCE: Duration = Duration::from_secs(75);

/// Names of everything that could leak.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// `<node>/<port>` of OVS ports made for pods.
    pub ports: BTreeSet<String>,
    /// Names of `IPAllocation` objects.
    pub addresses: BTreeSet<String>,
    /// `<node>/<link>` of links in nodes' namespaces.
    pub links: BTreeSet<String>,
    /// Namespaces of this run's sandboxes.
    pub namespaces: BTreeSet<String>,
}

impl Snapshot {
    /// What is there now.
    pub async fn take(cluster: &LightCluster) -> Result<Self> {
        let mut now = Self::default();
        for node in cluster.nodes() {
            let of_node = |names: Vec<String>| {
                names.into_iter().map(|n| format!("{}/{n}", node.name())).collect::<Vec<_>>()
            };
            now.ports.extend(of_node(node.ovs().pod_ports()?));
            let mut links = node.netns().links()?;
            // Bridges stay: the primary's appears with its first pod, ours when its NIC does.
            links.retain(|l| l != "cni0" && l != "ovs-netdev" && l != "ovs-system" && !l.starts_with("br-"));
            now.links.extend(of_node(links));
        }
        now.addresses = objects::allocations(cluster.client()).await?;
        let prefix = format!("{}-s-", cluster.run().prefix());
        let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
        let names = names.map(|e| e.file_name().to_string_lossy().into_owned());
        now.namespaces.extend(names.filter(|n| n.starts_with(&prefix)));
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

    /// Waits until nothing is there that was not there at this snapshot; fails naming what is left.
    pub async fn wait_restored(&self, cluster: &LightCluster) -> Result<()> {
        let left = wait::until("everything is given back", PATIENCE, || async {
            let left = Self::take(cluster).await?.minus(self);
            if left == Self::default() { Ok(Some(())) } else { bail!("left over: {left:?}") }
        });
        left.await
    }
}
