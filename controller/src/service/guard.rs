//! Pools' finalizers, before anything is claimed in them; and pools that the watch has not told of yet.
//!
//! Owns both live looks at a pool. Must never take a finalizer away; the keeper does.

use kube::api::{Api, Patch, PatchParams};
use tonic::Status;
use trunkline_api::{IPPool, POOL_FINALIZER};

use super::{Inner, api_status, stopping};
use crate::claims::is_transient;
use crate::objects::PoolObject;

/// Key of a pool's turn.
pub(crate) fn turn_of(pool: &str) -> String {
    format!("pool/{pool}")
}

/// Finalizers of a pool with ours in or out, guarded by the version that was read.
pub(crate) fn finalizers_patch(pool: &IPPool, with: bool) -> serde_json::Value {
    let mut finalizers = pool.metadata.finalizers.clone().unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != POOL_FINALIZER);
    if with {
        finalizers.push(POOL_FINALIZER.to_owned());
    }
    let version = pool.metadata.resource_version.clone();
    serde_json::json!({ "metadata": { "resourceVersion": version, "finalizers": finalizers } })
}

impl Inner {
    /// Sees to it that the pool carries our finalizer.
    pub(super) async fn guard(&self, pool: &str) -> Result<(), Status> {
        let _turn = self.turns.take(turn_of(pool)).await;
        let name = pool.to_owned();
        if self.ledger.call(move |ledger, _| ledger.is_guarded(&name)).await.map_err(stopping)? {
            return Ok(());
        }
        let api: Api<IPPool> = Api::all(self.client.clone());
        for _ in 0..5 {
            let Some(object) = self.live_pool(pool).await? else {
                return Err(Status::not_found(format!("IPPool {pool} does not exist")));
            };
            if object.metadata.deletion_timestamp.is_some() {
                return Err(Status::failed_precondition(format!("IPPool {pool} is being deleted")));
            }
            let patch = Patch::Merge(finalizers_patch(&object, true));
            match api.patch(pool, &PatchParams::default(), &patch).await {
                Ok(_) => {
                    let name = pool.to_owned();
                    return self
                        .ledger
                        .call(move |ledger, _| ledger.set_guarded(&name, true))
                        .await
                        .map_err(stopping);
                }
                Err(kube::Error::Api(status)) if status.is_conflict() => {}
                Err(error) => return Err(api_status(&error, is_transient(&error))),
            }
        }
        Err(Status::unavailable(format!("IPPool {pool} changes too often to be marked as in use")))
    }

    /// Reads a pool that the ledger does not know; false if there is none.
    pub(super) async fn learn_pool(&self, pool: &str) -> Result<bool, Status> {
        let Some(object) = self.live_pool(pool).await? else { return Ok(false) };
        let object = PoolObject::read(&object);
        self.ledger.call(move |ledger, _| ledger.pool_applied(object)).await.map_err(stopping)?;
        Ok(true)
    }

    async fn live_pool(&self, pool: &str) -> Result<Option<IPPool>, Status> {
        let api: Api<IPPool> = Api::all(self.client.clone());
        api.get_opt(pool).await.map_err(|error| api_status(&error, is_transient(&error)))
    }
}
