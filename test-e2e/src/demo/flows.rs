//! The flows of the demo's pods: the table as a user sees it, equal addresses on two VLANs apart, counters against the
//! devices' own.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use super::pods::Interface;
use super::transfer::tcp;
use crate::cluster::Cluster;
use crate::{taps, wait};

/// An interval of the agents, a look of ours, and time for a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// Bytes of each of the two transfers.
const BYTES: u64 = 1_000_000;

/// What `target/demo.json` says of a flow.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Flow {
    src_pod: String,
    dst_pod: String,
    network: String,
    vlan: u64,
    interface: String,
    proto: String,
    bytes: u64,
    packets: u64,
}

/// What `target/demo.json` says of taps.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Taps {
    desired: usize,
    attached: usize,
}

/// Everything that was seen.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) flows: Vec<Flow>,
    pub(super) taps: Taps,
}

/// Two pairs of interfaces on two VLANs with the same two addresses.
fn twins(all: &[Interface]) -> Option<[(&Interface, &Interface); 2]> {
    let pairs = || all.iter().flat_map(|from| all.iter().map(move |to| (from, to)));
    let usable = |(from, to): &(&Interface, &Interface)| {
        from.pod != to.pod && from.network == to.network && !from.ips.is_empty() && !to.ips.is_empty()
    };
    pairs().filter(usable).find_map(|left| {
        let same = |right: &(&Interface, &Interface)| {
            right.0.vlan != left.0.vlan && right.0.ips[0] == left.0.ips[0] && right.1.ips[0] == left.1.ips[0]
        };
        pairs().filter(usable).find(same).map(|right| [left, right])
    })
}

/// Transfers on both VLANs, then what `trunkctl` shows of them.
pub(super) async fn show(cluster: &Cluster, all: &[Interface]) -> Result<Seen> {
    let twins = twins(all).context("no two VLANs have the same two addresses")?;
    for (from, to) in twins {
        tcp(cluster, from, to, BYTES).await?;
    }
    let rows = wait::until("both transfers are in the flow table, each on its VLAN", SOON, || async {
        let rows = list(cluster, &["flows", "--protocol", "tcp"])?;
        let found = twins.map(|(from, to)| twin_row(&rows, from, to));
        Ok(found.iter().all(Option::is_some).then_some(rows))
    })
    .await?;
    print!("\n{}", cluster.trunkctl(&["flows", "--protocol", "tcp", "--top", "12"])?);
    println!("\n{} to {}, on two VLANs, are two flows:", twins[0].0.ips[0], twins[0].1.ips[0]);
    for (from, to) in twins {
        let row = twin_row(&rows, from, to).context("a flow is gone")?;
        println!("  VLAN {}: {} to {}, {} bytes", row["vlan"], row["pod"], row["peer"], row["bytes"]);
    }
    counters_agree(cluster).await?;
    cluster.progress("flows name pods and networks, and every tap has counted what its device has");
    let listed = list(cluster, &["get", "taps"])?;
    let attached = listed.iter().filter(|tap| tap["state"] == "attached").count();
    ensure!(attached == listed.len(), "only {attached} of {} taps are attached: {listed:?}", listed.len());
    let flows = list(cluster, &["flows"])?.iter().filter_map(flow).collect();
    Ok(Seen { flows, taps: Taps { desired: listed.len(), attached } })
}

/// The sender's row of a transfer.
fn twin_row<'a>(rows: &'a [Value], from: &Interface, to: &Interface) -> Option<&'a Value> {
    rows.iter().find(|row| {
        row["direction"] == "sent"
            && row["pod"] == format!("default/{}", from.pod)
            && row["peer"] == format!("default/{}", to.pod)
            && row["vlan"] == from.vlan
            && row["network"] == from.network.as_str()
            && row["source"] == from.ips[0].to_string()
            && row["destination"] == to.ips[0].to_string()
            && row["bytes"].as_u64() > Some(BYTES)
    })
}

fn flow(row: &Value) -> Option<Flow> {
    let text = |key: &str| row[key].as_str().map(str::to_owned);
    let (pod, peer) = (text("pod")?, text("peer")?);
    let (src_pod, dst_pod) = if row["direction"] == "sent" { (pod, peer) } else { (peer, pod) };
    Some(Flow {
        src_pod,
        dst_pod,
        network: text("network")?,
        vlan: row["vlan"].as_u64()?,
        interface: text("interface")?,
        proto: text("protocol")?,
        bytes: row["bytes"].as_u64()?,
        packets: row["packets"].as_u64()?,
    })
}

fn list(cluster: &Cluster, args: &[&str]) -> Result<Vec<Value>> {
    let text = cluster.trunkctl(&[args, &["-o", "json"]].concat())?;
    serde_json::from_str(&text).context("reading trunkctl's list")
}

/// Waits until every pod's tap has counted exactly what the kernel says of its device.
async fn counters_agree(cluster: &Cluster) -> Result<()> {
    wait::until("taps and devices agree", SOON, || async {
        for tap in list(cluster, &["get", "taps"])?.iter().filter(|tap| tap["pod"].is_string()) {
            let node = cluster.node(tap["node"].as_str().context("no node")?)?;
            taps::agrees(tap, node.netns())?;
        }
        Ok(Some(()))
    })
    .await
}
