//! Recorded bars as trades. Everything about a tick follows from its number and the recording: the same tick is the same bytes, whenever it is sent.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use tapeline_api::pipeline::producers::{Replay as Wish, Speed};
use tapeline_api::report::ProblemClass;
use tokio::time::Instant;

use super::{Needs, Source};
use crate::bars::{self, Day};
use crate::halt::{Halt, problem};
use crate::kafka::Fault;
use crate::kafka::sender::Sender;
use crate::noise::Fnv;
use crate::search::Position;
use crate::split::{Part, split};
use crate::symbols::Symbol;
use crate::trade::{Message, Trade, market_cap};

/// Trading hours in New York, as UTC in winter: so all trades of a day are on the bar's date in UTC too.
const OPENS: (i8, i8) = (14, 30);
const TRADING_MS: i64 = 23_400_000;
const DAY_MS: i64 = 86_400_000;
/// After so many messages the other tasks get their turn, should the brokers be faster than this one.
const TURN: u64 = 64;

/// A replay.
#[derive(Debug)]
pub struct Replay {
    wish: Wish,
    trades_per_bar: u32,
    days: Vec<Recorded>,
    /// Ticks of one round through all days.
    ticks: u64,
    /// Trades of one round.
    trades: u64,
    /// Recorded time of one round, up to the start of the next.
    round_ms: i64,
    symbols: Option<HashMap<String, Symbol>>,
    /// The day whose bars were split last, and their trades.
    split: Option<(usize, Vec<Vec<Part>>)>,
}

/// A day and what came before it.
#[derive(Debug)]
struct Recorded {
    day: Day,
    /// When its trading opens.
    opens: Timestamp,
    /// Trades of all days before.
    trades_before: u64,
}

/// A tick's place in the recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    round: u64,
    day: usize,
    trade: usize,
}

impl Replay {
    /// Reads the recording.
    pub fn open(path: &Path, wish: Wish) -> Result<Self, Halt> {
        let name = path.file_name().map_or_else(|| path.to_string_lossy(), std::ffi::OsStr::to_string_lossy).into_owned();
        let failed = |error: bars::BarsError| {
            let between = if matches!(error, bars::BarsError::Read(_) | bars::BarsError::Empty) { " " } else { ", " };
            Halt::Failed(problem(ProblemClass::InvalidSettings, format!("{name}{between}{error}")))
        };
        let days = std::fs::read(path).map_err(bars::BarsError::from).and_then(|content| bars::parse(&content)).map_err(failed)?;
        let replay = Self::new(days, wish);
        tracing::info!(file = name, days = replay.days.len(), ticks = replay.ticks, trades = replay.trades, "read the recording");
        Ok(replay)
    }

    /// A replay of `days`, which are in order and not empty.
    #[must_use]
    pub fn new(days: Vec<Day>, wish: Wish) -> Self {
        let trades_per_bar = u32::try_from(wish.trades_per_bar.clamp(1, 1000)).unwrap_or(1);
        let mut trades = 0;
        let days: Vec<Recorded> = days
            .into_iter()
            .map(|day| {
                let opens = day.date.at(OPENS.0, OPENS.1, 0, 0).to_zoned(TimeZone::UTC).map_or(Timestamp::UNIX_EPOCH, |at| at.timestamp());
                let trades_before = trades;
                trades += u64::from(trades_per_bar) * u64::try_from(day.bars.len()).unwrap_or(0);
                Recorded { day, opens, trades_before }
            })
            .collect();
        let span = match (days.first(), days.last()) {
            (Some(first), Some(last)) => last.opens.as_millisecond() - first.opens.as_millisecond(),
            _ => 0,
        };
        let ticks = u64::try_from(days.len()).unwrap_or(0) * u64::from(trades_per_bar);
        Self { wish, trades_per_bar, days, ticks, trades, round_ms: span + DAY_MS, symbols: None, split: None }
    }

