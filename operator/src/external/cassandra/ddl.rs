//! CQL that creates and extends. Names are [`SqlName`]s, which cannot hold anything else, and are quoted all the same.

use std::collections::BTreeMap;
use std::fmt::Write;

use tapeline_api::names::SqlName;
use tapeline_api::pipeline::cassandra::{CassandraColumn, CassandraTable, Order, Replication, ReplicationClass};

/// What `class` is without its package, as users write it.
pub(super) fn class_name(class: &str) -> &str {
    class.rsplit('.').next().unwrap_or(class)
}

/// `replication` as Cassandra stores it, its class without the package.
pub(super) fn options(replication: &Replication) -> BTreeMap<String, String> {
    let mut options = BTreeMap::new();
    match replication.class {
        ReplicationClass::SimpleStrategy => {
            options.insert("class".to_owned(), "SimpleStrategy".to_owned());
            options.insert("replication_factor".to_owned(), replication.factor.unwrap_or(1).to_string());
        }
        ReplicationClass::NetworkTopologyStrategy => {
            options.insert("class".to_owned(), "NetworkTopologyStrategy".to_owned());
            let datacenters = replication.datacenters.iter().flatten();
            options.extend(datacenters.map(|(name, copies)| (name.clone(), copies.to_string())));
        }
    }
    options
}

/// A map of options as CQL takes it. Names of data centres are free text: quotes in them are doubled.
pub(super) fn literal(options: &BTreeMap<String, String>) -> String {
    let quote = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let entries: Vec<String> = options.iter().map(|(key, value)| format!("{}: {}", quote(key), quote(value))).collect();
    format!("{{{}}}", entries.join(", "))
}

pub(super) fn create_keyspace(keyspace: &SqlName, options: &BTreeMap<String, String>) -> String {
    format!("CREATE KEYSPACE IF NOT EXISTS {} WITH replication = {}", keyspace.quoted(), literal(options))
}

pub(super) fn alter_keyspace(keyspace: &SqlName, options: &BTreeMap<String, String>) -> String {
    format!("ALTER KEYSPACE {} WITH replication = {}", keyspace.quoted(), literal(options))
}

/// The seconds of a table's `ttl`; 0: for ever.
pub(super) fn ttl_seconds(table: &CassandraTable) -> i32 {
    table.ttl.as_ref().map_or(0, |ttl| i32::try_from(ttl.get().as_secs()).unwrap_or(i32::MAX))
}

pub(super) fn create_table(keyspace: &SqlName, table: &CassandraTable) -> String {
    let columns: Vec<String> = table.columns.iter().map(column).collect();
    let partition: Vec<String> = table.partition_key.iter().map(SqlName::quoted).collect();
    let mut key = format!("({})", partition.join(", "));
    for column in &table.clustering_key {
        let _ = write!(key, ", {}", column.column.quoted());
    }
    let mut cql = format!("CREATE TABLE IF NOT EXISTS {}.{} ({}, PRIMARY KEY ({key}))", keyspace.quoted(), table.name.quoted(), columns.join(", "));
    let mut options = Vec::new();
    if !table.clustering_key.is_empty() {
        let order = table.clustering_key.iter().map(|column| {
            let order = match column.order {
                Order::Asc => "ASC",
                Order::Desc => "DESC",
            };
            format!("{} {order}", column.column.quoted())
        });
        options.push(format!("CLUSTERING ORDER BY ({})", order.collect::<Vec<_>>().join(", ")));
    }
    match ttl_seconds(table) {
        0 => {}
        seconds => options.push(format!("default_time_to_live = {seconds}")),
    }
    if !options.is_empty() {
        let _ = write!(cql, " WITH {}", options.join(" AND "));
    }
    cql
}

fn column(column: &CassandraColumn) -> String {
    format!("{} {}", column.name.quoted(), column.type_)
}

pub(super) fn add_columns(keyspace: &SqlName, table: &SqlName, columns: &[CassandraColumn]) -> String {
    let columns: Vec<String> = columns.iter().map(column).collect();
    format!("ALTER TABLE {}.{} ADD ({})", keyspace.quoted(), table.quoted(), columns.join(", "))
}

pub(super) fn set_ttl(keyspace: &SqlName, table: &SqlName, seconds: i32) -> String {
    format!("ALTER TABLE {}.{} WITH default_time_to_live = {seconds}", keyspace.quoted(), table.quoted())
}
