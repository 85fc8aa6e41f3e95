//! One light cluster shared by the tests of a module, one test at a time.
//!
//! Every test must give back what it took: ports, addresses, links and namespaces are compared before and after.
//! A cluster goes when the next suite's begins; the last one's guard process sees to it when the program ends.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use tokio::runtime::Runtime;

use crate::light::{LightCluster, LightOptions, Snapshot};
use crate::run;

/// A module's tests and the cluster that they share.
pub struct Suite {
    purpose: &'static str,
    options: fn() -> LightOptions,
    setup: fn(&LightCluster) -> Result<()>,
}

/// The suite whose turn it is; never two at a time, since a machine is small.
static CURRENT: Mutex<Option<Current>> = Mutex::new(None);

struct Current {
    purpose: &'static str,
    cluster: Result<(Runtime, Box<LightCluster>), String>,
}

impl std::fmt::Debug for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Suite").field("purpose", &self.purpose).finish_non_exhaustive()
    }
}

impl Suite {
    /// A suite whose cluster is made by its first test; `setup` applies what all its tests use. `purpose` is its own.
    pub const fn new(
        purpose: &'static str,
        options: fn() -> LightOptions,
        setup: fn(&LightCluster) -> Result<()>,
    ) -> Self {
        Self { purpose, options, setup }
    }

    /// Runs one test. Skips loudly without root, which is a failure under `CI=true`.
    pub fn test(&self, body: impl AsyncFnOnce(&LightCluster) -> Result<()>) -> Result<()> {
        if let Err(error) = run::require_root("this suite") {
            return skip(&error);
        }
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|current| current.purpose != self.purpose) {
            current.take().map_or(Ok(()), Current::end)?;
            *current =
                Some(Current { purpose: self.purpose, cluster: self.start().map_err(|e| format!("{e:#}")) });
        }
        let current = current.as_ref().context("the suite was not started")?;
        let (runtime, cluster) = current
            .cluster
            .as_ref()
            .map_err(|error| anyhow!("the suite's cluster did not start: {error}"))?;
        let begin = Instant::now();
        let done = runtime.block_on(async {
            let before = Snapshot::take(cluster).await?;
            body(cluster).await?;
            before.wait_restored(cluster).await.context("the test leaves something behind")
        });
        eprintln!("took {:.1} s", begin.elapsed().as_secs_f32());
        done.with_context(|| format!("logs are in {}", cluster.run().out().display()))
    }

    fn start(&self) -> Result<(Runtime, Box<LightCluster>)> {
        let runtime = Runtime::new().context("making a runtime")?;
        let cluster = runtime.block_on(LightCluster::start(self.purpose, (self.options)()))?;
        (self.setup)(&cluster).context("preparing the suite's objects")?;
        Ok((runtime, Box::new(cluster)))
    }
}

impl Current {
    fn end(self) -> Result<()> {
        let Ok((runtime, cluster)) = self.cluster else { return Ok(()) };
        let done = cluster.run().teardown();
        drop(cluster);
        drop(runtime);
        done.with_context(|| format!("taking down the suite {}", self.purpose))
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
