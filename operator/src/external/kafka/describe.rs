//! What is there of the topics that a pipeline names. Reads only, and never makes a broker create a topic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminOptions, ConfigResource, ConfigSource, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tapeline_api::names::TopicName;

use super::client::{Natives, is_denied};
use super::{Actual, ActualTopic, Desired, Endpoint, Role};
use crate::external::breaker::Fault;
use crate::external::{ErrorClass, ExternalError, REQUEST_TIMEOUT};

/// The largest message that a topic takes.
pub(super) const MAX_MESSAGE_BYTES: &str = "max.message.bytes";

/// How often a broker is asked again for what the controller already knows.
const AGAIN: Duration = Duration::from_millis(50);

/// What is there.
pub(super) async fn describe(natives: &Arc<Natives>, desired: &Desired, endpoint: &Endpoint) -> Result<Actual, Fault> {
    let names: Vec<TopicName> = desired.topics.iter().map(|topic| topic.name.clone()).collect();
    let mut seen = metadata(natives, &names).await?;

    // A broker's view lags behind the controller's: a topic that was created a moment ago must not be taken for lost, since that would be told and counted.
    for topic in desired.topics.iter().filter(|topic| topic.role != Role::LookedUp).map(|topic| &topic.name) {
        if matches!(seen.get(topic), Some(Seen::Missing)) {
            seen.insert(topic.clone(), ask_controller(natives, topic).await?);
        }
    }

    let mut actual = Actual { cluster_id: natives.cluster_id()?, topics: BTreeMap::new(), denied: BTreeMap::new() };
    let mut denied = |topic: &TopicName, right: &str| {
        let what = if right == "CREATE" { "create" } else { "look at" };
        let message = format!(
            "the Kafka brokers at {} do not let this client {what} topic {:?}: grant {right} on it to the client's user",
            endpoint.bootstrap_servers,
            topic.as_str()
        );
        actual.denied.insert(topic.clone(), ExternalError { class: ErrorClass::Denied, field: String::new(), message });
    };
    for (name, seen) in &seen {
        match seen {
            Seen::There(topic) => _ = actual.topics.insert(name.clone(), topic.clone()),
            Seen::Denied(right) => denied(name, right),
            Seen::Missing => {}
        }
    }

    let wanted = with_settings(desired);
    let asked: Vec<TopicName> = actual.topics.keys().filter(|name| wanted.contains(name)).cloned().collect();
    let mut settings = settings(natives, &asked).await?;
    for topic in &asked {
        match (settings.remove(topic), actual.topics.get_mut(topic)) {
            (Some(found), Some(actual)) => (actual.config, actual.max_message_bytes) = found,
            _ => denied(topic, "DESCRIBE_CONFIGS"),
        }
    }
    Ok(actual)
}

/// The topics whose settings matter: those that are ours, that of progress, and the sources of dead letters.
fn with_settings(desired: &Desired) -> BTreeSet<&TopicName> {
    let mut wanted = BTreeSet::new();
    for topic in &desired.topics {
        match &topic.role {
            Role::Managed { .. } | Role::Progress => _ = wanted.insert(&topic.name),
            Role::DeadLetter { source } => wanted.extend([&topic.name, source]),
            Role::LookedUp | Role::Taken { .. } => {}
        }
    }
    wanted
}

enum Seen {
    There(ActualTopic),
    Missing,
    /// Without this right.
    Denied(&'static str),
}

/// Partitions and copies, as one broker sees them, without settings.
async fn metadata(natives: &Arc<Natives>, names: &[TopicName]) -> Result<BTreeMap<TopicName, Seen>, Fault> {
    let (natives, names) = (Arc::clone(natives), names.to_vec());
    let task = tokio::task::spawn_blocking(move || {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let seen = names.into_iter().map(|name| look(&natives, &name, deadline).map(|seen| (name, seen))).collect();
        natives.drain();
        seen
    });
    task.await.unwrap_or_else(|error| Err(Fault::failed(error.to_string())))
}

fn look(natives: &Natives, name: &TopicName, deadline: Instant) -> Result<Seen, Fault> {
    let rest = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
    let metadata = natives.consumer()?.fetch_metadata(Some(name.as_str()), rest).map_err(|error| natives.fault(&error))?;
    let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name.as_str()) else { return Ok(Seen::Missing) };
    match topic.error().map(RDKafkaErrorCode::from) {
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => return Ok(Seen::Missing),
        Some(code) if is_denied(code) => return Ok(Seen::Denied("DESCRIBE")),
        // Without a leader it is there all the same.
        Some(RDKafkaErrorCode::LeaderNotAvailable) | None => {}
        Some(code) => return Err(Fault::failed(format!("asking for topic {:?}: {code}", name.as_str()))),
    }
    let partitions = topic.partitions();
    if partitions.is_empty() {
        return Ok(Seen::Missing);
    }
    Ok(Seen::There(ActualTopic { partitions: i32::try_from(partitions.len()).unwrap_or(i32::MAX), ..ActualTopic::default() }))
}

