//! `/metrics`, `/healthz` and `/readyz` of the agent.
//!
//! Owns the listener; must never depend on API server, controller, Open vSwitch or an uplink: an agent that waits for
//! one of them is ready. One task serves; a port that is taken is said once and tried again, the agent goes on.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::metrics::Metrics;

/// How often a taken port is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// What readiness consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// A configuration is in force.
    pub config: bool,
    /// The socket for the CNI plugin listens.
    pub socket: bool,
    /// The chained CNI configuration was dealt with once, whatever came of it, or the gate is off.
    pub conflist: bool,
}

impl Readiness {
    /// What is missing, in words; empty when ready.
    pub fn missing(self) -> Vec<&'static str> {
        let parts = [
            (self.config, "no configuration is in force"),
            (self.socket, "the CNI socket does not listen"),
            (self.conflist, "the chained CNI configuration was not dealt with yet"),
        ];
        parts.into_iter().filter(|(there, _)| !there).map(|(_, words)| words).collect()
    }
}

#[derive(Clone)]
struct Served {
    metrics: Arc<Metrics>,
    readiness: watch::Receiver<Readiness>,
}

/// Serves until the stop.
pub async fn serve(
    address: SocketAddr,
    metrics: Arc<Metrics>,
    readiness: watch::Receiver<Readiness>,
    stop: CancellationToken,
) {
    let router = router(metrics, readiness);
    let mut said = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if !said => {
                said = true;
                warn!(%address, %error, "cannot listen for metrics and probes; set metricsPort to a free one; going on without");
            }
            Err(_) => {}
        }
        tokio::select! { biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    };
    info!(%address, "serving metrics and probes");
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = served.await {
        warn!(%error, "metrics and probes are served no more");
    }
}

fn router(metrics: Arc<Metrics>, readiness: watch::Receiver<Readiness>) -> Router {
    Router::new()
        .route("/metrics", get(print_metrics))
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready))
        .with_state(Served { metrics, readiness })
}

async fn print_metrics(State(served): State<Served>) -> impl IntoResponse {
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match served.metrics.encode() {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, TYPE)], text),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], error.to_string())
        }
    }
}

async fn ready(State(served): State<Served>) -> (StatusCode, String) {
    let missing = served.readiness.borrow().missing();
    if missing.is_empty() {
        (StatusCode::OK, "ok".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, missing.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn get_path(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        answer
    }

    #[tokio::test]
    async fn readiness_says_what_is_missing_and_metrics_are_printed() {
        let (sender, readiness) = watch::channel(Readiness { config: true, ..Readiness::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(axum::serve(listener, router(Metrics::new(), readiness)).into_future());
        let answer = get_path(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("the CNI socket does not listen; the chained"), "{answer}");
        sender.send_replace(Readiness { config: true, socket: true, conflist: true });
        assert!(get_path(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get_path(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(get_path(address, "/metrics").await.contains("trunkline_agent_config_valid"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_taken_port_is_no_reason_to_stop() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("bound");
        let (_sender, readiness) = watch::channel(Readiness::default());
        let stop = CancellationToken::new();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(serve(address, Metrics::new(), readiness, stop.clone()));
        tokio::time::sleep(AGAIN * 3).await;
        assert!(!tasks.is_empty());
        stop.cancel();
        assert!(tasks.join_next().await.expect("a task").is_ok());
    }
}
