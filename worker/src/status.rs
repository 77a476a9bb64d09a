//! What the world sees of a worker: its report, its readiness and its metrics. Written by consumer and engine, read by the HTTP server.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tapeline_api::report::{BatchReport, Notice, NoticeKind, PartitionReport, Problem, ProblemClass, WorkerReport, WorkerState};

/// Over which time rows per second are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// The shared status.
pub struct Status {
    inner: Mutex<Inner>,
    registry: Registry,
    rows: Counter,
    bad_records: Counter,
    batches: Counter,
    discarded: Counter,
    lag: Gauge,
    commit_seconds: Histogram,
}

struct Inner {
    query: String,
    joined: bool,
    stopping: bool,
    failed: Option<Problem>,
    /// What is awaited, by who awaits it: the consumer and the engine speak for themselves.
    waiting: BTreeMap<Who, Problem>,
    partitions: BTreeMap<i32, Partition>,
    last_batch: Option<BatchReport>,
    recent: VecDeque<(Instant, u64)>,
    notices: Vec<Notice>,
    /// References whose last load failed, and why.
    stale: BTreeMap<String, Notice>,
}

#[derive(Default)]
struct Partition {
    next_offset: i64,
    end_offset: Option<i64>,
    oldest_unstored_ms: Option<i64>,
}

/// Who waits for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// The thread that polls Kafka.
    Consumer,
    /// The same, for the offsets of partitions to begin with.
    Assignment,
    /// The engine, for its sink.
    Engine,
    /// The first load of reference data.
    References,
}

impl Status {
    /// The status of a worker that has just started.
    #[must_use]
    pub fn new(query: String) -> Self {
        let mut registry = Registry::with_prefix("tapeline_worker");
        let (rows, bad_records, batches, discarded) = (Counter::default(), Counter::default(), Counter::default(), Counter::default());
        let (lag, commit_seconds) = (Gauge::default(), Histogram::new(exponential_buckets(0.001, 2.0, 16)));
        registry.register("rows", "Rows read", rows.clone());
        registry.register("bad_records", "Records sent to the dead-letter topic", bad_records.clone());
        registry.register("batches", "Micro-batches stored", batches.clone());
        registry.register("discarded_batches", "Micro-batches discarded and read again", discarded.clone());
        registry.register("lag_messages", "Messages of the assigned partitions that are not in the sink", lag.clone());
        registry.register("commit_seconds", "Time from the cut to the stored progress", commit_seconds.clone());
        let inner = Inner {
            query,
            joined: false,
            stopping: false,
            failed: None,
            waiting: BTreeMap::new(),
            partitions: BTreeMap::new(),
            last_batch: None,
            recent: VecDeque::new(),
            notices: Vec::new(),
            stale: BTreeMap::new(),
        };
        Self { inner: Mutex::new(inner), registry, rows, bad_records, batches, discarded, lag, commit_seconds }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker is a member of its group.
    pub fn joined(&self) {
        self.lock().joined = true;
    }

    /// The worker finishes.
    pub fn stopping(&self) {
        self.lock().stopping = true;
    }

    /// The worker has stopped by itself, for good.
    pub fn failed(&self, problem: Problem) {
        self.lock().failed.get_or_insert(problem);
    }

    /// `who` waits.
    pub fn waiting(&self, who: Who, problem: Problem) {
        self.lock().waiting.insert(who, problem);
    }

    /// `who` goes on.
    pub fn going_on(&self, who: Who) {
        self.lock().waiting.remove(&who);
    }

    /// A broker is up: nobody waits for one any more.
    pub fn kafka_answers(&self) {
        self.lock().waiting.retain(|who, problem| *who != Who::Consumer || problem.class != ProblemClass::KafkaUnreachable);
    }

    /// Rows were read.
    pub fn read(&self, rows: u64) {
        self.rows.inc_by(rows);
        let mut inner = self.lock();
        let now = Instant::now();
        inner.recent.push_back((now, rows));
        while inner.recent.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
            inner.recent.pop_front();
        }
    }

    /// A partition's stored progress, as owned.
    pub fn stored(&self, partition: i32, next_offset: i64) {
        let mut inner = self.lock();
        let entry = inner.partitions.entry(partition).or_default();
        entry.next_offset = next_offset;
        entry.oldest_unstored_ms = None;
    }

