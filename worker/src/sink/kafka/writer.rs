//! The thread that writes. Calls of a transactional producer block, and one that was begun has to come to its end whatever becomes of the future that asked for it;
//! so they are jobs of a thread, done one after the other. What a job left behind, the next one finds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;

use arrow::array::RecordBatch;
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use tapeline_api::progress::PROGRESS_TOPIC;
use tapeline_api::report::ProblemClass;
use tokio::sync::oneshot;

use super::guilty::{Guilty, guilty};
use super::message::Encoder;
use super::producer::{Failure, Message, Transactional, discarded};
use super::progress::{Reader, record, the_topic};
use super::trouble::unreachable;
use crate::consumer::Membership;
use crate::dead_letters::{DeadLetter, Stationery};
use crate::sink::{Advance, Beginning, Doubt, Progress, ProgressKey, SinkError};

/// Where to a job's result goes. Closed, when nobody waits for it any more: a job that was not begun is passed over then.
pub(super) type Answer<T> = oneshot::Sender<T>;

/// What the thread does.
pub(super) enum Job {
    /// Reads progress.
    Read(Answer<Result<BTreeMap<i32, Progress>, SinkError>>),
    /// Stores where partitions begin.
    Begin(Vec<Beginning>, Answer<Result<(), SinkError>>),
    /// Writes a micro-batch.
    Commit(Batch, Answer<Result<u64, NotStored>>),
}

/// A micro-batch.
pub(super) struct Batch {
    pub(super) rows: Vec<RecordBatch>,
    pub(super) letters: Vec<DeadLetter>,
    pub(super) advances: Vec<Advance>,
}

/// Why a micro-batch is not stored.
#[derive(Debug)]
pub(super) enum NotStored {
    /// Rows, by their place in the batch, are refused, and why.
    Refused(Vec<(usize, String)>),
    /// Anything else.
    Because(SinkError),
}

impl From<SinkError> for NotStored {
    fn from(error: SinkError) -> Self {
        Self::Because(error)
    }
}

/// What the thread works with.
pub(super) struct Writer {
    pub(super) config: ClientConfig,
    pub(super) reader: Reader,
    /// The transactional id of this process.
    pub(super) id: String,
    /// The one that all workers of the query share, for storing where partitions begin.
    pub(super) id_of_starts: String,
    pub(super) membership: Membership,
    pub(super) key: Arc<ProgressKey>,
    pub(super) topic: String,
    pub(super) encoder: Encoder,
    pub(super) stationery: Option<Stationery>,
    pub(super) state: State,
}

/// What one job leaves to the next.
#[derive(Default)]
pub(super) struct State {
    producer: Option<Transactional>,
    /// Whether that one, or the next, sends messages singly.
    singly: bool,
    /// Of dead letters only what fits.
    cut_letters: bool,
    /// How the last transaction ended is not known.
    in_doubt: bool,
}

impl Writer {
    /// Does jobs until there can be no more.
    pub(super) fn run(mut self, jobs: std_mpsc::Receiver<Job>) {
        for job in jobs {
            // Who asked may have gone on; what was done is found in the topic.
            match job {
                Job::Read(answer) if !answer.is_closed() => {
                    let read = self.read(|| !answer.is_closed());
                    let _ = answer.send(read);
                }
                Job::Begin(beginnings, answer) if !answer.is_closed() => {
                    let begun = self.begin(&beginnings, || !answer.is_closed());
                    let _ = answer.send(begun);
                }
                Job::Commit(batch, answer) if !answer.is_closed() => {
                    let committed = self.commit(&batch, &|| !answer.is_closed());
                    let _ = answer.send(committed);
                }
                Job::Read(_) | Job::Begin(..) | Job::Commit(..) => {}
            }
        }
    }

    /// The producer. A new one ends what the last one of this process, or of its predecessor in this pod, left open.
    fn producer(&mut self) -> Result<&Transactional, SinkError> {
        let producer = match self.state.producer.take() {
            Some(producer) => producer,
            None => Transactional::new(&self.config, &self.id, self.state.singly)?,
        };
        Ok(self.state.producer.insert(producer))
    }

