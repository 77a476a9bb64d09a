//! `spec.queries[]`: SQL over a stream, in micro-batches, into a sink.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::workers::Resources;
use crate::duration::GoDuration;
use crate::names::{ItemName, SqlName};

/// SQL over a stream, run in micro-batches into a sink.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Query {
    /// The query's name. Its Deployment is `<pipeline>-query-<name>`, and its progress is kept under it: a query under another name begins anew.
    pub name: ItemName,
    /// A SELECT over exactly one stream, in the SQL of DataFusion. `now()` is the time of the micro-batch. Its output columns go to the sink's columns of the same name.
    #[schemars(length(min = 1, max = 20_000))]
    pub sql: String,
    /// When a micro-batch ends and its rows become visible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Trigger>,
    /// Where rows go.
    pub sink: Sink,
    /// How many workers share the topic's partitions. Default: one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<Scale>,
    /// CPU and memory of a worker. Default: those under `spec.workers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Stops this query alone. Its progress is kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
}

/// When a micro-batch ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Trigger {
    /// Time between two micro-batches, counted from full multiples of it: `60s` ends them at full minutes. Default: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "duration(self) >= duration('100ms') && duration(self) <= duration('24h')", "message": "from 100ms to 24h"}]))]
    pub interval: Option<GoDuration>,
    /// A micro-batch also ends when it has this many rows. Default: only by time and memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max_rows: Option<i64>,
}

/// Where rows go. Exactly one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend(
    "x-kubernetes-map-type" = "atomic",
    "x-kubernetes-validations" = [{
        "rule": "[has(self.cassandra), has(self.mysql), has(self.blackhole)].exists_one(x, x)",
        "message": "give exactly one of cassandra, mysql and blackhole"
    }]
))]
pub struct Sink {
    /// A table in Cassandra. For queries that handle each row by itself: no aggregates, joins of streams, DISTINCT or windows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cassandra: Option<CassandraSink>,
    /// A table in MySQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mysql: Option<MySqlSink>,
    /// Nowhere: rows are counted and dropped, progress is not kept. For measuring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blackhole: Option<Blackhole>,
}

/// A table in Cassandra.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CassandraSink {
    /// The table, in the keyspace of `spec.cassandra`.
    pub table: SqlName,
    /// Write: a null overwrites what the row had. Keep: it leaves it.
    #[serde(default)]
    pub nulls: Nulls,
}

/// What a null does to a row that exists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Nulls {
    /// It overwrites.
    #[default]
    Write,
    /// It leaves the old value.
    Keep,
}

/// A table in MySQL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MySqlSink {
    /// The table, in the database of `spec.mysql`.
    pub table: SqlName,
    /// Append: every output row of every micro-batch is a new row. Upsert: the row with the same primary key is overwritten; for queries that handle each row by itself.
    pub mode: MySqlMode,
}

/// How rows are written to MySQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MySqlMode {
    /// INSERT.
    Append,
    /// INSERT .. ON DUPLICATE KEY UPDATE.
    Upsert,
}

/// Rows go nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Blackhole {}

/// How many workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Scale {
    /// A fixed number. More than the topic has partitions stand idle.
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,
}
