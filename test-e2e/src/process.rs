//! Processes of a run: started in a process group of their own, with a log file, known by pid *and* start time.
//!
//! Never signals a pid whose start time is not the recorded one: pids are reused.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::run::{Resource, Run};
use crate::wait;

/// A process that cannot be mistaken for another: pid and the kernel's start time of it, in clock ticks since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The pid.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`.
    pub start: u64,
}

impl ProcessId {
    /// The process that has this pid now.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        // A zombie has nothing left to signal; it counts as gone.
        (*fields.first()? != "Z").then_some(())?;
        Some(Self { pid, start: fields.get(19)?.parse().ok()? })
    }

    /// This very process.
    pub fn current() -> Option<Self> {
        Self::of(i32::try_from(std::process::id()).ok()?)
    }

    /// Whether it still runs.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal, unless the process is gone.
    pub fn signal(self, signal: Signal) {
        if self.is_alive() {
            // Gone between the look and the signal: nothing to do either way.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// A process started by a run. Killed when dropped.
pub struct Process {
    name: String,
    id: ProcessId,
    child: Mutex<Child>,
    log: PathBuf,
    run: Arc<Run>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("name", &self.name).field("pid", &self.id.pid).finish_non_exhaustive()
    }
}

impl Process {
    /// Starts `command` with its output appended to the run's log `<name>.log`.
    pub fn spawn(run: &Arc<Run>, name: &str, mut command: Command) -> Result<Self> {
        let log = run.log(name);
        let out = OpenOptions::new().create(true).append(true).open(&log);
        let out = out.with_context(|| format!("opening {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(clone(&out)?).stderr(out).process_group(0);
        let child = command.spawn().with_context(|| format!("starting {name}: {command:?}"))?;
        let pid = i32::try_from(child.id()).context("a pid that is no pid_t")?;
        let Some(id) = ProcessId::of(pid) else {
            bail!("{name} ended at once; its output is in {}", log.display());
        };
        run.register(&Resource::Process { name: name.to_owned(), id })?;
        Ok(Self { name: name.to_owned(), id, child: Mutex::new(child), log, run: run.clone() })
    }

    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its pid and start time.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Whether it still runs. Reaps it if it does not.
    pub fn is_alive(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(child.try_wait(), Ok(None))
    }

    /// Fails, with the end of the log, if it has ended.
    pub fn check(&self) -> Result<()> {
        if self.is_alive() {
            return Ok(());
        }
        bail!("{} has ended; the end of {}:\n{}", self.name, self.log.display(), tail(&self.log, 15))
    }

    /// Its exit code, once it has ended of itself within `limit`.
    pub fn wait(&self, limit: Duration) -> Result<Option<i32>> {
        wait::until_blocking(&format!("{} ends", self.name), limit, || {
            let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(child.try_wait()?.map(|status| status.code()))
        })
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.id.signal(signal);
    }

    /// Asks it to stop, then makes it, and waits until it is gone.
    pub fn stop(&self, grace: Duration) {
        self.signal(Signal::SIGTERM);
        if self.wait(grace).is_err() {
            self.kill();
        }
    }

    /// `SIGKILL`, and waits until it is gone.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.run.is_kept() {
            self.kill();
        }
    }
}

fn clone(file: &File) -> Result<File> {
    file.try_clone().context("duplicating a log file's descriptor")
}

/// The last lines of a text file, or why it cannot be read.
pub fn tail(path: &Path, lines: usize) -> String {
    match fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("({error})"),
    }
}

/// Runs a command to its end and returns what it printed; fails with its error output.
pub fn output(command: &mut Command) -> Result<String> {
    String::from_utf8(bytes(command)?).with_context(|| format!("{} printed no text", describe(command)))
}

/// [`output`] of a command that prints no text.
pub fn bytes(command: &mut Command) -> Result<Vec<u8>> {
    let done = raw_output(command)?;
    if !done.status.success() {
        bail!(
            "{} failed ({}): {}{}",
            describe(command),
            done.status,
            String::from_utf8_lossy(&done.stderr).trim(),
            String::from_utf8_lossy(&done.stdout).trim(),
        );
    }
    Ok(done.stdout)
}

/// Runs a command to its end, whatever its exit code.
pub fn raw_output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("running {}", describe(command)))
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
