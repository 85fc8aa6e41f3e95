//! The structs that programs and reader share, as the kernel's maps hold them: twins of `bpf/layout.h`.
//!
//! Owns sizes and offsets alone; meaning is in [`crate::flow`]. A test compares them with the object's own BTF.
#![expect(unsafe_code, reason = "aya::Pod marks types that may be read from a map's bytes")]

use std::hash::{Hash, Hasher};

/// `flow_key.kind`.
pub(crate) const KIND_ETHERNET: u8 = 0;
/// `flow_key.kind`.
pub(crate) const KIND_ARP: u8 = 1;
/// `flow_key.kind`.
pub(crate) const KIND_IPV4: u8 = 4;
/// `flow_key.kind`.
pub(crate) const KIND_IPV6: u8 = 6;

/// `flow_key.marks`.
pub(crate) const MARK_FRAGMENT: u8 = 0x01;
/// `flow_key.marks`.
pub(crate) const MARK_TRUNCATED: u8 = 0x02;
/// `flow_key.marks`.
pub(crate) const MARK_MORE_TAGS: u8 = 0x04;

/// `flow_key.outer` and `.inner`.
pub(crate) const TAG_PRESENT: u16 = 0x8000;
/// `flow_key.outer` and `.inner`.
pub(crate) const TAG_8021AD: u16 = 0x4000;

/// `tap.flags`.
pub(crate) const TAP_HOST_SIDE: u16 = 0x1;
/// `tap.flags`.
pub(crate) const TAP_NO_ETHERNET: u16 = 0x2;

/// `tap.flags`.
pub(crate) const TAP_KNOWN: u16 = 0x8000;

/// Interface indices that `tl_near` has.
pub(crate) const NEAR: u32 = 65_536;

/// `struct flow_key`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RawKey {
    pub(crate) src: [u8; 16],
    pub(crate) dst: [u8; 16],
    pub(crate) sport: u16,
    pub(crate) dport: u16,
    pub(crate) outer: u16,
    pub(crate) inner: u16,
    pub(crate) tap: u16,
    pub(crate) cpu: u16,
    pub(crate) kind: u8,
    pub(crate) protocol: u8,
    pub(crate) direction: u8,
    pub(crate) marks: u8,
}

impl Hash for RawKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.src.hash(state);
        self.dst.hash(state);
        let ports = u64::from(self.sport) << 48
            | u64::from(self.dport) << 32
            | u64::from(self.tap) << 16
            | u64::from(self.protocol) << 8
            | u64::from(self.direction) << 4
            | u64::from(self.marks);
        let tags = u32::from(self.outer) << 16 | u32::from(self.inner);
        state.write_u64(ports);
        state.write_u32(tags);
    }
}

/// `struct flow_value`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RawValue {
    pub(crate) skbs: u64,
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
    pub(crate) wire_bytes: u64,
    pub(crate) first: u64,
    pub(crate) born: u32,
    pub(crate) lasted: u32,
    pub(crate) rtt: u32,
    pub(crate) tcp_flags: u16,
    pub(crate) tos: u8,
    pub(crate) seen: u8,
    pub(crate) src_mac: [u8; 6],
    pub(crate) dst_mac: [u8; 6],
    pub(crate) pad: [u8; 4],
}

/// `struct front`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RawFront {
    pub(crate) key: RawKey,
    pub(crate) value: RawValue,
    pub(crate) pad: u64,
}

/// `struct tap_counters`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RawCounters {
    pub(crate) skbs: u64,
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
    pub(crate) wire_bytes: u64,
    pub(crate) lost_skbs: u64,
    pub(crate) lost_bytes: u64,
    pub(crate) lost_packets: u64,
    pub(crate) lost_wire_bytes: u64,
}

/// `struct tap`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RawTap {
    pub(crate) slot: u16,
    pub(crate) flags: u16,
}

/// `struct control`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RawControl {
    pub(crate) epoch: u32,
    pub(crate) clearing: u32,
    pub(crate) sampled: u32,
    pub(crate) dns_port: u16,
    pub(crate) pad: u16,
}

/// `struct dns_key`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RawDnsKey {
    pub(crate) client: [u8; 16],
    pub(crate) server: [u8; 16],
    pub(crate) client_port: u16,
    pub(crate) server_port: u16,
    pub(crate) id: u16,
    pub(crate) tap: u16,
    pub(crate) outer: u16,
    pub(crate) inner: u16,
    pub(crate) protocol: u8,
    pub(crate) kind: u8,
    pub(crate) direction: u8,
    pub(crate) pad: u8,
}

/// `struct dns_question`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RawDnsQuestion {
    pub(crate) since: u64,
    pub(crate) asked: u32,
    pub(crate) pad: u32,
}

/// `struct dns_answer`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RawDnsAnswer {
    pub(crate) key: RawKey,
    pub(crate) at: u64,
    pub(crate) latency: u64,
    pub(crate) asked: u32,
    pub(crate) id: u16,
    pub(crate) code: u16,
}

