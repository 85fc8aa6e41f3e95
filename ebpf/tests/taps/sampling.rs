//! Sampled taps: their own counters stay exact, their flows are estimates and say so.

use std::collections::HashMap;

use aya::programs::{TestRun as _, TestRunOptions};
use trunkline_ebpf::{ClosedEpoch, Conversation, Direction, FlowTotals, Slot, TapTotals};

use crate::frames::{Ipv4, ethernet, ethertype, protocol, tcp, udp};
use crate::packet::VnetHeader;
use crate::rig::{Rig, Wire, capacity, tap};
use crate::way::open;

const FRAMES: u32 = 40_000;
const ONE_IN: u32 = 10;

fn frame() -> Vec<u8> {
    ethernet(ethertype::IPV4, &Ipv4::of(protocol::UDP).packet(&udp(1000, 2000, &[0; 100])))
}

/// A rig with one slot that test runs count at.
fn rig() -> (Rig, Slot) {
    let mut rig = Rig::new(1024);
    let slot = rig.set.register(&tap("run", "lo", 1)).expect("a slot");
    (rig, slot)
}

fn run_often(rig: &mut Rig) {
    let frame = frame();
    let (ingress, _) = rig.set.programs().taps().expect("loaded");
    let mut options = TestRunOptions::new();
    options.data_in = Some(&frame);
    options.repeat = FRAMES;
    ingress.test_run(options).expect("a test run");
}

fn one(closed: &ClosedEpoch) -> (TapTotals, FlowTotals) {
    let ([tap], [(_, flow)]) = (closed.taps.as_slice(), closed.flows.as_slice()) else {
        panic!("{closed:?}")
    };
    (*tap, *flow)
}

/// Says that an epoch's one flow is an estimate, and a good one: of 4,000 samples, one in a million is 8 % off.
fn assert_estimate(closed: &ClosedEpoch) {
    let (tap, flow) = one(closed);
    assert_eq!(tap.epoch.seen.skbs, u64::from(FRAMES), "the tap's own counter is exact");
    assert_eq!(tap.epoch.seen.bytes, u64::from(FRAMES) * frame().len() as u64);
    assert_eq!(flow.one_in, ONE_IN, "it says what it is");
    let off = flow.totals.skbs.abs_diff(u64::from(FRAMES));
    assert!(off < u64::from(FRAMES) / 12, "{} of {FRAMES}", flow.totals.skbs);
    assert_eq!(flow.totals.bytes, flow.totals.skbs * frame().len() as u64);
    assert_eq!(closed.inexact(), vec![]);
}

fn assert_exact(closed: &ClosedEpoch) {
    let (tap, flow) = one(closed);
    assert_eq!((flow.totals, flow.one_in), (tap.epoch.seen, 1));
    assert_eq!(tap.epoch.seen.skbs, u64::from(FRAMES));
}

#[test]
fn a_rate_holds_for_whole_epochs_and_flows_are_scaled_by_it() {
    let (mut rig, slot) = rig();
    rig.reader.sample(HashMap::from([(slot, ONE_IN)]));
    run_often(&mut rig);
    assert_exact(&rig.drain());
    for _ in 0..2 {
        run_often(&mut rig);
        assert_estimate(&rig.drain());
    }
    rig.reader.sample(HashMap::new());
    run_often(&mut rig);
    assert_estimate(&rig.drain());
    run_often(&mut rig);
    assert_exact(&rig.drain());
}

#[test]
fn a_killed_readers_epoch_is_scaled_by_the_rate_that_it_was_counted_with() {
    let (mut rig, slot) = rig();
    rig.reader.sample(HashMap::from([(slot, ONE_IN)]));
    rig.drain();
    run_often(&mut rig);
    rig.reader.sample(HashMap::new());
    rig.reader.flip().expect("flipped");
    rig.reader = rig.set.reader().expect("the maps");
    let left = rig.reader.drain_leftover().expect("read").expect("an epoch was closed and not read");
    assert_estimate(&left.merged());
    run_often(&mut rig);
    assert_exact(&rig.drain());
}

#[test]
fn a_set_of_another_capacity_hands_over_estimates_as_such() {
    let (mut rig, slot) = rig();
    rig.reader.sample(HashMap::from([(slot, ONE_IN)]));
    rig.drain();
    run_often(&mut rig);
    // A tap is taken over by its pins; this one has none, and its slot is as good.
    let mut larger = open(&rig.bpffs.root(), capacity(2048));
    let inherited = larger.drain_older();
    assert!(inherited.problems.is_empty() && inherited.lost == 0, "{inherited:?}");
    let [epoch] = inherited.epochs.as_slice() else { panic!("{inherited:?}") };
    assert_estimate(&epoch.clone().merged());
}

#[test]
fn the_next_tap_of_a_slot_is_not_sampled() {
    let (mut rig, slot) = rig();
    rig.reader.sample(HashMap::from([(slot, ONE_IN)]));
    rig.drain();
    rig.drain();
    rig.reader.zero(slot).expect("set back");
    run_often(&mut rig);
    assert_exact(&rig.drain());
}

#[test]
fn packets_that_stand_for_many_are_counted_whole_where_they_are_passed_over() {
    const PAYLOAD: usize = 10_000;
    let mut rig = Rig::new(1024);
    let mut wire = Wire::new(&mut rig);
    let segment = tcp(1000, 2000, 0x10, &[0; PAYLOAD]);
    let frame = ethernet(ethertype::IPV4, &Ipv4::of(protocol::TCP).packet(&segment));
    let offload =
        VnetHeader { flags: 1, gso_type: 1, hdr_len: 54, gso_size: 1000, csum_start: 34, csum_offset: 16 };
    let mut counted = |rig: &mut Rig| {
        for _ in 0..20 {
            wire.send(rig, Some(offload), &frame);
        }
        let closed = rig.drain();
        let at = |tap: &&TapTotals| tap.slot == wire.a && tap.direction == Direction::Sent;
        let seen = closed.taps.iter().find(at).expect("counted").epoch.seen;
        let tcp = |conversation| matches!(conversation, Conversation::Ip { protocol: protocol::TCP, .. });
        let flows = closed.flows.iter().filter(|(key, _)| key.slot() == wire.a && tcp(key.conversation()));
        (seen, flows.count())
    };
    let (exact, flows) = counted(&mut rig);
    assert_eq!((exact.packets, flows), (200, 1), "ten segments each");
    let slot = wire_slot(&rig);
    rig.reader.sample(HashMap::from([(slot, 65_536)]));
    rig.drain();
    let (sampled, _) = counted(&mut rig);
    assert_eq!(sampled, exact);
}

/// The slot of the sending end of a [`Wire`]: the first that was made.
fn wire_slot(rig: &Rig) -> Slot {
    rig.set.taps().find(|(_, name)| *name == "a").expect("made").0
}
