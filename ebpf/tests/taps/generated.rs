//! A hundred thousand generated frames, whole, spoilt and cut short, against a parser that is not ours.
//!
//! Each frame carries its number in its source address, and the frames of a batch have different keys. So a flow that
//! a batch leaves says which frame it is, and that frame's key is compared: frame by frame, with one drain a batch.

use std::collections::{BTreeMap, HashSet};

use trunkline_ebpf::{ClosedEpoch, Direction, Totals};

use crate::frames::{self, ethertype, protocol};
use crate::reference::{Difference, Expected, expected, whole};
use crate::rig::{Rig, Wire, tap};

const FRAMES: u32 = 120_000;
const BATCH: usize = 2000;
const SEED: u64 = 0x7472_756e_6b6c_696e;

/// `SplitMix64`: the same frames in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("below the limit")
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.byte()).collect()
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn frame(&mut self, number: u32) -> Vec<u8> {
        let tags: Vec<(u16, u16)> = (0..self.of(&[0, 0, 0, 0, 1, 1, 2, 2, 3, 4]))
            .map(|_| (self.of(&[ethertype::CTAG, ethertype::CTAG, ethertype::STAG]), self.word()))
            .collect();
        let (ethertype, payload) = match self.below(16) {
            0..=6 => (ethertype::IPV4, self.ipv4()),
            7..=13 => (ethertype::IPV6, self.ipv6()),
            14 => (ethertype::ARP, self.arp()),
            _ => {
                let ethertype = self.of(&[0x88cc, 0x88f7, 0x8847, 0x88e5, 0x9100, 38, 1500, 0x0600]);
                let length = self.below(64);
                (ethertype, self.bytes(length))
            }
        };
        let mut frame = frames::tagged(&tags, ethertype, &payload);
        if self.one_in(3) {
            self.spoil(&mut frame);
        }
        if self.one_in(4) {
            let kept = 15 + self.below(frame.len().saturating_sub(14).max(1));
            frame.truncate(kept);
        }
        if self.one_in(8) {
            let padding = self.below(40);
            frame.extend(self.bytes(padding));
        }
        if frame.len() < 15 {
            frame.resize(15, 0);
        }
        frame[8..12].copy_from_slice(&number.to_be_bytes());
        frame
    }

    /// A few bytes behind the addresses become something else, mostly among the headers.
    fn spoil(&mut self, frame: &mut [u8]) {
        for _ in 0..=self.below(3) {
            let among = if self.one_in(3) { frame.len() } else { frame.len().min(60) };
            let at = 12 + self.below(among - 12);
            frame[at] = if self.one_in(2) { self.byte() } else { frame[at] ^ (1 << self.below(8)) };
        }
    }

    fn ipv4(&mut self) -> Vec<u8> {
        let protocol = self.protocol();
        let words = self.of(&[0, 0, 0, 0, 1, 2, 5, 10]);
        let options = self.bytes(words * 4);
        let fragment = self.of(&[0, 0, 0, 0, 0x4000, 0x4000, 0x2000, 0x2010, 0x0020]);
        let payload = if self.one_in(12) {
            let payload = self.transport(protocol);
            return self.addressed(
                &frames::Ipv4 { fragment, ..frames::Ipv4::of(protocol::AH) }
                    .packet(&frames::authentication(protocol, &payload)),
                12,
                8,
            );
        } else {
            self.transport(protocol)
        };
        let header =
            frames::Ipv4 { tos: self.byte(), options: &options, fragment, ..frames::Ipv4::of(protocol) };
        self.addressed(&header.packet(&payload), 12, 8)
    }

    /// Random addresses, so that keys differ.
    fn addressed(&mut self, packet: &[u8], at: usize, length: usize) -> Vec<u8> {
        let mut packet = packet.to_vec();
        let addresses = self.bytes(length);
        packet[at..at + length].copy_from_slice(&addresses);
        packet
    }

    fn ipv6(&mut self) -> Vec<u8> {
        use protocol::{AH, FRAGMENT, HIP, HOP_BY_HOP, MOBILITY, OPTIONS, ROUTING, SHIM6};
        let mut next = self.protocol();
        let mut payload = self.transport(next);
        for _ in 0..self.of(&[0, 0, 0, 1, 1, 2, 3, 5, 8, 9, 10]) {
            let kind = self.of(&[
                HOP_BY_HOP, ROUTING, ROUTING, OPTIONS, OPTIONS, OPTIONS, AH, FRAGMENT, MOBILITY, HIP, SHIM6,
            ]);
            payload = match kind {
                AH => frames::authentication(next, &payload),
                FRAGMENT => {
                    let offset = self.of(&[0, 0, 8, 1448]);
                    frames::fragment(next, offset, self.one_in(2), &payload)
                }
                _ => frames::extension(next, self.of(&[0, 0, 1, 2]), &payload),
            };
            next = kind;
        }
        let header = frames::Ipv6 { class: self.byte(), ..frames::Ipv6::of(next) };
        self.addressed(&header.packet(&payload), 8, 32)
    }

    fn protocol(&mut self) -> u8 {
        use protocol::{DCCP, ESP, GRE, ICMP, ICMPV6, NO_NEXT, SCTP, TCP, UDP, UDP_LITE};
        let common = [TCP, TCP, TCP, UDP, UDP, UDP, ICMP, ICMPV6];
        let rare = [UDP_LITE, SCTP, DCCP, ESP, GRE, NO_NEXT, 2, 4, 41, 89, 112];
        if self.one_in(4) { self.of(&rare) } else { self.of(&common) }
    }

    fn transport(&mut self, protocol: u8) -> Vec<u8> {
        let length = self.below(48);
        let body = self.bytes(length);
        match protocol {
            protocol::TCP => {
                let words = self.of(&[0, 0, 3, 5, 10]);
                let options = self.bytes(words * 4);
                let offset = u16::try_from(5 + words).expect("small");
                frames::tcp_with(self.word(), self.word(), self.word(), offset, &options, &body)
            }
            protocol::UDP => frames::udp(self.word(), self.word(), &body),
            protocol::ICMP | protocol::ICMPV6 => {
                frames::icmp(self.of(&[0, 3, 8, 11, 128, 129, 135, 136]), self.byte() % 16, &body)
            }
            _ => body,
        }
    }

    fn arp(&mut self) -> Vec<u8> {
        let packet = frames::arp(self.of(&[1, 2, 1, 2, 9]), [0; 4], [0; 4]);
        let packet = self.addressed(&packet, 14, 4);
        self.addressed(&packet, 24, 4)
    }
}

