//! The manifests of Antrea's guide to secondary networks, byte for byte.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use trunkline_e2e::light::{LightCluster, LightOptions, RunningPod};
use trunkline_e2e::suite::Suite;
use trunkline_e2e::{objects, paths};

static SUITE: Suite = Suite::new("antrea", || LightOptions::nodes(1), setup);

fn example(name: &str) -> Result<String> {
    let path = paths::workspace().join("manifests/examples").join(name);
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

fn setup(cluster: &LightCluster) -> Result<()> {
    for name in ["demo/pools.yaml", "demo/networks.yaml", "antrea/network.yaml"] {
        cluster.apply(&example(name)?)?;
    }
    Ok(())
}

async fn run(cluster: &LightCluster, manifest: &str) -> Result<RunningPod> {
    cluster.apply(&example(manifest)?)?;
    let name = "sample-pod-secondary-network-vlan";
    let object = objects::bind_pod(cluster.client(), "default", name, "n1").await?;
    cluster.start_pod(cluster.node(1), object, Duration::from_secs(30)).await
}

#[test]
fn the_guides_pod_gets_both_its_interfaces() -> Result<()> {
    SUITE.test(async |cluster| {
        let pod = run(cluster, "antrea/pod.yaml").await?;
        assert_eq!(pod.sandbox.netns.links()?, ["eth0", "eth1", "eth200", "lo"]);
        assert_eq!(pod.addresses(cluster.client(), "eth1").await?.len(), 2);
        assert_eq!(pod.addresses(cluster.client(), "eth200").await?.len(), 1);
        cluster.delete_pod(pod).await
    })
}

#[test]
fn the_guides_short_form_gets_the_named_interface() -> Result<()> {
    SUITE.test(async |cluster| {
        let pod = run(cluster, "antrea/pod-short-form.yaml").await?;
        assert_eq!(pod.sandbox.netns.links()?, ["eth0", "eth200", "lo"]);
        cluster.delete_pod(pod).await
    })
}
