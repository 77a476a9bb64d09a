//! The connection to a MongoDB deployment: one driver's client for each endpoint and credentials, with few connections, which finds the primary by itself.

use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::doc;
use mongodb::error::Error;
use mongodb::options::{Acknowledgment, ClientOptions, Credential, ServerAddress, ServerMonitoringMode, WriteConcern};
use secrecy::ExposeSecret;
use tapeline_api::names::SqlName;
use tokio::time::timeout;

use super::errors::{self, Failed};
use super::{Actual, Desired, Endpoint, Plan};
use crate::external::breaker::Fault;
use crate::external::{Applied, CONNECT_TIMEOUT, ErrorClass, ExternalError, Guard, REQUEST_TIMEOUT, connection, reach};

/// Connections to one server at a time. A reconcile holds one, for milliseconds.
const CONNECTIONS: u32 = 4;
/// How long a connection is kept that nobody uses.
const IDLE_FOR: Duration = Duration::from_mins(1);
/// How long a majority of a replica set may take to have what was written. Less than a request may take, so that the answer is the server's.
pub(super) const MAJORITY_TIMEOUT: Duration = Duration::from_secs(4);
/// How often each server is asked how it is. A request that finds no server asks at once.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// A MongoDB deployment as one pipeline names it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
    pub(super) endpoint: Endpoint,
}

/// What pipelines with the same endpoint and credentials share.
pub(in crate::external) type Shared = connection::Shared<mongodb::Client>;

impl Client {
    pub(in crate::external) fn new(shared: Arc<Shared>, endpoint: Endpoint) -> Self {
        Self { shared, endpoint }
    }

    /// What is there of the collections that a pipeline asks for. Reads only.
    ///
    /// # Errors
    /// Fails if no server answers that takes writes, or they refuse this user.
    pub async fn describe(&self, desired: &Desired) -> Result<Actual, ExternalError> {
        let connection = self.connection().await.map_err(|fault| self.endpoint.error(&fault, &desired.database))?;
        match super::describe::describe(&connection, desired).await {
            Ok(actual) => Ok(actual),
            Err(fault) => Err(self.failed(&fault, &desired.database).await),
        }
    }

    /// Carries out `plan`, node by node. Sends nothing where it is empty.
    pub async fn apply(&self, plan: &Plan, guard: &Guard) -> Applied {
        super::apply::apply(self, plan, guard).await
    }

    /// The connection, made if there is none.
    pub(super) async fn connection(&self) -> Result<Arc<mongodb::Client>, Fault> {
        self.shared.get(|| connect(&self.endpoint)).await
    }

    /// Tells `fault` in the words of this pipeline, and gives up a connection that failed. A missing right on one database is not held against the server as a whole.
    pub(super) async fn failed(&self, fault: &Fault, database: &SqlName) -> ExternalError {
        self.shared.give_up(fault).await;
        self.endpoint.error(fault, database)
    }
}

impl Endpoint {
    /// `fault` for the user.
    pub(super) fn error(&self, fault: &Fault, database: &SqlName) -> ExternalError {
        let (hosts, detail) = (self.hosts.join(", "), &fault.detail);
        let (field, message) = match (fault.class, &self.credentials) {
            (ErrorClass::Unreachable, _) => (
                "spec.mongodb.hosts",
                format!("no MongoDB server answers at {hosts}: {detail}; check the addresses, that MongoDB runs, and that no NetworkPolicy is in between"),
            ),
            (ErrorClass::Denied, Some(credentials)) => (
                credentials.field,
                format!(
                    "MongoDB at {hosts} refuses user {user:?}: {detail}; put the right user and password into Secret {:?} and the user's database into \
                     spec.mongodb.authSource, or grant what is missing: db.getSiblingDB({:?}).grantRolesToUser({user:?}, [{{role: \"readWrite\", db: \"{database}\"}}])",
                    credentials.secret,
                    self.auth_source,
                    user = credentials.user,
                ),
            ),
            (ErrorClass::Denied, None) => (
                "spec.mongodb.credentialsSecretRef",
                format!("MongoDB at {hosts} refuses a client without user and password: {detail}; name the Secret that holds them here"),
            ),
            (ErrorClass::Failed | ErrorClass::Invalid | ErrorClass::NotLeader, _) => ("spec.mongodb.hosts", format!("MongoDB at {hosts} failed: {detail}")),
        };
        ExternalError { class: fault.class, field: field.to_owned(), message }
    }
}

