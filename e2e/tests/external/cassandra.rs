//! Keyspaces and tables.

use std::time::{Duration, Instant};

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use serde_json::json;
use tapeline_api::pipeline::cassandra::Cassandra;
use tapeline_api::types::CqlType;
use tapeline_operator::external::cassandra::{Client, Desired, Endpoint, Plan, plan};
use tapeline_operator::external::{Applied, Clients, ErrorClass, Guard, NodeState, Owner, RefusalReason};

use crate::support::{Memory, Scratch, address, assert_all_as_declared, assert_error, node, owner, refusal};

fn contact_point() -> String {
    address("TESTBED_CASSANDRA", "10.99.0.1:9042")
}

fn spec(keyspace: &str) -> Cassandra {
    serde_json::from_value(json!({
        "contactPoints": [contact_point()],
        "keyspace": keyspace,
        "replication": {"class": "SimpleStrategy", "factor": 1},
        "tables": [{
            "name": "ticks",
            "columns": [{"name": "id", "type": "bigint"}, {"name": "at", "type": "timestamp"}, {"name": "price", "type": "double"}],
            "partitionKey": ["id"],
            "clusteringKey": [{"column": "at", "order": "Desc"}],
            "ttl": "720h",
        }],
    }))
    .unwrap()
}

fn client() -> Client {
    Clients::default().cassandra(Endpoint { contact_points: vec![contact_point()], credentials: None })
}

/// The administrator, who does things behind the operator's back.
async fn admin() -> Session {
    SessionBuilder::new().known_node(contact_point()).build().await.unwrap()
}

/// A keyspace.
fn scratch() -> Scratch {
    Scratch::new("ks", |name| {
        Box::pin(async move {
            admin().await.query_unpaged(format!("DROP KEYSPACE IF EXISTS {name}"), ()).await.unwrap();
        })
    })
}

async fn planned(client: &Client, spec: &Cassandra, memory: &Memory, owner: &Owner) -> Plan {
    let desired = Desired::of(spec);
    plan(&desired, &client.describe(&desired).await.unwrap(), memory.recorded(), owner)
}

async fn reconcile(client: &Client, spec: &Cassandra, memory: &mut Memory, owner: &Owner) -> Applied {
    let plan = planned(client, spec, memory, owner).await;
    memory.before(&plan.records());
    let applied = client.apply(&plan, &Guard::always()).await;
    memory.after(&applied);
    applied
}

/// When the schema of a keyspace's tables and the rows of owners in it were last written.
async fn written(admin: &Session, keyspace: &str) -> Vec<i64> {
    let mut times = Vec::new();
    for statement in [
        format!("SELECT WRITETIME(default_time_to_live) FROM system_schema.tables WHERE keyspace_name = '{keyspace}'"),
        format!("SELECT WRITETIME(spec_hash) FROM {keyspace}.tapeline_resources"),
    ] {
        let rows = admin.query_unpaged(statement, ()).await.unwrap().into_rows_result().unwrap();
        times.extend(rows.rows::<(i64,)>().unwrap().map(|row| row.unwrap().0));
    }
    times
}

#[tokio::test]
async fn a_keyspace_and_its_tables_are_created_and_then_left_alone() {
    let (client, keyspace, mut memory, owner) = (client(), scratch(), Memory::default(), owner("a"));
    let spec = spec(&keyspace);
    let applied = reconcile(&client, &spec, &mut memory, &owner).await;
    assert_all_as_declared(&applied);
    let shape = client.describe_table(&spec.keyspace, &spec.tables[0].name).await.unwrap().unwrap();
    assert_eq!((shape.partition_key.len(), shape.clustering_key.len(), shape.default_ttl), (1, 1, 2_592_000));

    let admin = admin().await;
    let before = written(&admin, &keyspace).await;
    assert_eq!(before.len(), 5, "three tables and two rows of owners");
    let again = planned(&client, &spec, &memory, &owner).await;
    assert!(again.is_empty() && again.records().is_empty(), "{again:#?}");
    let applied = reconcile(&client, &spec, &mut Memory::default(), &owner).await;
    assert!(applied.nodes.iter().all(|outcome| outcome.state == NodeState::AsDeclared), "with a lost status as well: {applied:#?}");
    assert_eq!(written(&admin, &keyspace).await, before);
}

