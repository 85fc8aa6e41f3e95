//! `trunkctl get`: lists of node state and of objects.
//!
//! Owns which columns a list has. Must never leave out a node in silence: one that does not answer is named, and
//! the exit code says so.

use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams};
use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use trunkline_agent::dump::{AttachmentDump, BridgeDump, NodeDump, PortDump, TapDump};
use trunkline_api::{IPAllocation, IPPool, Nad, NadConfig, NetworkAttachmentDefinition};

use crate::cli::{Format, Kind};
use crate::output::{age, bytes as bytes_of, list};
use crate::source::{Cluster, Source};

/// One element of a list of node state, with its node.
#[derive(Serialize)]
struct OfNode<'a, T> {
    node: &'a str,
    #[serde(flatten)]
    item: &'a T,
}

/// Lists one kind.
pub(crate) async fn run(source: &Source, kind: Kind, format: Format) -> anyhow::Result<()> {
    match kind {
        Kind::Bridges => {
            let header = ["NODE", "BRIDGE", "READY", "DATAPATH", "UPLINKS", "PODS", "CONDITIONS"];
            node_state(source, format, &header, |node| &node.bridges, bridge).await
        }
        Kind::Ports => {
            let header = ["NODE", "BRIDGE", "PORT", "KIND", "OFPORT", "VLAN", "POD", "ERROR"];
            node_state(source, format, &header, |node| &node.ports, port).await
        }
        Kind::Attachments => {
            let header = [
                "NODE",
                "NAMESPACE",
                "POD",
                "INTERFACE",
                "NETWORK",
                "BRIDGE",
                "VLAN",
                "MAC",
                "ADDRESSES",
                "MS",
            ];
            node_state(source, format, &header, |node| &node.attachments, attachment).await
        }
        Kind::Taps => {
            let header = [
                "NODE",
                "DEVICE",
                "POD/NETNS",
                "INTERFACE",
                "NETWORK",
                "VLAN",
                "BRIDGE",
                "RECEIVED",
                "SENT",
                "NOFLOW",
                "SAMPLING",
                "STATE",
            ];
            node_state(source, format, &header, |node| &node.taps, tap).await
        }
        Kind::Pools => {
            let header = ["NAME", "SUBNET", "VLAN", "TOTAL", "USED", "READY", "PROBLEMS", "AGE"];
            objects::<IPPool>(source.cluster("get pools")?, format, &header, pool).await
        }
        Kind::Nads => {
            let header = ["NAMESPACE", "NAME", "TYPE", "BRIDGE", "VLAN", "MTU", "POOLS", "PROBLEM"];
            objects::<NetworkAttachmentDefinition>(source.cluster("get nads")?, format, &header, nad).await
        }
        Kind::Allocations => {
            let header = ["POOL", "ADDRESS", "NAMESPACE", "POD", "INTERFACE", "NETWORK", "NODE", "AGE"];
            objects::<IPAllocation>(source.cluster("get allocations")?, format, &header, allocation).await
        }
    }
}

async fn node_state<T: Serialize + 'static>(
    source: &Source,
    format: Format,
    header: &[&str],
    items: fn(&NodeDump) -> &Vec<T>,
    row: fn(&T) -> Vec<String>,
) -> anyhow::Result<()> {
    let nodes = source.nodes().await?;
    let with_node =
        nodes.dumps.iter().flat_map(|node| items(node).iter().map(|item| OfNode { node: &node.node, item }));
    let with_node: Vec<_> = with_node.collect();
    let rows: Vec<Vec<String>> = with_node
        .iter()
        .map(|of| std::iter::once(of.node.to_owned()).chain(row(of.item)).collect())
        .collect();
    list(format, header, &rows, &with_node)?;
    nodes.complete()
}

async fn objects<K>(
    cluster: &Cluster,
    format: Format,
    header: &[&str],
    row: fn(&K) -> Vec<String>,
) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Serialize,
{
    let mut items = Api::<K>::all(cluster.client.clone()).list(&ListParams::default()).await?.items;
    for item in &mut items {
        // Who wrote which field is of no use to a reader, and most of the bytes.
        item.meta_mut().managed_fields = None;
    }
    items.sort_by_key(|item| (item.namespace(), item.name_any()));
    let rows: Vec<Vec<String>> = items.iter().map(row).collect();
    list(format, header, &rows, &items)
}

fn bridge(bridge: &BridgeDump) -> Vec<String> {
    let uplinks: Vec<String> = bridge
        .uplinks
        .iter()
        .map(|uplink| match (uplink.present, uplink.carrier) {
            (false, _) => format!("{}(missing)", uplink.name),
            (true, false) => format!("{}(no carrier)", uplink.name),
            (true, true) => uplink.name.clone(),
        })
        .collect();
    vec![
        bridge.name.clone(),
        bridge.ready.to_string(),
        bridge.datapath.clone(),
        uplinks.join(","),
        bridge.pod_ports.to_string(),
        bridge.conditions.join("; "),
    ]
}

