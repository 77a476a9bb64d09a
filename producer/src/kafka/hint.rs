//! What a producer remembers beside the topic: offsets of a consumer group that nobody is a member of, with a note. It bounds what a start has to read, and
//! survives the deletion of old messages by retention. The topic itself stays the truth: a hint that does not fit is passed over, and one that cannot be written
//! (a broker's ACL) is done without.
//!
//! Brokers delete a group's offsets together with the topic, and after `offsets.retention.minutes` (7 days) without a commit.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;
use rdkafka::types::RDKafkaErrorCode;
use serde::{Deserialize, Serialize};
use tapeline_api::settings::ProducerSettings;

use super::Fault;
use super::tail::{ANSWER, Shape, Tail};
use crate::search::{Hint, Stamp};

/// The group's name: the producer's identity with dots.
#[must_use]
pub fn group(settings: &ProducerSettings) -> String {
    format!("{}.producer", settings.identity().replace('/', "."))
}

/// The note at each offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    acked: u64,
    last_id: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    check: Option<u64>,
}

impl Tail {
    /// Reads the hint, if there is one and we may.
    pub fn hint(&self, shape: Shape) -> Result<Option<Hint>, Fault> {
        let mut partitions = TopicPartitionList::new();
        if let Some(last) = shape.partitions.checked_sub(1) {
            partitions.add_partition_range(&self.topic, 0, last);
        }
        let what = "asking for the committed offsets";
        let begun = Instant::now();
        let offsets = loop {
            match self.consumer.committed_offsets(partitions.clone(), ANSWER) {
                Ok(offsets) => break offsets,
                Err(error) if is_moving(&error) && begun.elapsed() < ANSWER => _ = self.consumer.poll(Duration::from_millis(100)),
                Err(error) if denied(&error) => {
                    tracing::warn!(%error, "the brokers refuse the producer's group: each start searches the topic itself");
                    return Ok(None);
                }
                Err(error) => return Err(self.fault(what, &error)),
            }
        };
        let mut hint: Option<Hint> = None;
        for element in offsets.elements() {
            element.error().map_err(|error| self.fault(what, &error))?;
            let (Offset::Offset(offset), Ok(note)) = (element.offset(), serde_json::from_str::<Note>(element.metadata())) else { continue };
            let stamp = Stamp { last_id: note.last_id, check: note.check };
            let known = hint.get_or_insert_with(|| Hint { acked: note.acked, stamp, offsets: BTreeMap::new() });
            known.offsets.insert(element.partition(), offset);
            // They are committed together; should they differ all the same, each offset holds for its own note and hence for a higher one.
            if note.acked > known.acked {
                (known.acked, known.stamp) = (note.acked, stamp);
            }
        }
        Ok(hint)
    }

    /// Writes the hint, if we may. May take as long as librdkafka waits for the group's coordinator.
    pub fn remember(&self, hint: &Hint) -> Result<(), Fault> {
        let what = "committing offsets";
        let note = Note { acked: hint.acked, last_id: hint.stamp.last_id, check: hint.stamp.check };
        let note = serde_json::to_string(&note).map_err(|error| Fault::Unreachable { what, reason: error.to_string() })?;
        let mut offsets = TopicPartitionList::with_capacity(hint.offsets.len());
        for (&partition, &offset) in &hint.offsets {
            let mut element = offsets.add_partition(&self.topic, partition);
            element.set_offset(Offset::Offset(offset)).map_err(|error| self.fault(what, &error))?;
            element.set_metadata(&note);
        }
        match self.consumer.commit(&offsets, CommitMode::Sync) {
            Err(error) if !denied(&error) => Err(self.fault(what, &error)),
            _ => Ok(()),
        }
    }
}

/// The group's coordinator has just begun, or is another broker now: no outage, but what the first group of a new cluster meets.
fn is_moving(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(code, Some(RDKafkaErrorCode::NotCoordinator | RDKafkaErrorCode::CoordinatorNotAvailable | RDKafkaErrorCode::CoordinatorLoadInProgress))
}

fn denied(error: &KafkaError) -> bool {
    matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::GroupAuthorizationFailed | RDKafkaErrorCode::TopicAuthorizationFailed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_short_and_read_back() {
        let note = Note { acked: 32_700, last_id: 121_540, check: Some(u64::MAX) };
        let text = serde_json::to_string(&note).unwrap();
        assert_eq!(text, r#"{"acked":32700,"lastId":121540,"check":18446744073709551615}"#);
        assert_eq!(serde_json::from_str::<Note>(&text).unwrap(), note);
    }
}
