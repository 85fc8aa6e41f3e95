//! The table of attributes against the conventions and the documentation, requests, and the task against real sockets.

mod sockets;
mod tls;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_semantic_conventions::resource::{HOST_NAME, K8S_NODE_NAME, SERVICE_NAME, SERVICE_VERSION};
use opentelemetry_semantic_conventions::{SCHEMA_URL, attribute};
use serde_json::{Map, json};
use trunkline_ebpf::{Conversation, Direction, FlowKey, Slot, Tag};

use super::attributes::{self, ATTRIBUTES, CONVENTIONS, SCHEMA};
use super::message;
use crate::flows::export::samples::{answered, elsewhere, icmp, record, tcp, unanswered, uplink};
use crate::flows::record::{FlowRecord, Record};

const DOCUMENTATION: &str = include_str!("../../../../../../docs/flow-export.md");

/// As JSON, to be read at a glance.
fn shown(attributes: Vec<KeyValue>) -> serde_json::Value {
    let value = |value: Value| match value {
        Value::StringValue(text) => json!(text),
        Value::IntValue(number) => json!(number),
        Value::BoolValue(flag) => json!(flag),
        other => panic!("no attribute is {other:?}"),
    };
    let pair = |pair: KeyValue| (pair.key, value(pair.value.unwrap().value.unwrap()));
    attributes.into_iter().map(pair).collect::<Map<_, _>>().into()
}

fn of(record: impl Into<Record>) -> serde_json::Value {
    shown(attributes::of(&record.into()))
}

#[test]
fn a_tcp_record_says_everything() {
    let expected = json!({
        "trunkline.flow.schema": 1, "trunkline.flow.start_time_unix_nano": 1_790_000_000_250_000_000_i64,
        "trunkline.flow.end_reason": "active", "trunkline.flow.packets": 5000, "trunkline.flow.bytes": 6_400_000,
        "trunkline.flow.skbs": 120, "trunkline.flow.skb_bytes": 6_100_000, "trunkline.flow.one_in": 1,
        "network.io.direction": "transmit", "network.type": "ipv4", "network.transport": "tcp",
        "source.address": "192.0.2.1", "source.port": 40000,
        "destination.address": "192.0.2.2", "destination.port": 443,
        "trunkline.source.mac": "02:00:00:00:00:01", "trunkline.destination.mac": "02:00:00:00:00:02",
        "trunkline.ip.protocol": 6, "trunkline.ip.dscp": 46, "trunkline.ip.ecn": 0,
        "trunkline.tcp.flags": 27, "trunkline.tcp.handshake_rtt_nano": 81_250,
        "network.interface.name": "tl0a1b2c3d", "trunkline.interface.index": 17, "trunkline.interface.name": "eth1",
        "k8s.namespace.name": "shop", "k8s.pod.name": "cart-0", "k8s.pod.uid": "uid-1",
        "trunkline.peer.namespace.name": "shop", "trunkline.peer.pod.name": "db-0",
        "trunkline.peer.pod.uid": "uid-2", "trunkline.peer.interface.name": "eth2",
        "trunkline.network.name": "shop/vlan100", "trunkline.network.vlan": 100, "trunkline.bridge.name": "br-phys",
    });
    assert_eq!(of(tcp()), expected);
}

#[test]
fn a_question_to_a_name_server_has_a_flows_names_and_its_own() {
    let expected = json!({
        "trunkline.flow.schema": 1, "trunkline.dns.id": 4711, "trunkline.dns.asked": 2,
        "trunkline.dns.response_code": "NXDOMAIN", "trunkline.dns.latency_nano": 1_234_567,
        "network.io.direction": "transmit", "network.type": "ipv4", "network.transport": "udp",
        "source.address": "192.0.2.1", "source.port": 40000,
        "destination.address": "192.0.2.53", "destination.port": 53, "trunkline.ip.protocol": 17,
        "network.interface.name": "tl0a1b2c3d", "trunkline.interface.index": 17, "trunkline.interface.name": "eth1",
        "k8s.namespace.name": "shop", "k8s.pod.name": "cart-0", "k8s.pod.uid": "uid-1",
        "trunkline.peer.namespace.name": "shop", "trunkline.peer.pod.name": "db-0",
        "trunkline.peer.pod.uid": "uid-2", "trunkline.peer.interface.name": "eth2",
        "trunkline.network.name": "shop/vlan100", "trunkline.network.vlan": 100, "trunkline.bridge.name": "br-phys",
    });
    assert_eq!(of(answered()), expected);
    let silent = of(unanswered());
    assert_eq!(
        (&silent["trunkline.dns.unanswered"], &silent["trunkline.dns.asked"]),
        (&json!(true), &json!(3))
    );
    assert!(
        silent.get("trunkline.dns.response_code").is_none()
            && silent.get("trunkline.dns.latency_nano").is_none()
    );
}

