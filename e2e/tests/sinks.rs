//! A worker that writes to a topic, and one that writes to MongoDB, on the real servers of the test bed: what arrives, that it arrives once, and what does not. The
//! operator's part is not in play: topics and collections are made here. Addresses come from `TESTBED_KAFKA` and `TESTBED_MONGO`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::env;

use mongodb::bson::{Document, doc};
use mongodb::{Client, Database};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use tapeline_api::progress::{PROGRESS_TABLE, PROGRESS_TOPIC, PROGRESS_TOPIC_CONFIG};
use tapeline_e2e::topic::{self, Record};
use tapeline_e2e::{connect, within};
use uuid::Uuid;

fn address(variable: &str, port: u16) -> String {
    env::var(variable).unwrap_or_else(|_| format!("10.99.0.1:{port}"))
}

/// Names that nobody else has: topics, a database, a query.
struct Scene {
    kafka: String,
    name: String,
}

impl Scene {
    /// With an input of three partitions.
    async fn new() -> Self {
        let scene = Self { kafka: address("TESTBED_KAFKA", 9092), name: format!("sinks-{}", &Uuid::new_v4().simple().to_string()[..10]) };
        topic::create(&scene.kafka, &scene.input(), 3).await.unwrap();
        topic::create(&scene.kafka, &scene.letters(), 1).await.unwrap();
        scene
    }

    fn input(&self) -> String {
        format!("{}.in", self.name)
    }

    fn output(&self) -> String {
        format!("{}.out", self.name)
    }

    fn letters(&self) -> String {
        format!("{}.dead-letter", self.name)
    }

    fn group(&self) -> String {
        format!("{}.group", self.name)
    }

