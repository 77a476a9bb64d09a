//! What a worker, a producer and a dashboard are told: the settings documents, from the specification and from what was learned of the cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tapeline_api::TradingPipelineSpec;
use tapeline_api::pipeline::cassandra::Cassandra;
use tapeline_api::pipeline::dashboard::{Auth, Dashboard};
use tapeline_api::pipeline::kafka::Kafka;
use tapeline_api::pipeline::mongodb::MongoDb;
use tapeline_api::pipeline::mysql::MySql;
use tapeline_api::pipeline::producers::Producer;
use tapeline_api::pipeline::queries::{Query, Target};
use tapeline_api::pipeline::references::ReferenceTable;
use tapeline_api::pipeline::streams::Stream;
use tapeline_api::settings::{
    CassandraConnection, DashboardAuth, DashboardSettings, FORMAT_VERSION, KafkaSettings, MongoDbConnection, MySqlConnection, Once, ProducerSettings,
    RESERVED_CLIENT_PROPERTIES, ReferenceSettings, SinkSettings, WorkerSettings,
};

/// Between two cuts when a query says nothing.
const DEFAULT_INTERVAL_MS: u64 = 10_000;
/// Between two loads of a reference that says nothing.
const DEFAULT_REFRESH: Duration = Duration::from_mins(1);
/// Seconds from SIGTERM to SIGKILL when the pipeline says nothing.
pub const DEFAULT_GRACE_SECONDS: i64 = 60;

/// Whose settings they are.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// The pipeline's namespace.
    pub namespace: &'a str,
    /// The pipeline's name.
    pub pipeline: &'a str,
    /// The uid of the namespace kube-system, which is the cluster's.
    pub cluster_id: &'a str,
}

/// The settings of a query's workers. None where the sink names a store that the pipeline does not have, which validation has refused.
#[must_use]
pub fn worker(
    identity: Identity<'_>,
    spec: &TradingPipelineSpec,
    query: &Query,
    stream: &Stream,
    references: &[ReferenceTable],
    topic_incarnation: i64,
) -> Option<WorkerSettings> {
    let trigger = query.trigger.as_ref();
    Some(WorkerSettings {
        format_version: FORMAT_VERSION,
        namespace: identity.namespace.to_owned(),
        pipeline: identity.pipeline.to_owned(),
        query: query.name.clone(),
        kafka: kafka(&spec.kafka),
        group_id: format!("{}{}", group_prefix(identity, &spec.kafka), query.name),
        stream: stream.clone(),
        topic_incarnation,
        references: references.iter().filter_map(|table| reference(spec, table)).collect(),
        sql: query.sql.clone(),
        trigger_interval_ms: trigger
            .and_then(|trigger| trigger.interval.as_ref())
            .map_or(DEFAULT_INTERVAL_MS, |interval| u64::try_from(interval.get().as_millis()).unwrap_or(DEFAULT_INTERVAL_MS)),
        max_rows: trigger.and_then(|trigger| trigger.max_rows).and_then(|rows| u64::try_from(rows).ok()),
        sink: sink(spec, query)?,
        grace_period_seconds: u64::try_from(grace_seconds(spec)).unwrap_or_default(),
    })
}

/// Where the rows of a reference are.
fn reference(spec: &TradingPipelineSpec, table: &ReferenceTable) -> Option<ReferenceSettings> {
    let declared = spec.references.iter().find(|reference| reference.name == table.name)?;
    let refresh = declared.refresh.as_ref().map_or(DEFAULT_REFRESH, tapeline_api::duration::GoDuration::get);
    Some(ReferenceSettings {
        table: table.clone(),
        connection: mysql(spec.mysql.as_ref()?),
        source: declared.mysql.clone(),
        refresh_ms: u64::try_from(refresh.as_millis()).unwrap_or(u64::MAX),
    })
}

/// The settings of a producer.
#[must_use]
pub fn producer(identity: Identity<'_>, spec: &TradingPipelineSpec, producer: &Producer) -> ProducerSettings {
    ProducerSettings {
        format_version: FORMAT_VERSION,
        namespace: identity.namespace.to_owned(),
        pipeline: identity.pipeline.to_owned(),
        producer: producer.name.clone(),
        kafka: kafka(&spec.kafka),
        topic: producer.topic.clone(),
        source: producer.source.clone(),
        once: producer.schedule.as_ref().map(|schedule| Once { time_limit_ms: u64::try_from(schedule.time_limit.get().as_millis()).unwrap_or(u64::MAX) }),
        mysql: needs_symbols(producer).then_some(spec.mysql.as_ref()).flatten().map(mysql),
    }
}

