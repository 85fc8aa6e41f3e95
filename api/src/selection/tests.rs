//! Tables of good and bad annotations.

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Vec<NetworkSelection>, String> {
    parse_networks(text, "default").map_err(|error| error.to_string())
}

fn plain(namespace: &str, name: &str, interface: Option<&str>) -> NetworkSelection {
    NetworkSelection {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        interface: interface.map(|name| name.parse().expect("good")),
        mac: None,
        ips: Vec::new(),
    }
}

#[test]
fn both_forms_are_read() {
    let a = || plain("default", "a", None);
    for (text, expected) in [
        ("", vec![]),
        (" \n", vec![]),
        ("[]", vec![]),
        ("a", vec![a()]),
        (" a , net/b.c@eth5 ", vec![a(), plain("net", "b.c", Some("eth5"))]),
        ("a,a", vec![a(), a()]),
        (r#"[{"name":"a"},{"name":"a","namespace":"default"}]"#, vec![a(), a()]),
        (r#"[{"name":"b","namespace":"net","interface":"eth5"}]"#, vec![plain("net", "b", Some("eth5"))]),
        (r#"[{"name":"a","namespace":"","interface":"","mac":"","ips":[]}]"#, vec![a()]),
        (r#"[{"name":"a","interface":null,"mac":null,"ips":null}]"#, vec![a()]),
        (r#"[{"name":"a","org.example.key":{"x":1}}]"#, vec![a()]),
        (
            r#"[{"name":"a","cni-args":{},"portMappings":[],"bandwidth":null,"infiniband-guid":""}]"#,
            vec![a()],
        ),
    ] {
        assert_eq!(parse(text), Ok(expected), "{text}");
    }
}

#[test]
fn a_full_element_is_read() {
    let text = r#"[{"name":"a","mac":"02:AA:00:00:00:01","ips":["10.0.0.5","10.0.0.6/24","fd00::5/64"]}]"#;
    let read = parse(text).expect("good").remove(0);
    assert_eq!(read.nad(), "default/a");
    assert_eq!(read.mac.expect("asked for").to_string(), "02:aa:00:00:00:01");
    let ips: Vec<String> = read.ips.iter().map(ToString::to_string).collect();
    assert_eq!(ips, ["10.0.0.5", "10.0.0.6/24", "fd00::5/64"]);
}

#[test]
fn the_source_documents_annotations_are_read() {
    let text = r#"[
     {"name": "vlan100"},
     {"name": "vlan200", "namespace": "networks", "interface": "eth200"}
   ]"#;
    let expected = vec![plain("default", "vlan100", None), plain("networks", "vlan200", Some("eth200"))];
    assert_eq!(parse(text), Ok(expected));
    assert_eq!(parse("networks/vlan200@eth200"), Ok(vec![plain("networks", "vlan200", Some("eth200"))]));
}

#[test]
fn malformed_texts_are_refused_as_a_whole() {
    for (text, problem) in [
        ("[{", "not valid JSON: EOF while parsing an object at line 1 column 2"),
        ("\"a\"", "\"a\" is not a list; write [{\"name\": …}]"),
        (r#"{"name":"a"}"#, "{\"name\":\"a\"} is not a list; write [{\"name\": …}]"),
    ] {
        assert_eq!(parse(text), Err(format!("annotation k8s.v1.cni.cncf.io/networks: {problem}")), "{text}");
    }
}

#[test]
fn bad_elements_are_refused_by_index_key_and_value() {
    let not_now = "cannot be honoured in this version; leave it out";
    for (text, index, problem) in [
        ("a,,b", 1, "is empty; write [<namespace>/]<name>[@<interface>]".to_owned()),
        ("a@eth0", 0, "interface: \"eth0\" is taken in every pod; use another name, or leave it out".to_owned()),
        ("a@lo", 0, "interface: \"lo\" is taken in every pod; use another name, or leave it out".to_owned()),
        ("a@", 0, "interface: is empty; use 1 to 15 bytes".to_owned()),
        ("a@x@y/z", 0, "interface: \"x@y/z\" contains '/'; use letters, digits, '-', '_' and '.'".to_owned()),
        (
            "A",
            0,
            "name: \"A\" cannot be the name of a NetworkAttachmentDefinition; use lower-case letters, digits, '-' and '.'"
                .to_owned(),
        ),
        ("x.y/a", 0, "namespace: \"x.y\" cannot be a namespace; use lower-case letters, digits and '-'".to_owned()),
        ("[5]", 0, "5 is not an object".to_owned()),
        ("[{}]", 0, "name: is missing; every element names a network".to_owned()),
        (r#"[{"name":5}]"#, 0, "name: 5 is not text".to_owned()),
        (
            r#"[{"name":"a","interface":"sixteen-bytes-xx"}]"#,
            0,
            "interface: \"sixteen-bytes-xx\" is 16 bytes long; use at most 15".to_owned(),
        ),
        (
            r#"[{"name":"a","mac":"2:0:0:0:0:1"}]"#,
            0,
            "mac: \"2:0:0:0:0:1\" is not a MAC address; use six hexadecimal bytes such as \"02:00:00:00:00:01\""
                .to_owned(),
        ),
        (
            r#"[{"name":"a","mac":"01:00:00:00:00:01"}]"#,
            0,
            "mac: \"01:00:00:00:00:01\" is a group address; use a unicast address such as \"02:00:00:00:00:01\""
                .to_owned(),
        ),
        (
            r#"[{"name":"a","mac":"00:00:00:00:00:00"}]"#,
            0,
            "mac: \"00:00:00:00:00:00\" is all zero; use a unicast address such as \"02:00:00:00:00:01\"".to_owned(),
        ),
        (r#"[{"name":"a","ips":"10.0.0.5"}]"#, 0, "ips: \"10.0.0.5\" is not a list".to_owned()),
        (
            r#"[{"name":"a","ips":["10.0.0.5/33"]}]"#,
            0,
            "ips[0]: \"10.0.0.5/33\" is not an IP address, with or without a prefix length".to_owned(),
        ),
        (r#"[{"name":"a","ips":["224.0.0.1"]}]"#, 0, "ips[0]: 224.0.0.1 cannot be an interface's address".to_owned()),
        (r#"[{"name":"a","ips":["fd00::1","fd00:0::1/64"]}]"#, 0, "ips[1]: fd00::1 is listed twice".to_owned()),
        (r#"[{"name":"a","default-route":["10.0.0.1"]}]"#, 0, format!("default-route: [\"10.0.0.1\"] {not_now}")),
        (r#"[{"name":"a","bandwidth":{"ingressRate":1}}]"#, 0, format!("bandwidth: {{\"ingressRate\":1}} {not_now}")),
        (r#"[{"name":"a","portMappings":[{"hostPort":1}]}]"#, 0, format!("portMappings: [{{\"hostPort\":1}}] {not_now}")),
        (r#"[{"name":"a","infiniband-guid":"c2"}]"#, 0, format!("infiniband-guid: \"c2\" {not_now}")),
        (r#"[{"name":"a","cni-args":{"a":1}}]"#, 0, format!("cni-args: {{\"a\":1}} {not_now}")),
        (r#"[{"name":"a","ipam-claim-reference":"c"}]"#, 0, format!("ipam-claim-reference: \"c\" {not_now}")),
        (
            r#"[{"name":"a"},{"name":"a","vlan":5}]"#,
            1,
            "vlan: unknown key; known here: name, namespace, interface, mac, ips".to_owned(),
        ),
        ("a@x,b@x", 1, "interface: \"x\" is already asked for by element 0".to_owned()),
        (
            r#"[{"name":"a","mac":"02:00:00:00:00:0a"},{"name":"b"},{"name":"c","mac":"02:00:00:00:00:0A"}]"#,
            2,
            "mac: \"02:00:00:00:00:0a\" is already asked for by element 0".to_owned(),
        ),
    ] {
        let expected = format!("annotation k8s.v1.cni.cncf.io/networks, element {index}: {problem}");
        assert_eq!(parse(text), Err(expected), "{text}");
    }
}

proptest! {
    #[test]
    fn the_two_forms_mean_the_same(
        elements in prop::collection::vec(("[a-z]([a-z0-9-]{0,8}[a-z0-9])?", "[a-z]([a-z0-9.-]{0,8}[a-z0-9])?"), 0..6),
    ) {
        let usable: Vec<_> = elements.into_iter().filter(|(_, name)| crate::k8s_name::is_subdomain(name)).collect();
        let numbered = || usable.iter().enumerate();
        let short: Vec<String> = numbered().map(|(i, (ns, name))| format!("{ns}/{name}@net{i}")).collect();
        let long: Vec<serde_json::Value> = numbered()
            .map(|(i, (ns, name))| serde_json::json!({"namespace": ns, "name": name, "interface": format!("net{i}")}))
            .collect();
        let long = serde_json::Value::Array(long).to_string();
        prop_assert_eq!(parse(&short.join(",")), parse(&long));
    }

    #[test]
    fn no_text_makes_it_panic(text in ".{0,80}") {
        let _ = parse(&text);
    }
}
