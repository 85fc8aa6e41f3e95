//! Round trips and refusals.

use proptest::prelude::*;

use super::*;

fn atoms() -> impl Strategy<Value = Atom> {
    prop_oneof![
        any::<i64>().prop_map(Atom::Integer),
        any::<bool>().prop_map(Atom::Boolean),
        ".{0,12}".prop_map(Atom::String),
        any::<u128>().prop_map(|bits| Atom::Uuid(Uuid::from_u128(bits))),
        "[a-z_][a-z0-9_]{0,8}".prop_map(Atom::Named),
        // The JSON reader may miss the nearest number by the last bit; halves are exact.
        any::<i32>().prop_map(|whole| Atom::Real(Real(f64::from(whole) + 0.5))),
    ]
}

fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        atoms().prop_map(Value::Atom),
        proptest::collection::btree_set(atoms(), 0..6).prop_map(Value::Set),
        proptest::collection::btree_map(atoms(), atoms(), 0..6).prop_map(Value::Map),
    ]
}

proptest! {
    #[test]
    fn a_value_survives_the_wire(value in values()) {
        let text = value.to_json().to_string();
        let json: Json = serde_json::from_str(&text).expect("our own JSON");
        prop_assert_eq!(Value::from_json(&json), Ok(value));
    }
}

#[test]
fn what_is_no_value_is_refused() {
    for text in [
        "null",
        "{}",
        "[]",
        r#"["uuid","nonsense"]"#,
        r#"["uuid"]"#,
        r#"["set",[["set",[]]]]"#,
        r#"["map",[["a"]]]"#,
        r#"["map",[["a","b","c"]]]"#,
        r#"["other",[]]"#,
        r#"["set",null]"#,
    ] {
        let json: Json = serde_json::from_str(text).expect("JSON");
        assert!(Value::from_json(&json).is_err(), "{text} was taken");
    }
}