#[tokio::test]
async fn a_table_grows_and_its_key_and_types_stay() {
    let (client, keyspace, mut memory, owner) = (client(), scratch(), Memory::default(), owner("a"));
    let mut spec = spec(&keyspace);
    reconcile(&client, &spec, &mut memory, &owner).await;
    let table = format!("{keyspace}.ticks");
    spec.tables[0].columns.extend(serde_json::from_value::<Vec<_>>(json!([{"name": "volume", "type": "bigint"}, {"name": "note", "type": "text"}])).unwrap());
    spec.tables[0].ttl = Some("1h".parse().unwrap());
    let applied = reconcile(&client, &spec, &mut memory, &owner).await;
    assert_eq!(
        node(&applied, &table).state,
        NodeState::Changed(format!("added to table {table}: volume, note; rows of table {table} that are written from now on are kept 3600 s"))
    );
    assert!(planned(&client, &spec, &memory, &owner).await.is_empty());

    spec.tables[0].columns[2].type_ = CqlType::Float;
    let applied = reconcile(&client, &spec, &mut memory, &owner).await;
    let (reason, field, _) = refusal(node(&applied, &table));
    assert_eq!((reason, field), (RefusalReason::WouldLoseData, "spec.cassandra.tables[0].columns[2].type"));
    spec.tables[0].columns[2].type_ = CqlType::Double;
    spec.tables[0].clustering_key.clear();
    let applied = reconcile(&client, &spec, &mut memory, &owner).await;
    assert_eq!(refusal(node(&applied, &table)).1, "spec.cassandra.tables[0].clusteringKey");
}

#[tokio::test]
async fn a_dropped_table_comes_back_and_is_told() {
    let (client, keyspace, mut memory, owner) = (client(), scratch(), Memory::default(), owner("a"));
    let spec = spec(&keyspace);
    reconcile(&client, &spec, &mut memory, &owner).await;
    admin().await.query_unpaged(format!("DROP TABLE {keyspace}.ticks"), ()).await.unwrap();
    let plan = planned(&client, &spec, &memory, &owner).await;
    assert_eq!(plan.records().losses.len(), 1);
    let applied = reconcile(&client, &spec, &mut memory, &owner).await;
    assert!(matches!(node(&applied, &format!("{keyspace}.ticks")).state, NodeState::Recreated(_)));
    assert!(planned(&client, &spec, &memory, &owner).await.is_empty());
}

#[tokio::test]
async fn two_pipelines_share_a_keyspace_and_not_a_table() {
    let (client, keyspace) = (client(), scratch());
    let (first, second) = (owner("first"), owner("second"));
    let spec = spec(&keyspace);
    reconcile(&client, &spec, &mut Memory::default(), &first).await;
    let mut other = spec.clone();
    other.tables[0].name = "others".parse().unwrap();
    other.tables.push(spec.tables[0].clone());
    let applied = reconcile(&client, &other, &mut Memory::default(), &second).await;
    assert!(node(&applied, &format!("{keyspace}.others")).state.is_as_declared());
    let (reason, field, message) = refusal(node(&applied, &format!("{keyspace}.ticks")));
    assert_eq!((reason, field), (RefusalReason::ResourceConflict, "spec.cassandra.tables[1]"));
    assert!(message.contains("belongs to pipeline external/first"), "{message}");

    // The way out that the message names.
    let statement = message.split_once("release it with: ").unwrap().1;
    admin().await.query_unpaged(statement, ()).await.unwrap();
    assert_all_as_declared(&reconcile(&client, &other, &mut Memory::default(), &second).await);
}

#[tokio::test]
async fn of_two_pipelines_that_take_over_a_table_at_the_same_time_one_gets_it() {
    let (client, keyspace) = (client(), scratch());
    let spec = spec(&keyspace);
    let (first, second) = (owner("first"), owner("second"));
    let (one, two) = (planned(&client, &spec, &Memory::default(), &first).await, planned(&client, &spec, &Memory::default(), &second).await);
    let guard = Guard::always();
    let (one, two) = tokio::join!(client.apply(&one, &guard), client.apply(&two, &guard));
    let table = format!("{keyspace}.ticks");
    let got = [&one, &two].into_iter().filter(|applied| node(applied, &table).state.is_as_declared()).count();
    assert_eq!(got, 1, "{one:#?} {two:#?}");
}

