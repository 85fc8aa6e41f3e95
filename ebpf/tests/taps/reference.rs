//! What a frame's key must be, by a parser that is not ours.
//!
//! Pure, and in two steps. [`whole`] translates what `etherparse` makes of the whole frame. It and the programs differ
//! on purpose in places, and each is a [`Difference`]. [`expected`] walks the headers one by one with the same crate's
//! header parsers, does what the programs should do in those places, and notes them. So where nothing is noted, the
//! crate's own answer binds; where something is, the walk's does.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use etherparse::{
    ArpPacketSlice, Ethernet2HeaderSlice, Icmpv4Slice, Icmpv6Slice, IpAuthHeaderSlice, Ipv4HeaderSlice,
    Ipv6FragmentHeaderSlice, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice, LaxLinkExtSlice, LaxNetSlice,
    LaxSlicedPacket, LinkSlice, SingleVlanHeaderSlice, TcpHeaderSlice, TransportSlice, UdpHeaderSlice,
};
use trunkline_ebpf::{Conversation, Direction, FlowKey, Slot, Tag};

use crate::frames::{ethertype, protocol};

/// Where programs and `etherparse` differ on purpose, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Difference {
    /// 0x9100 was never a standard's tag: counted by its ethertype.
    OldTag,
    /// What `MACsec` (IEEE 802.1AE) carries is no business of a tap, even where it is not encrypted.
    Macsec,
    /// The crate believes the version field. A host believes the ethertype and drops such a packet.
    VersionAgainstEthertype,
    /// A total length below the header's own makes no sense; the crate takes the frame's instead.
    ImpossibleLength,
    /// Options that the frame does not have: the addresses before them are there all the same.
    OptionsCutShort,
    /// The first fragment names its ports; the crate looks into no fragment.
    FirstFragment,
    /// Behind a later fragment's header is payload, whatever the next header says (RFC 8200 4.5): the crate goes on.
    LaterFragment,
    /// Ports and flags need fewer bytes than the header that the crate asks for.
    TransportCutShort,
    /// A data offset that makes no sense, or options cut short: ports and flags are there all the same.
    TcpOffset,
    /// UDP-Lite, SCTP and DCCP have their ports where UDP has them; the crate does not know them.
    OtherPorts,
    /// ICMP in IPv6, and the reverse, is a protocol like any other; the crate parses it.
    IcmpOfOtherFamily,
    /// IGMP is a protocol like any other; the crate parses it.
    Igmp,
    /// Receivers take extension headers in any order (RFC 8200 4.1); the crate wants hop-by-hop first.
    HopByHopLater,
    /// Mobility, HIP and shim6: the crate does not walk over them.
    OtherExtension,
    /// The next header is known from the first byte, though the rest is cut short.
    ExtensionCutShort,
    /// An authentication header of less than its smallest length: walked over by what it says.
    ShortAuthentication,
    /// More than eight extension headers are not walked over.
    ManyExtensions,
    /// ARP for other than IPv4 over Ethernet is counted by its ethertype.
    ForeignArp,
}

/// What must become of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) key: FlowKey,
    pub(crate) tcp_flags: u16,
    pub(crate) tos: u8,
    pub(crate) first_fragment: bool,
    pub(crate) differences: BTreeSet<Difference>,
}

fn tag(ethertype: u16, vid: u16) -> Tag {
    Tag { vid, service: ethertype == ethertype::STAG }
}

fn is_tag(ethertype: u16) -> bool {
    [ethertype::CTAG, ethertype::STAG].contains(&ethertype)
}

/// Frames of IEEE 802.3 have a length there.
fn shown(ethertype: u16) -> u16 {
    if ethertype < 0x0600 { 4 } else { ethertype }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    number(bytes, at).map(u16::from_be_bytes)
}

