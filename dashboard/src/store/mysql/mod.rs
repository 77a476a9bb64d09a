//! Tables and views of MySQL, read in sessions that cannot write.
//!
//! A page is found by the primary key, from the greatest down: `(a < ?) OR (a = ? AND b < ?)` is a range of the key for MySQL, where `(a, b) < (?, ?)` would be a scan and
//! OFFSET would read all that it skips. Statements are prepared, since the binary protocol gives floats exactly, where the text protocol rounds them to six digits.

mod cell;
mod key;

use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use futures::TryStreamExt;
use secrecy::ExposeSecret;
use sqlx::mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlPool, MySqlPoolOptions, MySqlSslMode};
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, Row, SqlSafeStr, Statement};
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::mysql::{MySqlColumn, MySqlTable};
use tapeline_api::settings::MySqlConnection;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::cell::Shape;
use self::key::{Bound, Key};
use super::{Credentials, MOST_BYTES, Page, StoreError, not_a_cursor, open, seal};
use crate::table::Table;

/// Few, since every viewer of every dashboard shares the server with the pipeline: some for what charts show, however slow the pages of tables are, and one for those.
const CONNECTIONS: u32 = 3;
const FOR_CHARTS: usize = 2;
const FOR_PAGES: usize = 1;
/// How long a request may wait for one of them.
const ACQUIRE: Duration = Duration::from_secs(5);
/// After this they are closed: unused, and in any case, so that a user who was revoked is gone.
const IDLE: Duration = Duration::from_secs(60);
const LIFETIME: Duration = Duration::from_secs(600);
/// How long a statement may take here. The server ends it before ([`LIMIT`]); this is for a server that is gone.
const STATEMENT: Duration = Duration::from_secs(15);

/// Read-only: whatever a view calls, nothing is written.
const READ_ONLY: &str = "SET SESSION TRANSACTION READ ONLY";
/// The session's zone is that of the values, and the server ends a SELECT after 10 s (in ms).
const LIMIT: &str = "SET SESSION time_zone = '+00:00', max_execution_time = 10000";

/// The MySQL server of a pipeline, connected when it is first asked.
pub struct MySql {
    connection: MySqlConnection,
    credentials: Credentials,
    pool: OnceLock<MySqlPool>,
    charts: Semaphore,
    pages: Semaphore,
}

impl MySql {
    /// The server that `connection` describes, with the user and password under `mysql` of `credentials`.
    #[must_use]
    pub const fn new(connection: MySqlConnection, credentials: Credentials) -> Self {
        let pool = OnceLock::new();
        Self { connection, credentials, pool, charts: Semaphore::const_new(FOR_CHARTS), pages: Semaphore::const_new(FOR_PAGES) }
    }