    fn read(&mut self, is_wanted: impl Fn() -> bool) -> Result<BTreeMap<i32, Progress>, SinkError> {
        if self.state.in_doubt {
            self.state.producer = None;
        }
        let topics: Vec<&str> = std::iter::once(self.topic.as_str()).chain(self.stationery.as_ref().map(Stationery::topic)).collect();
        self.reader.look_for(&topics)?;
        self.producer()?;
        let stored = self.reader.read(&self.key, is_wanted)?;
        self.state.in_doubt = false;
        Ok(stored)
    }

    /// Stores beginnings. Topics cannot compare and swap, but a transactional id that all workers share can: whoever takes it last makes the others' transactions
    /// fail, so that what it reads is what there is until it has committed. What a member of the group has committed for its own partitions cannot come between:
    /// it has begun, so its beginning is stored.
    fn begin(&self, beginnings: &[Beginning], is_wanted: impl Fn() -> bool) -> Result<(), SinkError> {
        let producer = Transactional::new(&self.config, &self.id_of_starts, false)?;
        let stored = self.reader.read(&self.key, &is_wanted)?;
        let missing = missing(beginnings, &stored)?;
        if missing.is_empty() {
            return Ok(());
        }
        let starts: Vec<(i32, Progress)> = missing.iter().map(|beginning| (beginning.partition, beginning.start)).collect();
        let done = producer.begin().and_then(|()| {
            self.send_progress(&producer, &starts, 0)?;
            producer.commit(&self.key.topic, &starts, Vec::new(), &self.membership, is_wanted)
        });
        match done {
            Ok(()) => Ok(()),
            // Whether it happened shows when progress is read again, which the engine does.
            Err(Failure::InDoubt(error)) => Err(error),
            Err(Failure::Aborted(error)) => {
                producer.abort();
                Err(error)
            }
            Err(Failure::Refused(_)) => {
                producer.abort();
                Err(refuses_progress())
            }
        }
    }

    fn commit(&mut self, batch: &Batch, is_wanted: &impl Fn() -> bool) -> Result<u64, NotStored> {
        let count = batch.rows.iter().map(|rows| rows.num_rows() as u64).sum();
        if self.state.in_doubt {
            let stored = self.read(is_wanted)?;
            match Doubt::decide(&batch.advances, &stored) {
                Doubt::Done => return Ok(count),
                Doubt::Undone => {}
                Doubt::Fenced => {
                    let text = "after a lost answer to a commit the stored progress is neither the old nor the new";
                    return Err(SinkError::Fenced(text.to_owned()).into());
                }
            }
        }
        if batch.advances.is_empty() {
            // Nothing would prove that the partitions are ours.
            let is_empty = count == 0 && batch.letters.is_empty();
            return if is_empty { Ok(0) } else { Err(SinkError::Fenced("no partition of the micro-batch is this worker's".to_owned()).into()) };
        }
        let misfits = self.misfits(batch);
        if !misfits.is_empty() {
            return Err(NotStored::Refused(misfits));
        }
        while is_wanted() {
            let failure = match self.attempt(batch, is_wanted) {
                Ok(()) => return Ok(count),
                Err(failure) => failure,
            };
            match failure {
                Failure::InDoubt(error) => {
                    self.state.producer = None;
                    self.state.in_doubt = true;
                    return Err(error.into());
                }
                Failure::Aborted(error) => {
                    self.abort();
                    return Err(error.into());
                }
                Failure::Refused(refused) => {
                    self.abort();
                    if self.state.singly {
                        let rows = self.guilty(batch, &refused)?;
                        if !rows.is_empty() {
                            (self.state.producer, self.state.singly) = (None, false);
                            return Err(NotStored::Refused(rows));
                        }
                    } else {
                        // Several messages are one to a broker. If none is found guilty by itself, the topic takes less at once than is sent: it stays so.
                        (self.state.producer, self.state.singly) = (None, true);
                    }
                }
            }
        }
        Err(discarded().into())
    }

    fn abort(&mut self) {
        if self.state.producer.as_ref().is_some_and(|producer| !producer.abort()) {
            self.state.producer = None;
        }
    }

