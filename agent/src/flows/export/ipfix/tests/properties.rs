//! Whatever records come, in whatever order and message length: they come out of the decoder as they went in.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use trunkline_ebpf::Totals;

use super::*;

fn conversation() -> impl Strategy<Value = Conversation> {
    let ip = |src: u128, dst: u128, v4: bool| -> (std::net::IpAddr, std::net::IpAddr) {
        let low = |address: u128| Ipv4Addr::from((address & 0xffff_ffff) as u32);
        if v4 {
            (low(src).into(), low(dst).into())
        } else {
            (Ipv6Addr::from(src).into(), Ipv6Addr::from(dst).into())
        }
    };
    prop_oneof![
        (any::<(u128, u128, bool)>(), any::<(u16, u16)>()).prop_map(
            move |((s, d, v4), (src_port, dst_port))| {
                let (src, dst) = ip(s, d, v4);
                Conversation::Ip { src, dst, protocol: 17, src_port, dst_port }
            }
        ),
        (any::<(u128, u128, bool)>(), any::<(u8, u8)>()).prop_map(move |((s, d, v4), (kind, code))| {
            let (src, dst) = ip(s, d, v4);
            Conversation::Icmp { src, dst, kind, code }
        }),
        any::<([u8; 6], [u8; 6], u16)>().prop_map(|(src, dst, ethertype)| Conversation::Ethernet {
            src,
            dst,
            ethertype
        }),
        any::<(u32, u32, u16)>().prop_map(|(sender, target, operation)| Conversation::Arp {
            sender: sender.into(),
            target: target.into(),
            operation
        }),
    ]
}

fn records() -> impl Strategy<Value = FlowRecord> {
    let tag =
        || proptest::option::of((0..4096u16, any::<bool>()).prop_map(|(vid, service)| Tag { vid, service }));
    let totals = any::<[u64; 4]>().prop_map(|[skbs, skb_bytes, packets, bytes]| Totals {
        skbs,
        skb_bytes,
        packets,
        bytes,
    });
    (conversation(), [tag(), tag()], any::<bool>(), totals, ".{0,400}", proptest::option::of(0..u64::MAX))
        .prop_map(|(conversation, tags, sent, totals, name, rtt)| {
            let direction = if sent { Direction::Sent } else { Direction::Received };
            let mut sample = record(conversation);
            sample.key = FlowKey::new(Slot(3), direction, tags, conversation);
            sample.totals = totals;
            sample.rtt = rtt.map(Duration::from_nanos);
            std::sync::Arc::make_mut(&mut sample.tap).network = Some(name);
            sample
        })
}

proptest! {
    #[test]
    fn every_record_comes_out_as_it_went_in(
        records in proptest::collection::vec(records(), 1..60), max in 512..3000usize,
    ) {
        let mut decoder = Decoder::default();
        let messages = encode(&mut encoder(max), Instant::now(), &records);
        for message in &messages {
            prop_assert!(message.bytes.len() <= max);
            decoder.read(&message.bytes);
        }
        prop_assert_eq!(decoder.flows.len(), records.len());
        for (got, record) in decoder.flows.iter().zip(&records) {
            let Totals { skbs, skb_bytes, packets, bytes } = record.totals;
            let numbers = [(0, 1, bytes), (0, 2, packets), (ENTERPRISE, 1001, skb_bytes), (ENTERPRISE, 1002, skbs)];
            for (enterprise, element, value) in numbers {
                prop_assert_eq!(number(got, (enterprise, element)), Some(value));
            }
            let rtt = record.rtt.map(|rtt| u64::try_from(rtt.as_nanos()).unwrap());
            prop_assert_eq!(number(got, (ENTERPRISE, 1004)), rtt);
            let outer = record.key.outer().map(|tag| u64::from(tag.vid));
            prop_assert_eq!(number(got, (0, 243)), outer);
            let name = text(got, (ENTERPRISE, 1012)).unwrap();
            prop_assert!(record.tap.network.as_deref().unwrap().starts_with(name));
            if let Conversation::Ip { src_port, dst_port, .. } = record.key.conversation() {
                prop_assert_eq!(number(got, (0, 7)), Some(src_port.into()));
                prop_assert_eq!(number(got, (0, 11)), Some(dst_port.into()));
            }
        }
    }
}
