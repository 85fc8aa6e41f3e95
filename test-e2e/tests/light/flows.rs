//! Taps and flows: every frame counted, every flow named, through restarts, kills and foreign hands.

mod dns;
mod prometheus;
mod sampling;

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use trunkline_e2e::fixtures::{ipam, network, pool};
use trunkline_e2e::light::node::state_dir;
use trunkline_e2e::light::{LightCluster, LightNode, LightOptions, RunningPod, churn};
use trunkline_e2e::objects::{PodSpec, events_about};
use trunkline_e2e::suite::Suite;
use trunkline_e2e::{taps, wait};

static SUITE: Suite = Suite::new("flows", options, setup);

/// Long enough for an interval of the agent's and a look of ours.
const SOON: Duration = Duration::from_secs(30);

/// Read every second; flows are shown for as long as the machine may need to look. Records also go into the node's state
/// folder; one network is sampled.
fn more() -> String {
    let idle = 15 * wait::patience().min(4);
    format!(
        "flows: {{intervalSeconds: 1, idleTimeoutSeconds: {idle}, \
         export: {{json: {{path: /var/lib/trunkline/flows.jsonl}}}}, \
         sampling: [{{network: default/net-s, oneIn: 10}}]}}\n"
    )
}

fn options() -> LightOptions {
    let mut options = LightOptions::nodes(2);
    for node in &mut options.nodes {
        node.more = more();
    }
    options
}

fn setup(cluster: &LightCluster) -> Result<()> {
    let all = [
        pool("a4", "10.100.0.10", "10.100.0.250", "10.100.0.1", 24, 100),
        // The same two addresses on two VLANs.
        pool("l4", "10.101.0.10", "10.101.0.11", "10.101.0.1", 24, 200),
        pool("r4", "10.101.0.10", "10.101.0.11", "10.101.0.1", 24, 300),
        network("default", "net-a", &json!({"ipam": ipam(&["a4"])})),
        network("default", "net-s", &json!({"vlan": 400})),
        network("default", "left", &json!({"ipam": ipam(&["l4"])})),
        network("default", "right", &json!({"ipam": ipam(&["r4"])})),
    ];
    cluster.apply(&all.concat())
}

/// The flows of a pod that some filters leave.
fn flows(pod: &RunningPod, filters: &[&str]) -> Result<Vec<Value>> {
    let name = pod.name();
    let args = [&["flows", "--pod", &name], filters].concat();
    pod.node.trunkctl(&args)
}

/// The tap of a pod's only interface.
fn tap(pod: &RunningPod) -> Result<Value> {
    let named = format!("default/{}", pod.name());
    let taps = pod.node.trunkctl(&["get", "taps"])?;
    taps.into_iter().find(|tap| tap["pod"] == named).with_context(|| format!("{named} has no tap"))
}

/// Bytes that the pod has sent, by its tap.
fn sent(tap: &Value) -> Result<u64> {
    tap["sentBytes"].as_u64().context("no count")
}

/// Waits until the tap has counted exactly what the device has. Neighbours chatter, so both are read anew each time.
fn counters_agree(pod: &RunningPod) -> Result<u64> {
    wait::until_blocking(&format!("tap and device of {} agree", pod.name()), SOON, || {
        taps::agrees(&tap(pod)?, pod.node.netns()).map(Some)
    })
}

/// Sends ten million bytes over TCP; returns what was sent.
fn transfer(cluster: &LightCluster, from: &RunningPod, to: &RunningPod, target: &str) -> Result<u64> {
    let (sent, _) = from.transfer(cluster.run(), to, target)?;
    sent["bytes"].as_u64().context("the probe did not say how much it sent")
}

