//! The configuration in force: read at the start, re-read while running, the last good one kept.
//!
//! One task polls the file and publishes what is good; a `ConfigMap` swaps a symbolic link, so the content is compared
//! and nothing is watched. Owns the file; must never act on what it says. The task's awaits (a sleep, a read) lose
//! nothing when they are dropped.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use trunkline_api::{AgentConfig, ConfigError};

use crate::{
    kube::events::{Recorder, reason},
    metrics::Metrics,
};

/// How often the file is read again; with the kubelet's own delay a change is in force within 90 s.
const POLL: Duration = Duration::from_secs(10);

/// Why a configuration is not in force.
#[derive(Clone, Debug, Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {message}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        message: String,
    },
    /// The file says something that cannot be done; names key and line.
    #[error("{0}")]
    Invalid(ConfigError),
}

/// The configuration in force and what is wrong with a newer one; cheap to clone.
#[derive(Clone, Debug)]
pub struct ConfigHandle {
    good: watch::Receiver<Arc<AgentConfig>>,
    refused: watch::Receiver<Option<String>>,
}

impl ConfigHandle {
    /// The configuration in force now.
    pub fn current(&self) -> Arc<AgentConfig> {
        Arc::clone(&self.good.borrow())
    }

    /// Every configuration that comes into force.
    pub fn watch(&self) -> watch::Receiver<Arc<AgentConfig>> {
        self.good.clone()
    }

    /// Why the newest file on disk is not in force; `None` when it is.
    pub fn error(&self) -> Option<String> {
        self.refused.borrow().clone()
    }

    /// A configuration that never changes, for tests.
    pub fn fixed(config: AgentConfig) -> Self {
        Self { good: watch::channel(Arc::new(config)).1, refused: watch::channel(None).1 }
    }
}

/// Reads and checks the file once.
pub fn load(path: &Path) -> Result<AgentConfig, LoadError> {
    parse(&read(path)?)
}

fn read(path: &Path) -> Result<String, LoadError> {
    std::fs::read_to_string(path)
        .map_err(|source| LoadError::Read { path: path.to_owned(), message: source.to_string() })
}

fn parse(text: &str) -> Result<AgentConfig, LoadError> {
    AgentConfig::parse(text).map_err(LoadError::Invalid)
}

/// Follows one file; must be run for changes to be seen.
#[derive(Debug)]
pub struct ConfigFollower {
    path: PathBuf,
    /// What was read last, good or not; so that each content is judged once.
    last: Result<String, String>,
    good: watch::Sender<Arc<AgentConfig>>,
    refused: watch::Sender<Option<String>>,
    recorder: Recorder,
    metrics: Arc<Metrics>,
}

/// Loads the file and prepares to follow it. A bad file at the start is an error.
pub fn follow(
    path: &Path,
    recorder: Recorder,
    metrics: Arc<Metrics>,
) -> Result<(ConfigHandle, ConfigFollower), LoadError> {
    let text = read(path)?;
    let config = parse(&text)?;
    metrics.set_config(true);
    let (good, good_receiver) = watch::channel(Arc::new(config));
    let (refused, refused_receiver) = watch::channel(None);
    let follower = ConfigFollower { path: path.to_owned(), last: Ok(text), good, refused, recorder, metrics };
    Ok((ConfigHandle { good: good_receiver, refused: refused_receiver }, follower))
}

