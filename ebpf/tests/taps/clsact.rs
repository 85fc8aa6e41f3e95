//! What clsact has of its own: filters without pins, beside whatever others have on the interface.
//!
//! All by clsact, whatever the kernel has. That taps count, are adopted, shared and given up by clsact as by TCX is
//! shown by the other tests in a run by clsact.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::thread;

use aya::programs::TcAttachType;
use trunkline_ebpf::{Direction, LinkState, Slot, Tap, TapSet, Way, remove_all};

use crate::namespace::Namespace;
use crate::packet::PacketSocket;
use crate::rig::{Bench, capacity, frame, program, set_next, tap, under_traffic, wrapper};
use crate::way::{filters, hang_filter, qdisc, tc};

const INGRESS: TcAttachType = TcAttachType::Ingress;
const EGRESS: TcAttachType = TcAttachType::Egress;

impl Bench {
    fn remove_all(&self) -> bool {
        self.namespace.run(|| remove_all(&self.rig.bpffs.root())).expect("removed")
    }

    /// Priorities of the filters of a side.
    fn priorities(&self, link: &str, hook: TcAttachType) -> Vec<u64> {
        let shown = filters(&self.namespace, link, hook);
        shown.iter().map(|filter| filter["pref"].as_u64().expect("a priority")).collect()
    }

    /// Whether the tap of `a` counts a frame, once.
    fn counts(&self, slot: Slot) -> bool {
        let before = self.skbs(slot, Direction::Sent);
        self.send(1);
        let counted = self.skbs(slot, Direction::Sent) - before;
        assert!(counted <= 1, "counted {counted} times");
        counted == 1
    }
}

fn attached(tap: &Tap) -> LinkState {
    LinkState::Attached { ifindex: tap.ifindex }
}

/// A program of another's hangs there, in the order that it asks for.
fn hang(bench: &Bench, link: &str, hook: TcAttachType, priority: u16) {
    let mut ebpf = wrapper(0x8100, 100);
    bench.namespace.run(|| hang_filter(program(&mut ebpf, "nothing"), link, hook, priority));
}

#[test]
fn what_filters_count_is_what_the_device_counts() {
    let mut bench = Bench::new(Way::Clsact);
    let wanted = [bench.tap("a"), bench.tap("b")];
    let [a, b] = wanted.each_ref().map(|tap| bench.ensure(tap));
    bench.send(500);
    bench.rig.await_skbs(b, Direction::Received, 500);
    let (sent, received) = (bench.namespace.stats("a"), bench.namespace.stats("b"));
    assert_eq!((bench.skbs(a, Direction::Sent), bench.skbs(b, Direction::Received)), (500, 500));
    assert_eq!((sent.tx_packets, received.rx_packets), (500, 500));
    let closed = bench.rig.drain();
    let bytes: u64 = closed.flows.iter().map(|(_, flow)| flow.totals.skb_bytes).sum();
    assert_eq!(bytes, sent.tx_bytes + received.rx_bytes);
}

#[test]
fn filters_are_named_have_places_of_their_own_and_stay_in_software() {
    let mut bench = Bench::new(Way::Clsact);
    let slot = bench.ensure(&Tap { guarded: true, ..bench.tap("b") });
    let a = bench.ensure(&bench.tap("a"));
    assert_eq!((bench.priorities("a", INGRESS), bench.priorities("a", EGRESS)), (vec![3], vec![65_523]));
    assert_eq!(bench.priorities("b", INGRESS), [65_523], "a guarded tap ends the chain, so it comes last");
    let set = bench.rig.maps().parent().and_then(|set| set.file_name()).expect("a set").to_owned();
    for (link, slot, hook, pin) in [("a", a, INGRESS, "ingress"), ("b", slot, EGRESS, "egress")] {
        let shown = filters(&bench.namespace, link, hook).remove(0);
        let options = &shown["options"];
        let name = format!("trunkline/{}/{}_{link}/{pin}", set.to_string_lossy(), slot.0);
        assert_eq!(options["bpf_name"], name.as_str(), "{shown}");
        assert_eq!((&options["direct-action"], &options["skip_hw"]), (&true.into(), &true.into()), "{shown}");
    }
}

