//! The watches: pools, claims, networks, pods and nodes.
//!
//! One task a kind feeds the ledger or the index of pods, for ever, with growing pauses after failures. A malformed
//! object is skipped. Tasks can be dropped at any await. Must never decide.

use std::time::Instant;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_api};
use kube::{Client, ResourceExt};
use trunkline_api::{IPAllocation, IPPool, NetworkAttachmentDefinition};

use crate::cache::Cache;
use crate::lease::Chain;
use crate::ledger::{LedgerGone, LedgerHandle};
use crate::objects::{Claim, NadFacts, PoolObject, key};
use crate::pods::Pods;

/// Watches one kind, logging failures once each.
fn watch<K>(api: Api<K>, kind: &'static str) -> impl Stream<Item = Event<K>>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let events = watch_api(api, watcher::Config::default()).default_backoff();
    events.filter_map(move |event| async move {
        event.inspect_err(|error| tracing::warn!(kind, error = %Chain(error), "a watch failed")).ok()
    })
}

/// An object, unless it is malformed.
fn sound<K: kube::Resource>(object: DeserializeGuard<K>, kind: &'static str) -> Option<K> {
    let name = object.name_any();
    object.0.inspect_err(|error| tracing::warn!(kind, %name, %error, "a malformed object is skipped")).ok()
}

/// Feeds pools to the ledger.
pub async fn pools(client: Client, ledger: LedgerHandle) -> Result<(), LedgerGone> {
    let mut events = std::pin::pin!(watch::<DeserializeGuard<IPPool>>(Api::all(client), "IPPool"));
    while let Some(event) = events.next().await {
        let job: Job = match event {
            Event::Init => Box::new(|ledger, _| ledger.pools_listing()),
            Event::InitDone => Box::new(|ledger, _| ledger.pools_done()),
            Event::Apply(pool) | Event::InitApply(pool) => {
                let Some(pool) = sound(pool, "IPPool") else { continue };
                let pool = PoolObject::read(&pool);
                Box::new(move |ledger, _| ledger.pool_applied(pool))
            }
            Event::Delete(pool) => {
                let name = pool.name_any();
                Box::new(move |ledger, _| ledger.pool_deleted(&name))
            }
        };
        ledger.call(job).await?;
    }
    Ok(())
}

type Job = Box<dyn FnOnce(&mut crate::ledger::Ledger, Instant) + Send>;

/// Feeds claims to the ledger.
pub async fn claims(client: Client, ledger: LedgerHandle) -> Result<(), LedgerGone> {
    let mut events =
        std::pin::pin!(watch::<DeserializeGuard<IPAllocation>>(Api::all(client), "IPAllocation"));
    while let Some(event) = events.next().await {
        let job: Job = match event {
            Event::Init => Box::new(|ledger, _| ledger.claims_listing()),
            Event::InitDone => Box::new(crate::ledger::Ledger::claims_done),
            Event::Apply(claim) | Event::InitApply(claim) => {
                let Some(claim) = sound(claim, "IPAllocation") else { continue };
                let claim = Claim::read(&claim);
                Box::new(move |ledger, now| ledger.claim_applied(claim, now))
            }
            Event::Delete(claim) => {
                let (name, uid) = (claim.name_any(), claim.uid().unwrap_or_default());
                Box::new(move |ledger, now| ledger.claim_deleted(&name, &uid, now))
            }
        };
        ledger.call(job).await?;
    }
    Ok(())
}

/// Feeds networks to the ledger. Without their CRD there are none, and the watch tries again for ever.
pub async fn nads(client: Client, ledger: LedgerHandle) -> Result<(), LedgerGone> {
    type Guarded = DeserializeGuard<NetworkAttachmentDefinition>;
    let mut cache: Cache<NadFacts> = Cache::default();
    let mut events = std::pin::pin!(watch::<Guarded>(Api::all(client), "NetworkAttachmentDefinition"));
    let mut known: Vec<String> = Vec::new();
    while let Some(event) = events.next().await {
        let reduce = |nad: Guarded| {
            let key = key(&nad.namespace().unwrap_or_default(), &nad.name_any());
            let facts = sound(nad, "NetworkAttachmentDefinition").map(|nad| NadFacts::read(&nad));
            (key, facts.unwrap_or_default())
        };
        let event = crate::cache::map_event(event, reduce);
        let changed = match &event {
            Event::Apply(entry) | Event::InitApply(entry) => vec![(entry.0.clone(), Some(entry.1.clone()))],
            Event::Delete(entry) => vec![(entry.0.clone(), None)],
            Event::Init | Event::InitDone => Vec::new(),
        };
        let is_done = matches!(event, Event::InitDone);
        known.extend(changed.iter().map(|(key, _)| key.clone()));
        cache.apply(event);
        let mut changes = changed;
        if is_done {
            // What the list did not name is gone.
            known.sort();
            known.dedup();
            changes
                .extend(known.iter().filter(|key| cache.get(key).is_none()).map(|key| (key.clone(), None)));
            known.retain(|key| cache.get(key).is_some());
        }
        let apply = move |ledger: &mut crate::ledger::Ledger, _| {
            for (key, facts) in changes {
                ledger.set_nad(key, facts);
            }
        };
        ledger.call(apply).await?;
    }
    Ok(())
}

/// Feeds pods to their index.
pub async fn pods(client: Client, pods: Pods) {
    let mut events = std::pin::pin!(watch::<Pod>(Api::all(client), "Pod"));
    while let Some(event) = events.next().await {
        pods.pod_event(event);
    }
}

/// Feeds nodes to their index.
pub async fn nodes(client: Client, pods: Pods) {
    let mut events = std::pin::pin!(watch::<Node>(Api::all(client), "Node"));
    while let Some(event) = events.next().await {
        pods.node_event(event);
    }
}
