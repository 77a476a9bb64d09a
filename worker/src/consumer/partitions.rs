//! The partitions of this member: which the group gave to us, which of those are read, and which are to be given back.
//!
//! A partition is assigned to librdkafka only once the engine has said where it begins, so the group's view (`owned`) and librdkafka's (`started`) differ.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use jiff::Timestamp;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, RebalanceProtocol};
use rdkafka::error::KafkaResult;
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use rdkafka::{Offset, TopicPartitionList};
use tapeline_api::pipeline::streams::{Position as End, Stream};

use super::context::Context;
use super::{Assigned, Position};

/// How long a broker may take to say which offsets there are.
const REQUEST: Duration = Duration::from_secs(5);
/// How often the ends of paused partitions are asked for, one at a time: librdkafka learns them with what it fetches only.
const ENDS_EVERY: Duration = Duration::from_secs(2);

/// Where a query begins that has no progress yet.
enum Beginning {
    Earliest,
    Latest,
    At(Timestamp),
}

pub(super) struct Partitions {
    topic: String,
    beginning: Beginning,
    /// Whether what is started is paused. librdkafka remembers a pause beyond the assignment, so each assignment says anew what holds.
    paused: bool,
    /// Partitions that the group gave to us.
    owned: BTreeSet<i32>,
    /// Those of them that are being read.
    started: BTreeSet<i32>,
    /// Partitions of which the broker's offsets are still to be asked for.
    to_assess: BTreeSet<i32>,
    /// When to ask again what a broker did not answer.
    ask_again: Option<(Instant, ExponentialBackoff)>,
    ends_asked: Instant,
    end_asked: i32,
    /// Partitions that are to be given back when the engine is done.
    revoking: Option<Vec<i32>>,
}

impl Partitions {
    pub(super) fn new(stream: &Stream) -> Self {
        let start = stream.start_from.as_ref();
        let beginning = match (start.and_then(|start| start.position), start.and_then(|start| start.timestamp.as_ref())) {
            (Some(End::Latest), _) => Beginning::Latest,
            (_, Some(time)) => Beginning::At(time.0),
            _ => Beginning::Earliest,
        };
        Self {
            topic: stream.topic.to_string(),
            beginning,
            paused: false,
            owned: BTreeSet::new(),
            started: BTreeSet::new(),
            to_assess: BTreeSet::new(),
            ask_again: None,
            ends_asked: Instant::now(),
            end_asked: -1,
            revoking: None,
        }
    }

    pub(super) const fn is_paused(&self) -> bool {
        self.paused
    }

    pub(super) fn is_started(&self, partition: i32) -> bool {
        self.started.contains(&partition)
    }

    /// The group gave these to us.
    pub(super) fn assigned(&mut self, consumer: &BaseConsumer<Context>, partitions: Vec<i32>) {
        self.owned.extend(&partitions);
        if partitions.is_empty() {
            assign(consumer, &TopicPartitionList::new()); // librdkafka waits for an answer all the same
        } else {
            self.to_assess.extend(partitions);
            self.ask_again = None;
        }
    }

    /// The group wants these back: [`Self::release`] does it, when the engine is done.
    pub(super) fn revoked(&mut self, partitions: Vec<i32>) {
        self.to_assess.retain(|partition| !partitions.contains(partition));
        self.revoking = Some(partitions);
    }

    pub(super) fn are_assessed(&self) -> bool {
        self.to_assess.is_empty()
    }

    /// What brokers have of the partitions to begin with, if there are such, with the `beginnings` of an [`Event::Assigned`]. A partition without a leader does not
    /// hold up the others; what was not answered is asked again after a pause, and the error is that.
    ///
    /// [`Event::Assigned`]: super::Event::Assigned
    #[allow(clippy::type_complexity, reason = "said once")]
    pub(super) fn assess(&mut self, consumer: &BaseConsumer<Context>) -> Option<(Vec<Assigned>, BTreeMap<i32, i64>, KafkaResult<()>)> {
        if self.to_assess.is_empty() || self.ask_again.as_ref().is_some_and(|(at, _)| Instant::now() < *at) {
            return None;
        }
        let mut result = Ok(());
        let (mut assigned, mut beginnings) = (Vec::new(), BTreeMap::new());
        match self.beginnings(consumer) {
            Ok(found) => {
                beginnings = found;
                for partition in self.to_assess.clone() {
                    match consumer.fetch_watermarks(&self.topic, partition, REQUEST) {
                        Ok((low, high)) => {
                            self.to_assess.remove(&partition);
                            assigned.push(Assigned { partition, low, high });
                        }
                        Err(error) => result = Err(error),
                    }
                }
            }
            Err(error) => result = Err(error),
        }
        if result.is_ok() {
            self.ask_again = None;
        } else {
            let first =
                || ExponentialBuilder::new().with_min_delay(Duration::from_millis(500)).with_max_delay(Duration::from_secs(10)).without_max_times().build();
            let mut pauses = self.ask_again.take().map_or_else(first, |(_, pauses)| pauses);
            self.ask_again = pauses.next().map(|pause| (Instant::now() + pause, pauses));
        }
        Some((assigned, beginnings, result))
    }

