//! A node's BPF file system: what an agent pins there outlives the agent, and not the node.
//!
//! Owns the mount. It is made before the agent starts, since an agent of a light node has a mount namespace of its own
//! that ends with it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::run::{Resource, Run};

/// Mounted until the run is taken down.
#[derive(Debug)]
pub struct Bpffs {
    path: PathBuf,
}

impl Bpffs {
    /// Mounts one.
    pub fn create(run: &Run, path: PathBuf) -> Result<Self> {
        run.register(&Resource::Mount { path: path.clone() })?;
        let bpffs = Self { path };
        bpffs.mount()?;
        Ok(bpffs)
    }

    fn mount(&self) -> Result<()> {
        fs::create_dir_all(&self.path).with_context(|| format!("creating {}", self.path.display()))?;
        mount(Some("bpf"), &self.path, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mounting a BPF file system at {}", self.path.display()))
    }

    /// As after a reboot: everything that was pinned is gone.
    pub fn remount(&self) -> Result<()> {
        umount2(&self.path, MntFlags::MNT_DETACH)
            .with_context(|| format!("unmounting {}", self.path.display()))?;
        self.mount()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
