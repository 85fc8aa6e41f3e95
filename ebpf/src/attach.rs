//! One tap's links: attaching, pinning, looking at them, taking them off.
//!
//! Owns a folder `<slot>_<name>` on bpffs for each tap. Works in the network namespace of the calling thread, and
//! changes nothing that another program put on the interface. Ours is first on what a device receives and last on what
//! it sends, where the device's own counters stand. By TCX, links share the interface in order, and a link lives exactly
//! as long as its pin; what kernels before that have is in [`crate::clsact`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::links::{FdLink, LinkOrder};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{ProgramError, TcAttachType};
use aya::util::KernelVersion;

use crate::clsact;
use crate::error::TapError;
use crate::flow::Slot;
use crate::object::{EGRESS, GUARDED, INGRESS, Programs};
use crate::sys;

/// How long a link whose pin somebody removed may hold its place: the kernel frees it when nobody can see it any more.
const LINGER: Duration = Duration::from_millis(500);

/// How programs hang on interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Links of their own kind, from kernel 6.6 on.
    Tcx,
    /// Filters of the clsact qdisc, on every kernel.
    Clsact,
}

impl Way {
    /// What [`Way::Tcx`] needs.
    const TCX: KernelVersion = KernelVersion::new(6, 6, 0);
    /// What the programs and their reader need whatever the way: batches over per-processor arrays. The coarse clock
    /// is older (5.11). 6.1 is the oldest that is tested.
    const OLDEST: KernelVersion = KernelVersion::new(5, 13, 0);

    /// The running kernel's. What cannot be asked is taken to be new; attaching then says what is wrong.
    pub fn of_kernel() -> Result<Self, TapError> {
        KernelVersion::current().map_or(Ok(Self::Tcx), Self::of)
    }

    fn of(running: KernelVersion) -> Result<Self, TapError> {
        match running {
            _ if running >= Self::TCX => Ok(Self::Tcx),
            _ if running >= Self::OLDEST => Ok(Self::Clsact),
            _ => Err(TapError::TooOld),
        }
    }
}

/// One place where a program of a tap hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// What the device receives.
    Ingress,
    /// What the device receives, and nobody behind the tap is to have.
    Guarded,
    /// What the device sends.
    Egress,
}

impl Hook {
    /// The hooks of a tap.
    pub(crate) fn of_tap(guarded: bool) -> [Self; 2] {
        [if guarded { Self::Guarded } else { Self::Ingress }, Self::Egress]
    }

    /// The name of its pin. Guarded or not, a tap has one ingress link: its program can be exchanged.
    pub(crate) fn pin(self) -> &'static str {
        match self {
            Self::Ingress | Self::Guarded => "ingress",
            Self::Egress => "egress",
        }
    }

    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Ingress => INGRESS,
            Self::Guarded => GUARDED,
            Self::Egress => EGRESS,
        }
    }

    fn attach_type(self) -> TcAttachType {
        match self {
            Self::Ingress | Self::Guarded => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }

    /// A guarded tap ends the chain, so it comes last: whoever was there before it still runs.
    fn order(self) -> LinkOrder {
        match self {
            Self::Ingress => LinkOrder::first(),
            Self::Egress | Self::Guarded => LinkOrder::last(),
        }
    }
}

/// What a look at a pinned link found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Attached to this interface, running our program.
    Attached {
        /// The interface's index in its namespace.
        ifindex: u32,
    },
    /// Attached to this interface, running the program of another version.
    OtherProgram {
        /// The interface's index in its namespace.
        ifindex: u32,
    },
    /// Nothing is pinned, or somebody detached it, or the interface is gone.
    Gone,
}

/// What a hook of an older set holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// Its interface; 0 where it is attached to none any more, or to one that this thread cannot see.
    pub(crate) ifindex: u32,
    /// Whether its program is the guarded one.
    pub(crate) guarded: bool,
}