    /// For every partition of the topic: whoever begins first begins for all members, or one that finds another's progress would take its own partitions for
    /// added ones.
    fn beginnings(&self, consumer: &BaseConsumer<Context>) -> KafkaResult<BTreeMap<i32, i64>> {
        if matches!(self.beginning, Beginning::Earliest) {
            return Ok(BTreeMap::new());
        }
        let metadata = consumer.fetch_metadata(Some(&self.topic), REQUEST)?;
        let partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions).map(MetadataPartition::id);
        partitions.map(|partition| Ok((partition, self.beginning_of(consumer, partition)?))).collect()
    }

    fn beginning_of(&self, consumer: &BaseConsumer<Context>, partition: i32) -> KafkaResult<i64> {
        let (low, high) = consumer.fetch_watermarks(&self.topic, partition, REQUEST)?;
        Ok(match self.beginning {
            Beginning::Earliest => low,
            Beginning::Latest => high,
            Beginning::At(time) => {
                let mut list = TopicPartitionList::new();
                list.add_partition_offset(&self.topic, partition, Offset::Offset(time.as_millisecond()))?;
                let found = consumer.offsets_for_times(list, REQUEST)?;
                match found.find_partition(&self.topic, partition).map(|found| found.offset()) {
                    Some(Offset::Offset(offset)) => offset,
                    _ => high,
                }
            }
        })
    }

    /// While paused: where the next of the partitions ends, if it is time to ask.
    pub(super) fn end_of_one(&mut self, consumer: &BaseConsumer<Context>) -> Option<(i32, i64)> {
        if !self.paused || self.ends_asked.elapsed() < ENDS_EVERY {
            return None;
        }
        self.ends_asked = Instant::now();
        let next = self.started.range(self.end_asked.saturating_add(1)..).next().or_else(|| self.started.first()).copied()?;
        self.end_asked = next;
        // What it does not answer now it is asked the next time round.
        consumer.fetch_watermarks(&self.topic, next, Duration::from_secs(1)).ok().map(|(_, high)| (next, high))
    }

    /// Behind what was read of a started partition, marks of transactions too, which are no messages.
    pub(super) fn position(&self, consumer: &BaseConsumer<Context>, partition: i32) -> Option<i64> {
        if !self.is_started(partition) {
            return None;
        }
        match consumer.position().ok()?.find_partition(&self.topic, partition)?.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    /// Begins to read; what was revoked meanwhile is left out, and what is being read: librdkafka would refuse the whole list.
    pub(super) fn start(&mut self, consumer: &BaseConsumer<Context>, positions: &[Position]) {
        let owned: Vec<&Position> =
            positions.iter().filter(|position| self.owned.contains(&position.partition) && !self.started.contains(&position.partition)).collect();
        let list = self.list_at(owned.iter().map(|position| (position.partition, position.offset)));
        self.started.extend(owned.iter().map(|position| position.partition));
        assign(consumer, &list);
        pause(consumer, &list, self.paused);
    }

    /// Stops reading; all owned partitions that stay are assessed anew.
    pub(super) fn begin_again(&mut self, consumer: &BaseConsumer<Context>) {
        unassign(consumer, &self.list(self.started.iter().copied()));
        self.started.clear();
        let leaving = self.revoking.as_deref().unwrap_or_default();
        self.to_assess = self.owned.iter().copied().filter(|partition| !leaving.contains(partition)).collect();
        self.ask_again = None;
    }

    /// Gives back what was revoked.
    pub(super) fn release(&mut self, consumer: &BaseConsumer<Context>) {
        let Some(partitions) = self.revoking.take() else { return };
        // Of those that were never started librdkafka knows nothing, but it waits for an answer all the same.
        unassign(consumer, &self.list(partitions.iter().copied().filter(|partition| self.started.contains(partition))));
        for partition in partitions {
            self.to_assess.remove(&partition);
            self.owned.remove(&partition);
            self.started.remove(&partition);
        }
    }

    /// Answers what is still asked, before the consumer is dropped: leaving the group waits for that.
    pub(super) fn leave(&mut self, consumer: &BaseConsumer<Context>) {
        if self.revoking.take().is_some() {
            unassign(consumer, &self.list(self.started.iter().copied()));
        } else {
            assign(consumer, &TopicPartitionList::new());
        }
    }

    pub(super) fn set_paused(&mut self, consumer: &BaseConsumer<Context>, paused: bool) {
        pause(consumer, &self.list(self.started.iter().copied()), paused);
        self.paused = paused;
    }

    /// Commits offsets to the group, for whoever looks there; Tapeline never reads them.
    pub(super) fn mirror(&self, consumer: &BaseConsumer<Context>, offsets: impl IntoIterator<Item = (i32, i64)>) {
        log("mirroring offsets", consumer.commit(&self.list_at(offsets), CommitMode::Async));
    }

    fn list(&self, partitions: impl IntoIterator<Item = i32>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.topic, partition);
        }
        list
    }

    fn list_at(&self, offsets: impl IntoIterator<Item = (i32, i64)>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            log("an offset", list.add_partition_offset(&self.topic, partition, Offset::Offset(offset)));
        }
        list
    }
}

fn is_cooperative(consumer: &BaseConsumer<Context>) -> bool {
    matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative)
}

fn assign(consumer: &BaseConsumer<Context>, list: &TopicPartitionList) {
    log("assigning", if is_cooperative(consumer) { consumer.incremental_assign(list) } else { consumer.assign(list) });
}

fn pause(consumer: &BaseConsumer<Context>, list: &TopicPartitionList, paused: bool) {
    if list.count() > 0 {
        log("pausing or resuming", if paused { consumer.pause(list) } else { consumer.resume(list) });
    }
}

fn unassign(consumer: &BaseConsumer<Context>, list: &TopicPartitionList) {
    log("unassigning", if is_cooperative(consumer) { consumer.incremental_unassign(list) } else { consumer.unassign() });
}

fn log(what: &str, result: KafkaResult<()>) {
    if let Err(error) = result {
        tracing::warn!(%error, "{what}");
    }
}
