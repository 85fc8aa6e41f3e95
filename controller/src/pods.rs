//! Pods and nodes, as far as addresses depend on them.
//!
//! Owns what is known of them and whether a caller may ask for a pod. Must never take the absence of a pod from a
//! watch alone as proof.

use std::sync::{Arc, PoisonError, RwLock};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::Api;
use kube::runtime::watcher::Event;
use kube::{Client, ResourceExt};

use crate::cache::{Cache, map_event};
use crate::objects::key;

/// Annotations by which kubelet says what a static pod's mirror is a mirror of; its `K8S_POD_UID` is that hash.
const STATIC_UIDS: [&str; 2] = ["kubernetes.io/config.hash", "kubernetes.io/config.mirror"];

/// What matters of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// Every UID by which the pod may be named.
    pub uids: Vec<String>,
    /// Node that it is bound to.
    pub node: Option<String>,
    /// `Succeeded` or `Failed`.
    pub terminal: bool,
}

impl PodFacts {
    /// Reads a pod.
    pub fn read(pod: &Pod) -> Self {
        let hashes = STATIC_UIDS.iter().filter_map(|name| pod.annotations().get(*name).cloned());
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        Self {
            uids: pod.uid().into_iter().chain(hashes).collect(),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            terminal: matches!(phase, Some("Succeeded" | "Failed")),
        }
    }

    /// Is the pod known by this UID?
    pub fn is(&self, uid: &str) -> bool {
        self.uids.iter().any(|known| known == uid)
    }
}

/// Why a caller may not ask for a pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PodRefused {
    /// No such pod.
    #[error("pod {pod} does not exist")]
    Absent {
        /// "namespace/name".
        pod: String,
    },
    /// A pod of that name, but not this one.
    #[error("pod {pod} has UID {known}, not {asked}: the one that asks is gone")]
    OtherUid {
        /// "namespace/name".
        pod: String,
        /// UID of the pod there is.
        known: String,
        /// UID that was named.
        asked: String,
    },
    /// Somebody else's pod.
    #[error("pod {pod} is bound to {}, the caller speaks for node {caller}", known.as_deref().unwrap_or("no node"))]
    OtherNode {
        /// "namespace/name".
        pod: String,
        /// Node that it is bound to.
        known: Option<String>,
        /// Node of the caller.
        caller: String,
    },
}

/// May a caller of this node ask for this pod?
pub fn check(facts: Option<&PodFacts>, pod: &str, uid: &str, node: &str) -> Result<(), PodRefused> {
    let Some(facts) = facts else { return Err(PodRefused::Absent { pod: pod.to_owned() }) };
    if !facts.is(uid) {
        let known = facts.uids.first().cloned().unwrap_or_default();
        return Err(PodRefused::OtherUid { pod: pod.to_owned(), known, asked: uid.to_owned() });
    }
    if facts.node.as_deref() != Some(node) {
        let (pod, known, caller) = (pod.to_owned(), facts.node.clone(), node.to_owned());
        return Err(PodRefused::OtherNode { pod, known, caller });
    }
    Ok(())
}

/// Why a pod could not be judged, or was refused.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// Refused.
    #[error(transparent)]
    Refused(#[from] PodRefused),
    /// The API server did not say.
    #[error("cannot read pod {pod}")]
    Read {
        /// "namespace/name".
        pod: String,
        /// The API server's answer.
        source: kube::Error,
    },
}

/// The cluster's pods and nodes.
#[derive(Clone)]
pub struct Pods {
    client: Client,
    known: Arc<RwLock<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    pods: Cache<PodFacts>,
    nodes: Cache<()>,
}

impl Pods {
    /// Nothing known yet.
    pub fn new(client: Client) -> Self {
        Self { client, known: Arc::default() }
    }

    /// Takes an event of the pods' watch.
    pub fn pod_event(&self, event: Event<Pod>) {
        let reduce =
            |pod: Pod| (key(&pod.namespace().unwrap_or_default(), &pod.name_any()), PodFacts::read(&pod));
        self.write(|known| known.pods.apply(map_event(event, reduce)));
    }

    /// Takes an event of the nodes' watch.
    pub fn node_event(&self, event: Event<Node>) {
        self.write(|known| known.nodes.apply(map_event(event, |node: Node| (node.name_any(), ()))));
    }

    /// Have both been listed?
    pub fn is_synced(&self) -> bool {
        self.read(|known| known.pods.is_synced() && known.nodes.is_synced())
    }

    /// May a caller of this node ask for this pod? What the watch says is enough to agree; before refusing, the API
    /// server itself is asked once.
    pub async fn check(&self, namespace: &str, name: &str, uid: &str, node: &str) -> Result<(), PodError> {
        let pod = key(namespace, name);
        if self.read(|known| check(known.pods.get(&pod), &pod, uid, node)).is_ok() {
            return Ok(());
        }
        let facts = self.live(namespace, name).await?;
        check(facts.as_ref(), &pod, uid, node)?;
        if let Some(facts) = facts {
            self.write(|known| known.pods.insert(pod, facts));
        }
        Ok(())
    }

    /// A pod as the watch has it.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<PodFacts> {
        self.read(|known| known.pods.get(&key(namespace, name)).cloned())
    }

    /// Is there such a node, by the watch?
    pub fn has_node(&self, node: &str) -> bool {
        self.read(|known| known.nodes.get(node).is_some())
    }

    /// A pod as the API server has it.
    pub async fn live(&self, namespace: &str, name: &str) -> Result<Option<PodFacts>, PodError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let pod = api.get_opt(name).await;
        let pod = pod.map_err(|source| PodError::Read { pod: key(namespace, name), source })?;
        Ok(pod.as_ref().map(PodFacts::read))
    }

    /// Is there such a node, by the API server?
    pub async fn live_node(&self, node: &str) -> Result<bool, kube::Error> {
        let api: Api<Node> = Api::all(self.client.clone());
        match api.get_metadata(node).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn read<T>(&self, look: impl FnOnce(&Known) -> T) -> T {
        look(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known.write().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests;
