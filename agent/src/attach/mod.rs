//! Attaching pods: what CNI's ADD, DEL and CHECK do.
//!
//! A pod is one unit inside ADD (design decision 2): every network is validated before an address is asked for; all
//! addresses come from one request; then links, ports and flows are made side by side; whatever fails, everything is
//! undone. Nothing is kept in memory: OVSDB's `external_ids` and the `IPAllocation` objects are the truth.
//!
//! Tasks: every ADD and DEL runs in a task of its own in a [`TaskTracker`], so that a plugin that hangs up or a
//! deadline never drops a step half done. It only cancels a token, which is looked at between steps, and the undo
//! then runs to its end. Must never write a pool, and must never release an address whose port may still be there.

mod add;
mod announce;
mod check;
mod detach;
mod dump;
mod identity;
mod inflight;
mod made;
mod networks;
mod words;

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

pub use identity::{HOST_LINK_PREFIX, Sandbox, is_host_link_name, stable_mac};
pub use inflight::InFlight;

use crate::bridge::Bridges;
use crate::config::ConfigHandle;
use crate::flows::FlowService;
use crate::ipam_client::IpamClient;
use crate::kube::ObjectCache;
use crate::kube::events::Recorder;
use crate::kube::status::StatusWriter;
use crate::metrics::Metrics;
use crate::netns::NetnsThread;
use crate::protocol::Failure;
use crate::server::{AddReply, CniHandler, Deadline, SandboxRequest, code};

/// What the attacher works with.
pub struct AttachDeps {
    /// This node's name.
    pub node: String,
    /// Configuration in force.
    pub config: ConfigHandle,
    /// State of the chained CNI configuration, in words.
    pub conflist: watch::Receiver<String>,
    /// Pods, NADs and pools.
    pub objects: ObjectCache,
    /// This node's bridges.
    pub bridges: Bridges,
    /// The controller's IPAM service.
    pub ipam: IpamClient,
    /// The thread that enters namespaces.
    pub netns: NetnsThread,
    /// Where Events go.
    pub events: Recorder,
    /// Where network-status goes.
    pub status: StatusWriter,
    /// Counters and histograms.
    pub metrics: Arc<Metrics>,
    /// Taps and flows; or why there are none.
    pub flows: Result<FlowService, String>,
}

/// Carries out ADD, DEL and CHECK; clones share everything.
#[derive(Clone)]
pub struct Attacher {
    deps: Arc<AttachDeps>,
    inflight: InFlight,
    work: TaskTracker,
}

impl Attacher {
    /// An attacher that works with `deps`.
    pub fn new(deps: AttachDeps) -> Self {
        Self { deps: Arc::new(deps), inflight: InFlight::default(), work: TaskTracker::new() }
    }

    /// What it works with.
    pub(crate) fn deps(&self) -> &AttachDeps {
        &self.deps
    }

    /// Which pods are being worked on; orphan collection asks.
    pub fn inflight(&self) -> &InFlight {
        &self.inflight
    }

    /// Waits until everything under way has ended.
    pub async fn drain(&self) {
        self.work.close();
        self.work.wait().await;
    }

    /// Runs `work` to its end in a task of its own, whatever becomes of the caller.
    async fn carry_out<T, F>(&self, span: tracing::Span, work: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        self.work.spawn(work.instrument(span)).await.unwrap_or_else(|error| {
            Err(Failure {
                code: code::TRY_AGAIN,
                msg: "the Trunkline agent failed while it worked on this pod; it will be tried again"
                    .to_owned(),
                details: error.to_string(),
            })
        })
    }
}

impl CniHandler for Attacher {
    async fn add(&self, request: SandboxRequest, deadline: Deadline) -> Result<AddReply, Failure> {
        let sandbox = Sandbox::from_request(&request);
        let span =
            tracing::info_span!("add", pod = %sandbox.pod(), uid = %sandbox.uid, sandbox = %sandbox.id);
        let cancel = CancellationToken::new();
        // Dropped when the plugin hangs up or the deadline passes: the work sees it between two steps and undoes.
        let hung_up = cancel.clone().drop_guard();
        let this = self.clone();
        let outcome =
            self.carry_out(span, async move { this.run_add(sandbox, request, deadline, cancel).await }).await;
        hung_up.disarm();
        outcome
    }

    async fn del(&self, request: SandboxRequest, _deadline: Deadline) -> Result<(), Failure> {
        let sandbox = Sandbox::from_request(&request);
        let span =
            tracing::info_span!("del", pod = %sandbox.pod(), uid = %sandbox.uid, sandbox = %sandbox.id);
        let this = self.clone();
        self.carry_out(span, async move {
            this.run_del(sandbox, &request).await;
            Ok(())
        })
        .await
    }

    async fn check(&self, request: SandboxRequest, _deadline: Deadline) -> Result<(), Failure> {
        self.run_check(&request.container_id).await
    }

    fn dump(&self) -> serde_json::Value {
        dump::dump(&self.deps)
    }

    fn flows(&self) -> Result<serde_json::Value, Failure> {
        dump::flows(&self.deps)
    }
}
