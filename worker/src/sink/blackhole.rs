//! The sink for measuring: rows are counted and dropped, progress lives in this process only.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;

use super::{Advance, Beginning, Progress, Sink, SinkError};
use crate::dead_letters::DeadLetter;

/// Counts rows.
#[derive(Debug, Default)]
pub struct BlackholeSink {
    progress: BTreeMap<i32, Progress>,
    rows: u64,
}

impl Sink for BlackholeSink {
    async fn read_progress(&mut self) -> Result<BTreeMap<i32, Progress>, SinkError> {
        Ok(self.progress.clone())
    }

    async fn store_starts(&mut self, beginnings: &[Beginning]) -> Result<(), SinkError> {
        self.progress.extend(beginnings.iter().map(|beginning| (beginning.partition, beginning.start)));
        Ok(())
    }

    fn push(&mut self, rows: RecordBatch) {
        self.rows += rows.num_rows() as u64;
    }

    fn is_full(&self) -> bool {
        false
    }

    async fn drain(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    async fn commit(&mut self, advances: &[Advance], _letters: &[DeadLetter]) -> Result<u64, SinkError> {
        self.progress.extend(advances.iter().map(|advance| (advance.partition, advance.to)));
        Ok(std::mem::take(&mut self.rows))
    }

    fn discard(&mut self) {
        self.rows = 0;
    }
}
