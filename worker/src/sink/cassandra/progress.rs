//! The rows of the progress table. Among several writers the furthest wins: a row's write time is its epoch and offset, so that what a worker that was stopped
//! for a while writes afterwards changes nothing. No lightweight transaction ever touches them, since those bring write times of their own.

use std::time::{SystemTime, UNIX_EPOCH};

use scylla::value::CqlTimestamp;
use tapeline_api::names::SqlName;
use tapeline_api::progress::PROGRESS_TABLE;

use crate::sink::{Progress, ProgressKey};

/// An epoch has room for this many offsets.
const EPOCH_BITS: u32 = 44;

/// The progress of a query in a topic.
pub(super) fn select_progress(keyspace: &SqlName) -> String {
    format!("SELECT partition, epoch, next_offset, write_time FROM {}.{PROGRESS_TABLE} WHERE kafka_cluster = ? AND query = ? AND topic = ?", keyspace.quoted())
}

/// What [`insert_progress`] takes.
pub(super) type ProgressRow<'a> = (&'a str, &'a str, &'a str, i32, i64, i64, i64, &'a str, &'a str, CqlTimestamp, i64);

/// Stores a row, unless one that is further is there.
pub(super) fn insert_progress(keyspace: &SqlName) -> String {
    format!(
        "INSERT INTO {}.{PROGRESS_TABLE} (kafka_cluster, query, topic, partition, epoch, next_offset, write_time, sink_table, plan_hash, updated_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?",
        keyspace.quoted()
    )
}

/// The values of a row. None if epoch or offset are beyond what a write time can hold.
pub(super) fn progress_row(key: &ProgressKey, partition: i32, progress: Progress) -> Option<ProgressRow<'_>> {
    let Progress { epoch, next_offset, write_time } = progress;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
    Some((
        &key.kafka_cluster,
        &key.query,
        &key.topic,
        partition,
        epoch,
        next_offset,
        write_time,
        &key.sink_table,
        &key.plan_hash,
        CqlTimestamp(now),
        row_time(progress)?,
    ))
}

/// The write time of the row: epoch * 2^44 + offset.
fn row_time(progress: Progress) -> Option<i64> {
    let fits = (0..1 << EPOCH_BITS).contains(&progress.next_offset) && (0..1 << (i64::BITS - 1 - EPOCH_BITS)).contains(&progress.epoch);
    fits.then(|| (progress.epoch << EPOCH_BITS) + progress.next_offset)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const fn at(epoch: i64, next_offset: i64) -> Progress {
        Progress { epoch, next_offset, write_time: 5 }
    }

    #[rstest]
    #[case(at(0, 0), Some(0))]
    #[case(at(0, 7), Some(7))]
    #[case(at(3, 7), Some(3 * 17_592_186_044_416 + 7))]
    #[case(at(524_287, 17_592_186_044_415), Some(i64::MAX))]
    #[case(at(524_288, 0), None)]
    #[case(at(0, 17_592_186_044_416), None)]
    #[case(at(-1, 0), None)]
    #[case(at(0, -1), None)]
    fn the_furthest_progress_is_written_last(#[case] progress: Progress, #[case] expected: Option<i64>) {
        assert_eq!(row_time(progress), expected);
    }
}
