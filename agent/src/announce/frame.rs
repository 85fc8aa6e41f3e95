//! Frames for announcing and probing addresses, and reading answers.
//!
//! Pure: bytes in, bytes out. ARP as RFC 5227 uses it, neighbour discovery as RFC 4861 and 4862 do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::link::MacOctets;

const BROADCAST: MacOctets = [0xff; 6];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ARP_LEN: usize = 28;
const ETHERNET_LEN: usize = 14;
const IPV6_LEN: usize = 40;
const ICMPV6: u8 = 58;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const OPTION_SOURCE_ADDRESS: u8 = 1;
const OPTION_TARGET_ADDRESS: u8 = 2;
const ARP_REQUEST: u8 = 1;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Somebody says that an address is theirs, or is about to take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The address.
    pub address: IpAddr,
    /// Ethernet address of whoever says so.
    pub mac: MacOctets,
}

/// An ARP probe (RFC 5227, 2.1.1): who has `address`, asked by nobody.
pub fn arp_probe(mac: MacOctets, address: Ipv4Addr) -> Vec<u8> {
    arp(mac, Ipv4Addr::UNSPECIFIED, address)
}

/// An ARP announcement (RFC 5227, 2.3): a request for one's own address.
pub fn gratuitous_arp(mac: MacOctets, address: Ipv4Addr) -> Vec<u8> {
    arp(mac, address, address)
}

/// A duplicate address detection solicitation (RFC 4862, 5.4.2): from the unspecified address, without options.
pub fn dad_solicitation(mac: MacOctets, address: Ipv6Addr) -> Vec<u8> {
    let mut body = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    body.extend(address.octets());
    icmpv6(mac, Ipv6Addr::UNSPECIFIED, solicited_node(address), body)
}

/// An unsolicited neighbour advertisement to all nodes with the override flag (RFC 4861, 7.2.6).
pub fn unsolicited_advertisement(mac: MacOctets, address: Ipv6Addr) -> Vec<u8> {
    let override_flag = 0x20;
    let mut body = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, override_flag, 0, 0, 0];
    body.extend(address.octets());
    body.extend([OPTION_TARGET_ADDRESS, 1]);
    body.extend(mac);
    icmpv6(mac, address, ALL_NODES, body)
}

/// What a received frame says about the ownership of an address; `None` for all other frames.
///
/// Counted are ARP packets whose sender address is set, ARP probes of others, neighbour advertisements, and others'
/// duplicate address detection. Frames with a wrong length, hop limit or checksum are not counted.
pub fn answer_of(frame: &[u8]) -> Option<Answer> {
    let source: MacOctets = frame.get(6..12)?.try_into().ok()?;
    let payload = frame.get(ETHERNET_LEN..)?;
    match frame.get(12..ETHERNET_LEN)?.try_into().ok()? {
        ETHERTYPE_ARP => arp_answer(payload),
        ETHERTYPE_IPV6 => neighbour_answer(payload, source),
        _ => None,
    }
}

fn arp(mac: MacOctets, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET_LEN + ARP_LEN);
    frame.extend(BROADCAST);
    frame.extend(mac);
    frame.extend(ETHERTYPE_ARP);
    frame.extend([0, 1, 0x08, 0x00, 6, 4, 0, ARP_REQUEST]);
    frame.extend(mac);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

fn arp_answer(packet: &[u8]) -> Option<Answer> {
    let packet = packet.get(..ARP_LEN)?;
    if packet[..6] != [0, 1, 0x08, 0x00, 6, 4] {
        return None;
    }
    let mac: MacOctets = packet[8..14].try_into().ok()?;
    let sender = Ipv4Addr::from(<[u8; 4]>::try_from(&packet[14..18]).ok()?);
    let target = Ipv4Addr::from(<[u8; 4]>::try_from(&packet[24..28]).ok()?);
    let is_probe = sender.is_unspecified() && packet[7] == ARP_REQUEST;
    let address = if is_probe { target } else { sender };
    (!address.is_unspecified()).then_some(Answer { address: address.into(), mac })
}

fn icmpv6(mac: MacOctets, source: Ipv6Addr, destination: Ipv6Addr, mut body: Vec<u8>) -> Vec<u8> {
    let sum = checksum(source, destination, &body);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    // Neighbour discovery bodies are 24 or 32 bytes.
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let group = destination.octets();
    let mut frame = Vec::with_capacity(ETHERNET_LEN + IPV6_LEN + body.len());
    frame.extend([0x33, 0x33, group[12], group[13], group[14], group[15]]);
    frame.extend(mac);
    frame.extend(ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    // Hop limit 255 proves that no router forwarded it (RFC 4861, 7.1).
    frame.extend([ICMPV6, 255]);
    frame.extend(source.octets());
    frame.extend(group);
    frame.extend(body);
    frame
}

fn neighbour_answer(packet: &[u8], ethernet_source: MacOctets) -> Option<Answer> {
    let header = packet.get(..IPV6_LEN)?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let body = packet.get(IPV6_LEN..IPV6_LEN + length)?;
    if header[0] >> 4 != 6 || header[6] != ICMPV6 || header[7] != 255 || length < 24 || body[1] != 0 {
        return None;
    }
    let source = ipv6_at(header, 8)?;
    // Summed over a correct packet, its own checksum included, the result is zero.
    if checksum(source, ipv6_at(header, 24)?, body) != 0 {
        return None;
    }
    let (address, option) = (ipv6_at(body, 8)?, link_address_option(&body[24..]));
    let mac = option.map_or(ethernet_source, |(_, mac)| mac);
    let has_source_option = option.is_some_and(|(kind, _)| kind == OPTION_SOURCE_ADDRESS);
    match body[0] {
        NEIGHBOUR_ADVERTISEMENT => Some(Answer { address: address.into(), mac }),
        NEIGHBOUR_SOLICITATION if source.is_unspecified() && !has_source_option => {
            Some(Answer { address: address.into(), mac: ethernet_source })
        }
        _ => None,
    }
}

fn ipv6_at(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?))
}

fn link_address_option(mut options: &[u8]) -> Option<(u8, MacOctets)> {
    while let [kind, units, ..] = *options {
        let length = usize::from(units) * 8;
        let option = options.get(..length).filter(|_| length > 0)?;
        if matches!(kind, OPTION_SOURCE_ADDRESS | OPTION_TARGET_ADDRESS) && length == 8 {
            return Some((kind, option[2..].try_into().ok()?));
        }
        options = &options[length..];
    }
    None
}

/// `ff02::1:ffXX:XXXX` (RFC 4291, 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (high & 0xff), low)
}

/// The `ICMPv6` checksum over the pseudo-header (RFC 8200, 8.1).
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> u16 {
    let address_words = source.segments().into_iter().chain(destination.segments()).map(u32::from);
    let body_words =
        body.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut sum: u32 = address_words.chain(body_words).sum::<u32>() + length + u32::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
