//! Golden frames: what the programs must make of each, and by which way it got to them.
//!
//! The table is data; one function checks every row. The ways, since none carries everything:
//!
//! - `test run`: `BPF_PROG_TEST_RUN` of the receiving or the sending program. It takes linear frames only.
//! - `accelerated`: the same, through a wrapper that has `bpf_skb_vlan_push` put a tag where a network card puts it,
//!   in `skb->vlan_tci`, and then tail-calls the tap.
//! - `veth`: a packet socket sends on one end of a pair in a namespace of the test's own. Both ends are tapped, so a
//!   row is checked twice: as sent, and as received. This carries frames of 14 bytes, socket buffers whose headers
//!   are not in the linear part, and segmentation offload.
//! - `tun`: the device's frames have no Ethernet header, and may be shorter than one.
//!
//! A frame below 14 bytes reaches no Ethernet device: packet sockets, TAP devices and test runs all refuse it.

mod buffers;
mod ethernets;
mod ipv4;
mod ipv6;
mod tags;
mod transports;

use std::fmt;

use trunkline_ebpf::{ClosedEpoch, Conversation, Direction, FlowKey, Slot, Tag, Tap, Totals};

use crate::frames::{
    DST_MAC, DST4, DST6, Ipv4, Ipv6, SRC_MAC, SRC4, SRC6, ethernet, ethertype, protocol, udp,
};
use crate::packet::VnetHeader;
use crate::rig::{Rig, Wire, tap};

#[derive(Clone, Copy, Debug)]
enum Way {
    /// The pod's own interface, or the node's end of its pair, receives or sends.
    Run { hook: Direction, host_side: bool },
    /// The pod's own interface receives a frame whose outermost tag is in `vlan_tci`.
    Accelerated { tpid: u16, tci: u16 },
    /// Through a pair.
    Veth(Option<VnetHeader>),
    /// Onto a pair; but the kernel drops it at the other end before any program sees it.
    Unreceived,
    /// Into a TUN device.
    Tun,
}

const RUN: Way = Way::Run { hook: Direction::Received, host_side: false };
const VETH: Way = Way::Veth(None);

impl fmt::Display for Way {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run { hook, host_side } => {
                let side = if *host_side { "node's end" } else { "pod's end" };
                let program = if *hook == Direction::Received { "receiving" } else { "sending" };
                write!(formatter, "test run, {side}, {program}")
            }
            Self::Accelerated { tpid, tci } => write!(formatter, "accelerated, {tpid:#06x} {tci:#06x}"),
            Self::Veth(None) => formatter.write_str("veth"),
            Self::Unreceived => formatter.write_str("veth, as sent only"),
            Self::Veth(Some(header)) if header.gso_type == 0 => {
                write!(formatter, "veth, {} linear bytes", header.hdr_len)
            }
            Self::Veth(Some(header)) => {
                write!(formatter, "veth, offload {} by {}", header.gso_type, header.gso_size)
            }
            Self::Tun => formatter.write_str("tun"),
        }
    }
}

/// A row: the frame, and what must come of it.
struct Case {
    name: String,
    way: Way,
    frame: Vec<u8>,
    tags: [Option<Tag>; 2],
    conversation: Conversation,
    marks: Marks,
    tcp_flags: u16,
    tos: u8,
    /// Packets on the wire, and their bytes.
    wire: (u64, u64),
}

/// What is unusual about it.
#[derive(Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent of each other")]
struct Marks {
    later_fragment: bool,
    truncated: bool,
    more_tags: bool,
    first_fragment: bool,
}

fn case(name: impl Into<String>, way: Way, frame: Vec<u8>, conversation: Conversation) -> Case {
    let tag = if matches!(way, Way::Accelerated { .. }) { 4 } else { 0 };
    let wire = (1, frame.len() as u64 + tag);
    Case {
        name: name.into(),
        way,
        frame,
        tags: [None; 2],
        conversation,
        marks: Marks::default(),
        tcp_flags: 0,
        tos: 0,
        wire,
    }
}

