//! The engine: opens a micro-batch with the first records, pushes records through the plan as they come, and cuts. It runs on one thread with the sink; what
//! it must not do is wait for a store while somebody waits for it (a rebalance, a stop): then it discards, which loses nothing, since progress is with the rows.

mod batch;
mod cut;
mod schedule;
mod start;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use arrow::array::RecordBatch;
use tapeline_api::report::{Problem, ProblemClass};
use tapeline_api::settings::WorkerSettings;
use tapeline_query::plan::{CheckedQuery, RunError};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::consumer::{Assigned, Command, Event, Position, SourceChunk, Urgent};
use crate::dead_letters::DeadLetters;
use crate::sink::{AnySink, Beginning, Progress, Sink, SinkError};
use crate::status::{Status, Who};
use batch::{Batch, Tally};
use cut::deadline;
use schedule::Schedule;
use start::{Start, decide, ends_are_old, first_epoch};

/// Waiting for a store: from the first to the longest pause.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// What the engine works with.
pub struct Parts {
    /// The settings.
    pub settings: WorkerSettings,
    /// The checked query.
    pub query: CheckedQuery,
    /// Where rows go.
    pub sink: AnySink,
    /// Where bad records go, if anywhere, and not with the sink's commit.
    pub dead_letters: Option<DeadLetters>,
    /// From the consumer.
    pub events: mpsc::Receiver<Event>,
    /// To the consumer.
    pub commands: std_mpsc::Sender<Command>,
    /// By when to be done.
    pub urgent: watch::Receiver<Urgent>,
    /// What the world sees.
    pub status: Arc<Status>,
    /// End when the topic's end is reached and stored.
    pub until_caught_up: bool,
}

/// The engine of one worker.
pub struct Engine {
    parts: Parts,
    /// Stored progress of the partitions that are being read.
    owned: BTreeMap<i32, Progress>,
    /// Partitions that wait for their start.
    unresolved: Vec<Assigned>,
    /// Where the stream's `startFrom` points in each partition of the topic, if that is not their start.
    beginnings: BTreeMap<i32, i64>,
    /// The topic's ends when the partitions were assigned.
    ends: BTreeMap<i32, i64>,
    /// Progress above the ends that were known when it was read (see [`ends_are_old`]).
    above: BTreeMap<i32, i64>,
    generation: u64,
    batch: Option<Batch>,
    tally: Tally,
    schedule: Schedule,
    /// Rows after which a micro-batch is cut; halved when memory ran out.
    row_limit: u64,
}

/// How the engine ends by itself.
enum Stop {
    /// All is stored and the consumer may go.
    Done,
    /// Only a change helps.
    Failed(Problem),
}

type Flow = Result<(), Stop>;

