//! Taps against what the kernel itself counts: the devices' own statistics, and a capture at the far end.
//!
//! What a device counts, and where its counters and a tap's differ:
//!
//! - untagged frames: bytes of socket buffers are the device's bytes;
//! - a tag in the packet is in both where it is sent. A device that receives it counts it, and then the kernel moves
//!   it to the metadata, before the tap: the device's bytes are the tap's plus four a frame;
//! - a tag that is in the metadata already is in neither.
//!
//! Bytes on the wire have every tag in all three.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::TcAttachType;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use trunkline_ebpf::{Counters, Direction, Reader, Slot, Tap, TapSet, Totals};

use crate::frames::{Ipv4, ethertype, protocol, tagged, udp};
use crate::namespace::{LinkStats, Namespace};
use crate::packet::{PacketSocket, disable_offloads};
use crate::rig::{Rig, Stop, program, set_next, tap, wrapper};
use crate::way::{Order, hang};

const POD: &str = "10.9.0.2";
const NODE: &str = "10.9.0.1";

/// A pod and its node, each with an end of a pair, both ends tapped.
struct Pair {
    pod: Namespace,
    node: Namespace,
    inside: Slot,
    host_side: Slot,
}

impl Pair {
    /// Taps are on before the links go up, so that nothing is missed.
    fn new(set: &mut TapSet) -> Self {
        let (pod, node) = (Namespace::new(), Namespace::new());
        node.ip(&format!("link add name host0 type veth peer name eth1 netns {}", pod.path()));
        let wanted = Tap { host_side: true, ..tap("host0", "host0", node.index("host0")) };
        let host_side = node.run(|| set.ensure(&wanted)).expect("attached");
        let wanted = tap("uid@eth1", "eth1", pod.index("eth1"));
        let (inside, attached) = set.ensure_inside(&wanted, |job| pod.run(job)).expect("attached");
        attached.expect("it was missing").expect("attached");
        Self { pod, node, inside, host_side }
    }

    /// Nothing moves yet: no end has an address.
    fn up(&self) {
        self.pod.ip("link set dev eth1 up");
        self.node.ip("link set dev host0 up");
        self.pod.await_up("eth1");
        self.node.await_up("host0");
    }

    fn give_addresses(&self) {
        self.pod.ip(&format!("addr add {POD}/24 dev eth1"));
        self.node.ip(&format!("addr add {NODE}/24 dev host0"));
    }

    /// The counters of both devices, when nothing moves any more.
    fn quiet(&self) -> [LinkStats; 2] {
        let look = || [self.pod.stats("eth1"), self.node.stats("host0")];
        let since = Instant::now();
        let mut before = look();
        loop {
            thread::sleep(Duration::from_millis(150));
            let now = look();
            if now == before {
                return now;
            }
            assert!(since.elapsed() < Duration::from_secs(60), "never quiet: {now:?}");
            before = now;
        }
    }

    /// So many bytes over TCP, from one end to the other.
    fn stream(&self, from_pod: bool, bytes: usize) {
        let (client, server) = if from_pod { (&self.pod, &self.node) } else { (&self.node, &self.pod) };
        let address = if from_pod { NODE } else { POD };
        let listener = server.run(|| TcpListener::bind((address, 0))).expect("a listener");
        let port = listener.local_addr().expect("bound").port();
        let mut outgoing = client.run(|| TcpStream::connect((address, port))).expect("connected");
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut incoming, _) = listener.accept().expect("accepted");
                let (mut buffer, mut got) = (vec![0; 1 << 20], 0);
                while got < bytes {
                    got += incoming.read(&mut buffer).expect("read");
                }
                incoming.write_all(b"!").expect("answered");
            });
            let chunk = vec![0x5a; 1 << 18];
            (0..bytes / chunk.len()).for_each(|_| outgoing.write_all(&chunk).expect("written"));
            outgoing.read_exact(&mut [0]).expect("the answer");
        });
    }

    /// So many UDP flows from the pod, `each` datagrams a flow. Waits for an echo now and then, so that no queue
    /// overflows.
    fn datagrams(&self, flows: u16, each: u16) {
        let echo = self.node.run(|| UdpSocket::bind((NODE, 9))).expect("a socket");
        let stop = AtomicBool::new(false);
        let patience = Some(Duration::from_millis(200));
        echo.set_read_timeout(patience).expect("a time limit");
        let socket = self.pod.run(|| UdpSocket::bind((POD, 4000))).expect("a socket");
        socket.set_read_timeout(patience).expect("a time limit");
        thread::scope(|scope| {
            let _running = Stop(&stop);
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((_, from)) = echo.recv_from(&mut [0; 64]) {
                        echo.send_to(b"here", from).ok();
                    }
                }
            });
            for flow in 0..flows {
                // An unreachable port's answer is reported once, in place of sending.
                (0..each).for_each(|_| drop(socket.send_to(b"flow", (NODE, 10_000 + flow))));
                if flow % 64 == 63 {
                    let since = Instant::now();
                    loop {
                        socket.send_to(b"there?", (NODE, 9)).ok();
                        if socket.recv_from(&mut [0; 64]).is_ok() {
                            break;
                        }
                        assert!(since.elapsed() < Duration::from_secs(20), "no echo");
                    }
                }
            }
        });
    }
}

