//! Kinds of messages, and updates with things that nobody knows.

use serde_json::json;

use super::*;

type Expected = fn(&Result<Message, MessageError>) -> bool;

#[test]
fn messages_are_told_apart() {
    let cases: [(Json, Expected); 7] = [
        (json!({"method": "echo", "params": [], "id": "x"}), |m| matches!(m, Ok(Message::Request { .. }))),
        (json!({"method": "update", "params": [null, {}], "id": null}), |m| {
            matches!(m, Ok(Message::Notification { .. }))
        }),
        (json!({"method": "update2", "params": []}), |m| matches!(m, Ok(Message::Notification { .. }))),
        (json!({"id": 3, "result": [], "error": null}), |m| matches!(m, Ok(Message::Response { .. }))),
        (json!({"id": null, "result": []}), |m| matches!(m, Err(MessageError::Form))),
        (json!({"method": 7, "id": 1}), |m| matches!(m, Err(MessageError::Form))),
        (json!({"method": "update", "params": {}}), |m| matches!(m, Err(MessageError::Form))),
    ];
    for (json, expected) in cases {
        let message = parse(json.to_string().as_bytes());
        assert!(expected(&message), "{json}: {message:?}");
    }
    assert!(matches!(parse(b"{\"a\":}"), Err(MessageError::Json(_))));
}

#[test]
fn requests_and_responses_are_json() {
    let bytes = request("transact", &json!(["db", {"op": "comment", "comment": "\"é"}]), &json!(7));
    assert!(matches!(parse(&bytes), Ok(Message::Request { method, .. }) if method == "transact"));
    let bytes = response(&json!(["a"]), &Json::Null, &json!("id"));
    assert!(matches!(parse(&bytes), Ok(Message::Response { id, .. }) if id == "id"));
}

const UUID: &str = "550e8400-e29b-41d4-a716-446655440000";

#[test]
fn updates_of_both_kinds_are_read() {
    let row = json!({"name": "br0"});
    let kinds: [(TableChanges, &str); 5] = [
        (updates(&json!({"Bridge": {UUID: {"new": row, "old": {}}}})), "set"),
        (updates(&json!({"Bridge": {UUID: {"old": row}}})), "delete"),
        (updates2(&json!({"Bridge": {UUID: {"initial": row}}})), "set"),
        (updates2(&json!({"Bridge": {UUID: {"modify": row}}})), "modify"),
        (updates2(&json!({"Bridge": {UUID: {"delete": null}}})), "delete"),
    ];
    for (changes, expected) in kinds {
        let [(Table::Bridge, _, change)] = changes.as_slice() else { panic!("{changes:?}") };
        let kind = match change {
            RowChange::Set(_) => "set",
            RowChange::Modify(_) => "modify",
            RowChange::Delete => "delete",
        };
        assert_eq!(kind, expected);
    }
}

#[test]
fn what_is_not_known_is_skipped() {
    let changes = updates2(&json!({
        "Nonsense": {UUID: {"insert": {}}},
        "Port": {"no-uuid": {"insert": {}}, UUID: {"insert": {"name": "p", "odd": {"a": 1}}}},
        "Bridge": {UUID: {"later-kind": {}}},
    }));
    let [(Table::Port, _, RowChange::Set(row))] = changes.as_slice() else { panic!("{changes:?}") };
    assert_eq!(row.len(), 1);
}
