//! Questions to name servers: each is told once a tap, with its code and its time, by every way that leaves the agent.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use trunkline_e2e::light::node::state_dir;
use trunkline_e2e::light::{LightCluster, LightNode, RunningPod};
use trunkline_e2e::objects::PodSpec;
use trunkline_e2e::process::Process;
use trunkline_e2e::run::Run;
use trunkline_e2e::wait;

use super::{SOON, SUITE, flows};

/// The question that gets no answer is waited for until it is known to have none, and one more is asked then, so that
/// the flow is still there to be looked at.
const NAMES: [&str; 5] = ["ok.test", "nx.test", "slow.test", "mute.test", "ok.test"];
const PATIENCE_MS: &str = "12000";
/// What the name server waits for before it answers `slow.`.
const SLOW: Duration = Duration::from_millis(200);

/// Starts a name server in a pod.
fn serve(run: &Arc<Run>, pod: &RunningPod) -> Result<Process> {
    let ready = run.dir().join(format!("dns-{:08x}", rand::random::<u32>()));
    let mut command = pod.probe_command(&["dns-serve", "--interface", "eth1", "--ready"])?;
    command.arg(&ready);
    let server = Process::spawn(run, &format!("dns-{}", pod.name()), command)?;
    wait::until_blocking("the name server listens", SOON, || {
        server.check()?;
        Ok(ready.exists().then_some(()))
    })?;
    Ok(server)
}

/// Asks for these names in turn, from one port.
fn ask(pod: &RunningPod, server: &str, over: &str, names: &[&str]) -> Result<Vec<Value>> {
    let how = ["--over", over, "--timeout-ms", PATIENCE_MS];
    let mut args = vec!["dns-ask", "--interface", "eth1", "--target", server];
    args.extend(how);
    args.extend(names.iter().flat_map(|name| ["--name", name]));
    let asked = pod.probe(&args)?;
    let asked = asked.as_array().context("not a list")?.clone();
    ensure!(asked.len() == names.len(), "{asked:?}");
    Ok(asked)
}

/// The lines of questions that were asked from this port, as a pod's tap saw them.
fn lines(run: &Run, pod: &RunningPod, port: &Value) -> Result<Vec<Value>> {
    let file = state_dir(run, pod.node.name()).join("flows.jsonl");
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let lines = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>();
    let uid = pod.uid();
    let wanted = |line: &Value| {
        line["type"] == "dns" && line["pod"]["uid"] == uid.as_str() && line["srcPort"] == *port
    };
    Ok(lines.context("reading lines")?.into_iter().filter(wanted).collect())
}

/// By code, how often pods of the network asked, or were asked.
fn counted(node: &LightNode, direction: &str) -> Result<HashMap<String, u64>> {
    let text = node.agent_http("/metrics")?;
    let mut counted = HashMap::new();
    let labels = format!("network=\"default/net-a\",vlan=\"100\",direction=\"{direction}\"");
    for line in text.lines() {
        let Some((name, value)) = line.rsplit_once(' ') else { continue };
        let value = || value.parse::<u64>().with_context(|| line.to_owned());
        if let Some(rest) = name.strip_prefix(&format!("trunkline_agent_dns_queries_total{{{labels},code=\""))
        {
            counted.insert(rest.trim_end_matches("\"}").to_owned(), value()?);
        } else if name == format!("trunkline_agent_dns_latency_seconds_count{{{labels}}}") {
            counted.insert("answered".to_owned(), value()?);
        }
    }
    Ok(counted)
}

/// What was added.
fn since(before: &HashMap<String, u64>, now: &HashMap<String, u64>) -> HashMap<String, u64> {
    let grown = |(code, count): (&String, &u64)| {
        let more = count - before.get(code).copied().unwrap_or(0);
        (more > 0).then(|| (code.clone(), more))
    };
    now.iter().filter_map(grown).collect()
}

/// Asks once and waits until both taps have told of it and know who is at the other end.
fn warm_up(one: &RunningPod, two: &RunningPod, server: &str) -> Result<()> {
    let port = ask(one, server, "udp", &["ok.test"])?[0]["port"].to_string();
    for (pod, peer) in [(one, two), (two, one)] {
        let [own, peer] = [pod, peer].map(|pod| format!("default/{}", pod.name()));
        wait::until_blocking("a question is told and both ends are known", SOON, || {
            let mut flows = flows(pod, &["--protocol", "udp", "--port", &port])?;
            flows.retain(|flow| flow["pod"] == own.as_str());
            let told = |flow: &Value| flow["peer"] == peer.as_str() && flow["dns"]["answered"] == 1;
            ensure!(flows.len() == 2 && flows.iter().all(told), "{flows:?}");
            Ok(Some(()))
        })?;
    }
    Ok(())
}

