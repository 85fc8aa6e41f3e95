//! Frames byte by byte.

use super::*;

const MAC: MacOctets = [0x02, 0x11, 0x22, 0x33, 0x44, 0x55];
const OTHER: MacOctets = [0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee];

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex")).collect()
}

#[test]
fn arp_probe_is_a_broadcast_request_from_nobody() {
    let expected = hex(
        "ffffffffffff 021122334455 0806 0001 0800 06 04 0001 021122334455 00000000 000000000000 0a000005",
    );
    assert_eq!(arp_probe(MAC, Ipv4Addr::new(10, 0, 0, 5)), expected);
}

#[test]
fn gratuitous_arp_asks_for_its_own_address() {
    let expected = hex(
        "ffffffffffff 021122334455 0806 0001 0800 06 04 0001 021122334455 0a000005 000000000000 0a000005",
    );
    assert_eq!(gratuitous_arp(MAC, Ipv4Addr::new(10, 0, 0, 5)), expected);
}

#[test]
fn unsolicited_advertisement_goes_to_all_nodes_with_override_and_checksum() {
    let frame = unsolicited_advertisement(MAC, "fd00::5".parse().expect("address"));
    let expected = hex("333300000001 021122334455 86dd 60000000 0020 3a ff \
         fd000000000000000000000000000005 ff020000000000000000000000000001 \
         88 00 f3fa 20000000 fd000000000000000000000000000005 02 01 021122334455");
    assert_eq!(frame, expected);
}

#[test]
fn dad_solicitation_goes_to_the_solicited_node_group_without_options() {
    let frame = dad_solicitation(MAC, "fd00::12:3456".parse().expect("address"));
    let expected = hex("3333ff123456 021122334455 86dd 60000000 0018 3a ff \
         00000000000000000000000000000000 ff0200000000000000000001ff123456 \
         87 00 14d7 00000000 fd000000000000000000000000123456");
    assert_eq!(frame, expected);
}

#[test]
fn each_kind_of_claim_is_understood() {
    let v4 = Ipv4Addr::new(10, 0, 0, 5);
    let v6: Ipv6Addr = "fd00::5".parse().expect("address");
    let mut reply = gratuitous_arp(OTHER, v4);
    reply[21] = 2;
    let cases = [
        ("gratuitous request", gratuitous_arp(OTHER, v4), Some(v4.into())),
        ("reply", reply, Some(v4.into())),
        ("another's probe", arp_probe(OTHER, v4), Some(v4.into())),
        ("advertisement", unsolicited_advertisement(OTHER, v6), Some(v6.into())),
        ("another's duplicate detection", dad_solicitation(OTHER, v6), Some(v6.into())),
    ];
    for (name, frame, address) in cases {
        let expected = address.map(|address: IpAddr| Answer { address, mac: OTHER });
        assert_eq!(answer_of(&frame), expected, "{name}");
    }
}

#[test]
fn broken_and_foreign_frames_are_not_answers() {
    let v6: Ipv6Addr = "fd00::5".parse().expect("address");
    let good = unsolicited_advertisement(OTHER, v6);
    let changed = |at: usize, to: u8| {
        let mut frame = good.clone();
        frame[at] = to;
        frame
    };
    let cases = [
        ("nothing", Vec::new()),
        ("a header alone", good[..14].to_vec()),
        ("a forwarded one", changed(21, 64)),
        ("a wrong checksum", changed(57, good[57] ^ 1)),
        ("another ICMPv6 code", changed(55, 1)),
        ("IPv4", changed(12, 0x08)),
        ("an ARP of another hardware", {
            let mut frame = arp_probe(OTHER, Ipv4Addr::new(10, 0, 0, 5));
            frame[15] = 6;
            frame
        }),
    ];
    for (name, frame) in cases {
        assert_eq!(answer_of(&frame), None, "{name}");
    }
    for length in 0..good.len() {
        assert_eq!(answer_of(&good[..length]), None, "cut to {length} bytes");
    }
}
