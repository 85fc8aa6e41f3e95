//! Our finalizer on pools: on before anything is claimed in them, off once nothing is.
//!
//! Owns both writes, one at a time for each pool. Must never look at what is claimed; the ledger does.

use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use trunkline_api::{IPPool, POOL_FINALIZER};

use crate::ledger::{LedgerGone, LedgerHandle};
use crate::turns::Turns;

/// Writes that meet another's and are made again, so often at most.
const ATTEMPTS: usize = 5;

/// Why a pool's finalizer is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// There is no such pool.
    #[error("IPPool {pool} does not exist")]
    Absent {
        /// The pool.
        pool: String,
    },
    /// It is going away.
    #[error("IPPool {pool} is being deleted")]
    Deleting {
        /// The pool.
        pool: String,
    },
    /// Others write it all the time.
    #[error("IPPool {pool} changes too often to be marked as in use")]
    Busy {
        /// The pool.
        pool: String,
    },
    /// The API server did not do it.
    #[error("cannot {doing} IPPool {pool}")]
    Api {
        /// What was being done.
        doing: &'static str,
        /// The pool.
        pool: String,
        /// The API server's answer.
        source: kube::Error,
    },
    /// The controller is stopping.
    #[error(transparent)]
    Gone(#[from] LedgerGone),
}

/// Writes finalizers; cheap to clone.
#[derive(Clone)]
pub struct Guard {
    api: Api<IPPool>,
    ledger: LedgerHandle,
    turns: Turns,
}

impl Guard {
    /// With the ledger that says what is in use.
    pub fn new(client: Client, ledger: LedgerHandle, turns: Turns) -> Self {
        Self { api: Api::all(client), ledger, turns }
    }

    /// Sees to it that the pool carries the finalizer.
    pub async fn put_on(&self, pool: &str) -> Result<(), GuardError> {
        let _turn = self.turn(pool).await;
        let name = pool.to_owned();
        if self.ledger.call(move |ledger, _| ledger.is_guarded(&name)).await? {
            return Ok(());
        }
        for _ in 0..ATTEMPTS {
            let Some(object) = self.read(pool).await? else {
                return Err(GuardError::Absent { pool: pool.to_owned() });
            };
            if object.metadata.deletion_timestamp.is_some() {
                return Err(GuardError::Deleting { pool: pool.to_owned() });
            }
            if self.write(&object, pool, true).await? {
                let name = pool.to_owned();
                return Ok(self.ledger.call(move |ledger, _| ledger.set_guarded(&name, true)).await?);
            }
        }
        Err(GuardError::Busy { pool: pool.to_owned() })
    }

    /// Takes the finalizer off, unless something is claimed.
    pub async fn take_off(&self, pool: &str) -> Result<(), GuardError> {
        let _turn = self.turn(pool).await;
        let name = pool.to_owned();
        if !self.ledger.call(move |ledger, _| ledger.unguard(&name)).await? {
            return Ok(());
        }
        let outcome = self.take_off_unused(pool).await;
        if outcome.is_err() {
            let name = pool.to_owned();
            self.ledger.call(move |ledger, _| ledger.set_guarded(&name, true)).await?;
        }
        outcome
    }

    async fn take_off_unused(&self, pool: &str) -> Result<(), GuardError> {
        for _ in 0..ATTEMPTS {
            let Some(object) = self.read(pool).await? else { return Ok(()) };
            if self.write(&object, pool, false).await? {
                return Ok(());
            }
        }
        Err(GuardError::Busy { pool: pool.to_owned() })
    }

    /// A pool as the API server has it.
    pub async fn read(&self, pool: &str) -> Result<Option<IPPool>, GuardError> {
        let failed = |source| GuardError::Api { doing: "read", pool: pool.to_owned(), source };
        self.api.get_opt(pool).await.map_err(failed)
    }

    /// Writes the finalizers over the version that was read; false if it has changed since.
    async fn write(&self, object: &IPPool, pool: &str, with: bool) -> Result<bool, GuardError> {
        let patch = Patch::Merge(finalizers(object, with));
        match self.api.patch(pool, &PatchParams::default(), &patch).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(false),
            Err(kube::Error::Api(status)) if status.is_not_found() && !with => Ok(true),
            Err(source) => {
                Err(GuardError::Api { doing: "change the finalizers of", pool: pool.to_owned(), source })
            }
        }
    }

    async fn turn(&self, pool: &str) -> crate::turns::Turn {
        self.turns.take(format!("pool/{pool}")).await
    }
}

/// The pool's finalizers with ours in or out.
fn finalizers(pool: &IPPool, with: bool) -> serde_json::Value {
    let mut finalizers = pool.metadata.finalizers.clone().unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != POOL_FINALIZER);
    if with {
        finalizers.push(POOL_FINALIZER.to_owned());
    }
    let version = pool.metadata.resource_version.clone();
    serde_json::json!({ "metadata": { "resourceVersion": version, "finalizers": finalizers } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_finalizer_is_changed() {
        let mut pool = IPPool::new("a", trunkline_api::IPPoolSpec::default());
        pool.metadata.resource_version = Some("7".to_owned());
        pool.metadata.finalizers = Some(vec!["other".to_owned()]);
        let on = finalizers(&pool, true);
        assert_eq!(on["metadata"]["finalizers"], serde_json::json!(["other", POOL_FINALIZER]));
        assert_eq!(on["metadata"]["resourceVersion"], "7");
        pool.metadata.finalizers = Some(vec!["other".to_owned(), POOL_FINALIZER.to_owned()]);
        assert_eq!(finalizers(&pool, true), on, "not twice");
        assert_eq!(finalizers(&pool, false)["metadata"]["finalizers"], serde_json::json!(["other"]));
    }
}
