//! When to try again and when to probe: shared by both clients.
//!
//! Owns two small state machines that take the time as an argument; must never sleep or touch a socket.

use std::time::{Duration, Instant};

/// Delays between attempts to connect: short at first, doubling up to a limit.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `first` and never exceeds `max`.
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, next: first }
    }

    /// The delay before the next attempt.
    pub(crate) fn next(&mut self) -> Duration {
        let delay = self.next;
        self.next = (self.next * 2).min(self.max);
        delay
    }

    /// A connection worked: start from the beginning.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// What a [`Keepalive`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probe {
    /// Nothing before this time.
    Wait(Instant),
    /// Send an echo request now.
    Send,
    /// The peer is dead: drop the connection.
    Dead,
}

/// Probes a silent peer once, then gives it up.
#[derive(Debug)]
pub(crate) struct Keepalive {
    interval: Duration,
    heard: Instant,
    probed: Option<Instant>,
}

impl Keepalive {
    /// Probes after `interval` of silence and gives up after another one.
    pub(crate) fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, heard: now, probed: None }
    }

    /// Bytes arrived.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.probed = None;
    }

    /// What to do at `now`. After [`Probe::Send`] the probe counts as sent.
    pub(crate) fn poll(&mut self, now: Instant) -> Probe {
        match self.probed {
            Some(sent) if now >= sent + self.interval => Probe::Dead,
            Some(sent) => Probe::Wait(sent + self.interval),
            None if now >= self.heard + self.interval => {
                self.probed = Some(now);
                Probe::Send
            }
            None => Probe::Wait(self.heard + self.interval),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn delays_double_up_to_the_limit_and_start_again_after_a_success() {
        let mut backoff = Backoff::new(SECOND, SECOND * 5);
        let delays: Vec<_> = (0..5).map(|_| backoff.next().as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 5, 5]);
        backoff.reset();
        assert_eq!(backoff.next(), SECOND);
    }

    #[test]
    fn a_silent_peer_is_probed_once_then_dropped() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(SECOND * 5, start);
        assert_eq!(keepalive.poll(start), Probe::Wait(start + SECOND * 5));
        assert_eq!(keepalive.poll(start + SECOND * 5), Probe::Send);
        assert_eq!(keepalive.poll(start + SECOND * 6), Probe::Wait(start + SECOND * 10));
        assert_eq!(keepalive.poll(start + SECOND * 10), Probe::Dead);
    }

    #[test]
    fn a_peer_that_answers_is_kept() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(SECOND * 5, start);
        assert_eq!(keepalive.poll(start + SECOND * 5), Probe::Send);
        keepalive.heard(start + SECOND * 6);
        assert_eq!(keepalive.poll(start + SECOND * 10), Probe::Wait(start + SECOND * 11));
    }
}
