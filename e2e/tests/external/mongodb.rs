//! Collections and indexes.

use std::time::{Duration, Instant};

use futures::TryStreamExt;
use mongodb::IndexModel;
use mongodb::bson::{Document, doc};
use serde_json::json;
use tapeline_api::pipeline::mongodb::MongoDb;
use tapeline_api::pipeline::status::Origin;
use tapeline_e2e::connect::{self, MONGODB_USER};
use tapeline_operator::external::mongodb::{Client, Desired, Endpoint, Plan, plan};
use tapeline_operator::external::{Applied, Clients, Credentials, ErrorClass, Guard, NodeState, Owner, RefusalReason};

use crate::support::{Memory, Scratch, address, assert_all_as_declared, assert_error, node, owner, refusal};

const FIELD: &str = "spec.mongodb.credentialsSecretRef";

fn server() -> String {
    address("TESTBED_MONGO", "10.99.0.1:27017")
}

fn spec(database: &str) -> MongoDb {
    serde_json::from_value(json!({
        "hosts": [server()],
        "credentialsSecretRef": {"name": "mongodb"},
        "database": database,
        "collections": [
            {"name": "ticks", "indexes": [{"fields": [{"name": "ticker"}, {"name": "created_at", "order": "Desc"}]}, {"fields": [{"name": "sector"}]}]},
            {"name": "plain"},
        ],
    }))
    .unwrap()
}

fn endpoint(user: &str, password: &str) -> Endpoint {
    let credentials = Credentials { user: user.into(), password: password.into(), field: FIELD, secret: "mongodb".into() };
    Endpoint::of(&spec("x"), Some(credentials))
}

fn client() -> Client {
    Clients::default().mongodb(endpoint(MONGODB_USER, MONGODB_USER))
}

/// The administrator, who does things behind the operator's back.
fn admin(database: &str) -> mongodb::Database {
    connect::mongodb(&server()).unwrap().database(database)
}

/// A database.
fn scratch() -> Scratch {
    Scratch::new("db", |name| Box::pin(async move { admin(&name).drop().await.unwrap() }))
}

async fn planned(client: &Client, desired: &Desired, memory: &Memory, owner: &Owner) -> Plan {
    plan(desired, &client.describe(desired).await.unwrap(), memory.recorded(), owner)
}

async fn reconcile(client: &Client, spec: &MongoDb, memory: &mut Memory, owner: &Owner) -> Applied {
    let plan = planned(client, &Desired::of(spec), memory, owner).await;
    memory.before(&plan.records());
    let applied = client.apply(&plan, &Guard::always()).await;
    memory.after(&applied);
    applied
}

async fn documents(database: &str, collection: &str) -> Vec<Document> {
    let mut found: Vec<Document> = admin(database).collection(collection).find(doc! {}).await.unwrap().try_collect().await.unwrap();
    found.sort_by_key(ToString::to_string);
    found
}

async fn indexes(database: &str, collection: &str) -> Vec<String> {
    let mut names = admin(database).collection::<Document>(collection).list_index_names().await.unwrap();
    names.sort();
    names
}

#[tokio::test]
async fn collections_are_created_with_their_indexes_and_then_left_alone() {
    let (client, database, mut memory, owner) = (client(), scratch(), Memory::default(), owner("a"));
    let spec = spec(&database);
    let applied = reconcile(&client, &spec, &mut memory, &owner).await;
    assert_all_as_declared(&applied);
    assert_eq!(node(&applied, &format!("{database}.ticks")).origin, Some(Origin::Created));
    let mut collections = admin(&database).list_collection_names().await.unwrap();
    collections.sort();
    assert_eq!(collections, ["plain", "tapeline_progress", "tapeline_resources", "ticks"]);
    assert_eq!(indexes(&database, "ticks").await, ["_id_", "sector_1", "ticker_1_created_at_-1"]);
    assert_eq!(indexes(&database, "plain").await, ["_id_"]);

    let written = documents(&database, "tapeline_resources").await;
    let described = Desired::of(&spec);
    assert!(planned(&client, &described, &memory, &owner).await.is_empty());
    // Also by an operator that has lost the object's status.
    assert!(planned(&client, &described, &Memory::default(), &owner).await.is_empty());
    reconcile(&client, &spec, &mut memory, &owner).await;
    assert_eq!(documents(&database, "tapeline_resources").await, written);
}

#[tokio::test]
async fn indexes_are_added_and_none_is_taken_away() {
    let (client, database, mut memory, owner) = (client(), scratch(), Memory::default(), owner("a"));
    let mut spec = spec(&database);
    reconcile(&client, &spec, &mut memory, &owner).await;
    spec.collections[0].indexes.remove(0);
    spec.collections[1].indexes = spec.collections[0].indexes.clone();
    let applied = reconcile(&client, &spec, &mut memory, &owner).await;
    assert_all_as_declared(&applied);
    assert_eq!(node(&applied, &format!("{database}.plain")).state, NodeState::Changed(format!("added to collection {database}.plain: index sector_1")));
    assert_eq!(indexes(&database, "ticks").await, ["_id_", "sector_1", "ticker_1_created_at_-1"]);
    assert_eq!(indexes(&database, "plain").await, ["_id_", "sector_1"]);
    assert!(planned(&client, &Desired::of(&spec), &memory, &owner).await.is_empty());
}

