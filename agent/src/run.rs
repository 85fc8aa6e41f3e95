//! The agent's life: what is started in which order, what watches over it, how it ends.
//!
//! Owns the wiring and the two stops. Every long-lived task is in one of two sets: what takes in work (the CNI socket,
//! orphan collection), which a stop ends first and lets finish, and what the work needs, which ends after it. A task
//! that ends by itself ends the process, so that the kubelet starts it anew. Stopping leaves ports, flows and
//! conflist as they are. Must never hold a decision about a pod or a bridge.

mod chain;
mod gate;
mod node;
mod node_events;
mod wiring;

use std::{sync::Arc, time::Duration};

use thiserror::Error;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

use crate::{
    cli::{Ends, Options, chain},
    config::{self, LoadError},
    kube::{
        self,
        events::{self, Recorder, Writer, reason},
        neighbours,
    },
    metrics::Metrics,
    server::ServerError,
};

/// What takes in work has this long to finish; the kubelet kills after ten seconds.
const DRAIN: Duration = Duration::from_secs(7);
/// What the work needs has this long after it.
const LAST: Duration = Duration::from_millis(2500);

/// Why the agent did not start, or ended.
#[derive(Debug, Error)]
pub enum RunError {
    /// The node is not named.
    #[error("--node-name or $NODE_NAME is missing: the name of this node's Node object")]
    NodeName,
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] LoadError),
    /// No client for the API server.
    #[error(transparent)]
    Client(#[from] kube::ClientError),
    /// Antrea does the same work in this cluster.
    #[error(transparent)]
    Conflict(#[from] neighbours::Conflict),
    /// The CNI socket cannot be opened.
    #[error(transparent)]
    Socket(#[from] ServerError),
    /// Signals cannot be received.
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
    /// A task ended that never should.
    #[error("task {task} ended by itself: {message}")]
    Task {
        /// Its name.
        task: &'static str,
        /// "it returned", or its panic.
        message: String,
    },
}

impl Ends for RunError {
    fn is_usage(&self) -> bool {
        matches!(self, Self::NodeName | Self::Config(_) | Self::Conflict(_))
    }
}

/// Named tasks that end at one stop.
#[derive(Debug)]
struct Tasks {
    set: JoinSet<&'static str>,
    stop: CancellationToken,
}

impl Tasks {
    fn new() -> Self {
        Self { set: JoinSet::new(), stop: CancellationToken::new() }
    }

    /// A stop that tasks of this set take with them.
    fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let named = async move {
            task.await;
            name
        };
        self.set.spawn(named.instrument(info_span!("task", name)));
    }

    /// Returns when a task ends that should not.
    async fn one_ended(&mut self) -> RunError {
        match self.set.join_next().await {
            Some(Ok(task)) => RunError::Task { task, message: "it returned".to_owned() },
            Some(Err(failed)) => RunError::Task { task: "unknown", message: failed.to_string() },
            None => std::future::pending().await,
        }
    }

    /// Stops every task and waits for `bound` at most.
    async fn end(mut self, what: &'static str, bound: Duration) {
        self.stop.cancel();
        let all = async { while self.set.join_next().await.is_some() {} };
        if tokio::time::timeout(bound, all).await.is_err() {
            warn!(what, left = self.set.len(), "tasks are cut off at the stop");
        }
    }
}

/// Runs the agent until it is told to stop.
pub async fn run(options: Options) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let (mut intake, mut needed, gate) = start(options).await?;
    let result = tokio::select! { biased;
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        ended = intake.one_ended() => Err(ended),
        ended = needed.one_ended() => Err(ended),
    };
    match &result {
        Ok(()) => info!("stopping; ports, flows and the chained CNI configuration stay"),
        Err(error) => tracing::error!(error = %chain(error), "stopping"),
    }
    intake.end("intake", DRAIN).await;
    if tokio::time::timeout(LAST, gate.settled()).await.is_err() {
        warn!("work on pods is cut off at the stop; orphan collection ends it");
    }
    needed.end("needed", LAST).await;
    result
}

/// Starts everything; nothing here waits for API server, controller or Open vSwitch for more than a few seconds.
async fn start(options: Options) -> Result<(Tasks, Tasks, gate::Gate), RunError> {
    let node = options.node_name.clone().filter(|name| !name.is_empty()).ok_or(RunError::NodeName)?;
    let metrics = Metrics::new();
    let (recorder, writer) = events::recorder(&node, Arc::clone(&metrics));
    let loaded = config::follow(&options.config, recorder.clone(), Arc::clone(&metrics));
    let client = kube::client(options.kubeconfig.as_deref()).await;
    let (config, follower) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            last_words(&recorder, writer, client, reason::CONFIG_INVALID, &error).await;
            return Err(error.into());
        }
    };
    let client = client?;
    info!(%node, version = env!("CARGO_PKG_VERSION"), "agent starts");
    let checked = config.current().gates.secondary_network;
    if checked && let Err(conflict) = neighbours::check(client.clone()).await {
        last_words(&recorder, writer, Ok(client), reason::ANTREA_CONFLICT, &conflict).await;
        return Err(conflict.into());
    }
    let parts = wiring::Parts { options, node, metrics, recorder, writer, config, follower, client };
    wiring::start(parts, checked)
}

/// Records why the process ends, if the API server can be reached within two seconds.
async fn last_words(
    recorder: &Recorder,
    writer: Writer,
    client: Result<::kube::Client, kube::ClientError>,
    reason: reason::Reason,
    error: &dyn std::error::Error,
) {
    let Ok(client) = client else { return };
    recorder.node(reason, format!("the agent does not start: {}", chain(error)));
    let stop = CancellationToken::new();
    stop.cancel();
    writer.run(client, watch::channel(None).1, stop).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_by_itself_is_named() {
        let mut tasks = Tasks::new();
        tasks.spawn("short", async {});
        assert_eq!(tasks.one_ended().await.to_string(), "task short ended by itself: it returned");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ignores_the_stop_is_cut_off() {
        let mut tasks = Tasks::new();
        tasks.spawn("deaf", std::future::pending());
        tasks.end("test", Duration::from_secs(1)).await;
    }

    #[test]
    fn only_configuration_and_usage_end_with_64() {
        assert!(RunError::NodeName.is_usage());
        assert!(!RunError::Task { task: "x", message: String::new() }.is_usage());
    }
}
