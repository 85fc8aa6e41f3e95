//! Installing Trunkline as its users do: `kubectl apply` of what is in `manifests/`, nothing else.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Cluster;
use crate::{paths, wait};

/// Namespace of everything of ours.
pub(super) const NAMESPACE: &str = "trunkline-system";
/// How long the parts may take until they are ready.
const ROLLOUT: Duration = Duration::from_mins(2);

/// The verbs of an installation.
#[derive(Clone, Copy, Debug)]
pub struct Install<'a> {
    cluster: &'a Cluster,
}

impl<'a> Install<'a> {
    /// Into this cluster.
    pub fn into_cluster(cluster: &'a Cluster) -> Self {
        Self { cluster }
    }

    /// The CRDs that others own too, where they are absent.
    pub fn shared_crds(self) -> Result<()> {
        self.apply_folder("components/crds-shared")?;
        for name in ["ippools.crd.antrea.io", "network-attachment-definitions.k8s.cni.cncf.io"] {
            self.established(name)?;
        }
        Ok(())
    }

    /// Everything, with no bridge.
    pub fn base(self) -> Result<()> {
        self.apply_folder("base")?;
        self.established("ipallocations.ipam.trunkline.io")
    }

    /// An overlay of `manifests/overlays`.
    pub fn overlay(self, name: &str) -> Result<()> {
        self.apply_folder(&format!("overlays/{name}"))
    }

    fn apply_folder(self, folder: &str) -> Result<()> {
        let path = paths::workspace().join("manifests").join(folder).display().to_string();
        self.cluster
            .plane
            .kubectl(&["apply", "--server-side", "--force-conflicts", "-k", &path])
            .map(drop)
            .with_context(|| format!("applying manifests/{folder}"))
    }

    fn established(self, crd: &str) -> Result<()> {
        let crd = format!("crd/{crd}");
        self.cluster.plane.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", &crd]).map(drop)
    }

    /// Waits until agents, Open vSwitch and controller are ready.
    pub async fn wait_ready(self) -> Result<()> {
        for part in
            ["daemonset/trunkline-ovs", "daemonset/trunkline-agent", "deployment/trunkline-controller"]
        {
            rollout(self.cluster, part).await?;
        }
        Ok(())
    }
}

/// Waits until a workload of ours has as many ready pods as it wants.
pub async fn rollout(cluster: &Cluster, part: &str) -> Result<()> {
    let look = || async {
        for node in &cluster.nodes {
            node.check()?;
        }
        let text = cluster.plane.kubectl(&["-n", NAMESPACE, "get", part, "-o", "json"])?;
        let object: serde_json::Value = serde_json::from_str(&text).context("reading kubectl's answer")?;
        let number = |path: &str| object.pointer(path).and_then(serde_json::Value::as_u64).unwrap_or(0);
        let observed = number("/status/observedGeneration") >= number("/metadata/generation");
        let (wanted, ready) = if part.starts_with("daemonset") {
            (number("/status/desiredNumberScheduled"), number("/status/numberReady"))
        } else {
            (number("/spec/replicas"), number("/status/readyReplicas"))
        };
        Ok((observed && wanted > 0 && ready == wanted).then_some(()))
    };
    match wait::until(&format!("{part} is ready"), ROLLOUT, look).await {
        Ok(()) => Ok(()),
        Err(error) => Err(error.context(describe(cluster))),
    }
}

/// What there is to say about our pods when they are not ready.
fn describe(cluster: &Cluster) -> String {
    let ask = |args: &[&str]| cluster.plane.kubectl(args).unwrap_or_else(|error| format!("{error:#}"));
    format!(
        "{}\n{}",
        ask(&["-n", NAMESPACE, "get", "pods", "-o", "wide"]),
        ask(&["-n", NAMESPACE, "get", "events", "--sort-by=.lastTimestamp"]),
    )
}
