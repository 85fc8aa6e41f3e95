//! Two ways on and one way off a real cluster: nodes with an Open vSwitch of their own, and uninstalling.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use trunkline_e2e::cluster::workload::{self, Workload};
use trunkline_e2e::cluster::{Cluster, ClusterNode, Install, rollout};
use trunkline_e2e::process::{self, Process};
use trunkline_e2e::{debs, demo, wait};

/// How long a refusal may take to be seen.
const SEEN: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_nodes_own_open_vswitch_ours_refuses_and_the_overlay_host_ovs_works() -> Result<()> {
    let cluster = Cluster::start("host-ovs").await?;
    let mut switches = Vec::new();
    for node in &cluster.nodes {
        switches.extend(host_ovs(&cluster, node)?);
    }
    let install = Install::into_cluster(&cluster);
    install.shared_crds()?;
    install.base()?;
    for node in &cluster.nodes {
        refused(&cluster, node).await?;
    }
    cluster.plane.kubectl(&["-n", "trunkline-system", "delete", "daemonset", "trunkline-ovs"])?;
    install.overlay("host-ovs")?;
    add_bridge(&cluster)?;
    for part in ["daemonset/trunkline-agent", "deployment/trunkline-controller"] {
        rollout(&cluster, part).await?;
    }
    wait::until("the bridge is in the nodes' own Open vSwitch", Duration::from_secs(100), || async {
        let mut ready = true;
        for node in &cluster.nodes {
            ready &= node.ovs_vsctl("/run/openvswitch", &["list-br"])?.contains(demo::BRIDGE);
        }
        Ok(ready.then_some(()))
    })
    .await?;
    for file in &demo::EXAMPLES[..3] {
        demo::apply_example(&cluster, file)?;
    }
    Workload::with_networks("guest-1", "node-1", "vlan100").create(&cluster)?;
    Workload::with_networks("guest-2", "node-2", "vlan100").create(&cluster)?;
    workload::wait_running(&cluster, &["guest-1", "guest-2"]).await?;
    let pods = demo::PodClient::new(&cluster).await?;
    let target = address(&cluster, "guest-2")?;
    let question = ["probe", "--interface", "eth1", "--target", &target].map(str::to_owned);
    let answer = pods.probe("guest-1", &question).await?;
    ensure!(answer["reachable"] == true, "{answer}");
    cluster.run.teardown()
}

/// The node's own Open vSwitch, as Debian's package would run it, and a bridge of somebody else's.
fn host_ovs(cluster: &Cluster, node: &ClusterNode) -> Result<[Process; 2]> {
    let tree = debs::ovs()?;
    let database = "/var/lib/openvswitch/conf.db";
    let run = |program: &str, args: &[&str]| {
        let mut command = node.command(tree.path(program));
        command.env("LD_LIBRARY_PATH", tree.library_path()).env("OVS_RUNDIR", "/run/openvswitch").args(args);
        command
    };
    let schema = tree.path("usr/share/openvswitch/vswitch.ovsschema").display().to_string();
    process::output(&mut run("usr/bin/ovsdb-tool", &["create", database, &schema]))?;
    let name = |part: &str| format!("{}-{part}", node.name());
    let remote = "--remote=punix:/run/openvswitch/db.sock";
    let server = run("usr/sbin/ovsdb-server", &[database, remote, "--pidfile", "--no-chdir"]);
    let server = Process::spawn(&cluster.run, &name("host-ovsdb"), server)?;
    let init = ["--db=unix:/run/openvswitch/db.sock", "--retry", "--no-wait", "init"];
    process::output(&mut run("usr/bin/ovs-vsctl", &init))?;
    let switch = ["unix:/run/openvswitch/db.sock", "--pidfile", "--no-chdir"];
    let switch = run("usr/lib/openvswitch-switch/ovs-vswitchd", &switch);
    let switch = Process::spawn(&cluster.run, &name("host-vswitchd"), switch)?;
    node.ovs_vsctl(
        "/run/openvswitch",
        &["add-br", "theirs", "--", "set", "bridge", "theirs", "datapath_type=netdev"],
    )?;
    Ok([server, switch])
}

/// Waits until our Open vSwitch on this node has refused, with its exit code and an Event.
async fn refused(cluster: &Cluster, node: &ClusterNode) -> Result<()> {
    let look = || async {
        let selector = format!("spec.nodeName={}", node.name());
        let label = "app.kubernetes.io/name=trunkline-ovs";
        let args = ["-n", "trunkline-system", "get", "pods", "-l", label, "--field-selector", &selector];
        let pods: Value =
            serde_json::from_str(&cluster.plane.kubectl(&[&args[..], &["-o", "json"]].concat())?)?;
        let pod = &pods["items"][0];
        let init = &pod["status"]["initContainerStatuses"][0];
        let code =
            ["state", "lastState"].iter().find_map(|key| init[*key]["terminated"]["exitCode"].as_i64());
        let events = cluster.plane.kubectl(&[
            "-n",
            "trunkline-system",
            "get",
            "events",
            "--field-selector",
            &format!(
                "reason=OvsAlreadyRunning,involvedObject.name={}",
                pod["metadata"]["name"].as_str().unwrap_or("?")
            ),
            "-o",
            "json",
        ])?;
        let events: Value = serde_json::from_str(&events)?;
        let message = events["items"][0]["message"].as_str().unwrap_or_default();
        Ok((code == Some(64) && message.contains("host-ovs") && message.contains("/run/openvswitch/db.sock"))
            .then_some(()))
    };
    wait::until(&format!("Open vSwitch of ours refuses on {}", node.name()), SEEN, look).await?;
    let theirs = node.ovs_vsctl("/run/openvswitch", &["list-br"])?;
    ensure!(theirs.trim() == "theirs", "{}: {theirs}", node.name());
    Ok(())
}

