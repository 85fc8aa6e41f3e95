//! Who leads, decided from what the Lease says and from our own clock.
//!
//! Owns the rules of leader election, pure: `now` is passed in. Must never compare another machine's clock with ours:
//! a Lease has run out when it has not changed for its duration *here*.

use std::time::{Duration, Instant};

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// Others may take over when the Lease has not changed for so long. Default 15 s.
    pub lease: Duration,
    /// A leader that could not renew for so long stops serving; shorter than `lease`. Default 10 s.
    pub renew: Duration,
    /// Between two looks. Default 2 s.
    pub retry: Duration,
}

impl Timings {
    /// The timings that go with a duration of the Lease: two thirds and two fifteenths of it, as is usual.
    pub fn new(lease: Duration) -> Self {
        Self { lease, renew: lease * 2 / 3, retry: lease * 2 / 15 }
    }
}

/// What a Lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Identity of its holder; empty: given up.
    pub holder: String,
    /// When its holder renewed it, as text: only compared for being the same.
    pub renewed: String,
    /// For how long its holder asked.
    pub duration: Duration,
    /// Number of changes of the holder.
    pub transitions: i32,
}

/// What to do after a look at the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Somebody else leads.
    Follow,
    /// Take the Lease, with this number of transitions.
    Acquire {
        /// To be written.
        transitions: i32,
    },
    /// We lead: renew it.
    Renew {
        /// To be kept.
        transitions: i32,
    },
}

/// The state of one candidate.
#[derive(Clone, Debug)]
pub struct Election {
    identity: String,
    timings: Timings,
    observed: Option<(Record, Instant)>,
    /// When the last write that succeeded was begun.
    renewed: Option<Instant>,
}

impl Election {
    /// A candidate that has seen nothing. Identities are never used twice, not even by the same pod.
    pub fn new(identity: String, timings: Timings) -> Self {
        Self { identity, timings, observed: None, renewed: None }
    }

    /// Our identity.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// How long things take.
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// Decides, after a look at the Lease; `None`: there is none.
    pub fn decide(&mut self, record: Option<Record>, now: Instant) -> Decision {
        let Some(record) = record else {
            self.observed = None;
            return Decision::Acquire { transitions: 0 };
        };
        if record.holder == self.identity {
            let transitions = record.transitions;
            self.observed = Some((record, now));
            return Decision::Renew { transitions };
        }
        self.renewed = None;
        let since = match &self.observed {
            Some((known, since)) if *known == record => *since,
            _ => now,
        };
        let expired = now.saturating_duration_since(since) >= record.duration;
        let decision = if record.holder.is_empty() || expired {
            Decision::Acquire { transitions: record.transitions.saturating_add(1) }
        } else {
            Decision::Follow
        };
        self.observed = Some((record, since));
        decision
    }

    /// A write of the Lease that was begun at `started` has succeeded.
    pub fn written(&mut self, started: Instant) {
        self.renewed = Some(started);
    }

    /// Until when we lead, if we do.
    pub fn leads_until(&self) -> Option<Instant> {
        self.renewed.map(|renewed| renewed + self.timings.renew)
    }

    /// Do we lead?
    pub fn leads(&self, now: Instant) -> bool {
        self.leads_until().is_some_and(|until| now < until)
    }

    /// The holder as last seen.
    pub fn holder(&self) -> Option<&str> {
        self.observed.as_ref().map(|(record, _)| record.holder.as_str()).filter(|holder| !holder.is_empty())
    }
}

#[cfg(test)]
mod tests;
