//! Kafka: topics, their partitions and settings.
//!
//! rdkafka 0.39 has neither the incremental change of settings nor the ids of topics. So settings are changed by sending all of them (see [`plan`](mod@plan)),
//! and that a topic was deleted and created again by somebody else between two looks is not seen here: the workers see it, by offsets that are gone.

mod apply;
mod client;
mod describe;
mod plan;
mod repairs;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tapeline_api::TradingPipelineSpec;
use tapeline_api::names::TopicName;
use tapeline_api::pipeline::kafka::Kafka;
use tapeline_api::pipeline::queries::Target;
use tapeline_api::pipeline::status::ResourceKind;
use tapeline_api::progress::PROGRESS_TOPIC;
use tapeline_api::settings::RESERVED_CLIENT_PROPERTIES;

use super::{ExternalError, Node};

pub use client::Client;
pub(in crate::external) use client::Shared;
pub use plan::{Op, Plan, TopicPlan, plan};
pub use repairs::{Contested, Repairs};

/// Where the brokers are and how to talk to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `host:port`, separated by commas.
    pub bootstrap_servers: String,
    /// Further settings of librdkafka.
    pub properties: BTreeMap<String, String>,
}

impl Endpoint {
    /// The brokers of `kafka`. Client properties that are reserved are left out; that they are refused is told elsewhere.
    #[must_use]
    pub fn of(kafka: &Kafka) -> Self {
        let properties = kafka.client_properties.iter().filter(|(key, _)| !RESERVED_CLIENT_PROPERTIES.contains(&key.as_str()));
        Self { bootstrap_servers: kafka.bootstrap_servers.clone(), properties: properties.map(|(key, value)| (key.clone(), text(value))).collect() }
    }
}

/// The topics that a pipeline declares, reads or writes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Desired {
    /// Each topic once.
    pub topics: Vec<DesiredTopic>,
}

/// A topic that a pipeline declares, reads or writes.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredTopic {
    /// Its name.
    pub name: TopicName,
    /// The field that names it: `spec.kafka.topics[0]`, `spec.streams[0].topic`.
    pub field: String,
    /// What is asked for.
    pub role: Role,
}

/// What is asked of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Declared: created, grown, configured.
    Managed {
        /// The number of partitions; the brokers' default where `None`.
        partitions: Option<i32>,
        /// Copies of each partition, at creation.
        replication_factor: Option<i32>,
        /// Settings.
        config: BTreeMap<String, String>,
    },
    /// Declared as somebody else's, or only named by a stream, a sink or a producer.
    LookedUp,
    /// Declared, but managed by another pipeline: only one can, or each would undo the other's settings.
    Taken {
        /// That pipeline, `namespace/name`.
        by: String,
    },
    /// Named as a stream's dead-letter topic and not declared: created when missing, shared between pipelines.
    DeadLetter {
        /// The stream's topic, whose partitions and largest message decide.
        source: TopicName,
    },
    /// [`PROGRESS_TOPIC`], which is created when missing and shared by all pipelines of the Kafka cluster.
    Progress,
}

impl Desired {
    /// The topics that `spec` names: declared ones, then those that only streams, sinks and producers name.
    #[must_use]
    pub fn of(spec: &TradingPipelineSpec) -> Self {
        let mut topics = Vec::new();
        for (index, topic) in spec.kafka.topics.iter().enumerate() {
            let role = if topic.managed {
                let config = topic.config.iter().map(|(key, value)| (key.clone(), text(value))).collect();
                Role::Managed { partitions: topic.partitions, replication_factor: topic.replication_factor, config }
            } else {
                Role::LookedUp
            };
            topics.push(DesiredTopic { name: topic.name.clone(), field: format!("spec.kafka.topics[{index}]"), role });
        }
        let mut desired = Self { topics };
        if let Some(index) = spec.queries.iter().position(|query| matches!(query.sink.target(), Some(Target::Kafka(_))))
            && let Ok(progress) = PROGRESS_TOPIC.parse()
        {
            desired.add(&progress, format!("spec.queries[{index}].sink.kafka"), Role::Progress);
        }
        for (index, stream) in spec.streams.iter().enumerate() {
            // That nothing else may be written to the topic of progress is told elsewhere.
            if let Some(dead_letters) = stream.dead_letter_topic.as_ref().filter(|topic| topic.as_str() != PROGRESS_TOPIC) {
                desired.add(dead_letters, format!("spec.streams[{index}].deadLetterTopic"), Role::DeadLetter { source: stream.topic.clone() });
            }
        }
        for (index, stream) in spec.streams.iter().enumerate() {
            desired.add(&stream.topic, format!("spec.streams[{index}].topic"), Role::LookedUp);
        }
        for (index, query) in spec.queries.iter().enumerate() {
            if let Some(Target::Kafka(sink)) = query.sink.target() {
                desired.add(&sink.topic, format!("spec.queries[{index}].sink.kafka.topic"), Role::LookedUp);
            }
        }
        for (index, producer) in spec.producers.iter().enumerate() {
            for (field, topic) in producer.topics() {
                desired.add(topic, format!("spec.producers[{index}].{field}"), Role::LookedUp);
            }
        }
        desired
    }

    fn add(&mut self, name: &TopicName, field: String, role: Role) {
        if !self.topics.iter().any(|topic| topic.name == *name) {
            self.topics.push(DesiredTopic { name: name.clone(), field, role });
        }
    }
}

impl DesiredTopic {
    fn node(&self) -> Node {
        Node { kind: ResourceKind::Topic, name: self.name.to_string(), field: self.field.clone() }
    }
}

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actual {
    /// The cluster's id.
    pub cluster_id: String,
    /// The topics that exist, of those asked for.
    pub topics: BTreeMap<TopicName, ActualTopic>,
    /// Topics that this client may not look at. The errors' field is left empty.
    pub denied: BTreeMap<TopicName, ExternalError>,
}

/// A topic that exists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ActualTopic {
    /// Its partitions.
    pub partitions: i32,
    /// Settings that are set on the topic itself. A sensitive one has no value that could be read.
    pub config: BTreeMap<String, Option<String>>,
    /// The largest message that it takes, wherever that is set.
    pub max_message_bytes: Option<i64>,
}

fn text(value: &IntOrString) -> String {
    match value {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(text) => text.clone(),
    }
}

/// Whether two values of a setting mean the same: Kafka writes numbers, booleans and lists back in its own spelling.
fn same(actual: &str, declared: &str) -> bool {
    let list = |text: &str| text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_ascii_lowercase).collect::<Vec<_>>();
    let number = |text: &str| text.trim().parse::<i64>().ok();
    let float = |text: &str| text.trim().parse::<f64>().ok();
    match (number(actual), number(declared)) {
        (Some(actual), Some(declared)) => actual == declared,
        _ => match (float(actual), float(declared)) {
            (Some(actual), Some(declared)) => actual.total_cmp(&declared).is_eq(),
            _ => actual == declared || list(actual) == list(declared),
        },
    }
}
