//! Pod objects made beforehand, many at a time.

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _};
use kube::{Client, ResourceExt as _};

use crate::objects::{self, PodSpec};

/// How many are made at a time.
const AT_A_TIME: usize = 32;

/// A Pod object that is there.
#[derive(Clone, Debug)]
pub(super) struct PodId {
    /// Its name, in the namespace `default`.
    pub(super) name: String,
    /// Its UID.
    pub(super) uid: String,
}

/// Makes the pods `<prefix>-0`, `<prefix>-1`, … of a node, with these annotations; in the order of their numbers.
pub(super) async fn create_pods(
    client: &Client,
    prefix: &str,
    count: usize,
    annotations: &[(&str, &str)],
    node: &str,
) -> Result<Vec<PodId>> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let create = |number: usize| {
        let annotations = annotations.iter().map(owned).collect();
        let spec = PodSpec { annotations, ..PodSpec::plain(&format!("{prefix}-{number}")) };
        async move {
            let object = objects::create_pod(client, &spec, node).await?;
            let uid = object.uid().context("a pod without a UID")?;
            Ok(PodId { name: spec.name, uid })
        }
    };
    futures::stream::iter((0..count).map(create)).buffered(AT_A_TIME).try_collect().await
}
