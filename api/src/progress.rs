//! The tables in which a query's progress and the ownership of things are kept, beside the data. The operator creates them, workers read and write progress.

/// The table of stored progress, in each MySQL database and Cassandra keyspace.
pub const PROGRESS_TABLE: &str = "tapeline_progress";
/// The table of owners, in each MySQL database and Cassandra keyspace.
pub const RESOURCES_TABLE: &str = "tapeline_resources";

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
