//! The thread's loop.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use tapeline_api::pipeline::streams::Position as End;
use tapeline_api::report::{Problem, ProblemClass};
use tapeline_api::settings::WorkerSettings;
use tapeline_query::decode::{Decoder, Message, WriteTimes};
use tokio::sync::{mpsc, oneshot, watch};

use super::context::{Context, Rebalance};
use super::{Assigned, CHUNKS, Command, Event, Position, REVOKE, SourceChunk, Step, Urgent, consumer_config};
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
    /// The thread; it ends after [`Command::Close`].
    pub thread: JoinHandle<()>,
}

/// Starts the thread.
///
/// # Errors
/// librdkafka refuses a setting, arrow a type, or the system a thread.
pub fn spawn(settings: &WorkerSettings, status: Arc<Status>, stopping: watch::Receiver<Urgent>) -> anyhow::Result<Handle> {
    let context = Context::new(Arc::clone(&status), settings.stream.topic.to_string());
    let consumer: BaseConsumer<Context> = consumer_config(settings).create_with_context(context)?;
    let (event_sender, events) = mpsc::channel(CHUNKS);
    let (commands, command_receiver) = std_mpsc::channel();
    let (urgent_sender, urgent) = watch::channel(None);
    let (cluster_sender, cluster) = oneshot::channel();
    let source = Source {
        consumer,
        decoder: Decoder::new(&settings.stream)?,
        times: WriteTimes::default(),
        settings: settings.clone(),
        status,
        stopping,
        urgent: urgent_sender,
        events: event_sender,
        commands: command_receiver,
        outbox: VecDeque::new(),
        waiting_since: None,
        paused: false,
        owned: BTreeSet::new(),
        started: BTreeSet::new(),
        to_assess: None,
        revoking: None,
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
    paused: bool,
    /// Partitions that the group gave to us.
    owned: BTreeSet<i32>,
    /// Those of them that are being read.
    started: BTreeSet<i32>,
    /// Partitions of which the broker's offsets are still to be asked for.
    to_assess: Option<Vec<i32>>,
    /// Partitions that are to be given back when the engine is done.
    revoking: Option<Vec<i32>>,
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
    fn run(mut self, cluster: oneshot::Sender<String>) {
        if let Some(id) = self.connect() {
            let _ = cluster.send(id);
            let topic = self.settings.stream.topic.to_string();
            match self.consumer.subscribe(&[&topic]) {
                Ok(()) => while matches!(self.turn(), Flow::GoOn) {},
                Err(error) => tracing::error!(%error, "subscribing"),
            }
        }
        self.consumer.context().close();
        self.consumer.unsubscribe();
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
        self.status.waiting(Who::Consumer, Problem { class, message: message.to_owned(), partition: None, offset: None });
    }

    fn turn(&mut self) -> Flow {
        while let Ok(command) = self.commands.try_recv() {
            if matches!(self.obey(command), Flow::End) {
                return Flow::End;
            }
        }
        self.announce_stop();
        self.assess();
        if !self.deliver() {
            return Flow::End;
        }
        if self.outbox.is_empty() || self.paused {
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
            let wait = if self.paused { Duration::ZERO } else { POLL };
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
                    if !self.paused && since.elapsed() > PATIENCE {
                        self.set_paused(true);
                    }
                    return true;
                }
            }
        }
        if self.paused {
            self.set_paused(false);
        }
        true
    }

    fn set_paused(&mut self, paused: bool) {
        let list = self.list(self.started.iter().copied());
        let result = if paused { self.consumer.pause(&list) } else { self.consumer.resume(&list) };
        self.log("pausing or resuming", result);
        self.paused = paused;
    }

    fn list(&self, partitions: impl IntoIterator<Item = i32>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(self.settings.stream.topic.as_str(), partition);
        }
        list
    }

    fn log(&self, what: &str, result: KafkaResult<()>) {
        if let Err(error) = result {
            tracing::warn!(%error, query = %self.settings.query, "{what}");
        }
    }

    /// Polls until a chunk is full, or old, or something else happened; then decodes it.
    fn fill(&mut self) {
        let Self { consumer, decoder, times, .. } = self;
        let mut held: Vec<BorrowedMessage<'_>> = Vec::new();
        let mut bytes = 0;
        let mut trouble = None;
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
                Some(Err(KafkaError::PartitionEOF(_))) if held.is_empty() => {}
                Some(Err(KafkaError::PartitionEOF(_))) | None => break,
                Some(Err(error)) => {
                    trouble = Some(error);
                    break;
                }
            }
            if consumer.context().has_rebalance() {
                break;
            }
        }
        let started = &self.started;
        let messages: Vec<Message<'_>> = held
            .iter()
            .filter(|message| started.contains(&message.partition()))
            .map(|message| Message {
                partition: message.partition(),
                offset: message.offset(),
                timestamp_ms: message.timestamp().to_millis(),
                payload: message.payload(),
            })
            .collect();
        if !messages.is_empty() {
            match decoder.decode(&messages, times) {
                Ok(chunk) => {
                    let chunk = SourceChunk { generation: self.generation, batch: chunk.batch, bad: chunk.bad, steps: steps(&messages, times) };
                    self.outbox.push_back(Event::Chunk(Box::new(chunk)));
                }
                Err(error) => {
                    let problem = Problem { class: ProblemClass::Internal, message: format!("decoding: {error}"), partition: None, offset: None };
                    self.status.failed(problem);
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
            Some(UnknownTopic | UnknownTopicOrPartition) => self.waits(ProblemClass::TopicMissing, "the topic is not there"),
            Some(AllBrokersDown) => self.waits(ProblemClass::KafkaUnreachable, "no Kafka broker answers"),
            _ => tracing::warn!(%error, "polling"),
        }
    }

    fn rebalanced(&mut self, rebalance: Rebalance) {
        self.status.joined();
        match rebalance {
            Rebalance::Assign(partitions) => {
                self.owned.extend(&partitions);
                tracing::info!(?partitions, "assigned");
                if partitions.is_empty() {
                    let list = TopicPartitionList::new();
                    self.assign(&list);
                } else {
                    self.to_assess.get_or_insert_default().extend(partitions);
                }
            }
            Rebalance::Revoke { partitions, lost } => {
                tracing::info!(?partitions, lost, "revoked");
                if let Some(waiting) = &mut self.to_assess {
                    waiting.retain(|partition| !partitions.contains(partition));
                }
                // Lost partitions are somebody else's already: whatever is stored now is refused by the fence, or harmless.
                let deadline = tokio::time::Instant::now() + if lost { Duration::ZERO } else { REVOKE };
                let _ = self.urgent.send(Some(deadline));
                self.outbox.push_back(Event::Revoked(partitions.clone()));
                self.revoking = Some(partitions);
            }
        }
    }

    fn is_cooperative(&self) -> bool {
        matches!(self.consumer.rebalance_protocol(), RebalanceProtocol::Cooperative)
    }

    fn assign(&self, list: &TopicPartitionList) {
        let result = if self.is_cooperative() { self.consumer.incremental_assign(list) } else { self.consumer.assign(list) };
        self.log("assigning", result);
    }

    /// Asks the broker for the offsets of newly assigned partitions, and tells the engine.
    fn assess(&mut self) {
        let Some(partitions) = self.to_assess.clone() else { return };
        match partitions.iter().map(|&partition| self.offsets(partition)).collect::<KafkaResult<Vec<Assigned>>>() {
            Ok(assigned) => {
                self.status.going_on(Who::Consumer);
                self.outbox.push_back(Event::Assigned(assigned));
                self.to_assess = None;
            }
            Err(error) => {
                tracing::warn!(%error, "asking for offsets");
                self.waits(ProblemClass::KafkaUnreachable, "a Kafka broker does not say which offsets there are");
            }
        }
    }

    fn offsets(&self, partition: i32) -> KafkaResult<Assigned> {
        let topic = self.settings.stream.topic.as_str();
        let (low, high) = self.consumer.fetch_watermarks(topic, partition, REQUEST)?;
        let start = self.settings.stream.start_from.as_ref();
        let start_from = match (start.and_then(|start| start.position), start.and_then(|start| start.timestamp.as_ref())) {
            (Some(End::Latest), _) => high,
            (_, Some(time)) => {
                let mut list = TopicPartitionList::new();
                list.add_partition_offset(topic, partition, Offset::Offset(time.0.as_millisecond()))?;
                let found = self.consumer.offsets_for_times(list, REQUEST)?;
                match found.find_partition(topic, partition).map(|found| found.offset()) {
                    Some(Offset::Offset(offset)) => offset,
                    _ => high,
                }
            }
            _ => low,
        };
        Ok(Assigned { partition, low, high, start_from })
    }

    fn obey(&mut self, command: Command) -> Flow {
        match command {
            Command::Start { generation, positions } => self.start(generation, positions),
            Command::Reassess { generation } => {
                self.generation = generation;
                self.outbox.retain(|event| !matches!(event, Event::Chunk(_)));
                let list = self.list(self.started.iter().copied());
                let result = if self.is_cooperative() { self.consumer.incremental_unassign(&list) } else { self.consumer.unassign() };
                self.log("stopping partitions", result);
                self.started.clear();
                self.to_assess = Some(self.owned.iter().copied().collect());
            }
            Command::Release => {
                let _ = self.urgent.send(None);
                if let Some(partitions) = self.revoking.take() {
                    // Of those that were never started librdkafka knows nothing, but it waits for an answer all the same.
                    let list = self.list(partitions.iter().copied().filter(|partition| self.started.contains(partition)));
                    let result = if self.is_cooperative() { self.consumer.incremental_unassign(&list) } else { self.consumer.unassign() };
                    self.log("giving partitions back", result);
                    if let Some(waiting) = &mut self.to_assess {
                        waiting.retain(|partition| !partitions.contains(partition));
                    }
                    for partition in partitions {
                        self.owned.remove(&partition);
                        self.started.remove(&partition);
                    }
                }
            }
            Command::Mirror(offsets) => {
                let mut list = TopicPartitionList::new();
                for (partition, offset) in offsets {
                    if let Err(error) = list.add_partition_offset(self.settings.stream.topic.as_str(), partition, Offset::Offset(offset)) {
                        tracing::warn!(%error, "mirroring offsets");
                    }
                }
                let result = self.consumer.commit(&list, CommitMode::Async);
                self.log("mirroring offsets", result);
            }
            Command::Close => return Flow::End,
        }
        Flow::GoOn
    }

    fn start(&mut self, generation: u64, positions: Vec<Position>) {
        self.generation = generation;
        let mut list = TopicPartitionList::new();
        for position in positions.into_iter().filter(|position| self.owned.contains(&position.partition)) {
            let Position { partition, offset, write_time } = position;
            if let Err(error) = list.add_partition_offset(self.settings.stream.topic.as_str(), partition, Offset::Offset(offset)) {
                tracing::warn!(%error, "assigning");
            }
            self.times.resume(partition, write_time);
            self.started.insert(partition);
        }
        self.assign(&list);
        if self.paused {
            self.set_paused(true); // a pause does not reach partitions that are assigned later
        }
    }

    fn announce_stop(&mut self) {
        if self.stop_sent {
            return;
        }
        let deadline = *self.stopping.borrow();
        if deadline.is_some() {
            self.stop_sent = true;
            let _ = self.urgent.send(deadline);
            let list = self.list(self.started.iter().copied());
            self.log("pausing", self.consumer.pause(&list));
            self.outbox.push_back(Event::Stopping);
        }
    }
}

/// How far each partition is behind `messages`.
fn steps(messages: &[Message<'_>], times: &WriteTimes) -> BTreeMap<i32, Step> {
    let mut steps: BTreeMap<i32, Step> = BTreeMap::new();
    for message in messages {
        let step =
            steps.entry(message.partition).or_insert(Step { next_offset: 0, write_time: times.last(message.partition), oldest_ms: message.timestamp_ms });
        step.next_offset = message.offset + 1;
    }
    steps
}
