//! The round trip of TCP handshakes: to the answer that the pod received, whoever called.
//!
//! `netem` is not in every kernel. A test run at either end of a pause gives delays that are known exactly, and a real
//! connection shows that the legs are the right ones.

use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use trunkline_ebpf::{ClosedEpoch, Conversation, Direction, FlowTotals, Reader, Slot, Tap};

use crate::frames::{Ipv4, Ipv6, ethertype, protocol, tagged, tcp};
use crate::namespace::Namespace;
use crate::rig::{Rig, tap};

const SYN: u16 = 0x02;
const ACK: u16 = 0x10;
const PAUSE: Duration = Duration::from_millis(40);

/// A segment of the connection 5000–80; what the pod receives has the addresses the other way round.
fn segment(version: u8, vlan: Option<u16>, direction: Direction, pod_port: u16, flags: u16) -> Vec<u8> {
    let received = direction == Direction::Received;
    let (src, dst) = if received { (80, pod_port) } else { (pod_port, 80) };
    let segment = tcp(src, dst, flags, b"");
    let tags: Vec<(u16, u16)> = vlan.map(|vid| (0x8100, vid)).into_iter().collect();
    let swap = |mut packet: Vec<u8>, at: usize, length: usize| {
        if received {
            packet[at..at + 2 * length].rotate_left(length);
        }
        packet
    };
    if version == 4 {
        tagged(&tags, ethertype::IPV4, &swap(Ipv4::of(protocol::TCP).packet(&segment), 12, 4))
    } else {
        tagged(&tags, ethertype::IPV6, &swap(Ipv6::of(protocol::TCP).packet(&segment), 8, 16))
    }
}

fn round_trips(closed: &ClosedEpoch) -> Vec<(Direction, u32)> {
    closed.flows.iter().filter_map(|(key, flow)| flow.rtt.map(|rtt| (key.direction(), rtt))).collect()
}

/// Runs segments with a pause before the last, and says the least and the most that this pause can have been.
fn exchange(rig: &mut Rig, segments: &[(Direction, Vec<u8>)]) -> (u128, u128) {
    let (last, first) = segments.split_last().expect("some");
    let before = Instant::now();
    for (direction, segment) in first {
        rig.run(*direction, segment).expect("run");
    }
    let between = Instant::now();
    thread::sleep(PAUSE);
    let least = between.elapsed();
    rig.run(last.0, &last.1).expect("run");
    (least.as_nanos(), before.elapsed().as_nanos())
}

#[test]
fn the_round_trip_is_the_pause_between_question_and_answer() {
    use Direction::{Received, Sent};
    let mut rig = Rig::new(1024);
    rig.set.register(&tap("run", "lo", 1)).expect("a slot");
    for version in [4, 6] {
        for vlan in [None, Some(100)] {
            for (name, question, answer) in [("calls", SYN, SYN | ACK), ("is called", SYN | ACK, ACK)] {
                let of = |direction, flags| (direction, segment(version, vlan, direction, 5000, flags));
                let (least, most) = exchange(&mut rig, &[of(Sent, question), of(Received, answer)]);
                let closed = rig.drain();
                let found = round_trips(&closed);
                let [(Received, rtt)] = found.as_slice() else { panic!("{name}: {found:?} in {closed:?}") };
                let rtt = u128::from(*rtt);
                assert!((least..=most).contains(&rtt), "the pod {name}: {rtt} is not in {least}..={most}");
            }
        }
    }
}

#[test]
fn a_flow_lasts_from_its_first_packet_to_its_last() {
    let mut rig = Rig::new(1024);
    rig.set.register(&tap("run", "lo", 1)).expect("a slot");
    let tick =
        nix::time::clock_getres(nix::time::ClockId::CLOCK_MONOTONIC_COARSE).expect("the tick's length");
    // Both ends are as coarse as a tick, which may come late.
    let slack = 4 * Duration::from(tick).as_nanos();
    for _ in 0..2 {
        let asked = Reader::now();
        let of = |direction, flags| (direction, segment(4, None, direction, 5000, flags));
        let (least, most) = exchange(&mut rig, &[of(Direction::Sent, ACK), of(Direction::Sent, ACK)]);
        let closed = rig.drain();
        let [(_, flow)] = closed.flows.as_slice() else { panic!("{closed:?}") };
        let lasted = u128::from(flow.last - flow.first);
        assert!(lasted + slack >= least && lasted <= most + slack, "{lasted} is not in {least}..={most}");
        let (begin, end) = (u128::from(asked), u128::from(Reader::now()));
        assert!(u128::from(flow.first) + slack >= begin && u128::from(flow.last) <= end + slack, "{flow:?}");
    }
}

