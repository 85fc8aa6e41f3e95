//! The annotation's shape, and results of primary plugins in each generation.

use serde_json::json;

use super::*;

#[test]
fn an_entry_has_the_go_clients_keys_and_no_empty_ones() {
    let full = NetworkStatus {
        name: "ns/vlan100".to_owned(),
        interface: "eth1".to_owned(),
        ips: vec!["10.0.0.5".parse().expect("address"), "fd00::5".parse().expect("address")],
        mac: "02:00:00:00:00:01".parse().ok(),
        mtu: Some(1300),
        default: false,
        dns: Dns { nameservers: vec!["10.0.0.53".to_owned()], ..Dns::default() },
        gateway: vec!["10.0.0.1".parse().expect("address")],
    };
    let value = json!({
        "name": "ns/vlan100", "interface": "eth1", "ips": ["10.0.0.5", "fd00::5"], "mac": "02:00:00:00:00:01",
        "mtu": 1300, "dns": {"nameservers": ["10.0.0.53"]}, "gateway": ["10.0.0.1"],
    });
    assert_eq!(serde_json::to_value(&full).expect("data"), value);
    assert_eq!(serde_json::from_value::<NetworkStatus>(value).expect("own shape"), full);
    let bare = NetworkStatus { name: "ns/l2".to_owned(), ..NetworkStatus::default() };
    assert_eq!(serde_json::to_value(&bare).expect("data"), json!({"name": "ns/l2"}));
}

#[test]
fn an_entry_of_the_go_client_is_read() {
    let text = r#"{"name": "cbr0", "interface": "eth0", "ips": ["10.244.1.9"], "mac": "0a:58:0a:f4:01:09", "default": true, "dns": {}, "gateway": ["10.244.1.1"], "device-info": {"type": "pci"}}"#;
    let read: NetworkStatus = serde_json::from_str(text).expect("the client's own output");
    assert!(read.default && read.dns.is_empty());
}

#[test]
fn the_primary_entry_comes_from_the_result() {
    let chained = |version: &str, extra: Value| {
        json!({
            "cniVersion": version,
            "interfaces": [
                {"name": "cni0", "mac": "aa:aa:aa:aa:aa:aa"},
                {"name": "veth1", "mac": "bb:bb:bb:bb:bb:bb"},
                {"name": "eth0", "mac": "0a:58:0a:f4:01:09", "sandbox": "/run/netns/x", "mtu": extra},
            ],
            "ips": [
                {"version": "4", "interface": 2, "address": "10.244.1.9/24", "gateway": "10.244.1.1"},
                {"interface": 2, "address": "fd10::9/64"},
                {"interface": 1, "address": "192.0.2.1/32"},
            ],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0", "gw": "fd10::1"}, {"dst": "10.96.0.0/16", "gw": "10.244.1.7"}],
        })
    };
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let mtu = if version == "1.1.0" { json!(1450) } else { Value::Null };
        let status = serde_json::to_value(primary_status("k8s-net", "eth0", &chained(version, mtu.clone())));
        let mut expected = json!({
            "name": "k8s-net", "interface": "eth0", "ips": ["10.244.1.9", "fd10::9"], "mac": "0a:58:0a:f4:01:09",
            "default": true, "gateway": ["10.244.1.1", "fd10::1"],
        });
        if !mtu.is_null() {
            expected["mtu"] = mtu;
        }
        assert_eq!(status.expect("data"), expected, "{version}");
    }
}

#[test]
fn a_result_that_says_little_still_gives_the_default_entry() {
    for result in [
        json!({}),
        Value::Null,
        json!({"ips": "x", "interfaces": 5}),
        json!({"ips": [{"address": "nonsense"}]}),
    ] {
        let status = serde_json::to_value(primary_status("net", "eth0", &result)).expect("data");
        assert_eq!(status, json!({"name": "net", "interface": "eth0", "default": true}), "{result}");
    }
}
