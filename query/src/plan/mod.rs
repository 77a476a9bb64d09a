//! SQL over a stream: checked once, run once for each micro-batch.

mod check;
mod context;
mod digits;
mod merge;
mod names;
mod not_null;
mod physical;
mod reference_table;
mod row_wise;
mod run;
mod session;
mod stream_table;

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::references::ReferenceTable;
use tapeline_api::pipeline::streams::Stream;

pub use check::check;
pub use merge::{Merge, order_column};
pub use reference_table::reference_schema;
pub use run::{MicroBatch, RunError};

use crate::functions::BatchClock;
use reference_table::Rows;
use stream_table::Slot;

/// What a query may name.
#[derive(Debug, Clone, Copy)]
pub struct Tables<'a> {
    /// The streams, of which it reads one.
    pub streams: &'a [Stream],
    /// The references, which it may join with it.
    pub references: &'a [ReferenceTable],
}

/// Why SQL is refused. The text stands behind the path of the field (`spec.queries[1].sql: ..`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// It is not SQL.
    #[error("{0}")]
    Syntax(String),
    /// It is not one SELECT.
    #[error("a query is one SELECT; this is {0}")]
    NotOneSelect(String),
    /// It names a table that is neither a stream nor a reference.
    #[error("no stream or reference \"{name}\"{hint}")]
    NoSuchTable {
        /// The name.
        name: String,
        /// A near miss.
        hint: String,
    },
    /// It does not read exactly one stream once.
    #[error("a query reads exactly one stream, once; this one reads {0}")]
    NotOneStream(String),
    /// It names a column that the table does not have.
    #[error("no column \"{name}\" in {kind} \"{table}\"{hint}")]
    NoSuchColumn {
        /// The name.
        name: String,
        /// Stream or reference.
        kind: &'static str,
        /// The table.
        table: String,
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
    /// A name that columns of two tables have.
    #[error("column \"{0}\" is in more than one table: write the table's name in front of it")]
    Ambiguous(String),
    /// It does more than handling each row by itself, and its sink takes no other query. Says what, as "it aggregates rows (GROUP BY)".
    #[error("{0}")]
    NotRowWise(String),
    /// Its groups cannot be merged. Says why and what to do, as "column "mean" is avg(price), whose parts cannot be merged; ..".
    #[error("{0}")]
    NotMergeable(String),
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
    /// Digits behind the point that its values can have: of the fraction of a second for a timestamp, of a decimal; 0 for other types. A key of mode Merge may have fewer
    /// than its type would let it.
    pub digits: u8,
}

/// A query that was checked and can be run.
#[derive(Clone)]
pub struct CheckedQuery {
    stream: SqlName,
    output: Vec<OutputColumn>,
    merge: Vec<Merge>,
    is_row_wise: bool,
    plan: LogicalPlan,
    state: SessionState,
    slot: Arc<Slot>,
    references: Vec<(SqlName, Arc<Rows>)>,
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

    /// Whether each row is handled by itself (projection, filter, join with a reference, nothing random), so that a sink may overwrite what a repeated row wrote. Then
    /// the columns of [`crate::schema::hidden`] follow the output columns.
    #[must_use]
    pub const fn is_row_wise(&self) -> bool {
        self.is_row_wise
    }

    /// How each output column is merged; empty unless it was checked for [`tapeline_api::pipeline::queries::Takes::Mergeable`]. Then a column [`order_column`] follows the
    /// output columns for each of them that [has one](Merge::has_order), in their order.
    #[must_use]
    pub fn merge(&self) -> &[Merge] {
        &self.merge
    }

    /// The references that it reads.
    pub fn references(&self) -> impl Iterator<Item = &SqlName> {
        self.references.iter().map(|(name, _)| name)
    }

    /// Gives a reference its rows, with the schema of [`reference_schema`]: the next micro-batch has them. A reference that it does not read is passed over.
    pub fn set_reference(&self, name: &SqlName, rows: arrow::array::RecordBatch) {
        if let Some((_, reference)) = self.references.iter().find(|(known, _)| known == name) {
            reference.put(rows);
        }
    }

    /// Whether it reads a column of the stream: one that it does not read need not be filled.
    #[must_use]
    pub fn reads(&self, column: &str) -> bool {
        let mut found = false;
        let _ = self.plan.apply(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                found |= scan.table_name.table() == self.stream.as_str() && scan.projected_schema.has_column_with_unqualified_name(column);
            }
            Ok(TreeNodeRecursion::Continue)
        });
        found
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
