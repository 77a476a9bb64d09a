//! `/healthz`, `/readyz` and `/metrics`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// What the operator waits for before it is ready, each with the reason in words. Ready when nothing is left.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<String, String>>>);

impl Readiness {
    /// `what` is awaited, because of `why`.
    pub fn wait_for(&self, what: &str, why: impl Into<String>) {
        self.lock().insert(what.to_owned(), why.into());
    }

    /// `what` is there.
    pub fn is_there(&self, what: &str) {
        self.lock().remove(what);
    }

    /// What is awaited, one per line; nothing when ready.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        let missing = self.lock();
        (!missing.is_empty()).then(|| missing.iter().map(|(what, why)| format!("{what}: {why}\n")).collect())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves until `stop`.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(listen: SocketAddr, readiness: Readiness, metrics: Arc<Metrics>, stop: CancellationToken) -> std::io::Result<()> {
    let app = Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready))
        .with_state(readiness)
        .route("/metrics", get(async move || metrics.encode().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)));
    let listener = tokio::net::TcpListener::bind(listen).await?;
    tracing::info!(%listen, "serving /healthz, /readyz and /metrics");
    axum::serve(listener, app).with_graceful_shutdown(async move { stop.cancelled().await }).await
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, String) {
    match readiness.missing() {
        None => (StatusCode::OK, "ok".to_owned()),
        Some(missing) => (StatusCode::SERVICE_UNAVAILABLE, missing),
    }
}
