//! The order of a conversation, on servers old and new.

use serde_json::json;

use super::*;

fn sent(out: &mut BytesMut) -> Vec<Json> {
    let bytes = out.split();
    serde_json::Deserializer::from_slice(&bytes).into_iter().map(|json| json.expect("our own JSON")).collect()
}

fn tell(session: &mut Session, out: &mut BytesMut, json: &Json) -> Result<Event, SessionError> {
    session.receive(message::parse(json.to_string().as_bytes()).expect("a message"), out)
}

fn schema() -> Json {
    let name = json!({"columns": {"name": {"type": "string"}}});
    json!({"id": "schema", "error": null, "result": {"tables": {"Bridge": name, "Port": name}}})
}

#[test]
fn a_new_server_is_monitored_with_conditions_and_only_for_columns_that_it_has() {
    let mut out = BytesMut::new();
    let mut session = Session::start(&mut out);
    assert_eq!(sent(&mut out)[0]["method"], "get_schema");
    tell(&mut session, &mut out, &schema()).expect("a schema");
    let request = sent(&mut out).remove(0);
    assert_eq!(request["method"], "monitor_cond");
    assert_eq!(
        request["params"][2],
        json!({"Bridge": [{"columns": ["name"]}], "Port": [{"columns": ["name"]}]})
    );
    assert!(!session.is_ready());
    let row = json!({"Bridge": {"550e8400-e29b-41d4-a716-446655440000": {"initial": {"name": "br0"}}}});
    let event = tell(&mut session, &mut out, &json!({"id": "monitor_cond", "error": null, "result": row}));
    assert!(matches!(event, Ok(Event::Changed)));
    assert!(session.is_ready() && session.snapshot().bridge("br0").is_some());
}

#[test]
fn an_old_server_is_monitored_as_rfc_7047_has_it() {
    let mut out = BytesMut::new();
    let mut session = Session::start(&mut out);
    tell(&mut session, &mut out, &schema()).expect("a schema");
    sent(&mut out);
    tell(&mut session, &mut out, &json!({"id": "monitor_cond", "error": "unknown method", "result": null}))
        .expect("a fall-back");
    assert_eq!(sent(&mut out)[0]["method"], "monitor");
    let row = json!({"Port": {"550e8400-e29b-41d4-a716-446655440000": {"new": {"name": "p"}}}});
    tell(&mut session, &mut out, &json!({"id": "monitor", "error": null, "result": row})).expect("rows");
    assert!(session.is_ready() && session.snapshot().port("p").is_some());
    let gone = json!({"Port": {"550e8400-e29b-41d4-a716-446655440000": {"old": {"name": "p"}}}});
    let event =
        tell(&mut session, &mut out, &json!({"method": "update", "params": ["monitor", gone], "id": null}));
    assert!(matches!(event, Ok(Event::Changed)) && session.snapshot().port("p").is_none());
}

#[test]
fn an_echo_is_answered_with_its_own_words() {
    let mut out = BytesMut::new();
    let mut session = Session::start(&mut out);
    sent(&mut out);
    tell(&mut session, &mut out, &json!({"method": "echo", "params": ["hi"], "id": "e7"})).expect("an echo");
    assert_eq!(sent(&mut out), [json!({"id": "e7", "result": ["hi"], "error": null})]);
    tell(&mut session, &mut out, &json!({"method": "dance", "params": [], "id": 1}))
        .expect("no reason to hang up");
    assert_eq!(sent(&mut out)[0]["error"], "unknown method");
}

#[test]
fn a_server_that_is_of_no_use_is_left_with_the_reason() {
    let cases = [
        (json!({"id": "schema", "error": "unknown database", "result": null}), "unknown database"),
        (json!({"id": "schema", "error": null, "result": {"tables": {}}}), "no table Bridge"),
        (json!({"method": "monitor_canceled", "params": ["x"], "id": null}), "cancelled"),
        (json!({"id": "monitor", "error": "syntax error", "result": null}), "syntax error"),
    ];
    for (message, words) in cases {
        let mut out = BytesMut::new();
        let mut session = Session::start(&mut out);
        let error = tell(&mut session, &mut out, &message).expect_err("of no use");
        assert!(error.to_string().contains(words), "{error}");
    }
}
