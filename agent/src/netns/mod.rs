//! Network namespaces: opening them, entering them on a dedicated thread, and the system calls that need it.
//!
//! Owns the only `unsafe` of the agent (`ioctl` for ethtool and nsfs, `bind` of a packet socket). Must never enter a
//! namespace on a thread of the async runtime, and must never know what a pod or a bridge is.
#![expect(
    unsafe_code,
    reason = "ethtool and nsfs ioctls and sockaddr_ll have no safe wrapper; nothing else here does"
)]

mod ethtool;
mod packet;
mod polled;
mod sysctl;
mod thread;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

pub use ethtool::{EthtoolSocket, FeatureState};
pub use packet::{EtherType, open_packet_socket};
pub use polled::PolledFd;
pub use sysctl::{Family, set_interface_sysctl};
pub use thread::{NetnsThread, run_aside};

/// `NS_GET_NSTYPE` (`linux/nsfs.h`): `_IO(0xb7, 0x3)`.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// What went wrong with a namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The path could not be opened; the pod is probably gone.
    #[error("cannot open the network namespace {}", path.display())]
    Open {
        /// The path that the runtime gave.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The path names something that is not a network namespace.
    #[error("{} is not a network namespace", path.display())]
    NotANetns {
        /// The path that the runtime gave.
        path: PathBuf,
    },
    /// The path names the node's own network namespace.
    #[error("{} is the node's own network namespace, not a pod's", path.display())]
    OwnNamespace {
        /// The path that the runtime gave.
        path: PathBuf,
    },
    /// `setns` was refused.
    #[error("cannot enter the network namespace {}", path.display())]
    Enter {
        /// The namespace's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The namespace thread could not be started.
    #[error("cannot start the namespace thread")]
    Start(#[source] io::Error),
    /// The namespace thread has ended, or a job panicked.
    #[error("the namespace thread gave no answer")]
    ThreadGone,
}

/// What identifies a namespace for as long as somebody holds it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetnsId {
    /// Device number of nsfs.
    pub dev: u64,
    /// Inode number of the namespace.
    pub inode: u64,
}

/// A network namespace, opened once and checked. Cloning shares the descriptor.
#[derive(Clone)]
pub struct NetnsFd {
    file: Arc<File>,
    path: PathBuf,
    id: NetnsId,
}

impl NetnsFd {
    /// Opens the namespace of a pod, such as `/var/run/netns/cni-…` or `/proc/<pid>/ns/net`.
    ///
    /// Refuses anything that is not a network namespace, and the node's own one: a pod with `hostNetwork` has no
    /// interfaces of ours, and working on the node's namespace by mistake would cut the node off.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let opened = Self::open_any(path)?;
        if opened.id == Self::own()?.id {
            return Err(NetnsError::OwnNamespace { path: path.to_owned() });
        }
        Ok(opened)
    }

    /// The network namespace in which this process was started.
    pub fn own() -> Result<Self, NetnsError> {
        Self::open_any(Path::new("/proc/self/ns/net"))
    }

    /// Device and inode.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// The path that it was opened by; for messages, not for opening again.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open_any(path: &Path) -> Result<Self, NetnsError> {
        let open_error = |source| NetnsError::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(open_error)?;
        if !is_network_namespace(&file) {
            return Err(NetnsError::NotANetns { path: path.to_owned() });
        }
        let meta = file.metadata().map_err(open_error)?;
        let id = NetnsId { dev: meta.dev(), inode: meta.ino() };
        Ok(Self { file: Arc::new(file), path: path.to_owned(), id })
    }
}

impl AsFd for NetnsFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for NetnsFd {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl fmt::Debug for NetnsFd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetnsFd({}, inode {})", self.path.display(), self.id.inode)
    }
}

fn is_network_namespace(file: &File) -> bool {
    let on_nsfs = fstatfs(file).is_ok_and(|fs| fs.filesystem_type() == NSFS_MAGIC);
    if !on_nsfs {
        return false;
    }
    // SAFETY: NS_GET_NSTYPE takes no argument and writes no memory; the descriptor is open for the whole call.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    kind == libc::CLONE_NEWNET
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_namespace_and_ordinary_files_are_refused() {
        let own = NetnsFd::open(Path::new("/proc/self/ns/net")).expect_err("own namespace");
        assert!(matches!(own, NetnsError::OwnNamespace { .. }), "{own}");
        let file = NetnsFd::open(Path::new("/proc/self/status")).expect_err("not a namespace");
        assert!(matches!(file, NetnsError::NotANetns { .. }), "{file}");
        let other_kind = NetnsFd::open(Path::new("/proc/self/ns/mnt")).expect_err("a mount namespace");
        assert!(matches!(other_kind, NetnsError::NotANetns { .. }), "{other_kind}");
        let gone = NetnsFd::open(Path::new("/run/netns/trunkline-not-there")).expect_err("missing");
        assert_eq!(gone.to_string(), "cannot open the network namespace /run/netns/trunkline-not-there");
    }
}
