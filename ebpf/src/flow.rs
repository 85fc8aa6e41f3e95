//! What a tap saw, in Trunkline's words: keys, totals, and a closed epoch with its proof.
//!
//! Pure. Reads the raw layouts, decides no timeout and names nobody.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::{AddAssign, Sub};

use crate::layout::{
    KIND_ARP, KIND_ETHERNET, KIND_IPV4, KIND_IPV6, MARK_FRAGMENT, MARK_MORE_TAGS, MARK_TRUNCATED,
    RawCounters, RawKey, RawValue, TAG_8021AD, TAG_PRESENT,
};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const SEEN_FIRST_FRAGMENT: u8 = 0x01;

/// What the programs know a tap by: an index below the set's number of taps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u16);

/// Which way a frame went, as the pod sees it; on an uplink, as the node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// The pod received it.
    Received,
    /// The pod sent it.
    Sent,
}

impl Direction {
    /// Both, in the order of their numbers in the maps.
    pub const BOTH: [Self; 2] = [Self::Received, Self::Sent];

    pub(crate) fn of(raw: u8) -> Self {
        if raw == 0 { Self::Received } else { Self::Sent }
    }

    /// A word for labels, tables and records: `received` or `sent`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Sent => "sent",
        }
    }
}

/// A VLAN tag as it was on the wire (IEEE 802.1Q 9.3), wherever the kernel kept it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag {
    /// VLAN id, 0–4095; 0 is a priority tag.
    pub vid: u16,
    /// Whether it is a service tag (802.1ad, TPID 0x88a8).
    pub service: bool,
}

impl Tag {
    fn raw(self) -> u16 {
        TAG_PRESENT | if self.service { TAG_8021AD } else { 0 } | (self.vid & 0x0fff)
    }

    fn of(raw: u16) -> Option<Self> {
        (raw & TAG_PRESENT != 0).then_some(Self { vid: raw & 0x0fff, service: raw & TAG_8021AD != 0 })
    }
}

/// Who talks to whom, by what the frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Conversation {
    /// IP. Ports are 0 where the protocol has none, and in fragments but the first.
    Ip {
        /// Source address.
        src: IpAddr,
        /// Destination address.
        dst: IpAddr,
        /// The protocol, behind any extension headers.
        protocol: u8,
        /// Source port.
        src_port: u16,
        /// Destination port.
        dst_port: u16,
    },
    /// ICMP, version 4 or 6.
    Icmp {
        /// Source address.
        src: IpAddr,
        /// Destination address.
        dst: IpAddr,
        /// ICMP type.
        kind: u8,
        /// ICMP code.
        code: u8,
    },
    /// ARP for IPv4 over Ethernet (RFC 826).
    Arp {
        /// Sender's protocol address.
        sender: Ipv4Addr,
        /// Target's protocol address.
        target: Ipv4Addr,
        /// 1 request, 2 reply.
        operation: u16,
    },
    /// Anything else, by its ethertype; length fields of IEEE 802.3 are all 0x0004.
    Ethernet {
        /// Source address.
        src: [u8; 6],
        /// Destination address.
        dst: [u8; 6],
        /// Ethertype of the frame, behind its tags; 0 where the frame ended before it.
        ethertype: u16,
    },
}

/// What tells one flow of a tap from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey(RawKey);

impl FlowKey {
    /// The raw key without the processor, which is the reader's business only.
    pub(crate) fn of(mut raw: RawKey) -> Self {
        raw.cpu = 0;
        Self(raw)
    }

