//! Tables that queries and producers name and that the pipeline does not declare: they are described with the others, and neither planned nor changed.

use std::collections::BTreeSet;

use tapeline_api::TradingPipelineSpec;
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::cassandra::CassandraTable;
use tapeline_api::pipeline::mysql::MySqlTable;

use super::check_query::TableColumn;
use crate::external::{cassandra, mysql};

/// Cassandra tables that only queries name.
#[must_use]
pub(super) fn cassandra(spec: &TradingPipelineSpec) -> BTreeSet<SqlName> {
    let declared = |name: &SqlName| spec.cassandra.iter().flat_map(|cassandra| &cassandra.tables).any(|table| table.name == *name);
    let sinks = spec.queries.iter().filter_map(|query| query.sink.cassandra.as_ref()).map(|sink| &sink.table);
    sinks.filter(|name| !declared(name)).cloned().collect()
}

/// MySQL tables that only queries and producers name.
#[must_use]
pub(super) fn mysql(spec: &TradingPipelineSpec) -> BTreeSet<SqlName> {
    let declared = |name: &SqlName| spec.mysql.iter().flat_map(|mysql| &mysql.tables).any(|table| table.name == *name);
    let sinks = spec.queries.iter().filter_map(|query| query.sink.mysql.as_ref()).map(|sink| &sink.table);
    let symbols = spec.producers.iter().filter_map(|producer| {
        let simulate = producer.source.simulate.as_ref().map(|simulate| &simulate.symbols_from);
        let symbols = simulate.or_else(|| producer.source.replay.as_ref()?.symbols_from.as_ref())?;
        Some(&symbols.mysql.table)
    });
    sinks.chain(symbols).filter(|name| !declared(name)).cloned().collect()
}

/// `desired` with tables that are only asked for by name, for `describe`.
#[must_use]
pub(super) fn with_cassandra(desired: &cassandra::Desired, names: &BTreeSet<SqlName>) -> cassandra::Desired {
    let mut asked = desired.clone();
    asked.tables.extend(names.iter().map(|name| cassandra::DesiredTable {
        table: CassandraTable { name: name.clone(), columns: Vec::new(), partition_key: Vec::new(), clustering_key: Vec::new(), ttl: None },
        field: String::new(),
    }));
    asked
}

/// `desired` with tables that are only asked for by name, for `describe`.
#[must_use]
pub(super) fn with_mysql(desired: &mysql::Desired, names: &BTreeSet<SqlName>) -> mysql::Desired {
    let mut asked = desired.clone();
    asked.tables.extend(names.iter().map(|name| mysql::DesiredTable {
        table: MySqlTable { name: name.clone(), columns: Vec::new(), primary_key: Vec::new(), indexes: Vec::new(), rows_from: None },
        field: String::new(),
        rows: None,
    }));
    asked
}

/// The columns of a table that was looked up.
#[must_use]
pub(super) fn cassandra_columns(actual: &cassandra::Actual, name: &SqlName) -> Option<Vec<TableColumn>> {
    let table = actual.tables.get(name)?;
    let is_key = |column: &str| table.partition_key.iter().any(|key| key == column) || table.clustering_key.iter().any(|(key, _)| key == column);
    let column = |(name, shape): (&String, &cassandra::ColumnShape)| match shape.type_ {
        Some(type_) => TableColumn::cassandra(name, type_, is_key(name)),
        None => TableColumn { name: name.clone(), type_name: shape.type_text.clone(), takes: Vec::new(), optional: !is_key(name), key: is_key(name) },
    };
    Some(table.columns.iter().map(column).collect())
}

/// The columns of a table that was looked up. One that MySQL computes takes nothing.
#[must_use]
pub(super) fn mysql_columns(actual: &mysql::Actual, name: &SqlName) -> Option<Vec<TableColumn>> {
    let table = actual.tables.get(name)?;
    let column = |shape: &mysql::ColumnShape| {
        let key = table.primary_key.contains(&shape.name);
        let optional = shape.auto_increment || shape.has_default || shape.generated || (shape.nullable && !key);
        match shape.type_.filter(|_| !shape.generated) {
            Some(type_) => TableColumn::mysql(&shape.name, type_, optional, key),
            None => TableColumn { name: shape.name.clone(), type_name: shape.type_text.clone(), takes: Vec::new(), optional, key },
        }
    };
    Some(table.columns.iter().map(column).collect())
}
