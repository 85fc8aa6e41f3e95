//! IPv6: every extension header, chains of them, fragments, lengths that are wrong.

use super::{Case, RUN, VETH, case, cut, ip6, other, v6};
use crate::frames::{Ipv6, authentication, ethernet, ethertype, extension, fragment, protocol, tcp, udp};

fn with(header: Ipv6, payload: &[u8]) -> Vec<u8> {
    ethernet(ethertype::IPV6, &header.packet(payload))
}

fn payload() -> Vec<u8> {
    udp(5000, 53, b"abcdefgh")
}

/// Chains as hosts send them.
pub(super) fn chains() -> Vec<Case> {
    use protocol::{AH, ESP, FRAGMENT, HIP, HOP_BY_HOP, MOBILITY, NO_NEXT, OPTIONS, ROUTING, SHIM6, UDP};
    let udp6 = ip6(UDP, 5000, 53);
    let payload = payload();
    let mut cases: Vec<Case> = [
        ("hop by hop", HOP_BY_HOP),
        ("routing", ROUTING),
        ("destination options", OPTIONS),
        ("mobility", MOBILITY),
        ("HIP", HIP),
        ("shim6", SHIM6),
    ]
    .into_iter()
    .map(|(name, kind)| case(format!("{name}, then UDP"), RUN, v6(kind, &extension(UDP, 1, &payload)), udp6))
    .collect();
    let chain = extension(OPTIONS, 0, &extension(ROUTING, 2, &extension(OPTIONS, 1, &payload)));
    // The last of them names UDP.
    let mut chain_to_udp = chain;
    chain_to_udp[8 + 24] = UDP;
    let eight = |last: u8, payload: &[u8]| {
        (0..8).fold(payload.to_vec(), |rest, n| extension(if n == 0 { last } else { OPTIONS }, 0, &rest))
    };
    cases.extend([
        case("no extension header", RUN, v6(UDP, &payload), udp6),
        case("traffic class", RUN, with(Ipv6 { class: 0xb9, ..Ipv6::of(UDP) }, &payload), udp6).tos(0xb9),
        case("three in a row", RUN, v6(HOP_BY_HOP, &chain_to_udp), udp6),
        case("authentication header, then UDP", RUN, v6(AH, &authentication(UDP, &payload)), udp6),
        case("ESP ends the chain", RUN, v6(OPTIONS, &extension(ESP, 0, &[7; 40])), ip6(ESP, 0, 0)),
        case("no next header", RUN, v6(NO_NEXT, &[]), ip6(NO_NEXT, 0, 0)),
        case("no next header behind options", RUN, v6(OPTIONS, &extension(NO_NEXT, 0, &[])), {
            ip6(NO_NEXT, 0, 0)
        }),
        case("eight in a row", RUN, v6(OPTIONS, &eight(UDP, &payload)), udp6),
        case(
            "nine in a row: the ninth is not looked behind",
            RUN,
            v6(OPTIONS, &eight(ROUTING, &extension(UDP, 0, &payload))),
            ip6(ROUTING, 0, 0),
        )
        .truncated(),
        case("first fragment", RUN, v6(FRAGMENT, &fragment(UDP, 0, true, &payload)), udp6).first_fragment(),
        case("middle fragment", RUN, v6(FRAGMENT, &fragment(UDP, 1448, true, &payload)), ip6(UDP, 0, 0))
            .later_fragment(),
        case("last fragment", RUN, v6(FRAGMENT, &fragment(UDP, 1448, false, &payload)), ip6(UDP, 0, 0))
            .later_fragment(),
        case("atomic fragment (RFC 6946)", RUN, v6(FRAGMENT, &fragment(UDP, 0, false, &payload)), udp6),
        case(
            "first fragment of TCP",
            RUN,
            v6(FRAGMENT, &fragment(protocol::TCP, 0, true, &tcp(5000, 80, 0x18, b"x"))),
            ip6(protocol::TCP, 5000, 80),
        )
        .flags(0x18)
        .first_fragment(),
        case(
            "last fragment of TCP",
            RUN,
            v6(FRAGMENT, &fragment(protocol::TCP, 8, false, &tcp(5000, 80, 0x18, b"x"))),
            ip6(protocol::TCP, 0, 0),
        )
        .later_fragment(),
        case(
            "hop by hop, fragment, options, UDP",
            RUN,
            {
                v6(
                    HOP_BY_HOP,
                    &extension(FRAGMENT, 0, &fragment(OPTIONS, 0, true, &extension(UDP, 0, &payload))),
                )
            },
            udp6,
        )
        .first_fragment(),
        case(
            "later fragment whose first began with options",
            RUN,
            v6(FRAGMENT, &fragment(OPTIONS, 64, false, &payload)),
            ip6(OPTIONS, 0, 0),
        )
        .later_fragment(),
    ]);
    cases
}

/// Lengths and versions that are wrong, and headers cut short.
pub(super) fn broken() -> Vec<Case> {
    use protocol::{FRAGMENT, NO_NEXT, OPTIONS, UDP};
    let udp6 = ip6(UDP, 5000, 53);
    let payload = payload();
    let mut beyond = extension(NO_NEXT, 0, &[]);
    beyond[1] = 9;
    vec![
        case(
            "payload length 0: a jumbogram, or a packet over 64 KiB",
            RUN,
            with(Ipv6 { length: Some(0), ..Ipv6::of(UDP) }, &payload),
            udp6,
        ),
        case(
            "payload length below the ports",
            RUN,
            with(Ipv6 { length: Some(3), ..Ipv6::of(UDP) }, &payload),
            ip6(UDP, 0, 0),
        )
        .truncated(),
        case(
            "version 4 under the ethertype of IPv6",
            RUN,
            with(Ipv6 { version: 4, ..Ipv6::of(UDP) }, &payload),
            other(ethertype::IPV6),
        )
        .truncated(),
        case("header cut after 39 bytes", VETH, cut(&v6(UDP, &payload), 14 + 39), other(ethertype::IPV6))
            .truncated(),
        case("nothing behind the ethertype of IPv6", VETH, cut(&v6(UDP, &payload), 14), {
            other(ethertype::IPV6)
        })
        .truncated(),
        case("nothing behind the header", RUN, cut(&v6(UDP, &payload), 14 + 40), ip6(UDP, 0, 0)).truncated(),
        case("extension header cut short", RUN, cut(&v6(OPTIONS, &[0; 8]), 14 + 42), ip6(OPTIONS, 0, 0))
            .truncated(),
        case("extension header that says more than there is", RUN, v6(OPTIONS, &beyond), ip6(NO_NEXT, 0, 0))
            .truncated(),
        case("fragment header cut short", RUN, cut(&v6(FRAGMENT, &fragment(UDP, 0, true, &[])), 14 + 46), {
            ip6(UDP, 0, 0)
        })
        .truncated()
        .first_fragment(),
    ]
}