#[test]
fn programs_are_exchanged_under_traffic_and_every_frame_is_counted_once() {
    let mut bench = Bench::new(Way::Clsact);
    let wanted = bench.tap("a");
    let slot = bench.ensure(&wanted);
    let record = bench.folder(slot, "a").join("egress");
    let socket = bench.namespace.run(|| PacketSocket::sender("a", false));
    let one = |_| frame(1);
    let (bench, sent) = under_traffic(&socket, one, |_| {
        bench.rig.await_skbs(slot, Direction::Sent, 1);
        for round in 1..=100 {
            let before = filters(&bench.namespace, "a", EGRESS);
            // What is not recorded is not known to run this copy's program.
            fs::remove_file(&record).expect("a record");
            let other_copy = round % 20 == 0;
            bench = if other_copy { bench.killed() } else { bench };
            assert_eq!(bench.ensure(&wanted), slot);
            let after = filters(&bench.namespace, "a", EGRESS);
            assert_eq!((before.len(), after.len()), (1, 1), "round {round}: {after:?}");
            let program = |shown: &[serde_json::Value]| shown[0]["options"]["prog"]["id"].as_u64();
            assert_eq!(program(&before) != program(&after), other_copy, "round {round}");
        }
        bench
    });
    assert_eq!(bench.skbs(slot, Direction::Sent), sent);
    let stats = bench.namespace.stats("a");
    assert_eq!(stats.tx_packets + stats.tx_dropped, sent);
}

#[test]
fn a_filter_of_ours_with_another_program_is_told_and_gets_ours() {
    let mut bench = Bench::new(Way::Clsact);
    let wanted = bench.tap("a");
    let slot = bench.ensure(&wanted);
    // Guarded or not is another program: as another version's is, by its tag.
    let guarded = Tap { guarded: true, ..wanted.clone() };
    let other = LinkState::OtherProgram { ifindex: wanted.ifindex };
    assert_eq!(bench.state(slot, &guarded), other);
    assert_eq!(bench.ensure(&guarded), slot);
    assert_eq!((bench.state(slot, &guarded), bench.state(slot, &wanted)), (attached(&wanted), other));
    assert_eq!(bench.priorities("a", INGRESS), [65_523], "its old place is free");
    assert_eq!(bench.ensure(&wanted), slot);
    assert_eq!(bench.priorities("a", INGRESS), [3]);
}

#[test]
fn whoever_dies_between_the_steps_leaves_what_the_next_one_mends() {
    let mut bench = Bench::new(Way::Clsact);
    let wanted = bench.tap("a");
    let slot = bench.ensure(&wanted);
    let folder = bench.folder(slot, "a");
    let all = ["egress", "ingress", "qdisc"];
    let records = |folder: &PathBuf| {
        let entries = fs::read_dir(folder).expect("a folder").flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().expect("text")).collect();
        names.sort();
        names
    };
    assert_eq!(records(&folder), all);

    // After the record, before the filter; and the same on the way out.
    tc(&bench.namespace, "filter del dev a egress pref 65523");
    let mut bench = bench.killed();
    assert_eq!(bench.state(slot, &wanted), LinkState::Gone);
    assert_eq!(bench.ensure(&wanted), slot);
    assert!(bench.state(slot, &wanted) == attached(&wanted) && bench.counts(slot));

    // A filter that no record speaks of, as a bpffs that was lost leaves it.
    fs::remove_file(folder.join("egress")).expect("a record");
    let mut bench = bench.killed();
    assert_eq!(bench.state(slot, &wanted), LinkState::Gone);
    assert_eq!(bench.ensure(&wanted), slot);
    assert!(bench.priorities("a", EGRESS).len() == 1 && bench.counts(slot));

    // The first record of a tap that was never attached, on an interface that is gone by now.
    let lost = bench.rig.maps().with_file_name("taps").join("5_lost");
    fs::create_dir(&lost).expect("a folder");
    symlink("4000", lost.join("ingress")).expect("a record");
    let mut bench = bench.killed();
    assert_eq!(bench.rig.set.taps().collect::<Vec<_>>(), [(slot, "a"), (Slot(5), "lost")]);
    bench.give_up(Slot(5));
    assert_eq!(records(&lost), Vec::<String>::new());

    // Half given up.
    tc(&bench.namespace, "filter del dev a ingress pref 3");
    fs::remove_file(folder.join("ingress")).expect("a record");
    let mut bench = bench.killed();
    bench.give_up(slot);
    assert_eq!(records(&folder), Vec::<String>::new());
    assert_eq!(qdisc(&bench.namespace, "a"), None, "what we made is gone");
    let bench = bench.killed();
    assert_eq!(bench.rig.set.taps().count(), 0);
    assert_eq!(bench.rig.set.given_up().collect::<Vec<_>>(), [(slot, "a"), (Slot(5), "lost")]);
}

