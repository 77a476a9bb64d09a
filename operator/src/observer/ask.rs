//! Reads `/status` of one pod. Whatever runs under a pod's address is not trusted: it is not followed elsewhere, and not read without end.

use std::time::Duration;

use reqwest::redirect::Policy;

use super::reports::Report;
use crate::reconcile::build::Kind;

const TIMEOUT: Duration = Duration::from_secs(2);
/// A worker's report has some hundred bytes, and a hundred more for each of its partitions.
const MAX_BODY: usize = 256 * 1024;

/// Why a pod's status was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot get /status: {0}")]
    Http(#[from] reqwest::Error),
    #[error("the answer is longer than {MAX_BODY} bytes")]
    TooLong,
    #[error("the answer is no report: {0}")]
    NoReport(#[from] serde_json::Error),
    #[error("a dashboard has no report")]
    Dashboard,
}

/// The client for all pods.
///
/// # Errors
/// When it cannot be made.
pub(super) fn client() -> Result<reqwest::Client, reqwest::Error> {
    // Built together with the producers, reqwest has TLS, and no client without whose cryptography it is, although this one never uses it. Done before is as good.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(TIMEOUT).no_proxy().redirect(Policy::none()).pool_max_idle_per_host(1).build()
}

/// The report of the pod that listens at `address`.
///
/// # Errors
/// When it does not answer, or with something else.
pub(super) async fn read(http: &reqwest::Client, kind: Kind, address: &str) -> Result<Report, Error> {
    let mut answer = http.get(format!("http://{address}/status")).send().await?.error_for_status()?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(Error::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(match kind {
        Kind::Query => Report::Worker(serde_json::from_slice(&body)?),
        Kind::Producer => Report::Producer(serde_json::from_slice(&body)?),
        Kind::Dashboard => return Err(Error::Dashboard),
    })
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::response::Redirect;
    use axum::routing::get;
    use tokio::net::TcpListener;

    use super::*;

    const REPORT: &str = r#"{"producer": "feed", "state": "Running", "messagesTotal": 3, "recordsTotal": 3}"#;

    async fn ask(pod: Router) -> Result<Report, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async { axum::serve(listener, pod).await });
        let answer = read(&client().unwrap(), Kind::Producer, &address).await;
        server.abort();
        answer
    }

    #[tokio::test]
    async fn a_report_is_read() {
        assert!(matches!(ask(Router::new().route("/status", get(async || REPORT))).await, Ok(Report::Producer(_))));
    }

    #[tokio::test]
    async fn a_pod_does_not_lead_the_operator_elsewhere() {
        let pod = Router::new().route("/status", get(async || Redirect::temporary("/other"))).route("/other", get(async || REPORT));
        assert!(matches!(ask(pod).await, Err(Error::NoReport(_))));
    }

    #[tokio::test]
    async fn an_answer_without_end_is_not_read_to_its_end() {
        let pod = Router::new().route("/status", get(async || format!("{REPORT}{}", " ".repeat(MAX_BODY))));
        assert!(matches!(ask(pod).await, Err(Error::TooLong)));
    }
}
