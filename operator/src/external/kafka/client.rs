//! The connection to a Kafka cluster: librdkafka's admin client and a consumer that only looks. Blocking calls run on tokio's blocking threads.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::admin::AdminClient;
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::{ClientConfig, FromClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::{Actual, Desired, Endpoint, Plan, Repairs};
use crate::external::breaker::Fault;
use crate::external::{Applied, CONNECT_TIMEOUT, ErrorClass, ExternalError, Guard, Owner, connection, reach};

/// A Kafka cluster as one pipeline names it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
    pub(super) endpoint: Endpoint,
    pub(super) repairs: Repairs,
}

/// What pipelines with the same endpoint share.
pub(in crate::external) type Shared = connection::Shared<Natives>;

impl Client {
    pub(in crate::external) fn new(shared: Arc<Shared>, endpoint: Endpoint, repairs: Repairs) -> Self {
        Self { shared, endpoint, repairs }
    }

    /// What is there of the topics that a pipeline names. Reads only.
    ///
    /// # Errors
    /// Fails if no broker answers, or they refuse this client.
    pub async fn describe(&self, desired: &Desired) -> Result<Actual, ExternalError> {
        let natives = self.natives().await.map_err(|fault| self.endpoint.error(&fault))?;
        match super::describe::describe(&natives, desired, &self.endpoint).await {
            Ok(actual) => Ok(actual),
            Err(fault) => Err(self.failed(&fault).await),
        }
    }

    /// Carries out `plan`, topic by topic. Sends nothing where it is empty.
    pub async fn apply(&self, plan: &Plan, guard: &Guard) -> Applied {
        super::apply::apply(self, plan, guard).await
    }

    /// Settings that somebody else keeps changing back on the pipeline `owner`, for [`plan`](super::plan()).
    #[must_use]
    pub fn contested(&self, actual: &Actual, owner: &Owner) -> super::Contested {
        self.repairs.contested(owner, &actual.cluster_id)
    }

    /// The connection, made if there is none.
    pub(super) async fn natives(&self) -> Result<Arc<Natives>, Fault> {
        self.shared.get(|| connect(&self.endpoint)).await
    }

    /// Tells `fault` in the words of this pipeline, and gives up a connection that failed.
    pub(super) async fn failed(&self, fault: &Fault) -> ExternalError {
        self.shared.give_up(fault).await;
        self.endpoint.error(fault)
    }
}

impl Endpoint {
    /// `fault` for the user.
    pub(super) fn error(&self, fault: &Fault) -> ExternalError {
        let (servers, detail) = (&self.bootstrap_servers, &fault.detail);
        let (field, message) = match fault.class {
            ErrorClass::Unreachable => (
                "spec.kafka.bootstrapServers",
                format!("no Kafka broker answers at {servers}: {detail}; check the address, that the brokers run, and that no NetworkPolicy is in between"),
            ),
            ErrorClass::Denied => (
                "spec.kafka.clientProperties",
                format!("the Kafka brokers at {servers} refuse this client: {detail}; check the user and password there and what the user may do"),
            ),
            ErrorClass::Invalid => ("spec.kafka.clientProperties", detail.clone()),
            ErrorClass::Failed | ErrorClass::NotLeader => ("spec.kafka.bootstrapServers", format!("Kafka at {servers} failed: {detail}")),
        };
        ExternalError { class: fault.class, field: field.to_owned(), message }
    }
}

/// The two clients of librdkafka.
pub(in crate::external) struct Natives {
    /// `None` only while it is being dropped.
    inner: Option<Inner>,
    trouble: Trouble,
}

struct Inner {
    /// For metadata. A consumer, since a producer's (and so the admin client's) request for a topic's metadata creates the topic.
    consumer: BaseConsumer<Watch>,
    admin: AdminClient<DefaultClientContext>,
}

