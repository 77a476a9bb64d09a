//! Step 2: what is wrong with the specification by itself. Pure: all problems at once, each with its field, what is wrong, what to do and a near miss; each
//! part by itself, so that a bad query does not stop the good ones.

mod cron;
mod dashboard;
mod producers;
mod queries;
mod references;
mod sinks;
mod streams;
mod tables;
mod topics;

use std::collections::{BTreeMap, BTreeSet};

use tapeline_api::TradingPipelineSpec;
use tapeline_api::names::{ItemName, SqlName, TopicName};
use tapeline_api::pipeline::references::ReferenceTable;

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
    /// Streams that cannot be read.
    pub bad_streams: BTreeSet<SqlName>,
    /// Whether MongoDB's database may be touched at all.
    pub mongodb_is_valid: bool,
    /// MongoDB collections that are not to be touched.
    pub bad_collections: BTreeSet<SqlName>,
    /// What SQL sees of the references that are right.
    pub references: Vec<ReferenceTable>,
    /// The queries that can run.
    pub queries: BTreeMap<ItemName, ValidQuery>,
    /// The producers that can run.
    pub producers: BTreeSet<ItemName>,
    /// What is wrong with each query.
    pub query_problems: BTreeMap<ItemName, Vec<Problem>>,
    /// What is wrong with each producer.
    pub producer_problems: BTreeMap<ItemName, Vec<Problem>>,
    /// What is wrong with the dashboard, which runs all the same.
    pub dashboard_problems: Vec<Problem>,
}

