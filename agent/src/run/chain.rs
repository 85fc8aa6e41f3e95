//! Keeps the chained CNI configuration while the gate is on, and tells how it stands: in words, by Events, by metrics.
//!
//! One task; it restarts the writer when a setting of our entry changes. Its awaits are watch channels, and the writer's
//! own task, which it stops and waits for. Must never remove the file: that is what uninstalling does.

use std::{path::PathBuf, sync::Arc};

use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};
use trunkline_api::AgentConfig;

use crate::{
    cli::chain,
    config::ConfigHandle,
    conflist::{ConflistOptions, ConflistWriter, Look, OurEntry, State},
    http::Readiness,
    kube::events::{
        Recorder,
        reason::{self, Reason},
    },
    metrics::Metrics,
};

/// What the task works with.
pub(super) struct Chain {
    pub(super) config: ConfigHandle,
    /// The agent's socket, as the plugin is to reach it.
    pub(super) socket: PathBuf,
    /// The plugin's binary in the agent's image.
    pub(super) plugin: PathBuf,
    /// The node's CNI directories; a change of theirs needs a restart, so that no file is left in the old ones.
    pub(super) conf_dir: PathBuf,
    pub(super) bin_dir: PathBuf,
    /// How it stands, in words.
    pub(super) words: watch::Sender<String>,
    pub(super) readiness: watch::Sender<Readiness>,
    pub(super) recorder: Recorder,
    pub(super) metrics: Arc<Metrics>,
}

impl Chain {
    /// Keeps the file until the stop.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut config = self.config.watch();
        loop {
            let now = Arc::clone(&config.borrow_and_update());
            if now.gates.secondary_network {
                let options = self.options(&now);
                let writing = stop.child_token();
                let (writer, mut looks) = ConflistWriter::new(options.clone());
                let mut task = JoinSet::new();
                task.spawn(writer.run(writing.clone()).instrument(info_span!("conflist")));
                // Until a setting of the entry changes, or the gate.
                loop {
                    tokio::select! { biased;
                        () = stop.cancelled() => break,
                        look = looks.changed() => match look {
                            Ok(()) => self.tell(looks.borrow_and_update().as_ref()),
                            Err(_) => break,
                        },
                        () = next(&mut config) => {
                            let now = Arc::clone(&config.borrow_and_update());
                            if !now.gates.secondary_network || self.options(&now) != options {
                                config.mark_changed();
                                break;
                            }
                        }
                    }
                }
                writing.cancel();
                while task.join_next().await.is_some() {}
            } else {
                self.words.send_replace("off: feature gate SecondaryNetwork is off".to_owned());
                self.metrics.set_conflist_state("off");
                self.ready();
            }
            tokio::select! { biased;
                () = stop.cancelled() => return,
                () = next(&mut config) => {}
            }
        }
    }

    fn options(&self, config: &AgentConfig) -> ConflistOptions {
        let without = &config.without_annotations;
        let allow_namespaces = if without.allow {
            vec!["*".to_owned()]
        } else {
            without.allow_namespaces.iter().cloned().collect()
        };
        ConflistOptions {
            conf_dir: self.conf_dir.clone(),
            bin_dir: self.bin_dir.clone(),
            plugin: self.plugin.clone(),
            entry: OurEntry {
                socket: self.socket.display().to_string(),
                timeout_seconds: config.cni_timeout.as_secs(),
                allow_namespaces,
            },
        }
    }

    fn tell(&self, look: Option<&Look>) {
        let Some(look) = look else { return };
        let told = told(look);
        self.metrics.set_conflist_state(told.state);
        if let Some(reason) = told.reason {
            self.recorder.node(reason, told.words.clone());
        }
        self.words.send_replace(told.words);
        self.ready();
    }

    fn ready(&self) {
        self.readiness.send_if_modified(|readiness| !std::mem::replace(&mut readiness.conflist, true));
    }
}

/// Returns when another configuration is in force; never, once none can come.
async fn next(config: &mut watch::Receiver<Arc<AgentConfig>>) {
    if config.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// One look, told.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    /// Label of the metric.
    state: &'static str,
    words: String,
    reason: Option<Reason>,
}

