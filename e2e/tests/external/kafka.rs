//! Topics.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::ensure;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use tapeline_e2e::{eventually, servers, within};
use tapeline_operator::external::kafka::{Client, Desired, DesiredTopic, Endpoint, Plan, Role, plan};
use tapeline_operator::external::{Applied, Clients, ErrorClass, Guard, NodeState, RefusalReason};

use crate::support::{Memory, Scratch, address, assert_all_as_declared, assert_error, node, owner, refusal};

fn endpoint() -> Endpoint {
    Endpoint { bootstrap_servers: address("TESTBED_KAFKA", "10.99.0.1:9092"), properties: BTreeMap::new() }
}

/// The cluster of three brokers.
fn three_brokers() -> Endpoint {
    Endpoint { bootstrap_servers: address("TESTBED_BROKERS", "10.99.0.1:9192,10.99.0.1:9193,10.99.0.1:9194"), properties: BTreeMap::new() }
}

fn client() -> Client {
    Clients::default().kafka(endpoint())
}

/// The administrator, who does things behind the operator's back.
fn admin() -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", endpoint().bootstrap_servers).create().unwrap()
}

/// A topic, and its dead letters.
fn scratch(what: &str) -> Scratch {
    Scratch::new(what, |name| {
        Box::pin(async move {
            admin().delete_topics(&[&name, &format!("{name}.dead-letter")], &options()).await.unwrap();
        })
    })
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)))
}

async fn create(name: &str, config: &[(&str, &str)]) {
    let topic = config.iter().fold(NewTopic::new(name, 1, TopicReplication::Fixed(1)), |topic, (key, value)| topic.set(key, value));
    admin().create_topics([&topic], &options()).await.unwrap()[0].as_ref().unwrap();
}

async fn delete(name: &str) {
    admin().delete_topics(&[name], &options()).await.unwrap()[0].as_ref().unwrap();
}

async fn set(name: &str, config: &[(&str, &str)]) {
    let change = config.iter().fold(AlterConfig::new(ResourceSpecifier::Topic(name)), |change, (key, value)| change.set(key, value));
    admin().alter_configs([&change], &options()).await.unwrap();
}

fn topic(name: &str, role: Role) -> DesiredTopic {
    DesiredTopic { name: name.parse().unwrap(), field: "spec.kafka.topics[0]".into(), role }
}

fn managed(name: &str, partitions: Option<i32>, config: &[(&str, &str)]) -> Desired {
    let config = config.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    Desired { topics: vec![topic(name, Role::Managed { partitions, replication_factor: None, config })] }
}

async fn planned(client: &Client, desired: &Desired, memory: &Memory) -> Plan {
    let actual = client.describe(desired).await.unwrap();
    let owner = owner("a");
    plan(desired, &actual, memory.recorded(), &owner, &client.contested(&actual, &owner))
}

async fn reconcile(client: &Client, desired: &Desired, memory: &mut Memory) -> Applied {
    let plan = planned(client, desired, memory).await;
    memory.before(&plan.records());
    let applied = client.apply(&plan, &Guard::always()).await;
    memory.after(&applied);
    applied
}

/// What is set on a topic itself.
async fn config(client: &Client, name: &str) -> BTreeMap<String, String> {
    let actual = client.describe(&managed(name, None, &[])).await.unwrap();
    actual.topics.into_values().next().unwrap().config.into_iter().map(|(key, value)| (key, value.unwrap())).collect()
}

#[tokio::test]
async fn topics_are_created_and_then_left_alone() {
    let (client, name, mut memory) = (client(), scratch("topic"), Memory::default());
    let mut desired = managed(&name, Some(3), &[("retention.ms", "604800000")]);
    desired.topics.push(topic(&format!("{name}.dead-letter"), Role::DeadLetter { source: name.parse().unwrap() }));
    let applied = reconcile(&client, &desired, &mut memory).await;
    assert_all_as_declared(&applied);
    assert_eq!(node(&applied, &name).state, NodeState::Changed(format!("created topic {name:?}")));
    assert_eq!((memory.topic(&name).partitions, memory.topic(&name).incarnation), (Some(3), Some(1)));
    assert_eq!(memory.topic(&format!("{name}.dead-letter")).partitions, Some(3));
    assert_eq!(config(&client, &format!("{name}.dead-letter")).await["max.message.bytes"], "1114124", "the broker's default and 64 KiB");

    let again = planned(&client, &desired, &memory).await;
    assert!(again.is_empty() && again.records().is_empty(), "{again:#?}");
    let applied = client.apply(&again, &Guard::always()).await;
    assert!(applied.nodes.iter().all(|outcome| outcome.state == NodeState::AsDeclared), "{applied:#?}");
    assert_eq!(applied.topics.len(), 2);
}

