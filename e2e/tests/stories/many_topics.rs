//! Six queries over six topics on three brokers: any one broker may be killed, and what troubles one query is the trouble of no other. Every record is in its store
//! once: the stores know a row by its record, so one that was sent or counted twice is there twice.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::TryStreamExt as _;
use futures::future::try_join_all;
use mongodb::bson::{Document, doc};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tapeline_e2e::connect::{self, MONGODB_USER};
use tapeline_e2e::recompute::equal;
use tapeline_e2e::servers::{self, Server};
use tapeline_e2e::topic::{self, Copies, Record};
use tapeline_e2e::wait::all_along;
use tapeline_e2e::{Pipeline, World, eventually, status, story, within};
use tokio_util::sync::CancellationToken;

const SIX_TOPICS: &str = include_str!("../../pipelines/six-topics.yaml");
/// The number of each topic and its query.
const NUMBERS: [usize; 6] = [1, 2, 3, 4, 5, 6];
/// The one that gets a record which is no JSON.
const POISONED: usize = 3;

/// How often each id is somewhere.
type Counts = BTreeMap<i64, usize>;

fn once(ids: std::ops::Range<i64>) -> Counts {
    ids.map(|id| (id, 1)).collect()
}

fn counts(ids: impl IntoIterator<Item = i64>) -> Counts {
    let mut counts = Counts::new();
    for id in ids {
        *counts.entry(id).or_default() += 1;
    }
    counts
}

fn query(number: usize) -> String {
    format!("users-{number}")
}

fn source(world: &World, number: usize) -> String {
    world.topic(&format!("users_{number}"))
}

