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
    pub(crate) last: u64,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::mem::offset_of;

    use super::*;

    /// A struct as the compiler of the programs laid it out.
    #[derive(Debug, PartialEq, Eq)]
    struct Layout {
        size: u32,
        offsets: BTreeMap<String, u32>,
    }

    /// The kernel's type format (`Documentation/bpf/btf.rst`), as far as structs.
    struct Btf(Vec<u8>);

    impl Btf {
        fn of_object() -> Self {
            let object = aya_obj::Object::parse(crate::object::OBJECT).expect("what the build made");
            Self(object.btf.expect("compiled with -g").to_bytes())
        }

        fn word(&self, at: usize) -> u32 {
            u32::from_ne_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
        }

        fn index(&self, at: usize) -> usize {
            usize::try_from(self.word(at)).expect("an offset")
        }

        fn string(&self, strings: usize, offset: u32) -> String {
            let from = strings + usize::try_from(offset).expect("an offset");
            let end = self.0[from..].iter().position(|byte| *byte == 0).expect("terminated");
            String::from_utf8_lossy(&self.0[from..from + end]).into_owned()
        }

        fn structs(&self) -> BTreeMap<String, Layout> {
            // Magic, version and flags; then the lengths of the header itself, and of types and strings behind it.
            let header = self.index(4);
            let (types, types_len) = (header + self.index(8), self.index(12));
            let strings = header + self.index(16);
            let (mut at, mut found) = (types, BTreeMap::new());
            while at < types + types_len {
                let (name, info, size) = (self.word(at), self.word(at + 4), self.word(at + 8));
                let (kind, count) = (info >> 24 & 0x1f, usize::try_from(info & 0xffff).expect("small"));
                let members = at + 12;
                if kind == 4 {
                    let member = |number| {
                        let at = members + 12 * number;
                        (self.string(strings, self.word(at)), self.word(at + 8) / 8)
                    };
                    let offsets = (0..count).map(member).collect();
                    found.insert(self.string(strings, name), Layout { size, offsets });
                }
                at = members
                    + match kind {
                        1 | 14 | 17 => 4,
                        3 => 12,
                        4 | 5 | 15 | 19 => 12 * count,
                        6 | 13 => 8 * count,
                        _ => 0,
                    };
            }
            found
        }
    }

    macro_rules! layout {
        ($type:ty, $($field:ident),+) => {
            Layout {
                size: u32::try_from(size_of::<$type>()).expect("small"),
                offsets: [$((stringify!($field), offset_of!($type, $field))),+]
                    .map(|(name, offset)| (name.to_owned(), u32::try_from(offset).expect("small")))
                    .into(),
            }
        };
    }

    #[test]
    fn structs_lie_as_the_compiler_of_the_programs_laid_them() {
        let structs = Btf::of_object().structs();
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
                    RawValue, skbs, bytes, packets, wire_bytes, first, last, rtt, tcp_flags, tos, seen,
                    src_mac, dst_mac, pad
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
            ("control", layout!(RawControl, epoch, clearing)),
        ];
        for (name, layout) in ours {
            assert_eq!(structs.get(name), Some(&layout), "{name}");
        }
    }

    #[test]
    fn what_maps_hold_has_no_padding() {
        // aya::Pod says that any byte of it may be read.
        let fields = |sizes: &[usize]| sizes.iter().sum::<usize>();
        assert_eq!(size_of::<RawKey>(), fields(&[16, 16, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1]));
        assert_eq!(size_of::<RawValue>(), fields(&[8, 8, 8, 8, 8, 8, 4, 2, 1, 1, 6, 6, 4]));
        assert_eq!(size_of::<RawCounters>(), 8 * 8);
    }
}
