//! Topics.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::BoxStream;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use tapeline_api::names::TopicName;
use tapeline_api::settings::KafkaSettings;
use tapeline_dashboard::store::StoreError;
use tapeline_dashboard::store::topics::{Found, Message, Place, Places, Tailed, Topics};
use tokio::time::timeout;

use crate::support::{Scratch, address};

/// Times of messages: the first one's, in ms.
const BEGUN: i64 = 1_724_569_485_000;
const ANSWER: Duration = Duration::from_secs(10);

fn settings() -> KafkaSettings {
    serde_json::from_value(serde_json::json!({"bootstrapServers": address("TESTBED_KAFKA", 9092)})).unwrap()
}

fn config() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address("TESTBED_KAFKA", 9092)).set("linger.ms", "0").set("message.timeout.ms", "10000");
    config
}

async fn topic(partitions: i32) -> (Scratch, TopicName) {
    let name = Scratch::new(|name| {
        Box::pin(async move {
            let admin: AdminClient<DefaultClientContext> = config().create().unwrap();
            admin.delete_topics(&[&name], &AdminOptions::new().operation_timeout(Some(ANSWER))).await.unwrap();
        })
    });
    let admin: AdminClient<DefaultClientContext> = config().create().unwrap();
    let created =
        admin.create_topics(&[NewTopic::new(&name, partitions, TopicReplication::Fixed(1))], &AdminOptions::new().operation_timeout(Some(ANSWER))).await;
    created.expect("the test bed's kafka runs (testbed/up.sh)").pop().unwrap().unwrap();
    let topic = name.parse().unwrap();
    (name, topic)
}

/// A message for partition `partition` of `topic`, sent `time` ms after the first one.
fn record<'a>(topic: &'a TopicName, partition: i32, time: i64, key: &'a str, payload: &'a str) -> FutureRecord<'a, str, str> {
    FutureRecord::to(topic.as_str()).partition(partition).timestamp(BEGUN + time).key(key).payload(payload)
}

/// Sends `{"id": N}` for each N of `ids` to partition N % `partitions`.
async fn send(topic: &TopicName, partitions: i32, ids: std::ops::Range<i64>) {
    let producer: FutureProducer = config().create().unwrap();
    let mut deliveries = Vec::new();
    for id in ids {
        let (key, payload) = (format!("K{id}"), format!("{{\"id\": {id}, \"ticker\": \"{}\"}}", if id % 100 == 0 { "AAPL" } else { "MSFT" }));
        let partition = i32::try_from(id).unwrap() % partitions;
        deliveries.push(producer.send_result(record(topic, partition, id, &key, &payload)).map_err(|(error, _)| error).unwrap());
    }
    for delivery in deliveries {
        delivery.await.unwrap().unwrap();
    }
}

