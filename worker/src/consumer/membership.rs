//! Proof of membership for whoever commits in a transaction of Kafka. It changes with every rebalance, and only the thread that owns the consumer knows which
//! partitions are still its own, so that thread is asked anew for each commit.

use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use rdkafka::consumer::ConsumerGroupMetadata;

use super::Command;

/// How long the thread may take. It may be waiting for brokers, 5 s for the offsets of new partitions and 1 s for an end; usually it answers with its next poll, within
/// 100 ms.
const ANSWER: Duration = Duration::from_secs(10);

/// Asks the consumer's thread.
#[derive(Debug, Clone)]
pub struct Membership(std_mpsc::Sender<Command>);

/// The consumer's thread did not answer, or is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the consumer does not say whether it is a member of its group")]
pub struct NoAnswer;

impl Membership {
    /// Asks the thread that `commands` go to.
    #[must_use]
    pub const fn new(commands: std_mpsc::Sender<Command>) -> Self {
        Self(commands)
    }

    /// What proves to the group's coordinator that `partitions` are this member's; None if they are not. Blocks.
    ///
    /// # Errors
    /// No answer.
    pub fn prove(&self, partitions: Vec<i32>) -> Result<Option<ConsumerGroupMetadata>, NoAnswer> {
        let (answer, answered) = std_mpsc::sync_channel(1);
        self.0.send(Command::Prove { partitions, answer }).map_err(|_| NoAnswer)?;
        answered.recv_timeout(ANSWER).map_err(|_| NoAnswer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_that_has_ended_proves_nothing() {
        let (commands, receiver) = std_mpsc::channel();
        drop(receiver);
        assert_eq!(Membership::new(commands).prove(vec![0]).err(), Some(NoAnswer));
    }
}