#[test]
fn what_is_no_answer_has_no_round_trip() {
    use Direction::{Received, Sent};
    let mut rig = Rig::new(1024);
    rig.set.register(&tap("run", "lo", 1)).expect("a slot");
    let of = |direction, port, flags| (direction, segment(4, None, direction, port, flags));
    let other_vlan = (Received, segment(4, Some(100), Received, 5001, SYN | ACK));
    let repeated = [of(Sent, 5000, SYN), of(Sent, 5000, SYN), of(Received, 5000, SYN | ACK)];
    let cases: [(&str, &[(Direction, Vec<u8>)]); 5] = [
        ("a repeated SYN is ambiguous (Karn)", &repeated),
        ("another connection's answer", &[of(Sent, 5001, SYN), of(Received, 5002, SYN | ACK)]),
        ("another network's answer", &[of(Sent, 5001, SYN), other_vlan]),
        ("an ACK without a question", &[of(Received, 5003, ACK)]),
        ("a question that the pod received", &[of(Received, 5004, SYN), of(Sent, 5004, ACK)]),
    ];
    for (name, segments) in cases {
        exchange(&mut rig, segments);
        assert_eq!(round_trips(&rig.drain()), vec![], "{name}");
    }
}

#[test]
fn a_real_connection_has_a_round_trip_at_both_ends() {
    let mut rig = Rig::new(1024);
    let (pod, node) = (Namespace::new(), Namespace::new());
    node.pair("host0", &pod, "eth1");
    let wanted = Tap { host_side: true, ..tap("host0", "host0", node.index("host0")) };
    let set = &mut rig.set;
    let host_side = node.run(|| set.ensure(&wanted)).expect("attached");
    let wanted = tap("uid@eth1", "eth1", pod.index("eth1"));
    let (inside, attached) = rig.set.ensure_inside(&wanted, |job| pod.run(job)).expect("attached");
    attached.expect("missing").expect("attached");
    for (namespace, link, address) in [(&pod, "eth1", "10.9.0.2"), (&node, "host0", "10.9.0.1")] {
        namespace.ip(&format!("link set dev {link} arp on"));
        namespace.ip(&format!("addr add {address}/24 dev {link}"));
    }
    for (name, client, server, address) in
        [("the pod calls", &pod, &node, "10.9.0.1"), ("the pod is called", &node, &pod, "10.9.0.2")]
    {
        let listener = server.run(|| TcpListener::bind((address, 8080))).expect("a listener");
        let (before, connect) = (Instant::now(), || TcpStream::connect((address, 8080)));
        let stream = client.run(connect).expect("connected");
        let accepted = listener.accept().expect("accepted");
        let most = before.elapsed().as_nanos();
        drop((stream, accepted));
        let closed = rig.drain();
        for slot in [inside, host_side] {
            let found = tcp_of(&closed, slot);
            let [(rtt, flow)] = found.as_slice() else { panic!("{name}: {found:?} in {closed:?}") };
            assert!(u128::from(*rtt) <= most, "{name}, {slot:?}: {rtt} ns of {most}: {flow:?}");
        }
    }
}

/// Received TCP flows of a tap that have a round trip.
fn tcp_of(closed: &ClosedEpoch, slot: Slot) -> Vec<(u32, FlowTotals)> {
    let flows = closed.flows.iter().filter(|(key, _)| {
        let tcp = matches!(key.conversation(), Conversation::Ip { protocol: protocol::TCP, .. });
        tcp && key.slot() == slot && key.direction() == Direction::Received
    });
    flows.filter_map(|(_, flow)| flow.rtt.map(|rtt| (rtt, *flow))).collect()
}
