//! A set that another version left, or one of another capacity: its taps are taken over, and what it still holds is
//! read.
//!
//! 1. For each of its taps: the same slot's twin here; each link runs our program from one frame to the next
//!    (`BPF_LINK_UPDATE`), then its pin moves here. No frame is missed, none is counted twice.
//! 2. Nobody writes to the old maps any more. After a grace period both epochs are read, by the field names that the
//!    kernel kept with the maps.
//! 3. The old folder is renamed to `gone-…`, so that nobody reads it again, and removed.
//!
//! Killed in 1 or 2, the next process goes on: a pin is in one of the two folders, and the old one's names say which
//! slots are which. Killed in 3, the records died with this process; the folder's name says that they did.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use aya::Pod;

use super::{TapSet, remove_set};
use crate::attach::{Hook, TapLinks, pin_error};
use crate::btf::{Btf, Shape, Translation};
use crate::error::TapError;
use crate::flow::{ClosedEpoch, Counters, Direction, FlowKey, FlowTotals, Slot, TapTotals};
use crate::layout::{RawControl, RawCounters, RawFront, RawKey, RawTap, RawValue};
use crate::object::Programs;
use crate::registry::INSIDE;
use crate::sys::{self, Barrier};

const GONE: &str = "gone-";

/// A set whose taps have been taken over, and whose counts are still to be read.
pub(super) struct Older {
    folder: PathBuf,
    /// Its slots and ours.
    slots: BTreeMap<u16, Slot>,
}

/// What older sets still held.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Closed epochs, the older one first, by the slots of this set.
    pub epochs: Vec<ClosedEpoch>,
    /// How many epochs are known to be lost: a process was killed while it cleared or removed them, or they cannot be
    /// read.
    pub lost: usize,
    /// What went wrong with older sets. None of it concerns this set.
    pub problems: Vec<TapError>,
}

impl TapSet {
    /// Step 1 for every other set below our root.
    pub(super) fn take_over_older(&mut self) -> Result<(), TapError> {
        let Some(root) = self.folder.parent().map(Path::to_owned) else { return Ok(()) };
        for entry in fs::read_dir(&root).map_err(pin_error("read", &root))? {
            let folder = entry.map_err(pin_error("read", &root))?.path();
            if folder == self.folder {
                continue;
            }
            let taken_over = if is_gone(&folder) { Ok(None) } else { self.take_over(&folder).map(Some) };
            match taken_over {
                Ok(Some(older)) => self.older.push(older),
                without => {
                    self.inherited.lost += 1;
                    self.inherited.problems.extend(without.err());
                    // Its links end with their pins: they must not count beside ours.
                    self.inherited.problems.extend(remove_set(&folder).err());
                }
            }
        }
        Ok(())
    }

