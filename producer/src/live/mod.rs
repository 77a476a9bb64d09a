//! Sources outside: a [`websocket`] that delivers, or an [`http`] API that is asked. What they deliver is sent as it comes; nothing tells afterwards what they had
//! while nobody listened.
//!
//! ```text
//!  websocket ─> protocol ─> mapping ─> intake (seen) ─> channel for one ─> kafka::live      a frame, what it means, its elements, those that are new
//!  http ─────────────────────^                                                              health: what the status says of feed and brokers together
//! ```
//!
//! Only the source sees the signal to stop: it closes its connection and lets go of the channel, so that everything behind it ends when it is empty. Everything
//! that was received is sent, unless the brokers are away for the last ten seconds of the process, or it is killed.

pub mod connect;
pub mod health;
pub mod http;
pub mod intake;
pub mod json;
pub mod mapping;
pub mod numbers;
pub mod pace;
pub mod protocol;
pub mod secrets;
pub mod seen;
pub mod tls;
pub mod websocket;

use std::path::PathBuf;

use tapeline_api::names::TopicName;
use tapeline_api::pipeline::live::Http;
use tapeline_api::pipeline::producers::Source;
use tapeline_api::settings::{FEED_FOLDER, ProducerSettings};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::halt::{Halt, LAST_ACKNOWLEDGEMENTS, patiently};
use crate::kafka::live::{Message, Outlet, watch};
use crate::options::Options;
use crate::settings::SettingsError;
use crate::status::Status;
use health::Health;

/// How many messages may wait for the brokers' client, beside those that are under way, which are counted in bytes. A message may have 16 MiB; more would gain
/// nothing, since both ends are one task.
const WAITING_ROOM: usize = 1;

/// Whether the settings ask for a source outside.
#[must_use]
pub const fn is_wanted(source: &Source) -> bool {
    source.websocket.is_some() || source.http.is_some()
}

/// A source outside.
enum Outside {
    WebSocket(Box<websocket::WebSocket>),
    Http(Box<http::Http>),
}

/// Passes on what comes, until the process is asked to stop, or only a change helps.
pub async fn run(options: &Options, settings: ProducerSettings, status: &Status, stop: &CancellationToken) -> Halt {
    let health = Health::new(status.clone());
    let is_run = settings.once.is_some();
    match feed(options.credentials.join(FEED_FOLDER), settings, &health, stop).await {
        // In a run the source came to its end by itself, and all of it is acknowledged.
        Ok(()) if is_run && !stop.is_cancelled() => {
            status.done();
            Halt::Done
        }
        Ok(()) => Halt::Stopped,
        Err(halt) => halt,
    }
}

async fn feed(secrets: PathBuf, settings: ProducerSettings, health: &Health, stop: &CancellationToken) -> Result<(), Halt> {
    let source = Outside::new(&settings, secrets, health)?;
    // The brokers first: what is received while they are away would have to be kept.
    let outlet = patiently(stop, |problem| health.brokers(Some(problem)), || Outlet::open(&settings, topics(&settings), health.clone())).await?;
    let books = outlet.books();
    let watcher = watch(outlet.books());
    let (messages, waiting_room) = mpsc::channel(WAITING_ROOM);
    let work = async { tokio::join!(source.run(messages, stop.clone()), outlet.run(waiting_room)) };
    let deadline = async {
        stop.cancelled().await;
        tokio::time::sleep(LAST_ACKNOWLEDGEMENTS).await;
    };
    tokio::select! {
        _ = work => {}
        () = deadline => tracing::error!(messages = books.unsettled(), "the brokers did not take everything in time: what is left is lost"),
        never = watcher => match never {},
    }
    Ok(())
}

/// How many answers a run is to bring; no number without a schedule.
fn answers(settings: &ProducerSettings, wish: &Http) -> Option<u32> {
    settings.once.as_ref().map(|_| wish.requests.and_then(|requests| u32::try_from(requests).ok()).unwrap_or(1))
}

/// The producer's topic, and those that take turns with it.
fn topics(settings: &ProducerSettings) -> Vec<TopicName> {
    let more = settings.source.http.iter().flat_map(|http| &http.more_topics);
    std::iter::once(&settings.topic).chain(more).cloned().collect()
}

impl Outside {
    fn new(settings: &ProducerSettings, secrets: PathBuf, health: &Health) -> Result<Self, Halt> {
        match (&settings.source.websocket, &settings.source.http) {
            (Some(wish), None) => websocket::WebSocket::new(wish.clone(), secrets, health.clone()).map(|source| Self::WebSocket(Box::new(source))),
            (None, Some(wish)) => http::Http::new(wish.clone(), secrets, health.clone(), answers(settings, wish)).map(|source| Self::Http(Box::new(source))),
            (None, None) => Err(SettingsError::Ambiguous("no source").into()),
            (Some(_), Some(_)) => Err(SettingsError::Ambiguous("two sources").into()),
        }
    }

    async fn run(self, messages: mpsc::Sender<Message>, stop: CancellationToken) {
        match self {
            Self::WebSocket(source) => source.run(messages, stop).await,
            Self::Http(source) => source.run(messages, stop).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use axum::Router;
    use axum::routing::get;
    use rdkafka::mocking::MockCluster;
    use serde_json::json;
    use tapeline_api::report::ProblemClass;
    use tokio::net::TcpListener;

    use super::*;

    /// Answers of 5 MiB each, ten in a second, and brokers that vanish after the first.
    #[tokio::test]
    async fn what_is_read_while_the_brokers_are_away_is_bounded_however_large_it_is() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let answer = get(async || {
            ASKED.fetch_add(1, Ordering::Relaxed);
            format!("\"{}\"", "x".repeat(5 << 20))
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, Router::new().route("/", answer)).await });
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("large", 1, 1).unwrap();
        let settings = json!({
            "formatVersion": 1, "namespace": "shop", "pipeline": "market", "producer": "large", "topic": "large",
            "kafka": {"bootstrapServers": cluster.bootstrap_servers()}, "source": {"http": {"url": url, "interval": {"every": "100ms"}}},
        });
        let (health, stop) = (Health::new(Status::default()), CancellationToken::new());
        let told = async {
            while ASKED.load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
            cluster.broker_down(1).unwrap();
            // Said after five seconds without an acknowledgement, in which fifty answers could be read.
            while health.status().report().problem.is_none_or(|problem| problem.class != ProblemClass::KafkaUnreachable) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            ended = feed("/nowhere".into(), serde_json::from_value(settings).unwrap(), &health, &stop) => panic!("{ended:?}"),
            () = told => {}
        }
        server.abort();
        // One or two under way, one that waits for room there, one in the waiting room, one before it.
        assert!(ASKED.load(Ordering::Relaxed) <= 6, "{ASKED:?}");
    }
}
