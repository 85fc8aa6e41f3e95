//! Every claimed address, by object, pod and node, and what to do for a pod that asks.
//!
//! Owns the allocator's table and the index of claims; pure, `now` is passed in. Must never write to the API server:
//! what is planned here, others carry out, and tell the ledger what came of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use trunkline_ipam::{Family, Network, Owner, Pick, PickError, Release, Requested, Table};

use crate::objects::{Claim, NadFacts, PoolObject};

mod handle;
mod report;

pub use handle::{LedgerGone, LedgerHandle, spawn};
pub use report::PoolReport;

/// Everything that one pod asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Pod namespace.
    pub namespace: String,
    /// Pod name.
    pub pod: String,
    /// Pod UID.
    pub uid: String,
    /// Sandbox that wants the addresses.
    pub sandbox: String,
    /// Node of the caller.
    pub node: String,
    /// The interfaces.
    pub interfaces: Vec<InterfaceAsk>,
}

/// What one interface asks for.
#[derive(Clone, Debug)]
pub struct InterfaceAsk {
    /// Interface in the pod.
    pub interface: String,
    /// Network, as "namespace/name".
    pub nad: String,
    /// Pools in the order to try.
    pub pools: Vec<String>,
    /// VLAN that overrides the pools', 0–4094.
    pub vlan: Option<u16>,
    /// Addresses asked for by name.
    pub requested: Vec<Requested>,
}

/// What has to be done for a request.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// In the order of the request.
    pub interfaces: Vec<PlannedInterface>,
    /// Claims of an earlier sandbox that the pod no longer asks for.
    pub obsolete: Vec<Claim>,
}

/// What has to be done for one interface.
#[derive(Clone, Debug, Default)]
pub struct PlannedInterface {
    /// Claims that it has already.
    pub kept: Vec<Claim>,
    /// Addresses to claim.
    pub picks: Vec<Pick>,
}

/// Why a request cannot be planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// An interface gets no address.
    Refused {
        /// Position in the request.
        index: usize,
        /// Why.
        error: PickError,
    },
    /// These pools need their finalizer before anything is claimed in them.
    Unguarded(BTreeSet<String>),
}

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
    // --- what the watches say ---

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

    /// Have pools and claims been listed?
    pub fn is_synced(&self) -> bool {
        self.pools_synced && self.claims_synced
    }

    // --- what callers want ---

    /// Plans a request: what it has, what it gets. Addresses that it gets are set aside until they are claimed
    /// ([`Self::claim_applied`]) or given up ([`Self::give_up`]).
    pub fn plan(&mut self, request: &Request, now: Instant) -> Result<Plan, PlanError> {
        self.refresh_networks();
        let mut plan = Plan::default();
        for (index, ask) in request.interfaces.iter().enumerate() {
            let kept = self.kept(request, ask);
            match self.pick(request, ask, &kept, now) {
                Ok(picks) => plan.interfaces.push(PlannedInterface { kept, picks }),
                Err(error) => {
                    self.give_up_plan(request, &plan, now);
                    return Err(PlanError::Refused { index, error });
                }
            }
        }
        let picked = plan.interfaces.iter().flat_map(|planned| &planned.picks);
        let unguarded: BTreeSet<_> =
            picked.map(|pick| pick.pool.clone()).filter(|pool| !self.is_guarded(pool)).collect();
        if !unguarded.is_empty() {
            self.give_up_plan(request, &plan, now);
            return Err(PlanError::Unguarded(unguarded));
        }
        plan.obsolete = self.obsolete(request, &plan);
        Ok(plan)
    }

    /// Another address instead of one that turned out to be taken. `holder` is who has it, where known.
    pub fn pick_instead(
        &mut self,
        request: &Request,
        index: usize,
        lost: &Pick,
        holder: Option<Claim>,
        now: Instant,
    ) -> Result<Pick, PickError> {
        let ask = &request.interfaces[index];
        let owner = request.owner(&ask.interface);
        self.table.release(&lost.pool, lost.address, &owner, Release::NeverAnnounced, now);
        if let Some(holder) = holder {
            self.claim_applied(holder, now);
        }
        let family = Family::of(lost.address);
        let held = [if family == Family::V4 { Family::V6 } else { Family::V4 }];
        let picks = self.pick_families(request, ask, &held, now)?;
        // The interface asks for this family, so there is exactly one.
        picks.into_iter().next().ok_or(PickError::Exhausted { family, pools: Vec::new() })
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

    // --- inside ---

    /// Claims of the interface that still answer what it asks for: one of a family at most.
    fn kept(&self, request: &Request, ask: &InterfaceAsk) -> Vec<Claim> {
        let mut kept: Vec<Claim> = Vec::new();
        for claim in self.of_pod(&request.uid, "", std::slice::from_ref(&ask.interface)) {
            let (pool, address) = (&claim.spec.pool, claim.spec.address);
            let family = Family::of(address);
            let wanted = ask.requested.iter().find(|asked| Family::of(asked.address) == family);
            let fits = ask.pools.contains(pool)
                && claim.spec.node == request.node
                && claim.spec.owner.nad == ask.nad
                && wanted.is_none_or(|asked| asked.address == address)
                && kept.iter().all(|other| Family::of(other.spec.address) != family);
            if fits {
                kept.push(claim);
            }
        }
        kept
    }

    fn pick(
        &mut self,
        request: &Request,
        ask: &InterfaceAsk,
        kept: &[Claim],
        now: Instant,
    ) -> Result<Vec<Pick>, PickError> {
        let held: Vec<_> = kept.iter().map(|claim| Family::of(claim.spec.address)).collect();
        self.pick_families(request, ask, &held, now)
    }

    fn pick_families(
        &mut self,
        request: &Request,
        ask: &InterfaceAsk,
        held: &[Family],
        now: Instant,
    ) -> Result<Vec<Pick>, PickError> {
        let bridge = self.nads.get(&ask.nad).and_then(|nad| nad.bridge.clone());
        let owner = request.owner(&ask.interface);
        let ask = trunkline_ipam::Ask {
            owner: &owner,
            pools: &ask.pools,
            requested: &ask.requested,
            vlan: ask.vlan,
            bridge: bridge.as_deref(),
            held,
        };
        self.table.pick(&ask, now)
    }

    fn give_up_plan(&mut self, request: &Request, plan: &Plan, now: Instant) {
        for (planned, ask) in plan.interfaces.iter().zip(&request.interfaces) {
            let owner = request.owner(&ask.interface);
            for pick in &planned.picks {
                self.give_up(pick, &owner, now);
            }
        }
    }

    /// Claims of the pod that the request does not keep: of the interfaces it names, and whatever an earlier sandbox
    /// had beside.
    fn obsolete(&self, request: &Request, plan: &Plan) -> Vec<Claim> {
        let kept: HashSet<&str> = plan
            .interfaces
            .iter()
            .flat_map(|planned| &planned.kept)
            .map(|claim| claim.name.as_str())
            .collect();
        let mut claims = self.of_pod(&request.uid, "", &[]);
        claims.retain(|claim| {
            let owner = &claim.spec.owner;
            let named = request.interfaces.iter().any(|ask| ask.interface == owner.interface);
            !kept.contains(claim.name.as_str()) && (named || owner.sandbox != request.sandbox)
        });
        claims
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

impl Request {
    /// An interface of the pod, for the allocator.
    pub fn owner(&self, interface: &str) -> Owner {
        Owner {
            pod_uid: self.uid.clone(),
            interface: interface.to_owned(),
            namespace: self.namespace.clone(),
            pod: self.pod.clone(),
        }
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