#[tokio::test]
async fn what_vanished_is_told() {
    let (client, database, mut memory, owner) = (client(), scratch(), Memory::default(), owner("a"));
    let spec = spec(&database);
    reconcile(&client, &spec, &mut memory, &owner).await;
    let lost = async |memory: &Memory| -> Vec<String> {
        let plan = planned(&client, &Desired::of(&spec), memory, &owner).await;
        plan.records().losses.into_iter().map(|loss| loss.node.name).collect()
    };
    admin(&database).collection::<Document>("ticks").drop().await.unwrap();
    assert_eq!(lost(&memory).await, [format!("{database}.ticks")]);
    admin(&database).collection::<Document>("tapeline_progress").drop().await.unwrap();
    assert_eq!(lost(&memory).await, [database.to_string(), format!("{database}.ticks")]);
    assert!(reconcile(&client, &spec, &mut memory, &owner).await.nodes.iter().all(|outcome| outcome.state.is_as_declared()));
    assert_eq!(lost(&memory).await, Vec::<String>::new());

    admin(&database).drop().await.unwrap();
    assert_eq!(lost(&memory).await, [database.to_string(), format!("{database}.ticks"), format!("{database}.plain")]);
    let applied = reconcile(&client, &spec, &mut memory, &owner).await;
    assert!(applied.nodes.iter().all(|outcome| matches!(outcome.state, NodeState::Recreated(_))), "{applied:#?}");
    assert!(planned(&client, &Desired::of(&spec), &memory, &owner).await.is_empty());
}

#[tokio::test]
async fn a_collection_that_was_there_is_adopted_with_its_documents() {
    let (client, database, mut memory, owner) = (client(), scratch(), Memory::default(), owner("a"));
    admin(&database).collection("ticks").insert_one(doc! { "_id": 1, "note": "kept" }).await.unwrap();
    let applied = reconcile(&client, &spec(&database), &mut memory, &owner).await;
    assert_all_as_declared(&applied);
    assert_eq!((node(&applied, &database).origin, node(&applied, &format!("{database}.ticks")).origin), (Some(Origin::Adopted), Some(Origin::Adopted)));
    assert_eq!(documents(&database, "ticks").await, [doc! { "_id": 1, "note": "kept" }]);
    assert_eq!(indexes(&database, "ticks").await, ["_id_", "sector_1", "ticker_1_created_at_-1"]);
    assert!(planned(&client, &Desired::of(&spec(&database)), &memory, &owner).await.is_empty());
}

#[tokio::test]
async fn a_unique_index_is_refused_with_the_way_out() {
    let (client, database, mut memory, owner) = (client(), scratch(), Memory::default(), owner("a"));
    let unique = mongodb::options::IndexOptions::builder().unique(true).name("one_each".to_owned()).build();
    let ticks = admin(&database).collection::<Document>("ticks");
    ticks.create_index(IndexModel::builder().keys(doc! { "ticker": 1 }).options(unique).build()).await.unwrap();
    let applied = reconcile(&client, &spec(&database), &mut memory, &owner).await;
    let (reason, field, message) = refusal(node(&applied, &format!("{database}.ticks")));
    assert_eq!((reason, field), (RefusalReason::Incompatible, "spec.mongodb.collections[0]"));
    assert!(message.contains(&format!("run: db.getSiblingDB(\"{database}\").ticks.dropIndex(\"one_each\")")), "{message}");
    assert_eq!(indexes(&database, "ticks").await, ["_id_", "one_each"], "nothing was done to it");
    assert!(node(&applied, &format!("{database}.plain")).state.is_as_declared());

    ticks.drop_index("one_each").await.unwrap();
    assert_all_as_declared(&reconcile(&client, &spec(&database), &mut memory, &owner).await);
}

#[tokio::test]
async fn a_capped_collection_is_refused() {
    let (client, database, mut memory, owner) = (client(), scratch(), Memory::default(), owner("a"));
    admin(&database).run_command(doc! { "create": "ticks", "capped": true, "size": 65_536 }).await.unwrap();
    let applied = reconcile(&client, &spec(&database), &mut memory, &owner).await;
    let (reason, field, message) = refusal(node(&applied, &format!("{database}.ticks")));
    assert_eq!((reason, field), (RefusalReason::ResourceConflict, "spec.mongodb.collections[0]"));
    assert!(message.contains("is a capped collection"), "{message}");
}

