//! The open micro-batch.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use tapeline_query::decode::BadRecord;
use tapeline_query::plan::{MicroBatch, RunError};

use crate::consumer::{SourceChunk, Step};

/// A micro-batch between two cuts.
pub(super) struct Batch {
    pub(super) run: MicroBatch,
    pub(super) steps: BTreeMap<i32, Step>,
    pub(super) rows: u64,
    pub(super) bad: Vec<BadRecord>,
}

/// Most of the records of a micro-batch are bad: from so many on it is not chance.
const ENOUGH: u64 = 1000;

impl Batch {
    pub(super) const fn new(run: MicroBatch) -> Self {
        Self { run, steps: BTreeMap::new(), rows: 0, bad: Vec::new() }
    }

    /// Notes a chunk and gives its rows.
    pub(super) fn note(&mut self, chunk: SourceChunk) -> RecordBatch {
        for (partition, step) in chunk.steps {
            self.steps.entry(partition).and_modify(|known| *known = Step { oldest_ms: known.oldest_ms, ..step }).or_insert(step);
        }
        self.rows += chunk.batch.num_rows() as u64;
        self.bad.extend(chunk.bad);
        chunk.batch
    }

    /// Whether at least half of the records, and of at least a thousand, are bad.
    pub(super) fn is_mostly_bad(&self) -> bool {
        let bad = self.bad.len() as u64;
        bad + self.rows >= ENOUGH && bad >= self.rows
    }

    /// The next rows of the plan. Pending while it has none.
    pub(super) async fn next_rows(batch: &mut Option<Self>) -> Option<Result<RecordBatch, RunError>> {
        match batch {
            Some(batch) => batch.run.output.next().await,
            None => std::future::pending().await,
        }
    }
}
