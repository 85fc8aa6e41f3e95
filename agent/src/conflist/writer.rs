//! The task that keeps our conflist right while the agent runs.
//!
//! One task, which looks at the directory every two seconds: a look costs a few reads, and needs no inotify across
//! mounts and renames. Its only await points are the pause and the hand-over to a blocking worker, both cancel-safe:
//! a look that was cut short is repeated whole. The files stay when it stops.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::files::{self, ConflistError};
use super::plan::{Action, History, OurEntry, Plan, State, plan};

/// How often the directory is looked at.
const POLL: Duration = Duration::from_secs(2);

/// Where things are, as the agent sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConflistOptions {
    /// The node's CNI configuration directory.
    pub conf_dir: PathBuf,
    /// The node's CNI binary directory.
    pub bin_dir: PathBuf,
    /// Our plugin in the agent's image.
    pub plugin: PathBuf,
    /// Settings of our entry.
    pub entry: OurEntry,
}

/// What the last look found: the plan as carried out, or why it could not be.
pub type Look = Result<Plan, Arc<ConflistError>>;

/// Keeps our conflist right.
#[derive(Debug)]
pub struct ConflistWriter {
    options: Arc<ConflistOptions>,
    looks: watch::Sender<Option<Look>>,
    memory: Memory,
}

#[derive(Debug, Default)]
struct Memory {
    binary_checked: bool,
    none_since: Option<Instant>,
    broken_since: Option<Instant>,
}

impl ConflistWriter {
    /// Makes the writer and the view of what it finds; `None` until the first look.
    pub fn new(options: ConflistOptions) -> (Self, watch::Receiver<Option<Look>>) {
        let (looks, view) = watch::channel(None);
        (Self { options: Arc::new(options), looks, memory: Memory::default() }, view)
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let (options, memory) = (Arc::clone(&self.options), std::mem::take(&mut self.memory));
            let looked = tokio::task::spawn_blocking(move || look(&options, memory)).await;
            // It does not panic; if the runtime ended it, so are we.
            let Ok((memory, look)) = looked else { return };
            self.memory = memory;
            self.publish(look);
            tokio::select! { biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    fn publish(&self, look: Look) {
        self.looks.send_if_modified(|last| {
            let changed = match (last.as_ref(), &look) {
                (Some(Ok(last)), Ok(now)) => last.state != now.state || last.shadowed_by != now.shadowed_by,
                (Some(Err(last)), Err(now)) => last.to_string() != now.to_string(),
                _ => true,
            };
            if changed {
                report(&look);
                *last = Some(look);
            }
            changed
        });
    }
}

fn report(look: &Look) {
    match look {
        Ok(plan) => {
            for skipped in &plan.skipped {
                tracing::warn!(file = %skipped.file, reason = %skipped.reason, "CNI configuration passed over");
            }
            for file in &plan.shadowed_by {
                tracing::warn!(%file, "sorts before our conflist; pods do not reach the agent");
            }
            tracing::info!(state = ?plan.state, "chained CNI configuration");
        }
        Err(error) => {
            let cause = std::error::Error::source(&**error).map(ToString::to_string).unwrap_or_default();
            tracing::error!(%error, cause, "chained CNI configuration not kept");
        }
    }
}

fn look(options: &ConflistOptions, mut memory: Memory) -> (Memory, Look) {
    let look = try_look(options, &mut memory, Instant::now()).map_err(Arc::new);
    (memory, look)
}

fn try_look(options: &ConflistOptions, memory: &mut Memory, now: Instant) -> Result<Plan, ConflistError> {
    let directory = files::read_directory(&options.conf_dir)?;
    let since = |start: Option<Instant>| start.map_or(Duration::ZERO, |start| now.duration_since(start));
    let history = History { none_for: since(memory.none_since), broken_for: since(memory.broken_since) };
    let plan = plan(&directory, &options.entry, history);
    let keep = |since: Option<Instant>, holds: bool| holds.then(|| since.unwrap_or(now));
    memory.none_since = keep(memory.none_since, plan.state == State::NoPrimaryCni);
    memory.broken_since = keep(memory.broken_since, matches!(plan.state, State::SourceBroken { .. }));
    carry_out(options, memory, &plan)?;
    Ok(plan)
}

fn carry_out(options: &ConflistOptions, memory: &mut Memory, plan: &Plan) -> Result<(), ConflistError> {
    let ConflistOptions { conf_dir, bin_dir, plugin, .. } = options;
    // A conflist that stays needs its binary as much as a new one.
    if matches!(plan.action, Action::Write(_) | Action::Keep) {
        ensure_binary(plugin, bin_dir, memory)?;
    }
    match &plan.action {
        Action::Write(content) => files::write_conflist(conf_dir, content),
        Action::Remove => files::remove_conflist(conf_dir).map(drop),
        Action::Keep | Action::Nothing => Ok(()),
    }
}

/// Compares it once, and afterwards only sees to it that nobody has removed it.
fn ensure_binary(plugin: &Path, bin_dir: &Path, memory: &mut Memory) -> Result<(), ConflistError> {
    if !memory.binary_checked || !files::binary_is_there(bin_dir) {
        files::install_binary(plugin, bin_dir)?;
        memory.binary_checked = true;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
