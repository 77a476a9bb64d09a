//! The dead-letter topic: records that cannot be read, and rows that a store refuses. They are acknowledged before progress moves; a micro-batch that is read
//! again sends them again, under the same key.

use std::time::Duration;

use futures::future::try_join_all;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tapeline_api::report::{Problem, ProblemClass};
use tapeline_api::settings::WorkerSettings;

use crate::consumer::client_config;
use crate::sink::RefusedRow;
use tapeline_query::decode::BadRecord;

/// What is kept of a record that the dead-letter topic itself refuses for its size.
const FIRST: usize = 256 << 10;

/// A record for the dead-letter topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
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

impl From<BadRecord> for DeadLetter {
    fn from(record: BadRecord) -> Self {
        let BadRecord { partition, offset, index, error, payload } = record;
        Self { partition, offset, index: index.and_then(|index| i64::try_from(index).ok()), error, payload }
    }
}

impl From<RefusedRow> for DeadLetter {
    fn from(row: RefusedRow) -> Self {
        let RefusedRow { partition, offset, index, error, payload } = row;
        Self { partition, offset, index: Some(index.into()), error, payload }
    }
}

/// Sends to the dead-letter topic of one query.
pub struct DeadLetters {
    producer: FutureProducer,
    topic: String,
    source: String,
    pipeline: String,
    query: String,
}

impl DeadLetters {
    /// A sender for `settings`; none if the stream has no dead-letter topic.
    ///
    /// # Errors
    /// The client's settings are refused by librdkafka.
    pub fn new(settings: &WorkerSettings) -> Result<Option<Self>, rdkafka::error::KafkaError> {
        let Some(topic) = &settings.stream.dead_letter_topic else { return Ok(None) };
        let producer = client_config(&settings.kafka)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", "30000")
            .set("message.max.bytes", "100000000") // the topic's own limit decides
            .set("queue.buffering.max.kbytes", "16384")
            .set("linger.ms", "5")
            .create()?;
        Ok(Some(Self {
            producer,
            topic: topic.to_string(),
            source: settings.stream.topic.to_string(),
            pipeline: format!("{}/{}", settings.namespace, settings.pipeline),
            query: settings.query.to_string(),
        }))
    }

    /// Sends, and returns when all are acknowledged.
    ///
    /// # Errors
    /// The topic or the brokers are not there: an outage.
    pub async fn send(&self, letters: &[DeadLetter]) -> Result<(), Problem> {
        try_join_all(letters.iter().map(|letter| self.send_one(letter))).await.map(drop)
    }

    async fn send_one(&self, letter: &DeadLetter) -> Result<(), Problem> {
        use rdkafka::error::RDKafkaErrorCode::{MessageSizeTooLarge, UnknownPartition, UnknownTopic, UnknownTopicOrPartition};
        let first = letter.payload.get(..FIRST).unwrap_or(&letter.payload);
        let mut result = self.attempt(letter, &letter.payload).await;
        if result == Err(Some(MessageSizeTooLarge)) {
            result = self.attempt(letter, first).await;
        }
        let problem = |class, message: &str| Problem { class, message: message.to_owned(), partition: Some(letter.partition), offset: Some(letter.offset) };
        match result {
            Ok(()) => Ok(()),
            Err(Some(UnknownTopic | UnknownTopicOrPartition | UnknownPartition)) => {
                Err(problem(ProblemClass::TopicMissing, "the dead-letter topic is not there"))
            }
            Err(code) => {
                let text = code.map_or_else(|| "no answer".to_owned(), |code| code.to_string());
                Err(problem(ProblemClass::KafkaUnreachable, &format!("the dead-letter topic does not take a record: {text}")))
            }
        }
    }

    async fn attempt(&self, letter: &DeadLetter, payload: &[u8]) -> Result<(), Option<rdkafka::error::RDKafkaErrorCode>> {
        let index = letter.index.map(|index| index.to_string()).unwrap_or_default();
        let (partition, offset) = (letter.partition.to_string(), letter.offset.to_string());
        let key = format!("{}/{partition}/{offset}/{index}", self.source);
        let headers = [
            ("tapeline-pipeline", &self.pipeline),
            ("tapeline-query", &self.query),
            ("tapeline-topic", &self.source),
            ("tapeline-partition", &partition),
            ("tapeline-offset", &offset),
            ("tapeline-index", &index),
            ("tapeline-error", &letter.error),
        ];
        let headers = headers.into_iter().fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value) }));
        let record = FutureRecord::to(&self.topic).key(&key).payload(payload).headers(headers);
        match self.producer.send(record, Duration::from_secs(30)).await {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(error.rdkafka_error_code()),
        }
    }
}
