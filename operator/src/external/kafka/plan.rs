//! What must happen to topics. Pure.
//!
//! Settings: rdkafka 0.39 has only the replacing `alter_configs`, and setting `retention.ms` that way turned a compacted topic to `delete` (seen on Kafka 4.1).
//! So an operation names what is to be set and what to be reset; [applying](super::apply) it sends these together with all that is set on the topic already.

use std::collections::{BTreeMap, BTreeSet};

use tapeline_api::names::TopicName;
use tapeline_api::pipeline::status::{Origin, ResourceKind, TopicStatus};
use tapeline_api::progress::PROGRESS_TOPIC_CONFIG;

use super::describe::MAX_MESSAGE_BYTES;
use super::{Actual, ActualTopic, Contested, Desired, DesiredTopic, Role, same};
use crate::external::steps::{self, is_lost};
use crate::external::{ExternalError, NodePlan, NodeState, Owner, Recorded, Records, Refusal, RefusalReason};

/// What a dead-letter topic takes beyond its source: a bad record with its headers.
pub(super) const DEAD_LETTER_ROOM: i64 = 64 * 1024;

/// The setting that makes a topic keep the last record of each key.
const CLEANUP_POLICY: &str = "cleanup.policy";

/// What must happen to the topics of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The cluster's id.
    pub cluster_id: String,
    /// This pipeline.
    pub owner: Owner,
    /// Each topic, in the order of the specification, dead letters behind their sources.
    pub topics: Vec<TopicPlan>,
}

/// What must happen to one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPlan {
    /// What is to be done, and what is true then.
    pub steps: NodePlan<Op>,
    /// The topic.
    pub topic: TopicName,
    /// What `status.topics` says when it is done; `None` if the topic is not there.
    pub status: Option<TopicStatus>,
    /// What `status.topics` says if it could not be done, and before it is done, where something is to be stored then.
    pub before: Option<TopicStatus>,
}

/// An operation on a topic. None of them destroys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Creates it.
    Create {
        /// Partitions; -1: the brokers' default.
        partitions: i32,
        /// Copies; -1: the brokers' default.
        replication_factor: i32,
        /// Settings.
        config: BTreeMap<String, String>,
    },
    /// Adds partitions.
    AddPartitions {
        /// How many there are then.
        to: i32,
    },
    /// Sets and resets settings; all others stay.
    Configure {
        /// What to set.
        set: BTreeMap<String, String>,
        /// What to put back to its default.
        reset: BTreeSet<String>,
        /// Those of `set` that were ours before, so that somebody else changed them.
        repaired: BTreeSet<String>,
    },
    /// Lets a dead-letter topic take what its source takes, and [`DEAD_LETTER_ROOM`] more: for a source that does not exist when the plan is made.
    FitDeadLetters {
        /// The stream's topic.
        source: TopicName,
    },
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.iter().all(|topic| topic.steps.ops.is_empty())
    }

    /// What to store before [`apply`](super::Client::apply).
    #[must_use]
    pub fn records(&self) -> Records {
        let recorded = self.topics.iter().filter(|topic| topic.steps.record.is_some());
        Records { topics: recorded.filter_map(|topic| topic.before.clone()).collect(), ..steps::records(self.topics.iter().map(|topic| &topic.steps)) }
    }
}

/// What must happen to `actual` so that it serves `desired`. Never holds an operation that destroys: what would need one is refused.
#[must_use]
pub fn plan(desired: &Desired, actual: &Actual, recorded: Recorded<'_>, owner: &Owner, contested: &Contested) -> Plan {
    let topics = desired.topics.iter().map(|topic| {
        let context = Context { topic, actual, recorded, contested };
        match (actual.denied.get(&topic.name), actual.topics.get(&topic.name)) {
            (Some(error), _) => context.settled(NodeState::Waiting(ExternalError { field: topic.field.clone(), ..error.clone() }), None),
            (None, Some(there)) => context.existing(there),
            (None, None) => context.missing(desired),
        }
    });
    Plan { cluster_id: actual.cluster_id.clone(), owner: owner.clone(), topics: topics.collect() }
}

#[derive(Clone, Copy)]
struct Context<'a> {
    topic: &'a DesiredTopic,
    actual: &'a Actual,
    recorded: Recorded<'a>,
    contested: &'a Contested,
}

