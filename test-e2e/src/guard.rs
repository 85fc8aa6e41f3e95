//! Undoing a run: by itself, by its guard process when it dies, by the next run when both died.
//!
//! The guard is `trunkline-e2e guard <dir>` in a process group of its own, holding the reading end of a pipe whose
//! writing end only the run has: end of file means that the run is over, whatever way it went.

use std::collections::HashSet;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;

use crate::process::ProcessId;
use crate::run::{Resource, STATE};
use crate::{paths, wait};

/// How long killed processes may take to be gone.
const DEATH: Duration = Duration::from_secs(10);
/// How long another process's guard may take to clear up.
const OTHER_GUARD: Duration = Duration::from_secs(30);

/// The guard process of this run.
#[derive(Debug)]
pub struct Guard {
    child: Child,
}

impl Guard {
    pub(crate) fn spawn(dir: &Path, out: &Path) -> Result<Self> {
        let log = fs::File::create(out.join("logs/guard.log")).context("creating the guard's log")?;
        let mut command = Command::new(paths::binary("trunkline-e2e")?);
        command.arg("guard").arg(dir).stdin(Stdio::piped()).process_group(0);
        command.stdout(log.try_clone().context("duplicating the guard's log")?).stderr(log);
        let child = command.spawn().context("starting the guard process")?;
        Ok(Self { child })
    }

