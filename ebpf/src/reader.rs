//! Reading what the programs counted, one closed epoch at a time.
//!
//! 1. flip the epoch: programs that start from now on use the other set;
//! 2. wait until no program that saw the old epoch can still run;
//! 3. read the old set's counters: nobody writes there, so they are exact;
//! 4. say in the maps that this set is being cleared, take the flows out of it, front tables first, note its counters
//!    as taken, say that it is done.
//!
//! Killed before 4, the next process reads the same epoch again. Killed in 4, the records died with this process, as
//! all that it held in memory, and the next one finishes clearing. So no frame is ever counted twice, and what is lost
//! is known to be lost. Flows are taken out as they are read: a full map is read in half the time.

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::path::Path;

use aya::maps::{Array, Map, MapData};

use crate::budget::Capacity;
use crate::dns::{Dns, DnsQueries};
use crate::error::TapError;
use crate::flow::{ClosedEpoch, Counters, Direction, FlowKey, FlowTotals, Slot, TapTotals};
use crate::front::{self, Front};
use crate::layout::{RawControl, RawCounters, RawKey, RawValue};
use crate::ran::{Ran, Runs};
use crate::sampling::Sampling;
use crate::set::map_error;
use crate::sys::{self, Barrier};

/// The one reader of a set.
pub struct Reader {
    control: Array<MapData, RawControl>,
    counters: MapData,
    drained: Array<MapData, RawCounters>,
    /// What `drained` holds, by index: nobody else writes there.
    taken: Vec<Counters>,
    flows: [MapData; 2],
    front: Front,
    /// Flows that an epoch can have.
    most: usize,
    /// Nanoseconds of one of the kernel's ticks: programs count these.
    tick: u64,
    barrier: Barrier,
    taps: u16,
    interrupted: bool,
    runs: Runs,
    sampling: Sampling,
    dns: Dns,
    /// All counters as the last drain found them, by index.
    last: Vec<Counters>,
}

impl Reader {
    pub(crate) fn open(maps: &Path, capacity: Capacity) -> Result<Self, TapError> {
        let pinned = |name: &'static str| MapData::from_pin(maps.join(name)).map_err(map_error(name));
        let drained: Array<_, RawCounters> =
            Array::try_from(Map::Array(pinned("tl_drained")?)).map_err(map_error("tl_drained"))?;
        let mut reader = Self {
            control: Array::try_from(Map::Array(pinned("tl_control")?)).map_err(map_error("tl_control"))?,
            counters: pinned("tl_counters")?,
            taken: drained
                .iter()
                .map(|entry| entry.map(|raw| Counters::of(&raw)))
                .collect::<Result<_, _>>()
                .map_err(map_error("tl_drained"))?,
            drained,
            flows: [pinned("tl_flows_0")?, pinned("tl_flows_1")?],
            front: Front::open(maps, capacity)?,
            most: (capacity.entries + front::entries(&capacity) / 2) as usize,
            tick: sys::tick(),
            barrier: Barrier::new().map_err(call_error("make", "tl_barrier"))?,
            taps: capacity.taps,
            interrupted: false,
            runs: Runs::default(),
            sampling: Sampling::open(maps)?,
            dns: Dns::open(maps)?,
            last: Vec::new(),
        };
        reader.finish_clearing()?;
        Ok(reader)
    }

    /// Whether an epoch's records were lost since this was asked last: an earlier process was killed while it emptied
    /// a set, or the kernel refused in the middle of it.
    pub fn interrupted(&mut self) -> bool {
        std::mem::take(&mut self.interrupted)
    }

    fn finish_clearing(&mut self) -> Result<(), TapError> {
        let Some(parity) = self.control()?.clearing.checked_sub(1) else { return Ok(()) };
        self.interrupted = true;
        let counted = self.counted()?;
        self.note_drained(parity, &counted)?;
        sys::clear::<RawKey, RawValue>(self.flows[(parity & 1) as usize].fd().as_fd())
            .map_err(call_error("empty", "tl_flows"))?;
        self.front.clear(parity);
        self.cleared()
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
        self.read(epoch)
    }

