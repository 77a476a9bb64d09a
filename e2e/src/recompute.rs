//! What the sinks of `pipelines/six-sinks.yaml` must hold, recomputed in plain Rust from the topics that their queries read: no SQL, no micro-batches, no code of
//! the worker's. The fault runs compare it with what the stores hold ([`crate::sinks`]), key by key.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Deserialize;

use crate::golden::Volumes;
use crate::topic;

/// Differing keys that an error names.
const NAMED: usize = 10;

/// A trade, as the stores that keep rows have it. Its numbers have few enough digits to be read from JSON without a rounding.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Trade {
    pub id: i64,
    /// Milliseconds since 1970: what the coarsest store holds, and all that a replay gives.
    pub at_ms: i64,
    pub ticker: String,
    pub sector: Option<String>,
    pub volume: i64,
    pub market_cap: Option<f64>,
    pub price: f64,
}

/// A trade as JSON, in the topic of trades as in the one that a query publishes to.
#[derive(Deserialize)]
struct Json {
    id: i64,
    created_at: Timestamped,
    ticker: String,
    sector: Option<String>,
    volume: i64,
    market_cap: Option<f64>,
    price: f64,
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Timestamped(Timestamp);

impl TryFrom<String> for Timestamped {
    type Error = jiff::Error;

    fn try_from(text: String) -> Result<Self, jiff::Error> {
        text.parse().map(Self)
    }
}

impl From<Json> for Trade {
    fn from(Json { id, created_at: Timestamped(at), ticker, sector, volume, market_cap, price }: Json) -> Self {
        Self { id, at_ms: at.as_millisecond(), ticker, sector, volume, market_cap, price }
    }
}

/// One trade of a JSON object.
///
/// # Errors
/// It is none.
pub fn trade(json: &[u8]) -> Result<Trade> {
    Ok(serde_json::from_slice::<Json>(json).with_context(|| format!("{} is no trade", String::from_utf8_lossy(json)))?.into())
}

/// A trade and where it stands: partition, offset, and place within the message.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Record {
    pub place: (i32, i64, usize),
    pub trade: Trade,
}

/// All trades of `topic`, whose messages are arrays of them, from the first to the last that is committed.
///
/// # Errors
/// The topic is not there, Kafka does not answer, or a message is not an array of trades.
pub async fn records(kafka: &str, topic: &str) -> Result<Vec<Record>> {
    let mut all = Vec::new();
    for message in topic::records(kafka, topic).await? {
        // An empty message is a mark of a producer.
        let Some(payload) = message.payload.filter(|payload| !payload.is_empty()) else { continue };
        let trades: Vec<Json> = serde_json::from_slice(&payload).with_context(|| format!("the message {}/{}", message.partition, message.offset))?;
        let place = |index| (message.partition, message.offset, index);
        all.extend(trades.into_iter().enumerate().map(|(index, trade)| Record { place: place(index), trade: trade.into() }));
    }
    Ok(all)
}

/// All trades of `topic`, which a query publishes to: each message is one.
///
/// # Errors
/// The topic is not there, Kafka does not answer, or a message is no trade.
pub async fn published(kafka: &str, topic: &str) -> Result<Vec<Record>> {
    let row = |message: topic::Record| {
        let place = (message.partition, message.offset, 0);
        Ok(Record { place, trade: trade(&message.payload.with_context(|| format!("the message {place:?} has no row"))?)? })
    };
    topic::records(kafka, topic).await?.into_iter().map(row).collect()
}

/// The volume of each sector, as [`crate::golden`] has it.
#[must_use]
pub fn by_sector(records: &[Record]) -> Volumes {
    let mut volumes = Volumes::new();
    for Record { trade, .. } in records {
        *volumes.entry(trade.sector.clone().unwrap_or_default()).or_default() += trade.volume;
    }
    volumes
}

/// A day and a sector.
pub type DayOfSector = (String, Option<String>);
/// A symbol and a day.
pub type DayOfTicker = (String, String);

/// What is summed up of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Total {
    pub volume: i64,
    pub trades: i64,
}

/// A symbol's day.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Candle {
    pub open: f64,
    pub high: f64,
    pub low: f64,
    pub close: f64,
    pub total: Total,
}

/// A published message: its key and its row.
pub type Message = (Option<String>, Trade);

/// What each sink must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// By id: rows of Cassandra, of MySQL with mode Upsert, documents of MongoDB.
    pub trades: BTreeMap<i64, Trade>,
    /// What the rows of mode Append add up to.
    pub totals: BTreeMap<DayOfSector, Total>,
    /// The rows of mode Merge.
    pub candles: BTreeMap<DayOfTicker, Candle>,
    /// The messages of each id, each as often as there are records of it.
    pub messages: BTreeMap<i64, Vec<Message>>,
}

