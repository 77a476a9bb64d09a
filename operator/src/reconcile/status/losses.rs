//! `DataLost`: something that held data had vanished and was created again, empty. It stays until somebody acknowledges it: with the annotation
//! `tapeline.dev/acknowledge-data-loss`, whose value is the condition's `lastTransitionTime`. A later loss has a later time, so an old acknowledgement does
//! not hide it, and one that lives in a repository of manifests does no harm.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tapeline_api::names::TopicName;
use tapeline_api::pipeline::status::{ResourceStatus, TopicStatus, TradingPipelineStatus};

use super::writer::now;
use crate::external::{Loss, Records};
use crate::reason::Reason;

/// The condition's type.
pub const DATA_LOST: &str = "DataLost";
/// The annotation that acknowledges it.
pub const ACKNOWLEDGE: &str = "tapeline.dev/acknowledge-data-loss";

const HOW_TO_ACKNOWLEDGE: &str = "To acknowledge, set the annotation tapeline.dev/acknowledge-data-loss to this condition's lastTransitionTime.";
const MAX: usize = 4_000;
/// Of `status.topics`, in the definition.
const MAX_TOPICS: usize = 400;

/// Stores what is about to be created, and what was lost.
pub fn record(status: &mut TradingPipelineStatus, records: Records, generation: i64) {
    for resource in records.resources {
        put_resource(&mut status.resources, resource);
    }
    for topic in records.topics {
        put_topic(&mut status.topics, topic);
    }
    if !records.losses.is_empty() {
        add(&mut status.conditions, &records.losses, generation);
    }
}

/// Replaces the entry of the same kind and name.
pub fn put_resource(resources: &mut Vec<ResourceStatus>, resource: ResourceStatus) {
    match resources.iter_mut().find(|known| known.kind == resource.kind && known.name == resource.name) {
        Some(known) => *known = resource,
        None => resources.push(resource),
    }
}

/// Replaces the entry of the same name.
pub fn put_topic(topics: &mut Vec<TopicStatus>, topic: TopicStatus) {
    match topics.iter_mut().find(|known| known.name == topic.name) {
        Some(known) => *known = topic,
        None => topics.push(topic),
    }
}

/// Forgets topics that are no longer named, up to what the definition allows. Of one that the operator created is kept how often: declared and created again
/// it must not be taken for an earlier one, whose progress the sinks still have.
pub fn forget_topics(topics: &mut Vec<TopicStatus>, is_named: impl Fn(&TopicName) -> bool) {
    let mut room = MAX_TOPICS.saturating_sub(topics.iter().filter(|topic| is_named(&topic.name)).count());
    topics.retain_mut(|topic| {
        if is_named(&topic.name) {
            return true;
        }
        (topic.partitions, topic.config_keys) = (None, Vec::new());
        let keep = room > 0 && topic.incarnation.is_some_and(|incarnation| incarnation > 0);
        room -= usize::from(keep);
        keep
    });
}

fn add(conditions: &mut Vec<Condition>, losses: &[Loss], generation: i64) {
    let known = conditions.iter().find(|condition| condition.type_ == DATA_LOST && condition.status == "True");
    let mut message = known.map(|condition| condition.message.trim_end_matches(HOW_TO_ACKNOWLEDGE).trim_end().to_owned()).unwrap_or_default();
    for loss in losses.iter().map(|loss| format!("{}: {}.", loss.node.field, loss.message.trim_end_matches('.'))) {
        if !message.contains(&loss) && message.len() + loss.len() < MAX {
            let longer = format!("{message} {loss}");
            longer.trim_start().clone_into(&mut message);
        }
    }
    let condition = Condition {
        type_: DATA_LOST.to_owned(),
        status: "True".to_owned(),
        reason: Reason::RecreatedEmpty.to_string(),
        message: format!("{message} {HOW_TO_ACKNOWLEDGE}"),
        // Of this loss, even if there was one before: it is what an acknowledgement names.
        last_transition_time: now(),
        observed_generation: Some(generation),
    };
    conditions.retain(|condition| condition.type_ != DATA_LOST);
    conditions.push(condition);
}