impl Engine {
    /// An engine that has not begun.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let replica = std::env::var("HOSTNAME").unwrap_or_default();
        let schedule = Schedule::new(Duration::from_millis(parts.settings.trigger_interval_ms), &replica);
        let row_limit = parts.settings.max_rows.unwrap_or(u64::MAX);
        Self {
            parts,
            owned: BTreeMap::new(),
            unresolved: Vec::new(),
            beginnings: BTreeMap::new(),
            ends: BTreeMap::new(),
            above: BTreeMap::new(),
            generation: 0,
            batch: None,
            tally: Tally::default(),
            schedule,
            row_limit,
        }
    }

    /// Runs until the process is to end, or the query fails for good.
    pub async fn run(mut self) {
        let stop = loop {
            if let Err(stop) = self.turn().await {
                break stop;
            }
        };
        if let Stop::Failed(problem) = stop {
            tracing::error!(class = %problem.class, partition = problem.partition, offset = problem.offset, "the query stopped: {}", problem.message);
            self.parts.status.failed(problem);
        }
        self.drop_batch();
        self.command(Command::Close);
    }

    async fn turn(&mut self) -> Flow {
        if !self.unresolved.is_empty() && !self.is_urgent() {
            self.resolve().await?;
        }
        // Events come first, below; without this a steady stream of them would put the cut off for ever.
        if self.batch.is_some() && Instant::now() >= self.schedule.next() {
            return self.cut().await;
        }
        let cut_at = self.schedule.next();
        tokio::select! {
            biased;
            event = self.parts.events.recv() => match event {
                Some(event) => self.handle(event).await,
                None => Err(Stop::Done),
            },
            rows = Batch::next_rows(&mut self.batch) => self.take(rows).await,
            // Nobody waits any more: partitions that were left alone meanwhile can begin.
            _ = self.parts.urgent.changed(), if !self.unresolved.is_empty() => Ok(()),
            () = sleep_until(cut_at) => if self.batch.is_some() { self.cut().await } else { self.schedule.was_cut(); Ok(()) },
        }
    }

    async fn handle(&mut self, event: Event) -> Flow {
        match event {
            Event::Assigned { generation, partitions, beginnings } if generation == self.generation => {
                self.beginnings = beginnings;
                self.ends.extend(partitions.iter().map(|assigned| (assigned.partition, assigned.high)));
                self.unresolved.extend(partitions);
                Ok(())
            }
            Event::Chunk(chunk) if chunk.generation == self.generation => self.feed(*chunk).await,
            Event::Assigned { .. } | Event::Chunk(_) => Ok(()), // of an assignment that was discarded
            Event::Revoked(partitions) => {
                self.cut().await?;
                for partition in &partitions {
                    self.owned.remove(partition);
                    self.parts.status.released(*partition);
                }
                self.unresolved.retain(|assigned| !partitions.contains(&assigned.partition));
                self.command(Command::Release);
                Ok(())
            }
            Event::Fault(problem) => Err(Stop::Failed(problem)),
            Event::OutOfRange => {
                self.discard("records that were to be read next are gone");
                Ok(())
            }
            Event::Stopping => {
                self.parts.status.stopping();
                self.cut().await?;
                Err(Stop::Done)
            }
        }
    }

    /// Pushes a chunk through the plan, taking what comes out.
    async fn feed(&mut self, chunk: SourceChunk) -> Flow {
        self.parts.status.read(chunk.batch.num_rows() as u64);
        for (partition, step) in &chunk.steps {
            self.parts.status.unstored(*partition, step.oldest_ms);
        }
        if let (Some(bad), false) = (chunk.bad.first(), self.has_dead_letter_topic()) {
            let message = format!("a record cannot be read, and the stream has no deadLetterTopic for it: {}", bad.error);
            return Err(Stop::Failed(Problem { class: ProblemClass::BadRecord, message, partition: Some(bad.partition), offset: Some(bad.offset) }));
        }
        if self.batch.is_none() {
            self.parts.query.set_now(now_micros());
            match self.parts.query.start().await {
                Ok(run) => (self.batch, self.tally) = (Some(Batch::new(run)), Tally::default()),
                Err(error) => return self.failed_run(error),
            }
        }
        let Some(batch) = &mut self.batch else { return Ok(()) };
        let bad = chunk.bad.len() as u64;
        self.tally.records += chunk.batch.num_rows() as u64 + bad;
        let rows = batch.note(chunk);
        let is_full_of_bad = batch.is_full_of_bad();
        self.found_bad(bad, "read: is this the right topic, and are the stream's fields right?")?;
        if rows.num_rows() > 0 {
            self.push(rows).await?;
        }
        let is_large = self.batch.as_ref().is_some_and(|batch| batch.rows >= self.row_limit);
        if is_large || is_full_of_bad || self.parts.query.memory() >= CheckedQuery::soft_memory_limit() || self.parts.sink.is_full() {
            return self.cut().await;
        }
        Ok(())
    }

    /// Counts bad records. Most of them bad is a mistake in the pipeline, and putting all of them aside would hide it.
    fn found_bad(&mut self, records: u64, cannot_be: &str) -> Flow {
        self.tally.bad += records;
        if records == 0 || !self.tally.is_mostly_bad() {
            return Ok(());
        }
        Err(Stop::Failed(Problem::new(ProblemClass::TooManyBadRecords, format!("most of the records cannot be {cannot_be}"))))
    }

    async fn push(&mut self, rows: RecordBatch) -> Flow {
        loop {
            let Some(batch) = &mut self.batch else { return Ok(()) };
            let out = tokio::select! {
                permit = batch.run.input.reserve() => {
                    // A closed input: the plan has ended early, and its output says why.
                    if let Ok(permit) = permit {
                        permit.send(rows);
                    }
                    return Ok(());
                }
                out = batch.run.output.next() => out,
            };
            self.take(out).await?;
        }
    }

    /// Gives what came out of the plan to the sink.
    async fn take(&mut self, rows: Option<Result<RecordBatch, RunError>>) -> Flow {
        match rows {
            Some(Ok(rows)) => {
                self.parts.sink.push(rows);
                if self.parts.sink.is_full() { self.drain().await } else { Ok(()) }
            }
            Some(Err(error)) => self.failed_run(error),
            // The plan has ended before its input: nothing more can come of this micro-batch (a filter that is never true, say).
            None => self.cut().await,
        }
    }

    fn failed_run(&mut self, error: RunError) -> Flow {
        match error {
            RunError::OutOfMemory => {
                let rows = self.batch.as_ref().map_or(0, |batch| batch.rows);
                if rows <= 8192 {
                    let message = "a few thousand records already need more memory than a micro-batch may have: group by less, or filter";
                    return Err(Stop::Failed(Problem::new(ProblemClass::OutOfMemory, message)));
                }
                self.row_limit = rows / 2;
                self.discard("it needs too much memory; it is read again in smaller ones");
                Ok(())
            }
            RunError::Failed(text) => {
                // The engine's words have the record's values in them.
                tracing::error!("an expression of the query failed: {text}");
                let message = "an expression of the query fails on a record (a CAST, a division by zero, an overflow); use TRY_CAST, NULLIF or a WHERE; \
                               the worker's log has more";
                Err(Stop::Failed(Problem::new(ProblemClass::BadRecord, message)))
            }
        }
    }

    /// Reads the progress of the partitions that wait for their start, and starts them.
    async fn resolve(&mut self) -> Flow {
        let mut pause = BACKOFF.0;
        loop {
            let mut urgent = self.parts.urgent.clone();
            let starts = tokio::select! {
                starts = self.starts() => starts,
                () = deadline(&mut urgent) => return Ok(()), // somebody waits for this engine; the partitions stay unresolved
            };
            match starts {
                Ok(positions) => {
                    self.parts.status.going_on(Who::Engine);
                    self.unresolved.clear();
                    self.command(Command::Start { generation: self.generation, positions });
                    return self.caught_up(); // when measuring, there may be nothing to read
                }
                Err(SinkError::Outage(problem)) => {
                    self.parts.status.waiting(Who::Engine, problem);
                    if self.pause(&mut pause).await.is_err() {
                        return Ok(());
                    }
                }
                Err(SinkError::Fenced(_)) if self.unresolved.is_empty() => return Ok(()), // what there is is asked for again
                Err(SinkError::Fenced(_)) => {}                                           // another worker was faster: read again
                Err(SinkError::Fatal(problem)) => return Err(Stop::Failed(problem)),
                Err(SinkError::Refused(_)) => return Ok(()),
            }
        }
    }

    async fn starts(&mut self) -> Result<Vec<Position>, SinkError> {
        let mut stored = self.parts.sink.read_progress().await?;
        let settings = &self.parts.settings;
        if stored.is_empty() && !self.beginnings.is_empty() {
            let epoch = first_epoch(settings.topic_incarnation);
            stored = self.beginnings.iter().map(|(&partition, &next_offset)| (partition, Progress { epoch, next_offset, write_time: 0 })).collect();
            let beginnings: Vec<Beginning> = stored.iter().map(|(&partition, &start)| Beginning { partition, stored: None, start }).collect();
            self.parts.sink.store_starts(&beginnings).await?;
        }
        if ends_are_old(&self.unresolved, &stored, settings.topic_incarnation, &mut self.above) {
            let why = "another worker has stored more than there was when the ends of the partitions were asked for";
            self.discard(why);
            return Err(SinkError::Fenced(why.to_owned()));
        }
        let (mut begun, mut beginnings) = (Vec::new(), Vec::new());
        for &assigned in &self.unresolved {
            let partition = assigned.partition;
            match decide(assigned, &stored, settings.topic_incarnation, settings.stream.on_data_loss) {
                Start::At(progress) => begun.push((assigned, progress)),
                Start::StoreThenAt(start) => {
                    beginnings.push(Beginning { partition, stored: stored.get(&partition).copied(), start });
                    begun.push((assigned, start));
                }
                Start::Lost { wanted, low, high } => {
                    let message = format!(
                        "records are gone that were not read yet: offset {wanted} is next, the topic has {low} to {high}; set onDataLoss: Continue on the stream to go on without them"
                    );
                    return Err(SinkError::Fatal(Problem { class: ProblemClass::DataLoss, message, partition: Some(partition), offset: Some(wanted) }));
                }
            }
        }
        if !beginnings.is_empty() {
            self.parts.sink.store_starts(&beginnings).await?;
        }
        let mut positions = Vec::new();
        for (Assigned { partition, high, .. }, progress) in begun {
            tracing::info!(partition, offset = progress.next_offset, epoch = progress.epoch, "begins");
            self.owned.insert(partition, progress);
            self.above.remove(&partition); // a loss that was accepted is stored: a later one is to be seen twice again
            self.parts.status.stored(partition, progress.next_offset);
            self.parts.status.end(partition, high);
            positions.push(Position { partition, offset: progress.next_offset, write_time: progress.write_time });
        }
        Ok(positions)
    }

    /// Throws the open micro-batch away and begins again at stored progress.
    fn discard(&mut self, why: &str) {
        tracing::info!("a micro-batch is discarded: {why}");
        self.parts.status.discarded();
        self.drop_batch();
        self.generation += 1;
        self.owned.clear();
        self.unresolved.clear();
        self.command(Command::Reassess { generation: self.generation });
    }

    fn drop_batch(&mut self) {
        self.batch = None;
        self.parts.sink.discard();
    }

    fn command(&self, command: Command) {
        if self.parts.commands.send(command).is_err() {
            tracing::warn!("the consumer is gone");
        }
    }

    const fn has_dead_letter_topic(&self) -> bool {
        self.parts.settings.stream.dead_letter_topic.is_some()
    }

    fn is_urgent(&self) -> bool {
        self.parts.urgent.borrow().is_some()
    }

    /// Waits before the next attempt. An error: somebody waits for this engine, give up.
    async fn pause(&mut self, pause: &mut Duration) -> Result<(), ()> {
        if self.is_urgent() {
            return Err(());
        }
        tokio::select! {
            () = tokio::time::sleep(*pause) => {
                *pause = (*pause * 2).min(BACKOFF.1);
                Ok(())
            }
            _ = self.parts.urgent.changed() => if self.is_urgent() { Err(()) } else { Ok(()) },
        }
    }
}

/// Microseconds since 1970.
fn now_micros() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}