    /// The rows of a view or table in the order in which MySQL gives them, `most` at most.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn relation(&self, name: &SqlName, most: usize) -> Result<Table, StoreError> {
        // Those who wait have nobody who waits for them: see `Rows::keep_fresh`.
        let _place = self.charts.acquire().await.map_err(|_closed| busy())?;
        self.rows(format!("SELECT * FROM {} LIMIT ?", self.place(name)), Vec::new(), &[], most).await
    }

    /// The rows of `table` with the greatest primary keys, greatest first, `most` at most.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn greatest(&self, table: &MySqlTable, most: usize) -> Result<Table, StoreError> {
        let key = Key::of(table)?;
        let _place = self.charts.acquire().await.map_err(|_closed| busy())?;
        self.rows(self.statement(table, &key, false), Vec::new(), &table.columns, most).await
    }

    /// A page of `size` rows of `table` by primary key, greatest first: the first one, or the one after `cursor` (as [`Page::next`] gave it).
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn page(&self, table: &MySqlTable, cursor: Option<&str>, size: usize) -> Result<Page, StoreError> {
        let key = Key::of(table)?;
        let scope = ["mysql", self.connection.database.as_str(), table.name.as_str(), &key.names().join(",")];
        let after = match cursor {
            None => Vec::new(),
            Some(cursor) => {
                let values: Vec<String> = serde_json::from_slice(&open(&scope, cursor)?).map_err(|_| not_a_cursor())?;
                key.bound(&values)?
            }
        };
        let _place = timeout(ACQUIRE, self.pages.acquire()).await.ok().and_then(Result::ok).ok_or_else(busy)?;
        let rows = self.rows(self.statement(table, &key, cursor.is_some()), after, &table.columns, size.max(1)).await?;
        let next = match rows.rows.last() {
            Some(last) if rows.truncated => {
                let values = key
                    .values(&rows.columns, last)
                    .ok_or_else(|| StoreError::Refused(format!("the table {} lacks a column of its declared primary key", table.name)))?;
                Some(seal(&scope, serde_json::to_string(&values).unwrap_or_default().as_bytes()))
            }
            _ => None,
        };
        // What a page leaves out is on the next one.
        Ok(Page { table: Table { truncated: false, ..rows }, next, order: key.words() })
    }

    /// The statement of a page of `table`, the first one or one `after` another, for EXPLAIN: its last parameter is the number of rows, those before are key values.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if the primary key is not among the columns.
    pub fn page_statement(&self, table: &MySqlTable, after: bool) -> Result<String, StoreError> {
        Ok(self.statement(table, &Key::of(table)?, after))
    }

    fn statement(&self, table: &MySqlTable, key: &Key<'_>, after: bool) -> String {
        let condition = if after { format!(" WHERE {}", key.after()) } else { String::new() };
        format!("SELECT * FROM {}{condition} ORDER BY {} LIMIT ?", self.place(&table.name), key.order())
    }

    fn place(&self, name: &SqlName) -> String {
        format!("{}.{}", self.connection.database.backticked(), name.backticked())
    }

    /// What `statement` gives, whose last parameter is the number of rows: `most`, and one more that is not kept, to see whether there is more.
    async fn rows(&self, statement: String, mut bound: Vec<Bound>, declared: &[MySqlColumn], most: usize) -> Result<Table, StoreError> {
        bound.push(Bound::Integer(i64::try_from(most).unwrap_or(i64::MAX).saturating_add(1)));
        let mut session = self.session().await?;
        match timeout(STATEMENT, read(&mut session, statement, bound, declared, most)).await {
            Ok(Ok((table, Rest::Read))) => Ok(table),
            Ok(Ok((table, Rest::Left))) => {
                session.close_on_drop();
                Ok(table)
            }
            Ok(Err(error)) => Err(classify(&error)),
            Err(_elapsed) => {
                session.close_on_drop();
                Err(classify(&sqlx::Error::Io(io::ErrorKind::TimedOut.into())))
            }
        }
    }

    async fn session(&self) -> Result<PoolConnection<sqlx::MySql>, StoreError> {
        let login = self
            .credentials
            .of("mysql")?
            .ok_or_else(|| StoreError::Denied("no user and password of MySQL are mounted: set spec.mysql.credentialsSecretRef".to_owned()))?;
        let options = MySqlConnectOptions::new()
            .host(&self.connection.host)
            .port(self.connection.port)
            .database(self.connection.database.as_str())
            .username(&login.user)
            .password(login.password.expose_secret())
            .ssl_mode(MySqlSslMode::Preferred)
            // A view can be replaced meanwhile, and a cached statement would go on with its old columns.
            .statement_cache_capacity(0)
            .disable_statement_logging();
        // Made here, since a pool needs a runtime.
        let pool = self.pool.get_or_init(|| {
            MySqlPoolOptions::new()
                .max_connections(CONNECTIONS)
                .acquire_timeout(ACQUIRE)
                .idle_timeout(IDLE)
                .max_lifetime(LIFETIME)
                .after_connect(|session, _| {
                    Box::pin(async move {
                        session.execute(READ_ONLY).await?;
                        session.execute(LIMIT).await?;
                        Ok(())
                    })
                })
                .connect_lazy_with(options.clone())
        });
        pool.set_connect_options(options);
        Box::pin(pool.acquire()).await.map_err(|error| classify(&error))
    }
}