impl Case {
    fn tags(mut self, outer: Tag, inner: Option<Tag>) -> Self {
        self.tags = [Some(outer), inner];
        self
    }

    fn more_tags(mut self) -> Self {
        self.marks.more_tags = true;
        self
    }

    fn later_fragment(mut self) -> Self {
        self.marks.later_fragment = true;
        self
    }

    fn first_fragment(mut self) -> Self {
        self.marks.first_fragment = true;
        self
    }

    fn truncated(mut self) -> Self {
        self.marks.truncated = true;
        self
    }

    fn flags(mut self, flags: u16) -> Self {
        self.tcp_flags = flags;
        self
    }

    fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    fn wire(mut self, packets: u64, bytes: u64) -> Self {
        self.wire = (packets, bytes);
        self
    }

    /// What the tap `slot` must have made of it.
    fn check(&self, closed: &ClosedEpoch, slot: Slot, direction: Direction, skb_bytes: usize) {
        let (name, way) = (&self.name, self.way);
        let mut flows = closed.flows.iter().filter(|(key, _)| key.slot() == slot);
        let Some((key, flow)) = flows.next() else { panic!("{name} ({way}): no flow in {closed:?}") };
        assert_eq!(flows.next(), None, "{name} ({way}): another flow");
        let expected = FlowKey::new(slot, direction, self.tags, self.conversation).marked(
            self.marks.later_fragment,
            self.marks.truncated,
            self.marks.more_tags,
        );
        assert_eq!(*key, expected, "{name} ({way}): {:?}", key.conversation());
        assert_eq!(key.conversation(), self.conversation, "{name} ({way})");
        let skb_bytes = skb_bytes as u64;
        let expected = Totals { skbs: 1, skb_bytes, packets: self.wire.0, bytes: self.wire.1 };
        assert_eq!(flow.totals, expected, "{name} ({way})");
        let flags = (flow.tcp_flags, flow.tos, flow.fragmented);
        assert_eq!(
            flags,
            (self.tcp_flags, self.tos, self.marks.first_fragment),
            "{name} ({way}): flags, TOS, fragmented"
        );
        let macs = if matches!(way, Way::Tun) { ([0; 6], [0; 6]) } else { (SRC_MAC, DST_MAC) };
        assert_eq!((flow.src_mac, flow.dst_mac), macs, "{name} ({way})");
        assert!(flow.first > 0 && flow.first == flow.last, "{name} ({way}): {flow:?}");
    }
}

// What the frames say.

fn ip4(protocol: u8, src_port: u16, dst_port: u16) -> Conversation {
    Conversation::Ip { src: SRC4.into(), dst: DST4.into(), protocol, src_port, dst_port }
}

fn ip6(protocol: u8, src_port: u16, dst_port: u16) -> Conversation {
    Conversation::Ip { src: SRC6.into(), dst: DST6.into(), protocol, src_port, dst_port }
}

fn icmp4(kind: u8, code: u8) -> Conversation {
    Conversation::Icmp { src: SRC4.into(), dst: DST4.into(), kind, code }
}

fn icmp6(kind: u8, code: u8) -> Conversation {
    Conversation::Icmp { src: SRC6.into(), dst: DST6.into(), kind, code }
}

fn other(ethertype: u16) -> Conversation {
    Conversation::Ethernet { src: SRC_MAC, dst: DST_MAC, ethertype }
}

fn c(vid: u16) -> Tag {
    Tag { vid, service: false }
}

fn s(vid: u16) -> Tag {
    Tag { vid, service: true }
}

// The frames.

fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(ethertype::IPV4, &Ipv4::of(protocol).packet(payload))
}

fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(ethertype::IPV6, &Ipv6::of(next).packet(payload))
}

fn datagram() -> Vec<u8> {
    Ipv4::of(protocol::UDP).packet(&udp(5000, 53, b"abcdefgh"))
}

