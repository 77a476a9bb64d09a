//! The thread that owns the Kafka consumer. It alone polls, assigns, seeks, pauses and commits, and it never stops polling, whatever a store does, so that the
//! group does not lose it. Messages are decoded where librdkafka has them and go to the engine as record batches, in chunks.

mod context;
mod headers;
mod membership;
mod partitions;
mod source;

use std::collections::BTreeMap;
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use arrow::array::RecordBatch;
use rdkafka::ClientConfig;
use rdkafka::consumer::ConsumerGroupMetadata;
use tapeline_api::report::Problem;
use tapeline_api::settings::{KafkaSettings, WorkerSettings};
use tapeline_query::decode::BadRecord;
use tokio::time::Instant;

pub use membership::Membership;
pub use source::{Handle, spawn};

/// Chunks between consumer and engine.
const CHUNKS: usize = 4;
/// How long the engine has to store its micro-batch when partitions are revoked.
const REVOKE: Duration = Duration::from_secs(20);

/// From the consumer to the engine, in the order of what happened.
#[derive(Debug)]
pub enum Event {
    /// Partitions to begin with: wanted is a [`Command::Start`] with their offsets.
    Assigned {
        /// Of which assignment: an older one than the engine's is passed over, since the answer to its [`Command::Reassess`] names all that are owned.
        generation: u64,
        /// The partitions.
        partitions: Vec<Assigned>,
        /// Where the stream's `startFrom` points in each partition of the topic, also those of other members; empty where that is their start.
        beginnings: BTreeMap<i32, i64>,
    },
    /// Records.
    Chunk(Box<SourceChunk>),
    /// These partitions go to somebody else: store what was read of them, then [`Command::Release`].
    Revoked(Vec<i32>),
    /// Records that were to be read next are gone.
    OutOfRange,
    /// Records cannot be handed over, for a fault of Tapeline.
    Fault(Problem),
    /// The process is to end: store what was read, then [`Command::Close`].
    Stopping,
}

/// A partition that was assigned, and what the broker has of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assigned {
    /// The partition.
    pub partition: i32,
    /// The first offset that there is.
    pub low: i64,
    /// Behind the last offset.
    pub high: i64,
}

/// Records of some partitions.
#[derive(Debug)]
pub struct SourceChunk {
    /// Of which assignment: an older one than the engine's is dropped.
    pub generation: u64,
    /// The rows.
    pub batch: RecordBatch,
    /// What could not be read.
    pub bad: Vec<BadRecord>,
    /// How far each partition is behind this chunk.
    pub steps: BTreeMap<i32, Step>,
}

/// How far a partition is behind a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Behind the last message.
    pub next_offset: i64,
    /// The last write time given.
    pub write_time: i64,
    /// When the first message was written, in milliseconds since 1970. None too where there was none but marks of transactions.
    pub oldest_ms: Option<i64>,
}

/// From the engine to the consumer.
#[derive(Debug)]
pub enum Command {
    /// Begin these partitions there.
    Start {
        /// Chunks of them carry this number.
        generation: u64,
        /// Where.
        positions: Vec<Position>,
    },
    /// Whatever was read and not stored is discarded: stop all partitions and say [`Event::Assigned`] for them.
    Reassess {
        /// What comes before is stale.
        generation: u64,
    },
    /// The revoked partitions are stored, or given up.
    Release,
    /// Mirror stored progress into the group, so that every tool for lag works.
    Mirror(Vec<(i32, i64)>),
    /// Say that these partitions are still this member's, with what proves it to the group's coordinator; None if they are not.
    Prove {
        /// The partitions.
        partitions: Vec<i32>,
        /// Where to.
        answer: std_mpsc::SyncSender<Option<ConsumerGroupMetadata>>,
    },
    /// Leave the group and end.
    Close,
}

/// Where a partition goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The partition.
    pub partition: i32,
    /// The next offset to read.
    pub offset: i64,
    /// The last write time before it.
    pub write_time: i64,
}

/// By when the engine has to be done with what it does, if somebody waits for it.
pub type Urgent = Option<Instant>;

/// What every client of the pipeline has in common. What Tapeline needs to be right comes after, and wins.
#[must_use]
pub fn client_config(kafka: &KafkaSettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (key, value) in &kafka.client_properties {
        config.set(key, value);
    }
    config
        .set("bootstrap.servers", &kafka.bootstrap_servers)
        .set("client.id", "tapeline-worker")
        .set("socket.connection.setup.timeout.ms", "5000")
        .set("reconnect.backoff.max.ms", "2000")
        .set("log.connection.close", "false");
    config
}

/// The consumer's settings: measured for 1,000,000 rows in 0.7 s; librdkafka's default queue would cost 85 MB.
fn consumer_config(settings: &WorkerSettings) -> ClientConfig {
    let mut config = client_config(&settings.kafka);
    config
        .set("group.id", &settings.group_id)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("auto.offset.reset", "error")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("queued.max.messages.kbytes", "2048")
        .set("fetch.message.max.bytes", "262144")
        .set("fetch.queue.backoff.ms", "5")
        .set("statistics.interval.ms", "5000")
        .set("topic.metadata.refresh.interval.ms", "30000")
        .set("allow.auto.create.topics", "false");
    config
}