/// The pins of one tap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapLinks {
    pub(crate) folder: PathBuf,
    way: Way,
    /// Its slot.
    pub slot: Slot,
    /// What the caller named it.
    pub name: String,
}

impl TapLinks {
    /// bpffs takes no dot in a name, and the kernel no colon in an interface's.
    pub(crate) fn at(taps: &Path, way: Way, slot: Slot, name: &str) -> Self {
        let folder = taps.join(format!("{}_{}", slot.0, name.replace('.', ":")));
        Self { folder, way, slot, name: name.to_owned() }
    }

    /// Reads a folder's name.
    pub(crate) fn of_folder(folder: PathBuf, way: Way) -> Option<Self> {
        let (slot, name) = folder.file_name()?.to_str()?.split_once('_')?;
        let (slot, name) = (Slot(slot.parse().ok()?), name.replace(':', "."));
        Some(Self { folder, way, slot, name })
    }

    /// Where one hook's link is pinned.
    pub(crate) fn path(&self, hook: Hook) -> PathBuf {
        self.folder.join(hook.pin())
    }

    /// Whether anything is pinned.
    pub(crate) fn has_pins(&self) -> Result<bool, TapError> {
        Ok(fs::read_dir(&self.folder).map_err(pin_error("read", &self.folder))?.next().is_some())
    }

