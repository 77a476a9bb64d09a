//! The `TradingPipeline`: what a user writes. One module for each part of it.

#![allow(clippy::duplicated_attributes, reason = "clippy takes the arguments of kube's printcolumns for attributes of their own")]

pub mod cassandra;
pub mod dashboard;
pub mod file;
pub mod kafka;
pub mod live;
pub mod mongodb;
pub mod mysql;
pub mod orders;
pub mod producers;
pub mod queries;
pub mod references;
pub mod schedule;
pub mod status;
pub mod streams;
pub mod workers;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::names::{DataKey, ObjectName};

/// A streaming pipeline: Kafka topics in, SQL over micro-batches, rows out to Cassandra, MySQL, MongoDB and Kafka. The operator creates the topics, keyspaces, tables, views
/// and collections named here, runs one Deployment for each query and producer (a CronJob for one with a schedule), and reports in `status`. Nothing that holds data is ever deleted or narrowed; deleting the
/// pipeline stops its workers and producers and keeps topics, tables and rows.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tapeline.dev",
    version = "v1alpha1",
    kind = "TradingPipeline",
    shortname = "tp",
    category = "tapeline",
    namespaced,
    status = "status::TradingPipelineStatus",
    derive = "PartialEq",
    doc = "A streaming pipeline: Kafka topics in, SQL over micro-batches, rows out to Cassandra, MySQL, MongoDB and Kafka.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether everything runs as asked for."
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "Why it is ready or not, in one word."
    ),
    printcolumn(name = "Lag", type_ = "integer", json_path = ".status.lag", description = "Messages that the slowest query has yet to read."),
    printcolumn(name = "Behind", type_ = "integer", json_path = ".status.behindSeconds", description = "Seconds by which the slowest query is behind."),
    printcolumn(name = "Rows/s", type_ = "integer", json_path = ".status.rowsPerSecond", description = "Rows per second read by all queries together."),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Topics",
        type_ = "string",
        json_path = ".status.summary.topics",
        description = "Topics that are as declared, of those declared.",
        priority = 1
    ),
    printcolumn(
        name = "Tables",
        type_ = "string",
        json_path = ".status.summary.tables",
        description = "Tables and views that are as declared, of those declared.",
        priority = 1
    ),
    printcolumn(
        name = "Workers",
        type_ = "string",
        json_path = ".status.summary.workers",
        description = "Pods of queries and producers that are ready, of those asked for.",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        description = "What is wrong and what to do.",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TradingPipelineSpec {
    /// Stops the pipeline: no pods for its queries and producers. Progress is kept; `false` goes on where it stopped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// Settings of every pod of the pipeline. `resources` of a query or producer win over those here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<workers::Workers>,
    /// The Kafka cluster and the topics that the pipeline needs there.
    pub kafka: kafka::Kafka,
    /// The Cassandra cluster, the keyspace and the tables that the pipeline needs there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cassandra: Option<cassandra::Cassandra>,
    /// The MySQL server, the database, the tables and views that the pipeline needs there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mysql: Option<mysql::MySql>,
    /// The MongoDB deployment, the database and the collections that the pipeline needs there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mongodb: Option<mongodb::MongoDb>,
    /// Topics as SQL tables: which fields their messages have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub streams: Vec<streams::Stream>,
    /// Static tables that queries join with their stream.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub references: Vec<references::Reference>,
    /// SQL over a stream, run in micro-batches into a sink. Each is a Deployment of its own, with its own progress, trigger and scale.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub queries: Vec<queries::Query>,
    /// What feeds topics, where nothing else does: a simulated market, recorded bars replayed, messages from a file, what a websocket or a JSON API delivers; all the time or on a schedule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub producers: Vec<producers::Producer>,
    /// A web page for the pipeline, also while the pipeline is suspended. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dashboard: Option<dashboard::Dashboard>,
}

/// A user name and password in a Secret of the pipeline's own namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CredentialsSecretRef {
    /// The Secret's name.
    pub name: ObjectName,
    /// The key that holds the user name.
    #[serde(default = "username_key")]
    pub username_key: DataKey,
    /// The key that holds the password.
    #[serde(default = "password_key")]
    pub password_key: DataKey,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_zero(number: &i64) -> bool {
    *number == 0
}

const fn one() -> i64 {
    1
}

fn username_key() -> DataKey {
    key("username")
}

fn password_key() -> DataKey {
    key("password")
}

#[allow(clippy::expect_used, reason = "a constant that the test below parses")]
fn key(text: &str) -> DataKey {
    text.parse().expect("a constant key")
}

/// One key of a ConfigMap of the pipeline's own namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigMapKeyRef {
    /// The ConfigMap's name.
    pub name: ObjectName,
    /// The key in it, in `data` or `binaryData`.
    pub key: DataKey,
}

/// One key of a Secret of the pipeline's own namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKeyRef {
    /// The Secret's name.
    pub name: ObjectName,
    /// The key in it.
    pub key: DataKey,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_keys_parse() {
        assert_eq!(username_key().as_str(), "username");
        assert_eq!(password_key().as_str(), "password");
    }
}