    /// The epoch before the running one, where a killed process closed it and did not read it: it must be drained
    /// before the next flip, or its set would be written to again.
    pub fn drain_leftover(&mut self) -> Result<Option<ClosedEpoch>, TapError> {
        let running = self.control()?.epoch;
        self.barrier.wait().map_err(call_error("wait on", "tl_barrier"))?;
        let left = self.read(running.wrapping_sub(1))?;
        Ok((!left.flows.is_empty() || !left.taps.is_empty()).then_some(left))
    }

    /// Steps 1 and 2. For tests of what comes after; otherwise [`Self::drain`].
    pub fn flip(&mut self) -> Result<u32, TapError> {
        // The kernel refused to clear the set that is to be used next.
        self.finish_clearing()?;
        let closed = self.control()?.epoch;
        let next = closed.wrapping_add(1);
        let sampled = self.sampling.prepare(next & 1)?;
        let control = RawControl { epoch: next, sampled: sampled.into(), ..self.control()? };
        self.set_control(control)?;
        self.barrier.wait().map_err(call_error("wait on", "tl_barrier"))?;
        Ok(closed)
    }

    /// Steps 3 and 4.
    fn read(&mut self, epoch: u32) -> Result<ClosedEpoch, TapError> {
        let parity = epoch & 1;
        let counted = self.counted()?;
        let (rates, tick) = (self.sampling.rates(parity), self.tick);
        let flow = |key: &RawKey, value: &RawValue| {
            let one_in = rates.get(&Slot(key.tap)).copied().unwrap_or(1);
            (FlowKey::of(*key), FlowTotals::of(value, tick).scaled(one_in))
        };
        let indices = (0..).zip(counted.iter().zip(&self.taken)).filter(|(at, _)| at & 1 == parity);
        let taps = indices.filter(|(_, (counted, taken))| counted != taken).map(|(at, (counted, taken))| {
            let (slot, direction) = of_index(at);
            TapTotals { slot, direction, epoch: *counted - *taken }
        });
        let taps = taps.collect();
        let control = RawControl { clearing: parity + 1, ..self.control()? };
        self.set_control(control)?;
        // All at once, or it would be copied while it grows.
        let mut flows = Vec::with_capacity(self.most);
        self.front.take(parity, |key, value| flows.push(flow(key, value)));
        let map = self.flows[parity as usize].fd().as_fd();
        let taken = sys::take_each(map, |key: &RawKey, value: &RawValue| {
            flows.push(flow(key, value));
        });
        if let Err(source) = taken {
            self.finish_clearing()?;
            return Err(call_error("read", "tl_flows")(source));
        }
        self.note_drained(parity, &counted)?;
        self.cleared()?;
        let entries = flows.len();
        self.last = counted;
        let sampled = rates.into_keys().collect();
        Ok(ClosedEpoch { epoch, flows, taps, entries, sampled })
    }

    /// From the next epoch on, one frame in so many of these taps goes on to the flows, 2–65,536; of all others every
    /// frame does. Taps count every frame whatever is said here. Replaces what was said before.
    pub fn sample(&mut self, one_in: HashMap<Slot, u32>) {
        self.sampling.want(one_in);
    }

    /// From now on, questions to this port and answers from it are followed, over UDP and TCP, where taps are not
    /// sampled. `None`: none are.
    pub fn follow_dns(&mut self, port: Option<u16>) -> Result<(), TapError> {
        let control = RawControl { dns_port: port.unwrap_or(0).to_be(), ..self.control()? };
        self.set_control(control)
    }

    /// What became of questions since this was asked last. To be asked every second: some 1,600 answers find room.
    pub fn dns(&mut self) -> Result<DnsQueries, TapError> {
        self.dns.take()
    }

