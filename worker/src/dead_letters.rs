//! The dead-letter topic: records that cannot be read, and rows that a store refuses. They are acknowledged before progress moves; a micro-batch that is read
//! again sends them again, under the same key.

use futures::stream::{self, StreamExt};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use tapeline_api::dead_letter::{CUT, ERROR, INDEX, KIND, Kind, OFFSET, PARTITION, PIPELINE, QUERY, TOPIC};
use tapeline_api::report::{Problem, ProblemClass};
use tapeline_api::settings::WorkerSettings;

use crate::consumer::client_config;
use crate::sink::RefusedRow;
use tapeline_query::decode::BadRecord;

/// Records that are on their way at once.
const IN_FLIGHT: usize = 256;

/// A record for the dead-letter topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    kind: Kind,
    partition: i32,
    offset: i64,
    index: Option<i64>,
    error: String,
    payload: Vec<u8>,
}

impl DeadLetter {
    /// What stops a query that has no dead-letter topic for this row.
    #[must_use]
    pub fn without_topic(&self) -> Problem {
        Problem {
            class: ProblemClass::BadRecord,
            message: format!("a row is refused for its content, and the stream has no deadLetterTopic for it: {}", self.error),
            partition: Some(self.partition),
            offset: Some(self.offset),
        }
    }
}

impl DeadLetter {
    /// The record, or the row as JSON.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// What is kept of it where all of it is too large.
    #[must_use]
    pub fn beginning(&self) -> &[u8] {
        self.payload.get(..CUT).unwrap_or(&self.payload)
    }
}

impl From<BadRecord> for DeadLetter {
    fn from(record: BadRecord) -> Self {
        let BadRecord { partition, offset, index, error, payload } = record;
        Self { kind: Kind::Record, partition, offset, index: index.and_then(|index| i64::try_from(index).ok()), error, payload }
    }
}

impl From<RefusedRow> for DeadLetter {
    fn from(row: RefusedRow) -> Self {
        let RefusedRow { partition, offset, index, error, payload } = row;
        Self { kind: Kind::Row, partition, offset, index: Some(index.into()), error, payload }
    }
}

/// How the records of one query's dead-letter topic look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stationery {
    topic: String,
    source: String,
    pipeline: String,
    query: String,
}

impl Stationery {
    /// That of `settings`; none if the stream has no dead-letter topic.
    #[must_use]
    pub fn new(settings: &WorkerSettings) -> Option<Self> {
        let topic = settings.stream.dead_letter_topic.as_ref()?.to_string();
        let (source, query) = (settings.stream.topic.to_string(), settings.query.to_string());
        Some(Self { topic, source, pipeline: format!("{}/{}", settings.namespace, settings.pipeline), query })
    }

    /// The dead-letter topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The key of the record for `letter`, and its headers. The value is the letter's payload, or what fits of it.
    #[must_use]
    pub fn write(&self, letter: &DeadLetter) -> (String, OwnedHeaders) {
        let index = letter.index.map(|index| index.to_string()).unwrap_or_default();
        let (partition, offset) = (letter.partition.to_string(), letter.offset.to_string());
        let key = format!("{}/{partition}/{offset}/{index}", self.source);
        let headers: [(&str, &str); 8] = [
            (PIPELINE, &self.pipeline),
            (QUERY, &self.query),
            (TOPIC, &self.source),
            (PARTITION, &partition),
            (OFFSET, &offset),
            (INDEX, &index),
            (KIND, letter.kind.as_str()),
            (ERROR, &letter.error),
        ];
        (key, headers.into_iter().fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value) })))
    }
}

/// Sends to the dead-letter topic of one query.
pub struct DeadLetters {
    producer: FutureProducer,
    stationery: Stationery,
}

impl DeadLetters {
    /// A sender for `settings`; none if the stream has no dead-letter topic.
    ///
    /// # Errors
    /// The client's settings are refused by librdkafka.
    pub fn new(settings: &WorkerSettings) -> Result<Option<Self>, rdkafka::error::KafkaError> {
        let Some(stationery) = Stationery::new(settings) else { return Ok(None) };
        let producer = client_config(&settings.kafka)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", "30000")
            .set("message.max.bytes", "100000000") // the topic's own limit decides
            .set("queue.buffering.max.kbytes", "16384")
            .set("linger.ms", "5")
            .create()?;
        Ok(Some(Self { producer, stationery }))
    }

    /// Sends, and returns when all are acknowledged. Those that are acknowledged are out of `letters`, so that another attempt goes on behind them.
    ///
    /// # Errors
    /// The topic or the brokers are not there: an outage.
    pub async fn send(&self, letters: &mut Vec<DeadLetter>) -> Result<(), Problem> {
        let (acknowledged, result) = in_order(letters, |letter| self.send_one(letter)).await;
        letters.drain(..acknowledged);
        result
    }

