//! Reads the ends of the topic's partitions, as [`Search`] asks for it. Blocking: every call returns within seconds, with [`Fault::Unreachable`] if need be.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message as _};
use rdkafka::topic_partition_list::Offset;
use rdkafka::types::RDKafkaErrorCode;
use tapeline_api::settings::ProducerSettings;

use super::{Fault, LogLines, consumer_config};
use crate::mark::Mark;
use crate::search::{Extent, Position, Range, Search};

/// How long a question to the brokers may take. A healthy one answers in milliseconds; what takes longer is reported and asked again.
pub(super) const ANSWER: Duration = Duration::from_secs(4);
/// How long nothing may be read while there must be something.
const PROGRESS: Duration = Duration::from_secs(10);

/// The topic, as its metadata describe it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// How many partitions it has.
    pub partitions: i32,
    /// Whether some partition is kept on more than one broker.
    pub replicated: bool,
}

impl Shape {
    /// Asks for the topic's metadata.
    pub fn ask<C: ClientContext>(client: &Client<C>, topic: &str) -> Result<Self, Fault> {
        let fault = |error: &KafkaError| Fault::of("looking for the topic", topic, error);
        let missing = || Fault::TopicMissing(topic.to_owned());
        let metadata = client.fetch_metadata(Some(topic), ANSWER).map_err(|error| fault(&error))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic).ok_or_else(missing)?;
        if let Some(code) = found.error() {
            return Err(fault(&KafkaError::MetadataFetch(code.into())));
        }
        match i32::try_from(found.partitions().len()) {
            Ok(partitions) if partitions > 0 => Ok(Self { partitions, replicated: found.partitions().iter().any(|partition| partition.replicas().len() > 1) }),
            _ => Err(missing()),
        }
    }
}

/// A connection for reading, in no consumer group as a member.
pub struct Tail {
    pub(super) consumer: BaseConsumer<LogLines>,
    pub(super) topic: String,
    identity: String,
}

impl Tail {
    /// Sets the client up; nothing is asked yet.
    pub fn open(settings: &ProducerSettings) -> Result<Self, Fault> {
        let topic = settings.topic.as_str().to_owned();
        let consumer = consumer_config(settings).create_with_context(LogLines).map_err(|error| Fault::of("connecting", &topic, &error))?;
        Ok(Self { consumer, topic, identity: settings.identity() })
    }

    /// Asks for the topic's metadata.
    pub fn shape(&self) -> Result<Shape, Fault> {
        Shape::ask(self.consumer.client(), &self.topic)
    }

    /// Asks where each partition starts and ends.
    pub fn extents(&self, shape: Shape) -> Result<BTreeMap<i32, Extent>, Fault> {
        (0..shape.partitions)
            .map(|partition| {
                let (low, end) =
                    self.consumer.fetch_watermarks(&self.topic, partition, ANSWER).map_err(|error| self.fault("asking for the partitions' ends", &error))?;
                Ok((partition, Extent { low, end }))
            })
            .collect()
    }

    /// Goes through `search` and says where to go on.
    pub fn position(&self, mut search: Search) -> Result<Position, Fault> {
        loop {
            let round = search.next_round();
            if round.is_empty() {
                return Ok(search.position());
            }
            let read = self.read(&round, &mut search);
            let idle = self.consumer.unassign();
            read?;
            idle.map_err(|error| self.fault("reading the topic", &error))?;
        }
    }

    fn read(&self, ranges: &[Range], search: &mut Search) -> Result<(), Fault> {
        let fault = |error: &KafkaError| self.fault("reading the topic", error);
        let mut open: BTreeMap<i32, i64> = BTreeMap::new();
        let mut assignment = TopicPartitionList::with_capacity(ranges.len());
        for range in ranges {
            open.insert(range.partition, range.end);
            assignment.add_partition_offset(&self.topic, range.partition, Offset::Offset(range.start)).map_err(|error| fault(&error))?;
        }
        self.consumer.assign(&assignment).map_err(|error| fault(&error))?;
        // A partition that was paused in an earlier round would stay so, in whatever assignment it is.
        self.consumer.resume(&assignment).map_err(|error| fault(&error))?;
        let mut heard = Instant::now();
        while !open.is_empty() {
            let finished = match self.consumer.poll(Duration::from_millis(200)) {
                None if heard.elapsed() > PROGRESS => {
                    return Err(Fault::Unreachable { what: "reading the topic", reason: format!("nothing arrived for {} s", PROGRESS.as_secs()) });
                }
                None => continue,
                Some(Ok(message)) => {
                    let headers = message.headers().into_iter().flat_map(Headers::iter).filter_map(|header| Some((header.key, header.value?)));
                    if let Some(mark) = Mark::read(&self.identity, headers) {
                        search.observe(message.partition(), &mark, message.payload());
                    }
                    // The last offsets of a range need not have a message: a transaction's end takes one too.
                    open.get(&message.partition()).is_some_and(|end| message.offset() + 1 >= *end).then_some(message.partition())
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => Some(partition),
                // librdkafka tries again by itself; whether it succeeds shows in what arrives.
                Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown))) => continue,
                Some(Err(error)) => return Err(fault(&error)),
            };
            heard = Instant::now();
            if let Some(partition) = finished.filter(|partition| open.remove(partition).is_some()) {
                let mut rest = TopicPartitionList::new();
                rest.add_partition(&self.topic, partition);
                self.consumer.pause(&rest).map_err(|error| fault(&error))?;
            }
        }
        Ok(())
    }

    /// Takes librdkafka's log lines out of its queue. Whoever keeps a [`Tail`] for long calls this now and then.
    pub fn serve(&self) {
        // Nothing is assigned, so there is nothing else to come.
        let _ = self.consumer.poll(Duration::from_millis(5));
    }

    pub(super) fn fault(&self, what: &'static str, error: &KafkaError) -> Fault {
        Fault::of(what, &self.topic, error)
    }
}