#[test]
fn a_transfer_is_counted_exactly_on_both_nodes_and_names_both_pods() -> Result<()> {
    SUITE.test(async |cluster| {
        let one = cluster.run_pod(1, &PodSpec::with_networks("one", "net-a")).await?;
        let two = cluster.run_pod(2, &PodSpec::with_networks("two", "net-a")).await?;
        let target = two.addresses(cluster.client(), "eth1").await?.remove(0);
        let sent = transfer(cluster, &one, &two, &target)?;
        for (pod, peer, direction) in [(&one, "default/two", "sent"), (&two, "default/one", "received")] {
            // Whatever was repeated on the way has been counted, too.
            counters_agree(pod)?;
            let filters = ["--protocol", "tcp", "--address", &target, "--direction", direction];
            let flow = wait::until_blocking("the transfer is in the table with its peer", SOON, || {
                let flows = flows(pod, &filters)?;
                let big =
                    flows.into_iter().find(|flow| flow["bytes"].as_u64().is_some_and(|bytes| bytes > sent));
                Ok(big.filter(|flow| flow["peer"] == peer))
            })?;
            assert_eq!(flow["network"], "default/net-a", "{flow}");
            assert_eq!((&flow["vlan"], &flow["interface"]), (&json!(100), &json!("eth1")), "{flow}");
            assert!(flow["flags"].as_str().is_some_and(|flags| flags.contains("SYN")), "{flow}");
            assert!(flow["rttUs"].as_f64().is_some_and(|rtt| rtt > 0.0 && rtt < 5e6), "{flow}");
            let bytes = flow["bytes"].as_u64().context("no bytes")?;
            wait::until_blocking("the records hold every byte of it, once", SOON, || {
                let records = records(cluster, pod, direction)?;
                let ended = records.iter().any(|record| record["reason"] == "end-of-flow");
                let recorded: u64 = records.iter().filter_map(|record| record["bytes"].as_u64()).sum();
                ensure!(ended && recorded == bytes, "{recorded} of {bytes} bytes in {records:?}");
                Ok(Some(()))
            })?;
        }
        cluster.delete_pods(vec![one, two]).await
    })
}

/// What the agent has written of a pod's TCP flows with 10 MB or more in them, or none yet.
fn records(cluster: &LightCluster, pod: &RunningPod, direction: &str) -> Result<Vec<Value>> {
    let file = state_dir(cluster.run(), pod.node.name()).join("flows.jsonl");
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let lines = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>();
    let of_pod = |record: &Value| {
        record["type"].is_null()
            && record["pod"]["uid"] == pod.uid().as_str()
            && record["direction"] == direction
            && record["protocol"] == 6
    };
    let mut records: Vec<Value> = lines.context("reading records")?.into_iter().filter(of_pod).collect();
    let port = |record: &Value| [record["srcPort"].as_u64(), record["dstPort"].as_u64()];
    let big = records.iter().max_by_key(|record| record["bytes"].as_u64()).map(port);
    records.retain(|record| Some(port(record)) == big);
    Ok(records)
}

#[test]
fn equal_addresses_on_two_vlans_are_two_flows_of_two_pods() -> Result<()> {
    SUITE.test(async |cluster| {
        let mut pods = Vec::new();
        for (name, node, net) in
            [("l1", 1, "left"), ("l2", 2, "left"), ("r1", 1, "right"), ("r2", 2, "right")]
        {
            pods.push(cluster.run_pod(node, &PodSpec::with_networks(name, net)).await?);
        }
        let address = async |pod: &RunningPod| {
            Ok::<_, anyhow::Error>(pod.addresses(cluster.client(), "eth1").await?.remove(0))
        };
        let (of_left, of_right) = (address(&pods[1]).await?, address(&pods[3]).await?);
        assert_eq!(of_left, of_right, "the pools overlap");
        assert_eq!(address(&pods[0]).await?, address(&pods[2]).await?);
        transfer(cluster, &pods[0], &pods[1], &of_left)?;
        transfer(cluster, &pods[2], &pods[3], &of_right)?;
        for (pod, vlan, peer) in [(&pods[0], 200, "default/l2"), (&pods[2], 300, "default/r2")] {
            let vlan = vlan.to_string();
            let filters = ["--protocol", "tcp", "--direction", "sent", "--vlan", &vlan];
            wait::until_blocking("each VLAN has its own flow", SOON, || {
                let flows = flows(pod, &filters)?;
                let big: Vec<_> =
                    flows.iter().filter(|flow| flow["bytes"].as_u64() > Some(10_000_000)).collect();
                Ok((big.len() == 1 && big[0]["peer"] == peer).then_some(()))
            })?;
        }
        for (pod, target) in [(&pods[0], &of_left), (&pods[2], &of_right)] {
            let said =
                pod.probe(&["ping-df", "--interface", "eth1", "--target", target, "--size", "1000"])?;
            assert_eq!(said["answered"], true, "{said}");
        }
        one_flow_without_vlans(&pods[0].node, &of_left)?;
        cluster.delete_pods(pods).await
    })
}