#[test]
fn an_interface_elsewhere_has_its_namespaces_name() {
    assert_eq!(of(elsewhere())["trunkline.interface.netns"], json!("blue"));
}

#[test]
fn what_is_unknown_is_left_out() {
    let uplink = of(uplink());
    for absent in [
        "k8s.pod.name",
        "trunkline.interface.netns",
        "trunkline.peer.pod.name",
        "trunkline.network.name",
        "trunkline.network.vlan",
        "trunkline.wire.outer_vlan",
        "trunkline.tcp.flags",
        "trunkline.tcp.handshake_rtt_nano",
        "trunkline.flow.gap",
        "trunkline.flow.estimated",
    ] {
        assert!(uplink.get(absent).is_none(), "{absent}");
    }
    assert_eq!((&uplink["network.type"], &uplink["network.transport"]), (&json!("ipv6"), &json!("udp")));
}

#[test]
fn what_is_no_tcp_has_words_of_its_own() {
    let echo = of(icmp(false));
    assert_eq!(echo["trunkline.icmp.type"], 128);
    assert_eq!(echo["trunkline.ip.protocol"], 58);
    assert!(echo.get("source.port").is_none() && echo.get("network.transport").is_none());
    let [sender, target] = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
    let arp = of(record(Conversation::Arp { sender, target, operation: 2 }));
    assert_eq!(
        (&arp["trunkline.arp.operation"], &arp["trunkline.ethernet.type"]),
        (&json!(2), &json!(0x0806))
    );
    assert_eq!(
        (&arp["source.address"], &arp["destination.address"]),
        (&json!("192.0.2.1"), &json!("192.0.2.2"))
    );
    assert!(arp.get("network.type").is_none() && arp.get("trunkline.ip.dscp").is_none());
    let lldp = Conversation::Ethernet { src: [2; 6], dst: [3; 6], ethertype: 0x88cc };
    let mut other = record(lldp);
    let tags = [Some(Tag { vid: 7, service: true }), Some(Tag { vid: 9, service: false })];
    other.key = FlowKey::new(Slot(1), Direction::Received, tags, lldp).marked(false, true, true);
    (other.gap, other.fragmented, other.one_in) = (true, true, 10);
    let other = of(other);
    for (name, value) in [
        ("trunkline.ethernet.type", json!(0x88cc)),
        ("network.io.direction", json!("receive")),
        ("trunkline.wire.outer_vlan", json!(7)),
        ("trunkline.wire.outer_protocol", json!("802.1ad")),
        ("trunkline.wire.inner_vlan", json!(9)),
        ("trunkline.wire.inner_protocol", json!("802.1Q")),
        ("trunkline.flow.truncated", json!(true)),
        ("trunkline.flow.more_tags", json!(true)),
        ("trunkline.flow.fragmented", json!(true)),
        ("trunkline.flow.gap", json!(true)),
        ("trunkline.flow.estimated", json!(true)),
        ("trunkline.flow.one_in", json!(10)),
    ] {
        assert_eq!(other[name], value, "{name}");
    }
}

#[test]
fn names_are_the_conventions_or_ours() {
    let conventions = [
        attribute::NETWORK_IO_DIRECTION,
        attribute::NETWORK_TYPE,
        attribute::NETWORK_TRANSPORT,
        attribute::SOURCE_ADDRESS,
        attribute::SOURCE_PORT,
        attribute::DESTINATION_ADDRESS,
        attribute::DESTINATION_PORT,
        attribute::NETWORK_INTERFACE_NAME,
        attribute::K8S_NAMESPACE_NAME,
        attribute::K8S_POD_NAME,
        attribute::K8S_POD_UID,
    ];
    let names: BTreeSet<&str> = ATTRIBUTES.iter().map(|attribute| attribute.name).collect();
    assert_eq!(names.len(), ATTRIBUTES.len(), "a name stands twice");
    let foreign: BTreeSet<&str> =
        names.iter().copied().filter(|name| !name.starts_with("trunkline.")).collect();
    assert_eq!(foreign, BTreeSet::from(conventions));
    assert_eq!(CONVENTIONS, SCHEMA_URL, "look at what changed in the conventions before this version");
    let resource = message::resource("node-1", Some("host-1"));
    let names: Vec<&str> = resource.attributes.iter().map(|pair| pair.key.as_str()).collect();
    assert_eq!(names, [SERVICE_NAME, SERVICE_VERSION, K8S_NODE_NAME, HOST_NAME]);
}

