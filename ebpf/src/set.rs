//! All taps of a node: one set of pinned maps, the programs over it, and the slots.
//!
//! ```text
//!  <root>/<layout and capacity>/maps/tl_*              what programs and reader share
//!                              /taps/<slot>_<name>/…   links: ingress, egress
//! ```
//!
//! What is pinned is the truth: a new process finds its taps, its counters and its undrained flows there. A slot that
//! was given up keeps its folder, empty, until a drain has passed: nobody else may own what it still counted.

mod older;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::attach::{Hook, LinkState, TapLinks, Way, pin_error};
use crate::budget::Capacity;
use crate::clsact;
use crate::error::TapError;
use crate::flow::Slot;
use crate::layout::{RawTap, TAP_HOST_SIDE, TAP_NO_ETHERNET};
use crate::object::{Programs, set_name};
use crate::reader::Reader;
use crate::registry::Registry;
use crate::sys;

pub use older::Inherited;
use older::Older;

/// What to tap, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    /// The caller's name for it: unique, at most 60 bytes, of what an interface's name may hold and `@`.
    pub name: String,
    /// The interface, in the namespace of the thread that attaches.
    pub interface: String,
    /// Its index there.
    pub ifindex: u32,
    /// Whether it is the node's end of a pair: what it receives, the pod sent.
    pub host_side: bool,
    /// Whether its frames have no Ethernet header.
    pub no_ethernet: bool,
    /// Whether what it receives must not reach the stack that it is in.
    pub guarded: bool,
}

impl Tap {
    fn flags(&self) -> u16 {
        let side = if self.host_side { TAP_HOST_SIDE } else { 0 };
        let form = if self.no_ethernet { TAP_NO_ETHERNET } else { 0 };
        side | form
    }

    fn hooks(&self) -> [Hook; 2] {
        Hook::of_tap(self.guarded)
    }
}

/// All taps of a node.
pub struct TapSet {
    folder: PathBuf,
    way: Way,
    capacity: Capacity,
    programs: Programs,
    tags: [[u8; 8]; 3],
    registry: Registry,
    taps: BTreeMap<Slot, TapLinks>,
    given_up: BTreeMap<Slot, TapLinks>,
    older: Vec<Older>,
    inherited: Inherited,
}

impl TapSet {
    /// Loads the programs, over the maps that an earlier process left where they have this layout and capacity, and
    /// finds its taps. Taps of sets of another layout or capacity count here from now on; what they counted before is
    /// for [`Self::drain_older`]. `root` is a folder of ours on a bpffs; it is made when it is missing.
    pub fn open(root: &Path, capacity: Capacity) -> Result<Self, TapError> {
        Self::open_with(root, capacity, Way::of_kernel()?)
    }

