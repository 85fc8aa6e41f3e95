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

use crate::guard::Guard;
use crate::lease::Chain;
use crate::ledger::{LedgerGone, LedgerHandle, PoolReport};
use crate::metrics::Metrics;
use crate::role::RoleReader;

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
    guard: Guard,
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
        guard: Guard,
        notices: Notices,
        metrics: Metrics,
    ) -> Self {
        let api = Api::all(client);
        Self { api, ledger, role, guard, notices, metrics, idle: HashMap::new(), term: 0 }
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
        self.guard_all(&reports, now).await
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

    /// Puts the finalizer back where somebody took it off a pool in use, and takes it off pools that are unused: at
    /// once where the pool is being deleted.
    async fn guard_all(&mut self, reports: &[PoolReport], now: Instant) -> Result<(), LedgerGone> {
        let mut failed = Vec::new();
        for report in reports {
            let (name, claimed) = (&report.object.spec.name, report.claims > 0);
            let outcome = match (claimed, report.object.guarded, report.object.deleting) {
                (true, false, false) => self.guard.put_on(name).await,
                (false, true, true) => self.guard.take_off(name).await,
                _ => Ok(()),
            };
            if let Err(error) = outcome {
                tracing::warn!(error = %Chain(&error), "a pool's finalizer could not be written");
                failed.push(name.clone());
            }
        }
        let long_ago = |since: &Instant| now.saturating_duration_since(*since) >= IDLE;
        let long_idle = self.idle.iter().filter(|(_, since)| long_ago(since)).map(|(name, _)| name.clone());
        for name in long_idle.collect::<Vec<_>>() {
            self.idle.remove(&name);
            if let Err(error) = self.guard.take_off(&name).await {
                tracing::warn!(error = %Chain(&error), "a pool's finalizer could not be removed");
                failed.push(name);
            }
        }
        self.ledger.call(move |ledger, _| ledger.mark_again(failed)).await
    }
}
