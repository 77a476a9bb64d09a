//! The write time of a row in Cassandra: what makes writing it a second time harmless, and a later record of the same key win.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How far ahead of this machine's clock a message's timestamp may be before it counts as absent.
const AHEAD: Duration = Duration::from_hours(1);
/// Write times of different partitions differ in their rest by this, so that two rows of one key never tie.
const STEP: i64 = 16;

/// Gives write times in microseconds, rising within each partition: the message's timestamp, or one more than the last.
///
/// They are a function of the partition's records and the last write time before them, which is stored with progress; so reading the same records again gives
/// the same write times. (A rule by `offset % 1000` would not rise.)
#[derive(Debug, Default)]
pub struct WriteTimes {
    last: HashMap<i32, i64>,
}

impl WriteTimes {
    /// Goes on behind `last` in `partition`: at assignment, from stored progress.
    pub fn resume(&mut self, partition: i32, last: i64) {
        self.last.insert(partition, last);
    }

    /// The last write time given in `partition`.
    #[must_use]
    pub fn last(&self, partition: i32) -> i64 {
        self.last.get(&partition).copied().unwrap_or(0)
    }

    /// Write times for the next `count` rows, all of one message.
    pub(super) fn next(&mut self, partition: i32, timestamp_ms: Option<i64>, count: usize) -> Vec<i64> {
        let latest = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_add(AHEAD).as_millis();
        let stamp = timestamp_ms.filter(|&ms| ms >= 0 && u128::try_from(ms).is_ok_and(|ms| ms <= latest)).map_or(0, |ms| ms.saturating_mul(1000));
        let last = self.last.entry(partition).or_insert(0);
        let rest = i64::from(partition).rem_euclid(STEP);
        (0..count)
            .map(|_| {
                let least = stamp.max(last.saturating_add(1));
                *last = least + (rest - least).rem_euclid(STEP);
                *last
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_rise_and_keep_the_partition_as_their_rest() {
        let mut times = WriteTimes::default();
        let given = times.next(3, Some(1_000), 3);
        assert_eq!(given, [1_000_003, 1_000_019, 1_000_035]);
        assert_eq!(times.next(3, Some(1_000), 1), [1_000_051], "the same timestamp again is later all the same");
        assert_eq!(times.next(3, None, 1), [1_000_067], "so is a record without one");
        assert!(times.next(19, Some(1_000), 1).iter().all(|time| time % 16 == 3));
    }

    #[test]
    fn the_same_records_behind_the_same_last_give_the_same() {
        let mut first = WriteTimes::default();
        first.resume(1, 77);
        let mut second = WriteTimes::default();
        second.resume(1, 77);
        assert_eq!(first.next(1, Some(5), 4), second.next(1, Some(5), 4));
        assert_eq!(first.last(1), second.last(1));
    }

    #[test]
    fn a_timestamp_from_the_future_counts_as_absent() {
        let mut times = WriteTimes::default();
        let year_9999_ms = 253_370_764_800_000;
        assert_eq!(times.next(0, Some(year_9999_ms), 1), [16]);
    }
}
