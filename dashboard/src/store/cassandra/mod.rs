//! Tables of Cassandra: a page of all rows, or of one partition. Never ALLOW FILTERING, which reads the whole table on every node.

mod cell;
mod connect;
mod value;

use std::sync::Arc;
use std::time::Duration;

use scylla::client::session::Session;
use scylla::response::query_result::QueryResult;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::statement::Statement;
use scylla::value::{CqlValue, Row};
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::cassandra::CassandraTable;
use tapeline_api::settings::CassandraConnection;
use tapeline_api::types::CqlType;
use tokio::sync::Mutex;

use self::connect::{connect, trouble};
use super::{Credentials, MOST_BYTES, Page, StoreError, UserAndPassword, descending, in_time, not_a_cursor, open, seal};
use crate::table::{Cell, Column, Table};

/// How long connecting and one page may take, in all.
const LIMIT: Duration = Duration::from_secs(15);
/// A portion can be empty although more follow, where all its rows were deleted: so many are passed at once.
const EMPTY: usize = 10;
/// Rows of the first portion of a page, and of each further one at most: the driver holds a portion as a whole, however large its rows are.
const FIRST_ROWS: usize = 10;
const MOST_ROWS: usize = 50;
/// What a cell takes beside its text, in bytes.
const VALUE: usize = size_of::<Cell>();

/// A session and the login that it was made with.
type Connected = (Option<UserAndPassword>, Arc<Session>);

/// The Cassandra cluster of a pipeline, connected when it is first asked.
pub struct Cassandra {
    connection: CassandraConnection,
    credentials: Credentials,
    session: Mutex<Option<Connected>>,
}

impl Cassandra {
    /// The cluster that `connection` describes, with the user and password under `cassandra` of `credentials`, if there are any.
    #[must_use]
    pub fn new(connection: CassandraConnection, credentials: Credentials) -> Self {
        Self { connection, credentials, session: Mutex::new(None) }
    }

    /// A page of `size` rows of `table`, or fewer if they are large: the first one, or the one after `cursor` (as [`Page::next`] gave it for the same partition).
    ///
    /// Without `partition` these are all rows, by token: in no order that people know. With the value of each column of the partition key (as a page shows it) they are
    /// the partition's rows, greatest clustering key first.
    ///
    /// # Errors
    /// See [`StoreError`]. [`StoreError::Invalid`] if a column of the partition key is missing, is none, or is of another type than its value.
    pub async fn page(&self, table: &CassandraTable, partition: &[(SqlName, String)], cursor: Option<&str>, size: usize) -> Result<Page, StoreError> {
        let values = key(table, partition)?;
        let text = statement(&self.connection.keyspace, table, !values.is_empty());
        let given: Vec<&str> = partition.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]).collect();
        let scope: Vec<&str> = [text.as_str()].into_iter().chain(given).collect();
        let state = cursor.map_or(Ok(PagingState::start()), |cursor| open(&scope, cursor).map(PagingState::new_from_raw_bytes))?;
        let (rows, next) = Box::pin(in_time("Cassandra", LIMIT, self.read(&text, values, state, cursor.is_some(), size))).await?;
        let next = next.as_ref().and_then(PagingState::as_bytes_slice).map(|state| seal(&scope, state));
        Ok(Page { table: declared_first(rows, table), next, order: words(table, !partition.is_empty()) })
    }

    /// Reads from `state` on, portion by portion, until there are `size` rows or [`MOST_BYTES`] of them.
    async fn read(
        &self,
        statement: &str,
        values: Vec<CqlValue>,
        mut state: PagingState,
        resumed: bool,
        size: usize,
    ) -> Result<(Table, Option<PagingState>), StoreError> {
        let session = self.session().await?;
        let (mut table, mut bytes, mut empty) = (Table::default(), 0, 0);
        loop {
            let most = portion(size, table.rows.len(), bytes);
            let statement = Statement::new(statement).with_page_size(i32::try_from(most).unwrap_or(i32::MAX));
            let answer = session.query_single_page(statement, values.clone(), state).await;
            let (result, response) = answer.map_err(|error| if resumed && connect::is_of_paging(&error) { not_a_cursor() } else { trouble(&error) })?;
            let part = rows(result)?;
            bytes += weight(&part);
            empty = if part.rows.is_empty() { empty + 1 } else { 0 };
            table.columns = part.columns;
            table.rows.extend(part.rows);
            match response {
                PagingStateResponse::NoMorePages => return Ok((table, None)),
                PagingStateResponse::HasMorePages { state: more } => state = more,
            }
            if table.rows.len() >= size || bytes > MOST_BYTES || empty >= EMPTY {
                return Ok((table, Some(state)));
            }
        }
    }

    /// The session, made anew if the user or password is another one since. The driver reconnects by itself.
    async fn session(&self) -> Result<Arc<Session>, StoreError> {
        let login = self.credentials.of("cassandra")?;
        let mut connected = self.session.lock().await;
        if let Some((known, session)) = connected.as_ref()
            && *known == login
        {
            return Ok(Arc::clone(session));
        }
        let session = Arc::new(connect(&self.connection, login.as_ref()).await?);
        *connected = Some((login, Arc::clone(&session)));
        Ok(session)
    }
}

