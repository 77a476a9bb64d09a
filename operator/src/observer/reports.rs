//! The latest `/status` of every pod, and what it comes to for a query or producer. Written by the observer alone, read by reconciles.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tapeline_api::names::ItemName;
use tapeline_api::report::{Notice, Problem, ProducerReport, ProducerState, WorkerReport, WorkerState};

use crate::reconcile::build::Kind;

/// For how long a ready pod may leave the operator without an answer before its pipeline says so.
pub const UNREACHABLE_AFTER: Duration = Duration::from_mins(2);
/// Numbers are those of pods that answered within this time; three polls.
const FRESH: Duration = Duration::from_secs(50);

/// What a pod said.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Report {
    Worker(WorkerReport),
    Producer(ProducerReport),
}

/// A pod, as the observer knows it.
#[derive(Debug, Clone)]
pub struct PodState {
    /// What it said last, and when.
    pub report: Option<(Report, Instant)>,
    /// Since when it is ready.
    pub ready_since: Option<Instant>,
}

/// What the pods of an item say together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ItemView {
    /// The worst state; none when no pod has answered.
    pub state: Option<PodsState>,
    /// What the pod in that state says.
    pub problem: Option<Problem>,
    /// Whether a pod that Kubernetes calls ready has not answered for two minutes.
    pub unreachable: bool,
    /// What looks wrong though the pods go on, each once.
    pub notices: Vec<Notice>,
    /// Numbers; absent unless every ready pod has answered lately.
    pub numbers: Option<Numbers>,
}

/// The state of all pods of an item, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum PodsState {
    Stopping,
    Done,
    Running,
    Starting,
    Waiting,
    Failed,
}

/// Numbers of an item, not rounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Messages yet to be read.
    pub lag: Option<i64>,
    /// Seconds since the oldest record that is read but not stored was written.
    pub behind_seconds: Option<i64>,
    /// Rows per second.
    pub rows_per_second: Option<i64>,
    /// Records in the dead-letter topic.
    pub bad_records: Option<i64>,
    /// Messages sent.
    pub messages: Option<i64>,
}

type Key = (String, String);
type Items = BTreeMap<(Kind, ItemName), BTreeMap<String, PodState>>;

/// All reports, by pipeline.
#[derive(Debug, Clone, Default)]
pub struct Reports(Arc<Mutex<HashMap<Key, Items>>>);

impl Reports {
    /// What the pods of each item of a pipeline say.
    #[must_use]
    pub fn of(&self, namespace: &str, pipeline: &str) -> BTreeMap<(Kind, ItemName), ItemView> {
        let now_ms = k8s_openapi::jiff::Timestamp::now().as_millisecond();
        let all = self.lock();
        let items = all.get(&(namespace.to_owned(), pipeline.to_owned()));
        items.into_iter().flatten().map(|(item, pods)| (item.clone(), view(pods.values(), Instant::now(), now_ms))).collect()
    }

    /// Replaces what is known of a pipeline's pods.
    pub fn set(&self, namespace: &str, pipeline: &str, items: Items) {
        self.lock().insert((namespace.to_owned(), pipeline.to_owned()), items);
    }

