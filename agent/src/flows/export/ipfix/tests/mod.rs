//! The encoder against a decoder of its own, the task against real sockets.

mod decoder;
mod properties;
mod sockets;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant, SystemTime};

use decoder::{Decoder, number, text};
use trunkline_ebpf::{Conversation, Direction, FlowKey, Slot, Tag};

use super::message::{Encoder, Identity, Message};
use crate::flows::export::samples::{answered, elsewhere, icmp, record, tcp, unanswered, uplink};
use crate::flows::record::{DnsRecord, FlowRecord, Record};

const ENTERPRISE: u32 = 32_473;

fn encoder(max_bytes: usize) -> Encoder {
    let identity = Identity { domain: 7, enterprise: ENTERPRISE, node: "node-1".to_owned() };
    Encoder::new(identity, max_bytes, Some(Duration::from_secs(60)))
}

fn encode<R: Clone + Into<Record>>(encoder: &mut Encoder, now: Instant, records: &[R]) -> Vec<Message> {
    let records: Vec<Record> = records.iter().cloned().map(Into::into).collect();
    encoder.encode(now, SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000), &records)
}

/// One record through both.
fn through<R: Clone + Into<Record>>(record: &R) -> decoder::Decoded {
    let mut decoder = Decoder::default();
    for message in encode(&mut encoder(1400), Instant::now(), std::slice::from_ref(record)) {
        decoder.read(&message.bytes);
    }
    assert_eq!(decoder.domain, Some(7));
    assert_eq!(decoder.flows.len(), 1);
    decoder.flows.remove(0)
}

#[test]
fn a_tcp_record_says_everything_once() {
    let got = through(&tcp());
    let numbers = [
        (1, 6_400_000),
        (2, 5000),
        (4, 6),
        (5, 0xb8),
        (6, 0x1b),
        (7, 40_000),
        (8, 0xc000_0201),
        (11, 443),
        (12, 0xc000_0202),
        (14, 17),
        (59, 100),
        (61, 1),
        (136, 2),
        (152, 1_790_000_000_250),
        (153, 1_790_000_005_500),
    ];
    for (element, value) in numbers {
        assert_eq!(number(&got, (0, element)), Some(value), "{element}");
    }
    // Totals, the other direction's fields, tags that no wire carried.
    for absent in [10, 34, 58, 85, 86, 243, 245, 27, 32, 139, 256] {
        assert_eq!(number(&got, (0, absent)), None, "{absent}");
    }
    let ours = [(1001, 6_100_000), (1002, 120), (1003, 0), (1004, 81_250), (1018, 1)];
    for (element, value) in ours {
        assert_eq!(number(&got, (ENTERPRISE, element)), Some(value), "{element}");
    }
    assert_eq!(got[&(0, 6)].len(), 2, "RFC 7125");
    assert_eq!(got[&(0, 56)], [2, 0, 0, 0, 0, 1]);
    assert_eq!(text(&got, (0, 82)), Some("tl0a1b2c3d"));
    let names =
        ["eth1", "shop", "cart-0", "uid-1", "shop", "db-0", "eth2", "shop/vlan100", "br-phys", "node-1"];
    for (element, name) in (1005..).zip(names) {
        assert_eq!(text(&got, (ENTERPRISE, element)), Some(name), "{element}");
    }
}

#[test]
fn an_interface_elsewhere_has_its_namespaces_name() {
    assert_eq!(text(&through(&elsewhere()), (ENTERPRISE, 1023)), Some("blue"));
    assert_eq!(text(&through(&uplink()), (ENTERPRISE, 1023)), Some(""), "the node's own");
}

#[test]
fn direction_decides_interface_and_vlan_fields() {
    let mut received = tcp();
    let Conversation::Ip { .. } = received.key.conversation() else { panic!("not IP") };
    received.key = received.key.reversed().unwrap();
    let got = through(&received);
    assert_eq!((number(&got, (0, 10)), number(&got, (0, 14))), (Some(17), None));
    assert_eq!((number(&got, (0, 58)), number(&got, (0, 59))), (Some(100), None));
    assert_eq!(number(&got, (0, 61)), Some(0));
}

#[test]
fn wire_tags_are_apart_from_the_networks_vlan() {
    let tag = |vid, service| Some(Tag { vid, service });
    for (tags, outer, inner, flags) in [
        ([None, None], None, None, 0),
        ([tag(0, false), None], Some(0), None, 0),
        ([tag(200, true), tag(30, false)], Some(200), Some(30), 0x20),
        ([tag(200, true), tag(30, true)], Some(200), Some(30), 0x60),
    ] {
        let mut sample = uplink();
        sample.key = FlowKey::new(Slot(1), Direction::Received, tags, sample.key.conversation());
        let got = through(&sample);
        assert_eq!((number(&got, (0, 243)), number(&got, (0, 245))), (outer, inner));
        assert_eq!((number(&got, (0, 58)), number(&got, (0, 59))), (None, None), "an uplink has no network");
        assert_eq!(number(&got, (ENTERPRISE, 1003)), Some(flags));
    }
}