    /// The message of a tick; nothing once ids are used up.
    pub fn message(&mut self, tick: u64) -> Option<Message> {
        let Place { round, day, trade } = self.place(tick)?;
        self.split_day(day);
        let (_, trades) = self.split.as_ref()?;
        let recorded = self.days.get(day)?;
        let created = self.created_at(recorded, trade).to_string();
        let bars = u64::try_from(recorded.day.bars.len()).ok()?;
        let before = round.checked_mul(self.trades)?.checked_add(recorded.trades_before + bars * u64::try_from(trade).ok()?)?;
        let first_id = self.wish.first_id.checked_add(i64::try_from(before).ok()?)?;
        let mut check = Fnv::default();
        check.add(created.as_bytes());
        let mut batch = Vec::with_capacity(recorded.day.bars.len());
        let mut last_id = first_id;
        for ((bar, parts), number) in recorded.day.bars.iter().zip(trades).zip(0_i64..) {
            let part = parts.get(trade)?;
            last_id = first_id.checked_add(number)?;
            let symbol = self.symbols.as_ref().and_then(|symbols| symbols.get(&*bar.ticker));
            // Sector and market_cap are left out of the check: a corrected sector does not make it another recording.
            check.add(&last_id.to_le_bytes());
            check.add(bar.ticker.as_bytes());
            check.add(&part.volume.to_le_bytes());
            check.add(&part.price.to_bits().to_le_bytes());
            batch.push(Trade {
                id: last_id,
                created_at: &created,
                ticker: &bar.ticker,
                sector: symbol.and_then(|symbol| symbol.sector.as_deref()),
                volume: part.volume,
                market_cap: symbol.and_then(|symbol| symbol.shares).map(|shares| market_cap(part.price, shares)),
                price: part.price,
            });
        }
        let payload = serde_json::to_vec(&batch).ok()?;
        Some(Message { tick, key: None, payload, records: bars, last_id, check: Some(check.get()) })
    }

    fn place(&self, tick: u64) -> Option<Place> {
        let (round, within) = (tick.checked_div(self.ticks)?, tick.checked_rem(self.ticks)?);
        let per_day = u64::from(self.trades_per_bar);
        Some(Place { round, day: usize::try_from(within / per_day).ok()?, trade: usize::try_from(within % per_day).ok()? })
    }

    /// Makes the trades of each bar of a day. Kept until another day is asked for: splitting a bar anew for each of up to 1,000 ticks would be a million times the work.
    fn split_day(&mut self, day: usize) {
        if self.split.as_ref().is_none_or(|(of, _)| *of != day) {
            let split_bars = |Recorded { day: Day { date, bars }, .. }: &Recorded| bars.iter().map(|bar| split(bar, *date, self.trades_per_bar)).collect();
            self.split = self.days.get(day).map(|recorded| (day, split_bars(recorded)));
        }
    }

    fn created_at(&self, recorded: &Recorded, trade: usize) -> Timestamp {
        let since = TRADING_MS * i64::try_from(trade).unwrap_or(0) / i64::from(self.trades_per_bar);
        recorded.opens.checked_add(SignedDuration::from_millis(since)).unwrap_or(recorded.opens)
    }

    /// Recorded time since 1970; further rounds lie behind each other.
    fn recorded_ms(&self, tick: u64) -> i64 {
        let Some(Place { round, day, trade }) = self.place(tick) else { return i64::MAX };
        let Some(recorded) = self.days.get(day) else { return i64::MAX };
        let rounds = i64::try_from(round).unwrap_or(i64::MAX).saturating_mul(self.round_ms);
        self.created_at(recorded, trade).as_millisecond().saturating_add(rounds)
    }
}

impl Source for Replay {
    /// Looks whether the topic holds what this replay sends. Going on at tick 1,000 of another recording would neither be that one nor this.
    fn resume(&mut self, position: &mut Position) -> Result<(), Halt> {
        let Some(last) = &position.last else { return Ok(()) };
        let same = last.stamp.check.is_some() && self.message(last.tick).is_some_and(|message| message.check == last.stamp.check);
        if same {
            return Ok(());
        }
        Err(Halt::Failed(problem(
            ProblemClass::InvalidSettings,
            format!(
                "the topic holds trades that this producer sent from another recording, or split otherwise (tick {}): restore file, tradesPerBar and firstId, \
                 or give the producer another name, under which it begins with the first bar",
                last.tick
            ),
        )))
    }

