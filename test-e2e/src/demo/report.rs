//! What the demo tells: tables for people, `target/demo.json` for programs, and the verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::{Value, json};

use super::flows::Seen;
use super::leaks::Snapshot;
use super::matrix::Family;
use super::pods::Interface;
use super::probing::Outcome;
use super::transfer::Transfer;
use crate::cluster::Cluster;
use crate::paths;

/// How long the halves took.
#[derive(Debug, Serialize)]
pub(super) struct Seconds {
    /// From the first process to the bridge on both nodes.
    pub(super) setup: f64,
    /// From the first pod to the last one's end.
    pub(super) run: f64,
}

/// Prints what the pods got.
pub(super) fn interfaces(all: &[Interface]) {
    let head = ["POD", "NODE", "INTERFACE", "NETWORK", "VLAN", "MAC", "ADDRESSES", "ATTACH ms"];
    let mut rows = vec![head.map(str::to_owned)];
    for i in all {
        let ips = i.ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let ips = if ips.is_empty() { "(layer 2 only)".to_owned() } else { ips };
        let (vlan, ms) = (i.vlan.to_string(), i.attach_ms.to_string());
        rows.push([
            i.pod.clone(),
            i.node.clone(),
            i.interface.clone(),
            i.network.clone(),
            vlan,
            i.mac.clone(),
            ips,
            ms,
        ]);
    }
    table(&rows);
}

/// Prints who reaches whom: `=` as it must, `.` silent as it must, `X` wrong, blank where nothing is asked.
pub(super) fn matrix(all: &[Interface], outcomes: &[Outcome]) {
    for family in [Family::Ipv4, Family::Ipv6] {
        let name = if family == Family::Ipv4 { "IPv4" } else { "IPv6" };
        println!("\n{name}: = reached, . not reached, both as they must; X wrong (rows ask columns)");
        let label = |i: &Interface| format!("{}/{}", i.pod, i.interface);
        let mut rows =
            vec![std::iter::once(String::new()).chain((1..=all.len()).map(|n| n.to_string())).collect()];
        for (from, source) in all.iter().enumerate() {
            let mut row = vec![format!("{:2} {} vlan {}", from + 1, label(source), source.vlan)];
            for to in 0..all.len() {
                let of = |o: &&Outcome| o.cell.from == from && o.cell.to == to && o.cell.family == family;
                row.push(outcomes.iter().find(of).map_or("", sign).to_owned());
            }
            rows.push(row);
        }
        table::<Vec<String>>(&rows);
    }
    println!();
}

fn sign(outcome: &Outcome) -> &'static str {
    match (outcome.is_right(), outcome.reachable) {
        (false, _) => "X",
        (true, true) => "=",
        (true, false) => ".",
    }
}

fn table<R: AsRef<[String]>>(rows: &[R]) {
    let columns = rows.iter().map(|row| row.as_ref().len()).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|r| r.as_ref().get(column)).map(String::len).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let cells = row.as_ref().iter().zip(&widths).map(|(text, width)| format!("{text:width$}"));
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

/// Writes `target/demo.json` and returns what is not as it must be.
pub(super) fn write(
    cluster: &Cluster,
    all: &[Interface],
    outcomes: &[Outcome],
    transfer: &Transfer,
    seen: &Seen,
    leaks: &Snapshot,
    seconds: &Seconds,
) -> Result<Vec<String>> {
    let report = json!({
        "pods": all,
        "reachability": outcomes.iter().map(|outcome| cell(all, outcome)).collect::<Vec<_>>(),
        "tcp_mbit_s": transfer.mbit_s,
        "flows": seen.flows,
        "taps": seen.taps,
        "agents": agents(cluster)?,
        "runtimes": runtimes(cluster)?,
        "leaks": {
            "ports": leaks.ports.len(),
            "addresses": leaks.addresses.len(),
            "links": leaks.links.len(),
            "namespaces": leaks.namespaces.len(),
        },
        "seconds": seconds,
    });
    let path = paths::output().join("demo.json");
    let text = serde_json::to_vec_pretty(&report).context("writing the report")?;
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(verdict(all, outcomes, leaks))
}

