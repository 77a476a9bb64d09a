//! Everything that talks to Kafka: [`tail`] reads what the topic holds, [`sender`] writes, [`hint`] remembers beside the topic, [`barrier`] settles what a
//! predecessor left under way; [`live`] writes for sources outside, which have no ticks. Here: how clients are configured, and what their errors mean to a user.

pub mod barrier;
pub mod hint;
pub mod live;
pub mod sender;
pub mod tail;

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tapeline_api::report::{Problem, ProblemClass};
use tapeline_api::settings::ProducerSettings;

use crate::halt::{Halt, problem};

/// What goes wrong with Kafka. Addresses are not in the text; librdkafka's log lines have them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// librdkafka does not accept a setting.
    #[error("the brokers' client cannot be set up; look at spec.kafka.clientProperties: {0}")]
    Client(String),
    /// No broker answers, or none in time, or one that is in trouble itself.
    #[error("{what}: {reason}")]
    Unreachable {
        /// What was being done.
        what: &'static str,
        /// What librdkafka says.
        reason: String,
    },
    /// The topic is not there.
    #[error("topic {0} does not exist")]
    TopicMissing(String),
    /// The topic is not the one that was there before.
    #[error("topic {0} was created anew")]
    Recreated(String),
    /// A message is larger than the topic takes.
    #[error("a message is larger than the topic takes; raise the topic's max.message.bytes")]
    TooLarge,
    /// The producer cannot go on; a new one can, after looking at the topic again.
    #[error("sending has to begin anew: {0}")]
    Broken(String),
}

impl Fault {
    /// What an error of librdkafka means that came while doing `what` with `topic`.
    #[must_use]
    pub fn of(what: &'static str, topic: &str, error: &KafkaError) -> Self {
        use RDKafkaErrorCode as Code;
        match error.rdkafka_error_code() {
            Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition) => Self::TopicMissing(topic.to_owned()),
            Some(Code::MessageSizeTooLarge) => Self::TooLarge,
            Some(Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut | Code::Resolve | Code::RequestTimedOut) => {
                Self::Unreachable { what, reason: "no broker answers; look at the brokers, spec.kafka.bootstrapServers and network policies".to_owned() }
            }
            Some(
                code @ (Code::Authentication
                | Code::SaslAuthenticationFailed
                | Code::TopicAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::TransactionalIdAuthorizationFailed
                | Code::SSL),
            ) => Self::Unreachable { what, reason: format!("the brokers refuse it; look at the credentials and the brokers' ACLs: {code}") },
            Some(code) => Self::Unreachable { what, reason: code.to_string() },
            None => match error {
                KafkaError::ClientConfig(_, reason, name, _) => Self::Client(format!("{name}: {reason}")),
                KafkaError::ClientCreation(reason) => Self::Client(reason.clone()),
                other => Self::Unreachable { what, reason: other.to_string() },
            },
        }
    }

    /// As `/status` shows it.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let class = match self {
            Self::Client(_) | Self::TooLarge => ProblemClass::InvalidSettings,
            Self::Unreachable { .. } | Self::Broken(_) => ProblemClass::KafkaUnreachable,
            Self::TopicMissing(_) | Self::Recreated(_) => ProblemClass::TopicMissing,
        };
        problem(class, self.to_string())
    }
}

impl From<Fault> for Halt {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Client(_) => Self::Failed(fault.problem()),
            _ => Self::Waiting(fault.problem()),
        }
    }
}

/// The brokers as they are needed for reading what the topic holds.
fn consumer_config(settings: &ProducerSettings) -> ClientConfig {
    const PREFERRED: &[(&str, &str)] = &[
        // A start reads little; memory is bounded whatever the messages' size.
        ("queued.max.messages.kbytes", "4096"),
        ("fetch.message.max.bytes", "1048576"),
        ("fetch.queue.backoff.ms", "5"),
        ("fetch.wait.max.ms", "100"),
    ];
    const NEEDED: &[(&str, &str)] = &[
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("enable.partition.eof", "true"),
        ("auto.offset.reset", "error"),
        ("allow.auto.create.topics", "false"),
        // Not read_committed: our messages are in no transaction, and behind somebody else's open one they would be overlooked and sent again.
        ("isolation.level", "read_uncommitted"),
    ];
    let mut config = config(settings, PREFERRED, NEEDED);
    config.set("group.id", hint::group(settings));
    config
}

/// The brokers as they are needed for writing.
fn producer_config(settings: &ProducerSettings) -> ClientConfig {
    config(settings, WRITING_PREFERRED, WRITING_NEEDED)
}

const WRITING_PREFERRED: &[(&str, &str)] = &[
    ("linger.ms", "5"),
    ("compression.type", "lz4"),
    // Smaller than the default of 1 MB, since librdkafka does not split a batch that a topic with a lower limit refuses.
    ("batch.size", "262144"),
    // As Java's clients do it: equal keys meet in one partition, whoever wrote them.
    ("partitioner", "murmur2_random"),
];
const WRITING_NEEDED: &[(&str, &str)] = &[
    ("enable.idempotence", "true"),
    ("acks", "all"),
    // One request at a time: what a process that was killed left under way at a broker is then at most the request being worked on, which the barrier waits
    // for, and nothing behind it. A million messages to one broker take as long as with 5 (12 s, measured), as batches grow while one is under way.
    ("max.in.flight.requests.per.connection", "1"),
    // For ever: an outage is waited out, and the order is kept.
    ("message.timeout.ms", "0"),
    // The broker decides what is too large, by the topic's own limit.
    ("message.max.bytes", "67108864"),
    // Above what is let be under way by whoever sends, who therefore alone decides.
    ("queue.buffering.max.messages", "100000"),
    ("queue.buffering.max.kbytes", "131072"),
    // A topic that is deleted while we write is the operator's to create again, with the partitions that it should have.
    ("allow.auto.create.topics", "false"),
    ("delivery.report.only.error", "false"),
];

