//! Reading what the programs counted, one closed epoch at a time.
//!
//! 1. flip the epoch: programs that start from now on use the other set;
//! 2. wait until no program that saw the old epoch can still run;
//! 3. read flows and counters of the old set: nobody writes there, so they are exact;
//! 4. say in the maps that this set is being cleared, note its counters as taken, empty it, say that it is done.
//!
//! Killed before 4, the next process reads the same epoch again. Killed in 4, the records died with this process and
//! the next one finishes clearing. So no frame is ever counted twice, and what is lost is known to be lost.

use std::collections::HashMap as Table;
use std::os::fd::AsFd as _;
use std::path::Path;

use aya::maps::{Array, Map, MapData, PerCpuArray, PerCpuValues};

use crate::budget::Capacity;
use crate::error::TapError;
use crate::flow::{ClosedEpoch, Counters, Direction, FlowKey, FlowTotals, Slot, TapTotals};
use crate::layout::{RawControl, RawCounters, RawFront, RawKey, RawValue};
use crate::set::map_error;
use crate::sys::{self, Barrier};

/// The one reader of a set.
pub struct Reader {
    control: Array<MapData, RawControl>,
    counters: PerCpuArray<MapData, RawCounters>,
    drained: Array<MapData, RawCounters>,
    flows: [MapData; 2],
    front: MapData,
    places: u32,
    barrier: Barrier,
    taps: u16,
    interrupted: bool,
}

impl Reader {
    pub(crate) fn open(maps: &Path, capacity: Capacity) -> Result<Self, TapError> {
        let pinned = |name: &'static str| MapData::from_pin(maps.join(name)).map_err(map_error(name));
        let mut reader = Self {
            control: Array::try_from(Map::Array(pinned("tl_control")?)).map_err(map_error("tl_control"))?,
            counters: PerCpuArray::try_from(Map::PerCpuArray(pinned("tl_counters")?))
                .map_err(map_error("tl_counters"))?,
            drained: Array::try_from(Map::Array(pinned("tl_drained")?)).map_err(map_error("tl_drained"))?,
            flows: [pinned("tl_flows_0")?, pinned("tl_flows_1")?],
            front: pinned("tl_front")?,
            places: capacity.places,
            barrier: Barrier::new().map_err(call_error("make", "tl_barrier"))?,
            taps: capacity.taps,
            interrupted: false,
        };
        reader.finish_clearing()?;
        Ok(reader)
    }

    /// Whether an earlier process was killed while it emptied a set, and so lost that epoch's records.
    pub fn interrupted(&self) -> bool {
        self.interrupted
    }

    fn finish_clearing(&mut self) -> Result<(), TapError> {
        let control = self.control()?;
        let Some(parity) = control.clearing.checked_sub(1) else { return Ok(()) };
        self.interrupted = true;
        for slot in self.slots() {
            for direction in Direction::BOTH {
                let counted = self.counted(slot, direction, parity)?;
                self.note_drained(slot, direction, parity, counted)?;
            }
        }
        self.empty(parity)
    }

    fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        (0..self.taps).map(Slot)
    }

    fn control(&self) -> Result<RawControl, TapError> {
        self.control.get(&0, 0).map_err(map_error("tl_control"))
    }

    fn set_control(&mut self, control: RawControl) -> Result<(), TapError> {
        self.control.set(0, control, 0).map_err(map_error("tl_control"))
    }

    /// Closes the running epoch and reads it. Blocks for the kernel's grace period, 10–50 ms.
    pub fn drain(&mut self) -> Result<ClosedEpoch, TapError> {
        let epoch = self.flip()?;
        self.read(epoch, true)
    }

    /// The epoch before the running one, where a killed process closed it and did not read it: it must be drained
    /// before the next flip, or its set would be written to again.
    pub fn drain_leftover(&mut self) -> Result<Option<ClosedEpoch>, TapError> {
        let running = self.control()?.epoch;
        self.barrier.wait().map_err(call_error("wait on", "tl_barrier"))?;
        let left = self.read(running.wrapping_sub(1), true)?;
        Ok((!left.flows.is_empty() || !left.taps.is_empty()).then_some(left))
    }

    /// Steps 1 and 2. For tests of what comes after; otherwise [`Self::drain`].
    pub fn flip(&mut self) -> Result<u32, TapError> {
        let mut control = self.control()?;
        let closed = control.epoch;
        control.epoch = closed.wrapping_add(1);
        self.set_control(control)?;
        self.barrier.wait().map_err(call_error("wait on", "tl_barrier"))?;
        Ok(closed)
    }

    /// Steps 3 and, if wanted, 4.
    fn read(&mut self, epoch: u32, clear: bool) -> Result<ClosedEpoch, TapError> {
        let parity = epoch & 1;
        let mut merged = Table::<FlowKey, FlowTotals>::new();
        let mut take = |key: &RawKey, value: &RawValue| {
            let totals = FlowTotals::of(value);
            merged.entry(FlowKey::of(*key)).and_modify(|flow| flow.merge(&totals)).or_insert(totals);
        };
        let front: Vec<RawFront> =
            sys::read_part(self.front.fd().as_fd(), self.front_of(parity), self.places)
                .map_err(call_error("read", "tl_front"))?;
        let mut entries = 0;
        for place in front.iter().filter(|place| place.value.skbs > 0) {
            take(&place.key, &place.value);
            entries += 1;
        }
        entries += sys::for_each(self.flows[parity as usize].fd().as_fd(), take)
            .map_err(call_error("read", "tl_flows"))?;
        let mut taps = Vec::new();
        let mut taken = Vec::new();
        for slot in self.slots() {
            for direction in Direction::BOTH {
                let counted = self.counted(slot, direction, parity)?;
                let before = self.drained_before(slot, direction, parity)?;
                if counted != before {
                    taps.push(TapTotals { slot, direction, epoch: counted - before });
                    taken.push((slot, direction, counted));
                }
            }
        }
        if clear {
            let mut control = self.control()?;
            control.clearing = parity + 1;
            self.set_control(control)?;
            for (slot, direction, counted) in taken {
                self.note_drained(slot, direction, parity, counted)?;
            }
            self.empty(parity)?;
        }
        Ok(ClosedEpoch { epoch, flows: merged.into_iter().collect(), taps, entries })
    }

    /// Where a parity's front tables begin.
    fn front_of(&self, parity: u32) -> u32 {
        (parity & 1) * self.places
    }

    fn empty(&mut self, parity: u32) -> Result<(), TapError> {
        sys::clear_part::<RawFront>(self.front.fd().as_fd(), self.front_of(parity), self.places)
            .map_err(call_error("empty", "tl_front"))?;
        sys::clear::<RawKey, RawValue>(self.flows[(parity & 1) as usize].fd().as_fd())
            .map_err(call_error("empty", "tl_flows"))?;
        let mut control = self.control()?;
        control.clearing = 0;
        self.set_control(control)
    }

    /// Everything that a tap counted since it was attached, the running epoch included.
    pub fn totals(&self, slot: Slot, direction: Direction) -> Result<Counters, TapError> {
        let mut sum = self.counted(slot, direction, 0)?;
        sum += self.counted(slot, direction, 1)?;
        Ok(sum)
    }

    fn counted(&self, slot: Slot, direction: Direction, parity: u32) -> Result<Counters, TapError> {
        let values =
            self.counters.get(&index(slot, direction, parity), 0).map_err(map_error("tl_counters"))?;
        let mut sum = Counters::default();
        values.iter().for_each(|processor| sum += Counters::of(processor));
        Ok(sum)
    }

    fn drained_before(&self, slot: Slot, direction: Direction, parity: u32) -> Result<Counters, TapError> {
        let raw = self.drained.get(&index(slot, direction, parity), 0).map_err(map_error("tl_drained"))?;
        Ok(Counters::of(&raw))
    }

    fn note_drained(
        &mut self,
        slot: Slot,
        direction: Direction,
        parity: u32,
        counted: Counters,
    ) -> Result<(), TapError> {
        self.drained.set(index(slot, direction, parity), counted.raw(), 0).map_err(map_error("tl_drained"))
    }

    /// Sets a slot back to zero; its tap must be off, and its flows drained.
    pub fn zero(&mut self, slot: Slot) -> Result<(), TapError> {
        for direction in Direction::BOTH {
            for parity in [0, 1] {
                let at = index(slot, direction, parity);
                let processors = self.counters.get(&at, 0).map_err(map_error("tl_counters"))?.len();
                let zeros = PerCpuValues::try_from(vec![RawCounters::default(); processors])
                    .map_err(call_error("clear", "tl_counters"))?;
                self.counters.set(at, zeros, 0).map_err(map_error("tl_counters"))?;
                self.note_drained(slot, direction, parity, Counters::default())?;
            }
        }
        Ok(())
    }

    /// `CLOCK_MONOTONIC` now, nanoseconds: what flows' times are relative to.
    pub fn now() -> u64 {
        sys::monotonic()
    }
}

/// As in `observe` of the programs.
fn index(slot: Slot, direction: Direction, parity: u32) -> u32 {
    u32::from(slot.0) << 2 | (direction as u32) << 1 | (parity & 1)
}

fn call_error(what: &'static str, map: &'static str) -> impl Fn(std::io::Error) -> TapError {
    move |source| TapError::Call { what, map, source }
}
