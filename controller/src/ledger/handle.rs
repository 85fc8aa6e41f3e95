//! The task that owns the ledger, and the handle that others hold.
//!
//! One task runs jobs on the ledger one after another; a job is a closure, never waits, and is never cancelled half
//! way. Must never do I/O.

use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::Ledger;

/// Jobs that may wait; callers beyond it wait themselves.
const QUEUE: usize = 1024;

type Job = Box<dyn FnOnce(&mut Ledger, Instant) + Send>;

/// A clonable handle to the ledger.
#[derive(Clone, Debug)]
pub struct LedgerHandle {
    jobs: mpsc::Sender<Job>,
}

/// The controller is stopping.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the controller is stopping")]
pub struct LedgerGone;

/// Starts the task's future; it ends when every handle is gone.
pub fn spawn(ledger: Ledger) -> (LedgerHandle, impl Future<Output = ()> + Send) {
    let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
    let mut ledger = ledger;
    let task = async move {
        while let Some(job) = queue.recv().await {
            job(&mut ledger, Instant::now());
        }
    };
    (LedgerHandle { jobs }, task)
}

impl LedgerHandle {
    /// Runs a job and waits for its answer. Cancelled before the job is queued, nothing happens; later, it runs all
    /// the same and only the answer is lost.
    pub async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Ledger, Instant) -> T + Send + 'static,
    ) -> Result<T, LedgerGone> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |ledger, now| {
            // The caller may have gone away; what the job did stands.
            let _ = answer.send(job(ledger, now));
        });
        self.jobs.send(job).await.map_err(|_| LedgerGone)?;
        answered.await.map_err(|_| LedgerGone)
    }
}
