//! A producer with a transactional id, and one transaction on it: everything else of it is with the brokers before membership is proved, and that before the
//! commit. Whatever fails before the commit is aborted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, NoCustomPartitioner, Producer, ProducerContext};
use rdkafka::util::Timeout;
use rdkafka::{Offset, TopicPartitionList};
use tapeline_api::report::ProblemClass;

use super::progress::the_topic;
use super::trouble::{by_code, classify, unreachable};
use crate::consumer::Membership;
use crate::sink::{Progress, SinkError};

/// How long the coordinator lets a transaction be open. What a vanished worker left open holds back all who read committed records, for so long.
const TRANSACTION: Duration = Duration::from_secs(30);
/// How long a message may take; the rest of a transaction's time is for what follows.
const MESSAGE: Duration = Duration::from_secs(20);
const REQUEST: Duration = Duration::from_secs(10);
/// How long a new producer may wait for what the last one with its id has left open.
const INITIALISE: Duration = Duration::from_secs(15);
/// How long the group's offsets may take: librdkafka's own limit, and a little more.
const OFFSETS: Duration = Duration::from_secs(12);
const POLL: Duration = Duration::from_millis(2);
/// How long the reports of all messages may take once one has failed: what is under way is answered, or not.
const REPORTS: Duration = Duration::from_secs(2);

/// A message of a transaction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) topic: &'a str,
    pub(super) key: Option<&'a [u8]>,
    pub(super) payload: &'a [u8],
    pub(super) headers: Option<&'a OwnedHeaders>,
    /// What it is called if a broker refuses it.
    pub(super) number: usize,
}

/// Why a transaction was not committed. Only in the last case it may have been all the same.
#[derive(Debug)]
pub(super) enum Failure {
    /// Brokers refuse messages, by their numbers, for their content.
    Refused(Vec<(usize, RDKafkaErrorCode)>),
    /// Nothing was committed.
    Aborted(SinkError),
    /// The commit's answer is unknown.
    InDoubt(SinkError),
}

/// A message that was not taken: its number, why, and its topic.
type Report = (usize, RDKafkaErrorCode, String);

/// What the brokers said of messages that they did not take.
#[derive(Debug, Default)]
struct Deliveries(Mutex<Vec<Report>>);

impl Deliveries {
    fn lock(&self) -> MutexGuard<'_, Vec<Report>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka");
    }
}

impl ProducerContext<NoCustomPartitioner> for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        if let Err((error, message)) = result {
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
            self.lock().push((number, code, rdkafka::Message::topic(message).to_owned()));
        }
    }
}

/// A producer that is ready for a transaction.
pub(super) struct Transactional(Arc<BaseProducer<Deliveries>>);

impl Transactional {
    /// Makes one. Whatever an earlier one with this `id` has left open has ended when this returns, and that one can do nothing any more. `singly`: a broker sees each
    /// message by itself, so that what it says of one is not said of its neighbours.
    pub(super) fn new(config: &ClientConfig, id: &str, singly: bool) -> Result<Self, SinkError> {
        let mut config = config.clone();
        let ms = |duration: Duration| duration.as_millis().to_string();
        config
            .set("transactional.id", id)
            .set("transaction.timeout.ms", ms(TRANSACTION))
            .set("message.timeout.ms", ms(MESSAGE))
            .set("socket.timeout.ms", ms(REQUEST))
            .set("partitioner", "murmur2_random") // as Java's producers do: equal keys meet in one partition, whoever writes them
            .set("message.max.bytes", "100000000") // the topic's own limit decides
            .set("batch.size", "131072")
            .set("queue.buffering.max.kbytes", "8192")
            .set("linger.ms", "5");
        if singly {
            config.set("batch.num.messages", "1");
        }
        let producer: BaseProducer<Deliveries> =
            config.create_with_context(Deliveries::default()).map_err(|error| classify(&error, "a transactional producer"))?;
        producer.init_transactions(INITIALISE).map_err(|error| classify(&error, "a transactional producer"))?;
        Ok(Self(Arc::new(producer)))
    }

