//! What the watches, and our own writes, say.
//!
//! Owns that a late or restarted watch neither forgets what is new nor revives what is gone. Must never trust the
//! order of a watch against that of our own writes: object UIDs and the numbers of lists decide.

use std::time::Instant;

use trunkline_ipam::Release;

use super::{Entry, Ledger};
use crate::objects::{Claim, NadFacts, PoolObject};

impl Ledger {
    /// A pool was seen.
    pub fn pool_applied(&mut self, object: PoolObject) {
        let name = object.spec.name.clone();
        self.pools_listed.insert(name.clone());
        let specified = self.pools.get(&name).is_none_or(|known| {
            known.spec != object.spec
                || known.deleting != object.deleting
                || known.generation != object.generation
        });
        if specified {
            self.mark_dirty_around(&name);
            let is_new = self.table.upsert(object.spec.clone(), object.deleting);
            let cursor = object.cursor.as_deref().and_then(|cursor| cursor.parse().ok());
            if let (true, Some(cursor), Some(pool)) = (is_new, cursor, self.table.pool_mut(&name)) {
                pool.set_cursor(cursor);
            }
            self.networks_stale = true;
            self.mark_dirty_around(&name);
        }
        self.pools.insert(name, object);
    }

    /// A pool is gone.
    pub fn pool_deleted(&mut self, name: &str) {
        self.mark_dirty_around(name);
        self.pools.remove(name);
        self.table.remove(name);
        self.dirty.remove(name);
    }

    /// The pools' watch begins to list.
    pub fn pools_listing(&mut self) {
        self.pools_listed.clear();
    }

    /// The pools' watch has listed all.
    pub fn pools_done(&mut self) {
        let gone: Vec<_> =
            self.pools.keys().filter(|name| !self.pools_listed.contains(*name)).cloned().collect();
        for name in gone {
            self.pool_deleted(&name);
        }
        self.pools_synced = true;
    }

    /// Networks are what `nads` says, by "namespace/name".
    pub fn set_nad(&mut self, key: String, facts: Option<NadFacts>) {
        let before = match facts.clone() {
            Some(facts) => self.nads.insert(key, facts),
            None => self.nads.remove(&key),
        };
        if before != facts {
            let pools = before.into_iter().chain(facts).flat_map(|facts| facts.pools);
            for pool in pools.collect::<Vec<_>>() {
                self.mark_dirty_around(&pool);
            }
            self.networks_stale = true;
        }
    }

    /// A claim was seen, or created by us.
    pub fn claim_applied(&mut self, claim: Claim, now: Instant) {
        if self.buried.contains_key(&claim.uid) {
            return;
        }
        let first_seen = match self.claims.get(&claim.name) {
            Some(known) if known.claim.uid == claim.uid => known.first_seen,
            Some(_) => {
                self.forget(&claim.name.clone(), Release::NeverAnnounced, now);
                now
            }
            None => now,
        };
        let spec = &claim.spec;
        self.table.mark(&spec.pool, spec.address, claim.owner());
        self.by_pod.entry(spec.owner.pod_uid.clone()).or_default().insert(claim.name.clone());
        self.by_node.entry(spec.node.clone()).or_default().insert(claim.name.clone());
        self.mark_dirty(&spec.pool.clone());
        self.claims.insert(claim.name.clone(), Entry { claim, first_seen, list: self.list });
    }

    /// The watch says that a claim is gone.
    pub fn claim_deleted(&mut self, name: &str, uid: &str, now: Instant) {
        if self.buried.remove(uid).is_none()
            && self.claims.get(name).is_some_and(|known| known.claim.uid == uid)
        {
            self.forget(name, Release::Announced, now);
        }
    }

    /// The claims' watch begins to list.
    pub fn claims_listing(&mut self) {
        self.list += 1;
    }

    /// The claims' watch has listed all: what it did not name is gone, unless it was created since.
    pub fn claims_done(&mut self, now: Instant) {
        let list = self.list;
        let gone: Vec<_> =
            self.claims.iter().filter(|(_, known)| known.list < list).map(|(name, _)| name.clone()).collect();
        for name in gone {
            self.forget(&name, Release::Announced, now);
        }
        self.buried.retain(|_, since| *since >= list);
        self.claims_synced = true;
    }
}
