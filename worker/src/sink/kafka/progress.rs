//! Stored progress: records of a compacted topic, written within the transaction of the rows.
//!
//! Whoever begins reads it whole. A transaction of the worker that had the partition before may still be open then, and end either way. Its progress is in the topic,
//! since a worker proves its membership only when the brokers have everything else of the transaction, and could not prove it any more once the partition was
//! ours. So it is enough to read committed records up to the end that the topic has now, open transactions included, and to wait while one stands before that
//! end: it ends within 30 s, its timeout, and the 10 s at which brokers look for such.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Message, Offset, TopicPartitionList};
use tapeline_api::progress::{PROGRESS_TOPIC, ProgressRecord, ProgressRecordKey};

use super::trouble::{by_code, classify, is_denied, missing, unreachable};
use crate::sink::{Progress, ProgressKey, SinkError};

/// How long a broker may take to answer a question.
const REQUEST: Duration = Duration::from_secs(5);
/// How long nothing may come before the engine is told what is awaited. It asks again.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// The record for the progress of a partition: key and value.
pub(super) fn record(key: &ProgressKey, partition: i32, progress: Progress) -> Result<(Vec<u8>, Vec<u8>), serde_json::Error> {
    let record_key = ProgressRecordKey { query: key.query.clone(), topic: key.topic.clone(), partition };
    let Progress { epoch, next_offset, write_time } = progress;
    let (sink_table, plan_hash, updated_at) = (key.sink_table.clone(), key.plan_hash.clone(), jiff::Timestamp::now().to_string());
    let value = ProgressRecord { epoch, next_offset, write_time, sink_table, plan_hash, updated_at };
    Ok((serde_json::to_vec(&record_key)?, serde_json::to_vec(&value)?))
}

/// The furthest progress of each partition, which is the last whatever the order of records: progress goes backwards in a later epoch only.
#[derive(Debug)]
struct Found<'a> {
    key: &'a ProgressKey,
    stored: BTreeMap<i32, Progress>,
}

impl Found<'_> {
    fn note(&mut self, key: &[u8], value: &[u8]) -> Result<(), serde_json::Error> {
        let key: ProgressRecordKey = serde_json::from_slice(key)?;
        if key.query != self.key.query || key.topic != self.key.topic {
            return Ok(());
        }
        let ProgressRecord { epoch, next_offset, write_time, .. } = serde_json::from_slice(value)?;
        let progress = Progress { epoch, next_offset, write_time };
        let known = self.stored.entry(key.partition).or_insert(progress);
        if progress.place() > known.place() {
            *known = progress;
        }
        Ok(())
    }
}

/// Reads stored progress.
#[derive(Debug)]
pub(super) struct Reader {
    /// For the records.
    committed: ClientConfig,
    /// For the topic's end: with `read_committed` brokers call the first open transaction the end.
    uncommitted: ClientConfig,
}

impl Reader {
    /// A reader with `config`, which has the brokers. The group's name is there because librdkafka assigns nothing without one; the group knows nothing of it.
    pub(super) fn new(config: &ClientConfig, group: &str) -> Self {
        let mut committed = config.clone();
        committed
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("queued.max.messages.kbytes", "2048")
            .set("fetch.message.max.bytes", "262144")
            .set("fetch.wait.max.ms", "50")
            .set("fetch.queue.backoff.ms", "5")
            .set("allow.auto.create.topics", "false");
        let mut uncommitted = committed.clone();
        uncommitted.set("isolation.level", "read_uncommitted");
        Self { committed, uncommitted }
    }

    /// Looks whether these topics are there.
    pub(super) fn look_for(&self, topics: &[&str]) -> Result<(), SinkError> {
        let client = client(&self.uncommitted)?;
        topics.iter().try_for_each(|topic| partitions(&client, topic).map(drop))
    }

    /// The progress under `key`, by partition. Blocks, while `is_wanted`.
    pub(super) fn read(&self, key: &ProgressKey, is_wanted: impl Fn() -> bool) -> Result<BTreeMap<i32, Progress>, SinkError> {
        let mut ends = ends(&client(&self.uncommitted)?)?;
        let mut found = Found { key, stored: BTreeMap::new() };
        if ends.is_empty() {
            return Ok(found.stored);
        }
        let consumer = client(&self.committed)?;
        let mut list = TopicPartitionList::new();
        for partition in ends.keys() {
            list.add_partition_offset(PROGRESS_TOPIC, *partition, Offset::Beginning).map_err(reading)?;
        }
        consumer.assign(&list).map_err(reading)?;
        let (mut last, mut is_held) = (Instant::now(), false);
        while !ends.is_empty() {
            match consumer.poll(POLL) {
                Some(Ok(message)) => {
                    (last, is_held) = (Instant::now(), false);
                    if let (Some(key), Some(value)) = (message.key(), message.payload())
                        && let Err(error) = found.note(key, value)
                    {
                        // It may be this query's: going on without it could mean to begin anew.
                        let text =
                            format!("a record of {PROGRESS_TOPIC} is not progress (partition {}, offset {}): {error}", message.partition(), message.offset());
                        return Err(SinkError::fatal(tapeline_api::report::ProblemClass::StoreRefuses, text));
                    }
                    if ends.get(&message.partition()).is_some_and(|end| message.offset() + 1 >= *end) {
                        ends.remove(&message.partition());
                    }
                }
                // Behind the last record there may be marks of transactions, so that only the position says whether the end is reached.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    let reached = position(&consumer, partition).map_err(reading)?;
                    if ends.get(&partition).is_some_and(|end| reached >= *end) {
                        ends.remove(&partition);
                        last = Instant::now();
                    } else {
                        is_held = true;
                    }
                }
                Some(Err(error)) if error.rdkafka_error_code().is_some_and(is_denied) => return Err(reading(error)),
                Some(Err(error)) => tracing::warn!(%error, "reading {PROGRESS_TOPIC}"),
                None => {}
            }
            if !is_wanted() || last.elapsed() > PATIENCE {
                return Err(if is_held {
                    unreachable(&format!("a transaction that a worker left behind holds {PROGRESS_TOPIC} back; it ends by itself within 40 s"))
                } else {
                    unreachable(&format!("the brokers do not hand out {PROGRESS_TOPIC}"))
                });
            }
        }
        Ok(found.stored)
    }
}

