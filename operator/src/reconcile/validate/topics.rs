//! Kafka: properties of clients, topics, and the topics of streams; and the labels of pods.

use tapeline_api::TradingPipelineSpec;
use tapeline_api::progress::PROGRESS_TOPIC;
use tapeline_api::settings::RESERVED_CLIENT_PROPERTIES;

use super::Validated;
use crate::reason::{Area, Problem, Reason};
use crate::reconcile::build::{Kind, labels};

pub(super) fn validate(spec: &TradingPipelineSpec, validated: &mut Validated) {
    let invalid = |field: String, message: &str| Problem::change(Area::Topics, Reason::InvalidSpec, field, message);
    let before = validated.problems.len();
    for key in spec.kafka.client_properties.keys().filter(|key| RESERVED_CLIENT_PROPERTIES.contains(&key.as_str())) {
        let message = "Tapeline sets this property itself, since counting each record once depends on it; remove it";
        validated.problems.push(invalid(format!("spec.kafka.clientProperties[{key}]"), message));
    }
    validated.kafka_is_valid = validated.problems.len() == before;

    for (index, topic) in spec.kafka.topics.iter().enumerate().filter(|(_, topic)| !topic.managed) {
        let given =
            [("partitions", topic.partitions.is_some()), ("replicationFactor", topic.replication_factor.is_some()), ("config", !topic.config.is_empty())];
        for (what, _) in given.into_iter().filter(|(_, given)| *given) {
            let message = format!("the topic is not managed, so it is never altered; remove {what}, or managed: false");
            validated.problems.push(invalid(format!("spec.kafka.topics[{index}].{what}"), &message));
            validated.bad_topics.insert(topic.name.clone());
        }
    }
    let own = spec.kafka.topics.iter().enumerate().filter(|(_, topic)| topic.name.as_str() == PROGRESS_TOPIC);
    for (index, topic) in own {
        let message = "Tapeline keeps the progress of queries in this topic, and creates it itself; remove it";
        validated.problems.push(invalid(format!("spec.kafka.topics[{index}].name"), message));
        validated.bad_topics.insert(topic.name.clone());
    }
    pod_labels(spec, validated);
}

/// A label of ours that a user overwrote would hide pods from the operator; one that we overwrite would be accepted and ignored.
fn pod_labels(spec: &TradingPipelineSpec, validated: &mut Validated) {
    let mut ours = labels("", Kind::Query, "");
    ours.extend(labels("", Kind::Producer, ""));
    ours.extend(labels("", Kind::Dashboard, ""));
    let given = spec.workers.iter().flat_map(|workers| workers.pod_labels.keys());
    for key in given.filter(|key| ours.contains_key(*key) || key.starts_with("tapeline.dev/")) {
        let field = format!("spec.workers.podLabels[{key}]");
        validated.problems.push(Problem::change(Area::Workers, Reason::InvalidSpec, field, "Tapeline finds its pods by this label; choose another"));
    }
}
