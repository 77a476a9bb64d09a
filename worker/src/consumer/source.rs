//! The thread's loop.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use tapeline_api::report::{Notice, NoticeKind, Problem, ProblemClass};
use tapeline_api::settings::WorkerSettings;
use tapeline_query::decode::{Decoder, Header, Message, NeverSeen, WriteTimes};
use tokio::sync::{mpsc, oneshot, watch};

use super::context::{Context, Rebalance};
use super::headers::headers;
use super::partitions::Partitions;
use super::{CHUNKS, Command, Event, REVOKE, SourceChunk, Step, Urgent, consumer_config};
use crate::status::{Status, Who};

/// The longest poll: how late a command is noticed.
const POLL: Duration = Duration::from_millis(100);
/// A chunk is handed over when it is this old, or this large.
const CHUNK_AGE: Duration = Duration::from_millis(50);
const CHUNK_BYTES: usize = 256 << 10;
const CHUNK_MESSAGES: usize = 8192;
/// How long a chunk waits for the engine before the partitions are paused.
const PATIENCE: Duration = Duration::from_secs(1);
const REQUEST: Duration = Duration::from_secs(5);

/// The ends of the running thread.
pub struct Handle {
    /// What happened.
    pub events: mpsc::Receiver<Event>,
    /// What to do.
    pub commands: std_mpsc::Sender<Command>,
    /// By when the engine has to be done.
    pub urgent: watch::Receiver<Urgent>,
    /// Kafka's cluster id, once a broker answered.
    pub cluster: oneshot::Receiver<String>,
    /// The thread; it ends after [`Command::Close`]. An error: Kafka's client refuses what it is asked for.
    pub thread: JoinHandle<anyhow::Result<()>>,
}

/// Starts the thread, for a query that reads those columns of the stream that `reads` says.
///
/// # Errors
/// librdkafka refuses a setting, arrow a type, or the system a thread.
pub fn spawn(settings: &WorkerSettings, reads: impl Fn(&str) -> bool, status: Arc<Status>, stopping: watch::Receiver<Urgent>) -> anyhow::Result<Handle> {
    let context = Context::new(Arc::clone(&status), settings.stream.topic.to_string());
    let consumer: BaseConsumer<Context> = consumer_config(settings).create_with_context(context)?;
    let (event_sender, events) = mpsc::channel(CHUNKS);
    let (commands, command_receiver) = std_mpsc::channel();
    let (urgent_sender, urgent) = watch::channel(None);
    let (cluster_sender, cluster) = oneshot::channel();
    let source = Source {
        consumer,
        decoder: Decoder::new(&settings.stream, reads)?,
        noticed: 0,
        times: WriteTimes::default(),
        settings: settings.clone(),
        status,
        stopping,
        urgent: urgent_sender,
        events: event_sender,
        commands: command_receiver,
        outbox: VecDeque::new(),
        waiting_since: None,
        reached: BTreeMap::new(),
        partitions: Partitions::new(&settings.stream),
        generation: 0,
        stop_sent: false,
        waker: tokio::runtime::Builder::new_current_thread().enable_time().build()?,
    };
    let thread = std::thread::Builder::new().name("consumer".to_owned()).spawn(move || source.run(cluster_sender))?;
    Ok(Handle { events, commands, urgent, cluster, thread })
}

struct Source {
    consumer: BaseConsumer<Context>,
    decoder: Decoder,
    /// How many fields the status says no record has.
    noticed: usize,
    times: WriteTimes,
    settings: WorkerSettings,
    status: Arc<Status>,
    stopping: watch::Receiver<Urgent>,
    urgent: watch::Sender<Urgent>,
    events: mpsc::Sender<Event>,
    commands: std_mpsc::Receiver<Command>,
    /// What the engine has not taken yet, in order.
    outbox: VecDeque<Event>,
    waiting_since: Option<Instant>,
    /// Behind what was handed over of each partition.
    reached: BTreeMap<i32, i64>,
    partitions: Partitions,
    generation: u64,
    stop_sent: bool,
    /// To wait for room in the channel and for a time limit at once.
    waker: tokio::runtime::Runtime,
}

enum Flow {
    GoOn,
    End,
}

impl Source {
    fn run(mut self, cluster: oneshot::Sender<String>) -> anyhow::Result<()> {
        let mut result = Ok(());
        if let Some(id) = self.connect() {
            let _ = cluster.send(id);
            let topic = self.settings.stream.topic.to_string();
            match self.consumer.subscribe(&[&topic]) {
                Ok(()) => while matches!(self.turn(), Flow::GoOn) {},
                Err(error) => result = Err(anyhow::anyhow!("subscribing to the topic {topic}: {error}")),
            }
        }
        self.consumer.context().close();
        while let Some(rebalance) = self.consumer.context().next_rebalance() {
            self.rebalanced(rebalance);
        }
        self.partitions.leave(&self.consumer);
        self.consumer.unsubscribe();
        result
        // The group is left when the consumer is dropped; a rebalance on the way is answered by the context.
    }

