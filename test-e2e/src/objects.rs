//! API objects that nobody else makes in a light cluster: Nodes, namespaces with their default service account,
//! Pods and, as a kubelet would, their status. Also tokens.
//!
//! Speaks only to the API server.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod, ServiceAccount};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    PostParams,
};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::control_plane::ControlPlane;

/// What a test asks of a pod.
#[derive(Clone, Debug, Default)]
pub struct PodSpec {
    /// Its namespace; `default` if empty.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Whether it uses its node's network.
    pub host_network: bool,
}

impl PodSpec {
    /// A pod of the namespace `default` that asks for nothing.
    pub fn plain(name: &str) -> Self {
        Self { namespace: "default".to_owned(), name: name.to_owned(), ..Self::default() }
    }

    /// A pod of the namespace `default` with this value of `k8s.v1.cni.cncf.io/networks`.
    pub fn with_networks(name: &str, networks: &str) -> Self {
        let key = "k8s.v1.cni.cncf.io/networks".to_owned();
        Self { annotations: [(key, networks.to_owned())].into(), ..Self::plain(name) }
    }
}

/// Makes a namespace with the service account that every pod needs; keeps what is there.
pub async fn ensure_namespace(client: &Client, name: &str) -> Result<()> {
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
    tolerate_existing(Api::all(client.clone()).create(&PostParams::default(), &namespace).await)
        .with_context(|| format!("creating the namespace {name}"))?;
    let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "default"}}))?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), name);
    tolerate_existing(accounts.create(&PostParams::default(), &account).await)
        .with_context(|| format!("creating the default service account of {name}"))
}

fn tolerate_existing<T>(result: kube::Result<T>) -> kube::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => other.map(drop),
    }
}

/// Makes a Node that says it is ready.
pub async fn create_node(client: &Client, name: &str, address: &str) -> Result<Node> {
    let nodes: Api<Node> = Api::all(client.clone());
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}}
    }))?;
    nodes.create(&PostParams::default(), &node).await.with_context(|| format!("creating the node {name}"))?;
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
        "conditions": [{"type": "Ready", "status": "True", "reason": "Light", "message": "a light node"}],
    }});
    nodes
        .patch_status(name, &PatchParams::default(), &Patch::Strategic(&status))
        .await
        .with_context(|| format!("marking the node {name} as ready"))
}

/// Deletes a Node.
pub async fn delete_node(client: &Client, name: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    nodes
        .delete(name, &DeleteParams::default())
        .await
        .with_context(|| format!("deleting the node {name}"))?;
    Ok(())
}

/// Makes a Pod bound to a node, as the scheduler would have.
pub async fn create_pod(client: &Client, spec: &PodSpec, node: &str) -> Result<Pod> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &spec.namespace);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": spec.name, "annotations": spec.annotations},
        "spec": {
            "nodeName": node,
            "hostNetwork": spec.host_network,
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "trunkline.test/probe:1"}],
        },
    }))?;
    pods.create(&PostParams::default(), &pod).await.with_context(|| format!("creating the pod {}", spec.name))
}

/// Reports a phase of a pod, as its kubelet does.
pub async fn set_phase(client: &Client, pod: &Pod, phase: &str, ip: Option<&str>) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let ready = if phase == "Running" { "True" } else { "False" };
    let ips: Vec<_> = ip.iter().map(|ip| json!({ "ip": ip })).collect();
    let status = json!({"status": {
        "phase": phase,
        "podIP": ip,
        "podIPs": ips,
        "conditions": [{"type": "Ready", "status": ready}],
    }});
    pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&status))
        .await
        .with_context(|| format!("reporting {} as {phase}", pod.name_any()))?;
    Ok(())
}

/// Deletes a Pod object for good, as a kubelet does last.
pub async fn delete_pod(client: &Client, namespace: &str, name: &str) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    match pods.delete(name, &DeleteParams::default().grace_period(0)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop).with_context(|| format!("deleting the pod {namespace}/{name}")),
    }
}

/// A token of one of our service accounts, bound to a Node as the token of a pod there is.
///
/// `audience` empty: the API server's own.
pub async fn node_bound_token(client: &Client, account: &str, node: &Node, audience: &str) -> Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "trunkline-system");
    let audiences = if audience.is_empty() { Vec::new() } else { vec![audience.to_owned()] };
    let bound_object_ref = Some(BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(node.name_any()),
        uid: node.uid(),
    });
    let spec = TokenRequestSpec { audiences, bound_object_ref, expiration_seconds: Some(3 * 3600) };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let answer = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await
        .with_context(|| format!("asking for a token of {account} bound to {}", node.name_any()))?;
    Ok(answer.status.context("a token request without an answer")?.token)
}

/// A token of one of our service accounts that is bound to nothing.
pub async fn free_token(client: &Client, account: &str) -> Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "trunkline-system");
    let spec = TokenRequestSpec { expiration_seconds: Some(3 * 3600), ..TokenRequestSpec::default() };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let answer = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await
        .with_context(|| format!("asking for a token of {account}"))?;
    Ok(answer.status.context("a token request without an answer")?.token)
}

/// A client with the rights of a node's kubelet.
pub async fn kubelet_client(plane: &ControlPlane, node: &str) -> Result<Client> {
    let user = format!("system:node:{node}");
    let identity = plane.pki().issue(&format!("node-{node}"), &user, "system:nodes", &[])?;
    plane.client_as(&crate::control_plane::User::Certificate(identity)).await
}

/// The API of our `IPAllocation` objects, untyped: suites judge by what the API server says.
pub fn allocation_api(client: &Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("ipam.trunkline.io", "v1alpha1", "IPAllocation");
    Api::all_with(client.clone(), &ApiResource::from_gvk(&kind))
}

/// The names of all `IPAllocation` objects.
pub async fn allocations(client: &Client) -> Result<BTreeSet<String>> {
    let all = allocation_api(client).list(&ListParams::default()).await.context("listing the allocations")?;
    Ok(all.items.iter().map(ResourceExt::name_any).collect())
}

/// The Events about a Pod or a Node: reason and message, oldest first.
pub async fn events_about(client: &Client, kind: &str, name: &str) -> Result<Vec<(String, String)>> {
    let events: Api<Event> = Api::all(client.clone());
    let fields = format!("involvedObject.kind={kind},involvedObject.name={name}");
    let all = events.list(&ListParams::default().fields(&fields)).await.context("listing Events")?;
    let said = all.items.into_iter().map(|e| (e.reason.unwrap_or_default(), e.message.unwrap_or_default()));
    Ok(said.collect())
}

/// Binds a Pod to a node, as the scheduler does, and returns it.
pub async fn bind_pod(client: &Client, namespace: &str, name: &str, node: &str) -> Result<Pod> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"namespace": namespace, "name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    pods.create_subresource::<Value, Value>("binding", name, &PostParams::default(), &binding)
        .await
        .with_context(|| format!("binding the pod {name} to {node}"))?;
    pods.get(name).await.with_context(|| format!("reading the pod {name}"))
}
