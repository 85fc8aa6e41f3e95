//! Tables of good and bad names.

use super::*;

#[test]
fn the_kernels_rules() {
    for (name, expected) in [
        ("eth1", None),
        ("a", None),
        ("net-1.100_x", None),
        ("fifteen-bytes-x", None),
        ("", Some("is empty; use 1 to 15 bytes")),
        ("sixteen-bytes-xx", Some("\"sixteen-bytes-xx\" is 16 bytes long; use at most 15")),
        (".", Some("\".\" is not an interface name")),
        ("..", Some("\"..\" is not an interface name")),
        ("a/b", Some("\"a/b\" contains '/'; use letters, digits, '-', '_' and '.'")),
        ("a b", Some("\"a b\" contains ' '; use letters, digits, '-', '_' and '.'")),
        ("a:1", Some("\"a:1\" contains ':'; use letters, digits, '-', '_' and '.'")),
        ("a\n", Some("\"a\\n\" contains '\\n'; use letters, digits, '-', '_' and '.'")),
    ] {
        let error = name.parse::<IfName>().err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), expected, "{name:?}");
        assert_eq!(name.parse::<BridgeName>().is_ok(), expected.is_none(), "{name:?}");
    }
}

#[test]
fn serde_uses_the_same_door() {
    assert_eq!(serde_json::to_string(&"eth1".parse::<IfName>().expect("good")).expect("data"), "\"eth1\"");
    assert!(serde_json::from_str::<IfName>("\"a/b\"").is_err());
}