    /// Begins a transaction.
    pub(super) fn begin(&self) -> Result<(), Failure> {
        self.reports();
        self.0.begin_transaction().map_err(|error| Failure::Aborted(classify(&error, "a transaction")))
    }

    /// Adds a message, waiting for room.
    pub(super) fn send(&self, message: Message<'_>) -> Result<(), Failure> {
        let Message { topic, key, payload, headers, number } = message;
        let mut record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(topic, number).payload(payload);
        if let Some(key) = key {
            record = record.key(key);
        }
        if let Some(headers) = headers {
            record = record.headers(headers.clone());
        }
        loop {
            match self.0.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    self.0.poll(POLL);
                    self.look_at_deliveries()?;
                }
                Err((KafkaError::MessageProduction(code), _)) if is_of_content(code) => return Err(Failure::Refused(vec![(number, code)])),
                // It may say no more than that the transaction has failed.
                Err((error, _)) => return Err(self.failure(|| classify(&error, &the_topic(topic)))),
            }
        }
    }

    /// Waits for the brokers to have everything, proves membership, and commits, while `is_wanted`.
    ///
    /// That is asked after the proof: meanwhile the partitions may have gone to another worker, which has read and stored the same records, and have come back. Then
    /// the proof is a new one and would be accepted. But before partitions go the engine gives up what it waits for, and that shows here.
    pub(super) fn commit(
        &self,
        source: &str,
        steps: &[(i32, Progress)],
        owned: Vec<i32>,
        membership: &Membership,
        is_wanted: impl Fn() -> bool,
    ) -> Result<(), Failure> {
        while self.0.in_flight_count() > 0 {
            self.0.poll(POLL);
            self.look_at_deliveries()?;
        }
        self.look_at_deliveries()?;
        let proof = membership.prove(owned).map_err(|error| Failure::Aborted(unreachable(&error.to_string())))?;
        let proof =
            proof.ok_or_else(|| Failure::Aborted(SinkError::Fenced("the partitions were taken away from this member of the consumer group".to_owned())))?;
        if !is_wanted() {
            return Err(Failure::Aborted(discarded()));
        }
        let mut offsets = TopicPartitionList::new();
        for (partition, progress) in steps {
            let added = offsets.add_partition_offset(source, *partition, Offset::Offset(progress.next_offset));
            added.map_err(|error| Failure::Aborted(classify(&error, "an offset")))?;
        }
        let producer = Arc::clone(&self.0);
        let proved = in_time(OFFSETS, move || producer.send_offsets_to_transaction(&offsets, &proof, REQUEST)).map_err(Failure::Aborted)?;
        proved.map_err(|error| Failure::Aborted(classify(&error, "the consumer group's offsets")))?;
        // Without a time limit: giving up would leave unknown what a broker answers a moment later. librdkafka asks again until it has an answer.
        self.0.commit_transaction(Timeout::Never).map_err(|error| Failure::InDoubt(classify(&error, "the commit")))
    }

    /// Aborts. Whether the producer can go on: otherwise drop it, and the next one with its id ends the transaction.
    pub(super) fn abort(&self) -> bool {
        if let Err(error) = self.0.abort_transaction(REQUEST) {
            tracing::warn!(%error, "aborting a transaction");
            return false;
        }
        // What was not sent is reported as purged.
        while self.0.in_flight_count() > 0 {
            self.0.poll(POLL);
        }
        true
    }

    fn reports(&self) -> Vec<Report> {
        std::mem::take(&mut *self.0.context().lock())
    }

    /// An error, if a message was not taken.
    fn look_at_deliveries(&self) -> Result<(), Failure> {
        if self.0.context().lock().is_empty() {
            return Ok(());
        }
        Err(self.failure(|| unreachable("Kafka does not take a message")))
    }

    /// Why the transaction has failed. librdkafka fails it, and gives up all that waits, before it reports the message that is the cause; so reports are waited for.
    fn failure(&self, otherwise: impl Fn() -> SinkError) -> Failure {
        let begun = Instant::now();
        while self.0.in_flight_count() > 0 && begun.elapsed() < REPORTS {
            self.0.poll(POLL);
        }
        let reports = self.reports();
        verdict(&reports).unwrap_or_else(|| {
            let cause = self.cause().map(|code| by_code(code, "a topic of the transaction"));
            let reported = || reports.first().map(|(_, code, topic)| by_code(*code, &the_topic(topic)));
            Failure::Aborted(cause.or_else(reported).unwrap_or_else(otherwise))
        })
    }

    /// What librdkafka has failed the transaction for, if it is not for a message: it says so to whoever would begin another one.
    fn cause(&self) -> Option<RDKafkaErrorCode> {
        let code = self.0.begin_transaction().err()?.rdkafka_error_code()?;
        (code != RDKafkaErrorCode::State && !is_consequence(code)).then_some(code)
    }
}

