//! Updates, differences and indexes.

use serde_json::json;

use super::super::message::{updates, updates2};
use super::*;

fn schema() -> Schema {
    let set = json!({"key": "string", "min": 0, "max": "unlimited"});
    let one = json!({"key": "string", "min": 0, "max": 1});
    Schema::read(&json!({"tables": {
        "Bridge": {"columns": {"name": {"type": "string"}, "ports": {"type": set}, "fail_mode": {"type": one}}},
        "Port": {"columns": {"name": {"type": "string"}, "external_ids": {"type": set}, "tag": {"type": one}, "trunks": {"type": {"max": 4096}}}},
        "Interface": {"columns": {"name": {"type": "string"}, "ofport": {"type": one}}},
    }}))
}

fn id(number: u128) -> String {
    Uuid::from_u128(number).to_string()
}

fn built(steps: &[serde_json::Value]) -> Replica {
    let (schema, mut builder) = (schema(), Builder::default());
    for step in steps {
        builder.apply(&schema, updates2(step));
    }
    builder.snapshot()
}

#[test]
fn differences_are_applied_to_sets_maps_and_single_values() {
    let replica = built(&[
        json!({"Port": {id(1): {"initial": {"name": "p", "tag": 5, "trunks": ["set", [1, 2]],
            "external_ids": ["map", [["a", "1"], ["b", "2"], ["c", "3"]]]}}}}),
        json!({"Port": {id(1): {"modify": {"tag": 6, "trunks": ["set", [2, 3]],
            "external_ids": ["map", [["a", "1"], ["b", "9"], ["d", "4"]]]}}}}),
    ]);
    let port = replica.port("p").expect("it is there");
    assert_eq!(port.tag, Some(6));
    assert_eq!(port.trunks, BTreeSet::from([1, 3]));
    let ids: Vec<_> = port.external_ids.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(ids, ["b=9", "c=3", "d=4"]);
}

#[test]
fn a_single_value_can_be_taken_away_and_a_toggled_set_may_be_a_bare_atom() {
    let replica = built(&[
        json!({"Port": {id(1): {"initial": {"name": "p", "tag": 5, "trunks": 7}}}}),
        json!({"Port": {id(1): {"modify": {"tag": ["set", []], "trunks": 8}}}}),
    ]);
    let port = replica.port("p").expect("it is there");
    assert_eq!(port.tag, None);
    assert_eq!(port.trunks, BTreeSet::from([7, 8]));
}

#[test]
fn a_name_that_passes_to_another_row_leads_to_that_row() {
    // The server may tell of the new row before it tells that the old one is gone.
    let replica = built(&[
        json!({"Port": {id(1): {"insert": {"name": "p"}}}}),
        json!({"Port": {id(2): {"insert": {"name": "p"}}}}),
        json!({"Port": {id(1): {"delete": null}}}),
    ]);
    assert_eq!(replica.port("p").expect("it is there").uuid, Uuid::from_u128(2));
    let renamed = built(&[
        json!({"Port": {id(1): {"insert": {"name": "p"}}}}),
        json!({"Port": {id(1): {"modify": {"name": "q"}}}}),
    ]);
    assert!(renamed.port("p").is_none() && renamed.port("q").is_some());
}

#[test]
fn ports_are_found_by_their_bridge_and_bridges_by_their_port() {
    let reference = |number| json!(["uuid", id(number)]);
    let replica = built(&[
        json!({"Bridge": {id(10): {"initial": {"name": "br0", "ports": ["set", [reference(1), reference(2)]]}}},
            "Port": {id(1): {"initial": {"name": "a"}}, id(2): {"initial": {"name": "b"}}}}),
        json!({"Bridge": {id(10): {"modify": {"ports": reference(1)}}}, "Port": {id(1): {"delete": null}}}),
    ]);
    let bridge = replica.bridge("br0").expect("it is there");
    assert_eq!(replica.ports_of(bridge).map(|port| port.name.to_string()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(replica.bridge_of(Uuid::from_u128(2)).map(|bridge| bridge.uuid), Some(bridge.uuid));
    assert!(replica.bridge_of(Uuid::from_u128(1)).is_none());
}

#[test]
fn a_snapshot_is_not_changed_by_what_comes_after_it() {
    let (schema, mut builder) = (schema(), Builder::default());
    builder.apply(&schema, updates(&json!({"Port": {id(1): {"new": {"name": "p", "tag": 1}}}})));
    let before = builder.snapshot();
    builder.apply(
        &schema,
        updates(&json!({"Port": {id(1): {"new": {"name": "p", "tag": 2}, "old": {"tag": 1}}}})),
    );
    assert_eq!(before.port("p").and_then(|port| port.tag), Some(1));
    assert_eq!(builder.snapshot().port("p").and_then(|port| port.tag), Some(2));
}
