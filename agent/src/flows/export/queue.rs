//! The bounded queue between the flow table and one exporter, and the counts of what became of its records.
//!
//! Nothing here waits for a collector: what finds the queue full is dropped and counted, the newest first, since
//! records that wait are older than those that come.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::flows::record::FlowRecord;

/// Records that may wait for one exporter. A record is some 300 bytes and shared by all exporters that have yet to
/// send it, so that exporters which are behind hold at most about 20 MB; one that keeps up holds next to nothing.
/// When it is full, new records are dropped for this exporter alone, and counted.
pub const QUEUE_RECORDS: usize = 65_536;

/// How many records one write takes at most.
pub(super) const BATCH: usize = 1024;

/// What became of the records for one exporter. Only grows.
#[derive(Debug, Default)]
pub(super) struct Counts {
    sent: AtomicU64,
    dropped: AtomicU64,
    errors: AtomicU64,
}

impl Counts {
    pub(super) fn sent(&self, records: usize) {
        self.sent.fetch_add(records as u64, Ordering::Relaxed);
    }

    pub(super) fn dropped(&self, records: usize) {
        self.dropped.fetch_add(records as u64, Ordering::Relaxed);
    }

    pub(super) fn error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Sent, dropped, errors.
    pub(super) fn get(&self) -> [u64; 3] {
        [&self.sent, &self.dropped, &self.errors].map(|count| count.load(Ordering::Relaxed))
    }
}

/// Where an exporter's task writes to.
pub(super) trait Sink: Send {
    /// Sends these, or drops them and counts what it dropped. May wait for the other side.
    fn write(&mut self, batch: &[Arc<FlowRecord>]) -> impl Future<Output = ()> + Send;
}

/// Both ends of an exporter's queue.
pub(super) fn new() -> (Intake, mpsc::Receiver<Arc<FlowRecord>>) {
    let (sender, receiver) = mpsc::channel(QUEUE_RECORDS);
    (Intake { sender, counts: Arc::default() }, receiver)
}

/// The end that takes records.
#[derive(Debug)]
pub(super) struct Intake {
    sender: mpsc::Sender<Arc<FlowRecord>>,
    pub(super) counts: Arc<Counts>,
}

impl Intake {
    /// Takes what there is room for; never waits.
    pub(super) fn offer(&self, records: &[Arc<FlowRecord>]) {
        for (index, record) in records.iter().enumerate() {
            if self.sender.try_send(Arc::clone(record)).is_err() {
                self.counts.dropped(records.len() - index);
                return;
            }
        }
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.sender.max_capacity() - self.sender.capacity()
    }
}

/// Writes what comes until `stop`, and then what is still in the queue. Receiving is cancel-safe; a write is never
/// cancelled but by the task's end.
pub(super) async fn drain(
    mut queue: mpsc::Receiver<Arc<FlowRecord>>,
    stop: CancellationToken,
    mut sink: impl Sink,
) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut stopping = false;
    loop {
        tokio::select! { biased;
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                queue.close();
            }
            received = queue.recv_many(&mut batch, BATCH) => {
                if received == 0 {
                    return;
                }
                sink.write(&batch).await;
                batch.clear();
            }
        }
    }
}
