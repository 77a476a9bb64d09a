//! The numbers of the last hour, for the charts of the page of queries: rates and lag each five seconds, and the micro-batches. They are kept here alone, so a dashboard that
//! starts anew begins anew.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;
use tapeline_api::report::PartitionReport;

use super::batches::{Batch, Batches};
use super::snapshot::{QueryNumbers, Snapshot, lag_of};

/// An hour.
const POINTS: usize = 720;
const HOUR_MS: i64 = 3_600_000;
/// Partitions that have a line of their own; those behind them share one.
const LINES: usize = 24;
/// Micro-batches that are sent to open pages at a time: more than can be seen between two looks.
const NEWEST: usize = 10;

/// What is kept of each query.
#[derive(Debug, Default)]
pub struct History(BTreeMap<String, Kept>);

#[derive(Debug, Default)]
struct Kept {
    points: VecDeque<Point>,
    /// The partitions that the points have, in order.
    partitions: Vec<i32>,
    batches: Batches,
}

/// A partition: its number, stored up to, and its end.
type Place = (i32, i64, Option<i64>);

/// A query at one time.
#[derive(Debug, Clone, PartialEq)]
struct Point {
    at_ms: i64,
    rows_per_second: Option<f64>,
    partitions: Vec<Place>,
    lag: Option<i64>,
}

/// Lines over time, as uPlot takes them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Series {
    /// Seconds since 1970.
    pub at: Vec<f64>,
    /// The lines.
    pub series: Vec<Line>,
}

/// A line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// What it shows.
    pub label: String,
    /// In which unit.
    pub unit: &'static str,
    /// A value for each time; null where it is not known.
    pub values: Vec<Option<f64>>,
}

/// What there are lines of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Messages that came and that were stored, and rows read, each per second.
    Rates,
    /// Milliseconds of each step of the micro-batches.
    Batches,
    /// Rows in and out of the micro-batches.
    Rows,
    /// Messages yet to be stored, of each partition.
    Lag,
}

impl Kind {
    /// All.
    pub const ALL: [Self; 4] = [Self::Rates, Self::Batches, Self::Rows, Self::Lag];

    /// As addresses name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rates => "rates",
            Self::Batches => "batches",
            Self::Rows => "rows",
            Self::Lag => "lag",
        }
    }
}

impl History {
    /// Adds the micro-batches that `snapshot` is the first to tell of.
    pub fn look(&mut self, snapshot: &Snapshot) {
        for (query, numbers) in &snapshot.queries {
            self.0.entry(query.clone()).or_default().batches.look(numbers);
        }
    }

    /// Adds a point for each query, and forgets what is older than an hour, and queries that are gone.
    pub fn keep(&mut self, snapshot: &Snapshot) {
        self.look(snapshot);
        let oldest = snapshot.at_ms - HOUR_MS;
        for (query, numbers) in &snapshot.queries {
            let kept = self.0.entry(query.clone()).or_default();
            kept.points.push_back(point(snapshot.at_ms, numbers));
            while kept.points.len() > POINTS {
                kept.points.pop_front();
            }
            kept.partitions = kept.points.iter().flat_map(|point| &point.partitions).map(|partition| partition.0).collect();
            kept.partitions.sort_unstable();
            kept.partitions.dedup();
            kept.batches.forget(oldest);
        }
        self.0.retain(|_, kept| kept.points.back().is_some_and(|last| last.at_ms >= oldest));
    }

    /// The lines of a query. None for one that is not known.
    #[must_use]
    pub fn series(&self, query: &str, kind: Kind) -> Option<Series> {
        let kept = self.0.get(query)?;
        let (points, batches): (Vec<&Point>, Vec<&Batch>) = (kept.points.iter().collect(), kept.batches.iter().collect());
        Some(lines(kind, &points, &kept.partitions, &batches))
    }

    /// The newest of them, the oldest first: one point of rates and lag, a few micro-batches. Made of no more than that, since it is asked for each second.
    #[must_use]
    pub fn newest(&self, query: &str, kind: Kind) -> Option<Series> {
        let kept = self.0.get(query)?;
        let points: Vec<&Point> = kept.points.iter().skip(kept.points.len().saturating_sub(2)).collect();
        let batches: Vec<&Batch> = kept.batches.iter().skip(kept.batches.iter().len().saturating_sub(NEWEST)).collect();
        let mut series = lines(kind, &points, &kept.partitions, &batches);
        // A rate needs the point before.
        if matches!(kind, Kind::Rates | Kind::Lag) && series.at.len() == 2 {
            series.at.remove(0);
            for line in &mut series.series {
                line.values.remove(0);
            }
        }
        Some(series)
    }
}

