//! One node: what a pod asks for it gets, exactly, and gives back.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use trunkline_e2e::fixtures::{ipam, network, pool};
use trunkline_e2e::light::{LightCluster, LightOptions, NodeOptions, network_status};
use trunkline_e2e::objects::{self, PodSpec, events_about};
use trunkline_e2e::suite::Suite;

static SUITE: Suite = Suite::new("attach", options, setup);

fn options() -> LightOptions {
    let two_bridges = NodeOptions {
        uplinks: vec![("up1".to_owned(), 1), ("up2".to_owned(), 2)],
        bridges: r#"[{"bridgeName": "br-one", "physicalInterfaces": ["up1"]},
            {"bridgeName": "br-two", "physicalInterfaces": ["up2"]}]"#
            .replace('\n', " "),
        // What may still come is waited for; here it never does.
        more: "cniTimeoutSeconds: 6\n".to_owned(),
        ..NodeOptions::default()
    };
    LightOptions { nodes: vec![two_bridges], ..LightOptions::nodes(1) }
}

fn setup(cluster: &LightCluster) -> Result<()> {
    let on_one = |vlan: u16| json!({"bridge": "br-one", "vlan": vlan});
    let with = |mut keys: serde_json::Value, key: &str, value: serde_json::Value| {
        keys[key] = value;
        keys
    };
    let all = [
        pool("v4", "10.100.0.10", "10.100.0.99", "10.100.0.1", 24, 100),
        pool("v6", "fd00:100::10", "fd00:100::99", "fd00:100::1", 64, 100),
        network("default", "l2", &on_one(50)),
        network("default", "l2-untagged", &on_one(0)),
        network("default", "dual", &json!({"bridge": "br-one", "ipam": ipam(&["v4", "v6"])})),
        network("default", "override", &with(on_one(300), "ipam", ipam(&["v4"]))),
        network("default", "small", &with(on_one(50), "mtu", 1300.into())),
        network("default", "two", &json!({"bridge": "br-two", "vlan": 60})),
        network("default", "nowhere", &json!({"bridge": "br-three", "vlan": 60})),
        network("default", "which", &json!({"vlan": 60})),
        network("default", "mapped", &json!({"bridge": "br-one", "capabilities": {"portMappings": true}})),
        network("default", "large", &json!({"bridge": "br-one", "mtu": 9000})),
    ];
    cluster.apply(&all.concat())
}

#[test]
fn a_layer_two_pod_is_attached_and_gives_everything_back() -> Result<()> {
    SUITE.test(async |cluster| {
        let pod = cluster.run_pod(1, &PodSpec::with_networks("l2", "l2")).await?;
        let ports = cluster.node(1).ovs().pod_ports()?;
        assert_eq!(ports.len(), 1, "{ports:?}");
        let ovs = cluster.node(1).ovs();
        assert_eq!(ovs.vsctl(&["get", "Port", &ports[0], "tag"])?.trim(), "50");
        assert_eq!(ovs.vsctl(&["port-to-br", &ports[0]])?.trim(), "br-one");
        assert_eq!(ovs.port_id(&ports[0], "trunkline-pod-uid")?, pod.uid());
        assert_eq!(ovs.port_id(&ports[0], "trunkline-nad")?, "default/l2");
        assert_eq!(ovs.port_id(&ports[0], "trunkline-interface")?, "eth1");
        assert!(ovs.port_id(&ports[0], "trunkline-attach-ms")?.parse::<u32>().is_ok());
        let link = pod.link("eth1")?;
        assert_eq!((&link["mtu"], &link["operstate"]), (&json!(1500), &json!("UP")), "{link}");
        pod.link_local("eth1")?;
        cluster.delete_pod(pod).await
    })
}

#[test]
fn an_attachment_that_fails_late_takes_back_its_addresses_and_its_status() -> Result<()> {
    SUITE.test(async |cluster| {
        let node = cluster.node(1).clone();
        let spec = PodSpec::with_networks("hung", "dual");
        let object = objects::create_pod(cluster.client(), &spec, node.name()).await?;
        // The switch hangs: addresses are claimed and told, and the port never opens.
        node.ovs().hang_switch(true);
        let outcome = cluster.try_pod(&node, &object).await;
        node.ovs().hang_switch(false);
        let Err(error) = outcome? else { anyhow::bail!("attached by a switch that hangs") };
        assert!(error.msg.contains("waited for Open vSwitch to open it"), "{error:?}");
        let status = network_status(cluster.client(), &object).await?;
        let interfaces: Vec<_> = status.iter().map(|entry| &entry["interface"]).collect();
        assert_eq!(interfaces, ["eth0"], "{status:?}");
        assert_eq!(objects::allocations(cluster.client()).await?.len(), 0);
        let pod = cluster.start_pod(&node, object, Duration::from_mins(1)).await?;
        assert_eq!(pod.network_status(cluster.client()).await?.len(), 2);
        cluster.delete_pod(pod).await
    })
}

