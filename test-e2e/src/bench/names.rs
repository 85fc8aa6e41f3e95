//! `flow-names`: what it costs an agent to know who the addresses of 100,000 pods are.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use tokio::runtime::Runtime;
use trunkline_api::{AllocationOwner, IPAllocation, IPAllocationSpec, allocation_name};

use super::pairs::Pairs;
use super::report::Case;
use super::stats::{Goal, float};
use super::{Done, Options};
use crate::fixtures::{ipam, network, pool};
use crate::light::{LightCluster, LightNode, LightOptions};
use crate::objects::PodSpec;
use crate::{tools, wait};

const NAMES: Case = Case { bench: "flow-names/100k", unit: "KiB", goal: Goal::AtMost(0.25) };
/// All lines of this group.
pub(super) const CASES: [Case; 1] = [NAMES];

/// Addresses of the pool that the first node's pod uses, and of the one that the second's does.
const FEW: u32 = 1_000;
const MANY: u32 = 99_000;
const AT_ONCE: usize = 48;
const LOADED: Duration = Duration::from_secs(120);

/// Measures it, once whatever the number of pairs: making the objects takes minutes.
pub(super) fn run(_options: &Options, done: &mut Done<'_>) -> Result<()> {
    tools::prepare(tools::LIGHT)?;
    let tokio = Runtime::new().context("making a runtime")?;
    let mut pairs = Pairs::begin(NAMES, 1);
    let [few, many] = tokio.block_on(measure())?;
    pairs.push(few.kib, many.kib);
    done(pairs.line(&format!(
        "growth of an agent's resident memory by the names of peers: its pod's pool has {FEW} of 100,000 addresses, \
         against {MANY} of them; {:.1} and {:.1} s from the agent's start until all are known",
        few.seconds, many.seconds,
    )))
}

struct Cost {
    kib: f64,
    seconds: f64,
}

async fn measure() -> Result<[Cost; 2]> {
    let cluster = LightCluster::start("bench-names", LightOptions::nodes(2)).await?;
    let objects = [
        pool("few", "10.100.0.10", "10.100.15.250", "10.100.31.254", 19, 100),
        pool("many", "10.128.0.10", "10.131.255.250", "10.131.255.254", 14, 200),
        network("default", "few", &json!({"ipam": ipam(&["few"])})),
        network("default", "many", &json!({"ipam": ipam(&["many"])})),
    ];
    cluster.apply(&objects.concat())?;
    let pods = [
        cluster.run_pod(1, &PodSpec::with_networks("one", "few")).await?,
        cluster.run_pod(2, &PodSpec::with_networks("two", "many")).await?,
    ];
    // It would collect what follows: there are no such pods.
    cluster.controller(1).stop();
    let mut before = Vec::new();
    for node in cluster.nodes() {
        // As it stands after a start with next to no name, like the ones to come.
        start(&cluster, node, 1).await?;
        before.push(node.agent_usage()?.rss_kib);
        node.stop_agent();
    }
    create(&cluster, "few", [10, 100, 0, 20], FEW).await?;
    create(&cluster, "many", [10, 128, 0, 20], MANY).await?;
    let mut costs = Vec::new();
    for ((node, before), count) in cluster.nodes().iter().zip(before).zip([FEW, MANY]) {
        let seconds = start(&cluster, node, count).await?;
        let grown = usize::try_from(node.agent_usage()?.rss_kib.saturating_sub(before)).context("memory")?;
        costs.push(Cost { kib: float(grown.max(1)), seconds });
    }
    drop(pods);
    costs.try_into().map_err(|_| anyhow::anyhow!("there are two nodes"))
}

/// Starts a node's agent and waits until it knows so many names; returns how many seconds that took.
async fn start(cluster: &LightCluster, node: &LightNode, names: u32) -> Result<f64> {
    node.stop_agent();
    let begin = Instant::now();
    node.start_agent(cluster.plane())?;
    node.wait_agent_ready().await?;
    wait::until("the agent knows all names", LOADED, || async {
        let metrics = node.agent_http("/metrics")?;
        let known = metrics.lines().find_map(|line| line.strip_prefix("trunkline_agent_flow_names "));
        let known: u32 = known.context("no count of names")?.parse().context("reading a count of names")?;
        ensure!(known >= names, "{known} of {names}");
        Ok(Some(()))
    })
    .await?;
    Ok(begin.elapsed().as_secs_f64())
}

/// Claims so many addresses from `first` on for pods of a node that is not there.
async fn create(cluster: &LightCluster, pool: &str, first: [u8; 4], count: u32) -> Result<()> {
    let api: Api<IPAllocation> = Api::all(cluster.client().clone());
    let first = u32::from_be_bytes(first);
    let create = |number: u32| {
        let address = std::net::Ipv4Addr::from(first + number).into();
        let spec = IPAllocationSpec {
            pool: pool.to_owned(),
            address,
            node: "elsewhere".to_owned(),
            owner: AllocationOwner {
                pod_namespace: "default".to_owned(),
                pod_name: format!("worker-{number:06}"),
                pod_uid: format!("00000000-0000-4000-8000-{number:012x}"),
                sandbox: format!("{number:064x}"),
                interface: "eth1".to_owned(),
                nad: format!("default/{pool}"),
            },
        };
        let (api, object) = (api.clone(), IPAllocation::new(&allocation_name(pool, address), spec));
        async move { api.create(&PostParams::default(), &object).await.map(drop) }
    };
    let all = futures::stream::iter((0..count).map(create)).buffer_unordered(AT_ONCE);
    all.try_collect::<()>().await.context("claiming addresses")
}
