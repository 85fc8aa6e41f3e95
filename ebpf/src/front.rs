//! The front tables: flows that the programs find without the map, in memory that they share with the reader.
//!
//! Owns the mapping of `tl_front` (`array_map_mmap` in `kernel/bpf/arraymap.c`). Every processor has a table for each
//! parity of the epoch. Looks at those of an epoch alone that no program writes to any more.
#![expect(unsafe_code, reason = "memory that the kernel maps has no safe wrapper")]

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};

use aya::maps::MapData;

use crate::budget::Capacity;
use crate::error::TapError;
use crate::layout::{RawFront, RawKey, RawValue};
use crate::set::map_error;
use crate::sys::possible_processors;

const NAME: &str = "tl_front";

/// All front tables of a set.
pub(crate) struct Front {
    first: NonNull<RawFront>,
    /// Tables of a parity.
    processors: usize,
    /// Places of each.
    places: usize,
}

// SAFETY: the mapping is the process's, not a thread's, and this is its one owner.
unsafe impl Send for Front {}
// SAFETY: a shared reference reaches none of the memory.
unsafe impl Sync for Front {}

/// How many places there are in all: the map's entries.
pub(crate) fn entries(capacity: &Capacity) -> u32 {
    2 * possible_processors() * capacity.places
}

impl Front {
    pub(crate) fn open(maps: &Path, capacity: Capacity) -> Result<Self, TapError> {
        let map = MapData::from_pin(maps.join(NAME)).map_err(map_error(NAME))?;
        let failed = |source| TapError::Call { what: "map", map: NAME, source };
        let length = entries(&capacity) as usize * size_of::<RawFront>();
        let (access, fd) = (libc::PROT_READ | libc::PROT_WRITE, map.fd().as_fd().as_raw_fd());
        // SAFETY: a new mapping at an address of the kernel's choice; the kernel refuses one longer than the map.
        let mapped = unsafe { libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, fd, 0) };
        if mapped == libc::MAP_FAILED {
            return Err(failed(io::Error::last_os_error()));
        }
        let first = NonNull::new(mapped.cast()).ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
        Ok(Self { first, processors: possible_processors() as usize, places: capacity.places as usize })
    }

    /// Takes all flows out of the tables of a parity, which no program may be writing to.
    pub(crate) fn take(&mut self, parity: u32, mut visit: impl FnMut(&RawKey, &RawValue)) {
        for processor in 0..self.processors {
            let table = (processor << 1 | (parity & 1) as usize) * self.places;
            for at in table..table + self.places {
                // SAFETY: below the number of places, so within the mapping, whose values are as long as this type
                // and lie on its alignment; any bytes are one; and nobody else looks at or writes to a closed epoch's.
                let place = unsafe { self.first.add(at).as_mut() };
                if place.value.skbs > 0 {
                    visit(&place.key, &place.value);
                    place.value.skbs = 0;
                }
            }
        }
        // Before the flip that has programs use them again.
        fence(Ordering::SeqCst);
    }

    /// Frees all places of a parity, which no program may be writing to.
    pub(crate) fn clear(&mut self, parity: u32) {
        self.take(parity, |_, _| ());
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let length = 2 * self.processors * self.places * size_of::<RawFront>();
        // SAFETY: what `open` mapped, and nothing refers to it any more. It fails for no mapping that there is.
        unsafe { libc::munmap(self.first.as_ptr().cast::<c_void>(), length) };
    }
}