    /// As [`Self::open`], by a way that the caller chose. One root has one way.
    pub fn open_with(root: &Path, capacity: Capacity, way: Way) -> Result<Self, TapError> {
        let folder = root.join(set_name(&capacity));
        for part in ["maps", "taps"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).map_err(pin_error("create", &path))?;
        }
        let on_bpffs = statfs(&folder).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
        if !on_bpffs {
            return Err(TapError::NotBpffs { path: root.to_owned() });
        }
        let mut programs = Programs::load(&folder.join("maps"), &capacity, None)?;
        let tags = tags_of(&mut programs)?;
        let registry = Registry::open(&folder.join("maps"))?;
        let mut set = Self {
            folder,
            way,
            capacity,
            programs,
            tags,
            registry,
            taps: BTreeMap::new(),
            given_up: BTreeMap::new(),
            older: Vec::new(),
            inherited: Inherited::default(),
        };
        set.find()?;
        set.take_over_older()?;
        Ok(set)
    }

    fn find(&mut self) -> Result<(), TapError> {
        let path = self.folder.join("taps");
        let entries = fs::read_dir(&path).map_err(pin_error("read", &path))?;
        for entry in entries {
            let found = entry.map_err(pin_error("read", &path))?.path();
            let empty = fs::read_dir(&found).map_err(pin_error("read", &found))?.next().is_none();
            let Some(links) = TapLinks::of_folder(found, self.way) else { continue };
            let list = if empty { &mut self.given_up } else { &mut self.taps };
            list.insert(links.slot, links);
        }
        Ok(())
    }

    /// How much it holds.
    pub fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    /// The reader of these maps. There must be one at a time.
    pub fn reader(&self) -> Result<Reader, TapError> {
        Reader::open(&self.folder.join("maps"), self.capacity)
    }

    /// The taps that are pinned, attached or not.
    pub fn taps(&self) -> impl Iterator<Item = (Slot, &str)> {
        self.taps.values().map(|links| (links.slot, links.name.as_str()))
    }

    /// How programs hang on interfaces here.
    pub fn way(&self) -> Way {
        self.way
    }

    /// Whether a tap's links are all on this interface and run these programs. By clsact, only a thread in the
    /// interface's namespace can say.
    pub fn state(&self, slot: Slot, wanted: &Tap) -> Result<LinkState, TapError> {
        let Some(links) = self.taps.get(&slot) else { return Ok(LinkState::Gone) };
        let mut worst = LinkState::Attached { ifindex: wanted.ifindex };
        for hook in wanted.hooks() {
            match links.state(hook, self.tag(hook))? {
                LinkState::Attached { ifindex } if ifindex == wanted.ifindex => {}
                LinkState::OtherProgram { ifindex } if ifindex == wanted.ifindex => {
                    worst = LinkState::OtherProgram { ifindex };
                }
                _ => return Ok(LinkState::Gone),
            }
        }
        Ok(worst)
    }

    fn tag(&self, hook: Hook) -> [u8; 8] {
        self.tags[hook as usize]
    }

    /// Makes a tap as wanted: attaches what is missing, replaces programs of another version without a gap, leaves
    /// what is right. Repeating it is harmless, and so is dying anywhere in it.
    ///
    /// For an interface of the node's own namespace. Elsewhere it is [`Self::ensure_inside`].
    pub fn ensure(&mut self, tap: &Tap) -> Result<Slot, TapError> {
        let links = self.links_of(&tap.name)?;
        let entry = RawTap { slot: links.slot.0, flags: tap.flags() };
        self.registry.put(tap.ifindex, entry)?;
        for hook in tap.hooks() {
            match links.state(hook, self.tag(hook))? {
                LinkState::Attached { ifindex } if ifindex == tap.ifindex => {}
                LinkState::OtherProgram { ifindex } if ifindex == tap.ifindex => {
                    links.replace_program(&mut self.programs, hook)?;
                }
                _ => links.attach(&mut self.programs, hook, &tap.interface)?,
            }
        }
        Ok(links.slot)
    }

    /// As [`Self::ensure`], for an interface of another namespace. `enter` runs the attaching on a thread that is in
    /// that namespace; the copy of the programs that it gets knows the slot by itself.
    pub fn ensure_inside<T>(
        &mut self,
        tap: &Tap,
        enter: impl FnOnce(Box<dyn FnOnce() -> Result<(), TapError> + Send>) -> T,
    ) -> Result<(Slot, Option<T>), TapError> {
        let links = self.links_of(&tap.name)?;
        let (slot, own) = (links.slot, Some((links.slot, tap.flags())));
        let hooks = tap.hooks().map(|hook| (hook, self.tag(hook)));
        let (interface, ifindex) = (tap.interface.clone(), tap.ifindex);
        let missing = move |links: &TapLinks| {
            let mut missing = Vec::new();
            for (hook, tag) in hooks {
                match links.state(hook, tag)? {
                    LinkState::Attached { ifindex: at } if at == ifindex => {}
                    _ => missing.push(hook),
                }
            }
            Ok::<_, TapError>(missing)
        };
        // A filter is seen in its namespace only.
        if self.way == Way::Tcx && missing(&links)?.is_empty() {
            return Ok((slot, None));
        }
        self.registry.put_inside(slot, tap.flags())?;
        let (maps, capacity) = (self.folder.join("maps"), self.capacity);
        let job = move || {
            let missing = missing(&links)?;
            if missing.is_empty() {
                return Ok(());
            }
            let mut programs = Programs::load(&maps, &capacity, own)?;
            missing.into_iter().try_for_each(|hook| links.attach(&mut programs, hook, &interface))
        };
        Ok((slot, Some(enter(Box::new(job)))))
    }

    /// A copy of the programs that knows its slot by itself.
    fn copy_for(&self, slot: Slot, flags: u16) -> Result<Programs, TapError> {
        Programs::load(&self.folder.join("maps"), &self.capacity, Some((slot, flags)))
    }

    /// The folder of this name, made with a free slot when there is none.
    fn links_of(&mut self, name: &str) -> Result<TapLinks, TapError> {
        if let Some(links) = self.taps.values().find(|links| links.name == name) {
            return Ok(links.clone());
        }
        let taken = |slot: &u16| {
            let slot = Slot(*slot);
            self.taps.contains_key(&slot) || self.given_up.contains_key(&slot)
        };
        let free = (0..self.capacity.taps).find(|slot| !taken(slot));
        let slot = Slot(free.ok_or(TapError::NoSlot { taps: self.capacity.taps })?);
        let links = TapLinks::at(&self.folder.join("taps"), self.way, slot, name);
        links.create_folder()?;
        self.taps.insert(slot, links.clone());
        Ok(links)
    }

    /// Takes a tap off; by clsact, on a thread in its interface's namespace. What it counted stays until [`Self::forget`]; its slot is not given to another before.
    pub fn give_up(&mut self, slot: Slot) -> Result<(), TapError> {
        let Some(links) = self.taps.get(&slot).cloned() else { return Ok(()) };
        for hook in Hook::of_tap(false) {
            links.detach(hook)?;
        }
        self.registry.remove(slot)?;
        self.taps.remove(&slot);
        self.given_up.insert(slot, links);
        Ok(())
    }

    /// Slots that were given up and wait for a drain.
    pub fn given_up(&self) -> impl Iterator<Item = (Slot, &str)> {
        self.given_up.values().map(|links| (links.slot, links.name.as_str()))
    }

    /// Frees a slot whose last flows have been read: to be called when both parities were drained since it was given
    /// up, and [`Reader::zero`] has set it back.
    pub fn forget(&mut self, slot: Slot) -> Result<(), TapError> {
        let Some(links) = self.given_up.get(&slot) else { return Ok(()) };
        links.remove_folder()?;
        self.given_up.remove(&slot);
        Ok(())
    }

    /// The programs themselves, for tests and measurements.
    pub fn programs(&mut self) -> &mut Programs {
        &mut self.programs
    }

    /// Registers a slot for an interface without attaching anything: programs then count what a test run gives them.
    pub fn register(&mut self, tap: &Tap) -> Result<Slot, TapError> {
        let links = self.links_of(&tap.name)?;
        let entry = RawTap { slot: links.slot.0, flags: tap.flags() };
        self.registry.put(tap.ifindex, entry)?;
        Ok(links.slot)
    }

    /// Takes everything off and removes every pin of this set.
    pub fn destroy(mut self) -> Result<(), TapError> {
        let slots: Vec<Slot> = self.taps.keys().copied().collect();
        slots.into_iter().try_for_each(|slot| self.give_up(slot))?;
        for links in self.given_up.values() {
            links.remove_folder()?;
        }
        remove_set(&self.folder)
    }
}

