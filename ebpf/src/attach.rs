//! One tap's links: attaching, pinning, looking at them, taking them off.
//!
//! Owns a folder `<slot>_<name>` on bpffs for each tap. A link lives exactly as long as its pin. Works in the network
//! namespace of the calling thread, and changes nothing that another program put on the interface: TCX links share it
//! in order. Ours is first on what a device receives and last on what it sends, where the device's own counters stand.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::links::{FdLink, LinkOrder};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{ProgramError, TcAttachType};

use crate::error::TapError;
use crate::flow::Slot;
use crate::object::{EGRESS, GUARDED, INGRESS, Programs};
use crate::sys;

/// How long a link whose pin somebody removed may hold its place: the kernel frees it when nobody can see it any more.
const LINGER: Duration = Duration::from_millis(500);

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

/// The pins of one tap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapLinks {
    folder: PathBuf,
    /// Its slot.
    pub slot: Slot,
    /// What the caller named it.
    pub name: String,
}

impl TapLinks {
    /// bpffs takes no dot in a name, and the kernel no colon in an interface's.
    pub(crate) fn at(taps: &Path, slot: Slot, name: &str) -> Self {
        let folder = taps.join(format!("{}_{}", slot.0, name.replace('.', ":")));
        Self { folder, slot, name: name.to_owned() }
    }

    /// Reads a folder's name.
    pub(crate) fn of_folder(folder: PathBuf) -> Option<Self> {
        let (slot, name) = folder.file_name()?.to_str()?.split_once('_')?;
        let (slot, name) = (Slot(slot.parse().ok()?), name.replace(':', "."));
        Some(Self { folder, slot, name })
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

    /// Attaches one hook to `interface` and pins it. Dying in between leaves nothing: an unpinned link goes with us.
    pub(crate) fn attach(
        &self,
        programs: &mut Programs,
        hook: Hook,
        interface: &str,
    ) -> Result<(), TapError> {
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

    /// What one hook is attached to.
    pub(crate) fn state(&self, hook: Hook, tag: [u8; 8]) -> Result<LinkState, TapError> {
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

    /// Takes one hook off.
    pub(crate) fn detach(&self, hook: Hook) -> Result<(), TapError> {
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
