//! The stream as DataFusion sees it: a table of one partition whose rows come from a channel that each micro-batch puts into the slot anew.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::exec_datafusion_err;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::StreamExt;
use tokio::sync::mpsc;

/// Where the next execution of the plan finds its input.
#[derive(Debug)]
pub(super) struct Slot {
    schema: SchemaRef,
    input: Mutex<Option<mpsc::Receiver<RecordBatch>>>,
}

impl Slot {
    pub(super) const fn new(schema: SchemaRef) -> Self {
        Self { schema, input: Mutex::new(None) }
    }

    pub(super) fn put(&self, input: mpsc::Receiver<RecordBatch>) {
        *self.input.lock().unwrap_or_else(PoisonError::into_inner) = Some(input);
    }
}

impl PartitionStream for Slot {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let input = self.input.lock().unwrap_or_else(PoisonError::into_inner).take();
        let schema = Arc::clone(&self.schema);
        if let Some(input) = input {
            let rows = futures::stream::unfold(input, |mut input| async move { input.recv().await.map(|batch| (Ok(batch), input)) });
            Box::pin(RecordBatchStreamAdapter::new(schema, rows))
        } else {
            let error = exec_datafusion_err!("the stream was read twice in one micro-batch");
            Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::once(async { Err(error) }).boxed()))
        }
    }
}

/// The table over the slot.
#[derive(Debug)]
pub(super) struct StreamTable(pub(super) Arc<Slot>);

#[async_trait::async_trait]
impl TableProvider for StreamTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(&self, _: &dyn Session, projection: Option<&Vec<usize>>, _: &[Expr], limit: Option<usize>) -> Result<Arc<dyn ExecutionPlan>> {
        let partitions: Vec<Arc<dyn PartitionStream>> = vec![Arc::clone(&self.0) as _];
        // Not `infinite`: a micro-batch ends, and an aggregate gives its groups then.
        Ok(Arc::new(StreamingTableExec::try_new(self.schema(), partitions, projection, None, false, limit)?))
    }
}
