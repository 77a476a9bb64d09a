//! The pages. Each is a model made of what is known (pure), a template, and the parts of it that move, which are sent to open pages as well.

pub mod charts;
pub mod data;
pub mod overview;
pub mod queries;
pub mod topics;
pub mod words;

use askama::Template;
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};

use crate::app::App;
use crate::assets;
use crate::error::Failure;
use crate::events::Parts;

/// A page that is open in a browser, with what decides over its contents.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Page {
    /// Charts, with filters.
    Charts(Vec<(String, String)>),
    /// The pipeline as a graph, conditions and Events.
    Overview,
    /// All queries.
    Queries,
    /// One query.
    Query(String),
    /// The messages of a topic as they come, with a filter.
    Tail(String, String),
    /// A page on which nothing moves.
    Still,
}

impl Page {
    /// As the address of its events names it. None for no page.
    #[must_use]
    pub fn of_query(mut query: Vec<(String, String)>) -> Option<Self> {
        let at = query.iter().position(|(key, _)| key == "page")?;
        let (_, page) = query.remove(at);
        Some(match page.as_str() {
            "charts" => Self::Charts(query),
            "overview" => Self::Overview,
            "queries" => Self::Queries,
            "still" => Self::Still,
            _ => Self::Query(page.strip_prefix("query:")?.to_owned()),
        })
    }

    /// The address of its events.
    #[must_use]
    pub fn events(&self, base: &str) -> String {
        if let Self::Tail(topic, filter) = self {
            let filter = (!filter.is_empty()).then(|| ("filter".to_owned(), filter.clone()));
            return format!("{base}/topics/{}/tail?{}", words::part(topic), words::query_string(filter.into_iter()));
        }
        let (page, filters): (String, &[(String, String)]) = match self {
            Self::Charts(filters) => ("charts".to_owned(), filters),
            Self::Overview => ("overview".to_owned(), &[]),
            Self::Queries => ("queries".to_owned(), &[]),
            Self::Query(name) => (format!("query:{name}"), &[]),
            Self::Still | Self::Tail(..) => ("still".to_owned(), &[]),
        };
        let pairs = std::iter::once(("page".to_owned(), page)).chain(filters.iter().cloned());
        format!("{base}/events?{}", words::query_string(pairs))
    }
}

/// The page that shows the same as `page` by the shortest address.
pub(crate) fn canonical(app: &App, page: &Page) -> Page {
    match page {
        Page::Charts(filters) => Page::Charts(charts::concerning(app, filters)),
        other => other.clone(),
    }
}

/// What moves on `page`, as it is now.
#[must_use]
pub fn parts(app: &App, page: &Page) -> Parts {
    let parts = match page {
        Page::Charts(filters) => charts::parts(app, filters),
        Page::Overview => overview::parts(app),
        Page::Queries => queries::list_parts(app),
        Page::Query(name) => queries::parts(app, name),
        Page::Still | Page::Tail(..) => Ok(Parts::default()),
    };
    let mut parts = parts.unwrap_or_else(|error| {
        tracing::error!(%error, "a part of a page cannot be written");
        Parts::default()
    });
    // Whatever the page, it says so when what it shows is not the newest, and what day it is.
    for (id, html) in [("notice", notice(app).render()), ("today", Today { today: words::today() }.render())] {
        match html {
            Ok(html) => parts.fragments.push(crate::events::Fragment { id: id.to_owned(), html }),
            Err(error) => tracing::error!(%error, "the part {id} of all pages cannot be written"),
        }
    }
    parts
}

/// The frame of all pages.
#[derive(Template)]
#[template(path = "page.html")]
struct Frame<'a> {
    base: &'a str,
    title: String,
    heading: &'a str,
    pipeline: &'a str,
    namespace: &'a str,
    today: String,
    now: i64,
    version: &'static str,
    nav: &'static str,
    has_charts: bool,
    events: String,
    styles: &'a [&'static str],
    /// Files, each with how it is loaded.
    scripts: &'a [(&'static str, &'static str)],
    notice: String,
    body: String,
}

/// What is wrong with what is shown, on every page.
#[derive(Template)]
#[template(path = "notice.html")]
struct Notice {
    text: Option<String>,
}

/// The day, which is another one after midnight.
#[derive(Template)]
#[template(path = "today.html")]
struct Today {
    today: String,
}

fn notice(app: &App) -> Notice {
    let text = match app.pipeline() {
        None => Some("The pipeline is not there: it was deleted, or Kubernetes has not answered yet."),
        Some(_) if app.followed.is_interrupted() => Some("Kubernetes does not answer: specification, conditions and Events are those of before."),
        Some(_) => None,
    };
    Notice { text: text.map(str::to_owned) }
}

/// A page in its frame.
pub(crate) struct Framed<'a> {
    pub(crate) heading: &'a str,
    pub(crate) nav: &'static str,
    pub(crate) page: Page,
    /// Style sheets beside the one of all pages.
    pub(crate) styles: &'a [&'static str],
    /// Scripts beside those of all pages, each with how it is loaded.
    pub(crate) scripts: &'a [(&'static str, &'static str)],
    pub(crate) body: String,
}

/// The title of the dashboard.
pub(crate) fn title(app: &App) -> String {
    let given = app.pipeline().and_then(|pipeline| pipeline.spec.dashboard.as_ref()?.title.clone());
    given.unwrap_or_else(|| app.settings.pipeline.clone())
}

pub(crate) fn respond(app: &App, framed: Framed<'_>) -> Result<Response, Failure> {
    let frame = Frame {
        base: app.base(),
        title: title(app),
        heading: framed.heading,
        pipeline: &app.settings.pipeline,
        namespace: &app.settings.namespace,
        today: Today { today: words::today() }.render()?,
        now: crate::live::now_ms(),
        version: version(),
        nav: framed.nav,
        has_charts: app.pipeline().is_some_and(|pipeline| !crate::charts::charts(&pipeline.spec).is_empty()),
        events: framed.page.events(app.base()),
        styles: framed.styles,
        scripts: framed.scripts,
        notice: notice(app).render()?,
        body: framed.body,
    };
    Ok(([(header::CACHE_CONTROL, "no-store")], Html(frame.render()?)).into_response())
}

/// The version of this program.
#[must_use]
pub const fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// The address of an asset, for templates.
fn asset(base: &str, file: &str) -> String {
    format!("{base}/assets/{file}?v={}", assets::version(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_found_by_the_address_of_its_events() {
        let filters = vec![("sector".to_owned(), "Food & Drink".to_owned()), ("date".to_owned(), "2024-08-25".to_owned())];
        for page in [Page::Charts(filters), Page::Overview, Page::Queries, Page::Query("raw".to_owned()), Page::Still] {
            let address = page.events("/base");
            let uri: axum::http::Uri = address.parse().unwrap();
            let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri).unwrap().0;
            assert_eq!(Page::of_query(query), Some(page), "{address}");
        }
        assert_eq!(Page::of_query(vec![("page".to_owned(), "other".to_owned())]), None);
    }

    #[test]
    fn every_page_is_told_the_day() {
        let app = crate::app::tests::app("", &serde_json::json!({"kafka": {"bootstrapServers": "k:9092"}}));
        for page in [Page::Charts(Vec::new()), Page::Overview, Page::Queries, Page::Still] {
            let parts = parts(&app, &page);
            let today = parts.fragments.iter().find(|fragment| fragment.id == "today").unwrap();
            assert!(today.html.contains(&words::today()) && today.html.contains("id=\"today\""), "{page:?}: {}", today.html);
        }
    }
}