/// Applies it with its Secrets, and waits until it is Ready. The brokers are this test's alone.
async fn ready(world: &World) -> Pipeline<'_> {
    servers::start(&[Server::Mongo]).await.unwrap();
    world.take_brokers().await.unwrap();
    world.apply_secrets().await.unwrap();
    let user = json!({"username": MONGODB_USER, "password": MONGODB_USER});
    world.apply(&[json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mongodb"}, "stringData": user})]).await.unwrap();
    let pipeline = world.pipeline(SIX_TOPICS);
    pipeline.apply().await.unwrap();
    pipeline.until_ready(within(180)).await;
    pipeline
}

fn user(id: i64) -> String {
    format!(r#"{{"id": {id}, "name": "user-{id}"}}"#)
}

fn ids_of(records: &[Record]) -> Result<Counts> {
    let id = |record: &Record| {
        let user: Value = serde_json::from_slice(record.payload.as_deref().context("no payload")?)?;
        user["id"].as_i64().with_context(|| format!("no id in {user}"))
    };
    Ok(counts(records.iter().map(id).collect::<Result<Vec<_>>>()?))
}

/// What the query of this number has stored.
async fn stored(world: &World, number: usize) -> Result<Counts> {
    let (schema, table) = (world.schema(), format!("users_{number}"));
    match number {
        1 | 2 => {
            let found = world.mongodb().await?.database(&schema).collection::<Document>(&table).find(doc! {}).await?;
            let ids: Vec<i64> = found.map_err(anyhow::Error::from).and_then(async |user| Ok(user.get_i64("id")?)).try_collect().await?;
            Ok(counts(ids))
        }
        3 | 4 => Ok(counts(sqlx::query_scalar::<_, i64>(AssertSqlSafe(format!("SELECT id FROM `{schema}`.{table}"))).fetch_all(&world.mysql).await?)),
        5 => {
            let rows = world.cassandra.query_iter(format!("SELECT id FROM {schema}.{table}"), ()).await?.rows_stream::<(i64,)>()?;
            Ok(counts(rows.map_ok(|(id,)| id).try_collect::<Vec<_>>().await?))
        }
        _ => ids_of(&topic::records(&world.brokers, &world.topic("published")).await?),
    }
}

/// Checks that the queries of these numbers have stored each of `expected` once, and nothing else.
async fn exact(world: &World, numbers: &[usize], expected: &Counts) -> Result<()> {
    for &number in numbers {
        equal(&format!("what {} stored", query(number)), expected, &stored(world, number).await?)?;
    }
    Ok(())
}

/// Sends users with rising ids to all six topics, each user fifty times in a second to one, until `stop`; then waits until the brokers have acknowledged all. Gives the
/// number of ids. A record that is sent again, since a broker died before it answered, is there once: the producer is idempotent.
async fn flow(world: &World, stop: &CancellationToken) -> i64 {
    let mut settings = connect::kafka(&world.brokers);
    let producer: FutureProducer = settings.set("enable.idempotence", "true").set("message.timeout.ms", "0").set("linger.ms", "0").create().unwrap();
    let topics = NUMBERS.map(|number| source(world, number));
    let (mut pace, mut deliveries, mut id) = (tokio::time::interval(Duration::from_millis(20)), Vec::new(), 0);
    while !stop.is_cancelled() {
        pace.tick().await;
        let user = user(id);
        for topic in &topics {
            deliveries.push(producer.send_result(FutureRecord::<(), str>::to(topic).payload(&user)).map_err(|(error, _)| error).unwrap());
        }
        id += 1;
    }
    let acknowledged = tokio::time::timeout(within(60), try_join_all(deliveries)).await.expect("the brokers acknowledge what was sent").unwrap();
    let refused: Vec<_> = acknowledged.into_iter().filter_map(Result::err).collect();
    assert!(refused.is_empty(), "{refused:?}");
    id
}

/// Sends the users `ids` to all six topics.
async fn send(world: &World, ids: std::ops::Range<i64>) {
    let users: Vec<String> = ids.map(user).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    for number in NUMBERS {
        topic::send(&world.brokers, &source(world, number), None, &users).await.unwrap();
    }
}

/// Waits until every query has stored more than now.
async fn until_more_arrives(world: &World) {
    for number in NUMBERS {
        let before = stored(world, number).await.unwrap().len();
        eventually(&format!("{} to go on", query(number)), within(90), async || {
            let now = stored(world, number).await?.len();
            ensure!(now > before, "still {now} users");
            Ok(())
        })
        .await;
    }
}

/// Waits until all partitions of the cluster, Kafka's own too, are `so`.
async fn until_partitions(world: &World, what: &str, deadline: Duration, so: impl Fn(&Copies) -> bool) {
    eventually(what, deadline, async || {
        let others: Vec<Copies> = topic::copies(&world.brokers).await?.into_iter().filter(|copies| !so(copies)).collect();
        ensure!(others.is_empty(), "{} are not so, among them {:?}", others.len(), others.first());
        Ok(())
    })
    .await;
}

async fn generations(pipeline: &Pipeline<'_>) -> Vec<i64> {
    try_join_all(NUMBERS.map(async |number| pipeline.generation(&query(number)).await)).await.unwrap()
}

/// Kills a broker, sees that everything goes on without it, and brings it back.
async fn outlives(world: &World, id: i32, broker: Server) {
    let down = broker.kill().await.unwrap();
    world.say(format!("killed broker {id}"));
    // Before that it still leads partitions, as far as the others know, and to bring it back would show nothing.
    let elsewhere = |copies: &Copies| copies.replicas.len() == 1 || (copies.leader >= 0 && copies.leader != id && !copies.in_sync.contains(&id));
    until_partitions(world, "the two others to lead all partitions", within(60), elsewhere).await;
    until_more_arrives(world).await;
    world.say("every query goes on");
    down.start().await.unwrap();
    // With a copy less the next kill would leave one of two that are needed.
    let whole = |copies: &Copies| copies.leader >= 0 && copies.in_sync.len() == copies.replicas.len();
    until_partitions(world, "all copies to be in sync", within(120), whole).await;
    world.say(format!("broker {id} is back and has everything"));
}

#[test]
fn brokers_that_are_killed_one_after_the_other_lose_and_double_nothing() {
    story(async |world| {
        let pipeline = ready(world).await;
        let before = generations(&pipeline).await;
        let stop = CancellationToken::new();
        let faults = async {
            until_more_arrives(world).await;
            for (id, broker) in (1..).zip(Server::BROKERS) {
                outlives(world, id, broker).await;
            }
            stop.cancel();
        };
        let (sent, ()) = tokio::join!(flow(world, &stop), faults);
        world.say(format!("sent {sent} users to each topic"));

        let expected = once(0..sent);
        for number in NUMBERS {
            let records = topic::records(&world.brokers, &source(world, number)).await.unwrap();
            assert!(ids_of(&records).unwrap() == expected, "topic {number} does not have each user once");
        }
        let probe = async || exact(world, &NUMBERS, &expected).await;
        eventually("every user in each store once", within(400), probe).await;
        all_along("each user once", within(5), probe).await;
        assert_eq!(generations(&pipeline).await, before, "no outage is a reason to roll a Deployment");
        pipeline.until_ready(within(120)).await;
    });
}

#[test]
fn a_record_that_cannot_be_read_stops_one_query_of_six() {
    story(async |world| {
        let pipeline = ready(world).await;
        send(world, 0..60).await;
        eventually("the first users in all stores", within(90), async || exact(world, &NUMBERS, &once(0..60)).await).await;

        let place = topic::send(&world.brokers, &source(world, POISONED), Some(1), &["not JSON"]).await.unwrap()[0];
        let parts = [format!("partition {}", place.0), format!("offset {}", place.1), "deadLetterTopic".to_owned()];
        let fails = |now: &_| {
            let query = status::query(now, &query(POISONED))?;
            ensure!(query.state.to_string() == "Failed" && parts.iter().all(|part| query.message.contains(part)), "{query:?}");
            Ok(())
        };
        pipeline.until("the query's state to name the record", within(60), fails).await;

        send(world, 60..200).await;
        let others: Vec<usize> = NUMBERS.into_iter().filter(|number| *number != POISONED).collect();
        eventually("what comes meanwhile in the five other stores", within(90), async || exact(world, &others, &once(0..200)).await).await;
        all_along("five queries that go on, and one that stands before the record", within(10), async || {
            exact(world, &others, &once(0..200)).await?;
            exact(world, &[POISONED], &once(0..60)).await?;
            let now = pipeline.get().await?;
            fails(&now)?;
            for &number in &others {
                let query = status::query(&now, &query(number))?;
                ensure!(query.state.to_string() == "Running" && query.message.is_empty(), "{query:?}");
            }
            Ok(())
        })
        .await;
    });
}
