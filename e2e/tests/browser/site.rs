//! Small web sites on loopback, with whatever the harness has to notice. They end as a killed process does: with all their connections, at once.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::{Stream, StreamExt as _, stream};
use tapeline_e2e::{eventually, within};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

/// What the dashboard is to have.
const STRICT: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'";

pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    runtime: Option<Runtime>,
}

impl Site {
    pub(crate) async fn start(pages: Router) -> Self {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), pages).await
    }

    /// Once nobody is there any more.
    pub(crate) async fn start_at(address: SocketAddr, pages: Router) -> Self {
        let listener = eventually("the address to be free", within(5), async || Ok(std::net::TcpListener::bind(address)?)).await;
        listener.set_nonblocking(true).unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Arc::default());
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let pages = pages.layer(from_fn_with_state(Arc::clone(&asked), remember));
        runtime.spawn(async move { axum::serve(TcpListener::from_std(listener).unwrap(), pages).await });
        Self { address, asked, runtime: Some(runtime) }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The paths that it was asked for.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

async fn remember(State(asked): State<Arc<Mutex<Vec<String>>>>, request: Request, next: Next) -> Response {
    asked.lock().unwrap().push(request.uri().path().to_owned());
    next.run(request).await
}

/// A page without fault, but for what is in `body`. Under a strict policy its script and style are files.
pub(crate) fn page(body: &str) -> Response {
    ([(CONTENT_TYPE, "text/html"), (CONTENT_SECURITY_POLICY, STRICT)], document(body)).into_response()
}

/// The same without a policy.
pub(crate) fn lax_page(body: &str) -> Response {
    ([(CONTENT_TYPE, "text/html")], document(body)).into_response()
}

fn document(body: &str) -> String {
    format!(
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width, initial-scale=1\"><title>A page</title>
        <link rel=icon href=/icon.svg><link rel=stylesheet href=/page.css></head><body><main><h1>A page</h1>{body}</main></body></html>"
    )
}

/// What all pages have.
pub(crate) fn files() -> Router {
    let css = "body { background: #fff; color: #000; font-family: sans-serif } .faint { color: #eee } .tall { height: 3000px } .wide { width: 600px } .dark { display: none }
        @media (prefers-color-scheme: dark) { body { background: #000; color: #fff } .dark { display: inline } .light { display: none } }";
    let icon = "<svg xmlns='http://www.w3.org/2000/svg'/>";
    Router::new().route("/page.css", file("text/css", css)).route("/icon.svg", file("image/svg+xml", icon))
}

pub(crate) fn file(kind: &'static str, content: impl Into<String>) -> axum::routing::MethodRouter {
    let content = content.into();
    get(async move || ([(CONTENT_TYPE, kind)], content))
}

/// An event every 100 ms, numbered from 1, and a browser that is to come again after 100 ms.
pub(crate) fn events() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let numbers = stream::iter(1..).then(async |number: u32| {
        if number > 1 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(Event::default().retry(Duration::from_millis(100)).data(number.to_string()))
    });
    Sse::new(numbers)
}

/// 200 for whoever a proxy has let through.
pub(crate) fn who(headers: &HeaderMap) -> Response {
    match headers.get("x-forwarded-user") {
        Some(user) => page(&format!("<p id=user>{}</p>", user.to_str().unwrap())),
        None => StatusCode::UNAUTHORIZED.into_response(),
    }
}
