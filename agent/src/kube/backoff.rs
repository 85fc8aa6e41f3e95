//! How long a failed watch waits before it tries again.
//!
//! Owns the schedule only: doubling from half a second to ten, with jitter. A CRD that is absent today may be
//! installed in a minute, so the bound is lower than kube's own thirty seconds.

use std::time::Duration;

use kube::runtime::utils::Backoff;
use tokio::time::Instant;

/// First wait.
const FIRST: Duration = Duration::from_millis(500);
/// Longest wait, before jitter.
const LONGEST: Duration = Duration::from_secs(10);
/// A watch that ran for this long since its last failure starts over.
const QUIET: Duration = Duration::from_mins(1);

/// An endless exponential schedule.
#[derive(Debug)]
pub(crate) struct WatchBackoff {
    next: Duration,
    last: Option<Instant>,
}

impl Default for WatchBackoff {
    fn default() -> Self {
        Self { next: FIRST, last: None }
    }
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.last.is_some_and(|last| last.elapsed() > QUIET) {
            self.next = FIRST;
        }
        self.last = Some(Instant::now());
        let wait = self.next;
        self.next = (wait * 2).min(LONGEST);
        Some(wait.mul_f64(rand::random_range(0.75..1.25)))
    }
}

impl Backoff for WatchBackoff {
    /// Does nothing: a watcher reports that it begins before every list, so that this is no sign of success.
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_grow_to_the_bound_and_start_over_after_a_quiet_time() {
        let mut backoff = WatchBackoff::default();
        let mut waits = Vec::new();
        for _ in 0..12 {
            waits.push(backoff.next().expect("endless"));
            backoff.reset();
        }
        assert!(waits[0] <= FIRST.mul_f64(1.25));
        assert!(waits[11] >= LONGEST.mul_f64(0.75) && waits[11] <= LONGEST.mul_f64(1.25));
        tokio::time::advance(QUIET * 2).await;
        assert!(backoff.next().expect("endless") <= FIRST.mul_f64(1.25));
    }
}
