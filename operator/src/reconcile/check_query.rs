//! The one place where the operator asks `tapeline-query`: whether SQL runs over the streams and references, and whether what it gives fits a table.

use tapeline_api::names::SqlName;
use tapeline_api::pipeline::cassandra::CassandraTable;
use tapeline_api::pipeline::mysql::{MySqlColumn, MySqlTable};
use tapeline_api::pipeline::queries::Target;
use tapeline_api::types::MySqlType;
pub use tapeline_query::plan::Tables;
use tapeline_query::plan::{CheckError, Merge, OutputColumn, order_column};
pub use tapeline_query::sink::{TableColumn, unfit};
use tapeline_query::sink::{rounded_keys, rounded_sums};

/// What the operator needs to know of a query that runs. The plan itself is dropped: it holds a whole session of the engine.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The stream that it reads.
    pub stream: String,
    /// The references that it joins.
    pub references: Vec<SqlName>,
    /// The columns that it gives.
    pub output: Vec<OutputColumn>,
    /// How each is merged; empty for other modes.
    pub merge: Vec<Merge>,
}

/// Checks `sql` against the streams and references, for the sink `target`.
///
/// # Errors
/// What is wrong with it, in words for its author.
pub fn check(tables: Tables<'_>, sql: &str, target: Target<'_>) -> Result<Checked, String> {
    let checked = tapeline_query::plan::check(tables, sql, target.takes()).map_err(|error| match error {
        CheckError::NotRowWise(why) => format!(
            "{} handles each row by itself, but {why}: a batch that is read again would overwrite what the first one wrote; use a MySQL table with mode Append, or Merge",
            target.described()
        ),
        CheckError::NotMergeable(why) => format!("{} merges what each micro-batch aggregated: {why}", target.described()),
        other => other.to_string(),
    })?;
    Ok(Checked {
        stream: checked.stream_name().to_string(),
        references: checked.references().cloned().collect(),
        output: checked.output().to_vec(),
        merge: checked.merge().to_vec(),
    })
}

/// What of the output does not fit `columns`.
#[must_use]
pub fn mismatches(checked: &Checked, table: &str, columns: &[TableColumn]) -> Vec<String> {
    let mut findings = tapeline_query::sink::mismatches(&checked.output, table, columns);
    findings.extend(key_mismatch(checked, table, columns));
    findings.extend(rounded_keys(&checked.output, &checked.merge, table, columns));
    findings.extend(rounded_sums(&checked.output, &checked.merge, table, columns));
    findings
}

/// For mode Merge: the groups are the table's primary key.
fn key_mismatch(checked: &Checked, table: &str, columns: &[TableColumn]) -> Option<String> {
    let groups: Vec<&str> = checked.merged().filter(|(_, kind)| *kind == Merge::Key).map(|(name, _)| name).collect();
    let key: Vec<&str> = columns.iter().filter(|column| column.key).map(|column| column.name.as_str()).collect();
    let same = groups.len() == key.len() && groups.iter().all(|name| key.contains(name));
    (!checked.merge.is_empty() && !same).then(|| {
        format!(
            "the query groups by ({}) and the primary key of table \"{table}\" is ({}): mode Merge needs them to be the same columns; change GROUP BY, or the table",
            groups.join(", "),
            key.join(", ")
        )
    })
}

impl Checked {
    /// Each merged column, and how.
    fn merged(&self) -> impl Iterator<Item = (&str, Merge)> {
        self.output.iter().map(|column| column.name.as_str()).zip(self.merge.iter().copied())
    }

    /// The columns that mode Merge needs beside those that are declared.
    ///
    /// # Errors
    /// A name that gets too long.
    pub fn order_columns(&self) -> Result<Vec<MySqlColumn>, String> {
        let ordered = self.merged().filter(|(_, kind)| kind.has_order());
        ordered
            .map(|(column, _)| {
                let name = order_column(column).parse::<SqlName>();
                let name = name
                    .map_err(|_| format!("column \"{column}\" gets a column \"{column}_order\" beside it, whose name is too long; give it a shorter name"))?;
                Ok(MySqlColumn { name, type_: MySqlType::Binary(24), auto_increment: false, nullable: true })
            })
            .collect()
    }
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