impl ConfigFollower {
    /// Polls the file until the stop.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! { biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(POLL) => {}
            }
            let read = tokio::fs::read_to_string(&self.path).await.map_err(|error| error.to_string());
            self.judge(read);
        }
    }

    /// Takes over what was read, or says why not.
    fn judge(&mut self, read: Result<String, String>) {
        if read == self.last {
            return;
        }
        let judged = match &read {
            Ok(text) => parse(text),
            Err(message) => Err(LoadError::Read { path: self.path.clone(), message: message.clone() }),
        };
        self.last = read;
        match judged {
            Ok(config) => self.accept(config),
            Err(error) => self.refuse(&error),
        }
    }

    fn accept(&self, config: AgentConfig) {
        self.metrics.set_config(true);
        self.refused.send_replace(None);
        let old = Arc::clone(&self.good.borrow());
        if *old == config {
            return;
        }
        let restart = needs_restart(&old, &config);
        if !restart.is_empty() {
            let note = format!("{} changed: restart the agent of this node to apply it", restart.join(", "));
            self.recorder.node(reason::CONFIG_NEEDS_RESTART, note);
        }
        self.good.send_replace(Arc::new(config));
        info!("configuration is in force");
    }

    fn refuse(&self, problem: &LoadError) {
        self.metrics.set_config(false);
        error!(%problem, "configuration is refused; the last good one stays in force");
        self.recorder
            .node(reason::CONFIG_INVALID, format!("{problem}; the last good configuration stays in force"));
        self.refused.send_replace(Some(problem.to_string()));
    }
}

/// Keys that are read once, at the start, and differ.
fn needs_restart(old: &AgentConfig, new: &AgentConfig) -> Vec<&'static str> {
    let mut keys = Vec::new();
    let mut check = |key, same: bool| {
        if !same {
            keys.push(key);
        }
    };
    check("ovsRunDir", old.ovs_run_dir == new.ovs_run_dir);
    check("cniBinDir", old.cni_bin_dir == new.cni_bin_dir);
    check("cniConfDir", old.cni_conf_dir == new.cni_conf_dir);
    check("metricsBindAddress", old.metrics_bind_address == new.metrics_bind_address);
    check("metricsPort", old.metrics_port == new.metrics_port);
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::events;

    const ON: &str = "featureGates:\n  SecondaryNetwork: true\n";

    fn followed(text: &str) -> (tempfile::TempDir, ConfigHandle, ConfigFollower, Arc<Metrics>) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("trunkline-agent.conf");
        std::fs::write(&path, text).expect("a file");
        let metrics = Metrics::new();
        let (recorder, _) = events::recorder("node-a", Arc::clone(&metrics));
        let (handle, follower) = follow(&path, recorder, Arc::clone(&metrics)).expect("a good file");
        (dir, handle, follower, metrics)
    }

    #[test]
    fn a_bad_file_leaves_the_last_good_one_in_force_and_says_why() {
        let (_dir, handle, mut follower, metrics) = followed(ON);
        follower.judge(Ok(format!("{ON}nonsense: 1\n")));
        assert!(handle.current().gates.secondary_network);
        let error = handle.error().expect("a refusal");
        assert!(error.contains("nonsense") && error.contains(":3"), "{error}");
        assert!(metrics.encode().expect("text").contains("config_valid 0"));
        follower.judge(Ok(String::new()));
        assert!(!handle.current().gates.secondary_network);
        assert_eq!(handle.error(), None);
    }

    #[test]
    fn the_same_content_is_judged_once() {
        let (_dir, _handle, mut follower, metrics) = followed(ON);
        for _ in 0..3 {
            follower.judge(Ok("bad".into()));
        }
        assert!(metrics.encode().expect("text").contains("config_errors_total 1"));
    }

    #[test]
    fn a_vanished_file_changes_nothing() {
        let (_dir, handle, mut follower, _) = followed(ON);
        follower.judge(Err("No such file or directory".into()));
        assert!(handle.current().gates.secondary_network);
        assert!(handle.error().expect("a refusal").contains("No such file"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_in_force_after_the_next_poll() {
        let (dir, handle, follower, _) = followed("");
        let stop = CancellationToken::new();
        let task = tokio::spawn(follower.run(stop.clone()));
        std::fs::write(dir.path().join("trunkline-agent.conf"), ON).expect("a file");
        let mut watch = handle.watch();
        watch.changed().await.expect("the follower lives");
        assert!(watch.borrow().gates.secondary_network);
        stop.cancel();
        task.await.expect("the follower ends");
    }

    #[test]
    fn what_is_read_once_is_named_when_it_changes() {
        let old = AgentConfig::default();
        let new = AgentConfig { metrics_port: 1, ..old.clone() };
        assert_eq!(needs_restart(&old, &new), ["metricsPort"]);
        assert!(needs_restart(&old, &old).is_empty());
    }
}
