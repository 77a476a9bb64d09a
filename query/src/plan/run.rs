//! One micro-batch: record batches in as they arrive, rows out as they are ready, the rest when the input ends.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::physical_plan::{SendableRecordBatchStream, execute_stream};
use futures::StreamExt;
use tokio::sync::mpsc;

use super::CheckedQuery;
use crate::one_line;

/// Record batches between the consumer and the plan.
const INPUT_BATCHES: usize = 2;

/// A micro-batch that failed. Nothing of it may be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The plan needed more memory than it may have: read it again in smaller micro-batches.
    #[error("the micro-batch needs more memory than it may have")]
    OutOfMemory,
    /// The plan failed, for example by dividing by zero.
    #[error("the query failed: {0}")]
    Failed(String),
}

impl From<DataFusionError> for RunError {
    fn from(error: DataFusionError) -> Self {
        match error.find_root() {
            DataFusionError::ResourcesExhausted(_) => Self::OutOfMemory,
            root => Self::Failed(one_line(root)),
        }
    }
}

/// A running micro-batch: its input, and its output, which has to be polled for the input to move.
pub struct MicroBatch {
    /// Takes batches of [`CheckedQuery::table_schema`]. Dropping it ends the micro-batch.
    pub input: mpsc::Sender<RecordBatch>,
    /// Gives rows: the output columns in the types of [`crate::sink::Canonical`], then the hidden columns of a row-wise query, or the order columns of a merged one.
    pub output: MicroBatchOutput,
}

/// The rows of a micro-batch.
pub struct MicroBatchOutput(SendableRecordBatchStream);

impl MicroBatchOutput {
    /// The next rows, or None at the end.
    ///
    /// # Errors
    /// The micro-batch failed.
    pub async fn next(&mut self) -> Option<Result<RecordBatch, RunError>> {
        Some(self.0.next().await?.map_err(RunError::from))
    }
}

impl CheckedQuery {
    /// Begins a micro-batch. Only one may run at a time.
    ///
    /// # Errors
    /// The plan cannot be made, which its check rules out.
    pub async fn start(&self) -> Result<MicroBatch, RunError> {
        let (input, receiver) = mpsc::channel(INPUT_BATCHES);
        self.slot.put(receiver);
        let plan = self.state.query_planner().create_physical_plan(&self.plan, &self.state).await?;
        let output = execute_stream(plan, self.state.task_ctx())?;
        Ok(MicroBatch { input, output: MicroBatchOutput(output) })
    }

    /// Sets what `now()` gives, in microseconds since 1970: when a micro-batch is opened, and again at its cut.
    pub fn set_now(&self, micros: i64) {
        self.clock.set(micros);
    }

    /// Bytes that the running micro-batch holds.
    #[must_use]
    pub fn memory(&self) -> usize {
        let pool: &Arc<dyn MemoryPool> = &self.state.runtime_env().memory_pool;
        pool.reserved()
    }

    /// The share of its memory from which on a micro-batch should be cut early, in bytes.
    #[must_use]
    pub const fn soft_memory_limit() -> usize {
        super::session::MEMORY_LIMIT / 2
    }
}
