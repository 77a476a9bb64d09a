//! Carries out a plan for topics. Each operation may find itself done already.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use rdkafka::admin::{AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::RDKafkaErrorCode;
use tapeline_api::pipeline::status::TopicStatus;
use uuid::Uuid;

use super::client::{Natives, is_denied};
use super::describe::{self, MAX_MESSAGE_BYTES, options, settings, wait_for};
use super::plan::with_room;
use super::{Client, Op, Plan, TopicPlan};
use crate::external::breaker::Fault;
use crate::external::walk::{Failure, System, carry_out};
use crate::external::{Applied, ExternalError, Guard, NodePlan, REQUEST_TIMEOUT, Refusal, RefusalReason};

/// Carries out `plan`. Topics stand by themselves, and a failure leaves what their status said before.
pub(super) async fn apply(client: &Client, plan: &Plan, guard: &Guard) -> Applied {
    let mut applied = Applied::default();
    for topic in &plan.topics {
        let mut outcome = topic.steps.outcome(&plan.cluster_id, None);
        let mut status = topic.status.clone();
        if !topic.steps.ops.is_empty() {
            match carry_out(&Work { client, plan, topic }, &topic.steps, guard).await {
                Ok((_, partitions)) => status = status.map(|status| TopicStatus { partitions: partitions.or(status.partitions), ..status }),
                Err(state) => {
                    outcome.state = state;
                    status.clone_from(&topic.before);
                    // A creation that failed stays recorded as under way; what existed stays what it was.
                    if topic.steps.ops.iter().any(|op| matches!(op, Op::Create { .. })) {
                        outcome.origin = None;
                    }
                }
            }
        }
        applied.topics.extend(status);
        applied.nodes.push(outcome);
    }
    applied
}

struct Work<'a> {
    client: &'a Client,
    plan: &'a Plan,
    topic: &'a TopicPlan,
}

impl System for Work<'_> {
    type Op = Op;
    /// With how many partitions the topic has now, if that changed.
    type Session = (Arc<Natives>, Option<i32>);

    async fn begin(&self, _: &NodePlan<Op>) -> Result<Self::Session, Failure> {
        let told = |fault: &Fault| self.client.endpoint.error(fault);
        let natives = self.client.natives().await.map_err(|fault| told(&fault))?;
        if natives.cluster_id().is_ok_and(|id| id == self.plan.cluster_id) {
            Ok((natives, None))
        } else {
            // Between describing and applying the address came to lead to another cluster: nothing that was planned holds there.
            Err(told(&Fault::failed("the brokers are another cluster than a moment ago")).into())
        }
    }

    async fn run(&self, (natives, partitions): Self::Session, _: &NodePlan<Op>, op: &Op) -> Result<Self::Session, Failure> {
        let now = run(self.client, &natives, self.plan, self.topic, op).await?;
        Ok((natives, now.or(partitions)))
    }

    async fn failed(&self, fault: &Fault) -> ExternalError {
        self.client.failed(fault).await
    }
}

async fn run(client: &Client, natives: &Arc<Natives>, whole: &Plan, plan: &TopicPlan, op: &Op) -> Result<Option<i32>, Failure> {
    match op {
        Op::Create { partitions, replication_factor, config } => {
            create(natives, plan, *partitions, *replication_factor, config).await?;
            Ok(Some(wait_for(natives, &plan.topic, 1).await?.partitions))
        }
        Op::AddPartitions { to } => {
            grow(natives, plan, *to).await?;
            Ok(Some(wait_for(natives, &plan.topic, *to).await?.partitions))
        }
        Op::Configure { set, reset, repaired } => {
            configure(natives, plan, set, reset).await?;
            for (key, value) in set.iter().filter(|(key, _)| repaired.contains(*key)) {
                client.repairs.note(&whole.owner, &whole.cluster_id, &plan.topic, key, value);
            }
            Ok(None)
        }
        Op::FitDeadLetters { source } => {
            let mut found = settings(natives, &[plan.topic.clone(), source.clone()]).await?;
            let (own, source) = (found.remove(&plan.topic), found.remove(source));
            if let (Some((_, Some(has))), Some((_, Some(source)))) = (own, source)
                && has < with_room(source)
            {
                let set = BTreeMap::from([(MAX_MESSAGE_BYTES.to_owned(), with_room(source).to_string())]);
                configure(natives, plan, &set, &BTreeSet::new()).await?;
            }
            Ok(None)
        }
    }
}