#[tokio::test]
async fn a_table_that_was_there_is_adopted_with_its_rows() {
    let (client, keyspace, mut memory, owner) = (client(), scratch(), Memory::default(), owner("a"));
    let admin = admin().await;
    admin.query_unpaged(format!("CREATE KEYSPACE {keyspace} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}"), ()).await.unwrap();
    admin
        .query_unpaged(
            format!("CREATE TABLE {keyspace}.ticks (id bigint, at timestamp, extra text, PRIMARY KEY (id, at)) WITH CLUSTERING ORDER BY (at DESC)"),
            (),
        )
        .await
        .unwrap();
    let applied = reconcile(&client, &spec(&keyspace), &mut memory, &owner).await;
    assert_all_as_declared(&applied);
    assert_eq!(node(&applied, &format!("{keyspace}.ticks")).origin, Some(tapeline_api::pipeline::status::Origin::Adopted));
    assert!(planned(&client, &spec(&keyspace), &memory, &owner).await.is_empty());
}

#[tokio::test]
async fn the_replication_of_a_keyspace_that_was_there_is_not_changed() {
    let (client, keyspace, owner) = (client(), scratch(), owner("a"));
    let statement = format!("CREATE KEYSPACE {keyspace} WITH replication = {{'class': 'NetworkTopologyStrategy', 'datacenter1': 1}}");
    admin().await.query_unpaged(statement, ()).await.unwrap();
    let applied = reconcile(&client, &spec(&keyspace), &mut Memory::default(), &owner).await;
    let (reason, field, message) = refusal(node(&applied, &keyspace));
    assert_eq!((reason, field), (RefusalReason::WouldLoseData, "spec.cassandra.replication"));
    assert!(message.contains("{'class': 'NetworkTopologyStrategy', 'datacenter1': '1'}"), "{message}");
    assert!(node(&applied, &format!("{keyspace}.ticks")).state.is_as_declared(), "its tables do not wait for that");
}

#[tokio::test]
async fn replication_of_our_own_waits_for_whoever_repairs() {
    let (client, keyspace, mut memory, owner) = (client(), scratch(), Memory::default(), owner("a"));
    let mut spec = spec(&keyspace);
    reconcile(&client, &spec, &mut memory, &owner).await;
    spec.replication = serde_json::from_value(json!({"class": "NetworkTopologyStrategy", "datacenters": {"datacenter1": 1}})).unwrap();
    for _ in 0..2 {
        let applied = reconcile(&client, &spec, &mut memory, &owner).await;
        let (reason, field, message) = refusal(node(&applied, &keyspace));
        assert_eq!((reason, field), (RefusalReason::WouldLoseData, "spec.cassandra.replication"));
        assert!(message.contains("ALTER KEYSPACE") && message.contains("nodetool repair"), "{message}");
    }
    let statement = format!("ALTER KEYSPACE {keyspace} WITH replication = {{'class': 'NetworkTopologyStrategy', 'datacenter1': 1}}");
    admin().await.query_unpaged(statement, ()).await.unwrap();
    assert_all_as_declared(&reconcile(&client, &spec, &mut memory, &owner).await);
    assert!(planned(&client, &spec, &memory, &owner).await.is_empty());
}

#[tokio::test]
async fn dropped_progress_is_told() {
    let (client, keyspace, mut memory, owner) = (client(), scratch(), Memory::default(), owner("a"));
    reconcile(&client, &spec(&keyspace), &mut memory, &owner).await;
    admin().await.query_unpaged(format!("DROP TABLE {keyspace}.tapeline_progress"), ()).await.unwrap();
    let applied = reconcile(&client, &spec(&keyspace), &mut memory, &owner).await;
    assert!(matches!(node(&applied, &keyspace).state, NodeState::Recreated(_)));
}

#[tokio::test]
async fn a_closed_port_is_told_within_seconds() {
    let client = Clients::default().cassandra(Endpoint { contact_points: vec!["10.99.0.1:1".into()], credentials: None });
    let start = Instant::now();
    let error = client.describe(&Desired::of(&spec("ks"))).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(6));
    assert_error(&error, ErrorClass::Unreachable, &["spec.cassandra.contactPoints", "10.99.0.1:1", "connection refused"]);
}

#[tokio::test]
async fn a_port_where_something_else_listens_is_told_within_seconds() {
    let client = Clients::default().cassandra(Endpoint { contact_points: vec![address("TESTBED_MYSQL", "10.99.0.1:3306")], credentials: None });
    let start = Instant::now();
    let error = client.describe(&Desired::of(&spec("ks"))).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(6));
    assert_error(&error, ErrorClass::Unreachable, &["spec.cassandra.contactPoints"]);
}