/// A pipeline's brokers, for this producer.
fn config(settings: &ProducerSettings, preferred: &[(&str, &str)], needed: &[(&str, &str)]) -> ClientConfig {
    let client_id = settings.identity();
    let common = [("client.id", client_id.as_str()), ("reconnect.backoff.max.ms", "2000"), ("socket.keepalive.enable", "true")];
    let preferred: Vec<_> = preferred.iter().copied().chain(common).collect();
    let wished = settings.kafka.client_properties.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut config = merge(&settings.kafka.bootstrap_servers, &preferred, wished, needed);
    config.set_log_level(RDKafkaLogLevel::Info);
    config
}

/// The brokers as somebody who writes by hand needs them: as a producer does, but what is not acknowledged in time is given up.
pub(crate) fn console_config<'a>(brokers: &str, wished: impl Iterator<Item = (&'a str, &'a str)>, patience: Duration) -> ClientConfig {
    let preferred: Vec<_> = WRITING_PREFERRED.iter().copied().chain([("client.id", "tapeline-console")]).collect();
    let mut config = merge(brokers, &preferred, wished, WRITING_NEEDED);
    config.set("message.timeout.ms", patience.as_millis().clamp(1, 2_147_483_647).to_string()).set_log_level(RDKafkaLogLevel::Warning);
    config
}

/// What users set wins over what is only preferred, and what is needed for being right wins over both.
fn merge<'a>(brokers: &str, preferred: &[(&'a str, &'a str)], wished: impl Iterator<Item = (&'a str, &'a str)>, needed: &[(&'a str, &'a str)]) -> ClientConfig {
    let mut merged: BTreeMap<&str, &str> = preferred.iter().copied().chain(wished).collect();
    // The aliases would set the same thing twice.
    for alias in ["metadata.broker.list", "request.required.acks", "max.in.flight", "delivery.timeout.ms"] {
        merged.remove(alias);
    }
    merged.extend(needed.iter().copied());
    let mut config = ClientConfig::new();
    for (name, value) in merged {
        config.set(name, value);
    }
    config.set("bootstrap.servers", brokers);
    config
}

/// Passes librdkafka's log lines on. Its errors say once more what the lines say, twice for each broker and every two seconds during an outage, and are left to
/// debugging.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogLines;

impl ClientContext for LogLines {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log_line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl ConsumerContext for LogLines {}

pub(crate) fn log_line(level: RDKafkaLogLevel, facility: &str, line: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => tracing::error!(target: "librdkafka", facility, "{line}"),
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, "{line}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::info!(target: "librdkafka", facility, "{line}"),
        RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{line}"),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::settings::tests::replay_settings;

    #[test]
    fn users_win_over_preferences_and_lose_against_what_is_needed() {
        let mut settings = replay_settings();
        settings.kafka.client_properties = [("linger.ms", "50"), ("acks", "1"), ("delivery.timeout.ms", "5"), ("client.rack", "a")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let config = producer_config(&settings);
        let get = |name| config.get(name);
        assert_eq!((get("linger.ms"), get("client.rack"), get("acks")), (Some("50"), Some("a"), Some("all")));
        assert_eq!((get("delivery.timeout.ms"), get("message.timeout.ms"), get("client.id")), (None, Some("0"), Some("shop/market/history")));
        assert_eq!(get("partitioner"), Some("murmur2_random"), "equal keys meet, whichever source wrote them");
        assert_eq!(consumer_config(&settings).get("group.id"), Some("shop.market.history.producer"));
        settings.kafka.client_properties.insert("partitioner".to_owned(), "fnv1a".to_owned());
        assert_eq!(producer_config(&settings).get("partitioner"), Some("fnv1a"));
    }

    #[test]
    fn librdkafka_accepts_the_settings() {
        let settings = replay_settings();
        consumer_config(&settings).create_native_config().unwrap();
        producer_config(&settings).create_native_config().unwrap();
        let mut wrong = settings;
        wrong.kafka.client_properties.insert("linger.mss".to_owned(), "5".to_owned());
        let error = producer_config(&wrong).create_native_config().map(|_| ()).unwrap_err();
        let fault = Fault::of("connecting", "t", &error);
        assert!(matches!(&fault, Fault::Client(reason) if reason.contains("linger.mss")), "{fault}");
        assert_eq!(fault.problem().class, ProblemClass::InvalidSettings);
    }

    #[rstest]
    #[case(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition), ProblemClass::TopicMissing)]
    #[case(KafkaError::MetadataFetch(RDKafkaErrorCode::BrokerTransportFailure), ProblemClass::KafkaUnreachable)]
    #[case(KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge), ProblemClass::InvalidSettings)]
    #[case(KafkaError::NoMessageReceived, ProblemClass::KafkaUnreachable)]
    fn errors_have_a_class(#[case] error: KafkaError, #[case] class: ProblemClass) {
        assert_eq!(Fault::of("reading the topic", "t", &error).problem().class, class);
    }
}