async fn create(natives: &Natives, plan: &TopicPlan, partitions: i32, replication_factor: i32, config: &BTreeMap<String, String>) -> Result<(), Failure> {
    let topic = new_topic(plan.topic.as_str(), partitions, replication_factor, config);
    let answers = natives.admin()?.create_topics([&topic], &options()).await.map_err(|error| natives.fault(&error))?;
    match answers.into_iter().next() {
        Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) | None => Ok(()),
        Some(Err((_, RDKafkaErrorCode::InvalidConfig))) => Err(bad_setting(natives, plan, config).await),
        Some(Err((_, RDKafkaErrorCode::InvalidReplicationFactor))) => Err(Failure::Fault(Fault::failed(if replication_factor > 0 {
            format!(
                "it cannot keep {replication_factor} copies of topic {:?}, more than it has brokers now: start more, or declare a smaller replicationFactor",
                plan.topic.as_str()
            )
        } else {
            format!(
                "its default of copies is more than it has brokers now, so topic {:?} cannot be created: start more, or declare replicationFactor",
                plan.topic.as_str()
            )
        }))),
        Some(Err((_, code))) => Err(failure(plan, &format!("creating topic {:?}", plan.topic.as_str()), code)),
    }
}

fn new_topic<'a>(name: &'a str, partitions: i32, replication_factor: i32, config: &'a BTreeMap<String, String>) -> NewTopic<'a> {
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replication_factor));
    config.iter().fold(topic, |topic, (key, value)| topic.set(key, value))
}

async fn grow(natives: &Natives, plan: &TopicPlan, to: i32) -> Result<(), Failure> {
    let Ok(count) = usize::try_from(to) else { return Ok(()) };
    let request = NewPartitions::new(plan.topic.as_str(), count);
    let answers = natives.admin()?.create_partitions([&request], &options()).await.map_err(|error| natives.fault(&error))?;
    match answers.into_iter().next() {
        // It has as many already: a request before this one was carried out, though its answer was lost.
        Some(Ok(_) | Err((_, RDKafkaErrorCode::InvalidPartitions))) | None => Ok(()),
        Some(Err((_, code))) => Err(failure(plan, &format!("adding partitions to topic {:?}", plan.topic.as_str()), code)),
    }
}

