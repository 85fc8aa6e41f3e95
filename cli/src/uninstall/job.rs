//! The Job that runs `trunkline-agent uninstall-node` on a node.
//!
//! Owns its shape: the agents' own pod template with other arguments, so that it sees the same image, folders and
//! rights. Must never be scheduled: the node is named, so that a cordoned or busy node is cleaned too.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, LogParams, PostParams};
use serde_json::json;

use super::{say, wait};
use crate::source::Cluster;

/// Name label of the Jobs and their pods.
const NAME: &str = "trunkline-uninstall";
/// Label that tells which of the two Jobs it is.
const PHASE: &str = "trunkline.io/uninstall-phase";
/// The image where no agents are left to learn it from.
const DEFAULT_IMAGE: &str = concat!("trunkline.io/trunkline-agent:", env!("CARGO_PKG_VERSION"));

/// The two Jobs of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Conflist, binary, ports, bridges, sysctls and offloads, while Open vSwitch runs.
    Undo,
    /// The files of Trunkline's own Open vSwitch, once that is gone.
    Files,
}

impl Phase {
    fn arguments(self) -> Vec<String> {
        let more = if self == Self::Files { &["--files"][..] } else { &[] };
        ["uninstall-node"].iter().chain(more).map(|&argument| argument.to_owned()).collect()
    }

    fn label(self) -> &'static str {
        match self {
            Self::Undo => "undo",
            Self::Files => "files",
        }
    }
}

/// What a node's pod looks like.
pub(super) struct Template(PodSpec);

impl Template {
    /// From the agents' `DaemonSet` where it is there, else from what its manifest says.
    pub(super) fn new(agents: Option<&DaemonSet>, image: Option<&str>) -> Self {
        let theirs = agents.and_then(|set| set.spec.as_ref()).and_then(|spec| spec.template.spec.clone());
        let mut spec = theirs.unwrap_or_else(default_spec);
        spec.init_containers = None;
        spec.affinity = None;
        spec.node_selector = None;
        spec.restart_policy = Some("Never".to_owned());
        spec.termination_grace_period_seconds = Some(10);
        spec.containers.retain(|container| container.name == "agent");
        for container in &mut spec.containers {
            "uninstall".clone_into(&mut container.name);
            container.command = None;
            container.ports = None;
            (container.readiness_probe, container.liveness_probe, container.startup_probe) =
                (None, None, None);
            container.lifecycle = None;
            if let Some(image) = image {
                container.image = Some(image.to_owned());
            }
        }
        // It asks no IPAM service, and the configuration may be gone.
        if let Some(volumes) = &mut spec.volumes {
            volumes.retain(|volume| volume.projected.is_none());
            for config_map in volumes.iter_mut().filter_map(|volume| volume.config_map.as_mut()) {
                config_map.optional = Some(true);
            }
            let kept: BTreeSet<String> = volumes.iter().map(|volume| volume.name.clone()).collect();
            for container in &mut spec.containers {
                let mounts = container.volume_mounts.get_or_insert_default();
                mounts.retain(|mount| kept.contains(&mount.name));
            }
        }
        Self(spec)
    }

    fn job(&self, node: &str, phase: Phase) -> Job {
        let mut pod = self.0.clone();
        pod.node_name = Some(node.to_owned());
        for container in &mut pod.containers {
            container.args = Some(phase.arguments());
        }
        let labels = [
            ("app.kubernetes.io/name", NAME),
            ("app.kubernetes.io/part-of", "trunkline"),
            (PHASE, phase.label()),
        ];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let metadata = ObjectMeta { labels: Some(labels.clone().into()), ..ObjectMeta::default() };
        Job {
            metadata: ObjectMeta {
                generate_name: Some(format!("{NAME}-")),
                labels: Some(labels.into()),
                annotations: Some([("trunkline.io/node".to_owned(), node.to_owned())].into()),
                ..ObjectMeta::default()
            },
            spec: Some(JobSpec {
                backoff_limit: Some(2),
                template: PodTemplateSpec { metadata: Some(metadata), spec: Some(pod) },
                ..JobSpec::default()
            }),
            status: None,
        }
    }
}