    /// Sends what is missing, at the speed that is asked for.
    fn run<'a>(&'a mut self, position: &'a Position, sender: &'a Sender) -> LocalBoxFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            let mut clock: Option<(Instant, i64)> = None;
            let mut tick = position.floor;
            while self.goal().is_none_or(|goal| tick < goal) {
                if !position.present.contains_key(&tick) {
                    if let Speed::Factor(factor) = self.wish.speed {
                        let recorded = self.recorded_ms(tick);
                        // Against one start, so that what a wait takes too long is made good by the next.
                        let &mut (start, origin) = clock.get_or_insert_with(|| (Instant::now(), recorded));
                        let due = start.checked_add(Duration::from_micros(micros(recorded - origin, factor)));
                        match due {
                            Some(due) => tokio::time::sleep_until(due).await,
                            None => std::future::pending().await,
                        }
                    }
                    let Some(message) = self.message(tick) else { break };
                    sender.send(&message).await?;
                    if tick.is_multiple_of(TURN) {
                        tokio::task::yield_now().await;
                    }
                }
                tick += 1;
            }
            sender.settled().await
        })
    }

    /// None for a replay that begins again.
    fn goal(&self) -> Option<u64> {
        if self.wish.repeat { None } else { Some(self.ticks) }
    }

    fn needs(&self) -> Needs {
        let symbols = self.wish.symbols_from.as_ref().filter(|_| self.symbols.is_none()).map(|from| from.mysql.table.clone());
        Needs { last_message: false, symbols }
    }

    fn take_symbols(&mut self, symbols: Vec<Symbol>) {
        let known: HashMap<String, Symbol> = symbols.into_iter().map(|symbol| (symbol.ticker.clone(), symbol)).collect();
        let recorded = self.days.iter().flat_map(|recorded| &recorded.day.bars).map(|bar| &*bar.ticker);
        let unknown: HashSet<&str> = recorded.filter(|ticker| !known.contains_key(*ticker)).collect();
        if !unknown.is_empty() {
            tracing::warn!(tickers = ?unknown, "symbols without a row in the table: their trades have neither sector nor market_cap");
        }
        self.symbols = Some(known);
    }
}

