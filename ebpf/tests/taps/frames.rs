//! Frames put together header by header, right or wrong as a case wants it.
//!
//! Pure. Every header is a struct of what a case may want to set; the rest is what a well-behaved host would send.

/// Ethertypes that the cases use.
pub(crate) mod ethertype {
    pub(crate) const IPV4: u16 = 0x0800;
    pub(crate) const ARP: u16 = 0x0806;
    pub(crate) const CTAG: u16 = 0x8100;
    pub(crate) const STAG: u16 = 0x88a8;
    pub(crate) const IPV6: u16 = 0x86dd;
}

/// IP protocols that the cases use.
pub(crate) mod protocol {
    pub(crate) const HOP_BY_HOP: u8 = 0;
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const DCCP: u8 = 33;
    pub(crate) const ROUTING: u8 = 43;
    pub(crate) const FRAGMENT: u8 = 44;
    pub(crate) const GRE: u8 = 47;
    pub(crate) const ESP: u8 = 50;
    pub(crate) const AH: u8 = 51;
    pub(crate) const ICMPV6: u8 = 58;
    pub(crate) const NO_NEXT: u8 = 59;
    pub(crate) const OPTIONS: u8 = 60;
    pub(crate) const SCTP: u8 = 132;
    pub(crate) const MOBILITY: u8 = 135;
    pub(crate) const UDP_LITE: u8 = 136;
    pub(crate) const HIP: u8 = 139;
    pub(crate) const SHIM6: u8 = 140;
}

pub(crate) const DST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const SRC_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const SRC4: [u8; 4] = [10, 0, 0, 1];
pub(crate) const DST4: [u8; 4] = [10, 0, 0, 2];
pub(crate) const SRC6: [u8; 16] = [0xfd, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub(crate) const DST6: [u8; 16] = [0xfd, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

fn short(number: usize) -> [u8; 2] {
    u16::try_from(number).expect("a length field").to_be_bytes()
}

/// One after the other.
pub(crate) fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// Ethernet header, tags (TPID and TCI, outermost first), ethertype, and what follows.
pub(crate) fn tagged(tags: &[(u16, u16)], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = join(&[&DST_MAC, &SRC_MAC]);
    for (tpid, tci) in tags {
        frame.extend(tpid.to_be_bytes());
        frame.extend(tci.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An untagged frame.
pub(crate) fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    tagged(&[], ethertype, payload)
}

/// RFC 791 3.1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ipv4<'a> {
    pub(crate) version: u8,
    pub(crate) tos: u8,
    /// Flags and offset.
    pub(crate) fragment: u16,
    pub(crate) protocol: u8,
    pub(crate) options: &'a [u8],
    /// In place of the true header length, in words.
    pub(crate) ihl: Option<u8>,
    /// In place of the true total length.
    pub(crate) length: Option<u16>,
}

impl Ipv4<'_> {
    pub(crate) fn of(protocol: u8) -> Self {
        Ipv4 { version: 4, tos: 0, fragment: 0, protocol, options: &[], ihl: None, length: None }
    }

    pub(crate) fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let ihl = self.ihl.unwrap_or_else(|| u8::try_from(header / 4).expect("a header's length"));
        let length = self.length.map_or_else(|| short(header + payload.len()), u16::to_be_bytes);
        let mut packet = vec![self.version << 4 | ihl, self.tos];
        packet.extend(length);
        packet.extend([0x12, 0x34]);
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([64, self.protocol, 0, 0]);
        packet.extend(SRC4);
        packet.extend(DST4);
        packet.extend(self.options);
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum);
        packet.extend(payload);
        packet
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).expect("folded")).to_be_bytes()
}

/// RFC 8200 3.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ipv6 {
    pub(crate) version: u8,
    pub(crate) class: u8,
    pub(crate) next: u8,
    /// In place of the true payload length.
    pub(crate) length: Option<u16>,
}

impl Ipv6 {
    pub(crate) fn of(next: u8) -> Self {
        Self { version: 6, class: 0, next, length: None }
    }

    pub(crate) fn packet(self, payload: &[u8]) -> Vec<u8> {
        let first = u32::from(self.version) << 28 | u32::from(self.class) << 20 | 0x12345;
        let mut packet = first.to_be_bytes().to_vec();
        packet.extend(self.length.map_or_else(|| short(payload.len()), u16::to_be_bytes));
        packet.extend([self.next, 64]);
        packet.extend(SRC6);
        packet.extend(DST6);
        packet.extend(payload);
        packet
    }
}

/// An extension header of `8 + 8 * more` bytes (RFC 8200 4.2), and what follows.
pub(crate) fn extension(next: u8, more: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![next, more, 1, 4];
    bytes.resize(8 + 8 * usize::from(more), 0);
    bytes.extend(payload);
    bytes
}

/// A fragment header (RFC 8200 4.5): offset in bytes, and whether more follow.
pub(crate) fn fragment(next: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![next, 0];
    bytes.extend((offset & 0xfff8 | u16::from(more)).to_be_bytes());
    bytes.extend([0, 0, 0x12, 0x34]);
    bytes.extend(payload);
    bytes
}

/// An authentication header with a check value of 12 bytes (RFC 4302 2).
pub(crate) fn authentication(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![next, 4];
    bytes.resize(24, 0xab);
    bytes.extend(payload);
    bytes
}

/// RFC 768.
pub(crate) fn udp(src: u16, dst: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = join(&[&src.to_be_bytes(), &dst.to_be_bytes(), &short(8 + payload.len())]);
    bytes.extend([0, 0]);
    bytes.extend(payload);
    bytes
}

/// RFC 9293 3.1, with the twelve bits of flags and reserved ones.
pub(crate) fn tcp(src: u16, dst: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    tcp_with(src, dst, flags, 5, &[], payload)
}

/// As [`tcp`], with a data offset and options.
pub(crate) fn tcp_with(
    src: u16,
    dst: u16,
    flags: u16,
    offset: u16,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = join(&[&src.to_be_bytes(), &dst.to_be_bytes()]);
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 0]);
    bytes.extend((offset << 12 | flags & 0x0fff).to_be_bytes());
    bytes.extend([0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend(options);
    bytes.extend(payload);
    bytes
}

/// ICMP of either version.
pub(crate) fn icmp(kind: u8, code: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, code, 0, 0];
    bytes.extend(payload);
    bytes
}

/// RFC 826, for IPv4 over Ethernet.
pub(crate) fn arp(operation: u16, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4];
    bytes.extend(operation.to_be_bytes());
    bytes.extend(SRC_MAC);
    bytes.extend(sender);
    bytes.extend([0; 6]);
    bytes.extend(target);
    bytes
}