fn cell(all: &[Interface], outcome: &Outcome) -> Value {
    let (from, to) = (&all[outcome.cell.from], &all[outcome.cell.to]);
    json!({
        "from": from.pod,
        "from_interface": from.interface,
        "from_network": from.network,
        "from_ip": outcome.cell.source,
        "to": to.pod,
        "to_interface": to.interface,
        "to_network": to.network,
        "to_ip": outcome.cell.target,
        "family": outcome.cell.family,
        "same_network": outcome.cell.same_network,
        "reachable": outcome.reachable,
        "answered_by": outcome.answered_by,
        "control": outcome.control,
        "static_neighbour": outcome.cell.static_neighbour,
        "address_also_held_on": also_held_on(all, outcome),
    })
}

/// Other networks on which somebody has the very address that was asked.
fn also_held_on<'a>(all: &'a [Interface], outcome: &Outcome) -> BTreeSet<&'a str> {
    let network = &all[outcome.cell.to].network;
    let others = all.iter().filter(|i| i.network != *network && i.ips.contains(&outcome.cell.target));
    others.map(|i| i.network.as_str()).collect()
}

fn verdict(all: &[Interface], outcomes: &[Outcome], leaks: &Snapshot) -> Vec<String> {
    let mut wrong = Vec::new();
    for outcome in outcomes.iter().filter(|outcome| !outcome.is_right()) {
        let (from, to) = (&all[outcome.cell.from], &all[outcome.cell.to]);
        let what = match (outcome.cell.same_network, outcome.reachable) {
            (true, _) => "does not reach",
            (false, true) => "reaches, across networks,",
            (false, false) => "has no control for its silence from",
        };
        wrong.push(format!(
            "{}/{} {what} {}/{} at {}",
            from.pod, from.interface, to.pod, to.interface, outcome.cell.target
        ));
    }
    let doubled = |o: &&Outcome| o.cell.same_network && !also_held_on(all, o).is_empty();
    if outcomes.iter().filter(doubled).count() == 0 {
        wrong.push("no address is held on two networks, so nothing shows that they stay apart".to_owned());
    }
    if !outcomes.iter().any(|outcome| outcome.cell.static_neighbour) {
        wrong.push("no cross pair could be given a static neighbour entry".to_owned());
    }
    for (what, names) in [
        ("ports", &leaks.ports),
        ("addresses", &leaks.addresses),
        ("links", &leaks.links),
        ("namespaces", &leaks.namespaces),
    ] {
        if !names.is_empty() {
            wrong.push(format!(
                "{what} left behind: {}",
                names.iter().cloned().collect::<Vec<_>>().join(", ")
            ));
        }
    }
    wrong
}

fn agents(cluster: &Cluster) -> Result<Vec<Value>> {
    let selector = "app.kubernetes.io/name=trunkline-agent";
    let text =
        cluster.plane.kubectl(&["-n", "trunkline-system", "get", "pods", "-l", selector, "-o", "json"])?;
    let list: Value = serde_json::from_str(&text).context("reading kubectl's answer")?;
    let items = list["items"].as_array().into_iter().flatten();
    let agent = |pod: &Value| {
        json!({
            "pod": pod["metadata"]["name"],
            "node": pod["spec"]["nodeName"],
            "image_id": pod["status"]["containerStatuses"][0]["imageID"],
        })
    };
    Ok(items.map(agent).collect())
}

fn runtimes(cluster: &Cluster) -> Result<BTreeMap<String, Value>> {
    let text = cluster.plane.kubectl(&["get", "nodes", "-o", "json"])?;
    let list: Value = serde_json::from_str(&text).context("reading kubectl's answer")?;
    let items = list["items"].as_array().into_iter().flatten();
    let pair = |node: &Value| {
        let name = node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        (name, node["status"]["nodeInfo"]["containerRuntimeVersion"].clone())
    };
    Ok(items.map(pair).collect())
}
