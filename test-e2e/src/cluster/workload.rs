//! Pods that suites start beside the examples, and switching parts of Trunkline off and on again.
//!
//! Everything goes through kubectl, as a user's hands would.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::install::NAMESPACE;
use super::{Cluster, ClusterNode, POD_IMAGE, rollout};
use crate::wait;

/// How long a pod may take until it runs or is gone.
const POD: Duration = Duration::from_mins(1);

/// A pod to start in the namespace `default`.
#[derive(Clone, Debug)]
pub struct Workload<'a> {
    /// Its name.
    pub name: &'a str,
    /// The node it must run on; empty leaves it to the scheduler.
    pub node: &'a str,
    /// The annotation `k8s.v1.cni.cncf.io/networks`; empty is none.
    pub networks: &'a str,
    /// Does it use its node's network.
    pub host_network: bool,
}

impl<'a> Workload<'a> {
    /// A pod that asks for nothing.
    pub fn plain(name: &'a str, node: &'a str) -> Self {
        Self { name, node, networks: "", host_network: false }
    }

    /// A pod that asks for networks.
    pub fn with_networks(name: &'a str, node: &'a str, networks: &'a str) -> Self {
        Self { networks, ..Self::plain(name, node) }
    }

    /// Its template: metadata and spec.
    fn template(&self) -> Value {
        let mut annotations = json!({});
        if !self.networks.is_empty() {
            annotations["k8s.v1.cni.cncf.io/networks"] = self.networks.into();
        }
        let verb = if self.host_network { "pause" } else { "serve" };
        let mut spec = json!({
            "terminationGracePeriodSeconds": 2,
            "hostNetwork": self.host_network,
            "containers": [{
                "name": "probe",
                "image": POD_IMAGE,
                "imagePullPolicy": "IfNotPresent",
                "args": [verb],
                "env": [{"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}],
                "securityContext": {"capabilities": {"add": ["NET_RAW"]}},
            }],
        });
        if !self.node.is_empty() {
            spec["nodeName"] = self.node.into();
        }
        json!({"metadata": {"labels": {"suite": self.name}, "annotations": annotations}, "spec": spec})
    }

    /// Creates the pod.
    pub fn create(&self, cluster: &Cluster) -> Result<()> {
        self.send(cluster, &self.manifest())
    }

    /// Has a kubelet run the pod as a static one; kubelet appends the node's name to the pod's.
    pub fn create_static(&self, node: &ClusterNode) -> Result<()> {
        let mut pod = self.manifest();
        pod["metadata"]["namespace"] = "default".into();
        // Renamed into place: kubelet reads what it finds at once.
        let (path, aside) =
            (node.static_pod(self.name), node.path(&format!("/var/lib/kubelet/{}.new", self.name)));
        std::fs::write(&aside, pod.to_string()).with_context(|| format!("writing {}", aside.display()))?;
        std::fs::rename(&aside, &path).with_context(|| format!("writing {}", path.display()))
    }

    fn manifest(&self) -> Value {
        let mut pod = self.template();
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["name"] = self.name.into();
        pod
    }

    /// Creates a Deployment of one such pod.
    pub fn create_deployment(&self, cluster: &Cluster) -> Result<()> {
        let deployment = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": self.name},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"suite": self.name}},
                "template": self.template(),
            },
        });
        self.send(cluster, &deployment)
    }

    fn send(&self, cluster: &Cluster, object: &Value) -> Result<()> {
        cluster
            .plane
            .kubectl_with_input(&["create", "-f", "-"], &object.to_string())
            .map(drop)
            .with_context(|| format!("creating {}", self.name))
    }
}

/// The pod as the API has it, by the label that every workload carries; `None` if there is none.
pub fn pod(cluster: &Cluster, name: &str) -> Result<Option<Value>> {
    let selector = format!("suite={name}");
    let text = cluster.plane.kubectl(&["get", "pods", "-l", &selector, "-o", "json"])?;
    let list: Value = serde_json::from_str(&text).context("reading kubectl's answer")?;
    Ok(list["items"].as_array().and_then(|items| items.first()).cloned())
}

/// Is its one container running.
pub fn is_running(pod: &Value) -> bool {
    !pod["status"]["containerStatuses"][0]["state"]["running"].is_null()
}

/// Waits until the container of each of these workloads runs.
pub async fn wait_running(cluster: &Cluster, names: &[&str]) -> Result<()> {
    for name in names {
        let look = || async { Ok(pod(cluster, name)?.filter(is_running).map(drop)) };
        if let Err(error) = wait::until(&format!("{name} runs"), POD, look).await {
            let selector = format!("suite={name}");
            let said = cluster.plane.kubectl(&["describe", "pods", "-l", &selector])?;
            return Err(error.context(said));
        }
    }
    Ok(())
}

/// Deletes pods and Deployments of these names and waits until they are gone.
pub async fn delete(cluster: &Cluster, names: &[&str]) -> Result<()> {
    for kind in ["deployment", "pod"] {
        let mut args = vec!["delete", kind, "--ignore-not-found", "--wait=false"];
        args.extend(names);
        cluster.plane.kubectl(&args)?;
    }
    for name in names {
        wait::until(&format!("{name} is gone"), POD, || async {
            Ok(pod(cluster, name)?.is_none().then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// Takes every agent away, as a node without one would be; their pods are gone when it returns.
pub async fn stop_agents(cluster: &Cluster) -> Result<()> {
    set_selector(cluster, &json!({"trunkline.io/nowhere": "true"}))?;
    gone(cluster, "app.kubernetes.io/name=trunkline-agent").await
}

/// Brings the agents back and waits until they are ready.
pub async fn start_agents(cluster: &Cluster) -> Result<()> {
    set_selector(cluster, &Value::Null)?;
    rollout(cluster, "daemonset/trunkline-agent").await
}

fn set_selector(cluster: &Cluster, selector: &Value) -> Result<()> {
    let patch = json!({"spec": {"template": {"spec": {"nodeSelector": selector}}}}).to_string();
    let args = ["-n", NAMESPACE, "patch", "daemonset", "trunkline-agent", "--type=merge", "-p", &patch];
    cluster.plane.kubectl(&args).map(drop)
}

/// Stops every controller; their pods are gone when it returns.
pub async fn stop_controllers(cluster: &Cluster) -> Result<()> {
    scale_controllers(cluster, 0)?;
    gone(cluster, "app.kubernetes.io/name=trunkline-controller").await
}

/// Brings the controllers back and waits until they are ready.
pub async fn start_controllers(cluster: &Cluster) -> Result<()> {
    scale_controllers(cluster, 2)?;
    rollout(cluster, "deployment/trunkline-controller").await
}

/// Asks for so many controllers.
pub fn scale_controllers(cluster: &Cluster, replicas: u8) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    cluster
        .plane
        .kubectl(&["-n", NAMESPACE, "scale", "deployment", "trunkline-controller", &replicas])
        .map(drop)
}

async fn gone(cluster: &Cluster, selector: &str) -> Result<()> {
    wait::until(&format!("no pod is left of {selector}"), POD, || async {
        let left = cluster.plane.kubectl(&["-n", NAMESPACE, "get", "pods", "-l", selector, "-o", "name"])?;
        Ok(left.trim().is_empty().then_some(()))
    })
    .await
}
