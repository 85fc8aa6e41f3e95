//! `trunkctl describe pod`: what a pod asked for, what it has, what was reported and what went wrong, on one page.
//!
//! Owns the page. Must never guess: what could not be asked is said.

use std::fmt;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use trunkline_agent::dump::{AttachmentDump, NodeDump};
use trunkline_api::{
    IPAllocation, NETWORK_STATUS_ANNOTATION, NETWORKS_ANNOTATION, Nad, NadConfig,
    NetworkAttachmentDefinition, NetworkSelection, NetworkStatus, parse_networks,
};

use crate::output::{age, print, words};
use crate::source::{Cluster, Source};
use crate::table;

/// What is known of a pod.
#[derive(Default)]
struct Facts {
    namespace: String,
    name: String,
    /// Lines of the pod's own, such as its node.
    about: Vec<(&'static str, String)>,
    /// Rows of what it asks for, or why that cannot be read.
    asked: Option<Result<Vec<Vec<String>>, String>>,
    attachments: Vec<AttachmentDump>,
    reported: Option<Result<Vec<NetworkStatus>, String>>,
    allocations: Vec<Vec<String>>,
    events: Vec<Vec<String>>,
    /// What could not be asked.
    missing: Vec<String>,
}

/// Describes `[<namespace>/]<name>`.
pub(crate) async fn pod(source: &Source, pod: &str) -> anyhow::Result<()> {
    let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
    let mut facts = Facts { namespace: namespace.to_owned(), name: name.to_owned(), ..Facts::default() };
    match source {
        Source::Socket(_) => {
            let nodes = source.nodes().await?;
            facts
                .missing
                .push("annotation, allocations and Events: --socket asks the agent alone".to_owned());
            facts.take_attachments(&nodes.dumps);
            if facts.attachments.is_empty() {
                anyhow::bail!("the agent knows no interface of pod {namespace}/{name}");
            }
        }
        Source::Cluster(cluster) => from_cluster(cluster, &mut facts).await?,
    }
    print(&facts.to_string())
}

async fn from_cluster(cluster: &Cluster, facts: &mut Facts) -> anyhow::Result<()> {
    let (namespace, name) = (facts.namespace.clone(), facts.name.clone());
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &namespace);
    let pod = pods.get(&name).await.with_context(|| format!("cannot get pod {namespace}/{name}"))?;
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    facts.about = vec![
        ("UID", pod.uid().unwrap_or_default()),
        ("Node", node.clone()),
        ("Phase", pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default()),
    ];
    if let Some(text) = pod.annotations().get(NETWORKS_ANNOTATION) {
        let asked = match parse_networks(text, &namespace) {
            Ok(selections) => Ok(asked_rows(cluster, &selections).await),
            Err(error) => Err(error.to_string()),
        };
        facts.asked = Some(asked);
    }
    let status = pod.annotations().get(NETWORK_STATUS_ANNOTATION);
    facts.reported = status.map(|text| serde_json::from_str(text).map_err(|error| error.to_string()));
    if node.is_empty() {
        facts.missing.push("node state: the pod has no node yet".to_owned());
    } else {
        match cluster.nodes(Some(&node)).await {
            Ok(nodes) => {
                facts.missing.extend(
                    nodes.silent.iter().map(|(node, reason)| format!("node state of {node}: {reason}")),
                );
                facts.take_attachments(&nodes.dumps);
            }
            Err(error) => facts.missing.push(format!("node state: {}", words(&error))),
        }
    }
    match allocations(cluster, &namespace, &name).await {
        Ok(rows) => facts.allocations = rows,
        Err(error) => facts.missing.push(format!("allocations: {error}")),
    }
    match events(cluster, &pod, &namespace, &name).await {
        Ok(rows) => facts.events = rows,
        Err(error) => facts.missing.push(format!("Events: {error}")),
    }
    Ok(())
}

