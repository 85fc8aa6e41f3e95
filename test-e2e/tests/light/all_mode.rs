//! `flows.all`: taps on interfaces that Trunkline did not make, in every namespace of this run and in no other.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize as _;
use serde_json::{Value, json};
use trunkline_api::AgentConfig;
use trunkline_e2e::fixtures::{ipam, network, pool};
use trunkline_e2e::light::node::state_dir;
use trunkline_e2e::light::{LightCluster, LightNode, LightOptions, churn};
use trunkline_e2e::netns::Netns;
use trunkline_e2e::objects::PodSpec;
use trunkline_e2e::suite::Suite;
use trunkline_e2e::{paths, wait};

static SUITE: Suite = Suite::new("all-mode", options, setup);

/// Long enough for an interval of the agent's and a look of ours.
const SOON: Duration = Duration::from_secs(30);
/// What an interface may wait for its tap on a machine that does other things, too; the goal is one second.
const AT_ONCE: Duration = Duration::from_secs(5);

fn options() -> LightOptions {
    LightOptions::nodes(1)
}

/// The agent sees every namespace of this machine, and opens those of this run alone.
fn setup(cluster: &LightCluster) -> Result<()> {
    let node = cluster.node(1);
    node.stop_agent();
    let prefix = cluster.run().prefix();
    node.reconfigure(|options| {
        options.more = format!(
            "flows:\n  intervalSeconds: 1\n  idleTimeoutSeconds: 300\n  export: {{json: {{path: /var/lib/trunkline/flows.jsonl}}}}\n  \
             all:\n    enabled: true\n    namespaces: {{include: ['^{prefix}-', '^host$']}}\n    \
             interfaces: {{exclude: ['^lo$', '^unseen']}}\n"
        );
    })?;
    node.start_agent(cluster.plane())?;
    let objects = [
        pool("a4", "10.100.0.10", "10.100.0.250", "10.100.0.1", 24, 100),
        network("default", "net-a", &json!({"ipam": ipam(&["a4"])})),
    ];
    cluster.apply(&objects.concat())
}

/// The taps on interfaces of this namespace.
fn taps(node: &LightNode, netns: &str) -> Result<Vec<Value>> {
    let mut taps = node.trunkctl(&["get", "taps"])?;
    taps.retain(|tap| tap["netns"] == netns);
    Ok(taps)
}

/// Waits until this interface of this namespace has a tap, and returns it with how long that took.
fn tapped(node: &LightNode, netns: &Netns, interface: &str) -> Result<(Value, Duration)> {
    let begin = Instant::now();
    let what = format!("{interface} of {} has a tap", netns.name());
    let tap = wait::until_blocking(&what, AT_ONCE, || {
        let taps = taps(node, netns.name())?;
        Ok(taps.into_iter().find(|tap| tap["device"] == interface && tap["state"] == "attached"))
    })?;
    Ok((tap, begin.elapsed()))
}

/// Folders of pins of taps that are on interfaces which are not ours.
fn pins(node: &LightNode) -> Result<usize> {
    let sets = fs::read_dir(node.bpffs().join("trunkline")).context("reading the sets")?;
    let taps = sets.filter_map(|set| fs::read_dir(set.ok()?.path().join("taps")).ok()).flatten().flatten();
    Ok(taps.filter(|tap| tap.file_name().to_string_lossy().contains('@')).count())
}

const PORT: u16 = 9999;
const DATAGRAMS: u64 = 100;

/// Sends datagrams from one namespace to an address of another.
fn send(from: &Netns, to: &Netns, address: [u8; 4]) -> Result<()> {
    let target = SocketAddr::from((address, PORT));
    let receiver = to.enter(move || UdpSocket::bind(target))??;
    receiver.set_read_timeout(Some(Duration::from_secs(10)))?;
    let sender = from.enter(|| UdpSocket::bind("0.0.0.0:0"))??;
    for number in 0..DATAGRAMS {
        sender.send_to(&number.to_be_bytes(), target)?;
        receiver.recv(&mut [0; 8]).context("a datagram did not arrive")?;
    }
    Ok(())
}

