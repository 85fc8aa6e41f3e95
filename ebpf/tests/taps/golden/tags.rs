//! Tags, in the packet and in the metadata.

use trunkline_ebpf::Conversation;

use super::{CTAG, Case, RUN, STAG, VETH, Way, c, case, cut, datagram, datagram6, ip4, ip6, other, s};
use crate::frames::{DST4, SRC4, arp, ethertype, protocol, tagged};

pub(super) fn tags() -> Vec<Case> {
    let udp4 = ip4(protocol::UDP, 5000, 53);
    let with = |tags: &[(u16, u16)]| tagged(tags, ethertype::IPV4, &datagram());
    let accelerated = |tpid, tci| Way::Accelerated { tpid, tci };
    vec![
        case("untagged", RUN, with(&[]), udp4),
        case("802.1Q in the packet", RUN, with(&[(CTAG, 100)]), udp4).tags(c(100), None),
        case("802.1Q, priority and DEI bits are not of the VLAN", RUN, with(&[(CTAG, 0xf064)]), udp4)
            .tags(c(100), None),
        case("802.1Q, VLAN 4094", RUN, with(&[(CTAG, 4094)]), udp4).tags(c(4094), None),
        case("802.1Q, the reserved VLAN 4095", RUN, with(&[(CTAG, 4095)]), udp4).tags(c(4095), None),
        case("priority tag", RUN, with(&[(CTAG, 0xe000)]), udp4).tags(c(0), None),
        case("priority tag in the metadata", accelerated(CTAG, 0xe000), with(&[]), udp4).tags(c(0), None),
        case("802.1ad in the packet", RUN, with(&[(STAG, 200)]), udp4).tags(s(200), None),
        case("QinQ: 802.1ad, 802.1Q", RUN, with(&[(STAG, 200), (CTAG, 100)]), udp4)
            .tags(s(200), Some(c(100))),
        case("QinQ: 802.1Q twice", RUN, with(&[(CTAG, 200), (CTAG, 100)]), udp4).tags(c(200), Some(c(100))),
        case("QinQ: 802.1Q, 802.1ad", RUN, with(&[(CTAG, 200), (STAG, 100)]), udp4)
            .tags(c(200), Some(s(100))),
        case("priority tag over a VLAN", RUN, with(&[(CTAG, 0xe000), (CTAG, 100)]), udp4)
            .tags(c(0), Some(c(100))),
        case("three tags", RUN, with(&[(STAG, 300), (CTAG, 200), (CTAG, 100)]), udp4)
            .tags(s(300), Some(c(200)))
            .more_tags(),
        case(
            "four tags: what follows the third is not looked for",
            RUN,
            with(&[(STAG, 300), (CTAG, 200), (CTAG, 100), (CTAG, 50)]),
            other(CTAG),
        )
        .tags(s(300), Some(c(200)))
        .more_tags()
        .truncated(),
        case("802.1Q in the metadata", accelerated(CTAG, 100), with(&[]), udp4).tags(c(100), None),
        case("802.1ad in the metadata", accelerated(STAG, 200), with(&[]), udp4).tags(s(200), None),
        case(
            "802.1ad in the metadata, 802.1Q in the packet",
            accelerated(STAG, 200),
            with(&[(CTAG, 100)]),
            udp4,
        )
        .tags(s(200), Some(c(100))),
        case("802.1Q in the metadata and in the packet", accelerated(CTAG, 200), with(&[(CTAG, 100)]), udp4)
            .tags(c(200), Some(c(100))),
        case(
            "one tag in the metadata, two in the packet",
            accelerated(STAG, 300),
            with(&[(CTAG, 200), (CTAG, 100)]),
            udp4,
        )
        .tags(s(300), Some(c(200)))
        .more_tags(),
        case(
            "one tag in the metadata, three in the packet",
            accelerated(STAG, 300),
            with(&[(CTAG, 200), (CTAG, 100), (CTAG, 50)]),
            udp4,
        )
        .tags(s(300), Some(c(200)))
        .more_tags(),
        case("802.1Q over IPv6", RUN, tagged(&[(CTAG, 100)], ethertype::IPV6, &datagram6()), {
            ip6(protocol::UDP, 5000, 53)
        })
        .tags(c(100), None),
        case("802.1Q over ARP", RUN, tagged(&[(CTAG, 100)], ethertype::ARP, &arp(1, SRC4, DST4)), {
            Conversation::Arp { sender: SRC4.into(), target: DST4.into(), operation: 1 }
        })
        .tags(c(100), None),
        case("802.1Q over LLDP", RUN, tagged(&[(CTAG, 100)], 0x88cc, &[0; 30]), other(0x88cc))
            .tags(c(100), None),
        case("the old tag 0x9100 is an ethertype like any other", RUN, with(&[(0x9100, 100)]), other(0x9100)),
        case("802.1Q over veth", VETH, with(&[(CTAG, 100)]), udp4).tags(c(100), None),
        case("802.1ad over veth", VETH, with(&[(STAG, 200)]), udp4).tags(s(200), None),
        case("QinQ over veth", VETH, with(&[(STAG, 200), (CTAG, 100)]), udp4).tags(s(200), Some(c(100))),
        case("three tags over veth", VETH, with(&[(STAG, 300), (CTAG, 200), (CTAG, 100)]), udp4)
            .tags(s(300), Some(c(200)))
            .more_tags(),
        case("a tag that ends the frame", Way::Unreceived, cut(&with(&[(CTAG, 100)]), 14), other(CTAG))
            .truncated(),
        case("a second tag cut short", RUN, cut(&with(&[(STAG, 200), (CTAG, 100)]), 20), other(CTAG))
            .tags(s(200), None)
            .truncated(),
    ]
}