/// A query that can run once its topic and table are there.
#[derive(Debug)]
pub struct ValidQuery {
    /// The index of its stream in `spec.streams`.
    pub stream: usize,
    /// The references that it joins.
    pub references: Vec<ReferenceTable>,
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
    tables::mongodb(spec, &mut validated);
    streams::validate(spec, &mut validated);
    references::validate(spec, &mut validated);
    queries::queries(spec, &mut validated);
    producers::validate(spec, &mut validated);
    dashboard::validate(spec, &mut validated);
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
                "mongodb": {
                    "hosts": ["mongo.data:27017"], "credentialsSecretRef": {"name": "mongodb"}, "database": "trading",
                    "collections": [{"name": "ticks", "indexes": [{"fields": [{"name": "ticker"}, {"name": "created_at", "order": "Desc"}]}]}]
                },
                "streams": [{"name": "ticks", "topic": "trading_data", "deadLetterTopic": "trading_data.dead-letter", "fields": [
                    {"name": "id", "type": "bigint", "required": true}, {"name": "created_at", "type": "timestamp"}, {"name": "ticker", "type": "string"},
                    {"name": "sector", "type": "string"}, {"name": "volume", "type": "bigint"}
                ]}],
                "queries": [
                    {"name": "raw", "sql": "SELECT * FROM ticks", "trigger": {"interval": "10s"}, "sink": {"cassandra": {"table": "real_time_data"}}},
                    {"name": "volume", "trigger": {"interval": "60s", "maxRows": 5_000_000}, "sink": {"mysql": {"table": "aggregated_data", "mode": "Append"}},
                     "scale": {"replicas": 2},
                     "sql": "SELECT CAST(created_at AS DATE) AS date, sector, SUM(volume) AS total_volume, now() AS processed_at FROM ticks GROUP BY 1, 2"},
                    {"name": "documents", "sql": "SELECT * FROM ticks", "sink": {"mongodb": {"collection": "ticks", "id": ["id"]}}},
                    {"name": "sectors", "sql": "SELECT sector, SUM(volume) AS volume FROM ticks GROUP BY 1", "sink": {"kafka": {"topic": "by_sector", "key": ["sector"]}}},
                    {"name": "volumes", "sql": "SELECT id, volume FROM ticks", "sink": {"kafka": {"topic": "by_sector"}}}
                ],
                "producers": [
                    {"name": "market", "topic": "trading_data", "source": {"simulate": {"interval": "1s", "symbolsFrom": {"mysql": {"table": "profile"}}}}},
                    {"name": "history", "topic": "trading_data", "source": {"replay": {"file": "stocks.csv.gz"}}}
                ],
                "dashboard": {
                    "title": "Today's volume", "charts": [{"name": "today", "view": "volume_today"}], "basePath": "/stock-volume",
                    "auth": {"passwordSecretRef": {"name": "dashboard"}}, "allow": ["ReplayDeadLetters"]
                }
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
        assert_eq!(validated.queries.len(), 5);
        assert_eq!(validated.producers.len(), 2);
    }

    #[rstest]
    #[case::reserved_property("/kafka/clientProperties", serde_json::json!({"group.id": "mine"}),
        "InvalidSpec spec.kafka.clientProperties[group.id]: Tapeline sets this property itself, since counting each record once depends on it; remove it")]
    #[case::unmanaged_with_partitions("/kafka/topics/0", serde_json::json!({"name": "test_topic", "managed": false, "partitions": 3}),
        "InvalidSpec spec.kafka.topics[0].partitions: the topic is not managed, so it is never altered; remove partitions, or managed: false")]
    #[case::dead_letters_into_the_topic("/streams/0/deadLetterTopic", serde_json::json!("trading_data"),
        "InvalidSpec spec.streams[0].deadLetterTopic: it is the stream's own topic, so a bad record would be read again for ever; name another topic")]
    #[case::a_path_twice("/streams/0/fields/1", serde_json::json!({"name": "other_id", "type": "string", "path": "id"}),
        "InvalidSpec spec.streams[0].fields[1].path: field \"id\" is read from \"id\" too; give one of them another path")]
    #[case::a_name_that_is_a_path("/streams/0/fields/1", serde_json::json!({"name": "ident", "type": "bigint", "path": "ticker"}),
        "InvalidSpec spec.streams[0].fields[2].name: field \"ident\" is read from \"ticker\" too; ")]
    #[case::whole_and_part("/streams/0/fields/1", serde_json::json!({"name": "city", "type": "string", "path": "ticker.city"}),
        "InvalidSpec spec.streams[0].fields[2].name: \"ticker\" is read as a whole by field \"ticker\", and as a part of it by field \"city\" (\"ticker.city\"); declare ")]
    #[case::whole_json_and_part("/streams/0/fields", serde_json::json!([
            {"name": "location", "type": "json"}, {"name": "city", "type": "string", "path": "location.city"}]),
        "InvalidSpec spec.streams[0].fields[1].path: \"location\" is read as a whole by field \"location\", and as a part of it by field \"city\"")]
    #[case::a_list_into_a_table("/streams/0/fields/3", serde_json::json!({"name": "sector", "type": "list(string)"}),
        "InvalidSQL spec.queries[0].sql: column \"sector\" is a list, which no table can hold; pick a part of it, or write array_to_string(.., ',') or to_json(..)")]
    #[case::headers_into_a_table("/queries/0/sql", serde_json::json!("SELECT id, created_at, _headers AS ticker FROM ticks"),
        "InvalidSQL spec.queries[0].sql: column \"ticker\" is a map, which no table can hold; pick a part of it, or write to_json(..)")]
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
        "InvalidSQL spec.queries[0].sql: no stream or reference \"tick\"; did you mean \"ticks\"?")]
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
    #[case::mongodbs_own_database("/mongodb/database", serde_json::json!("local"),
        "InvalidSpec spec.mongodb.database: MongoDB keeps the database \"local\" for itself; name another")]
    #[case::reserved_collection("/mongodb/collections/0/name", serde_json::json!("tapeline_progress"),
        "InvalidSpec spec.mongodb.collections[0].name: names with tapeline_ in front are kept for Tapeline's own tables; choose another")]
    #[case::field_of_an_index("/mongodb/collections/0/indexes", serde_json::json!([{"fields": [{"name": "ticker"}, {"name": "ticker", "order": "Desc"}]}]),
        "InvalidSpec spec.mongodb.collections[0].indexes[0].fields[1].name: field \"ticker\" is in the index twice; name it once")]
    #[case::index_twice("/mongodb/collections/0/indexes", serde_json::json!([{"fields": [{"name": "ticker"}]}, {"fields": [{"name": "ticker"}]}]),
        "InvalidSpec spec.mongodb.collections[0].indexes[1]: indexes[0] has the same fields; remove one of them")]
    #[case::no_mongodb(
        "/mongodb",
        serde_json::Value::Null,
        "InvalidSpec spec.queries[2].sink.mongodb: the pipeline has no MongoDB; add spec.mongodb, or choose another sink"
    )]
    #[case::an_aggregate_into_mongodb("/queries/2/sql", serde_json::json!("SELECT id, max(created_at) AS created_at FROM ticks GROUP BY id"),
        "InvalidSQL spec.queries[2].sql: a query into MongoDB handles each row by itself, but ")]
    #[case::tapelines_own_collection("/queries/2/sink", serde_json::json!({"mongodb": {"collection": "tapeline_resources"}}),
        "InvalidSpec spec.queries[2].sink.mongodb.collection: collections with tapeline_ in front are Tapeline's own; name another")]
    #[case::id_of_a_document("/queries/2/sink", serde_json::json!({"mongodb": {"collection": "ticks", "id": ["id", "tickr"]}}),
        "InvalidSpec spec.queries[2].sink.mongodb.id[1]: no column \"tickr\" in the query's output; did you mean \"ticker\"?")]
    #[case::id_of_a_document_twice("/queries/2/sink", serde_json::json!({"mongodb": {"collection": "ticks", "id": ["id", "id"]}}),
        "InvalidSpec spec.queries[2].sink.mongodb.id[1]: column \"id\" is named twice; name it once")]
    #[case::id_as_a_column("/queries/2/sql", serde_json::json!("SELECT id, id AS _id FROM ticks"),
        "InvalidSQL spec.queries[2].sql: output column 2 (_id) needs a name that a table's column can have: write _id AS name")]
    #[case::key_of_a_message("/queries/3/sink", serde_json::json!({"kafka": {"topic": "by_sector", "key": ["sectr"]}}),
        "InvalidSpec spec.queries[3].sink.kafka.key[0]: no column \"sectr\" in the query's output; did you mean \"sector\"?")]
    #[case::no_key_for_a_compacted_topic("/kafka/topics/0", serde_json::json!({"name": "by_sector", "config": {"cleanup.policy": "compact"}}),
        "InvalidSpec spec.queries[4].sink.kafka.key: the topic is compacted, and takes no messages without a key; name the columns that make it")]
    #[case::an_endless_loop("/queries/3/sink", serde_json::json!({"kafka": {"topic": "trading_data"}}),
        "InvalidSpec spec.queries[3].sink.kafka.topic: it is the topic of the stream \"ticks\" that the query reads, so its rows would be read again for ever; name another topic")]
    #[case::among_the_dead_letters("/queries/3/sink", serde_json::json!({"kafka": {"topic": "trading_data.dead-letter"}}),
        "InvalidSpec spec.queries[3].sink.kafka.topic: it is the dead-letter topic of the stream \"ticks\", in which bad records are looked for; name another topic")]
    #[case::into_the_progress("/queries/3/sink", serde_json::json!({"kafka": {"topic": "tapeline-progress"}}),
        "InvalidSpec spec.queries[3].sink.kafka.topic: it is the topic in which Tapeline keeps the progress of queries; name another topic")]
    #[case::progress_as_a_topic("/kafka/topics/0", serde_json::json!({"name": "tapeline-progress"}),
        "InvalidSpec spec.kafka.topics[0].name: Tapeline keeps the progress of queries in this topic, and creates it itself; remove it")]
    #[case::progress_for_dead_letters("/streams/0/deadLetterTopic", serde_json::json!("tapeline-progress"),
        "InvalidSpec spec.streams[0].deadLetterTopic: it is the topic in which Tapeline keeps the progress of queries; name another topic")]
    #[case::progress_for_a_producer("/producers/1/topic", serde_json::json!("tapeline-progress"),
        "InvalidSpec spec.producers[1].topic: it is the topic in which Tapeline keeps the progress of queries; name another topic")]
    #[case::cron("/producers/1/schedule", serde_json::json!({"cron": "*/5 * * * MONDAY"}),
        "InvalidSpec spec.producers[1].schedule.cron: day of the week \"MONDAY\": \"MONDAY\" is not a number from 0 to 6, or sun to sat")]
    #[case::time_zone("/producers/1/schedule", serde_json::json!({"cron": "@daily", "timeZone": "Asia/Jakatra"}),
        "InvalidSpec spec.producers[1].schedule.timeZone: there is no time zone \"Asia/Jakatra\"; did you mean \"Asia/Jakarta\"?")]
    #[case::an_endless_market("/producers/0/schedule", serde_json::json!({"cron": "@daily"}),
        "InvalidSpec spec.producers[0].schedule: a simulated market has no end, and a run needs one; remove schedule, or choose another source")]
    #[case::an_endless_replay("/producers/1", serde_json::json!({"name": "history", "topic": "trading_data", "source": {"replay": {"file": "x", "loop": true}}, "schedule": {"cron": "@daily"}}),
        "InvalidSpec spec.producers[1].schedule: a replay with loop has no end, and a run needs one; remove schedule, or loop")]
    #[case::pod_labels("/workers", serde_json::json!({"podLabels": {"tapeline.dev/query": "x"}}),
        "InvalidSpec spec.workers.podLabels[tapeline.dev/query]: Tapeline finds its pods by this label; choose another")]
    fn each_fault_is_named(#[case] pointer: &str, #[case] value: serde_json::Value, #[case] problem: &str) {
        let problems = broken(pointer, value);
        assert!(problems.iter().any(|found| found.starts_with(problem)), "{problems:#?}");
    }

    #[rstest]
    #[case::path(r#"{"name": "city", "type": "string", "path": "location..city"}"#, "\"location..city\" is not a field's path: keys with dots between them")]
    #[case::escape(r#"{"name": "city", "type": "string", "path": "a\\b"}"#, "is not a field's path")]
    #[case::type_(r#"{"name": "tags", "type": "list(json)"}"#, "\"list(json)\" is not a type that a stream's field can have; it can be boolean, ")]
    #[case::unit(r#"{"name": "at", "type": "timestamp", "unit": "Minutes"}"#, "unknown variant `Minutes`")]
    fn a_field_that_is_none_is_not_even_read(#[case] field: &str, #[case] error: &str) {
        let failed = serde_json::from_str::<tapeline_api::pipeline::streams::Field>(field).unwrap_err().to_string();
        assert!(failed.contains(error), "{failed}");
    }

    #[test]
    fn what_streams_can_have_is_taken() {
        let mut object = good();
        object["spec"]["streams"][0]["tombstones"] = "Row".into();
        object["spec"]["streams"][0]["unknownFields"] = "Reject".into();
        let fields = object["spec"]["streams"][0]["fields"].as_array_mut().unwrap();
        fields.push(serde_json::json!({"name": "tags", "type": "list(string)", "required": true}));
        fields.push(serde_json::json!({"name": "city", "type": "string", "path": "location.city"}));
        fields.push(serde_json::json!({"name": "street", "type": "json", "path": "location.street"}));
        fields.push(serde_json::json!({"name": "seen", "type": "timestamp", "unit": "Nanoseconds"}));
        object["spec"]["queries"][0]["sql"] =
            "SELECT id, created_at, unnest(tags) AS ticker, coalesce(city, _key, _headers['city'], to_json(tags)) AS sector FROM ticks".into();
        let validated = validate(&pipeline(object).spec);
        assert_eq!(validated.problems, []);
    }

    #[test]
    fn without_mysql_everything_that_needs_it_is_named_and_the_rest_is_good() {
        let mut object = good();
        object["spec"].as_object_mut().unwrap().remove("mysql");
        let validated = validate(&pipeline(object).spec);
        let fields: Vec<&str> = validated.problems.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(fields, ["spec.queries[1].sink.mysql", "spec.producers[0].source.simulate.symbolsFrom.mysql", "spec.dashboard.charts"]);
        assert_eq!(validated.queries.len(), 4);
        assert_eq!(validated.producers.len(), 1);
    }
}
