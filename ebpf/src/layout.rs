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
unsafe impl aya::Pod for RawCounters {}
// SAFETY: as above.
unsafe impl aya::Pod for RawTap {}
// SAFETY: as above.
unsafe impl aya::Pod for RawControl {}
