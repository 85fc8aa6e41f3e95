//! CNI plugins started one at a time or by several workers, with nothing between the clock and the plugin.
//!
//! A worker's thread enters the node's namespace beforehand, so that no helper process is part of what is timed.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use super::inside::enter;

/// One call of a plugin, or of another program.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// What to start.
    pub(super) program: PathBuf,
    /// Its arguments.
    pub(super) args: Vec<String>,
    /// Its environment, beside ours.
    pub(super) env: Vec<(String, String)>,
    /// Its standard input.
    pub(super) input: Vec<u8>,
}

/// How long the calls of a batch took.
#[derive(Debug)]
pub(super) struct Took {
    /// From the first start to the last end.
    pub(super) wall: Duration,
    /// Each call, in the order of the calls.
    pub(super) each: Vec<Duration>,
}

impl Call {
    /// Runs it to its end; how long that took, from before the process is started.
    fn run(&self) -> Result<Duration> {
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let begin = Instant::now();
        let mut child = command.spawn().with_context(|| format!("starting {}", self.program.display()))?;
        let mut stdin = child.stdin.take().context("a plugin's standard input")?;
        // A program that reads no input may be gone by now.
        let _ = stdin.write_all(&self.input);
        drop(stdin);
        let done =
            child.wait_with_output().with_context(|| format!("waiting for {}", self.program.display()))?;
        let took = begin.elapsed();
        if !done.status.success() {
            bail!(
                "{} failed ({}): {}{}",
                self.program.display(),
                done.status,
                String::from_utf8_lossy(&done.stdout).trim(),
                String::from_utf8_lossy(&done.stderr).trim()
            );
        }
        Ok(took)
    }
}

/// Runs one call in the namespace.
pub(super) fn once(netns: &Path, call: &Call) -> Result<Duration> {
    let took = all(netns, 1, std::slice::from_ref(call))?;
    took.each.first().copied().context("a call without an end")
}

/// Runs all calls by so many workers in the namespace. The first failure is the answer, once all workers have ended.
pub(super) fn all(netns: &Path, workers: usize, calls: &[Call]) -> Result<Took> {
    let (next, gate, begin) = (AtomicUsize::new(0), Barrier::new(workers), OnceLock::new());
    let each = Mutex::new(vec![Duration::ZERO; calls.len()]);
    let work = || -> Result<()> {
        let entered = enter(netns);
        gate.wait();
        begin.get_or_init(Instant::now);
        entered?;
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(call) = calls.get(index) else { return Ok(()) };
            let took = call.run()?;
            each.lock().unwrap_or_else(PoisonError::into_inner)[index] = took;
        }
    };
    let wall = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let ended: Vec<_> = threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        let wall = begin.get().map(Instant::elapsed).unwrap_or_default();
        ended.into_iter().try_for_each(|end| end.map_err(|_| anyhow!("a worker panicked"))?).map(|()| wall)
    })?;
    Ok(Took { wall, each: each.into_inner().unwrap_or_else(PoisonError::into_inner) })
}