#[test]
fn icmp_arp_and_other_ethertypes_have_their_own_fields() {
    let got = through(&icmp(true));
    assert_eq!((number(&got, (0, 32)), number(&got, (0, 4))), (Some(0x0800), Some(1)));
    assert_eq!(number(&got, (0, 7)), None);
    let got = through(&icmp(false));
    assert_eq!((number(&got, (0, 139)), number(&got, (0, 4))), (Some(0x8000), Some(58)));
    assert_eq!(got[&(0, 27)].len(), 16);
    let [sender, target] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
    let got = through(&record(Conversation::Arp { sender, target, operation: 2 }));
    assert_eq!((number(&got, (0, 256)), number(&got, (ENTERPRISE, 1017))), (Some(0x0806), Some(2)));
    assert_eq!(number(&got, (ENTERPRISE, 1015)), Some(0xc000_0201));
    let got = through(&record(Conversation::Ethernet { src: [2; 6], dst: [3; 6], ethertype: 0x88cc }));
    assert_eq!((number(&got, (0, 256)), number(&got, (0, 8))), (Some(0x88cc), None));
}

#[test]
fn an_estimate_says_by_what_it_was_scaled() {
    let got = through(&FlowRecord { one_in: 10, ..tcp() });
    assert_eq!((number(&got, (ENTERPRISE, 1018)), number(&got, (0, 34))), (Some(10), None));
}

#[test]
fn a_question_to_a_name_server_has_a_template_of_its_own_and_no_counters() {
    let got = through(&answered());
    let numbers = [
        (4, 17),
        (7, 40_000),
        (8, 0xc000_0201),
        (11, 53),
        (12, 0xc000_0235),
        (14, 17),
        (59, 100),
        (61, 1),
        (152, 1_790_000_000_248),
        (153, 1_790_000_000_250),
    ];
    for (element, value) in numbers {
        assert_eq!(number(&got, (0, element)), Some(value), "{element}");
    }
    for absent in [1, 2, 5, 6, 136] {
        assert_eq!(number(&got, (0, absent)), None, "{absent}");
    }
    let ours = [1019, 1020, 1021, 1022].map(|element| number(&got, (ENTERPRISE, element)));
    assert_eq!(ours, [4711, 3, 2, 1_234_567].map(Some));
    assert_eq!([1001, 1002, 1004, 1018].map(|element| number(&got, (ENTERPRISE, element))), [None; 4]);
    assert_eq!(text(&got, (ENTERPRISE, 1010)), Some("db-0"));
    let silent = through(&unanswered());
    let ours = [1019, 1020, 1021, 1022].map(|element| number(&silent, (ENTERPRISE, element)));
    assert_eq!(ours, [Some(4711), Some(255), Some(3), None]);
    assert_eq!([152, 153].map(|time| number(&silent, (0, time))), [Some(1_790_000_000_250); 2]);
    let v6 = Conversation::Ip {
        src: std::net::Ipv6Addr::LOCALHOST.into(),
        dst: std::net::Ipv6Addr::LOCALHOST.into(),
        protocol: 6,
        src_port: 1,
        dst_port: 53,
    };
    let got = through(&DnsRecord { key: record(v6).key, ..answered() });
    assert_eq!((got[&(0, 28)].len(), number(&got, (0, 4))), (16, Some(6)));
}

#[test]
fn records_of_all_kinds_go_into_one_message() {
    let records: [Record; 4] = [tcp().into(), answered().into(), unanswered().into(), icmp(true).into()];
    let messages = encode(&mut encoder(9000), Instant::now(), &records);
    let mut decoder = Decoder::default();
    for message in &messages {
        decoder.read(&message.bytes);
    }
    assert_eq!((decoder.flows.len(), decoder.definitions), (4, 5));
    assert_eq!(messages.iter().map(|message| message.records).collect::<Vec<_>>(), [0, 4]);
}