/// What the reports say of the cause. None: no more than that there is one.
fn verdict(reports: &[Report]) -> Option<Failure> {
    let refused: Vec<(usize, RDKafkaErrorCode)> =
        reports.iter().filter(|(_, code, _)| is_of_content(*code)).map(|(number, code, _)| (*number, *code)).collect();
    if !refused.is_empty() {
        return Some(Failure::Refused(refused));
    }
    let (_, code, topic) = reports.iter().find(|(_, code, _)| !is_consequence(*code))?;
    Some(Failure::Aborted(by_code(*code, &the_topic(topic))))
}

/// Does `work` in a thread of its own, and waits no longer than `limit`. librdkafka (2.12 to 2.14, its issues 5456 and 5511) forgets the limit of the call that sends
/// offsets when the group's coordinator is gone, until the state of another connection changes, which may be minutes. The thread holds the producer meanwhile, and
/// ends with an error, as the next producer with its id has taken the transaction from it.
fn in_time<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Result<T, SinkError> {
    let (answer, answered) = mpsc::channel();
    let run = move || drop(answer.send(work()));
    std::thread::Builder::new().name("kafka-offsets".to_owned()).spawn(run).map_err(|error| SinkError::fatal(ProblemClass::Internal, error.to_string()))?;
    answered.recv_timeout(limit).map_err(|_| unreachable("the coordinator of the consumer group does not answer"))
}

/// Nobody waits for it any more.
pub(super) fn discarded() -> SinkError {
    SinkError::Fenced("the micro-batch was discarded meanwhile".to_owned())
}

/// Whether a broker refuses a message for what it is: too large, or without a key in a compacted topic.
const fn is_of_content(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidRecord | RDKafkaErrorCode::MessageBatchTooLarge)
}