fn datagram6() -> Vec<u8> {
    Ipv6::of(protocol::UDP).packet(&udp(5000, 53, b"abcdefgh"))
}

fn cut(frame: &[u8], length: usize) -> Vec<u8> {
    frame[..length].to_vec()
}

const CTAG: u16 = ethertype::CTAG;
const STAG: u16 = ethertype::STAG;

#[test]
fn every_golden_frame_becomes_the_flow_it_should() {
    let groups = [
        tags::tags(),
        ipv4::headers(),
        ipv4::broken(),
        ipv6::chains(),
        ipv6::broken(),
        transports::flags(),
        transports::ports(),
        transports::icmp_and_tunnels(),
        ethernets::ethernets(),
        buffers::directions(),
        buffers::scattered(),
        buffers::offloaded(),
        buffers::without_ethernet(),
    ];
    let cases: Vec<Case> = groups.into_iter().flatten().collect();
    let mut rig = Rig::new(1024);
    let mut wire = Wire::new(&mut rig);
    for case in &cases {
        println!("{:60} {}", case.name, case.way);
        if matches!(case.way, Way::Veth(Some(header)) if header.gso_type == UDP_SEGMENTS) && !sends_segments()
        {
            println!("SKIPPED {}: before kernel 6.2 no packet socket sends segments of UDP", case.name);
            continue;
        }
        check(case, &mut rig, &mut wire);
    }
    let count = |of: fn(&Way) -> bool| cases.iter().filter(|case| of(&case.way)).count();
    let runs = count(|way| matches!(way, Way::Run { .. }));
    let accelerated = count(|way| matches!(way, Way::Accelerated { .. }));
    let (veths, tuns) =
        (count(|way| matches!(way, Way::Veth(_) | Way::Unreceived)), count(|way| matches!(way, Way::Tun)));
    println!("{} frames: test run {runs}, accelerated {accelerated}, veth {veths}, tun {tuns}", cases.len());
    assert!(cases.len() >= 60, "{}", cases.len());
}

/// `VIRTIO_NET_HDR_GSO_UDP_L4`.
const UDP_SEGMENTS: u8 = 5;

fn sends_segments() -> bool {
    aya::util::KernelVersion::current().is_ok_and(|running| running >= aya::util::KernelVersion::new(6, 2, 0))
}

fn check(case: &Case, rig: &mut Rig, wire: &mut Wire) {
    let length = case.frame.len();
    let refused = |error| panic!("{} ({}): {error}", case.name, case.way);
    match case.way {
        Way::Run { hook, host_side } => {
            let lo = Tap { host_side, ..tap("run", "lo", 1) };
            let slot = rig.set.register(&lo).expect("a slot");
            rig.run(hook, &case.frame).unwrap_or_else(refused);
            let sent = (hook == Direction::Sent) != host_side;
            let direction = if sent { Direction::Sent } else { Direction::Received };
            case.check(&rig.drain(), slot, direction, length);
        }
        Way::Accelerated { tpid, tci } => {
            let slot = rig.set.register(&tap("run", "lo", 1)).expect("a slot");
            rig.run_accelerated(tpid, tci, &case.frame).unwrap_or_else(refused);
            case.check(&rig.drain(), slot, Direction::Received, length);
        }
        Way::Veth(offload) => {
            wire.send(rig, offload, &case.frame);
            wire.await_received(rig);
            let closed = rig.drain();
            case.check(&closed, wire.a, Direction::Sent, length);
            // The kernel moves the outermost tag of what a device receives to the metadata, before the tap.
            let moved = if case.tags[0].is_some() { 4 } else { 0 };
            case.check(&closed, wire.b, Direction::Received, length - moved);
        }
        Way::Unreceived => {
            wire.send(rig, None, &case.frame);
            case.check(&rig.drain(), wire.a, Direction::Sent, length);
        }
        Way::Tun => {
            wire.write(rig, &case.frame);
            case.check(&rig.drain(), wire.raw, Direction::Received, length);
        }
    }
}
