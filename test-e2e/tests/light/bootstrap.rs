//! Whose pods start when nothing of ours runs, whose wait, and how our conflist lives beside others.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::ResourceExt as _;
use serde_json::{Value, json};
use trunkline_e2e::fixtures::{ipam, network, pool};
use trunkline_e2e::light::{LightCluster, LightNode, LightOptions, NodeOptions};
use trunkline_e2e::objects::{self, PodSpec, events_about};
use trunkline_e2e::runtime::{PodRef, Sandbox};
use trunkline_e2e::suite::Suite;
use trunkline_e2e::wait;

static SUITE: Suite = Suite::new("bootstrap", options, setup);

/// The second node's primary speaks CNI 1.1.0, as containerd 2 prefers.
fn options() -> LightOptions {
    let modern = NodeOptions { cni_version: "1.1.0".to_owned(), ..NodeOptions::default() };
    LightOptions { nodes: vec![NodeOptions::default(), modern], ..LightOptions::nodes(0) }
}

fn setup(cluster: &LightCluster) -> Result<()> {
    let all = [
        pool("a4", "10.100.0.10", "10.100.0.250", "10.100.0.1", 24, 100),
        network("default", "net", &json!({"ipam": ipam(&["a4"])})),
        network("default", "l2", &json!({"vlan": 50})),
    ];
    cluster.apply(&all.concat())
}

async fn back(cluster: &LightCluster, number: usize) -> Result<()> {
    cluster.node(number).start_agent(cluster.plane())?;
    cluster.node(number).wait_agent_ready().await
}

#[test]
fn pods_that_ask_for_nothing_start_without_agent_and_controller() -> Result<()> {
    SUITE.test(async |cluster| {
        for number in [1, 2] {
            cluster.node(number).kill_agent();
            cluster.controller(1).kill();
            let pod = cluster
                .run_pod_within(number, &PodSpec::plain(&format!("plain-{number}")), Duration::ZERO)
                .await?;
            assert_eq!(pod.failures.len(), 0);
            cluster.delete_pod(pod).await?;
            cluster.controller(1).start(cluster.plane())?;
            back(cluster, number).await?;
        }
        Ok(())
    })
}

#[test]
fn a_static_pod_starts_with_the_api_server_down_too() -> Result<()> {
    SUITE.test(async |cluster| {
        cluster.node(1).kill_agent();
        cluster.plane().stop_apiserver();
        let uid = "0123456789abcdef0123456789abcdef".to_owned();
        let pod =
            PodRef { namespace: "kube-system".into(), name: "static".into(), uid, annotations: [].into() };
        let sandbox = Sandbox::create(cluster.run(), pod)?;
        let runtime = cluster.node(1).runtime()?;
        runtime.add(&sandbox)??;
        runtime.del(&sandbox)??;
        drop(sandbox);
        cluster.plane().start_apiserver()?;
        cluster.plane().wait_ready().await?;
        back(cluster, 1).await
    })
}

#[test]
fn an_annotated_pod_waits_for_the_agent_and_never_runs_without_its_interfaces() -> Result<()> {
    SUITE.test(async |cluster| {
        cluster.node(1).kill_agent();
        let spec = PodSpec::with_networks("patient", "net");
        let starting = cluster.run_pod_within(1, &spec, Duration::from_secs(90));
        let returning = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert_eq!(cluster.node(1).ovs().pod_ports()?.len(), 0);
            back(cluster, 1).await
        };
        let (pod, returned) = futures::join!(starting, returning);
        returned?;
        let pod = pod?;
        assert!(pod.sandbox.netns.links()?.contains(&"eth1".to_owned()));
        cluster.delete_pod(pod).await
    })
}

#[test]
fn a_deletion_does_not_wait_for_the_agent_and_is_made_good_later() -> Result<()> {
    SUITE.test(async |cluster| {
        let pod = cluster.run_pod(1, &PodSpec::with_networks("leaver", "net")).await?;
        cluster.node(1).kill_agent();
        cluster.delete_pod(pod).await?;
        // Ports and addresses are given back once the agent is there; the suite checks that they are.
        back(cluster, 1).await
    })
}

#[test]
fn status_succeeds_while_the_agent_is_away() -> Result<()> {
    SUITE.test(async |cluster| {
        cluster.node(2).kill_agent();
        cluster.node(2).runtime()?.status("trunkline-cni")??;
        back(cluster, 2).await
    })
}