#[test]
fn clsact_goes_only_where_we_made_it_and_nobody_else_uses_it() {
    let mut bench = Bench::new(Way::Clsact);
    let (a, b) = (bench.tap("a"), bench.tap("b"));
    // Ours, and only ours.
    let slot = bench.ensure(&a);
    assert_eq!(qdisc(&bench.namespace, "a").as_deref(), Some("clsact"));
    bench.give_up(slot);
    assert_eq!(qdisc(&bench.namespace, "a"), None);

    // Ours, with another's filter in it.
    let slot = bench.ensure(&Tap { name: "a2".to_owned(), ..a.clone() });
    hang(&bench, "a", INGRESS, 1);
    bench.give_up(slot);
    assert_eq!((bench.priorities("a", INGRESS), bench.priorities("a", EGRESS)), (vec![1], vec![]));

    // Another's, empty.
    tc(&bench.namespace, "qdisc add dev b clsact");
    let slot = bench.ensure(&b);
    bench.give_up(slot);
    assert_eq!(qdisc(&bench.namespace, "b").as_deref(), Some("clsact"));

    // Ours, which another took off and made anew.
    tc(&bench.namespace, "qdisc del dev a clsact");
    let a = Tap { name: "a3".to_owned(), ..a };
    let slot = bench.ensure(&a);
    tc(&bench.namespace, "qdisc del dev a clsact");
    tc(&bench.namespace, "qdisc add dev a clsact");
    assert_eq!(bench.state(slot, &a), LinkState::Gone);
    bench.ensure(&a);
    assert!(bench.counts(slot));
    bench.give_up(slot);
    assert_eq!(qdisc(&bench.namespace, "a").as_deref(), Some("clsact"), "by then it was another's");
}

#[test]
fn clsact_that_somebody_takes_off_comes_back_with_its_filters() {
    let mut bench = Bench::new(Way::Clsact);
    let wanted = bench.tap("a");
    let slot = bench.ensure(&wanted);
    tc(&bench.namespace, "qdisc del dev a clsact");
    assert_eq!(bench.state(slot, &wanted), LinkState::Gone);
    assert!(!bench.counts(slot));
    assert_eq!(bench.ensure(&wanted), slot);
    assert!(bench.state(slot, &wanted) == attached(&wanted) && bench.counts(slot));
}

#[test]
fn an_interface_that_got_the_number_of_another_is_not_taken_for_it() {
    let mut bench = Bench::new(Way::Clsact);
    let wanted = bench.tap("a");
    let slot = bench.ensure(&wanted);
    bench.namespace.ip("link del dev a");
    let number = wanted.ifindex;
    bench.namespace.ip(&format!("link add name c index {number} type veth peer name d"));
    tc(&bench.namespace, "qdisc add dev c clsact");
    hang(&bench, "c", EGRESS, 65_523);
    assert_eq!(bench.state(slot, &wanted), LinkState::Gone);
    bench.give_up(slot);
    assert_eq!(bench.priorities("c", EGRESS), [65_523], "another's filter, at our priority, stays");
    assert_eq!(qdisc(&bench.namespace, "c").as_deref(), Some("clsact"));
}

#[test]
fn an_interface_made_anew_is_tapped_at_its_new_number() {
    let mut bench = Bench::new(Way::Clsact);
    let slot = bench.ensure(&bench.tap("a"));
    bench.namespace.ip("link del dev a");
    bench.namespace.pair("a", &bench.namespace, "b");
    bench.socket = bench.namespace.run(|| PacketSocket::sender("a", false));
    let wanted = bench.tap("a");
    assert_eq!(bench.state(slot, &wanted), LinkState::Gone);
    assert_eq!(bench.ensure(&wanted), slot);
    assert!(bench.state(slot, &wanted) == attached(&wanted) && bench.counts(slot));
}

