//! Timeouts, ends and bounds of the flow table.

use std::collections::HashMap;

use proptest::prelude::*;
use trunkline_ebpf::{Conversation, Direction, TABLE_ENTRY};

use super::*;

const SECOND: u64 = 1_000_000_000;
const TIMEOUTS: Timeouts = Timeouts { active: Duration::from_mins(1), idle: Duration::from_secs(15) };

fn key(slot: u16, direction: Direction, port: u16) -> FlowKey {
    let (src_port, dst_port) = if direction == Direction::Sent { (port, 80) } else { (80, port) };
    let (one, two) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let (src, dst) = if direction == Direction::Sent { (one, two) } else { (two, one) };
    FlowKey::new(
        Slot(slot),
        direction,
        [None, None],
        Conversation::Ip { src, dst, protocol: 6, src_port, dst_port },
    )
}

fn totals(packets: u64, first: u64, last: u64, flags: u16) -> FlowTotals {
    FlowTotals {
        totals: Totals { skbs: packets, skb_bytes: packets * 100, packets, bytes: packets * 100 },
        one_in: 1,
        first,
        last,
        rtt: None,
        tcp_flags: flags,
        tos: 0,
        fragmented: false,
        src_mac: [0; 6],
        dst_mac: [0; 6],
    }
}

fn table() -> FlowTable {
    FlowTable::new(1000, TIMEOUTS)
}

#[test]
fn a_flow_takes_no_more_than_the_budget_says() {
    let index = 9.0 * 16.0 / 7.0;
    let entry = size_of::<(u64, FlowKey, LiveFlow)>();
    assert!(f64::from(u32::try_from(entry).unwrap()) + index <= 264.0 && TABLE_ENTRY == 264, "{entry}");
}

#[test]
fn a_silent_flow_ends_and_is_forgotten() {
    let mut table = table();
    table.absorb(&[(key(0, Direction::Sent, 1), totals(3, SECOND, 2 * SECOND, 0))]);
    assert!(table.expire(16 * SECOND).is_empty());
    let records = table.expire(17 * SECOND);
    assert_eq!((records.len(), records[0].reason, records[0].totals.totals.packets), (1, EndReason::Idle, 3));
    assert!(table.is_empty());
}

#[test]
fn a_flow_that_goes_on_is_recorded_now_and_then_and_every_packet_once() {
    let mut table = table();
    let mut recorded = 0;
    for second in 1..=200 {
        let at = second * SECOND;
        table.absorb(&[(key(0, Direction::Sent, 1), totals(2, at, at, 0))]);
        for record in table.expire(at) {
            assert_eq!(record.reason, EndReason::Active);
            recorded += record.totals.totals.packets;
        }
    }
    assert_eq!(recorded, 3 * 61 * 2, "records cover 61 looks each");
    recorded += table.expire(300 * SECOND).iter().map(|record| record.totals.totals.packets).sum::<u64>();
    assert_eq!(recorded, 400);
}

#[test]
fn a_flow_recorded_a_moment_ago_and_silent_since_ends_without_an_empty_record() {
    let mut table = table();
    table.absorb(&[(key(0, Direction::Sent, 1), totals(1, 0, 59 * SECOND, 0))]);
    assert_eq!(table.expire(60 * SECOND).len(), 1);
    assert!(table.expire(100 * SECOND).is_empty());
    assert!(table.is_empty());
}

#[test]
fn tcp_ends_with_fin_both_ways_or_a_reset_either_way() {
    let (out, back) = (key(0, Direction::Sent, 1), key(0, Direction::Received, 1));
    for (flags_out, flags_back, ended) in
        [(0x11, 0x10, 0), (0x11, 0x11, 2), (0x14, 0x10, 2), (0x10, 0x04, 2), (0x10, 0x10, 0)]
    {
        let mut table = table();
        table.absorb(&[(out, totals(1, 0, 0, flags_out)), (back, totals(1, 0, 0, flags_back))]);
        assert!(table.expire(SECOND).is_empty(), "the last acknowledgement may be on its way");
        table.absorb(&[]);
        let records = table.expire(2 * SECOND);
        let ends = records.iter().filter(|record| record.reason == EndReason::EndOfFlow).count();
        assert_eq!(ends, ended.min(records.len()), "{flags_out:#x} {flags_back:#x}");
        assert_eq!(records.len(), ended, "{flags_out:#x} {flags_back:#x}");
    }
}

#[test]
fn an_ended_connection_is_shown_for_a_while_and_its_ports_begin_a_new_flow() {
    let (out, back) = (key(0, Direction::Sent, 1), key(0, Direction::Received, 1));
    let mut table = table();
    table.absorb(&[(out, totals(5, 0, 0, 0x11)), (back, totals(5, 0, 0, 0x11))]);
    table.absorb(&[]);
    assert_eq!(table.expire(SECOND).len(), 2);
    assert_eq!(table.len(), 2);
    table.absorb(&[(out, totals(1, 2 * SECOND, 2 * SECOND, 0x02))]);
    let (_, again) = table.iter().find(|(key, _)| **key == out).expect("the flow");
    assert_eq!((again.whole.packets, again.flags), (1, 0x02));
    assert_eq!(table.expire(18 * SECOND).len(), 1);
    assert!(table.is_empty());
}

