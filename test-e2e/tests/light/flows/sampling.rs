//! One network is sampled and another is not: what is exact stays exact, and what is estimated says so.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use trunkline_e2e::light::RunningPod;
use trunkline_e2e::light::node::state_dir;
use trunkline_e2e::objects::PodSpec;
use trunkline_e2e::wait;

use super::{SOON, SUITE, counters_agree, flows, tap};

const FRAMES: u64 = 20_000;
/// The estimate's standard deviation is 424 frames: this is more than ten of them.
const WITHIN: std::ops::RangeInclusive<u64> = FRAMES * 3 / 4..=FRAMES * 5 / 4;
/// Where frames go; nobody has these addresses.
const TRIED: &str = "02:aa:00:00:00:01";
const MEASURED: &str = "02:aa:00:00:00:02";

fn inject(pod: &RunningPod, to: &str, count: u64) -> Result<()> {
    let number = count.to_string();
    let what = ["inject", "--interface", "eth1", "--mark", "sampled", "--interval-us", "50"];
    let said = pod.probe(&[&what[..], &["--to", to, "--count", &number]].concat())?;
    ensure!(said["sent"] == count, "{said}");
    Ok(())
}

/// The flow of frames to this address.
fn flow(pod: &RunningPod, to: &str) -> Result<Option<Value>> {
    let flows = flows(pod, &["--direction", "sent"])?;
    Ok(flows.into_iter().find(|flow| flow["destination"] == to))
}

#[test]
fn a_sampled_networks_flows_are_flagged_estimates_and_everything_else_stays_exact() -> Result<()> {
    SUITE.test(async |cluster| {
        let sampled = cluster.run_pod(1, &PodSpec::with_networks("sampled", "net-s")).await?;
        let exact = cluster.run_pod(1, &PodSpec::with_networks("exact", "net-a")).await?;
        wait::until_blocking("frames are sampled", SOON, || {
            inject(&sampled, TRIED, 100)?;
            let estimated = flow(&sampled, TRIED)?.is_some_and(|flow| flow["estimated"] == true);
            Ok((estimated && tap(&sampled)?["oneIn"] == 10).then_some(()))
        })?;
        assert_eq!(tap(&exact)?["oneIn"], 1);
        for pod in [&sampled, &exact] {
            inject(pod, MEASURED, FRAMES)?;
            // Flows are taken in together with these counters, which are exact on both.
            counters_agree(pod)?;
        }
        let of = |pod: &RunningPod| flow(pod, MEASURED)?.context("there is no such flow");
        let (estimate, count) = (of(&sampled)?, of(&exact)?);
        println!("{} of {FRAMES} packets by 1 in 10", estimate["packets"]);
        assert!(estimate["packets"].as_u64().is_some_and(|packets| WITHIN.contains(&packets)), "{estimate}");
        assert_eq!((&estimate["estimated"], &estimate["oneIn"]), (&json!(true), &json!(10)));
        assert_eq!((&count["packets"], &count["estimated"]), (&json!(FRAMES), &json!(false)), "{count}");
        assert_eq!(count["oneIn"], 1);
        records_say_so(cluster.run(), &sampled)?;
        let metrics = cluster.node(1).agent_http("/metrics")?;
        for (network, estimated) in [("net-s", true), ("net-a", false)] {
            let labels = [format!("network=\"default/{network}\""), format!("estimated=\"{estimated}\"")];
            let counted = |line: &str| {
                line.starts_with("trunkline_agent_flow_packets_total{")
                    && labels.iter().all(|label| line.contains(label))
            };
            assert!(metrics.lines().any(counted), "{labels:?}: {metrics}");
        }
        assert!(metrics.contains("trunkline_agent_flow_epochs_inexact_total 0"), "{metrics}");
        cluster.delete_pods(vec![sampled, exact]).await
    })
}

/// Waits until a record of the flow was written, and looks at what it says.
fn records_say_so(run: &trunkline_e2e::run::Run, pod: &RunningPod) -> Result<()> {
    let file = state_dir(run, pod.node.name()).join("flows.jsonl");
    wait::until_blocking("the flow is recorded", SOON, || {
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let lines = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
        let uid = pod.uid();
        let of_flow = |line: &&Value| line["pod"]["uid"] == uid.as_str() && line["dstMac"] == MEASURED;
        let Some(line) = lines.iter().find(of_flow) else { return Ok(None) };
        ensure!(line["estimated"] == true && line["oneIn"] == 10, "{line}");
        Ok(Some(()))
    })
}