async fn connect(endpoint: &Endpoint) -> Result<mongodb::Client, Fault> {
    let attempt = async {
        reach::probe(&endpoint.hosts).await.map_err(Fault::unreachable)?;
        let client = options(endpoint).and_then(mongodb::Client::with_options).map_err(|error| errors::fault(&error, "connect"))?;
        // The driver's handshake, of which the user and the password are part.
        client.database("admin").run_command(doc! { "hello": 1 }).await.map_err(|error| errors::fault(&error, "connect"))?;
        Ok(client)
    };
    timeout(CONNECT_TIMEOUT, attempt).await.unwrap_or_else(|_| Err(Fault::unreachable(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()))))
}

fn options(endpoint: &Endpoint) -> Result<ClientOptions, Error> {
    let hosts = endpoint.hosts.iter().map(ServerAddress::parse).collect::<Result<Vec<_>, _>>()?;
    let credential = endpoint.credentials.as_ref().map(|credentials| {
        Credential::builder()
            .username(credentials.user.clone())
            .password(credentials.password.expose_secret().to_owned())
            .source(endpoint.auth_source.clone())
            .build()
    });
    Ok(ClientOptions::builder()
        .hosts(hosts)
        .app_name("tapeline-operator".to_owned())
        .repl_set_name(endpoint.replica_set.clone())
        .credential(credential)
        .connect_timeout(CONNECT_TIMEOUT)
        .server_selection_timeout(CONNECT_TIMEOUT.saturating_sub(Duration::from_secs(1)))
        .max_pool_size(CONNECTIONS)
        .max_idle_time(IDLE_FOR)
        .heartbeat_freq(HEARTBEAT)
        // One connection and one task for each server instead of two.
        .server_monitoring_mode(ServerMonitoringMode::Poll)
        // An owner that a failover could take back is none.
        .write_concern(WriteConcern::builder().w(Acknowledgment::Majority).w_timeout(MAJORITY_TIMEOUT).build())
        // The next reconcile writes again; servers that are only compatible may not know the driver's way.
        .retry_writes(false)
        .build())
}

/// Waits for `request` no longer than `limit`.
pub(super) async fn within<T>(limit: Duration, request: impl Future<Output = Result<T, Error>>) -> Result<T, Failed> {
    match timeout(limit, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Failed::Answer(error)),
        Err(_) => Err(Failed::Silence(limit)),
    }
}

/// Waits for what is read.
pub(super) async fn asked<T>(doing: &str, request: impl Future<Output = Result<T, Error>>) -> Result<T, Fault> {
    within(REQUEST_TIMEOUT, request).await.map_err(|failed| failed.fault(doing))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::external::Credentials;

    fn endpoint() -> Endpoint {
        Endpoint { hosts: vec!["mongo.data:27017".into()], replica_set: None, auth_source: "admin".into(), credentials: None }
    }

    fn told(endpoint: &Endpoint, fault: &Fault) -> String {
        endpoint.error(fault, &"trading".parse().unwrap()).to_string()
    }

    #[test]
    fn a_user_without_permission_is_told_what_to_grant() {
        let field = "spec.mongodb.credentialsSecretRef";
        let credentials = Credentials { user: "trader".into(), password: "x".into(), field, secret: "mongo".into() };
        let endpoint = Endpoint { credentials: Some(credentials), ..endpoint() };
        assert_eq!(
            told(&endpoint, &Fault::denied("it may not list the collections of database trading")),
            "spec.mongodb.credentialsSecretRef: MongoDB at mongo.data:27017 refuses user \"trader\": it may not list the collections of database trading; put the \
             right user and password into Secret \"mongo\" and the user's database into spec.mongodb.authSource, or grant what is missing: \
             db.getSiblingDB(\"admin\").grantRolesToUser(\"trader\", [{role: \"readWrite\", db: \"trading\"}])"
        );
    }

    #[test]
    fn who_has_no_password_is_told_where_to_name_it() {
        let text = told(&endpoint(), &Fault::denied("it asks for them"));
        assert!(text.starts_with("spec.mongodb.credentialsSecretRef: ") && text.ends_with("it asks for them; name the Secret that holds them here"), "{text}");
    }

    #[test]
    fn what_the_driver_is_told() {
        let found = options(&Endpoint { replica_set: Some("rs0".into()), hosts: vec!["a:1".into(), "b:2".into()], ..endpoint() }).unwrap();
        assert_eq!((found.repl_set_name.as_deref(), found.direct_connection, found.hosts.len()), (Some("rs0"), None, 2));
        assert!(found.credential.is_none());
        assert!(options(&Endpoint { hosts: vec!["a:b".into()], ..endpoint() }).is_err());
    }
}