impl Expected {
    /// Recomputes it.
    ///
    /// # Errors
    /// Two records of one id differ. They may be in two partitions, which have no order between them; where a key is in one partition only, see [`last`].
    pub fn of(records: &[Record]) -> Result<Self> {
        let mut all = Self { trades: BTreeMap::new(), totals: BTreeMap::new(), candles: candles(records), messages: BTreeMap::new() };
        for Record { trade, place } in records {
            let known = all.trades.entry(trade.id).or_insert_with(|| trade.clone());
            ensure!(known == trade, "the topic has two trades {}, {known:?} and, at {place:?}, {trade:?}", trade.id);
            let total = all.totals.entry((day(trade), trade.sector.clone())).or_default();
            total.volume += trade.volume;
            total.trades += 1;
            all.messages.entry(trade.id).or_default().push((Some(trade.ticker.clone()), trade.clone()));
        }
        Ok(all)
    }
}

/// What is kept of each symbol's month where a later record overwrites an earlier one: the last in the topic, which has all of a symbol in one partition. Months, as a
/// symbol alone would be overwritten until the very end, and hide what went wrong before.
///
/// # Errors
/// A symbol is in two partitions.
pub fn last(records: &[Record]) -> Result<BTreeMap<String, Trade>> {
    let (mut partitions, mut last): (BTreeMap<&str, i32>, BTreeMap<String, &Record>) = (BTreeMap::new(), BTreeMap::new());
    for record in records {
        let Record { place: (partition, ..), trade } = record;
        let known = partitions.entry(&trade.ticker).or_insert(*partition);
        ensure!(known == partition, "the topic has {} in the partitions {known} and {partition}", trade.ticker);
        let latest = last.entry(month(trade)).or_insert(record);
        if latest.place < record.place {
            *latest = record;
        }
    }
    Ok(last.into_iter().map(|(month, record)| (month, record.trade.clone())).collect())
}

/// A symbol's month, as `AAPL 2000-03`.
fn month(trade: &Trade) -> String {
    format!("{} {}", trade.ticker, day(trade).get(..7).unwrap_or_default())
}

/// Candles of a day. The first and the last trade are those by time; of two at one time, by their place in the topic.
fn candles(records: &[Record]) -> BTreeMap<DayOfTicker, Candle> {
    let mut days: BTreeMap<DayOfTicker, Vec<&Record>> = BTreeMap::new();
    for record in records {
        days.entry((record.trade.ticker.clone(), day(&record.trade))).or_default().push(record);
    }
    let candle = |of_day: Vec<&Record>| {
        let order = |record: &&&Record| (record.trade.at_ms, record.place);
        let prices = || of_day.iter().map(|record| record.trade.price);
        Some(Candle {
            open: of_day.iter().min_by_key(order)?.trade.price,
            high: prices().reduce(f64::max)?,
            low: prices().reduce(f64::min)?,
            close: of_day.iter().max_by_key(order)?.trade.price,
            total: Total { volume: of_day.iter().map(|record| record.trade.volume).sum(), trades: i64::try_from(of_day.len()).ok()? },
        })
    };
    days.into_iter().filter_map(|(key, of_day)| Some((key, candle(of_day)?))).collect()
}

/// The day of a trade, as `2000-03-01`.
fn day(trade: &Trade) -> String {
    let at = Timestamp::from_millisecond(trade.at_ms).unwrap_or_default();
    at.to_zoned(TimeZone::UTC).date().to_string()
}

