//! Settles what a predecessor left under way on a replicated topic.
//!
//! A consumer sees a partition only up to its high watermark. Behind it there may be messages of a killed predecessor that the leader has and a follower has not
//! yet: they would be overlooked, sent again, and appear after all. An acknowledged write of our own lies behind them and proves that they are visible. So a start
//! writes an empty message (no rows, by the stream's rules) with the header [`START`] into each partition, and searches up to it. With one replica the high
//! watermark is the end, and nothing is written.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use tapeline_api::settings::ProducerSettings;

use super::{Fault, log_line, producer_config};
use crate::mark::{PRODUCER, START};
use crate::search::Extent;

/// How long all partitions together may take.
const PATIENCE: Duration = Duration::from_secs(10);
const WHAT: &str = "writing the start marks";

/// By partition: behind which offset the mark lies, or why it does not.
#[derive(Default)]
struct Written(Mutex<Vec<(i32, Result<i64, KafkaError>)>>);

impl ClientContext for Written {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log_line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl ProducerContext for Written {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let entry = match result {
            Ok(message) => (message.partition(), Ok(message.offset() + 1)),
            Err((error, message)) => (message.partition(), Err(error.clone())),
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }
}

/// Writes a mark into each partition and moves the ends of `extents` behind them. Blocking, for seconds at most.
pub fn raise(settings: &ProducerSettings, extents: &mut BTreeMap<i32, Extent>) -> Result<(), Fault> {
    let topic = settings.topic.as_str();
    let fault = |error: &KafkaError| Fault::of(WHAT, topic, error);
    let producer: BaseProducer<Written> = producer_config(settings).create_with_context(Written::default()).map_err(|error| fault(&error))?;
    let identity = settings.identity();
    for &partition in extents.keys() {
        let headers = OwnedHeaders::new_with_capacity(2)
            .insert(Header { key: PRODUCER, value: Some(identity.as_str()) })
            .insert(Header { key: START, value: None::<&str> });
        producer.send(BaseRecord::<(), ()>::to(topic).partition(partition).headers(headers)).map_err(|(error, _)| fault(&error))?;
    }
    producer.flush(PATIENCE).map_err(|error| fault(&error))?;
    let written = std::mem::take(&mut *producer.context().0.lock().unwrap_or_else(PoisonError::into_inner));
    for (partition, end) in written {
        let end = end.map_err(|error| fault(&error))?;
        if let Some(extent) = extents.get_mut(&partition) {
            extent.end = end;
        }
    }
    Ok(())
}
