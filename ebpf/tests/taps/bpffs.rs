//! A BPF file system of a test's own, unmounted when the test ends.

use std::path::PathBuf;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mounted on a temporary folder.
pub(crate) struct Bpffs {
    folder: tempfile::TempDir,
}

impl Bpffs {
    pub(crate) fn new() -> Self {
        let folder =
            tempfile::Builder::new().prefix("trunkline-bpffs-").tempdir().expect("a temporary folder");
        mount(Some("bpf"), folder.path(), Some("bpf"), MsFlags::empty(), None::<&str>)
            .expect("mounting a bpffs: these tests run as root");
        Self { folder }
    }

    /// Where a set may be opened.
    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("trunkline")
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        umount2(self.folder.path(), MntFlags::MNT_DETACH).ok();
    }
}