/// Removes everything of ours below `root`, of whatever version: every link, so every tap, and every map. `Ok(false)`
/// when there was nothing.
///
/// Filters of clsact are found in the namespace of the calling thread, also those whose set was lost with its bpffs.
pub fn remove_all(root: &Path) -> Result<bool, TapError> {
    let mut there = root.exists();
    if there {
        for entry in fs::read_dir(root).map_err(pin_error("read", root))? {
            clsact::detach_all(&entry.map_err(pin_error("read", root))?.path())?;
        }
    }
    there |= clsact::sweep()?;
    remove_set(root)?;
    Ok(there)
}

/// Removes a set's folder with whatever is pinned in it.
pub(crate) fn remove_set(folder: &Path) -> Result<(), TapError> {
    clsact::detach_all(folder)?;
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(pin_error("remove", folder)(error)),
        _ => Ok(()),
    }
}

fn tags_of(programs: &mut Programs) -> Result<[[u8; 8]; 3], TapError> {
    let mut tags = [[0; 8]; 3];
    for hook in [Hook::Ingress, Hook::Guarded, Hook::Egress] {
        let name = hook.program();
        let program = programs.program(name)?;
        let failed = |source| TapError::Program { program: name, source: Box::new(source) };
        let fd = program.fd().map_err(failed)?;
        let inspected = sys::program_info(fd.as_fd());
        let failed = |source| TapError::Call { what: "inspect the programs of", map: "tl_taps", source };
        tags[hook as usize] = inspected.map_err(failed)?.tag;
    }
    Ok(tags)
}

pub(crate) fn map_error(map: &'static str) -> impl Fn(aya::maps::MapError) -> TapError {
    move |source| TapError::Map { map, source: Box::new(source) }
}
