//! A real Prometheus scrapes the agents of two nodes; a query finds the bytes of a transfer, as the kernel counted them.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use trunkline_e2e::light::{LightCluster, LightNode, http};
use trunkline_e2e::objects::PodSpec;
use trunkline_e2e::process::Process;
use trunkline_e2e::{debs, wait};

use super::{SOON, SUITE, counters_agree, tap, transfer};

/// In the first node's namespace.
const PORT: u16 = 19_090;
/// Where agents show their metrics.
const AGENTS: u16 = 10_351;

/// Starts Prometheus in a node's namespace, from which every node's agent can be reached.
fn start(cluster: &LightCluster, node: &LightNode) -> Result<Process> {
    let folder = cluster.run().data("prometheus")?;
    let config = folder.join("prometheus.yml");
    let targets = [1, 2].map(|number| format!("\"{}:{AGENTS}\"", cluster.node(number).address()));
    let text = format!(
        "global: {{scrape_interval: 1s}}\n\
         scrape_configs:\n- job_name: trunkline\n  static_configs:\n  - targets: [{}]\n",
        targets.join(", ")
    );
    fs::write(&config, text).context("writing Prometheus's configuration")?;
    let mut command = debs::prometheus()?.command_in(node.netns(), "usr/bin/prometheus");
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{PORT}"));
    let prometheus = Process::spawn(cluster.run(), "prometheus", command)?;
    wait::until_blocking("Prometheus is ready", SOON, || {
        prometheus.check()?;
        http::get(node.netns().path(), PORT, "/-/ready").map(Some)
    })?;
    Ok(prometheus)
}

/// The value of a query that has one, over Prometheus's HTTP API.
fn ask(node: &LightNode, query: &str) -> Result<u64> {
    let escaped: Vec<String> = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let answer = http::get(node.netns().path(), PORT, &format!("/api/v1/query?query={}", escaped.concat()))?;
    let answer: Value = serde_json::from_str(&answer).with_context(|| format!("reading {answer}"))?;
    let [sample] = &answer["data"]["result"].as_array().context("no result")?[..] else {
        anyhow::bail!("not one value: {answer}")
    };
    sample["value"][1]
        .as_str()
        .and_then(|text| text.parse().ok())
        .with_context(|| format!("no count: {answer}"))
}

#[test]
fn prometheus_finds_a_transfers_bytes_by_pod_and_network() -> Result<()> {
    SUITE.test(async |cluster| {
        let node = cluster.node(1).clone();
        let one = cluster.run_pod(1, &PodSpec::with_networks("one", "net-a")).await?;
        let two = cluster.run_pod(2, &PodSpec::with_networks("two", "net-a")).await?;
        let _prometheus = start(cluster, &node)?;
        wait::until_blocking("both agents are scraped", SOON, || {
            Ok((ask(&node, "sum(up{job=\"trunkline\"})")? == 2).then_some(()))
        })?;
        let target = two.addresses(cluster.client(), "eth1").await?.remove(0);
        let sent = transfer(cluster, &one, &two, &target)?;
        let bytes = |pod: &str, direction: &str| {
            let labels = format!(
                "namespace=\"default\",pod=\"{pod}\",interface=\"eth1\",network=\"default/net-a\",vlan=\"100\",\
                 direction=\"{direction}\""
            );
            ask(&node, &format!("sum(trunkline_agent_tap_skb_bytes_total{{{labels}}})"))
        };
        let counted = wait::until_blocking("PromQL has what the kernel counted", SOON, || {
            let found = [bytes("one", "sent")?, bytes("two", "received")?];
            counters_agree(&two)?;
            let received = tap(&two)?["receivedBytes"].as_u64().context("no count")?;
            let device = [counters_agree(&one)?, received];
            ensure!(found == device, "Prometheus has {found:?}, the devices {device:?}");
            Ok(Some(found))
        })?;
        // Headers, neighbours' chatter and what TCP sends again come on top of what the probe sent.
        assert!(counted.iter().all(|bytes| (sent..2 * sent).contains(bytes)), "{sent}: {counted:?}");
        eprintln!("{sent} bytes of payload; PromQL: {} sent, {} received", counted[0], counted[1]);
        cluster.delete_pods(vec![one, two]).await
    })
}
