//! Which slot an interface of the node's own namespace has: what the shared programs look up.
//!
//! Owns two maps that say the same: a hash of all indices, and an array of the low ones, which needs no hash. An entry
//! is written to the hash first and taken out of it last, so dying in between leaves a tap that is found.

use std::path::Path;

use aya::maps::{Array, HashMap, Map, MapData};

use crate::error::TapError;
use crate::flow::Slot;
use crate::layout::{NEAR, RawTap, TAP_KNOWN};
use crate::set::map_error;

/// Marks an entry of `tl_taps` for a tap in another namespace, whose programs know their slot by themselves: it is there
/// for a later version's set, which has to know the flags. The kernel's indices are positive.
pub(crate) const INSIDE: u32 = 1 << 31;

/// Both maps.
pub(crate) struct Registry {
    all: HashMap<MapData, u32, RawTap>,
    near: Array<MapData, RawTap>,
}

impl Registry {
    pub(crate) fn open(maps: &Path) -> Result<Self, TapError> {
        let (failed, near_failed) = (map_error("tl_taps"), map_error("tl_near"));
        let all = MapData::from_pin(maps.join("tl_taps")).map_err(&failed)?;
        let near = MapData::from_pin(maps.join("tl_near")).map_err(&near_failed)?;
        Ok(Self {
            all: HashMap::try_from(Map::HashMap(all)).map_err(failed)?,
            near: Array::try_from(Map::Array(near)).map_err(near_failed)?,
        })
    }

    /// The interface of this index has this slot.
    pub(crate) fn put(&mut self, ifindex: u32, tap: RawTap) -> Result<(), TapError> {
        self.all.insert(ifindex, tap, 0).map_err(map_error("tl_taps"))?;
        self.set_near(ifindex, RawTap { flags: tap.flags | TAP_KNOWN, ..tap })
    }

    /// A tap in another namespace has this slot.
    pub(crate) fn put_inside(&mut self, slot: Slot, flags: u16) -> Result<(), TapError> {
        let entry = RawTap { slot: slot.0, flags };
        self.all.insert(INSIDE | u32::from(slot.0), entry, 0).map_err(map_error("tl_taps"))
    }

    /// No interface has this slot.
    pub(crate) fn remove(&mut self, slot: Slot) -> Result<(), TapError> {
        let of_slot = |entry: &(u32, RawTap)| entry.1.slot == slot.0;
        let indices: Vec<u32> = self.all.iter().flatten().filter(of_slot).map(|(index, _)| index).collect();
        for index in indices {
            self.set_near(index, RawTap::default())?;
            self.all.remove(&index).map_err(map_error("tl_taps"))?;
        }
        Ok(())
    }

    fn set_near(&mut self, ifindex: u32, tap: RawTap) -> Result<(), TapError> {
        if ifindex >= NEAR {
            return Ok(());
        }
        self.near.set(ifindex, tap, 0).map_err(map_error("tl_near"))
    }
}
