//! `tap-churn`: what the agent takes up after ten thousand pods have come and gone, against before.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::runtime::Runtime;

use super::pairs::Pairs;
use super::report::Case;
use super::stats::{Goal, float};
use super::{Done, Options};
use crate::fixtures::{ipam, network, pool};
use crate::light::{LightCluster, LightOptions, churn};
use crate::tools;

const CHURN: Case = Case { bench: "tap-churn/10k", unit: "KiB", goal: Goal::AtMost(1.25) };
/// All lines of this group.
pub(super) const CASES: [Case; 1] = [CHURN];

const PODS: usize = 10_000;
/// After so many, everything is warm.
const WARM: usize = 200;

/// Measures it, once whatever the number of pairs: it takes a quarter of an hour.
pub(super) fn run(_options: &Options, done: &mut Done<'_>) -> Result<()> {
    tools::prepare(tools::LIGHT)?;
    let tokio = Runtime::new().context("making a runtime")?;
    let mut options = LightOptions::nodes(1);
    for node in &mut options.nodes {
        "flows: {intervalSeconds: 1}\n".clone_into(&mut node.more);
    }
    let mut pairs = Pairs::begin(CHURN, 1);
    let (before, after) = tokio.block_on(async {
        let cluster = LightCluster::start("bench-churn", options).await?;
        let objects = [
            pool("churn", "10.100.0.10", "10.100.15.250", "10.100.31.254", 19, 100),
            network("default", "churn", &json!({"ipam": ipam(&["churn"])})),
        ];
        cluster.apply(&objects.concat())?;
        let node = cluster.node(1).clone();
        churn::pods(&cluster, "churn", 0, WARM).await?;
        churn::settled(&node)?;
        let before = node.agent_usage()?;
        churn::pods(&cluster, "churn", WARM, PODS).await?;
        churn::settled(&node)?;
        let metrics = node.agent_http("/metrics")?;
        for line in ["flow_epochs_inexact_total 0", "flow_epochs_lost_total 0", "taps_attached 1"] {
            ensure!(metrics.contains(&format!("trunkline_agent_{line}")), "not so: {line}");
        }
        Ok::<_, anyhow::Error>((before, node.agent_usage()?))
    })?;
    let kib = |kib: u64| usize::try_from(kib).map(float).context("memory");
    pairs.push(kib(after.rss_kib)?, kib(before.rss_kib)?);
    done(pairs.line(&format!(
        "resident memory of the agent after {PODS} pods with a tapped interface came and went, against before ({WARM} \
         to warm up); descriptors {} before and {} after, threads {} and {}; one tap pinned and attached, the uplink's; \
         no epoch inexact, none lost",
        before.descriptors, after.descriptors, before.threads, after.threads,
    )))
}
