//! What errors of Kafka's clients mean for the sink. Texts are for `/status` and conditions: they name no address.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tapeline_api::report::ProblemClass;

use crate::sink::SinkError;

/// What an error means that came before anything was committed, or in reading.
pub(super) fn classify(error: &KafkaError, what: &str) -> SinkError {
    tracing::warn!(%error, what, "kafka");
    error.rdkafka_error_code().map_or_else(|| SinkError::fatal(ProblemClass::Internal, format!("{what}: {error}")), |code| by_code(code, what))
}

/// The same, by the code.
pub(super) fn by_code(code: RDKafkaErrorCode, what: &str) -> SinkError {
    use RDKafkaErrorCode as Code;
    let denied = |text: String| SinkError::outage(ProblemClass::StoreDenied, text);
    match code {
        // The group has a new generation: the partitions may be somebody else's.
        Code::IllegalGeneration | Code::UnknownMemberId | Code::FencedInstanceId | Code::RebalanceInProgress => {
            SinkError::Fenced(format!("the consumer group does not know this member's generation any more ({code})"))
        }
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => missing(what),
        Code::TopicAuthorizationFailed => denied(format!("Kafka refuses {what}: allow the user to read, write and describe the topic")),
        Code::GroupAuthorizationFailed => denied("Kafka refuses the consumer group's offsets: allow the user to read the group".to_owned()),
        Code::TransactionalIdAuthorizationFailed => {
            denied("Kafka refuses the transaction: allow the user to write and describe transactional ids that begin with the consumer group's name".to_owned())
        }
        Code::ClusterAuthorizationFailed => denied("Kafka refuses an idempotent producer: allow the user IdempotentWrite on the cluster".to_owned()),
        Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL => denied("Kafka refuses user, password or certificate".to_owned()),
        Code::InvalidTransactionTimeout => SinkError::fatal(
            ProblemClass::StoreRefuses,
            "the brokers' transaction.max.timeout.ms is below 30 s, which is what Tapeline's transactions may take: raise it",
        ),
        // The coordinator has given up a transaction that took longer than its timeout, or another process has our transactional id. What was not committed is
        // not there either way; a new producer tells.
        Code::Fenced | Code::InvalidProducerEpoch | Code::ProducerFenced | Code::InvalidProducerIdMapping => unreachable("Kafka has ended the transaction"),
        code => unreachable(&format!("{what}: Kafka answers {code}")),
    }
}

/// Whether the brokers refuse a permission, which no patience gives.
pub(super) const fn is_denied(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code, Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::ClusterAuthorizationFailed)
}

/// What cannot be done until Kafka answers.
pub(super) fn unreachable(text: &str) -> SinkError {
    SinkError::outage(ProblemClass::KafkaUnreachable, text)
}

/// A topic that is not there.
pub(super) fn missing(topic: &str) -> SinkError {
    SinkError::outage(ProblemClass::TopicMissing, format!("{topic} is not there: declare it under spec.kafka.topics, or create it"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn class_of(code: RDKafkaErrorCode) -> Option<ProblemClass> {
        match by_code(code, "the topic out") {
            SinkError::Outage(problem) => {
                assert!(problem.class.is_outage(), "{code}");
                Some(problem.class)
            }
            SinkError::Fatal(problem) => Some(problem.class),
            SinkError::Fenced(_) | SinkError::Refused(_) => None,
        }
    }

    #[rstest]
    #[case::generation(RDKafkaErrorCode::IllegalGeneration, None)]
    #[case::member(RDKafkaErrorCode::UnknownMemberId, None)]
    #[case::took_too_long(RDKafkaErrorCode::InvalidProducerEpoch, Some(ProblemClass::KafkaUnreachable))]
    #[case::topic(RDKafkaErrorCode::UnknownTopicOrPartition, Some(ProblemClass::TopicMissing))]
    #[case::permission(RDKafkaErrorCode::TransactionalIdAuthorizationFailed, Some(ProblemClass::StoreDenied))]
    #[case::brokers_limit(RDKafkaErrorCode::InvalidTransactionTimeout, Some(ProblemClass::StoreRefuses))]
    #[case::gone(RDKafkaErrorCode::AllBrokersDown, Some(ProblemClass::KafkaUnreachable))]
    #[case::replicas(RDKafkaErrorCode::NotEnoughReplicas, Some(ProblemClass::KafkaUnreachable))]
    fn only_a_generation_that_is_over_fences(#[case] code: RDKafkaErrorCode, #[case] class: Option<ProblemClass>) {
        assert_eq!(class_of(code), class);
    }
}
