//! The connection to a Cassandra cluster.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use scylla::client::PoolSize;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{DbError, ExecutionError, NewSessionError, RequestAttemptError, SchemaAgreementError};
use scylla::statement::{Consistency, SerialConsistency};
use secrecy::ExposeSecret;
use tapeline_api::names::SqlName;
use tokio::time::timeout;

use super::{Actual, Desired, Endpoint, Plan, TableShape};
use crate::external::breaker::Fault;
use crate::external::{Applied, CONNECT_TIMEOUT, ErrorClass, ExternalError, Guard, REQUEST_TIMEOUT, connection, reach};

/// How long the nodes may take to agree on a schema.
const AGREEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// A Cassandra cluster as one pipeline names it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
    pub(super) endpoint: Endpoint,
    pub(super) locks: DdlLocks,
}

/// What pipelines with the same endpoint and credentials share.
pub(in crate::external) type Shared = connection::Shared<Session>;

/// One lock for each cluster: two changes of a schema at the same time can leave the nodes of a cluster disagreeing about it, until they are restarted.
#[derive(Debug, Clone, Default)]
pub(in crate::external) struct DdlLocks(Arc<Mutex<HashMap<String, DdlLock>>>);

type DdlLock = Arc<tokio::sync::Mutex<()>>;

impl DdlLocks {
    /// The lock of the cluster of this name, whatever its address and whoever asks.
    pub(super) fn of(&self, cluster_name: &str) -> DdlLock {
        Arc::clone(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(cluster_name.to_owned()).or_default())
    }
}

impl Client {
    pub(in crate::external) fn new(shared: Arc<Shared>, endpoint: Endpoint, locks: DdlLocks) -> Self {
        Self { shared, endpoint, locks }
    }

    /// What is there of the keyspace and tables that a pipeline asks for. Reads only.
    ///
    /// # Errors
    /// Fails if no node answers, they refuse this user, or do not agree on their schema.
    pub async fn describe(&self, desired: &Desired) -> Result<Actual, ExternalError> {
        let session = self.session().await.map_err(|fault| self.endpoint.error(&fault))?;
        match super::describe::describe(&session, desired).await {
            Ok(actual) => Ok(actual),
            Err(fault) => Err(self.failed(&fault).await),
        }
    }

    /// A table as it is, whoever it belongs to, for a sink that writes to it; `None` if it is not there.
    ///
    /// # Errors
    /// As [`Self::describe`].
    pub async fn describe_table(&self, keyspace: &SqlName, table: &SqlName) -> Result<Option<TableShape>, ExternalError> {
        let session = self.session().await.map_err(|fault| self.endpoint.error(&fault))?;
        match super::describe::table(&session, keyspace, table).await {
            Ok(shape) => Ok(shape),
            Err(fault) => Err(self.failed(&fault).await),
        }
    }

    /// Carries out `plan`, node by node. Sends nothing where it is empty.
    pub async fn apply(&self, plan: &Plan, guard: &Guard) -> Applied {
        super::apply::apply(self, plan, guard).await
    }

    /// The connection, made if there is none.
    pub(super) async fn session(&self) -> Result<Arc<Session>, Fault> {
        self.shared.get(|| connect(&self.endpoint)).await
    }

    /// Tells `fault` in the words of this pipeline, and gives up a session that failed.
    pub(super) async fn failed(&self, fault: &Fault) -> ExternalError {
        self.shared.give_up(fault).await;
        self.endpoint.error(fault)
    }
}

impl Endpoint {
    /// `fault` for the user.
    pub(super) fn error(&self, fault: &Fault) -> ExternalError {
        let (nodes, detail) = (self.contact_points.join(", "), &fault.detail);
        let (field, message) = match (fault.class, &self.credentials) {
            (ErrorClass::Unreachable, _) => (
                "spec.cassandra.contactPoints",
                format!("no Cassandra node answers at {nodes}: {detail}; check the addresses, that Cassandra runs, and that no NetworkPolicy is in between"),
            ),
            (ErrorClass::Denied, Some(credentials)) => (
                credentials.field,
                format!(
                    "Cassandra at {nodes} refuses user {:?}: {detail}; put the right user and password into Secret {:?}, or grant what is missing",
                    credentials.user, credentials.secret
                ),
            ),
            (ErrorClass::Denied, None) => (
                "spec.cassandra.credentialsSecretRef",
                format!("Cassandra at {nodes} refuses a client without user and password: {detail}; name the Secret that holds them here"),
            ),
            (ErrorClass::Failed | ErrorClass::Invalid | ErrorClass::NotLeader, _) => {
                ("spec.cassandra.contactPoints", format!("Cassandra at {nodes} failed: {detail}"))
            }
        };
        ExternalError { class: fault.class, field: field.to_owned(), message }
    }
}

