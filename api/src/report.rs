//! What workers and producers say of themselves on `/status`: read by the operator. Classes, fields and offsets, never the contents of records, SQL or addresses.

use serde::{Deserialize, Serialize};
use strum::{Display, IntoStaticStr};

/// A worker's `/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerReport {
    /// The query.
    pub query: String,
    /// In one word.
    pub state: WorkerState,
    /// What it waits for, or why it stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// The partitions that it holds.
    pub partitions: Vec<PartitionReport>,
    /// Rows per second that it read, over the last minute.
    pub rows_per_second: f64,
    /// Rows read since the start.
    pub rows_total: u64,
    /// Records that went to the dead-letter topic since the start.
    pub bad_records_total: u64,
    /// Micro-batches that are in the sink, since the start.
    pub batches_total: u64,
    /// Micro-batches that were discarded and read again, since the start.
    pub discarded_total: u64,
    /// The last micro-batch that is in the sink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_batch: Option<BatchReport>,
    /// What looks wrong, though the worker goes on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<Notice>,
}

/// Something that looks wrong, though the worker goes on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notice {
    /// What kind it is.
    pub kind: NoticeKind,
    /// In words, without contents of records and without numbers that move.
    pub message: String,
}

/// Kinds of notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Display, IntoStaticStr)]
pub enum NoticeKind {
    /// No record had a field that the query reads.
    FieldNeverSeen,
    /// Reference data could not be loaded again: the rows that were loaded last are used.
    ReferenceStale,
}

/// The state of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Display, IntoStaticStr)]
pub enum WorkerState {
    /// It has not joined its consumer group yet.
    Starting,
    /// It reads and writes.
    Running,
    /// It waits for a broker or store and will go on by itself.
    Waiting,
    /// It finishes its last micro-batch.
    Stopping,
    /// It stopped by itself; only a change helps.
    Failed,
}

/// What is wrong with a worker or producer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// What kind of trouble it is.
    pub class: ProblemClass,
    /// In words, without contents, SQL or addresses.
    pub message: String,
    /// The partition concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
    /// The offset concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
}

impl Problem {
    /// One that concerns no partition.
    pub fn new(class: ProblemClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), partition: None, offset: None }
    }
}

/// Kinds of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Display, IntoStaticStr)]
pub enum ProblemClass {
    /// No broker answers.
    KafkaUnreachable,
    /// The topic is not there.
    TopicMissing,
    /// The store does not answer, or not in time.
    StoreUnreachable,
    /// MySQL, which the query has reference data from, does not answer, or not in time.
    ReferenceUnreachable,
    /// The store refuses user, password or permission.
    StoreDenied,
    /// The table is not there, or lacks a column.
    TableMissing,
    /// The table does not take the query's rows, for what it is rather than for what a row holds.
    StoreRefuses,
    /// A record that cannot be read, and no dead-letter topic for it.
    BadRecord,
    /// Most of the records cannot be read.
    TooManyBadRecords,
    /// Records that were not read yet are gone.
    DataLoss,
    /// A single chunk does not fit into memory.
    OutOfMemory,
    /// What a producer takes its data from does not answer, or breaks off.
    FeedUnreachable,
    /// It refuses the API key.
    FeedDenied,
    /// It refuses what is asked for, or answers with something else.
    FeedRefuses,
    /// The settings do not fit this program: an older or newer operator wrote them, or the query cannot run.
    InvalidSettings,
    /// A fault of Tapeline.
    Internal,
}

impl ProblemClass {
    /// Whether it goes away by itself when what is awaited comes back.
    #[must_use]
    pub const fn is_outage(self) -> bool {
        matches!(
            self,
            Self::KafkaUnreachable
                | Self::TopicMissing
                | Self::StoreUnreachable
                | Self::ReferenceUnreachable
                | Self::StoreDenied
                | Self::TableMissing
                | Self::FeedUnreachable
                | Self::FeedDenied
                | Self::FeedRefuses
        )
    }
}

/// A partition that a worker holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionReport {
    /// The partition.
    pub partition: i32,
    /// The first offset that is not in the sink.
    pub next_offset: i64,
    /// Behind the last offset of the topic, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_offset: Option<i64>,
    /// Milliseconds since 1970 at which the oldest record was written that is read, but not in the sink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_unstored_ms: Option<i64>,
}

/// A micro-batch that is in the sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchReport {
    /// Rows read.
    pub rows_in: u64,
    /// Rows written.
    pub rows_out: u64,
    /// Milliseconds from the cut to the stored progress.
    pub commit_ms: u64,
    /// Milliseconds of those until the plan had given its last row.
    #[serde(default)]
    pub plan_ms: u64,
    /// Milliseconds from the micro-batch's first record to the cut.
    #[serde(default)]
    pub open_ms: u64,
    /// Milliseconds since 1970 of the cut.
    pub cut_at_ms: i64,
}

/// A producer's `/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProducerReport {
    /// The producer.
    pub producer: String,
    /// In one word.
    pub state: ProducerState,
    /// What it waits for, or why it stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// Messages acknowledged since the start.
    pub messages_total: u64,
    /// Records (elements of messages) acknowledged since the start.
    pub records_total: u64,
    /// What it heard of a websocket or an HTTP API, if that is its source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feed: Option<FeedReport>,
}

/// What a producer heard of a source outside, since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FeedReport {
    /// Whether it is connected and subscribed; for an HTTP API, whether the last request succeeded.
    pub connected: bool,
    /// Connections made again after one that was lost.
    pub reconnections_total: u64,
    /// Times at which something was not delivered: the connection was down, or ids are missing.
    pub gaps_total: u64,
    /// Ids that are missing, where a feed counts.
    pub missing_total: u64,
    /// Elements that came again and were not sent.
    pub repeats_total: u64,
    /// Frames and elements that mean nothing to the mapping.
    pub unknown_total: u64,
    /// Requests to an HTTP API.
    pub requests_total: u64,
}

/// The state of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Display, IntoStaticStr)]
pub enum ProducerState {
    /// It looks where it stopped.
    Starting,
    /// It sends.
    Running,
    /// It has sent everything and idles.
    Done,
    /// It waits for a broker or store and will go on by itself.
    Waiting,
    /// It stopped by itself; only a change helps.
    Failed,
}
