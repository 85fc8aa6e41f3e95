//! Agents that restart and die, nodes that reboot and go: running pods notice nothing, and nothing leaks.

use std::time::Duration;

use anyhow::Result;
use futures::StreamExt as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use trunkline_e2e::fixtures::{ipam, network, pool};
use trunkline_e2e::light::{Flood, LightCluster, LightOptions};
use trunkline_e2e::objects::{self, PodSpec};
use trunkline_e2e::suite::Suite;
use trunkline_e2e::wait;

static SUITE: Suite = Suite::new("restart", || LightOptions::nodes(2), setup);

/// Pods of the burst, and how many of them are started at once.
const BURST: usize = 40;
/// How many of them a runtime starts at once.
const WORKERS: usize = 8;
/// How often the agent is killed in the burst.
const KILLS: usize = 10;

fn setup(cluster: &LightCluster) -> Result<()> {
    let all = [
        pool("a4", "10.100.0.10", "10.100.0.250", "10.100.0.1", 24, 100),
        pool("a6", "fd00:100::10", "fd00:100::ffff", "fd00:100::1", 64, 100),
        network("default", "net", &json!({"ipam": ipam(&["a4", "a6"])})),
        network("default", "l2", &json!({"vlan": 50})),
    ];
    cluster.apply(&all.concat())
}

#[test]
fn an_agents_restart_costs_no_packet_and_no_port() -> Result<()> {
    SUITE.test(async |cluster| {
        let (node, ovs) = (cluster.node(1), cluster.node(1).ovs());
        let one = cluster.run_pod(1, &PodSpec::with_networks("one", "net")).await?;
        let two = cluster.run_pod(2, &PodSpec::with_networks("two", "net")).await?;
        let target = two.addresses(cluster.client(), "eth1").await?.remove(0);
        let ofports = || ovs.vsctl(&["--columns=name,ofport", "--format=csv", "list", "Interface"]);
        let (before, addresses) = (sorted(&ofports()?), objects::allocations(cluster.client()).await?);
        let flood = Flood::start(cluster.run(), &one, &target)?;
        node.stop_agent();
        node.start_agent(cluster.plane())?;
        node.wait_agent_ready().await?;
        node.kill_agent();
        node.start_agent(cluster.plane())?;
        node.wait_agent_ready().await?;
        // One look of the flows' comparison, which must find nothing to mend.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let count = flood.finish()?;
        assert_eq!(count["lost"], 0, "{count}");
        assert_eq!(sorted(&ofports()?), before);
        assert_eq!(objects::allocations(cluster.client()).await?, addresses);
        cluster.delete_pods(vec![one, two]).await
    })
}

fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn a_burst_survives_ten_kills_of_the_agent_and_nothing_leaks() -> Result<()> {
    let seed =
        std::env::var("TRUNKLINE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random::<u64>);
    eprintln!("seed: TRUNKLINE_SEED={seed}");
    SUITE.test(async |cluster| {
        let mut random = StdRng::seed_from_u64(seed);
        let kills = async {
            for _ in 0..KILLS {
                tokio::time::sleep(Duration::from_millis(random.random_range(50..900))).await;
                cluster.node(1).kill_agent();
                cluster.node(1).start_agent(cluster.plane())?;
            }
            cluster.node(1).wait_agent_ready().await
        };
        let burst = futures::stream::iter(0..BURST)
            .map(async |number| {
                cluster
                    .run_pod_within(
                        1,
                        &PodSpec::with_networks(&format!("burst-{number}"), "net"),
                        Duration::from_secs(90),
                    )
                    .await
            })
            .buffer_unordered(WORKERS)
            .collect::<Vec<_>>();
        let (ready, pods) = futures::join!(kills, burst);
        ready?;
        let pods = pods.into_iter().collect::<Result<Vec<_>>>()?;
        let failures: usize = pods.iter().map(|pod| pod.failures.len()).sum();
        eprintln!("{BURST} pods attached, {failures} tries failed and were repeated");
        for pod in &pods {
            let link = pod.link("eth1")?;
            for address in pod.addresses(cluster.client(), "eth1").await? {
                assert!(link.to_string().contains(&address), "{}: {address} is not on {link}", pod.name());
            }
        }
        // What failed tries left is collected; then there is exactly what the pods have.
        wait::until("no more than the pods' ports", Duration::from_secs(30), async || {
            let ports = cluster.node(1).ovs().pod_ports()?.len();
            anyhow::ensure!(ports == BURST, "{ports} ports");
            let addresses = objects::allocations(cluster.client()).await?.len();
            anyhow::ensure!(addresses == 2 * BURST, "{addresses} addresses");
            Ok(Some(()))
        })
        .await?;
        let done = futures::stream::iter(pods).map(async |pod| cluster.delete_pod(pod).await);
        done.buffer_unordered(WORKERS).collect::<Vec<_>>().await.into_iter().collect()
    })
}

#[test]
fn after_a_reboot_pods_come_back_with_their_addresses_and_no_port_is_stale() -> Result<()> {
    SUITE.test(async |cluster| {
        let node = cluster.node(2).clone();
        let mut before = Vec::new();
        for name in ["r1", "r2", "r3"] {
            let pod = cluster.run_pod(2, &PodSpec::with_networks(name, "net,l2")).await?;
            let addresses = pod.addresses(cluster.client(), "eth1").await?;
            before.push((pod.crash(), addresses));
        }
        node.reboot(cluster.switch())?;
        node.start_agent(cluster.plane())?;
        node.wait_agent_ready().await?;
        let mut pods = Vec::new();
        for (object, addresses) in before {
            let pod = cluster.start_pod(&node, object, Duration::from_mins(1)).await?;
            assert_eq!(pod.addresses(cluster.client(), "eth1").await?, addresses, "{}", pod.name());
            pods.push(pod);
        }
        assert_eq!(node.ovs().pod_ports()?.len(), 6);
        let errors = node.ovs().vsctl(&["--columns=error", "--bare", "list", "Interface"])?;
        assert_eq!(errors.trim(), "", "an interface without its link");
        cluster.delete_pods(pods).await
    })
}

#[test]
fn a_node_deleted_from_the_api_gives_its_addresses_back() -> Result<()> {
    SUITE.test(async |cluster| {
        let node = cluster.node(2).clone();
        let pod = cluster.run_pod(2, &PodSpec::with_networks("stranded", "net")).await?;
        assert_eq!(objects::allocations(cluster.client()).await?.len(), 2);
        node.kill_agent();
        objects::delete_node(cluster.client(), "n2").await?;
        wait::until("the addresses are given back", Duration::from_secs(45), async || {
            Ok(objects::allocations(cluster.client()).await?.is_empty().then_some(()))
        })
        .await?;
        node.register_again(cluster.plane(), cluster.client()).await?;
        node.start_agent(cluster.plane())?;
        node.wait_agent_ready().await?;
        cluster.delete_pod(pod).await
    })
}
