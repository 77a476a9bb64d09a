//! The websocket and http sources against a server that speaks the feeds' own formats and misbehaves, on loopback and without Kafka: what the source hands on is
//! compared with what the server delivered.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::expect_used, reason = "tests")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::ensure;
use rstest::rstest;
use serde_json::{Value, json};
use tapeline_api::report::{FeedReport, ProblemClass, ProducerState};
use tapeline_e2e::feeds::{Feed, FeedServer, Market, Refusal, Trade, uuid};
use tapeline_e2e::wait::all_along;
use tapeline_e2e::{eventually, within};
use tapeline_producer::kafka::live::Message;
use tapeline_producer::live::health::Health;
use tapeline_producer::live::http::Http;
use tapeline_producer::live::websocket::WebSocket;
use tapeline_producer::status::Status;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const KEY: &str = "s3cr/t +";
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A source at work.
struct Source {
    status: Status,
    messages: mpsc::Receiver<Message>,
    stop: CancellationToken,
    work: JoinHandle<()>,
    secrets: TempDir,
}

impl Source {
    fn new(start: impl FnOnce(&std::path::Path, Health) -> Box<dyn FnOnce(mpsc::Sender<Message>, CancellationToken) -> JoinHandle<()>>) -> Self {
        let (status, secrets, stop) = (Status::default(), tempfile::tempdir().unwrap(), CancellationToken::new());
        std::fs::write(secrets.path().join("api-key"), format!("{KEY}\n")).unwrap();
        std::fs::write(secrets.path().join("header-0"), format!("Bearer {KEY}\n")).unwrap();
        let (sender, messages) = mpsc::channel(1);
        let work = start(secrets.path(), Health::new(status.clone()))(sender, stop.clone());
        Self { status, messages, stop, work, secrets }
    }

    fn websocket(wish: Value) -> Self {
        Self::new(|secrets, health| {
            let source = WebSocket::new(serde_json::from_value(wish).unwrap(), secrets.to_owned(), health).unwrap();
            Box::new(move |messages, stop| tokio::spawn(source.run(messages, stop)))
        })
    }

    fn http(wish: Value) -> Self {
        Self::new(|secrets, health| {
            let source = Http::new(serde_json::from_value(wish).unwrap(), secrets.to_owned(), health, None).unwrap();
            Box::new(move |messages, stop| tokio::spawn(source.run(messages, stop)))
        })
    }

    async fn next(&mut self) -> Message {
        let next = timeout(Duration::from_secs(20), self.messages.recv()).await;
        next.unwrap_or_else(|_| panic!("nothing came for 20 s: {:?}", self.status.report())).expect("the source still runs")
    }

    async fn take(&mut self, count: usize) -> Vec<Message> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            taken.push(self.next().await);
        }
        taken
    }

    fn feed(&self) -> FeedReport {
        self.status.report().feed.unwrap()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Status) -> bool) {
        eventually(what, within(30), async || {
            ensure!(holds(&self.status), "{:?}", self.status.report());
            Ok(())
        })
        .await;
    }

    async fn until_waiting(&self, class: ProblemClass) -> String {
        self.until(&class.to_string(), |status| status.report().problem.is_some_and(|problem| problem.class == class)).await;
        let report = self.status.report();
        assert_eq!(report.state, ProducerState::Waiting);
        report.problem.unwrap().message
    }

    /// Ends it, and returns what it still had.
    async fn stop(mut self) -> Vec<Message> {
        self.stop.cancel();
        let mut rest = Vec::new();
        while let Some(message) = timeout(Duration::from_secs(10), self.messages.recv()).await.expect("it ends") {
            rest.push(message);
        }
        self.work.await.unwrap();
        rest
    }
}

fn feed_kind(feed: Feed) -> &'static str {
    match feed {
        Feed::Finnhub => "Finnhub",
        Feed::Binance | Feed::BinanceCombined => "Binance",
        Feed::MassiveCrypto | Feed::MassiveStocks => "Massive",
    }
}

