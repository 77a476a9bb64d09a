//! Where rows and progress go. A sink stores the progress of the query together with its rows, or after rows that are harmless to repeat, so that a record
//! counts once whatever dies. What a sink cannot do now ([`SinkError::Outage`]) it keeps; the engine calls it again.

mod blackhole;
mod cassandra;
mod kafka;
mod mongodb;
pub(crate) mod mysql;
mod rows;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use tapeline_api::report::{Problem, ProblemClass};
use tapeline_api::settings::{SinkSettings, WorkerSettings};
use tapeline_query::plan::CheckedQuery;

use crate::consumer::Membership;
use crate::dead_letters::DeadLetter;
use crate::settings::Credentials;

/// How far a query is in a partition: the row of the progress table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Rises when the topic is created anew or lost records were accepted: offsets of different epochs cannot be compared.
    pub epoch: i64,
    /// The first offset that is not in the sink.
    pub next_offset: i64,
    /// The last write time given (see `tapeline_query::decode::WriteTimes`).
    pub write_time: i64,
}

impl Progress {
    /// Epoch and offset, which alone decide what is further and what is the same.
    #[must_use]
    pub const fn place(self) -> (i64, i64) {
        (self.epoch, self.next_offset)
    }
}

/// The progress at which a partition is to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beginning {
    /// The partition.
    pub partition: i32,
    /// What was stored when it was decided. If something else is, another worker was there.
    pub stored: Option<Progress>,
    /// What is to be stored.
    pub start: Progress,
}

/// A step of a partition at a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    /// The partition.
    pub partition: i32,
    /// What is stored. If something else is, another worker was there.
    pub from: Progress,
    /// What is to be stored.
    pub to: Progress,
}

/// What became of a commit whose answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// It happened.
    Done,
    /// It did not.
    Undone,
    /// Somebody else has committed.
    Fenced,
}

impl Doubt {
    /// Decides by the progress that is stored now.
    fn decide(advances: &[Advance], stored: &BTreeMap<i32, Progress>) -> Self {
        let is = |pick: fn(&Advance) -> Progress| {
            advances.iter().all(|advance| stored.get(&advance.partition).is_some_and(|stored| stored.place() == pick(advance).place()))
        };
        match (is(|advance| advance.to), is(|advance| advance.from)) {
            (true, _) => Self::Done,
            (false, true) => Self::Undone,
            (false, false) => Self::Fenced,
        }
    }
}

/// Under which key the progress of this query is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgressKey {
    /// Kafka's cluster id.
    pub kafka_cluster: String,
    /// `namespace/pipeline/query/replay id`.
    pub query: String,
    /// The topic.
    pub topic: String,
    /// Kept beside the progress for whoever looks: the table, and the hash of the plan.
    pub sink_table: String,
    /// See `sink_table`.
    pub plan_hash: String,
}

/// A row that the store refuses for its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRow {
    /// Where it came from.
    pub partition: i32,
    /// Where it came from.
    pub offset: i64,
    /// Where it came from.
    pub index: i32,
    /// Why, in the store's words.
    pub error: String,
    /// The row as a JSON object.
    pub payload: Vec<u8>,
}

/// Why a sink did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// The store does not answer, or lacks what is needed. What was given to the sink is kept: call again.
    #[error("{}", .0.message)]
    Outage(Problem),
    /// Stored progress is not what this worker thinks. Nothing was written that counts: discard, read progress, go back.
    #[error("another worker has stored progress: {0}")]
    Fenced(String),
    /// Rows that the store refuses for their content. Nothing was written that counts; the rows are out of the buffer: put them into the dead-letter topic, then
    /// call again.
    #[error("{} rows are refused", .0.len())]
    Refused(Vec<RefusedRow>),
    /// Only a change helps.
    #[error("{}", .0.message)]
    Fatal(Problem),
}

impl SinkError {
    /// An outage of `class`.
    pub(crate) fn outage(class: ProblemClass, message: impl Into<String>) -> Self {
        Self::Outage(Problem::new(class, message))
    }

    /// A fault that stays.
    pub(crate) fn fatal(class: ProblemClass, message: impl Into<String>) -> Self {
        Self::Fatal(Problem::new(class, message))
    }
}

/// What every sink does. All futures may be dropped at any await; what was begun then either happens or not, and the fence tells.
#[allow(async_fn_in_trait, reason = "used in this crate only, on one thread")]
pub trait Sink {
    /// The stored progress of this query in this topic, by partition; empty if there is none.
    async fn read_progress(&mut self) -> Result<BTreeMap<i32, Progress>, SinkError>;

    /// Stores where partitions begin, before their first record is read: all of them, or none. Storing the same again is no error; if something else is stored than
    /// was, it is [`SinkError::Fenced`].
    async fn store_starts(&mut self, beginnings: &[Beginning]) -> Result<(), SinkError>;

    /// Takes rows of the open micro-batch: the query's output columns in the types of `tapeline_query::sink::Canonical`, then, for a row-wise query, the
    /// columns of `tapeline_query::schema::hidden`, or for a merged one its order columns.
    fn push(&mut self, rows: RecordBatch);

    /// Whether it holds as much as it should: call [`Sink::drain`], and if it is full still, cut.
    fn is_full(&self) -> bool;

