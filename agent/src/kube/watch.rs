//! The agent's watches: pods of this node, NADs, pools, the controller's Lease, the CA, the own Node.
//!
//! One task per watch, each restarting its stream for ever with a bounded backoff; every await is a stream's `next`,
//! which loses nothing when it is dropped. A CRD that is absent is retried quietly; one malformed object never
//! stops a watch. Must never write.

use std::{collections::HashSet, fmt::Debug, path::PathBuf, sync::Arc, time::Duration};

use futures::{StreamExt, pin_mut};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ConfigMap, Node, Pod},
};
use kube::{
    Api, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span, warn};
use trunkline_api::NETWORKS_ANNOTATION;

use super::{
    backoff::WatchBackoff,
    cache::{Inner, ObjectCache},
    events::{Recorder, reason},
    table::{Change, Key, Row, Table},
};
use crate::metrics::Metrics;

/// Name of the controller's Lease and of nothing else.
const LEASE: &str = "trunkline-controller";
/// Where the leader says how it is reached.
const ADDRESS_ANNOTATION: &str = "ipam.trunkline.io/address";
/// `ConfigMap` with the CA, and its key.
const CA_CONFIG_MAP: &str = "trunkline-ca";
const CA_KEY: &str = "ca.crt";
/// How often a mounted CA file is read again.
const CA_FILE_POLL: Duration = Duration::from_secs(30);

/// What the watches are told.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// This node's name.
    pub node: String,
    /// Namespace of the controller's Lease and CA.
    pub namespace: String,
    /// A mounted CA file; then the `ConfigMap` is not watched.
    pub ca_file: Option<PathBuf>,
}

/// The running watches; they stop when this is dropped.
#[derive(Debug)]
pub struct WatchTasks {
    tasks: JoinSet<()>,
}

/// What every watch needs.
struct Shared {
    inner: Arc<Inner>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

impl WatchTasks {
    /// Starts every watch; returns at once. Nothing is ready before the API server answers, and nothing waits for it.
    pub fn start(
        cache: &ObjectCache,
        options: WatchOptions,
        recorder: Recorder,
        metrics: &Arc<Metrics>,
        stop: &CancellationToken,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let inner = &cache.inner;
        let shared = || Shared { inner: Arc::clone(inner), metrics: Arc::clone(metrics), stop: stop.clone() };
        let client = || inner.client.clone();

        let pods = watcher::Config::default().fields(&format!("spec.nodeName={}", options.node));
        let host = HostNetworkWarner { recorder, warned: HashSet::new() };
        let task = objects(shared(), "pods", |i| &i.pods, Api::all(client()), pods, host);
        tasks.spawn(task.instrument(info_span!("watch", resource = "pods")));

        let all = watcher::Config::default();
        let task = objects(shared(), "nads", |i| &i.nads, Api::all(client()), all.clone(), ());
        tasks.spawn(task.instrument(info_span!("watch", resource = "nads")));
        let task = objects(shared(), "ippools", |i| &i.pools, Api::all(client()), all, ());
        tasks.spawn(task.instrument(info_span!("watch", resource = "ippools")));

        let api = Api::<Lease>::namespaced(client(), &options.namespace);
        let task = value(shared(), api, LEASE.to_owned(), leader_address, |i| &i.controller);
        tasks.spawn(task.instrument(info_span!("watch", resource = "lease")));
        let task = value(shared(), Api::<Node>::all(client()), options.node.clone(), ResourceExt::uid, |i| {
            &i.node_uid
        });
        tasks.spawn(task.instrument(info_span!("watch", resource = "node")));

        let span = info_span!("watch", resource = "ca");
        if let Some(file) = options.ca_file {
            tasks.spawn(ca_file(shared(), file).instrument(span));
        } else {
            let api = Api::<ConfigMap>::namespaced(client(), &options.namespace);
            tasks
                .spawn(value(shared(), api, CA_CONFIG_MAP.to_owned(), ca_bundle, |i| &i.ca).instrument(span));
        }
        Self { tasks }
    }