    fn misfits(&self, batch: &Batch) -> Vec<(usize, String)> {
        let (mut found, mut before) = (Vec::new(), 0);
        for rows in &batch.rows {
            found.extend(self.encoder.misfits(rows).into_iter().map(|(row, why)| (before + row, why)));
            before += rows.num_rows();
        }
        found
    }

    /// One transaction.
    fn attempt(&mut self, batch: &Batch, is_wanted: impl Fn() -> bool) -> Result<(), Failure> {
        self.producer().map_err(Failure::Aborted)?;
        let Some(producer) = &self.state.producer else { return Ok(()) };
        producer.begin()?;
        let mut number = 0;
        for rows in &batch.rows {
            let messages = self.encoder.encode(rows).map_err(internal)?;
            for row in 0..rows.num_rows() {
                let (key, payload) = messages.get(row);
                producer.send(Message { topic: &self.topic, key, payload, headers: None, number })?;
                number += 1;
            }
        }
        for letter in &batch.letters {
            let Some(stationery) = &self.stationery else { return Err(internal("dead letters without a topic")) };
            let (key, headers) = stationery.write(letter);
            let payload = if self.state.cut_letters { letter.beginning() } else { letter.payload() };
            producer.send(Message { topic: stationery.topic(), key: Some(key.as_bytes()), payload, headers: Some(&headers), number })?;
            number += 1;
        }
        let steps: Vec<(i32, Progress)> = batch.advances.iter().map(|advance| (advance.partition, advance.to)).collect();
        self.send_progress(producer, &steps, number)?;
        producer.commit(&self.key.topic, &steps, steps.iter().map(|(partition, _)| *partition).collect(), &self.membership, is_wanted)
    }

    fn send_progress(&self, producer: &Transactional, steps: &[(i32, Progress)], first: usize) -> Result<(), Failure> {
        for (index, (partition, progress)) in steps.iter().enumerate() {
            let (key, payload) = record(&self.key, *partition, *progress).map_err(internal)?;
            producer.send(Message { topic: PROGRESS_TOPIC, key: Some(&key), payload: &payload, headers: None, number: first + index })?;
        }
        Ok(())
    }

    /// Which rows are at fault when brokers refuse messages that were sent singly. None: dead letters are, which are then cut short.
    fn guilty(&mut self, batch: &Batch, refused: &[(usize, RDKafkaErrorCode)]) -> Result<Vec<(usize, String)>, SinkError> {
        let refuses = |text: String| Err(SinkError::fatal(ProblemClass::StoreRefuses, text));
        let topic = &self.topic;
        match guilty(&self.encoder, batch, refused).map_err(|error| SinkError::fatal(ProblemClass::Internal, error.to_string()))? {
            Guilty::Rows(rows) => Ok(rows),
            Guilty::Letters(_) if !std::mem::replace(&mut self.state.cut_letters, true) => Ok(Vec::new()),
            Guilty::Letters(code) => {
                let topic = the_topic(self.stationery.as_ref().map(Stationery::topic).unwrap_or_default());
                Err(unreachable(&format!("{topic} does not take a record ({code}): is its max.message.bytes above 300 KiB?")))
            }
            Guilty::Progress => Err(refuses_progress()),
            Guilty::Keyless => refuses(format!("the topic {topic} takes no messages without a key, since it is compacted: give the sink a key")),
            Guilty::Nobody(code) => refuses(format!(
                "the topic {topic} refuses a row that has a key ({code}): take off it what checks its records, or leave such rows out of the query"
            )),
        }
    }
}

/// Beginnings that are not stored yet. An error: something else is stored than was.
fn missing<'a>(beginnings: &'a [Beginning], stored: &BTreeMap<i32, Progress>) -> Result<Vec<&'a Beginning>, SinkError> {
    let place = |partition: i32| stored.get(&partition).copied().map(Progress::place);
    let missing: Vec<&Beginning> = beginnings.iter().filter(|beginning| place(beginning.partition) != Some(beginning.start.place())).collect();
    match missing.iter().find(|beginning| place(beginning.partition) != beginning.stored.map(Progress::place)) {
        Some(beginning) => Err(SinkError::Fenced(format!("partition {} has other progress already", beginning.partition))),
        None => Ok(missing),
    }
}

