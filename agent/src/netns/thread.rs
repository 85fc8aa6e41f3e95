//! The thread that enters network namespaces, and threads of their own for what takes longer.
//!
//! Owns an OS thread that takes jobs from a bounded queue, enters the job's namespace, runs it and goes home. Sockets
//! that a job opens stay in that namespace and may be used anywhere afterwards. A job must never block for longer
//! than a few system calls: every pod of the node waits behind it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use tokio::sync::{mpsc, oneshot};

use super::{NetnsError, NetnsFd};

/// Jobs that may wait; a node starts at most a few hundred pods at once.
const QUEUE: usize = 256;

type Task = Box<dyn FnOnce(Result<(), NetnsError>) + Send>;

struct Job {
    namespace: NetnsFd,
    task: Task,
    abandoned: Box<dyn Fn() -> bool + Send>,
}

/// A handle to the namespace thread. The thread ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct NetnsThread {
    jobs: mpsc::Sender<Job>,
}

impl NetnsThread {
    /// Starts the thread. One per process is enough.
    pub fn start() -> Result<Self, NetnsError> {
        let home = NetnsFd::open_any(Path::new("/proc/thread-self/ns/net"))?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn(move || serve(&home, queue))
            .map_err(NetnsError::Start)?;
        Ok(Self { jobs })
    }

    /// Runs `job` inside `namespace` and returns what it returned.
    ///
    /// Cancel-safe in this sense: a job whose caller went away before it began is dropped without running; one that
    /// has begun runs to its end.
    pub async fn run<T, F>(&self, namespace: &NetnsFd, job: F) -> Result<T, NetnsError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let (alive, gone) = oneshot::channel::<()>();
        let task: Task = Box::new(move |entered| {
            // The receiver may be gone: then nobody wants the answer.
            let _ = reply.send(entered.map(|()| job()));
        });
        let abandoned = Box::new(move || alive.is_closed());
        let queued = Job { namespace: namespace.clone(), task, abandoned };
        self.jobs.send(queued).await.map_err(|_| NetnsError::ThreadGone)?;
        let outcome = answer.await.map_err(|_| NetnsError::ThreadGone)?;
        drop(gone);
        outcome
    }
}

fn serve(home: &NetnsFd, mut queue: mpsc::Receiver<Job>) {
    while let Some(job) = queue.blocking_recv() {
        if (job.abandoned)() {
            continue;
        }
        let entered = enter(&job.namespace);
        // A panicking job has dropped its reply, which tells its caller; the thread serves on.
        let panicked = catch_unwind(AssertUnwindSafe(|| (job.task)(entered))).is_err();
        if panicked {
            tracing::error!(namespace = ?job.namespace, "a job in a network namespace panicked");
        }
        // Staying would keep a deleted pod's namespace alive. Later jobs enter their own namespace in any case.
        if let Err(error) = enter(home) {
            tracing::error!(%error, "the namespace thread cannot return to the node's namespace");
        }
    }
}

/// Runs `job` inside `namespace` on a thread made for it, and waits for it: for jobs that take longer than pods may
/// wait for. Blocks; never on a runtime's worker.
pub fn run_aside<T: Send>(namespace: &NetnsFd, job: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    std::thread::scope(|scope| {
        let inside = || enter(namespace).map(|()| job());
        let thread = std::thread::Builder::new().name("netns-aside".to_owned()).spawn_scoped(scope, inside);
        thread.map_err(NetnsError::Start)?.join().map_err(|_| NetnsError::ThreadGone)?
    })
}

fn enter(namespace: &NetnsFd) -> Result<(), NetnsError> {
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| NetnsError::Enter {
        path: namespace.path().to_owned(),
        source: io::Error::from(errno),
    })
}