    /// Waits for the watches to end after the stop was asked for.
    pub async fn join(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Sees every object that a watch brings.
trait Observer<K>: Send {
    fn put(&mut self, _key: &Key, _row: &Row<K>) {}
}

impl<K> Observer<K> for () {}

/// Tells the owner of a hostNetwork pod that its networks annotation has no effect; no CNI call ever comes for it.
struct HostNetworkWarner {
    recorder: Recorder,
    warned: HashSet<String>,
}

/// Pods remembered by [`HostNetworkWarner`]; past it, it may warn twice.
const MOST_WARNED: usize = 4096;

impl Observer<Pod> for HostNetworkWarner {
    fn put(&mut self, _key: &Key, row: &Row<Pod>) {
        let Ok(pod) = row else { return };
        let Some(uid) = pod.uid() else { return };
        if asks_in_vain(pod) && self.warned.insert(uid) {
            self.recorder.pod(
                pod,
                reason::HOST_NETWORK_POD_IGNORED,
                format!(
                    "annotation {NETWORKS_ANNOTATION} has no effect: the pod has hostNetwork: true and so no \
                     network of its own; set hostNetwork: false to attach it"
                ),
            );
        }
        if self.warned.len() > MOST_WARNED {
            self.warned.clear();
        }
    }
}

fn asks_in_vain(pod: &Pod) -> bool {
    let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    let leaving = pod.metadata.deletion_timestamp.is_some();
    host_network
        && !leaving
        && pod.annotations().get(NETWORKS_ANNOTATION).is_some_and(|asked| !asked.trim().is_empty())
}

/// Keeps one table in step with the API server until the stop.
async fn objects<K>(
    shared: Shared,
    resource: &'static str,
    table: fn(&Inner) -> &Table<K>,
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
    mut observer: impl Observer<K>,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let stream = watcher(api, config).backoff(WatchBackoff::default());
    pin_mut!(stream);
    let mut health = Health::default();
    loop {
        let item = tokio::select! { biased;
            () = shared.stop.cancelled() => return,
            item = stream.next() => item,
        };
        let event = match item {
            Some(Ok(event)) => event,
            Some(Err(error)) => {
                health.failed(&error);
                continue;
            }
            None => return,
        };
        let table = table(&shared.inner);
        match table.apply(event) {
            Change::Put(key, row) => {
                if let Err(error) = &row {
                    warn!(namespace = %key.0, name = %key.1, %error, "object is malformed");
                }
                observer.put(&key, &row);
            }
            Change::Synced => health.synced(),
            Change::Gone => {}
            Change::Nothing => continue,
        }
        shared.metrics.set_malformed(resource, table.malformed());
        shared.inner.changed.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// Says once that a watch is away, and once that it is back.
#[derive(Default)]
struct Health {
    away: bool,
}

impl Health {
    fn failed(&mut self, error: &watcher::Error) {
        if is_absent(error) {
            debug!("resource is not installed yet");
        } else if !self.away {
            self.away = true;
            warn!(%error, "watch is away; retrying");
        }
    }

    fn synced(&mut self) {
        if std::mem::take(&mut self.away) {
            info!("watch is back");
        }
    }
}

/// Does the API server not know the resource: its CRD is not installed.
fn is_absent(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    }
}

/// Keeps one value of one named object in step until the stop. A deleted object keeps its last value: what the
/// agent reads this way (address, CA, UID) is better stale than absent, and a wrong one fails on its own.
async fn value<K>(
    shared: Shared,
    api: Api<K>,
    name: String,
    read: fn(&K) -> Option<String>,
    slot: fn(&Inner) -> &watch::Sender<Option<String>>,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let stream = watcher(api, config).backoff(WatchBackoff::default());
    pin_mut!(stream);
    let mut health = Health::default();
    loop {
        let item = tokio::select! { biased;
            () = shared.stop.cancelled() => return,
            item = stream.next() => item,
        };
        match item {
            Some(Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => {
                store(slot(&shared.inner), read(&object));
            }
            Some(Ok(watcher::Event::InitDone)) => health.synced(),
            Some(Ok(_)) => {}
            Some(Err(error)) => health.failed(&error),
            None => return,
        }
    }
}

fn store(slot: &watch::Sender<Option<String>>, value: Option<String>) {
    slot.send_if_modified(|held| {
        let changed = value.is_some() && *held != value;
        if changed {
            *held = value;
        }
        changed
    });
}

fn leader_address(lease: &Lease) -> Option<String> {
    lease.annotations().get(ADDRESS_ANNOTATION).filter(|address| !address.is_empty()).cloned()
}

fn ca_bundle(map: &ConfigMap) -> Option<String> {
    map.data.as_ref()?.get(CA_KEY).filter(|pem| !pem.trim().is_empty()).cloned()
}

/// Reads a mounted CA file now and then; the kubelet swaps it when the CA rotates.
async fn ca_file(shared: Shared, file: PathBuf) {
    let mut missing = false;
    loop {
        match tokio::fs::read_to_string(&file).await {
            Ok(pem) => store(&shared.inner.ca, Some(pem).filter(|pem| !pem.trim().is_empty())),
            Err(error) if !missing => {
                missing = true;
                warn!(file = %file.display(), %error, "CA file cannot be read; retrying");
            }
            Err(_) => {}
        }
        tokio::select! { biased;
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(CA_FILE_POLL) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_host_network_pod_with_a_real_annotation_asks_in_vain() {
        for (host_network, annotation, vain) in [
            (json!(true), json!("net1"), true),
            (json!(true), json!("  "), false),
            (json!(false), json!("net1"), false),
            (json!(null), json!("net1"), false),
        ] {
            let pod = serde_json::from_value(json!({
                "metadata": { "annotations": { NETWORKS_ANNOTATION: annotation } },
                "spec": { "containers": [], "hostNetwork": host_network },
            }))
            .expect("a pod");
            assert_eq!(asks_in_vain(&pod), vain, "{host_network} {annotation}");
        }
    }

    #[test]
    fn the_leaders_address_is_read_from_its_annotation() {
        let lease = |annotations: serde_json::Value| -> Lease {
            serde_json::from_value(json!({ "metadata": { "annotations": annotations } })).expect("a lease")
        };
        let address = leader_address(&lease(json!({ ADDRESS_ANNOTATION: "10.0.0.1:10350" })));
        assert_eq!(address.as_deref(), Some("10.0.0.1:10350"));
        assert_eq!(leader_address(&lease(json!({ ADDRESS_ANNOTATION: "" }))), None);
        assert_eq!(leader_address(&lease(json!({}))), None);
    }

    #[test]
    fn a_vanished_value_keeps_the_last_one_and_only_a_change_is_told() {
        let slot = watch::Sender::new(None);
        let mut seen = slot.subscribe();
        store(&slot, Some("a".into()));
        assert!(seen.has_changed().expect("the sender lives"));
        seen.mark_unchanged();
        store(&slot, Some("a".into()));
        store(&slot, None);
        assert!(!seen.has_changed().expect("the sender lives"));
        assert_eq!(seen.borrow().as_deref(), Some("a"));
    }
}
