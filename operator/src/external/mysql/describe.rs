//! What is there of a database, its tables and views. Reads only.

use std::collections::BTreeMap;

use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, FromRow};
use tapeline_api::names::SqlName;
use tapeline_api::progress::{PROGRESS_TABLE, RESOURCES_TABLE};

use super::client::within;
use super::shape::{self, ColumnShape, IndexShape, TableShape};
use super::{Actual, COUNTED, Desired, DesiredTable, ViewShape};
use crate::external::REQUEST_TIMEOUT;
use crate::external::breaker::Fault;
use crate::external::ownership::OwnerRow;

/// What is there.
pub(super) async fn describe(connection: &mut MySqlConnection, desired: &Desired) -> Result<Actual, Fault> {
    let database = &desired.database;
    let server: Vec<(String,)> = rows(connection, "SELECT @@server_uuid", &[]).await?;
    let mut actual = Actual { server_uuid: server.into_iter().next().map(|(uuid,)| uuid).unwrap_or_default(), ..Actual::default() };
    let found: Vec<(String,)> =
        rows(connection, "SELECT CAST(schema_name AS CHAR) FROM information_schema.schemata WHERE schema_name = ?", &[database.as_str()]).await?;
    actual.database = !found.is_empty();
    if !actual.database {
        return Ok(actual);
    }

    let own: Vec<(String,)> = rows(
        connection,
        "SELECT CAST(table_name AS CHAR) FROM information_schema.tables WHERE table_schema = ? AND table_name IN (?, ?)",
        &[database.as_str(), PROGRESS_TABLE, RESOURCES_TABLE],
    )
    .await?;
    actual.progress_table = own.iter().any(|(name,)| name == PROGRESS_TABLE);
    if own.iter().any(|(name,)| name == RESOURCES_TABLE) {
        actual.owners = Some(owners(connection, database).await?);
    }
    let names: Vec<SqlName> = desired.tables.iter().map(|table| &table.table.name).chain(desired.views.iter().map(|view| &view.view.name)).cloned().collect();
    actual.tables = tables(connection, database, &names).await?;
    actual.views = views(connection, database, &names).await?;
    for table in &desired.tables {
        if actual.tables.get(&table.table.name).is_some_and(|shape| is_counted(table, shape)) {
            actual.rows.insert(table.table.name.clone(), count(connection, database, &table.table.name).await?);
        }
    }
    Ok(actual)
}

/// Whether the number of rows decides what may be done: something is to be added or changed that touches each row.
fn is_counted(desired: &DesiredTable, shape: &TableShape) -> bool {
    desired.table.columns.iter().any(|column| {
        shape.column(column.name.as_str()).map_or(!column.nullable, |actual| !shape::serves(actual.type_, column.type_) || actual.nullable != column.nullable)
    })
}

async fn count(connection: &mut MySqlConnection, database: &SqlName, table: &SqlName) -> Result<u64, Fault> {
    let statement = format!("SELECT COUNT(*) FROM (SELECT 1 FROM {}.{} LIMIT {COUNTED}) AS counted", database.backticked(), table.backticked());
    let found: Vec<(i64,)> = rows(connection, &statement, &[]).await?;
    Ok(found.first().and_then(|(count,)| u64::try_from(*count).ok()).unwrap_or(COUNTED))
}

/// The rows that `statement` returns for `values`.
pub(super) async fn rows<R>(connection: &mut MySqlConnection, statement: &str, values: &[&str]) -> Result<Vec<R>, Fault>
where
    R: for<'r> FromRow<'r, sqlx::mysql::MySqlRow> + Send + Unpin,
{
    let query = sqlx::query_as(AssertSqlSafe(statement.to_owned())).persistent(false);
    let query = values.iter().fold(query, |query, value| query.bind((*value).to_owned()));
    within(REQUEST_TIMEOUT, query.fetch_all(connection)).await.map_err(|error| error.fault())
}

async fn owners(connection: &mut MySqlConnection, database: &SqlName) -> Result<Vec<OwnerRow>, Fault> {
    let statement = format!("SELECT kind, name, owner, origin, spec_hash FROM {}.{RESOURCES_TABLE}", database.backticked());
    let found: Vec<(String, String, String, String, String)> = rows(connection, &statement, &[]).await?;
    Ok(found.into_iter().map(|(kind, name, owner, origin, spec_hash)| OwnerRow { kind, name, owner, origin, spec_hash }).collect())
}

/// `statement` for the things `names` of `database`, and the values for it.
fn named<'a>(statement: &str, database: &'a SqlName, names: &'a [SqlName]) -> (String, Vec<&'a str>) {
    let marks = vec!["?"; names.len()].join(", ");
    let values = std::iter::once(database).chain(names).map(SqlName::as_str).collect();
    (statement.replace("{names}", &marks), values)
}

