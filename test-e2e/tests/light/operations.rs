//! What an operator does to a running cluster: changes of the configuration, and a controller less.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;
use serde_json::json;
use trunkline_e2e::fixtures::{ipam, network, pool};
use trunkline_e2e::light::{LightCluster, LightOptions, NodeOptions, RunningPod};
use trunkline_e2e::objects::{PodSpec, events_about};
use trunkline_e2e::suite::Suite;
use trunkline_e2e::{paths, process, wait};

static SUITE: Suite = Suite::new("operations", options, setup);

fn options() -> LightOptions {
    let two =
        NodeOptions { uplinks: vec![("up1".to_owned(), 1), ("up2".to_owned(), 2)], ..NodeOptions::default() };
    LightOptions { nodes: vec![two], controllers: 2, ..LightOptions::nodes(0) }
}

fn setup(cluster: &LightCluster) -> Result<()> {
    let all = [
        pool("a4", "10.100.0.10", "10.100.0.250", "10.100.0.1", 24, 100),
        network("default", "net", &json!({"bridge": "br-secondary", "ipam": ipam(&["a4"])})),
        network("default", "new", &json!({"bridge": "br-new", "vlan": 50})),
    ];
    cluster.apply(&all.concat())
}

#[test]
fn a_wrong_configuration_is_refused_with_exit_64_key_and_line() -> Result<()> {
    SUITE.test(async |cluster| {
        let cases = [
            (
                "secondaryNetwork:\n  ovsBridges:\n  - bridgeName: br-loop\n    physicalInterfaces:\n    \
                 - {name: up1, allowedVLANs: [\"100-200\"]}\n    - {name: up2, allowedVLANs: [\"200\"]}\n",
                "parallelUplinks",
            ),
            ("featureGates:\n  SecondaryNetwerk: true\n", "SecondaryNetwerk"),
            ("ovsRunDir: relative\n", "ovsRunDir"),
        ];
        let file = cluster.run().dir().join("checked.conf");
        for (text, word) in cases {
            fs::write(&file, text)?;
            let mut command = Command::new(paths::binary("trunkline-agent")?);
            command.args(["--check-config", "--node-name", "n1", "--config"]).arg(&file);
            let done = process::raw_output(&mut command)?;
            let said =
                String::from_utf8_lossy(&done.stderr).into_owned() + &String::from_utf8_lossy(&done.stdout);
            assert_eq!(done.status.code(), Some(64), "{text}: {said}");
            assert!(said.contains(word) && said.contains("line"), "{text}: {said}");
        }
        Ok(())
    })
}

#[test]
fn a_bad_change_leaves_the_last_good_configuration_and_a_good_one_needs_no_restart() -> Result<()> {
    SUITE.test(async |cluster| {
        let node = cluster.node(1);
        node.reconfigure(|options| options.more = "noSuchKey: 1\n".to_owned())?;
        let message = wait::until("the bad configuration is reported", Duration::from_secs(30), async || {
            let events = events_about(cluster.client(), "Node", "n1").await?;
            Ok(events.into_iter().find(|(reason, _)| reason == "ConfigInvalid").map(|(_, message)| message))
        })
        .await?;
        assert!(message.contains("noSuchKey"), "{message}");
        node.agent_http("/readyz")?;
        let pod = cluster.run_pod(1, &PodSpec::with_networks("undisturbed", "net")).await?;
        cluster.delete_pod(pod).await?;
        node.reconfigure(|options| {
            options.more.clear();
            options.bridges = r#"[{"bridgeName": "br-secondary", "physicalInterfaces": ["up1"]}, {"bridgeName": "br-new", "physicalInterfaces": ["up2"]}]"#.to_owned();
        })?;
        let pod = cluster.run_pod(1, &PodSpec::with_networks("new", "new")).await?;
        assert_eq!(node.ovs().ports("br-new")?.len(), 2);
        cluster.delete_pod(pod).await
    })
}

#[test]
fn another_controller_takes_over_when_the_leader_stops() -> Result<()> {
    SUITE.test(async |cluster| {
        let first = cluster.run_pod(1, &PodSpec::with_networks("first", "net")).await?;
        let leases: Api<Lease> = Api::namespaced(cluster.client().clone(), "trunkline-system");
        let holder = async || -> Result<String> {
            let lease = leases.get("trunkline-controller").await?;
            lease.spec.and_then(|spec| spec.holder_identity).context("nobody leads")
        };
        let leader = holder().await?;
        let number = if leader.contains("controller-1") { 1 } else { 2 };
        cluster.controller(number).stop();
        let second = cluster.run_pod(1, &PodSpec::with_networks("second", "net")).await?;
        let successor = holder().await?;
        assert_ne!(successor, leader);
        let addresses = |pod| RunningPod::addresses(pod, cluster.client(), "eth1");
        assert_ne!(addresses(&first).await?, addresses(&second).await?);
        cluster.controller(number).start(cluster.plane())?;
        cluster.controller(number).wait_live().await?;
        cluster.delete_pods(vec![first, second]).await
    })
}
