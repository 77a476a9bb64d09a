//! A websocket that misbehaves in every way: what it delivered is in the topic and in Cassandra once, what it did not deliver is counted, and what it refuses is a
//! condition.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tapeline_api::report::ProducerReport;
use tapeline_e2e::feeds::{Feed, FeedServer, Market, Trade};
use tapeline_e2e::wait::all_along;
use tapeline_e2e::{Pipeline, World, eventually, status, story, topic, within};

const PIPELINE: &str = include_str!("../../pipelines/websocket.yaml");
const FEED: Feed = Feed::Binance;
const SYMBOLS: [&str; 2] = ["BTCUSDT", "ETHUSDT"];
const URL: &str = "/spec/producers/0/source/websocket/url";

/// A feed that pods reach, on the host's address in the test bed.
async fn feed() -> FeedServer {
    let address: SocketAddr = format!("{}:0", tapeline_e2e::bed::host()).parse().unwrap();
    FeedServer::start(address, 3).await.unwrap()
}

fn pipeline<'a>(world: &'a World, feed: &FeedServer, kind: Feed) -> Pipeline<'a> {
    let mut pipeline = world.pipeline(PIPELINE);
    let name = if kind == Feed::Finnhub { "Finnhub" } else { "Binance" };
    pipeline.set(URL, json!(format!("ws://{}{}?token=${{apiKey}}", feed.address, kind.path())));
    pipeline.set("/spec/producers/0/source/websocket/feed", json!(name));
    pipeline
}

async fn secret(world: &World, key: &str) {
    world.apply(&[json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "feed"}, "stringData": {"token": key}})]).await.unwrap();
}

async fn subscribed(feed: &FeedServer, kind: Feed) {
    // A corrected Secret is in the pod within a minute and a half, and a feed that refused is asked again a minute later at the latest.
    eventually("the producer to subscribe", within(180), async || {
        for symbol in SYMBOLS {
            ensure!(feed.subscribed(kind, symbol) == 1, "nobody is subscribed to {symbol}: {:?}", feed.arrivals());
        }
        Ok(())
    })
    .await;
}

/// Waits until the pipeline is Ready, with a feed that is alive: one that is not heard from for three seconds is taken for dead.
async fn until_ready(pipeline: &Pipeline<'_>, feed: &FeedServer, kind: Feed) {
    eventually("the pipeline to be ready", within(90), async || {
        feed.ping(kind).await;
        status::expect(&pipeline.get().await?, "Ready", "True").map(drop)
    })
    .await;
}

/// Symbol and id of every message, in order.
async fn in_topic(world: &World) -> Result<Vec<(String, u64)>> {
    let records = topic::records(&world.kafka, &world.topic("crypto_trades")).await?;
    let mut trades = Vec::new();
    for payload in records.iter().filter_map(|record| record.payload.as_deref()) {
        let trade: Value = serde_json::from_slice(payload)?;
        trades.push((trade["symbol"].as_str().context("a symbol")?.to_owned(), trade["trade_id"].as_u64().context("an id")?));
    }
    trades.sort_unstable();
    Ok(trades)
}

/// Symbol, id, price and volume of every row.
async fn in_cassandra(world: &World) -> Result<Vec<(String, i64, f64, f64)>> {
    let sql = format!("SELECT symbol, trade_id, price, volume FROM {}.crypto_trades", world.schema());
    let rows = world.cassandra.query_unpaged(sql, ()).await?.into_rows_result()?;
    let mut rows: Vec<(String, i64, f64, f64)> = rows.rows()?.collect::<Result<_, _>>()?;
    rows.sort_by(|one, other| (&one.0, one.1).cmp(&(&other.0, other.1)));
    Ok(rows)
}

/// Symbol and id of what was delivered, in order.
fn ids(delivered: &[Trade]) -> Vec<(String, u64)> {
    let mut ids: Vec<_> = delivered.iter().map(|trade| (trade.symbol.clone(), trade.id)).collect();
    ids.sort_unstable();
    ids
}

/// What is missing between `ids`: symbol, first id and how many.
fn gaps(ids: &[(String, u64)]) -> Vec<(String, u64, u64)> {
    let neighbours = ids.windows(2).filter(|pair| pair[0].0 == pair[1].0 && pair[1].1 > pair[0].1 + 1);
    neighbours.map(|pair| (pair[0].0.clone(), pair[0].1 + 1, pair[1].1 - pair[0].1 - 1)).collect()
}

