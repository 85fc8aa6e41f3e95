//! The bounded queue between those who make records and one exporter, and the counts of what became of its records.
//!
//! Nothing here waits for a collector: what finds the queue full is dropped and counted, the newest first, since
//! records that wait are older than those that come.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use trunkline_api::export::Only;

use super::only::admits;
use crate::flows::record::Record;

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
    skipped: AtomicU64,
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

    fn skipped(&self, records: usize) {
        self.skipped.fetch_add(records as u64, Ordering::Relaxed);
    }

    /// Sent, dropped, errors, skipped.
    pub(super) fn get(&self) -> [u64; 4] {
        [&self.sent, &self.dropped, &self.errors, &self.skipped].map(|count| count.load(Ordering::Relaxed))
    }
}

/// Where an exporter's task writes to.
pub(super) trait Sink: Send {
    /// Sends these, or drops them and counts what it dropped. May wait for the other side.
    fn write(&mut self, batch: &[Arc<Record>]) -> impl Future<Output = ()> + Send;
}

/// Both ends of an exporter's queue, which takes what `only` admits; everything without it.
pub(super) fn new(only: Option<Only>) -> (Intake, mpsc::Receiver<Arc<Record>>) {
    let (sender, receiver) = mpsc::channel(QUEUE_RECORDS);
    (Intake { sender, only, counts: Arc::default() }, receiver)
}

/// The end that takes records.
#[derive(Debug)]
pub(super) struct Intake {
    sender: mpsc::Sender<Arc<Record>>,
    only: Option<Only>,
    pub(super) counts: Arc<Counts>,
}

impl Intake {
    /// Takes what it wants and has room for; never waits.
    pub(super) fn offer(&self, records: &[Arc<Record>]) {
        let wanted = |record: &Record| self.only.as_ref().is_none_or(|only| admits(only, record));
        let (mut skipped, mut dropped) = (0, 0);
        for record in records {
            if !wanted(record) {
                skipped += 1;
            } else if dropped > 0 || self.sender.try_send(Arc::clone(record)).is_err() {
                dropped += 1;
            }
        }
        self.counts.skipped(skipped);
        self.counts.dropped(dropped);
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.sender.max_capacity() - self.sender.capacity()
    }
}

/// Writes what comes until `stop`, and then what is still in the queue. Receiving is cancel-safe; a write is never
/// cancelled but by the task's end.
pub(super) async fn drain(
    mut queue: mpsc::Receiver<Arc<Record>>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::export::samples::{icmp, tcp};

    #[test]
    fn what_is_not_wanted_takes_no_room_and_is_not_dropped() {
        let only: Only = serde_json::from_value(serde_json::json!({"protocols": ["tcp"]})).unwrap();
        let (intake, mut queue) = new(Some(only));
        let pair = [icmp(true), tcp()].map(|flow| Arc::new(Record::from(flow)));
        let records: Vec<_> = std::iter::repeat_n(pair, QUEUE_RECORDS + 3).flatten().collect();
        intake.offer(&records);
        assert_eq!(intake.waiting(), QUEUE_RECORDS);
        assert_eq!(intake.counts.get(), [0, 3, 0, QUEUE_RECORDS as u64 + 3]);
        assert_eq!(queue.try_recv().map(|record| *record.key()), Ok(tcp().key));
        let (all, _queue) = new(None);
        all.offer(&records[..10]);
        assert_eq!((all.waiting(), all.counts.get()), (10, [0; 4]));
    }
}
