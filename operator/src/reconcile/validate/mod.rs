//! Step 2: what is wrong with the specification by itself. Pure: all problems at once, each with its field, what is wrong, what to do and a near miss; each
//! part by itself, so that a bad query does not stop the good ones.

mod queries;
mod tables;
mod topics;

use std::collections::{BTreeMap, BTreeSet};

use tapeline_api::TradingPipelineSpec;
use tapeline_api::names::{ItemName, SqlName, TopicName};

use super::check_query::Checked;
use crate::reason::Problem;

/// A specification that was looked at: what in it can be worked with, and what cannot.
#[derive(Debug, Default)]
pub struct Validated {
    /// Everything that is wrong, in the order of the specification.
    pub problems: Vec<Problem>,
    /// Whether the clients of Kafka can be made at all.
    pub kafka_is_valid: bool,
    /// Declared topics that are not to be touched, as their declaration is wrong.
    pub bad_topics: BTreeSet<TopicName>,
    /// Cassandra tables that are not to be touched.
    pub bad_cassandra_tables: BTreeSet<SqlName>,
    /// MySQL tables that are not to be touched.
    pub bad_mysql_tables: BTreeSet<SqlName>,
    /// MySQL views that are not to be touched.
    pub bad_mysql_views: BTreeSet<SqlName>,
    /// The queries that can run.
    pub queries: BTreeMap<ItemName, ValidQuery>,
    /// The producers that can run.
    pub producers: BTreeSet<ItemName>,
    /// What is wrong with each query.
    pub query_problems: BTreeMap<ItemName, Vec<Problem>>,
    /// What is wrong with each producer.
    pub producer_problems: BTreeMap<ItemName, Vec<Problem>>,
}

/// A query that can run once its topic and table are there.
#[derive(Debug)]
pub struct ValidQuery {
    /// The index of its stream in `spec.streams`.
    pub stream: usize,
    /// The plan.
    pub checked: Checked,
}

/// Looks at the whole specification.
#[must_use]
pub fn validate(spec: &TradingPipelineSpec) -> Validated {
    let mut validated = Validated::default();
    topics::validate(spec, &mut validated);
    tables::cassandra(spec, &mut validated);
    tables::mysql(spec, &mut validated);
    queries::queries(spec, &mut validated);
    queries::producers(spec, &mut validated);
    validated
}

#[cfg(test)]
pub(crate) mod tests {
    use rstest::rstest;
    use tapeline_api::TradingPipeline;

    use super::*;
    use crate::reason::Cure;

    /// A pipeline with everything in it that there is.
    pub(crate) fn good() -> serde_json::Value {
        serde_json::json!({
            "apiVersion": "tapeline.dev/v1alpha1", "kind": "TradingPipeline",
            "metadata": {"name": "stock-volume", "namespace": "demo", "uid": "6a3a8a5e-0000-4000-8000-000000000001", "generation": 1},
            "spec": {
                "kafka": {"bootstrapServers": "kafka.data:9092", "topics": [
                    {"name": "test_topic"}, {"name": "trading_data", "partitions": 6, "config": {"retention.ms": 604_800_000}}
                ]},
                "cassandra": {
                    "contactPoints": ["cassandra.data:9042"], "credentialsSecretRef": {"name": "cassandra"}, "keyspace": "trading",
                    "replication": {"class": "SimpleStrategy", "factor": 1},
                    "tables": [{"name": "real_time_data", "partitionKey": ["id"], "clusteringKey": [{"column": "created_at", "order": "Desc"}], "columns": [
                        {"name": "id", "type": "bigint"}, {"name": "created_at", "type": "timestamp"}, {"name": "ticker", "type": "text"},
                        {"name": "sector", "type": "text"}, {"name": "volume", "type": "bigint"}
                    ]}]
                },
                "mysql": {
                    "host": "mysql.data", "credentialsSecretRef": {"name": "mysql"}, "database": "trading",
                    "tables": [
                        {"name": "profile", "primaryKey": ["ticker"], "rowsFrom": {"configMapKeyRef": {"name": "profile", "key": "profile.csv"}}, "columns": [
                            {"name": "ticker", "type": "varchar(16)"}, {"name": "sector", "type": "varchar(64)"}, {"name": "shares", "type": "bigint"}
                        ]},
                        {"name": "aggregated_data", "primaryKey": ["processing_id"], "indexes": [{"columns": ["date", "sector"]}], "columns": [
                            {"name": "processing_id", "type": "bigint", "autoIncrement": true}, {"name": "processed_at", "type": "timestamp(6)"},
                            {"name": "sector", "type": "varchar(64)"}, {"name": "total_volume", "type": "bigint"}, {"name": "date", "type": "date"}
                        ]}
                    ],
                    "views": [{"name": "volume_today", "sql": "SELECT sector, SUM(total_volume) AS total_volume FROM aggregated_data WHERE date = UTC_DATE() GROUP BY sector"}]
                },
                "streams": [{"name": "ticks", "topic": "trading_data", "deadLetterTopic": "trading_data.dead-letter", "fields": [
                    {"name": "id", "type": "bigint", "required": true}, {"name": "created_at", "type": "timestamp"}, {"name": "ticker", "type": "string"},
                    {"name": "sector", "type": "string"}, {"name": "volume", "type": "bigint"}
                ]}],
                "queries": [
                    {"name": "raw", "sql": "SELECT * FROM ticks", "trigger": {"interval": "10s"}, "sink": {"cassandra": {"table": "real_time_data"}}},
                    {"name": "volume", "trigger": {"interval": "60s", "maxRows": 5_000_000}, "sink": {"mysql": {"table": "aggregated_data", "mode": "Append"}},
                     "scale": {"replicas": 2},
                     "sql": "SELECT CAST(created_at AS DATE) AS date, sector, SUM(volume) AS total_volume, now() AS processed_at FROM ticks GROUP BY 1, 2"}
                ],
                "producers": [
                    {"name": "market", "topic": "trading_data", "source": {"simulate": {"interval": "1s", "symbolsFrom": {"mysql": {"table": "profile"}}}}},
                    {"name": "history", "topic": "trading_data", "source": {"replay": {"file": "stocks.csv.gz"}}}
                ]
            }
        })
    }

