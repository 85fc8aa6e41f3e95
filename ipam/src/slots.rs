//! Which addresses of one range cannot be handed out at this moment.
//!
//! Owns the bits (small ranges) or runs (large ones), so that a /64 costs what is used of it and not what it could
//! hold. Must never know why a slot is taken.

use std::collections::BTreeMap;

/// The largest range that is kept as a bitmap: 2^16 addresses, 8 KiB.
const BITMAP_LIMIT: u128 = 1 << 16;

/// Slots 0..size of a range; each is clear (can be handed out) or set.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    size: u128,
    set: u128,
    shape: Shape,
}

#[derive(Clone, Debug)]
enum Shape {
    Bitmap(Vec<u64>),
    /// First slot → last slot of every run of set slots; runs never touch.
    Runs(BTreeMap<u128, u128>),
}

impl Slots {
    pub(crate) fn new(size: u128) -> Self {
        let shape = match usize::try_from(size) {
            Ok(bits) if size <= BITMAP_LIMIT => Shape::Bitmap(vec![0; bits.div_ceil(64)]),
            _ => Shape::Runs(BTreeMap::new()),
        };
        Self { size, set: 0, shape }
    }

    /// Is every slot set?
    pub(crate) fn is_full(&self) -> bool {
        self.set >= self.size
    }

    pub(crate) fn is_set(&self, slot: u128) -> bool {
        match &self.shape {
            Shape::Bitmap(words) => {
                let (word, bit) = position(slot);
                words[word] & bit != 0
            }
            Shape::Runs(runs) => run_with(runs, slot).is_some(),
        }
    }

    pub(crate) fn write(&mut self, slot: u128, set: bool) {
        debug_assert!(slot < self.size);
        if self.is_set(slot) == set {
            return;
        }
        match &mut self.shape {
            Shape::Bitmap(words) => {
                let (word, bit) = position(slot);
                words[word] ^= bit;
            }
            Shape::Runs(runs) if set => join(runs, slot),
            Shape::Runs(runs) => split(runs, slot),
        }
        if set { self.set += 1 } else { self.set -= 1 }
    }

    /// The first clear slot at or after `from`, not wrapping around.
    pub(crate) fn next_clear(&self, from: u128) -> Option<u128> {
        if self.is_full() {
            return None;
        }
        let clear = match &self.shape {
            Shape::Bitmap(words) => next_clear_bit(words, from)?,
            Shape::Runs(runs) => run_with(runs, from).map_or(Some(from), |(_, last)| last.checked_add(1))?,
        };
        (clear < self.size).then_some(clear)
    }
}

fn position(slot: u128) -> (usize, u64) {
    let slot = usize::try_from(slot).expect("a bitmap has at most 2^16 slots");
    (slot / 64, 1 << (slot % 64))
}

fn next_clear_bit(words: &[u64], from: u128) -> Option<u128> {
    let from = usize::try_from(from).ok()?;
    let mut index = from / 64;
    let mut free = !*words.get(index)? & (u64::MAX << (from % 64));
    while free == 0 {
        index += 1;
        free = !*words.get(index)?;
    }
    Some(index as u128 * 64 + u128::from(free.trailing_zeros()))
}

fn run_with(runs: &BTreeMap<u128, u128>, slot: u128) -> Option<(u128, u128)> {
    let (&first, &last) = runs.range(..=slot).next_back()?;
    (slot <= last).then_some((first, last))
}

/// Sets a clear slot, joining the runs it touches.
fn join(runs: &mut BTreeMap<u128, u128>, slot: u128) {
    let before = slot.checked_sub(1).and_then(|slot| run_with(runs, slot));
    let after = slot.checked_add(1).and_then(|slot| run_with(runs, slot));
    let first = before.map_or(slot, |(first, _)| first);
    let last = after.map_or(slot, |(_, last)| last);
    if let Some((first, _)) = after {
        runs.remove(&first);
    }
    runs.insert(first, last);
}

/// Clears a set slot, splitting its run.
fn split(runs: &mut BTreeMap<u128, u128>, slot: u128) {
    let (first, last) = run_with(runs, slot).expect("the caller has seen that the slot is set");
    runs.remove(&first);
    if first < slot {
        runs.insert(first, slot - 1);
    }
    if slot < last {
        runs.insert(slot + 1, last);
    }
}

#[cfg(test)]
mod tests;
