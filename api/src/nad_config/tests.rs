//! Tables of good and bad configurations.

use super::*;

fn ours(text: &str) -> Result<NadConfig, String> {
    match NadConfig::parse(Some(text)).map_err(|error| error.to_string())? {
        Nad::Ours(config) => Ok(*config),
        Nad::NotOurs { kind } => Err(format!("not ours: {kind}")),
    }
}

/// A good configuration with one more key.
fn with(extra: &str) -> String {
    format!(r#"{{"type":"antrea","networkType":"vlan",{extra}}}"#)
}

#[test]
fn other_types_are_left_alone() {
    for (text, kind) in [
        (None, ""),
        (Some(""), ""),
        (Some("{}"), ""),
        (Some(r#"{"type":"macvlan","master":"eth0"}"#), "macvlan"),
        (Some(r#"{"plugins":[{"type":"bridge"},{"type":"tuning"}]}"#), "bridge,tuning"),
    ] {
        assert_eq!(NadConfig::parse(text), Ok(Nad::NotOurs { kind: kind.to_owned() }), "{text:?}");
    }
}

#[test]
fn the_source_documents_network_is_read() {
    let text = r#"{
      "cniVersion": "0.3.0",
      "type": "antrea",
      "networkType": "vlan",
      "mtu": 1500,
      "vlan": 100,
      "ipam": {
        "type": "antrea",
        "ippools": ["vlan100-ipv4", "vlan100-ipv6"]
      }
    }"#;
    let pools = ["vlan100-ipv4", "vlan100-ipv6"].map(str::to_owned).into();
    let expected = NadConfig {
        mtu: Some(Mtu::DEFAULT),
        vlan: VlanId::try_from(100).ok(),
        ipam: Some(NadIpam { pools }),
        ..NadConfig::default()
    };
    assert_eq!(ours(text), Ok(expected));
}

#[test]
fn zero_means_nothing_in_particular_for_mtu_and_vlan() {
    assert_eq!(ours(&with(r#""mtu":0,"vlan":0,"ipam":null"#)), Ok(NadConfig::default()));
}

#[test]
fn every_released_version_is_accepted() {
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        assert!(ours(&with(&format!(r#""cniVersion":"{version}""#))).is_ok(), "{version}");
    }
}

#[test]
fn routes_addresses_and_dns_are_read_in_both_places() {
    let lists = r#""routes":[{"dst":"10.20.0.5/16","gw":"10.10.0.9"},{"dst":"fd01::/64"}],
        "addresses":[{"address":"10.10.0.5/24","gateway":"10.10.0.1"}],
        "dns":{"nameservers":["10.10.0.53"],"domain":"x","search":["y"],"options":["z"]}"#;
    let top = ours(&with(lists)).expect("good");
    let inner = ours(&with(&format!(r#""ipam":{{"type":"antrea",{lists}}}"#))).expect("good");
    assert_eq!(top.routes[0].dst.to_string(), "10.20.0.0/16");
    assert_eq!(top.routes[1].gw, None);
    assert_eq!(top.addresses[0].address.to_string(), "10.10.0.5/24");
    assert_eq!(top.dns.nameservers, ["10.10.0.53"]);
    assert_eq!(inner, NadConfig { ipam: Some(NadIpam::default()), ..top });
}

#[test]
fn bad_configurations_are_refused_by_key_and_value() {
    let keys = "cniVersion, name, type, networkType, mtu, vlan, bridge, ipam, routes, addresses, dns";
    for (text, problem) in [
        ("{".to_owned(), "not valid JSON: EOF while parsing an object at line 1 column 1".to_owned()),
        ("[]".to_owned(), "[] is not an object".to_owned()),
        (
            r#"{"name":"x","plugins":[{"type":"antrea"}]}"#.to_owned(),
            "plugins: a list of plugins is not supported; write the antrea plugin's own keys".to_owned(),
        ),
        (r#"{"type":"antrea"}"#.to_owned(), "networkType: is missing; use \"vlan\"".to_owned()),
        (
            r#"{"type":"antrea","networkType":"sriov"}"#.to_owned(),
            "networkType: \"sriov\" is not supported in this version; use \"vlan\"".to_owned(),
        ),
        (
            r#"{"type":"antrea","networkType":"vxlan"}"#.to_owned(),
            "networkType: \"vxlan\" is unknown; use \"vlan\"".to_owned(),
        ),
        (with(r#""master":"eth0""#), format!("master: unknown key; known here: {keys}")),
        (
            with(r#""cniVersion":"0.5.0""#),
            "cniVersion: \"0.5.0\" is not a released CNI version; use one of 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"
                .to_owned(),
        ),
        (with(r#""mtu":67"#), "mtu: 67 is not an MTU; use 68 to 65535 bytes, or 0 for the default".to_owned()),
        (with(r#""mtu":-1"#), "mtu: -1 is not an MTU; use 68 to 65535 bytes, or 0 for the default".to_owned()),
        (with(r#""mtu":"1500""#), "mtu: \"1500\" is not an MTU; use 68 to 65535 bytes, or 0 for the default".to_owned()),
        (with(r#""vlan":4095"#), "vlan: 4095 is not a VLAN; use 1 to 4094, or 0 for untagged".to_owned()),
        (with(r#""vlan":"100""#), "vlan: \"100\" is not a VLAN; use 1 to 4094, or 0 for untagged".to_owned()),
        (with(r#""bridge":"a b""#), "bridge: \"a b\" contains ' '; use letters, digits, '-', '_' and '.'".to_owned()),
        (with(r#""ipam":[]"#), "ipam: [] is not an object".to_owned()),
        (
            with(r#""ipam":{}"#),
            "ipam.type: is missing; use \"antrea\", or leave ipam out for layer 2 only".to_owned(),
        ),
        (
            with(r#""ipam":{"type":"whereabouts"}"#),
            "ipam.type: \"whereabouts\" is not supported; use \"antrea\"".to_owned(),
        ),
        (
            with(r#""ipam":{"type":"antrea","range":"10.0.0.0/8"}"#),
            "ipam.range: unknown key; known here: type, ippools, routes, addresses, dns".to_owned(),
        ),
        (
            with(r#""ipam":{"type":"antrea"}"#),
            "ipam: has neither ippools nor addresses; name an IPPool in ipam.ippools, or leave ipam out for layer 2 only"
                .to_owned(),
        ),
        (
            with(r#""ipam":{"type":"antrea","ippools":["a","A"]}"#),
            "ipam.ippools[1]: \"A\" cannot be the name of an IPPool".to_owned(),
        ),
        (
            with(r#""ipam":{"type":"antrea","ippools":["a","a"]}"#),
            "ipam.ippools[1]: \"a\" is listed twice".to_owned(),
        ),
        (
            with(r#""routes":[],"ipam":{"type":"antrea","ippools":["a"],"routes":[]}"#),
            "routes: is given here and as ipam.routes; keep one".to_owned(),
        ),
        (with(r#""routes":[{"gw":"10.0.0.1"}]"#), "routes[0].dst: is missing".to_owned()),
        (
            with(r#""routes":[{"dst":"10.0.0.0"}]"#),
            "routes[0].dst: \"10.0.0.0\" is not an address with a prefix length, such as \"10.1.0.0/16\"".to_owned(),
        ),
        (
            with(r#""routes":[{"dst":"0.0.0.0/0"}]"#),
            "routes[0].dst: 0.0.0.0/0 would change the pod's default route, which cannot be honoured in this version"
                .to_owned(),
        ),
        (
            with(r#""routes":[{"dst":"10.0.0.0/8","gw":"fd00::1"}]"#),
            "routes[0].gw: fd00::1 is not of the family of dst 10.0.0.0/8".to_owned(),
        ),
        (
            with(r#""routes":[{"dst":"10.0.0.0/8","mtu":1}]"#),
            "routes[0].mtu: unknown key; known here: dst, gw".to_owned(),
        ),
        (
            with(r#""addresses":[{"address":"10.0.0.5/24","gateway":"10.0.1.1"}]"#),
            "addresses[0].gateway: 10.0.1.1 is not in the subnet of 10.0.0.5/24".to_owned(),
        ),
        (
            with(r#""mtu":1279,"addresses":[{"address":"fd00::5/64"}]"#),
            "mtu: 1279 cannot carry fd00::5/64; IPv6 needs at least 1280".to_owned(),
        ),
        (with(r#""dns":{"nameservers":["x"]}"#), "dns.nameservers[0]: \"x\" is not an IP address".to_owned()),
        (with(r#""dns":{"domain":5}"#), "dns.domain: 5 is not text".to_owned()),
    ] {
        assert_eq!(ours(&text), Err(format!("spec.config: {problem}")), "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,80}") {
        let _ = ours(&with(&text));
        let _ = ours(&text);
    }
}
