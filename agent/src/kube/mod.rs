//! The agent's side of the Kubernetes API: what it watches, the Events it records, the one annotation it writes.
//!
//! Owns the client and the caches; must never write anything but Events and the network-status annotation.

mod backoff;
mod cache;
pub mod events;
pub mod neighbours;
pub mod status;
mod table;
mod watch;

pub(crate) use backoff::WatchBackoff;
pub use cache::{LookupError, ObjectCache};
pub use watch::{WatchOptions, WatchTasks};

use std::{path::Path, time::Duration};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use thiserror::Error;

/// Why there is no client. Being unable to reach the API server is not among the reasons: that heals.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The kubeconfig file cannot be used.
    #[error("cannot use the kubeconfig {path}")]
    Kubeconfig {
        /// The file as it was named.
        path: String,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// Not in a pod, and no kubeconfig was named.
    #[error("no API server: neither a service account's files nor --kubeconfig")]
    Infer(#[source] Box<kube::config::InferConfigError>),
    /// The TLS or authentication settings cannot be used.
    #[error("cannot build a client for the API server")]
    Build(#[source] Box<kube::Error>),
}

/// A client from the named kubeconfig, else from the pod's service account (or `$KUBECONFIG`). Does not connect.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let named = |source| ClientError::Kubeconfig { path: path.display().to_string(), source };
            let file = Kubeconfig::read_from(path).map_err(named)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(named)?
        }
        None => Config::infer().await.map_err(|source| ClientError::Infer(Box::new(source)))?,
    };
    // Longer than the server lets a watch go on (290 s); bounds a list whose connection has died silently.
    config.read_timeout = Some(Duration::from_mins(5));
    Client::try_from(config).map_err(|source| ClientError::Build(Box::new(source)))
}
