//! Topics from a test's side: reading one to its end, sending messages, creating and deleting.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde::Deserialize;

use crate::connect;
use crate::golden::{self, TRADES};

const ANSWER: Duration = Duration::from_secs(10);
/// How long no message may come before the end of the topic is reached.
const SILENCE: Duration = Duration::from_secs(30);

/// A message of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub payload: Option<Vec<u8>>,
    /// Its headers, in order.
    pub headers: Vec<(String, String)>,
}

impl Record {
    /// The value of the first header `name`.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn of(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        Self {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().map(<[u8]>::to_vec),
            headers: headers.map(|header| (header.key.to_owned(), String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned())).collect(),
        }
    }
}

/// All committed messages of `topic`.
///
/// # Errors
/// The topic is not there, or Kafka does not answer.
pub async fn records(kafka: &str, topic: &str) -> Result<Vec<Record>> {
    records_after(kafka, topic, Vec::new()).await
}

/// The trades in a topic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Trades of the history, each id counted once.
    pub history: u64,
    /// Trades of the history that came again.
    pub repeated: u64,
    /// Further trades.
    pub others: u64,
    /// The highest id of one.
    pub newest: i64,
    /// Whether the topic has every message that was ever sent to it: retention deletes old ones.
    pub whole: bool,
}

/// Counts the trades in `topic`: the elements of the arrays that its messages are.
///
/// # Errors
/// The topic is not there, Kafka does not answer, or a message is not an array of trades.
pub async fn trades(kafka: &str, topic: &str) -> Result<Sent> {
    #[derive(Deserialize)]
    struct Trade {
        id: i64,
    }

    let (kafka, topic) = (kafka.to_owned(), topic.to_owned());
    blocking(move || {
        let (mut sent, mut seen) = (Sent { whole: true, ..Sent::default() }, vec![false; usize::try_from(TRADES)? + 1]);
        let consumer: BaseConsumer = consumer_settings(&kafka).create()?;
        for partition in partitions(&consumer, &topic)? {
            sent.whole &= consumer.fetch_watermarks(&topic, partition, ANSWER)?.0 == 0;
        }
        read(
            &kafka,
            &topic,
            |_| Offset::Beginning,
            |message| {
                // An empty message is a mark of a producer.
                let Some(payload) = message.payload().filter(|payload| !payload.is_empty()) else { return Ok(()) };
                let trades: Vec<Trade> =
                    serde_json::from_slice(payload).with_context(|| format!("the message {}/{}", message.partition(), message.offset()))?;
                for id in trades.into_iter().map(|trade| trade.id) {
                    match usize::try_from(id).ok().filter(|_| golden::is_history(id)).and_then(|id| seen.get_mut(id)) {
                        Some(seen) if *seen => sent.repeated += 1,
                        Some(seen) => (*seen, sent.history) = (true, sent.history + 1),
                        None => (sent.others, sent.newest) = (sent.others + 1, sent.newest.max(id)),
                    }
                }
                Ok(())
            },
        )?;
        Ok(sent)
    })
    .await
}

/// The offsets behind the last message of each partition.
///
/// # Errors
/// The topic is not there, or Kafka does not answer.
pub async fn ends(kafka: &str, topic: &str) -> Result<Vec<(i32, i64)>> {
    let (kafka, topic) = (kafka.to_owned(), topic.to_owned());
    blocking(move || {
        let consumer: BaseConsumer = consumer_settings(&kafka).create()?;
        partitions(&consumer, &topic)?.into_iter().map(|partition| Ok((partition, consumer.fetch_watermarks(&topic, partition, ANSWER)?.1))).collect()
    })
    .await
}

/// The messages of `topic` behind the offsets `after` (as [`ends`] gave them).
///
/// # Errors
/// The topic is not there, or Kafka does not answer.
pub async fn records_after(kafka: &str, topic: &str, after: Vec<(i32, i64)>) -> Result<Vec<Record>> {
    let (kafka, topic) = (kafka.to_owned(), topic.to_owned());
    blocking(move || {
        let mut all = Vec::new();
        let from = |partition| after.iter().find(|(known, _)| *known == partition).map_or(Offset::Beginning, |(_, end)| Offset::Offset(*end));
        read(&kafka, &topic, from, |message| {
            all.push(Record::of(message));
            Ok(())
        })?;
        Ok(all)
    })
    .await
}

fn consumer_settings(kafka: &str) -> ClientConfig {
    let mut config = connect::kafka(kafka);
    config.set("group.id", "tapeline-e2e").set("enable.auto.commit", "false").set("isolation.level", "read_committed").set("enable.partition.eof", "true");
    config.set("auto.offset.reset", "earliest");
    config
}

