//! What IP carries: ports, TCP flags, ICMP.

use super::{Case, RUN, case, datagram, datagram6, icmp4, icmp6, ip4, ip6, v4, v6};
use crate::frames::{DST6, SRC_MAC, extension, icmp, join, protocol, tcp, tcp_with};

/// TCP, flag by flag.
pub(super) fn flags() -> Vec<Case> {
    use protocol::TCP;
    let flags = [
        ("FIN", 0x001),
        ("SYN", 0x002),
        ("RST", 0x004),
        ("PSH", 0x008),
        ("ACK", 0x010),
        ("URG", 0x020),
        ("ECE", 0x040),
        ("CWR", 0x080),
        ("AE (RFC 9768)", 0x100),
        ("SYN and ACK", 0x012),
        ("FIN, PSH and ACK", 0x019),
        ("RST and ACK", 0x014),
        ("all twelve bits", 0xfff),
        ("none", 0x000),
    ];
    flags
        .into_iter()
        .map(|(name, flags)| {
            let frame = v4(TCP, &tcp(5000, 80, flags, b""));
            case(format!("TCP, {name}"), RUN, frame, ip4(TCP, 5000, 80)).flags(flags)
        })
        .collect()
}

/// Everything that has ports, whole and cut short.
pub(super) fn ports() -> Vec<Case> {
    use protocol::{DCCP, SCTP, TCP, UDP, UDP_LITE};
    let ports = [("UDP", UDP), ("UDP-Lite", UDP_LITE), ("SCTP", SCTP), ("DCCP", DCCP)];
    let mut cases: Vec<Case> = ports
        .into_iter()
        .flat_map(|(name, protocol)| {
            let payload = join(&[&5000_u16.to_be_bytes(), &53_u16.to_be_bytes(), &[0; 12]]);
            [
                case(format!("{name} over IPv4"), RUN, v4(protocol, &payload), ip4(protocol, 5000, 53)),
                case(format!("{name} over IPv6"), RUN, v6(protocol, &payload), ip6(protocol, 5000, 53)),
                case(
                    format!("{name}, ports cut short"),
                    RUN,
                    v4(protocol, &payload[..3]),
                    ip4(protocol, 0, 0),
                )
                .truncated(),
            ]
        })
        .collect();
    cases.extend([
        case("TCP over IPv6", RUN, v6(TCP, &tcp(5000, 443, 0x18, b"x")), ip6(TCP, 5000, 443)).flags(0x18),
        case(
            "TCP with options",
            RUN,
            v4(TCP, &tcp_with(5000, 80, 0x02, 7, &[2, 4, 5, 180, 1, 3, 3, 7], b"")),
            ip4(TCP, 5000, 80),
        )
        .flags(0x02),
        case("TCP, data offset below five words", RUN, v4(TCP, &tcp_with(5000, 80, 0x10, 4, &[], b"")), {
            ip4(TCP, 5000, 80)
        })
        .flags(0x10),
        case("TCP, data offset beyond the frame", RUN, v4(TCP, &tcp_with(5000, 80, 0x10, 15, &[], b"")), {
            ip4(TCP, 5000, 80)
        })
        .flags(0x10),
        case("TCP cut before its flags", RUN, v4(TCP, &tcp(5000, 80, 0x10, b"")[..13]), ip4(TCP, 5000, 80))
            .truncated(),
        case("TCP cut in its ports", RUN, v4(TCP, &tcp(5000, 80, 0x10, b"")[..3]), ip4(TCP, 0, 0))
            .truncated(),
        case("TCP cut behind its flags", RUN, v4(TCP, &tcp(5000, 80, 0x10, b"")[..14]), {
            ip4(TCP, 5000, 80)
        })
        .flags(0x10),
    ]);
    cases
}

/// What says its type instead of ports, and what has neither.
pub(super) fn icmp_and_tunnels() -> Vec<Case> {
    use protocol::{ICMP, ICMPV6};
    let neighbour = |kind| v6(ICMPV6, &icmp(kind, 0, &join(&[&[0; 4], &DST6, &[1, 1], &SRC_MAC])));
    vec![
        case("ICMP echo", RUN, v4(ICMP, &icmp(8, 0, &[0; 36])), icmp4(8, 0)),
        case("ICMP echo reply", RUN, v4(ICMP, &icmp(0, 0, &[0; 36])), icmp4(0, 0)),
        case(
            "ICMP port unreachable: its own addresses, not the quoted ones",
            RUN,
            v4(ICMP, &icmp(3, 3, &join(&[&[0; 4], &datagram()]))),
            icmp4(3, 3),
        ),
        case("ICMP cut after its type", RUN, v4(ICMP, &[8]), icmp4(0, 0)).truncated(),
        case("ICMPv6 echo", RUN, v6(ICMPV6, &icmp(128, 0, &[0; 36])), icmp6(128, 0)),
        case(
            "ICMPv6 packet too big",
            RUN,
            v6(ICMPV6, &icmp(2, 0, &join(&[&[0; 4], &datagram6()]))),
            icmp6(2, 0),
        ),
        case("neighbour solicitation", RUN, neighbour(135), icmp6(135, 0)),
        case("neighbour advertisement", RUN, neighbour(136), icmp6(136, 0)),
        case(
            "multicast listener report behind hop by hop",
            RUN,
            v6(protocol::HOP_BY_HOP, &extension(ICMPV6, 0, &icmp(143, 0, &[0; 24]))),
            icmp6(143, 0),
        ),
        case("ICMPv6 cut after its type", RUN, v6(ICMPV6, &[128]), icmp6(0, 0)).truncated(),
        case("ICMP inside IPv6 is a protocol like any other", RUN, v6(ICMP, &icmp(8, 0, &[0; 8])), {
            ip6(ICMP, 0, 0)
        }),
        case("ICMPv6 inside IPv4 is a protocol like any other", RUN, v4(ICMPV6, &icmp(128, 0, &[0; 8])), {
            ip4(ICMPV6, 0, 0)
        }),
        case("IPv4 inside IPv4: the outer addresses", RUN, v4(4, &datagram()), ip4(4, 0, 0)),
        case("IPv6 inside IPv4: the outer addresses", RUN, v4(41, &datagram6()), ip4(41, 0, 0)),
    ]
}