// SAFETY: repr(C) of integers without padding, as the test below holds them to the object's BTF; any bytes are valid.
unsafe impl aya::Pod for RawKey {}
// SAFETY: as above.
unsafe impl aya::Pod for RawValue {}
// SAFETY: as above.
unsafe impl aya::Pod for RawFront {}
// SAFETY: as above.
unsafe impl aya::Pod for RawCounters {}
// SAFETY: as above.
unsafe impl aya::Pod for RawTap {}
// SAFETY: as above.
unsafe impl aya::Pod for RawControl {}
// SAFETY: as above.
unsafe impl aya::Pod for RawDnsKey {}
// SAFETY: as above.
unsafe impl aya::Pod for RawDnsQuestion {}
// SAFETY: as above.
unsafe impl aya::Pod for RawDnsAnswer {}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;
    use crate::btf::{Btf, Shape};

    macro_rules! layout {
        ($type:ty, $($field:ident),+) => {
            (size_of::<$type>(), vec![$((stringify!($field), offset_of!($type, $field))),+])
        };
    }

    #[test]
    fn structs_lie_as_the_compiler_of_the_programs_laid_them() {
        let object = aya_obj::Object::parse(crate::object::OBJECT).expect("what the build made");
        let btf = Btf::parse(&object.btf.expect("compiled with -g").to_bytes()).expect("sound");
        let structs = btf.structs();
        let ours = [
            (
                "flow_key",
                layout!(
                    RawKey, src, dst, sport, dport, outer, inner, tap, cpu, kind, protocol, direction, marks
                ),
            ),
            (
                "flow_value",
                layout!(
                    RawValue, skbs, bytes, packets, wire_bytes, first, born, lasted, rtt, tcp_flags, tos,
                    seen, src_mac, dst_mac, pad
                ),
            ),
            (
                "tap_counters",
                layout!(
                    RawCounters,
                    skbs,
                    bytes,
                    packets,
                    wire_bytes,
                    lost_skbs,
                    lost_bytes,
                    lost_packets,
                    lost_wire_bytes
                ),
            ),
            ("tap", layout!(RawTap, slot, flags)),
            ("control", layout!(RawControl, epoch, clearing, sampled, dns_port, pad)),
            (
                "dns_key",
                layout!(
                    RawDnsKey,
                    client,
                    server,
                    client_port,
                    server_port,
                    id,
                    tap,
                    outer,
                    inner,
                    protocol,
                    kind,
                    direction,
                    pad
                ),
            ),
            ("dns_question", layout!(RawDnsQuestion, since, asked, pad)),
        ];
        for (name, (size, mut fields)) in ours {
            let Shape { size: found, fields: theirs } = &structs[name];
            let mut theirs: Vec<_> =
                theirs.iter().map(|(name, field)| (name.as_str(), field.offset)).collect();
            fields.sort_unstable();
            theirs.sort_unstable();
            assert_eq!((size, fields), (*found, theirs), "{name}");
        }
    }

    #[test]
    fn the_header_and_this_file_agree_on_numbers() {
        let header = include_str!("bpf/layout.h");
        let defined = |name: &str| {
            let line = header.lines().find_map(|line| line.strip_prefix(&format!("#define {name} ")));
            let text = line.and_then(|rest| rest.split_whitespace().next()).expect("defined");
            let number =
                text.strip_prefix("0x").map_or_else(|| text.parse(), |hex| u32::from_str_radix(hex, 16));
            number.expect("a number")
        };
        let ours: [(&str, u32); 13] = [
            ("KIND_ETHERNET", KIND_ETHERNET.into()),
            ("KIND_ARP", KIND_ARP.into()),
            ("KIND_IPV4", KIND_IPV4.into()),
            ("KIND_IPV6", KIND_IPV6.into()),
            ("MARK_FRAGMENT", MARK_FRAGMENT.into()),
            ("MARK_TRUNCATED", MARK_TRUNCATED.into()),
            ("MARK_MORE_TAGS", MARK_MORE_TAGS.into()),
            ("TAG_PRESENT", TAG_PRESENT.into()),
            ("TAG_8021AD", TAG_8021AD.into()),
            ("TAP_HOST_SIDE", TAP_HOST_SIDE.into()),
            ("TAP_NO_ETHERNET", TAP_NO_ETHERNET.into()),
            ("TAP_KNOWN", TAP_KNOWN.into()),
            ("NEAR", NEAR),
        ];
        for (name, number) in ours {
            assert_eq!(defined(name), number, "{name}");
        }
    }

    #[test]
    fn what_maps_hold_has_no_padding() {
        // aya::Pod says that any byte of it may be read.
        let fields = |sizes: &[usize]| sizes.iter().sum::<usize>();
        assert_eq!(size_of::<RawKey>(), fields(&[16, 16, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1]));
        assert_eq!(size_of::<RawValue>(), fields(&[8, 8, 8, 8, 8, 4, 4, 4, 2, 1, 1, 6, 6, 4]));
        assert_eq!(size_of::<RawFront>(), fields(&[size_of::<RawKey>(), size_of::<RawValue>(), 8]));
        assert_eq!(size_of::<RawCounters>(), 8 * 8);
        assert_eq!(size_of::<RawDnsKey>(), fields(&[16, 16, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1]));
        assert_eq!(size_of::<RawDnsAnswer>(), fields(&[size_of::<RawKey>(), 8, 8, 4, 2, 2]));
    }
}
