//! Allocate: plan, claim, answer; all of a pod's interfaces or none.
//!
//! Owns the order of these steps and the way back. Must never be cancelled half way: `Service::run` sees to that.

use futures::future::join_all;
use tonic::Status;
use trunkline_ipam::{Pick, PickError, Refusal, Release, proto};

use super::{Inner, answer, api_status, guard_status, not_serving, pod_status, stopping};
use crate::claims::{ClaimError, Creation, spec};
use crate::lease::Chain;
use crate::ledger::{Plan, PlanError, Request};
use crate::objects::{Claim, PoolObject};

/// Plans that need a live look or a finalizer first are made again, so often at most.
const PLANS: usize = 8;
/// Picked addresses that turn out to be taken, until the call gives up and the agent asks again.
const PICKS: usize = 64;

/// A claim that stands, and whether this call made it.
struct Held {
    index: usize,
    claim: Claim,
    created: bool,
}

impl Inner {
    pub(super) async fn allocate(&self, request: Request) -> Result<proto::AllocateResponse, Status> {
        let _turn = self.turns.take(format!("pod/{}", request.uid)).await;
        let pod = self.pods.check(&request.namespace, &request.pod, &request.uid, &request.node).await;
        pod.map_err(|error| pod_status(&error))?;
        let plan = self.plan(&request).await?;
        let outcome = self.carry_out(&request, &plan).await;
        let held = match outcome {
            Ok(held) => held,
            Err((held, status)) => {
                self.undo(held).await;
                return Err(status);
            }
        };
        self.remove_obsolete(&plan.obsolete).await;
        self.metrics.claimed(held.iter().filter(|held| held.created).count());
        self.respond(request, held).await
    }

    /// Plans, after whatever has to be looked up or marked first.
    async fn plan(&self, request: &Request) -> Result<Plan, Status> {
        let mut learned: Vec<String> = Vec::new();
        for _ in 0..PLANS {
            let asked = request.clone();
            match self.ledger.call(move |ledger, now| ledger.plan(&asked, now)).await.map_err(stopping)? {
                Ok(plan) => return Ok(plan),
                Err(PlanError::Unguarded(pools)) => {
                    for pool in pools {
                        self.guard.put_on(&pool).await.map_err(|error| guard_status(&error))?;
                    }
                }
                Err(PlanError::Refused { error: PickError::NoSuchPool { pool }, .. })
                    if !learned.contains(&pool) && self.learn_pool(&pool).await? =>
                {
                    learned.push(pool);
                }
                Err(PlanError::Refused { index, error }) => return Err(pick_status(request, index, &error)),
            }
        }
        Err(Status::unavailable("the IPPools change too often to give an address of them"))
    }

    /// Reads a pool that the ledger does not know; false if there is none.
    async fn learn_pool(&self, pool: &str) -> Result<bool, Status> {
        let object = self.guard.read(pool).await.map_err(|error| guard_status(&error))?;
        let Some(object) = object.as_ref().map(PoolObject::read) else { return Ok(false) };
        self.ledger.call(move |ledger, _| ledger.pool_applied(object)).await.map_err(stopping)?;
        Ok(true)
    }

    /// Claims everything at once. On failure, what stands is handed back with the reason.
    async fn carry_out(&self, request: &Request, plan: &Plan) -> Result<Vec<Held>, (Vec<Held>, Status)> {
        let keeps = plan.interfaces.iter().enumerate().flat_map(|(index, planned)| {
            planned.kept.iter().map(move |claim| self.keep(request, index, claim))
        });
        let claims = plan.interfaces.iter().enumerate().flat_map(|(index, planned)| {
            planned.picks.iter().map(move |pick| self.claim(request, index, pick.clone()))
        });
        let (kept, claimed) = tokio::join!(join_all(keeps), join_all(claims));
        let mut held = Vec::new();
        let mut failure = None;
        for outcome in kept.into_iter().chain(claimed) {
            match outcome {
                Ok(one) => held.push(one),
                Err(status) => failure = failure.or(Some(status)),
            }
        }
        if failure.is_none() {
            // A replica that lost its leadership meanwhile answers nothing that another might not know of.
            failure = self.role.serves().err().map(|error| not_serving(&error));
        }
        match failure {
            None => Ok(held),
            Some(status) => Err((held, status)),
        }
    }

    /// Hands a claim that the interface has already to this sandbox.
    async fn keep(&self, request: &Request, index: usize, claim: &Claim) -> Result<Held, Status> {
        if claim.spec.owner.sandbox == request.sandbox {
            return Ok(Held { index, claim: claim.clone(), created: false });
        }
        match self.claims.set_sandbox(claim, &request.sandbox).await {
            Ok(claim) => {
                let known = claim.clone();
                self.ledger
                    .call(move |ledger, now| ledger.claim_applied(known, now))
                    .await
                    .map_err(stopping)?;
                Ok(Held { index, claim, created: false })
            }
            Err(error) => {
                if is_gone(&error) {
                    let gone = claim.clone();
                    let told = self.ledger.call(move |ledger, now| {
                        ledger.claim_deleted(&gone.name, &gone.uid, now);
                    });
                    told.await.map_err(stopping)?;
                    let text = format!("IPAllocation {} was deleted meanwhile; ask again", claim.name);
                    return Err(Status::unavailable(text));
                }
                Err(api_status(&error, error.is_transient()))
            }
        }
    }