/// One row an element, with what its network is.
async fn asked_rows(cluster: &Cluster, selections: &[NetworkSelection]) -> Vec<Vec<String>> {
    let mut rows = Vec::with_capacity(selections.len());
    for selection in selections {
        let nads: Api<NetworkAttachmentDefinition> =
            Api::namespaced(cluster.client.clone(), &selection.namespace);
        let network = match nads.get_opt(&selection.name).await {
            Ok(None) => "does not exist".to_owned(),
            Err(error) => format!("cannot be read: {error}"),
            Ok(Some(nad)) => match NadConfig::parse(nad.spec.config.as_deref()) {
                Ok(Nad::Ours(_)) => "good".to_owned(),
                Ok(Nad::NotOurs { kind }) if kind.is_empty() => "without a type, left to others".to_owned(),
                Ok(Nad::NotOurs { kind }) => format!("of type {kind:?}, left to others"),
                Err(error) => error.to_string(),
            },
        };
        let ips: Vec<String> = selection.ips.iter().map(ToString::to_string).collect();
        rows.push(vec![
            selection.nad(),
            selection.interface.as_ref().map(ToString::to_string).unwrap_or_default(),
            selection.mac.map(|mac| mac.to_string()).unwrap_or_default(),
            ips.join(","),
            network,
        ]);
    }
    rows
}

async fn allocations(cluster: &Cluster, namespace: &str, name: &str) -> kube::Result<Vec<Vec<String>>> {
    let all: Api<IPAllocation> = Api::all(cluster.client.clone());
    let mut rows: Vec<Vec<String>> = all
        .list(&ListParams::default())
        .await?
        .items
        .iter()
        .filter(|item| item.spec.owner.pod_namespace == namespace && item.spec.owner.pod_name == name)
        .map(|item| {
            let spec = &item.spec;
            vec![
                spec.owner.interface.clone(),
                spec.address.to_string(),
                spec.pool.clone(),
                spec.owner.pod_uid.clone(),
            ]
        })
        .collect();
    rows.sort();
    Ok(rows)
}

/// Events of ours, and the runtime's about a sandbox that could not be made: our words are in them.
async fn events(cluster: &Cluster, pod: &Pod, namespace: &str, name: &str) -> kube::Result<Vec<Vec<String>>> {
    let api: Api<Event> = Api::namespaced(cluster.client.clone(), namespace);
    let about = ListParams::default().fields(&format!("involvedObject.name={name},involvedObject.kind=Pod"));
    let mut events = api.list(&about).await?.items;
    let uid = pod.uid();
    events.retain(|event| {
        let ours = event.reporting_component.as_deref().is_some_and(|by| by.starts_with("trunkline.io/"));
        let sandbox = event.reason.as_deref() == Some("FailedCreatePodSandBox");
        (ours || sandbox) && (event.involved_object.uid == uid || event.involved_object.uid.is_none())
    });
    events.sort_by_key(last_seen);
    let row = |event: &Event| {
        let seconds = last_seen(event).map(|time| Timestamp::now().as_second() - time.as_second());
        vec![
            seconds.map(age).unwrap_or_default(),
            event.type_.clone().unwrap_or_default(),
            event.reason.clone().unwrap_or_default(),
            event.message.clone().unwrap_or_default(),
        ]
    };
    Ok(events.iter().map(row).collect())
}