    /// A set is empty.
    fn cleared(&mut self) -> Result<(), TapError> {
        let mut control = self.control()?;
        control.clearing = 0;
        self.set_control(control)
    }

    /// Everything that a tap counted since it was attached, the running epoch included.
    pub fn totals(&self, slot: Slot, direction: Direction) -> Result<Counters, TapError> {
        let [even, odd] = [0, 1].map(|parity| index(slot, direction, parity));
        let mut sum = Counters::default();
        for counters in self.counted_part(even, odd - even + 1)? {
            sum += counters;
        }
        Ok(sum)
    }

    /// The same of all taps at once, by slot and direction, as the last drain found it; nothing before the first.
    pub fn all_totals(&self) -> impl Iterator<Item = (Slot, Direction, Counters)> {
        self.last.chunks_exact(2).zip(0..).map(|(parities, pair)| {
            let (slot, direction) = of_index(pair * 2);
            let mut sum = parities[0];
            sum += parities[1];
            (slot, direction, sum)
        })
    }

    /// All counters, by index.
    fn counted(&self) -> Result<Vec<Counters>, TapError> {
        /// Taps whose counters are read at once: what processors have is copied together.
        const AT_ONCE: u32 = 64 * 4;
        let all = u32::from(self.taps) * 4;
        let mut counted = Vec::with_capacity(all as usize);
        for first in (0..all).step_by(AT_ONCE as usize) {
            counted.extend(self.counted_part(first, AT_ONCE.min(all - first))?);
        }
        Ok(counted)
    }

    fn counted_part(&self, first: u32, count: u32) -> Result<Vec<Counters>, TapError> {
        let raw: Vec<RawCounters> = sys::read_part(self.counters.fd().as_fd(), first, count)
            .map_err(call_error("read", "tl_counters"))?;
        let processors = raw.len() / count as usize;
        let sum = |one: &[RawCounters]| {
            let mut sum = Counters::default();
            for processor in one {
                sum += Counters::of(processor);
            }
            sum
        };
        Ok(raw.chunks(processors).map(sum).collect())
    }

    /// Counters of a parity have been taken as they are here.
    fn note_drained(&mut self, parity: u32, counted: &[Counters]) -> Result<(), TapError> {
        for (at, now) in (0..).zip(counted).filter(|(at, _)| at & 1 == parity) {
            self.note(at, *now)?;
        }
        Ok(())
    }

    fn note(&mut self, at: u32, counted: Counters) -> Result<(), TapError> {
        let Some(taken) = self.taken.get_mut(at as usize).filter(|taken| **taken != counted) else {
            return Ok(());
        };
        *taken = counted;
        self.drained.set(at, counted.raw(), 0).map_err(map_error("tl_drained"))
    }

    /// Sets a slot back to zero; its tap must be off, and its flows drained.
    pub fn zero(&mut self, slot: Slot) -> Result<(), TapError> {
        let first = index(slot, Direction::Received, 0);
        sys::clear_part::<RawCounters>(self.counters.fd().as_fd(), first, 4)
            .map_err(call_error("clear", "tl_counters"))?;
        (first..first + 4).try_for_each(|at| self.note(at, Counters::default()))?;
        self.sampling.forget(slot)?;
        self.dns.forget(slot)
    }

    /// How often the taps ran since this was asked first, and for how long: nothing where the node does not count it
    /// (`kernel.bpf_stats_enabled`).
    pub fn ran(&mut self) -> Result<Ran, TapError> {
        let info = self.counters.info().map_err(map_error("tl_counters"))?;
        Ok(self.runs.look(info.id()))
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

/// Whose an index is.
fn of_index(at: u32) -> (Slot, Direction) {
    let direction = if at >> 1 & 1 == 0 { Direction::Received } else { Direction::Sent };
    (Slot(u16::try_from(at >> 2).unwrap_or(u16::MAX)), direction)
}

fn call_error(what: &'static str, map: &'static str) -> impl Fn(std::io::Error) -> TapError {
    move |source| TapError::Call { what, map, source }
}