    /// Tells the guard that there is nothing to do for it.
    pub(crate) fn dismiss(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The guard process: waits until the run is over, then undoes what is left of it.
pub fn watch(dir: &Path) -> Result<()> {
    let me = ProcessId::current().context("reading our own start time")?;
    fs::write(dir.join("guard"), serde_json::to_vec(&me)?).context("writing the guard's identity")?;
    let mut sink = Vec::new();
    std::io::stdin().read_to_end(&mut sink).context("waiting for the end of the run")?;
    if !dir.exists() || dir.join("keep").exists() {
        return Ok(());
    }
    teardown(dir)
}

/// Undoes runs whose process and guard are both gone, and waits for guards at work.
pub fn reap_dead_runs() -> Result<()> {
    let Ok(entries) = fs::read_dir(STATE) else { return Ok(()) };
    for entry in entries.flatten() {
        let dir = entry.path();
        if !dir.join("owner").exists() || dir.join("keep").exists() || alive(&dir.join("owner")) {
            continue;
        }
        let gone = wait::until_blocking("the guard of an earlier run ends", OTHER_GUARD, || {
            Ok((!dir.exists() || !alive(&dir.join("guard"))).then_some(()))
        });
        if gone.is_ok() && dir.exists() {
            tracing::warn!(run = %dir.display(), "an earlier run died; clearing up after it");
            teardown(&dir)?;
        }
    }
    Ok(())
}

fn alive(file: &Path) -> bool {
    let id = fs::read(file).ok().and_then(|bytes| serde_json::from_slice::<ProcessId>(&bytes).ok());
    id.is_some_and(ProcessId::is_alive)
}

/// Undoes everything that the run of this state folder wrote down, and removes the folder. Collects errors.
pub fn teardown(dir: &Path) -> Result<()> {
    let text = fs::read_to_string(dir.join("resources")).unwrap_or_default();
    let all: Vec<Resource> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let mut errors = Vec::new();
    kill_everything(dir, &all, &mut errors);
    for resource in all.iter().rev() {
        if let Err(error) = undo(resource) {
            errors.push(format!("{error:#}"));
        }
    }
    for path in netns_of(dir) {
        delete_netns(&path, &mut errors);
    }
    if let Err(error) = fs::remove_dir_all(dir) {
        errors.push(format!("removing {}: {error}", dir.display()));
    }
    if errors.is_empty() { Ok(()) } else { bail!("{}", errors.join("; ")) }
}

/// The namespaces whose names begin with the run's prefix, listed or not.
fn netns_of(dir: &Path) -> Vec<PathBuf> {
    let Some(prefix) = dir.file_name().and_then(|n| n.to_str()) else { return Vec::new() };
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries.map(|e| e.path()).filter(|p| named(p).starts_with(&format!("{prefix}-"))).collect()
}

fn named(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn delete_netns(path: &Path, errors: &mut Vec<String>) {
    // A name without a namespace mounted on it is what a creation cut short leaves.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    if let Err(error) = fs::remove_file(path) {
        errors.push(format!("removing {}: {error}", path.display()));
    }
}

fn kill_everything(dir: &Path, all: &[Resource], errors: &mut Vec<String>) {
    let killed = wait::until_blocking("every process of the run is gone", DEATH, || {
        let left = processes(dir, all);
        for id in &left {
            id.signal(Signal::SIGKILL);
        }
        Ok(left.is_empty().then_some(()))
    });
    if let Err(error) = killed {
        errors.push(format!("{error:#}: {:?}", processes(dir, all)));
    }
}

/// Every living process of the run: those it started, those in its cgroups, those in its namespaces.
fn processes(dir: &Path, all: &[Resource]) -> Vec<ProcessId> {
    let mut found = Vec::new();
    let inodes: HashSet<u64> = netns_of(dir).iter().filter_map(|path| namespace(path)).collect();
    for resource in all {
        match resource {
            Resource::Process { id, .. } if id.is_alive() => found.push(*id),
            Resource::Cgroup { path } => found.extend(cgroup_processes(path)),
            _ => {}
        }
    }
    found.extend(inside(&inodes));
    let me = std::process::id();
    found.retain(|id| u32::try_from(id.pid) != Ok(me));
    found
}

/// The inode of a mounted namespace; `None` for a name whose mount is gone, which is a plain file on a tmpfs.
fn namespace(path: &Path) -> Option<u64> {
    // The kernel numbers namespaces from 0xf0000000 on.
    fs::metadata(path).ok().map(|meta| meta.ino()).filter(|inode| *inode >= 0xF000_0000)
}

/// The processes in these network namespaces.
fn inside(inodes: &HashSet<u64>) -> Vec<ProcessId> {
    if inodes.is_empty() {
        return Vec::new();
    }
    let in_one = |id: &ProcessId| namespace(Path::new(&format!("/proc/{}/ns/net", id.pid)));
    all_processes().filter(|id| in_one(id).is_some_and(|inode| inodes.contains(&inode))).collect()
}

/// Kills what runs in a namespace of ours that is about to go; a container's processes end with it just so.
pub(crate) fn kill_inside(path: &Path) {
    for id in inside(&namespace(path).into_iter().collect()) {
        id.signal(Signal::SIGKILL);
    }
}

fn all_processes() -> impl Iterator<Item = ProcessId> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| ProcessId::of(e.file_name().to_str()?.parse().ok()?))
}

fn cgroup_processes(path: &Path) -> Vec<ProcessId> {
    let mut found = Vec::new();
    let own = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    found.extend(own.lines().filter_map(|pid| ProcessId::of(pid.parse().ok()?)));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.extend(cgroup_processes(&entry.path()));
        }
    }
    found
}

fn undo(resource: &Resource) -> Result<()> {
    match resource {
        Resource::Process { .. } | Resource::Netns { .. } => Ok(()),
        Resource::Mount { path } => unmount(path),
        Resource::Cgroup { path } => remove_cgroup(path),
        Resource::Sysctl { key, value } => {
            let path = Path::new("/proc/sys").join(key);
            fs::write(&path, value).with_context(|| format!("putting back {}", path.display()))
        }
        Resource::Path { path } => match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(_) => Ok(()),
        }
        .with_context(|| format!("removing {}", path.display())),
    }
}

fn unmount(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("unmounting {}", path.display())),
    }
}

fn remove_cgroup(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(path).with_context(|| format!("removing the cgroup {}", path.display()))
}
