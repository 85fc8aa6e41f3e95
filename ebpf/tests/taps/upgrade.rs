//! A set of another version or capacity: its taps are taken over under traffic, what it held is read, once.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::thread;

use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::TcAttachType;
use aya::programs::links::{FdLink, LinkOrder};
use aya::programs::tc::TcAttachOptions;
use aya::{Ebpf, EbpfLoader};
use trunkline_ebpf::{
    Capacity, ClosedEpoch, Direction, Inherited, LinkState, Reader, Slot, Tap, TapError, TapSet,
    possible_processors,
};

use crate::bpffs::Bpffs;
use crate::kill::killed_at;
use crate::namespace::Namespace;
use crate::packet::PacketSocket;
use crate::rig::{capacity, frame, pair, program, tap, under_traffic};
use crate::way::{by_tcx, open, programs};

static OLDER: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/older.o"));

/// A pair `a`–`b` whose taps are an older set's.
struct Bench {
    bpffs: Bpffs,
    namespace: Namespace,
    socket: PacketSocket,
}

impl Bench {
    fn new() -> Self {
        let (namespace, socket) = pair();
        Self { bpffs: Bpffs::new(), namespace, socket }
    }

    fn tap(&self, link: &str) -> Tap {
        tap(link, link, self.namespace.index(link))
    }

    fn open(&self, flows: u32) -> TapSet {
        self.namespace.run(|| open(&self.bpffs.root(), capacity(flows)))
    }

    fn ensure(&self, set: &mut TapSet, tap: &Tap) -> Slot {
        self.namespace.run(move || set.ensure(tap)).expect("attached")
    }

    fn send(&self, flows: u16) {
        (0..flows).for_each(|flow| self.socket.send(&frame(flow)));
    }

    fn programs(&self, link: &str, hook: TcAttachType) -> usize {
        programs(&self.namespace, link, hook).len()
    }

    /// Folders of sets.
    fn sets(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.bpffs.root()).expect("our folder");
        entries.map(|entry| entry.expect("readable").path()).collect()
    }
}

fn skbs(closed: &ClosedEpoch, slot: Slot, direction: Direction) -> u64 {
    assert_eq!(closed.inexact(), vec![], "epoch {}", closed.epoch);
    let of_tap = closed.taps.iter().filter(|tap| tap.slot == slot && tap.direction == direction);
    of_tap.map(|tap| tap.epoch.seen.skbs).sum()
}

fn whole(inherited: Inherited) -> Vec<ClosedEpoch> {
    assert!(inherited.problems.is_empty() && inherited.lost == 0, "{inherited:?}");
    inherited.epochs
}

#[test]
fn a_larger_set_takes_over_what_a_smaller_one_held() {
    let bench = Bench::new();
    let (a, b) = (bench.tap("a"), bench.tap("b"));
    let mut smaller = bench.open(1024);
    // Slots are not the same in both sets.
    let passing = bench.ensure(&mut smaller, &Tap { name: "first".to_owned(), ..b.clone() });
    let _ = bench.ensure(&mut smaller, &a);
    bench.namespace.run(|| smaller.give_up(passing)).expect("off");
    bench.ensure(&mut smaller, &b);
    bench.send(4);
    smaller.reader().expect("the maps").flip().expect("closed");
    bench.send(3);
    drop(smaller);

    let mut larger = bench.open(2048);
    let attached: Vec<(Slot, String)> = larger.taps().map(|(slot, name)| (slot, name.to_owned())).collect();
    let slot = |name: &str| attached.iter().find(|(_, found)| found == name).expect("taken over").0;
    let leaving: Vec<&str> = larger.given_up().map(|(_, name)| name).collect();
    assert_eq!(leaving, ["first"], "what it counted last has an owner still");
    for tap in [&a, &b] {
        let found = bench.namespace.run(|| larger.state(slot(&tap.name), tap)).expect("readable");
        assert_eq!(found, LinkState::Attached { ifindex: tap.ifindex }, "{}", tap.name);
    }
    bench.send(2);
    let epochs = whole(larger.drain_older());
    let counted = |direction, name: &str| -> Vec<u64> {
        epochs.iter().map(|epoch| skbs(epoch, slot(name), direction)).collect()
    };
    assert_eq!(counted(Direction::Sent, "a"), [4, 3]);
    assert_eq!(counted(Direction::Received, "b"), [4, 3]);
    let flows: usize = epochs.iter().map(|epoch| epoch.flows.len()).sum();
    assert_eq!(flows, 14, "{epochs:?}");
    assert_eq!(bench.sets().len(), 1, "the old set is gone");
    let closed = larger.reader().expect("the maps").drain().expect("drained");
    assert_eq!(skbs(&closed, slot("a"), Direction::Sent), 2);
    assert_eq!(bench.programs("a", TcAttachType::Egress), 1);
    assert!(whole(larger.drain_older()).is_empty(), "only once");
}

