//! The programs over other maps of flows, for measurements: what the choice of maps costs and gains.
//!
//! Owns the embedded objects alone. Never attached; a binary that does not name them does not have them.

/// Flows in the hash with the processor's number in the key, as ours, without the front table before it.
pub static HASH: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/hash.o"));
/// Flows in a hash in which every processor has a value for each of them, without a front table.
pub static PER_CPU_HASH: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/percpu_hash.o"));
