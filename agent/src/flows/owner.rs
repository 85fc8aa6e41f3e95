//! A thread that owns one thing and does jobs on it, in order.
//!
//! The kernel lets whoever attaches or drains wait for a grace period, tens of milliseconds: never on a worker of the
//! runtime. Ends when the last handle is dropped.

use std::sync::mpsc::{Sender, channel};
use std::thread;

use tokio::sync::oneshot;

/// The owner ended, or a job panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the thread {0} gave no answer")]
pub(super) struct OwnerGone(&'static str);

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

/// A handle; clones share the thread.
pub(super) struct Owner<T> {
    jobs: Sender<Job<T>>,
    name: &'static str,
}

impl<T> Clone for Owner<T> {
    fn clone(&self) -> Self {
        Self { jobs: self.jobs.clone(), name: self.name }
    }
}

impl<T: Send + 'static> Owner<T> {
    /// Starts the thread.
    pub(super) fn start(name: &'static str, mut owned: T) -> std::io::Result<Self> {
        let (jobs, queue) = channel::<Job<T>>();
        let work = move || queue.into_iter().for_each(|job| job(&mut owned));
        thread::Builder::new().name(name.to_owned()).spawn(work)?;
        Ok(Self { jobs, name })
    }

    /// Does a job and returns what it returned. Dropping the future does not stop the job.
    pub(super) async fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, OwnerGone> {
        let (answer, answered) = oneshot::channel();
        let job: Job<T> = Box::new(move |owned| {
            // A caller that has gone needs no answer.
            let _ = answer.send(job(owned));
        });
        self.jobs.send(job).map_err(|_| OwnerGone(self.name))?;
        answered.await.map_err(|_| OwnerGone(self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn jobs_are_done_in_order_and_their_answers_come_back() {
        let owner = Owner::start("test", Vec::new()).expect("a thread");
        for number in 0..3 {
            owner.run(move |list: &mut Vec<i32>| list.push(number)).await.expect("it lives");
        }
        assert_eq!(owner.run(|list| list.clone()).await, Ok(vec![0, 1, 2]));
    }

    #[tokio::test]
    async fn a_job_that_panics_is_an_error_and_so_is_every_job_after_it() {
        let owner = Owner::start("test", ()).expect("a thread");
        assert_eq!(owner.run(|()| panic!("on purpose")).await, Err::<(), _>(OwnerGone("test")));
        assert_eq!(owner.run(|()| ()).await, Err(OwnerGone("test")));
    }
}
