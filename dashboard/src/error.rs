//! What a browser is told when something cannot be shown.

use askama::Template;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::pages::{Framed, Page, respond};
use crate::store::StoreError;

/// Why a request cannot be answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// The request cannot be understood.
    #[error("{0}")]
    BadRequest(String),
    /// It is not allowed.
    #[error("{0}")]
    Forbidden(String),
    /// A store or broker.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Kubernetes has not told of the pipeline.
    #[error("the pipeline is not there: it was deleted, or Kubernetes has not answered yet")]
    NoPipeline,
    /// A fault of the dashboard.
    #[error("the page cannot be written: {0}")]
    Template(#[from] askama::Error),
    /// A fault of the dashboard.
    #[error("{0}")]
    Internal(String),
}

impl Failure {
    const fn status(&self) -> StatusCode {
        match self {
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::BadRequest(_) | Self::Store(StoreError::Invalid(_)) => StatusCode::BAD_REQUEST,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::Store(StoreError::Missing(_)) => StatusCode::NOT_FOUND,
            Self::Store(_) => StatusCode::BAD_GATEWAY,
            Self::NoPipeline => StatusCode::SERVICE_UNAVAILABLE,
            Self::Template(_) | Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A request that cannot be understood.
pub(crate) fn bad_request(text: &str) -> Failure {
    Failure::BadRequest(text.to_owned())
}

/// What a page says instead of what was asked for.
#[derive(Template)]
#[template(path = "error.html")]
struct Body<'a> {
    base: &'a str,
    status: u16,
    text: &'a str,
}

/// Why there is no page, on its way to [`as_page`].
#[derive(Clone)]
struct Why(String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, text) = (self.status(), self.to_string());
        if status.is_server_error() {
            tracing::warn!(%status, "{text}");
        }
        let mut response = (status, [(header::CACHE_CONTROL, "no-store")], text.clone()).into_response();
        response.extensions_mut().insert(Why(text));
        response
    }
}

/// Puts what went wrong into the frame of all pages.
pub(crate) async fn as_page(State(app): State<App>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let Some(Why(text)) = response.extensions().get::<Why>().cloned() else { return response };
    let status = response.status();
    let body = Body { base: app.base(), status: status.as_u16(), text: &text }.render();
    let framed =
        body.map_err(Failure::from).and_then(|body| respond(&app, Framed { heading: "Error", nav: "", page: Page::Still, styles: &[], scripts: &[], body }));
    match framed {
        Ok(mut page) => {
            *page.status_mut() = status;
            page
        }
        Err(_) => response,
    }
}