/// What is left of an answer.
enum Rest {
    /// Nothing: the session can be used again.
    Read,
    /// Rows that nobody wants.
    Left,
}

async fn read(
    session: &mut PoolConnection<sqlx::MySql>,
    statement: String,
    bound: Vec<Bound>,
    declared: &[MySqlColumn],
    most: usize,
) -> Result<(Table, Rest), sqlx::Error> {
    let (mut shape, mut table, mut bytes) = (None, Table::default(), 0);
    let mut query = sqlx::query(AssertSqlSafe(statement.clone())).persistent(false);
    for value in bound {
        query = match value {
            Bound::Integer(value) => query.bind(value),
            Bound::Float(value) => query.bind(value),
            Bound::Text(value) => query.bind(value),
        };
    }
    let mut rows = query.fetch(&mut **session);
    while let Some(row) = rows.try_next().await? {
        let shape = shape.get_or_insert_with(|| Shape::of(row.columns(), declared));
        if table.rows.len() >= most {
            table.truncated = true;
            continue;
        }
        let cells = shape.cells(&row)?;
        bytes += shape.weight(&row);
        table.rows.push(cells);
        if bytes > MOST_BYTES {
            table.truncated = true;
            table.columns = shape.columns();
            return Ok((table, Rest::Left));
        }
    }
    drop(rows);
    let shape = match shape {
        Some(shape) => shape,
        // Without a row only preparing tells the columns.
        None => Shape::of((**session).prepare(AssertSqlSafe(statement).into_sql_str()).await?.columns(), declared),
    };
    table.columns = shape.columns();
    Ok((table, Rest::Read))
}

fn busy() -> StoreError {
    StoreError::Unreachable("MySQL gave no connection within 5 s: it is not there, or busy with what other viewers ask for".to_owned())
}

/// What an error means for whoever looks at the page. Of the server's words those are told that name what is missing or what a view does wrong.
fn classify(error: &sqlx::Error) -> StoreError {
    tracing::debug!(%error, "mysql");
    let unreachable = |text: &str| StoreError::Unreachable(text.to_owned());
    match error {
        sqlx::Error::Database(words) => match words.try_downcast_ref::<MySqlDatabaseError>() {
            Some(words) => by_number(words.number(), words.message()),
            None => unreachable("MySQL answers with an error that is not known: see the dashboard's log"),
        },
        sqlx::Error::PoolTimedOut => busy(),
        sqlx::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => unreachable("MySQL does not answer in time"),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Protocol(_) | sqlx::Error::Decode(_) => {
            StoreError::Refused("MySQL's answer has a value or a type that the dashboard cannot read: see its log".to_owned())
        }
        _ => unreachable("MySQL cannot be reached: look whether it runs, and at spec.mysql.host and port"),
    }
}