async fn connect(endpoint: &Endpoint) -> Result<Session, Fault> {
    let attempt = async {
        reach::probe(&endpoint.contact_points).await.map_err(Fault::unreachable)?;
        let profile = ExecutionProfile::builder()
            .request_timeout(Some(REQUEST_TIMEOUT))
            .consistency(Consistency::LocalQuorum)
            // The first owner wins in all data centres.
            .serial_consistency(Some(SerialConsistency::Serial))
            .build();
        let mut builder = SessionBuilder::new()
            .known_nodes(&endpoint.contact_points)
            .default_execution_profile_handle(profile.into_handle())
            .connection_timeout(CONNECT_TIMEOUT)
            .pool_size(PoolSize::PerHost(NonZeroUsize::MIN))
            .disallow_shard_aware_port(true)
            // The operator reads the schema itself, only where it needs it.
            .fetch_schema_metadata(false)
            .refresh_metadata_on_auto_schema_agreement(false)
            .schema_agreement_interval(Duration::from_millis(100))
            .schema_agreement_timeout(AGREEMENT_TIMEOUT);
        if let Some(credentials) = &endpoint.credentials {
            builder = builder.user(&credentials.user, credentials.password.expose_secret());
        }
        builder.build().await.map_err(|error| new_session_fault(&error))
    };
    timeout(CONNECT_TIMEOUT, attempt).await.unwrap_or_else(|_| Err(Fault::unreachable(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()))))
}

fn new_session_fault(error: &NewSessionError) -> Fault {
    // The driver wraps the reason four layers deep, in types that differ by where it struck.
    let text = format!("{error:?}");
    if text.contains("MissingAuthentication") {
        Fault::denied("it asks for them")
    } else if text.contains("AuthenticationError") || text.contains("BadCredentials") {
        Fault::denied("wrong user or password")
    } else if text.contains("Unauthorized") {
        Fault::denied("the user may not connect")
    } else {
        Fault::unreachable(error.to_string())
    }
}

/// What `error` means while something is read or stored.
pub(super) fn execution_fault(error: &ExecutionError) -> Fault {
    match error {
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(code, message)) => db_fault(code, message),
        ExecutionError::PrepareError(scylla::errors::PrepareError::AllAttemptsFailed { first_attempt: RequestAttemptError::DbError(code, message) }) => {
            db_fault(code, message)
        }
        ExecutionError::RequestTimeout(limit) => Fault::unreachable(format!("no answer within {} s", limit.as_secs())),
        ExecutionError::ConnectionPoolError(_)
        | ExecutionError::EmptyPlan
        | ExecutionError::LastAttemptError(RequestAttemptError::BrokenConnectionError(_)) => Fault::unreachable("the connection was closed"),
        ExecutionError::SchemaAgreementError(error) => agreement_fault(error),
        _ => Fault::failed(error.to_string()),
    }
}

fn db_fault(code: &DbError, message: &str) -> Fault {
    match code {
        DbError::AuthenticationError | DbError::Unauthorized => Fault::denied(message),
        DbError::Unavailable { required, alive, .. } => Fault::failed(format!(
            "of the replicas of a row {required} must be alive and {alive} are: start the nodes that are down, or keep fewer copies (ALTER KEYSPACE, and \
            then spec.cassandra.replication)"
        )),
        _ => Fault::failed(format!("{code}: {message}")),
    }
}

/// What it means that the nodes do not agree on a schema.
pub(super) fn agreement_fault(error: &SchemaAgreementError) -> Fault {
    match error {
        SchemaAgreementError::Timeout(_) => {
            Fault::failed("its nodes do not agree on the schema (see nodetool describecluster), and changing it now could make that last: it is awaited")
        }
        SchemaAgreementError::ConnectionPoolError(_) | SchemaAgreementError::RequestError(RequestAttemptError::BrokenConnectionError(_)) => {
            Fault::unreachable("the connection was closed")
        }
        _ => Fault::failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::external::Credentials;

    #[test]
    fn who_has_no_password_and_who_has_a_wrong_one_are_told_different_things() {
        let mut endpoint = Endpoint { contact_points: vec!["cassandra.data:9042".into()], credentials: None };
        assert_eq!(
            endpoint.error(&Fault::denied("it asks for them")).to_string(),
            "spec.cassandra.credentialsSecretRef: Cassandra at cassandra.data:9042 refuses a client without user and password: it asks for them; name the \
            Secret that holds them here"
        );
        let field = "spec.cassandra.credentialsSecretRef";
        endpoint.credentials = Some(Credentials { user: "trading".into(), password: "x".into(), field, secret: "cassandra".into() });
        let text = endpoint.error(&Fault::denied("wrong user or password")).to_string();
        assert!(text.contains("refuses user \"trading\": wrong user or password; put the right user and password into Secret \"cassandra\""), "{text}");
    }
}
