//! Where a partition begins: at its stored progress, or, where there is none, at its start; and what it means when the records in between are gone.

use std::collections::BTreeMap;

use tapeline_api::pipeline::streams::OnDataLoss;

use crate::consumer::Assigned;
use crate::sink::Progress;

/// Epochs that one creation of the topic has for accepted losses. Cassandra orders progress by `epoch * 2^44 + offset`, which leaves 2^19 epochs in all.
const EPOCHS_PER_INCARNATION: i64 = 64;

/// The epoch in which the `incarnation`-th creation of a topic begins.
pub(super) const fn first_epoch(incarnation: i64) -> i64 {
    incarnation * EPOCHS_PER_INCARNATION
}

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
    let Assigned { partition, low, high } = assigned;
    let first_epoch = first_epoch(incarnation);
    let Some(progress) = stored.get(&partition) else {
        // The query's first partition, or one that was added later: from its start, or what came before its assignment is missing.
        let epoch = stored.values().map(|progress| progress.epoch).max().unwrap_or(0).max(first_epoch);
        return Start::StoreThenAt(Progress { epoch, next_offset: low, write_time: 0 });
    };
    if progress.epoch < first_epoch {
        // The operator created the topic anew, and has said so: offsets count from the start again. Write times go on rising.
        return Start::StoreThenAt(Progress { epoch: first_epoch, next_offset: low, write_time: progress.write_time });
    }
    let lost = Start::Lost { wanted: progress.next_offset, low, high };
    match (on_loss, progress.next_offset) {
        (_, next) if (low..=high).contains(&next) => Start::At(*progress),
        (OnDataLoss::Stop, _) => lost,
        // Deleted by retention.
        (OnDataLoss::Continue, next) if next < low => Start::StoreThenAt(Progress { next_offset: low, ..*progress }),
        // Cut at its end by an unclean leader election; or created anew, of which the operator says nothing where the topic is not its own.
        (OnDataLoss::Continue, _) if progress.epoch + 1 < first_epoch + EPOCHS_PER_INCARNATION => {
            Start::StoreThenAt(Progress { epoch: progress.epoch + 1, next_offset: if incarnation > 0 { high } else { low }, ..*progress })
        }
        (OnDataLoss::Continue, _) => lost,
    }
}

/// Whether the ends of `assigned` are older than the progress that was read after them: then they are to be asked for again. Another worker may have read and stored what
/// came in between, as when this one stood still; only an end that was asked for after progress above it was seen shows that records are gone. `above` remembers such
/// progress from one time to the next.
pub(super) fn ends_are_old(assigned: &[Assigned], stored: &BTreeMap<i32, Progress>, incarnation: i64, above: &mut BTreeMap<i32, i64>) -> bool {
    let mut are_old = false;
    for &Assigned { partition, high, .. } in assigned {
        let progress = stored.get(&partition).filter(|progress| progress.epoch >= first_epoch(incarnation) && progress.next_offset > high);
        let Some(progress) = progress else {
            above.remove(&partition);
            continue;
        };
        let seen = above.insert(partition, progress.next_offset);
        are_old |= seen.is_none_or(|seen| seen <= high);
    }
    are_old
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const fn progress(epoch: i64, next_offset: i64) -> Progress {
        Progress { epoch, next_offset, write_time: 7 }
    }

    #[rstest]
    #[case::first(&[], 1, OnDataLoss::Stop, Start::StoreThenAt(Progress { epoch: 64, next_offset: 10, write_time: 0 }))]
    #[case::added_later(&[(0, progress(64, 5))], 1, OnDataLoss::Stop, Start::StoreThenAt(Progress { epoch: 64, next_offset: 10, write_time: 0 }))]
    #[case::goes_on(&[(3, progress(64, 20))], 1, OnDataLoss::Stop, Start::At(progress(64, 20)))]
    #[case::at_the_end(&[(3, progress(64, 90))], 1, OnDataLoss::Stop, Start::At(progress(64, 90)))]
    #[case::deleted_by_retention(&[(3, progress(64, 5))], 1, OnDataLoss::Stop, Start::Lost { wanted: 5, low: 10, high: 90 })]
    #[case::above_the_end(&[(3, progress(64, 91))], 1, OnDataLoss::Stop, Start::Lost { wanted: 91, low: 10, high: 90 })]
    #[case::deletion_accepted(&[(3, progress(64, 5))], 1, OnDataLoss::Continue, Start::StoreThenAt(progress(64, 10)))]
    #[case::truncation_accepted(&[(3, progress(64, 91))], 1, OnDataLoss::Continue, Start::StoreThenAt(progress(65, 90)))]
    #[case::another_s_topic(&[(3, progress(0, 91))], 0, OnDataLoss::Continue, Start::StoreThenAt(progress(1, 10)))]
    #[case::too_often(&[(3, progress(127, 91))], 1, OnDataLoss::Continue, Start::Lost { wanted: 91, low: 10, high: 90 })]
    #[case::created_anew(&[(3, progress(127, 20))], 2, OnDataLoss::Stop, Start::StoreThenAt(progress(128, 10)))]
    fn starts(#[case] stored: &[(i32, Progress)], #[case] incarnation: i64, #[case] on_loss: OnDataLoss, #[case] start: Start) {
        let assigned = Assigned { partition: 3, low: 10, high: 90 };
        assert_eq!(decide(assigned, &stored.iter().copied().collect(), incarnation, on_loss), start);
    }

    #[test]
    fn only_an_end_that_was_asked_for_after_the_progress_was_seen_shows_a_loss() {
        let mut above = BTreeMap::new();
        let mut look = |high, next_offset| {
            let assigned = [Assigned { partition: 3, low: 0, high }, Assigned { partition: 4, low: 0, high: 5 }];
            ends_are_old(&assigned, &BTreeMap::from([(3, progress(64, next_offset)), (4, progress(64, 5))]), 1, &mut above)
        };
        assert!(look(29, 104), "this worker stood still, and another went on");
        assert!(look(110, 120), "and still does");
        assert!(!look(130, 125), "now it is this one's turn");
        assert!(look(90, 104), "the end is asked for again");
        assert!(!look(90, 104), "and is the same: records are gone");
        assert!(
            !ends_are_old(&[Assigned { partition: 3, low: 0, high: 9 }], &BTreeMap::from([(3, progress(64, 104))]), 2, &mut BTreeMap::new()),
            "a new topic"
        );
    }
}
