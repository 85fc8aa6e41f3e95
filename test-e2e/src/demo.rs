//! `trunkline-e2e demo`: a real two-node cluster, Trunkline installed by kubectl, pods on VLANs, and the proof of who
//! reaches whom. Item by item it does what a reader would do by hand, and fails where the outcome is not the promised.
//!
//! Owns the order of the steps and `target/demo.json`. Must never apply anything that is not in `manifests/`.

mod flows;
mod keep;
pub mod leaks;
pub mod matrix;
pub mod pods;
mod probing;
mod report;
mod transfer;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

pub use keep::down;
pub use leaks::Snapshot;
pub use matrix::{Cell, Family};
pub use pods::{Interface, PodClient};
pub use probing::{Outcome, probe_all};
pub use transfer::{Transfer, tcp};

use crate::cluster::{Cluster, Install};
use crate::{paths, wait};

/// What the demo applies, in this order, from `manifests/examples`.
pub const EXAMPLES: [&str; 4] =
    ["demo/pools.yaml", "antrea/network.yaml", "demo/networks.yaml", "demo/pods.yaml"];
/// The pods of `demo/pods.yaml`.
pub const PODS: [&str; 8] = ["red-a", "red-b", "red-c", "blue-a", "blue-b", "wire-a", "wire-b", "multi"];
/// The bridge of the overlay `two-node-demo`.
pub const BRIDGE: &str = "br-secondary";
/// Where Trunkline's own Open vSwitch has its sockets.
pub const OVS_RUN_DIR: &str = "/run/trunkline/openvswitch";
/// How long the pods may take until they run.
const PODS_READY: Duration = Duration::from_mins(2);
/// How long the bridge may take once the overlay is applied: the ConfigMap must reach the agents.
const BRIDGE_READY: Duration = Duration::from_secs(100);

/// The whole demo. With `keep` the cluster stays, and the last lines say how to go on.
pub async fn run(keep: bool) -> Result<()> {
    keep::check(keep)?;
    let cluster = Cluster::start("demo").await?;
    install(&cluster).await?;
    let setup = cluster.started().elapsed();
    let begin = Instant::now();
    let before = Snapshot::take(&cluster)?;
    let interfaces = start_pods(&cluster).await?;
    report::interfaces(&interfaces);
    let outcomes = probe_all(&cluster, &interfaces).await?;
    report::matrix(&interfaces, &outcomes);
    let transfer = transfer_between_nodes(&cluster, &interfaces).await?;
    let seen = flows::show(&cluster, &interfaces).await?;
    let leaks = delete_pods(&cluster, &before).await?;
    let seconds = report::Seconds { setup: setup.as_secs_f64(), run: begin.elapsed().as_secs_f64() };
    let verdict = report::write(&cluster, &interfaces, &outcomes, &transfer, &seen, &leaks, &seconds)?;
    cluster.progress(&format!("wrote {}", paths::output().join("demo.json").display()));
    if keep {
        keep::keep(&cluster)?;
    }
    if !verdict.is_empty() {
        bail!("{}", verdict.join("; "));
    }
    cluster.progress("every cell is as it should be, and nothing is left behind");
    Ok(())
}

/// Base first, Ready with no bridge, then the overlay that adds one.
pub async fn install(cluster: &Cluster) -> Result<()> {
    let install = Install::into_cluster(cluster);
    install.shared_crds()?;
    install.base()?;
    cluster.progress("applied manifests/base");
    install.wait_ready().await?;
    for node in &cluster.nodes {
        let bridges = node.ovs_vsctl(OVS_RUN_DIR, &["list-br"])?;
        if !bridges.trim().is_empty() {
            bail!("{} has bridges {} before any is configured", node.name(), bridges.trim());
        }
    }
    cluster.progress("agents, Open vSwitch and controllers are Ready, and no node has a bridge");
    install.overlay("two-node-demo")?;
    cluster.progress(&format!("applied manifests/overlays/two-node-demo, which adds {BRIDGE} over eth1"));
    bridge_ready(cluster).await?;
    cluster.progress(&format!("{BRIDGE} is on both nodes"));
    Ok(())
}

/// Waits until every node has the bridge with its uplink.
pub async fn bridge_ready(cluster: &Cluster) -> Result<()> {
    wait::until(&format!("{BRIDGE} with eth1 is on both nodes"), BRIDGE_READY, || async {
        for node in &cluster.nodes {
            let ports = node.ovs_vsctl(OVS_RUN_DIR, &["list-ports", BRIDGE])?;
            if !ports.lines().any(|port| port == "eth1") {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

/// Applies a file of `manifests/examples` as it is.
pub fn apply_example(cluster: &Cluster, file: &str) -> Result<()> {
    let path = paths::workspace().join("manifests/examples").join(file).display().to_string();
    cluster.plane.kubectl(&["apply", "-f", &path]).map(drop).with_context(|| format!("applying {file}"))
}

/// Applies the examples, waits for the pods and reads what they got.
pub async fn start_pods(cluster: &Cluster) -> Result<Vec<Interface>> {
    for file in EXAMPLES {
        apply_example(cluster, file)?;
        cluster.progress(&format!("applied manifests/examples/{file}"));
    }
    pods::wait_running(cluster, &PODS, PODS_READY).await?;
    let interfaces = pods::interfaces(cluster, &PODS)?;
    cluster.progress(&format!("{} pods run with {} secondary interfaces", PODS.len(), interfaces.len()));
    Ok(interfaces)
}

/// A hashed transfer between the two pods `red`, which are on different nodes.
async fn transfer_between_nodes(cluster: &Cluster, interfaces: &[Interface]) -> Result<Transfer> {
    let find = |pod: &str| {
        let found = interfaces.iter().find(|i| i.pod == pod);
        found.with_context(|| format!("{pod} has no interface"))
    };
    let transfer = tcp(cluster, find("red-a")?, find("red-b")?, 10_000_000).await?;
    cluster.progress(&format!(
        "TCP {} bytes from red-a to red-b: {:.0} Mbit/s, SHA-256 equal at both ends ({}…)",
        transfer.bytes,
        transfer.mbit_s,
        &transfer.sha256[..12]
    ));
    Ok(transfer)
}

/// Deletes the pods and waits until what they had is given back.
async fn delete_pods(cluster: &Cluster, before: &Snapshot) -> Result<Snapshot> {
    let mut args = vec!["delete", "pod", "--wait=true", "--timeout=180s"];
    args.extend(PODS);
    cluster.plane.kubectl(&args)?;
    cluster.progress("deleted the pods");
    let left = before.wait_until_back(cluster).await?;
    if left.is_empty() {
        cluster.progress("every port, address, link and namespace is back");
    }
    Ok(left)
}
