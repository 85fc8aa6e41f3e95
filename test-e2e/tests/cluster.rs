//! Two real nodes with kubelet, containerd 1.6 and containerd 2.3: what light nodes cannot show. Trunkline runs as
//! pods of its own images, installed by kubectl from `manifests/`.
//!
//! The tests share one cluster, each leaves it as it found it, and the run's guard process removes it at the end.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use trunkline_e2e::cluster::workload::{self, Workload};
use trunkline_e2e::cluster::{Cluster, ClusterNode, Registry};
use trunkline_e2e::demo::{self, Snapshot};

static CLUSTER: OnceCell<Mutex<Cluster>> = OnceCell::const_new();

/// Pods that run before Trunkline is there, and their nodes.
const EARLIER: [(&str, &str); 2] = [("earlier-1", "node-1"), ("earlier-2", "node-2")];

/// The cluster with Trunkline and the bridge in it, for one test at a time.
async fn installed() -> Result<MutexGuard<'static, Cluster>> {
    let make = || async {
        let cluster = Cluster::start("cluster").await?;
        for (name, node) in EARLIER {
            Workload::plain(name, node).create(&cluster)?;
        }
        workload::wait_running(&cluster, &EARLIER.map(|(name, _)| name)).await?;
        demo::install(&cluster).await?;
        for file in &demo::EXAMPLES[..3] {
            demo::apply_example(&cluster, file)?;
        }
        anyhow::Ok(Mutex::new(cluster))
    };
    Ok(CLUSTER.get_or_try_init(make).await?.lock().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_reach_their_own_vlan_and_no_other_and_leave_nothing() -> Result<()> {
    let cluster = installed().await?;
    let before = Snapshot::take(&cluster)?;
    let interfaces = demo::start_pods(&cluster).await?;
    ensure!(interfaces.len() == 10, "{} interfaces", interfaces.len());
    let outcomes = demo::probe_all(&cluster, &interfaces).await?;
    let wrong: Vec<_> = outcomes.iter().filter(|outcome| !outcome.is_right()).collect();
    ensure!(wrong.is_empty(), "{wrong:#?}");
    let find = |pod: &str| interfaces.iter().find(|i| i.pod == pod).context("an interface");
    demo::tcp(&cluster, find("red-b")?, find("red-a")?, 10_000_000).await?;
    let mut args = vec!["delete", "pod", "--wait=true", "--timeout=180s"];
    args.extend(demo::PODS);
    cluster.plane.kubectl(&args)?;
    let left = before.wait_until_back(&cluster).await?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_node_has_the_chain_in_the_version_of_its_primary() -> Result<()> {
    let cluster = installed().await?;
    for node in &cluster.nodes {
        let files = node.list("/etc/cni/net.d")?;
        ensure!(files.first().is_some_and(|file| file == "00-trunkline.conflist"), "{files:?}");
        let text = std::fs::read(node.path("/etc/cni/net.d/00-trunkline.conflist"))?;
        let conflist: Value = serde_json::from_slice(&text)?;
        let version = node.generation().conflist_version();
        ensure!(conflist["cniVersion"] == version, "{}: {}", node.name(), conflist["cniVersion"]);
        let types: Vec<_> =
            conflist["plugins"].as_array().into_iter().flatten().map(|p| &p["type"]).collect();
        ensure!(types == ["bridge", "trunkline-cni"], "{}: {types:?}", node.name());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_from_before_us_leaves_through_our_chain_and_returns_its_primary_address() -> Result<()> {
    let cluster = installed().await?;
    for (name, node) in EARLIER {
        let pod = workload::pod(&cluster, name)?.context("the pod")?;
        let address = pod["status"]["podIP"].as_str().context("its address")?.to_owned();
        let node = cluster.node(node)?;
        let held = |node: &ClusterNode| node.list("/var/lib/cni/networks/pods");
        ensure!(held(node)?.contains(&address), "{name}: host-local does not know {address}");
        workload::delete(&cluster, &[name]).await?;
        ensure!(!held(node)?.contains(&address), "{name}: {address} is still taken");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_users_manifests_work_byte_for_byte() -> Result<()> {
    let cluster = installed().await?;
    let archive = cluster.images.archive("trunkline-pause")?.to_owned();
    let _registry = Registry::serve(&cluster.plane, &archive)?;
    let name = "sample-pod-secondary-network-vlan";
    for (file, wanted) in [
        ("antrea/pod.yaml", &[("eth1", "default/vlan100"), ("eth200", "networks/vlan200")][..]),
        ("antrea/pod-short-form.yaml", &[("eth200", "networks/vlan200")][..]),
    ] {
        demo::apply_example(&cluster, file)?;
        demo::pods::wait_running(&cluster, &[name], Duration::from_mins(1)).await?;
        let interfaces = demo::pods::interfaces(&cluster, &[name])?;
        let got: Vec<_> = interfaces.iter().map(|i| (i.interface.as_str(), i.network.as_str())).collect();
        ensure!(got == wanted, "{file}: {got:?}");
        cluster.plane.kubectl(&[
            "delete",
            "pod",
            name,
            "--wait=true",
            "--timeout=180s",
            "--grace-period=1",
        ])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_ask_for_nothing_start_without_us_and_pods_that_ask_wait() -> Result<()> {
    let cluster = installed().await?;
    workload::stop_controllers(&cluster).await?;
    workload::stop_agents(&cluster).await?;
    let host = Workload { host_network: true, ..Workload::plain("host", "node-2") };
    Workload::plain("plain-1", "node-1").create(&cluster)?;
    Workload::plain("plain-2", "node-2").create(&cluster)?;
    Workload::plain("deployed", "").create_deployment(&cluster)?;
    host.create(&cluster)?;
    let asking = ["asks-1", "asks-2"];
    for (name, node) in asking.iter().zip(["node-1", "node-2"]) {
        Workload::with_networks(name, node, "vlan100").create(&cluster)?;
    }
    workload::wait_running(&cluster, &["plain-1", "plain-2", "deployed", "host"]).await?;
    // The controllers' own pods start where no agent is.
    workload::start_controllers(&cluster).await?;
    // containerd 2.3 asks our plugin for STATUS every 5 s; a refusal would show within 15 s.
    tokio::time::sleep(Duration::from_secs(16)).await;
    cluster.wait_nodes_ready().await?;
    for name in asking {
        let pod = workload::pod(&cluster, name)?.context("the pod")?;
        ensure!(!workload::is_running(&pod), "{name} runs without its interface");
    }
    workload::start_agents(&cluster).await?;
    workload::wait_running(&cluster, &asking).await?;
    for name in asking {
        let interfaces = demo::pods::interfaces(&cluster, &[name])?;
        ensure!(interfaces[0].interface == "eth1", "{interfaces:?}");
    }
    workload::delete(&cluster, &["plain-1", "plain-2", "deployed", "host", "asks-1", "asks-2"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_token_writes_the_status_of_its_own_nodes_pods_only() -> Result<()> {
    let cluster = installed().await?;
    Workload::plain("mine", "node-1").create(&cluster)?;
    Workload::plain("theirs", "node-2").create(&cluster)?;
    workload::wait_running(&cluster, &["mine", "theirs"]).await?;
    let client = agent_client(&cluster, "node-1").await?;
    let ours = r#"{"metadata":{"annotations":{"k8s.v1.cni.cncf.io/network-status":"[]"}}}"#;
    let cases = [
        ("mine", ours, ""),
        ("theirs", ours, "pods of its own node only"),
        ("mine", r#"{"metadata":{"annotations":{"else":"x"}}}"#, "network-status only"),
        ("mine", r#"{"metadata":{"labels":{"suite":"x"}}}"#, "may not change a pod's status, labels"),
        ("mine", r#"{"status":{"message":"x"}}"#, "may not change a pod's status, labels"),
    ];
    for (pod, patch, refusal) in cases {
        let request = http::Request::patch(format!("/api/v1/namespaces/default/pods/{pod}/status"))
            .header("Content-Type", "application/merge-patch+json")
            .body(patch.as_bytes().to_vec())?;
        match client.request_text(request).await {
            Ok(_) => ensure!(refusal.is_empty(), "{pod} took {patch}"),
            Err(error) => {
                let text = error.to_string();
                ensure!(!refusal.is_empty() && text.contains(refusal), "{pod}, {patch}: {text}");
            }
        }
    }
    workload::delete(&cluster, &["mine", "theirs"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_pod_gets_an_address_and_gives_it_back() -> Result<()> {
    let cluster = installed().await?;
    let before = Snapshot::take(&cluster)?;
    for (name, node) in [("fixed-1", "node-1"), ("fixed-2", "node-2")] {
        let node = cluster.node(node)?;
        Workload::with_networks(name, "", "vlan100").create_static(node)?;
        let made = workload::wait_running(&cluster, &[name]).await;
        // Whatever became of it: the file goes, or kubelet would start the pod again and again.
        let pod = workload::pod(&cluster, name)?;
        std::fs::remove_file(node.static_pod(name)).context("removing the static pod's file")?;
        made?;
        let pod = pod.context("the mirror pod")?;
        let own = |key: &str| pod["metadata"][key].as_str().unwrap_or_default();
        let hash = pod["metadata"]["annotations"]["kubernetes.io/config.hash"].as_str().unwrap_or_default();
        ensure!(!hash.is_empty() && hash != own("uid"), "{name}: {pod:#}");
        let status = pod["metadata"]["annotations"][demo::pods::NETWORK_STATUS].as_str();
        let status: Value = serde_json::from_str(status.context("network-status")?)?;
        let mut entries = status.as_array().into_iter().flatten();
        let entry = entries.find(|entry| entry["interface"] == "eth1").context("eth1 in network-status")?;
        ensure!(entry["name"] == "default/vlan100", "{entry}");
        ensure!(entry["ips"].as_array().is_some_and(|ips| ips.len() == 2), "{entry}");
        let events = cluster.plane.kubectl(&[
            "get",
            "events",
            "--field-selector",
            &format!("reason=AttachedNetworks,involvedObject.uid={}", own("uid")),
            "-o",
            "name",
        ])?;
        ensure!(!events.trim().is_empty(), "{name}: the mirror pod has no Event");
    }
    let left = before.wait_until_back(&cluster).await?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn trunkctl_shows_every_node_bridge_port_pool_and_pod() -> Result<()> {
    let cluster = installed().await?;
    let pods = [("seen-1", "node-1"), ("seen-2", "node-2")];
    for (name, node) in pods {
        Workload::with_networks(name, node, "vlan100").create(&cluster)?;
    }
    workload::wait_running(&cluster, &pods.map(|(name, _)| name)).await?;
    let tables: [(&str, &str, &[&str]); 6] = [
        (
            "bridges",
            "NODE",
            &["node-1 br-secondary true netdev eth1", "node-2 br-secondary true netdev eth1"],
        ),
        (
            "ports",
            "NODE",
            &["node-1 br-secondary eth1 uplink", "pod", "100 default/seen-1", "100 default/seen-2"],
        ),
        (
            "attachments",
            "NODE",
            &["node-1 default seen-1 eth1 default/vlan100 br-secondary 100", "node-2 default seen-2 eth1"],
        ),
        ("pools", "NAME", &["vlan100-ipv4", "vlan100-ipv6"]),
        ("nads", "NAMESPACE", &["default vlan100 antrea", "networks vlan200 antrea"]),
        (
            "allocations",
            "POOL",
            &["default seen-1 eth1 default/vlan100 node-1", "default seen-2 eth1 default/vlan100 node-2"],
        ),
    ];
    for (kind, header, wanted) in tables {
        let table = cluster.trunkctl(&["get", kind])?;
        ensure!(table.starts_with(header), "get {kind}: {table}");
        // Columns are as wide as their widest cell; what matters here is what stands in them.
        let lines: Vec<String> =
            table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        for text in wanted {
            ensure!(lines.iter().any(|line| line.contains(text)), "get {kind}: no \"{text}\" in\n{table}");
        }
        let json: Value = serde_json::from_str(&cluster.trunkctl(&["get", kind, "-o", "json"])?)?;
        let items = json.as_array().or_else(|| json["items"].as_array()).context("a list")?;
        ensure!(items.len() + 1 == table.lines().count(), "get {kind}: {} items\n{table}", items.len());
    }
    for (name, node) in pods {
        let page = cluster.trunkctl(&["describe", "pod", name])?;
        for text in [node, "eth1", "default/vlan100", "br-secondary", "AttachedNetworks"] {
            ensure!(page.contains(text), "describe pod {name}: no {text} in\n{page}");
        }
    }
    let missing = cluster.trunkctl(&["describe", "pod", "nobody"]).expect_err("no such pod");
    ensure!(format!("{missing:#}").contains("default/nobody"), "{missing:#}");
    workload::delete(&cluster, &pods.map(|(name, _)| name)).await
}

/// A client with a token like the one that the agent of this node has.
async fn agent_client(cluster: &Cluster, node: &str) -> Result<kube::Client> {
    let selector = format!("spec.nodeName={node}");
    let args = ["-n", "trunkline-system", "get", "pods", "-l", "app.kubernetes.io/name=trunkline-agent"];
    let text =
        cluster.plane.kubectl(&[&args[..], &["--field-selector", &selector, "-o", "json"]].concat())?;
    let pods: Value = serde_json::from_str(&text)?;
    let of = |key: &str| pods["items"][0]["metadata"][key].as_str().unwrap_or_default().to_owned();
    let token = cluster.plane.kubectl(&[
        "-n",
        "trunkline-system",
        "create",
        "token",
        "trunkline-agent",
        "--bound-object-kind=Pod",
        &format!("--bound-object-name={}", of("name")),
        &format!("--bound-object-uid={}", of("uid")),
    ])?;
    cluster.plane.client_as(&trunkline_e2e::control_plane::User::Token(token.trim().to_owned())).await
}
