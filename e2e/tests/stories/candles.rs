//! Mode Merge: candles that are right whatever order trades come in, and however they are cut into micro-batches.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use sqlx::{AssertSqlSafe, Row as _};
use tapeline_e2e::recompute::{Candle, Total, equal};
use tapeline_e2e::recording::{self, Bar};
use tapeline_e2e::wait::all_along;
use tapeline_e2e::{Pipeline, World, eventually, golden, topic, within};

const CANDLES: &str = include_str!("../../pipelines/candles.yaml");
const PARTITIONS: usize = 6;
/// Open, high, low, one between open and close, close.
const TRADES_PER_BAR: i64 = 5;
/// Minutes from midnight to a day's first trade, and between two.
const OPENS: i64 = 14 * 60 + 30;
const BETWEEN: i64 = 78;

/// Applies it with its Secret and `query` alone, and waits until both workers are ready.
async fn ready<'w>(world: &'w World, query: &str) -> Pipeline<'w> {
    world.apply_secrets().await.unwrap();
    let mut pipeline = world.pipeline(CANDLES);
    pipeline.list("/spec/queries").retain(|one| one["name"] == query);
    pipeline.apply().await.unwrap();
    pipeline.until_ready(within(120)).await;
    pipeline
}

async fn candles(world: &World, table: &str, key: &str) -> Result<BTreeMap<(String, String), Candle>> {
    let sql = format!("SELECT ticker, {key}, open, high, low, close, volume, trades FROM `{}`.{table}", world.schema());
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&world.mysql).await?;
    rows.iter()
        .map(|row| {
            let total = Total { volume: row.try_get(6)?, trades: row.try_get(7)? };
            let candle = Candle { open: row.try_get(2)?, high: row.try_get(3)?, low: row.try_get(4)?, close: row.try_get(5)?, total };
            Ok(((row.try_get(0)?, row.try_get(1)?), candle))
        })
        .collect()
}