/// Drains until told to stop, and once more each way; every epoch must add up. Says how many there were, and what was
/// counted and lost in all of them by slot and direction.
fn drain_until(reader: &mut Reader, stop: &mpsc::Receiver<()>) -> (u32, Vec<(Slot, Direction, Counters)>) {
    let mut sums: Vec<(Slot, Direction, Counters)> = Vec::new();
    let (mut epochs, mut last) = (0, false);
    loop {
        let closed = reader.drain().expect("drained").merged();
        assert_eq!(closed.inexact(), vec![], "epoch {}", closed.epoch);
        epochs += 1;
        for tap in closed.taps {
            let known = sums.iter_mut().find(|(slot, way, _)| (*slot, *way) == (tap.slot, tap.direction));
            match known {
                Some((_, _, sum)) => *sum += tap.epoch,
                None => sums.push((tap.slot, tap.direction, tap.epoch)),
            }
        }
        if last {
            return (epochs, sums);
        }
        last = !matches!(stop.recv_timeout(Duration::from_millis(50)), Err(mpsc::RecvTimeoutError::Timeout));
    }
}

fn of(sums: &[(Slot, Direction, Counters)], slot: Slot, direction: Direction) -> Counters {
    let found = sums.iter().find(|(known, way, _)| (*known, *way) == (slot, direction));
    found.map(|(_, _, counters)| *counters).unwrap_or_default()
}

#[test]
fn taps_equal_their_devices_and_every_epoch_adds_up_under_load() {
    let Rig { mut set, mut reader, bpffs } = Rig::new(1024);
    let pair = Pair::new(&mut set);
    let (stop, stopped) = mpsc::channel();
    pair.up();
    pair.give_addresses();
    // The first epoch has more flows than there is room for; later ones may or may not.
    pair.datagrams(2000, 1);
    let (epochs, sums) = thread::scope(|scope| {
        // Dropped by a panic, it ends the reader, which the scope waits for.
        let stop = stop;
        let draining = scope.spawn({
            let reader = &mut reader;
            move || drain_until(reader, &stopped)
        });
        thread::scope(|traffic| {
            traffic.spawn(|| pair.stream(true, 192 << 20));
            traffic.spawn(|| pair.datagrams(20_000, 2));
        });
        pair.stream(false, 16 << 20);
        pair.quiet();
        stop.send(()).expect("the reader runs");
        draining.join().expect("no panic there")
    });
    let [eth1, host0] = pair.quiet();
    println!("{epochs} epochs, {eth1:?}, {host0:?}");
    assert!(epochs > 5, "{epochs}");
    assert_eq!(eth1.tx_dropped + host0.tx_dropped, 0, "the queue between the ends overflowed");
    let ends = [
        ("eth1 received", pair.inside, Direction::Received, eth1.rx_packets, eth1.rx_bytes),
        ("eth1 sent", pair.inside, Direction::Sent, eth1.tx_packets, eth1.tx_bytes),
        ("host0 received", pair.host_side, Direction::Sent, host0.rx_packets, host0.rx_bytes),
        ("host0 sent", pair.host_side, Direction::Received, host0.tx_packets, host0.tx_bytes),
    ];
    for (name, slot, direction, packets, bytes) in ends {
        let Counters { seen, lost } = of(&sums, slot, direction);
        println!("{name}: {seen:?}, of them in no flow: {lost:?}");
        assert_eq!((seen.skbs, seen.skb_bytes), (packets, bytes), "{name}");
        assert_eq!(
            reader.totals(slot, direction).expect("the counters").seen,
            seen,
            "{name}, since attached"
        );
        assert!(seen.packets > seen.skbs || direction == Direction::Received, "{name}: offload was used");
    }
    let Counters { seen, lost } = of(&sums, pair.inside, Direction::Sent);
    assert!(seen.skbs > 42_000, "every datagram: {seen:?}");
    assert!(lost.skbs > 0, "2,000 flows do not fit into 1,024 entries");
    drop((set, bpffs));
}

