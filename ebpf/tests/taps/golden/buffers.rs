//! How a frame lies in its socket buffer, and which way it goes: directions, scattered headers, offload, no Ethernet.

use trunkline_ebpf::{Conversation, Direction};

use super::{CTAG, Case, STAG, Way, c, case, cut, datagram, datagram6, icmp6, ip4, ip6, other, s, v4, v6};
use crate::frames::{
    DST4, Ipv4, Ipv6, SRC4, arp, authentication, ethernet, ethertype, extension, fragment, icmp, join,
    protocol, tagged, tcp, tcp_with, udp,
};
use crate::packet::VnetHeader;

pub(super) fn directions() -> Vec<Case> {
    let udp4 = ip4(protocol::UDP, 5000, 53);
    let way = |hook, host_side| Way::Run { hook, host_side };
    [
        (Direction::Received, false),
        (Direction::Sent, false),
        (Direction::Received, true),
        (Direction::Sent, true),
    ]
    .into_iter()
    .flat_map(|(hook, host_side)| {
        let way = way(hook, host_side);
        let tcp6 = tagged(
            &[(CTAG, 100)],
            ethertype::IPV6,
            &Ipv6::of(protocol::TCP).packet(&tcp(5000, 80, 0x10, b"x")),
        );
        [
            case("direction", way, ethernet(ethertype::IPV4, &datagram()), udp4),
            case("direction, tagged", way, tcp6, ip6(protocol::TCP, 5000, 80)).tags(c(100), None).flags(0x10),
        ]
    })
    .collect()
}

/// Headers outside of the linear part: it ends after so many bytes.
pub(super) fn scattered() -> Vec<Case> {
    use protocol::{AH, FRAGMENT, HOP_BY_HOP, ICMPV6, OPTIONS, TCP, UDP};
    let body = [0x5a_u8; 6000];
    let linear = |hdr_len| Way::Veth(Some(VnetHeader { hdr_len, ..VnetHeader::default() }));
    let chain = extension(
        FRAGMENT,
        1,
        &fragment(AH, 0, true, &authentication(OPTIONS, &extension(UDP, 3, &udp(5000, 53, &body)))),
    );
    vec![
        case("IPv4 outside of the linear part", linear(14), v4(UDP, &udp(5000, 53, &body)), {
            ip4(UDP, 5000, 53)
        }),
        case("IPv4 half inside", linear(24), v4(UDP, &udp(5000, 53, &body)), ip4(UDP, 5000, 53)),
        case("ports half inside", linear(36), v4(UDP, &udp(5000, 53, &body)), ip4(UDP, 5000, 53)),
        case("TCP outside of the linear part", linear(34), v4(TCP, &tcp(5000, 80, 0x18, &body)), {
            ip4(TCP, 5000, 80)
        })
        .flags(0x18),
        case("TCP flags outside of the linear part", linear(46), v4(TCP, &tcp(5000, 80, 0x18, &body)), {
            ip4(TCP, 5000, 80)
        })
        .flags(0x18),
        case("IPv6 outside of the linear part", linear(14), v6(TCP, &tcp(5000, 80, 0x10, &body)), {
            ip6(TCP, 5000, 80)
        })
        .flags(0x10),
        case("a chain outside of the linear part", linear(14), v6(HOP_BY_HOP, &chain), ip6(UDP, 5000, 53))
            .first_fragment(),
        case(
            "ICMPv6 outside of the linear part",
            linear(54),
            v6(ICMPV6, &icmp(128, 0, &body)),
            icmp6(128, 0),
        ),
        case(
            "two tags outside of the linear part",
            linear(14),
            {
                tagged(&[(STAG, 200), (CTAG, 100)], ethertype::IPV4, &Ipv4::of(UDP).packet(&udp(1, 2, &body)))
            },
            ip4(UDP, 1, 2),
        )
        .tags(s(200), Some(c(100))),
        case(
            "ARP outside of the linear part",
            linear(14),
            ethernet(ethertype::ARP, &join(&[&arp(1, SRC4, DST4), &body])),
            Conversation::Arp { sender: SRC4.into(), target: DST4.into(), operation: 1 },
        ),
        case("another ethertype, outside of the linear part", linear(14), ethernet(0x88cc, &body), {
            other(0x88cc)
        }),
    ]
}

