//! The handle on one bridge's flow table.
//!
//! Owns what callers see. Must never touch the socket: the one task per handle does, and it ends when the last clone is
//! dropped. After every new [`Connection::epoch`] the owner sends all flows again in one [`OpenFlow::bundle`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::error::FlowError;
use super::flow::{FlowFilter, FlowMod, FlowStats};
use super::session::Request;
use super::task::Task;

/// Calls that wait for the task at most; further callers wait for room.
const CHANNEL: usize = 4096;

/// How to reach a bridge and how patient to be.
#[derive(Clone, Debug)]
pub struct OpenFlowOptions {
    /// The Unix socket, `<bridge>.mgmt` of the run directory.
    pub socket: PathBuf,
    /// Silence after which the switch is probed, and again after which it is given up. Default 60 s: vswitchd answers
    /// nothing while it opens hundreds of ports, and a socket whose daemon dies is closed at once anyway.
    pub probe_interval: Duration,
    /// Longest delay between attempts to connect. Default 200 ms: a restarted vswitchd forwards nothing until its
    /// flows are back.
    pub max_backoff: Duration,
}

impl OpenFlowOptions {
    /// The defaults for a socket.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            probe_interval: Duration::from_mins(1),
            max_backoff: Duration::from_millis(200),
        }
    }
}

/// The state of the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// How many connections got as far as features: 0 before the first. Each may find an empty flow table.
    pub epoch: u64,
    /// Whether this epoch's connection is still up.
    pub connected: bool,
    /// The bridge's datapath id, once known.
    pub datapath_id: u64,
    /// Why it is not up, as far as that is known.
    pub reason: Option<Arc<str>>,
}

/// A connection to a bridge's flow table that is re-made for ever. Clones share it.
#[derive(Clone, Debug)]
pub struct OpenFlow {
    requests: mpsc::Sender<Request>,
    connection: watch::Receiver<Connection>,
    _task: Arc<AbortOnDropHandle<()>>,
}

impl OpenFlow {
    /// Starts connecting and returns at once. Must be called inside a tokio runtime.
    pub fn connect(options: OpenFlowOptions) -> Self {
        let (requests, queue) = mpsc::channel(CHANNEL);
        let (publish, connection) = watch::channel(Connection::default());
        let span = tracing::info_span!("openflow", socket = %options.socket.display());
        let task = tokio::spawn(Task::new(options, queue, publish).run().instrument(span));
        Self { requests, connection, _task: Arc::new(AbortOnDropHandle::new(task)) }
    }

    /// The connection, now and as it changes.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.clone()
    }

    /// Waits until the connection is up; gives its epoch. Bound it with a timeout.
    pub async fn connected(&self) -> Result<u64, FlowError> {
        let mut connection = self.connection.clone();
        let up =
            connection.wait_for(|connection| connection.connected).await.map_err(|_| FlowError::Stopped)?;
        Ok(up.epoch)
    }

    /// Makes changes one by one; they are in the switch when this returns. Callers at the same time share a barrier.
    ///
    /// Fails at once while there is no connection. A change that is refused does not stop the others.
    pub async fn apply(&self, changes: Vec<FlowMod>) -> Result<(), FlowError> {
        self.call(|reply| Request::Apply { changes, reply }).await
    }

    /// Makes all changes at one moment, or none.
    pub async fn bundle(&self, changes: Vec<FlowMod>) -> Result<(), FlowError> {
        self.call(|reply| Request::Bundle { changes, reply }).await
    }

    /// Lists flows with their counters, which vswitchd refreshes from the datapath about twice a second.
    pub async fn flows(&self, filter: FlowFilter) -> Result<Vec<FlowStats>, FlowError> {
        self.call(|reply| Request::Flows { filter, reply }).await
    }

    /// Returns when the switch has carried out everything sent before.
    pub async fn barrier(&self) -> Result<(), FlowError> {
        self.apply(Vec::new()).await
    }

    async fn call<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, FlowError>>) -> Request,
    ) -> Result<T, FlowError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| FlowError::Stopped)?;
        answer.await.map_err(|_| FlowError::Stopped)?
    }
}
