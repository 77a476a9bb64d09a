//! librdkafka's callbacks. A rebalance is only noted here: the thread that polls answers it, since it has to ask the store first. librdkafka waits for that,
//! having paused everything.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Statistics, TopicPartitionList};
use tapeline_api::report::{Problem, ProblemClass};

use crate::status::{Status, Who};

/// What the group coordinator decided.
#[derive(Debug)]
pub(super) enum Rebalance {
    Assign(Vec<i32>),
    Revoke { partitions: Vec<i32>, lost: bool },
}

/// What the callbacks share with the thread.
pub(super) struct Context {
    status: Arc<Status>,
    topic: String,
    rebalances: Mutex<VecDeque<Rebalance>>,
    /// Set when the consumer is about to be dropped: a revocation must then be answered at once, or dropping hangs for ever.
    closing: AtomicBool,
}

impl Context {
    pub(super) const fn new(status: Arc<Status>, topic: String) -> Self {
        Self { status, topic, rebalances: Mutex::new(VecDeque::new()), closing: AtomicBool::new(false) }
    }

    pub(super) fn next_rebalance(&self) -> Option<Rebalance> {
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    pub(super) fn has_rebalance(&self) -> bool {
        !self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }
}

impl ClientContext for Context {
    fn stats(&self, statistics: Statistics) {
        let Some(topic) = statistics.topics.get(&self.topic) else { return };
        for (partition, known) in &topic.partitions {
            if known.ls_offset >= 0 {
                self.status.end(*partition, known.ls_offset);
            }
        }
        if statistics.brokers.values().any(|broker| broker.nodeid >= 0 && broker.state == "UP") {
            self.status.kafka_answers();
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        if code == Some(RDKafkaErrorCode::PartitionEOF) {
            return; // asked for, and no error
        }
        tracing::warn!(%error, reason, "kafka");
        if code == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.status.waiting(Who::Consumer, Problem::new(ProblemClass::KafkaUnreachable, "no Kafka broker answers"));
        }
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        if self.closing.load(Ordering::Acquire) {
            if let Err(error) = consumer.unassign() {
                tracing::warn!(%error, "leaving the group");
            }
            return;
        }
        let list = partitions.elements().iter().map(rdkafka::topic_partition_list::TopicPartitionListElem::partition).collect();
        let rebalance = match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Rebalance::Assign(list),
            _ => Rebalance::Revoke { partitions: list, lost: consumer.assignment_lost() },
        };
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).push_back(rebalance);
    }
}
