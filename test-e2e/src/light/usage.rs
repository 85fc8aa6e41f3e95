//! What a process takes up: to see that work that comes and goes leaves nothing behind.
//!
//! Owns the reading of `/proc/<pid>` (`proc(5)`); judges nothing.

use std::fs;

use anyhow::{Context as _, Result};

/// One look at a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Open file descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Resident memory in KiB.
    pub rss_kib: u64,
}

impl Usage {
    /// Of a running process.
    pub fn of(pid: i32) -> Result<Self> {
        let count = |folder: &str| -> Result<usize> {
            let path = format!("/proc/{pid}/{folder}");
            Ok(fs::read_dir(&path).with_context(|| format!("reading {path}"))?.count())
        };
        let status =
            fs::read_to_string(format!("/proc/{pid}/status")).context("reading a process' status")?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let rss_kib = rss.trim().trim_end_matches(" kB").parse().context("reading VmRSS")?;
        Ok(Self { descriptors: count("fd")?, threads: count("task")?, rss_kib })
    }
}
