//! Tables, views and collections, as far as their declarations alone can be wrong.

use std::collections::BTreeSet;

use tapeline_api::TradingPipelineSpec;
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::cassandra::CassandraTable;
use tapeline_api::pipeline::mongodb::{Collection, CollectionIndex};
use tapeline_api::pipeline::mysql::MySqlTable;
use tapeline_api::types::MySqlType;

use super::{Validated, sinks};
use crate::reason::{Area, Problem, Reason, near_miss};

/// InnoDB's limit of 3,072 bytes a key, at four bytes a character.
const MAX_KEY_CHARACTERS: u32 = 768;

/// Collects the problems of one table.
struct Table<'a> {
    area: Area,
    path: String,
    columns: Vec<&'a str>,
    problems: Vec<Problem>,
}

impl Table<'_> {
    fn wrong(&mut self, field: &str, message: impl Into<String>) {
        self.problems.push(Problem::change(self.area, Reason::InvalidSpec, format!("{}.{field}", self.path), message));
    }

    fn name(&mut self, name: &SqlName) {
        if sinks::is_reserved(name.as_str()) {
            self.wrong("name", "names with tapeline_ in front are kept for Tapeline's own tables; choose another");
        }
    }

    /// A column that a key names: it exists, and comes once.
    fn key_column(&mut self, field: &str, column: &SqlName, seen: &mut BTreeSet<SqlName>) {
        if !self.columns.contains(&column.as_str()) {
            let hint = near_miss(column.as_str(), self.columns.iter().copied());
            self.wrong(field, format!("no column \"{column}\" in the table{hint}"));
        } else if !seen.insert(column.clone()) {
            self.wrong(field, format!("column \"{column}\" is in the key twice; name it once"));
        }
    }
}

pub(super) fn cassandra(spec: &TradingPipelineSpec, validated: &mut Validated) {
    for (index, table) in spec.cassandra.iter().flat_map(|cassandra| &cassandra.tables).enumerate() {
        let problems = cassandra_table(index, table);
        if !problems.is_empty() {
            validated.bad_cassandra_tables.insert(table.name.clone());
        }
        validated.problems.extend(problems);
    }
}

fn cassandra_table(index: usize, table: &CassandraTable) -> Vec<Problem> {
    let columns = table.columns.iter().map(|column| column.name.as_str()).collect();
    let mut check = Table { area: Area::Cassandra, path: format!("spec.cassandra.tables[{index}]"), columns, problems: Vec::new() };
    check.name(&table.name);
    let mut seen = BTreeSet::new();
    for (at, column) in table.partition_key.iter().enumerate() {
        check.key_column(&format!("partitionKey[{at}]"), column, &mut seen);
    }
    for (at, column) in table.clustering_key.iter().enumerate() {
        check.key_column(&format!("clusteringKey[{at}].column"), &column.column, &mut seen);
    }
    check.problems
}

pub(super) fn mysql(spec: &TradingPipelineSpec, validated: &mut Validated) {
    let Some(mysql) = &spec.mysql else { return };
    for (index, table) in mysql.tables.iter().enumerate() {
        let problems = mysql_table(index, table);
        if !problems.is_empty() {
            validated.bad_mysql_tables.insert(table.name.clone());
        }
        validated.problems.extend(problems);
    }
    for (index, view) in mysql.views.iter().enumerate() {
        let mut check = Table { area: Area::MySql, path: format!("spec.mysql.views[{index}]"), columns: Vec::new(), problems: Vec::new() };
        check.name(&view.name);
        if let Some(same) = mysql.tables.iter().position(|table| table.name == view.name) {
            let message = format!("spec.mysql.tables[{same}] has this name too, and MySQL keeps tables and views in one list; choose another");
            check.wrong("name", message);
        }
        let first = view.sql.trim_start().trim_start_matches('(').split_whitespace().next().unwrap_or_default();
        if !["select", "with"].contains(&first.to_ascii_lowercase().as_str()) {
            check.wrong("sql", "a view is one SELECT; write SELECT .. or WITH .. SELECT ..");
        }
        if !check.problems.is_empty() {
            validated.bad_mysql_views.insert(view.name.clone());
        }
        validated.problems.extend(check.problems);
    }
}

