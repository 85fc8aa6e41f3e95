//! A reader that dies at any step of a drain: nothing is counted twice, and what is lost is known to be lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use aya::maps::{Array, HashMap, Map, MapData};
use trunkline_ebpf::{ClosedEpoch, Direction, Slot};

use crate::frames::{Ipv4, ethernet, ethertype, protocol, udp};
use crate::namespace::Namespace;
use crate::packet::PacketSocket;
use crate::rig::{Rig, Stop, capacity, tap};
use crate::way::open;

/// A rig whose tap counts on while nobody reads.
struct Bench {
    rig: Rig,
    slot: Slot,
    socket: PacketSocket,
    namespace: Namespace,
}

impl Bench {
    fn new() -> Self {
        let (mut rig, namespace) = (Rig::new(1024), Namespace::new());
        namespace.pair("a", &namespace, "b");
        let wanted = tap("a", "a", namespace.index("a"));
        let set = &mut rig.set;
        let slot = namespace.run(|| set.ensure(&wanted)).expect("attached");
        let socket = namespace.run(|| PacketSocket::sender("a", false));
        Self { rig, slot, socket, namespace }
    }

    /// So many flows, a frame each.
    fn send(&self, flows: u16) {
        for flow in 0..flows {
            let packet = Ipv4::of(protocol::UDP).packet(&udp(flow, 53, b""));
            self.socket.send(&ethernet(ethertype::IPV4, &packet));
        }
    }

    /// Waits for a frame of somebody else's: on a busy machine there may be none for a while.
    fn await_traffic(&self) {
        let sent = Direction::Sent;
        let now = self.rig.reader.totals(self.slot, sent).expect("the counters").seen.skbs;
        self.rig.await_skbs(self.slot, sent, now + 1);
    }

    /// The process dies, and the next one opens what is pinned.
    fn killed(self) -> Self {
        let Self { rig: Rig { set, reader, bpffs }, slot, socket, namespace } = self;
        drop((set, reader));
        // The tap counts on: its links are the kernel's.
        socket.send(&ethernet(0x88b5, &[]));
        assert!(namespace.stats("a").tx_packets > 0, "the link carries it");
        let set = open(&bpffs.root(), capacity(1024));
        let reader = set.reader().expect("the maps");
        Self { rig: Rig { set, reader, bpffs }, slot, socket, namespace }
    }

    fn map(&self, name: &str) -> MapData {
        MapData::from_pin(self.rig.maps().join(name)).expect("a pinned map")
    }

    /// What step 4 of a drain writes first.
    fn begin_clearing(&self, epoch: u32) {
        let mut control: Array<_, [u32; 4]> =
            Map::Array(self.map("tl_control")).try_into().expect("an array");
        let [running, clearing, ..] = control.get(&0, 0).expect("the one entry");
        assert_eq!(clearing, 0);
        control.set(0, [running, 1 + (epoch & 1), 0, 0], 0).expect("written");
    }

    /// Half of what it does next.
    fn clear_some(&self, epoch: u32, entries: usize) {
        let map = self.map(if epoch & 1 == 0 { "tl_flows_0" } else { "tl_flows_1" });
        let mut flows: HashMap<_, [u8; 48], [u8; 72]> = Map::HashMap(map).try_into().expect("a hash");
        let keys: Vec<_> = flows.keys().take(entries).collect::<Result<_, _>>().expect("keys");
        for key in &keys {
            flows.remove(key).expect("removed");
        }
    }

    /// An epoch of so many socket buffers, all of them in flows.
    fn check(&self, closed: &ClosedEpoch, skbs: u64) {
        assert_eq!(closed.inexact(), vec![]);
        let counted: u64 = closed.taps.iter().map(|tap| tap.epoch.seen.skbs).sum();
        let in_flows: u64 = closed.flows.iter().map(|(_, flow)| flow.totals.skbs).sum();
        assert_eq!((counted, in_flows), (skbs, skbs), "{closed:?}");
        assert!(closed.taps.iter().all(|tap| tap.slot == self.slot && tap.direction == Direction::Sent));
    }
}

