//! Pods that come and go, and what a node's agent must have let go of afterwards.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::StreamExt as _;

use super::{LightCluster, LightNode, Usage};
use crate::objects::PodSpec;
use crate::wait;

/// How many come and go at once.
const AT_ONCE: usize = 8;
/// Folders of pins stay until the last flows of their taps have been read.
const SETTLED: Duration = Duration::from_secs(60);

/// So many pods of a network come and go on the first node; their numbers begin with `first`.
pub async fn pods(cluster: &LightCluster, network: &str, first: usize, count: usize) -> Result<()> {
    let all = futures::stream::iter(first..first + count).map(async |number| {
        let pod = cluster.run_pod(1, &PodSpec::with_networks(&format!("churn-{number}"), network)).await?;
        cluster.delete_pod(pod).await
    });
    all.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await.into_iter().collect()
}

/// Waits until no pod has a tap and nothing is pinned but the tap of the one uplink.
pub fn settled(node: &LightNode) -> Result<()> {
    wait::until_blocking("the taps of gone pods are gone", SETTLED, || {
        let taps = node.trunkctl(&["get", "taps"])?;
        ensure!(taps.iter().all(|tap| tap["pod"].is_null()), "{} taps", taps.len());
        let sets = fs::read_dir(node.bpffs().join("trunkline"))?;
        let pins = sets.filter_map(|set| fs::read_dir(set.ok()?.path().join("taps")).ok()).flatten().count();
        ensure!(pins <= 1, "{pins} folders of pins");
        Ok(Some(()))
    })
}

/// Waits until an agent takes up no more than before. Connections to the API server come and go by themselves.
pub fn flat(node: &LightNode, before: Usage) -> Result<Usage> {
    wait::until_blocking("what the agent takes up is flat", SETTLED, || {
        let after = node.agent_usage()?;
        ensure!(after.descriptors <= before.descriptors + 4, "{before:?}, then {after:?}");
        ensure!(after.threads <= before.threads + 2, "{before:?}, then {after:?}");
        ensure!(after.rss_kib <= before.rss_kib + before.rss_kib / 4, "{before:?}, then {after:?}");
        Ok(Some(after))
    })
}
