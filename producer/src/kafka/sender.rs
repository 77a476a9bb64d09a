//! Writes messages, many at a time, and keeps the [`Ledger`] of what is acknowledged. Owned by the source that runs; nobody else sends.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use tapeline_api::report::ProblemClass;
use tapeline_api::settings::ProducerSettings;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};

use super::tail::Shape;
use super::{Fault, log_line, producer_config};
use crate::halt::problem;
use crate::ledger::Ledger;
use crate::mark::{Mark, PRODUCER};
use crate::search::{Position, Stamp};
use crate::status::Status;
use crate::trade::Message;

/// How much may be under way: enough that a broker is never idle (a replay's message has a few hundred bytes), little enough for a small pod.
const MAX_MESSAGES: usize = 4096;
const MAX_BYTES: usize = 8 << 20;
/// How long a broker may be silent while messages are under way before that is called an outage.
const SILENCE: Duration = Duration::from_secs(5);
/// And how long before it is asked whether the topic is still there.
const DOUBT: Duration = Duration::from_secs(2);

/// A producer at work.
pub struct Sender {
    producer: ThreadedProducer<Deliveries>,
    books: Arc<Books>,
    topic: String,
    identity: String,
    partitions: AtomicU64,
}

/// What sender, librdkafka's thread and watchers share.
pub struct Books {
    ledger: Mutex<Ledger>,
    fault: Mutex<Option<Fault>>,
    changed: Notify,
    status: Status,
    topic: String,
}

/// What librdkafka keeps of a message until it is acknowledged.
#[derive(Debug)]
pub struct Sent {
    tick: u64,
    stamp: Stamp,
    records: u64,
}

/// Takes acknowledgements, on librdkafka's thread.
pub struct Deliveries(Arc<Books>);

impl Sender {
    /// Sets a producer up that goes on from `position`, over so many partitions.
    pub fn open(settings: &ProducerSettings, status: &Status, position: &Position, partitions: i32) -> Result<Self, Fault> {
        let topic = settings.topic.as_str().to_owned();
        let books = Arc::new(Books {
            ledger: Mutex::new(Ledger::new(position)),
            fault: Mutex::new(None),
            changed: Notify::new(),
            status: status.clone(),
            topic: topic.clone(),
        });
        let producer =
            producer_config(settings).create_with_context(Deliveries(Arc::clone(&books))).map_err(|error| Fault::of("connecting", &topic, &error))?;
        Ok(Self { producer, books, topic, identity: settings.identity(), partitions: AtomicU64::new(count(partitions)) })
    }

    /// Asks for the topic's partitions, and uses those that were added. The producer's own client asks, since it has to know them before it can write to them.
    ///
    /// A topic that is gone ends the work at once. librdkafka alone would wait for it to come back and go on in the new one, as if what was acknowledged were there.
    pub async fn refresh(&self) -> Option<Shape> {
        let (producer, topic) = (self.producer.clone(), self.topic.clone());
        let asked = tokio::task::spawn_blocking(move || Shape::ask(producer.client(), &topic)).await.ok()?;
        if let Err(fault @ Fault::TopicMissing(_)) = &asked {
            self.books.break_off(fault.clone());
        }
        let shape = asked.ok()?;
        let before = self.partitions.swap(count(shape.partitions), Ordering::Relaxed);
        if before != count(shape.partitions) {
            tracing::info!(before, now = shape.partitions, "the topic's partitions have changed");
        }
        Some(shape)
    }

    /// The books, for those who watch.
    #[must_use]
    pub fn books(&self) -> Arc<Books> {
        Arc::clone(&self.books)
    }

