//! The same replay with everything dying in between: each sum stays exact to the unit. `FAULT_SEED` chooses the moments and victims (1 unless set). The long
//! run (`make faults`) has all faults at once, over several rounds.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use tapeline_api::TradingPipeline;
use tapeline_api::report::WorkerReport;
use tapeline_api::settings::HTTP_PORT;
use tapeline_e2e::processes::{self, Process};
use tapeline_e2e::servers::Server;
use tapeline_e2e::wait::all_along;
use tapeline_e2e::{Pipeline, World, eventually, golden, status, story, within};

/// A member that is silent for longer is taken for dead by the group (the classic protocol's default).
const SESSION_TIMEOUT: Duration = Duration::from_secs(45);
const QUERIES: [&str; 2] = ["raw", "volume"];
/// Of the topic.
const PARTITIONS: usize = 6;
/// Seconds of recorded time, from the first bar to the last.
const HISTORY: u64 = 410_313_600;

/// A test that stops the servers of all is alone; else it would be the only fault that the others meet.
static SERVERS: RwLock<()> = RwLock::new(());

fn sharing() -> RwLockReadGuard<'static, ()> {
    SERVERS.read().unwrap_or_else(PoisonError::into_inner)
}

fn alone() -> RwLockWriteGuard<'static, ()> {
    SERVERS.write().unwrap_or_else(PoisonError::into_inner)
}