#[test]
fn wire_counts_equal_a_capture_at_the_far_end() {
    let Rig { mut set, mut reader, bpffs } = Rig::new(1024);
    let pair = Pair::new(&mut set);
    // Then a frame on the link is what would be one on a wire, but the tap before it sees large socket buffers.
    let ends = [(&pair.pod, "eth1"), (&pair.node, "host0")];
    for (namespace, link) in ends {
        namespace.run(|| disable_offloads(link));
    }
    pair.up();
    let captures = ends.map(|(namespace, link)| namespace.run(|| PacketSocket::capture(link)));
    let stop = AtomicBool::new(false);
    let count = |capture: &PacketSocket| {
        let mut sum = Totals::default();
        loop {
            match capture.receive() {
                Some(frame) => {
                    sum.packets += 1;
                    sum.bytes += frame.len() as u64;
                }
                None if stop.load(Ordering::Relaxed) => break,
                None => {}
            }
        }
        assert_eq!(capture.dropped(), 0, "the capture is whole");
        (sum.packets, sum.bytes)
    };
    let [at_pod, at_node] = thread::scope(|scope| {
        let running = Stop(&stop);
        let counting = captures.each_ref().map(|capture| scope.spawn(|| count(capture)));
        pair.give_addresses();
        pair.stream(true, 24 << 20);
        pair.stream(false, 8 << 20);
        pair.datagrams(500, 1);
        pair.quiet();
        drop(running);
        counting.map(|thread| thread.join().expect("no panic there"))
    });
    let closed = reader.drain().expect("drained").merged();
    assert_eq!(closed.inexact(), vec![]);
    let seen = |slot, direction| reader.totals(slot, direction).expect("the counters").seen;
    let wire = |totals: Totals| (totals.packets, totals.bytes);
    let sent = seen(pair.inside, Direction::Sent);
    println!("{sent:?}; at the node {at_node:?}, at the pod {at_pod:?}");
    assert_eq!(wire(sent), at_node, "the pod's own tap, before segmentation");
    assert!(sent.skbs * 2 < sent.packets, "the tap did see large socket buffers: {sent:?}");
    assert_eq!(wire(seen(pair.host_side, Direction::Sent)), at_node, "the node's tap, behind it");
    let received = seen(pair.host_side, Direction::Received);
    assert_eq!(wire(received), at_pod, "the node's tap, before segmentation");
    assert!(received.skbs < received.packets, "{received:?}");
    assert_eq!(wire(seen(pair.inside, Direction::Received)), at_pod, "the pod's own tap, behind it");
    drop((set, bpffs));
}