fn mysql_table(index: usize, table: &MySqlTable) -> Vec<Problem> {
    let columns = table.columns.iter().map(|column| column.name.as_str()).collect();
    let mut check = Table { area: Area::MySql, path: format!("spec.mysql.tables[{index}]"), columns, problems: Vec::new() };
    check.name(&table.name);
    let mut seen = BTreeSet::new();
    for (at, column) in table.primary_key.iter().enumerate() {
        let field = format!("primaryKey[{at}]");
        check.key_column(&field, column, &mut seen);
        indexable(&mut check, &field, table, column);
    }
    for (number, index) in table.indexes.iter().enumerate() {
        let mut seen = BTreeSet::new();
        for (at, column) in index.columns.iter().enumerate() {
            let field = format!("indexes[{number}].columns[{at}]");
            check.key_column(&field, column, &mut seen);
            indexable(&mut check, &field, table, column);
        }
    }
    auto_increment(&mut check, table);
    check.problems
}

/// Databases that MongoDB keeps for itself: what is in them is not replicated, or decides over the whole deployment.
const MONGODB_DATABASES: [&str; 3] = ["admin", "config", "local"];

pub(super) fn mongodb(spec: &TradingPipelineSpec, validated: &mut Validated) {
    validated.mongodb_is_valid = true;
    let Some(mongodb) = &spec.mongodb else { return };
    if MONGODB_DATABASES.contains(&mongodb.database.as_str()) {
        validated.mongodb_is_valid = false;
        let message = format!("MongoDB keeps the database \"{}\" for itself; name another", mongodb.database);
        validated.problems.push(Problem::change(Area::MongoDb, Reason::InvalidSpec, "spec.mongodb.database", message));
    }
    for (index, collection) in mongodb.collections.iter().enumerate() {
        let problems = mongodb_collection(index, collection);
        if !problems.is_empty() {
            validated.bad_collections.insert(collection.name.clone());
        }
        validated.problems.extend(problems);
    }
}

fn mongodb_collection(index: usize, collection: &Collection) -> Vec<Problem> {
    let mut check = Table { area: Area::MongoDb, path: format!("spec.mongodb.collections[{index}]"), columns: Vec::new(), problems: Vec::new() };
    check.name(&collection.name);
    let mut before: Vec<&CollectionIndex> = Vec::new();
    for (number, index) in collection.indexes.iter().enumerate() {
        let mut seen = BTreeSet::new();
        for (at, field) in index.fields.iter().enumerate() {
            if seen.insert(&field.name) {
                continue;
            }
            check.wrong(&format!("indexes[{number}].fields[{at}].name"), format!("field \"{}\" is in the index twice; name it once", field.name));
        }
        if let Some(same) = before.iter().position(|other| *other == index) {
            check.wrong(&format!("indexes[{number}]"), format!("indexes[{same}] has the same fields; remove one of them"));
        }
        before.push(index);
    }
    check.problems
}

/// What MySQL cannot have in a key.
fn indexable(check: &mut Table<'_>, field: &str, table: &MySqlTable, column: &SqlName) {
    let Some(found) = table.columns.iter().find(|candidate| candidate.name == *column) else { return };
    match found.type_ {
        MySqlType::Text => check.wrong(field, format!("column \"{column}\" is text, which MySQL cannot have in a key; make it a varchar(n)")),
        MySqlType::Varchar(length) if u32::from(length) > MAX_KEY_CHARACTERS => {
            check.wrong(field, format!("column \"{column}\" is longer than the {MAX_KEY_CHARACTERS} characters that MySQL takes in a key; make it shorter"));
        }
        _ => {}
    }
}

fn auto_increment(check: &mut Table<'_>, table: &MySqlTable) {
    let numbered: Vec<usize> = table.columns.iter().enumerate().filter(|(_, column)| column.auto_increment).map(|(at, _)| at).collect();
    for (at, column) in table.columns.iter().enumerate().filter(|(_, column)| column.auto_increment) {
        let field = format!("columns[{at}].autoIncrement");
        if !matches!(column.type_, MySqlType::Tinyint | MySqlType::Smallint | MySqlType::Int | MySqlType::Bigint) {
            check.wrong(&field, format!("a {} cannot number rows; make it a bigint", column.type_));
        }
        if table.primary_key.first() != Some(&column.name) {
            check.wrong(&field, format!("MySQL numbers only the first column of the primary key; put \"{}\" first in primaryKey", column.name));
        }
        if numbered.first() != Some(&at) {
            check.wrong(&field, "MySQL numbers one column of a table; remove it here");
        }
    }
}