    /// Claims one address, going on to the next while it turns out to be taken.
    async fn claim(&self, request: &Request, index: usize, first: Pick) -> Result<Held, Status> {
        let mut pick = first;
        for _ in 0..PICKS {
            match self.claims.create(spec(request, index, &pick)).await {
                Ok(Creation::Created(claim)) => return self.hold(index, claim, true).await,
                Ok(Creation::Exists(claim)) if is_ours(request, index, &claim) => {
                    self.hold(index, claim.clone(), false).await?;
                    return self.keep(request, index, &claim).await;
                }
                Ok(Creation::Exists(holder)) => {
                    self.metrics.retried();
                    let (asked, lost) = (request.clone(), pick);
                    let next = self.ledger.call(move |ledger, now| {
                        ledger.pick_instead(&asked, index, &lost, Some(holder), now)
                    });
                    pick =
                        next.await.map_err(stopping)?.map_err(|error| pick_status(request, index, &error))?;
                }
                Err(error) => {
                    let owner = request.owner(&request.interfaces[index].interface);
                    let told = self.ledger.call(move |ledger, now| ledger.give_up(&pick, &owner, now));
                    told.await.map_err(stopping)?;
                    let status = api_status(&error, error.is_transient());
                    return Err(on_interface(request, index, status.code(), status.message()));
                }
            }
        }
        let owner = request.owner(&request.interfaces[index].interface);
        self.ledger.call(move |ledger, now| ledger.give_up(&pick, &owner, now)).await.map_err(stopping)?;
        let text = format!("{PICKS} addresses in turn were claimed by others; ask again");
        Err(on_interface(request, index, tonic::Code::Unavailable, &text))
    }

    async fn hold(&self, index: usize, claim: Claim, created: bool) -> Result<Held, Status> {
        let known = claim.clone();
        self.ledger.call(move |ledger, now| ledger.claim_applied(known, now)).await.map_err(stopping)?;
        Ok(Held { index, claim, created })
    }

    /// Deletes what this call created. What cannot be deleted is found again by the pod's next call, or collected.
    async fn undo(&self, held: Vec<Held>) {
        let created = held.into_iter().filter(|held| held.created).map(|held| held.claim);
        join_all(created.map(|claim| self.remove(claim, Release::NeverAnnounced))).await;
    }

    /// Deletes a claim and tells the ledger; false if that failed.
    pub(super) async fn remove(&self, claim: Claim, how: Release) -> bool {
        if let Err(error) = self.claims.delete(&claim).await {
            tracing::warn!(claim = %claim.name, error = %Chain(&error), "a claim could not be deleted");
            return false;
        }
        self.ledger.call(move |ledger, now| ledger.claim_removed(&claim, how, now)).await.is_ok()
    }

    async fn remove_obsolete(&self, claims: &[Claim]) {
        join_all(claims.iter().map(|claim| self.remove(claim.clone(), Release::Announced))).await;
    }

    async fn respond(&self, request: Request, held: Vec<Held>) -> Result<proto::AllocateResponse, Status> {
        let answer = move |ledger: &mut crate::ledger::Ledger, _| {
            let addresses = |index: usize| {
                let of_interface = held.iter().filter(|held| held.index == index);
                let mut addresses: Vec<_> = of_interface.collect();
                let pools = &request.interfaces[index].pools;
                addresses.sort_by_key(|held| pools.iter().position(|pool| *pool == held.claim.spec.pool));
                addresses.iter().map(|held| answer::allocation(ledger, &held.claim, held.created)).collect()
            };
            let interface = |(index, ask): (usize, &crate::ledger::InterfaceAsk)| {
                proto::InterfaceAllocation { interface: ask.interface.clone(), addresses: addresses(index) }
            };
            request.interfaces.iter().enumerate().map(interface).collect()
        };
        let interfaces = self.ledger.call(answer).await.map_err(stopping)?;
        Ok(proto::AllocateResponse { interfaces })
    }
}

fn is_gone(error: &ClaimError) -> bool {
    matches!(&error.source, kube::Error::Api(status) if status.is_not_found() || status.is_conflict())
}

fn is_ours(request: &Request, index: usize, claim: &Claim) -> bool {
    let owner = &claim.spec.owner;
    owner.pod_uid == request.uid
        && owner.interface == request.interfaces[index].interface
        && claim.spec.node == request.node
        && owner.nad == request.interfaces[index].nad
}

/// A refusal in words for the pod's owner.
fn pick_status(request: &Request, index: usize, error: &PickError) -> Status {
    let code = match error {
        PickError::NoSuchPool { .. } | PickError::Requested { refusal: Refusal::Deleting { .. }, .. } => {
            tonic::Code::NotFound
        }
        PickError::Exhausted { .. } => tonic::Code::ResourceExhausted,
        // Not FailedPrecondition: agents take that for a replica that does not lead, and ask again.
        PickError::Requested { refusal: Refusal::Used { .. } | Refusal::Quarantined { .. }, .. } => {
            tonic::Code::AlreadyExists
        }
        PickError::Requested { .. } | PickError::Malformed { .. } | PickError::FamilyTwice { .. } => {
            tonic::Code::InvalidArgument
        }
    };
    on_interface(request, index, code, &error.to_string())
}

fn on_interface(request: &Request, index: usize, code: tonic::Code, text: &str) -> Status {
    let ask = &request.interfaces[index];
    Status::new(code, format!("interface {} (NAD {}): {text}", ask.interface, ask.nad))
}