    /// The key that programs would make of such a frame.
    pub fn new(slot: Slot, direction: Direction, tags: [Option<Tag>; 2], conversation: Conversation) -> Self {
        let mut raw = RawKey { tap: slot.0, direction: direction as u8, ..RawKey::default() };
        [raw.outer, raw.inner] = tags.map(|tag| tag.map_or(0, Tag::raw));
        match conversation {
            Conversation::Ip { src, dst, protocol, src_port, dst_port } => {
                raw.set_addresses(src, dst);
                (raw.protocol, raw.sport, raw.dport) = (protocol, src_port.to_be(), dst_port.to_be());
            }
            Conversation::Icmp { src, dst, kind, code } => {
                raw.set_addresses(src, dst);
                raw.protocol = if src.is_ipv4() { ICMP } else { ICMPV6 };
                (raw.sport, raw.dport) = (kind.into(), code.into());
            }
            Conversation::Arp { sender, target, operation } => {
                raw.kind = KIND_ARP;
                raw.src[..4].copy_from_slice(&sender.octets());
                raw.dst[..4].copy_from_slice(&target.octets());
                raw.sport = operation.to_be();
            }
            Conversation::Ethernet { src, dst, ethertype } => {
                raw.kind = KIND_ETHERNET;
                raw.src[..6].copy_from_slice(&src);
                raw.dst[..6].copy_from_slice(&dst);
                raw.sport = ethertype.to_be();
            }
        }
        Self(raw)
    }

    /// The key of later fragments, or of a frame that ends too early: ports are 0 then.
    #[must_use]
    pub fn marked(mut self, later_fragment: bool, truncated: bool, more_tags: bool) -> Self {
        let marks =
            [(later_fragment, MARK_FRAGMENT), (truncated, MARK_TRUNCATED), (more_tags, MARK_MORE_TAGS)];
        self.0.marks = marks.into_iter().filter(|(set, _)| *set).map(|(_, mark)| mark).sum();
        self
    }

    /// The tap.
    pub fn slot(&self) -> Slot {
        Slot(self.0.tap)
    }

    /// The direction.
    pub fn direction(&self) -> Direction {
        Direction::of(self.0.direction)
    }

    /// The outermost tag on the wire.
    pub fn outer(&self) -> Option<Tag> {
        Tag::of(self.0.outer)
    }

    /// The tag behind it.
    pub fn inner(&self) -> Option<Tag> {
        Tag::of(self.0.inner)
    }

    /// Whether there were more than two tags.
    pub fn more_tags(&self) -> bool {
        self.0.marks & MARK_MORE_TAGS != 0
    }

    /// Whether these are fragments other than the first, whose ports nobody knows.
    pub fn later_fragment(&self) -> bool {
        self.0.marks & MARK_FRAGMENT != 0
    }

    /// Whether the frame ended, or made no sense, behind what is here.
    pub fn truncated(&self) -> bool {
        self.0.marks & MARK_TRUNCATED != 0
    }

    /// Who talks to whom.
    pub fn conversation(&self) -> Conversation {
        let raw = &self.0;
        let address = |bytes: [u8; 16]| {
            if raw.kind == KIND_IPV4 {
                IpAddr::V4(first_four(bytes))
            } else {
                IpAddr::V6(Ipv6Addr::from(bytes))
            }
        };
        match raw.kind {
            KIND_IPV4 | KIND_IPV6 => {
                let (src, dst) = (address(raw.src), address(raw.dst));
                let own_icmp = if raw.kind == KIND_IPV4 { ICMP } else { ICMPV6 };
                if raw.protocol == own_icmp && raw.marks & MARK_FRAGMENT == 0 {
                    let number = |port: u16| u8::try_from(port).unwrap_or(u8::MAX);
                    return Conversation::Icmp { src, dst, kind: number(raw.sport), code: number(raw.dport) };
                }
                Conversation::Ip {
                    src,
                    dst,
                    protocol: raw.protocol,
                    src_port: u16::from_be(raw.sport),
                    dst_port: u16::from_be(raw.dport),
                }
            }
            KIND_ARP => Conversation::Arp {
                sender: first_four(raw.src),
                target: first_four(raw.dst),
                operation: u16::from_be(raw.sport),
            },
            _ => Conversation::Ethernet {
                src: first_six(raw.src),
                dst: first_six(raw.dst),
                ethertype: u16::from_be(raw.sport),
            },
        }
    }

    /// The same conversation the other way: what answers have. `None` for ICMP, whose answers have another type,
    /// and for what has no addresses to turn round.
    #[must_use]
    pub fn reversed(&self) -> Option<Self> {
        match self.conversation() {
            Conversation::Ip { .. } => {
                let mut raw = self.0;
                (raw.src, raw.dst) = (raw.dst, raw.src);
                (raw.sport, raw.dport) = (raw.dport, raw.sport);
                raw.direction ^= 1;
                Some(Self(raw))
            }
            _ => None,
        }
    }
}

