//! `trunkctl uninstall`: takes Trunkline off a node, or off the cluster, in an order that cuts nobody off.
//!
//! Owns the order: agents go, a Job on each node undoes what they did while Open vSwitch still runs, Open vSwitch goes,
//! a second Job removes its files; for a cluster then finalizers, our own objects and CRDs. Each step is idempotent, and
//! a failed one ends the run so that it can be repeated. Must never touch a NAD, an `IPPool` beyond our finalizer and
//! conditions, or a CRD that others own too.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use trunkline_api::IPAllocation;

use crate::cli::UsageError;
use crate::source::Cluster;

mod job;
mod objects;
mod wait;

/// The agents' `DaemonSet`, and the value of its pods' name label.
const AGENT: &str = "trunkline-agent";
/// Open vSwitch's.
const OVS: &str = "trunkline-ovs";
/// Node label that keeps Trunkline's pods away: `agent` the agent's, `all` Open vSwitch's too.
const EXCLUDE: &str = "trunkline.io/exclude";
/// Node selector that no node fulfils, with which a `DaemonSet` keeps its template and loses its pods.
const NOWHERE: &str = "trunkline.io/uninstalling";

/// Flags of both verbs.
#[derive(Args)]
pub(crate) struct UninstallOptions {
    /// Go on although pods still have secondary interfaces; they lose them
    #[arg(long)]
    force: bool,
    /// Image of the Job on each node; without it, the agents' own
    #[arg(long)]
    image: Option<String>,
    /// Seconds that each step may take
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(10..=3600))]
    timeout: u64,
}

impl UninstallOptions {
    fn patience(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// Takes Trunkline off one node, and keeps it off by a label.
pub(crate) async fn node(cluster: &Cluster, name: &str, options: &UninstallOptions) -> anyhow::Result<()> {
    let (client, patience) = (&cluster.client, options.patience());
    let nodes: Api<Node> = Api::all(client.clone());
    if nodes.get_opt(name).await?.is_none() {
        return Err(UsageError(format!("there is no node {name:?}")).into());
    }
    refuse_while_used(client, Some(name), options.force).await?;
    let daemon_sets = DaemonSets::find(cluster).await?;
    daemon_sets.heed_exclusion()?;
    say(&format!("node {name}: the agent goes (label {EXCLUDE}=agent)"));
    exclude(&nodes, name, "agent").await?;
    wait::no_pods(&pods(cluster), AGENT, Some(name), patience).await?;
    let only = [name.to_owned()].into();
    let template = job::Template::new(daemon_sets.agent.as_ref(), options.image.as_deref());
    job::run_on(cluster, &template, &only, job::Phase::Undo, patience).await?;
    say(&format!("node {name}: Open vSwitch goes (label {EXCLUDE}=all)"));
    exclude(&nodes, name, "all").await?;
    wait::no_pods(&pods(cluster), OVS, Some(name), patience).await?;
    job::run_on(cluster, &template, &only, job::Phase::Files, patience).await?;
    say(&format!("node {name}: done; remove the label {EXCLUDE} to let Trunkline come back"));
    Ok(())
}

/// Takes Trunkline off every node, then out of the cluster.
pub(crate) async fn cluster(cluster: &Cluster, options: &UninstallOptions) -> anyhow::Result<()> {
    let (client, patience) = (&cluster.client, options.patience());
    refuse_while_used(client, None, options.force).await?;
    let daemon_sets = DaemonSets::find(cluster).await?;
    if daemon_sets.agent.is_some() || daemon_sets.ovs.is_some() {
        let nodes = linux_nodes(client).await?;
        let template = job::Template::new(daemon_sets.agent.as_ref(), options.image.as_deref());
        say("agents and controllers go");
        objects::delete_controller(cluster).await?;
        send_nowhere(cluster, AGENT).await?;
        wait::no_pods(&pods(cluster), AGENT, None, patience).await?;
        wait::no_pods(&pods(cluster), objects::CONTROLLER, None, patience).await?;
        job::run_on(cluster, &template, &nodes, job::Phase::Undo, patience).await?;
        say("Open vSwitch goes");
        send_nowhere(cluster, OVS).await?;
        wait::no_pods(&pods(cluster), OVS, None, patience).await?;
        job::run_on(cluster, &template, &nodes, job::Phase::Files, patience).await?;
    } else {
        say("no DaemonSet of Trunkline's is left: nodes are taken as clean");
    }
    objects::delete_all(cluster, patience).await?;
    forget_exclusions(client).await?;
    say("done; NetworkAttachmentDefinitions, IPPools and their CRDs are left as they are");
    Ok(())
}

/// Trunkline's two `DaemonSets`, as far as they are there.
struct DaemonSets {
    agent: Option<DaemonSet>,
    ovs: Option<DaemonSet>,
}

impl DaemonSets {
    async fn find(cluster: &Cluster) -> anyhow::Result<Self> {
        let api: Api<DaemonSet> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
        let agent = api.get_opt(AGENT).await.context("cannot get the agents' DaemonSet")?;
        let ovs = api.get_opt(OVS).await.context("cannot get Open vSwitch's DaemonSet")?;
        Ok(Self { agent, ovs })
    }

    /// One node can only be left out by `DaemonSets` that look at its label.
    fn heed_exclusion(&self) -> anyhow::Result<()> {
        for set in [&self.agent, &self.ovs].into_iter().flatten() {
            let affinity = serde_json::to_string(&set.spec.as_ref().map(|spec| &spec.template.spec))?;
            if !affinity.contains(EXCLUDE) {
                let name = set.name_any();
                bail!(
                    "DaemonSet {name} does not look at the node label {EXCLUDE}; apply this version's manifests first"
                );
            }
        }
        Ok(())
    }
}

fn pods(cluster: &Cluster) -> Api<Pod> {
    Api::namespaced(cluster.client.clone(), &cluster.namespace)
}

async fn exclude(nodes: &Api<Node>, name: &str, value: &str) -> anyhow::Result<()> {
    let patch = json!({ "metadata": { "labels": { EXCLUDE: value } } });
    nodes
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .context("cannot label the node")?;
    Ok(())
}

/// Nodes that were left out one by one carry our label still.
async fn forget_exclusions(client: &Client) -> anyhow::Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let labelled =
        api.list_metadata(&ListParams::default().labels(EXCLUDE)).await.context("cannot list nodes")?;
    for node in labelled.items {
        let patch = json!({ "metadata": { "labels": { EXCLUDE: null } } });
        api.patch(&node.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
    }
    Ok(())
}

/// Takes a `DaemonSet`'s pods away and keeps its template, from which a repeated run still learns images and folders.
async fn send_nowhere(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    let api: Api<DaemonSet> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let patch = json!({ "spec": { "template": { "spec": { "nodeSelector": { NOWHERE: "true" } } } } });
    match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop).with_context(|| format!("cannot change DaemonSet {name}")),
    }
}

