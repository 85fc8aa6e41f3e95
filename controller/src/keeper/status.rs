//! What a pool's status should say.
//!
//! Owns the words of conditions and Events, pure. Must never write them.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::json;

use crate::ledger::PoolReport;

/// What is to be written and told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// Merge patch of the status; none when it says all that already.
    pub patch: Option<serde_json::Value>,
    /// Conditions that have just become true and that users should hear of.
    pub warnings: Vec<Warning>,
}

/// A Warning Event on the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Event reason.
    pub reason: &'static str,
    /// Event note.
    pub note: String,
}

struct Wanted {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
    /// It is news when it begins to hold.
    warns: bool,
}

/// Compares what is known of a pool with its status.
pub fn desired(report: &PoolReport, now: Timestamp) -> Desired {
    let wanted = wanted(report);
    let existing = &report.object.conditions;
    let mut warnings = Vec::new();
    for want in wanted.iter().filter(|want| want.warns && want.holds) {
        let known = existing.iter().find(|known| known.type_ == want.kind && known.status == "True");
        if known.is_none_or(|known| known.message != want.message) {
            warnings.push(Warning { reason: want.kind, note: want.message.clone() });
        }
    }
    let conditions: Vec<_> = wanted.into_iter().map(|want| condition(want, report, now)).collect();
    let usage = (count(report.total), count(report.used));
    let cursor = report.cursor.map(|cursor| cursor.to_string());
    let same = report.object.usage == Some(usage)
        && same_conditions(existing, &conditions)
        && report.object.cursor == cursor;
    let patch = (!same).then(|| {
        json!({ "status": {
            "usage": { "total": usage.0, "used": usage.1 },
            "conditions": conditions,
            "cursor": cursor,
        }})
    });
    Desired { patch, warnings }
}

fn wanted(report: &PoolReport) -> Vec<Wanted> {
    let invalid = !report.problems.is_empty();
    let overlaps: Vec<_> = report
        .overlaps
        .iter()
        .map(|overlap| match overlap.vlan {
            0 => format!("IPPool {} (untagged)", overlap.other),
            vlan => format!("IPPool {} (VLAN {vlan})", overlap.other),
        })
        .collect();
    let conflicts: Vec<_> = report.conflicts.iter().map(ToString::to_string).collect();
    let ready = report.total > 0 && !report.object.deleting;
    let (ready_reason, ready_message) = if report.object.deleting {
        ("Deleting", "the pool is being deleted and gives no more addresses".to_owned())
    } else if report.total == 0 {
        ("NoAddresses", "no range has an address to give".to_owned())
    } else {
        ("Serving", "addresses are given".to_owned())
    };
    let wanted = |kind, holds: bool, yes: &'static str, no: &'static str, message: String| Wanted {
        kind,
        holds,
        reason: if holds { yes } else { no },
        message: if holds { message } else { String::new() },
        warns: true,
    };
    let overlap_text = format!("addresses are shared, on the same network, with {}", overlaps.join(", "));
    let exhausted_text = format!("all {} addresses are in use", report.total);
    let conflict_text = format!("other stations on the network use {}; they rest", conflicts.join(", "));
    vec![
        Wanted { kind: "Ready", holds: ready, reason: ready_reason, message: ready_message, warns: false },
        wanted("Invalid", invalid, "RangesUnusable", "RangesUsable", report.problems.join("; ")),
        wanted("Overlap", !overlaps.is_empty(), "SharedAddresses", "NoSharedAddresses", overlap_text),
        wanted(
            "Exhausted",
            report.exhausted && report.total > 0,
            "AllInUse",
            "AddressesFree",
            exhausted_text,
        ),
        // The Event tells of every report; the condition only says that some address rests.
        Wanted {
            warns: false,
            ..wanted(
                "AddressConflict",
                !conflicts.is_empty(),
                "ProbeAnswered",
                "NoProbeAnswered",
                conflict_text,
            )
        },
    ]
}

fn condition(want: Wanted, report: &PoolReport, now: Timestamp) -> Condition {
    let status = if want.holds { "True" } else { "False" };
    let known =
        report.object.conditions.iter().find(|known| known.type_ == want.kind && known.status == status);
    Condition {
        type_: want.kind.to_owned(),
        status: status.to_owned(),
        reason: want.reason.to_owned(),
        message: want.message,
        observed_generation: report.object.generation,
        last_transition_time: known.map_or(Time(now), |known| known.last_transition_time.clone()),
    }
}

fn same_conditions(existing: &[Condition], wanted: &[Condition]) -> bool {
    existing.len() == wanted.len()
        && wanted.iter().all(|want| {
            existing.iter().any(|known| {
                known.type_ == want.type_
                    && known.status == want.status
                    && known.reason == want.reason
                    && known.message == want.message
                    && known.observed_generation == want.observed_generation
            })
        })
}

fn count(addresses: u128) -> i64 {
    i64::try_from(addresses).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
