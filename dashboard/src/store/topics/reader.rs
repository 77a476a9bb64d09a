//! A consumer that belongs to no group's members and commits nothing: it is told which offsets to read, and ends. Everything here blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use rdkafka::{Offset, TopicPartitionList};
use tapeline_api::names::TopicName;
use tapeline_api::settings::KafkaSettings;

use super::super::StoreError;
use super::backlog::Window;

/// How long one poll waits.
const POLL: Duration = Duration::from_millis(100);

/// What every client has in common. What has to be so comes after what the pipeline sets, and wins.
pub(super) fn client_config(kafka: &KafkaSettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (key, value) in &kafka.client_properties {
        config.set(key, value);
    }
    config
        .set("bootstrap.servers", &kafka.bootstrap_servers)
        .set("client.id", "tapeline-dashboard")
        .set("socket.connection.setup.timeout.ms", "5000")
        .set("reconnect.backoff.max.ms", "2000")
        .set("log.connection.close", "false")
        .set_log_level(RDKafkaLogLevel::Critical);
    config
}

/// librdkafka wants a group's name before it lets anybody assign partitions; the group has no members and no offsets. The queues are small: the dashboard's memory is.
fn consumer_config(kafka: &KafkaSettings) -> ClientConfig {
    let mut config = client_config(kafka);
    config
        .set("group.id", "tapeline-dashboard")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "earliest")
        .set("allow.auto.create.topics", "false")
        .set("fetch.message.max.bytes", "262144")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.queue.backoff.ms", "5")
        .set("queued.min.messages", "500")
        .set("queued.max.messages.kbytes", "1024");
    config
}

/// What librdkafka says beside its answers: that a login is refused is heard nowhere else.
#[derive(Default)]
pub(super) struct Heard(Mutex<Option<RDKafkaErrorCode>>);

impl Heard {
    fn refusal(&self) -> Option<RDKafkaErrorCode> {
        self.0.lock().ok().and_then(|code| *code)
    }
}

impl ClientContext for Heard {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
        if let Some(code) = error.rdkafka_error_code().filter(|code| is_refusal(*code))
            && let Ok(mut heard) = self.0.lock()
        {
            *heard = Some(code);
        }
    }
}

impl ConsumerContext for Heard {}

/// A consumer for one topic.
pub(super) struct Reader {
    consumer: BaseConsumer<Heard>,
    topic: String,
    /// The topic's partitions.
    pub(super) partitions: Vec<i32>,
}

/// How far windows were read.
pub(super) struct Read {
    /// Messages that were looked at, by partition.
    pub(super) scanned: BTreeMap<i32, usize>,
    /// The partitions whose window was read to its end.
    pub(super) done: BTreeSet<i32>,
}

impl Reader {
    /// Connects, and looks the topic up.
    pub(super) fn connect(kafka: &KafkaSettings, topic: &TopicName, deadline: Instant) -> Result<Self, StoreError> {
        let consumer: BaseConsumer<Heard> = consumer_config(kafka).create_with_context(Heard::default()).map_err(|error| of_settings(&error))?;
        let mut reader = Self { consumer, topic: topic.to_string(), partitions: Vec::new() };
        reader.partitions = reader.look_up(&reader.topic, deadline)?;
        Ok(reader)
    }

    /// The partitions of a topic.
    pub(super) fn look_up(&self, topic: &str, deadline: Instant) -> Result<Vec<i32>, StoreError> {
        let metadata = self.consumer.fetch_metadata(Some(topic), left(deadline)).map_err(|error| {
            self.listen();
            self.trouble(&error)
        })?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        if let Some(error) = found.and_then(MetadataTopic::error) {
            return Err(of_code(&self.topic, error.into(), None));
        }
        let partitions: Vec<i32> = found.into_iter().flat_map(MetadataTopic::partitions).map(MetadataPartition::id).collect();
        if partitions.is_empty() { Err(missing(topic)) } else { Ok(partitions) }
    }

    /// Whether the topic has others than these partitions now; no, if nobody answers.
    pub(super) fn has_other_partitions(&self, limit: Duration) -> bool {
        let metadata = self.consumer.fetch_metadata(Some(self.topic.as_str()), limit);
        metadata.is_ok_and(|metadata| metadata.topics().iter().any(|found| found.name() == self.topic && found.partitions().len() != self.partitions.len()))
    }

    /// Why there is no answer is said to those who poll only.
    fn listen(&self) {
        let end = Instant::now() + POLL;
        while Instant::now() < end {
            drop(self.consumer.poll(POLL / 10));
        }
    }

