//! What a worker and a producer are told: the settings documents, from the specification and from what was learned of the cluster.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tapeline_api::TradingPipelineSpec;
use tapeline_api::pipeline::cassandra::Cassandra;
use tapeline_api::pipeline::kafka::Kafka;
use tapeline_api::pipeline::mysql::MySql;
use tapeline_api::pipeline::producers::Producer;
use tapeline_api::pipeline::queries::Query;
use tapeline_api::pipeline::streams::Stream;
use tapeline_api::settings::{CassandraConnection, FORMAT_VERSION, KafkaSettings, MySqlConnection, ProducerSettings, SinkSettings, WorkerSettings};

/// Between two cuts when a query says nothing.
const DEFAULT_INTERVAL_MS: u64 = 10_000;
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
pub fn worker(identity: Identity<'_>, spec: &TradingPipelineSpec, query: &Query, stream: &Stream, topic_incarnation: i64) -> Option<WorkerSettings> {
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
        sql: query.sql.clone(),
        trigger_interval_ms: trigger
            .and_then(|trigger| trigger.interval.as_ref())
            .map_or(DEFAULT_INTERVAL_MS, |interval| u64::try_from(interval.get().as_millis()).unwrap_or(DEFAULT_INTERVAL_MS)),
        max_rows: trigger.and_then(|trigger| trigger.max_rows).and_then(|rows| u64::try_from(rows).ok()),
        sink: sink(spec, query)?,
        grace_period_seconds: u64::try_from(grace_seconds(spec)).unwrap_or_default(),
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
        mysql: needs_symbols(producer).then_some(spec.mysql.as_ref()).flatten().map(mysql),
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
    if let Some(sink) = &query.sink.cassandra {
        let connection = cassandra(spec.cassandra.as_ref()?);
        return Some(SinkSettings::Cassandra { connection, table: sink.table.clone(), nulls: sink.nulls });
    }
    if let Some(sink) = &query.sink.mysql {
        return Some(SinkSettings::MySql { connection: mysql(spec.mysql.as_ref()?), table: sink.table.clone(), mode: sink.mode });
    }
    query.sink.blackhole.as_ref().map(|_| SinkSettings::Blackhole)
}

fn cassandra(cassandra: &Cassandra) -> CassandraConnection {
    CassandraConnection { contact_points: cassandra.contact_points.clone(), keyspace: cassandra.keyspace.clone(), replication: cassandra.replication.class }
}

fn mysql(mysql: &MySql) -> MySqlConnection {
    MySqlConnection { host: mysql.host.clone(), port: mysql.port, database: mysql.database.clone() }
}