/// Describe, overlay, send all, describe again. rdkafka drops the error of a single resource, so whether a value is good is asked first, by a creation that is
/// only validated, and whether it was taken is seen in the second look.
async fn configure(natives: &Natives, plan: &TopicPlan, set: &BTreeMap<String, String>, reset: &BTreeSet<String>) -> Result<(), Failure> {
    let name = plan.topic.as_str();
    if validate(natives, set).await? == Err(RDKafkaErrorCode::InvalidConfig) {
        return Err(bad_setting(natives, plan, set).await);
    }
    let own = own_settings(natives, plan).await?;
    if own.values().any(Option::is_none) {
        return Err(Failure::Fault(Fault::failed(format!(
            "the settings of topic {name:?} hold one whose value Kafka does not show, which a change would lose"
        ))));
    }
    let mut all: BTreeMap<&str, &str> = own.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_deref()?))).collect();
    all.retain(|key, _| !reset.contains(*key));
    all.extend(set.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    let request = all.into_iter().fold(AlterConfig::new(ResourceSpecifier::Topic(name)), |request, (key, value)| request.set(key, value));
    natives.admin()?.alter_configs([&request], &options()).await.map_err(|error| natives.fault(&error))?;

    let deadline = Instant::now() + REQUEST_TIMEOUT;
    loop {
        let now = own_settings(natives, plan).await?;
        let kept = own.iter().filter(|(key, _)| !reset.contains(*key) && !set.contains_key(*key)).all(|(key, value)| now.get(key) == Some(value));
        if kept && set.keys().all(|key| now.contains_key(key)) && reset.iter().all(|key| !now.contains_key(key)) && changed_as_asked(&own, &now, set) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Failure::Fault(Fault::failed(format!(
                "the brokers did not take the settings of topic {name:?}, or something else changes them at the same time: the client's user needs \
                ALTER_CONFIGS on it"
            ))));
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Whether each setting that was sent with another value has another value now. Kafka spells values in its own way, so they are not compared with what was
/// sent.
fn changed_as_asked(before: &BTreeMap<String, Option<String>>, now: &BTreeMap<String, Option<String>>, set: &BTreeMap<String, String>) -> bool {
    set.iter().all(|(key, value)| {
        let current = now.get(key).and_then(Option::as_deref);
        current == Some(value.as_str()) || before.get(key).and_then(Option::as_deref) != current
    })
}

async fn own_settings(natives: &Natives, plan: &TopicPlan) -> Result<BTreeMap<String, Option<String>>, Fault> {
    let found = settings(natives, std::slice::from_ref(&plan.topic)).await?.remove(&plan.topic);
    found
        .map(|(own, _)| own)
        .ok_or_else(|| Fault::denied(format!("the settings of topic {:?} are not shown: grant DESCRIBE_CONFIGS on it", plan.topic.as_str())))
}

/// What the controller would say to a new topic with these settings.
async fn validate(natives: &Natives, config: &BTreeMap<String, String>) -> Result<Result<(), RDKafkaErrorCode>, Fault> {
    let name = format!("tapeline-check-{}", Uuid::new_v4());
    describe::would_create(natives, &new_topic(&name, 1, -1, config)).await
}

/// Which of `config` Kafka does not take. Its own words are lost in rdkafka, so the settings are tried one by one.
async fn bad_setting(natives: &Natives, plan: &TopicPlan, config: &BTreeMap<String, String>) -> Failure {
    for (key, value) in config {
        match validate(natives, &BTreeMap::from([(key.clone(), value.clone())])).await {
            Ok(Err(RDKafkaErrorCode::InvalidConfig)) => {
                let message =
                    format!("Kafka does not take the value {value:?}, or has no setting {key} for topics: see Kafka's documentation of topic configs");
                return Refusal::new(RefusalReason::InvalidSpec, format!("{}.config.{key}", plan.steps.node.field), message).into();
            }
            Ok(_) => {}
            Err(fault) => return Failure::Fault(fault),
        }
    }
    let message = "Kafka does not take these settings together: see Kafka's documentation of topic configs";
    Refusal::new(RefusalReason::InvalidSpec, format!("{}.config", plan.steps.node.field), message).into()
}

fn failure(plan: &TopicPlan, what: &str, code: RDKafkaErrorCode) -> Failure {
    match code {
        RDKafkaErrorCode::InvalidPartitions | RDKafkaErrorCode::InvalidTopic | RDKafkaErrorCode::PolicyViolation => {
            Refusal::new(RefusalReason::InvalidSpec, &plan.steps.node.field, format!("{what}: Kafka refuses it: {code}")).into()
        }
        code if is_denied(code) => Failure::Fault(Fault::denied(format!("{what}: {code}"))),
        RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::RequestTimedOut | RDKafkaErrorCode::BrokerTransportFailure => {
            Failure::Fault(Fault::unreachable(format!("{what}: {code}")))
        }
        _ => Failure::Fault(Fault::failed(format!("{what}: {code}"))),
    }
}