/// Waits until pings on both VLANs are two flows of the uplink, and one with the sums of both where VLANs are ignored.
fn one_flow_without_vlans(node: &LightNode, target: &str) -> Result<()> {
    let asked =
        ["flows", "--interface", "up1", "--direction", "sent", "--protocol", "icmp", "--address", target];
    wait::until_blocking("two flows of the uplink are one", SOON, || {
        let apart = node.trunkctl(&asked)?;
        let together = node.trunkctl(&[&asked[..], &["--ignore-vlan"]].concat())?;
        let sums = |flows: &[Value]| {
            ["bytes", "packets"].map(|key| flows.iter().filter_map(|flow| flow[key].as_u64()).sum::<u64>())
        };
        let mut tags: Vec<_> = apart.iter().filter_map(|flow| flow["tags"].as_str()).collect();
        tags.sort_unstable();
        let merged = together.len() == 1 && together[0]["tags"] == "*";
        Ok((tags == ["200", "300"] && merged && sums(&together) == sums(&apart)).then_some(()))
    })
}

/// The folder of the pins of a pod's tap.
fn pins(pod: &RunningPod) -> Result<PathBuf> {
    pins_of(&pod.node, tap(pod)?["device"].as_str().context("no device")?)
}

/// The folder of the pins of a device's tap.
fn pins_of(node: &LightNode, device: &str) -> Result<PathBuf> {
    let sets = fs::read_dir(node.bpffs().join("trunkline")).context("reading the sets")?;
    let taps = sets.filter_map(|set| fs::read_dir(set.ok()?.path().join("taps")).ok()).flatten();
    let named = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().ends_with(&format!("_{device}"));
    let found = taps.filter_map(Result::ok).find(named).context("the tap is not pinned")?;
    Ok(found.path())
}

#[test]
fn taps_go_on_counting_while_the_agent_is_dead_and_none_is_attached_twice() -> Result<()> {
    SUITE.test(async |cluster| {
        let one = cluster.run_pod(1, &PodSpec::with_networks("one", "net-a")).await?;
        let two = cluster.run_pod(2, &PodSpec::with_networks("two", "net-a")).await?;
        let target = two.addresses(cluster.client(), "eth1").await?.remove(0);
        counters_agree(&one)?;
        let folder = pins(&one)?;
        let uplink = pins_of(cluster.node(1), "up1")?;
        for orderly in [false, true] {
            if orderly {
                cluster.node(1).stop_agent();
            } else {
                cluster.node(1).kill_agent();
            }
            let bulk = transfer(cluster, &one, &two, &target)?;
            cluster.node(1).start_agent(cluster.plane())?;
            cluster.node(1).wait_agent_ready().await?;
            let bytes = counters_agree(&one)?;
            assert!(bytes > bulk, "what was sent without an agent is counted");
            assert_eq!(pins(&one)?, folder, "the tap is the same one");
            assert_eq!(pins_of(cluster.node(1), "up1")?, uplink, "and so is the uplink's");
            let metrics = cluster.node(1).agent_http("/metrics")?;
            assert!(metrics.contains("trunkline_agent_tap_gaps_total 0"), "no tap was off: {metrics}");
            assert!(metrics.contains("trunkline_agent_flow_epochs_inexact_total 0"), "{metrics}");
        }
        cluster.delete_pods(vec![one, two]).await
    })
}

#[test]
fn another_memory_budget_takes_the_taps_over_with_what_they_held() -> Result<()> {
    SUITE.test(async |cluster| {
        let one = cluster.run_pod(1, &PodSpec::with_networks("one", "net-a")).await?;
        let two = cluster.run_pod(2, &PodSpec::with_networks("two", "net-a")).await?;
        let target = two.addresses(cluster.client(), "eth1").await?.remove(0);
        let node = cluster.node(1);
        counters_agree(&one)?;
        for (budget, orderly) in [("memoryMiB: 32, ", false), ("", true)] {
            let before = pins(&one)?;
            if orderly {
                node.stop_agent();
            } else {
                node.kill_agent();
            }
            let bulk = transfer(cluster, &one, &two, &target)?;
            node.reconfigure(|options| {
                options.more = more().replace("intervalSeconds", &format!("{budget}intervalSeconds"));
            })?;
            node.start_agent(cluster.plane())?;
            node.wait_agent_ready().await?;
            assert_ne!(pins(&one)?, before, "another budget is another set");
            let sets = fs::read_dir(node.bpffs().join("trunkline"))?.count();
            assert_eq!(sets, 1, "the one before is gone");
            let filters = ["--protocol", "tcp", "--address", &target, "--direction", "sent"];
            wait::until_blocking("what was sent without an agent is in one named flow", SOON, || {
                let flows = flows(&one, &filters)?;
                let whole = |flow: &&Value| flow["bytes"].as_u64().is_some_and(|bytes| bytes > bulk);
                Ok(flows.iter().find(whole).filter(|flow| flow["peer"] == "default/two").map(|_| ()))
            })?;
            let metrics = node.agent_http("/metrics")?;
            for counter in ["tap_gaps_total", "flow_epochs_inexact_total", "flow_epochs_lost_total"] {
                assert!(metrics.contains(&format!("trunkline_agent_{counter} 0")), "{counter}: {metrics}");
            }
        }
        cluster.delete_pods(vec![one, two]).await
    })
}