fn internal(error: impl std::fmt::Display) -> Failure {
    Failure::Aborted(SinkError::fatal(ProblemClass::Internal, error.to_string()))
}

fn refuses_progress() -> SinkError {
    SinkError::fatal(
        ProblemClass::StoreRefuses,
        format!("the topic {PROGRESS_TOPIC} refuses a record of progress: its settings are not those that Tapeline gives it"),
    )
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};
    use rstest::rstest;

    use super::*;
    use crate::sink::RefusedRow;

    const fn at(epoch: i64, next_offset: i64) -> Progress {
        Progress { epoch, next_offset, write_time: 5 }
    }

    #[rstest]
    #[case::first(None, &[], Some(1))]
    #[case::the_same_again(None, &[(0, at(1, 10))], Some(0))]
    #[case::another_was_first(None, &[(0, at(1, 12))], None)]
    #[case::a_new_epoch(Some(at(0, 99)), &[(0, at(0, 99))], Some(1))]
    #[case::another_went_on(Some(at(0, 99)), &[(0, at(0, 120))], None)]
    #[case::gone(Some(at(0, 99)), &[], None)]
    fn beginnings_are_stored_once(#[case] known: Option<Progress>, #[case] stored: &[(i32, Progress)], #[case] expected: Option<usize>) {
        let beginnings = [Beginning { partition: 0, stored: known, start: at(1, 10) }];
        assert_eq!(missing(&beginnings, &stored.iter().copied().collect()).map(|missing| missing.len()).ok(), expected);
    }

    /// A writer that reaches no broker, and a micro-batch of one row and one dead letter.
    fn writer() -> (Writer, Batch) {
        let text = |text: &str| text.to_owned();
        let config = ClientConfig::new();
        let (commands, _) = std_mpsc::channel();
        let writer = Writer {
            reader: Reader::new(&config, "group"),
            config,
            id: text("id"),
            id_of_starts: text("id.starts"),
            membership: Membership::new(commands),
            key: Arc::new(ProgressKey {
                kafka_cluster: text("c"),
                query: text("n/p/q/0"),
                topic: text("ticks"),
                sink_table: text("out"),
                plan_hash: text("h"),
            }),
            topic: text("out"),
            encoder: Encoder::new(&[text("id")], &["id"]).unwrap(),
            stationery: None,
            state: State { singly: true, ..State::default() },
        };
        let rows = RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).unwrap();
        let letter = DeadLetter::from(RefusedRow { partition: 0, offset: 1, index: 0, error: text(""), payload: Vec::new() });
        (writer, Batch { rows: vec![rows], letters: vec![letter], advances: vec![Advance { partition: 0, from: at(1, 0), to: at(1, 2) }] })
    }

    #[test]
    fn what_is_refused_for_no_reason_that_is_known_is_not_sent_for_ever() {
        let (mut writer, batch) = writer();
        let error = writer.guilty(&batch, &[(0, RDKafkaErrorCode::InvalidRecord)]).unwrap_err();
        assert!(matches!(&error, SinkError::Fatal(problem) if problem.class == ProblemClass::StoreRefuses), "{error:?}");
        assert!(error.to_string().contains("InvalidRecord"), "{error}");
        assert_eq!(writer.guilty(&batch, &[(1, RDKafkaErrorCode::MessageSizeTooLarge)]), Ok(Vec::new()), "the letter is cut short");
        let error = writer.guilty(&batch, &[(1, RDKafkaErrorCode::MessageSizeTooLarge)]).unwrap_err();
        assert!(matches!(&error, SinkError::Outage(_)), "{error:?}");
    }

    #[test]
    fn a_micro_batch_that_nobody_waits_for_is_not_sent_again() {
        let (mut writer, batch) = writer();
        let Err(NotStored::Because(error)) = writer.commit(&batch, &|| false) else { panic!("it is stored") };
        assert_eq!(error, discarded());
    }
}
