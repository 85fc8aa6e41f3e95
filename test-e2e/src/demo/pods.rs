//! What the pods of the demo got: read from network-status, from the ports' external ids and from the kernel, which
//! must agree. Also commands inside pods, by `exec` through the API server as kubectl does.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, AttachParams};
use serde::Serialize;
use serde_json::Value;
use tokio::io::AsyncReadExt as _;

use super::OVS_RUN_DIR;
use crate::cluster::{Cluster, ClusterNode};
use crate::wait;

/// The annotation that names what a pod got.
pub const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";
/// The program in the pods' image.
const PROBE: &str = "/trunkline-probe";

/// A secondary interface of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// The pod.
    #[serde(rename = "name")]
    pub pod: String,
    /// Its UID.
    #[serde(skip)]
    pub pod_uid: String,
    /// The node it runs on.
    pub node: String,
    /// Name inside the pod.
    pub interface: String,
    /// `namespace/name` of the network.
    pub network: String,
    /// Access VLAN, 0 when untagged.
    pub vlan: u16,
    /// MAC address.
    pub mac: String,
    /// Addresses that network-status gives, without prefix lengths.
    pub ips: Vec<IpAddr>,
    /// The link-local address, from the kernel.
    #[serde(skip)]
    pub link_local: Ipv6Addr,
    /// Wall time of our whole ADD, milliseconds, as the plugin measured it.
    pub attach_ms: u64,
    /// Path of the pod's network namespace on its node.
    #[serde(skip)]
    pub netns: String,
}

/// Waits until all pods run and are ready.
pub async fn wait_running(cluster: &Cluster, names: &[&str], limit: Duration) -> Result<()> {
    let api: Api<Pod> = Api::default_namespaced(cluster.plane.client().await?);
    let look = || async {
        let list = api.list(&kube::api::ListParams::default()).await.context("listing pods")?;
        let ready = list.items.iter().filter(|pod| names.contains(&pod.name_any().as_str()) && is_ready(pod));
        Ok((ready.count() == names.len()).then_some(()))
    };
    match wait::until("the pods run", limit, look).await {
        Ok(()) => Ok(()),
        Err(error) => {
            let pods = cluster.plane.kubectl(&["get", "pods", "-A", "-o", "wide"])?;
            let events = cluster.plane.kubectl(&["get", "events", "--sort-by=.lastTimestamp"])?;
            Err(error.context(format!("{pods}\n{events}")))
        }
    }
}

/// Does the API say that the pod is Ready.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Every secondary interface of these pods of the namespace `default`.
pub fn interfaces(cluster: &Cluster, names: &[&str]) -> Result<Vec<Interface>> {
    let mut ports = Vec::new();
    for node in &cluster.nodes {
        ports.extend(pod_ports(node)?.into_iter().map(|port| (node, port)));
    }
    let mut found = Vec::new();
    for name in names {
        let text = cluster.plane.kubectl(&["get", "pod", name, "-o", "json"])?;
        let pod: Pod = serde_json::from_str(&text).with_context(|| format!("reading pod {name}"))?;
        let before = found.len();
        for entry in network_status(&pod)? {
            if entry["default"] != true {
                found.push(interface(&pod, &entry, &ports)?);
            }
        }
        ensure!(found.len() > before, "network-status of {name} has no secondary interface");
    }
    Ok(found)
}

fn network_status(pod: &Pod) -> Result<Vec<Value>> {
    let text = pod.annotations().get(NETWORK_STATUS);
    let text = text.with_context(|| format!("{} has no network-status", pod.name_any()))?;
    serde_json::from_str(text).with_context(|| format!("reading network-status: {text}"))
}

fn interface(pod: &Pod, entry: &Value, ports: &[(&ClusterNode, Port)]) -> Result<Interface> {
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let (uid, name, ifname) = (pod.uid().unwrap_or_default(), pod.name_any(), text("interface"));
    let (node, port) = ports
        .iter()
        .find(|(_, p)| p.id("trunkline-pod-uid") == uid && p.id("trunkline-interface") == ifname)
        .with_context(|| format!("no port of the bridges says that it is {ifname} of {name}"))?;
    let mut ips = Vec::new();
    for ip in entry["ips"].as_array().into_iter().flatten() {
        ips.push(ip.as_str().unwrap_or_default().parse().context("an address of network-status")?);
    }
    for (key, external_id) in [("name", "trunkline-nad"), ("mac", "trunkline-mac")] {
        ensure!(
            text(key).eq_ignore_ascii_case(port.id(external_id)),
            "{ifname} of {name}: network-status says {key} {}, the port {}",
            text(key),
            port.id(external_id)
        );
    }
    let netns = port.id("trunkline-netns").replace("/var/run/", "/run/");
    let link_local = check_link(node, &netns, &ifname, &text("mac"), &ips)
        .with_context(|| format!("{ifname} of {name} on {}", node.name()))?;
    Ok(Interface {
        pod: name,
        pod_uid: uid,
        node: node.name().to_owned(),
        interface: ifname,
        network: text("name"),
        vlan: port.tag,
        mac: text("mac"),
        ips,
        link_local,
        attach_ms: port.id("trunkline-attach-ms").parse().context("external id trunkline-attach-ms")?,
        netns,
    })
}

