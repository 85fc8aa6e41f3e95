//! What running pods feel, and what new ones get, while something is away.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use trunkline_e2e::fixtures::{ipam, network, pool};
use trunkline_e2e::light::{Flood, LightCluster, LightOptions, RunningPod};
use trunkline_e2e::objects::{self, PodSpec};
use trunkline_e2e::suite::Suite;
use trunkline_e2e::wait;

static SUITE: Suite = Suite::new("outages", || LightOptions::nodes(2), setup);

fn setup(cluster: &LightCluster) -> Result<()> {
    let all = [
        pool("a4", "10.100.0.10", "10.100.0.250", "10.100.0.1", 24, 100),
        network("default", "net", &json!({"ipam": ipam(&["a4"])})),
    ];
    cluster.apply(&all.concat())
}

/// Whether one answer comes within `limit`.
async fn answers(from: &RunningPod, target: &str, limit: Duration) -> bool {
    let args = [
        "ping-df",
        "--interface",
        "eth1",
        "--target",
        target,
        "--size",
        "100",
        "--tries",
        "1",
        "--timeout-ms",
        "200",
    ];
    let look = async || Ok(from.probe(&args).is_ok_and(|said| said["answered"] == true).then_some(()));
    wait::until("an answer", limit, look).await.is_ok()
}

#[test]
fn running_pods_feel_nothing_while_api_server_and_controller_are_away() -> Result<()> {
    SUITE.test(async |cluster| {
        let one = cluster.run_pod(1, &PodSpec::with_networks("one", "net")).await?;
        let two = cluster.run_pod(2, &PodSpec::with_networks("two", "net")).await?;
        let leaver = cluster.run_pod(1, &PodSpec::with_networks("leaver", "net")).await?;
        let target = two.addresses(cluster.client(), "eth1").await?.remove(0);
        let flood = Flood::start(cluster.run(), &one, &target)?;
        cluster.controller(1).kill();
        cluster.plane().stop_apiserver();
        // A sandbox goes down all the same; its address is given back when somebody can be told.
        let name = leaver.name();
        tokio::task::spawn_blocking(move || leaver.tear_down()).await??;
        cluster.plane().start_apiserver()?;
        cluster.plane().wait_ready().await?;
        cluster.controller(1).start(cluster.plane())?;
        cluster.controller(1).wait_live().await?;
        objects::delete_pod(cluster.client(), "default", &name).await?;
        let count = flood.finish()?;
        assert_eq!(count["lost"], 0, "{count}");
        cluster.delete_pods(vec![one, two]).await
    })
}

#[test]
fn a_switch_that_restarts_without_an_agent_stays_black_until_the_agent_is_back() -> Result<()> {
    SUITE.test(async |cluster| {
        let one = cluster.run_pod(1, &PodSpec::with_networks("one", "net")).await?;
        let two = cluster.run_pod(1, &PodSpec::with_networks("two", "net")).await?;
        let target = two.addresses(cluster.client(), "eth1").await?.remove(0);
        assert!(answers(&one, &target, Duration::from_secs(5)).await);
        cluster.node(1).kill_agent();
        cluster.node(1).ovs().kill_switch();
        cluster.node(1).ovs().start_switch(cluster.node(1).netns())?;
        assert!(!answers(&one, &target, Duration::from_secs(2)).await, "a switch without flows forwards");
        cluster.node(1).start_agent(cluster.plane())?;
        assert!(answers(&one, &target, Duration::from_secs(10)).await, "the flows are not back");
        cluster.node(1).wait_agent_ready().await?;
        cluster.delete_pods(vec![one, two]).await
    })
}

#[test]
fn an_unplugged_uplink_leaves_the_nodes_own_pods_connected_and_new_ones_attached() -> Result<()> {
    SUITE.test(async |cluster| {
        let one = cluster.run_pod(1, &PodSpec::with_networks("one", "net")).await?;
        let far = cluster.run_pod(2, &PodSpec::with_networks("far", "net")).await?;
        cluster.node(1).set_cable(cluster.switch(), "up1", false)?;
        let two = cluster.run_pod(1, &PodSpec::with_networks("two", "net")).await?;
        let near = two.addresses(cluster.client(), "eth1").await?.remove(0);
        let beyond = far.addresses(cluster.client(), "eth1").await?.remove(0);
        assert!(answers(&one, &near, Duration::from_secs(5)).await);
        assert!(!answers(&one, &beyond, Duration::from_secs(1)).await);
        cluster.node(1).set_cable(cluster.switch(), "up1", true)?;
        assert!(answers(&one, &beyond, Duration::from_secs(10)).await, "the cable is back");
        cluster.delete_pods(vec![one, two, far]).await
    })
}