#[test]
fn an_interface_that_moves_is_tapped_within_a_second_and_its_flows_bear_its_namespace() -> Result<()> {
    SUITE.test(async |cluster| {
        let node = cluster.node(1);
        node.wait_agent_ready().await?;
        let (a, b) = (Netns::create(cluster.run(), "a")?, Netns::create(cluster.run(), "b")?);
        a.ip("link add va type veth peer name vb")?;
        a.ip("link add unseen0 type bridge")?;
        let (_, first) = tapped(node, &a, "vb")?;
        tapped(node, &a, "va")?;
        a.ip(&format!("link set vb netns {}", b.name()))?;
        let (_, moved) = tapped(node, &b, "vb")?;
        eprintln!(
            "tapped {} ms after it was made, {} ms after it moved",
            first.as_millis(),
            moved.as_millis()
        );
        wait::until_blocking("it is no more where it was", SOON, || {
            Ok((taps(node, a.name())?.len() == 1).then_some(()))
        })?;

        for (netns, link, address) in [(&a, "va", "192.0.2.1/24"), (&b, "vb", "192.0.2.2/24")] {
            netns.ip(&format!("addr add {address} dev {link}"))?;
            netns.ip(&format!("link set {link} up"))?;
        }
        send(&a, &b, [192, 0, 2, 2])?;
        for (netns, link, direction) in [(&a, "va", "sent"), (&b, "vb", "received")] {
            wait::until_blocking("each end has one flow, with every packet", SOON, || {
                let filters = ["flows", "--netns", netns.name(), "--port", "9999"];
                let flows = node.trunkctl(&filters)?;
                let [flow] = flows.as_slice() else { anyhow::bail!("{flows:?}") };
                ensure!(flow["packets"] == DATAGRAMS && flow["direction"] == direction, "{flow}");
                ensure!(flow["device"] == link && flow["pod"] == "" && flow["network"] == "", "{flow}");
                Ok(Some(()))
            })?;
        }

        b.ip("link set vb name net7")?;
        let (tap, _) = tapped(node, &b, "net7")?;
        ensure!(tap["receivedSkbs"].as_u64() >= Some(DATAGRAMS), "a rename keeps the tap: {tap}");
        wait::until_blocking("no counter is left under the old name", SOON, || {
            Ok((!node.agent_http("/metrics")?.contains("device=\"vb\"")).then_some(()))
        })?;
        let metrics = node.agent_http("/metrics")?;
        ensure!(metrics.contains("trunkline_agent_flow_epochs_inexact_total 0"), "{metrics}");

        let name = b.name().to_owned();
        drop(b);
        let gone = Instant::now();
        wait::until_blocking("taps of what is gone are gone, on both ends of the pair", AT_ONCE, || {
            Ok((taps(node, &name)?.is_empty() && taps(node, a.name())?.is_empty()).then_some(()))
        })?;
        eprintln!("let go {} ms after the namespace was deleted", gone.elapsed().as_millis());
        ensure!(!a.links()?.contains(&"va".to_owned()), "the kernel has taken the namespace down");
        wait::until_blocking("its flow was closed by force", SOON, || forced(cluster, &name))
    })
}

/// A record of the datagrams of a namespace that is gone.
fn forced(cluster: &LightCluster, netns: &str) -> Result<Option<()>> {
    let file = state_dir(cluster.run(), cluster.node(1).name()).join("flows.jsonl");
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let records = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    let of = |record: &&Value| record["netns"] == netns && record["dstPort"] == PORT;
    let found: Vec<&Value> = records.iter().filter(of).collect();
    let packets: u64 = found.iter().filter_map(|record| record["packets"].as_u64()).sum();
    let last = found.last().context("no record yet")?;
    ensure!(last["reason"] == "forced", "{last}");
    ensure!(packets == DATAGRAMS, "{packets} packets in {found:?}");
    Ok(Some(()))
}

#[test]
fn what_is_ours_has_one_tap_and_every_other_interface_of_a_pod_has_its_own() -> Result<()> {
    SUITE.test(async |cluster| {
        let node = cluster.node(1);
        node.wait_agent_ready().await?;
        let pod = cluster.run_pod(1, &PodSpec::with_networks("one", "net-a")).await?;
        let primary = |tap: &Value| {
            let netns = tap["netns"].as_str().unwrap_or_default();
            netns.starts_with(&format!("{}-s-", cluster.run().prefix())) && tap["device"] == "eth0"
        };
        wait::until_blocking("the pod's primary interface has a tap, by the pod's name", SOON, || {
            let named = |tap: &Value| primary(tap) && tap["pod"] == "default/one";
            Ok(node.trunkctl(&["get", "taps"])?.iter().any(named).then_some(()))
        })?;
        // Both ways of looking have passed by then.
        let both = || {
            let taps = node.trunkctl(&["get", "taps"])?;
            let ours: Vec<_> = taps.iter().filter(|tap| tap["netns"].is_null()).collect();
            let host = |name: &str| taps.iter().any(|tap| tap["netns"] == "host" && tap["device"] == name);
            let other_end = taps.iter().any(|tap| !tap["netns"].is_null() && tap["device"] == "eth1");
            ensure!(host("eth0") && !host("up1") && !other_end, "{taps:?}");
            ensure!(ours.len() == 2 && ours.iter().all(|tap| tap["state"] == "attached"), "{taps:?}");
            Ok(Some(()))
        };
        wait::until_blocking("the pod's port and the uplink have one tap each", SOON, both)?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        both()?;
        let log = fs::read_to_string(node.agent_log()).context("reading the agent's log")?;
        ensure!(!log.contains("tap attached interface=eth1 netns="), "the pod's end was tapped for a while");
        ensure!(log.contains("tap attached interface=eth0 netns="), "the log says what is attached");
        cluster.delete_pod(pod).await?;
        wait::until_blocking("the pod's taps are gone", SOON, || {
            let taps = node.trunkctl(&["get", "taps"])?;
            Ok(taps.iter().all(|tap| tap["pod"].is_null() && !primary(tap)).then_some(()))
        })
    })
}

