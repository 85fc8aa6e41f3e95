//! `IPAllocation` objects, written.
//!
//! Owns creating, patching and deleting them, each safe to repeat. Must never choose an address.

use std::time::Duration;

use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use trunkline_api::{AllocationOwner, IPAllocation, IPAllocationSpec, allocation_name};

use crate::objects::Claim;

/// How often an unclear answer to a creation is looked into.
const ATTEMPTS: u32 = 4;
/// Before the second attempt; doubled before each further one.
const BACKOFF: Duration = Duration::from_millis(50);

/// Writes claims.
#[derive(Clone)]
pub struct Claims {
    api: Api<IPAllocation>,
}

/// What came of a creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Creation {
    /// The address is ours.
    Created(Claim),
    /// The address is claimed already: by us earlier, or by somebody else.
    Exists(Claim),
}

/// Why an object could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} IPAllocation {name}")]
pub struct ClaimError {
    /// What was being done.
    pub doing: &'static str,
    /// Object name.
    pub name: String,
    /// The API server's answer.
    pub source: kube::Error,
}

impl ClaimError {
    /// Is it worth asking again?
    pub fn is_transient(&self) -> bool {
        is_transient(&self.source)
    }
}

/// May the same call succeed a moment later?
pub fn is_transient(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 429 || status.code >= 500,
        _ => true,
    }
}

impl Claims {
    /// With a client of its own, so that watches and claims do not wait for each other.
    pub fn new(client: Client) -> Self {
        Self { api: Api::all(client) }
    }

    /// Claims an address. An unclear answer (a lost connection, a busy API server) is looked into, so that what was
    /// written is never forgotten.
    pub async fn create(&self, spec: IPAllocationSpec) -> Result<Creation, ClaimError> {
        let name = allocation_name(&spec.pool, spec.address);
        let object = IPAllocation::new(&name, spec);
        let mut attempt = 1;
        loop {
            let failure = match self.api.create(&PostParams::default(), &object).await {
                Ok(created) => return Ok(Creation::Created(Claim::read(&created))),
                Err(kube::Error::Api(status)) if status.is_already_exists() => {
                    if let Some(claim) = self.get(&name).await? {
                        // Our own create, whose answer was lost, counts as created by this call.
                        let ours = attempt > 1 && claim.spec == object.spec;
                        return Ok(if ours { Creation::Created(claim) } else { Creation::Exists(claim) });
                    }
                    kube::Error::Api(status)
                }
                Err(error) if is_transient(&error) => error,
                Err(source) => return Err(ClaimError { doing: "create", name, source }),
            };
            if attempt == ATTEMPTS {
                return Err(ClaimError { doing: "create", name, source: failure });
            }
            tokio::time::sleep(BACKOFF * 2u32.pow(attempt - 1)).await;
            attempt += 1;
        }
    }

    /// An allocation as the API server has it.
    pub async fn get(&self, name: &str) -> Result<Option<Claim>, ClaimError> {
        let found = self.api.get_opt(name).await.map_err(failed("read", name))?;
        Ok(found.as_ref().map(Claim::read))
    }

    /// Every allocation, as the API server has it now.
    pub async fn list(&self) -> Result<Vec<Claim>, kube::Error> {
        let list = self.api.list(&kube::api::ListParams::default()).await?;
        Ok(list.iter().map(Claim::read).collect())
    }

    /// Deletes exactly this object; one that is gone, or another of the same name, is a success.
    pub async fn delete(&self, claim: &Claim) -> Result<(), ClaimError> {
        let preconditions = Preconditions { uid: Some(claim.uid.clone()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match self.api.delete(&claim.name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
            Err(source) => Err(ClaimError { doing: "delete", name: claim.name.clone(), source }),
        }
    }

    /// Hands exactly this object to the pod's new sandbox.
    pub async fn set_sandbox(&self, claim: &Claim, sandbox: &str) -> Result<Claim, ClaimError> {
        let patch = serde_json::json!({
            "metadata": { "uid": claim.uid },
            "spec": { "owner": { "sandbox": sandbox } },
        });
        let patched = self.api.patch(&claim.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        Ok(Claim::read(&patched.map_err(failed("change the sandbox of", &claim.name))?))
    }
}

fn failed(doing: &'static str, name: &str) -> impl FnOnce(kube::Error) -> ClaimError {
    move |source| ClaimError { doing, name: name.to_owned(), source }
}

/// What is written for a pod's interface.
pub fn spec(request: &crate::ledger::Request, index: usize, pick: &trunkline_ipam::Pick) -> IPAllocationSpec {
    let ask = &request.interfaces[index];
    IPAllocationSpec {
        pool: pick.pool.clone(),
        address: pick.address,
        node: request.node.clone(),
        owner: AllocationOwner {
            pod_namespace: request.namespace.clone(),
            pod_name: request.pod.clone(),
            pod_uid: request.uid.clone(),
            sandbox: request.sandbox.clone(),
            interface: ask.interface.clone(),
            nad: ask.nad.clone(),
        },
    }
}
