//! What the producer says of itself: its state for `/status` and `/readyz`, its numbers for `/metrics`. Shared by everything; written by [`crate::feed`], the
//! sender and its watcher, read by [`crate::http`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use tapeline_api::report::{Problem, ProducerReport, ProducerState};

use crate::live::numbers::FeedNumbers;

/// A handle on the status.
#[derive(Debug, Clone)]
pub struct Status(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    producer: OnceLock<String>,
    now: Mutex<(ProducerState, Option<Problem>)>,
    ready: AtomicBool,
    metrics: Metrics,
    registry: Registry,
}

/// The numbers.
#[derive(Debug, Default)]
pub struct Metrics {
    messages: Counter,
    records: Counter,
    bytes: Counter,
    /// Messages that could not be sent.
    pub errors: Counter,
    /// Messages that are sent and not acknowledged.
    pub in_flight: Gauge,
    /// Ticks that are in the topic, from the first on without a gap.
    pub ticks_done: Gauge,
    /// Ticks that a replay has in all; 0 for one without end.
    pub ticks: Gauge,
    /// What was heard of a source outside.
    pub feed: FeedNumbers,
    states: Family<StateLabel, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

const STATES: [ProducerState; 5] = [ProducerState::Starting, ProducerState::Running, ProducerState::Done, ProducerState::Waiting, ProducerState::Failed];

impl Default for Status {
    fn default() -> Self {
        let metrics = Metrics::default();
        let mut registry = Registry::with_prefix("tapeline_producer");
        registry.register("messages", "Messages acknowledged by the brokers", metrics.messages.clone());
        registry.register("records", "Records (elements of messages) acknowledged by the brokers", metrics.records.clone());
        registry.register_with_unit("payload", "Content of the messages acknowledged by the brokers", Unit::Bytes, metrics.bytes.clone());
        registry.register("errors", "Messages that could not be sent", metrics.errors.clone());
        registry.register("in_flight", "Messages sent and not acknowledged yet", metrics.in_flight.clone());
        registry.register("ticks_done", "Ticks that the topic holds, from the first on without a gap", metrics.ticks_done.clone());
        registry.register("ticks", "Ticks that the replay has in all; 0 for one without end", metrics.ticks.clone());
        metrics.feed.register(&mut registry);
        registry.register("state", "1 for the state that the producer is in", metrics.states.clone());
        let status = Self(Arc::new(Inner {
            producer: OnceLock::new(),
            now: Mutex::new((ProducerState::Starting, None)),
            ready: AtomicBool::new(false),
            metrics,
            registry,
        }));
        status.mark(ProducerState::Starting);
        status
    }
}

impl Status {
    /// Whose status it is.
    pub fn name(&self, producer: &str) {
        self.0.producer.get_or_init(|| producer.to_owned());
    }

    /// It looks where it stopped.
    pub fn starting(&self) {
        self.set(ProducerState::Starting, None);
    }

    /// It sends. From now on it is ready.
    pub fn running(&self) {
        self.set(ProducerState::Running, None);
    }

    /// It has sent everything. From now on it is ready.
    pub fn done(&self) {
        self.set(ProducerState::Done, None);
    }

    /// It waits for something.
    pub fn waiting(&self, problem: Problem) {
        self.set(ProducerState::Waiting, Some(problem));
    }

    /// It stopped by itself, and is not ready any more.
    pub fn failed(&self, problem: Problem) {
        self.set(ProducerState::Failed, Some(problem));
    }

    /// A message is in a topic.
    pub fn delivered(&self, records: u64, bytes: usize) {
        let metrics = &self.0.metrics;
        metrics.messages.inc();
        metrics.records.inc_by(records);
        metrics.bytes.inc_by(u64::try_from(bytes).unwrap_or(0));
    }

    /// A message is in the topic; `floor` ticks are, without a gap.
    pub fn acknowledged(&self, records: u64, bytes: usize, floor: u64) {
        self.delivered(records, bytes);
        let metrics = &self.0.metrics;
        metrics.ticks_done.set(i64::try_from(floor).unwrap_or(i64::MAX));
    }

    /// The numbers.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Ready once the brokers were reached and the place to go on was found; an outage later does not take that back, since restarting or replacing the pod would
    /// not help. A producer that failed is not ready.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.0.ready.load(Ordering::Relaxed)
    }

    /// For `/status`.
    #[must_use]
    pub fn report(&self) -> ProducerReport {
        let (state, problem) = self.now().clone();
        ProducerReport {
            producer: self.0.producer.get().cloned().unwrap_or_default(),
            state,
            problem,
            messages_total: self.0.metrics.messages.get(),
            records_total: self.0.metrics.records.get(),
            feed: self.0.metrics.feed.report(),
        }
    }

    /// For `/metrics`, in the text format of OpenMetrics.
    ///
    /// # Errors
    /// When a metric cannot be written.
    pub fn exposition(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.0.registry)?;
        Ok(text)
    }

    fn set(&self, state: ProducerState, problem: Option<Problem>) {
        {
            let mut now = self.now();
            if now.0 == state && now.1 == problem {
                return;
            }
            *now = (state, problem.clone());
        }
        match state {
            ProducerState::Running | ProducerState::Done => self.0.ready.store(true, Ordering::Relaxed),
            ProducerState::Failed => self.0.ready.store(false, Ordering::Relaxed),
            ProducerState::Starting | ProducerState::Waiting => {}
        }
        self.mark(state);
        match problem {
            Some(Problem { class, message, .. }) if state == ProducerState::Failed => tracing::error!(%state, %class, "{message}"),
            Some(Problem { class, message, .. }) => tracing::warn!(%state, %class, "{message}"),
            None => tracing::info!(%state, "the producer's state"),
        }
    }

    fn mark(&self, now: ProducerState) {
        for state in STATES {
            self.0.metrics.states.get_or_create(&StateLabel { state: state.into() }).set(i64::from(state == now));
        }
    }

    fn now(&self) -> MutexGuard<'_, (ProducerState, Option<Problem>)> {
        self.0.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tapeline_api::report::ProblemClass;

    use super::*;
    use crate::halt::problem;

    #[test]
    fn it_is_ready_from_its_first_message_on_until_it_fails() {
        let status = Status::default();
        status.name("history");
        assert!(!status.ready());
        status.waiting(problem(ProblemClass::KafkaUnreachable, "no broker".to_owned()));
        assert!(!status.ready());
        status.running();
        status.waiting(problem(ProblemClass::KafkaUnreachable, "no broker".to_owned()));
        assert!(status.ready());
        assert_eq!(status.report().problem.unwrap().class, ProblemClass::KafkaUnreachable);
        status.failed(problem(ProblemClass::InvalidSettings, "no".to_owned()));
        assert!(!status.ready());
    }

    #[test]
    fn numbers_are_exposed() {
        let status = Status::default();
        status.running();
        status.acknowledged(5, 700, 3);
        let text = status.exposition().unwrap();
        for line in [
            "tapeline_producer_messages_total 1",
            "tapeline_producer_records_total 5",
            "tapeline_producer_payload_bytes_total 700",
            "tapeline_producer_ticks_done 3",
            "tapeline_producer_state{state=\"Running\"} 1",
            "tapeline_producer_state{state=\"Starting\"} 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
        }
    }
}
