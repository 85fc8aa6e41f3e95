//! What is sent can be read again, and no bytes break the reader.

use proptest::prelude::*;

use super::super::matching::Oxm;
use super::*;

fn vlans() -> impl Strategy<Value = VlanMatch> {
    prop_oneof![
        Just(VlanMatch::Any),
        Just(VlanMatch::Untagged),
        Just(VlanMatch::Tagged),
        (0..4096_u16).prop_map(VlanMatch::Id),
        (0..0x1000_u16, 1..0x1000_u16).prop_map(|(value, mask)| VlanMatch::Masked { value, mask }),
    ]
}

fn matches() -> impl Strategy<Value = Match> {
    let other = (10..40_u8, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..12))
        .prop_map(|(field, masked, payload)| Oxm { class: 0x8000, field, masked, payload });
    (any::<Option<u32>>(), vlans(), any::<Option<u16>>(), proptest::collection::vec(other, 0..3))
        .prop_map(|(in_port, vlan, eth_type, other)| Match { in_port, vlan, eth_type, other })
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        Just(Action::Normal),
        (1..0xffff_ff00_u32).prop_map(Action::Output),
        (11..40_u16, proptest::collection::vec(any::<u8>(), 4..5))
            .prop_map(|(kind, body)| Action::Other { kind, body }),
    ];
    proptest::collection::vec(action, 0..4)
}

/// `ofp_flow_stats` as a switch writes it.
fn encode(stats: &FlowStats) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u16(0);
    out.put_u8(stats.table);
    out.put_u8(0);
    out.put_u32(u32::try_from(stats.age.as_secs()).expect("small"));
    out.put_u32(stats.age.subsec_nanos());
    out.put_u16(stats.priority);
    out.put_bytes(0, 10);
    out.put_u64(stats.cookie);
    out.put_u64(stats.packets);
    out.put_u64(stats.bytes);
    stats.matching.write(&mut out);
    if !stats.actions.is_empty() {
        write_apply(&stats.actions, &mut out);
    }
    let length = u16::try_from(out.len()).expect("small");
    out[..2].copy_from_slice(&length.to_be_bytes());
    out
}

prop_compose! {
    fn stats()(
        (table, priority, cookie) in any::<(u8, u16, u64)>(),
        matching in matches(),
        actions in actions(),
        (packets, bytes, seconds, nanos) in (any::<u64>(), any::<u64>(), any::<u32>(), 0..1_000_000_000_u32),
    ) -> FlowStats {
        let age = Duration::new(seconds.into(), nanos);
        FlowStats { table, priority, cookie, matching, actions, plain: true, packets, bytes, age }
    }
}

proptest! {
    #[test]
    fn statistics_are_read_as_they_were_written(stats in stats()) {
        let bytes = encode(&stats);
        let mut cursor = Cursor::new("statistics", &bytes);
        prop_assert_eq!(read_stats(&mut cursor), Ok(stats));
        prop_assert!(cursor.is_empty());
    }

    #[test]
    fn truncated_statistics_are_refused(stats in stats(), cut in 1..200_usize) {
        let bytes = encode(&stats);
        let bytes = &bytes[..bytes.len().saturating_sub(cut)];
        prop_assert!(read_stats(&mut Cursor::new("statistics", bytes)).is_err());
    }

    #[test]
    fn damaged_statistics_never_break_the_reader(stats in stats(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = encode(&stats);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        drop(read_stats(&mut Cursor::new("statistics", &bytes)));
    }

    #[test]
    fn arbitrary_bytes_never_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut cursor = Cursor::new("statistics", &bytes);
        while !cursor.is_empty() && read_stats(&mut cursor).is_ok() {}
    }

    #[test]
    fn a_flow_mod_is_a_multiple_of_eight_bytes_and_carries_its_match(matching in matches(), priority in any::<u16>()) {
        let change = FlowMod { matching: matching.clone(), priority, ..AllowFlow::Untagged { in_port: 1 }.add(7) };
        let mut out = BytesMut::new();
        change.write(&mut out);
        prop_assert_eq!(out.len() % 8, 0);
        let mut cursor = Cursor::new("a flow-mod", &out[40..]);
        prop_assert_eq!(Match::read(&mut cursor), Ok(matching));
    }
}

#[test]
fn the_flow_that_lets_a_pod_port_in_is_this_on_the_wire() {
    let mut out = BytesMut::new();
    AllowFlow::Untagged { in_port: 5 }.add(0x7472_0000_0000_0001).write(&mut out);
    let expected: [&[u8]; 4] = [
        &[0x74, 0x72, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], // cookie, mask
        &[0, 0, 0, 0, 0, 0, 0, 100, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0],
        &[0, 1, 0, 18, 0x80, 0, 0, 4, 0, 0, 0, 5, 0x80, 0, 12, 2, 0, 0, 0, 0, 0, 0, 0, 0], // in_port=5, no tag
        &[0, 4, 0, 24, 0, 0, 0, 0, 0, 0, 0, 16, 255, 255, 255, 250, 0, 0, 0, 0, 0, 0, 0, 0], // NORMAL
    ];
    assert_eq!(&out[..], expected.concat());
}

#[test]
fn only_exactly_our_flows_count_as_allowing() {
    let flow = |in_port| AllowFlow::Untagged { in_port };
    let stats = FlowStats {
        table: 0,
        priority: AllowFlow::PRIORITY,
        cookie: 1,
        matching: flow(3).matching(),
        actions: vec![Action::Normal],
        plain: true,
        packets: 0,
        bytes: 0,
        age: Duration::ZERO,
    };
    assert_eq!(stats.allow(), Some(flow(3)));
    let everything = FlowStats { matching: AllowFlow::Everything { in_port: 3 }.matching(), ..stats.clone() };
    assert_eq!(everything.allow(), Some(AllowFlow::Everything { in_port: 3 }));
    let tagged = Match { vlan: VlanMatch::Tagged, ..stats.matching.clone() };
    for other in [
        FlowStats { table: 1, ..stats.clone() },
        FlowStats { priority: 1, ..stats.clone() },
        FlowStats { plain: false, ..stats.clone() },
        FlowStats { actions: Vec::new(), ..stats.clone() },
        FlowStats { actions: vec![Action::Normal, Action::Output(1)], ..stats.clone() },
        FlowStats { matching: tagged, ..stats.clone() },
        FlowStats { matching: Match::default(), ..stats.clone() },
    ] {
        assert_eq!(other.allow(), None, "{other:?}");
    }
}