fn lines(kind: Kind, points: &[&Point], partitions: &[i32], batches: &[&Batch]) -> Series {
    let series = match kind {
        Kind::Rates => rates(points),
        Kind::Batches => steps(batches),
        Kind::Rows => rows(batches),
        Kind::Lag => lag(points, partitions),
    };
    let millis: Vec<i64> = match kind {
        Kind::Rates | Kind::Lag => points.iter().map(|point| point.at_ms).collect(),
        Kind::Batches | Kind::Rows => batches.iter().map(|batch| batch.cut_at_ms).collect(),
    };
    #[allow(clippy::cast_precision_loss, reason = "milliseconds of this century")]
    let at = millis.into_iter().map(|millis| millis as f64 / 1000.0).collect();
    Series { at, series }
}

fn point(at_ms: i64, numbers: &QueryNumbers) -> Point {
    Point {
        at_ms,
        rows_per_second: numbers.rows_per_second,
        partitions: numbers.partitions.iter().map(|partition| (partition.partition, partition.next_offset, partition.end_offset)).collect(),
        lag: numbers.lag,
    }
}

fn line(label: impl Into<String>, unit: &'static str, values: Vec<Option<f64>>) -> Line {
    Line { label: label.into(), unit, values }
}

/// Messages per second between each two points. A partition counts where both know it.
fn rates(points: &[&Point]) -> Vec<Line> {
    let per_second = |of: fn(&Place) -> Option<i64>| -> Vec<Option<f64>> {
        let between = points.iter().zip(points.iter().skip(1)).map(|(before, now)| {
            let millis = u32::try_from(now.at_ms - before.at_ms).ok().filter(|millis| *millis > 0)?;
            let more = now.partitions.iter().filter_map(|partition| {
                let known = before.partitions.iter().find(|known| known.0 == partition.0)?;
                Some((of(partition)? - of(known)?).max(0))
            });
            let more: Vec<i64> = more.collect();
            #[allow(clippy::cast_precision_loss, reason = "a rate")]
            (!more.is_empty()).then(|| more.iter().sum::<i64>() as f64 * 1000.0 / f64::from(millis))
        });
        std::iter::once(None).chain(between).take(points.len()).collect()
    };
    vec![
        line("messages in", "messages/s", per_second(|&(_, _, end)| end)),
        line("messages stored", "messages/s", per_second(|&(_, next, _)| Some(next))),
        line("rows read", "rows/s", points.iter().map(|point| point.rows_per_second).collect()),
    ]
}

fn of_batches(batches: &[&Batch], of: impl Fn(&Batch) -> u64) -> Vec<Option<f64>> {
    #[allow(clippy::cast_precision_loss, reason = "milliseconds and rows of one micro-batch")]
    batches.iter().map(|batch| Some(of(batch) as f64)).collect()
}

fn steps(batches: &[&Batch]) -> Vec<Line> {
    vec![
        line("collecting", "ms", of_batches(batches, |batch| batch.steps[0])),
        line("finishing the plan", "ms", of_batches(batches, |batch| batch.steps[1])),
        line("writing", "ms", of_batches(batches, |batch| batch.steps[2])),
    ]
}

fn rows(batches: &[&Batch]) -> Vec<Line> {
    vec![line("rows in", "rows", of_batches(batches, |batch| batch.rows[0])), line("rows out", "rows", of_batches(batches, |batch| batch.rows[1]))]
}