/// The nodes that can have had an agent.
async fn linux_nodes(client: &Client) -> anyhow::Result<BTreeSet<String>> {
    let api: Api<Node> = Api::all(client.clone());
    let nodes = api.list(&ListParams::default()).await.context("cannot list nodes")?.items;
    let linux = |node: &Node| node.labels().get("kubernetes.io/os").is_none_or(|os| os == "linux");
    let excluded = |node: &Node| node.labels().get(EXCLUDE).is_some_and(|value| value == "all");
    Ok(nodes.iter().filter(|node| linux(node) && !excluded(node)).map(kube::ResourceExt::name_any).collect())
}

/// Pods would lose their interfaces: that is for their owners to decide.
async fn refuse_while_used(client: &Client, node: Option<&str>, force: bool) -> anyhow::Result<()> {
    let api: Api<Pod> = Api::all(client.clone());
    let mut params = ListParams::default();
    if let Some(node) = node {
        params = params.fields(&format!("spec.nodeName={node}"));
    }
    let attached = |pod: &Pod| {
        let asks = pod
            .annotations()
            .get(trunkline_api::NETWORKS_ANNOTATION)
            .is_some_and(|text| !text.trim().is_empty());
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        asks && !matches!(phase, Some("Succeeded" | "Failed"))
    };
    let pods = api.list(&params).await.context("cannot list pods")?.items;
    let name = |pod: &Pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    let users: Vec<String> = pods.iter().filter(|pod| attached(pod)).map(name).collect();
    if users.is_empty() {
        return Ok(());
    }
    let shown = users.iter().take(10).cloned().collect::<Vec<_>>().join(", ");
    let more = if users.len() > 10 { format!(" and {} more", users.len() - 10) } else { String::new() };
    if force {
        say(&format!("these pods lose their secondary interfaces: {shown}{more}"));
        return Ok(());
    }
    bail!("{} pods ask for secondary networks: {shown}{more}; delete them first, or use --force", users.len())
}

/// Are addresses still claimed; only told, since a forced run goes on.
async fn claimed(client: &Client) -> kube::Result<usize> {
    let api: Api<IPAllocation> = Api::all(client.clone());
    Ok(api.list_metadata(&ListParams::default()).await?.items.len())
}

fn say(text: &str) {
    eprintln!("trunkctl: {text}");
}