fn ids(messages: &[Message]) -> Vec<i64> {
    messages.iter().map(|message| serde_json::from_str::<serde_json::Value>(&message.payload.text).unwrap()["id"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn the_newest_messages_are_those_of_all_partitions() {
    let (_name, topic) = topic(3).await;
    send(&topic, 3, 0..1000).await;
    let topics = Topics::new(settings());
    let begun = Instant::now();
    let found = topics.latest(&topic, 50, None).await.unwrap();
    assert_eq!(ids(&found.messages), (950..1000).rev().collect::<Vec<_>>());
    assert!(found.complete && found.scanned <= 100, "{} of 1000 were looked at", found.scanned);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let newest = &found.messages[0];
    assert_eq!((newest.partition, newest.offset, newest.timestamp_ms, newest.json), (0, 333, Some(BEGUN + 999), true));
    assert_eq!((newest.key.as_ref().unwrap().text.as_str(), newest.payload.text.as_str()), ("K999", "{\n  \"id\": 999,\n  \"ticker\": \"MSFT\"\n}"));

    let before = async |places: &[(i32, i64)], count| topics.before(&topic, &places.iter().copied().collect::<Places>(), count, None).await.unwrap();
    assert_eq!(ids(&before(&[(0, newest.offset)], 3).await.messages), [996, 993, 990]);
    let first = before(&[(0, 2)], 50).await;
    assert_eq!((ids(&first.messages), first.complete, first.older), (vec![3, 0], true, Places::new()), "no more than there are");
    assert_eq!(before(&[(0, -7)], 50).await.messages, []);
    let older = topics.before(&topic, &found.older, 50, None).await.unwrap();
    assert_eq!(ids(&older.messages), (900..950).rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_filter_looks_at_messages_until_there_are_enough() {
    let (_name, topic) = topic(3).await;
    send(&topic, 3, 0..6000).await;
    let topics = Topics::new(settings());
    let few = topics.latest(&topic, 3, Some("aapl")).await.unwrap();
    assert_eq!((ids(&few.messages), few.complete), (vec![5900, 5800, 5700], true));
    assert!(few.scanned < 3000, "{} were looked at", few.scanned);
    let by_key = topics.latest(&topic, 1, Some("k5432")).await.unwrap();
    assert_eq!(ids(&by_key.messages), [5432]);
    let none = topics.latest(&topic, 3, Some("nobody has this")).await.unwrap();
    assert_eq!((none.messages.len(), none.complete), (0, false));
    assert!((4000..=5000).contains(&none.scanned), "{} were looked at", none.scanned);
    // A search goes on where it ended.
    let rest = topics.before(&topic, &none.older, 500, Some("aapl")).await.unwrap();
    assert!(rest.complete && rest.older.is_empty() && ids(&rest.messages).ends_with(&[100, 0]), "{rest:?}");
}

/// Messages that were aborted, and the marks of transactions, are offsets without messages, also at the end.
#[tokio::test]
async fn gaps_of_transactions_do_not_hold_a_look_up() {
    let (name, topic) = topic(1).await;
    let producer: FutureProducer = config().set("transactional.id", &*name).create().unwrap();
    producer.init_transactions(ANSWER).unwrap();
    for (batch, commit) in [(0_i64, true), (1, false), (2, true), (3, false)] {
        producer.begin_transaction().unwrap();
        for id in batch * 100..batch * 100 + 100 {
            producer.send_result(record(&topic, 0, id, "k", &format!("{{\"id\": {id}}}"))).map_err(|(error, _)| error).unwrap().await.unwrap().unwrap();
        }
        if commit { producer.commit_transaction(ANSWER) } else { producer.abort_transaction(ANSWER) }.unwrap();
    }
    let topics = Topics::new(settings());
    let begun = Instant::now();
    let found = topics.latest(&topic, 150, None).await.unwrap();
    assert_eq!(ids(&found.messages), (200..300).rev().chain((50..100).rev()).collect::<Vec<_>>());
    assert!(found.complete && begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    // What is not committed yet is not shown, and not waited for.
    producer.begin_transaction().unwrap();
    producer.send_result(record(&topic, 0, 400, "k", "{\"id\": 400}")).map_err(|(error, _)| error).unwrap().await.unwrap().unwrap();
    assert_eq!(ids(&topics.latest(&topic, 1, None).await.unwrap().messages), [299]);
    producer.abort_transaction(ANSWER).unwrap();
}

#[tokio::test]
async fn what_is_not_there_is_said() {
    let (_name, topic) = topic(1).await;
    let topics = Topics::new(settings());
    assert_eq!(topics.latest(&topic, 10, None).await, Ok(Found { messages: vec![], scanned: 0, complete: true, older: Places::new() }));
    let error = topics.latest(&"no_such_topic_of_a_dashboard".parse().unwrap(), 10, None).await.unwrap_err();
    assert!(matches!(&error, StoreError::Missing(text) if text.contains("no_such_topic_of_a_dashboard")), "{error:?}");
    let error = topics.before(&topic, &Places::from([(7, 0)]), 10, None).await.unwrap_err();
    assert!(matches!(&error, StoreError::Missing(text) if text.contains("partition 7")), "{error:?}");
    let nowhere = KafkaSettings { bootstrap_servers: "127.0.0.1:1".to_owned(), ..settings() };
    let begun = Instant::now();
    let error = Topics::new(nowhere).latest(&topic, 10, None).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unreachable(_)) && begun.elapsed() < Duration::from_secs(8), "{error:?} after {:?}", begun.elapsed());
}

#[tokio::test]
async fn values_that_are_no_text_are_shown_too() {
    let (_name, topic) = topic(1).await;
    let producer: FutureProducer = config().create().unwrap();
    let long = "x".repeat(100_000);
    for payload in [Some(&[0_u8, 0xFF][..]), None, Some(long.as_bytes())] {
        let mut record = FutureRecord::<[u8], [u8]>::to(topic.as_str()).key(&[0xAB]).headers(OwnedHeaders::new().insert(Header { key: "h", value: Some("v") }));
        record.payload = payload;
        producer.send_result(record).map_err(|(error, _)| error).unwrap().await.unwrap().unwrap();
    }
    let found = Topics::new(settings()).latest(&topic, 10, None).await.unwrap().messages;
    assert_eq!((found[0].payload.text.len(), found[0].payload.cut_from), (16_384, Some(100_000)));
    assert_eq!((found[1].tombstone, found[1].payload.text.as_str()), (true, ""));
    assert_eq!((found[2].payload.text.as_str(), found[2].payload.hex, found[2].tombstone), ("00ff", true, false));
    assert_eq!((found[2].key.as_ref().unwrap().text.as_str(), found[2].headers[0].0.as_str(), found[2].headers[0].1.text.as_str()), ("ab", "h", "v"));
}

type Tail = BoxStream<'static, Result<Tailed, StoreError>>;

/// What comes next, within some seconds.
async fn next(tail: &mut Tail) -> Tailed {
    timeout(ANSWER, tail.next()).await.expect("something comes").expect("the view goes on").unwrap()
}

/// The ids of the next `count` messages.
async fn next_ids(tail: &mut Tail, count: usize) -> Vec<i64> {
    let mut messages = Vec::new();
    while messages.len() < count {
        match next(tail).await {
            Tailed::Message(message) => messages.push((*message).clone()),
            Tailed::Missed(count) => panic!("{count} were left out after {messages:?}"),
        }
    }
    ids(&messages)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_follow_a_topic_see_the_newest_and_then_what_comes() {
    let (_name, topic) = topic(2).await;
    send(&topic, 2, 0..10).await;
    let topics = Topics::new(settings());
    let mut first = topics.tail(&topic, 3, None).await.unwrap();
    assert_eq!(next_ids(&mut first, 3).await, [7, 8, 9], "oldest first");
    send(&topic, 2, 10..12).await;
    // Far more than there are consumers for.
    let mut others: Vec<Tail> = join_all((0..100).map(|_| topics.tail(&topic, 3, None))).await.into_iter().map(Result::unwrap).collect();
    let mut filtered = topics.tail(&topic, 3, Some("k13")).await.unwrap();
    send(&topic, 2, 12..14).await;
    let mut seen = next_ids(&mut first, 4).await;
    seen.sort_unstable();
    assert_eq!(seen, [10, 11, 12, 13]);
    for other in &mut others {
        let mut seen = next_ids(other, 5).await;
        seen.sort_unstable();
        assert_eq!(seen, [9, 10, 11, 12, 13], "no gap between the newest and what comes");
    }
    assert_eq!(next_ids(&mut filtered, 1).await, [13]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_too_fast_is_left_out_and_counted() {
    let (_name, topic) = topic(1).await;
    let topics = Topics::new(settings());
    let mut tail = topics.tail(&topic, 50, None).await.unwrap();
    send(&topic, 1, 0..500).await;
    let (mut shown, mut missed) = (0, 0);
    while shown + missed < 500 {
        match next(&mut tail).await {
            Tailed::Message(_) => shown += 1,
            Tailed::Missed(count) => missed += count,
        }
    }
    assert_eq!(shown + missed, 500);
    assert!(missed >= 300, "{missed} of 500 were left out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_nobody_follows_any_more_is_let_go() {
    let topics = Topics::new(settings());
    let (mut followed, mut names) = (Vec::new(), Vec::new());
    for _ in 0..16 {
        let (name, topic) = topic(1).await;
        followed.push(topics.tail(&topic, 1, None).await.unwrap());
        names.push(name);
    }
    let (_name, one_more) = topic(1).await;
    let error = topics.tail(&one_more, 1, None).await.err();
    assert!(matches!(&error, Some(StoreError::Refused(text)) if text.contains("16 topics")), "{error:?}");
    followed.truncate(15);
    let begun = Instant::now();
    while topics.tail(&one_more, 1, None).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the consumer of a topic that nobody follows goes on");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_topic_that_is_not_there_is_not_followed() {
    let error = Topics::new(settings()).tail(&"no_such_topic_of_a_dashboard".parse().unwrap(), 1, None).await.err();
    assert!(matches!(&error, Some(StoreError::Missing(_))), "{error:?}");
}

#[tokio::test]
async fn a_dead_letter_goes_back_to_where_it_came_from() {
    let ((_name, ticks), (_letters_name, letters), (_other_name, other)) = (topic(3).await, topic(2).await, topic(1).await);
    let producer: FutureProducer = config().create().unwrap();
    let payload = "{\"id\": \"not a number\"}";
    let headers = [("tapeline-topic", ticks.as_str()), ("tapeline-partition", "2"), ("tapeline-offset", "77"), ("tapeline-error", "no number")];
    let headers = headers.into_iter().fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value) }));
    let letter = record(&letters, 1, 0, "ticks/2/77/", payload).headers(headers);
    producer.send_result(letter).map_err(|(error, _)| error).unwrap().await.unwrap().unwrap();

    let topics = Topics::new(settings());
    let (sources, place) = ([other.clone(), ticks.clone()], |offset| Ok(Place { topic: ticks.clone(), partition: 2, offset }));
    assert_eq!(topics.replay(&letters, &sources, 1, 0).await, place(0));
    assert_eq!(topics.replay(&letters, &sources, 1, 0).await, place(1), "whoever asks twice sends twice");
    let sent = topics.latest(&ticks, 10, None).await.unwrap().messages;
    assert_eq!((sent.len(), sent[0].payload.text.as_str(), sent[0].key.as_ref()), (2, "{\n  \"id\": \"not a number\"\n}", None));
    assert_eq!((sent[0].headers[0].0.as_str(), sent[0].headers[0].1.text.as_str()), ("tapeline-replayed", format!("{letters}/1/0").as_str()));

    let error = topics.replay(&letters, &[other], 1, 0).await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused(text) if text.contains(ticks.as_str())), "{error:?}");
    let error = topics.replay(&letters, &sources, 1, 5).await.unwrap_err();
    assert!(matches!(&error, StoreError::Missing(_)), "{error:?}");
    let error = topics.replay(&ticks, &sources, 2, 0).await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused(text) if text.contains("no dead letter")), "{error:?}");
}

#[tokio::test]
async fn looking_leaves_nothing_behind() {
    let (_name, topic) = topic(2).await;
    send(&topic, 2, 0..100).await;
    Topics::new(settings()).latest(&topic, 50, None).await.unwrap();
    let consumer: BaseConsumer = config().create().unwrap();
    let groups = consumer.fetch_group_list(None, ANSWER).unwrap();
    assert!(groups.groups().iter().all(|group| group.name() != "tapeline-dashboard"), "no group with members or offsets");
}
