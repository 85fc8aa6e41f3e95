//! A TCP transfer between two pods whose hash is compared at both ends.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::pods::{Interface, PodClient};
use crate::cluster::Cluster;
use crate::wait;

/// How long the receiver may take until it listens.
const LISTENS: Duration = Duration::from_secs(20);

/// What was transferred.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Transfer {
    /// Bytes sent and received.
    pub bytes: u64,
    /// SHA-256 of them, in hex.
    pub sha256: String,
    /// As the receiver measured it.
    pub mbit_s: f64,
}

/// Sends bytes from one interface to the first address of another.
pub async fn tcp(cluster: &Cluster, from: &Interface, to: &Interface, bytes: u64) -> Result<Transfer> {
    let client = PodClient::new(cluster).await?;
    let target = to.ips.first().with_context(|| format!("{} of {} has no address", to.interface, to.pod))?;
    let receive = ["tcp-recv", "--interface", &to.interface].map(str::to_owned);
    let (target, count) = (target.to_string(), bytes.to_string());
    let send = ["tcp-send", "--interface", &from.interface, "--target", &target, "--bytes", &count];
    let send = send.map(str::to_owned);
    // Until the receiver listens, connections are refused.
    let sending = wait::until("the receiver takes a connection", LISTENS, || async {
        client.probe(&from.pod, &send).await.map(Some)
    });
    let (received, sent) = tokio::try_join!(client.probe(&to.pod, &receive), sending)?;
    let received: Transfer = serde_json::from_value(received).context("reading what the receiver printed")?;
    let sent: Transfer = serde_json::from_value(sent).context("reading what the sender printed")?;
    ensure!(
        sent.sha256 == received.sha256 && received.bytes == bytes,
        "sent {} bytes with hash {}, received {} with {}",
        sent.bytes,
        sent.sha256,
        received.bytes,
        received.sha256
    );
    Ok(received)
}
