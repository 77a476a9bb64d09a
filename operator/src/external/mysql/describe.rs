//! What is there of a database, its tables and views. Reads only.

use std::collections::BTreeMap;

use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, FromRow};
use tapeline_api::names::SqlName;
use tapeline_api::progress::{PROGRESS_TABLE, RESOURCES_TABLE};

use super::client::{TimedError, execute, within};
use super::ddl::{is_key, qualified};
use super::shape::{self, ColumnShape, IndexShape, TableShape};
use super::{Actual, COUNTED, Desired, DesiredTable, Endpoint, ViewShape, errors};
use crate::external::breaker::Fault;
use crate::external::ownership::OwnerRow;
use crate::external::{ErrorClass, REQUEST_TIMEOUT};

/// How long MySQL may count. Less than a request may take, so that the answer is MySQL's and the connection stays good.
const COUNT_TIMEOUT_MS: u32 = 2_000;

/// What is there.
pub(super) async fn describe(connection: &mut MySqlConnection, desired: &Desired, endpoint: &Endpoint) -> Result<Actual, Fault> {
    let database = &desired.database;
    let server: Vec<(String,)> = rows(connection, "SELECT @@server_uuid", &[]).await?;
    let mut actual = Actual { server_uuid: server.into_iter().next().map(|(uuid,)| uuid).unwrap_or_default(), ..Actual::default() };
    let found: Vec<(String,)> =
        rows(connection, "SELECT CAST(schema_name AS CHAR) FROM information_schema.schemata WHERE schema_name = ?", &[database.as_str()]).await?;
    actual.database = !found.is_empty();
    if !actual.database {
        let use_it = format!("USE {}", database.backticked());
        let answer = within(REQUEST_TIMEOUT, sqlx::raw_sql(AssertSqlSafe(use_it)).execute(connection)).await;
        confirm_absence(answer.map(|_| ()), &format!("database {database}"))?;
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
    for (table, is_there) in [(PROGRESS_TABLE, actual.progress_table), (RESOURCES_TABLE, actual.owners.is_some())] {
        if !is_there {
            confirm_no_table(connection, &format!("{}.{table}", database.backticked())).await?;
        }
    }
    for table in desired.tables.iter().map(|table| &table.table.name) {
        if !actual.tables.contains_key(table) && !actual.views.contains_key(table) {
            match confirm_no_table(connection, &qualified(database, table)).await {
                Err(fault) if fault.class == ErrorClass::Denied => _ = actual.denied.insert(table.clone(), endpoint.error(&fault)),
                confirmed => confirmed?,
            }
        }
    }
    for table in &desired.tables {
        if actual.tables.get(&table.table.name).is_some_and(|shape| is_counted(table, shape)) {
            actual.rows.insert(table.table.name.clone(), count(connection, database, &table.table.name).await?);
        }
    }
    Ok(actual)
}

/// `information_schema` leaves out what the user has no right to, so that a grant that was revoked looks like a database that was dropped.
async fn confirm_no_table(connection: &mut MySqlConnection, table: &str) -> Result<(), Fault> {
    let statement = format!("SELECT 1 FROM {table} LIMIT 0");
    confirm_absence(execute(connection, &statement, REQUEST_TIMEOUT).await, &format!("table {table}"))
}

/// `answer` is that to a statement which needs `what`.
fn confirm_absence(answer: Result<(), TimedError>, what: &str) -> Result<(), Fault> {
    match answer {
        Ok(()) => Err(Fault::failed(format!("{what} appeared a moment ago; it is looked at again"))),
        Err(TimedError::Answer(error)) if errors::is_absence(&error) => Ok(()),
        Err(error) => Err(match error.fault() {
            // MySQL's own text names the client's address, which changes with the operator's pod.
            fault if fault.class == ErrorClass::Denied => Fault::denied(format!("it has no right to look at {what}")),
            fault => fault,
        }),
    }
}

/// Whether the number of rows decides what may be done: something is to be added or changed that touches each row. Columns of the key take no nulls, whatever
/// is declared.
fn is_counted(desired: &DesiredTable, shape: &TableShape) -> bool {
    desired.table.columns.iter().any(|column| {
        let key = is_key(&desired.table, &column.name);
        shape
            .column(column.name.as_str())
            .map_or(!column.nullable && !key, |actual| !shape::serves(actual.type_, column.type_) || (actual.nullable != column.nullable && !key))
    })
}

/// Rows that cannot be counted in a moment are many.
async fn count(connection: &mut MySqlConnection, database: &SqlName, table: &SqlName) -> Result<u64, Fault> {
    let table = qualified(database, table);
    let statement = format!("SELECT /*+ MAX_EXECUTION_TIME({COUNT_TIMEOUT_MS}) */ COUNT(*) FROM (SELECT 1 FROM {table} LIMIT {COUNTED}) AS counted");
    match within(REQUEST_TIMEOUT, sqlx::query_as::<_, (i64,)>(AssertSqlSafe(statement)).persistent(false).fetch_one(connection)).await {
        Ok((count,)) => Ok(u64::try_from(count).unwrap_or(COUNTED)),
        Err(TimedError::Answer(error)) if errors::is_out_of_time(&error) => Ok(COUNTED),
        Err(error) => Err(error.fault()),
    }
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
        "SELECT CAST(table_name AS CHAR), CAST(index_name AS CHAR), CAST(column_name AS CHAR), CAST(sub_part AS CHAR) \
         FROM information_schema.statistics WHERE table_schema = ? AND table_name IN ({names}) ORDER BY table_name, index_name, seq_in_index",
        database,
        names,
    );
    for (table, index, column, part) in rows::<(String, String, Option<String>, Option<String>)>(connection, &statement, &values).await? {
        let Some(shape) = tables.get_mut(&table) else { continue };
        add_index_column(shape, index, column.filter(|_| part.is_none()).unwrap_or_default());
    }
    Ok(tables.into_iter().filter_map(|(name, shape)| Some((name.parse().ok()?, shape))).collect())
}