fn json(ticker: &str, at: &str, price: f64, volume: i64) -> String {
    format!(r#"{{"created_at":"{at}","ticker":"{ticker}","volume":{volume},"price":{price}}}"#)
}

/// The recording's trades, one a message. They are made here: the candles are to be the recording's, whatever the producer would make of it.
fn trades(bars: &[Bar]) -> Vec<String> {
    let of_bar = |bar: &Bar| {
        let prices = [bar.open, bar.high, bar.low, f64::midpoint(bar.open, bar.close), bar.close];
        let share = bar.volume / TRADES_PER_BAR;
        let rest = bar.volume - share * (TRADES_PER_BAR - 1);
        let trade = |(number, price): (i64, f64)| {
            let minute = OPENS + BETWEEN * number;
            json(&bar.ticker, &format!("{}T{:02}:{:02}:00Z", bar.date, minute / 60, minute % 60), price, if number == 0 { rest } else { share })
        };
        (0..).zip(prices).map(trade).collect::<Vec<_>>()
    };
    bars.iter().flat_map(of_bar).collect()
}

/// The recording itself.
fn recorded(bars: &[Bar]) -> BTreeMap<(String, String), Candle> {
    let candle =
        |bar: &Bar| Candle { open: bar.open, high: bar.high, low: bar.low, close: bar.close, total: Total { volume: bar.volume, trades: TRADES_PER_BAR } };
    bars.iter().map(|bar| ((bar.ticker.clone(), bar.date.clone()), candle(bar))).collect()
}

#[test]
fn trades_in_random_order_over_six_partitions_make_the_candles_of_the_recording() {
    tapeline_e2e::story(async |world| {
        let bars = recording::bars().unwrap();
        let (mut trades, expected) = (trades(&bars), recorded(&bars));
        assert_eq!((expected.len() as u64, trades.len() as u64), (golden::BARS, golden::BARS * TRADES_PER_BAR.unsigned_abs()));
        assert_eq!(expected.values().map(|candle| candle.total.volume).sum::<i64>(), golden::VOLUME);
        trades.shuffle(&mut StdRng::seed_from_u64(1));

        let pipeline = ready(world, "days").await;
        for (partition, part) in (0..).zip(trades.chunks(trades.len().div_ceil(PARTITIONS))) {
            let payloads: Vec<&str> = part.iter().map(String::as_str).collect();
            topic::send(&world.kafka, &world.topic("ticks"), Some(partition), &payloads).await.unwrap();
        }
        world.say(format!("sent {} trades", trades.len()));
        let probe = async || equal("the table days", &expected, &candles(world, "days", "DATE_FORMAT(day, '%Y-%m-%d')").await?);
        eventually("the candles of the recording", within(180), probe).await;
        world.say(format!("{} candles are those of the recording", expected.len()));
        all_along("the candles", within(3), probe).await;
        pipeline.expect_calm().await.unwrap();
    });
}

#[test]
fn a_late_trade_corrects_the_minute_that_it_belongs_to() {
    tapeline_e2e::story(async |world| {
        let _pipeline = ready(world, "minutes").await;
        let (kafka, ticks) = (&world.kafka, world.topic("ticks"));
        let minute = |open, high, low, close, volume, trades| Candle { open, high, low, close, total: Total { volume, trades } };
        // When each trade arrives, the row of 10:00 is the one behind it. A micro-batch that has been seen to be stored is over.
        let steps = [
            ("10:00:20Z", 10.0, 1, minute(10.0, 10.0, 10.0, 10.0, 1, 1)),
            ("10:00:40.5Z", 12.0, 2, minute(10.0, 12.0, 10.0, 12.0, 3, 2)),
            ("10:00:05Z", 9.0, 4, minute(9.0, 12.0, 9.0, 12.0, 7, 3)), // earlier than the first: it opens
            ("10:00:59.999Z", 11.0, 8, minute(9.0, 12.0, 9.0, 11.0, 15, 4)), // later than the last: it closes
            ("10:00:30Z", 20.0, 16, minute(9.0, 20.0, 9.0, 11.0, 31, 5)), // in between: neither
            ("10:00:05Z", 8.0, 32, minute(9.0, 20.0, 8.0, 11.0, 63, 6)), // at the time of the first, behind it in its partition: no new open
            ("10:00:59.999Z", 7.0, 64, minute(9.0, 20.0, 7.0, 7.0, 127, 7)), // at the time of the last, behind it: it closes
        ];
        let mut expected = BTreeMap::new();
        for (at, price, volume, candle) in steps {
            topic::send(kafka, &ticks, Some(0), &[&json("IBM", &format!("2024-08-25T{at}"), price, volume)]).await.unwrap();
            expected.insert(("IBM".to_owned(), "2024-08-25 10:00".to_owned()), candle);
            until_minutes_are(world, at, &expected).await;
        }
        // Another minute and another symbol have rows of their own, from another partition too.
        topic::send(kafka, &ticks, Some(5), &[&json("IBM", "2024-08-25T10:01:00Z", 6.0, 1), &json("FB", "2024-08-25T10:00:20Z", 5.0, 3)]).await.unwrap();
        expected.insert(("IBM".to_owned(), "2024-08-25 10:01".to_owned()), minute(6.0, 6.0, 6.0, 6.0, 1, 1));
        expected.insert(("FB".to_owned(), "2024-08-25 10:00".to_owned()), minute(5.0, 5.0, 5.0, 5.0, 3, 1));
        until_minutes_are(world, "the others", &expected).await;
    });
}

async fn until_minutes_are(world: &World, after: &str, expected: &BTreeMap<(String, String), Candle>) {
    let stored = async || candles(world, "minutes", "DATE_FORMAT(minute, '%Y-%m-%d %H:%i')").await;
    eventually(&format!("the candles of minutes after {after}"), within(30), async || {
        let stored = stored().await?;
        ensure!(stored == *expected, "{stored:?}, and is to be {expected:?}");
        Ok(())
    })
    .await;
}