impl RawKey {
    fn set_addresses(&mut self, src: IpAddr, dst: IpAddr) {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(v4) => {
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&v4.octets());
                bytes
            }
            IpAddr::V6(v6) => v6.octets(),
        };
        self.kind = if src.is_ipv4() { KIND_IPV4 } else { KIND_IPV6 };
        (self.src, self.dst) = (octets(src), octets(dst));
    }
}

fn first_four(bytes: [u8; 16]) -> Ipv4Addr {
    Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])
}

fn first_six(bytes: [u8; 16]) -> [u8; 6] {
    [bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]]
}

/// How much: what the kernel handled, and what went over the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Socket buffers. One may stand for many packets (segmentation offload).
    pub skbs: u64,
    /// Sum of their lengths, bytes: what a device's own counters show.
    pub skb_bytes: u64,
    /// Packets on the wire: segments.
    pub packets: u64,
    /// Bytes on the wire, each segment's headers and tags included, the frame check sequence not.
    pub bytes: u64,
}

impl Totals {
    fn each(self, change: impl Fn(u64) -> u64) -> Self {
        Self {
            skbs: change(self.skbs),
            skb_bytes: change(self.skb_bytes),
            packets: change(self.packets),
            bytes: change(self.bytes),
        }
    }

    fn times(self, number: u32) -> Self {
        self.each(|count| count.saturating_mul(number.into()))
    }

    fn at_most(&self, other: &Self) -> bool {
        self.skbs <= other.skbs
            && self.skb_bytes <= other.skb_bytes
            && self.packets <= other.packets
            && self.bytes <= other.bytes
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.skbs += other.skbs;
        self.skb_bytes += other.skb_bytes;
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

impl Sub for Totals {
    type Output = Self;

    /// Wraps: counters of the kernel are 64 bits wide and may have been set back only by being made anew.
    fn sub(self, earlier: Self) -> Self {
        Self {
            skbs: self.skbs.wrapping_sub(earlier.skbs),
            skb_bytes: self.skb_bytes.wrapping_sub(earlier.skb_bytes),
            packets: self.packets.wrapping_sub(earlier.packets),
            bytes: self.bytes.wrapping_sub(earlier.bytes),
        }
    }
}

/// One flow's totals in one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTotals {
    /// How much.
    pub totals: Totals,
    /// First packet, nanoseconds of `CLOCK_MONOTONIC`, as coarse as the kernel's tick.
    pub first: u64,
    /// Last packet, likewise.
    pub last: u64,
    /// Round trip of the handshake, nanoseconds, where this flow's packet ended one.
    pub rtt: Option<u32>,
    /// OR of the TCP flags (12 bits, RFC 9293 3.1); 0 for other protocols.
    pub tcp_flags: u16,
    /// IPv4 TOS or IPv6 traffic class of the first packet.
    pub tos: u8,
    /// Whether a first fragment was among the packets.
    pub fragmented: bool,
    /// Source address of the first packet's Ethernet header.
    pub src_mac: [u8; 6],
    /// Its destination address.
    pub dst_mac: [u8; 6],
    /// One frame in so many was looked at, and the totals are scaled by it: an estimate. 1: exact.
    pub one_in: u32,
}

impl FlowTotals {
    /// `tick`: nanoseconds of one of the kernel's ticks.
    pub(crate) fn of(raw: &RawValue, tick: u64) -> Self {
        Self {
            totals: Totals {
                skbs: raw.skbs,
                skb_bytes: raw.bytes,
                packets: raw.packets,
                bytes: raw.wire_bytes,
            },
            first: raw.first,
            last: raw.first.saturating_add(u64::from(raw.lasted) * tick),
            rtt: (raw.rtt != 0).then_some(raw.rtt),
            tcp_flags: raw.tcp_flags,
            tos: raw.tos,
            fragmented: raw.seen & SEEN_FIRST_FRAGMENT != 0,
            src_mac: raw.src_mac,
            dst_mac: raw.dst_mac,
            one_in: 1,
        }
    }

    /// What one frame in so many stands for.
    pub(crate) fn scaled(self, one_in: u32) -> Self {
        Self { totals: self.totals.times(one_in), one_in, ..self }
    }