/// Frames whose flows are in the running epoch.
#[derive(Default)]
struct Batch {
    frames: BTreeMap<u32, (Vec<u8>, Expected)>,
    keys: HashSet<trunkline_ebpf::FlowKey>,
}

impl Batch {
    /// Compares every frame's flow with what was expected; empties itself.
    fn check(&mut self, closed: &ClosedEpoch, wire: &Wire) {
        for (key, flow) in closed.flows.iter().filter(|(key, _)| key.slot() != wire.b) {
            let [_, _, number @ ..] = flow.src_mac;
            let number = u32::from_be_bytes(number);
            let Some((frame, expected)) = self.frames.remove(&number) else { panic!("{key:?} twice") };
            assert_eq!(
                *key,
                expected.key,
                "frame {number}: the tap says {:?}, expected is {:?} ({:?}) of {frame:02x?}",
                key.conversation(),
                expected.key.conversation(),
                expected.differences,
            );
            let length = frame.len() as u64;
            let once = Totals { skbs: 1, skb_bytes: length, packets: 1, bytes: length };
            assert_eq!(flow.totals, once, "frame {number}: {frame:02x?}");
            let seen = (flow.tcp_flags, flow.tos, flow.fragmented);
            let wanted = (expected.tcp_flags, expected.tos, expected.first_fragment);
            assert_eq!(seen, wanted, "frame {number}, flags, TOS, first fragment: {frame:02x?}");
        }
        assert_eq!(self.frames.keys().collect::<Vec<_>>(), Vec::<&u32>::new(), "frames without a flow");
        self.keys.clear();
    }
}

#[test]
fn generated_frames_get_the_keys_that_another_parser_gives_them() {
    let mut random = Random(SEED);
    let mut rig = Rig::new(16_384);
    let mut wire = Wire::new(&mut rig);
    let lo = rig.set.register(&tap("run", "lo", 1)).expect("a slot");
    let mut batch = Batch::default();
    let mut differences = BTreeMap::<Difference, u32>::new();
    let (mut same, mut by_veth) = (0, 0);
    for number in 0..FRAMES {
        let frame = random.frame(number);
        let hook = if random.one_in(2) { Direction::Received } else { Direction::Sent };
        let mut slot = lo;
        let mut direction = hook;
        if rig.run(hook, &frame).is_err() {
            // Test runs refuse an IP header that is cut short.
            (slot, direction) = (wire.a, Direction::Sent);
            by_veth += 1;
        }
        let expected = expected(&frame, slot, direction);
        if expected.differences.is_empty() {
            same += 1;
            assert_eq!(whole(&frame, slot, direction), expected.key, "frame {number}: {frame:02x?}");
        }
        for difference in &expected.differences {
            *differences.entry(*difference).or_default() += 1;
        }
        assert!(batch.keys.insert(expected.key), "frame {number} has the key of another: {expected:?}");
        if slot == wire.a {
            wire.send(&rig, None, &frame);
        }
        batch.frames.insert(number, (frame, expected));
        if batch.frames.len() == BATCH || number + 1 == FRAMES {
            let closed = rig.drain();
            batch.check(&closed, &wire);
        }
    }
    println!("{FRAMES} frames, {by_veth} of them over veth; {same} keys as the whole-packet parser's own");
    for (difference, count) in differences {
        println!("{count:8} {difference:?}");
    }
    assert!(same > FRAMES / 3, "{same}: the differences are not the rule");
}
