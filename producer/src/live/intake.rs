//! The way from a source to the brokers' client: what came before is dropped, what is missing is told, and the rest is handed on when there is room for it.

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendError;

use super::health::Health;
use super::mapping::Element;
use super::seen::Seen;
use crate::kafka::live::Message;

/// A source's end of the way.
pub struct Intake {
    seen: Seen,
    health: Health,
    messages: mpsc::Sender<Message>,
    topics: usize,
    /// Whose turn it is.
    turn: usize,
}

impl Intake {
    /// A way into so many topics, which get a message each by turns; `consecutive` if ids count up by one for each key.
    #[must_use]
    pub fn new(consecutive: bool, health: Health, messages: mpsc::Sender<Message>, topics: usize) -> Self {
        Self { seen: Seen::new(consecutive), health, messages, topics: topics.max(1), turn: 0 }
    }

    /// Hands on what a frame or an answer has, beside so many things that mean nothing. Waits for room.
    ///
    /// # Errors
    /// Nobody takes messages any more: the process ends.
    pub async fn take(&mut self, elements: Vec<Element>, unknown: u64) -> Result<(), SendError<Message>> {
        let sifted = self.seen.sift(elements);
        self.health.numbers().frame(sifted.repeats, unknown);
        self.health.heard(sifted.new.len());
        for gap in &sifted.gaps {
            self.health.numbers().missing(gap.missing);
            tracing::warn!(key = gap.key, first = gap.first, missing = gap.missing, "the feed left ids out: what they belong to was not delivered");
        }
        for Element { key, payload, .. } in sifted.new {
            self.messages.send(Message { topic: self.turn, key, payload }).await?;
            self.turn = (self.turn + 1) % self.topics;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Status;

    #[tokio::test]
    async fn what_is_new_goes_to_the_topics_by_turns_and_is_counted_before_it_is_taken() {
        let health = Health::new(Status::default());
        let (messages, mut taken) = mpsc::channel(1);
        let mut intake = Intake::new(true, health.clone(), messages, 2);
        let element = |id: u64| Element { key: Some("a".to_owned()), id: Some(id.to_string()), payload: id.to_string() };
        let taker = async {
            let first = taken.recv().await.unwrap();
            assert_eq!(health.all_heard(), 3, "those that wait for room too");
            let mut all = vec![first];
            while all.len() < 4 {
                all.push(taken.recv().await.unwrap());
            }
            all.into_iter().map(|message| (message.topic, message.payload)).collect::<Vec<_>>()
        };
        let giver = async {
            intake.take([1, 2, 3].map(element).into(), 0).await.unwrap();
            intake.take([3, 9].map(element).into(), 1).await.unwrap();
        };
        let (sent, ()) = tokio::join!(taker, giver);
        assert_eq!(sent, [(0, "1"), (1, "2"), (0, "3"), (1, "9")].map(|(topic, payload)| (topic, payload.to_owned())));
        let report = health.status().report().feed.unwrap();
        assert_eq!((report.repeats_total, report.missing_total, report.unknown_total, health.all_heard()), (1, 5, 1, 4));
        drop(taken);
        assert!(intake.take(vec![element(10)], 0).await.is_err());
    }
}