#[test]
fn our_elements_are_typed_before_anything_else() {
    let mut decoder = Decoder::default();
    for message in encode(&mut encoder(1400), Instant::now(), &[tcp()]) {
        decoder.read(&message.bytes);
    }
    let typed: Vec<_> = decoder.types.iter().map(|record| number(record, (0, 303)).unwrap()).collect();
    assert_eq!(typed, (1001..=1023).collect::<Vec<u64>>());
    assert!(decoder.types.iter().all(|record| number(record, (0, 346)) == Some(u64::from(ENTERPRISE))));
    let rtt = &decoder.types[3];
    assert_eq!(text(rtt, (0, 341)), Some("tcpHandshakeRoundTripTime"));
    // unsigned64, quantity, nanoseconds
    let type_of = [339, 344, 345].map(|element| number(rtt, (0, element)).unwrap());
    assert_eq!(type_of, [4, 1, 8]);
}

#[test]
fn messages_are_full_but_never_longer_than_the_limit() {
    let records: Vec<FlowRecord> = std::iter::repeat_with(tcp).take(1000).collect();
    let messages = encode(&mut encoder(1400), Instant::now(), &records);
    assert!(messages.iter().all(|message| message.bytes.len() <= 1400));
    assert_eq!(messages.iter().map(|message| message.records).sum::<usize>(), 1000);
    let per_message = 1000 / messages.len();
    assert!(per_message >= 4, "{per_message} records a message");
    let mut decoder = Decoder::default();
    for message in &messages {
        decoder.read(&message.bytes);
    }
    assert_eq!(decoder.flows.len(), 1000);
}

#[test]
fn templates_come_again_once_a_period_and_only_those_in_use() {
    let (mut encoder, start) = (encoder(1400), Instant::now());
    let mut decoder = Decoder::default();
    let mut definitions = |seconds: u64, records: &[FlowRecord]| {
        let before = decoder.definitions;
        for message in encode(&mut encoder, start + Duration::from_secs(seconds), records) {
            decoder.read(&message.bytes);
        }
        decoder.definitions - before
    };
    assert_eq!(definitions(0, &[]), 0, "nothing to send");
    assert_eq!(definitions(1, &[tcp(), tcp(), icmp(true)]), 3, "types, TCP, ICMP");
    assert_eq!(definitions(59, &[tcp()]), 0);
    assert_eq!(definitions(60, &[tcp()]), 2, "types, TCP");
    assert_eq!(definitions(61, &[icmp(true)]), 1);
    assert_eq!(definitions(119, &[tcp(), icmp(true)]), 0);
    assert_eq!(definitions(120, &[tcp(), icmp(true)]), 3);
}

#[test]
fn a_session_that_loses_nothing_gets_templates_once() {
    let identity = Identity { domain: 7, enterprise: ENTERPRISE, node: String::new() };
    let (mut encoder, start) = (Encoder::new(identity, 1400, None), Instant::now());
    let mut sizes = Vec::new();
    for seconds in [0, 3600] {
        sizes.push(encode(&mut encoder, start + Duration::from_secs(seconds), &[tcp()]).len());
    }
    let mut decoder = Decoder::default();
    encoder.restart();
    for message in encode(&mut encoder, start, &[tcp()]) {
        decoder.read(&message.bytes);
    }
    assert_eq!(decoder.definitions, 2, "a new session begins at sequence 0 with templates");
    assert_eq!(sizes[1], 1);
}

#[test]
fn long_texts_are_cut_between_characters_and_the_record_still_fits() {
    let mut sample = tcp();
    let tap = std::sync::Arc::make_mut(&mut sample.tap);
    let pod = tap.pod.as_mut().unwrap();
    // Three bytes a character: neither 320 nor 128, 48, 20 is a multiple.
    pod.name = "€".repeat(1000);
    tap.network = Some("é".repeat(40_000));
    let got = through(&sample);
    assert_eq!(text(&got, (ENTERPRISE, 1007)), Some("€".repeat(106).as_str()), "320 bytes");
    assert_eq!(text(&got, (ENTERPRISE, 1012)), Some("é".repeat(160).as_str()));
    let mut decoder = Decoder::default();
    for message in encode(&mut encoder(512), Instant::now(), &[sample]) {
        assert!(message.bytes.len() <= 512);
        decoder.read(&message.bytes);
    }
    assert_eq!(text(&decoder.flows[0], (ENTERPRISE, 1007)), Some("€".repeat(42).as_str()), "128 bytes");
    assert_eq!(text(&decoder.flows[0], (ENTERPRISE, 1014)), Some("node-1"));
}

#[test]
fn every_element_of_ours_is_documented() {
    let text = include_str!("../../../../../../docs/flow-export.md");
    for element in crate::flows::export::ipfix::fields::enterprise_elements() {
        assert!(text.contains(element.name), "{}", element.name);
        assert!(text.contains(&element.id.to_string()), "{}", element.id);
    }
}