    fn take_over(&mut self, folder: &Path) -> Result<Older, TapError> {
        let mut slots = BTreeMap::new();
        let flags = self.flags_in(folder)?;
        let path = folder.join("taps");
        for entry in fs::read_dir(&path).map_err(pin_error("read", &path))? {
            let found = entry.map_err(pin_error("read", &path))?.path();
            let Some(theirs) = TapLinks::of_folder(found, self.way) else { continue };
            let ours = match self.twin_of(&theirs) {
                Ok(ours) => ours,
                // This set may have fewer slots; one tap without a place costs the others nothing.
                Err(error @ TapError::NoSlot { .. }) => {
                    for hook in Hook::of_tap(false) {
                        theirs.detach(hook)?;
                    }
                    self.inherited.problems.push(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            slots.insert(theirs.slot.0, ours.slot);
            self.taps.remove(&ours.slot);
            let moved = self.take_links_over(&theirs, &ours, &flags)?;
            let list = if moved { &mut self.taps } else { &mut self.given_up };
            list.insert(ours.slot, ours);
        }
        Ok(Older { folder: folder.to_owned(), slots })
    }

    /// The flags of a set's taps by their slots, and whether they are in another namespace.
    fn flags_in(&self, folder: &Path) -> Result<HashMap<u16, (u16, bool)>, TapError> {
        let mut flags = HashMap::new();
        let registry = Foreign::open(&folder.join("maps"), &self.folder.join("maps"), "tl_taps")?;
        registry.for_each(|index: u32, taps: &[RawTap]| {
            let entry = taps.first().copied().unwrap_or_default();
            flags.insert(entry.slot, (entry.flags, index & INSIDE != 0));
        })?;
        Ok(flags)
    }

    /// Our folder for the tap of this name: the one that is there, or a new one.
    fn twin_of(&mut self, theirs: &TapLinks) -> Result<TapLinks, TapError> {
        let waiting = self.given_up.values().find(|links| links.name == theirs.name).map(|links| links.slot);
        match waiting.and_then(|slot| self.given_up.remove(&slot)) {
            Some(links) => Ok(links),
            None => self.links_of(&theirs.name),
        }
    }

    /// Has a tap's links count here and be pinned here. `false`: there is none, it was given up or its interface is
    /// gone.
    fn take_links_over(
        &mut self,
        theirs: &TapLinks,
        ours: &TapLinks,
        flags: &HashMap<u16, (u16, bool)>,
    ) -> Result<bool, TapError> {
        let mut copy: Option<Programs> = None;
        let mut any = ours.has_pins()?;
        for hook in Hook::of_tap(false) {
            let Some(held) = theirs.held(ours, hook)? else { continue };
            let known = flags.get(&theirs.slot.0).filter(|_| held.ifindex != 0);
            let Some((flags, inside)) = known.copied() else {
                theirs.detach(hook)?;
                continue;
            };
            let hook = if held.guarded { Hook::Guarded } else { hook };
            if inside {
                self.registry.put_inside(ours.slot, flags)?;
                let copy = match &mut copy {
                    Some(copy) => copy,
                    None => copy.insert(self.copy_for(ours.slot, flags)?),
                };
                theirs.hand_over(ours, copy, hook)?;
            } else {
                self.registry.put(held.ifindex, RawTap { slot: ours.slot.0, flags })?;
                theirs.hand_over(ours, &mut self.programs, hook)?;
            }
            any = true;
        }
        Ok(any)
    }

    /// Steps 2 and 3, for each set whose taps were taken over when this one was opened. Blocks for a grace period a set.
    pub fn drain_older(&mut self) -> Inherited {
        for older in std::mem::take(&mut self.older) {
            match older.drain(&self.folder.join("maps"), &mut self.inherited) {
                Ok(()) => {}
                Err(error) => {
                    self.inherited.lost += 1;
                    self.inherited.problems.push(error);
                }
            }
            self.inherited.problems.extend(older.remove().err());
        }
        std::mem::take(&mut self.inherited)
    }
}

fn is_gone(folder: &Path) -> bool {
    folder.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(GONE.as_bytes()))
}

impl Older {
    /// Reads both epochs.
    fn drain(&self, ours: &Path, into: &mut Inherited) -> Result<(), TapError> {
        let failed = |source| TapError::Call { what: "wait on", map: "tl_barrier", source };
        Barrier::new().and_then(|barrier| barrier.wait()).map_err(failed)?;
        let open = |name| Foreign::open(&self.folder.join("maps"), ours, name);
        let mut control = RawControl::default();
        open("tl_control")?.for_each(|_: u32, found: &[RawControl]| {
            control = found.first().copied().unwrap_or_default();
        })?;
        for epoch in [control.epoch.wrapping_sub(1), control.epoch] {
            let parity = epoch & 1;
            if control.clearing == parity + 1 {
                into.lost += 1;
                continue;
            }
            let flows = open(if parity == 0 { "tl_flows_0" } else { "tl_flows_1" })?;
            let rates = self.rates(ours, parity)?;
            let closed = ClosedEpoch {
                epoch,
                taps: self.counted(&open("tl_counters")?, &open("tl_drained")?, parity)?,
                ..self.flows(&flows, &open("tl_front")?, parity, &rates)?
            };
            if !closed.flows.is_empty() || !closed.taps.is_empty() {
                into.epochs.push(closed);
            }
        }
        Ok(())
    }

    /// At which rates taps were sampled in epochs of this parity, by our slots. Versions without sampling have none.
    fn rates(&self, ours: &Path, parity: u32) -> Result<HashMap<Slot, u32>, TapError> {
        const NAME: &str = "tl_sampling";
        let theirs = self.folder.join("maps");
        let mut rates = HashMap::new();
        if !theirs.join(NAME).exists() {
            return Ok(rates);
        }
        Foreign::open(&theirs, ours, NAME)?.for_each(|at: u32, rate: &[u32]| {
            let slot = u16::try_from(at >> 1).ok().and_then(|slot| self.slots.get(&slot));
            let rate = rate.first().copied().filter(|rate| at & 1 == parity && *rate > 1);
            rates.extend(slot.copied().zip(rate));
        })?;
        Ok(rates)
    }

    fn flows(
        &self,
        flows: &Foreign,
        front: &Foreign,
        parity: u32,
        rates: &HashMap<Slot, u32>,
    ) -> Result<ClosedEpoch, TapError> {
        let (mut taken, tick) = (Vec::new(), sys::tick());
        let mut take = |mut key: RawKey, value: &RawValue| {
            let Some(slot) = self.slots.get(&key.tap) else { return };
            key.tap = slot.0;
            let one_in = rates.get(slot).copied().unwrap_or(1);
            taken.push((FlowKey::of(key), FlowTotals::of(value, tick).scaled(one_in)));
        };
        flows
            .for_each(|key: RawKey, values: &[RawValue]| values.iter().for_each(|value| take(key, value)))?;
        // Versions before this one had them in a map that is kept per processor.
        let tables = if front.info.per_processor() { 2 } else { 2 * sys::possible_processors() };
        let places = (front.info.max_entries / tables).max(1);
        front.for_each(|place: u32, found: &[RawFront]| {
            let used = found.iter().filter(|front| front.value.skbs > 0 && (place / places) & 1 == parity);
            used.for_each(|front| take(front.key, &front.value));
        })?;
        let entries = taken.len();
        let sampled = rates.keys().copied().collect();
        Ok(ClosedEpoch { flows: taken, entries, sampled, ..ClosedEpoch::default() })
    }

    fn counted(
        &self,
        counters: &Foreign,
        drained: &Foreign,
        parity: u32,
    ) -> Result<Vec<TapTotals>, TapError> {
        let mut before = HashMap::new();
        drained.for_each(|at: u32, counted: &[RawCounters]| {
            before.insert(at, counted.first().map(Counters::of).unwrap_or_default());
        })?;
        let mut taps = Vec::new();
        counters.for_each(|at: u32, counted: &[RawCounters]| {
            let slot = u16::try_from(at >> 2).ok().and_then(|slot| self.slots.get(&slot));
            let Some(slot) = slot.filter(|_| at & 1 == parity) else { return };
            let mut epoch = Counters::default();
            for processor in counted {
                epoch += Counters::of(processor);
            }
            epoch = epoch - before.get(&at).copied().unwrap_or_default();
            if epoch != Counters::default() {
                let direction = if at >> 1 & 1 == 0 { Direction::Received } else { Direction::Sent };
                taps.push(TapTotals { slot: *slot, direction, epoch });
            }
        })?;
        Ok(taps)
    }

    fn remove(&self) -> Result<(), TapError> {
        let name = self.folder.file_name().unwrap_or_default().to_string_lossy();
        let gone = self.folder.with_file_name(format!("{GONE}{name}"));
        fs::rename(&self.folder, &gone).map_err(pin_error("rename", &self.folder))?;
        remove_set(&gone)
    }
}

/// A map of another version, read as if it were ours.
struct Foreign {
    name: &'static str,
    map: OwnedFd,
    info: sys::RawMapInfo,
    key: Translation,
    value: Translation,
}

impl Foreign {
    fn open(theirs: &Path, ours: &Path, name: &'static str) -> Result<Self, TapError> {
        let found = |folder: &Path| {
            let path = folder.join(name);
            let missing = || io::Error::from(io::ErrorKind::NotFound);
            let opened = sys::pinned_map(&path).and_then(|found| found.ok_or_else(missing));
            opened.map_err(pin_error("read", &path))
        };
        let ((map, info), (_, own)) = (found(theirs)?, found(ours)?);
        let failed = |source| TapError::Call { what: "read the layout of", map: name, source };
        let (their_shapes, our_shapes) = match (shapes(&info), shapes(&own)) {
            (Some(theirs), Some(ours)) => (theirs, ours),
            _ => (plain(&info), plain(&own)),
        };
        let unknown = their_shapes != our_shapes && (info.btf == 0 || own.btf == 0);
        if unknown {
            return Err(failed(io::ErrorKind::InvalidData.into()));
        }
        let key = Translation::new(&their_shapes.0, &our_shapes.0);
        let value = Translation::new(&their_shapes.1, &our_shapes.1);
        Ok(Self { name, map, info, key, value })
    }

    /// Visits every entry: its key, and its value or those of all processors.
    fn for_each<K: Pod, V: Pod>(&self, mut visit: impl FnMut(K, &[V])) -> Result<(), TapError> {
        let failed = |source| TapError::Call { what: "read", map: self.name, source };
        let one = self.info.value_size as usize;
        let (stride, processors) = if self.info.per_processor() {
            (one.next_multiple_of(8), sys::possible_processors() as usize)
        } else {
            (one, 1)
        };
        let mut odd = false;
        let mut values = Vec::new();
        let lengths = [self.info.key_size as usize, stride * processors];
        sys::for_each_raw(self.map.as_fd(), lengths, |key, all| {
            values.clear();
            let value = |bytes: &[u8]| self.value.of(bytes).and_then(|bytes| sys::of_bytes::<V>(&bytes));
            values.extend(all.chunks(stride).filter_map(value));
            match self.key.of(key).and_then(|bytes| sys::of_bytes::<K>(&bytes)) {
                Some(key) if values.len() == processors => visit(key, &values),
                _ => odd = true,
            }
        })
        .map_err(failed)?;
        if odd { Err(failed(io::ErrorKind::InvalidData.into())) } else { Ok(()) }
    }
}

/// Key and value, as the kernel describes them.
fn shapes(info: &sys::RawMapInfo) -> Option<(Shape, Shape)> {
    let btf = (info.btf != 0).then(|| sys::btf(info.btf)).and_then(Result::ok)?;
    let btf = Btf::parse(&btf)?;
    Some((btf.shape(info.key_type)?, btf.shape(info.value_type)?))
}

fn plain(info: &sys::RawMapInfo) -> (Shape, Shape) {
    (Shape::plain(info.key_size as usize), Shape::plain(info.value_size as usize))
}
