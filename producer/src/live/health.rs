//! What the status says of a source outside: it depends on two others, the feed and the brokers, each of which comes and goes by itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tapeline_api::report::Problem;

use super::numbers::FeedNumbers;
use crate::status::Status;

/// A handle on what is known of both.
#[derive(Debug, Clone)]
pub struct Health {
    status: Status,
    known: Arc<Mutex<Known>>,
    heard: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Known {
    connected: bool,
    feed: Option<Problem>,
    brokers: Option<Problem>,
}

impl Health {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(status: Status) -> Self {
        status.metrics().feed.begin();
        Self { status, known: Arc::default(), heard: Arc::default() }
    }

    /// The numbers.
    #[must_use]
    pub fn numbers(&self) -> &FeedNumbers {
        &self.status.metrics().feed
    }

    /// The status that all this goes to.
    #[must_use]
    pub const fn status(&self) -> &Status {
        &self.status
    }

    /// So many messages were read, and are to be sent.
    pub fn heard(&self, messages: usize) {
        self.heard.fetch_add(u64::try_from(messages).unwrap_or(0), Ordering::Relaxed);
    }

    /// How many were read in all.
    #[must_use]
    pub fn all_heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// The feed delivers, as far as it has anything.
    pub fn connected(&self) {
        self.numbers().connected(true);
        self.set(|known| (known.connected, known.feed) = (true, None));
    }

    /// The feed does not deliver, and why.
    pub fn disconnected(&self, problem: Problem) {
        self.numbers().connected(false);
        self.set(|known| (known.connected, known.feed) = (false, Some(problem)));
    }

    /// The feed delivers, but refuses a part of what it was asked for.
    pub fn complains(&self, problem: Problem) {
        self.set(|known| known.feed = Some(problem));
    }

    /// Whether the brokers take messages.
    pub fn brokers(&self, problem: Option<Problem>) {
        self.set(|known| known.brokers = problem);
    }

    /// The brokers first: as long as they take nothing, nothing is read.
    fn set(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.known();
        change(&mut known);
        match known.brokers.as_ref().or(known.feed.as_ref()) {
            Some(problem) => self.status.waiting(problem.clone()),
            None if known.connected => self.status.running(),
            None => self.status.starting(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tapeline_api::report::{ProblemClass, ProducerState};

    use super::*;
    use crate::halt::problem;

    #[test]
    fn the_brokers_come_before_the_feed_and_neither_hides_the_other() {
        let health = Health::new(Status::default());
        let now = || {
            let report = health.status().report();
            (report.state, report.problem.map(|problem| problem.class), report.feed.unwrap().connected)
        };
        health.disconnected(problem(ProblemClass::FeedUnreachable, "away".to_owned()));
        health.brokers(Some(problem(ProblemClass::KafkaUnreachable, "away".to_owned())));
        assert_eq!(now(), (ProducerState::Waiting, Some(ProblemClass::KafkaUnreachable), false));
        health.brokers(None);
        assert_eq!(now(), (ProducerState::Waiting, Some(ProblemClass::FeedUnreachable), false));
        health.connected();
        assert_eq!(now(), (ProducerState::Running, None, true));
        health.complains(problem(ProblemClass::FeedRefuses, "no such symbol".to_owned()));
        assert_eq!(now(), (ProducerState::Waiting, Some(ProblemClass::FeedRefuses), true));
    }
}