/// What the producer's log says is missing, in the same form, and how often it says that it is connected again.
async fn logged(world: &World) -> Result<(Vec<(String, u64, u64)>, usize)> {
    let pods = world.pods("tapeline.dev/producer=trades").await?;
    let name = pods.first().and_then(|pod| pod.metadata.name.as_deref()).context("the producer has no pod")?;
    let log = world.kubectl(&["logs", name], "").await?;
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let says = |line: &&Value, text: &str| line["level"] == "WARN" && line["message"].as_str().is_some_and(|message| message.starts_with(text));
    let gap = |line: &Value| Some((line["key"].as_str()?.to_owned(), line["first"].as_u64()?, line["missing"].as_u64()?));
    let mut gaps: Vec<_> = lines.iter().filter(|line| says(line, "the feed left ids out")).filter_map(gap).collect();
    gaps.sort_unstable();
    Ok((gaps, lines.iter().filter(|line| says(line, "connected and subscribed again")).count()))
}

fn row(trade: &Trade) -> (String, i64, f64, f64) {
    (trade.symbol.clone(), i64::try_from(trade.id).unwrap(), trade.price.parse().unwrap(), trade.volume.parse().unwrap())
}

/// The producer's pods, and how often each was started again.
async fn lives(world: &World) -> Result<Vec<(String, i32)>> {
    let of = |pod: Pod| {
        let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let restarts = containers.map(|container| container.restart_count).sum();
        (pod.metadata.name.unwrap_or_default(), restarts)
    };
    Ok(world.pods("tapeline.dev/producer=trades").await?.into_iter().map(of).collect())
}

/// What the producer's pod says on `/status`.
async fn report(world: &World) -> Result<ProducerReport> {
    let pods: Vec<Pod> = world.pods("tapeline.dev/producer=trades").await?;
    let address = pods.first().and_then(|pod| pod.status.as_ref()?.pod_ip.clone()).context("the producer has no pod")?;
    tapeline_e2e::http::json(&format!("http://{address}:8080/status")).await
}

