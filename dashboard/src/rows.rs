//! The rows of charts: read from MySQL once however many people look, again when a query has stored a micro-batch there, and kept when MySQL is away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use prometheus_client::metrics::counter::Counter;
use tapeline_api::TradingPipelineSpec;
use tapeline_api::duration::GoDuration;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::charts::{Chart, Source, charts};
use crate::follow::Followed;
use crate::live::snapshot::Snapshot;
use crate::live::{Live, now_ms};
use crate::store::StoreError;
use crate::store::mysql::MySql;
use crate::table::Table;

/// Rows that a chart shows at most.
pub const MOST_ROWS: usize = 10_000;
/// Between two readings when a pipeline has no query into MySQL, and at most.
const AT_MOST: Duration = Duration::from_secs(60);
/// Between two readings, at least: less than the second between two looks at the workers, so that the micro-batch that comes right after a reading is seen at the next look.
const AT_LEAST: Duration = Duration::from_millis(500);
/// For how long rows are kept fresh that nobody asks for any more.
const LINGER_MS: i64 = 60_000;
/// For how long a page waits for rows: it says that they were not read yet, and they come when they are there.
pub const FOR_A_PAGE: Duration = Duration::from_secs(2);
/// For how long a program waits: as long as the slowest answer of MySQL that counts.
pub const FOR_A_PROGRAM: Duration = Duration::from_secs(20);

/// What is known of the rows of a view or table.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Known {
    /// The rows as they were read last. None: never.
    pub table: Option<Arc<Table>>,
    /// Rises when the rows are others.
    pub version: u64,
    /// When the reading that gave them began, in milliseconds since 1970: they are at least as new as that.
    pub read_ms: i64,
    /// When the last reading began, whatever it gave.
    pub attempted_ms: i64,
    /// How long it took.
    pub took: Duration,
    /// Why they could not be read again.
    pub error: Option<String>,
}

