//! A topic: rows are buffered until the cut; then one transaction has the rows, the dead letters, the progress and the group's offsets, so that whoever reads committed
//! records sees each row once.
//!
//! The fence is the consumer group (KIP-447): the group's coordinator takes the offsets only with a generation that is not over, and without them nothing is
//! committed. A commit whose answer is lost is looked up: a new producer with the same transactional id ends whatever the last one left open, then stored progress
//! tells.
//!
//! librdkafka knows the transactions of KIP-890 not yet. What they prevent (a message of an aborted transaction that comes late and opens another one, which holds
//! back readers until its timeout) brokers from 3.6 on prevent by themselves.
//!
//! [`writer`] is the thread that writes, [`producer`] a transaction, [`progress`] the topic of progress, [`message`] a row's message, [`guilty`] the search for refused
//! rows, [`trouble`] what errors mean.

mod guilty;
mod message;
mod producer;
mod progress;
mod trouble;
mod writer;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use arrow::array::RecordBatch;
use tapeline_api::names::{SqlName, TopicName};
use tapeline_api::report::ProblemClass;
use tapeline_api::settings::WorkerSettings;
use tokio::sync::oneshot;
use tokio::time::timeout;
use uuid::Uuid;

use self::message::Encoder;
use self::progress::Reader;
use self::trouble::unreachable;
use self::writer::{Answer, Batch, Job, NotStored, State, Writer};
use super::{Advance, Beginning, Progress, ProgressKey, Sink, SinkError, rows};
use crate::consumer::{Membership, client_config};
use crate::dead_letters::{DeadLetter, Stationery};

/// Bytes of rows after which the micro-batch is cut early: what a transaction of comfortable size holds.
const BUFFER: usize = 8 << 20;
/// How long a commit may take before the engine is told what is awaited; it goes on all the same.
const COMMIT: Duration = Duration::from_secs(20);
/// How long reading progress may take, or storing where partitions begin.
const PROGRESS: Duration = Duration::from_secs(60);

/// Writes to a topic.
pub struct KafkaSink {
    jobs: std_mpsc::Sender<Job>,
    /// The query's columns; behind them come the hidden ones.
    columns: usize,
    pending: Vec<RecordBatch>,
    bytes: usize,
    /// A commit that was not answered yet. It goes on, whoever waits for it.
    running: Option<oneshot::Receiver<Result<u64, NotStored>>>,
}

impl std::fmt::Debug for KafkaSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaSink").field("bytes", &self.bytes).field("is_committing", &self.running.is_some()).finish_non_exhaustive()
    }
}

impl KafkaSink {
    /// A sink for a query whose output columns are `columns`, with messages' keys of `key_columns`. Nothing is connected yet.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(super) fn new(
        settings: &WorkerSettings,
        topic: TopicName,
        key_columns: &[SqlName],
        key: ProgressKey,
        columns: Vec<String>,
        membership: Membership,
    ) -> io::Result<Self> {
        let unknown = |name| io::Error::new(io::ErrorKind::InvalidInput, format!("the column \"{name}\" of the sink's key is none of the query's"));
        let names: Vec<&str> = key_columns.iter().map(SqlName::as_str).collect();
        let encoder = Encoder::new(&columns, &names).map_err(unknown)?;
        let config = client_config(&settings.kafka);
        let writer = Writer {
            reader: Reader::new(&config, &settings.group_id),
            config,
            id: format!("{}.{}", settings.group_id, replica()),
            id_of_starts: format!("{}.starts", settings.group_id),
            membership,
            key: Arc::new(key),
            topic: topic.to_string(),
            encoder,
            stationery: Stationery::new(settings),
            state: State::default(),
        };
        let (jobs, receiver) = std_mpsc::channel();
        // It ends when the sink is dropped and its last job is done. Nobody waits for it then: a transaction that the process leaves open is aborted by the next
        // producer with its id, or by its timeout.
        std::thread::Builder::new().name("kafka-sink".to_owned()).spawn(move || writer.run(receiver))?;
        Ok(Self { jobs, columns: columns.len(), pending: Vec::new(), bytes: 0, running: None })
    }

    fn give(&self, job: Job) -> Result<(), SinkError> {
        self.jobs.send(job).map_err(|_| gone())
    }

    async fn ask<T>(&self, job: impl FnOnce(Answer<Result<T, SinkError>>) -> Job) -> Result<T, SinkError> {
        let (answer, answered) = oneshot::channel();
        self.give(job(answer))?;
        let answer = timeout(PROGRESS, answered).await.map_err(|_elapsed| unreachable("Kafka does not answer"))?;
        answer.map_err(|_| gone())?
    }
}

