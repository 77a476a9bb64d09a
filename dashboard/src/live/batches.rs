//! The micro-batches of a query over time. A pod tells of its last one alone, so those are seen that were the last of a pod at some look: each second while somebody watches.

use std::collections::{BTreeMap, VecDeque};

use tapeline_api::report::BatchReport;

use super::snapshot::{QueryNumbers, Told};

/// An hour of them, if one is seen each second.
const MOST: usize = 3_600;

/// The micro-batches that all pods cut within the same second, taken together: pods of a query cut at the same times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Batch {
    /// When the first of them was cut, in milliseconds since 1970.
    pub(super) cut_at_ms: i64,
    /// The longest that one was open, ran to its end, and was written, in milliseconds.
    pub(super) steps: [u64; 3],
    /// Rows in and out, of all.
    pub(super) rows: [u64; 2],
}

impl Batch {
    const fn second(&self) -> i64 {
        self.cut_at_ms.div_euclid(1_000)
    }

    fn join(&mut self, other: Self) {
        self.cut_at_ms = self.cut_at_ms.min(other.cut_at_ms);
        for (known, other) in self.steps.iter_mut().zip(other.steps) {
            *known = other.max(*known);
        }
        for (known, other) in self.rows.iter_mut().zip(other.rows) {
            *known += other;
        }
    }
}

/// Micro-batches in the order in which they were cut.
#[derive(Debug, Default)]
pub(super) struct Batches {
    all: VecDeque<Batch>,
    /// The last cut of each pod.
    seen: BTreeMap<String, i64>,
}

impl Batches {
    /// Adds what the pods tell of that is new.
    pub(super) fn look(&mut self, numbers: &QueryNumbers) {
        self.seen.retain(|pod, _| numbers.pods.iter().any(|known| known.pod == *pod));
        for pod in &numbers.pods {
            let Told::Worker(worker) = &pod.told else { continue };
            let Some(last) = &worker.last_batch else { continue };
            if self.seen.insert(pod.pod.clone(), last.cut_at_ms) != Some(last.cut_at_ms) {
                self.add(last);
            }
        }
    }

    fn add(&mut self, batch: &BatchReport) {
        let steps = [batch.open_ms, batch.plan_ms, batch.commit_ms.saturating_sub(batch.plan_ms)];
        let new = Batch { cut_at_ms: batch.cut_at_ms, steps, rows: [batch.rows_in, batch.rows_out] };
        // From the end: what is told is new, or a little older.
        if let Some(known) = self.all.iter_mut().rev().find(|known| known.second() == new.second()) {
            known.join(new);
        } else {
            let at = self.all.iter().rposition(|known| known.second() < new.second());
            self.all.insert(at.map_or(0, |at| at + 1), new);
        }
        if self.all.len() > MOST {
            self.all.pop_front();
        }
    }

    /// Forgets what was cut before `oldest_ms`.
    pub(super) fn forget(&mut self, oldest_ms: i64) {
        while self.all.front().is_some_and(|first| first.cut_at_ms < oldest_ms) {
            self.all.pop_front();
        }
    }

    /// All of them, the oldest first.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Batch> {
        self.all.iter()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::live::snapshot::Reading;
    use crate::live::snapshot::tests::worker;

    /// A pod whose last micro-batch of `rows` rows was cut at `cut_at_ms`.
    pub(crate) fn stored(pod: &str, cut_at_ms: i64, rows: u64) -> Reading {
        let mut reading = worker(pod, 0, &[]);
        if let Told::Worker(worker) = &mut reading.told {
            worker.last_batch = Some(BatchReport { rows_in: rows, rows_out: 3, open_ms: 900, plan_ms: 10, commit_ms: 15, cut_at_ms });
        }
        reading
    }

    fn after(looks: &[&[(&str, i64, u64)]]) -> Vec<(i64, u64)> {
        let mut batches = Batches::default();
        for pods in looks {
            let pods = pods.iter().map(|&(pod, cut_at_ms, rows)| stored(pod, cut_at_ms, rows)).collect();
            batches.look(&QueryNumbers { pods, ..QueryNumbers::default() });
        }
        batches.iter().map(|batch| (batch.cut_at_ms, batch.rows[0])).collect()
    }

    #[test]
    fn each_micro_batch_that_was_seen_is_there_once() {
        assert_eq!(after(&[&[("a", 1_000, 5)], &[("a", 1_000, 5)], &[("a", 2_000, 6)], &[("a", 3_000, 7)]]), [(1_000, 5), (2_000, 6), (3_000, 7)]);
    }

    #[test]
    fn pods_that_cut_at_the_same_time_are_taken_together_in_order() {
        let looks: [&[(&str, i64, u64)]; 3] = [&[("a", 1_004, 5)], &[("a", 3_000, 6), ("b", 1_001, 7)], &[("a", 3_000, 6), ("b", 2_000, 8)]];
        assert_eq!(after(&looks), [(1_001, 12), (2_000, 8), (3_000, 6)]);
    }

    #[test]
    fn an_hour_of_them_is_kept() {
        let mut batches = Batches::default();
        for second in 0..4_000 {
            batches.look(&QueryNumbers { pods: vec![stored("a", second * 1_000, 1)], ..QueryNumbers::default() });
        }
        assert_eq!(batches.iter().len(), MOST);
        batches.forget(3_990_000);
        assert_eq!(batches.iter().len(), 10);
    }
}