fn told(look: &Look) -> Told {
    let plan = match look {
        Ok(plan) => plan,
        Err(error) => {
            let words = format!("the chained CNI configuration cannot be kept: {}", chain(&**error));
            return Told { state: "failed", words, reason: Some(reason::CONFLIST_FAILED) };
        }
    };
    let (state, words, reason) = match &plan.state {
        State::Chained { source } if plan.shadowed_by.is_empty() => {
            ("written", format!("written: a copy of {source} with trunkline-cni added"), None)
        }
        State::Chained { .. } => (
            "shadowed",
            format!(
                "{} sorts before 00-trunkline.conflist, so pods do not reach Trunkline; rename it so that it sorts after",
                plan.shadowed_by.join(", ")
            ),
            Some(reason::CONFLIST_FAILED),
        ),
        State::NoPrimaryCni => (
            "no_primary",
            "no primary CNI: the node has no other CNI configuration to chain to".to_owned(),
            Some(reason::NO_PRIMARY_CNI),
        ),
        State::Multus { source } => (
            "multus",
            format!(
                "Multus is the primary CNI ({source}): Trunkline does not chain itself behind it, pods are not attached"
            ),
            Some(reason::PRIMARY_IS_MULTUS),
        ),
        State::CannotChain { source, reason } => (
            "cannot_chain",
            format!("the primary CNI's configuration {source} cannot be chained to: {reason}"),
            Some(reason::CONFLIST_FAILED),
        ),
        State::SourceBroken { source, reason } => (
            "source_broken",
            format!(
                "the primary CNI's configuration {source} cannot be read ({reason}); the last copy stays"
            ),
            Some(reason::CONFLIST_FAILED),
        ),
    };
    Told { state, words, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        conflist::{Action, Plan},
        kube::events,
    };

    fn plan(state: State, shadowed_by: &[&str]) -> Plan {
        let shadowed_by = shadowed_by.iter().map(|&name| name.to_owned()).collect();
        Plan { action: Action::Keep, state, skipped: Vec::new(), shadowed_by }
    }

    #[test]
    fn every_state_is_told_and_only_a_good_one_without_an_event() {
        let source = || "10-x.conflist".to_owned();
        let why = || "why".to_owned();
        for (plan, state, reason) in [
            (plan(State::Chained { source: source() }, &[]), "written", None),
            (plan(State::Chained { source: source() }, &["00-a.conf"]), "shadowed", Some("ConflistFailed")),
            (plan(State::NoPrimaryCni, &[]), "no_primary", Some("NoPrimaryCNI")),
            (plan(State::Multus { source: source() }, &[]), "multus", Some("PrimaryIsMultus")),
            (
                plan(State::CannotChain { source: source(), reason: why() }, &[]),
                "cannot_chain",
                Some("ConflistFailed"),
            ),
            (
                plan(State::SourceBroken { source: source(), reason: why() }, &[]),
                "source_broken",
                Some("ConflistFailed"),
            ),
        ] {
            let told = told(&Ok(plan));
            assert_eq!((told.state, told.reason.map(|reason| reason.name)), (state, reason));
        }
    }

    #[tokio::test]
    async fn the_file_follows_the_gate_and_a_stop_leaves_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("net.d")).expect("a directory");
        std::fs::create_dir(at("bin")).expect("a directory");
        std::fs::write(at("plugin"), "#!/bin/true\n").expect("a file");
        let primary = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"}]}"#;
        std::fs::write(at("net.d/10-x.conflist"), primary).expect("a file");
        let mut config = AgentConfig::default();
        config.gates.secondary_network = true;
        let metrics = Metrics::new();
        let (recorder, _writer) = events::recorder("node-a", Arc::clone(&metrics));
        let readiness = watch::Sender::new(Readiness::default());
        let words = watch::Sender::new(String::new());
        let mut ready = readiness.subscribe();
        let mut said = words.subscribe();
        let task = Chain {
            config: ConfigHandle::fixed(config),
            socket: at("agent.sock"),
            plugin: at("plugin"),
            conf_dir: at("net.d"),
            bin_dir: at("bin"),
            words,
            readiness,
            recorder,
            metrics,
        };
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(task.run(stop.clone()));
        ready.wait_for(|readiness| readiness.conflist).await.expect("the task lives");
        said.wait_for(|words| words.starts_with("written: a copy of 10-x.conflist")).await.expect("it lives");
        assert!(at("net.d/00-trunkline.conflist").exists());
        stop.cancel();
        tasks.join_next().await.expect("a task").expect("it ends");
        assert!(at("net.d/00-trunkline.conflist").exists() && at("bin/trunkline-cni").exists());
    }
}