/// What tells the workers of a query apart: the pod. A container that is started again has the same, and its first producer ends what the last one left open; a new
/// pod has another, and waits for the timeout of that. Two processes with the same one would end each other's transactions, and write nothing twice.
fn replica() -> String {
    std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| Uuid::new_v4().to_string())
}

fn gone() -> SinkError {
    SinkError::fatal(ProblemClass::Internal, "the thread that writes to Kafka has ended")
}

impl Sink for KafkaSink {
    async fn read_progress(&mut self) -> Result<BTreeMap<i32, Progress>, SinkError> {
        self.ask(Job::Read).await
    }

    async fn store_starts(&mut self, beginnings: &[Beginning]) -> Result<(), SinkError> {
        self.ask(|answer| Job::Begin(beginnings.to_vec(), answer)).await
    }

    fn push(&mut self, batch: RecordBatch) {
        self.bytes += rows::size(&batch);
        self.pending.push(batch);
    }

    fn is_full(&self) -> bool {
        self.bytes >= BUFFER
    }

    async fn drain(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    async fn commit(&mut self, advances: &[Advance], letters: &[DeadLetter]) -> Result<u64, SinkError> {
        self.commit_within(COMMIT, advances, letters).await
    }

    fn commits_in_kafka(&self) -> bool {
        true
    }

    fn discard(&mut self) {
        self.pending.clear();
        self.bytes = 0;
        self.running = None;
    }
}

impl KafkaSink {
    /// Begins a commit, or goes on to wait for one, no longer than `limit`.
    async fn commit_within(&mut self, limit: Duration, advances: &[Advance], letters: &[DeadLetter]) -> Result<u64, SinkError> {
        let running = if let Some(running) = self.running.take() {
            running
        } else {
            let (answer, answered) = oneshot::channel();
            self.give(Job::Commit(Batch { rows: self.pending.clone(), letters: letters.to_vec(), advances: advances.to_vec() }, answer))?;
            answered
        };
        let answer = timeout(limit, self.running.insert(running)).await.map_err(|_elapsed| unreachable("Kafka does not answer to a commit"))?;
        self.running = None;
        match answer.map_err(|_| gone())? {
            Ok(count) => {
                self.discard();
                Ok(count)
            }
            Err(NotStored::Refused(found)) => Err(SinkError::Refused(rows::take_out(&mut self.pending, self.columns, &found, "Kafka")?)),
            Err(NotStored::Because(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc as std_mpsc;

    use super::*;

    fn sink() -> (KafkaSink, std_mpsc::Receiver<Job>) {
        let (jobs, receiver) = std_mpsc::channel();
        (KafkaSink { jobs, columns: 1, pending: Vec::new(), bytes: 0, running: None }, receiver)
    }

    #[tokio::test]
    async fn a_commit_that_takes_long_is_said_and_not_begun_again() {
        let (mut sink, jobs) = sink();
        let Err(SinkError::Outage(problem)) = sink.commit_within(Duration::ZERO, &[], &[]).await else { panic!("it does not say that it waits") };
        assert_eq!(problem.class, ProblemClass::KafkaUnreachable);
        let Ok(Job::Commit(_, answer)) = jobs.try_recv() else { panic!("nothing was begun") };
        answer.send(Ok(7)).unwrap();
        assert_eq!(sink.commit(&[], &[]).await, Ok(7));
        assert!(jobs.try_recv().is_err(), "it was begun a second time");
    }

    #[tokio::test]
    async fn a_discarded_commit_that_was_not_begun_is_not_wanted_any_more() {
        let (mut sink, jobs) = sink();
        drop(sink.commit_within(Duration::ZERO, &[], &[]).await);
        sink.discard();
        let Ok(Job::Commit(_, answer)) = jobs.try_recv() else { panic!("nothing was asked for") };
        assert!(answer.is_closed());
    }

    #[tokio::test]
    async fn a_thread_that_has_ended_is_a_fault() {
        let (mut sink, jobs) = sink();
        drop(jobs);
        assert_eq!(sink.read_progress().await, Err(gone()));
    }
}