    async fn send_one(&self, letter: &DeadLetter) -> Result<(), Problem> {
        use rdkafka::error::RDKafkaErrorCode::{MessageSizeTooLarge, UnknownPartition, UnknownTopic, UnknownTopicOrPartition};
        let mut result = self.attempt(letter, &letter.payload).await;
        if result == Err(Some(MessageSizeTooLarge)) {
            result = self.attempt(letter, letter.beginning()).await;
        }
        let problem = |class, message| Problem { class, message, partition: Some(letter.partition), offset: Some(letter.offset) };
        match result {
            Ok(()) => Ok(()),
            Err(Some(UnknownTopic | UnknownTopicOrPartition | UnknownPartition)) => {
                let text = format!("the dead-letter topic {} is not there: declare it under spec.kafka.topics, or create it", self.stationery.topic);
                Err(problem(ProblemClass::TopicMissing, text))
            }
            Err(code) => {
                let why = code.map_or_else(|| "no answer".to_owned(), |code| code.to_string());
                Err(problem(ProblemClass::KafkaUnreachable, format!("the dead-letter topic {} does not take a record: {why}", self.stationery.topic)))
            }
        }
    }

    async fn attempt(&self, letter: &DeadLetter, payload: &[u8]) -> Result<(), Option<rdkafka::error::RDKafkaErrorCode>> {
        let (key, headers) = self.stationery.write(letter);
        let record = FutureRecord::to(&self.stationery.topic).key(&key).payload(payload).headers(headers);
        // No limit to the wait for room in the queue: what is in it is acknowledged or given up within message.timeout.ms.
        match self.producer.send(record, Timeout::Never).await {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(error.rdkafka_error_code()),
        }
    }
}

/// Sends `letters`, some at once, and returns how many from the first on are acknowledged.
async fn in_order<'a, F>(letters: &'a [DeadLetter], send: impl Fn(&'a DeadLetter) -> F) -> (usize, Result<(), Problem>)
where
    F: Future<Output = Result<(), Problem>>,
{
    let mut results = stream::iter(letters).map(send).buffered(IN_FLIGHT);
    let mut acknowledged = 0;
    while let Some(result) = results.next().await {
        match result {
            Ok(()) => acknowledged += 1,
            Err(problem) => return (acknowledged, Err(problem)),
        }
    }
    (acknowledged, Ok(()))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use rdkafka::message::Headers as _;

    use super::*;

    #[test]
    fn a_letter_says_whether_it_holds_a_record_or_a_row() {
        let text = |text: &str| text.to_owned();
        let stationery = Stationery { topic: text("ticks.dead-letter"), source: text("ticks"), pipeline: text("ns/p"), query: text("raw") };
        let letters = [
            DeadLetter::from(BadRecord { partition: 1, offset: 7, index: None, error: text("not JSON"), payload: Vec::new() }),
            DeadLetter::from(BadRecord { partition: 1, offset: 7, index: Some(2), error: text("not JSON"), payload: Vec::new() }),
            DeadLetter::from(RefusedRow { partition: 1, offset: 7, index: 0, error: text("out of range"), payload: Vec::new() }),
        ];
        let written = letters.each_ref().map(|letter| {
            let (key, headers) = stationery.write(letter);
            let header = |name: &str| headers.iter().find(|header| header.key == name).and_then(|header| header.value).map(<[u8]>::to_vec);
            (key, header("tapeline-kind"), header("tapeline-index"), header("tapeline-error"))
        });
        let expected = |key: &str, kind: &str, index: &str, error: &str| {
            let bytes = |text: &str| Some(text.as_bytes().to_vec());
            (text(key), bytes(kind), bytes(index), bytes(error))
        };
        assert_eq!(
            written,
            [
                expected("ticks/1/7/", "record", "", "not JSON"),
                expected("ticks/1/7/2", "record", "2", "not JSON"),
                expected("ticks/1/7/0", "row", "0", "out of range"),
            ]
        );
    }

    #[tokio::test]
    async fn after_an_outage_sending_goes_on_behind_what_was_acknowledged() {
        let letter = |offset| DeadLetter { kind: Kind::Record, partition: 0, offset, index: None, error: String::new(), payload: Vec::new() };
        let letters: Vec<DeadLetter> = (0..10_000).map(letter).collect();
        let sent = Cell::new(0);
        let (acknowledged, result) = in_order(&letters, |letter| {
            sent.set(sent.get() + 1);
            async {
                tokio::task::yield_now().await;
                if letter.offset < 1_000 { Ok(()) } else { Err(letter.without_topic()) }
            }
        })
        .await;
        assert_eq!((acknowledged, result.unwrap_err().offset), (1_000, Some(1_000)));
        assert!(sent.get() <= 1_000 + IN_FLIGHT, "{} were begun", sent.get());
    }
}
