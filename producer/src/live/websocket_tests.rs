//! Mostly over a pipe in the process.

use std::net::Ipv4Addr;

use serde_json::json;
use tapeline_api::report::ProducerState;
use tokio::io::{DuplexStream, duplex};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::{WebSocketStream, accept_async};

use super::*;
use crate::live::connect::Stream;
use crate::status::Status;

const TRADE: &str = r#"{"type":"trade","data":[{"s":"AAPL","p":1,"t":1,"v":2,"c":null}]}"#;

/// A source with a connection to a server that does what the test wants.
struct Pair {
    source: WebSocket,
    session: Session,
    server: WebSocketStream<DuplexStream>,
    intake: Intake,
    messages: mpsc::Receiver<Message>,
    stop: CancellationToken,
}

fn source(url: &str, feed: &str) -> (WebSocket, Health) {
    let health = Health::new(Status::default());
    let wish = serde_json::from_value(json!({"url": url, "feed": feed, "symbols": ["AAPL", "NONE"]})).unwrap();
    (WebSocket::new(wish, "/nowhere".into(), health.clone()).unwrap(), health)
}

async fn pair(feed: &str) -> Pair {
    let (source, health) = source("ws://feed.test/", feed);
    let (ours, theirs) = duplex(1 << 16);
    let ours: Box<dyn Stream> = Box::new(ours);
    let session = Session::new(WebSocketStream::from_raw_socket(ours, Role::Client, None).await, None);
    let server = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
    let (sender, messages) = mpsc::channel(1);
    Pair { source, session, server, intake: Intake::new(false, health, sender, 1), messages, stop: CancellationToken::new() }
}

impl Pair {
    fn report(&self) -> (ProducerState, Option<String>, bool) {
        let report = self.source.health.status().report();
        (report.state, report.problem.map(|problem| problem.message), report.feed.unwrap().connected)
    }

    async fn hear(&mut self, frames: &[&str]) -> Result<(), End> {
        for frame in frames {
            self.source.take(Frame::text(*frame), &mut self.session, &mut self.intake).await?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn whoever_sends_a_frame_and_hangs_up_is_asked_less_and_less_often() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (source, _) = source(&format!("ws://{}/", listener.local_addr().unwrap()), "Finnhub");
    let (messages, mut taken) = mpsc::channel(1);
    let server = async {
        let mut asked = Vec::new();
        for _ in 0..3 {
            let mut socket = accept_async(listener.accept().await.unwrap().0).await.unwrap();
            asked.push(Instant::now());
            socket.send(Frame::text(TRADE)).await.unwrap();
            assert!(taken.recv().await.is_some());
            socket.close(None).await.unwrap();
            while let Some(Ok(_)) = socket.next().await {}
        }
        asked
    };
    let stop = CancellationToken::new();
    let asked = tokio::select! {
        asked = server => asked,
        () = source.run(messages, stop) => panic!("it ended"),
    };
    let pauses: Vec<Duration> = asked.windows(2).map(|pair| pair[1].duration_since(pair[0])).collect();
    assert!(pauses[0] >= Duration::from_millis(500) && pauses[1] >= Duration::from_secs(1), "{pauses:?}");
}

#[tokio::test]
async fn a_quiet_connection_is_kept_as_long_as_it_answers() {
    let Pair { mut source, mut session, mut server, mut intake, messages: _messages, stop } = pair("Finnhub").await;
    source.wish.silence_timeout = Some("2s".parse().unwrap());
    session.subscribed = true;
    let answers = async {
        let mut pings = 0;
        while pings < 3 {
            pings += usize::from(matches!(server.next().await, Some(Ok(Frame::Ping(_)))));
        }
    };
    tokio::select! {
        _ = source.serve(&mut session, &mut intake, &stop) => panic!("it is alive"),
        () = answers => {}
    }
}

#[tokio::test]
async fn a_connection_that_answers_nothing_is_lost_when_its_time_is_up() {
    let Pair { mut source, mut session, server: _server, mut intake, messages: _messages, stop } = pair("Finnhub").await;
    source.wish.silence_timeout = Some("400ms".parse().unwrap());
    session.subscribed = true;
    let begun = Instant::now();
    let End::Lost(failure) = source.serve(&mut session, &mut intake, &stop).await else { panic!("nobody stopped it") };
    assert_eq!(failure.problem.message, "nothing was heard from the feed for 0.4 s");
    assert!(begun.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn what_was_read_before_a_stop_waits_for_room_however_long_that_takes() {
    const PATIENCE: Duration = Duration::from_millis(200);
    let Pair { mut source, mut session, mut server, mut intake, mut messages, .. } = pair("Finnhub").await;
    for _ in 0..10 {
        server.send(Frame::text(TRADE)).await.unwrap();
    }
    let farewell = async {
        source.farewell(&mut session, &mut intake, PATIENCE).await;
        drop(intake);
    };
    let answer = async { while let Some(Ok(_)) = server.next().await {} };
    let take = async {
        let mut taken = 0;
        while messages.recv().await.is_some() {
            taken += 1;
            // All of it takes longer than the server has.
            tokio::time::sleep(PATIENCE / 4).await;
        }
        taken
    };
    assert_eq!(tokio::join!(farewell, answer, take).2, 10);
}

#[tokio::test]
async fn whoever_does_not_take_leave_is_left() {
    let Pair { mut source, mut session, server: _server, mut intake, messages: _messages, .. } = pair("Finnhub").await;
    source.farewell(&mut session, &mut intake, Duration::from_millis(50)).await;
}

#[tokio::test]
async fn a_refused_symbol_does_not_stop_the_others_whatever_comes_first() {
    let error = r#"{"type":"error","msg":"Invalid symbol"}"#;
    let massive = |status: &str| format!(r#"{{"ev":"status","status":"{status}","message":"of NONE"}}"#);
    let (refused, accepted) = (massive("error"), massive("success"));
    let (one, other) = (format!("[{refused},{accepted}]"), format!("[{accepted},{refused}]"));
    let cases: [(&str, &[&str]); 5] = [
        ("Finnhub", &[error]),
        ("Finnhub", &[r#"{"type":"ping"}"#, error]),
        ("Massive", &[&one]),
        ("Massive", &[&other]),
        ("Massive", &[&format!("[{refused}]"), &format!("[{accepted}]")]),
    ];
    for (feed, frames) in cases {
        let mut pair = pair(feed).await;
        pair.hear(frames).await.unwrap_or_else(|_| panic!("{feed} {frames:?}: the connection ended"));
        let (state, said, connected) = pair.report();
        assert_eq!((state, connected), (ProducerState::Waiting, true), "{feed} {frames:?}");
        assert!(said.unwrap().contains("the feed refuses what it is asked for"), "{feed} {frames:?}");
    }
}

#[tokio::test]
async fn a_feed_that_confirms_and_only_refuses_is_told_at_once_and_given_up_later() {
    let mut pair = pair("Binance").await;
    pair.hear(&[r#"{"code":-1121,"msg":"Invalid symbol."}"#]).await.unwrap_or_else(|_| panic!("the connection ended"));
    let (state, said, connected) = pair.report();
    assert_eq!((state, connected), (ProducerState::Waiting, false));
    assert!(said.unwrap().contains("Invalid symbol."));
    pair.session.begun = Instant::now().checked_sub(CONFIRMATION).unwrap();
    let End::Lost(failure) = pair.source.serve(&mut pair.session, &mut pair.intake, &pair.stop).await else { panic!("nobody stopped it") };
    assert_eq!(pair.session.why(failure).problem.class, ProblemClass::FeedRefuses);
}
