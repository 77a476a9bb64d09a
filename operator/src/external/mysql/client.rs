//! Connections to a MySQL server. A few, kept for reuse; not sqlx's pool, which answers a refused connection with its own timeout and without the reason.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use secrecy::ExposeSecret;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use tapeline_api::names::SqlName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::{Actual, Desired, Endpoint, Plan, TableShape, errors};
use crate::external::breaker::{Breaker, Fault};
use crate::external::{Applied, CONNECT_TIMEOUT, Credentials, DDL_TIMEOUT, ErrorClass, ExternalError, Guard, REQUEST_TIMEOUT};

/// Connections to one server at a time. A reconcile holds one, for milliseconds.
const CONNECTIONS: usize = 4;
/// How long a connection is kept that nobody uses.
const IDLE_FOR: Duration = Duration::from_mins(1);

/// Time zone by sqlx (+00:00). The mode is MySQL's default, whatever the server is set to, so that a view means the same everywhere. A change of a table waits
/// for its readers and writers no longer than this, instead of a year: everybody who comes later waits behind it.
const SESSION: &str = "SET sql_mode = 'ONLY_FULL_GROUP_BY,STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', \
                       lock_wait_timeout = 10, innodb_lock_wait_timeout = 5";

/// A MySQL server as one pipeline names it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
    pub(super) endpoint: Endpoint,
}

/// What pipelines with the same endpoint and credentials share.
pub(in crate::external) struct Shared {
    permits: Arc<Semaphore>,
    /// Held while connecting, so that all who wait for a dead server get the first one's answer.
    connecting: tokio::sync::Mutex<()>,
    idle: Mutex<Vec<(Instant, MySqlConnection)>>,
    breaker: Breaker,
}

impl Default for Shared {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(CONNECTIONS)), connecting: tokio::sync::Mutex::default(), idle: Mutex::default(), breaker: Breaker::default() }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("breaker", &self.breaker).finish_non_exhaustive()
    }
}

/// A connection in use. Dropped, it is closed: only one that is [given back](Lease::give_back) is known to be in the middle of nothing.
pub(super) struct Lease {
    connection: MySqlConnection,
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    pub(super) fn connection(&mut self) -> &mut MySqlConnection {
        &mut self.connection
    }

    pub(super) fn give_back(self) {
        self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), self.connection));
    }
}

impl Client {
    pub(in crate::external) fn new(shared: Arc<Shared>, endpoint: Endpoint) -> Self {
        Self { shared, endpoint }
    }

    #[cfg(test)]
    pub(in crate::external) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// What is there of the database, tables and views that a pipeline asks for. Reads only.
    ///
    /// # Errors
    /// Fails if the server does not answer, or refuses this user.
    pub async fn describe(&self, desired: &Desired) -> Result<Actual, ExternalError> {
        let mut lease = self.lease().await.map_err(|fault| self.endpoint.error(&fault))?;
        match super::describe::describe(lease.connection(), desired, &self.endpoint).await {
            Ok(actual) => {
                lease.give_back();
                Ok(actual)
            }
            Err(fault) => Err(self.failed(&fault)),
        }
    }

    /// A table as it is, whoever it belongs to, for a sink that writes to it; `None` if it is not there.
    ///
    /// # Errors
    /// As [`Self::describe`].
    pub async fn describe_table(&self, database: &SqlName, table: &SqlName) -> Result<Option<TableShape>, ExternalError> {
        let mut lease = self.lease().await.map_err(|fault| self.endpoint.error(&fault))?;
        match super::describe::tables(lease.connection(), database, std::slice::from_ref(table)).await {
            Ok(mut tables) => {
                lease.give_back();
                Ok(tables.remove(table))
            }
            Err(fault) => Err(self.failed(&fault)),
        }
    }

    /// Carries out `plan`, node by node. Sends nothing where it is empty.
    pub async fn apply(&self, plan: &Plan, guard: &Guard) -> Applied {
        super::apply::apply(self, plan, guard).await
    }