/// Checks that `stored` is `expected`.
///
/// # Errors
/// It is not; the error names the first keys that differ, and how.
pub fn equal<K: Ord + Debug, V: PartialEq + Debug>(store: &str, expected: &BTreeMap<K, V>, stored: &BTreeMap<K, V>) -> Result<()> {
    let missing = expected.iter().filter(|(key, _)| !stored.contains_key(key)).map(|(key, value)| format!("{key:?} is missing, which is to be {value:?}"));
    let unknown = stored.iter().filter(|(key, _)| !expected.contains_key(key)).map(|(key, value)| format!("{key:?} is {value:?}, and no record gives it"));
    let other = expected.iter().filter_map(|(key, value)| {
        let found = stored.get(key).filter(|found| *found != value)?;
        Some(format!("{key:?} is {found:?}, and is to be {value:?}"))
    });
    let (mut count, mut text) = ([0_usize; 3], String::new());
    for (kind, difference) in missing.map(|text| (0, text)).chain(unknown.map(|text| (1, text))).chain(other.map(|text| (2, text))) {
        if count.iter().sum::<usize>() < NAMED {
            _ = write!(text, "\n  {difference}");
        }
        if let Some(count) = count.get_mut(kind) {
            *count += 1;
        }
    }
    let [missing, unknown, other] = count;
    if missing + unknown + other > 0 {
        bail!("{store} is not what the topic says: of {} keys {missing} are missing and {other} are wrong, {unknown} are too many:{text}", expected.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(place: (i32, i64, usize), id: i64, at: &str, price: f64) -> Record {
        let json = format!(r#"{{"id":{id},"created_at":"2000-03-{at}Z","ticker":"A","sector":"IT","volume":7,"market_cap":null,"price":{price}}}"#);
        Record { place, trade: trade(json.as_bytes()).unwrap() }
    }

    #[test]
    fn candles_go_by_time_and_then_by_place() {
        let records = [
            record((1, 5, 0), 1, "01T10:00:00", 3.0),
            record((0, 9, 1), 2, "01T10:00:00", 2.0),
            record((0, 9, 0), 3, "01T10:00:00", 5.0),
            record((0, 1, 0), 4, "01T09:00:01", 4.0),
            record((0, 2, 0), 5, "02T00:00:00", 8.0),
        ];
        let expected = Expected::of(&records).unwrap();
        let of = |day: &str| expected.candles[&("A".to_owned(), day.to_owned())].clone();
        assert_eq!(of("2000-03-01"), Candle { open: 4.0, high: 5.0, low: 2.0, close: 3.0, total: Total { volume: 28, trades: 4 } });
        assert_eq!(of("2000-03-02"), Candle { open: 8.0, high: 8.0, low: 8.0, close: 8.0, total: Total { volume: 7, trades: 1 } });
        let only_ties = Expected::of(&records[..3]).unwrap().candles.into_values().next().unwrap();
        assert_eq!((only_ties.open, only_ties.close), (5.0, 3.0));
        assert_eq!(by_sector(&records), Volumes::from([("IT".to_owned(), 35)]));
    }

    #[test]
    fn a_record_that_came_twice_counts_twice_where_records_are_counted() {
        let (first, again) = (record((0, 1, 0), 1, "01T10:00:00", 3.0), record((0, 2, 0), 1, "01T10:00:00", 3.0));
        let expected = Expected::of(&[first.clone(), again]).unwrap();
        assert_eq!((expected.trades.len(), expected.messages[&1].len()), (1, 2));
        assert_eq!(expected.totals[&("2000-03-01".to_owned(), Some("IT".to_owned()))], Total { volume: 14, trades: 2 });
        let error = Expected::of(&[first, record((0, 2, 0), 1, "01T10:00:00", 3.5)]).unwrap_err().to_string();
        assert!(error.starts_with("the topic has two trades 1"), "{error}");
    }

    #[test]
    fn the_last_record_of_a_symbols_month_is_the_one_that_stands_last_whatever_its_time() {
        let records = [record((1, 7, 0), 1, "02T10:00:00", 3.0), record((1, 9, 0), 2, "01T10:00:00", 2.0), record((1, 8, 0), 3, "03T10:00:00", 5.0)];
        assert_eq!(last(&records).unwrap(), BTreeMap::from([("A 2000-03".to_owned(), records[1].trade.clone())]));
        let error = last(&[records[0].clone(), record((0, 1, 0), 4, "04T10:00:00", 1.0)]).unwrap_err().to_string();
        assert_eq!(error, "the topic has A in the partitions 1 and 0");
    }

    #[test]
    fn differences_are_named() {
        let expected: BTreeMap<i64, i64> = (0..20).map(|key| (key, key)).collect();
        assert!(equal("MySQL", &expected, &expected).is_ok());
        let mut stored = expected.clone();
        stored.remove(&3);
        stored.extend([(99, 1), (4, 5)]);
        let error = equal("MySQL", &expected, &stored).unwrap_err().to_string();
        assert_eq!(
            error,
            "MySQL is not what the topic says: of 20 keys 1 are missing and 1 are wrong, 1 are too many:\n  3 is missing, which is to be 3\n  \
             99 is 1, and no record gives it\n  4 is 5, and is to be 4"
        );
        assert_eq!(equal("MySQL", &expected, &BTreeMap::new()).unwrap_err().to_string().lines().count(), 1 + NAMED);
    }
}