#[tokio::test]
async fn a_topic_is_kept_on_as_many_brokers_as_it_asks_for_when_it_is_created() {
    let _brokers = servers::brokers().await.unwrap();
    let kafka = three_brokers().bootstrap_servers;
    let (client, mut memory) = (Clients::default().kafka(three_brokers()), Memory::default());
    // Not the number of brokers, which is also their default.
    for (factor, copies) in [(Some(2), [2, 2]), (None, [3, 3])] {
        let name = Scratch::new("copies", |name| {
            Box::pin(async move {
                let admin: AdminClient<DefaultClientContext> =
                    ClientConfig::new().set("bootstrap.servers", three_brokers().bootstrap_servers).create().unwrap();
                admin.delete_topics(&[&name], &options()).await.unwrap();
            })
        });
        let with =
            |replication_factor| Desired { topics: vec![topic(&name, Role::Managed { partitions: Some(2), replication_factor, config: BTreeMap::new() })] };
        assert_all_as_declared(&reconcile(&client, &with(factor), &mut memory).await);
        let seen = eventually("every broker to know the topic", within(10), async || {
            let all = tapeline_e2e::topic::copies(&kafka).await?;
            let seen: Vec<usize> = all.iter().filter(|of| of.topic == *name).map(|of| of.replicas.len()).collect();
            ensure!(seen.len() == 2, "{all:?}");
            Ok(seen)
        })
        .await;
        assert_eq!(seen, copies, "with {factor:?}");
        // It is a number for the creation alone: another one later is no reason to touch the topic.
        assert!(planned(&client, &with(Some(1)), &memory).await.is_empty());
    }
}

#[tokio::test]
async fn a_topic_grows_and_does_not_shrink() {
    let (client, name, mut memory) = (client(), scratch("grow"), Memory::default());
    reconcile(&client, &managed(&name, Some(2), &[]), &mut memory).await;
    let applied = reconcile(&client, &managed(&name, Some(5), &[]), &mut memory).await;
    assert_eq!(node(&applied, &name).state, NodeState::Changed(format!("added partitions to topic {name:?}: 2 to 5")));
    assert_eq!(memory.topic(&name).partitions, Some(5));

    let applied = reconcile(&client, &managed(&name, Some(4), &[]), &mut memory).await;
    let (reason, field, _) = refusal(node(&applied, &name));
    assert_eq!((reason, field), (RefusalReason::WouldLoseData, "spec.kafka.topics[0].partitions"));
    assert_eq!(memory.topic(&name).partitions, Some(5));
}

#[tokio::test]
async fn settings_come_and_go_and_a_compacted_topic_stays_compacted() {
    let (client, name, mut memory) = (client(), scratch("compact"), Memory::default());
    create(&name, &[("cleanup.policy", "compact")]).await;
    let applied = reconcile(&client, &managed(&name, None, &[("retention.ms", "1000000")]), &mut memory).await;
    assert_all_as_declared(&applied);
    let both = BTreeMap::from([("cleanup.policy".to_owned(), "compact".to_owned()), ("retention.ms".to_owned(), "1000000".to_owned())]);
    assert_eq!(config(&client, &name).await, both);
    assert_eq!((memory.topic(&name).config_keys.clone(), memory.topic(&name).incarnation), (vec!["retention.ms".to_owned()], Some(0)));

    let applied = reconcile(&client, &managed(&name, None, &[]), &mut memory).await;
    assert_eq!(node(&applied, &name).state, NodeState::Changed(format!("topic {name:?}: put retention.ms back to its default")));
    assert_eq!(config(&client, &name).await, BTreeMap::from([("cleanup.policy".to_owned(), "compact".to_owned())]));
    assert_eq!(memory.topic(&name).config_keys, Vec::<String>::new());
}

