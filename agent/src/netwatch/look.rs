//! A look at which network namespaces there are: files that hold one, and processes that are in one.
//!
//! Owns the folders that are looked into, the inotify watches on them, and the walk through /proc. Opens no namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::world::Inode;
use crate::netns::{NetnsId, PolledFd};

/// Where runtimes and people keep files that hold a namespace.
pub(super) const FOLDERS: [&str; 4] =
    ["/run/netns", "/var/run/netns", "/run/docker/netns", "/var/run/docker/netns"];

/// The name of the namespace that the agent itself is in.
pub(super) const HOST: &str = "host";

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Every namespace with its names.
    pub(super) names: BTreeMap<Inode, BTreeSet<String>>,
    /// How to open each.
    pub(super) paths: BTreeMap<Inode, PathBuf>,
    /// There is a file that may be about to become one: it is made first, and holds a namespace later.
    pub(super) unfinished: bool,
}

impl Look {
    /// Looks now. Blocks for some microseconds a process of the machine.
    pub(super) fn now(own: NetnsId) -> Self {
        let mut look = Self::default();
        look.names.insert(own.inode, BTreeSet::from([HOST.to_owned()]));
        for folder in FOLDERS {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                look.file(own, &entry.path());
            }
        }
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let is_process = entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
            if is_process {
                look.process(&entry.path());
            }
        }
        look
    }

    fn file(&mut self, own: NetnsId, path: &Path) {
        let Ok(meta) = fs::metadata(path) else { return };
        if meta.dev() != own.dev {
            self.unfinished |= meta.is_file();
            return;
        }
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return };
        if meta.ino() != own.inode {
            self.names.entry(meta.ino()).or_default().insert(name.to_owned());
            self.paths.entry(meta.ino()).or_insert_with(|| path.to_owned());
        }
    }

    fn process(&mut self, process: &Path) {
        let path = process.join("ns/net");
        let Ok(link) = fs::read_link(&path) else { return };
        let Some(inode) = link.to_str().and_then(inode_of) else { return };
        self.names.entry(inode).or_insert_with(|| BTreeSet::from([format!("net:[{inode}]")]));
        self.paths.entry(inode).or_insert(path);
    }
}

fn inode_of(link: &str) -> Option<Inode> {
    link.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// Tells when files come and go in the folders.
pub(super) struct FolderWatch {
    inotify: Inotify,
    polled: PolledFd,
}

impl FolderWatch {
    /// Must be called within a runtime.
    pub(super) fn open() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let polled = PolledFd::register(inotify.as_fd().try_clone_to_owned()?)?;
        Ok(Self { inotify, polled })
    }

    /// Watches the folders that there are; to be called again, since folders appear and are exchanged.
    pub(super) fn renew(&self) {
        let what = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        for folder in FOLDERS {
            // One that is not there is found by the look after it has come.
            let _ = self.inotify.add_watch(folder, what);
        }
    }

    /// Waits until something came or went. Cancel-safe: what is lost is that it did, once.
    pub(super) async fn changed(&self) -> io::Result<()> {
        let mut events = [0; 4096];
        self.polled.read(&mut events).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::NetnsFd;

    #[test]
    fn this_process_is_on_the_host_and_other_links_are_no_namespaces() {
        let own = NetnsFd::own().expect("procfs").id();
        let look = Look::now(own);
        assert_eq!(look.names[&own.inode], BTreeSet::from([HOST.to_owned()]));
        assert_eq!(inode_of("net:[4026531840]"), Some(4_026_531_840));
        assert_eq!(inode_of("mnt:[4026531841]"), None);
    }
}