    /// The offsets that a partition has.
    pub(super) fn range(&self, partition: i32, deadline: Instant) -> Result<Window, StoreError> {
        if !self.partitions.contains(&partition) {
            return Err(StoreError::Missing(format!("the topic {} has no partition {partition}", self.topic)));
        }
        let (from, to) = self.consumer.fetch_watermarks(&self.topic, partition, left(deadline)).map_err(|error| self.trouble(&error))?;
        Ok(Window { partition, from: from.min(to), to })
    }

    /// Hands the messages of `windows`, one for each partition, to `each`: until all are read, `most` messages were looked at, or the deadline has come. Offsets without
    /// messages are no reason to wait: a window ends with the first message behind it, too, and with the partition.
    pub(super) fn read(&self, windows: &[Window], most: usize, deadline: Instant, mut each: impl FnMut(&BorrowedMessage<'_>)) -> Result<Read, StoreError> {
        let ends: BTreeMap<i32, i64> = windows.iter().map(|window| (window.partition, window.to)).collect();
        self.assign(windows.iter().map(|window| (window.partition, window.from)))?;
        let (mut scanned, mut done, mut total) = (BTreeMap::new(), BTreeSet::new(), 0);
        while done.len() < ends.len() && total < most && Instant::now() < deadline {
            let partition = match self.poll(left(deadline).min(POLL))? {
                Polled::Nothing => continue,
                Polled::End(partition) => partition,
                Polled::Message(message) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    let Some(end) = ends.get(&partition).filter(|_| !done.contains(&partition)) else { continue };
                    if offset < *end {
                        *scanned.entry(partition).or_insert(0) += 1;
                        total += 1;
                        each(&message);
                    }
                    if offset + 1 < *end {
                        continue;
                    }
                    partition
                }
            };
            if ends.contains_key(&partition) && done.insert(partition) {
                self.pause(partition)?;
            }
        }
        Ok(Read { scanned, done })
    }

    /// Reads from these offsets on.
    pub(super) fn assign(&self, places: impl Iterator<Item = (i32, i64)>) -> Result<(), StoreError> {
        let mut assignment = TopicPartitionList::new();
        for (partition, offset) in places {
            assignment.add_partition_offset(&self.topic, partition, Offset::Offset(offset)).map_err(|error| self.trouble(&error))?;
        }
        self.consumer.assign(&assignment).map_err(|error| self.trouble(&error))?;
        // A partition that was paused in an earlier round would stay so, in whatever assignment it is.
        self.consumer.resume(&assignment).map_err(|error| self.trouble(&error))
    }

    fn pause(&self, partition: i32) -> Result<(), StoreError> {
        let mut paused = TopicPartitionList::new();
        paused.add_partition(&self.topic, partition);
        self.consumer.pause(&paused).map_err(|error| self.trouble(&error))
    }

    /// What comes next. Brokers that are away are no error: others stand in for them, or librdkafka connects again; those who do not wait for that have a deadline.
    pub(super) fn poll(&self, limit: Duration) -> Result<Polled<'_>, StoreError> {
        use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, GroupAuthorizationFailed, OperationTimedOut, Resolve};

        match self.consumer.poll(limit) {
            None => Ok(Polled::Nothing),
            Some(Ok(message)) => Ok(Polled::Message(message)),
            Some(Err(KafkaError::PartitionEOF(partition))) => Ok(Polled::End(partition)),
            // The group is only a name.
            Some(Err(KafkaError::MessageConsumption(BrokerTransportFailure | GroupAuthorizationFailed | OperationTimedOut | Resolve))) => Ok(Polled::Nothing),
            Some(Err(KafkaError::MessageConsumption(AllBrokersDown))) if self.consumer.context().refusal().is_none() => Ok(Polled::Nothing),
            Some(Err(error)) => Err(self.trouble(&error)),
        }
    }

    /// What an error means.
    pub(super) fn trouble(&self, error: &KafkaError) -> StoreError {
        tracing::debug!(topic = self.topic, %error, "kafka");
        error.rdkafka_error_code().map_or_else(unreachable, |code| of_code(&self.topic, code, self.consumer.context().refusal()))
    }
}

/// What a poll gives.
pub(super) enum Polled<'a> {
    /// Nothing yet.
    Nothing,
    /// A message.
    Message(BorrowedMessage<'a>),
    /// The end of a partition.
    End(i32),
}

/// What is left until `deadline`. Not nothing, which librdkafka takes for no answer at all.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

const fn is_refusal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{Authentication, ClusterAuthorizationFailed, SaslAuthenticationFailed, TopicAuthorizationFailed, UnsupportedSASLMechanism};
    matches!(code, Authentication | SaslAuthenticationFailed | UnsupportedSASLMechanism | TopicAuthorizationFailed | ClusterAuthorizationFailed)
}

