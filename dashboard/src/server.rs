//! Addresses, and what all answers have in common: who may see them, and what a browser may do with them.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tower_http::compression::CompressionLayer;

use crate::app::App;
use crate::error::Failure;
use crate::pages::{charts, data, overview, queries, topics};
use crate::{api, assets, auth, error, events};

/// A page may load nothing from elsewhere, run no script but the files of this dashboard, and stand in no other site's frame. Vega reads expressions with its interpreter,
/// so that no script is made of text.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; \
     frame-ancestors 'none'";

/// Serves until the process is to stop.
///
/// # Errors
/// The address is taken.
pub async fn serve(app: App, listen: SocketAddr) -> std::io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    tracing::info!(%listen, base = app.base(), "serving");
    let stop = app.stop.clone();
    axum::serve(listener, router(app)).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// All addresses.
pub fn router(app: App) -> Router {
    let base = app.base();
    let at = |path: &str| format!("{base}{path}");
    // Not nested: axum finds the `/` of a nested router at `{base}` alone, and every link goes to `{base}/`.
    let mut pages = Router::new()
        .route(&at("/"), get(charts::page))
        .route(&at("/overview"), get(overview::page))
        .route(&at("/queries"), get(queries::list_page))
        .route(&at("/queries/{name}"), get(queries::page))
        .route(&at("/data"), get(data::list))
        .route(&at("/data/{store}/{name}"), get(data::page))
        .route(&at("/topics/{topic}"), get(topics::page))
        .route(&at("/topics/{topic}/tail"), get(topics::tail))
        .route(&at("/topics/{topic}/replay"), post(topics::replay))
        .route(&at("/events"), get(events::events))
        .route(&at("/api/v1/pipeline"), get(api::pipeline))
        .route(&at("/api/v1/charts"), get(api::list))
        .route(&at("/api/v1/charts/{name}/{file}"), get(api::chart))
        .route(&at("/api/v1/queries/{name}/history.json"), get(api::history))
        .route(&at("/api/v1/data/{store}/{file}"), get(api::data))
        .route(&at("/favicon.ico"), get(async || StatusCode::NO_CONTENT))
        .route(&at("/assets/{*file}"), get(assets::asset));
    if !base.is_empty() {
        pages = pages.route("/", get(home)).route(base, get(home));
    }
    let pages = pages
        .fallback(nothing)
        .layer(from_fn_with_state(app.clone(), error::as_page))
        .layer(from_fn_with_state(app.clone(), auth::check))
        .layer(CompressionLayer::new())
        .layer(from_fn(headers));
    // For Kubernetes and Prometheus, and without a look at who asks.
    let own = Router::new().route("/healthz", get(async || "alive")).route("/readyz", get(ready)).route("/metrics", get(metrics));
    own.merge(pages).with_state(app)
}

/// The way to the first page from where people look for it.
async fn home(State(app): State<App>, uri: Uri) -> Redirect {
    let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
    Redirect::temporary(&format!("{}/{query}", app.base()))
}

async fn nothing() -> Failure {
    Failure::NotFound("there is no such page".to_owned())
}

async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let set = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
    ];
    for (name, value) in set {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Ready once the pipeline was read: before, no page has anything to show.
async fn ready(State(app): State<App>) -> Response {
    if app.pipeline().is_some() { "ready".into_response() } else { (StatusCode::SERVICE_UNAVAILABLE, "the pipeline was not read yet").into_response() }
}

async fn metrics(State(app): State<App>) -> Response {
    match app.metrics() {
        Ok(text) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::app::tests::app;

    /// Status and the header `location` of each address.
    async fn answers(base: &str, addresses: &[&str]) -> Vec<(u16, String)> {
        let app = app(base, &json!({"kafka": {"bootstrapServers": "k:9092"}}));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, stop) = (listener.local_addr().unwrap(), app.stop.clone());
        let served = tokio::spawn(async move { axum::serve(listener, router(app)).with_graceful_shutdown(stop.cancelled_owned()).await });
        let http = crate::live::poll::http().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let mut answers = Vec::new();
        for address in addresses {
            let answer = http.get(format!("http://{at}{address}")).send().await.unwrap();
            let text = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
            assert_eq!(text("content-security-policy"), POLICY, "{address}");
            answers.push((answer.status().as_u16(), text("location")));
        }
        served.abort();
        answers
    }

    #[tokio::test]
    async fn the_first_page_is_at_the_base_path_with_and_without_a_slash() {
        let to = |status: u16, place: &str| (status, place.to_owned());
        // Without charts the first page leads to the overview.
        let found = answers("/stock", &["/stock/", "/stock", "/stock?sector=IT", "/", "/stock/overview", "/stock/nothing", "/overview"]).await;
        let expected =
            [to(307, "/stock/overview"), to(307, "/stock/"), to(307, "/stock/?sector=IT"), to(307, "/stock/"), to(200, ""), to(404, ""), to(404, "")];
        assert_eq!(found, expected);
        assert_eq!(answers("", &["/", "/overview", "/nothing"]).await, [to(307, "/overview"), to(200, ""), to(404, "")]);
    }
}
