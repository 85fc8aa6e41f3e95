//! Who leads, by the Lease alone.

use super::*;

const TIMINGS: Timings =
    Timings { lease: Duration::from_secs(15), renew: Duration::from_secs(10), retry: Duration::from_secs(2) };

fn candidate(name: &str) -> Election {
    Election::new(name.to_owned(), TIMINGS)
}

fn record(holder: &str, renewed: &str) -> Record {
    Record { holder: holder.to_owned(), renewed: renewed.to_owned(), duration: TIMINGS.lease, transitions: 3 }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_missing_or_given_up_lease_is_taken_at_once() {
    let now = Instant::now();
    assert_eq!(candidate("a").decide(None, now), Decision::Acquire { transitions: 0 });
    assert_eq!(candidate("a").decide(Some(record("", "t0")), now), Decision::Acquire { transitions: 4 });
}

#[test]
fn another_s_lease_is_taken_only_when_it_has_not_changed_for_its_duration_on_our_clock() {
    let start = Instant::now();
    let mut us = candidate("a");
    for (after, renewed, expected) in [
        (0, "t0", Decision::Follow),
        (14, "t0", Decision::Follow),
        (14, "t1", Decision::Follow),
        (28, "t1", Decision::Follow),
        (29, "t1", Decision::Acquire { transitions: 4 }),
    ] {
        assert_eq!(us.decide(Some(record("b", renewed)), start + secs(after)), expected, "after {after} s");
    }
}

#[test]
fn an_old_time_in_a_lease_does_not_count_because_clocks_differ() {
    let now = Instant::now();
    assert_eq!(candidate("a").decide(Some(record("b", "1970-01-01")), now), Decision::Follow);
}

#[test]
fn a_leader_that_cannot_renew_stops_before_others_may_take_over() {
    let start = Instant::now();
    let (mut leader, mut other) = (candidate("a"), candidate("b"));
    assert_eq!(leader.decide(None, start), Decision::Acquire { transitions: 0 });
    leader.written(start);
    assert_eq!(other.decide(Some(record("a", "t0")), start), Decision::Follow);
    let mut takes_over = None;
    for second in 0..30 {
        let now = start + secs(second);
        let decision = other.decide(Some(record("a", "t0")), now);
        if decision != Decision::Follow {
            takes_over = Some(now);
            break;
        }
    }
    let takes_over = takes_over.expect("the lease runs out");
    assert!(leader.leads(start + secs(9)));
    assert!(!leader.leads(start + secs(10)));
    assert!(leader.leads_until().expect("it led") < takes_over);
}

#[test]
fn the_time_of_leading_counts_from_before_the_write_was_sent() {
    let start = Instant::now();
    let mut leader = candidate("a");
    leader.decide(Some(record("a", "t0")), start);
    leader.written(start);
    assert_eq!(leader.leads_until(), Some(start + TIMINGS.renew));
}

#[test]
fn a_leader_that_sees_another_holder_stops_at_once() {
    let start = Instant::now();
    let mut leader = candidate("a");
    leader.written(start);
    assert!(leader.leads(start));
    assert_eq!(leader.decide(Some(record("b", "t1")), start + secs(1)), Decision::Follow);
    assert!(!leader.leads(start + secs(1)));
    assert_eq!(leader.holder(), Some("b"));
}

#[test]
fn an_own_lease_is_renewed_with_its_transitions() {
    let start = Instant::now();
    assert_eq!(candidate("a").decide(Some(record("a", "t0")), start), Decision::Renew { transitions: 3 });
}

#[test]
fn the_usual_timings_follow_from_the_duration() {
    assert_eq!(Timings::new(secs(15)), TIMINGS);
}