#[test]
fn the_overlay_turns_it_on_and_lets_the_agent_see_the_nodes_processes() -> Result<()> {
    SUITE.test(async |cluster| {
        let folder = paths::workspace().join("manifests/overlays/all-interfaces");
        let text = cluster.plane().kubectl(&["kustomize", &folder.display().to_string()])?;
        let documents = serde_norway::Deserializer::from_str(&text).map(Value::deserialize);
        let all = documents.collect::<Result<Vec<_>, _>>().context("reading the rendered manifests")?;
        let named = |kind: &str, name: &str| {
            let is = |value: &&Value| value["kind"] == kind && value["metadata"]["name"] == name;
            all.iter().find(is).with_context(|| format!("no {kind} {name}"))
        };
        let agent = named("DaemonSet", "trunkline-agent")?;
        ensure!(agent["spec"]["template"]["spec"]["hostPID"] == true, "{agent}");
        let config = named("ConfigMap", "trunkline-config")?;
        let file = config["data"][AgentConfig::FILE].as_str().context("no configuration")?;
        let flows = AgentConfig::parse(file)?.flows;
        ensure!(flows.enabled && flows.all.enabled && !flows.all.interfaces.admits("lo"), "{flows:?}");
        Ok(())
    })
}

/// Namespaces of a round of the churn.
const CHURN: usize = 50;

#[test]
fn fifty_namespaces_come_and_go_and_the_agent_takes_up_no_more_than_before() -> Result<()> {
    SUITE.test(async |cluster| {
        let node = cluster.node(1);
        node.wait_agent_ready().await?;
        let settled = |most: usize| {
            wait::until_blocking("pins are gone with their last flows", SOON * 6, || {
                let pins = pins(node)?;
                ensure!(pins <= most, "{pins} folders of pins, of {most}");
                Ok(Some(()))
            })
        };
        wait::until_blocking("everything of the node is tapped", SOON, || {
            Ok((!taps(node, "host")?.is_empty()).then_some(()))
        })?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let most = pins(node)?;
        // The first round warms things up.
        let mut usage = Vec::new();
        for round in 0..2 {
            let begin = Instant::now();
            let mut all = Vec::new();
            for number in 0..CHURN {
                let netns = Netns::create(cluster.run(), &format!("c{round}-{number}"))?;
                netns.ip("link add v0 type veth peer name v1")?;
                all.push(netns);
            }
            wait::until_blocking("all have taps", SOON * 6, || {
                let taps = node.trunkctl(&["get", "taps"])?;
                let of = |tap: &&Value| tap["device"] == "v0" || tap["device"] == "v1";
                let on = taps.iter().filter(of).filter(|tap| tap["state"] == "attached").count();
                ensure!(on == 2 * CHURN, "{on} of {}", 2 * CHURN);
                Ok(Some(()))
            })?;
            eprintln!("round {round}: {} taps after {:.1} s", 2 * CHURN, begin.elapsed().as_secs_f32());
            drop(all);
            settled(most)?;
            usage.push(node.agent_usage()?);
        }
        let before = usage[0];
        let after = churn::flat(node, before)?;
        eprintln!("{CHURN} namespaces more: {before:?}, then {after:?}");
        let metrics = node.agent_http("/metrics")?;
        assert!(!metrics.contains("device=\"v0\""), "counters of what is gone are printed no more");
        assert!(metrics.contains("trunkline_agent_flow_epochs_inexact_total 0"), "{metrics}");
        Ok(())
    })
}
