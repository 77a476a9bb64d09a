//! `/status`, `/metrics`, `/healthz` and `/readyz`: read-only, and without the contents of records.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;

use crate::status::Status;

/// Serves until the future is dropped.
///
/// # Errors
/// The address is taken.
pub async fn serve(listen: SocketAddr, status: Arc<Status>) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/status", get(async |State(status): State<Arc<Status>>| Json(status.report())))
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "alive"))
        .route("/readyz", get(ready))
        .with_state(status);
    axum::serve(TcpListener::bind(listen).await?, routes).await
}

async fn metrics(State(status): State<Arc<Status>>) -> Response {
    match status.metrics() {
        Ok(text) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(status): State<Arc<Status>>) -> Response {
    if status.is_ready() { "ready".into_response() } else { (StatusCode::SERVICE_UNAVAILABLE, "not a member of its consumer group yet").into_response() }
}
