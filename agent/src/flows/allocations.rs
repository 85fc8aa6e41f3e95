//! Watches of the allocations that can name peers of this node's flows.
//!
//! One task a pool that a port of this node uses, by field selector: an agent does not watch the whole cluster's
//! addresses. A pool that is used no more is watched for a while longer and then let go. Must never write.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures::{StreamExt as _, pin_mut};
use kube::core::DeserializeGuard;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use trunkline_api::{IPAllocation, Nad, NadConfig, VlanId};

use super::names::{Claim, Names};
use super::record::Endpoint;
use crate::kube::{ObjectCache, WatchBackoff};

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
        self.pools.retain(|_, pool| now.duration_since(pool.last_used) < LINGER);
    }
}

async fn watch(client: Client, objects: ObjectCache, pool: String, names: Arc<Mutex<Names>>) {
    let api: Api<DeserializeGuard<IPAllocation>> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("spec.pool={pool}"));
    let stream = watcher(api, config).backoff(WatchBackoff::default());
    pin_mut!(stream);
    let prefix = format!("{pool}.");
    let mut listed = std::collections::HashSet::new();
    while let Some(event) = stream.next().await {
        let lock = || names.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(watcher::Event::Apply(object)) => {
                put(&objects, &object, &names).await;
            }
            Ok(watcher::Event::InitApply(object)) => {
                listed.insert(object.name_any());
                put(&objects, &object, &names).await;
            }
            Ok(watcher::Event::Delete(object)) => lock().end(&object.name_any(), SystemTime::now()),
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitDone) => {
                let alive = |name: &str| !name.starts_with(&prefix) || listed.contains(name);
                lock().retain(alive, SystemTime::now());
            }
            Err(error) => tracing::debug!(%error, %pool, "allocations are not to be had; retrying"),
        }
    }
}

async fn put(objects: &ObjectCache, object: &DeserializeGuard<IPAllocation>, names: &Mutex<Names>) {
    // A malformed one names nobody.
    let Ok(allocation) = &object.0 else { return };
    let vlan = vlan_of(objects, &allocation.spec.owner.nad, &allocation.spec.pool).await;
    let claim = claim(allocation, vlan);
    names.lock().unwrap_or_else(PoisonError::into_inner).put(&allocation.name_any(), claim);
}

fn claim(allocation: &IPAllocation, vlan: Option<VlanId>) -> Claim {
    let owner = &allocation.spec.owner;
    Claim {
        vlan,
        address: allocation.spec.address,
        network: owner.nad.clone(),
        owner: Arc::new(Endpoint {
            namespace: owner.pod_namespace.clone(),
            name: owner.pod_name.clone(),
            uid: owner.pod_uid.clone(),
            interface: owner.interface.clone(),
        }),
    }
}

/// The network's VLAN: the NAD's own, else the pool's. From memory: the agent watches both.
async fn vlan_of(objects: &ObjectCache, nad: &str, pool: &str) -> Option<VlanId> {
    let (namespace, name) = nad.split_once('/')?;
    let own = match objects.nad(namespace, name).await.ok().flatten() {
        Some(nad) => match NadConfig::parse(nad.spec.config.as_deref()) {
            Ok(Nad::Ours(config)) => config.vlan,
            _ => None,
        },
        None => None,
    };
    if own.is_some() {
        return own;
    }
    let pool = objects.pool(pool).await.ok().flatten()?;
    pool.spec.subnet_info.vlan_id().ok().flatten()
}