/// The crate's answer for the whole frame.
pub(crate) fn whole(frame: &[u8], slot: Slot, direction: Direction) -> FlowKey {
    let packet = LaxSlicedPacket::from_ethernet(frame).expect("fourteen bytes at least");
    let Some(LinkSlice::Ethernet2(link)) = &packet.link else { panic!("{packet:?}") };
    let (mut tags, mut ethertype, mut more) = (Vec::new(), link.ether_type().0, false);
    for extension in &packet.link_exts {
        let LaxLinkExtSlice::Vlan(vlan) = extension else { continue };
        tags.push(tag(ethertype, vlan.vlan_identifier().value()));
        ethertype = vlan.ether_type().0;
    }
    if tags.len() > 2 {
        more = true;
    }
    let tags = [tags.first().copied(), tags.get(1).copied()];
    let (mut truncated, mut later) = (packet.stop_err.is_some() || is_tag(ethertype), false);
    let conversation = match &packet.net {
        Some(LaxNetSlice::Arp(arp)) => arp_conversation(arp),
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            later = header.fragments_offset().value() > 0;
            let (src, dst) = (header.source_addr(), header.destination_addr());
            Some(carried(src.into(), dst.into(), ip.payload_ip_number().0, packet.transport.as_ref()))
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            later = ip.is_payload_fragmented();
            let (src, dst) = (header.source_addr(), header.destination_addr());
            Some(carried(src.into(), dst.into(), ip.payload().ip_number.0, packet.transport.as_ref()))
        }
        None => None,
    };
    let conversation = conversation.unwrap_or_else(|| {
        truncated |= ethertype == ethertype::ARP;
        let (src, dst) = (link.source(), link.destination());
        Conversation::Ethernet { src, dst, ethertype: shown(ethertype) }
    });
    FlowKey::new(slot, direction, tags, conversation).marked(later, truncated, more)
}

fn carried(src: IpAddr, dst: IpAddr, protocol: u8, transport: Option<&TransportSlice<'_>>) -> Conversation {
    let (src_port, dst_port) = match transport {
        Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        Some(TransportSlice::Icmpv4(icmp)) => {
            return Conversation::Icmp { src, dst, kind: icmp.type_u8(), code: icmp.code_u8() };
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            return Conversation::Icmp { src, dst, kind: icmp.type_u8(), code: icmp.code_u8() };
        }
        _ => (0, 0),
    };
    Conversation::Ip { src, dst, protocol, src_port, dst_port }
}

fn arp_conversation(arp: &ArpPacketSlice<'_>) -> Option<Conversation> {
    let sender: [u8; 4] = arp.sender_protocol_addr().try_into().ok()?;
    let target: [u8; 4] = arp.target_protocol_addr().try_into().ok()?;
    let ours =
        arp.hw_addr_type().0 == 1 && arp.proto_addr_type().0 == ethertype::IPV4 && arp.hw_addr_size() == 6;
    ours.then(|| Conversation::Arp {
        sender: sender.into(),
        target: target.into(),
        operation: arp.operation().0,
    })
}

/// The walk, as far as it got.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent of each other")]
struct Walk {
    later: bool,
    truncated: bool,
    more_tags: bool,
    first_fragment: bool,
    tcp_flags: u16,
    tos: u8,
    differences: BTreeSet<Difference>,
}

/// Protocol and ports, or type and code of ICMP.
#[derive(Clone, Copy)]
enum Carried {
    Ports(u8, u16, u16),
    Icmp(u8, u8),
}

/// What the programs must make of a frame.
pub(crate) fn expected(frame: &[u8], slot: Slot, direction: Direction) -> Expected {
    let mut walk = Walk::default();
    let link = Ethernet2HeaderSlice::from_slice(frame).expect("fourteen bytes at least");
    let (mut ethertype, mut rest, mut tags) = (link.ether_type().0, &frame[14..], Vec::new());
    while is_tag(ethertype) && tags.len() < 3 {
        let Ok(vlan) = SingleVlanHeaderSlice::from_slice(rest) else { break };
        tags.push(tag(ethertype, vlan.vlan_identifier().value()));
        (ethertype, rest) = (vlan.ether_type().0, &rest[4..]);
    }
    walk.more_tags = tags.len() > 2;
    let conversation = match ethertype {
        ethertype::IPV4 => walk.ipv4(rest),
        ethertype::IPV6 => walk.ipv6(rest),
        ethertype::ARP => walk.arp(rest),
        _ => None,
    };
    match ethertype {
        0x9100 => walk.note(Difference::OldTag),
        0x88e5 => walk.note(Difference::Macsec),
        _ => {}
    }
    let conversation = conversation.unwrap_or_else(|| {
        let known = [ethertype::IPV4, ethertype::IPV6, ethertype::ARP].contains(&ethertype);
        walk.truncated = known || is_tag(ethertype);
        Conversation::Ethernet { src: link.source(), dst: link.destination(), ethertype: shown(ethertype) }
    });
    let tags = [tags.first().copied(), tags.get(1).copied()];
    let key =
        FlowKey::new(slot, direction, tags, conversation).marked(walk.later, walk.truncated, walk.more_tags);
    Expected {
        key,
        tcp_flags: walk.tcp_flags,
        tos: walk.tos,
        first_fragment: walk.first_fragment,
        differences: walk.differences,
    }
}