/// Hands every message of `topic` from `from(partition)` on to `each`, up to the end that each partition had when this began, at least. Whoever waits for an end that
/// moves may read for ever: where transactions are committed ten times a second, each answer of the broker has something new.
fn read(kafka: &str, topic: &str, from: impl Fn(i32) -> Offset, mut each: impl FnMut(&BorrowedMessage<'_>) -> Result<()>) -> Result<()> {
    let consumer: BaseConsumer = consumer_settings(kafka).create().context("a Kafka consumer")?;
    let mut unread = BTreeMap::new();
    let mut assignment = TopicPartitionList::new();
    for partition in partitions(&consumer, topic)? {
        let (_, end) = consumer.fetch_watermarks(topic, partition, ANSWER).with_context(|| format!("looking up the end of {topic}"))?;
        unread.insert(partition, end);
        assignment.add_partition_offset(topic, partition, from(partition))?;
    }
    consumer.assign(&assignment)?;
    let mut heard = Instant::now();
    while !unread.is_empty() {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                each(&message)?;
                if unread.get(&message.partition()).is_some_and(|end| message.offset() + 1 >= *end) {
                    unread.remove(&message.partition());
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => _ = unread.remove(&partition),
            // One broker of several that is away, which others stand in for. If none is left, that is an error of its own.
            Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::BrokerTransportFailure))) if heard.elapsed() < SILENCE => continue,
            Some(Err(error)) => return Err(error).with_context(|| format!("reading the topic {topic}")),
            None if heard.elapsed() > SILENCE => {
                bail!("reading the topic {topic}: nothing came for {SILENCE:?}, and these partitions are not read to their ends: {unread:?}")
            }
            None => continue,
        }
        heard = Instant::now();
    }
    Ok(())
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER).with_context(|| format!("looking up the topic {topic}"))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
    let partitions: Vec<i32> = found.into_iter().flat_map(MetadataTopic::partitions).map(MetadataPartition::id).collect();
    ensure!(!partitions.is_empty(), "the topic {topic} is not there");
    Ok(partitions)
}

/// A partition and the brokers that have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copies {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// The broker that takes its records; -1: none.
    pub leader: i32,
    /// Those that keep it.
    pub replicas: Vec<i32>,
    /// Those of them that have all that was acknowledged.
    pub in_sync: Vec<i32>,
}

/// The partitions of all topics, Kafka's own too.
///
/// # Errors
/// Kafka does not answer.
pub async fn copies(kafka: &str) -> Result<Vec<Copies>> {
    let kafka = kafka.to_owned();
    blocking(move || {
        let consumer: BaseConsumer = consumer_settings(&kafka).create()?;
        let metadata = consumer.fetch_metadata(None, ANSWER).context("listing the partitions")?;
        let of = |topic: &str, partition: &MetadataPartition| Copies {
            topic: topic.to_owned(),
            partition: partition.id(),
            leader: partition.leader(),
            replicas: partition.replicas().to_vec(),
            in_sync: partition.isr().to_vec(),
        };
        Ok(metadata.topics().iter().flat_map(|topic| topic.partitions().iter().map(|partition| of(topic.name(), partition))).collect())
    })
    .await
}

/// The names of all topics.
///
/// # Errors
/// Kafka does not answer.
pub async fn names(kafka: &str) -> Result<Vec<String>> {
    let kafka = kafka.to_owned();
    blocking(move || {
        let consumer: BaseConsumer = consumer_settings(&kafka).create()?;
        let metadata = consumer.fetch_metadata(None, ANSWER).context("listing the topics")?;
        Ok(metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
    })
    .await
}

/// Sends `payloads` to `topic`, one after another, into `partition` if one is given.
///
/// # Errors
/// Kafka does not take one of them.
pub async fn send(kafka: &str, topic: &str, partition: Option<i32>, payloads: &[&str]) -> Result<Vec<(i32, i64)>> {
    let producer: FutureProducer = connect::kafka(kafka).set("message.timeout.ms", "30000").set("linger.ms", "0").create()?;
    let mut deliveries = Vec::new();
    for payload in payloads {
        let mut record = FutureRecord::<(), str>::to(topic).payload(*payload);
        record.partition = partition;
        deliveries.push(producer.send_result(record).map_err(|(error, _)| error).with_context(|| format!("sending to {topic}"))?);
    }
    let mut places = Vec::new();
    for delivery in deliveries {
        let delivery = delivery.await?.map_err(|(error, _)| error).with_context(|| format!("sending to {topic}"))?;
        places.push((delivery.partition, delivery.offset));
    }
    Ok(places)
}

fn admin(kafka: &str) -> Result<AdminClient<DefaultClientContext>> {
    Ok(connect::kafka(kafka).create()?)
}

fn patient() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER))
}

/// Creates `topic`.
///
/// # Errors
/// It exists, or Kafka does not answer.
pub async fn create(kafka: &str, topic: &str, partitions: i32) -> Result<()> {
    let results = admin(kafka)?.create_topics(&[NewTopic::new(topic, partitions, TopicReplication::Fixed(1))], &patient()).await?;
    for result in results {
        result.map_err(|(name, code)| anyhow::anyhow!("creating the topic {name}: {code}"))?;
    }
    Ok(())
}

/// Deletes `topics`; those that are not there do not matter.
///
/// # Errors
/// Kafka does not answer.
pub async fn delete(kafka: &str, topics: &[&str]) -> Result<()> {
    if !topics.is_empty() {
        admin(kafka)?.delete_topics(topics, &patient()).await.with_context(|| format!("deleting the topics {topics:?}"))?;
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}