fn lag(points: &[&Point], names: &[i32]) -> Vec<Line> {
    #[allow(clippy::cast_precision_loss, reason = "messages")]
    let value = |number: i64| number as f64;
    let of = |point: &Point, wanted: &dyn Fn(i32) -> bool| -> Option<f64> {
        let wanted = point.partitions.iter().filter(|partition| wanted(partition.0));
        let lags: Option<Vec<i64>> = wanted
            .map(|&(partition, next_offset, end_offset)| lag_of(&PartitionReport { partition, next_offset, end_offset, oldest_unstored_ms: None }))
            .collect();
        lags.filter(|lags| !lags.is_empty()).map(|lags| value(lags.iter().sum()))
    };
    let all = line("all", "messages", points.iter().map(|point| point.lag.map(value)).collect());
    let own = names.iter().take(LINES).map(|&name| {
        let values = points.iter().map(|point| of(point, &|partition| partition == name)).collect();
        line(format!("partition {name}"), "messages", values)
    });
    let rest = names.get(LINES).map(|&from| line("the others", "messages", points.iter().map(|point| of(point, &|partition| partition >= from)).collect()));
    std::iter::once(all).chain(own).chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::live::batches::tests::stored;
    use crate::live::snapshot::tests::worker;

    /// When it was looked, and of each partition its number, next offset and end.
    type Look<'a> = (i64, &'a [(i32, i64, Option<i64>)]);

    fn history(looks: &[Look<'_>]) -> History {
        let (mut history, mut before) = (History::default(), HashMap::new());
        for (at_ms, partitions) in looks {
            history.keep(&Snapshot::of(vec![worker("a", 0, partitions)], &mut before, *at_ms));
        }
        history
    }

    fn values(history: &History, kind: Kind, label: &str) -> Vec<Option<f64>> {
        history.series("raw", kind).unwrap().series.into_iter().find(|line| line.label == label).unwrap().values
    }

    #[test]
    fn messages_per_second_come_from_offsets() {
        let history =
            history(&[(0, &[(0, 10, Some(20))]), (5_000, &[(0, 30, Some(40)), (1, 500, Some(500))]), (10_000, &[(0, 30, None), (1, 600, Some(500))])]);
        assert_eq!(values(&history, Kind::Rates, "messages in"), [None, Some(4.0), Some(0.0)]);
        assert_eq!(values(&history, Kind::Rates, "messages stored"), [None, Some(4.0), Some(20.0)]);
    }

    #[test]
    fn lag_is_told_for_each_partition_and_unknown_is_not_zero() {
        let history = history(&[(0, &[(0, 10, Some(20)), (3, 1, Some(2))]), (5_000, &[(0, 10, None)])]);
        assert_eq!(values(&history, Kind::Lag, "all"), [Some(11.0), None]);
        assert_eq!(values(&history, Kind::Lag, "partition 0"), [Some(10.0), None]);
        assert_eq!(values(&history, Kind::Lag, "partition 3"), [Some(1.0), None]);
    }

    #[test]
    fn each_micro_batch_is_a_point_at_the_time_of_its_cut() {
        let (mut history, mut before) = (History::default(), HashMap::new());
        for at_ms in [1_000, 2_000, 3_000, 4_000, 5_000] {
            history.look(&Snapshot::of(vec![stored("a", at_ms / 2_000 * 2_000, 7)], &mut before, at_ms));
        }
        let series = history.series("raw", Kind::Batches).unwrap();
        assert_eq!(series.at, [0.0, 2.0, 4.0]);
        assert_eq!(values(&history, Kind::Batches, "collecting"), [Some(900.0); 3]);
        assert_eq!(values(&history, Kind::Batches, "writing"), [Some(5.0); 3]);
        assert_eq!(values(&history, Kind::Rows, "rows out"), [Some(3.0); 3]);
    }

    #[test]
    fn the_newest_are_the_end_of_all() {
        let mut history = history(&[(0, &[(0, 10, Some(20)), (7, 1, Some(1))]), (5_000, &[(0, 30, Some(40))]), (10_000, &[(0, 40, Some(90))])]);
        for second in 0..30 {
            history.look(&Snapshot::of(vec![stored("a", second * 1_000, 7)], &mut HashMap::new(), second * 1_000));
        }
        for kind in Kind::ALL {
            let (all, newest) = (history.series("raw", kind).unwrap(), history.newest("raw", kind).unwrap());
            assert!(all.at.ends_with(&newest.at), "{kind:?}");
            assert_eq!(newest.at.len(), if matches!(kind, Kind::Rates | Kind::Lag) { 1 } else { NEWEST });
            let labels = |series: &Series| series.series.iter().map(|line| line.label.clone()).collect::<Vec<_>>();
            assert_eq!(labels(&all), labels(&newest), "a page adds points to the lines that it has");
            for (all, newest) in all.series.iter().zip(&newest.series) {
                assert!(all.values.ends_with(&newest.values), "{kind:?} {}", all.label);
            }
        }
    }

    #[test]
    fn an_hour_is_kept_and_a_query_that_is_gone_is_forgotten() {
        let mut history = History::default();
        for step in 0..800 {
            history.keep(&Snapshot { at_ms: step * 5_000, queries: [("raw".to_owned(), QueryNumbers::default())].into(), ..Snapshot::default() });
        }
        assert_eq!(history.series("raw", Kind::Lag).unwrap().at.len(), POINTS);
        history.keep(&Snapshot { at_ms: 800 * 5_000 + 3_600_000, ..Snapshot::default() });
        assert_eq!(history.series("raw", Kind::Lag), None);
    }
}