    /// Takes in what another processor, or a later epoch, counted of the same flow.
    pub fn merge(&mut self, other: &Self) {
        if other.first < self.first {
            (self.src_mac, self.dst_mac, self.tos) = (other.src_mac, other.dst_mac, other.tos);
        }
        self.totals += other.totals;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.rtt = other.rtt.or(self.rtt);
        self.tcp_flags |= other.tcp_flags;
        self.fragmented |= other.fragmented;
        self.one_in = self.one_in.max(other.one_in);
    }
}

/// One tap's counters in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Every frame.
    pub seen: Totals,
    /// Those of them for whose flow the map had no room.
    pub lost: Totals,
}

impl Counters {
    pub(crate) fn of(raw: &RawCounters) -> Self {
        Self {
            seen: Totals {
                skbs: raw.skbs,
                skb_bytes: raw.bytes,
                packets: raw.packets,
                bytes: raw.wire_bytes,
            },
            lost: Totals {
                skbs: raw.lost_skbs,
                skb_bytes: raw.lost_bytes,
                packets: raw.lost_packets,
                bytes: raw.lost_wire_bytes,
            },
        }
    }

    pub(crate) fn raw(&self) -> RawCounters {
        RawCounters {
            skbs: self.seen.skbs,
            bytes: self.seen.skb_bytes,
            packets: self.seen.packets,
            wire_bytes: self.seen.bytes,
            lost_skbs: self.lost.skbs,
            lost_bytes: self.lost.skb_bytes,
            lost_packets: self.lost.packets,
            lost_wire_bytes: self.lost.bytes,
        }
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.seen += other.seen;
        self.lost += other.lost;
    }
}

impl Sub for Counters {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { seen: self.seen - earlier.seen, lost: self.lost - earlier.lost }
    }
}

/// What one tap counted in one direction: in the epoch, and since it was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapTotals {
    /// The tap.
    pub slot: Slot,
    /// The direction.
    pub direction: Direction,
    /// In this epoch.
    pub epoch: Counters,
}

/// An epoch that no program writes to any more.
#[derive(Clone, Debug, Default)]
pub struct ClosedEpoch {
    /// Its number.
    pub epoch: u32,
    /// Its flows. One that several processors saw is here as often.
    pub flows: Vec<(FlowKey, FlowTotals)>,
    /// What every tap counted; taps without a frame are left out.
    pub taps: Vec<TapTotals>,
    /// Entries that the maps held.
    pub entries: usize,
    /// Taps of which flows are estimates.
    pub sampled: HashSet<Slot>,
}

impl ClosedEpoch {
    /// The same with each flow once.
    #[must_use]
    pub fn merged(self) -> Self {
        let mut merged = std::collections::HashMap::<FlowKey, FlowTotals>::new();
        for (key, totals) in self.flows {
            merged.entry(key).and_modify(|flow| flow.merge(&totals)).or_insert(totals);
        }
        Self { flows: merged.into_iter().collect(), ..self }
    }

    /// Taps whose flows and losses do not add up to their counters: never any, or a program is wrong. Of a sampled tap,
    /// what was looked at cannot be more than what was counted.
    pub fn inexact(&self) -> Vec<TapTotals> {
        let mut sums = std::collections::HashMap::<(Slot, Direction), Totals>::new();
        for (key, flow) in &self.flows {
            let looked_at = flow.totals.each(|count| count / u64::from(flow.one_in.max(1)));
            *sums.entry((key.slot(), key.direction())).or_default() += looked_at;
        }
        let mut wrong: Vec<TapTotals> = Vec::new();
        for tap in &self.taps {
            let mut sum = sums.remove(&(tap.slot, tap.direction)).unwrap_or_default();
            sum += tap.epoch.lost;
            let sampled = self.sampled.contains(&tap.slot);
            if sum != tap.epoch.seen && !(sampled && sum.at_most(&tap.epoch.seen)) {
                wrong.push(*tap);
            }
        }
        // Flows of a tap that counted nothing.
        wrong.extend(sums.into_keys().map(|(slot, direction)| TapTotals {
            slot,
            direction,
            epoch: Counters::default(),
        }));
        wrong
    }
}