impl Natives {
    /// The id of the cluster, as the last answer of a broker had it: behind the same address may come to be another cluster.
    ///
    /// # Errors
    /// Never while the connection is in use.
    pub(super) fn cluster_id(&self) -> Result<String, Fault> {
        // Does not wait: each answer with metadata brings the id.
        self.consumer()?.client().fetch_cluster_id(Duration::ZERO).ok_or_else(closed)
    }

    /// # Errors
    /// Never while the connection is in use.
    pub(super) fn consumer(&self) -> Result<&BaseConsumer<Watch>, Fault> {
        self.inner.as_ref().map(|inner| &inner.consumer).ok_or_else(closed)
    }

    /// # Errors
    /// Never while the connection is in use.
    pub(super) fn admin(&self) -> Result<&AdminClient<DefaultClientContext>, Fault> {
        self.inner.as_ref().map(|inner| &inner.admin).ok_or_else(closed)
    }

    /// Serves what waits in the consumer's queue. Nobody else does, and a connection lives as long as its pipelines.
    pub(super) fn drain(&self) {
        if let Some(inner) = &self.inner {
            drain(&inner.consumer);
        }
    }

    /// What `error` means, with librdkafka's own words of what it met, which its error codes lack.
    pub(super) fn fault(&self, error: &KafkaError) -> Fault {
        self.drain();
        fault(error, &self.trouble)
    }
}

fn closed() -> Fault {
    Fault::unreachable("the connection was closed")
}

impl fmt::Debug for Natives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Natives").finish_non_exhaustive()
    }
}

impl Drop for Natives {
    /// librdkafka joins its threads, which takes up to a second that no async thread is to spend.
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            std::thread::spawn(move || drop(inner));
        }
    }
}

async fn connect(endpoint: &Endpoint) -> Result<Natives, Fault> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let addresses: Vec<String> = endpoint.bootstrap_servers.split(',').map(|address| address.trim().to_owned()).collect();
    reach::probe(&addresses).await.map_err(Fault::unreachable)?;

    let mut config = config(endpoint);
    let task = tokio::task::spawn_blocking(move || {
        let trouble = Trouble::default();
        let consumer = BaseConsumer::from_config_and_context(&config, Watch(trouble.clone())).map_err(|error| fault(&error, &trouble))?;
        // Nobody polls the admin client's main queue, where log lines would pile up.
        config.remove("allow.auto.create.topics");
        let admin = AdminClient::from_config(config.set_log_level(RDKafkaLogLevel::Emerg)).map_err(|error| fault(&error, &trouble))?;
        let rest = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        let answered = consumer.client().fetch_cluster_id(rest).is_some();
        drain(&consumer);
        if !answered {
            return Err(trouble.fault().unwrap_or_else(|| Fault::unreachable("the port is open, but nobody there speaks Kafka's protocol in time")));
        }
        trouble.clear();
        Ok(Natives { inner: Some(Inner { consumer, admin }), trouble })
    });
    task.await.unwrap_or_else(|error| Err(Fault::failed(error.to_string())))
}

/// What both clients are made of: what the pipeline's own clients use, and what the operator needs, which wins.
fn config(endpoint: &Endpoint) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (key, value) in &endpoint.properties {
        config.set(key, value);
    }
    config
        .set("bootstrap.servers", &endpoint.bootstrap_servers)
        .set("client.id", "tapeline-operator")
        .set("allow.auto.create.topics", "false")
        .set("socket.connection.setup.timeout.ms", CONNECT_TIMEOUT.as_millis().to_string())
        .set("socket.timeout.ms", "10000")
        .set("reconnect.backoff.max.ms", "2000")
        // Both would fill queues that are looked at once in five minutes, if at all.
        .set("statistics.interval.ms", "0")
        .remove("debug");
    config
}

/// Serves librdkafka's log and errors, which wait in the consumer's queue.
fn drain(consumer: &BaseConsumer<Watch>) {
    // Each call returns at the first error event, of which there is one for each broker and try.
    for _ in 0..100 {
        if consumer.poll(Duration::from_millis(1)).is_none() {
            break;
        }
    }
}