    /// A record of a partition was read that is not stored yet.
    pub fn unstored(&self, partition: i32, written_ms: Option<i64>) {
        if let Some(entry) = self.lock().partitions.get_mut(&partition) {
            entry.oldest_unstored_ms = match (entry.oldest_unstored_ms, written_ms) {
                (Some(oldest), Some(written)) => Some(oldest.min(written)),
                (one, other) => one.or(other),
            };
        }
    }

    /// Where a partition ends, by the broker.
    pub fn end(&self, partition: i32, end_offset: i64) {
        if let Some(entry) = self.lock().partitions.get_mut(&partition) {
            entry.end_offset = Some(end_offset);
        }
    }

    /// The partition is somebody else's.
    pub fn released(&self, partition: i32) {
        self.lock().partitions.remove(&partition);
    }

    /// A micro-batch is in the sink.
    pub fn batch(&self, report: BatchReport, duration: Duration) {
        self.batches.inc();
        self.commit_seconds.observe(duration.as_secs_f64());
        self.lock().last_batch = Some(report);
    }

    /// What looks wrong about the records, in place of what was said before.
    pub fn notices(&self, notices: Vec<Notice>) {
        for notice in &notices {
            tracing::warn!(kind = %notice.kind, "{}", notice.message);
        }
        self.lock().notices = notices;
    }

    /// A reference was loaded again, or could not be.
    pub fn reference(&self, name: &str, problem: Option<Problem>) {
        let mut inner = self.lock();
        match problem {
            Some(problem) => {
                let message = format!("{}; the rows that were loaded last are used", problem.message);
                inner.stale.insert(name.to_owned(), Notice { kind: NoticeKind::ReferenceStale, message });
            }
            None => drop(inner.stale.remove(name)),
        }
    }

    /// A micro-batch was discarded.
    pub fn discarded(&self) {
        self.discarded.inc();
    }

    /// Records went to the dead-letter topic.
    pub fn bad(&self, records: u64) {
        self.bad_records.inc_by(records);
    }

    /// Whether the worker has its settings and is, or was, a member of its group.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let inner = self.lock();
        inner.joined && inner.failed.is_none()
    }

    /// The report.
    #[must_use]
    pub fn report(&self) -> WorkerReport {
        let inner = self.lock();
        let problem = inner.failed.clone().or_else(|| inner.waiting.values().next().cloned());
        let state = match () {
            () if inner.failed.is_some() => WorkerState::Failed,
            () if inner.stopping => WorkerState::Stopping,
            () if problem.is_some() => WorkerState::Waiting,
            () if !inner.joined => WorkerState::Starting,
            () => WorkerState::Running,
        };
        let partitions = inner.partitions.iter().map(|(&partition, known)| PartitionReport {
            partition,
            next_offset: known.next_offset,
            end_offset: known.end_offset,
            oldest_unstored_ms: known.oldest_unstored_ms,
        });
        let now = Instant::now();
        let recent: u64 = inner.recent.iter().filter(|(at, _)| now.duration_since(*at) <= WINDOW).map(|(_, rows)| rows).sum();
        #[allow(clippy::cast_precision_loss, reason = "a rate")]
        let rows_per_second = recent as f64 / WINDOW.as_secs_f64();
        WorkerReport {
            query: inner.query.clone(),
            state,
            problem,
            partitions: partitions.collect(),
            rows_per_second,
            rows_total: self.rows.get(),
            bad_records_total: self.bad_records.get(),
            batches_total: self.batches.get(),
            discarded_total: self.discarded.get(),
            last_batch: inner.last_batch.clone(),
            notices: inner.stale.values().chain(&inner.notices).cloned().collect(),
        }
    }

    /// The metrics in the text format of `OpenMetrics`.
    ///
    /// # Errors
    /// Writing to a string, which does not fail.
    pub fn metrics(&self) -> Result<String, std::fmt::Error> {
        let lag = self.report().partitions.iter().filter_map(|partition| Some((partition.end_offset? - partition.next_offset).max(0))).sum();
        self.lag.set(lag);
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
