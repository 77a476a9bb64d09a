//! What is sent to open pages: one connection each (server-sent events), over which the parts of the page come that move. A part is made once for all pages that show the
//! same, and sent to those that do not have it yet.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::live::snapshot::Snapshot;
use crate::live::{Viewer, now_ms};
use crate::pages::{self, Page};

/// Between two looks at what has moved, for one page.
const PAUSE: Duration = Duration::from_secs(1);
/// A page that hears nothing for three of these takes the connection for lost.
pub(crate) const BEAT: Duration = Duration::from_secs(5);
/// Messages that wait for a slow page.
const WAITING: usize = 16;
/// Pages that may be open at once: each costs a task and a look a second.
const OPEN: usize = 1_000;

/// A part of a page: what stands in the element `id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fragment {
    /// The element.
    pub id: String,
    /// Its new HTML, the element itself among it.
    pub html: String,
}

/// Rows of a chart that are others than before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewData {
    /// The chart.
    pub source: String,
    /// Rises with each change.
    pub version: u64,
    /// When they were read, in milliseconds since 1970.
    pub at: i64,
}

/// New points of the lines of a query.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NewPoints {
    /// The query.
    pub query: String,
    /// Which lines.
    pub series: &'static str,
    /// Seconds since 1970.
    pub at: f64,
    /// Their labels, since there may be others than before.
    pub labels: Vec<String>,
    /// A value for each line.
    pub values: Vec<Option<f64>>,
}

/// What a page shows that moves.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parts {
    /// HTML.
    pub fragments: Vec<Fragment>,
    /// Rows of charts.
    pub data: Vec<NewData>,
    /// The newest points of lines, in the order of time.
    pub points: Vec<NewPoints>,
}

type Stamp = (i64, u64);

/// The parts of the pages that are open, as they are now.
#[derive(Debug, Default)]
pub struct Hub(Mutex<HashMap<Page, (Stamp, Arc<Parts>)>>);

/// Pages whose parts are kept: filters make as many as people like.
const KEPT: usize = 200;

impl Hub {
    /// The parts of `page` now.
    fn parts(&self, app: &App, page: &Page, stamp: Stamp) -> Arc<Parts> {
        let page = pages::canonical(app, page);
        let known = self.lock().get(&page).filter(|(of, _)| *of == stamp).map(|(_, parts)| Arc::clone(parts));
        if let Some(parts) = known {
            return parts;
        }
        let parts = Arc::new(pages::parts(app, &page));
        self.keep(page, stamp, Arc::clone(&parts));
        parts
    }