fn by_number(number: u16, words: &str) -> StoreError {
    match number {
        1044 | 1045 | 1142 | 1143 | 1227 | 1698 | 3118 => {
            StoreError::Denied("MySQL refuses the user, the password or a permission: put them right in the Secret, or grant SELECT".to_owned())
        }
        1049 | 1051 | 1054 | 1146 => StoreError::Missing(format!("MySQL: {words}: the pipeline's conditions say why it was not created, or create it")),
        1040 | 1203 | 1226 => StoreError::Unreachable("MySQL takes no more connections: try again, or raise max_connections".to_owned()),
        1317 | 3024 => StoreError::Refused("MySQL takes longer than 10 s for this: add an index, or aggregate into a table instead of a view".to_owned()),
        1792 => StoreError::Refused("the view writes, which the dashboard does not let it: take the function out of it".to_owned()),
        _ => StoreError::Refused(format!("MySQL answers with error {number}: {words}")),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn mysql() -> MySql {
        let connection = serde_json::from_value(json!({"host": "mysql", "port": 3306, "database": "trading"})).unwrap();
        MySql::new(connection, Credentials::new("/nowhere".into()))
    }

    fn table(columns: &[(&str, &str)], key: &[&str]) -> MySqlTable {
        let columns: Vec<_> = columns.iter().map(|(name, type_)| json!({"name": name, "type": type_})).collect();
        serde_json::from_value(json!({"name": "candles", "columns": columns, "primaryKey": key})).unwrap()
    }

    #[test]
    fn a_page_is_a_range_of_the_primary_key() {
        let candles = table(&[("ticker", "varchar(16)"), ("start", "timestamp(6)"), ("low", "decimal(18,4)")], &["start", "ticker", "low"]);
        let order = "ORDER BY `start` DESC, `ticker` DESC, `low` DESC LIMIT ?";
        assert_eq!(mysql().page_statement(&candles, false).unwrap(), format!("SELECT * FROM `trading`.`candles` {order}"));
        let start = "CAST(? AS DATETIME(6))";
        let condition =
            format!("(`start` < {start}) OR (`start` = {start} AND `ticker` < ?) OR (`start` = {start} AND `ticker` = ? AND `low` < CAST(? AS DECIMAL(18,4)))");
        assert_eq!(mysql().page_statement(&candles, true).unwrap(), format!("SELECT * FROM `trading`.`candles` WHERE {condition} {order}"));
    }

    #[tokio::test]
    async fn a_cursor_of_another_table_is_refused_before_mysql_is_asked() {
        let table = table(&[("id", "bigint")], &["id"]);
        assert_eq!(mysql().page(&table, Some("AAAAAAAAAAAA"), 10).await, Err(not_a_cursor()));
        let other = seal(&["mysql", "trading", "candles", "id"], b"[\"1\",\"2\"]");
        assert_eq!(mysql().page(&table, Some(&other), 10).await, Err(not_a_cursor()));
        let injection = seal(&["mysql", "trading", "candles", "id"], b"[\"1 OR 1\"]");
        assert_eq!(mysql().page(&table, Some(&injection), 10).await, Err(not_a_cursor()));
    }

    #[tokio::test]
    async fn charts_do_not_wait_for_pages_of_tables() {
        let (mysql, table) = (mysql(), table(&[("id", "bigint")], &["id"]));
        let _page = mysql.pages.acquire().await.unwrap();
        let chart = timeout(Duration::from_secs(1), mysql.greatest(&table, 10)).await;
        assert!(matches!(chart, Ok(Err(StoreError::Denied(_)))), "it came as far as the user and password: {chart:?}");
    }

    #[tokio::test]
    async fn without_a_secret_nobody_is_asked() {
        let error = mysql().relation(&"volume_today".parse().unwrap(), 10).await.unwrap_err();
        assert!(matches!(&error, StoreError::Denied(text) if text.contains("credentialsSecretRef")), "{error}");
    }

    #[rstest]
    #[case::password(1045, "Access denied for user 'tapeline'@'10.0.0.7' (using password: YES)", StoreError::Denied(String::new()))]
    #[case::table(1146, "Table 'trading.candles' doesn't exist", StoreError::Missing(String::new()))]
    #[case::slow(3024, "Query execution was interrupted, maximum statement execution time exceeded", StoreError::Refused(String::new()))]
    #[case::full(1040, "Too many connections", StoreError::Unreachable(String::new()))]
    #[case::broken_view(1356, "View 'trading.v' references invalid table(s)", StoreError::Refused(String::new()))]
    fn what_mysql_says(#[case] number: u16, #[case] words: &str, #[case] expected: StoreError) {
        let error = by_number(number, words);
        assert_eq!(std::mem::discriminant(&error), std::mem::discriminant(&expected), "{error}");
        assert!(!error.to_string().contains("10.0.0.7"), "{error}");
    }
}