/// The values of the partition key, in its order; none if nothing is given.
fn key(table: &CassandraTable, partition: &[(SqlName, String)]) -> Result<Vec<CqlValue>, StoreError> {
    if partition.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&str> = table.partition_key.iter().map(SqlName::as_str).collect();
    if let Some((other, _)) = partition.iter().find(|(name, _)| !table.partition_key.contains(name)) {
        return Err(StoreError::Invalid(format!("{other} is no column of the partition key of {}: give a value for {}", table.name, names.join(", "))));
    }
    let value = |name: &SqlName| {
        let given = partition.iter().find(|(given, _)| given == name);
        let (_, text) = given
            .ok_or_else(|| StoreError::Invalid(format!("{name} is missing: a partition of {} is found by the values of {}", table.name, names.join(", "))))?;
        let type_ =
            type_of(table, name).ok_or_else(|| StoreError::Invalid(format!("{name} is not among the columns of {}: see spec.cassandra.tables", table.name)))?;
        value::parse(type_, text).ok_or_else(|| StoreError::Invalid(format!("{name}: {text:?} is no {type_}")))
    };
    table.partition_key.iter().map(value).collect()
}

fn type_of(table: &CassandraTable, name: &SqlName) -> Option<CqlType> {
    table.columns.iter().find(|column| column.name == *name).map(|column| column.type_)
}

/// All rows, or those of one partition with the greatest clustering key first, which is the order of a table that is declared so and the reverse of any other.
fn statement(keyspace: &SqlName, table: &CassandraTable, of_partition: bool) -> String {
    let all = format!("SELECT * FROM {}.{}", keyspace.quoted(), table.name.quoted());
    if !of_partition {
        return all;
    }
    let key: Vec<String> = table.partition_key.iter().map(|name| format!("{} = ?", name.quoted())).collect();
    let order = table.clustering_key.first().map(|first| format!(" ORDER BY {} DESC", first.column.quoted())).unwrap_or_default();
    format!("{all} WHERE {}{order}", key.join(" AND "))
}

fn words(table: &CassandraTable, of_partition: bool) -> String {
    match table.clustering_key.first() {
        _ if !of_partition => "by token".to_owned(),
        None => "the row of this key".to_owned(),
        Some(first) => {
            let newest = matches!(type_of(table, &first.column), Some(CqlType::Timestamp | CqlType::Date));
            descending(newest, &[first.column.as_str()])
        }
    }
}

/// How many rows are asked for next, where a page of `size` has `rows` already, of so many `bytes`: as many as will fit if they are like those.
fn portion(size: usize, rows: usize, bytes: usize) -> usize {
    let fitting = bytes.checked_div(rows).map_or(FIRST_ROWS, |average| MOST_BYTES.saturating_sub(bytes) / average.max(1));
    size.saturating_sub(rows).min(fitting).clamp(1, MOST_ROWS)
}

/// About how many bytes the rows take.
fn weight(table: &Table) -> usize {
    let text = |cell: &Cell| if let Cell::Text(text) | Cell::Decimal(text) = cell { text.len() } else { 0 };
    table.rows.iter().flatten().map(|cell| VALUE + text(cell)).sum()
}

fn rows(result: QueryResult) -> Result<Table, StoreError> {
    let unreadable = |error: &dyn std::fmt::Display| StoreError::Refused(format!("Cassandra's answer cannot be read: {error}"));
    let rows = result.into_rows_result().map_err(|error| unreadable(&error))?;
    let columns = rows.column_specs().iter().map(|spec| Column::new(spec.name(), cell::kind(spec.typ()))).collect();
    let mut table = Table { columns, rows: Vec::with_capacity(rows.rows_num()), truncated: false };
    for row in rows.rows::<Row>().map_err(|error| unreadable(&error))? {
        let row = row.map_err(|error| unreadable(&error))?;
        table.rows.push(row.columns.into_iter().map(cell::cell).collect());
    }
    Ok(table)
}