fn fault(error: &KafkaError, trouble: &Trouble) -> Fault {
    if let KafkaError::ClientConfig(_, description, key, _) = error {
        return Fault::invalid(format!("{key:?} is refused by librdkafka: {description}; see its CONFIGURATION.md for what there is"));
    }
    match error.rdkafka_error_code() {
        Some(code) if is_denied(code) => trouble.fault().filter(|fault| fault.class == ErrorClass::Denied).unwrap_or_else(|| Fault::denied(code.to_string())),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::TimedOutQueue
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::SSL,
        ) => trouble.fault().unwrap_or_else(|| Fault::unreachable("no answer in time")),
        None if matches!(error, KafkaError::ClientCreation(_)) => Fault::invalid(format!("librdkafka refuses these settings: {error}")),
        _ => Fault::failed(error.to_string()),
    }
}

/// Whether `code` speaks of a missing right or a wrong password.
pub(super) const fn is_denied(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
    )
}

/// The last thing that librdkafka met.
#[derive(Debug, Clone, Default)]
struct Trouble(Arc<Mutex<Option<Fault>>>);

impl Trouble {
    fn fault(&self) -> Option<Fault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, fault: Fault) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
    }

    fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Keeps librdkafka's log out of ours (at debug it is there) and its last error for our messages.
pub(super) struct Watch(Trouble);

impl ClientContext for Watch {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, "librdkafka: {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!("librdkafka: {error}: {reason}");
        match error.rdkafka_error_code() {
            // Says nothing that the brokers' own errors did not say before.
            Some(RDKafkaErrorCode::AllBrokersDown) => {}
            Some(code) if is_denied(code) => self.0.set(Fault::denied(plain(reason))),
            _ => self.0.set(Fault::unreachable(plain(reason))),
        }
    }
}

impl ConsumerContext for Watch {}

/// A reason of librdkafka's without the parts that differ from one attempt to the next: `b:1/bootstrap: Connect to ipv4#10.0.0.1:1 failed: Connection refused
/// (after 0ms in state CONNECT, 3 identical error(s) suppressed)`.
fn plain(reason: &str) -> String {
    let reason = reason.split(" (after ").next().unwrap_or(reason);
    let reason = reason.split_once("]: ").filter(|(head, _)| head.starts_with('[')).map_or(reason, |(_, rest)| rest);
    reason.trim_end_matches(['.', ':']).to_owned()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        "b:1/bootstrap: Connect to ipv4#10.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)",
        "b:1/bootstrap: Connect to ipv4#10.0.0.1:1 failed: Connection refused"
    )]
    #[case("[thrd:b:1/1]: b:1/1: Disconnected (after 12ms in state UP, 3 identical error(s) suppressed)", "b:1/1: Disconnected")]
    fn a_reason_does_not_change_from_one_attempt_to_the_next(#[case] reason: &str, #[case] text: &str) {
        assert_eq!(plain(reason), text);
    }

    #[test]
    fn what_a_pipeline_sets_for_its_clients_does_not_fill_the_operators_queues() {
        let properties = [("statistics.interval.ms", "100"), ("debug", "all"), ("security.protocol", "ssl")];
        let properties = properties.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let config = config(&Endpoint { bootstrap_servers: "kafka.data:9092".into(), properties });
        assert_eq!((config.get("statistics.interval.ms"), config.get("debug"), config.get("security.protocol")), (Some("0"), None, Some("ssl")));
    }

    #[test]
    fn errors_name_field_and_address() {
        let endpoint = Endpoint { bootstrap_servers: "kafka.data:9092".into(), properties: std::collections::BTreeMap::new() };
        let error = endpoint.error(&Fault::unreachable("connection refused"));
        assert_eq!(
            error.to_string(),
            "spec.kafka.bootstrapServers: no Kafka broker answers at kafka.data:9092: connection refused; check the address, that the brokers run, and that \
            no NetworkPolicy is in between"
        );
    }
}