/// What a user writes into the ConfigMap after the overlay.
fn add_bridge(cluster: &Cluster) -> Result<()> {
    let text = cluster.plane.kubectl(&[
        "-n",
        "trunkline-system",
        "get",
        "configmap",
        "trunkline-config",
        "-o",
        "json",
    ])?;
    let mut config: Value = serde_json::from_str(&text)?;
    let file = config["data"]["trunkline-agent.conf"].as_str().context("the agent's file")?;
    let bridge = format!("ovsBridges: [{{bridgeName: {}, physicalInterfaces: [eth1]}}]", demo::BRIDGE);
    let file = format!("datapathType: netdev\n{}", file.replace("ovsBridges: []", &bridge));
    config["data"]["trunkline-agent.conf"] = file.into();
    cluster.plane.kubectl_with_input(&["replace", "-f", "-"], &config.to_string()).map(drop)
}

/// The first address that network-status gives for `eth1`.
fn address(cluster: &Cluster, name: &str) -> Result<String> {
    let pod = workload::pod(cluster, name)?.context("the pod")?;
    let status =
        pod["metadata"]["annotations"][demo::pods::NETWORK_STATUS].as_str().context("network-status")?;
    let status: Value = serde_json::from_str(status)?;
    let mut entries = status.as_array().into_iter().flatten();
    let entry = entries.find(|entry| entry["interface"] == "eth1").context("eth1 in network-status")?;
    Ok(entry["ips"][0].as_str().context("an address")?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_uninstalling_plain_pods_start_and_only_the_users_objects_are_left() -> Result<()> {
    let cluster = Cluster::start("uninstall").await?;
    let before: Vec<_> = cluster.nodes.iter().map(Traces::of).collect::<Result<_>>()?;
    demo::install(&cluster).await?;
    for file in &demo::EXAMPLES[..3] {
        demo::apply_example(&cluster, file)?;
    }
    let guests = [("guest-1", "node-1"), ("guest-2", "node-2")];
    for (name, node) in guests {
        Workload::with_networks(name, node, "vlan100").create(&cluster)?;
    }
    workload::wait_running(&cluster, &["guest-1", "guest-2"]).await?;
    let refusal = cluster.trunkctl(&["uninstall", "cluster"]).expect_err("pods still have interfaces");
    ensure!(format!("{refusal:#}").contains("default/guest-1"), "{refusal:#}");
    workload::delete(&cluster, &["guest-1", "guest-2"]).await?;
    cluster.trunkctl(&["uninstall", "cluster", "--timeout", "90"])?;
    cluster.wait_nodes_ready().await?;
    Workload::plain("after-1", "node-1").create(&cluster)?;
    Workload::plain("after-2", "node-2").create(&cluster)?;
    workload::wait_running(&cluster, &["after-1", "after-2"]).await?;
    workload::delete(&cluster, &["after-1", "after-2"]).await?;
    for (node, before) in cluster.nodes.iter().zip(before) {
        let left = Traces::of(node)?;
        ensure!(left == before, "{}: {left:?} instead of {before:?}", node.name());
    }
    let users =
        cluster.plane.kubectl(&["get", "network-attachment-definitions,ippools", "-A", "-o", "name"])?;
    for name in ["vlan100", "vlan200", "wire", "vlan100-ipv4"] {
        ensure!(users.lines().any(|line| line.ends_with(&format!("/{name}"))), "no {name} in {users}");
    }
    let pool =
        cluster.plane.kubectl(&["get", "ipp", "vlan100-ipv4", "-o", "jsonpath={.metadata.finalizers}"])?;
    ensure!(!pool.contains("trunkline"), "{pool}");
    let ours = "clusterroles,clusterrolebindings,validatingadmissionpolicies,crds,namespaces";
    let ours = cluster.plane.kubectl(&["get", ours, "-o", "name"])?;
    ensure!(!ours.contains("trunkline"), "{ours}");
    cluster.run.teardown()
}

/// What of ours could be left on a node.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    conflists: Vec<String>,
    plugins: Vec<String>,
    run: Vec<String>,
    state: Vec<String>,
    links: Vec<String>,
    features: Vec<String>,
}

impl Traces {
    fn of(node: &ClusterNode) -> Result<Self> {
        let mut links = node.netns().links()?;
        // The primary CNI's own: its bridge appears with the first pod and stays.
        links.retain(|link| link != "cni0" && !(link.starts_with("veth")));
        Ok(Self {
            conflists: node.list("/etc/cni/net.d")?,
            plugins: node.list("/opt/cni/bin")?,
            run: entries(node, "/run/trunkline")?,
            state: entries(node, "/var/lib/trunkline")?,
            links,
            features: uplink_settings(node)?,
        })
    }
}

fn entries(node: &ClusterNode, folder: &str) -> Result<Vec<String>> {
    if Path::new(&node.path(folder)).exists() { node.list(folder) } else { Ok(Vec::new()) }
}

/// What our bridge changes of a NIC: its master and whether it is promiscuous.
fn uplink_settings(node: &ClusterNode) -> Result<Vec<String>> {
    let link = &node.netns().ip_json("link show dev eth1")?[0];
    Ok(["mtu", "master", "promiscuity", "flags"].iter().map(|key| format!("{key}={}", link[*key])).collect())
}