/// One socket buffer that stands for many packets.
pub(super) fn offloaded() -> Vec<Case> {
    use protocol::{TCP, UDP};
    let way = |gso_type, tags: u16, ip: u16, transport: u16, gso_size| {
        let csum_start = 14 + 4 * tags + ip;
        let (header, csum_offset) = (csum_start + transport, if gso_type == 5 { 6 } else { 16 });
        Way::Veth(Some(VnetHeader { flags: 1, gso_type, hdr_len: header, gso_size, csum_start, csum_offset }))
    };
    let body = |bytes| vec![0x5a_u8; bytes];
    let tcp6 = |bytes: usize| Ipv6::of(TCP).packet(&tcp(5000, 80, 0x10, &body(bytes)));
    let options = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    vec![
        case(
            "TCP over IPv4, ten segments",
            way(1, 0, 20, 20, 1000),
            v4(TCP, &tcp(5000, 80, 0x10, &body(10_000))),
            ip4(TCP, 5000, 80),
        )
        .flags(0x10)
        .wire(10, 10_000 + 10 * 54),
        case(
            "TCP, the last segment shorter",
            way(1, 0, 20, 20, 1448),
            v4(TCP, &tcp(5000, 80, 0x18, &body(20_001))),
            ip4(TCP, 5000, 80),
        )
        .flags(0x18)
        .wire(14, 20_001 + 14 * 54),
        case(
            "TCP with options, which every segment repeats",
            way(1, 0, 20, 32, 1400),
            v4(TCP, &tcp_with(5000, 80, 0x10, 8, &options, &body(7_000))),
            ip4(TCP, 5000, 80),
        )
        .flags(0x10)
        .wire(5, 7_000 + 5 * 66),
        case("TCP over IPv6", way(4, 0, 40, 20, 1000), ethernet(ethertype::IPV6, &tcp6(5_000)), {
            ip6(TCP, 5000, 80)
        })
        .flags(0x10)
        .wire(5, 5_000 + 5 * 74),
        case(
            "TCP over IPv6, tagged",
            way(4, 1, 40, 20, 1000),
            tagged(&[(CTAG, 100)], ethertype::IPV6, &tcp6(5_000)),
            ip6(TCP, 5000, 80),
        )
        .flags(0x10)
        .tags(c(100), None)
        .wire(5, 5_000 + 5 * 78),
        case(
            "TCP over IPv4, two tags",
            way(1, 2, 20, 20, 1000),
            {
                tagged(
                    &[(STAG, 200), (CTAG, 100)],
                    ethertype::IPV4,
                    &Ipv4::of(TCP).packet(&tcp(5000, 80, 0x10, &body(3_000))),
                )
            },
            ip4(TCP, 5000, 80),
        )
        .flags(0x10)
        .tags(s(200), Some(c(100)))
        .wire(3, 3_000 + 3 * 62),
        case("UDP over IPv4", way(5, 0, 20, 8, 1200), v4(UDP, &udp(5000, 443, &body(6_100))), {
            ip4(UDP, 5000, 443)
        })
        .wire(6, 6_100 + 6 * 42),
        case("UDP over IPv6", way(5, 0, 40, 8, 1200), v6(UDP, &udp(5000, 443, &body(6_000))), {
            ip6(UDP, 5000, 443)
        })
        .wire(5, 6_000 + 5 * 62),
    ]
}

/// Packets of a device without Ethernet headers.
pub(super) fn without_ethernet() -> Vec<Case> {
    let none = |ethertype| Conversation::Ethernet { src: [0; 6], dst: [0; 6], ethertype };
    vec![
        case("IPv4", Way::Tun, datagram(), ip4(protocol::UDP, 5000, 53)),
        case(
            "IPv6 with a chain",
            Way::Tun,
            Ipv6::of(protocol::OPTIONS).packet(&extension(protocol::TCP, 0, &tcp(5000, 80, 0x02, b""))),
            ip6(protocol::TCP, 5000, 80),
        )
        .flags(0x02),
        case("IPv4 header cut after 13 bytes", Way::Tun, cut(&datagram(), 13), none(ethertype::IPV4))
            .truncated(),
        case("IPv6 header cut after 1 byte", Way::Tun, cut(&datagram6(), 1), none(ethertype::IPV6))
            .truncated(),
    ]
}