    /// Keeps `parts`, and of the others those that are as new: what is older is made again for those who still have that page open.
    fn keep(&self, page: Page, stamp: Stamp, parts: Arc<Parts>) {
        let mut all = self.lock();
        all.retain(|_, (of, _)| *of >= stamp);
        if all.len() < KEPT {
            all.insert(page, (stamp, parts));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Page, (Stamp, Arc<Parts>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `GET /events?page=..`.
pub(crate) async fn events(State(app): State<App>, Query(query): Query<Vec<(String, String)>>) -> Response {
    let Some(page) = Page::of_query(query) else {
        return crate::error::bad_request("there is no page of that name").into_response();
    };
    if app.live.viewers() >= OPEN {
        let text = format!("{OPEN} pages of this dashboard are open already");
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "10")], text).into_response();
    }
    let (sender, receiver) = mpsc::channel(WAITING);
    let viewer = app.live.watch();
    app.tasks.clone().spawn(feed(app, page, sender, viewer));
    sse(ReceiverStream::new(receiver))
}

/// An answer of events that proxies neither hold back nor keep.
pub(crate) fn sse(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let mut response = Sse::new(events.map(Ok::<_, Infallible>)).into_response();
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Sends what moves on `page` until the browser goes or the process stops.
async fn feed(app: App, page: Page, sender: mpsc::Sender<Event>, _viewer: Viewer) {
    let (mut snapshots, mut rows) = (app.live.changes(), app.rows.changes());
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sent = Sent::default();
    // At first the page gets everything as it is now: its HTML may be a moment old, or of before the connection was lost.
    let (mut next, mut is_first) = (Instant::now(), true);
    loop {
        tokio::select! {
            biased;
            _ = beat.tick() => if !send(&sender, beat_now(), &app.stop).await { return },
            () = async { if !is_first { moved(&mut snapshots, &mut rows, next).await } } => {
                (next, is_first) = (Instant::now() + PAUSE, false);
                let stamp = (snapshots.borrow_and_update().at_ms, *rows.borrow_and_update());
                let parts = app.hub.parts(&app, &page, stamp);
                for event in sent.take(&parts) {
                    if !send(&sender, event, &app.stop).await {
                        return;
                    }
                }
            }
            () = sender.closed() => return,
            () = app.stop.cancelled() => return,
        }
    }
}

/// Whether `event` was sent: not if the browser has gone, nor if the process stops while a browser does not read.
async fn send(sender: &mpsc::Sender<Event>, event: Event, stop: &CancellationToken) -> bool {
    tokio::select! {
        sent = sender.send(event) => sent.is_ok(),
        () = stop.cancelled() => false,
    }
}

/// Returns when something has moved, and not before `next`. New rows of charts are not held back by numbers: they come at once.
async fn moved(snapshots: &mut watch::Receiver<Arc<Snapshot>>, rows: &mut watch::Receiver<u64>, next: Instant) {
    let numbers = async {
        sleep_until(next).await;
        if snapshots.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = numbers => {}
        changed = rows.changed() => if changed.is_err() { std::future::pending::<()>().await },
    }
}

/// A sign of life, with the time here, by which pages tell ages, and the version, by which they notice that they are of another one.
pub(crate) fn beat_now() -> Event {
    let (now, version) = (now_ms(), pages::version());
    Event::default().event("beat").data(format!(r#"{{"now":{now},"version":"{version}"}}"#))
}

/// What a page has been sent.
#[derive(Debug, Default)]
struct Sent {
    fragments: BTreeMap<String, u64>,
    data: BTreeMap<String, u64>,
    /// Up to which time.
    points: BTreeMap<&'static str, f64>,
}

impl Sent {
    /// What the page does not have yet.
    fn take(&mut self, parts: &Parts) -> Vec<Event> {
        let mut events = Vec::new();
        let mut push = |name: &str, json: Result<Event, axum::Error>| match json {
            Ok(event) => events.push(event),
            Err(error) => tracing::error!(%error, "an event {name} cannot be written"),
        };
        for fragment in &parts.fragments {
            let hash = hash(&fragment.html);
            if self.fragments.insert(fragment.id.clone(), hash) != Some(hash) {
                push("fragment", Event::default().event("fragment").json_data(fragment));
            }
        }
        for data in &parts.data {
            if self.data.insert(data.source.clone(), data.version) != Some(data.version) {
                push("data", Event::default().event("data").json_data(data));
            }
        }
        for points in &parts.points {
            if self.points.get(points.series).is_none_or(|sent| *sent < points.at) {
                self.points.insert(points.series, points.at);
                push("points", Event::default().event("points").json_data(points));
            }
        }
        events
    }
}

fn hash(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_sent_what_it_does_not_have() {
        let fragment = |html: &str| Fragment { id: "a".into(), html: html.into() };
        let data = |version| NewData { source: "v".into(), version, at: 1 };
        let points = |at| NewPoints { query: "raw".into(), series: "lag", at, labels: Vec::new(), values: Vec::new() };
        let mut sent = Sent::default();
        let mut count = |fragments: &[&str], version, at| {
            let fragments = fragments.iter().map(|html| fragment(html)).collect();
            sent.take(&Parts { fragments, data: vec![data(version)], points: vec![points(at)] }).len()
        };
        assert_eq!(count(&["1"], 1, 5.0), 3);
        assert_eq!(count(&["1"], 1, 5.0), 0);
        assert_eq!(count(&["2"], 1, 5.0), 1);
        assert_eq!(count(&["2"], 2, 10.0), 2);
    }

    #[test]
    fn all_points_are_sent_that_came_since_the_last_look() {
        let points = |at| NewPoints { query: "raw".into(), series: "batches", at, labels: Vec::new(), values: Vec::new() };
        let mut sent = Sent::default();
        let mut count = |times: &[f64]| sent.take(&Parts { points: times.iter().map(|at| points(*at)).collect(), ..Parts::default() }).len();
        assert_eq!([count(&[1.0, 2.0]), count(&[1.0, 2.0]), count(&[2.0, 3.0, 4.0])], [2, 0, 2]);
    }

    #[test]
    fn pages_that_nobody_has_open_any_more_are_forgotten() {
        let hub = Hub::default();
        let filtered = |value: usize| Page::Charts(vec![("sector".to_owned(), value.to_string())]);
        for value in 0..KEPT + 10 {
            hub.keep(filtered(value), (1, 1), Arc::default());
        }
        assert_eq!(hub.lock().len(), KEPT);
        hub.keep(filtered(0), (1, 2), Arc::default());
        hub.keep(Page::Overview, (1, 2), Arc::default());
        assert_eq!(hub.lock().len(), 2);
        hub.keep(Page::Queries, (1, 1), Arc::default());
        assert!(hub.lock().contains_key(&Page::Overview), "one who comes late takes nothing newer away");
    }

    #[tokio::test]
    async fn only_so_many_pages_are_fed() {
        let app = crate::app::tests::app("", &serde_json::json!({"kafka": {"bootstrapServers": "k:9092"}}));
        let ask = || events(State(app.clone()), Query(vec![("page".to_owned(), "overview".to_owned())]));
        assert_eq!(ask().await.status(), StatusCode::OK);
        let _open: Vec<Viewer> = (0..OPEN).map(|_| app.live.watch()).collect();
        let refused = ask().await;
        assert_eq!((refused.status(), refused.headers().contains_key(header::RETRY_AFTER)), (StatusCode::SERVICE_UNAVAILABLE, true));
        app.stop.cancel();
        app.tasks.close();
        app.tasks.wait().await;
    }

    #[tokio::test]
    async fn a_page_that_does_not_read_does_not_hold_up_the_end() {
        let (sender, _reader) = mpsc::channel(1);
        let stop = CancellationToken::new();
        assert!(send(&sender, beat_now(), &stop).await);
        stop.cancel();
        assert!(!send(&sender, beat_now(), &stop).await);
    }
}