/// What a counter of a pod's only tap says, or 0 where it has none yet.
fn metric(pod: &RunningPod, name: &str, direction: &str) -> Result<u64> {
    let text = pod.node.agent_http("/metrics")?;
    let labels = [format!("pod=\"{}\"", pod.name()), format!("direction=\"{direction}\"")];
    let of_pod = |line: &&str| {
        line.starts_with(&format!("trunkline_agent_{name}{{"))
            && labels.iter().all(|label| line.contains(label.as_str()))
    };
    let value = text.lines().find(of_pod).and_then(|line| line.rsplit(' ').next());
    value.map_or(Ok(0), |value| value.parse().with_context(|| format!("{name} is {value}")))
}

#[test]
fn what_a_switch_that_cannot_keep_up_loses_is_seen() -> Result<()> {
    const FRAMES: u64 = 20_000;
    SUITE.test(async |cluster| {
        // Of a name that no other test has: counters of a pod that has just gone are printed for a while.
        let one = cluster.run_pod(1, &PodSpec::with_networks("busy", "net-a")).await?;
        let inject = |count: u64| {
            let count = count.to_string();
            let to = ["--to", "02:aa:00:00:00:00", "--spread", "--interval-us", "0"];
            let what = ["inject", "--interface", "eth1", "--mark", "overload", "--count", &count];
            one.probe(&[&what[..], &to].concat())
        };
        let counted = || {
            let of = |name| metric(&one, name, "sent");
            Ok::<_, anyhow::Error>((
                of("tap_skbs_total")?,
                of("tap_forwarded_packets_total")?,
                of("tap_unforwarded_packets")?,
            ))
        };
        inject(50)?;
        wait::until_blocking("a switch that keeps up loses nothing", SOON, || {
            let (tapped, forwarded, lost) = counted()?;
            Ok((tapped >= 50 && forwarded >= 50 && lost == 0).then_some(()))
        })?;
        cluster.node(1).ovs().hang_switch(true);
        let sent = inject(FRAMES);
        cluster.node(1).ovs().hang_switch(false);
        sent?;
        // The switch tells late what it took: what is lost is what does not change any more.
        let mut before = None;
        let (tapped, forwarded, lost) = wait::until_blocking("its counters are at rest", SOON, || {
            let now = counted()?;
            std::thread::sleep(Duration::from_secs(3));
            let rests = before.replace(now) == Some(now) && now.0 > FRAMES;
            Ok((rests && counted()? == now).then_some(now))
        })?;
        println!("{tapped} tapped, {forwarded} forwarded, {lost} lost on the way to the switch");
        assert!(lost > FRAMES / 10, "{lost} of {FRAMES}");
        assert!(
            forwarded + lost <= tapped && tapped - forwarded - lost < 50,
            "the rest was before the first look"
        );
        cluster.delete_pods(vec![one]).await
    })
}