/// Whether a message was given up for another's fault.
const fn is_consequence(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code, Code::PurgeQueue | Code::PurgeInflight | Code::MessageTimedOut | Code::InvalidDifferentRecord)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc as std_mpsc;

    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
    use rstest::rstest;

    use super::*;
    use crate::consumer::Command;

    type Cluster = MockCluster<'static, DefaultProducerContext>;

    /// librdkafka's own broker in this process, with a topic to read and one to write.
    fn cluster() -> (Cluster, ClientConfig) {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("ticks", 1, 1).unwrap();
        cluster.create_topic("out", 1, 1).unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers()).set("group.id", "query");
        (cluster, config)
    }

    const fn message(number: usize) -> Message<'static> {
        Message { topic: "out", key: None, payload: b"{}", headers: None, number }
    }

    #[rstest]
    #[case::refused(&[RDKafkaErrorCode::PurgeQueue, RDKafkaErrorCode::MessageSizeTooLarge], Some(true))]
    #[case::in_a_batch(&[RDKafkaErrorCode::InvalidDifferentRecord, RDKafkaErrorCode::InvalidRecord], Some(true))]
    #[case::away(&[RDKafkaErrorCode::PurgeQueue, RDKafkaErrorCode::NotEnoughReplicas], Some(false))]
    #[case::only_consequences(&[RDKafkaErrorCode::PurgeQueue, RDKafkaErrorCode::PurgeInflight], None)]
    fn the_cause_is_told_from_its_consequences(#[case] codes: &[RDKafkaErrorCode], #[case] expected: Option<bool>) {
        let reports: Vec<Report> = codes.iter().enumerate().map(|(number, code)| (number, *code, "out".to_owned())).collect();
        let found = verdict(&reports).map(|failure| matches!(failure, Failure::Refused(refused) if refused == [(1, codes[1])]));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_message_that_is_refused_before_the_last_one_is_sent_is_no_outage() {
        let (cluster, config) = cluster();
        let producer = Transactional::new(&config, "a", true).unwrap();
        cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
        producer.begin().unwrap();
        producer.send(message(7)).unwrap();
        let begun = Instant::now();
        while producer.cause().is_none() {
            assert!(begun.elapsed() < MESSAGE, "librdkafka does not fail the transaction");
        }
        let failure = producer.send(message(8)).unwrap_err();
        assert!(matches!(&failure, Failure::Refused(refused) if *refused == [(7, RDKafkaErrorCode::MessageSizeTooLarge)]), "{failure:?}");
        assert!(producer.abort(), "it cannot go on");
    }

    #[test]
    fn a_topic_that_may_not_be_written_is_no_outage_either() {
        let (cluster, config) = cluster();
        let producer = Transactional::new(&config, "b", false).unwrap();
        cluster.topic_error("out", RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED).unwrap();
        producer.begin().unwrap();
        producer.send(message(0)).unwrap();
        let (commands, _receiver) = std_mpsc::channel();
        let Err(Failure::Aborted(SinkError::Outage(problem))) = producer.commit("ticks", &[], vec![], &Membership::new(commands), || true) else {
            panic!("it is committed")
        };
        assert_eq!(problem.class, ProblemClass::StoreDenied, "{}", problem.message);
    }

    #[test]
    fn a_call_that_forgets_its_limit_is_left_alone() {
        let (release, held) = std_mpsc::channel::<()>();
        let waiting = in_time(Duration::from_millis(50), move || held.recv());
        assert!(matches!(&waiting, Err(SinkError::Outage(problem)) if problem.class == ProblemClass::KafkaUnreachable), "{waiting:?}");
        drop(release);
        assert_eq!(in_time(MESSAGE, || 7), Ok(7));
    }

    #[test]
    fn what_was_discarded_before_membership_was_proved_is_not_committed() {
        let (_cluster, config) = cluster();
        let producer = Transactional::new(&config, "c", false).unwrap();
        let consumer: BaseConsumer = config.create().unwrap();
        let (commands, asked) = std_mpsc::channel();
        let (answer, engine) = tokio::sync::oneshot::channel::<()>();
        let steps = [(0, Progress { epoch: 64, next_offset: 9, write_time: 0 })];
        std::thread::scope(|scope| {
            // The partitions went and came back while the brokers were waited for: the engine has discarded, and the proof is good.
            let proving = scope.spawn(move || {
                let mut engine = Some(engine);
                for _ in 0..2 {
                    let Ok(Command::Prove { answer, .. }) = asked.recv() else { panic!("no proof is wanted") };
                    drop(engine.take());
                    answer.send(consumer.group_metadata()).unwrap();
                }
            });
            let membership = Membership::new(commands);
            producer.begin().unwrap();
            producer.send(message(0)).unwrap();
            let result = producer.commit("ticks", &steps, vec![0], &membership, || !answer.is_closed());
            assert!(matches!(&result, Err(Failure::Aborted(SinkError::Fenced(_)))), "{result:?}");
            assert!(producer.abort());
            producer.begin().unwrap();
            producer.send(message(0)).unwrap();
            producer.commit("ticks", &steps, vec![0], &membership, || true).unwrap();
            proving.join().unwrap();
        });
    }
}
