//! SQL that creates and extends. Names are [`SqlName`]s, which cannot hold anything else, and are quoted all the same.

use tapeline_api::names::SqlName;
use tapeline_api::pipeline::mysql::{Index, MySqlColumn, MySqlTable};

use super::shape::{ColumnShape, TableShape};
use crate::external::ownership::hash;

/// The collation of text in keys: values that differ are different keys, with case, accents and trailing blanks.
pub(super) const KEY_COLLATION: &str = "utf8mb4_0900_bin";

pub(super) fn create_database(database: &SqlName) -> String {
    format!("CREATE DATABASE IF NOT EXISTS {} CHARACTER SET utf8mb4", database.backticked())
}

pub(super) fn qualified(database: &SqlName, table: &SqlName) -> String {
    format!("{}.{}", database.backticked(), table.backticked())
}

pub(super) fn list(columns: &[SqlName]) -> String {
    columns.iter().map(SqlName::backticked).collect::<Vec<_>>().join(", ")
}

/// Whether a column is part of the table's primary key.
pub(super) fn is_key(table: &MySqlTable, column: &SqlName) -> bool {
    table.primary_key.contains(column)
}

/// A column as it is declared.
pub(super) fn column(table: &MySqlTable, column: &MySqlColumn) -> String {
    let key = is_key(table, &column.name);
    let collation = if column.type_.is_text() && key { format!(" COLLATE {KEY_COLLATION}") } else { String::new() };
    define(column, &collation, column.nullable && !key)
}

/// A column with its declared type, and all else as it is.
pub(super) fn widened(table: &MySqlTable, column: &MySqlColumn, actual: &ColumnShape) -> String {
    // From the server's catalogue, but it goes into a statement.
    let safe = |name: &&String| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let collation = actual.collation.as_ref().filter(safe).filter(|_| column.type_.is_text()).map(|name| format!(" COLLATE {name}")).unwrap_or_default();
    let column = MySqlColumn { auto_increment: actual.auto_increment, ..column.clone() };
    define(&column, &collation, (actual.nullable || column.nullable) && !is_key(table, &column.name))
}

fn define(column: &MySqlColumn, collation: &str, nullable: bool) -> String {
    // `NULL` is written too: a timestamp without it is NOT NULL on servers that are set to old ways.
    let null = if nullable { "NULL" } else { "NOT NULL" };
    let auto = if column.auto_increment { " AUTO_INCREMENT" } else { "" };
    format!("{} {}{collation} {null}{auto}", column.name.backticked(), column.type_)
}

pub(super) fn create_table(database: &SqlName, table: &MySqlTable) -> String {
    let mut parts: Vec<String> = table.columns.iter().map(|declared| column(table, declared)).collect();
    parts.push(format!("PRIMARY KEY ({})", list(&table.primary_key)));
    let mut taken = Vec::new();
    for index in &table.indexes {
        let name = index_name(index, &taken);
        parts.push(format!("INDEX `{name}` ({})", list(&index.columns)));
        taken.push(name);
    }
    format!("CREATE TABLE IF NOT EXISTS {} ({}) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4", qualified(database, &table.name), parts.join(", "))
}

pub(super) fn add_column(database: &SqlName, table: &MySqlTable, declared: &MySqlColumn) -> String {
    format!("ALTER TABLE {} ADD COLUMN {}", qualified(database, &table.name), column(table, declared))
}

pub(super) fn modify_columns(database: &SqlName, table: &SqlName, columns: &[String]) -> String {
    let columns: Vec<String> = columns.iter().map(|column| format!("MODIFY COLUMN {column}")).collect();
    format!("ALTER TABLE {} {}", qualified(database, table), columns.join(", "))
}

pub(super) fn add_index(database: &SqlName, table: &SqlName, index: &Index, name: &str) -> String {
    format!("ALTER TABLE {} ADD INDEX `{name}` ({})", qualified(database, table), list(&index.columns))
}

/// The name of an index: its columns, or their hash where that is too long or taken.
pub(super) fn index_name(index: &Index, taken: &[String]) -> String {
    let columns: Vec<&str> = index.columns.iter().map(SqlName::as_str).collect();
    let name = format!("ix_{}", columns.join("_"));
    if name.len() <= 64 && !taken.contains(&name) { name } else { format!("ix_{}", hash(&columns)) }
}

/// Whether an index of the table serves those who search by the columns of `index`.
pub(super) fn has_index(shape: &TableShape, index: &Index) -> bool {
    let wanted: Vec<&str> = index.columns.iter().map(SqlName::as_str).collect();
    let leads = |columns: &[String]| columns.iter().map(String::as_str).take(wanted.len()).eq(wanted.iter().copied());
    leads(&shape.primary_key) || shape.indexes.iter().any(|index| leads(&index.columns))
}