#[test]
fn an_agent_that_starts_amid_traffic_sees_no_loss_where_there_is_none() -> Result<()> {
    const FRAMES: u64 = 3_000;
    SUITE.test(async |cluster| {
        let one = cluster.run_pod(1, &PodSpec::with_networks("one", "net-a")).await?;
        let node = cluster.node(1);
        let count = FRAMES.to_string();
        let mut sender = one.probe_command(&[
            "inject",
            "--interface",
            "eth1",
            "--mark",
            "steady",
            "--count",
            &count,
            "--interval-us",
            "4000",
            "--to",
            "02:aa:00:00:00:00",
            "--spread",
        ])?;
        // Every frame is to a new address: the switch decides about each, and counts it at once.
        let mut sender = sender.stdout(Stdio::null()).spawn().context("starting a sender")?;
        for _ in 0..3 {
            node.kill_agent();
            node.start_agent(cluster.plane())?;
            node.wait_agent_ready().await?;
            wait::until_blocking("the switch was asked", SOON, || {
                Ok((metric(&one, "tap_forwarded_packets_total", "sent")? > 0).then_some(()))
            })?;
        }
        assert!(sender.wait()?.success(), "the sender");
        wait::until_blocking("nothing is lost", SOON, || {
            let of = |name| metric(&one, name, "sent");
            let tapped = of("tap_skbs_total")?;
            let lost = of("tap_unforwarded_packets")?;
            eprintln!("{tapped} tapped, {lost} not forwarded");
            Ok((tapped >= FRAMES && lost == 0).then_some(()))
        })?;
        cluster.delete_pods(vec![one]).await
    })
}

#[test]
fn a_tap_that_somebody_takes_off_is_back_within_seconds_and_it_is_said() -> Result<()> {
    SUITE.test(async |cluster| {
        let one = cluster.run_pod(1, &PodSpec::with_networks("one", "net-a")).await?;
        let two = cluster.run_pod(2, &PodSpec::with_networks("two", "net-a")).await?;
        let target = two.addresses(cluster.client(), "eth1").await?.remove(0);
        counters_agree(&one)?;
        let folder = pins(&one)?;
        // As `bpftool link detach` does, the last reference to the link goes.
        fs::remove_file(folder.join("ingress")).context("taking the tap off")?;
        wait::until_blocking("the tap is back", Duration::from_secs(10), || {
            // By clsact it is a symbolic link that leads nowhere.
            Ok(folder.join("ingress").symlink_metadata().is_ok().then_some(()))
        })?;
        wait::until("an Event says so", SOON, || async {
            let events = events_about(cluster.client(), "Pod", "one").await?;
            Ok(events.iter().any(|(reason, _)| reason == "TapAttachedAgain").then_some(()))
        })
        .await?;
        let before = sent(&tap(&one)?)?;
        let more = transfer(cluster, &one, &two, &target)?;
        wait::until_blocking("it counts again", SOON, || {
            Ok((sent(&tap(&one)?)? > before + more).then_some(()))
        })?;
        let metrics = cluster.node(1).agent_http("/metrics")?;
        assert!(!metrics.contains("trunkline_agent_tap_gaps_total 0"), "the gap is in the metrics");
        cluster.delete_pods(vec![one, two]).await
    })
}

#[test]
fn a_deleted_pods_tap_goes_with_its_last_flows() -> Result<()> {
    SUITE.test(async |cluster| {
        let one = cluster.run_pod(1, &PodSpec::with_networks("one", "net-a")).await?;
        let folder = pins(&one)?;
        cluster.delete_pod(one).await?;
        wait::until_blocking("the tap's pins are gone", SOON, || Ok((!folder.exists()).then_some(())))?;
        let taps = cluster.node(1).trunkctl(&["get", "taps"])?;
        assert!(taps.iter().all(|tap| tap["pod"].is_null()), "only the uplink is left: {taps:?}");
        assert!(taps.iter().any(|tap| tap["device"] == "up1" && tap["state"] == "attached"), "{taps:?}");
        let metrics = cluster.node(1).agent_http("/metrics")?;
        assert!(!metrics.contains("pod=\"one\""), "its counters are printed no more");
        Ok(())
    })
}

/// Pods of the churn, and after how many everything is warm.
const CHURN: usize = 1000;
const WARM: usize = 100;

#[test]
fn a_thousand_pods_come_and_go_and_the_agent_takes_up_no_more_than_before() -> Result<()> {
    SUITE.test(async |cluster| {
        let node = cluster.node(1).clone();
        churn::pods(cluster, "net-a", 0, WARM).await?;
        churn::settled(&node)?;
        let before = node.agent_usage()?;
        churn::pods(cluster, "net-a", WARM, CHURN).await?;
        churn::settled(&node)?;
        // Connections to the API server come and go by themselves.
        let after = churn::flat(&node, before)?;
        eprintln!("{CHURN} pods: {before:?}, then {after:?}");
        let metrics = node.agent_http("/metrics")?;
        assert!(metrics.contains("trunkline_agent_flow_epochs_inexact_total 0"), "{metrics}");
        assert!(!metrics.contains("pod=\"churn-"), "counters of gone pods are printed no more");
        Ok(())
    })
}
