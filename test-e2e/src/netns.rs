//! Network namespaces of a run: made under `/run/netns/<prefix>-<name>`, with `lo` up; commands and closures in them.
//!
//! Entering one happens in a child process (`nsenter`) or on a thread made for it, never on a runtime's worker.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

use crate::run::{Resource, Run};
use crate::{guard, process};

/// A network namespace of this run. Removed when dropped, with what runs in it.
#[derive(Debug)]
pub struct Netns {
    name: String,
    path: PathBuf,
    run: Arc<Run>,
}

impl Netns {
    /// Makes the namespace `<prefix>-<name>`, with `lo` up.
    pub fn create(run: &Arc<Run>, name: &str) -> Result<Self> {
        let name = format!("{}-{name}", run.prefix());
        run.register(&Resource::Netns { name: name.clone() })?;
        process::output(Command::new("ip").args(["netns", "add", &name]))?;
        let path = Path::new("/run/netns").join(&name);
        let netns = Self { name, path, run: run.clone() };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Removes it and makes it anew, empty, under the same name.
    pub fn recreate(&self) -> Result<()> {
        process::output(Command::new("ip").args(["netns", "delete", &self.name]))?;
        process::output(Command::new("ip").args(["netns", "add", &self.name]))?;
        self.ip("link set lo up").map(drop)
    }

    /// Its name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path, as a runtime hands it over in `CNI_NETNS`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that will run in the namespace, with the machine's own mounts (`ip netns exec` remounts /sys).
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path.display())).arg("--").arg(program);
        command
    }

    /// Runs a program in the namespace to its end and returns what it printed.
    pub fn exec(&self, words: &[&str]) -> Result<String> {
        let (program, args) = words.split_first().context("no program to run")?;
        process::output(self.command(program).args(args))
    }

    /// `ip -n <this> <args>`.
    pub fn ip(&self, args: &str) -> Result<String> {
        process::output(Command::new("ip").args(["-n", &self.name]).args(args.split_whitespace()))
    }

    /// `ip -j …`, parsed.
    pub fn ip_json(&self, args: &str) -> Result<serde_json::Value> {
        let text = self.ip(&format!("-j -d {args}"))?;
        if text.trim().is_empty() {
            return Ok(serde_json::Value::Array(Vec::new()));
        }
        serde_json::from_str(&text).with_context(|| format!("reading the answer to ip {args}"))
    }

    /// The names of the links in it, sorted.
    pub fn links(&self) -> Result<Vec<String>> {
        let links = self.ip_json("link show")?;
        let mut names: Vec<String> = links
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|l| Some(l["ifname"].as_str()?.to_owned()))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Sets a sysctl of the namespace (key with slashes, as under `/proc/sys`).
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let (path, value) = (Path::new("/proc/sys").join(key), value.to_owned());
        self.enter(move || fs::write(&path, value).with_context(|| format!("writing {}", path.display())))?
    }

    /// Runs a closure on a thread that has entered the namespace. Sockets made there stay there.
    pub fn enter<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        enter(&self.path, work)
    }
}

/// [`Netns::enter`] by path.
pub fn enter<T: Send + 'static>(path: &Path, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let thread = std::thread::spawn(move || {
        setns(&file, CloneFlags::CLONE_NEWNET).context("entering the namespace")?;
        Ok(work())
    });
    thread.join().map_err(|_| anyhow::anyhow!("the thread in {} panicked", path.display()))?
}

impl Drop for Netns {
    fn drop(&mut self) {
        if !self.run.is_kept() && self.path.exists() {
            guard::kill_inside(&self.path);
            let _ = process::raw_output(Command::new("ip").args(["netns", "delete", &self.name]));
        }
    }
}