#[tokio::test]
async fn the_topic_of_progress_is_compacted_whoever_created_it() {
    let compacted = |config: BTreeMap<String, String>| config.get("cleanup.policy").map(String::as_str) == Some("compact");
    let progress = |name: &str| Desired { topics: vec![topic(name, Role::Progress)] };
    let (client, ours, mut memory) = (client(), scratch("progress"), Memory::default());
    assert_all_as_declared(&reconcile(&client, &progress(&ours), &mut memory).await);
    assert_eq!(memory.topic(&ours).partitions, Some(1));
    assert!(compacted(config(&client, &ours).await));
    assert!(planned(&client, &progress(&ours), &memory).await.is_empty());

    // By a broker that creates what is written to.
    let found = scratch("progress");
    create(&found, &[("retention.ms", "1000000")]).await;
    let applied = reconcile(&client, &progress(&found), &mut memory).await;
    assert_eq!(node(&applied, &found).state, NodeState::Changed(format!("topic {:?}: set cleanup.policy to compact", &*found)));
    let both = BTreeMap::from([("cleanup.policy".to_owned(), "compact".to_owned()), ("retention.ms".to_owned(), "1000000".to_owned())]);
    assert_eq!(config(&client, &found).await, both);
    assert!(planned(&client, &progress(&found), &memory).await.is_empty());

    delete(&ours).await;
    let plan = planned(&client, &progress(&ours), &memory).await;
    assert!(plan.records().losses[0].message.contains("published twice"), "{plan:#?}");
}

#[tokio::test]
async fn a_setting_that_does_not_exist_is_named() {
    let (client, name, mut memory) = (client(), scratch("bad"), Memory::default());
    for _ in 0..2 {
        let applied = reconcile(&client, &managed(&name, None, &[("retention.ms", "1000000"), ("retention.days", "7")]), &mut memory).await;
        let (reason, field, message) = refusal(node(&applied, &name));
        assert_eq!((reason, field), (RefusalReason::InvalidSpec, "spec.kafka.topics[0].config.retention.days"), "{message}");
        // The second time on a topic that exists.
        reconcile(&client, &managed(&name, None, &[]), &mut memory).await;
    }
    assert_eq!(config(&client, &name).await, BTreeMap::new());
}

#[tokio::test]
async fn a_value_that_kafka_does_not_take_changes_nothing() {
    let (client, name, mut memory) = (client(), scratch("value"), Memory::default());
    create(&name, &[("cleanup.policy", "compact")]).await;
    let applied = reconcile(&client, &managed(&name, None, &[("retention.ms", "a week")]), &mut memory).await;
    assert_eq!(refusal(node(&applied, &name)).1, "spec.kafka.topics[0].config.retention.ms");
    assert_eq!(config(&client, &name).await, BTreeMap::from([("cleanup.policy".to_owned(), "compact".to_owned())]));
}

#[tokio::test]
async fn what_somebody_else_keeps_changing_back_is_contested_at_last() {
    let (client, name, mut memory) = (client(), scratch("contested"), Memory::default());
    let desired = managed(&name, None, &[("retention.ms", "1000000")]);
    reconcile(&client, &desired, &mut memory).await;
    for _ in 0..3 {
        set(&name, &[("retention.ms", "2000000")]).await;
        assert_all_as_declared(&reconcile(&client, &desired, &mut memory).await);
        assert_eq!(config(&client, &name).await["retention.ms"], "1000000");
    }
    set(&name, &[("retention.ms", "2000000")]).await;
    let applied = reconcile(&client, &desired, &mut memory).await;
    let (reason, field, _) = refusal(node(&applied, &name));
    assert_eq!((reason, field), (RefusalReason::ConfigContested, "spec.kafka.topics[0].config.retention.ms"));
    assert_eq!(config(&client, &name).await["retention.ms"], "2000000");
    assert_all_as_declared(&reconcile(&client, &managed(&name, None, &[("retention.ms", "3000000")]), &mut memory).await);
}

