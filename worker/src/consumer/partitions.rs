//! The partitions of this member: which the group gave to us, which of those are read, and which are to be given back.
//!
//! A partition is assigned to librdkafka only once the engine has said where it begins, so the group's view (`owned`) and librdkafka's (`started`) differ.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use jiff::Timestamp;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerGroupMetadata, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use rdkafka::{Offset, TopicPartitionList};
use tapeline_api::pipeline::streams::{Position as End, Stream};

use super::context::Context;
use super::{Assigned, Position};

/// How long brokers may take to say which offsets there are, for all partitions that are asked for at once: nothing is polled meanwhile.
const REQUEST: Duration = Duration::from_secs(5);
/// How often the ends of paused partitions are asked for, one at a time: librdkafka learns them with what it fetches only.
const ENDS_EVERY: Duration = Duration::from_secs(2);

/// Where a query begins that has no progress yet.
enum Beginning {
    Earliest,
    Latest,
    At(Timestamp),
}

impl Beginning {
    /// Where it is in a partition that has records from `low` to `high`.
    fn of(&self, consumer: &BaseConsumer<Context>, topic: &str, partition: i32, (low, high): (i64, i64), limit: Duration) -> KafkaResult<i64> {
        Ok(match self {
            Self::Earliest => low,
            Self::Latest => high,
            Self::At(time) => {
                let mut list = TopicPartitionList::new();
                list.add_partition_offset(topic, partition, Offset::Offset(time.as_millisecond()))?;
                match consumer.offsets_for_times(list, limit)?.find_partition(topic, partition).map(|found| found.offset()) {
                    Some(Offset::Offset(offset)) => offset,
                    _ => high,
                }
            }
        })
    }
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
    /// The one of which it was not answered last: the others come before it.
    failed_last: i32,
    /// Where the query begins in each partition of the topic, as far as it is known while partitions are assessed.
    beginnings: BTreeMap<i32, i64>,
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
            failed_last: -1,
            beginnings: BTreeMap::new(),
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
            self.beginnings.clear();
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
    /// hold up the others; what was not answered is asked again after a pause, and the error is that. Blocks for 5 s at most.
    ///
    /// [`Event::Assigned`]: super::Event::Assigned
    #[allow(clippy::type_complexity, reason = "said once")]
    pub(super) fn assess(&mut self, consumer: &BaseConsumer<Context>) -> Option<(Vec<Assigned>, BTreeMap<i32, i64>, KafkaResult<()>)> {
        if self.to_assess.is_empty() || self.ask_again.as_ref().is_some_and(|(at, _)| Instant::now() < *at) {
            return None;
        }
        let until = Instant::now() + REQUEST;
        let left = || until.saturating_duration_since(Instant::now());
        let mut assigned = Vec::new();
        let result = self.ask(consumer, left, &mut assigned);
        let beginnings = self.beginnings.clone();
        if result.is_ok() {
            self.ask_again = None; // what there was no time for is asked in the next turn
        } else {
            let first =
                || ExponentialBuilder::new().with_min_delay(Duration::from_millis(500)).with_max_delay(Duration::from_secs(10)).without_max_times().build();
            let mut pauses = self.ask_again.take().map_or_else(first, |(_, pauses)| pauses);
            self.ask_again = pauses.next().map(|pause| (Instant::now() + pause, pauses));
        }
        Some((assigned, beginnings, result))
    }

