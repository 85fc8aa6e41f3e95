//! Two nodes: pods of one VLAN reach each other within and across nodes, and nobody else.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use trunkline_e2e::fixtures::{ipam, network, pool};
use trunkline_e2e::light::node::{datapath, offloads};
use trunkline_e2e::light::{LightCluster, LightOptions, NodeOptions, RunningPod};
use trunkline_e2e::objects::{PodSpec, events_about};
use trunkline_e2e::suite::Suite;
use trunkline_e2e::wait;

static SUITE: Suite = Suite::new("mesh", options, setup);

/// Node 1 has a second bridge with two uplinks on disjoint VLANs; node 3 lacks the NIC that its bridge names.
fn options() -> LightOptions {
    let first = NodeOptions {
        uplinks: vec![("up1".to_owned(), 1), ("up2".to_owned(), 2), ("up3".to_owned(), 3)],
        bridges: r#"[{"bridgeName": "br-secondary", "physicalInterfaces": ["up1"]}, {"bridgeName": "br-split", "physicalInterfaces": [{"name": "up2", "allowedVLANs": ["600"]}, {"name": "up3", "allowedVLANs": ["700-710"]}]}]"#.to_owned(),
        uplink_gro: true,
        ..NodeOptions::default()
    };
    let second = NodeOptions {
        uplinks: vec![("up1".to_owned(), 1), ("up2".to_owned(), 2), ("up3".to_owned(), 3)],
        bridges: r#"[{"bridgeName": "br-secondary", "physicalInterfaces": ["up1"]}, {"bridgeName": "br-left", "physicalInterfaces": ["up2"]}, {"bridgeName": "br-right", "physicalInterfaces": ["up3"]}]"#.to_owned(),
        uplink_gro: true,
        ..NodeOptions::default()
    };
    let without = NodeOptions { uplinks: Vec::new(), ..NodeOptions::default() };
    LightOptions { nodes: vec![first, second, without], ..LightOptions::nodes(0) }
}

fn setup(cluster: &LightCluster) -> Result<()> {
    let on = |vlan: u16, bridge: &str| json!({"vlan": vlan, "bridge": bridge});
    let all = [
        pool("a4", "10.100.0.10", "10.100.0.250", "10.100.0.1", 24, 100),
        pool("a6", "fd00:100::10", "fd00:100::ffff", "fd00:100::1", 64, 100),
        // The same range on another VLAN.
        pool("b4", "10.100.0.10", "10.100.0.250", "10.100.0.1", 24, 200),
        network("default", "net-a", &json!({"bridge": "br-secondary", "ipam": ipam(&["a4", "a6"])})),
        network("default", "net-b", &json!({"bridge": "br-secondary", "ipam": ipam(&["b4"])})),
        network(
            "default",
            "small",
            &json!({"bridge": "br-secondary", "mtu": 1300, "ipam": ipam(&["a4", "a6"])}),
        ),
        network("default", "untagged", &on(0, "br-secondary")),
        network("default", "split-600", &on(600, "br-split")),
        network("default", "split-700", &on(700, "br-split")),
        network("default", "left-600", &on(600, "br-left")),
        network("default", "right-700", &on(700, "br-right")),
    ];
    cluster.apply(&all.concat())
}

/// Whether `pod` reaches `target` from `interface`, and that nobody else answered.
fn reaches(pod: &RunningPod, interface: &str, target: &str, other: &RunningPod, there: &str) -> Result<bool> {
    let said = pod.probe(&["probe", "--interface", interface, "--target", target])?;
    if said["reachable"] == false {
        return Ok(false);
    }
    let by = &said["answered_by"];
    anyhow::ensure!(
        by["pod_uid"] == other.uid() && by["interface"] == there,
        "{target}: somebody else: {said}"
    );
    Ok(true)
}

async fn serving(cluster: &LightCluster, node: usize, name: &str, networks: &str) -> Result<RunningPod> {
    let mut pod = cluster.run_pod(node, &PodSpec::with_networks(name, networks)).await?;
    pod.serve(cluster.run())?;
    Ok(pod)
}

