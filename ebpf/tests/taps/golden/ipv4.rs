//! IPv4: options, fragments, lengths that are wrong.

use super::{Case, RUN, VETH, case, cut, ip4, other};
use crate::frames::{Ipv4, authentication, ethernet, ethertype, protocol, tcp, udp};

fn with(header: Ipv4<'_>, payload: &[u8]) -> Vec<u8> {
    ethernet(ethertype::IPV4, &header.packet(payload))
}

fn base<'a>() -> Ipv4<'a> {
    Ipv4::of(protocol::UDP)
}

fn payload() -> Vec<u8> {
    udp(5000, 53, b"abcdefgh")
}

/// What routers and hosts send.
pub(super) fn headers() -> Vec<Case> {
    let udp4 = ip4(protocol::UDP, 5000, 53);
    let part = |fragment| Ipv4 { fragment, ..base() };
    let tcp_part = |fragment| Ipv4 { fragment, protocol: protocol::TCP, ..base() };
    let payload = payload();
    let record_route = [7, 7, 4, 0, 0, 0, 0, 0];
    let mut padded = with(base(), &udp(5000, 53, b""));
    padded.resize(60, 0xff);
    vec![
        case("no options", RUN, with(base(), &payload), udp4),
        case("options of one word", RUN, with(Ipv4 { options: &[1, 1, 1, 0], ..base() }, &payload), udp4),
        case("record route", RUN, with(Ipv4 { options: &record_route, ..base() }, &payload), udp4),
        case("forty bytes of options", RUN, with(Ipv4 { options: &[1; 40], ..base() }, &payload), udp4),
        case("DSCP EF", RUN, with(Ipv4 { tos: 0xb8, ..base() }, &payload), udp4).tos(0xb8),
        case("DSCP CS6 and a congestion mark", RUN, with(Ipv4 { tos: 0xc3, ..base() }, &payload), udp4)
            .tos(0xc3),
        case("don't fragment", RUN, with(part(0x4000), &payload), udp4),
        case("first fragment, UDP", RUN, with(part(0x2000), &payload), udp4).first_fragment(),
        case("middle fragment, UDP", RUN, with(part(0x2010), &payload), ip4(protocol::UDP, 0, 0))
            .later_fragment(),
        case("last fragment, UDP", RUN, with(part(0x0020), &payload), ip4(protocol::UDP, 0, 0))
            .later_fragment(),
        case("first fragment, TCP", RUN, with(tcp_part(0x2000), &tcp(5000, 80, 0x10, b"x")), {
            ip4(protocol::TCP, 5000, 80)
        })
        .first_fragment()
        .flags(0x10),
        case("middle fragment, TCP", RUN, with(tcp_part(0x2010), &tcp(5000, 80, 0x10, b"x")), {
            ip4(protocol::TCP, 0, 0)
        })
        .later_fragment(),
        case(
            "last fragment, TCP, with options",
            RUN,
            with(Ipv4 { options: &[1, 1, 1, 0], ..tcp_part(0x0020) }, &tcp(5000, 80, 0x10, b"x")),
            ip4(protocol::TCP, 0, 0),
        )
        .later_fragment(),
        case(
            "first of tiny fragments (RFC 1858): ports, no flags",
            RUN,
            with(tcp_part(0x2000), &cut(&tcp(5000, 80, 0x02, b""), 8)),
            ip4(protocol::TCP, 5000, 80),
        )
        .first_fragment()
        .truncated(),
        case(
            "the fragment that follows it, and would have the flags",
            RUN,
            with(tcp_part(0x0001), &tcp(5000, 80, 0x02, b"")[8..]),
            ip4(protocol::TCP, 0, 0),
        )
        .later_fragment(),
        case(
            "later fragment of ICMP",
            RUN,
            with(Ipv4 { protocol: protocol::ICMP, ..part(0x0020) }, &[8, 0]),
            ip4(protocol::ICMP, 0, 0),
        )
        .later_fragment(),
        case(
            "authentication header, then UDP",
            RUN,
            with(Ipv4::of(protocol::AH), &authentication(protocol::UDP, &payload)),
            udp4,
        ),
        case("authentication header cut short", RUN, with(Ipv4::of(protocol::AH), &[17]), {
            ip4(protocol::AH, 0, 0)
        })
        .truncated(),
        case("ESP has no ports", RUN, with(Ipv4::of(protocol::ESP), &[7; 40]), ip4(protocol::ESP, 0, 0)),
        case("GRE has no ports", RUN, with(Ipv4::of(protocol::GRE), &[0; 40]), ip4(protocol::GRE, 0, 0)),
        case("padding up to 60 bytes", RUN, padded, udp4),
    ]
}

/// Lengths and versions that are wrong, and headers cut short.
pub(super) fn broken() -> Vec<Case> {
    let udp4 = ip4(protocol::UDP, 5000, 53);
    let payload = payload();
    let mut padding_is_no_header = with(base(), &[]);
    padding_is_no_header.resize(60, 0xff);
    vec![
        case("padding is no header", RUN, padding_is_no_header, ip4(protocol::UDP, 0, 0)).truncated(),
        case(
            "total length 0: a packet over 64 KiB",
            RUN,
            with(Ipv4 { length: Some(0), ..base() }, &payload),
            udp4,
        ),
        case("total length below the header", RUN, with(Ipv4 { length: Some(19), ..base() }, &payload), {
            ip4(protocol::UDP, 0, 0)
        })
        .truncated(),
        case(
            "total length beyond the frame",
            RUN,
            with(Ipv4 { length: Some(900), ..base() }, &payload),
            udp4,
        ),
        case("header length below five words", RUN, with(Ipv4 { ihl: Some(4), ..base() }, &payload), {
            other(ethertype::IPV4)
        })
        .truncated(),
        case("header length beyond the frame", RUN, with(Ipv4 { ihl: Some(15), ..base() }, &payload), {
            ip4(protocol::UDP, 0, 0)
        })
        .truncated(),
        case(
            "version 6 under the ethertype of IPv4",
            RUN,
            with(Ipv4 { version: 6, ..base() }, &payload),
            other(ethertype::IPV4),
        )
        .truncated(),
        case(
            "header cut after 19 bytes",
            VETH,
            cut(&with(base(), &payload), 14 + 19),
            other(ethertype::IPV4),
        )
        .truncated(),
        case("nothing behind the ethertype", VETH, cut(&with(base(), &payload), 14), {
            other(ethertype::IPV4)
        })
        .truncated(),
        case("nothing behind the header", RUN, cut(&with(base(), &payload), 14 + 20), {
            ip4(protocol::UDP, 0, 0)
        })
        .truncated(),
        case(
            "options cut short",
            RUN,
            cut(&with(Ipv4 { options: &[1; 40], ..Ipv4::of(protocol::GRE) }, &payload), 14 + 40),
            ip4(protocol::GRE, 0, 0),
        )
        .truncated(),
    ]
}
