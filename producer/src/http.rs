//! `/status`, `/metrics`, `/healthz` and `/readyz`.

use std::net::SocketAddr;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;

use crate::status::Status;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Listens at `address`.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, "serving /status, /metrics, /healthz, /readyz");
    Ok(listener)
}

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, status: Status) -> std::io::Result<()> {
    axum::serve(listener, router(status)).await
}

fn router(status: Status) -> Router {
    Router::new()
        .route("/status", get(async |State(status): State<Status>| Json(status.report())))
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(readiness))
        .with_state(status)
}

async fn metrics(State(status): State<Status>) -> impl IntoResponse {
    match status.exposition() {
        Ok(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn readiness(State(status): State<Status>) -> (StatusCode, &'static str) {
    if status.ready() { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready; see /status") }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tapeline_api::report::{ProblemClass, ProducerReport, ProducerState};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::halt::problem;

    async fn ask(address: SocketAddr, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    #[tokio::test]
    async fn what_the_status_says_is_served() {
        let status = Status::default();
        status.name("history");
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, status.clone()));
        assert_eq!(ask(address, "/readyz").await.0, "HTTP/1.1 503 Service Unavailable");
        assert_eq!(ask(address, "/healthz").await, ("HTTP/1.1 200 OK".to_owned(), "ok".to_owned()));
        status.running();
        assert_eq!(ask(address, "/readyz").await.0, "HTTP/1.1 200 OK");
        assert!(ask(address, "/metrics").await.1.ends_with("# EOF\n"));
        status.waiting(problem(ProblemClass::TopicMissing, "topic t does not exist".to_owned()));
        let report: ProducerReport = serde_json::from_str(&ask(address, "/status").await.1).unwrap();
        assert_eq!((report.producer.as_str(), report.state), ("history", ProducerState::Waiting));
        assert_eq!(report.problem.unwrap().message, "topic t does not exist");
        server.abort();
    }
}
