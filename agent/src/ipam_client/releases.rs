//! Gives addresses back in the background, so that a DEL never waits for the controller.
//!
//! One task owns the queue and a bounded set of calls. Its awaits are a queue's `recv` and a set's `join_next`, both
//! cancel-safe. Must never be the only thing that gives an address back: the controller collects what is lost here.

use std::time::Duration;

use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span, warn};
use trunkline_ipam::proto::ReleaseRequest;

use super::IpamClient;

/// Calls at a time.
const CALLS: usize = 16;
/// A release is repeated for this long.
const PATIENCE: Duration = Duration::from_mins(10);
/// After the stop was asked for, what is under way has this long.
const LAST: Duration = Duration::from_secs(3);

/// The task's half of the release queue.
#[derive(Debug)]
pub struct ReleaseWorker {
    client: IpamClient,
    queue: mpsc::Receiver<ReleaseRequest>,
}

impl ReleaseWorker {
    pub(super) fn new(client: IpamClient, queue: mpsc::Receiver<ReleaseRequest>) -> Self {
        Self { client, queue }
    }

    /// Works the queue off until the stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut calls = JoinSet::new();
        loop {
            tokio::select! { biased;
                () = stop.cancelled() => break,
                _ = calls.join_next(), if !calls.is_empty() => {}
                request = self.queue.recv(), if calls.len() < CALLS => match request {
                    Some(request) => self.start(&mut calls, request),
                    None => break,
                },
            }
            self.client.count_backlog(calls.len());
        }
        // What is still queued gets one chance; the controller collects the rest.
        let drain = async {
            while let Ok(request) = self.queue.try_recv() {
                if calls.len() >= CALLS {
                    let _ = calls.join_next().await;
                }
                self.start(&mut calls, request);
            }
            while calls.join_next().await.is_some() {}
        };
        let _ = tokio::time::timeout(LAST, drain).await;
    }

    fn start(&self, calls: &mut JoinSet<()>, request: ReleaseRequest) {
        let client = self.client.clone();
        let pod = request.pod.clone().unwrap_or_default();
        let span = info_span!("release", namespace = %pod.namespace, pod = %pod.name);
        let call = async move {
            if let Err(error) = client.release(request, Instant::now() + PATIENCE).await {
                warn!(%error, "release failed; the controller collects the addresses");
            }
        };
        calls.spawn(call.instrument(span));
    }
}
