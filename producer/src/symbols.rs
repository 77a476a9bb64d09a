//! The symbols that the sources need, from a table in MySQL. Read once, when a producer starts.

use std::path::Path;
use std::time::Duration;

use secrecy::ExposeSecret;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlDatabaseError};
use sqlx::{AssertSqlSafe, Connection};
use tapeline_api::names::SqlName;
use tapeline_api::report::{Problem, ProblemClass};
use tapeline_api::settings::MySqlConnection as Server;

use crate::halt::problem;
use crate::settings::Credentials;

/// How long the server may take for everything.
const ANSWER: Duration = Duration::from_secs(5);

/// A symbol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// Its name.
    pub ticker: String,
    /// Its sector, if known.
    pub sector: Option<String>,
    /// Its number of shares, if known.
    pub shares: Option<i64>,
}

/// Reads the symbols, ordered by ticker; at least one.
///
/// # Errors
/// What is in the way. All of it may come right by itself: the server comes back, the operator creates the table and fills it, somebody corrects the Secret.
pub async fn load(server: &Server, table: &SqlName, credentials: &Path) -> Result<Vec<Symbol>, Problem> {
    let credentials = Credentials::read(credentials)?;
    let Ok(rows) = tokio::time::timeout(ANSWER, read(server, table, &credentials)).await else {
        return Err(problem(ProblemClass::StoreUnreachable, format!("MySQL does not answer within {} s", ANSWER.as_secs())));
    };
    let mut symbols: Vec<Symbol> =
        rows.map_err(|error| explain(&error, table))?.into_iter().map(|(ticker, sector, shares)| Symbol { ticker, sector, shares }).collect();
    // Again here: MySQL's order depends on the column's collation, and the messages must not.
    symbols.sort_by(|one, other| one.ticker.cmp(&other.ticker));
    if symbols.is_empty() {
        return Err(problem(ProblemClass::TableMissing, format!("table {table} has no rows; it must have one for each symbol")));
    }
    Ok(symbols)
}

type Row = (String, Option<String>, Option<i64>);

async fn read(server: &Server, table: &SqlName, credentials: &Credentials) -> Result<Vec<Row>, sqlx::Error> {
    let options = MySqlConnectOptions::new()
        .host(&server.host)
        .port(server.port)
        .database(server.database.as_str())
        .username(&credentials.username)
        .password(credentials.password.expose_secret());
    let mut connection = MySqlConnection::connect_with(&options).await?;
    // The casts take whatever types an adopted table has.
    let sql = format!(
        "SELECT CAST(ticker AS CHAR), CAST(sector AS CHAR), CAST(shares AS SIGNED) FROM {} WHERE ticker IS NOT NULL ORDER BY ticker",
        table.backticked()
    );
    let rows = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut connection).await?;
    connection.close().await?;
    Ok(rows)
}

fn explain(error: &sqlx::Error, table: &SqlName) -> Problem {
    let number = match error {
        sqlx::Error::Database(error) => error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number),
        _ => None,
    };
    match number {
        // ER_DBACCESS_DENIED, ACCESS_DENIED, TABLEACCESS_DENIED, COLUMNACCESS_DENIED, SPECIFIC_ACCESS_DENIED, ACCESS_DENIED_NO_PASSWORD
        Some(number @ (1044 | 1045 | 1142 | 1143 | 1227 | 1698)) => {
            problem(ProblemClass::StoreDenied, format!("MySQL refuses user, password or permission (error {number}); look at the credentials' Secret"))
        }
        // ER_BAD_DB, BAD_FIELD, NO_SUCH_TABLE
        Some(1049) => problem(ProblemClass::TableMissing, format!("the database of table {table} does not exist")),
        Some(1054) => problem(ProblemClass::TableMissing, format!("table {table} lacks a column; it must have ticker, sector and shares")),
        Some(1146) => problem(ProblemClass::TableMissing, format!("table {table} does not exist")),
        Some(number) => problem(ProblemClass::StoreUnreachable, format!("MySQL answers with error {number}")),
        None => match error {
            // Their text may hold the address.
            sqlx::Error::Io(error) => problem(ProblemClass::StoreUnreachable, format!("MySQL cannot be reached: {}", error.kind())),
            _ => problem(ProblemClass::StoreUnreachable, "MySQL cannot be reached, or breaks off".to_owned()),
        },
    }
}
