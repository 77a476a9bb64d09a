//! SQL over a stream: checked once, run once for each micro-batch.

mod check;
mod row_wise;
mod run;
mod stream_table;

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use tapeline_api::names::SqlName;

pub use check::check;
pub use run::{MicroBatch, RunError};

use crate::functions::BatchClock;
use stream_table::Slot;

/// Why SQL is refused. The text stands behind the path of the field (`spec.queries[1].sql: ..`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// It is not SQL.
    #[error("{0}")]
    Syntax(String),
    /// It is not one SELECT.
    #[error("a query is one SELECT; this is {0}")]
    NotOneSelect(String),
    /// It names a table that is none of the streams.
    #[error("no stream \"{name}\"{hint}")]
    NoSuchStream {
        /// The name.
        name: String,
        /// A near miss.
        hint: String,
    },
    /// It does not read exactly one stream once.
    #[error("a query reads exactly one stream, once; this one reads {0}")]
    NotOneStream(String),
    /// It names a column that the stream does not have.
    #[error("no column \"{name}\" in stream \"{stream}\"{hint}")]
    NoSuchColumn {
        /// The name.
        name: String,
        /// The stream.
        stream: String,
        /// A near miss.
        hint: String,
    },
    /// A part of SQL that cannot be right over micro-batches.
    #[error("{what} cannot be used in a query over a stream: {why}")]
    Unsupported {
        /// The part of SQL.
        what: &'static str,
        /// The reason and the way out.
        why: &'static str,
    },
    /// An output column without a usable name.
    #[error("output column {position} ({expression}) needs a name that a table's column can have: write {expression} AS name")]
    UnnamedOutput {
        /// From 1.
        position: usize,
        /// The expression.
        expression: String,
    },
    /// Two output columns of one name.
    #[error("two output columns are called \"{0}\"; give one of them another name with AS")]
    DuplicateOutput(String),
    /// An output column of a type that no table can hold.
    #[error("output column \"{name}\" is a {data_type}, which no table can hold; pick a part of it")]
    UnsupportedOutput {
        /// The column.
        name: String,
        /// Its type.
        data_type: String,
    },
    /// Anything else that the planner found.
    #[error("{0}")]
    Planning(String),
}

/// A column that a query gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputColumn {
    /// Its name, which is that of the sink's column.
    pub name: String,
    /// Its type, before the cast to one of [`crate::sink::Canonical`].
    pub data_type: DataType,
    /// Whether it can be null.
    pub nullable: bool,
}

/// A query that was checked and can be run.
#[derive(Clone)]
pub struct CheckedQuery {
    stream: SqlName,
    output: Vec<OutputColumn>,
    not_row_wise: Option<String>,
    plan: LogicalPlan,
    state: SessionState,
    slot: Arc<Slot>,
    clock: BatchClock,
    table_schema: SchemaRef,
}

impl std::fmt::Debug for CheckedQuery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckedQuery").field("stream", &self.stream).field("output", &self.output).finish_non_exhaustive()
    }
}

impl CheckedQuery {
    /// The stream that it reads.
    #[must_use]
    pub const fn stream_name(&self) -> &SqlName {
        &self.stream
    }

    /// The columns that it gives, in order, without the hidden ones.
    #[must_use]
    pub fn output(&self) -> &[OutputColumn] {
        &self.output
    }

    /// Whether each row is handled by itself (projection and filter, nothing random), so that a sink may overwrite what a repeated row wrote.
    ///
    /// # Errors
    /// Says what it does instead, as "it aggregates rows (GROUP BY)".
    pub fn is_row_wise(&self) -> Result<(), String> {
        self.not_row_wise.clone().map_or(Ok(()), Err)
    }

    /// The schema of the batches that [`MicroBatch::push`] takes.
    #[must_use]
    pub const fn table_schema(&self) -> &SchemaRef {
        &self.table_schema
    }

    /// 16 hexadecimal digits that change when the query gives other columns or computes them otherwise.
    #[must_use]
    pub fn hash(&self) -> String {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        self.plan.display_indent_schema().to_string().hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }
}