    /// Asks for the cluster's id until a broker answers, or the process is to end.
    fn connect(&self) -> Option<String> {
        loop {
            if let Some(id) = self.consumer.client().fetch_cluster_id(REQUEST) {
                self.status.going_on(Who::Consumer);
                return Some(id);
            }
            self.waits(ProblemClass::KafkaUnreachable, "no Kafka broker answers");
            if self.stopping.borrow().is_some() || matches!(self.commands.try_recv(), Ok(Command::Close)) {
                return None;
            }
            let _ = self.consumer.poll(POLL); // its errors are in the log; it also paces this loop
        }
    }

    fn waits(&self, class: ProblemClass, message: &str) {
        self.status.waiting(Who::Consumer, Problem::new(class, message));
    }

    fn turn(&mut self) -> Flow {
        while let Ok(command) = self.commands.try_recv() {
            if matches!(self.obey(command), Flow::End) {
                return Flow::End;
            }
        }
        self.announce_stop();
        self.assess();
        if let Some((partition, end)) = self.partitions.end_of_one(&self.consumer) {
            self.status.end(partition, end);
        }
        if !self.deliver() {
            return Flow::End;
        }
        if self.outbox.is_empty() || self.partitions.is_paused() {
            self.fill();
        }
        while let Some(rebalance) = self.consumer.context().next_rebalance() {
            self.rebalanced(rebalance);
        }
        Flow::GoOn
    }

    /// Hands over what is in the outbox. After a second of waiting the partitions are paused, and polling goes on. False: the engine is gone.
    fn deliver(&mut self) -> bool {
        while let Some(event) = self.outbox.pop_front() {
            let wait = if self.partitions.is_paused() { Duration::ZERO } else { POLL };
            let events = self.events.clone();
            let room = self.waker.block_on(async { tokio::time::timeout(wait, events.reserve()).await });
            match room {
                Ok(Ok(permit)) => {
                    permit.send(event);
                    self.waiting_since = None;
                }
                Ok(Err(_)) => return false,
                Err(_) => {
                    self.outbox.push_front(event);
                    let since = *self.waiting_since.get_or_insert_with(Instant::now);
                    if !self.partitions.is_paused() && since.elapsed() > PATIENCE {
                        self.partitions.set_paused(&self.consumer, true);
                    }
                    return true;
                }
            }
        }
        if self.partitions.is_paused() && !self.stop_sent {
            self.partitions.set_paused(&self.consumer, false);
        }
        true
    }