#[test]
fn a_handshakes_time_is_told_to_both_directions() {
    let (out, back) = (key(0, Direction::Sent, 1), key(0, Direction::Received, 1));
    let mut table = table();
    let answer = FlowTotals { rtt: Some(1234), ..totals(1, 0, 0, 0x12) };
    table.absorb(&[(out, totals(1, 0, 0, 0x02)), (back, answer)]);
    assert!(table.iter().all(|(_, flow)| flow.rtt == Some(1234)));
}

#[test]
fn questions_are_told_to_both_directions_also_where_their_flows_are_yet_to_come() {
    let (out, back) = (key(0, Direction::Sent, 1), key(0, Direction::Received, 1));
    let answer = |code, millis| Some(DnsAnswer { code, latency: Duration::from_millis(millis) });
    let mut table = table();
    table.tell_of_question(&back, answer(0, 5));
    table.tell_of_question(&back, answer(3, 2));
    table.tell_of_question(&key(7, Direction::Sent, 9), None);
    assert!(table.is_empty());
    let both = [(out, totals(3, SECOND, SECOND, 0)), (back, totals(2, SECOND, SECOND, 0))];
    table.absorb(&both);
    table.tell_of_question(&out, None);
    let slowest = Some(Duration::from_millis(5));
    let expected = DnsSummary { answered: 2, unanswered: 1, failed: 1, slowest, last_code: None };
    assert!(table.iter().all(|(_, flow)| flow.dns.as_deref() == Some(&expected)));
    assert_eq!(table.len(), 2, "a question makes no flow");
    table.absorb(&[(key(7, Direction::Sent, 9), totals(1, SECOND, SECOND, 0))]);
    let later = table.iter().find(|(key, _)| key.slot() == Slot(7)).expect("the flow");
    assert_eq!(later.1.dns, None, "what an epoch did not hold is not kept for another");
}

#[test]
fn questions_without_flows_are_bounded() {
    let mut table = FlowTable::new(3, TIMEOUTS);
    (0..100).for_each(|port| table.tell_of_question(&key(0, Direction::Sent, port), None));
    assert_eq!(table.questions.len(), 3);
}

#[test]
fn a_flow_is_an_estimate_from_the_first_sampled_epoch_on_and_a_record_if_its_stretch_has_one() {
    let flow = key(0, Direction::Sent, 1);
    let mut table = table();
    let mut after = |second: u64, one_in| {
        let at = second * SECOND;
        table.absorb(&[(flow, FlowTotals { one_in, ..totals(1, at, at, 0) })]);
        let (_, live) = table.iter().next().expect("the flow");
        let live = live.one_in;
        (live, table.expire(at).first().map(|record| record.totals.one_in))
    };
    assert_eq!(after(1, 1), (1, None));
    assert_eq!(after(2, 10), (10, None));
    assert_eq!(after(70, 1), (10, Some(10)));
    assert_eq!(after(71, 1), (10, None));
    assert_eq!(after(140, 1), (10, Some(1)), "nothing of this stretch is an estimate");
}

#[test]
fn what_finds_no_room_leaves_at_once_and_is_not_lost() {
    let mut table = FlowTable::new(2, TIMEOUTS);
    let flows: Vec<_> = (0..5).map(|port| (key(0, Direction::Sent, port), totals(1, 0, 0, 0))).collect();
    let refused = table.absorb(&flows);
    assert_eq!((table.len(), refused.len()), (2, 3));
    assert!(refused.iter().all(|record| record.reason == EndReason::LackOfResources));
}

#[test]
fn a_gone_taps_flows_end_by_force_and_others_stay() {
    let mut table = table();
    table.absorb(&[
        (key(0, Direction::Sent, 1), totals(1, 0, 0, 0)),
        (key(1, Direction::Sent, 1), totals(1, 0, 0, 0)),
    ]);
    table.mark_gap(Slot(0));
    let records = table.end_tap(Slot(0));
    assert_eq!((records.len(), records[0].reason, records[0].gap), (1, EndReason::Forced, true));
    assert_eq!(table.len(), 1);
}

proptest! {
    /// Whatever comes and whenever it is looked at, every packet is in exactly one record.
    #[test]
    fn every_packet_is_in_exactly_one_record(
        epochs in prop::collection::vec(prop::collection::vec((0_u16..6, 0_u16..3, 1_u64..9, 0_u16..0x20), 0..8), 1..40),
        room in 1_usize..12,
    ) {
        let mut table = FlowTable::new(room, TIMEOUTS);
        let (mut sent, mut recorded) = (0, 0);
        for (number, epoch) in epochs.iter().enumerate() {
            let now = number as u64 * 5 * SECOND;
            let mut flows = HashMap::new();
            for (port, slot, packets, flags) in epoch {
                sent += packets;
                let value = totals(*packets, now, now, *flags);
                flows.entry(key(*slot, Direction::Sent, *port))
                    .and_modify(|held: &mut FlowTotals| held.merge(&value))
                    .or_insert(value);
            }
            let flows: Vec<_> = flows.into_iter().collect();
            let records = table.absorb(&flows).into_iter().chain(table.expire(now)).collect::<Vec<_>>();
            recorded += records.iter().map(|record| record.totals.totals.packets).sum::<u64>();
            prop_assert!(table.len() <= room);
        }
        recorded += table.end_all().iter().map(|record| record.totals.totals.packets).sum::<u64>();
        prop_assert_eq!(sent, recorded);
    }
}