/// The kernel must have the link with this MAC and these addresses; returns its link-local one.
fn check_link(node: &ClusterNode, netns: &str, ifname: &str, mac: &str, ips: &[IpAddr]) -> Result<Ipv6Addr> {
    let text = in_netns(node, netns, &["ip", "-j", "addr", "show", "dev", ifname])?;
    let links: Value = serde_json::from_str(&text).context("reading the answer of ip")?;
    let has = links[0]["address"].as_str().unwrap_or_default();
    ensure!(has.eq_ignore_ascii_case(mac), "network-status says MAC {mac}, the kernel {has}");
    let mut addresses = Vec::new();
    for info in links[0]["addr_info"].as_array().into_iter().flatten() {
        let address: IpAddr = info["local"].as_str().unwrap_or_default().parse().context("an address")?;
        addresses.push(address);
    }
    for ip in ips {
        ensure!(addresses.contains(ip), "network-status says {ip}, the kernel has {addresses:?}");
    }
    addresses
        .iter()
        .find_map(|address| match address {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(*v6),
            _ => None,
        })
        .context("no link-local address")
}

/// Runs a program of the machine in a pod's network namespace.
pub fn in_netns(node: &ClusterNode, netns: &str, words: &[&str]) -> Result<String> {
    let enter = format!("--net={netns}");
    let mut all = vec!["nsenter", &enter, "--"];
    all.extend(words);
    node.exec(&all)
}

/// A port as `ovs-vsctl` shows it.
#[derive(Debug)]
struct Port {
    tag: u16,
    external_ids: BTreeMap<String, String>,
}

impl Port {
    fn id(&self, key: &str) -> &str {
        self.external_ids.get(key).map_or("", String::as_str)
    }
}

fn pod_ports(node: &ClusterNode) -> Result<Vec<Port>> {
    let columns = ["--format=json", "--columns=tag,external_ids", "find", "port"];
    let text = node.ovs_vsctl(OVS_RUN_DIR, &columns)?;
    let table: Value = serde_json::from_str(&text).context("reading ovs-vsctl's table")?;
    let rows = table["data"].as_array().into_iter().flatten();
    let ports = rows.map(|row| Port {
        // An empty set stands for "no tag".
        tag: row[0].as_u64().and_then(|tag| tag.try_into().ok()).unwrap_or(0),
        external_ids: serde_json::from_value::<Vec<(String, String)>>(row[1][1].clone())
            .unwrap_or_default()
            .into_iter()
            .collect(),
    });
    Ok(ports.filter(|port| port.id("trunkline-type") == "pod").collect())
}

/// Runs programs in the demo's pods.
#[derive(Clone)]
pub struct PodClient {
    api: Api<Pod>,
}

impl std::fmt::Debug for PodClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PodClient")
    }
}

impl PodClient {
    /// For pods of the namespace `default`.
    pub async fn new(cluster: &Cluster) -> Result<Self> {
        Ok(Self { api: Api::default_namespaced(cluster.plane.client().await?) })
    }

    /// Runs the probe with these arguments in the pod and reads the JSON that it prints.
    pub async fn probe(&self, pod: &str, args: &[String]) -> Result<Value> {
        let command = std::iter::once(PROBE.to_owned()).chain(args.iter().cloned());
        let params = AttachParams::default().stdout(true).stderr(true);
        let mut attached =
            self.api.exec(pod, command, &params).await.with_context(|| format!("exec in {pod}"))?;
        let status = attached.take_status();
        let (mut out, mut err) = (String::new(), String::new());
        let (mut stdout, mut stderr) = (
            attached.stdout().context("no standard output")?,
            attached.stderr().context("no standard error")?,
        );
        let (read_out, read_err) =
            tokio::join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err));
        read_out.and(read_err).with_context(|| format!("reading from {pod}"))?;
        attached.join().await.with_context(|| format!("exec in {pod}"))?;
        if let Ok(answer) = serde_json::from_str(&out) {
            return Ok(answer);
        }
        let status = match status {
            Some(status) => status.await,
            None => None,
        };
        let status = status.and_then(|status| status.message).unwrap_or_default();
        bail!("{PROBE} {} in {pod}: {}{} {status}", args.join(" "), out.trim(), err.trim())
    }
}