impl Walk {
    fn note(&mut self, difference: Difference) {
        self.differences.insert(difference);
    }

    fn cut(&mut self, protocol: u8) -> Carried {
        self.truncated = true;
        Carried::Ports(protocol, 0, 0)
    }

    fn arp(&mut self, bytes: &[u8]) -> Option<Conversation> {
        let arp = ArpPacketSlice::from_slice(bytes).ok()?;
        let ours = arp_conversation(&arp);
        if ours.is_none() {
            self.note(Difference::ForeignArp);
        }
        ours
    }

    fn ipv4(&mut self, bytes: &[u8]) -> Option<Conversation> {
        let (src, dst) = (Ipv4Addr::from(number(bytes, 12)?), Ipv4Addr::from(number(bytes, 16)?));
        let carried = match Ipv4HeaderSlice::from_slice(bytes) {
            Ok(header) => self.in_ipv4(&header, bytes),
            Err(etherparse::err::ipv4::HeaderSliceError::Len(_)) => {
                self.note(Difference::OptionsCutShort);
                self.tos = bytes[1];
                self.cut(bytes[9])
            }
            Err(etherparse::err::ipv4::HeaderSliceError::Content(_)) => {
                if bytes[0] >> 4 != 4 {
                    self.note(Difference::VersionAgainstEthertype);
                }
                return None;
            }
        };
        Some(conversation(src.into(), dst.into(), carried))
    }

    fn in_ipv4(&mut self, header: &Ipv4HeaderSlice<'_>, bytes: &[u8]) -> Carried {
        let (own, total) = (header.slice().len(), usize::from(header.total_len()));
        let number = header.protocol().0;
        self.tos = bytes[1];
        if total != 0 && total < own {
            self.note(Difference::ImpossibleLength);
            return self.cut(number);
        }
        let payload = bytes.get(own..total).unwrap_or(&bytes[own..]);
        if header.fragments_offset().value() > 0 {
            self.later = true;
            if number == protocol::AH {
                self.note(Difference::LaterFragment);
            }
            return Carried::Ports(number, 0, 0);
        }
        if header.more_fragments() {
            self.first_fragment = true;
            self.note(Difference::FirstFragment);
        }
        if number != protocol::AH {
            return self.transport(number, payload, true);
        }
        if payload.len() < 4 {
            return self.cut(number);
        }
        self.authentication(payload);
        match payload.get((usize::from(payload[1]) + 2) * 4..) {
            Some(rest) => self.transport(payload[0], rest, true),
            None => self.cut(payload[0]),
        }
    }

    fn authentication(&mut self, bytes: &[u8]) {
        if IpAuthHeaderSlice::from_slice(bytes).is_err() {
            self.note(Difference::ShortAuthentication);
        }
    }

    fn ipv6(&mut self, bytes: &[u8]) -> Option<Conversation> {
        let Ok(header) = Ipv6HeaderSlice::from_slice(bytes) else {
            if bytes.first().is_some_and(|first| first >> 4 != 6) {
                self.note(Difference::VersionAgainstEthertype);
            }
            return None;
        };
        self.tos = header.traffic_class();
        let length = usize::from(header.payload_length());
        let payload =
            if length == 0 { &bytes[40..] } else { bytes.get(40..40 + length).unwrap_or(&bytes[40..]) };
        let carried = self.chain(header.next_header().0, payload);
        let (src, dst) = (header.source_addr(), header.destination_addr());
        Some(conversation(src.into(), dst.into(), carried))
    }

