//! Waiting for a condition with a bound. Nothing else in the harness sleeps.

use std::future::Future;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks until `look` answers `Some`, or fails after `limit` naming `what` and the last error.
pub async fn until<T, F, Fut>(what: &str, limit: Duration, mut look: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let (start, limit) = (Instant::now(), limit * patience());
    loop {
        let last = match look().await {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if start.elapsed() >= limit {
            match last {
                Some(error) => return Err(error.context(format!("{what}: not so after {limit:?}"))),
                None => bail!("{what}: not so after {limit:?}"),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// [`until`] for code that has no runtime.
pub fn until_blocking<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let (start, limit) = (Instant::now(), limit * patience());
    loop {
        let last = match look() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if start.elapsed() >= limit {
            match last {
                Some(error) => return Err(error.context(format!("{what}: not so after {limit:?}"))),
                None => bail!("{what}: not so after {limit:?}"),
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// How many times longer than usual everything may take: `TRUNKLINE_E2E_PATIENCE`, 1 unless this is an emulated machine.
pub fn patience() -> u32 {
    static PATIENCE: OnceLock<u32> = OnceLock::new();
    let read = || std::env::var("TRUNKLINE_E2E_PATIENCE").ok()?.parse().ok();
    *PATIENCE.get_or_init(|| read().filter(|times| *times >= 1).unwrap_or(1))
}