    /// Sends trades with these ids, each a message, to partitions in turn.
    async fn send(&self, ids: impl Iterator<Item = i64>) {
        let trade = |id: i64| format!(r#"{{"id": {id}, "ticker": "T{}", "at": "2024-08-25T07:04:45.5Z", "volume": {id}}}"#, id % 5);
        let mut by_partition: BTreeMap<i32, Vec<String>> = BTreeMap::new();
        ids.for_each(|id| by_partition.entry(i32::try_from(id % 3).unwrap()).or_default().push(trade(id)));
        for (partition, payloads) in by_partition {
            let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
            topic::send(&self.kafka, &self.input(), Some(partition), &payloads).await.unwrap();
        }
    }

    /// Runs a worker of the query until it has stored everything that is there.
    async fn work(&self, sql: &str, sink: Value) {
        let folder = tempfile::tempdir().unwrap();
        let login = folder.path().join("mongodb");
        std::fs::create_dir(&login).unwrap();
        std::fs::write(login.join("username"), env::var("TESTBED_USER").unwrap_or_else(|_| "tapeline".to_owned())).unwrap();
        std::fs::write(login.join("password"), env::var("TESTBED_PASSWORD").unwrap_or_else(|_| "tapeline".to_owned())).unwrap();
        let settings = json!({
            "formatVersion": 1, "namespace": "e2e", "pipeline": self.name, "query": "q", "groupId": self.group(), "topicIncarnation": 1, "sql": sql, "sink": sink,
            "triggerIntervalMs": 200, "gracePeriodSeconds": 30, "kafka": {"bootstrapServers": self.kafka},
            "stream": {
                "name": "ticks", "topic": self.input(), "format": "JSON", "deadLetterTopic": self.letters(),
                "fields": [
                    {"name": "id", "type": "bigint", "required": true}, {"name": "ticker", "type": "string"},
                    {"name": "at", "type": "timestamp"}, {"name": "volume", "type": "bigint"},
                ],
            },
        });
        let path = folder.path().join("settings.json");
        std::fs::write(&path, settings.to_string()).unwrap();
        let options = tapeline_worker::run::Options {
            settings: path,
            credentials: folder.path().to_owned(),
            listen: "127.0.0.1:0".parse().unwrap(),
            until_caught_up: true,
        };
        let run = tokio::time::timeout(within(120), tapeline_worker::run::run(options));
        Box::pin(run).await.expect("the worker catches up within two minutes").unwrap();
    }

    async fn remove(self) {
        topic::delete(&self.kafka, &[&self.input(), &self.output(), &self.letters()]).await.unwrap();
    }
}

/// Creates a compacted topic, unless it is there.
async fn compacted(kafka: &str, name: &str, config: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> = connect::kafka(kafka).create().unwrap();
    let topic = config.iter().fold(NewTopic::new(name, 1, TopicReplication::Fixed(1)), |topic, (key, value)| topic.set(key, value));
    match admin.create_topics(&[topic], &AdminOptions::new()).await.unwrap().remove(0) {
        Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
        Err(error) => panic!("{error:?}"),
    }
}

fn row(record: &Record) -> Value {
    serde_json::from_slice(record.payload.as_deref().unwrap()).unwrap()
}

fn ids(records: &[Record]) -> Vec<i64> {
    let mut ids: Vec<i64> = records.iter().map(|record| row(record)["id"].as_i64().unwrap()).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn a_topic_gets_each_row_once_and_the_dead_letters_with_it() {
    let scene = Scene::new().await;
    compacted(&scene.kafka, PROGRESS_TOPIC, &PROGRESS_TOPIC_CONFIG).await;
    topic::create(&scene.kafka, &scene.output(), 4).await.unwrap();
    let sink = json!({"kafka": {"topic": scene.output(), "key": ["ticker"]}});
    scene.send(0..300).await;
    topic::send(&scene.kafka, &scene.input(), Some(0), &["not JSON"]).await.unwrap();
    let sql = "SELECT id, ticker, at FROM ticks";
    scene.work(sql, sink.clone()).await;
    scene.work(sql, sink.clone()).await; // nothing new
    scene.send(300..400).await;
    scene.work(sql, sink).await;

    let records = topic::records(&scene.kafka, &scene.output()).await.unwrap();
    assert_eq!(ids(&records), (0..400).collect::<Vec<_>>());
    let first = records.iter().find(|record| row(record)["id"] == 7).unwrap();
    assert_eq!(String::from_utf8_lossy(first.payload.as_deref().unwrap()), r#"{"id":7,"ticker":"T2","at":"2024-08-25T07:04:45.500000Z"}"#);
    let places: BTreeSet<(Option<Vec<u8>>, i32)> = records.iter().map(|record| (record.key.clone(), record.partition)).collect();
    assert_eq!(places.len(), 5, "a key is in one partition: {places:?}");
    let letters = topic::records(&scene.kafka, &scene.letters()).await.unwrap();
    assert_eq!(letters.iter().map(|letter| letter.payload.as_deref()).collect::<Vec<_>>(), [Some(b"not JSON".as_slice())]);

    // The group's offsets, by which others see the lag, moved with the transaction.
    let ends = topic::ends(&scene.kafka, &scene.input()).await.unwrap();
    let (kafka, group, input) = (scene.kafka.clone(), scene.group(), scene.input());
    let committed = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = connect::kafka(&kafka).set("group.id", group).create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_range(&input, 0, 2);
        consumer.committed_offsets(list, within(10)).unwrap()
    })
    .await
    .unwrap();
    for (partition, end) in ends {
        assert_eq!(committed.find_partition(&scene.input(), partition).unwrap().offset(), Offset::Offset(end));
    }
    scene.remove().await;
}

#[tokio::test]
async fn an_aggregate_into_a_topic_counts_each_record_once() {
    let scene = Scene::new().await;
    compacted(&scene.kafka, PROGRESS_TOPIC, &PROGRESS_TOPIC_CONFIG).await;
    topic::create(&scene.kafka, &scene.output(), 1).await.unwrap();
    let sql = "SELECT ticker, sum(volume) AS total FROM ticks GROUP BY ticker";
    for part in [0..100, 100..250] {
        scene.send(part).await;
        scene.work(sql, json!({"kafka": {"topic": scene.output(), "key": []}})).await;
    }
    let records = topic::records(&scene.kafka, &scene.output()).await.unwrap();
    let total: i64 = records.iter().map(|record| row(record)["total"].as_i64().unwrap()).sum();
    assert_eq!(total, (0..250).sum::<i64>());
    assert!(records.iter().all(|record| record.key.is_none()));
    scene.remove().await;
}

#[tokio::test]
async fn a_row_that_is_too_large_for_the_topic_is_a_dead_letter_and_its_neighbours_arrive() {
    let scene = Scene::new().await;
    compacted(&scene.kafka, PROGRESS_TOPIC, &PROGRESS_TOPIC_CONFIG).await;
    compacted(&scene.kafka, &scene.output(), &[("max.message.bytes", "20000")]).await;
    let large = format!(r#"{{"id": 1000, "ticker": "{}"}}"#, "x".repeat(30_000));
    topic::send(&scene.kafka, &scene.input(), Some(1), &[&large]).await.unwrap();
    scene.send(0..900).await; // together more than the topic takes at once
    scene.work("SELECT id, ticker FROM ticks", json!({"kafka": {"topic": scene.output(), "key": ["id"]}})).await;
    assert_eq!(ids(&topic::records(&scene.kafka, &scene.output()).await.unwrap()), (0..900).collect::<Vec<_>>());
    let letters = topic::records(&scene.kafka, &scene.letters()).await.unwrap();
    assert_eq!(letters.iter().map(|letter| row(letter)["id"].clone()).collect::<Vec<_>>(), [1000]);
    assert_eq!(letters[0].header("tapeline-error"), Some("the message is larger than the topic's max.message.bytes"));
    scene.remove().await;
}

/// A database of MongoDB with the collections of a pipeline.
async fn database(scene: &Scene) -> Database {
    let login = |variable| env::var(variable).unwrap_or_else(|_| "tapeline".to_owned());
    let url = format!("mongodb://{}:{}@{}/?authSource=admin", login("TESTBED_USER"), login("TESTBED_PASSWORD"), address("TESTBED_MONGO", 27017));
    let database = Client::with_uri_str(url).await.unwrap().database(&scene.name.replace('-', "_"));
    for name in ["trades", PROGRESS_TABLE] {
        database.create_collection(name).await.unwrap();
    }
    database
}

fn mongodb(scene: &Scene, id: &[&str]) -> Value {
    let connection = json!({"hosts": [address("TESTBED_MONGO", 27017)], "authSource": "admin", "database": scene.name.replace('-', "_")});
    json!({"mongodb": {"connection": connection, "collection": "trades", "id": id}})
}

async fn documents(database: &Database) -> Vec<Document> {
    let mut found = database.collection::<Document>("trades").find(doc! {}).await.unwrap();
    let mut all = Vec::new();
    while found.advance().await.unwrap() {
        all.push(found.deserialize_current().unwrap());
    }
    all
}

#[tokio::test]
async fn records_that_are_read_again_are_the_same_documents() {
    let scene = Scene::new().await;
    let database = database(&scene).await;
    scene.send(0..300).await;
    let sql = "SELECT id, ticker FROM ticks";
    scene.work(sql, mongodb(&scene, &[])).await;
    let before: BTreeSet<String> = documents(&database).await.iter().map(ToString::to_string).collect();
    assert_eq!(before.len(), 300);
    // As after a crash between the rows and their progress.
    database.collection::<Document>(PROGRESS_TABLE).delete_many(doc! {}).await.unwrap();
    scene.work(sql, mongodb(&scene, &[])).await;
    assert_eq!(documents(&database).await.iter().map(ToString::to_string).collect::<BTreeSet<_>>(), before);
    database.drop().await.unwrap();
    scene.remove().await;
}

#[tokio::test]
async fn the_later_record_of_an_id_wins_over_all_before_and_one_without_is_a_dead_letter() {
    let scene = Scene::new().await;
    let database = database(&scene).await;
    // Ids that meet in one partition, in the order of records.
    scene.send((0..300).filter(|id| id % 3 == 0)).await;
    topic::send(&scene.kafka, &scene.input(), Some(0), &[r#"{"id": 1}"#]).await.unwrap();
    // By another program, before.
    database.collection::<Document>("trades").insert_one(doc! {"_id": "T0", "last": 5000_i64, "note": "x"}).await.unwrap();
    let sql = "SELECT ticker, id AS last FROM ticks";
    scene.work(sql, mongodb(&scene, &["ticker"])).await;
    let last: BTreeMap<String, i64> =
        documents(&database).await.iter().map(|document| (document.get_str("_id").unwrap().to_owned(), document.get_i64("last").unwrap())).collect();
    let expected = [("T0", 285), ("T1", 291), ("T2", 297), ("T3", 288), ("T4", 294)].map(|(ticker, id)| (ticker.to_owned(), id));
    assert_eq!(last, BTreeMap::from(expected));
    let letters = topic::records(&scene.kafka, &scene.letters()).await.unwrap();
    assert_eq!(
        letters.iter().map(|letter| letter.header("tapeline-error")).collect::<Vec<_>>(),
        [Some("column \"ticker\" is part of the _id and the value is null")]
    );
    database.drop().await.unwrap();
    scene.remove().await;
}
