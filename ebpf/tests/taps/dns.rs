//! Questions to name servers: latency and code of each, and what is none.

use std::thread;
use std::time::{Duration, Instant};

use trunkline_ebpf::{Conversation, Direction, DnsQueries, DnsQuery, Slot, TapTotals};

use crate::frames::{Ipv4, Ipv6, ethertype, protocol, tagged, tcp, udp};
use crate::rig::{Rig, tap};
use Direction::{Received, Sent};

const PORT: u16 = 53;
const PAUSE: Duration = Duration::from_millis(20);
const NXDOMAIN: u16 = 3;
const ANSWER: u16 = 0x8000;

/// RFC 1035 4.1.1, and a question for the root's name servers.
fn message(id: u16, flags: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend([0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1]);
    bytes
}

/// Over TCP, its length comes first (RFC 1035 4.2.2).
fn with_length(message: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(message.len()).expect("short").to_be_bytes().to_vec();
    bytes.extend(message);
    bytes
}

/// How a message travels.
#[derive(Clone, Copy, Debug)]
struct Path {
    version: u8,
    vlan: Option<u16>,
    protocol: u8,
    /// The client's port, and the server's.
    ports: (u16, u16),
}

const PLAIN: Path = Path { version: 4, vlan: None, protocol: protocol::UDP, ports: (40_000, PORT) };

impl Path {
    /// A frame with these bytes behind the transport header, to the server or from it.
    fn frame(self, to_server: bool, payload: &[u8]) -> Vec<u8> {
        let (src, dst) = if to_server { self.ports } else { (self.ports.1, self.ports.0) };
        let segment = if self.protocol == protocol::TCP {
            tcp(src, dst, 0x18, payload)
        } else {
            udp(src, dst, payload)
        };
        let (ethertype, mut packet, addresses) = if self.version == 4 {
            (ethertype::IPV4, Ipv4::of(self.protocol).packet(&segment), 12..20)
        } else {
            (ethertype::IPV6, Ipv6::of(self.protocol).packet(&segment), 8..40)
        };
        if !to_server {
            let length = addresses.len();
            packet[addresses].rotate_left(length / 2);
        }
        let tags: Vec<(u16, u16)> = self.vlan.map(|vid| (0x8100, vid)).into_iter().collect();
        tagged(&tags, ethertype, &packet)
    }

    fn question(self, id: u16, flags: u16) -> Vec<u8> {
        self.frame(true, &self.bytes(id, flags))
    }

    fn answer(self, id: u16, code: u16) -> Vec<u8> {
        self.frame(false, &self.bytes(id, ANSWER | code))
    }

    fn bytes(self, id: u16, flags: u16) -> Vec<u8> {
        let message = message(id, flags);
        if self.protocol == protocol::TCP { with_length(&message) } else { message }
    }
}

fn rig() -> (Rig, Slot) {
    let mut rig = Rig::new(1024);
    let slot = rig.set.register(&tap("run", "lo", 1)).expect("a slot");
    rig.reader.follow_dns(Some(PORT)).expect("the maps");
    (rig, slot)
}

fn ended(rig: &mut Rig) -> Vec<DnsQuery> {
    let DnsQueries { queries, lost } = rig.reader.dns().expect("the maps");
    assert_eq!(lost, 0);
    queries
}

