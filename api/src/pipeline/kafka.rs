//! `spec.kafka`: the brokers and the topics.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::names::TopicName;

/// The Kafka cluster that a pipeline reads from, and its topics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kafka {
    /// `host:port` of one or more brokers, separated by commas. Hosts are looked up from the operator's pod and from the pipeline's: give a Service's name with its namespace.
    #[schemars(length(min = 1, max = 1000), pattern(r"^[^\s,:]+:[0-9]{1,5}(,[^\s,:]+:[0-9]{1,5})*$"))]
    pub bootstrap_servers: String,
    /// What the names of consumer groups begin with; the query's name follows. Default: `<8 digits of the Kubernetes cluster's id>.<namespace>.<pipeline>.`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 150), pattern("^[a-zA-Z0-9._-]+$"))]
    pub consumer_group_prefix: Option<String>,
    /// Further settings of librdkafka for every client of this pipeline. Those that Tapeline needs to be right (group, commit, isolation, offset reset, brokers) are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 50))]
    pub client_properties: BTreeMap<String, IntOrString>,
    /// Topics that the operator creates when they are missing, and keeps as declared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    // More, and the root rule on partitions exceeds the API server's budget for CEL by its estimate (200: 1.37 times).
    #[schemars(length(max = 150), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub topics: Vec<Topic>,
}

/// A Kafka topic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Topic {
    /// The topic's name.
    pub name: TopicName,
    /// Number of partitions. It can grow, never shrink. Default: the brokers' when the topic is created, what it has when it exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub partitions: Option<i32>,
    /// On how many brokers each partition is kept. Only used when the topic is created. Default: the brokers'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub replication_factor: Option<i32>,
    /// Kafka's settings of the topic, such as `retention.ms`. What is not named here is left as it is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 50))]
    pub config: BTreeMap<String, IntOrString>,
    /// `false`: the topic belongs to somebody else. It is looked at, never created or altered.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub managed: bool,
}

const fn yes() -> bool {
    true
}