fn last_seen(event: &Event) -> Option<Timestamp> {
    let series =
        event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    series
        .or(event.last_timestamp.as_ref().map(|time| time.0))
        .or(event.event_time.as_ref().map(|time| time.0))
        .or(event.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

impl Facts {
    fn take_attachments(&mut self, dumps: &[NodeDump]) {
        let all = dumps.iter().flat_map(|dump| &dump.attachments);
        let mine = all.filter(|item| item.pod_namespace == self.namespace && item.pod_name == self.name);
        self.attachments = mine.cloned().collect();
        self.attachments.sort_by(|a, b| a.interface.cmp(&b.interface));
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, page: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(page, "{:12} {}/{}", "Pod:", self.namespace, self.name)?;
        for (key, value) in &self.about {
            writeln!(page, "{:12} {value}", format!("{key}:"))?;
        }
        match &self.asked {
            None => {}
            Some(Ok(rows)) => {
                section(page, "Asked for", &["NETWORK", "INTERFACE", "MAC", "IPS", "NETWORK IS"], rows)?;
            }
            Some(Err(problem)) => writeln!(page, "\nAsked for: refused\n  {problem}")?,
        }
        let rows: Vec<Vec<String>> = self.attachments.iter().map(attached_row).collect();
        let header = ["INTERFACE", "NETWORK", "BRIDGE", "VLAN", "MAC", "ADDRESSES", "PORT", "MS"];
        section(page, "Attached", &header, &rows)?;
        match &self.reported {
            None => {}
            Some(Ok(entries)) => {
                let rows: Vec<Vec<String>> = entries.iter().map(reported_row).collect();
                section(page, "Reported", &["NAME", "INTERFACE", "IPS", "MAC", "MTU", "DEFAULT"], &rows)?;
            }
            Some(Err(problem)) => writeln!(page, "\nReported: cannot be read: {problem}")?,
        }
        section(page, "Allocations", &["INTERFACE", "ADDRESS", "POOL", "POD UID"], &self.allocations)?;
        section(page, "Events", &["AGE", "TYPE", "REASON", "MESSAGE"], &self.events)?;
        self.missing.iter().try_for_each(|missing| writeln!(page, "\nNot shown: {missing}"))
    }
}

fn section(page: &mut fmt::Formatter<'_>, title: &str, header: &[&str], rows: &[Vec<String>]) -> fmt::Result {
    if rows.is_empty() {
        return writeln!(page, "\n{title}: none");
    }
    writeln!(page, "\n{title}:")?;
    table::render(header, rows).lines().try_for_each(|line| writeln!(page, "  {line}"))
}

fn attached_row(item: &AttachmentDump) -> Vec<String> {
    vec![
        item.interface.clone(),
        item.nad.clone(),
        item.bridge.clone(),
        if item.vlan == 0 { "untagged".to_owned() } else { item.vlan.to_string() },
        item.mac.clone(),
        item.addresses.join(","),
        item.port.clone(),
        item.attach_ms.map(|ms| ms.to_string()).unwrap_or_default(),
    ]
}

fn reported_row(entry: &NetworkStatus) -> Vec<String> {
    let ips: Vec<String> = entry.ips.iter().map(ToString::to_string).collect();
    vec![
        entry.name.clone(),
        entry.interface.clone(),
        ips.join(","),
        entry.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        entry.mtu.map(|mtu| mtu.to_string()).unwrap_or_default(),
        entry.default.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_what_is_there_and_what_could_not_be_asked() {
        let mut facts = Facts {
            namespace: "ns".to_owned(),
            name: "p".to_owned(),
            about: vec![("Node", "n1".to_owned())],
            asked: Some(Err("element 0: bad".to_owned())),
            missing: vec!["Events: forbidden".to_owned()],
            ..Facts::default()
        };
        let attachment = |name: &str, interface: &str| AttachmentDump {
            pod_namespace: "ns".to_owned(),
            pod_name: name.to_owned(),
            interface: interface.to_owned(),
            ..AttachmentDump::default()
        };
        let attachments = vec![attachment("p", "eth2"), attachment("p", "eth1"), attachment("q", "eth1")];
        facts.take_attachments(&[NodeDump { attachments, ..NodeDump::default() }]);
        let expected = "\
Pod:         ns/p
Node:        n1

Asked for: refused
  element 0: bad

Attached:
  INTERFACE   NETWORK   BRIDGE   VLAN       MAC   ADDRESSES   PORT   MS
  eth1        -         -        untagged   -     -           -      -
  eth2        -         -        untagged   -     -           -      -

Allocations: none

Events: none

Not shown: Events: forbidden
";
        assert_eq!(facts.to_string(), expected);
    }
}