fn reading(error: KafkaError) -> SinkError {
    classify(&error, &the_topic(PROGRESS_TOPIC))
}

pub(super) fn the_topic(name: &str) -> String {
    format!("the topic {name}")
}

/// A consumer that logs what librdkafka says, but for the ends of partitions, which are asked for.
type Client = BaseConsumer<WithoutEnds>;

struct WithoutEnds;

impl ClientContext for WithoutEnds {
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF) {
            tracing::warn!(%error, reason, "kafka");
        }
    }
}

impl ConsumerContext for WithoutEnds {}

fn client(config: &ClientConfig) -> Result<Client, SinkError> {
    config.create_with_context(WithoutEnds).map_err(reading)
}

fn partitions(client: &Client, topic: &str) -> Result<Vec<i32>, SinkError> {
    let metadata = client.fetch_metadata(Some(topic), REQUEST).map_err(|error| match error {
        KafkaError::MetadataFetch(code) => by_code(code, &the_topic(topic)),
        error => reading(error),
    })?;
    let known = metadata.topics().iter().find(|known| known.name() == topic).ok_or_else(|| missing(&the_topic(topic)))?;
    if let Some(error) = known.error() {
        return Err(by_code(error.into(), &the_topic(topic)));
    }
    Ok(known.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect())
}

/// Where each partition ends that is not empty.
fn ends(client: &Client) -> Result<BTreeMap<i32, i64>, SinkError> {
    let mut ends = BTreeMap::new();
    for partition in partitions(client, PROGRESS_TOPIC)? {
        let (low, high) = client.fetch_watermarks(PROGRESS_TOPIC, partition, REQUEST).map_err(reading)?;
        if high > low {
            ends.insert(partition, high);
        }
    }
    Ok(ends)
}

fn position(consumer: &Client, partition: i32) -> KafkaResult<i64> {
    let reached = consumer.position()?.find_partition(PROGRESS_TOPIC, partition).map(|found| found.offset());
    Ok(match reached {
        Some(Offset::Offset(offset)) => offset,
        _ => 0,
    })
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
    use tapeline_api::report::ProblemClass;

    use super::*;

    const fn at(epoch: i64, next_offset: i64) -> Progress {
        Progress { epoch, next_offset, write_time: 5 }
    }

    fn key(query: &str) -> ProgressKey {
        let text = |text: &str| text.to_owned();
        ProgressKey { kafka_cluster: text("c"), query: text(query), topic: text("ticks"), sink_table: text("out"), plan_hash: text("h") }
    }

    #[test]
    fn the_furthest_counts_and_others_records_do_not() {
        let (ours, others) = (key("n/p/q/0"), key("n/p/other/0"));
        let mut found = Found { key: &ours, stored: BTreeMap::new() };
        for (key, progress) in [(&ours, at(64, 9)), (&ours, at(65, 3)), (&ours, at(64, 20)), (&others, at(70, 1))] {
            let (key, value) = record(key, 2, progress).unwrap();
            found.note(&key, &value).unwrap();
        }
        assert_eq!(found.stored, BTreeMap::from([(2, at(65, 3))]));
        assert!(found.note(b"{}", b"{}").is_err(), "what cannot be read is not passed over");
    }

    #[test]
    fn the_key_is_the_same_for_ever() {
        // Records of another key would be another progress.
        assert_eq!(String::from_utf8(record(&key("n/p/q/0"), 2, at(0, 0)).unwrap().0).unwrap(), r#"{"query":"n/p/q/0","topic":"ticks","partition":2}"#);
    }
    #[test]
    fn a_topic_that_may_not_be_read_is_not_waited_for_as_if_no_broker_answered() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(PROGRESS_TOPIC, 1, 1).unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers());
        let producer: BaseProducer = config.create().unwrap();
        producer.send(BaseRecord::to(PROGRESS_TOPIC).key("k").payload("v")).unwrap();
        producer.flush(REQUEST).unwrap();
        cluster.request_errors(RDKafkaApiKey::Fetch, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
        let error = Reader::new(&config, "query").read(&key("n/p/q/0"), || true).unwrap_err();
        assert!(matches!(&error, SinkError::Outage(problem) if problem.class == ProblemClass::StoreDenied), "{error:?}");
    }
}
