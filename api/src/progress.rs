//! The tables, collections and the topic in which a query's progress and the ownership of things are kept, beside the data. The operator creates them, workers read
//! and write progress.

use serde::{Deserialize, Serialize};

/// The table of stored progress, in each MySQL database and Cassandra keyspace; the collection of it, in each MongoDB database: see [`mongodb_progress_id`].
pub const PROGRESS_TABLE: &str = "tapeline_progress";
/// The table of owners, in each MySQL database and Cassandra keyspace; the collection of them, in each MongoDB database.
pub const RESOURCES_TABLE: &str = "tapeline_resources";

/// The compacted topic in which the progress of all queries into topics of a Kafka cluster is kept, of every pipeline and operator that uses it: records of a
/// [`ProgressRecordKey`] and a [`ProgressRecord`], both JSON, written within the transaction that has the rows. Whoever begins reads it whole, from every
/// partition, so it needs no more than one.
pub const PROGRESS_TOPIC: &str = "tapeline-progress";

/// Settings of [`PROGRESS_TOPIC`] when it is created. Progress must never be deleted, so `cleanup.policy` is what makes it right; the others keep it short, since
/// every worker reads it when it begins.
pub const PROGRESS_TOPIC_CONFIG: [(&str, &str); 4] =
    [("cleanup.policy", "compact"), ("segment.bytes", "16777216"), ("segment.ms", "3600000"), ("min.cleanable.dirty.ratio", "0.1")];

/// The key of a record in [`PROGRESS_TOPIC`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressRecordKey {
    /// `namespace/pipeline/query/replay id`.
    pub query: String,
    /// The topic that the query reads.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
}

/// The value of a record in [`PROGRESS_TOPIC`]. Of several with one key the furthest counts, by `epoch`, then `next_offset`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressRecord {
    /// Offsets of different epochs cannot be compared.
    pub epoch: i64,
    /// The first offset that is not in the sink.
    pub next_offset: i64,
    /// The last write time given.
    pub write_time: i64,
    /// The topic that the query writes to.
    pub sink_table: String,
    /// The hash of the query's plan.
    pub plan_hash: String,
    /// When it was written, RFC 3339.
    pub updated_at: String,
}

/// The `_id` of the document with the progress of a query in [`PROGRESS_TABLE`] of a MongoDB database. It is one document for all partitions, since a change of one
/// document happens whole or not at all:
///
/// ```text
/// {_id: "<kafka_cluster>/<query>/<topic>", partitions: {p0: {epoch: 64, next_offset: 17, write_time: 1724570685123456}, ..}, sink_table, plan_hash, updated_at}
/// ```
///
/// `query` is `namespace/pipeline/query/replay id`; numbers are int64 and `updated_at` is a date.
#[must_use]
pub fn mongodb_progress_id(kafka_cluster: &str, query: &str, topic: &str) -> String {
    format!("{kafka_cluster}/{query}/{topic}")
}

/// The field of `partitions` in that document for a partition. It begins with a letter, since a number in a path means a place in an array.
#[must_use]
pub fn mongodb_progress_field(partition: i32) -> String {
    format!("p{partition}")
}

/// Creates the progress table in the current MySQL database. One row for each partition that a query has read:
/// `next_offset` is the first offset that is not in the sink, valid within `epoch`.
pub const MYSQL_PROGRESS: &str = "CREATE TABLE IF NOT EXISTS `tapeline_progress` (
  `kafka_cluster` varchar(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin NOT NULL,
  `query` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin NOT NULL,
  `topic` varchar(249) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin NOT NULL,
  `partition` int NOT NULL,
  `epoch` bigint NOT NULL,
  `next_offset` bigint NOT NULL,
  `write_time` bigint NOT NULL,
  `sink_table` varchar(64) NOT NULL,
  `plan_hash` varchar(64) NOT NULL,
  `updated_at` timestamp(6) NOT NULL,
  PRIMARY KEY (`kafka_cluster`, `query`, `topic`, `partition`)
) ENGINE=InnoDB";

/// Creates the table of owners in the current MySQL database. The first insert wins.
pub const MYSQL_RESOURCES: &str = "CREATE TABLE IF NOT EXISTS `tapeline_resources` (
  `kind` varchar(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin NOT NULL,
  `name` varchar(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin NOT NULL,
  `owner` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin NOT NULL,
  `origin` varchar(16) NOT NULL,
  `spec_hash` varchar(64) NOT NULL,
  PRIMARY KEY (`kind`, `name`)
) ENGINE=InnoDB";

/// Creates the progress table in `keyspace` (already quoted).
#[must_use]
pub fn cassandra_progress(keyspace: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {keyspace}.{PROGRESS_TABLE} (kafka_cluster text, query text, topic text, partition int, epoch bigint, next_offset bigint, \
         write_time bigint, sink_table text, plan_hash text, updated_at timestamp, PRIMARY KEY ((kafka_cluster, query, topic), partition))"
    )
}

/// Creates the table of owners in `keyspace` (already quoted).
#[must_use]
pub fn cassandra_resources(keyspace: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {keyspace}.{RESOURCES_TABLE} (kind text, name text, owner text, origin text, spec_hash text, PRIMARY KEY ((kind, name)))"
    )
}
