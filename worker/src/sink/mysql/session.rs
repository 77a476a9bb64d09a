//! A session with MySQL, set up so that nothing is lost silently, and what its errors mean.

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
/// A single statement outside of a transaction may take this long.
pub(super) const STATEMENT: Duration = Duration::from_secs(15);

/// Strict, so that a value that does not fit is an error; UTC; locks that a vanished worker holds go after half a minute.
const SETTINGS: &str = "SET SESSION sql_mode = 'STRICT_ALL_TABLES,STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ZERO_DATE,NO_ZERO_IN_DATE,NO_ENGINE_SUBSTITUTION', \
    time_zone = '+00:00', transaction_isolation = 'READ-COMMITTED', wait_timeout = 30, innodb_lock_wait_timeout = 10";

/// Connects and sets up.
pub(super) async fn connect(address: &Address, credentials: &Credentials) -> Result<MySqlConnection, SinkError> {
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
    match timeout(CONNECT, attempt).await {
        Ok(Ok(session)) => Ok(session),
        Ok(Err(error)) => Err(classify(&error)),
        Err(_) => Err(SinkError::outage(ProblemClass::StoreUnreachable, "MySQL does not answer in time")),
    }
}

/// Statements carry the contents of records: they are never logged.
const fn log_level_off() -> log::LevelFilter {
    log::LevelFilter::Off
}

/// The server's number for an error, if it is the server's.
pub(super) fn number(error: &sqlx::Error) -> Option<u16> {
    error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
}

/// Errors by which MySQL refuses a row for its content.
pub(super) fn refuses_content(error: &sqlx::Error) -> bool {
    matches!(number(error), Some(1048 | 1264 | 1292 | 1366 | 1406 | 1690 | 3819))
}

/// Deadlock, or lock wait timeout: the whole transaction again.
pub(super) fn is_contention(error: &sqlx::Error) -> bool {
    matches!(number(error), Some(1205 | 1213))
}

/// What an error means for the engine. The text has the server's words, but no addresses.
pub(super) fn classify(error: &sqlx::Error) -> SinkError {
    let (class, text) = match (number(error), error.as_database_error()) {
        (Some(1044 | 1045 | 1142 | 1143 | 1227 | 1698 | 3118), _) => {
            (ProblemClass::StoreDenied, "MySQL refuses the user, the password or a permission: put them right in the Secret or grant it".to_owned())
        }
        (Some(1049 | 1051 | 1054 | 1146), Some(database)) => (ProblemClass::TableMissing, database.message().to_owned()),
        (_, Some(database)) => (ProblemClass::StoreUnreachable, format!("MySQL says: {}", database.message())),
        (_, None) => (ProblemClass::StoreUnreachable, "MySQL cannot be reached".to_owned()),
    };
    SinkError::outage(class, text)
}