#[test]
fn a_tap_in_another_namespace_is_taken_over_too() {
    // A filter is seen in its namespace only.
    if !by_tcx("a_tap_in_another_namespace_is_taken_over_too") {
        return;
    }
    let bench = Bench::new();
    let mut smaller = bench.open(1024);
    let wanted = bench.tap("a");
    let (slot, made) =
        smaller.ensure_inside(&wanted, |job| bench.namespace.run(job)).expect("programs of its own");
    made.expect("it was missing").expect("attached");
    bench.send(4);
    drop(smaller);
    let mut larger = bench.open(2048);
    bench.send(3);
    let epochs = whole(larger.drain_older());
    assert_eq!(epochs.iter().map(|epoch| skbs(epoch, slot, Direction::Sent)).sum::<u64>(), 4);
    let (again, made) = larger
        .ensure_inside(&wanted, |_| panic!("it is attached, with this version's programs"))
        .expect("adopted");
    assert!(made.is_none());
    let closed = larger.reader().expect("the maps").drain().expect("drained");
    assert_eq!(skbs(&closed, again, Direction::Sent), 3);
}

#[test]
fn an_interface_that_went_meanwhile_leaves_its_last_flows() {
    let bench = Bench::new();
    let mut smaller = bench.open(1024);
    bench.ensure(&mut smaller, &bench.tap("a"));
    bench.send(5);
    drop(smaller);
    bench.namespace.ip("link del dev a");
    let mut larger = bench.open(2048);
    assert_eq!(larger.taps().count(), 0);
    let slot = larger.given_up().next().expect("its slot waits for a drain").0;
    let epochs = whole(larger.drain_older());
    assert_eq!(epochs.iter().map(|epoch| skbs(epoch, slot, Direction::Sent)).sum::<u64>(), 5);
}

#[test]
fn a_tap_for_which_a_smaller_set_has_no_slot_is_taken_off_and_the_others_stay() {
    let bench = Bench::new();
    let mut larger = bench.open(1024);
    for link in ["a", "b"] {
        bench.ensure(&mut larger, &bench.tap(link));
    }
    bench.send(4);
    drop(larger);
    let one_tap = Capacity { taps: 1, ..capacity(1024) };
    let mut smaller = bench.namespace.run(|| open(&bench.bpffs.root(), one_tap));
    bench.send(3);
    let Inherited { epochs, lost, problems } = smaller.drain_older();
    let [problem] = problems.as_slice() else { panic!("{problems:?}") };
    assert!(matches!(problem, TapError::NoSlot { taps: 1 }), "{problem}");
    assert_eq!(lost, 0, "no epoch is, for those that have a slot");
    let (slot, name) = smaller.taps().map(|(slot, name)| (slot, name.to_owned())).next().expect("one stays");
    let (stays, direction, goes) = match name.as_str() {
        "a" => ("a", Direction::Sent, "b"),
        _ => ("b", Direction::Received, "a"),
    };
    assert_eq!(epochs.iter().map(|epoch| skbs(epoch, slot, direction)).sum::<u64>(), 4);
    let closed = smaller.reader().expect("the maps").drain().expect("drained");
    assert_eq!(skbs(&closed, slot, direction), 3);
    for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
        assert_eq!((bench.programs(stays, hook), bench.programs(goes, hook)), (1, 0), "{hook:?}");
    }
    assert_eq!(bench.sets().len(), 1, "the old set is gone");
}