/// The condition as it is to be now: acknowledged or not; none if nothing was ever lost.
#[must_use]
pub fn condition(known: Option<&Condition>, acknowledged: Option<&str>, generation: i64) -> Option<Condition> {
    let known = known?;
    let mut condition = Condition { observed_generation: Some(generation), ..known.clone() };
    let time = serde_json::to_value(&known.last_transition_time).ok()?;
    if known.status == "True" && acknowledged.is_some() && time.as_str() == acknowledged {
        "False".clone_into(&mut condition.status);
        condition.reason = Reason::Acknowledged.to_string();
        condition.message = format!("acknowledged: {}", known.message.trim_end_matches(HOW_TO_ACKNOWLEDGE).trim_end());
        condition.last_transition_time = now();
    }
    Some(condition)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use tapeline_api::pipeline::status::ResourceKind;

    use super::*;
    use crate::external::Node;

    fn loss(name: &str) -> Loss {
        Loss { node: Node { kind: ResourceKind::Topic, name: name.into(), field: "spec.kafka.topics[0]".into() }, message: format!("topic {name} vanished") }
    }

    fn lost(status: &mut TradingPipelineStatus, name: &str) -> Condition {
        record(status, Records { losses: vec![loss(name)], ..Records::default() }, 1);
        status.conditions.iter().find(|condition| condition.type_ == DATA_LOST).unwrap().clone()
    }

    fn time(condition: &Condition) -> String {
        serde_json::to_value(&condition.last_transition_time).unwrap().as_str().unwrap().to_owned()
    }

    #[test]
    fn losses_add_up_until_the_time_of_the_last_is_acknowledged() {
        let mut status = TradingPipelineStatus::default();
        lost(&mut status, "a");
        let both = lost(&mut status, "b");
        assert!(both.message.contains("topic a vanished") && both.message.contains("topic b vanished"), "{}", both.message);
        assert_eq!(both.message.matches(HOW_TO_ACKNOWLEDGE).count(), 1);

        let old = "2020-01-01T00:00:00Z";
        assert_eq!(condition(Some(&both), Some(old), 1).unwrap().status, "True");
        assert_eq!(condition(Some(&both), Some(&time(&both)), 1).unwrap().status, "False");
        assert_eq!(condition(None, Some(old), 1), None);
    }

    #[test]
    fn a_topic_that_is_no_longer_named_keeps_its_incarnation() {
        let topic =
            |name: &str, incarnation| TopicStatus { name: name.parse().unwrap(), partitions: Some(6), incarnation, config_keys: vec!["retention.ms".into()] };
        let mut topics = vec![topic("adopted", Some(0)), topic("created", Some(3)), topic("named", Some(1)), topic("read", None)];
        forget_topics(&mut topics, |name| name.as_str() == "named");
        let created = TopicStatus { partitions: None, config_keys: Vec::new(), ..topic("created", Some(3)) };
        assert_eq!(topics, [created, topic("named", Some(1))]);

        let mut many: Vec<TopicStatus> = (0..500).map(|n| topic(&format!("t{n}"), Some(1))).collect();
        forget_topics(&mut many, |name| name.as_str() == "t499");
        assert_eq!((many.len(), many.last().unwrap().name.as_str()), (MAX_TOPICS, "t499"));
    }

    #[test]
    fn a_later_loss_is_not_hidden_by_an_old_acknowledgement() {
        let mut status = TradingPipelineStatus::default();
        let mut first = lost(&mut status, "a");
        first.last_transition_time = Time("2020-01-01T00:00:00Z".parse().unwrap());
        let acknowledged = condition(Some(&first), Some(&time(&first)), 1).unwrap();
        status.conditions = vec![acknowledged];
        let second = lost(&mut status, "b");
        assert_eq!(condition(Some(&second), Some(&time(&first)), 1).unwrap().status, "True");
        assert!(!second.message.contains("topic a"), "{}", second.message);
    }
}