#[test]
fn an_epoch_that_was_closed_and_not_read_is_read_by_the_next_process() {
    let mut bench = Bench::new();
    bench.send(3);
    bench.rig.drain();
    bench.send(10);
    bench.rig.reader.flip().expect("closed");
    bench.send(4);
    let mut bench = bench.killed();
    bench.send(2);
    let left = bench.rig.reader.drain_leftover().expect("read").expect("the closed epoch");
    bench.check(&left, 10);
    assert!(!bench.rig.reader.interrupted());
    let closed = bench.rig.reader.drain().expect("drained");
    bench.check(&closed, 4 + 1 + 2);
    assert!(bench.rig.reader.drain_leftover().expect("read").is_none(), "nothing is left of a whole drain");
    bench.send(5);
    let closed = bench.rig.reader.drain().expect("drained");
    bench.check(&closed, 5);
}

#[test]
fn kills_between_flip_and_drain_lose_nothing_of_running_traffic() {
    const ROUNDS: u64 = 6;
    let mut bench = Bench::new();
    let socket = bench.namespace.run(|| PacketSocket::sender("a", false));
    let (stop, mut counted) = (AtomicBool::new(false), 0);
    let mut add = |closed: &ClosedEpoch| {
        assert_eq!(closed.inexact(), vec![], "epoch {}", closed.epoch);
        counted += closed.taps.iter().map(|tap| tap.epoch.seen.skbs).sum::<u64>();
    };
    let (mut bench, sent) = thread::scope(|scope| {
        let running = Stop(&stop);
        // More flows than there is room for, so that an epoch has both.
        let traffic = scope.spawn(|| {
            let mut sent = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let port = u16::try_from(sent % 3000).expect("small");
                socket.send(&ethernet(ethertype::IPV4, &Ipv4::of(protocol::UDP).packet(&udp(port, 53, b""))));
                sent += 1;
            }
            sent
        });
        for _ in 0..ROUNDS {
            add(&bench.rig.reader.drain().expect("drained"));
            bench.await_traffic();
            bench.rig.reader.flip().expect("closed");
            bench = bench.killed();
            add(&bench.rig.reader.drain_leftover().expect("read").expect("the closed epoch"));
        }
        drop(running);
        (bench, traffic.join().expect("no panic there"))
    });
    add(&bench.rig.reader.drain().expect("drained"));
    assert_eq!(counted, sent + ROUNDS, "every frame once, and one a kill");
    let stats = bench.namespace.stats("a");
    assert_eq!(stats.tx_packets + stats.tx_dropped, counted);
}

#[test]
fn a_process_that_dies_before_it_closes_an_epoch_leaves_it_running() {
    let bench = Bench::new();
    bench.send(6);
    let mut bench = bench.killed();
    assert!(bench.rig.reader.drain_leftover().expect("read").is_none());
    let closed = bench.rig.reader.drain().expect("drained");
    bench.check(&closed, 6 + 1);
}

#[test]
fn a_set_whose_clearing_was_interrupted_is_cleared_and_counted_no_more() {
    for cleared in [0, 4, 10] {
        let mut bench = Bench::new();
        bench.send(10);
        let epoch = bench.rig.reader.flip().expect("closed");
        bench.begin_clearing(epoch);
        bench.clear_some(epoch, cleared);
        let mut bench = bench.killed();
        assert!(bench.rig.reader.interrupted(), "the loss is known");
        assert!(
            bench.rig.reader.drain_leftover().expect("read").is_none(),
            "its records died with the process"
        );
        bench.send(2);
        for skbs in [1 + 2, 5, 7, 9] {
            let closed = bench.rig.reader.drain().expect("drained");
            bench.check(&closed, skbs);
            // What the next round expects.
            bench.send(u16::try_from(skbs).expect("small") + 2);
        }
        let total = bench.rig.reader.totals(bench.slot, Direction::Sent).expect("the counters");
        assert_eq!(
            total.seen.skbs,
            10 + 3 + 5 + 7 + 9 + 11,
            "the tap's own total keeps what was lost: {total:?}"
        );
    }
}
