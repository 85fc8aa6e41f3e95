//! One light cluster shared by the tests of a file, one test at a time.
//!
//! Every test must give back what it took: ports, addresses, links and namespaces are compared before and after.
//! The cluster itself goes when the test program ends; its guard process sees to that.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use tokio::runtime::Runtime;

use crate::light::{LightCluster, LightOptions, Snapshot};
use crate::run;

/// A file's tests and the cluster that they share.
pub struct Suite {
    purpose: &'static str,
    options: fn() -> LightOptions,
    setup: fn(&LightCluster) -> Result<()>,
    shared: Mutex<Shared>,
}

enum Shared {
    Untried,
    Ready(Runtime, Box<LightCluster>),
    Failed(String),
}

impl std::fmt::Debug for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Suite").field("purpose", &self.purpose).finish_non_exhaustive()
    }
}

impl Suite {
    /// A suite whose cluster is made by its first test; `setup` applies what all its tests use.
    pub const fn new(
        purpose: &'static str,
        options: fn() -> LightOptions,
        setup: fn(&LightCluster) -> Result<()>,
    ) -> Self {
        Self { purpose, options, setup, shared: Mutex::new(Shared::Untried) }
    }

    /// Runs one test. Skips loudly without root, which is a failure under `CI=true`.
    pub fn test(&self, body: impl AsyncFnOnce(&LightCluster) -> Result<()>) -> Result<()> {
        if let Err(error) = run::require_root("this suite") {
            return skip(&error);
        }
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*shared, Shared::Untried) {
            *shared = self.start();
        }
        let (runtime, cluster) = match &*shared {
            Shared::Ready(runtime, cluster) => (runtime, cluster),
            Shared::Failed(error) => return Err(anyhow!("the suite's cluster did not start: {error}")),
            Shared::Untried => return Err(anyhow!("the suite's cluster was not started")),
        };
        let begin = Instant::now();
        let done = runtime.block_on(async {
            let before = Snapshot::take(cluster).await?;
            body(cluster).await?;
            before.wait_restored(cluster).await.context("the test leaves something behind")
        });
        eprintln!("took {:.1} s", begin.elapsed().as_secs_f32());
        done.with_context(|| format!("logs are in {}", cluster.run().out().display()))
    }

    fn start(&self) -> Shared {
        let begin = || -> Result<_> {
            let runtime = Runtime::new().context("making a runtime")?;
            let cluster = runtime.block_on(LightCluster::start(self.purpose, (self.options)()))?;
            (self.setup)(&cluster).context("preparing the suite's objects")?;
            Ok((runtime, cluster))
        };
        match begin() {
            Ok((runtime, cluster)) => Shared::Ready(runtime, Box::new(cluster)),
            Err(error) => Shared::Failed(format!("{error:#}")),
        }
    }
}

/// Says why a test does not run; fails where it must run.
pub fn skip(reason: &anyhow::Error) -> Result<()> {
    if std::env::var("CI").is_ok_and(|ci| ci == "true") {
        return Err(anyhow!("cannot run, and CI=true allows no skips: {reason:#}"));
    }
    eprintln!("SKIPPED: {reason:#}");
    Ok(())
}
