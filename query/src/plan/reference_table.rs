//! Reference data as DataFusion sees it: a small table in memory. Each micro-batch takes the rows that are there when it begins.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use tapeline_api::pipeline::references::ReferenceTable;

use crate::schema::arrow_type;

/// The schema of reference data: every column may be null.
#[must_use]
pub fn reference_schema(table: &ReferenceTable) -> SchemaRef {
    let fields: Vec<Field> = table.fields.iter().map(|field| Field::new(field.name.as_str(), arrow_type(field.type_), true)).collect();
    Arc::new(Schema::new(fields))
}

/// The rows of one reference; none until they are loaded.
#[derive(Debug)]
pub(super) struct Rows {
    schema: SchemaRef,
    rows: Mutex<RecordBatch>,
}

impl Rows {
    pub(super) fn new(table: &ReferenceTable) -> Self {
        let schema = reference_schema(table);
        Self { rows: Mutex::new(RecordBatch::new_empty(Arc::clone(&schema))), schema }
    }

    pub(super) fn put(&self, rows: RecordBatch) {
        *self.rows.lock().unwrap_or_else(PoisonError::into_inner) = rows;
    }

    fn now(&self) -> RecordBatch {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The table over the rows.
#[derive(Debug)]
pub(super) struct ReferenceProvider(pub(super) Arc<Rows>);

#[async_trait::async_trait]
impl TableProvider for ReferenceProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(&self, _: &dyn Session, projection: Option<&Vec<usize>>, _: &[Expr], _: Option<usize>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(MemorySourceConfig::try_new_exec(&[vec![self.0.now()]], self.schema(), projection.cloned())?)
    }
}