    fn chain(&mut self, mut next: u8, mut rest: &[u8]) -> Carried {
        use protocol::{AH, FRAGMENT, HIP, HOP_BY_HOP, MOBILITY, OPTIONS, ROUTING, SHIM6};
        for place in 0..9 {
            if ![HOP_BY_HOP, ROUTING, FRAGMENT, AH, OPTIONS, MOBILITY, HIP, SHIM6].contains(&next) {
                return self.transport(next, rest, false);
            }
            if next == HOP_BY_HOP && place > 0 {
                self.note(Difference::HopByHopLater);
            }
            if [MOBILITY, HIP, SHIM6].contains(&next) {
                self.note(Difference::OtherExtension);
            }
            if place == 8 {
                self.note(Difference::ManyExtensions);
                break;
            }
            let Some(first) = number::<4>(rest, 0) else { break };
            let words = usize::from(first[1]);
            let length = match next {
                FRAGMENT => 8,
                AH => (words + 2) * 4,
                _ => (words + 1) * 8,
            };
            match next {
                AH => self.authentication(rest),
                FRAGMENT if Ipv6FragmentHeaderSlice::from_slice(rest).is_err() => {
                    self.note(Difference::ExtensionCutShort);
                }
                FRAGMENT => {}
                _ if Ipv6RawExtHeaderSlice::from_slice(rest).is_err() => {
                    self.note(Difference::ExtensionCutShort);
                }
                _ => {}
            }
            if next == FRAGMENT {
                let field = u16::from_be_bytes([first[2], first[3]]);
                if field & 0xfff8 != 0 {
                    self.later = true;
                    if [HOP_BY_HOP, ROUTING, FRAGMENT, AH, OPTIONS].contains(&first[0]) {
                        self.note(Difference::LaterFragment);
                    }
                    return Carried::Ports(first[0], 0, 0);
                }
                if field & 1 == 1 {
                    self.first_fragment = true;
                    self.note(Difference::FirstFragment);
                }
            }
            next = first[0];
            match rest.get(length..) {
                Some(behind) => rest = behind,
                None => break,
            }
        }
        self.cut(next)
    }

    fn transport(&mut self, number: u8, bytes: &[u8], version_4: bool) -> Carried {
        use protocol::{DCCP, ICMP, ICMPV6, SCTP, TCP, UDP, UDP_LITE};
        let ports = word(bytes, 0).zip(word(bytes, 2));
        let whole = match number {
            TCP => TcpHeaderSlice::from_slice(bytes).is_ok(),
            UDP => UdpHeaderSlice::from_slice(bytes).is_ok(),
            ICMP => Icmpv4Slice::from_slice(bytes).is_ok(),
            ICMPV6 => Icmpv6Slice::from_slice(bytes).is_ok(),
            _ => true,
        };
        match number {
            TCP => {
                if !whole {
                    let enough = bytes.len() >= 20;
                    self.note(if enough { Difference::TcpOffset } else { Difference::TransportCutShort });
                }
                match word(bytes, 12) {
                    Some(flags) => self.tcp_flags = flags & 0x0fff,
                    None => self.truncated = true,
                }
                ports.map_or(Carried::Ports(number, 0, 0), |(src, dst)| Carried::Ports(number, src, dst))
            }
            UDP | UDP_LITE | SCTP | DCCP => {
                if number != UDP {
                    self.note(Difference::OtherPorts);
                } else if !whole {
                    self.note(Difference::TransportCutShort);
                }
                match ports {
                    Some((src, dst)) => Carried::Ports(number, src, dst),
                    None => self.cut(number),
                }
            }
            ICMP | ICMPV6 if version_4 == (number == ICMP) => {
                if !whole {
                    self.note(Difference::TransportCutShort);
                }
                match number_of_icmp(bytes) {
                    Some((kind, code)) => Carried::Icmp(kind, code),
                    None => self.cut(number),
                }
            }
            _ => {
                match number {
                    ICMP | ICMPV6 => self.note(Difference::IcmpOfOtherFamily),
                    2 => self.note(Difference::Igmp),
                    _ => {}
                }
                Carried::Ports(number, 0, 0)
            }
        }
    }
}

fn number_of_icmp(bytes: &[u8]) -> Option<(u8, u8)> {
    number(bytes, 0).map(|[kind, code]| (kind, code))
}

fn conversation(src: IpAddr, dst: IpAddr, carried: Carried) -> Conversation {
    match carried {
        Carried::Ports(protocol, src_port, dst_port) => {
            Conversation::Ip { src, dst, protocol, src_port, dst_port }
        }
        Carried::Icmp(kind, code) => Conversation::Icmp { src, dst, kind, code },
    }
}