/// The base tables among `names`.
pub(super) async fn tables(connection: &mut MySqlConnection, database: &SqlName, names: &[SqlName]) -> Result<BTreeMap<SqlName, TableShape>, Fault> {
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let (statement, values) = named(
        "SELECT CAST(table_name AS CHAR), CAST(engine AS CHAR) FROM information_schema.tables \
         WHERE table_schema = ? AND table_type = 'BASE TABLE' AND table_name IN ({names})",
        database,
        names,
    );
    let found: Vec<(String, Option<String>)> = rows(connection, &statement, &values).await?;
    let mut tables: BTreeMap<String, TableShape> =
        found.into_iter().map(|(name, engine)| (name, TableShape { engine: engine.unwrap_or_default(), ..TableShape::default() })).collect();
    if tables.is_empty() {
        return Ok(BTreeMap::new());
    }
    let (statement, values) = named(
        "SELECT CAST(table_name AS CHAR), CAST(column_name AS CHAR), CAST(column_type AS CHAR), CAST(is_nullable AS CHAR), CAST(extra AS CHAR), \
         CAST(collation_name AS CHAR), CAST(column_default AS CHAR), CAST(column_comment AS CHAR) FROM information_schema.columns \
         WHERE table_schema = ? AND table_name IN ({names}) ORDER BY table_name, ordinal_position",
        database,
        names,
    );
    for column in rows::<ColumnRow>(connection, &statement, &values).await? {
        if let Some(shape) = tables.get_mut(&column.0) {
            shape.columns.push(column_shape(column));
        }
    }
    let (statement, values) = named(
        "SELECT CAST(table_name AS CHAR), CAST(index_name AS CHAR), CAST(non_unique AS CHAR), CAST(column_name AS CHAR), CAST(sub_part AS CHAR) \
         FROM information_schema.statistics WHERE table_schema = ? AND table_name IN ({names}) ORDER BY table_name, index_name, seq_in_index",
        database,
        names,
    );
    for (table, index, non_unique, column, part) in rows::<(String, String, String, Option<String>, Option<String>)>(connection, &statement, &values).await? {
        let Some(shape) = tables.get_mut(&table) else { continue };
        add_index_column(shape, index, non_unique == "0", column.filter(|_| part.is_none()).unwrap_or_default());
    }
    Ok(tables.into_iter().filter_map(|(name, shape)| Some((name.parse().ok()?, shape))).collect())
}

fn add_index_column(shape: &mut TableShape, name: String, unique: bool, column: String) {
    if name == "PRIMARY" {
        shape.primary_key.push(column);
    } else if let Some(index) = shape.indexes.iter_mut().find(|index| index.name == name) {
        index.columns.push(column);
    } else {
        shape.indexes.push(IndexShape { name, columns: vec![column], unique });
    }
}

/// table, column, type, nullable, extra, collation, default, comment
type ColumnRow = (String, String, String, String, String, Option<String>, Option<String>, String);

fn column_shape((_, name, type_text, nullable, extra, collation, default, comment): ColumnRow) -> ColumnShape {
    let generated = extra.contains("GENERATED") && !extra.contains("DEFAULT_GENERATED");
    ColumnShape {
        type_: shape::canonical(&type_text),
        nullable: nullable == "YES",
        auto_increment: extra.contains("auto_increment"),
        has_default: default.is_some(),
        generated,
        embellished: default.is_some() || !comment.is_empty() || !matches!(extra.as_str(), "" | "auto_increment"),
        name,
        type_text,
        collation,
    }
}

async fn views(connection: &mut MySqlConnection, database: &SqlName, names: &[SqlName]) -> Result<BTreeMap<SqlName, ViewShape>, Fault> {
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let (statement, values) = named(
        "SELECT CAST(table_name AS CHAR), CAST(view_definition AS CHAR), CAST(security_type AS CHAR) FROM information_schema.views \
         WHERE table_schema = ? AND table_name IN ({names})",
        database,
        names,
    );
    let found: Vec<(String, Option<String>, Option<String>)> = rows(connection, &statement, &values).await?;
    let shape = |(name, definition, security): (String, Option<String>, Option<String>)| {
        Some((name.parse().ok()?, ViewShape { definition: definition.unwrap_or_default(), security: security.unwrap_or_default() }))
    };
    Ok(found.into_iter().filter_map(shape).collect())
}

/// One view.
pub(super) async fn view(connection: &mut MySqlConnection, database: &SqlName, name: &SqlName) -> Result<Option<ViewShape>, Fault> {
    Ok(views(connection, database, std::slice::from_ref(name)).await?.remove(name))
}
