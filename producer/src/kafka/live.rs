//! Writes what sources outside deliver. Nothing that was received is given up: a message that the brokers refuse is kept and sent again, for as long as it takes,
//! and as long as there is no room nothing more is taken, so that the source stops reading.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, PurgeConfig, ThreadedProducer};
use tapeline_api::names::TopicName;
use tapeline_api::report::ProblemClass;
use tapeline_api::settings::ProducerSettings;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, timeout};

use super::tail::Shape;
use super::{Fault, log_line, producer_config};
use crate::halt::{Halt, problem};
use crate::live::health::Health;

/// How much may be under way.
const MAX_MESSAGES: usize = 4096;
const MAX_BYTES: usize = 8 << 20;
/// How long a broker may be silent while messages are under way before that is called an outage.
const SILENCE: Duration = Duration::from_secs(5);
/// How long a client that has to be replaced may still deliver what it has.
const LAST_WORD: Duration = Duration::from_secs(10);
/// Between two clients.
const RENEWAL: Duration = Duration::from_secs(2);
/// Makes of a message that is refused the end of the client.
const GAPLESS: &str = "enable.gapless.guarantee";

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// To which of the producer's topics.
    pub topic: usize,
    /// Its key: messages of one key stay in order.
    pub key: Option<String>,
    /// A JSON document.
    pub payload: String,
}

/// The way into the producer's topics.
pub struct Outlet {
    config: ClientConfig,
    producer: ThreadedProducer<Deliveries>,
    books: Arc<Books>,
}

/// What outlet, librdkafka's thread and the watcher share.
pub struct Books {
    now: Mutex<Now>,
    changed: Notify,
    health: Health,
    topics: Vec<TopicName>,
}

#[derive(Default)]
struct Now {
    /// How many were handed over, which is also the next one's number.
    sent: u64,
    acknowledged: u64,
    in_flight: usize,
    bytes: usize,
    /// Refused, by number, since they are sent again in that order.
    returned: BTreeMap<u64, Message>,
    /// Why the client has to be replaced.
    fault: Option<Fault>,
}

/// What librdkafka keeps of a message until it is acknowledged.
pub struct Sent {
    number: u64,
    message: Message,
}

/// Takes acknowledgements, on librdkafka's thread.
pub struct Deliveries(Arc<Books>);

impl Outlet {
    /// Connects, once all topics are there.
    ///
    /// # Errors
    /// No broker answers, or a topic is not there; or [`Fault::Client`].
    pub async fn open(settings: &ProducerSettings, topics: Vec<TopicName>, health: Health) -> Result<Self, Halt> {
        let mut config = producer_config(settings);
        // The client is at its end as soon as a message is refused. Else it would begin on those behind it before anybody has heard of that.
        config.set(GAPLESS, "true");
        let books = Arc::new(Books { now: Mutex::default(), changed: Notify::new(), health, topics });
        let producer = connect(&config, &books).await?;
        Ok(Self { config, producer, books })
    }

    /// The books, for [`watch`].
    #[must_use]
    pub fn books(&self) -> Arc<Books> {
        Arc::clone(&self.books)
    }

    /// Sends what comes in, and returns when no more can come and everything is acknowledged.
    pub async fn run(mut self, mut input: mpsc::Receiver<Message>) {
        loop {
            let message = tokio::select! {
                biased;
                () = self.books.trouble() => {
                    self.renew().await;
                    continue;
                }
                message = input.recv() => message,
            };
            match message {
                Some(message) => self.send(message).await,
                None => break,
            }
        }
        while self.books.until(|now| now.in_flight == 0).await.is_err() {
            self.renew().await;
        }
    }

    async fn send(&mut self, message: Message) {
        let bytes = message.payload.len();
        loop {
            let room = |now: &Now| now.in_flight == 0 || (now.in_flight < MAX_MESSAGES && now.bytes + bytes <= MAX_BYTES);
            match self.books.until(room).await {
                Ok(()) => break,
                Err(()) => self.renew().await,
            }
        }
        let number = {
            let mut now = self.books.now();
            now.sent += 1;
            now.sent
        };
        self.enqueue(number, message);
    }

    /// What librdkafka does not take is returned at once, and sent by the next client.
    fn enqueue(&self, number: u64, message: Message) {
        let bytes = message.payload.len();
        {
            let mut now = self.books.now();
            now.in_flight += 1;
            now.bytes += bytes;
        }
        let sent = Arc::new(Sent { number, message });
        let message = &sent.message;
        let mut record = BaseRecord::<str, str, _>::with_opaque_to(self.books.topic(message), Arc::clone(&sent)).payload(&message.payload);
        record.key = message.key.as_deref();
        if let Err((error, _)) = self.producer.send(record) {
            self.books.take_back(&sent, &error);
        }
    }

    /// Takes another client, which sends first what the brokers refused, and what waited behind that: both in the order of their numbers.
    async fn renew(&mut self) {
        let producer = self.producer.clone();
        // On a thread of its own, since it waits for each broker's, which may be looking up a name.
        _ = tokio::task::spawn_blocking(move || producer.purge(PurgeConfig::default().queue())).await;
        if timeout(LAST_WORD, self.books.empty()).await.is_err() {
            self.producer.purge(PurgeConfig::default().queue().inflight());
            self.books.empty().await;
        }
        let fault = self.books.now().fault.clone();
        if let Some(fault) = fault {
            self.books.health.brokers(Some(fault.problem()));
        }
        loop {
            tokio::time::sleep(RENEWAL).await;
            match connect(&self.config, &self.books).await {
                Ok(producer) => {
                    self.producer = producer;
                    break;
                }
                Err(fault) => self.books.health.brokers(Some(fault.problem())),
            }
        }
        let returned = {
            let mut now = self.books.now();
            now.fault = None;
            std::mem::take(&mut now.returned)
        };
        tracing::info!(messages = returned.len(), "sending again what the brokers did not take");
        for (number, message) in returned {
            self.enqueue(number, message);
        }
    }
}