    pub(crate) fn pipeline(value: serde_json::Value) -> TradingPipeline {
        serde_json::from_value(value).unwrap()
    }

    /// The good one with `value` at `pointer`; null takes it away.
    fn broken(pointer: &str, value: serde_json::Value) -> Vec<String> {
        let mut object = good();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = object.pointer_mut(&format!("/spec{parent}")).unwrap();
        match (parent, key.parse::<usize>()) {
            (serde_json::Value::Array(list), Ok(index)) if index < list.len() => list[index] = value,
            (serde_json::Value::Array(list), _) => list.push(value),
            (parent, _) if value.is_null() => drop(parent.as_object_mut().unwrap().remove(key)),
            (parent, _) => parent[key] = value,
        }
        let problems = validate(&pipeline(object).spec).problems;
        assert!(problems.iter().all(|problem| problem.cure == Cure::Change), "{problems:?}");
        problems.iter().map(|problem| format!("{} {problem}", problem.reason)).collect()
    }

    #[test]
    fn the_example_is_good() {
        let validated = validate(&pipeline(good()).spec);
        assert_eq!(validated.problems, []);
        assert_eq!(validated.queries.len(), 2);
        assert_eq!(validated.producers.len(), 2);
    }

    #[rstest]
    #[case::reserved_property("/kafka/clientProperties", serde_json::json!({"group.id": "mine"}),
        "InvalidSpec spec.kafka.clientProperties[group.id]: Tapeline sets this property itself, since counting each record once depends on it; remove it")]
    #[case::unmanaged_with_partitions("/kafka/topics/0", serde_json::json!({"name": "test_topic", "managed": false, "partitions": 3}),
        "InvalidSpec spec.kafka.topics[0].partitions: the topic is not managed, so it is never altered; remove partitions, or managed: false")]
    #[case::dead_letters_into_the_topic("/streams/0/deadLetterTopic", serde_json::json!("trading_data"),
        "InvalidSpec spec.streams[0].deadLetterTopic: it is the stream's own topic, so a bad record would be read again for ever; name another topic")]
    #[case::partition_key("/cassandra/tables/0/partitionKey", serde_json::json!(["idd"]),
        "InvalidSpec spec.cassandra.tables[0].partitionKey[0]: no column \"idd\" in the table; did you mean \"id\"?")]
    #[case::clustering_key("/cassandra/tables/0/clusteringKey", serde_json::json!([{"column": "id"}]),
        "InvalidSpec spec.cassandra.tables[0].clusteringKey[0].column: column \"id\" is in the key twice; name it once")]
    #[case::primary_key("/mysql/tables/0/primaryKey", serde_json::json!(["tickr"]),
        "InvalidSpec spec.mysql.tables[0].primaryKey[0]: no column \"tickr\" in the table; did you mean \"ticker\"?")]
    #[case::auto_increment("/mysql/tables/1/primaryKey", serde_json::json!(["date", "processing_id"]),
        "InvalidSpec spec.mysql.tables[1].columns[0].autoIncrement: MySQL numbers only the first column of the primary key; put \"processing_id\" first in primaryKey")]
    #[case::auto_increment_type("/mysql/tables/1/columns/0", serde_json::json!({"name": "processing_id", "type": "varchar(8)", "autoIncrement": true}),
        "InvalidSpec spec.mysql.tables[1].columns[0].autoIncrement: a varchar(8) cannot number rows; make it a bigint")]
    #[case::text_in_a_key("/mysql/tables/0/columns/0", serde_json::json!({"name": "ticker", "type": "text"}),
        "InvalidSpec spec.mysql.tables[0].primaryKey[0]: column \"ticker\" is text, which MySQL cannot have in a key; make it a varchar(n)")]
    #[case::index("/mysql/tables/1/indexes", serde_json::json!([{"columns": ["dat"]}]),
        "InvalidSpec spec.mysql.tables[1].indexes[0].columns[0]: no column \"dat\" in the table; did you mean \"date\"?")]
    #[case::view_and_table("/mysql/views/0/name", serde_json::json!("profile"),
        "InvalidSpec spec.mysql.views[0].name: spec.mysql.tables[0] has this name too, and MySQL keeps tables and views in one list; choose another")]
    #[case::view_that_is_none("/mysql/views/0/sql", serde_json::json!("DROP TABLE profile"),
        "InvalidSpec spec.mysql.views[0].sql: a view is one SELECT; write SELECT .. or WITH .. SELECT ..")]
    #[case::reserved_table("/mysql/tables/0/name", serde_json::json!("tapeline_progress"),
        "InvalidSpec spec.mysql.tables[0].name: names with tapeline_ in front are kept for Tapeline's own tables; choose another")]
    #[case::no_such_column("/queries/0/sql", serde_json::json!("SELECT idd FROM ticks"),
        "InvalidSQL spec.queries[0].sql: no column \"idd\" in stream \"ticks\"; did you mean \"id\"?")]
    #[case::no_such_stream("/queries/0/sql", serde_json::json!("SELECT * FROM tick"),
        "InvalidSQL spec.queries[0].sql: no stream \"tick\"; did you mean \"ticks\"?")]
    #[case::an_aggregate_into_cassandra("/queries/0/sql", serde_json::json!("SELECT id, max(created_at) AS created_at FROM ticks GROUP BY id"),
        "InvalidSQL spec.queries[0].sql: a query into Cassandra handles each row by itself, but ")]
    #[case::an_aggregate_upserted("/queries/1/sink", serde_json::json!({"mysql": {"table": "aggregated_data", "mode": "Upsert"}}),
        "InvalidSQL spec.queries[1].sql: a query with mode Upsert handles each row by itself, but ")]
    #[case::columns_of_the_table("/queries/0/sql", serde_json::json!("SELECT id, created_at, ticker AS tick FROM ticks"),
        "InvalidSQL spec.queries[0].sql: table \"real_time_data\" has no column \"tick\"")]
    #[case::no_cassandra(
        "/cassandra",
        serde_json::Value::Null,
        "InvalidSpec spec.queries[0].sink.cassandra: the pipeline has no Cassandra; add spec.cassandra, or choose another sink"
    )]
    #[case::symbols("/mysql/tables/0/columns/2", serde_json::json!({"name": "share", "type": "bigint"}),
        "InvalidSpec spec.producers[0].source.simulate.symbolsFrom.mysql.table: table \"profile\" has no column \"shares\"; symbols need ticker, sector and shares")]
    #[case::pod_labels("/workers", serde_json::json!({"podLabels": {"tapeline.dev/query": "x"}}),
        "InvalidSpec spec.workers.podLabels[tapeline.dev/query]: Tapeline finds its pods by this label; choose another")]
    fn each_fault_is_named(#[case] pointer: &str, #[case] value: serde_json::Value, #[case] problem: &str) {
        let problems = broken(pointer, value);
        assert!(problems.iter().any(|found| found.starts_with(problem)), "{problems:#?}");
    }

    #[test]
    fn without_mysql_everything_that_needs_it_is_named_and_the_rest_is_good() {
        let mut object = good();
        object["spec"].as_object_mut().unwrap().remove("mysql");
        let validated = validate(&pipeline(object).spec);
        let fields: Vec<&str> = validated.problems.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(fields, ["spec.queries[1].sink.mysql", "spec.producers[0].source.simulate.symbolsFrom.mysql"]);
        assert_eq!(validated.queries.len(), 1);
        assert_eq!(validated.producers.len(), 1);
    }
}
