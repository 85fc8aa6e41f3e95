//! The handle on an OVSDB server.
//!
//! Owns what callers see: the replica's watch, [`Ovsdb::transact`], counters. Must never touch the socket: the one task
//! per handle does, and it ends when the last clone is dropped.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::commit::Call;
use super::error::TransactError;
use super::operation::{Operation, OperationResult};
use super::replica::Replica;
use super::task::Task;

/// Calls that wait for the task at most; further callers wait for room.
const CHANNEL: usize = 4096;

/// How to reach a server and how patient to be.
#[derive(Clone, Debug)]
pub struct OvsdbOptions {
    /// The Unix socket, `db.sock` of the run directory.
    pub socket: PathBuf,
    /// Silence after which the server is probed, and again after which it is given up. Default 10 s.
    pub probe_interval: Duration,
    /// How long a call waits for a connection before [`TransactError::NotConnected`]. Default 15 s.
    pub queue_wait: Duration,
    /// Longest delay between attempts to connect. Default 1 s.
    pub max_backoff: Duration,
    /// Most operations of a transaction, merged or not. Default 8,192.
    pub max_operations: usize,
}

impl OvsdbOptions {
    /// The defaults for a socket.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            probe_interval: Duration::from_secs(10),
            queue_wait: Duration::from_secs(15),
            max_backoff: Duration::from_secs(1),
            max_operations: 8192,
        }
    }
}

/// What a handle has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OvsdbCounters {
    /// Calls of [`Ovsdb::transact`] that were answered by the server.
    pub calls: u64,
    /// Transactions sent: fewer than `calls` when callers were merged.
    pub transactions: u64,
    /// Merged transactions that failed and were split.
    pub splits: u64,
    /// Connections that got as far as a complete replica.
    pub connections: u64,
}

/// The same, as the task counts it.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) calls: AtomicU64,
    pub(super) transactions: AtomicU64,
    pub(super) splits: AtomicU64,
    pub(super) connections: AtomicU64,
}

impl Counters {
    /// Adds to one of them.
    pub(super) fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// Waiting for a state of the replica ended without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// The client was stopped.
    #[error("the OVSDB client has stopped")]
    Stopped,
}

/// A connection to an OVSDB server that is re-made for ever. Clones share it.
#[derive(Clone, Debug)]
pub struct Ovsdb {
    calls: mpsc::Sender<Call>,
    replica: watch::Receiver<Arc<Replica>>,
    counters: Arc<Counters>,
    _task: Arc<AbortOnDropHandle<()>>,
}

impl Ovsdb {
    /// Starts connecting and returns at once. Must be called inside a tokio runtime.
    pub fn connect(options: OvsdbOptions) -> Self {
        let (calls, queue) = mpsc::channel(CHANNEL);
        let (publish, replica) = watch::channel(Arc::new(Replica::default()));
        let counters = Arc::new(Counters::default());
        let span = tracing::info_span!("ovsdb", socket = %options.socket.display());
        let task = Task::new(options, queue, publish, Arc::clone(&counters));
        let task = tokio::spawn(task.run().instrument(span));
        Self { calls, replica, counters, _task: Arc::new(AbortOnDropHandle::new(task)) }
    }

    /// The replica, now and as it changes. Before the first connection it is empty and not `connected`.
    pub fn replica(&self) -> watch::Receiver<Arc<Replica>> {
        self.replica.clone()
    }

    /// The replica now.
    pub fn snapshot(&self) -> Arc<Replica> {
        Arc::clone(&self.replica.borrow())
    }

    /// Waits until `find` finds what it looks for in a replica. Bound it with a timeout.
    pub async fn wait_for<T>(&self, mut find: impl FnMut(&Replica) -> Option<T>) -> Result<T, WaitError> {
        let mut replica = self.replica.clone();
        loop {
            let now = Arc::clone(&replica.borrow_and_update());
            if let Some(found) = find(&now) {
                return Ok(found);
            }
            replica.changed().await.map_err(|_| WaitError::Stopped)?;
        }
    }

    /// Carries out all operations or none, and tells what each did. The replica shows the effect when this returns.
    ///
    /// Callers that arrive while another transaction is in flight share the next one; a mistake of one of them is
    /// reported to that one alone. Dropping the future before the transaction is sent withdraws it.
    pub async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<OperationResult>, TransactError> {
        let (reply, answer) = oneshot::channel();
        let call = Call { operations, reply, queued: Instant::now() };
        self.calls.send(call).await.map_err(|_| TransactError::Stopped)?;
        answer.await.map_err(|_| TransactError::Stopped)?
    }

    /// What this handle has done so far.
    pub fn counters(&self) -> OvsdbCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        OvsdbCounters {
            calls: read(&self.counters.calls),
            transactions: read(&self.counters.transactions),
            splits: read(&self.counters.splits),
            connections: read(&self.counters.connections),
        }
    }
}
