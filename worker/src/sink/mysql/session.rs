//! A session with MySQL, set up so that nothing is lost silently, and what its errors mean.

use std::io;
use std::time::Duration;

use secrecy::ExposeSecret;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlDatabaseError, MySqlSslMode};
use sqlx::{ConnectOptions, Executor};
use tapeline_api::report::ProblemClass;
use tapeline_api::settings::MySqlConnection as Address;
use tokio::time::timeout;

use super::super::SinkError;
use crate::settings::Credentials;

const CONNECT: Duration = Duration::from_secs(5);
/// A single statement outside of the cut's transaction may take this long.
pub(super) const STATEMENT: Duration = Duration::from_secs(15);

/// Strict, so that a value that does not fit is an error; UTC; locks that a vanished worker holds go after half a minute.
const SETTINGS: &str = "SET SESSION sql_mode = 'STRICT_ALL_TABLES,STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ZERO_DATE,NO_ZERO_IN_DATE,NO_ENGINE_SUBSTITUTION', \
    time_zone = '+00:00', transaction_isolation = 'READ-COMMITTED', wait_timeout = 30, innodb_lock_wait_timeout = 10";

/// Connects and sets up.
pub(crate) async fn connect(address: &Address, credentials: &Credentials) -> Result<MySqlConnection, SinkError> {
    let denied = |text: String| SinkError::outage(ProblemClass::StoreDenied, text);
    let login = credentials
        .of("mysql")
        .map_err(|error| denied(format!("the mounted credentials of MySQL cannot be read: {error}")))?
        .ok_or_else(|| denied("no credentials of MySQL are mounted".to_owned()))?;
    let options = MySqlConnectOptions::new()
        .host(&address.host)
        .port(address.port)
        .database(address.database.as_str())
        .username(&login.user)
        .password(login.password.expose_secret())
        .ssl_mode(MySqlSslMode::Preferred)
        .statement_cache_capacity(16)
        .log_statements(log_level_off());
    let attempt = async {
        let mut session = options.connect().await?;
        session.execute(SETTINGS).await?;
        Ok::<_, sqlx::Error>(session)
    };
    in_time(CONNECT, attempt).await.map_err(|error| classify(&error))
}

/// Waits for MySQL no longer than `limit`. sqlx has no limits of its own and asks for no keepalive: a server that vanished would be waited for for ever.
pub(super) async fn in_time<T>(limit: Duration, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    timeout(limit, work).await.unwrap_or_else(|_elapsed| Err(late()))
}

/// No answer within a time limit.
pub(super) fn late() -> sqlx::Error {
    sqlx::Error::Io(io::ErrorKind::TimedOut.into())
}

/// Statements carry the contents of records: they are never logged.
const fn log_level_off() -> log::LevelFilter {
    log::LevelFilter::Off
}

/// The server's number for an error and its words, if it is the server's.
fn server_error(error: &sqlx::Error) -> Option<(u16, &str)> {
    let error = error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>()?;
    Some((error.number(), error.message()))
}

/// If MySQL refuses a row for its content: why, without the content.
pub(super) fn refused_words(error: &sqlx::Error) -> Option<String> {
    let (number, words) = server_error(error)?;
    match number {
        1048 | 1264 | 1406 | 3819 => Some(words.to_owned()), // these name the column, or the constraint
        1292 | 1366 => Some(without_value(words)),
        1690 => Some("a number is out of its range".to_owned()), // the server's words have the expression
        _ => None,
    }
}

/// `Incorrect integer value: 'abc' for column 'x' at row 1` without what is between the colon and the column.
fn without_value(words: &str) -> String {
    let what = words.split(':').next().unwrap_or_default();
    let column = words.rfind(" for column ").and_then(|at| words.get(at..)).unwrap_or_default();
    format!("{what}{column}")
}

/// Deadlock, or lock wait timeout: the whole transaction again.
pub(super) fn is_contention(error: &sqlx::Error) -> bool {
    matches!(server_error(error), Some((1205 | 1213, _)))
}

/// What an error means for the engine. Texts are for `/status` and conditions: no addresses, and of the server's words only those that cannot hold a value.
pub(crate) fn classify(error: &sqlx::Error) -> SinkError {
    match (server_error(error), error) {
        (Some((number, words)), _) => by_number(number, words),
        (None, sqlx::Error::Io(error)) if error.kind() == io::ErrorKind::TimedOut => {
            SinkError::outage(ProblemClass::StoreUnreachable, "MySQL does not answer in time")
        }
        (None, _) => SinkError::outage(ProblemClass::StoreUnreachable, "MySQL cannot be reached"),
    }
}