#[test]
fn a_pod_older_than_the_agent_is_deleted_through_the_new_chain() -> Result<()> {
    SUITE.test(async |cluster| {
        let node = cluster.node(1);
        node.stop_agent();
        fs::remove_file(node.conf_dir().join("00-trunkline.conflist"))?;
        let pod = cluster.run_pod(1, &PodSpec::plain("elder")).await?;
        let address = pod.result["ips"][0]["address"]
            .as_str()
            .context("no address")?
            .split('/')
            .next()
            .map(str::to_owned);
        let leased = cluster.run().dir().join("n1/host-local/primary").join(address.context("no address")?);
        assert!(leased.exists(), "{}", leased.display());
        back(cluster, 1).await?;
        cluster.delete_pod(pod).await?;
        assert!(!leased.exists(), "the primary's address was not returned");
        Ok(())
    })
}

#[test]
fn a_host_network_pod_that_asks_is_told_that_it_gets_nothing() -> Result<()> {
    SUITE.test(async |cluster| {
        let spec = PodSpec { host_network: true, ..PodSpec::with_networks("hosted", "net") };
        let object = objects::create_pod(cluster.client(), &spec, "n1").await?;
        wait::until("the Event", Duration::from_secs(15), async || {
            let events = events_about(cluster.client(), "Pod", "hosted").await?;
            Ok(events.iter().any(|(reason, _)| reason == "HostNetworkPodIgnored").then_some(()))
        })
        .await?;
        objects::delete_pod(cluster.client(), "default", &object.name_any()).await
    })
}

/// Our conflist once `accept` holds for it.
async fn conflist(node: &LightNode, what: &str, accept: impl Fn(&Value) -> bool) -> Result<Value> {
    let path = node.conf_dir().join("00-trunkline.conflist");
    wait::until(what, Duration::from_secs(15), async || {
        let Ok(text) = fs::read(&path) else { return Ok(None) };
        Ok(serde_json::from_slice(&text).ok().filter(|list| accept(list)))
    })
    .await
}

fn types(list: &Value) -> Vec<String> {
    let plugins = list["plugins"].as_array().into_iter().flatten();
    plugins.map(|p| p["type"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn our_conflist_is_the_primarys_with_our_entry_last_and_follows_its_changes() -> Result<()> {
    SUITE.test(async |cluster| {
        let node = cluster.node(2);
        let list = conflist(node, "our conflist", |_| true).await?;
        assert_eq!((&list["name"], &list["cniVersion"]), (&json!("primary"), &json!("1.1.0")));
        assert_eq!(types(&list), ["bridge", "trunkline-cni"]);
        let ours = &list["plugins"][1];
        assert_eq!(ours["capabilities"]["io.kubernetes.cri.pod-annotations"], true, "{ours}");
        let path = node.conf_dir().join("10-primary.conflist");
        let mut source: Value = serde_json::from_slice(&fs::read(&path)?)?;
        assert_eq!(types(&source), ["bridge"], "another installer's file was edited");
        source["plugins"][0]["mtu"] = 1400.into();
        source["disableCheck"] = true.into();
        fs::write(&path, source.to_string())?;
        let list = conflist(node, "the change is followed", |list| list["plugins"][0]["mtu"] == 1400).await?;
        assert_eq!(list["disableCheck"], true);
        node.write_primary()?;
        conflist(node, "the change back is followed", |list| list["plugins"][0]["mtu"].is_null())
            .await
            .map(drop)
    })
}

#[test]
fn a_plugin_chained_into_our_file_is_kept_when_the_source_is_rewritten() -> Result<()> {
    SUITE.test(async |cluster| {
        let node = cluster.node(2);
        let path = node.conf_dir().join("00-trunkline.conflist");
        let mut list = conflist(node, "our conflist", |_| true).await?;
        list["plugins"].as_array_mut().context("plugins")?.push(json!({"type": "loopback", "name": "guest"}));
        fs::write(&path, list.to_string())?;
        let source = node.conf_dir().join("10-primary.conflist");
        let mut changed: Value = serde_json::from_slice(&fs::read(&source)?)?;
        changed["plugins"][0]["mtu"] = 1400.into();
        fs::write(&source, changed.to_string())?;
        let list = conflist(node, "the rewritten conflist", |list| list["plugins"][0]["mtu"] == 1400).await?;
        let kept = types(&list);
        assert!(
            kept.contains(&"loopback".to_owned()) && kept.contains(&"trunkline-cni".to_owned()),
            "{kept:?}"
        );
        // Back to what the other tests expect.
        node.stop_agent();
        fs::remove_file(&path)?;
        node.write_primary()?;
        back(cluster, 2).await
    })
}
