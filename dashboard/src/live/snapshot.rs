//! What all pods said at one time, and the rates since the time before. Pure.

use std::collections::{BTreeMap, HashMap};

use tapeline_api::report::{BatchReport, Notice, PartitionReport, Problem, ProducerReport, WorkerReport};

/// What a pod said.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Told {
    #[default]
    Nothing,
    Worker(WorkerReport),
    Producer(ProducerReport),
}

/// A pod, as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The pod's name.
    pub pod: String,
    /// Its query or producer.
    pub item: String,
    /// Whether it is a query's.
    pub is_query: bool,
    /// Whether Kubernetes calls it ready.
    pub is_ready: bool,
    /// How often its container was started again.
    pub restarts: i32,
    /// Where it listens, once it runs.
    pub address: Option<String>,
    /// What it said.
    pub told: Told,
}

/// Counters of a pod at one time, to find rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodNumbers {
    at_ms: i64,
    rows: u64,
    messages: u64,
}

/// All pods at one time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Milliseconds since 1970; 0 before the first look.
    pub at_ms: i64,
    /// Queries by name, those that have pods.
    pub queries: BTreeMap<String, QueryNumbers>,
    /// Producers by name, those that have pods.
    pub producers: BTreeMap<String, ProducerNumbers>,
}

/// A query's pods together, as far as they tell. Lag and what comes of it are absent while a pod that is ready does not tell.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QueryNumbers {
    /// Its pods, by name.
    pub pods: Vec<Reading>,
    /// Rows per second read since the look before.
    pub rows_per_second: Option<f64>,
    /// Messages not in the sink yet.
    pub lag: Option<i64>,
    /// Seconds since the oldest message was written that is read and not stored; 0 when all are.
    pub behind_seconds: Option<i64>,
    /// Each partition, once.
    pub partitions: Vec<PartitionReport>,
    /// The last micro-batch of any pod.
    pub last_batch: Option<BatchReport>,
    /// Rows read, micro-batches stored and discarded, records that went to the dead letters, since the pods started.
    pub totals: Totals,
    /// What a pod waits for, or why it stopped.
    pub problem: Option<Problem>,
    /// What looks wrong.
    pub notices: Vec<Notice>,
}

/// Sums since the pods started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Totals {
    pub rows: u64,
    pub batches: u64,
    pub discarded: u64,
    pub bad_records: u64,
}

/// A producer's pods together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProducerNumbers {
    /// Its pods, by name.
    pub pods: Vec<Reading>,
    /// Messages acknowledged per second since the look before.
    pub messages_per_second: Option<f64>,
    /// Messages acknowledged since the start.
    pub messages: Option<u64>,
    /// What it waits for, or why it stopped.
    pub problem: Option<Problem>,
}

impl Snapshot {
    /// What `readings` come to at `at_ms`; `before` has the counters of the look before, and has those of this one afterwards.
    #[must_use]
    pub fn of(mut readings: Vec<Reading>, before: &mut HashMap<String, PodNumbers>, at_ms: i64) -> Self {
        readings.sort_by(|a, b| a.pod.cmp(&b.pod));
        let mut now = HashMap::new();
        let mut snapshot = Self { at_ms, ..Self::default() };
        for reading in readings {
            let numbers = match &reading.told {
                Told::Worker(worker) => Some(PodNumbers { at_ms, rows: worker.rows_total, messages: 0 }),
                Told::Producer(producer) => Some(PodNumbers { at_ms, rows: 0, messages: producer.messages_total }),
                Told::Nothing => None,
            };
            let rates = numbers.and_then(|numbers| rates(before.get(&reading.pod)?, &numbers));
            now.extend(numbers.map(|numbers| (reading.pod.clone(), numbers)));
            if reading.is_query {
                snapshot.queries.entry(reading.item.clone()).or_default().add(reading, rates.map(|(rows, _)| rows));
            } else {
                snapshot.producers.entry(reading.item.clone()).or_default().add(reading, rates.map(|(_, messages)| messages));
            }
        }
        for query in snapshot.queries.values_mut() {
            query.finish(at_ms);
        }
        *before = now;
        snapshot
    }
}

/// Rows and messages per second between two looks at a pod. None when its container was started again in between.
fn rates(before: &PodNumbers, now: &PodNumbers) -> Option<(f64, f64)> {
    let millis = u32::try_from(now.at_ms - before.at_ms).ok().filter(|millis| *millis > 0)?;
    let rate = |before: u64, now: u64| {
        let more = now.checked_sub(before)?;
        #[allow(clippy::cast_precision_loss, reason = "a rate")]
        Some(more as f64 * 1000.0 / f64::from(millis))
    };
    Some((rate(before.rows, now.rows)?, rate(before.messages, now.messages)?))
}

/// Adds what is known; nothing is known of a sum of nothing.
fn add(sum: &mut Option<f64>, more: Option<f64>) {
    if let Some(more) = more {
        *sum = Some(sum.unwrap_or(0.0) + more);
    }
}