#[test]
fn a_pod_that_asks_for_nothing_gets_its_primary_network_only() -> Result<()> {
    SUITE.test(async |cluster| {
        let pod = cluster.run_pod(1, &PodSpec::plain("plain")).await?;
        assert_eq!(pod.sandbox.netns.links()?, ["eth0", "lo"]);
        assert_eq!(cluster.node(1).ovs().pod_ports()?, Vec::<String>::new());
        cluster.delete_pod(pod).await
    })
}

#[test]
fn network_status_says_exactly_what_the_pod_has() -> Result<()> {
    SUITE.test(async |cluster| {
        let pod = cluster.run_pod(1, &PodSpec::with_networks("status", "dual")).await?;
        let status = pod.network_status(cluster.client()).await?;
        assert_eq!(status.len(), 2, "{status:?}");
        let primary = pod.link("eth0")?;
        let address = primary["addr_info"][0]["local"].clone();
        assert_eq!(status[0]["default"], true);
        assert_eq!(
            (&status[0]["name"], &status[0]["interface"], &status[0]["ips"], &status[0]["mac"]),
            (&json!("primary"), &json!("eth0"), &json!([address]), &primary["address"])
        );
        let link = pod.link("eth1")?;
        let global: Vec<_> = link["addr_info"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|a| a["scope"] == "global")
            .map(|a| a["local"].clone())
            .collect();
        assert_eq!(global.len(), 2, "{link}");
        let expected = json!({
            "name": "default/dual",
            "interface": "eth1",
            "ips": global,
            "mac": link["address"],
            "mtu": 1500,
            "gateway": ["10.100.0.1", "fd00:100::1"],
        });
        assert_eq!(status[1], expected);
        assert_eq!(objects::allocations(cluster.client()).await?.len(), 2);
        cluster.delete_pod(pod).await
    })
}

#[test]
fn one_normal_event_tells_what_a_pod_got() -> Result<()> {
    SUITE.test(async |cluster| {
        let pod = cluster.run_pod(1, &PodSpec::with_networks("told", "dual")).await?;
        let addresses = pod.addresses(cluster.client(), "eth1").await?;
        let events =
            trunkline_e2e::wait::until("the Event", std::time::Duration::from_secs(10), async || {
                let events = events_about(cluster.client(), "Pod", "told").await?;
                Ok((!events.is_empty()).then_some(events))
            })
            .await?;
        let (reason, message) = &events[0];
        assert_eq!((events.len(), reason.as_str()), (1, "AttachedNetworks"), "{events:?}");
        for part in ["eth1", "default/dual", "100", &addresses[0], &addresses[1]] {
            assert!(message.contains(part), "{message} lacks {part}");
        }
        cluster.delete_pod(pod).await
    })
}

#[test]
fn the_vlan_is_the_pools_unless_the_network_says_another() -> Result<()> {
    SUITE.test(async |cluster| {
        let cases = [("dual", "100"), ("override", "300"), ("l2-untagged", "[]")];
        for (number, (name, tag)) in cases.into_iter().enumerate() {
            let pod = cluster.run_pod(1, &PodSpec::with_networks(&format!("vlan-{number}"), name)).await?;
            let ovs = cluster.node(1).ovs();
            let port = ovs.pod_ports()?.into_iter().next().context("no port")?;
            assert_eq!(ovs.vsctl(&["get", "Port", &port, "tag"])?.trim(), tag, "network {name}");
            cluster.delete_pod(pod).await?;
        }
        Ok(())
    })
}