/// A client that has found all topics. librdkafka alone would wait for one that is gone, and fail its messages after half a minute.
async fn connect(config: &ClientConfig, books: &Arc<Books>) -> Result<ThreadedProducer<Deliveries>, Fault> {
    let first = books.topics.first().map_or("", TopicName::as_str);
    let producer: ThreadedProducer<Deliveries> =
        config.create_with_context(Deliveries(Arc::clone(books))).map_err(|error| Fault::of("connecting", first, &error))?;
    let (asked, topics) = (producer.clone(), books.topics.clone());
    let look = move || topics.iter().try_for_each(|topic| Shape::ask(asked.client(), topic.as_str()).map(drop));
    tokio::task::spawn_blocking(look).await.map_err(|error| Fault::Broken(error.to_string()))??;
    Ok(producer)
}

/// Watches over what is under way, and tells the status when no broker acknowledges it. Ends never.
pub async fn watch(books: Arc<Books>) -> Infallible {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut seen, mut since, mut broke) = (0, Instant::now(), None::<Instant>);
    loop {
        let at = seconds.tick().await;
        let (acknowledged, in_flight, broken) = {
            let now = books.now();
            (now.acknowledged, now.in_flight, now.fault.is_some() || !now.returned.is_empty())
        };
        // Nothing else sets it while nothing is acknowledged.
        books.health.status().metrics().in_flight.set(i64::try_from(in_flight).unwrap_or(i64::MAX));
        if broken {
            // The fault itself is told where the client is replaced.
            (seen, since, broke) = (acknowledged, at, Some(at));
        } else if broke.is_some_and(|broke| at.duration_since(broke) < SILENCE) {
            // One message that is refused again and again is trouble, though its neighbours arrive.
            since = at;
        } else if acknowledged != seen || in_flight == 0 {
            (seen, since) = (acknowledged, at);
            books.health.brokers(None);
        } else if at.duration_since(since) >= SILENCE {
            let silent = format!("no broker has acknowledged a message for {} s or more; nothing is read from the source meanwhile", SILENCE.as_secs());
            books.health.brokers(Some(problem(ProblemClass::KafkaUnreachable, silent)));
        }
    }
}

impl Books {
    /// How many messages that were read are not acknowledged.
    #[must_use]
    pub fn unsettled(&self) -> u64 {
        self.health.all_heard().saturating_sub(self.now().acknowledged)
    }

    fn topic(&self, message: &Message) -> &str {
        self.topics.get(message.topic).map_or("", TopicName::as_str)
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// The client has to be replaced first.
    async fn until(&self, enough: impl Fn(&Now) -> bool) -> Result<(), ()> {
        loop {
            // Before looking, so that a change in between is not missed.
            let changed = self.changed.notified();
            {
                let now = self.now();
                if now.fault.is_some() {
                    return Err(());
                }
                if enough(&now) {
                    return Ok(());
                }
            }
            changed.await;
        }
    }

    async fn trouble(&self) {
        let _ = self.until(|_| false).await;
    }

    /// Until nothing is under way, fault or not.
    async fn empty(&self) {
        loop {
            let changed = self.changed.notified();
            if self.now().in_flight == 0 {
                return;
            }
            changed.await;
        }
    }

    /// A message that was not taken. The first reason is kept, since the others follow from it. That the client is at its end is none, but may be heard first.
    fn take_back(&self, sent: &Sent, error: &KafkaError) {
        let refused = !matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight | RDKafkaErrorCode::Fatal));
        {
            let mut now = self.now();
            now.in_flight -= 1;
            now.bytes -= sent.message.payload.len();
            now.returned.insert(sent.number, sent.message.clone());
            match now.fault {
                None if !refused => now.fault = Some(Fault::Broken(error.to_string())),
                None | Some(Fault::Broken(_)) if refused => now.fault = Some(Fault::of("sending", self.topic(&sent.message), error)),
                _ => {}
            }
        }
        if refused {
            self.health.status().metrics().errors.inc();
        }
        self.changed.notify_waiters();
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        // That the setting is experimental is nobody's to know but ours.
        if facility != "CONFWARN" || !line.contains(GAPLESS) {
            log_line(level, facility, line);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.0.now().fault.get_or_insert_with(|| Fault::Broken(reason.to_owned()));
            self.0.changed.notify_waiters();
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Arc<Sent>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Arc<Sent>) {
        let books = &self.0;
        match result {
            Ok(_) => {
                let in_flight = {
                    let mut now = books.now();
                    now.in_flight -= 1;
                    now.bytes -= sent.message.payload.len();
                    now.acknowledged += 1;
                    now.in_flight
                };
                let status = books.health.status();
                status.delivered(1, sent.message.payload.len());
                status.metrics().in_flight.set(i64::try_from(in_flight).unwrap_or(i64::MAX));
                // Not at each one: whoever waits for room is woken when there is some worth waking up for.
                if in_flight <= MAX_MESSAGES / 2 {
                    books.changed.notify_waiters();
                }
            }
            Err((error, _)) => books.take_back(&sent, error),
        }
    }
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