    fn ask(&mut self, consumer: &BaseConsumer<Context>, left: impl Fn() -> Duration + Copy, assigned: &mut Vec<Assigned>) -> KafkaResult<()> {
        let metadata = consumer.fetch_metadata(Some(&self.topic), left())?;
        let known = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        if let Some(error) = known.and_then(MetadataTopic::error) {
            return Err(KafkaError::MetadataFetch(error.into()));
        }
        let partitions = known.map(MetadataTopic::partitions).unwrap_or_default();
        // One without a leader would only be waited for.
        let leaderless: BTreeSet<i32> = partitions.iter().filter(|partition| partition.leader() < 0).map(MetadataPartition::id).collect();
        let watermarks = |partition| {
            if leaderless.contains(&partition) {
                return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::LeaderNotAvailable));
            }
            consumer.fetch_watermarks(&self.topic, partition, left())
        };
        if !matches!(self.beginning, Beginning::Earliest) {
            // For every partition of the topic: whoever begins first begins for all members, or one that finds another's progress would take its own partitions
            // for added ones.
            let unknown: BTreeSet<i32> = partitions.iter().map(MetadataPartition::id).filter(|partition| !self.beginnings.contains_key(partition)).collect();
            let (found, result) = ask_each(&unknown, &mut self.failed_last, left, |partition| {
                self.beginning.of(consumer, &self.topic, partition, watermarks(partition)?, left())
            });
            let is_all = found.len() == unknown.len();
            self.beginnings.extend(found);
            result?;
            if !is_all {
                return Ok(());
            }
        }
        let (found, result) = ask_each(&self.to_assess, &mut self.failed_last, left, watermarks);
        self.to_assess.retain(|partition| !found.contains_key(partition));
        assigned.extend(found.into_iter().map(|(partition, (low, high))| Assigned { partition, low, high }));
        result
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
        self.beginnings.clear();
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

    /// What proves to the group's coordinator that `partitions` are this member's: it refuses what comes with a generation that is over. None if they are not,
    /// as far as is known here. That has to be asked too: a consumer that has lost its membership gives a proof without member and generation, which the
    /// coordinator takes for one of a client that knows nothing of groups, and accepts. The question comes after the proof, since librdkafka notes the loss no
    /// later than it forgets the membership.
    pub(super) fn prove(&self, consumer: &BaseConsumer<Context>, partitions: &[i32]) -> Option<ConsumerGroupMetadata> {
        let proof = consumer.group_metadata()?;
        let is_ours = !consumer.assignment_lost() && !self.owned.is_empty() && partitions.iter().all(|partition| self.owned.contains(partition));
        is_ours.then_some(proof)
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

/// Asks for each of `partitions` while there is time left, beginning behind the one that failed last, which may have taken all the time. The error is that of the last
/// to fail.
fn ask_each<T>(
    partitions: &BTreeSet<i32>,
    failed_last: &mut i32,
    left: impl Fn() -> Duration,
    mut ask: impl FnMut(i32) -> KafkaResult<T>,
) -> (BTreeMap<i32, T>, KafkaResult<()>) {
    let in_turn = partitions.range(failed_last.saturating_add(1)..).chain(partitions.range(..=*failed_last));
    let (mut found, mut result) = (BTreeMap::new(), Ok(()));
    for &partition in in_turn {
        if left().is_zero() {
            break;
        }
        match ask(partition) {
            Ok(answer) => drop(found.insert(partition, answer)),
            Err(error) => (*failed_last, result) = (partition, Err(error)),
        }
    }
    (found, result)
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn one_that_takes_all_the_time_comes_last_the_next_time() {
        let (mut waiting, mut failed_last) = (BTreeSet::from([0, 1, 2]), -1);
        let mut turn = || {
            let left = Cell::new(REQUEST);
            let (found, result) = ask_each(
                &waiting,
                &mut failed_last,
                || left.get(),
                |partition| match partition {
                    0 => Err(KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut)).inspect_err(|_| left.set(Duration::ZERO)),
                    partition => Ok(partition),
                },
            );
            waiting.retain(|partition| !found.contains_key(partition));
            (found.into_keys().collect::<Vec<_>>(), result.is_ok())
        };
        assert_eq!(turn(), (vec![], false), "the first takes all the time");
        assert_eq!(turn(), (vec![1, 2], false), "and the others are not held up again");
        assert_eq!(turn(), (vec![], false));
    }

    #[test]
    fn what_there_was_no_time_for_is_no_error() {
        let left = Cell::new(2);
        let ask = |partition| {
            left.set(left.get() - 1);
            Ok(partition)
        };
        let (found, result) = ask_each(&BTreeSet::from([0, 1, 2]), &mut -1, || Duration::from_secs(left.get()), ask);
        assert_eq!((found.into_keys().collect::<Vec<_>>(), result.is_ok()), (vec![0, 1], true));
    }
}
