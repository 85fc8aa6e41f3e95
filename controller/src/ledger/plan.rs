//! What has to be done for a pod that asks.
//!
//! Owns which of its claims a pod keeps, and that it gets all it asks for or nothing. Must never write: what is
//! planned here, others carry out, and tell the ledger what came of it.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::time::Instant;

use trunkline_ipam::{Family, Owner, Pick, PickError, Release, Requested};

use super::Ledger;
use crate::objects::Claim;

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

impl Ledger {
    /// Plans a request: what it has, what it gets. Addresses that it gets are set aside until they are claimed
    /// ([`Self::claim_applied`]) or given up ([`Self::give_up`]).
    pub fn plan(&mut self, request: &Request, now: Instant) -> Result<Plan, PlanError> {
        self.refresh_networks();
        let cursors = self.cursors(request);
        let outcome = self.plan_from_here(request, now);
        if outcome.is_err() {
            // Nothing was given, so the next call finds what this one would have had.
            for (pool, cursor) in cursors {
                if let Some(pool) = self.table.pool_mut(&pool) {
                    pool.set_cursor(cursor);
                }
            }
        }
        outcome
    }

    /// Where the pools that a request names would go on.
    fn cursors(&self, request: &Request) -> Vec<(String, IpAddr)> {
        let names = request.interfaces.iter().flat_map(|ask| &ask.pools);
        names.filter_map(|name| Some((name.clone(), self.table.pool(name)?.cursor()?))).collect()
    }

    fn plan_from_here(&mut self, request: &Request, now: Instant) -> Result<Plan, PlanError> {
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
