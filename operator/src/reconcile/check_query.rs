//! The one place where the operator asks `tapeline-query`: whether SQL runs over the streams, and whether what it gives fits a table.

use tapeline_api::pipeline::cassandra::CassandraTable;
use tapeline_api::pipeline::mysql::MySqlTable;
use tapeline_api::pipeline::streams::Stream;
use tapeline_query::plan::OutputColumn;
pub use tapeline_query::sink::TableColumn;

/// What the operator needs to know of a query that runs. The plan itself is dropped: it holds a whole session of the engine.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The stream that it reads.
    pub stream: String,
    /// The columns that it gives.
    pub output: Vec<OutputColumn>,
    /// Why it does not handle each row by itself, if so.
    pub not_row_wise: Option<String>,
}

/// Checks `sql` against the streams.
///
/// # Errors
/// What is wrong with it, in words for its author.
pub fn check(streams: &[Stream], sql: &str) -> Result<Checked, String> {
    let checked = tapeline_query::plan::check(streams, sql).map_err(|error| error.to_string())?;
    Ok(Checked { stream: checked.stream_name().to_string(), output: checked.output().to_vec(), not_row_wise: checked.is_row_wise().err() })
}

/// What of the output does not fit `columns`.
#[must_use]
pub fn mismatches(checked: &Checked, table: &str, columns: &[TableColumn]) -> Vec<String> {
    tapeline_query::sink::mismatches(&checked.output, table, columns)
}

/// The columns of a declared Cassandra table.
#[must_use]
pub fn cassandra_columns(table: &CassandraTable) -> Vec<TableColumn> {
    let is_key = |name| table.partition_key.contains(name) || table.clustering_key.iter().any(|key| key.column == *name);
    table.columns.iter().map(|column| TableColumn::cassandra(column.name.as_str(), column.type_, is_key(&column.name))).collect()
}

/// The columns of a declared MySQL table.
#[must_use]
pub fn mysql_columns(table: &MySqlTable) -> Vec<TableColumn> {
    table
        .columns
        .iter()
        .map(|column| {
            let key = table.primary_key.contains(&column.name);
            TableColumn::mysql(column.name.as_str(), column.type_, column.auto_increment || (column.nullable && !key), key)
        })
        .collect()
}
