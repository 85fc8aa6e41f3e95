//! What this replica may do now: serve, or name the one that does.
//!
//! Owns the shared view of leadership. Must never extend it: only the lease's task does.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::claims::Claims;
use crate::lease::Chain;
use crate::ledger::{Ledger, LedgerGone, LedgerHandle};

/// Between two tries to read what is claimed.
const RETRY: Duration = Duration::from_millis(100);

/// This replica's role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// Until when we lead; none: we do not.
    pub until: Option<Instant>,
    /// Number of times that we became leader.
    pub term: u64,
    /// Term for which the ledger is known to be fresh: before, no address is given.
    pub fresh_term: u64,
    /// Identity of the leader, where known.
    pub holder: Option<String>,
    /// Gate `AntreaIPAM`.
    pub gate: bool,
}

/// Why this replica does not serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotServing {
    /// Off by configuration.
    #[error("feature gate AntreaIPAM is off in trunkline-controller.conf: no addresses are given")]
    GateOff,
    /// Another replica leads.
    #[error("this replica does not lead; {holder} does")]
    Follower {
        /// Who.
        holder: String,
    },
    /// Nobody is known to.
    #[error("this replica does not lead; no leader is known yet")]
    NoLeader,
    /// We lead but do not know yet what is in use.
    #[error("this replica has just become the leader and is reading what is in use")]
    Reading,
}

impl Role {
    /// Do we lead?
    pub fn leads(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// May addresses be given?
    pub fn serves(&self, now: Instant) -> Result<(), NotServing> {
        if !self.gate {
            return Err(NotServing::GateOff);
        }
        if !self.leads(now) {
            return Err(match &self.holder {
                Some(holder) => NotServing::Follower { holder: holder.clone() },
                None => NotServing::NoLeader,
            });
        }
        if self.fresh_term == self.term { Ok(()) } else { Err(NotServing::Reading) }
    }
}

/// Reads the role; cheap.
#[derive(Clone, Debug)]
pub struct RoleReader {
    role: watch::Receiver<Role>,
}

impl RoleReader {
    /// A reader of this role.
    pub fn new(role: watch::Receiver<Role>) -> Self {
        Self { role }
    }

    /// Do we lead now?
    pub fn leads(&self) -> bool {
        self.role.borrow().leads(Instant::now())
    }

    /// May addresses be given now?
    pub fn serves(&self) -> Result<(), NotServing> {
        self.role.borrow().serves(Instant::now())
    }

    /// The role now.
    pub fn current(&self) -> Role {
        self.role.borrow().clone()
    }
}

/// Before a new leader serves, it reads once more what is claimed: its watch may be behind the leader before it.
pub async fn promote(
    ledger: LedgerHandle,
    claims: Claims,
    role: watch::Sender<Role>,
) -> Result<(), LedgerGone> {
    let mut changes = role.subscribe();
    loop {
        let current = changes.borrow_and_update().clone();
        if current.leads(Instant::now()) && current.fresh_term != current.term {
            if ledger.call(|ledger, _| ledger.is_synced()).await? {
                match claims.list().await {
                    Ok(claims) => {
                        let apply = |ledger: &mut Ledger, now| {
                            for claim in claims {
                                ledger.claim_applied(claim, now);
                            }
                        };
                        ledger.call(apply).await?;
                        role.send_modify(|role| role.fresh_term = current.term);
                    }
                    Err(error) => tracing::warn!(error = %Chain(&error), "cannot read what is claimed"),
                }
            }
            tokio::time::sleep(RETRY).await;
        } else if changes.changed().await.is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_serves_only_as_a_leader_that_knows_what_is_in_use() {
        let now = Instant::now();
        let leading = Role {
            until: Some(now + Duration::from_secs(1)),
            term: 2,
            fresh_term: 2,
            holder: None,
            gate: true,
        };
        let cases = [
            (leading.clone(), Ok(())),
            (Role { gate: false, ..leading.clone() }, Err(NotServing::GateOff)),
            (Role { fresh_term: 1, ..leading.clone() }, Err(NotServing::Reading)),
            (Role { until: Some(now), ..leading.clone() }, Err(NotServing::NoLeader)),
            (
                Role { until: None, holder: Some("b".to_owned()), ..leading },
                Err(NotServing::Follower { holder: "b".to_owned() }),
            ),
        ];
        for (role, expected) in cases {
            assert_eq!(role.serves(now), expected, "{role:?}");
        }
    }
}