fn random() -> StdRng {
    let seed = std::env::var("FAULT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("FAULT_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// The example with two workers for each query, and the history spread over about `seconds`, so that there is always a micro-batch to interrupt.
async fn replay_over(world: &World, seconds: u64) -> Pipeline<'_> {
    world.apply_secrets().await.unwrap();
    let mut pipeline = world.stock_volume().await.unwrap();
    pipeline.set("/spec/producers/0/source/replay/speed", json!(format!("{}x", HISTORY / seconds)));
    for query in pipeline.list("/spec/queries") {
        query.as_object_mut().unwrap().insert("scale".to_owned(), json!({"replicas": 2}));
    }
    pipeline.apply().await.unwrap();
    pipeline.until_ready(within(180)).await;
    eventually("the first trades in both stores", within(90), async || {
        ensure!(volume(world).await? > 0 && golden::stored(&world.cassandra, &world.schema(), "real_time_data", i64::MAX).await?.history > 0, "none yet");
        Ok(())
    })
    .await;
    pipeline
}

async fn volume(world: &World) -> Result<i64> {
    Ok(golden::by_sector(&world.mysql, &world.schema()).await?.values().sum())
}

/// Every trade is in both stores, once, and stays so.
async fn exact(world: &World, deadline: Duration) {
    let probe = async || {
        let sums = golden::by_sector(&world.mysql, &world.schema()).await?;
        let stored = golden::stored(&world.cassandra, &world.schema(), "real_time_data", i64::MAX).await?;
        ensure!(sums == golden::volumes(&golden::BY_SECTOR), "MySQL has {sums:?}; Cassandra has {stored:?}");
        ensure!(stored.history == golden::TRADES && stored.others == 0, "Cassandra has {stored:?}");
        ensure!(stored.by_ticker == golden::volumes(&golden::BY_TICKER), "Cassandra has {stored:?}");
        Ok(())
    };
    eventually("all sums to be exact", deadline, probe).await;
    world.say("all sums are exact");
    all_along("the sums", within(5), probe).await;
}

/// A fault after the end of a query's work would show nothing.
async fn goes_on(world: &World, queries: &[&str]) {
    for query in queries {
        // A store that another test has stopped has not counted everything.
        let has_ended = if *query == "raw" {
            let stored = golden::stored(&world.cassandra, &world.schema(), "real_time_data", i64::MAX).await;
            stored.is_ok_and(|stored| stored.history == golden::TRADES)
        } else {
            volume(world).await.is_ok_and(|volume| volume == golden::VOLUME)
        };
        assert!(!has_ended, "the query {query} has counted everything before the fault");
    }
}

/// Does something to a running worker of the query, and returns its pod's name. One that is just ending, by an earlier fault, is not taken.
async fn strike(world: &World, pipeline: &Pipeline<'_>, query: &str, random: &mut StdRng, act: impl Fn(&Process) -> Result<()>) -> (String, Process) {
    goes_on(world, &[query]).await;
    eventually(&format!("a running worker of {query}"), within(360), async || {
        let running: Vec<_> = pipeline.pods(query).await?.into_iter().filter_map(|pod| processes::of(&pod).map(|process| (pod, process))).collect();
        ensure!(!running.is_empty(), "no worker of {query} runs");
        let chosen = random.random_range(0..running.len());
        let (pod, process) = running.into_iter().nth(chosen).context("a victim")?;
        act(&process)?;
        Ok((pod.metadata.name.unwrap_or_default(), process))
    })
    .await
}

/// Lets time pass: the moment of the next fault.
async fn moment(random: &mut StdRng, seconds: std::ops::Range<f64>) {
    tokio::time::sleep(Duration::from_secs_f64(random.random_range(seconds))).await;
}

async fn kill_workers(world: &World, pipeline: &Pipeline<'_>, random: &mut StdRng, times: usize) {
    for _ in 0..times {
        moment(random, 0.5..6.0).await;
        let query = QUERIES.get(random.random_range(0..QUERIES.len())).unwrap();
        let (name, _) = strike(world, pipeline, query, random, Process::kill).await;
        world.say(format!("killed the worker in {name}"));
    }
}

/// Freezes one of two workers until the other has taken over its partitions, and for `longer`; then it goes on where it stood.
async fn freeze_worker(world: &World, pipeline: &Pipeline<'_>, random: &mut StdRng, longer: Duration) {
    let query = QUERIES.get(random.random_range(0..QUERIES.len())).unwrap();
    let (name, process) = strike(world, pipeline, query, random, Process::freeze).await;
    world.say(format!("froze the worker in {name}"));
    // A container that was killed several times is started again after minutes only.
    eventually("the other worker to read all partitions", SESSION_TIMEOUT + within(360), async || {
        let others: Vec<Pod> = pipeline.pods(query).await?.into_iter().filter(|other| other.metadata.name.as_ref() != Some(&name)).collect();
        let held: Vec<usize> = try_join_all(others.iter().map(async |pod| anyhow::Ok(report(pod).await?.partitions.len()))).await?;
        ensure!(held.contains(&PARTITIONS), "they read {held:?}");
        Ok(())
    })
    .await;
    tokio::time::sleep(longer).await;
    process.thaw().unwrap();
    world.say("it goes on");
}

async fn report(pod: &Pod) -> Result<WorkerReport> {
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).context("the pod has no address")?;
    Ok(reqwest::get(format!("http://{address}:{HTTP_PORT}/status")).await?.error_for_status()?.json().await?)
}

async fn stop_server(world: &World, server: Server, seconds: u64) {
    goes_on(world, &QUERIES).await;
    let down = server.stop().await.unwrap();
    world.say(format!("stopped {server:?}"));
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    down.start().await.unwrap();
    world.say(format!("{server:?} is back"));
}

#[test]
fn workers_killed_in_mid_batch_lose_and_double_nothing() {
    let _servers = sharing();
    story(async |world| {
        let mut random = random();
        let pipeline = replay_over(world, 100).await;
        kill_workers(world, &pipeline, &mut random, 6).await;
        exact(world, within(300)).await;
        pipeline.until_ready(within(120)).await;
    });
}

#[test]
fn a_worker_frozen_beyond_the_session_timeout_counts_nothing_twice() {
    let _servers = sharing();
    story(async |world| {
        let mut random = random();
        let pipeline = replay_over(world, 100).await;
        freeze_worker(world, &pipeline, &mut random, Duration::from_secs(8)).await;
        exact(world, within(300)).await;
        pipeline.until_ready(within(120)).await;
    });
}

