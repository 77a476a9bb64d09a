//! What is there of a keyspace and its tables. Reads only.

use std::collections::BTreeMap;

use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;
use scylla::serialize::row::SerializeRow;
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::cassandra::Order;
use tapeline_api::progress::{PROGRESS_TABLE, RESOURCES_TABLE};

use super::client::{agreement_fault, execution_fault};
use super::{Actual, ColumnShape, Desired, TableShape};
use crate::external::breaker::Fault;
use crate::external::ownership::OwnerRow;

/// What is there.
pub(super) async fn describe(session: &Session, desired: &Desired) -> Result<Actual, Fault> {
    // A node that is behind would make a table look lost, and a change on top of a disagreement could make that last.
    session.await_schema_agreement().await.map_err(|error| agreement_fault(&error))?;
    let keyspace = desired.keyspace.as_str();
    let mut actual = Actual { cluster_name: cluster_name(session).await?, datacenters: datacenters(session).await?, ..Actual::default() };
    actual.replication = replication(session, keyspace).await?;
    if actual.replication.is_none() {
        return Ok(actual);
    }

    let mut tables = tables(session, keyspace, None).await?;
    actual.progress_table = tables.contains_key(PROGRESS_TABLE);
    if tables.contains_key(RESOURCES_TABLE) {
        actual.owners = Some(owners(session, &desired.keyspace).await?);
    }
    let views = views(session, keyspace).await?;
    for table in desired.tables.iter().map(|table| &table.table.name) {
        if let Some(shape) = tables.remove(table.as_str()) {
            actual.tables.insert(table.clone(), shape);
        } else if views.iter().any(|view| view == table.as_str()) {
            actual.other.insert(table.clone(), "a materialized view".to_owned());
        }
    }
    Ok(actual)
}

/// A single table.
pub(super) async fn table(session: &Session, keyspace: &SqlName, table: &SqlName) -> Result<Option<TableShape>, Fault> {
    Ok(tables(session, keyspace.as_str(), Some(table.as_str())).await?.remove(table.as_str()))
}

/// The rows that `statement` returns. System tables and the table of owners are small: there is no need for pages.
pub(super) async fn rows<R: for<'f> DeserializeRow<'f, 'f>>(session: &Session, statement: &str, values: impl SerializeRow) -> Result<Vec<R>, Fault> {
    let result = session.query_unpaged(statement, values).await.map_err(|error| execution_fault(&error))?;
    let result = result.into_rows_result().map_err(|error| Fault::failed(error.to_string()))?;
    let rows = result.rows::<R>().map_err(|error| Fault::failed(error.to_string()))?;
    rows.map(|row| row.map_err(|error| Fault::failed(error.to_string()))).collect()
}

async fn cluster_name(session: &Session) -> Result<String, Fault> {
    let rows: Vec<(String,)> = rows(session, "SELECT cluster_name FROM system.local", ()).await?;
    rows.into_iter().next().map(|(name,)| name).ok_or_else(|| Fault::failed("system.local is empty"))
}

async fn datacenters(session: &Session) -> Result<Vec<String>, Fault> {
    let local: Vec<(Option<String>,)> = rows(session, "SELECT data_center FROM system.local", ()).await?;
    let peers: Vec<(Option<String>,)> = rows(session, "SELECT data_center FROM system.peers", ()).await?;
    let mut names: Vec<String> = local.into_iter().chain(peers).filter_map(|(name,)| name).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

async fn replication(session: &Session, keyspace: &str) -> Result<Option<BTreeMap<String, String>>, Fault> {
    let statement = "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = ?";
    let found: Vec<(BTreeMap<String, String>,)> = rows(session, statement, (keyspace,)).await?;
    Ok(found.into_iter().next().map(|(replication,)| replication))
}

async fn views(session: &Session, keyspace: &str) -> Result<Vec<String>, Fault> {
    let found: Vec<(String,)> = rows(session, "SELECT view_name FROM system_schema.views WHERE keyspace_name = ?", (keyspace,)).await?;
    Ok(found.into_iter().map(|(name,)| name).collect())
}

/// kind, name, owner, origin, hash
type StoredRow = (String, String, Option<String>, Option<String>, Option<String>);

async fn owners(session: &Session, keyspace: &SqlName) -> Result<Vec<OwnerRow>, Fault> {
    let statement = format!("SELECT kind, name, owner, origin, spec_hash FROM {}.{RESOURCES_TABLE}", keyspace.quoted());
    let found: Vec<StoredRow> = rows(session, &statement, ()).await?;
    let row = |(kind, name, owner, origin, spec_hash): StoredRow| {
        // A row without an owner is what is left of a deleted one that was written to without a condition.
        Some(OwnerRow { kind, name, owner: owner?, origin: origin.unwrap_or_default(), spec_hash: spec_hash.unwrap_or_default() })
    };
    Ok(found.into_iter().filter_map(row).collect())
}

/// The tables of a keyspace, or one of them.
async fn tables(session: &Session, keyspace: &str, only: Option<&str>) -> Result<BTreeMap<String, TableShape>, Fault> {
    let mut heads = "SELECT table_name, default_time_to_live FROM system_schema.tables WHERE keyspace_name = ?".to_owned();
    let mut columns = "SELECT table_name, column_name, kind, position, type, clustering_order FROM system_schema.columns WHERE keyspace_name = ?".to_owned();
    let mut values = vec![keyspace];
    if let Some(table) = only {
        heads.push_str(" AND table_name = ?");
        columns.push_str(" AND table_name = ?");
        values.push(table);
    }
    let heads: Vec<(String, Option<i32>)> = rows(session, &heads, values.as_slice()).await?;
    let columns: Vec<(String, String, String, i32, String, String)> = rows(session, &columns, values.as_slice()).await?;

    let mut tables: BTreeMap<String, TableShape> =
        heads.into_iter().map(|(name, ttl)| (name, TableShape { default_ttl: ttl.unwrap_or(0), ..TableShape::default() })).collect();
    let mut keys: BTreeMap<String, Vec<(i32, String, Option<Order>)>> = BTreeMap::new();
    for (table, name, kind, position, type_, order) in columns {
        // Columns of a materialized view have no table here.
        let Some(shape) = tables.get_mut(&table) else { continue };
        match kind.as_str() {
            "partition_key" => keys.entry(table).or_default().push((position, name.clone(), None)),
            "clustering" => {
                let order = if order.eq_ignore_ascii_case("desc") { Order::Desc } else { Order::Asc };
                keys.entry(table).or_default().push((position, name.clone(), Some(order)));
            }
            _ => {}
        }
        shape.columns.insert(name, ColumnShape { type_: type_.parse().ok(), type_text: type_, is_static: kind == "static" });
    }
    for (table, mut columns) in keys {
        columns.sort_by_key(|(position, ..)| *position);
        let Some(shape) = tables.get_mut(&table) else { continue };
        for (_, name, order) in columns {
            match order {
                None => shape.partition_key.push(name),
                Some(order) => shape.clustering_key.push((name, order)),
            }
        }
    }
    Ok(tables)
}
