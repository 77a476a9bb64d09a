//! Everything dies while one stream flows into six sinks at once (`pipelines/six-sinks.yaml`), and what one of them publishes on into three more that keep the last of
//! each key. What arrived equals a recomputation from the topics themselves: nothing is lost, nothing is there twice, nothing old overwrites what is newer. `FAULT_SEED`
//! chooses the moments and victims (1 unless set). `make faults` runs them with three seeds, `make faults-long` has all faults over several rounds, and
//! servers killed and frozen; each test adds to the report that `FAULT_REPORT` names.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod run;

use std::time::Duration;

use anyhow::ensure;
use run::{Feed, Run};
use tapeline_api::TradingPipeline;
use tapeline_e2e::servers::Server;
use tapeline_e2e::sinks::Sink;
use tapeline_e2e::{status, story, story_alone, within};

/// The four servers, in the order in which they are killed and frozen.
const SERVERS: [Server; 4] = [Server::MySql, Server::Cassandra, Server::Mongo, Server::Kafka];
/// As long as an outage lasts.
const HALF_A_MINUTE: Duration = Duration::from_secs(30);

/// The feed of the short runs: as many trades of each bar as make its candle, over longer than the faults take even on a slow machine.
const fn short(workers: usize) -> Feed {
    Feed { trades_per_bar: 4, seconds: 600, workers }
}
/// Until all that came at once at the end of a short run is stored everywhere, which is work.
const CATCHING_UP: Duration = within(600);

#[test]
fn workers_killed_in_mid_batch_while_their_number_changes_lose_and_double_nothing() {
    story(async |world| {
        let mut run = Run::begin(world, "workers_killed_in_mid_batch_while_their_number_changes", short(1)).await;
        // Those that are just starting are killed as well.
        run.ask_for_workers(3).await;
        run.kill_workers(2).await;
        run.until_shared_by(3).await;
        run.kill_workers(0).await;
        run.ask_for_workers(2).await;
        run.until_shared_by(2).await;
        run.ends_exact(CATCHING_UP).await;
        run.passed();
    });
}

#[test]
fn workers_frozen_beyond_the_session_timeout_count_nothing_twice() {
    story(async |world| {
        let mut run = Run::begin(world, "workers_frozen_beyond_the_session_timeout", short(2)).await;
        run.freeze_workers(Duration::from_secs(4)).await;
        run.ends_exact(CATCHING_UP).await;
        run.passed();
    });
}

#[test]
fn servers_stopped_for_half_a_minute_lose_and_double_nothing() {
    story_alone(async |world| {
        let mut run = Run::begin(world, "servers_stopped_for_half_a_minute", short(2)).await;
        let before = run.generations().await;

        // A store's outage is that of its queries alone: the others go on, untouched.
        run.goes_on(&Sink::ALL).await;
        let cassandra = run.stop(Server::Cassandra).await;
        run.arrives_further(&[Sink::Append, Sink::Upsert, Sink::Merge, Sink::MongoDb, Sink::Kafka, Sink::LastInMySql, Sink::LastInMongoDb]).await;
        let says = |now: &TradingPipeline| {
            let ready = status::expect(now, "Ready", "False")?;
            ensure!(ready.reason == "CassandraUnreachable", "{}", status::describe(now));
            status::expect(now, "MySQLReady", "True")?;
            status::expect(now, "MongoDBReady", "True")?;
            status::expect(now, "Stalled", "False")
        };
        run.pipeline.until("a condition that names Cassandra", within(60), says).await;
        let mongo = run.stop(Server::Mongo).await;
        run.arrives_further(&[Sink::Append, Sink::Upsert, Sink::Merge, Sink::Kafka, Sink::LastInMySql]).await;
        run.until_query_waits_for(Sink::MongoDb, "MongoDB").await;
        run.start(cassandra, HALF_A_MINUTE).await;
        run.goes_on(&[Sink::Append, Sink::Upsert, Sink::Merge]).await;
        let mysql = run.stop(Server::MySql).await;
        run.arrives_further(&[Sink::Cassandra, Sink::Kafka]).await;
        run.start(mongo, HALF_A_MINUTE).await;
        run.until_reason("MySQLUnreachable").await;
        // The worst comes first in Ready, and says where it begins.
        run.goes_on(&[Sink::Kafka]).await;
        let kafka = run.stop(Server::Kafka).await;
        run.until_reason("KafkaUnreachable").await;
        run.start(mysql, HALF_A_MINUTE).await;
        run.start(kafka, HALF_A_MINUTE).await;

        run.ends_exact(CATCHING_UP).await;
        assert_eq!(run.generations().await, before, "no outage is a reason to roll a Deployment");
        run.passed();
    });
}

#[test]
#[ignore = "several minutes: make faults-long"]
fn everything_at_once_over_several_rounds() {
    story_alone(async |world| {
        let mut run = Run::begin(world, "everything_at_once_over_several_rounds", Feed { trades_per_bar: 10, seconds: 1800, workers: 1 }).await;
        for round in 1..=3 {
            world.say(format!("round {round}"));
            run.ask_for_workers(3).await;
            run.kill_workers(4).await;
            run.until_shared_by(3).await;
            let longer = run.between(1.0..6.0);
            run.freeze_workers(longer).await;
            run.ask_for_workers(2).await;
            let (server, lasting) = (run.one_of(&SERVERS), run.between(20.0..60.0));
            run.goes_on(&Sink::ALL).await;
            let down = run.stop(server).await;
            run.kill_workers(0).await;
            run.start(down, lasting).await;
            run.until_shared_by(2).await;
            run.ask_for_workers(1).await;
            run.until_shared_by(1).await;
        }
        run.ends_exact(within(900)).await;
        run.passed();
    });
}

#[test]
#[ignore = "several minutes: make faults-long"]
fn servers_killed_or_frozen_in_the_middle_of_a_batch() {
    story_alone(async |world| {
        assert_eq!(std::env::var("TESTBED_COMMITLOG_SYNC").as_deref(), Ok("batch"), "a killed Cassandra keeps what it acknowledged only so: make faults-long");
        let mut run = Run::begin(world, "servers_killed_or_frozen_in_the_middle_of_a_batch", Feed { trades_per_bar: 10, seconds: 1200, workers: 2 }).await;
        for server in SERVERS {
            run.moment(0.0..10.0).await;
            run.goes_on(&Sink::ALL).await;
            let down = run.kill(server).await;
            let lasting = run.between(1.0..20.0);
            run.start(down, lasting).await;
            run.moment(5.0..20.0).await;
            run.goes_on(&Sink::ALL).await;
            let down = run.freeze(server).await;
            let lasting = run.between(20.0..60.0);
            run.start(down, lasting).await;
        }
        run.ends_exact(within(900)).await;
        run.passed();
    });
}
