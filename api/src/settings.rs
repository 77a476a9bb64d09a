//! What the operator hands to a worker, a producer or a dashboard: one JSON document in an immutable ConfigMap, mounted at [`SETTINGS_PATH`]. Credentials are not in it;
//! they are mounted from their Secrets under [`CREDENTIALS_DIR`].

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::names::{ItemName, SqlName, TopicName};
use crate::pipeline::cassandra::ReplicationClass;
use crate::pipeline::dashboard::{Allowed, AuthHeader};
use crate::pipeline::producers::Source;
use crate::pipeline::queries::{MySqlMode, Nulls, Takes};
use crate::pipeline::references::{MySqlReference, ReferenceTable};
use crate::pipeline::streams::Stream;

/// The version of this document. A worker reads this one and the one before.
pub const FORMAT_VERSION: u32 = 1;
/// Where the document is mounted.
pub const SETTINGS_PATH: &str = "/etc/tapeline/settings.json";
/// Where Secrets are mounted: `<here>/mysql/username`, `<here>/mysql/password`, `<here>/cassandra/..`, `<here>/mongodb/..`, `<here>/feed/..`, `<here>/dashboard/..`.
pub const CREDENTIALS_DIR: &str = "/etc/tapeline/credentials";
/// The folder in it for what a producer's source needs (see [`Source::secret_files`]).
pub const FEED_FOLDER: &str = "feed";
/// The folder in it for the user name and password that a dashboard asks for (see [`DashboardAuth::Password`]).
pub const DASHBOARD_FOLDER: &str = "dashboard";
/// The port of a worker's and a producer's `/status`, `/metrics`, `/healthz` and `/readyz`, and of a dashboard's pages and probes.
pub const HTTP_PORT: u16 = 8080;

/// A settings document that this program cannot use.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Not what this program knows.
    #[error("the settings cannot be understood: {0}; the images of the operator and of what it runs must be of one release")]
    Parse(#[from] serde_json::Error),
    /// Written by a newer or much older operator.
    #[error("the settings have format {0}, this program reads {FORMAT_VERSION}; the images of the operator and of what it runs must be of one release")]
    Version(u32),
}

/// Reads a settings document. Its version comes first, since the rest can only be understood if that is known.
///
/// # Errors
/// It is of another version, or not what it should be.
pub fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, FormatError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Versioned {
        format_version: u32,
    }

    let Versioned { format_version } = serde_json::from_slice(json)?;
    if format_version != FORMAT_VERSION {
        return Err(FormatError::Version(format_version));
    }
    Ok(serde_json::from_slice(json)?)
}

/// The settings of a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerSettings {
    /// [`FORMAT_VERSION`] when it was written.
    pub format_version: u32,
    /// The pipeline's namespace.
    pub namespace: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The query's name.
    pub query: ItemName,
    /// The brokers.
    pub kafka: KafkaSettings,
    /// The consumer group.
    pub group_id: String,
    /// The stream that the query reads, as declared.
    pub stream: Stream,
    /// How often the operator created the stream's topic; 0 where it never did. It is the upper part of the epoch of stored progress.
    pub topic_incarnation: i64,
    /// Reference data that the query joins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<ReferenceSettings>,
    /// The query's SQL.
    pub sql: String,
    /// Milliseconds between two cuts.
    pub trigger_interval_ms: u64,
    /// Rows after which a micro-batch ends early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rows: Option<u64>,
    /// Where rows go.
    pub sink: SinkSettings,
    /// Seconds within which the process has to be gone after SIGTERM.
    pub grace_period_seconds: u64,
}

impl WorkerSettings {
    /// Under which name the progress of this query is stored: `namespace/pipeline/query/replay id`.
    #[must_use]
    pub fn progress_name(&self) -> String {
        format!("{}/{}/{}/0", self.namespace, self.pipeline, self.query)
    }
}

/// The brokers, for any client of the pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KafkaSettings {
    /// `host:port`, separated by commas.
    pub bootstrap_servers: String,
    /// Further settings of librdkafka.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub client_properties: BTreeMap<String, String>,
}

/// Reference data of a query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReferenceSettings {
    /// What SQL sees.
    pub table: ReferenceTable,
    /// The server.
    pub connection: MySqlConnection,
    /// Where the rows are.
    pub source: MySqlReference,
    /// Milliseconds between two loads.
    pub refresh_ms: u64,
}

/// Settings of librdkafka that a pipeline may not set, since Tapeline's being right depends on them.
pub const RESERVED_CLIENT_PROPERTIES: &[&str] = &[
    "auto.offset.reset",
    "bootstrap.servers",
    "acks",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "isolation.level",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "request.required.acks",
    "transactional.id",
];

/// Where rows go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SinkSettings {
    /// A Cassandra table.
    Cassandra {
        /// The cluster.
        connection: CassandraConnection,
        /// The table.
        table: SqlName,
        /// What a null does.
        nulls: Nulls,
    },
    /// A MySQL table.
    #[serde(rename = "mysql")]
    MySql {
        /// The server.
        connection: MySqlConnection,
        /// The table.
        table: SqlName,
        /// How rows are written.
        mode: MySqlMode,
    },
    /// A MongoDB collection.
    #[serde(rename = "mongodb")]
    MongoDb {
        /// The servers.
        connection: MongoDbConnection,
        /// The collection.
        collection: SqlName,
        /// Columns that make the `_id`; none: the record's uuid.
        id: Vec<SqlName>,
    },
    /// A topic.
    Kafka {
        /// The topic.
        topic: TopicName,
        /// Columns that make the key.
        key: Vec<SqlName>,
    },
    /// Nowhere.
    Blackhole,
}