#[test]
fn every_query_has_its_latency_and_its_code() {
    let (mut rig, slot) = rig();
    let mut id = 0;
    for version in [4, 6] {
        for vlan in [None, Some(100)] {
            for protocol in [protocol::UDP, protocol::TCP] {
                for (asks, answers) in [(Sent, Received), (Received, Sent)] {
                    let path = Path { version, vlan, protocol, ..PLAIN };
                    id += 1;
                    let before = Instant::now();
                    rig.run(asks, &path.question(id, 0x0100)).expect("run");
                    let between = Instant::now();
                    thread::sleep(PAUSE);
                    let least = between.elapsed();
                    rig.run(answers, &path.answer(id, NXDOMAIN)).expect("run");
                    let most = before.elapsed();
                    let found = ended(&mut rig);
                    let [query] = found.as_slice() else { panic!("{path:?}: {found:?}") };
                    let answer = query.answer.expect("answered");
                    assert_eq!((query.id, query.asked, answer.code), (id, 1, 3), "{path:?}");
                    assert!((least..=most).contains(&answer.latency), "{least:?} {answer:?} {most:?}");
                    assert_eq!((query.key.slot(), query.key.direction()), (slot, answers));
                    assert_eq!(query.key.outer().map(|tag| tag.vid), vlan);
                    let Conversation::Ip { src_port, dst_port, .. } = query.key.conversation() else {
                        panic!("{query:?}")
                    };
                    assert_eq!((src_port, dst_port), (PORT, 40_000), "the answer's flow");
                    let flows = rig.drain().flows;
                    assert!(flows.iter().any(|(key, _)| *key == query.key), "the flow that it is told with");
                }
            }
        }
    }
}

#[test]
fn queries_of_one_flow_are_told_apart_and_a_repeated_one_counts_from_its_beginning() {
    let (mut rig, _) = rig();
    // A and AAAA from one socket, as resolvers do; the second is asked again.
    rig.run(Sent, &PLAIN.question(1, 0x0100)).expect("run");
    rig.run(Sent, &PLAIN.question(2, 0x0100)).expect("run");
    thread::sleep(PAUSE);
    rig.run(Sent, &PLAIN.question(2, 0x0100)).expect("run");
    rig.run(Received, &PLAIN.answer(2, 0)).expect("run");
    rig.run(Received, &PLAIN.answer(2, 0)).expect("run");
    rig.run(Received, &PLAIN.answer(1, 2)).expect("run");
    let found = ended(&mut rig);
    let told: Vec<_> = found.iter().map(|query| (query.id, query.asked)).collect();
    assert_eq!(told, [(2, 2), (1, 1)], "the second answer to 2 is to no question: {found:?}");
    assert!(
        found.iter().all(|query| query.answer.is_some_and(|answer| answer.latency >= PAUSE)),
        "{found:?}"
    );
}

#[test]
fn what_nobody_answers_is_told_after_ten_seconds() {
    let (mut rig, slot) = rig();
    let since = Instant::now();
    rig.run(Sent, &PLAIN.question(7, 0x0100)).expect("run");
    assert_eq!(ended(&mut rig), vec![], "it may still be answered");
    let found = loop {
        let found = ended(&mut rig);
        if !found.is_empty() {
            break found;
        }
        assert!(since.elapsed() < Duration::from_secs(30), "nothing was told");
        thread::sleep(PAUSE);
    };
    assert!(since.elapsed() >= Duration::from_secs(10), "{:?}", since.elapsed());
    let [query] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((query.id, query.asked, query.answer), (7, 1, None));
    assert_eq!((query.key.slot(), query.key.direction()), (slot, Sent), "the question's flow");
    assert!(rig.drain().flows.iter().any(|(key, _)| *key == query.key));
    rig.run(Received, &PLAIN.answer(7, 0)).expect("run");
    assert_eq!(ended(&mut rig), vec![], "once is enough");
}