/// The settings of the dashboard: how it reaches everything that the pipeline has, also what no query uses.
#[must_use]
pub fn dashboard(identity: Identity<'_>, spec: &TradingPipelineSpec, dashboard: &Dashboard) -> DashboardSettings {
    let mut kafka = kafka(&spec.kafka);
    // What workers are not started with is left out: the page is where people look that something is wrong.
    kafka.client_properties.retain(|key, _| !RESERVED_CLIENT_PROPERTIES.contains(&key.as_str()));
    DashboardSettings {
        format_version: FORMAT_VERSION,
        namespace: identity.namespace.to_owned(),
        pipeline: identity.pipeline.to_owned(),
        kafka,
        cassandra: spec.cassandra.as_ref().map(cassandra),
        mysql: spec.mysql.as_ref().map(mysql),
        mongodb: spec.mongodb.as_ref().map(mongodb),
        base_path: dashboard.base_path.clone().unwrap_or_default(),
        auth: match &dashboard.auth {
            None => DashboardAuth::Anybody,
            Some(Auth { header: Some(header), .. }) => DashboardAuth::Header(header.clone()),
            Some(Auth { header: None, .. }) => DashboardAuth::Password,
        },
        allow: dashboard.allow.clone(),
    }
}

/// Whether it reads symbols from MySQL.
#[must_use]
pub const fn needs_symbols(producer: &Producer) -> bool {
    match (&producer.source.simulate, &producer.source.replay) {
        (Some(_), _) => true,
        (None, Some(replay)) => replay.symbols_from.is_some(),
        (None, None) => false,
    }
}

/// Seconds from SIGTERM to SIGKILL.
#[must_use]
pub fn grace_seconds(spec: &TradingPipelineSpec) -> i64 {
    spec.workers.as_ref().and_then(|workers| workers.termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE_SECONDS)
}

/// What names of consumer groups begin with.
#[must_use]
pub fn group_prefix(identity: Identity<'_>, kafka: &Kafka) -> String {
    kafka.consumer_group_prefix.clone().unwrap_or_else(|| {
        let cluster: String = identity.cluster_id.chars().filter(|c| *c != '-').take(8).collect();
        format!("{cluster}.{}.{}.", identity.namespace, identity.pipeline)
    })
}

/// The brokers for any client.
#[must_use]
pub fn kafka(kafka: &Kafka) -> KafkaSettings {
    KafkaSettings { bootstrap_servers: kafka.bootstrap_servers.clone(), client_properties: texts(&kafka.client_properties) }
}

fn texts(values: &BTreeMap<String, IntOrString>) -> BTreeMap<String, String> {
    values.iter().map(|(key, value)| (key.clone(), text(value))).collect()
}

/// A value of configuration as Kafka takes it.
#[must_use]
pub fn text(value: &IntOrString) -> String {
    match value {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(text) => text.clone(),
    }
}

fn sink(spec: &TradingPipelineSpec, query: &Query) -> Option<SinkSettings> {
    Some(match query.sink.target()? {
        Target::Cassandra(sink) => SinkSettings::Cassandra { connection: cassandra(spec.cassandra.as_ref()?), table: sink.table.clone(), nulls: sink.nulls },
        Target::MySql(sink) => SinkSettings::MySql { connection: mysql(spec.mysql.as_ref()?), table: sink.table.clone(), mode: sink.mode },
        Target::MongoDb(sink) => {
            SinkSettings::MongoDb { connection: mongodb(spec.mongodb.as_ref()?), collection: sink.collection.clone(), id: sink.id.clone() }
        }
        Target::Kafka(sink) => SinkSettings::Kafka { topic: sink.topic.clone(), key: sink.key.clone() },
        Target::Blackhole => SinkSettings::Blackhole,
    })
}

fn cassandra(cassandra: &Cassandra) -> CassandraConnection {
    CassandraConnection { contact_points: cassandra.contact_points.clone(), keyspace: cassandra.keyspace.clone(), replication: cassandra.replication.class }
}

fn mongodb(mongodb: &MongoDb) -> MongoDbConnection {
    MongoDbConnection {
        hosts: mongodb.hosts.clone(),
        replica_set: mongodb.replica_set.clone(),
        auth_source: mongodb.auth_source.clone(),
        database: mongodb.database.clone(),
    }
}

fn mysql(mysql: &MySql) -> MySqlConnection {
    MySqlConnection { host: mysql.host.clone(), port: mysql.port, database: mysql.database.clone() }
}