/// How many microseconds so much recorded time takes.
fn micros(recorded_ms: i64, factor: u64) -> u64 {
    u64::try_from(recorded_ms).unwrap_or(0).saturating_mul(1000) / factor.max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;
    use crate::search::{Last, Stamp};

    const FILE: &[u8] = b"Ticker,Date,Open,High,Low,Close,Volume\nA,2000-01-03,1,4,0.5,2,100\nB,2000-01-03,10,14,9,12,7\nB,2000-01-05,12,13,8,8,1\n";

    fn replay(wish: &Value) -> Replay {
        Replay::new(bars::parse(FILE).unwrap(), serde_json::from_value(wish.clone()).unwrap())
    }

    fn texts(replay: &mut Replay, ticks: std::ops::Range<u64>) -> Vec<String> {
        ticks.map(|tick| String::from_utf8(replay.message(tick).unwrap().payload).unwrap()).collect()
    }

    #[test]
    fn a_message_has_a_trade_of_each_symbol_with_a_bar_that_day() {
        let mut replay = replay(&serde_json::json!({"file": "x", "tradesPerBar": 1, "firstId": 5}));
        assert_eq!(replay.goal(), Some(2));
        assert_eq!(
            texts(&mut replay, 0..2),
            [
                r#"[{"id":5,"created_at":"2000-01-03T14:30:00Z","ticker":"A","sector":null,"volume":100,"market_cap":null,"price":2.0},{"id":6,"created_at":"2000-01-03T14:30:00Z","ticker":"B","sector":null,"volume":7,"market_cap":null,"price":12.0}]"#,
                r#"[{"id":7,"created_at":"2000-01-05T14:30:00Z","ticker":"B","sector":null,"volume":1,"market_cap":null,"price":8.0}]"#
            ]
        );
    }

    #[test]
    fn symbols_give_sector_and_market_cap_and_do_not_make_it_another_recording() {
        let mut replay = replay(&serde_json::json!({"file": "x", "tradesPerBar": 1, "symbolsFrom": {"mysql": {"table": "profile"}}}));
        assert_eq!(replay.needs().symbols.unwrap().as_str(), "profile");
        let before = replay.message(1).unwrap().check;
        replay.take_symbols(vec![Symbol { ticker: "B".to_owned(), sector: Some("Tech".to_owned()), shares: Some(1000) }]);
        assert_eq!(replay.needs().symbols, None);
        assert_eq!(
            texts(&mut replay, 1..2),
            [r#"[{"id":3,"created_at":"2000-01-05T14:30:00Z","ticker":"B","sector":"Tech","volume":1,"market_cap":8000.0,"price":8.0}]"#]
        );
        assert_eq!(replay.message(1).unwrap().check, before);
    }

    #[test]
    fn another_round_has_further_ids_and_the_same_dates() {
        let mut replay = replay(&serde_json::json!({"file": "x", "tradesPerBar": 3, "loop": true}));
        assert_eq!(replay.goal(), None);
        let ids = |replay: &mut Replay, ticks: std::ops::Range<u64>| -> Vec<(i64, String)> {
            let trades: Vec<Value> = ticks.flat_map(|tick| serde_json::from_slice::<Vec<Value>>(&replay.message(tick).unwrap().payload).unwrap()).collect();
            trades.iter().map(|trade| (trade["id"].as_i64().unwrap(), trade["created_at"].as_str().unwrap().to_owned())).collect()
        };
        let (first, second) = (ids(&mut replay, 0..6), ids(&mut replay, 6..12));
        assert_eq!(first.iter().map(|(id, _)| *id).collect::<Vec<_>>(), (1..=9).collect::<Vec<_>>());
        assert_eq!(second, first.iter().map(|(id, at)| (id + 9, at.clone())).collect::<Vec<_>>());
        assert_eq!(first[0].1, "2000-01-03T14:30:00Z");
        assert_eq!(first[2].1, "2000-01-03T16:40:00Z");
    }

    #[test]
    fn a_tick_is_the_same_bytes_in_whatever_order_it_is_asked_for() {
        let wish = serde_json::json!({"file": "x", "tradesPerBar": 1000});
        let (mut one, mut other) = (replay(&wish), replay(&wish));
        let forward: Vec<_> = (0..2000).map(|tick| one.message(tick)).collect();
        let mut backward: Vec<_> = (0..2000).rev().map(|tick| other.message(tick)).collect();
        backward.reverse();
        assert!(forward == backward);
        let times: Vec<i64> = (0..4000).map(|tick| one.recorded_ms(tick)).collect();
        assert!(times.is_sorted_by(|before, after| before < after));
    }

    #[test]
    fn recorded_time_passes_at_the_factor() {
        let replay = replay(&serde_json::json!({"file": "x", "tradesPerBar": 1, "speed": "86400x"}));
        assert_eq!(micros(replay.recorded_ms(1) - replay.recorded_ms(0), 86_400), 2_000_000);
        assert_eq!(micros(replay.recorded_ms(2) - replay.recorded_ms(0), 86_400), 3_000_000);
    }

    #[test]
    fn another_recording_under_the_same_name_is_refused() {
        let mut replay = replay(&serde_json::json!({"file": "x", "tradesPerBar": 4}));
        let at = |tick, check| Position {
            floor: tick + 1,
            before: None,
            present: BTreeMap::new(),
            end: tick + 1,
            published: tick,
            last: Some(Last { tick, stamp: Stamp { last_id: 0, check }, payload: None }),
            ends: BTreeMap::new(),
        };
        let check = replay.message(6).unwrap().check;
        assert_eq!(replay.resume(&mut at(6, check)), Ok(()));
        for mut strange in [at(7, check), at(6, None), at(6, check.map(|check| check + 1))] {
            assert!(matches!(replay.resume(&mut strange), Err(Halt::Failed(problem)) if problem.class == ProblemClass::InvalidSettings));
        }
    }

    #[test]
    fn a_bad_file_is_named_with_line_and_column() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bars.csv");
        let open = || match Replay::open(&path, serde_json::from_value(serde_json::json!({"file": "bars.csv"})).unwrap()) {
            Err(Halt::Failed(problem)) => problem.message,
            other => format!("{other:?}"),
        };
        assert!(open().starts_with("bars.csv cannot be read: No such file"), "{}", open());
        std::fs::write(&path, "Ticker,Date,Open,High,Low,Close,Volume\nA,2000-01-03,1,4,0.5,2,many\n").unwrap();
        assert_eq!(open(), "bars.csv, line 2, column Volume: not a whole number, 0 or more");
    }

    #[test]
    fn the_example_keeps_its_volumes_when_it_is_split() {
        let days = bars::parse(include_bytes!("../../../examples/data/stocks.csv.gz")).unwrap();
        let mut replay = Replay::new(days, serde_json::from_value(serde_json::json!({"file": "stocks.csv.gz"})).unwrap());
        let (mut volume, mut trades) = (0, 0);
        for tick in 0..replay.goal().unwrap() {
            for trade in serde_json::from_slice::<Vec<Value>>(&replay.message(tick).unwrap().payload).unwrap() {
                volume += trade["volume"].as_u64().unwrap();
                trades += 1;
                assert_eq!(trade["id"], trades);
            }
        }
        assert_eq!((volume, trades), (309_890_993_650, 121_540));
    }
}
