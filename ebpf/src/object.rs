//! The compiled programs, and loading them into the kernel over pinned maps.
//!
//! Owns the embedded object. One copy of the programs serves all taps of the node's own namespace; an interface
//! elsewhere gets a copy of its own, which carries its slot as a constant. All copies share the same maps.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};

use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfLoader};
use sha2::{Digest, Sha256};

use crate::budget::{Capacity, DNS_ANSWERS, DNS_QUESTIONS, HANDSHAKES};
use crate::error::TapError;
use crate::flow::Slot;
use crate::front;

pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/taps.o"));
/// Any change of what maps hold changes this text, and with it the folder of the pins.
static LAYOUT: &str = include_str!("bpf/layout.h");

/// Making a loader parses the types of the whole kernel, tens of milliseconds and megabytes, and an interface elsewhere
/// needs a copy of its own. Our programs refer to none of these types, so one loader without them does.
static LOADER: LazyLock<Mutex<EbpfLoader<'static>>> = LazyLock::new(|| {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    Mutex::new(loader)
});

/// A copy of the programs in the kernel.
pub struct Programs {
    ebpf: Ebpf,
}

/// The tap on what a device receives.
pub(crate) const INGRESS: &str = "tap_ingress";
/// The tap on what a device sends.
pub(crate) const EGRESS: &str = "tap_egress";
/// The tap on what a device receives, which nobody behind it is to have.
pub(crate) const GUARDED: &str = "tap_ingress_guarded";

impl Programs {
    /// Loads a copy over the maps pinned in `maps`, which are made where they are missing. With a slot, the copy
    /// serves that tap alone, on whatever interface it is attached to, and a program is loaded when it is asked for.
    pub(crate) fn load(maps: &Path, capacity: &Capacity, own: Option<(Slot, u16)>) -> Result<Self, TapError> {
        let mut loader = LOADER.lock().unwrap_or_else(PoisonError::into_inner);
        loader
            .default_map_pin_directory(maps)
            .map_max_entries("tl_flows_0", capacity.entries)
            .map_max_entries("tl_flows_1", capacity.entries)
            .map_max_entries("tl_front", front::entries(capacity))
            .map_max_entries("tl_taps", u32::from(capacity.taps))
            .map_max_entries("tl_counters", u32::from(capacity.taps) * 4)
            .map_max_entries("tl_drained", u32::from(capacity.taps) * 4)
            .map_max_entries("tl_sampling", u32::from(capacity.taps) * 2)
            .map_max_entries("tl_dns_asked", DNS_QUESTIONS)
            .map_max_entries("tl_dns", DNS_ANSWERS)
            .map_max_entries("tl_handshakes", HANDSHAKES);
        let (slot, flags) = own.map_or((0, 0), |(slot, flags)| (u32::from(slot.0) + 1, u32::from(flags)));
        let mask = capacity.places - 1;
        loader
            .override_global("own_slot", lasting(slot), true)
            .override_global("own_flags", lasting(flags), true)
            .override_global("front_mask", lasting(mask), true);
        let ebpf = loader.load(OBJECT).map_err(|error| TapError::Load(Box::new(error)))?;
        drop(loader);
        let mut programs = Self { ebpf };
        if own.is_none() {
            for name in [INGRESS, EGRESS, GUARDED] {
                programs.program(name)?;
            }
        }
        Ok(programs)
    }

    /// One of the three programs.
    pub(crate) fn program(&mut self, name: &'static str) -> Result<&mut SchedClassifier, TapError> {
        let failed = |source| TapError::Program { program: name, source: Box::new(source) };
        let program = program(&mut self.ebpf, name).map_err(failed)?;
        if program.fd().is_err() {
            load(program).map_err(failed)?;
        }
        Ok(program)
    }

    /// A program that does nothing, for measurements: what it takes is taken by every program.
    pub fn nothing(&mut self) -> Result<&mut SchedClassifier, TapError> {
        const NAME: &str = "nothing";
        let failed = |source| TapError::Program { program: NAME, source: Box::new(source) };
        let program = program(&mut self.ebpf, NAME).map_err(failed)?;
        if program.fd().is_err() {
            load(program).map_err(failed)?;
        }
        Ok(program)
    }

    /// The programs for tests and measurements: receiving, sending.
    pub fn taps(&mut self) -> Result<(&SchedClassifier, &SchedClassifier), TapError> {
        self.program(INGRESS)?;
        self.program(EGRESS)?;
        let found = |name| {
            let program: Result<&SchedClassifier, ProgramError> =
                self.ebpf.program(name).ok_or(ProgramError::NotLoaded).and_then(TryInto::try_into);
            program.map_err(|source| TapError::Program { program: "tap", source: Box::new(source) })
        };
        Ok((found(INGRESS)?, found(EGRESS)?))
    }
}

/// The number for as long as the process lives, once however often it is asked for: slots, flags and masks are few.
fn lasting(number: u32) -> &'static u32 {
    static NUMBERS: Mutex<Option<HashMap<u32, &'static u32>>> = Mutex::new(None);
    let mut numbers = NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
    numbers.get_or_insert_default().entry(number).or_insert_with(|| Box::leak(Box::new(number)))
}

/// The verifier gives up with EAGAIN when a signal comes in between; libbpf asks again as often.
fn load(program: &mut SchedClassifier) -> Result<(), ProgramError> {
    const ATTEMPTS: u32 = 5;
    let mut attempt = 1;
    loop {
        match program.load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == ErrorKind::WouldBlock && attempt < ATTEMPTS =>
            {
                attempt += 1;
            }
            done => return done,
        }
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, ProgramError> {
    ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()
}

/// Names the set of maps that this layout and this capacity make: sixteen hexadecimal digits.
pub(crate) fn set_name(capacity: &Capacity) -> String {
    let mut hash = Sha256::new();
    hash.update(LAYOUT);
    hash.update(capacity.entries.to_le_bytes());
    hash.update(capacity.places.to_le_bytes());
    hash.update(capacity.taps.to_le_bytes());
    let digest = hash.finalize();
    digest.iter().take(8).fold(String::new(), |name, byte| name + &format!("{byte:02x}"))
}