fn port(port: &PortDump) -> Vec<String> {
    vec![
        port.bridge.clone(),
        port.name.clone(),
        port.kind.clone(),
        port.ofport.map(|number| number.to_string()).unwrap_or_default(),
        vlan(Some(port.vlan)),
        port.pod.clone().unwrap_or_default(),
        port.error.clone().unwrap_or_default(),
    ]
}

fn attachment(attachment: &AttachmentDump) -> Vec<String> {
    vec![
        attachment.pod_namespace.clone(),
        attachment.pod_name.clone(),
        attachment.interface.clone(),
        attachment.nad.clone(),
        attachment.bridge.clone(),
        vlan(Some(attachment.vlan)),
        attachment.mac.clone(),
        attachment.addresses.join(","),
        attachment.attach_ms.map(|ms| ms.to_string()).unwrap_or_default(),
    ]
}

fn tap(tap: &TapDump) -> Vec<String> {
    let counted = |skbs: u64, bytes: u64| format!("{skbs} ({})", bytes_of(bytes));
    vec![
        tap.device.clone(),
        tap.pod.as_ref().or(tap.netns.as_ref()).cloned().unwrap_or_default(),
        tap.interface.clone(),
        tap.network.clone(),
        tap.pod.as_ref().map(|_| vlan(Some(tap.vlan))).unwrap_or_default(),
        tap.bridge.clone(),
        counted(tap.received_skbs, tap.received_bytes),
        counted(tap.sent_skbs, tap.sent_bytes),
        tap.without_flow.to_string(),
        if tap.one_in > 1 { format!("1 in {}", tap.one_in) } else { String::new() },
        tap.state.clone(),
    ]
}

fn pool(pool: &IPPool) -> Vec<String> {
    let status = pool.status.clone().unwrap_or_default();
    let condition = |kind: &str| status.conditions.iter().find(|condition| condition.type_ == kind);
    let problems: Vec<String> = ["Invalid", "Overlap", "Exhausted"]
        .into_iter()
        .filter_map(condition)
        .filter(|condition| condition.status == "True")
        .map(|condition| format!("{}: {}", condition.type_, condition.message))
        .collect();
    let info = &pool.spec.subnet_info;
    let usage = |number: fn(&trunkline_api::IPPoolUsage) -> i64| {
        status.usage.as_ref().map(|usage| number(usage).to_string()).unwrap_or_default()
    };
    vec![
        pool.name_any(),
        info.subnet().map_or_else(|error| error.to_string(), |net| net.trunc().to_string()),
        vlan(info.vlan),
        usage(|usage| usage.total),
        usage(|usage| usage.used),
        condition("Ready").map(|ready| ready.status.clone()).unwrap_or_default(),
        problems.join("; "),
        since(pool),
    ]
}

fn nad(nad: &NetworkAttachmentDefinition) -> Vec<String> {
    let mut row = vec![nad.namespace().unwrap_or_default(), nad.name_any()];
    match NadConfig::parse(nad.spec.config.as_deref()) {
        Ok(Nad::Ours(config)) => row.extend([
            "antrea".to_owned(),
            config.bridge.map(String::from).unwrap_or_default(),
            config.vlan.map(|vlan| vlan.to_string()).unwrap_or_default(),
            config.mtu.map(|mtu| mtu.to_string()).unwrap_or_default(),
            config.ipam.map(|ipam| ipam.pools.join(",")).unwrap_or_default(),
        ]),
        Ok(Nad::NotOurs { kind }) => {
            let kind = if kind.is_empty() { "none" } else { &kind };
            row.push(format!("{kind} (not Trunkline's)"));
        }
        Err(error) => row.extend(
            ["antrea".to_owned()].into_iter().chain(vec![String::new(); 4]).chain([error.to_string()]),
        ),
    }
    row
}

fn allocation(allocation: &IPAllocation) -> Vec<String> {
    let spec = &allocation.spec;
    vec![
        spec.pool.clone(),
        spec.address.to_string(),
        spec.owner.pod_namespace.clone(),
        spec.owner.pod_name.clone(),
        spec.owner.interface.clone(),
        spec.owner.nad.clone(),
        spec.node.clone(),
        since(allocation),
    ]
}

pub(crate) fn vlan(vlan: Option<u16>) -> String {
    vlan.filter(|vlan| *vlan > 0).map_or_else(|| "untagged".to_owned(), |vlan| vlan.to_string())
}

fn since(object: &impl Resource) -> String {
    let created = object.meta().creation_timestamp.as_ref();
    created.map(|time| age(Timestamp::now().as_second() - time.0.as_second())).unwrap_or_default()
}

#[cfg(test)]
mod tests;
