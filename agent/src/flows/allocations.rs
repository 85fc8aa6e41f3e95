//! Watches of the allocations that can name peers of this node's flows.
//!
//! One task a pool that a port of this node uses, by field selector: an agent does not watch the whole cluster's
//! addresses. A pool that is used no more is watched for a while longer and then let go. Must never write.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures::{StreamExt as _, pin_mut};
use kube::core::DeserializeGuard;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::sync::watch::Receiver;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use trunkline_api::{IPAllocation, Nad, NadConfig, VlanId};

use super::names::Names;
use crate::kube::{LookupError, ObjectCache, WatchBackoff};

/// A pool that no port uses is let go after this.
const LINGER: Duration = Duration::from_mins(10);

/// The watches, and what they fill.
pub(super) struct Allocations {
    client: Client,
    objects: ObjectCache,
    names: Arc<Mutex<Names>>,
    pools: HashMap<String, Pool>,
}

struct Pool {
    last_used: Instant,
    _watch: AbortOnDropHandle<()>,
}

impl Allocations {
    pub(super) fn new(objects: ObjectCache) -> Self {
        Self { client: objects.client(), objects, names: Arc::default(), pools: HashMap::new() }
    }

    /// What is known.
    pub(super) fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches these pools, and those of a while ago.
    pub(super) fn follow<'a>(&mut self, used: impl Iterator<Item = &'a str>) {
        let now = Instant::now();
        for pool in used {
            if let Some(watched) = self.pools.get_mut(pool) {
                watched.last_used = now;
                continue;
            }
            let task =
                watch(self.client.clone(), self.objects.clone(), pool.to_owned(), Arc::clone(&self.names));
            let watch = AbortOnDropHandle::new(tokio::spawn(task));
            self.pools.insert(pool.to_owned(), Pool { last_used: now, _watch: watch });
        }
        let names = &self.names;
        self.pools.retain(|pool, watched| {
            let used = now.duration_since(watched.last_used) < LINGER;
            if !used {
                // Nobody would hear when they end.
                let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
                names.retain(pool, &HashSet::new(), SystemTime::now());
            }
            used
        });
    }
}

async fn watch(client: Client, objects: ObjectCache, pool: String, names: Arc<Mutex<Names>>) {
    let api: Api<DeserializeGuard<IPAllocation>> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("spec.pool={pool}"));
    let stream = watcher(api, config).backoff(WatchBackoff::default());
    pin_mut!(stream);
    let mut vlans = Vlans::new(objects);
    let mut listed = HashSet::new();
    while let Some(event) = stream.next().await {
        let lock = || names.lock().unwrap_or_else(PoisonError::into_inner);
        // A malformed one names nobody.
        match event {
            Ok(watcher::Event::Apply(DeserializeGuard(object))) => {
                let Ok(IPAllocation { spec, .. }) = object else { continue };
                let vlan = vlans.of(&spec.owner.nad, &pool).await;
                lock().put(&spec, vlan, SystemTime::now());
            }
            Ok(watcher::Event::InitApply(DeserializeGuard(object))) => {
                let Ok(IPAllocation { spec, .. }) = object else { continue };
                listed.insert(spec.address);
                let vlan = vlans.of(&spec.owner.nad, &pool).await;
                lock().put(&spec, vlan, SystemTime::now());
            }
            Ok(watcher::Event::Delete(DeserializeGuard(object))) => {
                let Ok(IPAllocation { spec, .. }) = object else { continue };
                lock().end(&spec, SystemTime::now());
            }
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitDone) => {
                lock().retain(&pool, &std::mem::take(&mut listed), SystemTime::now());
            }
            Err(error) => tracing::debug!(%error, %pool, "allocations are not to be had; retrying"),
        }
    }
}

/// VLANs of the networks that have addresses of one pool, found out once for as long as no NAD and no pool changes: a
/// list has many thousands of allocations of few networks.
struct Vlans {
    objects: ObjectCache,
    changed: Receiver<u64>,
    known: HashMap<String, Option<VlanId>>,
}

impl Vlans {
    fn new(objects: ObjectCache) -> Self {
        Self { changed: objects.changed(), objects, known: HashMap::new() }
    }

    async fn of(&mut self, nad: &str, pool: &str) -> Option<VlanId> {
        // Marked before anything is asked: a change that comes between is seen the next time.
        if self.changed.has_changed().unwrap_or(true) {
            self.changed.mark_unchanged();
            self.known.clear();
        }
        if let Some(vlan) = self.known.get(nad) {
            return *vlan;
        }
        match vlan_of(&self.objects, nad, pool).await {
            Ok(vlan) => {
                self.known.insert(nad.to_owned(), vlan);
                vlan
            }
            // There may be an answer the next time.
            Err(_) => None,
        }
    }
}

/// The network's VLAN: the NAD's own, else the pool's. From memory: the agent watches both.
async fn vlan_of(objects: &ObjectCache, nad: &str, pool: &str) -> Result<Option<VlanId>, LookupError> {
    let Some((namespace, name)) = nad.split_once('/') else { return Ok(None) };
    let nad = known(objects.nad(namespace, name).await)?;
    let own = nad.and_then(|nad| match NadConfig::parse(nad.spec.config.as_deref()) {
        Ok(Nad::Ours(config)) => config.vlan,
        _ => None,
    });
    if own.is_some() {
        return Ok(own);
    }
    let pool = known(objects.pool(pool).await)?;
    Ok(pool.and_then(|pool| pool.spec.subnet_info.vlan_id().ok().flatten()))
}

/// An object that cannot be read says no more than one that is not there.
fn known<K>(found: Result<Option<Arc<K>>, LookupError>) -> Result<Option<Arc<K>>, LookupError> {
    found.or_else(|error| if error.is_transient() { Err(error) } else { Ok(None) })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;
    use trunkline_api::NetworkAttachmentDefinition;

    use super::*;

    /// A cache whose API server has nothing, and how often that was asked.
    fn cache() -> (ObjectCache, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let nothing = tower::service_fn(move |_: Request<Body>| {
            count.fetch_add(1, Ordering::Relaxed);
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "not found", "reason": "NotFound", "code": 404,
            });
            let answer = Response::builder().status(404).body(Body::from(status.to_string().into_bytes()));
            async { Ok::<_, Infallible>(answer.expect("a response")) }
        });
        (ObjectCache::new(Client::new(nothing, "default")), asked)
    }

    fn nad(vlan: u16) -> NetworkAttachmentDefinition {
        let config = json!({
            "cniVersion": "0.3.1", "type": "antrea", "networkType": "vlan", "vlan": vlan,
            "ipam": {"type": "antrea", "ippools": ["pool"]},
        });
        let mut nad = NetworkAttachmentDefinition::new("net", Some(config.to_string()));
        nad.metadata.namespace = Some("ns".to_owned());
        nad
    }

    #[tokio::test]
    async fn a_networks_vlan_is_found_out_once_and_anew_when_its_nad_changes() {
        let (objects, asked) = cache();
        let mut vlans = Vlans::new(objects.clone());
        for _ in 0..3 {
            assert_eq!(vlans.of("ns/net", "pool").await, None);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2, "for the NAD and for the pool, once");
        for id in [100, 200] {
            objects.put_nad(nad(id));
            for _ in 0..3 {
                assert_eq!(vlans.of("ns/net", "pool").await, VlanId::try_from(id).ok());
            }
        }
        assert_eq!(vlans.of("ns/other", "pool").await, None);
        assert_eq!(asked.load(Ordering::Relaxed), 4);
    }
}
