//! Many callers at once, each asking again until it has succeeded, until enough have or the time is over.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;

/// What the callers came to.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// When each success came, since the start.
    pub(super) times: Vec<Duration>,
    /// Asks that did not succeed.
    pub(super) failures: usize,
}

/// Has `callers` ask for the things numbered 0 to `target` − 1, each of which is asked for again until it is given.
///
/// `ask` says whether it was. An error ends everything. No caller begins anew after `limit`.
pub(super) async fn storm<F>(
    callers: usize,
    target: usize,
    limit: Duration,
    ask: impl Fn(usize) -> F + Clone + Send + 'static,
) -> Result<Outcome>
where
    F: Future<Output = Result<bool>> + Send + 'static,
{
    let next = Arc::new(AtomicUsize::new(0));
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        tasks.spawn(caller(next.clone(), target, begin, limit, ask.clone()));
    }
    let mut all = Outcome::default();
    while let Some(one) = tasks.join_next().await {
        let one = one.context("a caller's task")??;
        all.times.extend(one.times);
        all.failures += one.failures;
    }
    Ok(all)
}

async fn caller<F: Future<Output = Result<bool>>>(
    next: Arc<AtomicUsize>,
    target: usize,
    begin: Instant,
    limit: Duration,
    ask: impl Fn(usize) -> F,
) -> Result<Outcome> {
    let mut mine = Outcome::default();
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index >= target {
            return Ok(mine);
        }
        loop {
            if begin.elapsed() >= limit {
                return Ok(mine);
            }
            if ask(index).await? {
                mine.times.push(begin.elapsed());
                break;
            }
            mine.failures += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_number_is_asked_for_until_it_is_given() {
        let asked = Arc::new([const { AtomicUsize::new(0) }; 10]);
        let seen = asked.clone();
        let outcome = storm(3, 10, Duration::from_secs(5), move |index| {
            let before = seen[index].fetch_add(1, Ordering::Relaxed);
            async move { Ok(before == 1) }
        });
        let outcome = outcome.await.expect("no error");
        assert_eq!((outcome.times.len(), outcome.failures), (10, 10));
        assert!(asked.iter().all(|count| count.load(Ordering::Relaxed) == 2));
    }

    #[tokio::test]
    async fn nobody_asks_after_the_time_is_over() {
        let outcome = storm(2, 10, Duration::ZERO, |_| async { Ok(true) }).await.expect("no error");
        assert_eq!((outcome.times.len(), outcome.failures), (0, 0));
    }
}