impl Context<'_> {
    fn name(&self) -> &str {
        self.topic.name.as_str()
    }

    /// How the pipeline came by the topic of this name on this cluster.
    fn recorded_origin(&self) -> Option<Origin> {
        self.recorded.origin(ResourceKind::Topic, self.name(), &self.actual.cluster_id)
    }

    fn recorded_topic(&self) -> Option<&TopicStatus> {
        self.recorded.topic(self.name())
    }

    /// How often the operator created it. It never goes down, not even on another cluster: progress that a sink keeps is compared with it.
    fn incarnation(&self) -> i64 {
        self.recorded_topic().and_then(|topic| topic.incarnation).unwrap_or(0)
    }

    /// Whether its creation is under way, and not for the first time: the number of partitions is only known of a topic that was seen.
    fn is_being_recreated(&self) -> bool {
        self.recorded_origin() == Some(Origin::Creating) && self.recorded_topic().is_some_and(|topic| topic.partitions.is_some())
    }

    fn settled(&self, state: NodeState, origin: Option<Origin>) -> TopicPlan {
        TopicPlan {
            steps: NodePlan::settled(self.topic.node(), state, origin),
            topic: self.topic.name.clone(),
            status: self.recorded_topic().cloned(),
            before: self.recorded_topic().cloned(),
        }
    }

    fn taken(&self, manager: &str) -> TopicPlan {
        let message = format!(
            "topic {:?} is managed by pipeline {manager}, which is older; only one pipeline can manage it: take it out of spec.kafka.topics here (streams, \
            sinks and producers may name it all the same), or out of the other pipeline",
            self.name()
        );
        self.settled(NodeState::Refused(vec![Refusal::new(RefusalReason::ResourceConflict, &self.topic.field, message)]), None)
    }

    fn loss(&self) -> String {
        if self.topic.role == Role::Progress {
            return format!(
                "topic {:?} had been deleted and was created again, empty: queries into topics begin at their startFrom again, or at the start of their topic, and \
                what they had published is published twice",
                self.name()
            );
        }
        format!(
            "topic {:?} had been deleted and was created again, empty: records that no query had read are gone, and the queries go on with what comes from now on; \
             send the missing records again",
            self.name()
        )
    }

    fn missing(&self, desired: &Desired) -> TopicPlan {
        match &self.topic.role {
            Role::LookedUp => {
                let message = format!(
                    "topic {:?} does not exist, and no pipeline's operator creates it for this one: create it, or declare it under spec.kafka.topics without \
                    managed: false",
                    self.name()
                );
                TopicPlan { status: None, ..self.settled(NodeState::Missing(message), None) }
            }
            Role::Managed { partitions, replication_factor, config } => {
                let create = Op::Create { partitions: partitions.unwrap_or(-1), replication_factor: replication_factor.unwrap_or(-1), config: config.clone() };
                self.create(vec![create], config.keys().cloned().collect())
            }
            Role::DeadLetter { source } => self.missing_dead_letters(desired, source),
            Role::Progress => {
                let config = PROGRESS_TOPIC_CONFIG.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
                // Where a query's progress is must not depend on a number of partitions.
                self.create(vec![Op::Create { partitions: 1, replication_factor: -1, config }], Vec::new())
            }
            Role::Taken { by } => self.taken(by),
        }
    }

    fn missing_dead_letters(&self, desired: &Desired, source: &TopicName) -> TopicPlan {
        let create = |partitions, config| Op::Create { partitions, replication_factor: -1, config };
        if let Some(there) = self.actual.topics.get(source) {
            let room = there.max_message_bytes.map(|bytes| (MAX_MESSAGE_BYTES.to_owned(), with_room(bytes).to_string()));
            return self.create(vec![create(there.partitions, room.into_iter().collect())], Vec::new());
        }
        match desired.topics.iter().find(|topic| topic.name == *source).map(|topic| &topic.role) {
            Some(Role::Managed { partitions, .. }) => {
                let ops = vec![create(partitions.unwrap_or(-1), BTreeMap::new()), Op::FitDeadLetters { source: source.clone() }];
                self.create(ops, Vec::new())
            }
            _ => self.settled(
                NodeState::Missing(format!("it is created as soon as topic {:?} exists, whose partitions and settings decide its own", source.as_str())),
                None,
            ),
        }
    }

    fn create(&self, ops: Vec<Op>, config_keys: Vec<String>) -> TopicPlan {
        let before = self.recorded_origin();
        let lost = is_lost(None, before);
        // A creation that is under way was counted when it was recorded.
        let incarnation = if before == Some(Origin::Creating) { self.incarnation().max(1) } else { self.incarnation() + 1 };
        let seen = self.recorded_topic().and_then(|topic| topic.partitions).filter(|_| lost || self.is_being_recreated());
        let status = |partitions, config_keys| TopicStatus { name: self.topic.name.clone(), partitions, incarnation: Some(incarnation), config_keys };
        let record = status(seen, self.recorded_topic().map(|topic| topic.config_keys.clone()).unwrap_or_default());
        let state = if seen.is_some() || lost { NodeState::Recreated(self.loss()) } else { NodeState::Changed(format!("created topic {:?}", self.name())) };
        let mut plan = self.settled(state, Some(Origin::Created));
        plan.steps.ops = ops;
        plan.steps.loss = lost.then(|| self.loss());
        if before != Some(Origin::Creating) || self.recorded_topic() != Some(&record) {
            plan.steps.record = Some(steps::creating(&plan.steps.node, &self.actual.cluster_id));
        }
        TopicPlan { status: Some(status(None, config_keys)), before: Some(record), ..plan }
    }

    fn existing(&self, there: &ActualTopic) -> TopicPlan {
        let status =
            |incarnation, config_keys| Some(TopicStatus { name: self.topic.name.clone(), partitions: Some(there.partitions), incarnation, config_keys });
        if let Role::Taken { by } = &self.topic.role {
            return self.taken(by);
        }
        if self.topic.role == Role::LookedUp {
            // The pipeline may have created it once, and may do so again.
            let incarnation = self.recorded_topic().and_then(|topic| topic.incarnation);
            return TopicPlan { status: status(incarnation, Vec::new()), ..self.settled(NodeState::AsDeclared, None) };
        }
        let (origin, incarnation) = match self.recorded_origin() {
            Some(Origin::Created) => (Origin::Created, self.incarnation()),
            // The creation went through, and the operator was killed before it could say so.
            Some(Origin::Creating) => (Origin::Created, self.incarnation().max(1)),
            Some(Origin::Adopted | Origin::Released) | None => (Origin::Adopted, self.incarnation()),
        };
        let mut plan = self.settled(NodeState::AsDeclared, Some(origin));
        let keys = match &self.topic.role {
            Role::Managed { partitions, config, .. } => {
                self.grow(&mut plan.steps, there, *partitions);
                self.configure(&mut plan.steps, there, config);
                config.keys().cloned().collect()
            }
            Role::DeadLetter { source } => {
                self.fit(&mut plan.steps, there, source);
                Vec::new()
            }
            Role::Progress => {
                self.keep_compacted(&mut plan.steps, there);
                Vec::new()
            }
            Role::LookedUp | Role::Taken { .. } => Vec::new(),
        };
        // What was set before stays ours, and what may have been set when an answer was lost becomes ours: it is put back once it is no longer declared.
        let ours: BTreeSet<String> = self.recorded_topic().map(|topic| topic.config_keys.clone()).unwrap_or_default().into_iter().collect();
        plan.before = status(Some(incarnation), ours.iter().chain(&keys).cloned().collect::<BTreeSet<_>>().into_iter().collect());
        plan.status = status(Some(incarnation), keys);
        if matches!(plan.steps.state, NodeState::Refused(_)) {
            plan.steps.ops.clear();
            plan.status = status(Some(incarnation), ours.into_iter().collect());
        } else if self.is_being_recreated() {
            plan.steps.state = NodeState::Recreated(self.loss());
        }
        plan
    }

    fn grow(&self, plan: &mut NodePlan<Op>, there: &ActualTopic, partitions: Option<i32>) {
        let (Some(to), from) = (partitions, there.partitions) else { return };
        if to > from {
            plan.ops.push(Op::AddPartitions { to });
            plan.changed(format!("added partitions to topic {:?}: {from} to {to}", self.name()));
        } else if to < from {
            let message = format!(
                "topic {:?} has {from} partitions and {to} are declared; partitions cannot be taken away without the records in them: declare {from} or leave \
                partitions out, or use another topic",
                self.name()
            );
            plan.refuse(vec![Refusal::new(RefusalReason::WouldLoseData, format!("{}.partitions", self.topic.field), message)]);
        }
    }

    fn configure(&self, plan: &mut NodePlan<Op>, there: &ActualTopic, config: &BTreeMap<String, String>) {
        // What is recorded of a topic on another cluster says nothing of this one.
        let ours: &[String] = self.recorded_origin().and_then(|_| self.recorded_topic()).map_or(&[], |topic| &topic.config_keys);
        let differs = |key: &str, value: &str| !there.config.get(key).and_then(Option::as_deref).is_some_and(|actual| same(actual, value));
        let mut set: BTreeMap<String, String> =
            config.iter().filter(|(key, value)| differs(key, value)).map(|(key, value)| (key.clone(), value.clone())).collect();
        let reset: BTreeSet<String> = ours.iter().filter(|key| !config.contains_key(*key) && there.config.contains_key(*key)).cloned().collect();
        set.retain(|key, value| {
            let contested = self.contested.contains(&self.topic.name, key, value);
            if contested {
                let actual = there.config.get(key).and_then(Option::as_deref).unwrap_or("its default");
                let message = format!(
                    "something else keeps setting {key} of topic {:?} to {actual} (put right three times within an hour, now left alone): stop it, or take \
                    the setting out of this pipeline",
                    self.name()
                );
                plan.refuse(vec![Refusal::new(RefusalReason::ConfigContested, format!("{}.config.{key}", self.topic.field), message)]);
            }
            !contested
        });
        if set.is_empty() && reset.is_empty() {
            return;
        }
        if let Some((secret, _)) = there.config.iter().find(|(_, value)| value.is_none()) {
            let message = format!(
                "the settings of topic {:?} cannot be changed without losing {secret}, whose value Kafka does not show: change them with kafka-configs.sh, or \
                take them out of this pipeline",
                self.name()
            );
            plan.refuse(vec![Refusal::new(RefusalReason::Incompatible, format!("{}.config", self.topic.field), message)]);
            return;
        }
        let repaired = set.keys().filter(|key| ours.contains(key)).cloned().collect();
        plan.changed(format!("topic {:?}: {}", self.name(), changes(&set, &reset)));
        plan.ops.push(Op::Configure { set, reset, repaired });
    }

    /// A dead-letter topic is shared: its largest message only ever grows, so that two pipelines with different sources do not fight.
    fn fit(&self, plan: &mut NodePlan<Op>, there: &ActualTopic, source: &TopicName) {
        let source = self.actual.topics.get(source).and_then(|source| source.max_message_bytes);
        let (Some(source), Some(has)) = (source, there.max_message_bytes) else { return };
        let needs = with_room(source);
        if has < needs && there.config.values().all(Option::is_some) {
            let set = BTreeMap::from([(MAX_MESSAGE_BYTES.to_owned(), needs.to_string())]);
            plan.changed(format!("topic {:?}: {}", self.name(), changes(&set, &BTreeSet::new())));
            plan.ops.push(Op::Configure { set, reset: BTreeSet::new(), repaired: BTreeSet::new() });
        }
    }

    /// The topic of progress may have been created by somebody else, with the brokers' default, which deletes what is old: also the progress of a query at rest.
    fn keep_compacted(&self, plan: &mut NodePlan<Op>, there: &ActualTopic) {
        if there.config.get(CLEANUP_POLICY).and_then(Option::as_deref) == Some("compact") {
            return;
        }
        if there.config.values().any(Option::is_none) {
            let message = format!(
                "topic {:?} deletes old records, and with them the progress of queries at rest; Tapeline cannot change that without losing a setting whose value Kafka \
                does not show: run kafka-configs.sh --alter --entity-type topics --entity-name {} --add-config cleanup.policy=compact",
                self.name(),
                self.name()
            );
            plan.refuse(vec![Refusal::new(RefusalReason::Incompatible, &self.topic.field, message)]);
            return;
        }
        let set = BTreeMap::from([(CLEANUP_POLICY.to_owned(), "compact".to_owned())]);
        plan.changed(format!("topic {:?}: {}", self.name(), changes(&set, &BTreeSet::new())));
        plan.ops.push(Op::Configure { set, reset: BTreeSet::new(), repaired: BTreeSet::new() });
    }
}

/// The largest message of a dead-letter topic whose source takes `bytes`.
pub(super) fn with_room(bytes: i64) -> i64 {
    (bytes + DEAD_LETTER_ROOM).min(i64::from(i32::MAX))
}

fn changes(set: &BTreeMap<String, String>, reset: &BTreeSet<String>) -> String {
    let set = set.iter().map(|(key, value)| format!("set {key} to {value}"));
    set.chain(reset.iter().map(|key| format!("put {key} back to its default"))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
