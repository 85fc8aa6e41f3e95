//! Claims that nobody needs any more.
//!
//! Owns the decision, pure, and the task that carries it out as the leader: what looks abandoned for the whole grace
//! period is looked up live, and deleted by UID. The task can be dropped at any await. Must never touch a claim that
//! is younger than the grace period, nor act before the watches have listed everything.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use trunkline_ipam::Release;

use crate::claims::Claims;
use crate::lease::Chain;
use crate::ledger::{LedgerGone, LedgerHandle};
use crate::metrics::Metrics;
use crate::objects::Claim;
use crate::pods::{PodFacts, Pods};
use crate::role::RoleReader;
use crate::turns::Turns;

/// Why a claim looks abandoned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The pod is gone, or another one has its name.
    PodGone,
    /// The node is gone.
    NodeGone,
    /// The pod has succeeded or failed.
    PodEnded,
}

impl Reason {
    /// Label of the metric.
    pub fn label(self) -> &'static str {
        match self {
            Self::PodGone => "pod_gone",
            Self::NodeGone => "node_gone",
            Self::PodEnded => "pod_ended",
        }
    }
}

/// Does a claim look abandoned, given the pod of its owner's name and whether its node exists?
pub fn judge(claim: &Claim, pod: Option<&PodFacts>, node_exists: bool) -> Option<Reason> {
    if !node_exists {
        return Some(Reason::NodeGone);
    }
    match pod.filter(|pod| pod.is(&claim.spec.owner.pod_uid)) {
        None => Some(Reason::PodGone),
        Some(pod) if pod.terminal => Some(Reason::PodEnded),
        Some(_) => None,
    }
}

/// Since when claims have looked abandoned, by their UID.
#[derive(Debug, Default)]
pub struct Suspects {
    since: HashMap<String, Instant>,
}

impl Suspects {
    /// Takes one look at every claim; names those that have looked abandoned for the whole grace period.
    pub fn look(
        &mut self,
        claims: Vec<(Claim, Instant, Option<Reason>)>,
        grace: Duration,
        now: Instant,
    ) -> Vec<(Claim, Reason)> {
        let mut since = HashMap::new();
        let mut due = Vec::new();
        for (claim, first_seen, reason) in claims {
            let Some(reason) = reason else { continue };
            let suspected = *self.since.get(&claim.uid).unwrap_or(&now);
            since.insert(claim.uid.clone(), suspected);
            let long_ago = |moment: Instant| now.saturating_duration_since(moment) >= grace;
            if long_ago(suspected) && long_ago(first_seen) {
                due.push((claim, reason));
            }
        }
        self.since = since;
        due
    }
}

/// How often to look, and how long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two looks.
    pub interval: Duration,
    /// How long a claim must look abandoned.
    pub grace: Duration,
}

/// The task's parts.
pub struct Collector {
    /// The ledger.
    pub ledger: LedgerHandle,
    /// Deletes claims.
    pub claims: Claims,
    /// Pods and nodes.
    pub pods: Pods,
    /// A pod's turn is taken before its claim goes.
    pub turns: Turns,
    /// Only the leader collects.
    pub role: RoleReader,
    /// Metrics.
    pub metrics: Metrics,
    /// As configured now.
    pub pace: Arc<dyn Fn() -> Pace + Send + Sync>,
}

impl Collector {
    /// Runs for as long as the ledger does.
    pub async fn run(self) {
        let mut suspects = Suspects::default();
        loop {
            tokio::time::sleep((self.pace)().interval).await;
            if self.role.serves().is_err() || !self.pods.is_synced() {
                // Whoever leads next counts anew.
                suspects = Suspects::default();
                continue;
            }
            if self.round(&mut suspects).await.is_err() {
                break;
            }
        }
    }

    async fn round(&self, suspects: &mut Suspects) -> Result<(), LedgerGone> {
        let claims = self.ledger.call(|ledger, _| ledger.all()).await?;
        let looked: Vec<_> = claims
            .into_iter()
            .map(|(claim, first_seen)| {
                let owner = &claim.spec.owner;
                let pod = self.pods.pod(&owner.pod_namespace, &owner.pod_name);
                let reason = judge(&claim, pod.as_ref(), self.pods.has_node(&claim.spec.node));
                (claim, first_seen, reason)
            })
            .collect();
        for (claim, reason) in suspects.look(looked, (self.pace)().grace, Instant::now()) {
            if self.role.serves().is_err() {
                break;
            }
            self.collect(claim, reason).await?;
        }
        Ok(())
    }

    /// Looks once more, live, and deletes.
    async fn collect(&self, claim: Claim, reason: Reason) -> Result<(), LedgerGone> {
        let owner = claim.spec.owner.clone();
        let _turn = self.turns.take(format!("pod/{}", owner.pod_uid)).await;
        match self.is_abandoned(&claim).await {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => {
                tracing::warn!(claim = %claim.name, %error, "cannot tell whether a claim is abandoned");
                return Ok(());
            }
        }
        if let Err(error) = self.claims.delete(&claim).await {
            tracing::warn!(claim = %claim.name, error = %Chain(&error), "an abandoned claim could not be deleted");
            return Ok(());
        }
        let reason = reason.label();
        tracing::info!(
            claim = %claim.name, pod = %owner.pod_name, namespace = %owner.pod_namespace, reason,
            "an abandoned claim was deleted"
        );
        self.metrics.collected(reason);
        self.ledger.call(move |ledger, now| ledger.claim_removed(&claim, Release::Announced, now)).await
    }

    async fn is_abandoned(&self, claim: &Claim) -> Result<bool, String> {
        let owner = &claim.spec.owner;
        let node = self.pods.live_node(&claim.spec.node).await.map_err(|error| Chain(&error).to_string())?;
        let pod = self.pods.live(&owner.pod_namespace, &owner.pod_name).await;
        let pod = pod.map_err(|error| Chain(&error).to_string())?;
        Ok(judge(claim, pod.as_ref(), node).is_some())
    }
}

#[cfg(test)]
mod tests;