    pub(crate) fn create_folder(&self) -> Result<(), TapError> {
        match fs::create_dir(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(pin_error("create", &self.folder)(error))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn remove_folder(&self) -> Result<(), TapError> {
        match fs::remove_dir(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(pin_error("remove", &self.folder)(error))
            }
            _ => Ok(()),
        }
    }

    /// Attaches one hook to `interface`. Dying in it leaves nothing that the next attempt, or a detach, does not see.
    pub(crate) fn attach(
        &self,
        programs: &mut Programs,
        hook: Hook,
        interface: &str,
    ) -> Result<(), TapError> {
        match self.way {
            Way::Tcx => self.attach_link(programs, hook, interface),
            Way::Clsact => clsact::attach(self, programs, hook, interface),
        }
    }

    /// Attaches a link and pins it. Dying in between leaves nothing: an unpinned link goes with us.
    fn attach_link(&self, programs: &mut Programs, hook: Hook, interface: &str) -> Result<(), TapError> {
        self.detach(hook)?;
        let path = self.path(hook);
        let program = programs.program(hook.program())?;
        let failed = |source: ProgramError| TapError::Attach {
            program: hook.program(),
            interface: interface.to_owned(),
            source: Box::new(source),
        };
        let since = Instant::now();
        let id = loop {
            let options = TcAttachOptions::TcxOrder(hook.order());
            match program.attach_with_options(interface, hook.attach_type(), options) {
                Err(error) if exists(&error) && since.elapsed() < LINGER => thread::sleep(LINGER / 20),
                attached => break attached.map_err(failed)?,
            }
        };
        let link: SchedClassifierLink = program.take_link(id).map_err(failed)?;
        pin(link, &path)
    }

    /// Has a link that is already there run this copy's program from now on: no frame is missed in between.
    pub(crate) fn replace_program(&self, programs: &mut Programs, hook: Hook) -> Result<(), TapError> {
        if self.way == Way::Clsact {
            return clsact::replace(self, self, programs, hook);
        }
        let path = self.path(hook);
        let program = programs.program(hook.program())?;
        let failed = |source: ProgramError| TapError::Attach {
            program: hook.program(),
            interface: self.name.clone(),
            source: Box::new(source),
        };
        let old = aya::programs::links::PinnedLink::from_pin(&path)
            .and_then(|pinned| SchedClassifierLink::try_from(FdLink::from(pinned)))
            .map_err(|error| pin_error("read", &path)(io::Error::other(error)))?;
        let id = program.attach_to_link(old).map_err(failed)?;
        // The pin still holds the link; ours is dropped without detaching it.
        drop(program.take_link(id).map_err(failed)?);
        Ok(())
    }

    /// What this older tap's hook holds, which is to be `ours`. `None`: nothing is pinned.
    pub(crate) fn held(&self, ours: &Self, hook: Hook) -> Result<Option<Held>, TapError> {
        if self.way == Way::Clsact {
            return clsact::held(self, ours, hook);
        }
        let path = self.path(hook);
        let failed = pin_error("read", &path);
        let Some(link) = sys::pinned_link(&path).map_err(&failed)? else { return Ok(None) };
        let program = sys::program_by_id(link.program).map_err(failed)?;
        let guarded = program.is_some_and(|program| program.name.starts_with(b"tap_ingress_g"));
        Ok(Some(Held { ifindex: link.ifindex, guarded }))
    }

    /// Has what this older tap holds run `programs`, from one frame to the next, and belong to `ours`. Repeating it is
    /// harmless.
    pub(crate) fn hand_over(&self, ours: &Self, programs: &mut Programs, hook: Hook) -> Result<(), TapError> {
        match self.way {
            Way::Tcx => self.replace_program(programs, hook)?,
            Way::Clsact => clsact::replace(self, ours, programs, hook)?,
        }
        let path = self.path(hook);
        fs::rename(&path, ours.path(hook)).map_err(pin_error("move", &path))
    }

    /// What one hook is attached to. By clsact, only a thread in the interface's namespace can see it.
    pub(crate) fn state(&self, hook: Hook, tag: [u8; 8]) -> Result<LinkState, TapError> {
        if self.way == Way::Clsact {
            return clsact::state(self, hook, tag);
        }
        let path = self.path(hook);
        let failed = pin_error("read", &path);
        let Some(link) = sys::pinned_link(&path).map_err(&failed)?.filter(|link| link.ifindex != 0) else {
            return Ok(LinkState::Gone);
        };
        let program = sys::program_by_id(link.program).map_err(failed)?;
        let same = program.is_some_and(|program| program.tag == tag);
        let ifindex = link.ifindex;
        Ok(if same { LinkState::Attached { ifindex } } else { LinkState::OtherProgram { ifindex } })
    }

    /// Takes one hook off. By clsact, only a thread in the interface's namespace can.
    pub(crate) fn detach(&self, hook: Hook) -> Result<(), TapError> {
        if self.way == Way::Clsact {
            return clsact::detach(self, hook);
        }
        let path = self.path(hook);
        sys::detach(&path).map_err(pin_error("detach", &path))?;
        sys::unpin(&path).map_err(pin_error("remove", &path))
    }
}

pub(crate) fn pin_error(what: &'static str, path: &Path) -> impl Fn(io::Error) -> TapError {
    move |source| TapError::Pin { what, path: path.to_owned(), source }
}

/// Whether the kernel says that this program is there already.
fn exists(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(call) if call.io_error.kind() == io::ErrorKind::AlreadyExists)
}

fn pin(link: SchedClassifierLink, path: &Path) -> Result<(), TapError> {
    let link: FdLink = link.try_into().map_err(|error| pin_error("create", path)(io::Error::other(error)))?;
    link.pin(path).map_err(|error| pin_error("create", path)(io::Error::other(error)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_gets_the_newest_way_that_it_has() {
        let of = |major, minor| Way::of(KernelVersion::new(major, minor, 0)).ok();
        for (kernel, way) in [
            ((4, 19), None),
            ((5, 12), None),
            ((5, 13), Some(Way::Clsact)),
            ((5, 15), Some(Way::Clsact)),
            ((6, 1), Some(Way::Clsact)),
            ((6, 5), Some(Way::Clsact)),
            ((6, 6), Some(Way::Tcx)),
            ((6, 18), Some(Way::Tcx)),
        ] {
            assert_eq!(of(kernel.0, kernel.1), way, "{kernel:?}");
        }
    }
}
