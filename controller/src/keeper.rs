//! Pools' status, finalizers and Events, written by the leader.
//!
//! One task writes the status of changed pools at most once a second each; another publishes Events. Both can be
//! dropped at any await: what was not written is still different, and is written by the next leader. Must never
//! give an address.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use trunkline_api::IPPool;

use crate::lease::Chain;
use crate::ledger::{LedgerGone, LedgerHandle, PoolReport};
use crate::metrics::Metrics;
use crate::role::RoleReader;
use crate::service::guard::{finalizers_patch, turn_of};
use crate::turns::Turns;

mod notices;
mod status;

pub use notices::{Notices, NoticesTask};
pub use status::{Desired, Warning, desired};

/// Between two rounds, and so the shortest time between two writes of one pool's status.
const ROUND: Duration = Duration::from_secs(1);
/// How long a pool is without claims before its finalizer goes, so that a busy pool's does not come and go.
const IDLE: Duration = Duration::from_secs(60);
/// Writes under way at once.
const PARALLEL: usize = 8;

/// Writes what pools' users see.
pub struct Keeper {
    api: Api<IPPool>,
    ledger: LedgerHandle,
    role: RoleReader,
    turns: Turns,
    notices: Notices,
    metrics: Metrics,
    /// Since when a pool has had no claims.
    idle: HashMap<String, Instant>,
    term: u64,
}

impl Keeper {
    /// A keeper that has written nothing.
    pub fn new(
        client: Client,
        ledger: LedgerHandle,
        role: RoleReader,
        turns: Turns,
        notices: Notices,
        metrics: Metrics,
    ) -> Self {
        let api = Api::all(client);
        Self { api, ledger, role, turns, notices, metrics, idle: HashMap::new(), term: 0 }
    }

    /// Runs for as long as the ledger does.
    pub async fn run(mut self) {
        let mut ticks = tokio::time::interval(ROUND);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.round().await.is_err() {
                break;
            }
        }
    }

    async fn round(&mut self) -> Result<(), LedgerGone> {
        self.metrics.set_leader(self.role.leads());
        let usages = self.ledger.call(|ledger, _| ledger.usages()).await?;
        self.metrics.set_pools(usages);
        if self.role.serves().is_err() {
            return Ok(());
        }
        let term = self.role.current().term;
        if term != self.term {
            self.term = term;
            self.ledger.call(|ledger, _| ledger.mark_all_dirty()).await?;
        }
        let reports = self
            .ledger
            .call(|ledger, now| {
                let dirty = ledger.take_dirty();
                dirty.iter().filter_map(|name| ledger.report(name, now)).collect::<Vec<_>>()
            })
            .await?;
        let now = Instant::now();
        for report in &reports {
            let name = &report.object.spec.name;
            if report.claims > 0 || !report.object.guarded {
                self.idle.remove(name);
            } else {
                self.idle.entry(name.clone()).or_insert(now);
            }
        }
        let failed = self.write_all(reports.clone()).await;
        self.ledger.call(move |ledger, _| ledger.mark_again(failed)).await?;
        self.unguard_idle(&reports, now).await
    }

    /// Writes every status that differs; names those that could not be.
    async fn write_all(&self, reports: Vec<PoolReport>) -> Vec<String> {
        let writes = reports.into_iter().map(|report| async move {
            let name = report.object.spec.name.clone();
            match self.write(&report).await {
                Ok(()) => None,
                Err(error) => {
                    tracing::warn!(pool = %name, error = %Chain(&error), "a pool's status could not be written");
                    Some(name)
                }
            }
        });
        stream::iter(writes).buffer_unordered(PARALLEL).filter_map(|name| async { name }).collect().await
    }

    async fn write(&self, report: &PoolReport) -> Result<(), kube::Error> {
        let desired = desired(report, Timestamp::now());
        if let Some(patch) = &desired.patch {
            let patched = self
                .api
                .patch_status(&report.object.spec.name, &PatchParams::default(), &Patch::Merge(patch))
                .await;
            match patched {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        for warning in desired.warnings {
            self.notices.pool(report, warning);
        }
        Ok(())
    }

    /// Takes the finalizer off pools that are unused: at once where the pool is being deleted.
    async fn unguard_idle(&mut self, reports: &[PoolReport], now: Instant) -> Result<(), LedgerGone> {
        let deleting = reports
            .iter()
            .filter(|report| report.object.deleting && report.object.guarded && report.claims == 0)
            .map(|report| report.object.spec.name.clone());
        let long_idle = self
            .idle
            .iter()
            .filter(|(_, since)| now.saturating_duration_since(**since) >= IDLE)
            .map(|(name, _)| name.clone());
        for name in deleting.chain(long_idle).collect::<Vec<_>>() {
            self.idle.remove(&name);
            if let Err(error) = self.unguard(&name).await? {
                tracing::warn!(pool = %name, error = %Chain(&error), "a pool's finalizer could not be removed");
                self.ledger.call(move |ledger, _| ledger.mark_again(vec![name])).await?;
            }
        }
        Ok(())
    }

    async fn unguard(&self, name: &str) -> Result<Result<(), kube::Error>, LedgerGone> {
        let _turn = self.turns.take(turn_of(name)).await;
        let pool = name.to_owned();
        if !self.ledger.call(move |ledger, _| ledger.unguard(&pool)).await? {
            return Ok(Ok(()));
        }
        let removed = self.remove_finalizer(name).await;
        if removed.is_err() {
            let pool = name.to_owned();
            self.ledger.call(move |ledger, _| ledger.set_guarded(&pool, true)).await?;
        }
        Ok(removed)
    }

    async fn remove_finalizer(&self, name: &str) -> Result<(), kube::Error> {
        let Some(pool) = self.api.get_opt(name).await? else { return Ok(()) };
        let patch = Patch::Merge(finalizers_patch(&pool, false));
        match self.api.patch(name, &PatchParams::default(), &patch).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}