#[test]
fn servers_stopped_for_half_a_minute_lose_and_double_nothing() {
    let _servers = alone();
    story(async |world| {
        let pipeline = replay_over(world, 130).await;
        let before: Vec<i64> = [pipeline.generation("raw").await.unwrap(), pipeline.generation("volume").await.unwrap()].into();

        // One store's outage is its query's alone: the other query goes on, untouched.
        let down = Server::Cassandra.stop().await.unwrap();
        world.say("stopped Cassandra");
        let began = std::time::Instant::now();
        let seen = volume(world).await.unwrap();
        eventually("the query into MySQL to go on", within(30), async || {
            let now = volume(world).await?;
            ensure!(now > seen, "still {now}");
            Ok(())
        })
        .await;
        pipeline
            .until("a condition that names Cassandra", within(60), |now| {
                let ready = status::expect(now, "Ready", "False")?;
                ensure!(ready.reason == "CassandraUnreachable", "{}", status::describe(now));
                status::expect(now, "MySQLReady", "True")?;
                status::expect(now, "Stalled", "False")
            })
            .await;
        tokio::time::sleep(Duration::from_secs(30).saturating_sub(began.elapsed())).await;
        down.start().await.unwrap();
        world.say("Cassandra is back");

        for (server, reason) in [(Server::MySql, "MySQLUnreachable"), (Server::Kafka, "KafkaUnreachable")] {
            goes_on(world, &QUERIES).await;
            let down = server.stop().await.unwrap();
            world.say(format!("stopped {server:?}"));
            let began = std::time::Instant::now();
            let says = |now: &TradingPipeline| {
                ensure!(status::expect(now, "Ready", "False")?.reason == reason, "{}", status::describe(now));
                Ok(())
            };
            pipeline.until(&format!("the reason {reason}"), within(60), says).await;
            tokio::time::sleep(Duration::from_secs(30).saturating_sub(began.elapsed())).await;
            down.start().await.unwrap();
            world.say(format!("{server:?} is back"));
        }
        exact(world, within(300)).await;
        pipeline.until_ready(within(120)).await;
        let after: Vec<i64> = [pipeline.generation("raw").await.unwrap(), pipeline.generation("volume").await.unwrap()].into();
        assert_eq!(after, before, "no outage is a reason to roll a Deployment");
    });
}

#[test]
#[ignore = "several minutes: make faults"]
fn everything_at_once_over_several_rounds() {
    let _servers = alone();
    story(async |world| {
        let mut random = random();
        let pipeline = replay_over(world, 700).await;
        for round in 1..=3 {
            world.say(format!("round {round}"));
            kill_workers(world, &pipeline, &mut random, 4).await;
            let longer = Duration::from_secs(random.random_range(2..12));
            freeze_worker(world, &pipeline, &mut random, longer).await;
            let server = [Server::Cassandra, Server::MySql, Server::Kafka].into_iter().nth(random.random_range(0..3)).unwrap();
            stop_server(world, server, random.random_range(20..60)).await;
        }
        exact(world, within(900)).await;
        pipeline.until_ready(within(180)).await;
    });
}

#[test]
#[ignore = "several minutes: make faults"]
fn servers_killed_or_frozen_in_the_middle_of_a_batch() {
    let _servers = alone();
    story(async |world| {
        assert_eq!(std::env::var("TESTBED_COMMITLOG_SYNC").as_deref(), Ok("batch"), "a killed Cassandra keeps what it acknowledged only so: make faults");
        let mut random = random();
        let pipeline = replay_over(world, 420).await;
        for server in [Server::MySql, Server::Cassandra, Server::Kafka] {
            moment(&mut random, 0.0..10.0).await;
            goes_on(world, &QUERIES).await;
            let down = server.kill().await.unwrap();
            world.say(format!("killed {server:?}"));
            moment(&mut random, 1.0..20.0).await;
            down.start().await.unwrap();
            moment(&mut random, 5.0..20.0).await;
            let down = server.freeze().await.unwrap();
            world.say(format!("froze {server:?}"));
            moment(&mut random, 20.0..60.0).await;
            down.start().await.unwrap();
            world.say(format!("{server:?} is back"));
        }
        exact(world, within(900)).await;
        pipeline.until_ready(within(180)).await;
    });
}
