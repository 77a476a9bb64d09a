//! `status`: what the operator saw. Numbers are integers with their unit in the name; one that is not known is absent, never 0.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, IntoStaticStr};

use crate::names::{ItemName, TopicName};

/// What the operator saw of a pipeline.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TradingPipelineStatus {
    /// The generation of the resource that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Reconciling, Stalled, TopicsReady, CassandraReady, MySQLReady, MongoDBReady, WorkersReady, DataLost, Degraded.
    #[serde(default)]
    #[schemars(length(max = 20), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Counts for `kubectl get -o wide`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// Messages that the slowest query has yet to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
    /// Seconds by which the slowest query is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_seconds: Option<i64>,
    /// Rows per second that all queries together read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_per_second: Option<i64>,
    /// When the numbers were last seen to change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
    /// Each query.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub queries: Vec<QueryStatus>,
    /// Each producer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub producers: Vec<ProducerStatus>,
    /// The dashboard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dashboard: Option<DashboardStatus>,
    /// Each topic that the pipeline names, as it was last seen; of topics that it named once, how often they were created.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 400), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub topics: Vec<TopicStatus>,
    /// Everything that the operator created or found for this pipeline outside Kubernetes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["kind", "name"]))]
    pub resources: Vec<ResourceStatus>,
}

/// Counts, each as `<as declared>/<declared>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Topics.
    pub topics: String,
    /// Tables and views.
    pub tables: String,
    /// Pods of queries and producers.
    pub workers: String,
}

/// What is known of a query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueryStatus {
    /// The query.
    pub name: ItemName,
    /// In one word.
    pub state: ItemState,
    /// What is wrong and what to do; empty when nothing is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Pods asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Pods that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// Messages that it has yet to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
    /// Seconds since the oldest message that is not in the sink yet was written; 0 when all are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_seconds: Option<i64>,
    /// Rows per second that it reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_per_second: Option<i64>,
    /// Records that went to the dead-letter topic since the workers started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bad_records: Option<i64>,
}

/// What is known of a producer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProducerStatus {
    /// The producer.
    pub name: ItemName,
    /// In one word.
    pub state: ItemState,
    /// What is wrong and what to do; empty when nothing is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Messages that it has sent since it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<i64>,
    /// When the last run of a scheduled producer began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<Time>,
}

/// What is known of the dashboard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DashboardStatus {
    /// In one word.
    pub state: ItemState,
    /// What is wrong and what to do; empty when nothing is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Its Service.
    pub service: String,
}

/// The state of a query, a producer or the dashboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Display, IntoStaticStr)]
pub enum ItemState {
    /// Something that it needs is not there yet, or its pods are starting.
    Pending,
    /// It runs.
    Running,
    /// A scheduled producer that has not run yet.
    Scheduled,
    /// A producer that has sent everything; a scheduled one whose last run did.
    Done,
    /// It waits for a store or broker.
    Waiting,
    /// It stopped by itself; only a change helps.
    Failed,
    /// The specification of this item is wrong; its last good Deployment, if there is one, runs on.
    Invalid,
    /// Suspended on request.
    Suspended,
}

/// A topic as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopicStatus {
    /// The topic.
    pub name: TopicName,
    /// Its partitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
    /// How often it was created by the operator: 1 for the first time. Stored progress is valid for one incarnation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<i64>,
    /// Settings that the operator has set on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "atomic"))]
    pub config_keys: Vec<String>,
}

/// Something outside Kubernetes that belongs to the pipeline.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceStatus {
    /// What it is.
    pub kind: ResourceKind,
    /// Its name, with the keyspace or database in front (`trading.profile`).
    #[schemars(length(max = 300))]
    pub name: String,
    /// How the pipeline came by it.
    pub origin: Origin,
    /// The id of the server that holds it: Kafka's cluster id, MySQL's server_uuid, Cassandra's cluster name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub server: Option<String>,
}

/// Kinds of things outside Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, Display, IntoStaticStr)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ResourceKind {
    Topic,
    CassandraKeyspace,
    CassandraTable,
    MySQLDatabase,
    MySQLTable,
    MySQLView,
    MongoDBDatabase,
    MongoDBCollection,
}

/// How a pipeline came by a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema, Display, IntoStaticStr)]
pub enum Origin {
    /// The operator is about to create it.
    Creating,
    /// The operator created it.
    Created,
    /// It was there.
    Adopted,
    /// It is no longer in the specification; it was left as it is.
    Released,
}