#[tokio::test]
async fn a_deleted_topic_comes_back_under_the_next_incarnation() {
    let (client, name, mut memory) = (client(), scratch("deleted"), Memory::default());
    let desired = managed(&name, Some(2), &[]);
    reconcile(&client, &desired, &mut memory).await;
    delete(&name).await;
    let plan = planned(&client, &desired, &memory).await;
    assert_eq!(plan.records().losses.len(), 1);
    let applied = reconcile(&client, &desired, &mut memory).await;
    assert!(matches!(node(&applied, &name).state, NodeState::Recreated(_)));
    assert_eq!((memory.topic(&name).incarnation, memory.topic(&name).partitions), (Some(2), Some(2)));
    let again = planned(&client, &desired, &memory).await;
    assert!(again.is_empty() && again.topics[0].steps.state == NodeState::AsDeclared);
}

#[tokio::test]
async fn an_operator_killed_at_any_moment_ends_in_the_same_state() {
    let (client, name, mut memory) = (client(), scratch("killed"), Memory::default());
    let desired = managed(&name, Some(2), &[]);
    // Killed before the record, behind it, and behind the creation without having said so.
    planned(&client, &desired, &memory).await;
    let plan = planned(&client, &desired, &memory).await;
    memory.before(&plan.records());
    let plan = planned(&client, &desired, &memory).await;
    client.apply(&plan, &Guard::always()).await;
    let applied = reconcile(&client, &desired, &mut memory).await;
    assert_eq!(node(&applied, &name).state, NodeState::AsDeclared);
    assert_eq!((memory.topic(&name).incarnation, memory.topic(&name).partitions), (Some(1), Some(2)));
}

#[tokio::test]
async fn a_topic_of_somebody_else_is_awaited_and_never_created() {
    let (client, name, mut memory) = (client(), scratch("upstream"), Memory::default());
    let desired = Desired { topics: vec![topic(&name, Role::LookedUp)] };
    for _ in 0..2 {
        let applied = reconcile(&client, &desired, &mut memory).await;
        assert!(matches!(node(&applied, &name).state, NodeState::Missing(_)), "{applied:#?}");
    }
    create(&name, &[]).await;
    let applied = reconcile(&client, &desired, &mut memory).await;
    assert_eq!((node(&applied, &name).origin, memory.topic(&name).partitions, memory.topic(&name).incarnation), (None, Some(1), None));
}

#[tokio::test]
async fn who_no_longer_leads_writes_nothing() {
    let (client, name, memory) = (client(), scratch("leader"), Memory::default());
    let desired = managed(&name, None, &[]);
    let plan = planned(&client, &desired, &memory).await;
    let applied = client.apply(&plan, &Guard::new(|| false)).await;
    let NodeState::Waiting(error) = &node(&applied, &name).state else { panic!("{applied:#?}") };
    assert_eq!(error.class, ErrorClass::NotLeader);
    assert!(client.describe(&desired).await.unwrap().topics.is_empty());
}

#[tokio::test]
async fn a_closed_port_is_told_within_seconds_and_then_at_once() {
    let clients = Clients::default();
    let endpoint = Endpoint { bootstrap_servers: "10.99.0.1:1".into(), properties: BTreeMap::new() };
    let start = Instant::now();
    let error = clients.kafka(endpoint.clone()).describe(&managed("t", None, &[])).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert_error(&error, ErrorClass::Unreachable, &["spec.kafka.bootstrapServers", "10.99.0.1:1", "connection refused"]);
    let start = Instant::now();
    assert_eq!(clients.kafka(endpoint).describe(&managed("t", None, &[])).await.unwrap_err(), error);
    assert!(start.elapsed() < Duration::from_millis(50));
}

#[tokio::test]
async fn a_port_where_something_else_listens_is_told_within_seconds() {
    let endpoint = Endpoint { bootstrap_servers: address("TESTBED_MYSQL", "10.99.0.1:3306"), properties: BTreeMap::new() };
    let start = Instant::now();
    let error = Clients::default().kafka(endpoint).describe(&managed("t", None, &[])).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert_error(&error, ErrorClass::Unreachable, &["spec.kafka.bootstrapServers"]);
}

#[tokio::test]
async fn a_client_property_that_does_not_exist_is_named() {
    let endpoint = Endpoint { properties: BTreeMap::from([("socket.keepalive.enabled".into(), "true".into())]), ..endpoint() };
    let error = Clients::default().kafka(endpoint).describe(&managed("t", None, &[])).await.unwrap_err();
    assert_error(&error, ErrorClass::Invalid, &["spec.kafka.clientProperties", "socket.keepalive.enabled"]);
}