/// What `code` means for whoever looks at `topic`, where librdkafka has said before that it was refused, or not.
pub(super) fn of_code(topic: &str, code: RDKafkaErrorCode, refusal: Option<RDKafkaErrorCode>) -> StoreError {
    use RDKafkaErrorCode::{InvalidTopic, UnknownPartition, UnknownTopic, UnknownTopicOrPartition};
    match code {
        UnknownTopic | UnknownTopicOrPartition | UnknownPartition | InvalidTopic => missing(topic),
        code if is_refusal(code) || refusal.is_some() => {
            let text =
                format!("Kafka refuses the user, the password or a permission for the topic {topic}: put them right in the Secret, or allow READ and DESCRIBE");
            StoreError::Denied(text)
        }
        _ => unreachable(),
    }
}

fn missing(topic: &str) -> StoreError {
    StoreError::Missing(format!("the topic {topic} is not there: the pipeline's conditions say why it was not created, or create it"))
}

fn unreachable() -> StoreError {
    StoreError::Unreachable("Kafka does not answer within 5 s: look whether it runs, and at spec.kafka.bootstrapServers".to_owned())
}

/// Settings that librdkafka refuses. Their values are not said: one of them may be a password.
pub(super) fn of_settings(error: &KafkaError) -> StoreError {
    match error {
        KafkaError::ClientConfig(_, _, key, _) => StoreError::Invalid(format!("spec.kafka.clientProperties: librdkafka does not take {key}, or its value")),
        _ => StoreError::Invalid("librdkafka does not take the settings under spec.kafka: see the operator's conditions".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn settings(properties: &[(&str, &str)]) -> KafkaSettings {
        let client_properties = properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        KafkaSettings { bootstrap_servers: "127.0.0.1:1".to_owned(), client_properties }
    }

    #[rstest]
    #[case::topic(RDKafkaErrorCode::UnknownTopicOrPartition, None, StoreError::Missing(String::new()))]
    #[case::permission(RDKafkaErrorCode::TopicAuthorizationFailed, None, StoreError::Denied(String::new()))]
    #[case::away(RDKafkaErrorCode::AllBrokersDown, None, StoreError::Unreachable(String::new()))]
    #[case::away_since_it_refuses(RDKafkaErrorCode::BrokerTransportFailure, Some(RDKafkaErrorCode::Authentication), StoreError::Denied(String::new()))]
    fn what_kafka_says(#[case] code: RDKafkaErrorCode, #[case] refusal: Option<RDKafkaErrorCode>, #[case] expected: StoreError) {
        assert_eq!(std::mem::discriminant(&of_code("ticks", code, refusal)), std::mem::discriminant(&expected));
    }

    #[test]
    fn what_has_to_be_so_wins_over_what_the_pipeline_sets() {
        let config = consumer_config(&settings(&[("isolation.level", "read_uncommitted"), ("queued.max.messages.kbytes", "1000000"), ("sasl.username", "me")]));
        assert_eq!(config.get("isolation.level"), Some("read_committed"));
        assert_eq!(config.get("queued.max.messages.kbytes"), Some("1024"));
        assert_eq!(config.get("sasl.username"), Some("me"));
        assert_eq!(config.get("enable.auto.commit"), Some("false"));
    }

    #[test]
    fn the_value_of_a_setting_is_never_said() {
        let deadline = Instant::now();
        let Err(error) = Reader::connect(&settings(&[("security.protocol", "hunter2")]), &"ticks".parse().unwrap(), deadline) else { unreachable!() };
        assert!(matches!(&error, StoreError::Invalid(text) if !text.contains("hunter2")), "{error}");
    }

    #[test]
    fn a_live_view_outlives_brokers_that_are_away() {
        let consumer: BaseConsumer<Heard> = consumer_config(&settings(&[])).create_with_context(Heard::default()).unwrap();
        let reader = Reader { consumer, topic: "ticks".to_owned(), partitions: vec![0] };
        reader.assign([(0, 0)].into_iter()).unwrap();
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            assert!(matches!(reader.poll(POLL), Ok(Polled::Nothing)));
        }
    }

    #[test]
    fn brokers_that_are_away_are_waited_for_until_the_deadline() {
        let begun = Instant::now();
        let result = Reader::connect(&settings(&[]), &"ticks".parse().unwrap(), begun + Duration::from_millis(300));
        assert!(matches!(result.err(), Some(StoreError::Unreachable(_))));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}