fn by_number(number: u16, words: &str) -> SinkError {
    let unreachable = |text: &str| SinkError::outage(ProblemClass::StoreUnreachable, text);
    let refuses = |text: &str| SinkError::fatal(ProblemClass::StoreRefuses, text);
    match number {
        1044 | 1045 | 1142 | 1143 | 1227 | 1698 | 3118 => {
            SinkError::outage(ProblemClass::StoreDenied, "MySQL refuses the user, the password or a permission: put them right in the Secret or grant it")
        }
        1049 | 1051 | 1054 | 1146 => SinkError::outage(ProblemClass::TableMissing, words),
        // The table's fault, not the row's: Append makes a new row of each that the query gives, so a key that comes from the records meets itself sooner or
        // later. As a bad record, the row would be missing from the table's sums without anybody being told.
        1022 | 1062 | 1586 => refuses(
            "a row with this key is in the table already; use mode Upsert, or a primary key that numbers itself (autoIncrement: true) and no other unique key",
        ),
        1216 | 1452 => refuses("a row refers to one that is not there: take the foreign key off the table, since nothing says which of them comes first"),
        1364 => refuses("a column that the query does not give has no default: give it one, or have the query give the column"),
        1644 => refuses("a trigger of the table refuses a row: change the trigger, or leave such rows out of the query"),
        3105 => refuses("the table computes a column that the query gives: leave it out of the query"),
        1064 => unreachable("MySQL does not understand the SQL; the worker's log has its words"),
        1040 | 1203 | 1226 => unreachable("MySQL takes no more connections"),
        1205 | 1213 => unreachable("rows in MySQL are locked by another transaction"),
        1290 | 1836 => unreachable("MySQL is read-only"),
        1021 | 1114 => unreachable("MySQL's disk or the table is full"),
        number => unreachable(&format!("MySQL answers with error {number}")),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("Incorrect integer value: 'a b: ' for column 'y'' for column 'volume' at row 1", "Incorrect integer value for column 'volume' at row 1")]
    #[case("Truncated incorrect DOUBLE value: 'secret'", "Truncated incorrect DOUBLE value")]
    fn why_a_row_is_refused_is_said_without_its_value(#[case] words: &str, #[case] expected: &str) {
        assert_eq!(without_value(words), expected);
    }

    #[rstest]
    #[case::natural_key(1062, ProblemClass::StoreRefuses)]
    #[case::no_default(1364, ProblemClass::StoreRefuses)]
    #[case::foreign_key(1452, ProblemClass::StoreRefuses)]
    #[case::locked(1205, ProblemClass::StoreUnreachable)]
    #[case::anything_else(9999, ProblemClass::StoreUnreachable)]
    fn a_constraint_stops_the_query_and_everything_else_is_waited_for(#[case] number: u16, #[case] class: ProblemClass) {
        let is_outage = class.is_outage();
        let (SinkError::Outage(problem) | SinkError::Fatal(problem)) = by_number(number, "Duplicate entry '2024-08-25-IT' for key 't.PRIMARY'") else {
            unreachable!("neither an outage nor fatal")
        };
        assert_eq!(problem.class, class);
        assert!(!problem.message.contains("2024"), "{}", problem.message);
        assert_eq!(matches!(by_number(number, ""), SinkError::Outage(_)), is_outage);
    }

    #[rstest]
    #[case::column(1054, "Unknown column 'sectr' in 'field list'", true)]
    #[case::table(1146, "Table 'trading.profile' doesn't exist", true)]
    #[case::permission(1142, "SELECT command denied to user 'tapeline'@'10.0.0.7' for table 'profile'", false)]
    #[case::syntax(1064, "You have an error in your SQL syntax near 'SELCT ticker FROM profile'", false)]
    fn of_the_servers_words_those_that_name_what_is_missing_are_told(#[case] number: u16, #[case] words: &str, #[case] told: bool) {
        assert_eq!(by_number(number, words).to_string().contains(words), told);
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_is_an_outage() {
        let error = in_time(Duration::ZERO, std::future::pending::<Result<(), _>>()).await.unwrap_err();
        assert_eq!(classify(&error), SinkError::outage(ProblemClass::StoreUnreachable, "MySQL does not answer in time"));
    }
}
