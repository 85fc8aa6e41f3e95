//! Which taps are sampled: one frame in so many goes on to the flows, all of them are counted by their tap.
//!
//! Owns `tl_sampling`. A rate belongs to an epoch, and is written before that epoch begins: all flows of a closed epoch
//! are scaled by the rate that they were looked at with, also by a process that did not set it.

use std::collections::HashMap;
use std::path::Path;

use aya::maps::{Array, Map, MapData};

use crate::error::TapError;
use crate::flow::Slot;
use crate::set::map_error;

const NAME: &str = "tl_sampling";

/// The rates in force, and those that are wanted.
pub(crate) struct Sampling {
    map: Array<MapData, u32>,
    /// What the map holds, by index: nobody else writes there.
    held: Vec<u32>,
    wanted: HashMap<Slot, u32>,
}

impl Sampling {
    pub(crate) fn open(maps: &Path) -> Result<Self, TapError> {
        let failed = map_error(NAME);
        let pinned = MapData::from_pin(maps.join(NAME)).map_err(&failed)?;
        let map: Array<_, u32> = Array::try_from(Map::Array(pinned)).map_err(&failed)?;
        let held = map.iter().collect::<Result<Vec<_>, _>>().map_err(failed)?;
        // What an earlier process wanted goes on until somebody says otherwise.
        let rate = |(at, rate): (usize, &u32)| (*rate > 1).then(|| Some((slot_at(at)?, *rate)))?;
        let wanted = held.iter().enumerate().filter_map(rate).collect();
        Ok(Self { map, held, wanted })
    }

    /// From the next epoch on.
    pub(crate) fn want(&mut self, one_in: HashMap<Slot, u32>) {
        self.wanted = one_in;
    }

    /// Writes the rates of an epoch that has not begun. Says whether any tap is sampled in an epoch of either parity.
    pub(crate) fn prepare(&mut self, parity: u32) -> Result<bool, TapError> {
        for at in (parity as usize & 1..self.held.len()).step_by(2) {
            let wanted = slot_at(at).and_then(|slot| self.wanted.get(&slot)).copied().unwrap_or(0);
            self.set(at, wanted)?;
        }
        Ok(self.held.iter().any(|rate| *rate > 1))
    }

    /// The rates that flows of this parity were looked at with; slots that are not here are not sampled.
    pub(crate) fn rates(&self, parity: u32) -> HashMap<Slot, u32> {
        let rates = self.held.iter().enumerate().skip(parity as usize & 1).step_by(2);
        let sampled = rates.filter(|(_, rate)| **rate > 1);
        sampled.filter_map(|(at, rate)| Some((slot_at(at)?, *rate))).collect()
    }

    /// A freed slot is nobody's: whoever has it next is not sampled before it is said.
    pub(crate) fn forget(&mut self, slot: Slot) -> Result<(), TapError> {
        self.wanted.remove(&slot);
        [0, 1].into_iter().try_for_each(|parity| self.set(index(slot, parity), 0))
    }

    fn set(&mut self, at: usize, rate: u32) -> Result<(), TapError> {
        let Some(held) = self.held.get_mut(at).filter(|held| **held != rate) else { return Ok(()) };
        self.map.set(u32::try_from(at).unwrap_or(u32::MAX), rate, 0).map_err(map_error(NAME))?;
        *held = rate;
        Ok(())
    }
}

/// As in `observe` of the programs.
fn index(slot: Slot, parity: u32) -> usize {
    usize::from(slot.0) << 1 | (parity & 1) as usize
}

fn slot_at(index: usize) -> Option<Slot> {
    u16::try_from(index >> 1).ok().map(Slot)
}
