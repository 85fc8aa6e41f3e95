//! What the rest of the agent asks about Kubernetes objects: from memory, with one live GET on a miss.
//!
//! Owns the lookups; must never change an object, nor answer "absent" when the API server could not be asked.

use std::{fmt, sync::Arc, time::Duration};

use k8s_openapi::{
    Metadata, NamespaceResourceScope, api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, Resource, ResourceExt, core::DeserializeGuard};
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::sync::watch;
use trunkline_api::{IPPool, NetworkAttachmentDefinition};

use super::table::{Row, Table, split};

/// One live GET.
const LIVE_GET: Duration = Duration::from_secs(5);

/// Annotation of a static pod's mirror that holds what the runtime calls the pod's UID.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// Why a lookup has no answer.
#[derive(Clone, Debug, Error)]
pub enum LookupError {
    /// The object exists and cannot be read.
    #[error("{kind} {name} is malformed: {message}")]
    Malformed {
        /// Kind of the object.
        kind: &'static str,
        /// "namespace/name", or the name.
        name: String,
        /// What is wrong with it.
        message: Arc<str>,
    },
    /// The API server could not be asked.
    #[error("cannot read {kind} {name} from the API server: {message}")]
    Unreachable {
        /// Kind of the object.
        kind: &'static str,
        /// "namespace/name", or the name.
        name: String,
        /// What happened.
        message: String,
    },
    /// The API server will not tell.
    #[error("the agent may not read {kind} {name}: {message}")]
    Forbidden {
        /// Kind of the object.
        kind: &'static str,
        /// "namespace/name", or the name.
        name: String,
        /// The API server's words.
        message: String,
    },
}

impl LookupError {
    /// May the same question have an answer a moment later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// The agent's view of the API: cheap to clone, never stale for longer than a watch is away.
#[derive(Clone)]
pub struct ObjectCache {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) client: Client,
    pub(super) pods: Table<Pod>,
    pub(super) nads: Table<NetworkAttachmentDefinition>,
    pub(super) pools: Table<IPPool>,
    pub(super) changed: watch::Sender<u64>,
    pub(super) controller: watch::Sender<Option<String>>,
    pub(super) ca: watch::Sender<Option<String>>,
    pub(super) node_uid: watch::Sender<Option<String>>,
}

impl fmt::Debug for ObjectCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectCache").finish_non_exhaustive()
    }
}