#[test]
fn pods_of_one_vlan_reach_each_other_and_those_of_another_do_not() -> Result<()> {
    SUITE.test(async |cluster| {
        let mut pods = Vec::new();
        for (name, node, network) in [
            ("a1", 1, "net-a"),
            ("a2", 1, "net-a"),
            ("a3", 2, "net-a"),
            ("b1", 1, "net-b"),
            ("b2", 2, "net-b"),
        ] {
            pods.push((network, serving(cluster, node, name, network).await?));
        }
        for (from_network, from) in &pods {
            for (to_network, to) in &pods {
                if from.name() == to.name() {
                    continue;
                }
                let mut targets = to.addresses(cluster.client(), "eth1").await?;
                targets.push(to.link_local("eth1")?);
                let own = from.addresses(cluster.client(), "eth1").await?;
                for target in targets.iter().filter(|t| !own.contains(t)) {
                    // A positive cell of the same target is its control: the mesh has one for every target.
                    let expected = from_network == to_network;
                    let got = if expected {
                        reaches(from, "eth1", target, to, "eth1")?
                    } else {
                        silent(from, target, to)?
                    };
                    assert_eq!(got, expected, "{} -> {} at {target}", from.name(), to.name());
                }
            }
        }
        cluster.delete_pods(pods.into_iter().map(|(_, pod)| pod).collect()).await
    })
}

/// A negative cell, in half a second; `true` if `other` answered all the same.
fn silent(from: &RunningPod, target: &str, other: &RunningPod) -> Result<bool> {
    let said = from.probe(&[
        "probe",
        "--interface",
        "eth1",
        "--target",
        target,
        "--tries",
        "2",
        "--timeout-ms",
        "250",
    ])?;
    Ok(said["answered_by"]["pod_uid"] == other.uid())
}

#[test]
fn equal_addresses_on_two_vlans_are_told_apart_even_within_one_pod() -> Result<()> {
    SUITE.test(async |cluster| {
        let ask = |network: &str| format!(r#"[{{"name": "{network}", "ips": ["10.100.0.77"]}}]"#);
        let holder_a = serving(cluster, 1, "holder-a", &ask("net-a")).await?;
        let holder_b = serving(cluster, 2, "holder-b", &ask("net-b")).await?;
        let both = serving(cluster, 2, "both", "net-a,net-b").await?;
        assert!(reaches(&both, "eth1", "10.100.0.77", &holder_a, "eth1")?);
        assert!(reaches(&both, "eth2", "10.100.0.77", &holder_b, "eth1")?);
        // Long enough for the probe of duplicate addresses to have reported.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        for name in ["holder-a", "holder-b", "both"] {
            let events = events_about(cluster.client(), "Pod", name).await?;
            assert!(events.iter().all(|(reason, _)| reason != "AddressConflict"), "{events:?}");
        }
        cluster.delete_pods(vec![holder_a, holder_b, both]).await
    })
}

#[test]
fn a_real_address_conflict_is_reported() -> Result<()> {
    SUITE.test(async |cluster| {
        let squatter = cluster.run_pod(2, &PodSpec::with_networks("squatter", "net-a")).await?;
        squatter.sandbox.netns.ip("addr add 10.100.0.88/24 dev eth1")?;
        let ask = r#"[{"name": "net-a", "ips": ["10.100.0.88"]}]"#;
        let pod = cluster.run_pod(1, &PodSpec::with_networks("robbed", ask)).await?;
        let message = wait::until("the conflict is reported", Duration::from_secs(10), async || {
            let events = events_about(cluster.client(), "Pod", "robbed").await?;
            Ok(events.into_iter().find(|(reason, _)| reason == "AddressConflict").map(|(_, message)| message))
        })
        .await?;
        assert!(message.contains("10.100.0.88"), "{message}");
        cluster.delete_pods(vec![squatter, pod]).await
    })
}

