//! The cgroup under which a node's kubelet puts its pods, in every hierarchy that the machine has.
//!
//! Written down before it is made: undoing kills what is in it and removes it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::run::{Resource, Run};

const ROOT: &str = "/sys/fs/cgroup";
/// Controllers that a kubelet asks for on the unified hierarchy.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];

/// Makes `/<name>` in every hierarchy.
pub(super) fn create(run: &Run, name: &str) -> Result<()> {
    let unified = Path::new(ROOT);
    if unified.join("cgroup.controllers").exists() {
        delegate(unified);
        let path = make(run, unified, name)?;
        delegate(&path);
        return Ok(());
    }
    for entry in fs::read_dir(ROOT).context("listing the cgroup hierarchies")? {
        let hierarchy = entry.context("listing the cgroup hierarchies")?;
        // Links such as cpuacct -> cpu,cpuacct name a hierarchy twice.
        if hierarchy.file_type().is_ok_and(|kind| kind.is_dir())
            && hierarchy.path().join("cgroup.procs").exists()
        {
            let path = make(run, &hierarchy.path(), name)?;
            fill_cpuset(&path);
        }
    }
    Ok(())
}

fn make(run: &Run, hierarchy: &Path, name: &str) -> Result<PathBuf> {
    let path = hierarchy.join(name);
    run.register(&Resource::Cgroup { path: path.clone() })?;
    fs::create_dir_all(&path).with_context(|| format!("making the cgroup {}", path.display()))?;
    Ok(path)
}

/// Hands the controllers on, one by one: a kernel that lacks one still has the others.
fn delegate(path: &Path) {
    for controller in CONTROLLERS {
        let _ = fs::write(path.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// A new cpuset of cgroup v1 is empty, and nothing can run in it.
fn fill_cpuset(path: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let parent = path.parent().map(|parent| parent.join(file));
        if let Some(Ok(value)) = parent.map(fs::read_to_string) {
            let _ = fs::write(path.join(file), value.trim());
        }
    }
}