/// Waits until a broker sees `name` with at least `partitions`, which the controller has confirmed.
pub(super) async fn wait_for(natives: &Arc<Natives>, name: &TopicName, partitions: i32) -> Result<ActualTopic, Fault> {
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    loop {
        if let Some(Seen::There(topic)) = metadata(natives, std::slice::from_ref(name)).await?.remove(name)
            && topic.partitions >= partitions
        {
            return Ok(topic);
        }
        if Instant::now() > deadline {
            let seconds = REQUEST_TIMEOUT.as_secs();
            return Err(Fault::failed(format!("the controller has topic {:?}, but the brokers do not show it within {seconds} s", name.as_str())));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Asks the controller whether it would create `name`, without creating it, and so whether it has it.
async fn ask_controller(natives: &Arc<Natives>, name: &TopicName) -> Result<Seen, Fault> {
    let answer = would_create(natives, &NewTopic::new(name.as_str(), -1, TopicReplication::Fixed(-1))).await?;
    match exists(answer) {
        Ok(true) => Ok(Seen::There(wait_for(natives, name, 1).await?)),
        Ok(false) => Ok(Seen::Missing),
        Err(code) if is_denied(code) => Ok(Seen::Denied("CREATE")),
        Err(code) => Err(natives.fault(&KafkaError::AdminOp(code))),
    }
}

/// What the controller's answer to a creation says of whether the topic is there. One that is busy, or not the controller any longer, says nothing.
const fn exists(answer: Result<(), RDKafkaErrorCode>) -> Result<bool, RDKafkaErrorCode> {
    match answer {
        Err(RDKafkaErrorCode::TopicAlreadyExists) => Ok(true),
        // It looks whether the topic is there before it looks at what was asked for.
        Ok(())
        | Err(
            RDKafkaErrorCode::InvalidConfig
            | RDKafkaErrorCode::InvalidPartitions
            | RDKafkaErrorCode::InvalidReplicationFactor
            | RDKafkaErrorCode::InvalidTopic
            | RDKafkaErrorCode::PolicyViolation,
        ) => Ok(false),
        Err(code) => Err(code),
    }
}

/// The controller's answer to the creation of `topic`, which is only validated.
pub(super) async fn would_create(natives: &Natives, topic: &NewTopic<'_>) -> Result<Result<(), RDKafkaErrorCode>, Fault> {
    let answers = natives.admin()?.create_topics([topic], &options().validate_only(true)).await.map_err(|error| natives.fault(&error))?;
    Ok(match answers.into_iter().next() {
        Some(Err((_, code))) => Err(code),
        Some(Ok(_)) | None => Ok(()),
    })
}

pub(super) fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT)).operation_timeout(Some(REQUEST_TIMEOUT))
}

/// Settings on the topic itself, and the largest message that it takes.
pub(super) type Settings = (BTreeMap<String, Option<String>>, Option<i64>);

/// The settings of `topics`; one is left out if this client may not see them.
pub(super) async fn settings(natives: &Natives, topics: &[TopicName]) -> Result<BTreeMap<TopicName, Settings>, Fault> {
    if topics.is_empty() {
        return Ok(BTreeMap::new());
    }
    let resources: Vec<ResourceSpecifier<'_>> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic.as_str())).collect();
    let answers = natives.admin()?.describe_configs(&resources, &options()).await.map_err(|error| natives.fault(&error))?;
    let mut found = BTreeMap::new();
    for answer in answers {
        let resource = answer.map_err(|code| natives.fault(&KafkaError::AdminOp(code)))?;
        let OwnedResourceSpecifier::Topic(name) = &resource.specifier else { continue };
        // rdkafka drops the error of a single resource: no entries at all is what is left of it.
        if let Some(topic) = topics.iter().find(|topic| topic.as_str() == name)
            && !resource.entries.is_empty()
        {
            found.insert(topic.clone(), own(resource));
        }
    }
    Ok(found)
}

fn own(resource: ConfigResource) -> Settings {
    let max = resource.get(MAX_MESSAGE_BYTES).and_then(|entry| entry.value.as_deref()?.parse().ok());
    let own = resource.entries.into_iter().filter(|entry| entry.source == ConfigSource::DynamicTopic);
    (own.map(|entry| (entry.name, entry.value)).collect(), max)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::there(Err(RDKafkaErrorCode::TopicAlreadyExists), Ok(true))]
    #[case::free(Ok(()), Ok(false))]
    #[case::free_with_too_few_brokers(Err(RDKafkaErrorCode::InvalidReplicationFactor), Ok(false))]
    #[case::busy(Err(RDKafkaErrorCode::RequestTimedOut), Err(RDKafkaErrorCode::RequestTimedOut))]
    #[case::another_controller(Err(RDKafkaErrorCode::NotController), Err(RDKafkaErrorCode::NotController))]
    fn only_an_answer_tells_that_a_topic_is_not_there(#[case] answer: Result<(), RDKafkaErrorCode>, #[case] is_there: Result<bool, RDKafkaErrorCode>) {
        assert_eq!(exists(answer), is_there);
    }
}
