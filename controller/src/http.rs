//! `/metrics`, `/healthz` and `/readyz`.
//!
//! Owns what healthy and ready mean: a replica that waits to lead is ready. Must never serve anything secret.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::metrics::Metrics;

/// What the pages show.
#[derive(Clone)]
pub struct Pages {
    /// The metrics.
    pub metrics: Metrics,
    /// Why this replica is not ready; none: it is.
    pub unready: Arc<dyn Fn() -> Option<&'static str> + Send + Sync>,
}

/// The pages' routes.
pub fn router(pages: Pages) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(pages)
}

async fn metrics(State(pages): State<Pages>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], pages.metrics.text())
}

async fn ready(State(pages): State<Pages>) -> impl IntoResponse {
    match (pages.unready)() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}
