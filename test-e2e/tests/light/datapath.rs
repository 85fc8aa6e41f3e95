//! Which datapath bridges run on: the one that the configuration asks for, and offloads as it bears them.
//!
//! Says the same of both kinds. Run where the kernel has the openvswitch module, it is what proves that every other
//! test there is about the kernel's datapath.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use trunkline_e2e::light::node::{datapath, offloads};
use trunkline_e2e::light::{LightNode, NodeOptions};
use trunkline_e2e::objects::PodSpec;
use trunkline_e2e::wait;

use crate::isolation::SUITE;

/// Where a loaded module shows.
const MODULE: &str = "/sys/module/openvswitch";

/// What OVSDB says of a bridge's datapath.
fn datapath_of(node: &LightNode, bridge: &str) -> Result<String> {
    Ok(node.ovs().vsctl(&["get", "Bridge", bridge, "datapath_type"])?.trim().trim_matches('"').to_owned())
}

/// The lines of `dpctl/show` about one datapath, empty if vswitchd has none of the name.
fn shown(node: &LightNode, name: &str) -> Result<Vec<String>> {
    let text = node.ovs().appctl(&["dpctl/show"])?;
    let rest = text.lines().skip_while(|line| *line != format!("{name}:"));
    Ok(rest.skip(1).take_while(|line| line.starts_with(' ')).map(|line| line.trim().to_owned()).collect())
}

#[test]
fn packets_take_the_datapath_that_was_asked_for_and_offloads_follow_it() -> Result<()> {
    SUITE.test(async |cluster| {
        let (kind, node) = (datapath(), cluster.node(1));
        assert_eq!(datapath_of(node, "br-secondary")?, kind);
        let one = cluster.run_pod(1, &PodSpec::with_networks("one", "tagged")).await?;
        let two = cluster.run_pod(2, &PodSpec::with_networks("two", "tagged")).await?;
        let target = two.addresses(cluster.client(), "eth1").await?.remove(0);
        let said = one.probe(&["ping-df", "--interface", "eth1", "--target", &target, "--size", "1500"])?;
        assert_eq!(said["answered"], json!(true), "{said}");
        let port = node.ovs().pod_ports()?.pop().context("no port")?;
        let lines = shown(node, &format!("{kind}@ovs-{kind}"))?;
        for name in ["br-secondary", "up1", &port] {
            let there = lines.iter().any(|line| line.split(' ').nth(2) == Some(name));
            assert!(there, "{name} is not on {kind}@ovs-{kind}: {lines:?}");
        }
        assert_eq!(node.netns().links()?.contains(&"ovs-system".to_owned()), kind == "system");
        for pod in [&one, &two] {
            let on = offloads(&pod.sandbox.netns, "eth1", "tx-checksumming")?;
            assert_eq!(on, kind == "system", "{}", pod.name());
        }
        cluster.delete_pods(vec![one, two]).await
    })
}

#[test]
fn conversations_outlive_vswitchd_on_the_kernels_datapath_only() -> Result<()> {
    SUITE.test(async |cluster| {
        let (kernel, node) = (datapath() == "system", cluster.node(1));
        let one = cluster.run_pod(1, &PodSpec::with_networks("one", "tagged")).await?;
        let two = cluster.run_pod(2, &PodSpec::with_networks("two", "tagged")).await?;
        let target = two.addresses(cluster.client(), "eth1").await?.remove(0);
        let timeout = (300 * wait::patience()).to_string();
        let ask = [
            "ping-df",
            "--interface",
            "eth1",
            "--size",
            "100",
            "--timeout-ms",
            &timeout,
            "--target",
            &target,
        ];
        assert_eq!(one.probe(&ask)?["answered"], json!(true));
        node.ovs().kill_switch();
        assert_eq!(one.probe(&ask)?["answered"], json!(kernel));
        node.ovs().start_switch(node.netns())?;
        wait::until("traffic flows again", Duration::from_secs(20), async || {
            Ok((one.probe(&ask)?["answered"] == true).then_some(()))
        })
        .await?;
        cluster.delete_pods(vec![one, two]).await
    })
}

#[test]
fn auto_takes_the_kernels_datapath_where_the_kernel_has_one() -> Result<()> {
    SUITE.test(async |cluster| {
        let node = cluster.node(2);
        cluster.switch().plug_fabric(node.netns(), "up9", 9)?;
        node.stop_agent();
        node.reconfigure(|options| {
            options.datapath = "auto".to_owned();
            options.bridges = r#"[{"bridgeName": "br-secondary", "physicalInterfaces": ["up1"]}, {"bridgeName": "br-auto", "physicalInterfaces": ["up9"]}]"#.to_owned();
        })?;
        node.start_agent(cluster.plane())?;
        node.wait_agent_ready().await?;
        let made = wait::until("the bridge is made", Duration::from_secs(30), async || {
            Ok(datapath_of(node, "br-auto").ok())
        })
        .await?;
        // The agent has tried to load it by now.
        assert_eq!(made, if Path::new(MODULE).exists() { "system" } else { "netdev" });
        // What was made before keeps what it was made with.
        assert_eq!(datapath_of(node, "br-secondary")?, datapath());
        node.stop_agent();
        node.ovs().vsctl(&["del-br", "br-auto"])?;
        node.netns().ip("link del up9")?;
        node.reconfigure(|options| *options = NodeOptions::default())?;
        node.start_agent(cluster.plane())?;
        node.wait_agent_ready().await
    })
}