/// The columns in the order in which they are declared, then those that are not: Cassandra gives them by name.
fn declared_first(mut table: Table, declared: &CassandraTable) -> Table {
    let rank = |name: &str| declared.columns.iter().position(|column| column.name.as_str() == name).unwrap_or(usize::MAX);
    let mut places: Vec<usize> = (0..table.columns.len()).collect();
    places.sort_by_key(|place| table.columns.get(*place).map(|column| rank(&column.name)));
    table.columns = places.iter().filter_map(|place| table.columns.get(*place).cloned()).collect();
    for row in &mut table.rows {
        *row = places.iter().map(|place| row.get_mut(*place).map_or(Cell::Null, |cell| std::mem::replace(cell, Cell::Null))).collect();
    }
    table
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::table::Kind;

    fn table(clustering: serde_json::Value) -> CassandraTable {
        serde_json::from_value(json!({
            "name": "trades",
            "columns": [
                {"name": "ticker", "type": "text"}, {"name": "day", "type": "date"}, {"name": "created_at", "type": "timestamp"}, {"name": "id", "type": "bigint"}
            ],
            "partitionKey": ["ticker", "day"],
            "clusteringKey": clustering,
        }))
        .unwrap()
    }

    fn given(partition: &[(&str, &str)]) -> Vec<(SqlName, String)> {
        partition.iter().map(|(name, value)| (name.parse().unwrap(), (*value).to_owned())).collect()
    }

    #[rstest]
    #[case::newest_first(json!([{"column": "created_at", "order": "Desc"}, {"column": "id"}]), r#" ORDER BY "created_at" DESC"#, "newest first by created_at")]
    #[case::reversed(json!([{"column": "id"}]), r#" ORDER BY "id" DESC"#, "greatest first by id")]
    #[case::single_rows(json!([]), "", "the row of this key")]
    fn a_partition_is_read_from_its_newest_row(#[case] clustering: serde_json::Value, #[case] order: &str, #[case] said: &str) {
        let table = table(clustering);
        let text = statement(&"trading".parse().unwrap(), &table, true);
        assert_eq!(text, format!(r#"SELECT * FROM "trading"."trades" WHERE "ticker" = ? AND "day" = ?{order}"#));
        assert_eq!((words(&table, true).as_str(), words(&table, false).as_str()), (said, "by token"));
    }

    #[test]
    fn all_rows_are_read_without_a_condition() {
        assert_eq!(statement(&"trading".parse().unwrap(), &table(json!([])), false), r#"SELECT * FROM "trading"."trades""#);
        assert_eq!(key(&table(json!([])), &[]), Ok(vec![]));
    }

    #[test]
    fn the_values_of_a_key_are_in_its_order() {
        let values = key(&table(json!([])), &given(&[("day", "1970-01-02"), ("ticker", "AAPL")])).unwrap();
        assert_eq!(values, [CqlValue::Text("AAPL".to_owned()), CqlValue::Date(scylla::value::CqlDate((1 << 31) + 1))]);
    }

    #[rstest]
    #[case::half_a_key(&[("ticker", "AAPL")], "day is missing")]
    #[case::no_key_column(&[("ticker", "AAPL"), ("id", "1")], "id is no column of the partition key")]
    #[case::other_type(&[("ticker", "AAPL"), ("day", "today")], "day: \"today\" is no date")]
    fn a_key_that_finds_no_partition_is_invalid(#[case] partition: &[(&str, &str)], #[case] said: &str) {
        let error = key(&table(json!([])), &given(partition)).unwrap_err();
        assert!(matches!(&error, StoreError::Invalid(text) if text.contains(said)), "{error}");
    }

    #[rstest]
    #[case::first(1000, 0, 0, FIRST_ROWS)]
    #[case::first_of_a_small_page(5, 0, 0, 5)]
    #[case::small_rows(1000, 10, 2_000, MOST_ROWS)]
    #[case::the_rest(50, 10, 2_000, 40)]
    #[case::rows_of_a_megabyte(1000, 10, 10 << 20, 6)]
    #[case::a_row_larger_than_a_page(1000, 1, MOST_BYTES, 1)]
    #[case::only_deleted_rows(1000, 0, 0, FIRST_ROWS)]
    fn no_more_is_asked_for_than_fits(#[case] size: usize, #[case] rows: usize, #[case] bytes: usize, #[case] expected: usize) {
        assert_eq!(portion(size, rows, bytes), expected);
    }

    #[test]
    fn rows_weigh_what_their_texts_do() {
        let rows = vec![vec![Cell::Text("x".repeat(1000)), Cell::Integer(1)], vec![Cell::Null, Cell::Decimal("1.5".to_owned())]];
        assert_eq!(weight(&Table { columns: Vec::new(), rows, truncated: false }), 1003 + 4 * VALUE);
    }

    #[test]
    fn columns_are_shown_as_they_were_declared() {
        let columns = ["ticker", "day", "extra", "created_at", "id"].map(|name| Column::new(name, Kind::Text)).to_vec();
        let rows = vec![(0..5).map(Cell::Integer).collect(), vec![Cell::Integer(0)]];
        let shown = declared_first(Table { columns, rows, truncated: false }, &table(json!([])));
        let names: Vec<&str> = shown.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["ticker", "day", "created_at", "id", "extra"]);
        assert_eq!(shown.rows[0], [0, 1, 3, 4, 2].map(Cell::Integer));
        assert_eq!(shown.rows[1].len(), 5, "what is missing is null");
    }
}