    /// Writes what can be written before the cut. Sinks whose rows count only with their progress do nothing here.
    async fn drain(&mut self) -> Result<(), SinkError>;

    /// Writes all rows pushed since the last commit or discard, then (or with them) the progress. Returns the number of rows written.
    /// `letters` are for the dead-letter topic, and empty unless [`Sink::commits_in_kafka`].
    async fn commit(&mut self, advances: &[Advance], letters: &[DeadLetter]) -> Result<u64, SinkError>;

    /// Whether its commit is a transaction of Kafka: then the dead letters are part of it, and so are the group's offsets.
    fn commits_in_kafka(&self) -> bool {
        false
    }

    /// Forgets all rows pushed since the last commit.
    fn discard(&mut self);
}

/// The sinks there are.
pub enum AnySink {
    /// See [`cassandra`].
    Cassandra(Box<cassandra::CassandraSink>),
    /// See [`kafka`].
    Kafka(kafka::KafkaSink),
    /// See [`mongodb`].
    MongoDb(Box<mongodb::MongoDbSink>),
    /// See [`mysql`].
    MySql(Box<mysql::MySqlSink>),
    /// See [`blackhole`].
    Blackhole(blackhole::BlackholeSink),
}

impl AnySink {
    /// The sink that `settings` name, for what `query` gives, and for a member of its consumer group. Nothing is connected yet.
    ///
    /// # Errors
    /// The system refuses a thread, or a column of the sink's id or key is none of the query's.
    pub fn new(settings: &WorkerSettings, credentials: &Credentials, key: ProgressKey, query: &CheckedQuery, membership: Membership) -> std::io::Result<Self> {
        let columns = || -> Vec<String> { query.output().iter().map(|column| column.name.clone()).collect() };
        Ok(match &settings.sink {
            SinkSettings::Cassandra { connection, table, nulls } => {
                Self::Cassandra(Box::new(cassandra::CassandraSink::new(connection.clone(), credentials.clone(), table.clone(), *nulls, key, query)))
            }
            SinkSettings::MySql { connection, table, mode } => {
                Self::MySql(Box::new(mysql::MySqlSink::new(connection.clone(), credentials.clone(), table.clone(), *mode, Arc::new(key), query)))
            }
            SinkSettings::MongoDb { connection, collection, id } => {
                Self::MongoDb(Box::new(mongodb::MongoDbSink::new(connection.clone(), credentials.clone(), collection.clone(), id, key, &columns())?))
            }
            SinkSettings::Kafka { topic, key: key_columns } => {
                Self::Kafka(kafka::KafkaSink::new(settings, topic.clone(), key_columns, key, columns(), membership)?)
            }
            SinkSettings::Blackhole => Self::Blackhole(blackhole::BlackholeSink::default()),
        })
    }
}

macro_rules! each {
    ($self:ident, $sink:ident => $call:expr) => {
        match $self {
            AnySink::Cassandra($sink) => $call,
            AnySink::Kafka($sink) => $call,
            AnySink::MongoDb($sink) => $call,
            AnySink::MySql($sink) => $call,
            AnySink::Blackhole($sink) => $call,
        }
    };
}

impl Sink for AnySink {
    async fn read_progress(&mut self) -> Result<BTreeMap<i32, Progress>, SinkError> {
        each!(self, sink => sink.read_progress().await)
    }

    async fn store_starts(&mut self, beginnings: &[Beginning]) -> Result<(), SinkError> {
        each!(self, sink => sink.store_starts(beginnings).await)
    }

    fn push(&mut self, rows: RecordBatch) {
        each!(self, sink => sink.push(rows));
    }

    fn is_full(&self) -> bool {
        each!(self, sink => sink.is_full())
    }

    async fn drain(&mut self) -> Result<(), SinkError> {
        each!(self, sink => sink.drain().await)
    }

    async fn commit(&mut self, advances: &[Advance], letters: &[DeadLetter]) -> Result<u64, SinkError> {
        each!(self, sink => sink.commit(advances, letters).await)
    }

    fn commits_in_kafka(&self) -> bool {
        each!(self, sink => sink.commits_in_kafka())
    }

    fn discard(&mut self) {
        each!(self, sink => sink.discard());
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const fn at(epoch: i64, next_offset: i64) -> Progress {
        Progress { epoch, next_offset, write_time: 5 }
    }

    #[rstest]
    #[case::committed(&[(0, at(1, 20)), (1, at(1, 7))], Doubt::Done)]
    #[case::aborted(&[(0, at(1, 10)), (1, at(1, 5))], Doubt::Undone)]
    #[case::another_was_there(&[(0, at(1, 30)), (1, at(1, 5))], Doubt::Fenced)]
    #[case::another_with_one_of_them(&[(0, at(1, 20)), (1, at(1, 5))], Doubt::Fenced)]
    #[case::gone(&[(0, at(1, 20))], Doubt::Fenced)]
    fn a_commit_in_doubt(#[case] stored: &[(i32, Progress)], #[case] expected: Doubt) {
        let advances = [Advance { partition: 0, from: at(1, 10), to: at(1, 20) }, Advance { partition: 1, from: at(1, 5), to: at(1, 7) }];
        assert_eq!(Doubt::decide(&advances, &stored.iter().copied().collect()), expected);
    }
}