#[test]
fn what_a_misbehaving_websocket_delivered_is_in_cassandra_once() {
    story(async |world| {
        let feed = feed().await;
        feed.require_key("right");
        secret(world, "right").await;
        let pipeline = pipeline(world, &feed, FEED);
        pipeline.apply().await.unwrap();
        let mut market = Market::new(11);
        let mut trades = |count| SYMBOLS.iter().flat_map(|symbol| market.trades(symbol, count)).collect::<Vec<_>>();
        for fault in 0..7 {
            subscribed(&feed, FEED).await;
            assert_eq!(feed.deliver(FEED, &trades(10)).await, 20);
            match fault {
                0 => feed.drop_connections(FEED).await,
                1 => feed.half_frame(FEED, &trades(5)).await,
                2 => assert_eq!(feed.deliver(FEED, &trades(20_000)).await, 40_000),
                3 => feed.fall_silent(FEED).await,
                4 => feed.close(FEED, 1011, "internal error").await,
                5 => feed.say(FEED, r#"{"e":"depthUpdate","s":"BTCUSDT"}"#).await,
                _ => feed.ping(FEED).await,
            }
            if matches!(fault, 0 | 1 | 3 | 4) {
                trades(1);
            }
        }
        let mut delivered = feed.delivered();
        delivered.sort();
        let expected: Vec<_> = delivered.iter().map(row).collect();
        eventually("every trade in Cassandra", within(120), async || {
            let rows = in_cassandra(world).await?;
            ensure!(rows == expected, "{} rows, {} delivered", rows.len(), expected.len());
            Ok(())
        })
        .await;
        let ids = ids(&delivered);
        assert!(in_topic(world).await.unwrap() == ids, "each trade is one message");

        let report = report(world).await.unwrap();
        let counted = report.feed.unwrap();
        assert_eq!((counted.connected, counted.reconnections_total, counted.repeats_total, counted.unknown_total), (true, 4, 0, 1));
        assert_eq!((counted.missing_total, counted.gaps_total), (2 * (4 + 5), 4 + 2 * 4), "{counted:?}");
        let gaps = gaps(&ids);
        assert_eq!(gaps.len(), 2 * 4, "{gaps:?}");
        assert_eq!(logged(world).await.unwrap(), (gaps, 4), "the log names each gap, and each connection that was made again");
        until_ready(&pipeline, &feed, FEED).await;
    });
}

#[test]
fn a_producer_that_is_stopped_in_mid_stream_hands_on_all_that_was_delivered() {
    story(async |world| {
        let feed = feed().await;
        secret(world, "any").await;
        let mut pipeline = pipeline(world, &feed, FEED);
        pipeline.apply().await.unwrap();
        subscribed(&feed, FEED).await;
        let mut market = Market::new(2);
        // At the pace of a market that is open, until nobody listens any more.
        let deliver = async {
            let mut pace = tokio::time::interval(Duration::from_millis(10));
            while SYMBOLS.iter().any(|symbol| feed.subscribed(FEED, symbol) > 0) {
                pace.tick().await;
                let trades: Vec<Trade> = SYMBOLS.iter().flat_map(|symbol| market.trades(symbol, 10)).collect();
                feed.deliver(FEED, &trades).await;
            }
        };
        let suspend = async {
            eventually("trades in the topic", within(60), async || {
                let found = in_topic(world).await?.len();
                ensure!(found >= 1000, "{found}");
                Ok(())
            })
            .await;
            pipeline.set("/spec/suspend", json!(true));
            pipeline.apply().await.unwrap();
            feed.delivered().len()
        };
        let both = async { tokio::join!(deliver, suspend) };
        let ((), before) = tokio::time::timeout(within(150), both).await.expect("a suspended producer ends its connection");
        eventually("the producer's pod to be gone", within(60), async || {
            let left = world.pods("tapeline.dev/producer=trades").await?.len();
            ensure!(left == 0, "{left} are left");
            Ok(())
        })
        .await;
        let expected = ids(&feed.delivered());
        assert!(expected.len() > before, "nothing was delivered while it was being stopped");
        let found = in_topic(world).await.unwrap();
        assert!(found == expected, "{} of {} are in the topic; missing between them: {:?}", found.len(), expected.len(), gaps(&found));
    });
}

#[test]
fn a_wrong_api_key_is_a_condition_and_a_corrected_secret_heals() {
    story(async |world| {
        let feed = feed().await;
        feed.require_key("right");
        secret(world, "guess").await;
        let pipeline = pipeline(world, &feed, Feed::Finnhub);
        pipeline.apply().await.unwrap();
        let condition = pipeline
            .until("Ready=False AccessDenied", within(60), |now| {
                let ready = status::expect(now, "Ready", "False")?;
                ensure!(ready.reason == "AccessDenied", "{}", status::describe(now));
                Ok(ready)
            })
            .await;
        assert!(
            condition.message.contains("spec.producers[0]") && condition.message.contains("the key \"token\" of the Secret \"feed\""),
            "{}",
            condition.message
        );
        let now = pipeline.get().await.unwrap();
        assert!(!status::describe(&now).contains("guess"), "the key is nowhere to be read");
        status::expect(&now, "Stalled", "False").unwrap();
        let first = lives(world).await.unwrap();
        assert_eq!(first.iter().map(|(_, restarts)| *restarts).collect::<Vec<_>>(), [0], "{first:?}");
        all_along("the pod, which is not started again", within(30), async || {
            let now = lives(world).await?;
            ensure!(now == first, "{now:?}");
            Ok(())
        })
        .await;

        secret(world, "right").await;
        subscribed(&feed, Feed::Finnhub).await;
        until_ready(&pipeline, &feed, Feed::Finnhub).await;
    });
}

#[test]
fn a_missing_secret_and_a_feed_that_refuses_are_named() {
    story(async |world| {
        let feed = feed().await;
        let mut pipeline = pipeline(world, &feed, FEED);
        pipeline.set(URL, json!("ws://10.99.0.1:1/ws?token=${apiKey}"));
        pipeline.apply().await.unwrap();
        let says = async |pipeline: &Pipeline<'_>, reason: &str, parts: &[&str]| {
            pipeline
                .until(reason, within(60), |now| {
                    let ready = status::expect(now, "Ready", "False")?;
                    ensure!(ready.reason == reason && parts.iter().all(|part| ready.message.contains(part)), "{}", status::describe(now));
                    Ok(())
                })
                .await;
        };
        says(&pipeline, "SecretMissing", &["spec.producers[0].source.websocket.apiKeySecretRef", "\"feed\"", "create"]).await;
        secret(world, "any").await;
        says(&pipeline, "FeedUnreachable", &["spec.producers[0]", "connection refused"]).await;
        let real = json!(format!("ws://{}{}?token=${{apiKey}}", feed.address, FEED.path()));
        pipeline.set(URL, real);
        pipeline.apply().await.unwrap();
        until_ready(&pipeline, &feed, FEED).await;
    });
}
