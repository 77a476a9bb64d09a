//! `spec.queries[]`: SQL over a stream, in micro-batches, into a sink.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::workers::Resources;
use crate::duration::{GoDuration, between};
use crate::names::{ItemName, SqlName, TopicName};

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
    #[schemars(extend("x-kubernetes-validations" = between("100ms", "24h")))]
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
        "rule": "[has(self.cassandra), has(self.mysql), has(self.mongodb), has(self.kafka), has(self.blackhole)].exists_one(x, x)",
        "message": "give exactly one of cassandra, mysql, mongodb, kafka and blackhole"
    }]
))]
pub struct Sink {
    /// A table in Cassandra. For queries that handle each row by itself: no aggregates, joins of streams, DISTINCT or windows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cassandra: Option<CassandraSink>,
    /// A table in MySQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mysql: Option<MySqlSink>,
    /// A collection in MongoDB. For queries that handle each row by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mongodb: Option<MongoDbSink>,
    /// A topic of the same Kafka cluster: each row a JSON object, in transactions, so that whoever reads committed records sees each once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaSink>,
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
    /// Merge: what a micro-batch aggregated is merged into the row of the same group, whose columns are the primary key; for queries with GROUP BY whose aggregates are
    /// sum, count, min, max, first_value and last_value.
    pub mode: MySqlMode,
}

/// How rows are written to MySQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MySqlMode {
    /// INSERT.
    Append,
    /// INSERT .. ON DUPLICATE KEY UPDATE.
    Upsert,
    /// INSERT .. ON DUPLICATE KEY UPDATE with the sum, least, greatest, first or last of what is there and what is new.
    Merge,
}

/// A collection in MongoDB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MongoDbSink {
    /// The collection, in the database of `spec.mongodb`.
    pub collection: SqlName,
    /// Output columns that make a document's `_id`: one column its value, several an object of them. A later record of the same `_id` replaces the document.
    /// Default: `record_uuid()`, so that each record is a document of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub id: Vec<SqlName>,
}

/// A topic that rows are published to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KafkaSink {
    /// The topic. One that is not under `spec.kafka.topics` is looked up and never altered.
    pub topic: TopicName,
    /// Output columns that make a message's key: one column its value as text, several a JSON object of them. Default: messages without a key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub key: Vec<SqlName>,
}

/// What a sink asks of the plan of its query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Any plan: rows and progress are stored together, or not at all.
    AnyPlan,
    /// One that handles each row by itself, since a row that is written a second time overwrites itself: an aggregate would with another part of its sum.
    RowWise,
    /// An aggregate whose groups can be merged.
    Mergeable,
}

/// A sink's one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// A Cassandra table.
    Cassandra(&'a CassandraSink),
    /// A MySQL table.
    MySql(&'a MySqlSink),
    /// A MongoDB collection.
    MongoDb(&'a MongoDbSink),
    /// A topic.
    Kafka(&'a KafkaSink),
    /// Nothing.
    Blackhole,
}

impl Sink {
    /// Its one member; None only for an object that the API server has not looked at.
    #[must_use]
    pub fn target(&self) -> Option<Target<'_>> {
        let cassandra = self.cassandra.as_ref().map(Target::Cassandra);
        let mysql = self.mysql.as_ref().map(Target::MySql);
        let mongodb = self.mongodb.as_ref().map(Target::MongoDb);
        let kafka = self.kafka.as_ref().map(Target::Kafka);
        let blackhole = self.blackhole.as_ref().map(|_| Target::Blackhole);
        cassandra.or(mysql).or(mongodb).or(kafka).or(blackhole)
    }
}

impl MySqlMode {
    /// What it asks of the plan.
    #[must_use]
    pub const fn takes(self) -> Takes {
        match self {
            Self::Append => Takes::AnyPlan,
            Self::Upsert => Takes::RowWise,
            Self::Merge => Takes::Mergeable,
        }
    }
}

impl Target<'_> {
    /// What it asks of the plan.
    #[must_use]
    pub const fn takes(&self) -> Takes {
        match self {
            Self::Cassandra(_) | Self::MongoDb(_) => Takes::RowWise,
            Self::MySql(sink) => sink.mode.takes(),
            Self::Kafka(_) | Self::Blackhole => Takes::AnyPlan,
        }
    }

    /// As it is said in messages: "a query into Cassandra".
    #[must_use]
    pub const fn described(&self) -> &'static str {
        match self {
            Self::Cassandra(_) => "a query into Cassandra",
            Self::MongoDb(_) => "a query into MongoDB",
            Self::MySql(sink) => match sink.mode {
                MySqlMode::Append => "a query with mode Append",
                MySqlMode::Upsert => "a query with mode Upsert",
                MySqlMode::Merge => "a query with mode Merge",
            },
            Self::Kafka(_) => "a query into Kafka",
            Self::Blackhole => "a query into nothing",
        }
    }
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