#[tokio::test]
async fn two_pipelines_share_a_database_and_not_its_collections() {
    let (client, database) = (client(), scratch());
    let spec = spec(&database);
    reconcile(&client, &spec, &mut Memory::default(), &owner("first")).await;
    let second = owner("second");
    let applied = reconcile(&client, &spec, &mut Memory::default(), &second).await;
    assert_eq!(node(&applied, &database).state, NodeState::AsDeclared);
    let (reason, field, message) = refusal(node(&applied, &format!("{database}.ticks")));
    assert_eq!((reason, field), (RefusalReason::ResourceConflict, "spec.mongodb.collections[0]"));
    assert!(message.contains("belongs to pipeline external/first"), "{message}");

    // The way out that the message names.
    let released =
        admin(&database).collection::<Document>("tapeline_resources").delete_one(doc! { "_id": { "kind": "MongoDBCollection", "name": "ticks" } }).await;
    assert_eq!(released.unwrap().deleted_count, 1);
    let applied = reconcile(&client, &spec, &mut Memory::default(), &second).await;
    assert!(node(&applied, &format!("{database}.ticks")).state.is_as_declared());
}

#[tokio::test]
async fn of_two_pipelines_that_begin_at_once_one_gets_each_collection() {
    let (database, mut first, mut second) = (scratch(), Memory::default(), Memory::default());
    let (spec, owners) = (spec(&database), [owner("first"), owner("second")]);
    let (left, right) = (client(), client());
    // Both have looked before either has written.
    let desired = Desired::of(&spec);
    let plans = [planned(&left, &desired, &first, &owners[0]).await, planned(&right, &desired, &second, &owners[1]).await];
    first.before(&plans[0].records());
    second.before(&plans[1].records());
    let guard = Guard::always();
    let applied = tokio::join!(left.apply(&plans[0], &guard), right.apply(&plans[1], &guard));
    first.after(&applied.0);
    second.after(&applied.1);
    // Whoever lost looks again.
    let (now_first, now_second) = (reconcile(&left, &spec, &mut first, &owners[0]).await, reconcile(&right, &spec, &mut second, &owners[1]).await);
    for name in ["ticks", "plain"].map(|name| format!("{database}.{name}")) {
        let has = |applied: &Applied| node(applied, &name).state.is_as_declared();
        assert!(has(&now_first) != has(&now_second), "{name}: {now_first:#?} {now_second:#?}");
    }
    assert_eq!(node(&now_first, &database).server, node(&now_second, &database).server);
}

#[tokio::test]
async fn a_wrong_password_is_told_and_healed_by_the_right_one() {
    let clients = Clients::default();
    let desired = Desired::of(&spec(&scratch()));
    let error = clients.mongodb(endpoint(MONGODB_USER, "wrong")).describe(&desired).await.unwrap_err();
    assert_error(&error, ErrorClass::Denied, &[FIELD, "refuses user \"tapeline\": wrong user or password", "Secret \"mongodb\"", "grantRolesToUser"]);
    clients.mongodb(endpoint(MONGODB_USER, MONGODB_USER)).describe(&desired).await.unwrap();
}

#[tokio::test]
async fn who_gives_no_password_is_told_to_name_the_secret() {
    let client = Clients::default().mongodb(Endpoint { credentials: None, ..endpoint("", "") });
    let error = client.describe(&Desired::of(&spec(&scratch()))).await.unwrap_err();
    assert_error(&error, ErrorClass::Denied, &[FIELD, "refuses a client without user and password: it asks for them; name the Secret"]);
}

#[tokio::test]
async fn a_closed_port_is_told_within_seconds_and_then_at_once() {
    let client = Clients::default().mongodb(Endpoint { hosts: vec!["10.99.0.1:1".into()], ..endpoint("a", "b") });
    let desired = Desired::of(&spec("db"));
    let start = Instant::now();
    let error = client.describe(&desired).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(6));
    assert_error(&error, ErrorClass::Unreachable, &["spec.mongodb.hosts", "10.99.0.1:1", "connection refused"]);
    let start = Instant::now();
    assert_eq!(client.describe(&desired).await.unwrap_err(), error);
    assert!(start.elapsed() < Duration::from_millis(50));
}

#[tokio::test]
async fn a_port_that_says_nothing_is_told_within_seconds() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hosts = vec![silent.local_addr().unwrap().to_string()];
    let client = Clients::default().mongodb(Endpoint { hosts, ..endpoint("a", "b") });
    let start = Instant::now();
    let error = client.describe(&Desired::of(&spec("db"))).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(6));
    assert_error(&error, ErrorClass::Unreachable, &["spec.mongodb.hosts", "check the addresses", "that MongoDB runs"]);
}

#[tokio::test]
async fn a_replica_set_that_is_none_is_told_within_seconds() {
    let client = Clients::default().mongodb(Endpoint { replica_set: Some("rs0".into()), ..endpoint(MONGODB_USER, MONGODB_USER) });
    let start = Instant::now();
    let error = client.describe(&Desired::of(&spec("db"))).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(6));
    assert_error(&error, ErrorClass::Unreachable, &["spec.mongodb.hosts", "spec.mongodb.replicaSet, if it is given, must be its name"]);
}
