//! The session with a cluster, and what the driver's errors mean for whoever looks at the page.

use std::num::NonZeroUsize;
use std::time::Duration;

use scylla::client::PoolSize;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{DbError, ExecutionError, NewSessionError, PrepareError, RequestAttemptError};
use scylla::statement::Consistency;
use secrecy::ExposeSecret;
use tapeline_api::settings::CassandraConnection;

use super::super::{StoreError, UserAndPassword, in_time};

/// How long a connection, and a request, may take.
const CONNECT: Duration = Duration::from_secs(5);
const REQUEST: Duration = Duration::from_secs(5);
/// How often an idle connection is asked whether it lives, and how long the answer may take.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Connects as `login`. Rows are read from one replica nearby: a page that is a moment old is no harm.
pub(super) async fn connect(connection: &CassandraConnection, login: Option<&UserAndPassword>) -> Result<Session, StoreError> {
    let profile = ExecutionProfile::builder().consistency(Consistency::LocalOne).request_timeout(Some(REQUEST)).build();
    let mut builder = SessionBuilder::new()
        .known_nodes(&connection.contact_points)
        .default_execution_profile_handle(profile.into_handle())
        .connection_timeout(CONNECT)
        .hostname_resolution_timeout(Some(CONNECT))
        .metadata_request_serverside_timeout(CONNECT)
        .metadata_request_clientside_timeout(CONNECT)
        .pool_size(PoolSize::PerHost(NonZeroUsize::MIN))
        .keepalive_interval(KEEPALIVE)
        .keepalive_timeout(KEEPALIVE)
        .keyspaces_to_fetch([connection.keyspace.as_str()])
        .fetch_full_schema_metadata(false);
    if let Some(login) = login {
        builder = builder.user(&login.user, login.password.expose_secret());
    }
    in_time("Cassandra", 2 * CONNECT, builder.build()).await
}

impl From<NewSessionError> for StoreError {
    fn from(error: NewSessionError) -> Self {
        tracing::debug!(%error, "connecting to Cassandra");
        denied(&error).unwrap_or_else(|| {
            let text = "no contact point of Cassandra answers: look whether it runs, and at spec.cassandra.contactPoints";
            Self::Unreachable(text.to_owned())
        })
    }
}

/// Whether the server does not know the place that a page begins after.
pub(super) fn is_of_paging(error: &ExecutionError) -> bool {
    matches!(error, ExecutionError::LastAttemptError(RequestAttemptError::DbError(DbError::ProtocolError | DbError::Invalid, text)) if text.to_lowercase().contains("paging"))
}

/// What an error of a request means.
pub(super) fn trouble(error: &ExecutionError) -> StoreError {
    tracing::debug!(%error, "cassandra");
    match error {
        ExecutionError::LastAttemptError(attempt) | ExecutionError::PrepareError(PrepareError::AllAttemptsFailed { first_attempt: attempt }) => {
            of_attempt(attempt)
        }
        ExecutionError::RequestTimeout(limit) => StoreError::Unreachable(format!("Cassandra did not answer within {} s: try again", limit.as_secs())),
        ExecutionError::BadQuery(_) => {
            StoreError::Invalid("a column of the partition key has another type in Cassandra than in spec.cassandra.tables".to_owned())
        }
        other => denied(other).unwrap_or_else(no_connection),
    }
}

fn of_attempt(error: &RequestAttemptError) -> StoreError {
    match error {
        RequestAttemptError::DbError(code, text) => from_server(code, text),
        other => denied(other).unwrap_or_else(no_connection),
    }
}

fn from_server(code: &DbError, text: &str) -> StoreError {
    let unreachable = |text: &str| StoreError::Unreachable(text.to_owned());
    let is_missing = ["does not exist", "unconfigured table", "Undefined column"].iter().any(|words| text.contains(words));
    match code {
        DbError::AuthenticationError | DbError::Unauthorized => refused(),
        DbError::Invalid | DbError::ConfigError if is_missing => {
            StoreError::Missing(format!("Cassandra: {text}: the pipeline's conditions say why it was not created, or create it"))
        }
        DbError::Overloaded | DbError::RateLimitReached { .. } => unreachable("Cassandra is overloaded: try again later"),
        DbError::ReadTimeout { .. } | DbError::ReadFailure { .. } => unreachable(
            "the replica that has the rows did not answer in time, or failed: try again, and look at the logs of Cassandra's nodes if that does not help",
        ),
        DbError::Unavailable { .. } => unreachable("no replica of these rows is alive: start the nodes of Cassandra that are down"),
        DbError::IsBootstrapping => unreachable("Cassandra is starting: try again"),
        DbError::Invalid | DbError::ConfigError | DbError::SyntaxError | DbError::ProtocolError => StoreError::Refused(format!("Cassandra refuses: {text}")),
        other => StoreError::Refused(format!("Cassandra fails: {other}")),
    }
}

fn refused() -> StoreError {
    StoreError::Denied("Cassandra refuses the user, the password or a permission: put them right in the Secret, or grant SELECT on the keyspace".to_owned())
}

fn no_connection() -> StoreError {
    StoreError::Unreachable("there is no connection to Cassandra: look whether it runs".to_owned())
}

/// The driver wraps a refused login in layers that differ by where it struck.
fn denied(error: &impl std::fmt::Debug) -> Option<StoreError> {
    let text = format!("{error:?}");
    if text.contains("MissingAuthentication") {
        let text = "Cassandra asks for user and password, and there are none: set spec.cassandra.credentialsSecretRef";
        return Some(StoreError::Denied(text.to_owned()));
    }
    (text.contains("AuthenticationError") || text.contains("BadCredentials")).then(refused)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::table(DbError::Invalid, "table trading.trades does not exist", StoreError::Missing(String::new()))]
    #[case::keyspace(DbError::Invalid, "Keyspace 'trading' does not exist", StoreError::Missing(String::new()))]
    #[case::permission(DbError::Unauthorized, "User tapeline has no SELECT permission", StoreError::Denied(String::new()))]
    #[case::down(DbError::Unavailable { consistency: Consistency::LocalOne, required: 1, alive: 0 }, "Cannot achieve consistency", StoreError::Unreachable(String::new()))]
    #[case::anything_else(DbError::Invalid, "Order by is currently only supported on the clustered columns", StoreError::Refused(String::new()))]
    fn what_cassandra_says(#[case] code: DbError, #[case] words: &str, #[case] expected: StoreError) {
        let error = trouble(&ExecutionError::LastAttemptError(RequestAttemptError::DbError(code, words.to_owned())));
        assert_eq!(std::mem::discriminant(&error), std::mem::discriminant(&expected), "{error}");
    }

    #[test]
    fn a_place_that_cassandra_does_not_know_is_told_from_other_errors() {
        let error = |words: &str| ExecutionError::LastAttemptError(RequestAttemptError::DbError(DbError::ProtocolError, words.to_owned()));
        assert!(is_of_paging(&error("Invalid value for the paging state")));
        assert!(!is_of_paging(&error("unsupported version")));
    }
}