impl SinkSettings {
    /// What it asks of the plan of its query.
    #[must_use]
    pub const fn takes(&self) -> Takes {
        match self {
            Self::Cassandra { .. } | Self::MongoDb { .. } => Takes::RowWise,
            Self::MySql { mode, .. } => mode.takes(),
            Self::Kafka { .. } | Self::Blackhole => Takes::AnyPlan,
        }
    }

    /// The table, collection or topic, as it is noted beside progress; empty where there is none.
    #[must_use]
    pub fn table(&self) -> &str {
        match self {
            Self::Cassandra { table, .. } | Self::MySql { table, .. } => table.as_str(),
            Self::MongoDb { collection, .. } => collection.as_str(),
            Self::Kafka { topic, .. } => topic.as_str(),
            Self::Blackhole => "",
        }
    }
}

/// How to reach Cassandra. User and password, if any, are under `cassandra` of the credentials' folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CassandraConnection {
    /// `host:port` of some nodes.
    pub contact_points: Vec<String>,
    /// The keyspace.
    pub keyspace: SqlName,
    /// How the keyspace is replicated.
    pub replication: ReplicationClass,
}

/// How to reach MySQL. User and password are under `mysql` of the credentials' folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MySqlConnection {
    /// The server's host.
    pub host: String,
    /// The server's port.
    pub port: u16,
    /// The database.
    pub database: SqlName,
}

/// How to reach MongoDB. User and password, if any, are under `mongodb` of the credentials' folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MongoDbConnection {
    /// `host:port` of some servers.
    pub hosts: Vec<String>,
    /// The replica set, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_set: Option<String>,
    /// Where the user is defined.
    pub auth_source: String,
    /// The database.
    pub database: SqlName,
}

/// The settings of a producer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProducerSettings {
    /// [`FORMAT_VERSION`] when it was written.
    pub format_version: u32,
    /// The pipeline's namespace.
    pub namespace: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The producer's name.
    pub producer: ItemName,
    /// The brokers.
    pub kafka: KafkaSettings,
    /// The topic that it writes to.
    pub topic: TopicName,
    /// What it writes. A file or replay from a ConfigMap finds it mounted under [`DATA_DIR`] by its key.
    pub source: Source,
    /// Runs once and ends, instead of going on for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub once: Option<Once>,
    /// Where symbols come from, if the source needs them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mysql: Option<MySqlConnection>,
}

impl ProducerSettings {
    /// The value of the header that marks this producer's messages in the topic: `namespace/pipeline/producer`.
    #[must_use]
    pub fn identity(&self) -> String {
        format!("{}/{}/{}", self.namespace, self.pipeline, self.producer)
    }
}

/// How a producer runs that a schedule starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Once {
    /// Milliseconds after which a run that is not done fails.
    pub time_limit_ms: u64,
}

/// The settings of a dashboard: how it reaches what it shows. What it shows is in the pipeline itself, which it watches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DashboardSettings {
    /// [`FORMAT_VERSION`] when it was written.
    pub format_version: u32,
    /// The pipeline's namespace.
    pub namespace: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The brokers.
    pub kafka: KafkaSettings,
    /// Cassandra, if the pipeline has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cassandra: Option<CassandraConnection>,
    /// MySQL, if the pipeline has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mysql: Option<MySqlConnection>,
    /// MongoDB, if the pipeline has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mongodb: Option<MongoDbConnection>,
    /// The path that all its addresses begin with, without a slash at the end; empty for `/`.
    #[serde(default)]
    pub base_path: String,
    /// Who may see it.
    pub auth: DashboardAuth,
    /// What people may do beside looking.
    #[serde(default)]
    pub allow: Vec<Allowed>,
}

/// Who may see a dashboard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DashboardAuth {
    /// Whoever reaches it.
    Anybody,
    /// Whoever knows the user name and password under `dashboard` of the credentials' folder.
    Password,
    /// Whoever a proxy lets through.
    Header(AuthHeader),
}

/// What a run exits with that failed, and that would fail again if it were started again at once: its time is up, or only a change helps. Why is in the
/// container's termination message.
pub const RUN_FAILED: u8 = 3;
/// The environment variable that tells a run of a scheduled producer from every other, and is the same in each attempt of the run.
pub const RUN_VARIABLE: &str = "TAPELINE_RUN";

/// Where the ConfigMap of a file or replay is mounted.
pub const DATA_DIR: &str = "/etc/tapeline/data";
/// Where the producer's image has its files.
pub const IMAGE_DATA_DIR: &str = "/data";

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    #[rstest]
    #[case(DashboardAuth::Anybody, json!("anybody"))]
    #[case(DashboardAuth::Password, json!("password"))]
    #[case(DashboardAuth::Header(AuthHeader { name: "X-Forwarded-User".into(), users: vec!["ada".into()] }), json!({"header": {"name": "X-Forwarded-User", "users": ["ada"]}}))]
    fn who_may_see_a_dashboard_is_read_as_it_was_written(#[case] auth: DashboardAuth, #[case] written: Value) {
        assert_eq!(serde_json::to_value(&auth).unwrap(), written);
        assert_eq!(serde_json::from_value::<DashboardAuth>(written).unwrap(), auth);
    }

    #[test]
    fn a_dashboard_needs_no_store() {
        let written =
            json!({"formatVersion": FORMAT_VERSION, "namespace": "demo", "pipeline": "p", "kafka": {"bootstrapServers": "kafka:9092"}, "auth": "anybody"});
        let settings: DashboardSettings = serde_json::from_value(written).unwrap();
        assert_eq!((settings.cassandra, settings.mysql, settings.mongodb), (None, None, None));
        assert_eq!((settings.base_path.as_str(), settings.allow), ("", Vec::new()));
    }
}
