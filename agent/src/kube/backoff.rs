//! How long a failed watch waits before it tries again.
//!
//! Owns the schedule only: doubling from half a second to ten, with jitter. A CRD that is absent today may be
//! installed in a minute, so the bound is lower than kube's own thirty seconds.

use std::time::Duration;

use kube::runtime::utils::Backoff;

/// First wait.
const FIRST: Duration = Duration::from_millis(500);
/// Longest wait, before jitter.
const LONGEST: Duration = Duration::from_secs(10);

/// An endless exponential schedule.
#[derive(Debug)]
pub(super) struct WatchBackoff {
    next: Duration,
}

impl Default for WatchBackoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.next;
        self.next = (wait * 2).min(LONGEST);
        Some(wait.mul_f64(rand::random_range(0.75..1.25)))
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_bound_and_start_over_after_a_success() {
        let mut backoff = WatchBackoff::default();
        let waits: Vec<Duration> = backoff.by_ref().take(12).collect();
        assert!(waits[0] <= FIRST.mul_f64(1.25));
        assert!(waits[11] >= LONGEST.mul_f64(0.75) && waits[11] <= LONGEST.mul_f64(1.25));
        backoff.reset();
        assert!(backoff.next().expect("endless") <= FIRST.mul_f64(1.25));
    }
}