#[test]
fn what_is_no_query_of_this_port_is_left_alone() {
    let (mut rig, _) = rig();
    let long = PLAIN.question(1, 0x0100).len();
    let over_tcp = Path { protocol: protocol::TCP, ..PLAIN };
    let other_port = Path { ports: (40_000, 5353), ..PLAIN };
    let asked = (Sent, PLAIN.question(1, 0x0100));
    let cases: Vec<(&str, Vec<(Direction, Vec<u8>)>)> = vec![
        ("another port", vec![(Sent, other_port.question(1, 0)), (Received, other_port.answer(1, 0))]),
        ("an answer without a question", vec![(Received, PLAIN.answer(1, 0))]),
        (
            "from the port and not to it",
            vec![
                (Sent, PLAIN.frame(false, &message(8, 0))),
                (Received, PLAIN.frame(true, &message(8, ANSWER))),
            ],
        ),
        ("another id", vec![asked.clone(), (Received, PLAIN.answer(2, 0))]),
        ("another network", vec![asked.clone(), (Received, Path { vlan: Some(9), ..PLAIN }.answer(1, 0))]),
        ("another transport", vec![asked.clone(), (Received, over_tcp.answer(1, 0))]),
        ("both ways in one direction", vec![asked.clone(), (Sent, PLAIN.answer(1, 0))]),
        ("a notification", vec![(Sent, PLAIN.question(3, 0x2000)), (Received, PLAIN.answer(3, 0x2000))]),
        (
            "too short to be one",
            vec![(Sent, PLAIN.frame(true, &message(4, 0)[..11])), (Received, PLAIN.answer(4, 0))],
        ),
        ("cut off", vec![(Sent, PLAIN.question(5, 0)[..long - 8].to_vec()), (Received, PLAIN.answer(5, 0))]),
        (
            "in the middle of a stream",
            vec![
                (Sent, over_tcp.frame(true, &[&with_length(&message(6, 0)), &b"more"[..]].concat())),
                (Received, over_tcp.answer(6, 0)),
            ],
        ),
    ];
    for (name, frames) in cases {
        for (direction, frame) in frames {
            rig.run(direction, &frame).expect("run");
        }
        assert_eq!(ended(&mut rig), vec![], "{name}");
        // What waits is not the next case's.
        rig.drain();
        rig.reader.zero(Slot(0)).expect("the maps");
    }
    rig.reader.follow_dns(None).expect("the maps");
    for (direction, frame) in [asked, (Received, PLAIN.answer(1, 0))] {
        rig.run(direction, &frame).expect("run");
    }
    assert_eq!(ended(&mut rig), vec![], "nobody wants to know");
}

#[test]
fn a_question_that_waits_when_its_tap_goes_is_not_the_next_taps() {
    let (mut rig, slot) = rig();
    rig.run(Sent, &PLAIN.question(1, 0)).expect("run");
    rig.drain();
    rig.reader.zero(slot).expect("the maps");
    rig.run(Received, &PLAIN.answer(1, 0)).expect("run");
    assert_eq!(ended(&mut rig), vec![]);
}

#[test]
fn answers_that_find_no_room_are_counted_and_the_next_process_reads_the_rest() {
    /// 128 KiB, of 72 bytes and the kernel's 8 each.
    const ROOM: u64 = (128 << 10) / 80;
    const MORE: u64 = 100;
    let (mut rig, _) = rig();
    for number in 0..ROOM + MORE {
        let id = u16::try_from(number).expect("few");
        rig.run(Sent, &PLAIN.question(id, 0)).expect("run");
        rig.run(Received, &PLAIN.answer(id, 0)).expect("run");
    }
    rig.reader = rig.set.reader().expect("the maps");
    let DnsQueries { queries, lost } = rig.reader.dns().expect("the maps");
    let found = (queries.len() as u64, lost);
    // The one that fills it may not fit by a few bytes. What was lost before a process began is not its loss.
    assert!((ROOM - 1..=ROOM).contains(&found.0) && found.1 == 0, "{found:?} of {ROOM}");
    for number in 0..ROOM + MORE {
        let id = u16::try_from(number).expect("few");
        rig.run(Sent, &PLAIN.question(id, 0)).expect("run");
        rig.run(Received, &PLAIN.answer(id, 0)).expect("run");
    }
    let DnsQueries { queries, lost } = rig.reader.dns().expect("the maps");
    assert_eq!(queries.len() as u64 + lost, ROOM + MORE);
    assert!(lost >= MORE, "{lost}");
    let seen: Vec<TapTotals> = rig.drain().taps;
    let skbs: u64 = seen.iter().map(|tap| tap.epoch.seen.skbs).sum();
    assert_eq!(skbs, 4 * (ROOM + MORE), "frames are counted all the same");
}