#[test]
fn pings_of_exactly_the_mtu_cross_nodes_and_one_byte_more_is_refused() -> Result<()> {
    SUITE.test(async |cluster| {
        for (network, mtu) in [("net-a", 1500), ("small", 1300)] {
            let from = cluster.run_pod(1, &PodSpec::with_networks(&format!("from-{mtu}"), network)).await?;
            let to = cluster.run_pod(2, &PodSpec::with_networks(&format!("to-{mtu}"), network)).await?;
            for target in to.addresses(cluster.client(), "eth1").await? {
                for (size, passes) in [(mtu, true), (mtu + 1, false)] {
                    let said = from.probe(&[
                        "ping-df",
                        "--interface",
                        "eth1",
                        "--target",
                        &target,
                        "--size",
                        &size.to_string(),
                    ])?;
                    assert_eq!(
                        (&said["answered"], &said["too_big"]),
                        (&json!(passes), &json!(!passes)),
                        "{target}: {said}"
                    );
                }
            }
            cluster.delete_pods(vec![from, to]).await?;
        }
        Ok(())
    })
}

#[test]
fn ten_megabytes_cross_nodes_both_ways_unharmed() -> Result<()> {
    SUITE.test(async |cluster| {
        // It was on before the agent took the NIC; only the userspace datapath does not bear it.
        let kernel = datapath() == "system";
        assert_eq!(offloads(cluster.node(1).netns(), "up1", "generic-receive-offload")?, kernel);
        let one = cluster.run_pod(1, &PodSpec::with_networks("one", "net-a")).await?;
        let two = cluster.run_pod(2, &PodSpec::with_networks("two", "net-a")).await?;
        for (from, to) in [(&one, &two), (&two, &one)] {
            assert_eq!(offloads(&from.sandbox.netns, "eth1", "tx-checksumming")?, kernel);
            for target in to.addresses(cluster.client(), "eth1").await? {
                let (sent, received) = from.transfer(cluster.run(), to, &target)?;
                assert_eq!((&sent["sha256"], &sent["bytes"]), (&received["sha256"], &json!(10_000_000)));
                let seconds = sent["seconds"].as_f64().context("no time")?;
                assert!(seconds < 20.0 * f64::from(wait::patience()), "{target}: 10 MB took {seconds} s");
            }
        }
        cluster.delete_pods(vec![one, two]).await
    })
}

#[test]
fn untagged_pods_reach_each_other_across_nodes() -> Result<()> {
    SUITE.test(async |cluster| {
        let one = serving(cluster, 1, "u1", "untagged").await?;
        let two = serving(cluster, 2, "u2", "untagged").await?;
        assert!(reaches(&one, "eth1", &two.link_local("eth1")?, &two, "eth1")?);
        assert!(reaches(&two, "eth1", &one.link_local("eth1")?, &one, "eth1")?);
        cluster.delete_pods(vec![one, two]).await
    })
}

#[test]
fn two_uplinks_with_disjoint_vlans_carry_each_its_own() -> Result<()> {
    SUITE.test(async |cluster| {
        for (here, there) in [("split-600", "left-600"), ("split-700", "right-700")] {
            let one = serving(cluster, 1, &format!("one-{here}"), here).await?;
            let two = serving(cluster, 2, &format!("two-{here}"), there).await?;
            assert!(reaches(&one, "eth1", &two.link_local("eth1")?, &two, "eth1")?, "{here}");
            cluster.delete_pods(vec![one, two]).await?;
        }
        Ok(())
    })
}

#[test]
fn a_node_without_the_nic_is_ready_and_says_what_it_lacks() -> Result<()> {
    SUITE.test(async |cluster| {
        cluster.node(3).agent_http("/readyz")?;
        let events = events_about(cluster.client(), "Node", "n3").await?;
        let missing = events.iter().find(|(reason, _)| reason == "UplinkMissing");
        assert!(missing.is_some_and(|(_, message)| message.contains("up1")), "{events:?}");
        let spec = PodSpec::with_networks("unlucky", "untagged");
        let object = trunkline_e2e::objects::create_pod(cluster.client(), &spec, "n3").await?;
        let error = cluster.try_pod(cluster.node(3), &object).await?.err().context("it was attached")?;
        assert!(error.msg.contains("up1") && error.msg.contains("n3"), "{error}");
        // The NIC appears: the bridge heals by itself.
        cluster.switch().plug_fabric(cluster.node(3).netns(), "up1", 1)?;
        let node = cluster.node(3).clone();
        let pod = cluster.start_pod(&node, object, Duration::from_secs(45)).await?;
        cluster.delete_pod(pod).await?;
        node.netns().ip("link del up1").map(drop)
    })
}