/// The pod of manifests/base/agent.yaml, as far as an uninstallation needs it.
fn default_spec() -> PodSpec {
    let folders = [
        ("run-trunkline", "/run/trunkline"),
        ("run-netns", "/run/netns"),
        ("cni-conf", "/etc/cni/net.d"),
        ("cni-bin", "/opt/cni/bin"),
        ("state", "/var/lib/trunkline"),
    ];
    let volumes: Vec<_> =
        folders.iter().map(|(name, path)| json!({ "name": name, "hostPath": { "path": path } })).collect();
    let mounts: Vec<_> = folders
        .iter()
        .map(|(name, path)| json!({ "name": name, "mountPath": path, "mountPropagation": "HostToContainer" }))
        .collect();
    serde_json::from_value(json!({
        "hostNetwork": true,
        "priorityClassName": "system-node-critical",
        "tolerations": [{ "operator": "Exists" }],
        "containers": [{
            "name": "agent",
            "image": DEFAULT_IMAGE,
            "imagePullPolicy": "IfNotPresent",
            "securityContext": { "privileged": true, "readOnlyRootFilesystem": true },
            "resources": { "requests": { "cpu": "50m", "memory": "64Mi" } },
            "volumeMounts": mounts,
        }],
        "volumes": volumes,
    }))
    .expect("the literal above has the shape of a PodSpec")
}

/// Runs one Job on each of the nodes, all at once, and waits for them; a failed one ends the run with its log.
pub(super) async fn run_on(
    cluster: &Cluster,
    template: &Template,
    nodes: &BTreeSet<String>,
    phase: Phase,
    patience: Duration,
) -> anyhow::Result<()> {
    let jobs: Api<Job> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    // Whatever an earlier run has left.
    jobs.delete_collection(&DeleteParams::background(), &mine(phase))
        .await
        .context("cannot delete old Jobs")?;
    for node in nodes {
        let job = template.job(node, phase);
        jobs.create(&PostParams::default(), &job)
            .await
            .with_context(|| format!("cannot create a Job for node {node}"))?;
    }
    say(&format!("{} on {} nodes: {}", phase.label(), nodes.len(), list(nodes)));
    wait::until_none("unfinished Jobs", patience, || async {
        let found = jobs.list(&mine(phase)).await?.items;
        let live = found.iter().filter(|job| job.metadata.deletion_timestamp.is_none());
        let outcomes: Vec<(String, Outcome)> = live.map(|job| (node_of(job), outcome(job))).collect();
        if let Some((node, _)) = outcomes.iter().find(|(_, outcome)| *outcome == Outcome::Failed) {
            bail!("node {node} could not be cleaned: {}", log(cluster, node, phase).await);
        }
        let running = outcomes.into_iter().filter(|(_, outcome)| *outcome == Outcome::Running);
        Ok(running.map(|(node, _)| format!("node {node}")).collect())
    })
    .await?;
    jobs.delete_collection(&DeleteParams::background(), &mine(phase))
        .await
        .context("cannot delete the Jobs")?;
    Ok(())
}

fn mine(phase: Phase) -> ListParams {
    ListParams::default().labels(&format!("app.kubernetes.io/name={NAME},{PHASE}={}", phase.label()))
}

fn list(nodes: &BTreeSet<String>) -> String {
    nodes.iter().cloned().collect::<Vec<_>>().join(", ")
}

fn node_of(job: &Job) -> String {
    job.annotations().get("trunkline.io/node").cloned().unwrap_or_default()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Running,
    Done,
    Failed,
}

fn outcome(job: &Job) -> Outcome {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    let is = |kind: &str| {
        conditions.is_some_and(|all| all.iter().any(|one| one.type_ == kind && one.status == "True"))
    };
    if is("Failed") {
        Outcome::Failed
    } else if is("Complete") {
        Outcome::Done
    } else {
        Outcome::Running
    }
}

/// The last words of the Job's pods on a node.
async fn log(cluster: &Cluster, node: &str, phase: Phase) -> String {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let there = mine(phase).fields(&format!("spec.nodeName={node}"));
    let Ok(found) = pods.list(&there).await else { return "its pods cannot be listed".to_owned() };
    let Some(last) = found.items.iter().max_by_key(|pod| pod.metadata.creation_timestamp.clone()) else {
        return "its Job has no pod left".to_owned();
    };
    let params = LogParams { tail_lines: Some(5), ..LogParams::default() };
    match pods.logs(&last.name_any(), &params).await {
        Ok(text) if !text.trim().is_empty() => text.trim().replace('\n', "; "),
        _ => format!("pod {} says nothing; kubectl describe it", last.name_any()),
    }
}

#[cfg(test)]
mod tests;