#[test]
fn what_cannot_be_read_is_removed_and_said() {
    let bench = Bench::new();
    let mut smaller = bench.open(1024);
    bench.ensure(&mut smaller, &bench.tap("a"));
    drop(smaller);
    fs::remove_file(bench.sets()[0].join("maps/tl_taps")).expect("somebody removes a pin");
    let mut larger = bench.open(2048);
    let Inherited { epochs, lost, problems } = larger.drain_older();
    assert_eq!((epochs.len(), lost), (0, 1));
    let [problem] = problems.as_slice() else { panic!("{problems:?}") };
    assert!(problem.to_string().contains("tl_taps"), "{problem}");
    assert_eq!(bench.sets().len(), 1);
    let slot = bench.ensure(&mut larger, &bench.tap("a"));
    bench.send(2);
    let closed = larger.reader().expect("the maps").drain().expect("drained");
    assert_eq!(skbs(&closed, slot, Direction::Sent), 2, "no link of the old set is left beside");
}

/// A set as a version with another layout would have left it, with one tap.
struct OtherLayout {
    _ebpf: Ebpf,
    epoch: Array<MapData, [u32; 4]>,
}

impl OtherLayout {
    fn tap(bench: &Bench, wanted: &Tap) -> Self {
        const SLOT: u16 = 5;
        let folder = bench.bpffs.root().join("00112233aabbccdd");
        let (maps, pins) = (folder.join("maps"), folder.join("taps").join(format!("{SLOT}_{}", wanted.name)));
        for path in [&maps, &pins] {
            fs::create_dir_all(path).expect("a folder on our bpffs");
        }
        let mut loader = EbpfLoader::new();
        let front = 2 * 32 * possible_processors();
        let sizes = [("tl_flows_0", 512), ("tl_flows_1", 512), ("tl_front", front), ("tl_taps", 8)];
        for (name, entries) in sizes.into_iter().chain([("tl_counters", 32), ("tl_drained", 32)]) {
            loader.map_max_entries(name, entries);
        }
        let mut ebpf = loader
            .default_map_pin_directory(&maps)
            .override_global("own_slot", &0_u32, true)
            .override_global("own_flags", &0_u32, true)
            .override_global("front_mask", &31_u32, true)
            .load(OLDER)
            .expect("the older object loads");
        let pinned = |name: &str| MapData::from_pin(maps.join(name)).expect("pinned");
        // Flags first, and four bytes of them, which is what it means by another layout.
        let mut entry = [0_u8; 8];
        entry[4..6].copy_from_slice(&SLOT.to_ne_bytes());
        let mut taps: HashMap<_, u32, [u8; 8]> = Map::HashMap(pinned("tl_taps")).try_into().expect("a hash");
        taps.insert(wanted.ifindex, entry, 0).expect("written");
        entry[..4].copy_from_slice(&0x8000_u32.to_ne_bytes());
        let mut near: Array<_, [u8; 8]> = Map::Array(pinned("tl_near")).try_into().expect("an array");
        near.set(wanted.ifindex, entry, 0).expect("written");
        let epoch = Map::Array(pinned("tl_control")).try_into().expect("an array");
        let hooks = [("tap_ingress", TcAttachType::Ingress), ("tap_egress", TcAttachType::Egress)];
        for (name, hook) in hooks {
            let program = program(&mut ebpf, name);
            program.load().expect("the verifier takes it");
            let options = TcAttachOptions::TcxOrder(LinkOrder::first());
            let attach = || program.attach_with_options(&wanted.interface, hook, options);
            let id = bench.namespace.run(attach).expect("attached");
            let link: FdLink = program.take_link(id).expect("ours").try_into().expect("a TCX link");
            link.pin(pins.join(name.trim_start_matches("tap_"))).expect("pinned");
        }
        Self { _ebpf: ebpf, epoch }
    }

    fn flip(&mut self) {
        let [epoch, clearing, ..] = self.epoch.get(&0, 0).expect("the one entry");
        self.epoch.set(0, [epoch + 1, clearing, 0, 0], 0).expect("written");
    }
}