impl QueryNumbers {
    fn add(&mut self, reading: Reading, rows_per_second: Option<f64>) {
        add(&mut self.rows_per_second, rows_per_second);
        if let Told::Worker(worker) = &reading.told {
            self.totals.rows += worker.rows_total;
            self.totals.batches += worker.batches_total;
            self.totals.discarded += worker.discarded_total;
            self.totals.bad_records += worker.bad_records_total;
            if worker.last_batch.as_ref().map(|batch| batch.cut_at_ms) > self.last_batch.as_ref().map(|batch| batch.cut_at_ms) {
                self.last_batch.clone_from(&worker.last_batch);
            }
            self.problem = self.problem.take().or_else(|| worker.problem.clone());
            self.notices.extend(worker.notices.iter().filter(|notice| !self.notices.contains(notice)).cloned().collect::<Vec<_>>());
            for partition in &worker.partitions {
                // During a rebalance two pods may both name one: the one that is further knows better.
                match self.partitions.iter_mut().find(|known| known.partition == partition.partition) {
                    Some(known) if partition.next_offset > known.next_offset => known.clone_from(partition),
                    Some(_) => {}
                    None => self.partitions.push(partition.clone()),
                }
            }
        }
        self.pods.push(reading);
    }

    fn finish(&mut self, now_ms: i64) {
        self.partitions.sort_by_key(|partition| partition.partition);
        // A part of it would be told as all of it.
        let is_whole = !self.partitions.is_empty() && !self.pods.iter().any(|pod| pod.is_ready && !matches!(pod.told, Told::Worker(_)));
        self.lag = self.partitions.iter().map(lag_of).sum::<Option<i64>>().filter(|_| is_whole);
        let oldest = self.partitions.iter().filter_map(|partition| partition.oldest_unstored_ms).min();
        self.behind_seconds = match (oldest, self.lag) {
            (Some(oldest), _) if is_whole => Some(((now_ms - oldest) / 1000).max(0)),
            (None, Some(0)) => Some(0),
            _ => None,
        };
    }
}

/// Messages of a partition that are not in the sink yet.
#[must_use]
pub fn lag_of(partition: &PartitionReport) -> Option<i64> {
    Some((partition.end_offset? - partition.next_offset).max(0))
}

impl ProducerNumbers {
    fn add(&mut self, reading: Reading, messages_per_second: Option<f64>) {
        add(&mut self.messages_per_second, messages_per_second);
        if let Told::Producer(producer) = &reading.told {
            self.messages = Some(self.messages.unwrap_or(0) + producer.messages_total);
            self.problem = self.problem.take().or_else(|| producer.problem.clone());
        }
        self.pods.push(reading);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tapeline_api::report::WorkerState;

    use super::*;

    pub(crate) fn worker(pod: &str, rows: u64, partitions: &[(i32, i64, Option<i64>)]) -> Reading {
        let partition =
            |&(partition, next_offset, end_offset): &(i32, i64, Option<i64>)| PartitionReport { partition, next_offset, end_offset, oldest_unstored_ms: None };
        let report = WorkerReport {
            query: "raw".into(),
            state: WorkerState::Running,
            problem: None,
            partitions: partitions.iter().map(partition).collect(),
            rows_per_second: 0.0,
            rows_total: rows,
            bad_records_total: 1,
            batches_total: 2,
            discarded_total: 0,
            last_batch: None,
            notices: Vec::new(),
        };
        silent(pod, Told::Worker(report))
    }

    fn silent(pod: &str, told: Told) -> Reading {
        Reading { pod: pod.into(), item: "raw".into(), is_query: true, is_ready: true, restarts: 0, address: None, told }
    }

    #[test]
    fn pods_add_up_and_a_partition_counts_once() {
        let mut before = HashMap::new();
        let first = [worker("b", 100, &[(0, 5, Some(10)), (1, 7, Some(7))]), worker("a", 50, &[(0, 9, Some(10))])];
        let snapshot = Snapshot::of(first.to_vec(), &mut before, 1_000);
        let raw = &snapshot.queries["raw"];
        assert_eq!((raw.lag, raw.behind_seconds, raw.rows_per_second, raw.totals.rows, raw.totals.bad_records), (Some(1), None, None, 150, 2));
        assert_eq!(raw.pods.iter().map(|pod| pod.pod.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let snapshot = Snapshot::of(vec![worker("b", 300, &[]), worker("a", 40, &[])], &mut before, 3_000);
        assert_eq!(snapshot.queries["raw"].rows_per_second, Some(100.0), "one of both was started again, and its rate is not known");
    }

    #[test]
    fn what_nobody_told_is_not_zero() {
        let snapshot = Snapshot::of(vec![silent("a", Told::Nothing)], &mut HashMap::new(), 1_000);
        let raw = &snapshot.queries["raw"];
        assert_eq!((raw.lag, raw.behind_seconds, raw.rows_per_second), (None, None, None));
        let half = Snapshot::of(vec![worker("a", 0, &[(0, 1, Some(5))]), silent("b", Told::Nothing)], &mut HashMap::new(), 1_000);
        assert_eq!((half.queries["raw"].lag, half.queries["raw"].behind_seconds), (None, None), "a part is not all of it");
        let unknown_end = Snapshot::of(vec![worker("a", 0, &[(0, 1, None)])], &mut HashMap::new(), 1_000);
        assert_eq!(unknown_end.queries["raw"].lag, None);
    }
}
