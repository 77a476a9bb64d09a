//! Where workers begin, and where they go on: from the end of a topic, behind the marks of transactions, and after a rebalance in the middle of an outage.

use std::time::Duration;

use anyhow::{Result, ensure};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use serde_json::json;
use sqlx::mysql::MySqlConnection;
use sqlx::{Connection as _, Executor as _};
use tapeline_api::TradingPipeline;
use tapeline_e2e::wait::all_along;
use tapeline_e2e::{World, connect, eventually, status, story, topic, within};

use crate::small::{SMALL, ready, rows, volume};

fn trades(ids: std::ops::Range<i64>) -> Vec<String> {
    ids.map(|id| format!(r#"{{"id": {id}, "created_at": "2024-08-25T07:04:45Z", "sector": "IT", "volume": 1}}"#)).collect()
}

async fn send(world: &World, ids: std::ops::Range<i64>) {
    let payloads = trades(ids);
    topic::send(&world.kafka, &world.topic("ticks"), None, &payloads.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
}

async fn exactly(world: &World, count: i64, deadline: Duration) {
    let probe = async || {
        let (volume, rows) = (volume(world).await?, rows(world).await?);
        ensure!(volume == count && rows == count, "MySQL {volume}, Cassandra {rows}");
        Ok(())
    };
    eventually(&format!("{count} trades in both stores"), deadline, probe).await;
    all_along("the count", within(3), probe).await;
}

fn no_lag(pipeline: &TradingPipeline) -> Result<()> {
    for name in ["raw", "volume"] {
        let query = status::query(pipeline, name)?;
        ensure!(query.lag == Some(0), "{query:?}");
    }
    Ok(())
}

#[test]
fn a_query_that_starts_at_the_end_reads_nothing_of_what_was_there_in_any_partition() {
    story(async |world| {
        world.apply_secrets().await.unwrap();
        topic::create(&world.kafka, &world.topic("ticks"), 6).await.unwrap();
        send(world, 0..300).await;
        let mut pipeline = world.pipeline(SMALL);
        pipeline.set("/spec/kafka/topics/0/partitions", 6.into());
        pipeline.set("/spec/streams/0/startFrom", json!({"position": "Latest"}));
        for query in pipeline.list("/spec/queries") {
            query["scale"] = json!({"replicas": 3});
        }
        pipeline.apply().await.unwrap();
        pipeline.until_ready(within(90)).await;
        pipeline.until("all partitions to be read", within(120), no_lag).await;
        exactly(world, 0, within(5)).await;
        send(world, 1000..1030).await;
        exactly(world, 30, within(60)).await;
    });
}

#[test]
fn the_marks_of_transactions_are_no_lag_and_what_was_aborted_is_not_read() {
    story(async |world| {
        let pipeline = ready(world).await;
        let (kafka, topic, id) = (world.kafka.clone(), world.topic("ticks"), world.topic("transactions"));
        tokio::task::spawn_blocking(move || -> Result<()> {
            let producer: ThreadedProducer<DefaultProducerContext> = connect::kafka(&kafka).set("transactional.id", &id).create()?;
            producer.init_transactions(Duration::from_secs(30))?;
            for (from, commit) in [(0, true), (100, false), (200, true)] {
                producer.begin_transaction()?;
                for (partition, payload) in trades(from..from + 4).iter().enumerate() {
                    let record = BaseRecord::<(), str>::to(&topic).partition(i32::try_from(partition % 2)?).payload(payload);
                    producer.send(record).map_err(|(error, _)| error)?;
                }
                producer.flush(Duration::from_secs(30))?;
                if commit { producer.commit_transaction(Duration::from_secs(30))? } else { producer.abort_transaction(Duration::from_secs(30))? }
            }
            Ok(())
        })
        .await
        .unwrap()
        .unwrap();
        exactly(world, 8, within(60)).await;
        pipeline.until("no lag behind the last mark", within(120), no_lag).await;
    });
}

#[test]
fn a_rebalance_in_the_middle_of_an_outage_leaves_no_partition_behind() {
    story(async |world| {
        world.apply_secrets().await.unwrap();
        let mut pipeline = world.pipeline(SMALL);
        pipeline.set("/spec/kafka/topics/0/partitions", 6.into());
        pipeline.apply().await.unwrap();
        pipeline.until_ready(within(90)).await;
        send(world, 0..600).await;
        exactly(world, 600, within(60)).await;

        // MySQL stops taking rows of this table, while messages come and go on coming.
        let url = std::env::var("TESTBED_MYSQL").unwrap_or_else(|_| "10.99.0.1:3306".to_owned());
        let mut locker = MySqlConnection::connect(&format!("mysql://root:root@{url}/{}", world.schema())).await.unwrap();
        locker.execute("LOCK TABLES aggregated_data WRITE").await.unwrap();
        for round in 1..=12 {
            send(world, round * 1000..round * 1000 + 600).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        pipeline
            .until("the query to say that it waits: a transaction may take a minute", within(150), |now| {
                let query = status::query(now, "volume")?;
                ensure!(query.state.to_string() == "Waiting", "{query:?}");
                Ok(())
            })
            .await;
        // A second worker joins: the first one gives half of its partitions back, and has to throw away what it holds.
        pipeline.list("/spec/queries")[1]["scale"] = json!({"replicas": 2});
        pipeline.apply().await.unwrap();
        eventually("two workers", within(60), async || {
            ensure!(pipeline.pods("volume").await?.len() == 2);
            Ok(())
        })
        .await;
        tokio::time::sleep(Duration::from_secs(25)).await; // longer than a worker may take to give partitions back
        locker.execute("UNLOCK TABLES").await.unwrap();
        exactly(world, 13 * 600, within(120)).await;
        send(world, 20_000..20_600).await;
        exactly(world, 14 * 600, within(60)).await;
    });
}
