//! Every claimed address, by object, pod and node, and what to do for a pod that asks.
//!
//! Owns the allocator's table and the index of claims; pure, `now` is passed in. Must never write to the API server:
//! what is planned here, others carry out, and tell the ledger what came of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use trunkline_ipam::{Network, Owner, Pick, Release, Table};

use crate::objects::{Claim, NadFacts, PoolObject};

mod handle;
mod plan;
mod report;
mod seen;

pub use handle::{LedgerGone, LedgerHandle, spawn};
pub use plan::{InterfaceAsk, Plan, PlanError, PlannedInterface, Request};
pub use report::PoolReport;

/// The ledger.
#[derive(Debug, Default)]
pub struct Ledger {
    table: Table,
    pools: HashMap<String, PoolObject>,
    nads: HashMap<String, NadFacts>,
    networks_stale: bool,
    claims: HashMap<String, Entry>,
    by_pod: HashMap<String, BTreeSet<String>>,
    by_node: HashMap<String, BTreeSet<String>>,
    /// UIDs of objects that we deleted and whose end the watch has not told yet, with the list they are older than.
    buried: HashMap<String, u64>,
    /// Number of the list that the claims' watch is in, or has done last.
    list: u64,
    claims_synced: bool,
    pools_synced: bool,
    pools_listed: HashSet<String>,
    dirty: BTreeSet<String>,
}

#[derive(Debug)]
struct Entry {
    claim: Claim,
    first_seen: Instant,
    list: u64,
}

impl Ledger {
    /// Have pools and claims been listed?
    pub fn is_synced(&self) -> bool {
        self.pools_synced && self.claims_synced
    }

    /// An address that was set aside is not going to be claimed.
    pub fn give_up(&mut self, pick: &Pick, owner: &Owner, now: Instant) {
        self.table.release(&pick.pool, pick.address, owner, Release::NeverAnnounced, now);
    }

    /// We deleted a claim.
    pub fn claim_removed(&mut self, claim: &Claim, how: Release, now: Instant) {
        if self.claims.get(&claim.name).is_some_and(|known| known.claim.uid == claim.uid) {
            self.forget(&claim.name, how, now);
            self.buried.insert(claim.uid.clone(), self.list);
        }
    }

    /// The claims of a pod, those of one sandbox only if it is named, those of some interfaces only if any are.
    pub fn of_pod(&self, uid: &str, sandbox: &str, interfaces: &[String]) -> Vec<Claim> {
        let names = self.by_pod.get(uid).into_iter().flatten();
        let claims = names.filter_map(|name| self.claims.get(name)).map(|known| &known.claim);
        claims
            .filter(|claim| sandbox.is_empty() || claim.spec.owner.sandbox == sandbox)
            .filter(|claim| interfaces.is_empty() || interfaces.contains(&claim.spec.owner.interface))
            .cloned()
            .collect()
    }

    /// The claims of a node.
    pub fn of_node(&self, node: &str) -> Vec<Claim> {
        let names = self.by_node.get(node).into_iter().flatten();
        names.filter_map(|name| self.claims.get(name)).map(|known| known.claim.clone()).collect()
    }

    /// All claims with the moment they were first seen.
    pub fn all(&self) -> Vec<(Claim, Instant)> {
        self.claims.values().map(|known| (known.claim.clone(), known.first_seen)).collect()
    }

    /// An address answered from elsewhere: it rests for so long once nobody has it.
    pub fn quarantine(&mut self, pool: &str, address: IpAddr, rest: Duration, now: Instant) {
        if let Some(pool) = self.table.pool_mut(pool) {
            pool.quarantine(address, now + rest);
        }
        self.mark_dirty(pool);
    }

    /// A pool's finalizer is in place.
    pub fn set_guarded(&mut self, pool: &str, guarded: bool) {
        if let Some(object) = self.pools.get_mut(pool) {
            object.guarded = guarded;
        }
    }

    /// May the finalizer go? If so, the pool counts as unguarded from now on, and nothing is given from it before
    /// it is guarded again.
    pub fn unguard(&mut self, pool: &str) -> bool {
        let unused = self.table.pool(pool).is_some_and(|pool| pool.claims() == 0);
        if unused {
            self.set_guarded(pool, false);
        }
        unused
    }

    /// Does the pool carry our finalizer?
    pub fn is_guarded(&self, pool: &str) -> bool {
        self.pools.get(pool).is_some_and(|object| object.guarded)
    }

    /// A pool's prefix length, gateway and VLAN, for the answer to a caller.
    pub fn subnet(&self, pool: &str) -> Option<(u8, IpAddr, u16)> {
        let pool = self.table.pool(pool)?;
        let subnet = pool.subnet()?;
        Some((subnet.prefix_len(), subnet.addr(), pool.spec().vlan))
    }

    fn forget(&mut self, name: &str, how: Release, now: Instant) {
        let Some(known) = self.claims.remove(name) else { return };
        let spec = &known.claim.spec;
        self.table.release(&spec.pool, spec.address, &known.claim.owner(), how, now);
        remove_from(&mut self.by_pod, &spec.owner.pod_uid, name);
        remove_from(&mut self.by_node, &spec.node, name);
        self.mark_dirty(&spec.pool);
    }

    fn mark_dirty(&mut self, pool: &str) {
        if !self.dirty.contains(pool) {
            self.dirty.insert(pool.to_owned());
        }
    }

    /// The pool, and those whose overlap with it may have changed.
    fn mark_dirty_around(&mut self, pool: &str) {
        self.mark_dirty(pool);
        self.dirty.extend(self.table.neighbours(pool).iter().cloned());
    }

    fn refresh_networks(&mut self) {
        if !std::mem::take(&mut self.networks_stale) {
            return;
        }
        let mut networks: BTreeMap<String, BTreeSet<Network>> = BTreeMap::new();
        for nad in self.nads.values() {
            for pool in &nad.pools {
                let own = self.pools.get(pool).map_or(0, |object| object.spec.vlan);
                let network = Network { vlan: nad.vlan.unwrap_or(own), bridge: nad.bridge.clone() };
                networks.entry(pool.clone()).or_default().insert(network);
            }
        }
        self.table.set_networks(networks);
    }
}

fn remove_from(index: &mut HashMap<String, BTreeSet<String>>, key: &str, name: &str) {
    if let Some(names) = index.get_mut(key) {
        names.remove(name);
        if names.is_empty() {
            index.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