    /// Polls until a chunk is full, or old, or something else happened; then decodes it.
    fn fill(&mut self) {
        let Self { consumer, decoder, noticed, times, partitions, reached, .. } = self;
        let mut held: Vec<BorrowedMessage<'_>> = Vec::new();
        let mut bytes = 0;
        let (mut trouble, mut at_end) = (None, BTreeSet::new());
        let begun = Instant::now();
        loop {
            let wait = if held.is_empty() { POLL } else { CHUNK_AGE };
            match consumer.poll(wait.saturating_sub(begun.elapsed())) {
                Some(Ok(message)) => {
                    bytes += message.payload_len();
                    held.push(message);
                    if bytes >= CHUNK_BYTES || held.len() >= CHUNK_MESSAGES || begun.elapsed() > CHUNK_AGE {
                        break;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    at_end.insert(partition);
                    if !held.is_empty() {
                        break;
                    }
                }
                None => break,
                Some(Err(error)) => {
                    trouble = Some(error);
                    break;
                }
            }
            if consumer.context().has_rebalance() {
                break;
            }
        }
        let started: Vec<&BorrowedMessage<'_>> = held.iter().filter(|message| partitions.is_started(message.partition())).collect();
        let all_headers: Vec<Vec<Header<'_>>> = if decoder.wants_headers() { started.iter().map(|message| headers(message)).collect() } else { Vec::new() };
        let messages: Vec<Message<'_>> = started
            .into_iter()
            .enumerate()
            .map(|(index, message)| Message {
                partition: message.partition(),
                offset: message.offset(),
                timestamp_ms: message.timestamp().to_millis(),
                key: message.key(),
                headers: all_headers.get(index).map_or(&[], Vec::as_slice),
                payload: message.payload(),
            })
            .collect();
        let mut read = read_of(&messages);
        for partition in at_end {
            // Behind the last message there may be the mark of a transaction's end. Progress has to pass it, or it would look as if a message was still to come.
            let last = read.get(&partition).map(|(next_offset, _)| *next_offset).or_else(|| reached.get(&partition).copied());
            if let (Some(position), Some(last)) = (partitions.position(consumer, partition), last)
                && position > last
            {
                read.entry(partition).or_insert((position, None)).0 = position;
            }
        }
        if !read.is_empty() {
            match decoder.decode(&messages, times) {
                Ok(chunk) => {
                    let never_seen = decoder.never_seen();
                    if never_seen.len() != *noticed {
                        *noticed = never_seen.len();
                        let notice = |field: &NeverSeen| Notice { kind: NoticeKind::FieldNeverSeen, message: field.to_string() };
                        self.status.notices(never_seen.iter().map(notice).collect());
                    }
                    let step = |(partition, (next_offset, oldest_ms))| (partition, Step { next_offset, write_time: times.last(partition), oldest_ms });
                    let steps: BTreeMap<i32, Step> = read.into_iter().map(step).collect();
                    reached.extend(steps.iter().map(|(&partition, step)| (partition, step.next_offset)));
                    let chunk = SourceChunk { generation: self.generation, batch: chunk.batch, bad: chunk.bad, steps };
                    self.outbox.push_back(Event::Chunk(Box::new(chunk)));
                }
                Err(error) => {
                    self.outbox.push_back(Event::Fault(Problem::new(ProblemClass::Internal, format!("decoding: {error}"))));
                }
            }
        }
        drop(held);
        if let Some(error) = trouble {
            self.trouble(&error);
        }
    }

    fn trouble(&mut self, error: &KafkaError) {
        use RDKafkaErrorCode::{AllBrokersDown, AutoOffsetReset, OffsetOutOfRange, UnknownTopic, UnknownTopicOrPartition};
        match error.rdkafka_error_code() {
            Some(AutoOffsetReset | OffsetOutOfRange) => self.outbox.push_back(Event::OutOfRange),
            Some(UnknownTopic | UnknownTopicOrPartition) => {
                let topic = &self.settings.stream.topic;
                self.waits(ProblemClass::TopicMissing, &format!("the topic {topic} is not there; declare it under spec.kafka.topics, or create it"));
            }
            Some(AllBrokersDown) => self.waits(ProblemClass::KafkaUnreachable, "no Kafka broker answers"),
            _ => tracing::warn!(%error, "polling"),
        }
    }

    fn rebalanced(&mut self, rebalance: Rebalance) {
        self.status.joined();
        match rebalance {
            Rebalance::Assign(partitions) => {
                tracing::info!(?partitions, "assigned");
                self.partitions.assigned(&self.consumer, partitions);
            }
            Rebalance::Revoke { partitions, lost } => {
                tracing::info!(?partitions, lost, "revoked");
                // Lost partitions are somebody else's already: whatever is stored now is refused by the fence, or harmless.
                let deadline = tokio::time::Instant::now() + if lost { Duration::ZERO } else { REVOKE };
                let _ = self.urgent.send(Some(deadline));
                self.outbox.push_back(Event::Revoked(partitions.clone()));
                self.partitions.revoked(partitions);
            }
        }
    }

    /// Asks the brokers for the offsets of newly assigned partitions, and tells the engine.
    fn assess(&mut self) {
        let Some((partitions, beginnings, result)) = self.partitions.assess(&self.consumer) else {
            if self.partitions.are_assessed() {
                self.status.going_on(Who::Assignment);
            }
            return;
        };
        if !partitions.is_empty() {
            self.outbox.push_back(Event::Assigned { generation: self.generation, partitions, beginnings });
        }
        match result {
            Ok(()) => self.status.going_on(Who::Assignment),
            Err(error) => {
                tracing::warn!(%error, "asking for offsets");
                let message = "a broker does not say which offsets a partition has: does every partition of the topic have a leader?";
                self.status.waiting(Who::Assignment, Problem::new(ProblemClass::KafkaUnreachable, message));
            }
        }
    }

    fn obey(&mut self, command: Command) -> Flow {
        match command {
            Command::Start { generation, positions } => {
                self.generation = generation;
                for position in &positions {
                    self.times.resume(position.partition, position.write_time);
                    self.reached.insert(position.partition, position.offset);
                }
                self.partitions.start(&self.consumer, &positions);
            }
            Command::Reassess { generation } => {
                self.generation = generation;
                self.outbox.retain(|event| !matches!(event, Event::Chunk(_)));
                self.partitions.begin_again(&self.consumer);
            }
            Command::Release => {
                let _ = self.urgent.send(*self.stopping.borrow());
                self.partitions.release(&self.consumer);
            }
            Command::Mirror(offsets) => self.partitions.mirror(&self.consumer, offsets),
            Command::Prove { partitions, answer } => {
                let _ = answer.send(self.partitions.prove(&self.consumer, &partitions)); // who asked may have given up
            }
            Command::Close => return Flow::End,
        }
        Flow::GoOn
    }

    fn announce_stop(&mut self) {
        if self.stop_sent {
            return;
        }
        let deadline = *self.stopping.borrow();
        if deadline.is_some() {
            self.stop_sent = true;
            let _ = self.urgent.send(deadline);
            self.partitions.set_paused(&self.consumer, true);
            self.outbox.push_back(Event::Stopping);
        }
    }
}

/// What `messages` are of each partition: the offset behind the last one, and when the first one was written.
fn read_of(messages: &[Message<'_>]) -> BTreeMap<i32, (i64, Option<i64>)> {
    let mut read = BTreeMap::new();
    for message in messages {
        read.entry(message.partition).or_insert((0, message.timestamp_ms)).0 = message.offset + 1;
    }
    read
}