/// A symbol as the feed's data name it, and as it is subscribed to.
fn symbols(feed: Feed) -> [(&'static str, &'static str); 2] {
    match feed {
        Feed::Finnhub => [("BINANCE:BTCUSDT", "BINANCE:BTCUSDT"), ("AAPL", "AAPL")],
        Feed::Binance | Feed::BinanceCombined => [("BTCUSDT", "BTCUSDT"), ("ETHUSDT", "ETHUSDT")],
        Feed::MassiveCrypto => [("BTC-USD", "XT.BTC-USD"), ("ETH-USD", "XT.ETH-USD")],
        Feed::MassiveStocks => [("AAPL", "T.AAPL"), ("BRK.B", "T.BRK.B")],
    }
}

fn wish(server: &FeedServer, feed: Feed) -> Value {
    let wanted = symbols(feed).map(|(_, wanted)| wanted);
    json!({"url": server.url(feed), "feed": feed_kind(feed), "symbols": wanted, "apiKeySecretRef": {"name": "feed", "key": "token"}, "silenceTimeout": "3s"})
}

async fn server() -> FeedServer {
    let server = FeedServer::start(LOOPBACK, 7).await.unwrap();
    server.require_key(KEY);
    server
}

async fn subscribed(server: &FeedServer, feed: Feed) {
    eventually("the subscription", within(30), async || {
        for (symbol, _) in symbols(feed) {
            ensure!(server.subscribed(feed, symbol) == 1, "{symbol} is not subscribed to: {:?}", server.arrivals());
        }
        Ok(())
    })
    .await;
}