/// Every question of a client is in one line of this tap, with what the client knows of it.
fn told(lines: &[Value], asked: &[Value], peer: &RunningPod, direction: &str) -> Result<()> {
    ensure!(lines.len() == asked.len(), "{} lines of {} questions", lines.len(), asked.len());
    for question in asked {
        let line = lines.iter().find(|line| line["id"] == question["id"]);
        let line = line.with_context(|| format!("{question} is not among {lines:?}"))?;
        let name = question["name"].as_str().context("no name")?;
        let code = match name {
            "mute.test" => Value::Null,
            "nx.test" => json!("NXDOMAIN"),
            _ => json!("NOERROR"),
        };
        ensure!((&line["code"], &line["asked"]) == (&code, &json!(1)), "{question}: {line}");
        ensure!(line["answered"] == json!(!code.is_null()), "{question}: {line}");
        ensure!((&line["direction"], &line["dstPort"]) == (&json!(direction), &json!(53)), "{line}");
        ensure!(line["peer"]["uid"] == peer.uid().as_str(), "{line}");
        ensure!((&line["network"], &line["vlan"]) == (&json!("default/net-a"), &json!(100)), "{line}");
        let latency = line["latencyNanoseconds"].as_u64().map(Duration::from_nanos);
        ensure!(latency.is_some() == (name != "mute.test"), "{line}");
        let Some(latency) = latency else { continue };
        let waited = Duration::from_secs_f64(question["ms"].as_f64().context("no time")? / 1000.0);
        ensure!(latency <= waited, "{latency:?} where the client waited for {waited:?}");
        ensure!(name != "slow.test" || latency >= SLOW, "{question}: {line}");
    }
    Ok(())
}

#[test]
fn every_question_is_told_once_a_tap_with_its_code_and_its_time() -> Result<()> {
    SUITE.test(async |cluster| {
        let run = cluster.run();
        let one = cluster.run_pod(1, &PodSpec::with_networks("one", "net-a")).await?;
        let two = cluster.run_pod(2, &PodSpec::with_networks("two", "net-a")).await?;
        let server = two.addresses(cluster.client(), "eth1").await?.remove(0);
        let serving = serve(run, &two)?;
        warm_up(&one, &two, &server)?;
        let taps = [(&one, "sent", &two), (&two, "received", &one)];
        let before = taps.map(|(pod, direction, _)| counted(&pod.node, direction));
        let over_tcp = ask(&one, &server, "tcp", &NAMES[..3])?;
        let over_udp = ask(&one, &server, "udp", &NAMES)?;
        let in_the_table = shown(&one, &over_udp[0]["port"])?;
        assert!(in_the_table["slowestMs"].as_f64() >= Some(200.0), "{in_the_table}");
        for (protocol, asked) in [(6, &over_tcp), (17, &over_udp)] {
            for (pod, direction, peer) in taps {
                wait::until_blocking("every question is in the records", SOON, || {
                    let lines = lines(run, pod, &asked[0]["port"])?;
                    told(&lines, asked, peer, direction)?;
                    Ok(lines.iter().all(|line| line["protocol"] == protocol).then_some(()))
                })?;
            }
        }
        let added = HashMap::from([("NOERROR", 5), ("NXDOMAIN", 2), ("none", 1), ("answered", 7)]);
        let added: HashMap<String, u64> =
            added.into_iter().map(|(code, count)| (code.to_owned(), count)).collect();
        for ((pod, direction, _), before) in taps.into_iter().zip(before) {
            let metrics = since(&before?, &counted(&pod.node, direction)?);
            assert_eq!(metrics, added, "{direction}");
            let text = pod.node.agent_http("/metrics")?;
            assert!(text.contains("trunkline_agent_dns_queries_lost_total 0"), "{text}");
        }
        drop(serving);
        cluster.delete_pods(vec![one, two]).await
    })
}

/// Waits until both directions of the flow from this port show all questions alike, and says what they show.
fn shown(pod: &RunningPod, port: &Value) -> Result<Value> {
    let port = port.to_string();
    wait::until_blocking("both directions show what became of the questions", SOON, || {
        let flows = flows(pod, &["--protocol", "udp", "--port", &port])?;
        let [first, second] = &flows[..] else { return Ok(None) };
        let dns = &first["dns"];
        let counts = ["answered", "unanswered", "failed"].map(|key| dns[key].as_u64());
        ensure!(counts == [4, 1, 1].map(Some) && dns["lastCode"] == "NOERROR", "{flows:?}");
        Ok((dns == &second["dns"]).then(|| dns.clone()))
    })
}

/// Asking goes on while no agent is there: what cannot be told is not, and what comes after is.
#[test]
fn questions_are_followed_again_after_a_restart() -> Result<()> {
    SUITE.test(async |cluster: &LightCluster| {
        let run = cluster.run();
        let one = cluster.run_pod(1, &PodSpec::with_networks("one", "net-a")).await?;
        let two = cluster.run_pod(1, &PodSpec::with_networks("two", "net-a")).await?;
        let server = two.addresses(cluster.client(), "eth1").await?.remove(0);
        let serving = serve(run, &two)?;
        warm_up(&one, &two, &server)?;
        cluster.node(1).kill_agent();
        ask(&one, &server, "udp", &["ok.test"])?;
        cluster.node(1).start_agent(cluster.plane())?;
        cluster.node(1).wait_agent_ready().await?;
        warm_up(&one, &two, &server)?;
        let asked = ask(&one, &server, "udp", &["nx.test", "ok.test"])?;
        // Two taps of one node, and each tells of the question.
        for (pod, direction, peer) in [(&one, "sent", &two), (&two, "received", &one)] {
            wait::until_blocking("the questions are in the records", SOON, || {
                let lines = lines(run, pod, &asked[0]["port"])?;
                told(&lines, &asked, peer, direction).map(Some)
            })?;
        }
        drop(serving);
        cluster.delete_pods(vec![one, two]).await
    })
}
