//! Rows of the lists.

use trunkline_agent::dump::UplinkDump;

use super::*;

#[test]
fn a_bridge_says_which_uplink_is_missing() {
    let uplink = |name: &str, present, carrier| UplinkDump {
        name: name.to_owned(),
        present,
        carrier,
        ..UplinkDump::default()
    };
    let dump = BridgeDump {
        name: "br1".to_owned(),
        datapath: "netdev".to_owned(),
        uplinks: vec![uplink("a", true, true), uplink("b", true, false), uplink("c", false, false)],
        pod_ports: 3,
        conditions: vec!["UplinkMissing: c".to_owned()],
        ..BridgeDump::default()
    };
    assert_eq!(
        bridge(&dump),
        ["br1", "false", "netdev", "a,b(no carrier),c(missing)", "3", "UplinkMissing: c"]
    );
}

#[test]
fn a_tap_says_when_it_samples() {
    let row = |one_in| tap(&TapDump { one_in, state: "attached".to_owned(), ..TapDump::default() });
    assert_eq!([row(10)[9].as_str(), row(1)[9].as_str(), row(0)[9].as_str()], ["1 in 10", "", ""]);
}

#[test]
fn a_pool_shows_usage_and_what_is_wrong() {
    let text = r#"{"metadata": {"name": "p"},
        "apiVersion": "crd.antrea.io/v1beta1", "kind": "IPPool",
        "spec": {"ipRanges": [], "subnetInfo": {"gateway": "10.0.0.1", "prefixLength": 24, "vlan": 100}},
        "status": {"usage": {"total": 5, "used": 2}, "conditions": [
            {"type": "Ready", "status": "True", "reason": "r", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "Overlap", "status": "True", "reason": "r", "message": "with q", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "Invalid", "status": "False", "reason": "r", "message": "x", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}"#;
    let object: IPPool = serde_json::from_str(text).expect("a pool");
    assert_eq!(pool(&object), ["p", "10.0.0.0/24", "100", "5", "2", "True", "Overlap: with q", ""]);
}

#[test]
fn a_nad_is_shown_as_trunkline_reads_it() {
    let row = |config: &str| nad(&NetworkAttachmentDefinition::new("n", Some(config.to_owned())));
    assert_eq!(
        row(
            r#"{"type":"antrea","networkType":"vlan","vlan":100,"ipam":{"type":"antrea","ippools":["a","b"]}}"#
        ),
        ["", "n", "antrea", "", "100", "", "a,b"]
    );
    assert_eq!(row(r#"{"type":"macvlan"}"#), ["", "n", "macvlan (not Trunkline's)"]);
    assert_eq!(
        row(r#"{"type":"antrea","networkType":"sriov"}"#).last().map(String::as_str),
        Some("spec.config: networkType: \"sriov\" is not supported in this version; use \"vlan\"")
    );
}

#[test]
fn untagged_is_a_word() {
    assert_eq!(
        (vlan(None), vlan(Some(0)), vlan(Some(7))),
        ("untagged".to_owned(), "untagged".to_owned(), "7".to_owned())
    );
}