#[test]
fn requested_name_and_mac_are_honoured() -> Result<()> {
    SUITE.test(async |cluster| {
        let ask = r#"[{"name": "l2", "interface": "data0", "mac": "02:00:00:00:00:77"}, {"name": "l2"}]"#;
        let pod = cluster.run_pod(1, &PodSpec::with_networks("named", ask)).await?;
        assert_eq!(pod.sandbox.netns.links()?, ["data0", "eth0", "eth1", "lo"]);
        assert_eq!(pod.link("data0")?["address"], "02:00:00:00:00:77");
        let status = pod.network_status(cluster.client()).await?;
        assert_eq!(status[1]["mac"], "02:00:00:00:00:77");
        cluster.delete_pod(pod).await
    })
}

#[test]
fn requested_addresses_are_honoured_or_refused() -> Result<()> {
    SUITE.test(async |cluster| {
        let ask = r#"[{"name": "dual", "ips": ["10.100.0.42/24"]}]"#;
        let pod = cluster.run_pod(1, &PodSpec::with_networks("asked", ask)).await?;
        assert!(pod.addresses(cluster.client(), "eth1").await?.contains(&"10.100.0.42".to_owned()));
        let object =
            objects::create_pod(cluster.client(), &PodSpec::with_networks("late", ask), "n1").await?;
        let refused =
            cluster.try_pod(cluster.node(1), &object).await?.err().context("the address was given twice")?;
        assert!(refused.msg.contains("10.100.0.42"), "{refused}");
        objects::delete_pod(cluster.client(), "default", "late").await?;
        cluster.delete_pod(pod).await
    })
}

#[test]
fn a_smaller_mtu_is_set_and_a_larger_one_than_the_uplinks_is_refused() -> Result<()> {
    SUITE.test(async |cluster| {
        let pod = cluster.run_pod(1, &PodSpec::with_networks("small", "small")).await?;
        assert_eq!(pod.link("eth1")?["mtu"], 1300);
        cluster.delete_pod(pod).await?;
        refused(cluster, "large", &["9000", "1500", "br-one"]).await
    })
}

#[test]
fn two_bridges_are_told_apart_by_the_networks_bridge_key() -> Result<()> {
    SUITE.test(async |cluster| {
        let pod = cluster.run_pod(1, &PodSpec::with_networks("both", "l2,two")).await?;
        let ovs = cluster.node(1).ovs();
        let mut bridges = Vec::new();
        for port in ovs.pod_ports()? {
            bridges.push((
                ovs.port_id(&port, "trunkline-nad")?,
                ovs.vsctl(&["port-to-br", &port])?.trim().to_owned(),
            ));
        }
        bridges.sort();
        let expected = [("default/l2", "br-one"), ("default/two", "br-two")];
        assert_eq!(bridges, expected.map(|(nad, bridge)| (nad.to_owned(), bridge.to_owned())));
        cluster.delete_pod(pod).await?;
        refused(cluster, "which", &["br-one", "br-two", "bridge"]).await?;
        refused(cluster, "nowhere", &["br-three", "n1"]).await
    })
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() -> Result<()> {
    SUITE.test(async |cluster| {
        refused(cluster, "mapped", &["capabilities"]).await?;
        refused(cluster, "absent", &["absent"]).await?;
        let cases = [
            (r#"[{"name": "l2", "bandwidth": {"ingressRate": 1}}]"#, "bandwidth"),
            (r#"[{"name": "l2", "default-route": ["10.0.0.1"]}]"#, "default-route"),
            (r#"[{"name": "l2", "portMappings": [{"hostPort": 1, "containerPort": 1}]}]"#, "portMappings"),
            (r#"[{"name": "l2", "infiniband-guid": "c2:11:22:33:44:55:66:77"}]"#, "infiniband-guid"),
            (r#"[{"name": "l2", "interface": "eth0"}]"#, "eth0"),
        ];
        for (annotation, word) in cases {
            refused(cluster, annotation, &[word]).await?;
        }
        Ok(())
    })
}

/// Asserts that ADD fails with a message that holds these words, and that a Warning Event tells the pod's owner.
async fn refused(cluster: &LightCluster, networks: &str, words: &[&str]) -> Result<()> {
    let name = format!("refused-{:08x}", rand::random::<u32>());
    let object =
        objects::create_pod(cluster.client(), &PodSpec::with_networks(&name, networks), "n1").await?;
    let answer = cluster.try_pod(cluster.node(1), &object).await?;
    let error = answer.err().with_context(|| format!("{networks} was accepted"))?;
    for word in words {
        assert!(error.msg.contains(word), "{networks}: {error} lacks {word}");
    }
    objects::delete_pod(cluster.client(), "default", &name).await
}