fn add_index_column(shape: &mut TableShape, name: String, column: String) {
    if name == "PRIMARY" {
        shape.primary_key.push(column);
    } else if let Some(index) = shape.indexes.iter_mut().find(|index| index.name == name) {
        index.columns.push(column);
    } else {
        shape.indexes.push(IndexShape { name, columns: vec![column] });
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

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn desired(nullable: bool) -> DesiredTable {
        let columns = json!([{"name": "ticker", "type": "varchar(16)"}, {"name": "shares", "type": "int", "nullable": nullable}]);
        let table = serde_json::from_value(json!({"name": "profile", "columns": columns, "primaryKey": ["ticker"]})).unwrap();
        DesiredTable { table, field: "spec.mysql.tables[0]".into(), rows: None, added: std::collections::BTreeSet::new() }
    }

    fn shape(columns: &[(&str, &str, bool)]) -> TableShape {
        let column =
            |&(name, type_, nullable): &(&str, &str, bool)| ColumnShape { name: name.into(), type_: type_.parse().ok(), nullable, ..ColumnShape::default() };
        TableShape { columns: columns.iter().map(column).collect(), primary_key: vec!["ticker".into()], ..TableShape::default() }
    }

    #[rstest]
    #[case::as_declared(true, &[("ticker", "varchar(16)", false), ("shares", "int", true)], false)]
    #[case::another_type(true, &[("ticker", "varchar(16)", false), ("shares", "smallint", true)], true)]
    #[case::takes_no_nulls(true, &[("ticker", "varchar(16)", false), ("shares", "int", false)], true)]
    #[case::lacks_a_column(true, &[("ticker", "varchar(16)", false)], false)]
    #[case::lacks_a_column_that_takes_no_nulls(false, &[("ticker", "varchar(16)", false)], true)]
    #[case::lacks_its_key(true, &[("shares", "int", true)], false)]
    fn rows_are_counted_where_their_number_decides(#[case] nullable: bool, #[case] columns: &[(&str, &str, bool)], #[case] counted: bool) {
        assert_eq!(is_counted(&desired(nullable), &shape(columns)), counted);
    }

    #[test]
    fn what_is_there_was_not_dropped() {
        let fault = confirm_absence(Ok(()), "table `trading`.`profile`").unwrap_err();
        assert_eq!((fault.class, fault.detail.as_str()), (ErrorClass::Failed, "table `trading`.`profile` appeared a moment ago; it is looked at again"));
    }
}
