//! Against librdkafka's own cluster, which runs in the process and can be made to refuse and to vanish.

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};
use tapeline_api::report::ProducerState;

use super::*;
use crate::settings::tests::replay_settings;
use crate::status::Status;

type Cluster = MockCluster<'static, DefaultProducerContext>;

/// A cluster with two topics, and an outlet into them.
async fn outlet() -> (Cluster, Outlet, Health) {
    let cluster = MockCluster::new(1).unwrap();
    for topic in ["a", "b"] {
        cluster.create_topic(topic, 3, 1).unwrap();
    }
    let mut settings = replay_settings();
    settings.kafka.bootstrap_servers = cluster.bootstrap_servers();
    let health = Health::new(Status::default());
    health.connected();
    let topics = ["a", "b"].map(|topic| topic.parse().unwrap()).to_vec();
    let outlet = Outlet::open(&settings, topics, health.clone()).await.unwrap();
    (cluster, outlet, health)
}

fn message(number: usize) -> Message {
    Message { topic: number % 2, key: Some(format!("k{}", number % 5)), payload: number.to_string() }
}

/// One of which a dozen fill a batch.
fn large_message(number: usize) -> Message {
    Message { payload: format!("{number:20000}"), ..message(number) }
}

/// Sends `count` messages, and meanwhile does `what`.
async fn send(outlet: Outlet, count: usize, what: impl Future<Output = ()>) {
    send_all(outlet, (0..count).map(message), what).await;
}

async fn send_all(outlet: Outlet, all: impl Iterator<Item = Message>, what: impl Future<Output = ()>) {
    let (messages, input) = mpsc::channel(1);
    let sending = async move {
        for message in all {
            messages.send(message).await.unwrap();
        }
    };
    let watcher = watch(outlet.books());
    let work = async { tokio::join!(outlet.run(input), sending, what) };
    tokio::select! {
        _ = timeout(Duration::from_secs(60), work) => {}
        never = watcher => match never {},
    }
}

/// Key and payload of every message of a topic, by partition and offset.
fn read(cluster: &Cluster, topic: &str) -> Vec<(String, usize)> {
    let mut config = ClientConfig::new();
    // The cluster in the process says that its last message is not stable yet.
    config.set("bootstrap.servers", cluster.bootstrap_servers()).set("group.id", "test").set("isolation.level", "read_uncommitted");
    let consumer: BaseConsumer = config.create().unwrap();
    let (begun, mut found) = (Instant::now(), Vec::new());
    for partition in 0..3 {
        let end = consumer.fetch_watermarks(topic, partition, Duration::from_secs(5)).unwrap().1;
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        consumer.assign(&assignment).unwrap();
        let mut next = 0;
        while next < end {
            assert!(begun.elapsed() < Duration::from_secs(20), "{topic}/{partition} ends at {end}, and nothing comes behind {next}");
            // Nothing is also what it says when it has only handled an event of its own.
            let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
            let message = message.unwrap();
            next = message.offset() + 1;
            let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
            found.push((text(message.key()), text(message.payload()).trim().parse().unwrap()));
        }
    }
    found
}

/// Each of `count` messages is in its topic once, in order for each key.
fn assert_all_in_order(cluster: &Cluster, count: usize) {
    for (index, topic) in ["a", "b"].into_iter().enumerate() {
        let found = read(cluster, topic);
        assert_eq!(found.len(), count / 2);
        for key in 0..5 {
            let numbers: Vec<usize> = found.iter().filter(|(found, _)| *found == format!("k{key}")).map(|(_, number)| *number).collect();
            assert!(numbers.iter().copied().eq((0..count).filter(|number| number % 2 == index && number % 5 == key)), "{topic} k{key}: {numbers:?}");
        }
    }
}

#[tokio::test]
async fn messages_are_in_their_topics_and_in_order_for_each_key() {
    let (cluster, outlet, health) = outlet().await;
    send(outlet, 1000, async {}).await;
    assert_all_in_order(&cluster, 1000);
    assert_eq!((health.status().report().messages_total, health.status().report().state), (1000, ProducerState::Running));
}

#[tokio::test]
async fn what_the_brokers_refuse_is_sent_again() {
    let (cluster, outlet, health) = outlet().await;
    cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    let books = outlet.books();
    let told = async {
        while health.status().report().problem.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(health.status().report().problem.unwrap().class, ProblemClass::InvalidSettings);
    };
    health.heard(300);
    assert_eq!(books.unsettled(), 300);
    send(outlet, 300, told).await;
    assert_eq!(books.unsettled(), 0);
    assert!(health.status().metrics().errors.get() > 0, "something was refused");
    assert_all_in_order(&cluster, 300);
}

/// A thread that is busy, with a large answer perhaps, hears of the refusal late.
#[tokio::test]
async fn nothing_of_a_key_overtakes_what_was_refused() {
    let (cluster, outlet, health) = outlet().await;
    cluster.broker_round_trip_time(1, Duration::from_millis(50)).unwrap();
    cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    let books = outlet.books();
    let all = (0..300).map(large_message);
    let busy = async {
        while books.now().in_flight < 200 {
            tokio::task::yield_now().await;
        }
        while health.status().metrics().errors.get() == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Long enough for many requests of a client that goes on.
        std::thread::sleep(Duration::from_secs(1));
    };
    send_all(outlet, all, busy).await;
    assert_all_in_order(&cluster, 300);
}

#[tokio::test]
async fn an_outage_is_told_and_waited_out() {
    let (cluster, outlet, health) = outlet().await;
    cluster.broker_down(1).unwrap();
    let end = async {
        while health.status().report().problem.is_none() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let report = health.status().report();
        assert_eq!((report.state, report.problem.unwrap().class), (ProducerState::Waiting, ProblemClass::KafkaUnreachable));
        // More than may be under way: whoever sends has to wait.
        assert_eq!((report.messages_total, health.status().metrics().in_flight.get()), (0, i64::try_from(MAX_MESSAGES).unwrap()));
        cluster.broker_up(1).unwrap();
    };
    send(outlet, MAX_MESSAGES + 1000, end).await;
    assert_eq!(["a", "b"].map(|topic| read(&cluster, topic).len()).iter().sum::<usize>(), MAX_MESSAGES + 1000);
}

#[tokio::test]
async fn a_topic_that_is_not_there_is_named() {
    let (cluster, _, health) = outlet().await;
    let mut settings = replay_settings();
    settings.kafka.bootstrap_servers = cluster.bootstrap_servers();
    cluster.topic_error("c", RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    let opened = Outlet::open(&settings, vec!["a".parse().unwrap(), "c".parse().unwrap()], health).await;
    let Err(Halt::Waiting(problem)) = opened.map(|_| ()) else { panic!("it is opened") };
    assert_eq!((problem.class, problem.message.as_str()), (ProblemClass::TopicMissing, "topic c does not exist"));
}