#[test]
fn a_policing_qdisc_of_open_vswitch_is_named_and_left_alone() {
    let mut bench = Bench::new(Way::Clsact);
    let wanted = bench.tap("a");
    tc(&bench.namespace, "qdisc add dev a ingress");
    let refused = bench.try_ensure(&wanted).expect_err("there is no room");
    assert!(refused.contains("the interface a has an ingress qdisc"), "{refused}");
    assert!(refused.contains("ingress_policing_rate"), "{refused}");
    assert_eq!(qdisc(&bench.namespace, "a").as_deref(), Some("ingress"));
    tc(&bench.namespace, "qdisc del dev a ingress");
    let slot = bench.ensure(&wanted);
    assert!(bench.counts(slot));
}

#[test]
fn anothers_filter_in_our_place_is_named_and_left_alone() {
    let mut bench = Bench::new(Way::Clsact);
    let wanted = bench.tap("a");
    // Another kind, or another protocol, has the whole priority.
    for filter in ["protocol all pref 3 u32 match u32 0 0", "protocol ip pref 3 u32 match u32 0 0"] {
        tc(&bench.namespace, "qdisc replace dev a clsact");
        tc(&bench.namespace, &format!("filter add dev a ingress {filter}"));
        let refused = bench.try_ensure(&wanted).expect_err("taken");
        assert!(refused.contains("the interface a has another's filter at priority 3"), "{refused}");
        let left = filters(&bench.namespace, "a", INGRESS);
        assert!(!left.is_empty() && left.iter().all(|left| left["kind"] == "u32"), "{left:?}");
        tc(&bench.namespace, "qdisc del dev a clsact");
    }
    // A program beside ours has not.
    hang(&bench, "a", INGRESS, 3);
    hang(&bench, "a", EGRESS, 65_523);
    let slot = bench.ensure(&wanted);
    assert!(bench.counts(slot));
    bench.give_up(slot);
    assert_eq!((bench.priorities("a", INGRESS), bench.priorities("a", EGRESS)), (vec![3], vec![65_523]));
}

#[test]
fn programs_at_the_places_of_others_keep_running_before_and_behind_a_guard() {
    let mut bench = Bench::new(Way::Clsact);
    let guarded = Tap { guarded: true, ..bench.tap("b") };
    let slot = bench.ensure(&guarded);
    // The one before puts a tag on: who comes behind sees it.
    let mut before = wrapper(0x8100, 100);
    let nothing = program(&mut before, "nothing").fd().expect("loaded").try_clone().expect("a descriptor");
    set_next(&mut before, &nothing);
    bench.namespace.run(|| hang_filter(program(&mut before, "push_tag"), "b", INGRESS, 49_152));
    assert_eq!(bench.priorities("b", INGRESS), [49_152, 65_523]);
    bench.send(2);
    bench.rig.await_skbs(slot, Direction::Received, 2);
    let closed = bench.rig.drain();
    let [(key, _)] = closed.flows.as_slice() else { panic!("{closed:?}") };
    assert_eq!(key.outer().map(|tag| tag.vid), Some(100), "{closed:?}");
}

#[test]
fn everything_comes_off_and_what_is_anothers_stays() {
    let mut bench = Bench::new(Way::Clsact);
    let taps = [bench.tap("a"), bench.tap("b")];
    for tap in &taps {
        bench.ensure(tap);
    }
    hang(&bench, "b", INGRESS, 1);
    assert!(bench.remove_all());
    assert!(!bench.rig.bpffs.root().exists());
    assert_eq!(qdisc(&bench.namespace, "a"), None);
    assert_eq!((bench.priorities("b", INGRESS), bench.priorities("b", EGRESS)), (vec![1], vec![]));
    assert!(!bench.remove_all(), "a second time finds nothing");
}

#[test]
fn filters_whose_set_was_lost_come_off_all_the_same() {
    let mut bench = Bench::new(Way::Clsact);
    bench.ensure(&bench.tap("a"));
    hang(&bench, "a", EGRESS, 1);
    fs::remove_dir_all(bench.rig.bpffs.root()).expect("somebody removes every pin");
    assert_eq!(bench.priorities("a", EGRESS), [1, 65_523], "the kernel keeps them");
    assert!(bench.remove_all());
    assert_eq!((bench.priorities("a", INGRESS), bench.priorities("a", EGRESS)), (vec![], vec![1]));
    assert!(!bench.remove_all(), "a second time finds nothing");
}

