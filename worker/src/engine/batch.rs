//! The open micro-batch.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use tapeline_query::decode::BadRecord;
use tapeline_query::plan::{MicroBatch, RunError};
use tokio::time::Instant;

use crate::consumer::{SourceChunk, Step};

/// Records of the open micro-batch, and how many of them cannot be read or stored.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) records: u64,
    pub(super) bad: u64,
}

/// Most of the records of a micro-batch are bad: from so many on it is not chance.
const ENOUGH: u64 = 1000;

impl Tally {
    /// Whether at least half of the records, and of at least a thousand, are bad.
    pub(super) const fn is_mostly_bad(self) -> bool {
        self.records >= ENOUGH && self.bad * 2 >= self.records
    }
}

/// A micro-batch between two cuts.
pub(super) struct Batch {
    pub(super) run: MicroBatch,
    pub(super) steps: BTreeMap<i32, Step>,
    pub(super) rows: u64,
    pub(super) bad: Vec<BadRecord>,
    /// When its first records came.
    pub(super) began: Instant,
    /// Bytes of the bad records, which wait for the cut.
    bad_bytes: usize,
}

/// As much of bad records may wait for the cut.
const BAD_BYTES: usize = 4 << 20;

impl Batch {
    pub(super) fn new(run: MicroBatch) -> Self {
        Self { run, steps: BTreeMap::new(), rows: 0, bad: Vec::new(), began: Instant::now(), bad_bytes: 0 }
    }

    /// Notes a chunk and gives its rows.
    pub(super) fn note(&mut self, chunk: SourceChunk) -> RecordBatch {
        for (partition, step) in chunk.steps {
            self.steps.entry(partition).and_modify(|known| *known = Step { oldest_ms: known.oldest_ms, ..step }).or_insert(step);
        }
        self.rows += chunk.batch.num_rows() as u64;
        self.bad_bytes += chunk.bad.iter().map(|record| record.payload.len()).sum::<usize>();
        self.bad.extend(chunk.bad);
        chunk.batch
    }

    /// Whether bad records alone are a reason to cut.
    pub(super) const fn is_full_of_bad(&self) -> bool {
        self.bad_bytes >= BAD_BYTES
    }

    /// The next rows of the plan. Pending while it has none.
    pub(super) async fn next_rows(batch: &mut Option<Self>) -> Option<Result<RecordBatch, RunError>> {
        match batch {
            Some(batch) => batch.run.output.next().await,
            None => std::future::pending().await,
        }
    }
}
