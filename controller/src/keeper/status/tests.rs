//! Status and conditions of pools.

use trunkline_ipam::{Overlap, PoolSpec};

use super::*;
use crate::objects::PoolObject;

fn report() -> PoolReport {
    PoolReport {
        object: PoolObject {
            spec: PoolSpec {
                name: "a".to_owned(),
                subnet: "10.0.0.1/24".parse().map_err(|_| String::new()),
                ranges: Vec::new(),
                vlan: 100,
            },
            uid: "u".to_owned(),
            generation: Some(1),
            guarded: true,
            deleting: false,
            cursor: None,
            usage: None,
            conditions: Vec::new(),
        },
        total: 253,
        used: 3,
        claims: 3,
        exhausted: false,
        problems: Vec::new(),
        overlaps: Vec::new(),
        conflicts: Vec::new(),
        cursor: "10.0.0.5".parse().ok(),
    }
}

/// The report that the watch would lead to once the patch is written.
fn written(report: &PoolReport, desired: &Desired) -> PoolReport {
    let status = &desired.patch.as_ref().expect("a patch")["status"];
    let mut next = report.clone();
    next.object.conditions = serde_json::from_value(status["conditions"].clone()).expect("conditions");
    next.object.usage = Some((count(report.total), count(report.used)));
    next.object.cursor = report.cursor.map(|cursor| cursor.to_string());
    next
}

fn status_of(report: &PoolReport, kind: &str) -> (String, String) {
    let found = report.object.conditions.iter().find(|known| known.type_ == kind).expect("the condition");
    (found.status.clone(), found.message.clone())
}

#[test]
fn a_status_that_says_it_all_is_not_written_again() {
    let now = Timestamp::now();
    let report = report();
    let first = desired(&report, now);
    assert_eq!(desired(&written(&report, &first), now), Desired::default());
}

#[test]
fn usage_and_cursor_are_written_when_they_change() {
    let now = Timestamp::now();
    let report = report();
    let mut next = written(&report, &desired(&report, now));
    next.used = 4;
    let patch = desired(&next, now).patch.expect("a patch");
    assert_eq!(patch["status"]["usage"], json!({"total": 253, "used": 4}));
    assert_eq!(patch["status"]["cursor"], json!("10.0.0.5"));
}

#[test]
fn every_trouble_has_its_condition_and_warns_once() {
    type Spoil = Box<dyn Fn(&mut PoolReport)>;
    let overlap = Overlap { other: "b".to_owned(), vlan: 100 };
    let cases: [(&str, bool, &str, Spoil); 4] = [
        (
            "Invalid",
            true,
            "start 10.0.0.9 comes after",
            Box::new(|r| {
                r.problems = vec!["spec.ipRanges[0]: start 10.0.0.9 comes after end 10.0.0.8".to_owned()];
            }),
        ),
        ("Overlap", true, "with IPPool b (VLAN 100)", Box::new(move |r| r.overlaps = vec![overlap.clone()])),
        ("Exhausted", true, "all 253 addresses are in use", Box::new(|r| r.exhausted = true)),
        (
            "AddressConflict",
            false,
            "use 10.0.0.7",
            Box::new(|r| {
                r.conflicts = vec!["10.0.0.7".parse().expect("an address")];
            }),
        ),
    ];
    let now = Timestamp::now();
    for (kind, warns, text, spoil) in cases {
        let mut report = report();
        spoil(&mut report);
        let first = desired(&report, now);
        let reasons: Vec<_> = first.warnings.iter().map(|warning| warning.reason).collect();
        assert_eq!(reasons, if warns { vec![kind] } else { vec![] });
        let next = written(&report, &first);
        let (status, message) = status_of(&next, kind);
        assert_eq!(status, "True");
        assert!(message.contains(text), "{message}");
        assert_eq!(desired(&next, now), Desired::default(), "{kind} warns once");
    }
}

#[test]
fn a_pool_without_addresses_or_being_deleted_is_not_ready() {
    let now = Timestamp::now();
    for spoil in [|r: &mut PoolReport| r.total = 0, |r: &mut PoolReport| r.object.deleting = true] {
        let mut report = report();
        spoil(&mut report);
        let next = written(&report, &desired(&report, now));
        assert_eq!(status_of(&next, "Ready").0, "False");
    }
}

#[test]
fn the_time_of_a_transition_stays_while_the_status_does() {
    let (early, late) = (Timestamp::UNIX_EPOCH, Timestamp::now());
    let report = report();
    let mut next = written(&report, &desired(&report, early));
    next.exhausted = true;
    let next = written(&next, &desired(&next, late));
    let time = |kind: &str| {
        let found = next.object.conditions.iter().find(|known| known.type_ == kind).expect("the condition");
        found.last_transition_time.0
    };
    assert_eq!(time("Ready"), early);
    assert_eq!(time("Exhausted").as_second(), late.as_second());
}

#[test]
fn a_pool_larger_than_the_status_can_say_saturates() {
    let mut report = report();
    report.total = 1 << 64;
    let patch = desired(&report, Timestamp::now()).patch.expect("a patch");
    assert_eq!(patch["status"]["usage"]["total"], json!(i64::MAX));
}