#[test]
fn a_filter_whose_set_was_lost_serves_the_next_one() {
    let mut bench = Bench::new(Way::Clsact);
    let wanted = bench.tap("a");
    bench.ensure(&bench.tap("b"));
    bench.ensure(&wanted);
    fs::remove_dir_all(bench.rig.bpffs.root()).expect("somebody removes every pin");
    let mut bench = bench.killed();
    let slot = bench.ensure(&wanted);
    assert_eq!(slot, Slot(0), "another slot than before, with maps of its own");
    assert_eq!(bench.priorities("a", EGRESS).len(), 1, "no filter is left beside the new one");
    assert!(bench.state(slot, &wanted) == attached(&wanted) && bench.counts(slot));
}

#[test]
fn a_larger_set_takes_filters_and_clsact_over_under_traffic() {
    let mut bench = Bench::new(Way::Clsact);
    let wanted = bench.tap("a");
    let slot = bench.ensure(&wanted);
    let socket = bench.namespace.run(|| PacketSocket::sender("a", false));
    let one = |_| frame(1);
    let (mut larger, sent) = under_traffic(&socket, one, |_| {
        bench.rig.await_skbs(slot, Direction::Sent, 100);
        let open = || TapSet::open_with(&bench.rig.bpffs.root(), capacity(2048), Way::Clsact);
        let larger = bench.namespace.run(open).expect("the programs load");
        let reader = larger.reader().expect("the maps");
        while reader.totals(Slot(0), Direction::Sent).expect("the counters").seen.skbs < 100 {
            thread::yield_now();
        }
        larger
    });
    let (slot, _) = larger.taps().next().expect("taken over");
    let state = bench.namespace.run(|| larger.state(slot, &wanted)).expect("readable");
    assert_eq!(state, attached(&wanted));
    let inherited = larger.drain_older();
    assert!(inherited.lost == 0 && inherited.problems.is_empty(), "{inherited:?}");
    let own = larger.reader().expect("the maps").drain().expect("drained");
    let skbs = |taps: &[trunkline_ebpf::TapTotals]| taps.iter().map(|tap| tap.epoch.seen.skbs).sum::<u64>();
    let before: u64 = inherited.epochs.iter().map(|epoch| skbs(&epoch.taps)).sum();
    let after = skbs(&own.taps);
    assert!(before >= 100 && after >= 100 && before + after == sent, "{before} and {after} of {sent}");
    bench.namespace.run(|| larger.give_up(slot)).expect("off");
    assert_eq!(qdisc(&bench.namespace, "a"), None, "that we made it is known to the larger set");
}

#[test]
fn a_tap_inside_a_namespace_is_seen_and_taken_off_there() {
    let mut bench = Bench::new(Way::Clsact);
    let pod = Namespace::new();
    bench.namespace.pair("host", &pod, "eth1");
    let wanted = tap("pod@eth1", "eth1", pod.index("eth1"));
    let inside = |bench: &mut Bench| {
        let (slot, done) = bench.rig.set.ensure_inside(&wanted, |job| pod.run(job)).expect("a slot");
        done.expect("entered").expect("attached");
        slot
    };
    let slot = inside(&mut bench);
    let shown = || filters(&pod, "eth1", EGRESS);
    let first = shown();
    assert_eq!(inside(&mut bench), slot);
    assert_eq!((first.len(), shown()), (1, first.clone()), "the second time changes nothing");
    let state = |bench: &Bench| pod.run(|| bench.rig.set.state(slot, &wanted)).expect("readable");
    assert_eq!(state(&bench), attached(&wanted));
    pod.run(|| PacketSocket::sender("eth1", false)).send(&frame(1));
    assert_eq!(bench.skbs(slot, Direction::Sent), 1);
    tc(&pod, "filter del dev eth1 egress pref 65523");
    assert_eq!(state(&bench), LinkState::Gone);
    assert_eq!(inside(&mut bench), slot);
    assert_eq!(state(&bench), attached(&wanted));
    let set = &mut bench.rig.set;
    pod.run(move || set.give_up(slot)).expect("off");
    assert!(shown().is_empty() && qdisc(&pod, "eth1").is_none());
}