    /// A connection that answers.
    pub(super) async fn lease(&self) -> Result<Lease, Fault> {
        self.shared.breaker.check()?;
        let busy = || Fault::failed("all connections of the operator are in use by other pipelines");
        let permit = timeout(DDL_TIMEOUT, Arc::clone(&self.shared.permits).acquire_owned()).await.map_err(|_| busy())?.map_err(|_| busy())?;
        if let Some(mut connection) = self.idle() {
            if matches!(timeout(Duration::from_secs(1), connection.ping()).await, Ok(Ok(()))) {
                return Ok(Lease { connection, shared: Arc::clone(&self.shared), _permit: permit });
            }
            // The server was restarted, so the others are dead as well.
            self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        let _one_at_a_time = self.shared.connecting.lock().await;
        self.shared.breaker.check()?;
        let connection = self.shared.breaker.learn(connect(&self.endpoint).await)?;
        Ok(Lease { connection, shared: Arc::clone(&self.shared), _permit: permit })
    }

    fn idle(&self) -> Option<MySqlConnection> {
        let mut idle = self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, _)| since.elapsed() < IDLE_FOR);
        idle.pop().map(|(_, connection)| connection)
    }

    /// Tells `fault` in the words of this pipeline. A missing right on one table is not held against the server as a whole.
    pub(super) fn failed(&self, fault: &Fault) -> ExternalError {
        if fault.class == ErrorClass::Unreachable {
            self.shared.breaker.note(fault);
        }
        self.endpoint.error(fault)
    }
}

impl Endpoint {
    /// `fault` for the user.
    pub(super) fn error(&self, fault: &Fault) -> ExternalError {
        let (address, detail) = (format!("{}:{}", self.host, self.port), &fault.detail);
        let Credentials { user, secret, field, .. } = &self.credentials;
        let (field, message) = match fault.class {
            ErrorClass::Unreachable => (
                "spec.mysql.host",
                format!("no MySQL server answers at {address}: {detail}; check the address, that MySQL runs, and that no NetworkPolicy is in between"),
            ),
            ErrorClass::Denied => (
                *field,
                format!("MySQL at {address} refuses user {user:?}: {detail}; put the right user and password into Secret {secret:?}, or grant what is missing"),
            ),
            ErrorClass::Failed | ErrorClass::Invalid | ErrorClass::NotLeader => ("spec.mysql.host", format!("MySQL at {address} failed: {detail}")),
        };
        ExternalError { class: fault.class, field: field.to_owned(), message }
    }
}

async fn connect(endpoint: &Endpoint) -> Result<MySqlConnection, Fault> {
    let options = MySqlConnectOptions::new()
        .host(&endpoint.host)
        .port(endpoint.port)
        .username(&endpoint.credentials.user)
        .password(endpoint.credentials.password.expose_secret())
        .charset("utf8mb4")
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .disable_statement_logging();
    let attempt = async {
        let mut connection = options.connect().await?;
        connection.execute(SESSION).await?;
        Ok::<_, sqlx::Error>(connection)
    };
    match timeout(CONNECT_TIMEOUT, attempt).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(errors::fault(&error)),
        Err(_) => Err(Fault::unreachable(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()))),
    }
}

/// Waits for `request` no longer than `limit`.
pub(super) async fn within<T>(limit: Duration, request: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, TimedError> {
    match timeout(limit, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(TimedError::Answer(error)),
        Err(_) => Err(TimedError::Silence(limit)),
    }
}

/// Why a request failed.
pub(super) enum TimedError {
    /// It was answered.
    Answer(sqlx::Error),
    /// It was not, in this time.
    Silence(Duration),
}

impl TimedError {
    pub(super) fn fault(&self) -> Fault {
        match self {
            Self::Answer(error) => errors::fault(error),
            Self::Silence(limit) if *limit > REQUEST_TIMEOUT => {
                Fault::failed(format!("a change was not done within {} s; it is looked at and repeated", limit.as_secs()))
            }
            Self::Silence(limit) => Fault::unreachable(format!("no answer within {} s", limit.as_secs())),
        }
    }
}

/// Runs one statement as a prepared one: the text protocol would take several, separated by `;`, and a view's SQL comes from a user.
pub(super) async fn execute(connection: &mut MySqlConnection, statement: &str, limit: Duration) -> Result<(), TimedError> {
    within(limit, sqlx::query(AssertSqlSafe(statement.to_owned())).persistent(false).execute(connection)).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_password_names_the_secret() {
        let credentials = Credentials { user: "trading".into(), password: "x".into(), field: "spec.mysql.credentialsSecretRef", secret: "mysql".into() };
        let endpoint = Endpoint { host: "mysql.data".into(), port: 3306, credentials };
        assert_eq!(
            endpoint.error(&Fault::denied("wrong user or password")).to_string(),
            "spec.mysql.credentialsSecretRef: MySQL at mysql.data:3306 refuses user \"trading\": wrong user or password; put the right user and password into \
            Secret \"mysql\", or grant what is \
             missing"
        );
    }
}