/// What a trade comes to, digit for digit.
fn message(feed: Feed, trade: &Trade) -> Message {
    let Trade { symbol, id, price, volume, time } = trade;
    let (conditions, rest) = match feed {
        Feed::Finnhub => ("null", String::new()),
        Feed::Binance | Feed::BinanceCombined => ("null", format!(r#","trade_id":{id}"#)),
        Feed::MassiveCrypto => ("[2]", format!(r#","trade_id":"{id}","exchange":3,"sequence":null"#)),
        Feed::MassiveStocks => ("[0,12]", format!(r#","trade_id":"{id}","exchange":4,"sequence":{id}"#)),
    };
    let payload = format!(r#"{{"symbol":"{symbol}","price":{price},"volume":{volume},"timestamp_unix":{time},"conditions":{conditions}{rest}}}"#);
    Message { topic: 0, key: Some(symbol.clone()), payload }
}

fn expected(feed: Feed, server: &FeedServer) -> Vec<Message> {
    server.delivered().iter().map(|trade| message(feed, trade)).collect()
}

#[rstest]
#[case(Feed::Finnhub)]
#[case(Feed::Binance)]
#[case(Feed::BinanceCombined)]
#[case(Feed::MassiveCrypto)]
#[case(Feed::MassiveStocks)]
#[tokio::test]
async fn no_trade_is_lost_or_doubled_whatever_the_server_does(#[case] feed: Feed) {
    let server = server().await;
    let mut source = Source::websocket(wish(&server, feed));
    let mut market = Market::new(5);
    let mut trades = |count| symbols(feed).iter().flat_map(|(symbol, _)| market.trades(symbol, count)).collect::<Vec<_>>();
    let mut received = Vec::new();
    for fault in 0..7 {
        subscribed(&server, feed).await;
        let some = trades(5);
        assert_eq!(server.deliver(feed, &some).await, 10);
        received.extend(source.take(10).await);
        match fault {
            0 => server.drop_connections(feed).await,
            1 => server.half_frame(feed, &trades(20)).await,
            2 => server.close(feed, 1011, "internal error").await,
            3 => server.fall_silent(feed).await,
            4 => {
                for unknown in [r#"{"type":"news","data":[{"s":"A"}]}"#, r#"[{"ev":"XQ","pair":"BTC-USD"}]"#, "", "{\"e\":", "42", r#"{"e":"depthUpdate"}"#] {
                    server.say(feed, unknown).await;
                }
            }
            5 => {
                let flood = trades(3000);
                let (sent, taken) = tokio::join!(server.deliver(feed, &flood), source.take(flood.len()));
                assert_eq!(sent, flood.len());
                received.extend(taken);
            }
            _ => server.ping(feed).await,
        }
        // What nobody is subscribed to is not delivered: a gap, where a feed counts.
        if fault < 4 {
            trades(2);
        }
    }
    source.until("the ping to be answered", |_| server.pongs() == 1).await;
    let report = source.feed();
    received.extend(source.stop().await);
    assert_eq!(received.len(), expected(feed, &server).len());
    assert!(received == expected(feed, &server), "what arrived is not what was delivered");
    assert_eq!((report.reconnections_total, report.repeats_total, report.unknown_total), (4, 0, 6), "{report:?}");
    // Half a frame of 20 trades of each symbol counts too.
    let (gaps, missing) = if feed_kind(feed) == "Binance" { (4 + 8, 2 * (4 * 2 + 20)) } else { (4, 0) };
    assert_eq!((report.gaps_total, report.missing_total), (gaps, missing));
}

#[rstest]
#[case(Feed::Binance)]
#[case(Feed::MassiveStocks)]
#[tokio::test]
async fn what_a_feed_with_ids_sends_again_after_a_broken_connection_is_dropped(#[case] feed: Feed) {
    let server = server().await;
    let mut source = Source::websocket(wish(&server, feed));
    let trades = Market::new(1).trades(symbols(feed)[0].0, 20);
    subscribed(&server, feed).await;
    server.deliver(feed, &trades[..10]).await;
    let mut received = source.take(10).await;
    server.drop_connections(feed).await;
    subscribed(&server, feed).await;
    server.deliver(feed, &trades[5..]).await;
    received.extend(source.take(10).await);
    let report = source.feed();
    assert_eq!(source.stop().await, []);
    assert_eq!(received, trades.iter().map(|trade| message(feed, trade)).collect::<Vec<_>>());
    assert_eq!((report.repeats_total, report.missing_total), (5, 0));
}

#[tokio::test]
async fn the_same_trade_twice_in_a_frame_is_two_messages() {
    let server = server().await;
    let mut source = Source::websocket(wish(&server, Feed::Finnhub));
    subscribed(&server, Feed::Finnhub).await;
    let trade = Market::new(1).trades("AAPL", 1).remove(0);
    server.deliver(Feed::Finnhub, &[trade.clone(), trade.clone()]).await;
    assert_eq!(source.take(2).await, vec![message(Feed::Finnhub, &trade); 2]);
}

#[rstest]
#[case(Feed::Finnhub)]
#[case(Feed::MassiveCrypto)]
#[tokio::test]
async fn a_wrong_key_is_said_and_a_corrected_secret_heals(#[case] feed: Feed) {
    let server = server().await;
    server.require_key("another");
    let mut source = Source::websocket(wish(&server, feed));
    let said = source.until_waiting(ProblemClass::FeedDenied).await;
    assert!(said.contains("the key \"token\" of the Secret \"feed\"") && !said.contains(KEY), "{said}");
    assert!(!source.status.ready(), "nothing was ever delivered");
    std::fs::write(source.secrets.path().join("api-key"), "another").unwrap();
    subscribed(&server, feed).await;
    let trades = Market::new(1).trades(symbols(feed)[0].0, 1);
    server.deliver(feed, &trades).await;
    assert_eq!(source.next().await, message(feed, &trades[0]));
    source.until("the source to run", |status| status.report().state == ProducerState::Running).await;
}

#[tokio::test]
async fn a_server_that_asks_for_time_gets_it() {
    let server = server().await;
    server.refuse_next(&[Refusal::Status(502), Refusal::RateLimited(3)]);
    let source = Source::websocket(wish(&server, Feed::Binance));
    subscribed(&server, Feed::Binance).await;
    let arrivals = server.arrivals();
    assert_eq!(arrivals.iter().map(|arrival| arrival.status).collect::<Vec<_>>(), [502, 429, 101]);
    assert!(arrivals[2].at.duration_since(arrivals[1].at) >= Duration::from_secs(3));
    assert!(source.status.exposition().unwrap().lines().any(|line| line.starts_with("tapeline_producer_feed_rate_limited_seconds_total 3")));
}

#[tokio::test]
async fn a_url_where_nobody_listens_is_waited_for() {
    let server = server().await;
    let mut gone = wish(&server, Feed::Binance);
    gone["url"] = json!("ws://127.0.0.1:1/ws");
    let source = Source::websocket(gone);
    assert_eq!(source.until_waiting(ProblemClass::FeedUnreachable).await, "the feed cannot be reached, connecting: connection refused");
    let mut elsewhere = wish(&server, Feed::Binance);
    elsewhere["url"] = json!(format!("ws://{}/nowhere", server.address));
    let source = Source::websocket(elsewhere);
    assert_eq!(source.until_waiting(ProblemClass::FeedRefuses).await, "the feed answers 404 Not Found; correct url");
}

#[tokio::test]
async fn while_nobody_takes_messages_nothing_is_read_and_nothing_is_lost() {
    let server = std::sync::Arc::new(server().await);
    let mut source = Source::websocket(wish(&server, Feed::Finnhub));
    subscribed(&server, Feed::Finnhub).await;
    let frames: Vec<Vec<Trade>> = Market::new(1).trades("AAPL", 200_000).chunks(200).map(<[Trade]>::to_vec).collect();
    let flood = tokio::spawn({
        let server = std::sync::Arc::clone(&server);
        async move {
            for frame in frames {
                server.deliver(Feed::Finnhub, &frame).await;
            }
        }
    });
    // The first element waits for a taker, the second for room: of a thousand frames one is read.
    let frames = |status: &Status| status.exposition().unwrap().lines().any(|line| line == "tapeline_producer_feed_frames_total 1");
    source.until("the first frame to be read", frames).await;
    all_along("no second frame is read", Duration::from_secs(2), async || {
        ensure!(frames(&source.status), "{:?}", source.status.report());
        Ok(())
    })
    .await;
    assert!(!flood.is_finished(), "the server has to wait");
    let received = source.take(200_000).await;
    flood.await.unwrap();
    assert!(received == expected(Feed::Finnhub, &server), "what arrived is not what was delivered");
    assert_eq!(source.feed().reconnections_total, 0);
}

#[tokio::test]
async fn what_was_delivered_before_the_end_is_handed_on() {
    let server = server().await;
    let source = Source::websocket(wish(&server, Feed::Finnhub));
    subscribed(&server, Feed::Finnhub).await;
    let trades = Market::new(1).trades("AAPL", 500);
    assert_eq!(server.deliver(Feed::Finnhub, &trades).await, 500);
    let rest = source.stop().await;
    assert_eq!(rest, expected(Feed::Finnhub, &server));
    eventually("the connection to be closed", within(10), async || {
        ensure!(server.subscribed(Feed::Finnhub, "AAPL") == 0, "it is open");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_mapping_of_ones_own_reads_any_feed() {
    let server = server().await;
    let mapping = json!({
        "where": {"pointer": "/type", "equals": "trade"}, "elements": "/data", "key": "/s",
        "fields": [{"name": "what", "pointer": "/s"}, {"name": "paid", "pointer": "/p"}],
    });
    let on_open = [r#"{"type":"subscribe","symbol":"${symbol}"}"#];
    let mut source = Source::websocket(json!({
        "url": server.url(Feed::Finnhub), "onOpen": on_open, "symbols": ["AAPL", "BINANCE:BTCUSDT"], "mapping": mapping, "apiKeySecretRef": {"name": "feed", "key": "token"},
    }));
    subscribed(&server, Feed::Finnhub).await;
    let trade = Market::new(1).trades("AAPL", 1).remove(0);
    server.deliver(Feed::Finnhub, std::slice::from_ref(&trade)).await;
    let expected = Message { topic: 0, key: Some("AAPL".to_owned()), payload: format!(r#"{{"what":"AAPL","paid":{}}}"#, trade.price) };
    assert_eq!(source.next().await, expected);
}

fn users(server: &FeedServer, changes: Value) -> Value {
    let mut wish = json!({
        "url": server.users_url(4), "elements": "/results", "key": "/login/uuid", "interval": {"every": "300ms"}, "moreTopics": ["b", "c", "d", "e", "f"],
        "headers": [{"name": "Authorization", "valueFrom": {"secretKeyRef": {"name": "users", "key": "token"}}}],
    });
    for (key, value) in changes.as_object().unwrap() {
        wish[key] = value.clone();
    }
    wish
}

#[tokio::test]
async fn users_are_spread_over_six_topics_by_turns() {
    let server = server().await;
    let mut source = Source::http(users(&server, json!({})));
    let received = source.take(18).await;
    for (number, message) in (0..).zip(&received) {
        let id = uuid(7, number);
        assert_eq!((message.key.as_deref(), message.topic as u64), (Some(id.as_str()), number % 6));
        let user: Value = serde_json::from_str(&message.payload).unwrap();
        assert_eq!((&user["login"]["uuid"], &user["nat"]), (&json!(id), &json!("US")));
    }
    let arrivals = server.arrivals();
    assert!(arrivals.windows(2).all(|pair| pair[1].at.duration_since(pair[0].at) >= Duration::from_millis(250)), "{arrivals:?}");
    assert_eq!(source.status.report().state, ProducerState::Running);
}

#[tokio::test]
async fn an_api_that_refuses_is_left_alone_as_long_as_it_says() {
    let server = server().await;
    server.refuse_next(&[Refusal::Status(500), Refusal::RateLimited(3), Refusal::Status(404)]);
    let mut source = Source::http(users(&server, json!({"interval": {"between": {"min": "100ms", "max": "200ms"}}})));
    assert_eq!(source.next().await.key, Some(uuid(7, 0)));
    let arrivals = server.arrivals();
    assert_eq!(arrivals.iter().map(|arrival| arrival.status).collect::<Vec<_>>()[..4], [500, 429, 404, 200]);
    assert!(arrivals[2].at.duration_since(arrivals[1].at) >= Duration::from_secs(3));
    let text = source.status.exposition().unwrap();
    for status in ["500", "429", "404", "200"] {
        assert!(text.contains(&format!("tapeline_producer_feed_requests_total{{status=\"{status}\"}} ")), "{status} in\n{text}");
    }
}

#[tokio::test]
async fn an_api_that_refuses_the_key_or_answers_something_else_is_named() {
    let server = server().await;
    server.require_key("another");
    let source = Source::http(users(&server, json!({})));
    let message = source.until_waiting(ProblemClass::FeedDenied).await;
    assert!(message.contains("401") && !message.contains(KEY), "{message}");
    std::fs::write(source.secrets.path().join("header-0"), "Bearer another").unwrap();
    source.until("the source to run", |status| status.report().state == ProducerState::Running).await;
    let elsewhere = Source::http(users(&server, json!({"elements": "/users", "headers": [{"name": "Authorization", "value": "Bearer another"}]})));
    let message = elsewhere.until_waiting(ProblemClass::FeedRefuses).await;
    assert_eq!(message, "the answer has nothing where elements says; correct elements");
}