#[test]
fn a_set_of_another_layout_is_taken_over_under_traffic_and_every_frame_counted_once() {
    if !by_tcx("a_set_of_another_layout_is_taken_over_under_traffic_and_every_frame_counted_once") {
        return;
    }
    let bench = Bench::new();
    let wanted = bench.tap("a");
    let mut older = OtherLayout::tap(&bench, &wanted);
    let socket = bench.namespace.run(|| PacketSocket::sender("a", false));
    let of_many = |number| frame(u16::try_from(number % 700).expect("small"));
    let ((epochs, mut set), sent) = under_traffic(&socket, of_many, |sent| {
        let at_least = |frames: u64| {
            let from = sent.load(Ordering::Relaxed);
            while sent.load(Ordering::Relaxed) < from + frames {
                thread::yield_now();
            }
        };
        at_least(1000);
        older.flip();
        at_least(1000);
        drop(older);
        let mut set = bench.open(1024);
        at_least(100);
        let epochs = whole(set.drain_older());
        (epochs, set)
    });
    assert_eq!(epochs.len(), 2, "the one that was closed, and the one that ran");
    let slot = set.taps().next().expect("taken over").0;
    assert_ne!(slot, Slot(5), "by the slots of this set");
    let inherited: u64 = epochs.iter().map(|epoch| skbs(epoch, slot, Direction::Sent)).sum();
    let own = set.reader().expect("the maps").drain().expect("drained");
    let counted = inherited + skbs(&own, slot, Direction::Sent);
    assert_eq!(counted, sent, "every frame once");
    assert!(inherited >= 2000 && counted - inherited >= 100, "{inherited} of {counted}");
    let stats = bench.namespace.stats("a");
    assert_eq!(stats.tx_packets + stats.tx_dropped, counted);
    let flow = &epochs[0].flows[0].1;
    assert_eq!(
        (flow.src_mac[0], flow.totals.bytes / flow.totals.packets),
        (2, 42),
        "fields that follow the new one"
    );
    assert!(
        epochs.iter().all(|epoch| epoch.taps.iter().any(|tap| tap.epoch.lost.skbs > 0)),
        "512 is too few for 700"
    );
    assert_eq!(bench.ensure(&mut set, &wanted), slot);
    assert_eq!(bench.programs("a", TcAttachType::Egress), 1);
}

#[test]
fn killed_at_any_change_every_frame_is_counted_once_or_known_to_be_lost() {
    const BEFORE: u64 = 4 + 3;
    // Where waits are multiplied, a machine is emulated, and each round takes seconds.
    let stride = if std::env::var_os("TRUNKLINE_E2E_PATIENCE").is_some() { 7 } else { 1 };
    let (mut lost, mut rounds) = (0, 0);
    for nth in (0..).step_by(stride) {
        let bench = Bench::new();
        let wanted = bench.tap("a");
        let mut smaller = bench.open(1024);
        let _ = bench.ensure(&mut smaller, &wanted);
        bench.send(4);
        smaller.reader().expect("the maps").flip().expect("closed");
        bench.send(3);
        drop(smaller);
        let take_over = || {
            let mut set = open(&bench.bpffs.root(), capacity(2048));
            set.drain_older();
        };
        let killed = bench.namespace.run(|| killed_at(nth, take_over)).expect("it does not fail");
        bench.send(2);
        if !killed {
            println!("killed at {rounds} of {nth} changes, records lost by {lost} of them");
            assert!(nth > 25, "the kills were between the steps: {nth}");
            assert!((1..=rounds / 2).contains(&lost), "removing is the last step: {lost} of {rounds}");
            return;
        }
        rounds += 1;
        let mut set = bench.open(2048);
        let slot = bench.ensure(&mut set, &wanted);
        bench.send(1);
        assert_eq!(bench.programs("a", TcAttachType::Egress), 1, "killed at {nth}");
        assert_eq!(bench.programs("a", TcAttachType::Ingress), 1, "killed at {nth}");
        let mut reader: Reader = set.reader().expect("the maps");
        let inherited = set.drain_older();
        assert!(inherited.problems.is_empty(), "killed at {nth}: {inherited:?}");
        let mut counted: u64 = inherited.epochs.iter().map(|epoch| skbs(epoch, slot, Direction::Sent)).sum();
        counted += skbs(&reader.drain().expect("drained"), slot, Direction::Sent);
        let expected = if inherited.lost > 0 { 3 } else { BEFORE + 3 };
        lost += usize::from(inherited.lost > 0);
        assert_eq!(counted, expected, "killed at {nth}: {inherited:?}");
        assert_eq!(bench.sets().len(), 1, "killed at {nth}");
    }
}