    /// Hands a message over, waiting while too much is under way. That it returns does not mean that the message is acknowledged.
    ///
    /// # Errors
    /// When this producer cannot go on; see [`Fault::Broken`].
    pub async fn send(&self, message: &Message) -> Result<(), Fault> {
        let bytes = message.payload.len();
        self.books.until(|ledger| ledger.in_flight() == 0 || (ledger.in_flight() < MAX_MESSAGES && ledger.in_flight_bytes() + bytes <= MAX_BYTES)).await?;
        while let Err(error) = self.enqueue(message) {
            // Cannot happen with the limits above; if it does, all that is under way makes room.
            let full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) && self.books.ledger().in_flight() > 0;
            if !full {
                return Err(self.books.break_off(self.books.explain(&error)));
            }
            self.settled().await?;
        }
        Ok(())
    }

    /// Waits until everything is acknowledged.
    ///
    /// # Errors
    /// When this producer cannot go on.
    pub async fn settled(&self) -> Result<(), Fault> {
        self.books.until(|ledger| ledger.in_flight() == 0).await
    }

    /// Watches over what is under way, and tells the status when no broker acknowledges it. Ends never.
    pub async fn watch(&self) -> Infallible {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            let now = seconds.tick().await;
            let (acknowledged, in_flight) = {
                let ledger = self.books.ledger();
                (ledger.acknowledged(), ledger.in_flight())
            };
            // Nothing else sets it while nothing is acknowledged.
            self.books.status.metrics().in_flight.set(i64::try_from(in_flight).unwrap_or(i64::MAX));
            let silence = now.duration_since(since);
            if acknowledged != seen || in_flight == 0 {
                (seen, since) = (acknowledged, now);
                self.books.status.running();
            } else if silence >= SILENCE {
                let silent = format!("no broker has acknowledged a message for {} s or more", SILENCE.as_secs());
                self.books.status.waiting(problem(ProblemClass::KafkaUnreachable, silent));
            }
            if silence >= DOUBT {
                let _ = self.refresh().await;
            }
        }
    }

    fn enqueue(&self, message: &Message) -> Result<(), KafkaError> {
        let stamp = Stamp { last_id: message.last_id, check: message.check };
        let bytes = message.payload.len();
        let acked = {
            let mut ledger = self.books.ledger();
            ledger.send(bytes);
            ledger.published()
        };
        let mark = Mark { tick: message.tick, acked, last_id: message.last_id, check: message.check };
        let mut headers = OwnedHeaders::new_with_capacity(5).insert(Header { key: PRODUCER, value: Some(self.identity.as_str()) });
        for (key, value) in mark.headers() {
            headers = headers.insert(Header { key, value: Some(value.as_str()) });
        }
        let opaque = Box::new(Sent { tick: message.tick, stamp, records: message.records });
        let record = BaseRecord::<[u8], [u8], _>::with_opaque_to(&self.topic, opaque).payload(&message.payload).headers(headers);
        let record = match &message.key {
            // By the partitioner of the settings.
            Some(key) => record.key(key.as_slice()),
            // By turns and not librdkafka's choice, which sticks to a partition for a while: every partition gets its share also of a slow stream.
            None => record.partition(i32::try_from(message.tick % self.partitions.load(Ordering::Relaxed)).unwrap_or(0)),
        };
        self.producer.send(record).map_err(|(error, _)| {
            self.books.ledger().take_back(bytes);
            error
        })
    }
}

fn count(partitions: i32) -> u64 {
    u64::try_from(partitions.max(1)).unwrap_or(1)
}

impl Books {
    /// The ledger, for a moment.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn until(&self, enough: impl Fn(&Ledger) -> bool) -> Result<(), Fault> {
        loop {
            // Before looking, so that a change in between is not missed.
            let changed = self.changed.notified();
            if let Some(fault) = self.fault().clone() {
                return Err(fault);
            }
            if enough(&self.ledger()) {
                return Ok(());
            }
            changed.await;
        }
    }

    fn fault(&self) -> MutexGuard<'_, Option<Fault>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After an error the order is not certain any more; the first one is kept, since the others follow from it.
    fn break_off(&self, fault: Fault) -> Fault {
        let first = self.fault().get_or_insert(fault).clone();
        self.changed.notify_waiters();
        first
    }

    fn explain(&self, error: &KafkaError) -> Fault {
        match Fault::of("sending", &self.topic, error) {
            Fault::Unreachable { reason, .. } => Fault::Broken(reason),
            other => other,
        }
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log_line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.0.break_off(self.0.explain(&error));
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Sent>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<Sent>) {
        match result {
            Ok(message) => {
                let (in_flight, few, floor) = {
                    let mut ledger = self.0.ledger();
                    if !ledger.acknowledge(sent.tick, sent.stamp, message.partition(), message.offset(), message.payload_len()) {
                        self.0.break_off(Fault::Recreated(self.0.topic.clone()));
                    }
                    let few = ledger.in_flight() <= MAX_MESSAGES / 2 && ledger.in_flight_bytes() <= MAX_BYTES / 2;
                    (ledger.in_flight(), few, ledger.floor())
                };
                self.0.status.acknowledged(sent.records, message.payload_len(), floor);
                self.0.status.metrics().in_flight.set(i64::try_from(in_flight).unwrap_or(i64::MAX));
                // Not at each one: whoever waits for room is woken when there is some worth waking up for.
                if few {
                    self.0.changed.notify_waiters();
                }
            }
            Err((error, message)) => {
                self.0.ledger().take_back(message.payload_len());
                self.0.status.metrics().errors.inc();
                self.0.break_off(self.0.explain(error));
            }
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let lost = self.books.ledger().in_flight();
        if lost > 0 {
            tracing::info!(messages = lost, "gave up messages that were not acknowledged; the next start looks which of them arrived");
        }
    }
}

#[cfg(test)]
#[path = "sender_tests.rs"]
mod tests;