impl ObjectCache {
    /// An empty cache; [`super::WatchTasks::start`] fills it.
    pub fn new(client: Client) -> Self {
        let inner = Inner {
            client,
            pods: Table::new(),
            nads: Table::new(),
            pools: Table::new(),
            changed: watch::Sender::new(0),
            controller: watch::Sender::new(None),
            ca: watch::Sender::new(None),
            node_uid: watch::Sender::new(None),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The pod of this name, if it is the one that the runtime means by `uid`: its UID, or a static pod's config
    /// hash. An empty `uid` takes whichever pod has the name.
    pub async fn pod(&self, namespace: &str, name: &str, uid: &str) -> Result<Option<Arc<Pod>>, LookupError> {
        if let Some(Ok(pod)) = self.inner.pods.get(namespace, name)
            && is_same_pod(&pod, uid)
        {
            return Ok(Some(pod));
        }
        let pod = self.live_namespaced::<Pod>("Pod", namespace, name).await?;
        Ok(pod.filter(|pod| is_same_pod(pod, uid)))
    }

    /// The pod of this name from memory alone.
    pub fn cached_pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.inner.pods.get(namespace, name).and_then(Result::ok)
    }

    /// A network attachment definition.
    pub async fn nad(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<NetworkAttachmentDefinition>>, LookupError> {
        const KIND: &str = "NetworkAttachmentDefinition";
        match self.inner.nads.get(namespace, name) {
            Some(Ok(nad)) => Ok(Some(nad)),
            // A malformed one may have been mended this moment: ask.
            Some(Err(_)) | None => self.live_namespaced(KIND, namespace, name).await,
        }
    }

    /// Whether there is such a network attachment definition, readable or not; `None` before a list has been complete.
    pub fn has_nad(&self, namespace: &str, name: &str) -> Option<bool> {
        self.inner.nads.is_synced().then(|| self.inner.nads.get(namespace, name).is_some())
    }

    /// An address pool.
    pub async fn pool(&self, name: &str) -> Result<Option<Arc<IPPool>>, LookupError> {
        match self.inner.pools.get("", name) {
            Some(Ok(pool)) => Ok(Some(pool)),
            Some(Err(_)) | None => live(Api::all(self.inner.client.clone()), "IPPool", "", name).await,
        }
    }

    /// Every pod of this node, once a list has been complete; `None` before: absence means nothing then.
    pub fn pods(&self) -> Option<Vec<Arc<Pod>>> {
        self.inner.pods.is_synced().then(|| self.inner.pods.all())
    }

    /// Counts up whenever a pod, NAD or pool changes; lets an ADD wait for what it misses.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// As when the watch brings this NAD.
    #[cfg(test)]
    pub(crate) fn put_nad(&self, nad: NetworkAttachmentDefinition) {
        self.inner.nads.apply(kube::runtime::watcher::Event::Apply(DeserializeGuard(Ok(nad))));
        self.inner.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// `<ip>:<port>` of the leading controller's IPAM service.
    pub fn controller_address(&self) -> watch::Receiver<Option<String>> {
        self.inner.controller.subscribe()
    }

    /// PEM bundle of the CA that signs the IPAM service's certificate.
    pub fn ca(&self) -> watch::Receiver<Option<String>> {
        self.inner.ca.subscribe()
    }

    /// UID of this agent's Node object.
    pub fn node_uid(&self) -> watch::Receiver<Option<String>> {
        self.inner.node_uid.subscribe()
    }

    /// The client, for the few that write.
    pub fn client(&self) -> Client {
        self.inner.client.clone()
    }

    async fn live_namespaced<K>(
        &self,
        kind: &'static str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<K>>, LookupError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + fmt::Debug + DeserializeOwned,
    {
        live(Api::namespaced(self.inner.client.clone(), namespace), kind, namespace, name).await
    }
}

async fn live<K>(
    api: Api<DeserializeGuard<K>>,
    kind: &'static str,
    namespace: &str,
    name: &str,
) -> Result<Option<Arc<K>>, LookupError>
where
    K: Resource<DynamicType = ()> + Clone + fmt::Debug + DeserializeOwned,
{
    let named = || if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
    let unreachable = |message: String| LookupError::Unreachable { kind, name: named(), message };
    match tokio::time::timeout(LIVE_GET, api.get_opt(name)).await {
        Ok(Ok(None)) => Ok(None),
        Ok(Ok(Some(object))) => match split(object).1 {
            Row::Ok(object) => Ok(Some(object)),
            Row::Err(message) => Err(LookupError::Malformed { kind, name: named(), message }),
        },
        Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => {
            Err(LookupError::Forbidden { kind, name: named(), message: status.message })
        }
        Ok(Err(error)) => Err(unreachable(error.to_string())),
        Err(_) => Err(unreachable(format!("no answer in {} s", LIVE_GET.as_secs()))),
    }
}

fn is_same_pod(pod: &Pod, uid: &str) -> bool {
    let meta: &ObjectMeta = Metadata::metadata(pod);
    uid.is_empty()
        || meta.uid.as_deref() == Some(uid)
        || pod.annotations().get(CONFIG_HASH).is_some_and(|hash| hash == uid)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_known_by_its_uid_or_a_static_pods_config_hash() {
        let pod: Pod = serde_json::from_value(json!({ "metadata": {
            "name": "p", "uid": "u-1", "annotations": { CONFIG_HASH: "abc" },
        }}))
        .expect("a pod");
        for (uid, same) in [("u-1", true), ("abc", true), ("", true), ("u-2", false)] {
            assert_eq!(is_same_pod(&pod, uid), same, "{uid}");
        }
    }
}
