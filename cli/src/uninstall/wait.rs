//! Waiting for the cluster, with a bound.
//!
//! Owns polling: each step looks twice a second and says what it waited for when it gives up.

use std::time::Duration;

use anyhow::bail;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use tokio::time::{Instant, sleep};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(500);

/// Looks until `look` finds nothing left, and says what was left when time is up.
pub(super) async fn until_none<F>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<Vec<String>>>,
{
    let end = Instant::now() + patience;
    loop {
        let left = look().await?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            bail!("{what} still there after {} s: {}; run this again", patience.as_secs(), left.join(", "));
        }
        sleep(INTERVAL).await;
    }
}

/// Waits until no pod of this name label is left, on one node or anywhere.
pub(super) async fn no_pods(
    pods: &Api<Pod>,
    name: &str,
    node: Option<&str>,
    patience: Duration,
) -> anyhow::Result<()> {
    let mut params = ListParams::default().labels(&format!("app.kubernetes.io/name={name}"));
    if let Some(node) = node {
        params = params.fields(&format!("spec.nodeName={node}"));
    }
    let params = &params;
    until_none(&format!("pods of {name}"), patience, || async move {
        Ok(pods.list_metadata(params).await?.items.iter().map(kube::ResourceExt::name_any).collect())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_left_is_named_when_time_is_up() {
        let error = until_none("pods", Duration::from_secs(5), || async { Ok(vec!["a".to_owned()]) }).await;
        assert_eq!(error.expect_err("left").to_string(), "pods still there after 5 s: a; run this again");
        let mut looks = 0;
        let gone = until_none("pods", Duration::from_secs(5), || {
            looks += 1;
            let left = if looks < 3 { vec!["a".to_owned()] } else { Vec::new() };
            async { Ok(left) }
        });
        assert!(gone.await.is_ok());
        assert_eq!(looks, 3);
    }
}
