//! Where a partition begins: at its stored progress, or, where there is none, at the stream's start; and what it means when the records in between are gone.

use std::collections::BTreeMap;

use tapeline_api::pipeline::streams::OnDataLoss;

use crate::consumer::Assigned;
use crate::sink::Progress;

/// Epochs that one creation of the topic has for accepted losses. Cassandra orders progress by `epoch * 2^44 + offset`, which leaves 2^19 epochs in all.
const EPOCHS_PER_INCARNATION: i64 = 64;

/// What to do with a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Go on at stored progress.
    At(Progress),
    /// Store this first, then begin there.
    StoreThenAt(Progress),
    /// Records are gone: the query stops.
    Lost {
        /// Where it was to go on.
        wanted: i64,
        /// What there is.
        low: i64,
        /// What there is.
        high: i64,
    },
}

/// Decides where `assigned` begins. `stored` is the progress of all partitions of the topic.
pub(super) fn decide(assigned: Assigned, stored: &BTreeMap<i32, Progress>, incarnation: i64, on_loss: OnDataLoss) -> Start {
    let Assigned { partition, low, high, start_from } = assigned;
    let first_epoch = incarnation * EPOCHS_PER_INCARNATION;
    let Some(progress) = stored.get(&partition) else {
        // `startFrom` is for a query without any progress; a partition that was added later is read from its start, or what came before its assignment is missing.
        let is_first = stored.is_empty();
        let epoch = stored.values().map(|progress| progress.epoch).max().unwrap_or(0).max(first_epoch);
        return Start::StoreThenAt(Progress { epoch, next_offset: if is_first { start_from } else { low }, write_time: 0 });
    };
    let is_there = (low..=high).contains(&progress.next_offset);
    if progress.epoch < first_epoch {
        // The operator created the topic anew, and has said so: offsets count from the start again. Write times go on rising.
        return Start::StoreThenAt(Progress { epoch: first_epoch, next_offset: low, write_time: progress.write_time });
    }
    match (is_there, on_loss) {
        (true, _) => Start::At(*progress),
        (false, OnDataLoss::Continue) => Start::StoreThenAt(Progress { epoch: progress.epoch + 1, next_offset: low, write_time: progress.write_time }),
        (false, OnDataLoss::Stop) => Start::Lost { wanted: progress.next_offset, low, high },
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const fn progress(epoch: i64, next_offset: i64) -> Progress {
        Progress { epoch, next_offset, write_time: 7 }
    }

    #[rstest]
    #[case::first(&[], 1, OnDataLoss::Stop, Start::StoreThenAt(Progress { epoch: 64, next_offset: 50, write_time: 0 }))]
    #[case::added_later(&[(0, progress(64, 5))], 1, OnDataLoss::Stop, Start::StoreThenAt(Progress { epoch: 64, next_offset: 10, write_time: 0 }))]
    #[case::goes_on(&[(3, progress(64, 20))], 1, OnDataLoss::Stop, Start::At(progress(64, 20)))]
    #[case::at_the_end(&[(3, progress(64, 90))], 1, OnDataLoss::Stop, Start::At(progress(64, 90)))]
    #[case::deleted_by_retention(&[(3, progress(64, 5))], 1, OnDataLoss::Stop, Start::Lost { wanted: 5, low: 10, high: 90 })]
    #[case::above_the_end(&[(3, progress(64, 91))], 1, OnDataLoss::Stop, Start::Lost { wanted: 91, low: 10, high: 90 })]
    #[case::accepted(&[(3, progress(64, 5))], 1, OnDataLoss::Continue, Start::StoreThenAt(progress(65, 10)))]
    #[case::created_anew(&[(3, progress(64, 20))], 2, OnDataLoss::Stop, Start::StoreThenAt(progress(128, 10)))]
    fn starts(#[case] stored: &[(i32, Progress)], #[case] incarnation: i64, #[case] on_loss: OnDataLoss, #[case] start: Start) {
        let assigned = Assigned { partition: 3, low: 10, high: 90, start_from: 50 };
        assert_eq!(decide(assigned, &stored.iter().copied().collect(), incarnation, on_loss), start);
    }
}