#[test]
fn the_documentation_shows_this_table() {
    let title = format!("### Attributes, version {SCHEMA}\n");
    let (_, section) = DOCUMENTATION.split_once(&title).expect("the table's section");
    let table = section.split("\n#").next().unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let documented: Vec<(&str, &str)> = rows
        .map(|row| {
            let mut cells = row.split(" | ");
            let name = cells.next().unwrap().trim_start_matches("| `").trim_end_matches('`');
            (name, cells.next().unwrap())
        })
        .collect();
    let ours: Vec<_> = ATTRIBUTES.iter().map(|attribute| (attribute.name, attribute.kind())).collect();
    assert_eq!(documented, ours);
    assert!(DOCUMENTATION.contains(CONVENTIONS), "the conventions' version");
}

#[test]
fn a_request_says_who_sends_and_when_each_stretch_ended() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let resource = message::resource("node-1", None);
    let request =
        message::request(&resource, &[tcp().into(), icmp(true).into(), answered().into()].map(Arc::new), now);
    let [of_node] = &request.resource_logs[..] else { panic!("one resource") };
    assert_eq!(
        shown(of_node.resource.clone().unwrap().attributes),
        json!({
            "service.name": "trunkline-agent", "service.version": env!("CARGO_PKG_VERSION"), "k8s.node.name": "node-1",
        })
    );
    let logs = &of_node.scope_logs[0].log_records;
    assert_eq!(logs.len(), 3);
    assert_eq!(logs[0].time_unix_nano, 1_790_000_005_500_000_000);
    assert_eq!(logs[0].observed_time_unix_nano, 1_800_000_000_000_000_000);
    assert_eq!((logs[0].event_name.as_str(), logs[0].severity_text.as_str()), ("trunkline.flow", "INFO"));
    assert_eq!(
        (logs[2].event_name.as_str(), logs[2].time_unix_nano),
        ("trunkline.dns", 1_790_000_000_250_000_000)
    );
}

#[test]
fn a_sentence_names_both_sides() {
    let sentence = |conversation| message::sentence(&record(conversation).into());
    let end = ", 5000 packets, 6400000 bytes";
    let [src, dst] = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
    for (text, conversation) in [
        ("[::1]:1 > [::1]:2", uplink().key.conversation()),
        ("192.0.2.1:40000 > 192.0.2.2:443", tcp().key.conversation()),
        ("192.0.2.1 > 192.0.2.2 ICMP 8/0", icmp(true).key.conversation()),
        (
            "192.0.2.1 > 192.0.2.2 protocol 47",
            Conversation::Ip { src, dst, protocol: 47, src_port: 0, dst_port: 0 },
        ),
        ("ethertype 0x88cc", Conversation::Ethernet { src: [2; 6], dst: [3; 6], ethertype: 0x88cc }),
    ] {
        assert_eq!(sentence(conversation), format!("shop/cart-0 eth1 transmit {text}{end}"));
    }
    assert_eq!(message::sentence(&uplink().into()), format!("eth1 transmit [::1]:1 > [::1]:2{end}"));
    let estimate = message::sentence(&FlowRecord { one_in: 10, ..uplink() }.into());
    assert_eq!(estimate, "eth1 transmit [::1]:1 > [::1]:2, about 5000 packets, about 6400000 bytes");
    let asked = "shop/cart-0 eth1 transmit 192.0.2.1:40000 > 192.0.2.53:53, DNS 4711";
    assert_eq!(message::sentence(&answered().into()), format!("{asked}: NXDOMAIN after 1234 µs"));
    assert_eq!(message::sentence(&unanswered().into()), format!("{asked}: no answer"));
}

/// The collector's own limit for a message is 4 MiB.
#[test]
fn the_largest_batch_fits_into_a_collectors_message() {
    use prost::Message as _;
    let mut largest = tcp();
    let long = |length| "x".repeat(length);
    let endpoint = crate::flows::record::Endpoint {
        namespace: long(63),
        name: long(253),
        uid: long(36),
        interface: long(15),
    };
    let tap = Arc::make_mut(&mut largest.tap);
    tap.network = Some(long(63 + 1 + 253));
    (tap.device, tap.interface, tap.bridge) = (long(15), long(15), Some(long(15)));
    tap.pod = Some(endpoint.clone());
    largest.peer = Some(Arc::new(endpoint));
    let [src, dst] = [std::net::Ipv6Addr::from([0xff; 16]).into(); 2];
    let conversation = Conversation::Ip { src, dst, protocol: 6, src_port: u16::MAX, dst_port: u16::MAX };
    let tags = [Some(Tag { vid: 4095, service: true }); 2];
    largest.key = FlowKey::new(Slot(1), Direction::Sent, tags, conversation).marked(true, true, true);
    largest.gap = true;
    let batch: Vec<_> =
        std::iter::repeat_n(Arc::new(largest.into()), crate::flows::export::queue::BATCH).collect();
    let request =
        message::request(&message::resource(&long(253), Some(&long(64))), &batch, SystemTime::now());
    let length = request.encoded_len();
    assert!(length < 4 << 20, "{length} bytes");
}
