//! ARP, and what is known by its ethertype alone.

use std::net::Ipv4Addr;

use trunkline_ebpf::Conversation;

use super::{Case, RUN, VETH, case, cut, other};
use crate::frames::{DST4, SRC4, arp, ethernet, ethertype};

pub(super) fn ethernets() -> Vec<Case> {
    let arp_of = |operation, sender: [u8; 4], target: [u8; 4]| Conversation::Arp {
        sender: sender.into(),
        target: target.into(),
        operation,
    };
    let arp_frame = |bytes: &[u8]| ethernet(ethertype::ARP, bytes);
    let any = Ipv4Addr::UNSPECIFIED.octets();
    let spoilt = |at: usize, byte: u8| {
        let mut bytes = arp(1, SRC4, DST4);
        bytes[at] = byte;
        arp_frame(&bytes)
    };
    let mut cases = vec![
        case("ARP request", RUN, arp_frame(&arp(1, SRC4, DST4)), arp_of(1, SRC4, DST4)),
        case("ARP reply", RUN, arp_frame(&arp(2, SRC4, DST4)), arp_of(2, SRC4, DST4)),
        case("ARP announcement", RUN, arp_frame(&arp(1, SRC4, SRC4)), arp_of(1, SRC4, SRC4)),
        case("ARP probe", RUN, arp_frame(&arp(1, any, DST4)), arp_of(1, any, DST4)),
        case("ARP with an unknown operation", RUN, arp_frame(&arp(99, SRC4, DST4)), arp_of(99, SRC4, DST4)),
    ];
    let malformed = [("hardware", 1, 6), ("protocol", 2, 9), ("hardware length", 4, 8), ("length", 5, 16)];
    cases.extend(malformed.map(|(what, at, byte)| {
        case(format!("ARP for another {what}"), RUN, spoilt(at, byte), other(ethertype::ARP)).truncated()
    }));
    cases.push(
        case("ARP cut short", RUN, cut(&arp_frame(&arp(1, SRC4, DST4)), 14 + 27), other(ethertype::ARP))
            .truncated(),
    );
    let others = [
        ("LLDP", 0x88cc),
        ("PTP", 0x88f7),
        ("MPLS", 0x8847),
        ("EAPOL", 0x888e),
        ("RARP", 0x8035),
        ("MACsec", 0x88e5),
        ("NSH", 0x894f),
    ];
    cases.extend(
        others.map(|(name, ethertype)| case(name, RUN, ethernet(ethertype, &[0x45; 46]), other(ethertype))),
    );
    let llc = [0x42, 0x42, 0x03, 0, 0, 0, 0, 0];
    cases.extend([
        case("802.3 length: spanning tree", RUN, ethernet(38, &llc), other(4)),
        case("802.3 length 1500", RUN, ethernet(1500, &[0xaa; 60]), other(4)),
        case("the smallest ethertype", RUN, ethernet(0x0600, &[0; 46]), other(0x0600)),
        case("an ethertype and nothing else", VETH, ethernet(0x88cc, &[]), other(0x88cc)),
        case("an ethertype and one byte", RUN, ethernet(0x88cc, &[0]), other(0x88cc)),
    ]);
    cases
}