    /// A pipeline has no pods any more.
    pub fn forget(&self, namespace: &str, pipeline: &str) {
        self.lock().remove(&(namespace.to_owned(), pipeline.to_owned()));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Items>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `pods` of one item say together.
fn view<'a>(pods: impl Iterator<Item = &'a PodState> + Clone, now: Instant, now_ms: i64) -> ItemView {
    let answered = |pod: &PodState, within: Duration| pod.report.as_ref().is_some_and(|(_, at)| now.duration_since(*at) < within);
    let heard: Vec<&Report> =
        pods.clone().filter(|pod| answered(pod, UNREACHABLE_AFTER)).filter_map(|pod| pod.report.as_ref()).map(|(report, _)| report).collect();
    let worst = heard.iter().max_by_key(|report| state(report));
    let unreachable =
        pods.clone().any(|pod| pod.ready_since.is_some_and(|since| now.duration_since(since) >= UNREACHABLE_AFTER) && !answered(pod, UNREACHABLE_AFTER));
    let complete = !heard.is_empty() && pods.clone().filter(|pod| pod.ready_since.is_some()).all(|pod| answered(pod, FRESH));
    ItemView {
        state: worst.map(|report| state(report)),
        problem: worst.and_then(|report| problem(report)),
        notices: notices(&heard),
        unreachable,
        numbers: complete.then(|| numbers(&heard, now_ms)),
    }
}

const fn state(report: &Report) -> PodsState {
    match report {
        Report::Worker(worker) => match worker.state {
            WorkerState::Starting => PodsState::Starting,
            WorkerState::Running => PodsState::Running,
            WorkerState::Waiting => PodsState::Waiting,
            WorkerState::Stopping => PodsState::Stopping,
            WorkerState::Failed => PodsState::Failed,
        },
        Report::Producer(producer) => match producer.state {
            ProducerState::Starting => PodsState::Starting,
            ProducerState::Running => PodsState::Running,
            ProducerState::Done => PodsState::Done,
            ProducerState::Waiting => PodsState::Waiting,
            ProducerState::Failed => PodsState::Failed,
        },
    }
}

/// The problem of a pod that waits or failed. Partition and offset are left to `/status`: they move, and conditions do not.
fn problem(report: &Report) -> Option<Problem> {
    let problem = match report {
        Report::Worker(worker) => worker.problem.as_ref(),
        Report::Producer(producer) => producer.problem.as_ref(),
    };
    problem.filter(|_| state(report) >= PodsState::Waiting).cloned()
}

/// What the pods say looks wrong, in an order that stays.
fn notices(reports: &[&Report]) -> Vec<Notice> {
    let workers = reports.iter().filter_map(|report| if let Report::Worker(worker) = report { Some(worker) } else { None });
    let all: BTreeSet<Notice> = workers.flat_map(|worker| worker.notices.iter().cloned()).collect();
    all.into_iter().collect()
}

fn numbers(reports: &[&Report], now_ms: i64) -> Numbers {
    let workers: Vec<&WorkerReport> = reports.iter().filter_map(|report| if let Report::Worker(worker) = report { Some(worker) } else { None }).collect();
    let producers: Vec<&ProducerReport> =
        reports.iter().filter_map(|report| if let Report::Producer(producer) = report { Some(producer) } else { None }).collect();
    // During a rebalance two pods may both name a partition: the one that is further knows better.
    let mut partitions = BTreeMap::new();
    for partition in workers.iter().flat_map(|worker| &worker.partitions) {
        let known = partitions.entry(partition.partition).or_insert(partition);
        if partition.next_offset > known.next_offset {
            *known = partition;
        }
    }
    let lag = partitions.values().map(|partition| Some((partition.end_offset? - partition.next_offset).max(0))).sum::<Option<i64>>();
    let lag = lag.filter(|_| !partitions.is_empty());
    let oldest = partitions.values().filter_map(|partition| partition.oldest_unstored_ms).min();
    let behind_seconds = match (oldest, lag) {
        (Some(oldest), _) => Some(((now_ms - oldest) / 1000).max(0)),
        (None, Some(0)) => Some(0),
        (None, _) => None,
    };
    let sum = |values: Vec<u64>| (!values.is_empty()).then(|| i64::try_from(values.into_iter().sum::<u64>()).unwrap_or(i64::MAX));
    Numbers {
        lag,
        behind_seconds,
        rows_per_second: (!workers.is_empty()).then(|| whole(workers.iter().map(|worker| worker.rows_per_second).sum())),
        bad_records: sum(workers.iter().map(|worker| worker.bad_records_total).collect()),
        messages: sum(producers.iter().map(|producer| producer.messages_total).collect()),
    }
}

#[allow(clippy::cast_possible_truncation, reason = "`as` saturates, and a rate of rows is far from it")]
fn whole(rate: f64) -> i64 {
    rate.round() as i64
}

/// Rounded to two significant digits, so that a number that hardly moved is not written.
#[must_use]
pub fn round(number: i64) -> i64 {
    let mut unit = 1;
    while number / unit >= 100 {
        unit *= 10;
    }
    (number + unit / 2) / unit * unit
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tapeline_api::report::{NoticeKind, PartitionReport, ProblemClass};

    use super::*;

    fn worker(state: WorkerState, partitions: &[(i32, i64, i64)]) -> WorkerReport {
        WorkerReport {
            query: "raw".into(),
            state,
            problem: matches!(state, WorkerState::Waiting | WorkerState::Failed).then(|| Problem {
                class: ProblemClass::StoreUnreachable,
                message: "no answer".into(),
                partition: None,
                offset: None,
            }),
            partitions: partitions
                .iter()
                .map(|&(partition, next_offset, end)| PartitionReport { partition, next_offset, end_offset: Some(end), oldest_unstored_ms: None })
                .collect(),
            rows_per_second: 10.4,
            rows_total: 0,
            bad_records_total: 1,
            batches_total: 0,
            discarded_total: 0,
            last_batch: None,
            notices: Vec::new(),
        }
    }

    fn pod(report: Option<WorkerReport>, age: u64, now: Instant) -> PodState {
        let before = |seconds| now.checked_sub(Duration::from_secs(seconds)).unwrap();
        PodState { report: report.map(|report| (Report::Worker(report), before(age))), ready_since: Some(before(600)) }
    }

    fn now() -> Instant {
        Instant::now() + Duration::from_secs(10_000)
    }

    #[test]
    fn lag_is_summed_and_a_partition_counts_once() {
        let now = now();
        let pods = [pod(Some(worker(WorkerState::Running, &[(0, 5, 10), (1, 7, 7)])), 1, now), pod(Some(worker(WorkerState::Running, &[(0, 9, 10)])), 1, now)];
        let numbers = view(pods.iter(), now, 0).numbers.unwrap();
        assert_eq!((numbers.lag, numbers.behind_seconds, numbers.rows_per_second, numbers.bad_records), (Some(1), None, Some(21), Some(2)));
    }

    #[test]
    fn the_worst_pod_speaks() {
        let now = now();
        let pods = [pod(Some(worker(WorkerState::Running, &[])), 1, now), pod(Some(worker(WorkerState::Waiting, &[])), 1, now)];
        let view = view(pods.iter(), now, 0);
        assert_eq!(view.state, Some(PodsState::Waiting));
        assert_eq!(view.problem.map(|problem| problem.class), Some(ProblemClass::StoreUnreachable));
    }

    #[test]
    fn a_notice_of_several_pods_is_told_once() {
        let now = now();
        let notice = Notice { kind: NoticeKind::FieldNeverSeen, message: "field \"city\": none has it".into() };
        let with_it = || WorkerReport { notices: vec![notice.clone()], ..worker(WorkerState::Running, &[]) };
        let pods = [pod(Some(with_it()), 1, now), pod(Some(worker(WorkerState::Running, &[])), 1, now), pod(Some(with_it()), 1, now)];
        assert_eq!(view(pods.iter(), now, 0).notices, [notice]);
    }

    #[rstest]
    #[case::just_now(1, true, false)]
    #[case::a_minute_ago(60, false, false)]
    #[case::long_ago(121, false, true)]
    fn an_old_answer_is_no_number_and_never_zero(#[case] age: u64, #[case] numbers: bool, #[case] unreachable: bool) {
        let now = now();
        let view = view([pod(Some(worker(WorkerState::Running, &[])), age, now)].iter(), now, 0);
        assert_eq!((view.numbers.is_some(), view.unreachable), (numbers, unreachable));
    }

    #[rstest]
    #[case(0, 0)]
    #[case(99, 99)]
    #[case(104, 100)]
    #[case(105, 110)]
    #[case(123_456, 120_000)]
    fn two_digits(#[case] number: i64, #[case] rounded: i64) {
        assert_eq!(round(number), rounded);
    }
}