impl Known {
    /// Whether so much time has gone by since the last reading that there may be another one: `pause`, and for a slow one as long again as it took.
    fn is_older_than(&self, pause: Duration, now_ms: i64) -> bool {
        now_ms - self.attempted_ms >= millis(pause.max(self.took * 2))
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// How many micro-batches each query into MySQL has stored, by its pods' count, and when the last was cut.
type Stored = Vec<(String, u64, Option<i64>)>;

#[derive(Debug, Default)]
struct Entry {
    known: Arc<Known>,
    asked_ms: i64,
    /// What queries into MySQL had stored when it was read last.
    stored: Stored,
}

/// The rows of all charts. [`Rows::keep_fresh`] alone reads, so nobody who goes away takes a reading along that others wait for.
pub struct Rows {
    store: Option<Arc<MySql>>,
    entries: Mutex<BTreeMap<String, Entry>>,
    changes: watch::Sender<u64>,
    /// Somebody waits for rows.
    wanted: Notify,
    /// Readings that have ended.
    ended: watch::Sender<u64>,
    readings: Counter,
    started_ms: i64,
}

impl Rows {
    /// Rows of `store`; `readings` counts the queries that it is sent.
    #[must_use]
    pub fn new(store: Option<Arc<MySql>>, readings: Counter) -> Self {
        let (changes, ended) = (watch::Sender::new(0), watch::Sender::new(0));
        Self { store, entries: Mutex::default(), changes, wanted: Notify::new(), ended, readings, started_ms: now_ms() }
    }

    /// Tells when any rows, or why there are none, are others than before.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What tells the versions of this process from those of another.
    #[must_use]
    pub const fn started(&self) -> i64 {
        self.started_ms
    }

    /// What is known of a chart's rows; read again first if the last reading is older than `every`. After `within` it is what was known before.
    pub async fn of(&self, source: &Source, every: Duration, within: Duration) -> Arc<Known> {
        let mut ended = self.ended.subscribe();
        let known = self.peek(source);
        if !known.is_older_than(every, now_ms()) {
            return known;
        }
        self.wanted.notify_one();
        let is_read = async { while ended.changed().await.is_ok() && Arc::ptr_eq(&self.peek(source), &known) {} };
        let _in_time = timeout(within, is_read).await;
        self.peek(source)
    }

    /// What is known of a chart's rows without reading them.
    pub fn peek(&self, source: &Source) -> Arc<Known> {
        let mut entries = self.lock();
        let entry = entries.entry(source.name().to_string()).or_default();
        entry.asked_ms = now_ms();
        Arc::clone(&entry.known)
    }

    /// All rows that are known.
    #[must_use]
    pub fn tables(&self) -> Vec<Arc<Table>> {
        self.lock().values().filter_map(|entry| entry.known.table.clone()).collect()
    }

    /// Keeps the rows fresh that somebody looks at, until `stop`. Each is read once at a time, and none waits for another.
    pub async fn keep_fresh(&self, followed: &Followed, live: &Live, stop: &CancellationToken) {
        let mut snapshots = live.changes();
        let mut readings: FuturesUnordered<BoxFuture<'_, String>> = FuturesUnordered::new();
        let mut being_read: BTreeSet<String> = BTreeSet::new();
        loop {
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() { return },
                () = self.wanted.notified() => {}
                Some(name) = readings.next() => {
                    being_read.remove(&name);
                    continue;
                }
                () = stop.cancelled() => return,
            }
            let Some(pipeline) = followed.pipeline() else { continue };
            let stored = stored(&pipeline.spec, &snapshots.borrow());
            for Chart { source, .. } in charts(&pipeline.spec) {
                let name = source.name().to_string();
                if !being_read.contains(&name) && self.is_due(&source, &stored, interval(&pipeline.spec), now_ms()) {
                    being_read.insert(name);
                    readings.push(self.read(source, stored.clone()).boxed());
                }
            }
        }
    }

    /// Whether somebody looks at rows that are to be read again: there are new micro-batches, or they are too old. What could not be read waits in any case, so that a
    /// MySQL in trouble is not asked by each look.
    fn is_due(&self, source: &Source, stored: &Stored, every: Duration, now_ms: i64) -> bool {
        let entries = self.lock();
        let Some(entry) = entries.get(source.name().as_str()).filter(|entry| now_ms - entry.asked_ms < LINGER_MS) else { return false };
        let is_new = entry.stored != *stored && entry.known.error.is_none();
        entry.known.is_older_than(if is_new { AT_LEAST } else { every }, now_ms)
    }

    /// Reads the rows, when queries into MySQL had stored `stored`. Returns the source's name.
    async fn read(&self, source: Source, stored: Stored) -> String {
        let (began, began_ms) = (Instant::now(), now_ms());
        let result = match &self.store {
            Some(store) => {
                self.readings.inc();
                match &source {
                    Source::View(name) => Box::pin(store.relation(name, MOST_ROWS)).await,
                    Source::Table(table) => Box::pin(store.greatest(table, MOST_ROWS)).await,
                }
            }
            None => Err(StoreError::Missing("the dashboard has no MySQL".to_owned())),
        };
        let name = source.name().to_string();
        let is_other = {
            let mut entries = self.lock();
            let entry = entries.entry(name.clone()).or_default();
            let before = Arc::clone(&entry.known);
            let now = next(&before, result.map_err(|error| error.to_string()), began_ms, began.elapsed());
            let is_other = now.version != before.version || now.error != before.error;
            *entry = Entry { known: Arc::new(now), asked_ms: entry.asked_ms, stored };
            is_other
        };
        self.ended.send_modify(|count| *count += 1);
        if is_other {
            self.changes.send_modify(|count| *count += 1);
        }
        name
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known after a reading that began at `began_ms`.
fn next(before: &Known, read: Result<Table, String>, began_ms: i64, took: Duration) -> Known {
    let before = Known { attempted_ms: began_ms, took, ..before.clone() };
    match read {
        Ok(table) if before.table.as_deref() == Some(&table) => Known { read_ms: began_ms, error: None, ..before },
        Ok(table) => Known { table: Some(Arc::new(table)), version: before.version + 1, read_ms: began_ms, error: None, ..before },
        Err(error) => Known { error: Some(error), ..before },
    }
}

/// What the queries into MySQL have stored.
fn stored(spec: &TradingPipelineSpec, snapshot: &Snapshot) -> Stored {
    let into_mysql = spec.queries.iter().filter(|query| query.sink.mysql.is_some());
    let numbers = into_mysql.filter_map(|query| Some((query.name.to_string(), snapshot.queries.get(query.name.as_str())?)));
    numbers.map(|(name, query)| (name, query.totals.batches, query.last_batch.as_ref().map(|batch| batch.cut_at_ms))).collect()
}

/// How often rows are read when no micro-batch says that there are new ones: the shortest trigger of the queries into MySQL.
#[must_use]
pub fn interval(spec: &TradingPipelineSpec) -> Duration {
    let into_mysql = spec.queries.iter().filter(|query| query.sink.mysql.is_some());
    let triggers =
        into_mysql.map(|query| query.trigger.as_ref().and_then(|trigger| trigger.interval.as_ref()).map_or(Duration::from_secs(10), GoDuration::get));
    triggers.min().unwrap_or(AT_MOST).clamp(Duration::from_secs(2), AT_MOST)
}

#[cfg(test)]
mod tests {
    use tapeline_api::report::BatchReport;

    use super::*;
    use crate::live::snapshot::{QueryNumbers, Totals};
    use crate::table::{Cell, Column, Kind};

    fn table(value: i64) -> Table {
        Table { columns: vec![Column { name: "n".into(), kind: Kind::Integer }], rows: vec![vec![Cell::Integer(value)]], truncated: false }
    }

    #[test]
    fn the_same_rows_are_no_new_version_and_an_outage_keeps_them() {
        let next = |before: &Known, read, at| next(before, read, at, Duration::ZERO);
        let first = next(&Known::default(), Ok(table(1)), 10);
        assert_eq!((first.version, first.read_ms), (1, 10));
        let again = next(&first, Ok(table(1)), 20);
        assert_eq!((again.version, again.read_ms), (1, 20));
        let away = next(&again, Err("MySQL does not answer".into()), 30);
        assert_eq!((away.table.as_deref(), away.version, away.read_ms, away.attempted_ms), (Some(&table(1)), 1, 20, 30));
        let back = next(&away, Ok(table(2)), 40);
        assert_eq!((back.version, back.error), (2, None));
    }

    fn spec(trigger: &str) -> TradingPipelineSpec {
        serde_json::from_value(serde_json::json!({
            "kafka": {"bootstrapServers": "k:9092"},
            "queries": [
                {"name": "raw", "sql": "SELECT 1", "trigger": {"interval": "1s"}, "sink": {"cassandra": {"table": "t"}}},
                {"name": "volume", "sql": "SELECT 1", "trigger": {"interval": trigger}, "sink": {"mysql": {"table": "t", "mode": "Append"}}},
            ],
        }))
        .unwrap()
    }

    fn snapshot(raw: u64, volume: u64) -> Snapshot {
        let numbers = |batches| {
            let last_batch = Some(BatchReport { rows_in: 1, rows_out: 1, commit_ms: 1, plan_ms: 0, open_ms: 0, cut_at_ms: 7 });
            QueryNumbers { last_batch, totals: Totals { batches, ..Totals::default() }, ..QueryNumbers::default() }
        };
        Snapshot { queries: [("raw".to_owned(), numbers(raw)), ("volume".to_owned(), numbers(volume))].into(), ..Snapshot::default() }
    }

    #[test]
    fn only_micro_batches_in_mysql_are_a_reason_to_read() {
        let of = |raw, volume| stored(&spec("10s"), &snapshot(raw, volume));
        assert_eq!(of(1, 1), [("volume".to_owned(), 1, Some(7))]);
        assert_eq!(of(2, 1), of(1, 1));
        assert_ne!(of(1, 2), of(1, 1), "of two pods that cut at the same time the second to store is seen, too");
    }

    #[test]
    fn rows_are_read_again_when_there_is_something_new_or_after_a_while_and_while_somebody_looks() {
        let (rows, source) = (Rows::new(None, Counter::default()), Source::View("v".parse().unwrap()));
        let (before, after) = (stored(&spec("10s"), &snapshot(1, 1)), stored(&spec("10s"), &snapshot(1, 2)));
        let every = Duration::from_secs(10);
        assert!(!rows.is_due(&source, &after, every, 1_000_000), "nobody has asked");
        let read = Known { attempted_ms: 1_000_000, ..Known::default() };
        let due = |known: &Known, asked_ms, stored: &Stored, now| {
            rows.lock().insert("v".to_owned(), Entry { known: Arc::new(known.clone()), asked_ms, stored: before.clone() });
            rows.is_due(&source, stored, every, now)
        };
        assert!(!due(&read, 1_000_000, &after, 1_000_400), "not more often than there are looks");
        assert!(due(&read, 1_000_000, &after, 1_000_800), "a micro-batch of the same second is seen at the next look");
        assert!(!due(&read, 1_000_000, &before, 1_009_000));
        assert!(due(&read, 1_000_000, &before, 1_010_000));
        assert!(!due(&read, 900_000, &after, 1_010_000), "nobody looks any more");
        let slow = Known { took: Duration::from_secs(3), ..read.clone() };
        assert!(!due(&slow, 1_000_000, &after, 1_005_000), "a slow view is not read all the time");
        assert!(due(&slow, 1_000_000, &after, 1_006_000));
        let failed = Known { error: Some("MySQL does not answer".into()), took: Duration::from_secs(8), ..read };
        assert!(!due(&failed, 1_000_000, &after, 1_015_000), "what failed waits, for as long as it took at least");
        assert!(due(&failed, 1_000_000, &after, 1_016_000));
    }

    /// Rows without a store, which fail at once, and what reads them.
    fn read_by(rows: &Arc<Rows>) -> tokio::task::JoinHandle<()> {
        let spec = serde_json::json!({
            "kafka": {"bootstrapServers": "k:9092"},
            "mysql": {"host": "m", "database": "d", "credentialsSecretRef": {"name": "mysql"}, "views": [{"name": "v", "sql": "SELECT 1"}]},
        });
        let followed = Followed::of(tapeline_api::TradingPipeline::new("p", serde_json::from_value(spec).unwrap()));
        let rows = Arc::clone(rows);
        tokio::spawn(async move { rows.keep_fresh(&followed, &Live::default(), &CancellationToken::new()).await })
    }

    #[tokio::test]
    async fn what_is_old_is_read_again_first_and_what_is_new_is_not() {
        let (rows, source) = (Arc::new(Rows::new(None, Counter::default())), Source::View("v".parse().unwrap()));
        let reading = read_by(&rows);
        let (every, within) = (Duration::from_secs(10), Duration::from_secs(30));
        let old = Known { table: Some(Arc::new(table(1))), version: 1, read_ms: 1, attempted_ms: 1, ..Known::default() };
        rows.lock().insert("v".to_owned(), Entry { known: Arc::new(old), ..Entry::default() });
        let again = rows.of(&source, every, within).await;
        assert_eq!((again.version, again.read_ms, again.error.as_deref()), (1, 1, Some("the dashboard has no MySQL")));
        assert!(Arc::ptr_eq(&rows.of(&source, every, within).await, &again), "an error is not asked for again at once");
        reading.abort();
    }

    #[tokio::test]
    async fn nobody_waits_for_longer_than_they_want() {
        let (rows, source) = (Rows::new(None, Counter::default()), Source::View("v".parse().unwrap()));
        let known = rows.of(&source, Duration::from_secs(10), Duration::from_millis(10)).await;
        assert_eq!(*known, Known::default());
    }

    #[test]
    fn rows_are_read_by_the_trigger() {
        assert_eq!(["100ms", "30s", "1h"].map(|trigger| interval(&spec(trigger)).as_secs()), [2, 30, 60]);
    }
}
