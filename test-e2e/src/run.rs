//! One run of the harness: its prefix, its folders, and the list of what must be undone.
//!
//! The list is a file in the run's state folder, written before a thing is made. Undoing reads only that file, so
//! that it works from [`Run::teardown`], from the guard process after a crash, and from a later run alike.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::guard::{self, Guard};
use crate::process::{self, ProcessId};
use crate::{paths, prereq};

/// State folders of all runs: on a tmpfs, short enough for socket paths.
pub const STATE: &str = "/run/trunkline-e2e";

/// Something that outlives our process unless it is undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Resource {
    /// A process we started.
    Process {
        /// What it is, for messages.
        name: String,
        /// Which it is.
        id: ProcessId,
    },
    /// A named network namespace under `/run/netns`; processes in it are ours.
    Netns {
        /// The name under `/run/netns`.
        name: String,
    },
    /// A mount point in this mount namespace.
    Mount {
        /// The mount point.
        path: PathBuf,
    },
    /// A cgroup; every process below it is ours.
    Cgroup {
        /// Its folder in one hierarchy.
        path: PathBuf,
    },
    /// A host-wide sysctl and the value to put back.
    Sysctl {
        /// The key with slashes, as under `/proc/sys`.
        key: String,
        /// The value it had.
        value: String,
    },
    /// A file or folder to remove.
    Path {
        /// Where.
        path: PathBuf,
    },
}

/// One run. Undone when dropped, unless [kept](Run::keep).
#[derive(Debug)]
pub struct Run {
    prefix: String,
    dir: PathBuf,
    out: PathBuf,
    list: Mutex<fs::File>,
    guard: Mutex<Option<Guard>>,
    kept: AtomicBool,
}

impl Run {
    /// Begins a run: checks the prerequisites, clears up after dead runs, starts the guard process.
    ///
    /// `purpose` is a word for the log folder, `target/e2e/<purpose>-<prefix>`.
    pub fn start(purpose: &str) -> Result<Arc<Self>> {
        prereq::check()?;
        guard::reap_dead_runs()?;
        let prefix = format!("tl{:04x}", rand::random::<u16>());
        let dir = Path::new(STATE).join(&prefix);
        fs::create_dir_all(STATE).with_context(|| format!("creating {STATE}"))?;
        fs::create_dir(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let owner = ProcessId::current().context("reading our own start time")?;
        fs::write(dir.join("owner"), serde_json::to_vec(&owner)?).context("writing the run's owner")?;
        let out = paths::output().join("e2e").join(format!("{purpose}-{prefix}"));
        fs::create_dir_all(out.join("logs")).with_context(|| format!("creating {}", out.display()))?;
        let list = OpenOptions::new().create(true).append(true).open(dir.join("resources"));
        let list = Mutex::new(list.context("opening the list of resources")?);
        let guard = Mutex::new(Some(Guard::spawn(&dir, &out)?));
        Ok(Arc::new(Self { prefix, dir, out, list, guard, kept: AtomicBool::new(false) }))
    }

    /// `tl` and four hex digits: the beginning of every name this run makes.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The run's folder on a tmpfs, for sockets and state; gone after the run.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The run's folder under `target/e2e`: data and `logs/`; the logs stay after the run.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// The log file of the process called `name`.
    pub fn log(&self, name: &str) -> PathBuf {
        self.out.join("logs").join(format!("{name}.log"))
    }

    /// A folder of this run that survives nothing but the run: created, removed with it.
    pub fn data(&self, name: &str) -> Result<PathBuf> {
        let path = self.out.join(name);
        self.register(&Resource::Path { path: path.clone() })?;
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(path)
    }

    /// Writes down something to be undone. Call it before making the thing.
    pub fn register(&self, resource: &Resource) -> Result<()> {
        let mut line = serde_json::to_vec(resource)?;
        line.push(b'\n');
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.write_all(&line).context("writing down a resource of this run")
    }

    /// Remembers a host-wide sysctl's value (key with slashes, as under `/proc/sys`) to be put back at the end.
    pub fn save_sysctl(&self, key: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key);
        let value = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        self.register(&Resource::Sysctl { key: key.to_owned(), value: value.trim().to_owned() })
    }

    /// Leaves everything running when this process ends; [`guard::teardown`] of [`Run::dir`] removes it later.
    pub fn keep(&self) -> Result<()> {
        fs::write(self.dir.join("keep"), b"").context("marking the run as kept")?;
        self.kept.store(true, Ordering::Relaxed);
        if let Some(guard) = self.guard.lock().unwrap_or_else(PoisonError::into_inner).take() {
            guard.dismiss();
        }
        Ok(())
    }

    /// Whether [`Run::keep`] was called.
    pub fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }

    /// Undoes everything now.
    pub fn teardown(&self) -> Result<()> {
        let done = guard::teardown(&self.dir);
        if let Some(guard) = self.guard.lock().unwrap_or_else(PoisonError::into_inner).take() {
            guard.dismiss();
        }
        done
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.is_kept() || !self.dir.exists() {
            return;
        }
        if let Err(error) = self.teardown() {
            tracing::error!(run = %self.prefix, "teardown left something behind: {error:#}");
        }
    }
}

/// Runs `ip` with the words of `args` in the root namespace.
pub fn ip(args: &str) -> Result<String> {
    process::output(Command::new("ip").args(args.split_whitespace()).stderr(Stdio::piped()))
}

/// Fails unless running as root, naming what needs it.
pub fn require_root(what: &str) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!("{what} needs root: it makes network namespaces and mounts")
}