#[test]
fn a_flow_that_processors_carry_at_once_is_counted_exactly() {
    const EACH: u64 = 150_000;
    let (mut rig, namespace) = (Rig::new(1024), Namespace::new());
    namespace.pair("a", &namespace, "b");
    let wanted = tap("a", "a", namespace.index("a"));
    let set = &mut rig.set;
    let slot = namespace.run(|| set.ensure(&wanted)).expect("attached");
    let frame = tagged(&[], ethertype::IPV4, &Ipv4::of(protocol::UDP).packet(&udp(1, 2, b"")));
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("a set of processors");
    let processors: Vec<usize> =
        (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu) == Ok(true)).take(4).collect();
    let senders = processors.len() as u64;
    let (mut epochs, mut sum, since) = (0, Totals::default(), Instant::now());
    thread::scope(|scope| {
        for processor in processors {
            let (namespace, frame) = (&namespace, &frame);
            scope.spawn(move || {
                let mut only = CpuSet::new();
                only.set(processor).expect("a processor");
                namespace.run(|| {
                    sched_setaffinity(Pid::from_raw(0), &only).expect("allowed");
                    let socket = PacketSocket::sender("a", false);
                    (0..EACH).for_each(|_| socket.send(frame));
                });
            });
        }
        while sum.skbs < senders * EACH {
            assert!(since.elapsed() < Duration::from_secs(120), "{sum:?}");
            let closed = rig.drain();
            assert!(closed.taps.iter().all(|tap| tap.epoch.lost == Totals::default()), "{closed:?}");
            let [(_, flow)] = closed.flows.as_slice() else {
                assert!(closed.flows.is_empty(), "one flow, whoever carries it: {closed:?}");
                continue;
            };
            epochs += 1;
            sum += flow.totals;
        }
    });
    let total = rig.reader.totals(slot, Direction::Sent).expect("the counters").seen;
    println!("{senders} processors, {epochs} epochs, {total:?}");
    assert_eq!((sum, sum.skbs), (total, senders * EACH));
    // The queue to the other end may overflow, behind the tap.
    let stats = namespace.stats("a");
    assert_eq!(stats.tx_packets + stats.tx_dropped, sum.skbs);
}

/// Frames from `a` to `b`; what taps and devices counted, each as (skb bytes, wire bytes, device's bytes).
fn tagged_bytes(tags: &[(u16, u16)], accelerated: Option<(u16, u16)>, frames: u64) -> [(u64, u64, u64); 2] {
    let mut rig = Rig::new(1024);
    let namespace = Namespace::new();
    namespace.pair("a", &namespace, "b");
    let wanted = ["a", "b"].map(|link| tap(link, link, namespace.index(link)));
    let set = &mut rig.set;
    let [a, b] = namespace.run(|| wanted.map(|tap| set.ensure(&tap).expect("attached")));
    let mut tagger = accelerated.map(|(tpid, tci)| wrapper(tpid, tci));
    if let Some(ebpf) = &mut tagger {
        let nothing = program(ebpf, "nothing").fd().expect("loaded").try_clone().expect("a descriptor");
        set_next(ebpf, &nothing);
        hang(&namespace, ebpf, "push_tag", "a", TcAttachType::Egress, Order::First);
    }
    let packet = Ipv4::of(protocol::UDP).packet(&udp(1, 2, &[0x5a; 300]));
    let frame = tagged(tags, ethertype::IPV4, &packet);
    let socket = namespace.run(|| PacketSocket::sender("a", false));
    (0..frames).for_each(|_| socket.send(&frame));
    rig.await_skbs(b, Direction::Received, frames);
    rig.drain();
    let seen = |slot, direction| rig.reader.totals(slot, direction).expect("the counters").seen;
    let (sent, received) = (seen(a, Direction::Sent), seen(b, Direction::Received));
    let (stats_a, stats_b) = (namespace.stats("a"), namespace.stats("b"));
    assert_eq!((sent.skbs, received.skbs), (stats_a.tx_packets, stats_b.rx_packets));
    [(sent.skb_bytes, sent.bytes, stats_a.tx_bytes), (received.skb_bytes, received.bytes, stats_b.rx_bytes)]
}

#[test]
fn bytes_of_tagged_links_follow_the_rule() {
    let (frames, untagged) = (25, 14 + 20 + 8 + 300);
    let of = |skb: u64, wire: u64, device: u64| {
        let all = |tags: u64| frames * (untagged + 4 * tags);
        (all(skb), all(wire), all(device))
    };
    for tpid in [0x8100, 0x88a8] {
        let tag = (tpid, 100);
        assert_eq!(tagged_bytes(&[], None, frames), [of(0, 0, 0), of(0, 0, 0)], "no tag");
        assert_eq!(tagged_bytes(&[tag], None, frames), [of(1, 1, 1), of(0, 1, 1)], "in the packet");
        assert_eq!(tagged_bytes(&[], Some(tag), frames), [of(0, 1, 0), of(0, 1, 0)], "in the metadata");
        let inner = (0x8100, 200);
        assert_eq!(
            tagged_bytes(&[tag, inner], None, frames),
            [of(2, 2, 2), of(1, 2, 2)],
            "both in the packet"
        );
        assert_eq!(tagged_bytes(&[inner], Some(tag), frames), [of(1, 2, 1), of(1, 2, 1)], "one of each");
    }
}
