//! What a user gets wrong, and what the conditions then say: within 15 s, with the field, the problem and the remedy. Put right, it heals by itself. What was
//! right all along is not touched.

use anyhow::{Result, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::json;
use sqlx::AssertSqlSafe;
use tapeline_api::TradingPipeline;
use tapeline_e2e::{Pipeline, World, eventually, status, story, topic, within};

use crate::small::{SMALL, ready};

/// From the moment of the mistake until a condition speaks of it.
const SOON: u64 = 15;

/// Whether only a change of the object helps.
#[derive(Clone, Copy)]
enum Cure {
    ChangeTheObject,
    WaitForSomething,
}

/// Ready is False for `reason`, its message has all of `parts`, and the kind of cure is told by Reconciling and Stalled.
fn says(pipeline: &TradingPipeline, reason: &str, cure: Cure, parts: &[&str]) -> Result<Condition> {
    let ready = status::expect(pipeline, "Ready", "False")?;
    ensure!(ready.reason == reason, "the reason is not {reason}: {}", status::describe(pipeline));
    let missing: Vec<_> = parts.iter().filter(|part| !ready.message.contains(**part)).collect();
    ensure!(missing.is_empty(), "the message lacks {missing:?}: {}", ready.message);
    let (reconciling, stalled) = match cure {
        Cure::ChangeTheObject => ("False", "True"),
        Cure::WaitForSomething => ("True", "False"),
    };
    status::expect(pipeline, "Reconciling", reconciling)?;
    status::expect(pipeline, "Stalled", stalled)?;
    Ok(ready)
}

async fn soon_says(pipeline: &Pipeline<'_>, reason: &str, cure: Cure, parts: &[&str]) {
    let condition = pipeline.until(&format!("Ready=False {reason} with {parts:?}"), within(SOON), |now| says(now, reason, cure, parts)).await;
    println!("{}: {}", condition.reason, condition.message);
}

/// The query `raw` counts what is sent now.
async fn raw_goes_on(world: &World, id: i64) {
    topic::send(&world.kafka, &world.topic("ticks"), None, &[&format!(r#"{{"id": {id}, "volume": 1}}"#)]).await.unwrap();
    eventually(&format!("trade {id} in Cassandra"), within(30), async || {
        let sql = format!("SELECT id FROM {}.real_time_data WHERE id = {id}", world.schema());
        let rows = world.cassandra.query_unpaged(sql, ()).await?.into_rows_result()?.rows_num();
        ensure!(rows == 1, "{rows} rows");
        Ok(())
    })
    .await;
}

#[test]
fn a_typo_in_a_query_is_named_with_the_nearest_column() {
    story(async |world| {
        let mut pipeline = ready(world).await;
        let before = (pipeline.generation("raw").await.unwrap(), pipeline.generation("volume").await.unwrap());
        let pods = pipeline.pods("volume").await.unwrap();

        let right = "SELECT CAST(created_at AS DATE) AS date, sector, SUM(volume) AS total_volume, now() AS processed_at FROM ticks GROUP BY 1, 2";
        pipeline.set("/spec/queries/1/sql", json!(right.replace("sector", "sectr")));
        pipeline.apply().await.unwrap();
        soon_says(&pipeline, "InvalidSQL", Cure::ChangeTheObject, &["spec.queries[1].sql", "\"sectr\"", "did you mean \"sector\"?"]).await;
        assert_eq!(status::query(&pipeline.get().await.unwrap(), "volume").unwrap().state.to_string(), "Invalid");
        // Neither query is touched: the wrong one runs on as it last was.
        raw_goes_on(world, 1).await;
        let now = (pipeline.generation("raw").await.unwrap(), pipeline.generation("volume").await.unwrap());
        assert_eq!(now, before);
        assert_eq!(pipeline.pods("volume").await.unwrap().first().unwrap().metadata.uid, pods.first().unwrap().metadata.uid);

        pipeline.set("/spec/queries/1/sql", json!(right));
        pipeline.apply().await.unwrap();
        pipeline.until_ready(within(90)).await;
        assert_eq!(pipeline.generation("raw").await.unwrap(), before.0);
    });
}

#[test]
fn a_missing_secret_holds_up_only_what_needs_it() {
    story(async |world| {
        let pipeline = world.pipeline(SMALL);
        pipeline.apply().await.unwrap();
        soon_says(&pipeline, "SecretMissing", Cure::WaitForSomething, &["spec.mysql.credentialsSecretRef", "\"mysql\"", "create"]).await;
        eventually("the query into Cassandra to run all the same", within(60), async || {
            let ready = pipeline.deployment("query", "raw").await?.status.and_then(|status| status.ready_replicas);
            ensure!(ready == Some(1), "{ready:?} ready");
            Ok(())
        })
        .await;
        raw_goes_on(world, 1).await;
        assert!(pipeline.deployment("query", "volume").await.is_err(), "what needs the Secret has no Deployment");
        let raw = pipeline.generation("raw").await.unwrap();

        world.apply_secrets().await.unwrap();
        pipeline.until_ready(within(60)).await;
        assert_eq!(pipeline.generation("raw").await.unwrap(), raw);
    });
}

#[test]
fn a_wrong_password_is_told_from_a_dead_server() {
    story(async |world| {
        let secret = |password: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mysql"}, "stringData": {"username": "root", "password": password}});
        world.apply(&[secret("guess")]).await.unwrap();
        let pipeline = world.pipeline(SMALL);
        pipeline.apply().await.unwrap();
        soon_says(&pipeline, "AccessDenied", Cure::WaitForSomething, &["spec.mysql.credentialsSecretRef", "\"mysql\""]).await;
        let now = pipeline.get().await.unwrap();
        assert!(!status::describe(&now).contains("guess"), "the password is nowhere to be read");
        status::expect(&now, "MySQLReady", "False").unwrap();
        pipeline.until_condition("CassandraReady", "True", within(30)).await;

        world.apply(&[secret("root")]).await.unwrap();
        pipeline.until_ready(within(90)).await;
    });
}

#[test]
fn an_unreachable_broker_is_named_and_the_stores_are_prepared_meanwhile() {
    story(async |world| {
        world.apply_secrets().await.unwrap();
        let mut pipeline = world.pipeline(SMALL);
        pipeline.set("/spec/kafka/bootstrapServers", json!("kafka.data:9999"));
        pipeline.apply().await.unwrap();
        soon_says(&pipeline, "KafkaUnreachable", Cure::WaitForSomething, &["spec.kafka.bootstrapServers", "kafka.data:9999"]).await;
        status::expect(&pipeline.get().await.unwrap(), "TopicsReady", "False").unwrap();
        pipeline.until_condition("CassandraReady", "True", within(30)).await;
        pipeline.until_condition("MySQLReady", "True", within(30)).await;

        pipeline.set("/spec/kafka/bootstrapServers", json!("kafka.data:9092"));
        pipeline.apply().await.unwrap();
        pipeline.until_ready(within(90)).await;
    });
}

#[test]
fn a_broker_whose_name_does_not_resolve_is_named() {
    story(async |world| {
        world.apply_secrets().await.unwrap();
        let mut pipeline = world.pipeline(SMALL);
        pipeline.set("/spec/kafka/bootstrapServers", json!("kafka.nowhere:9092"));
        pipeline.apply().await.unwrap();
        soon_says(&pipeline, "KafkaUnreachable", Cure::WaitForSomething, &["spec.kafka.bootstrapServers", "kafka.nowhere"]).await;
    });
}

#[test]
fn a_sink_table_that_nobody_declares_is_waited_for() {
    story(async |world| {
        world.apply_secrets().await.unwrap();
        let mut pipeline = world.pipeline(SMALL);
        pipeline.set("/spec/queries/1/sink/mysql/table", json!("aggregated_dat"));
        pipeline.apply().await.unwrap();
        let parts = ["spec.queries[1].sink.mysql.table", "aggregated_dat", "did you mean \"aggregated_data\"?", "declare it under spec.mysql.tables"];
        soon_says(&pipeline, "TableMissing", Cure::WaitForSomething, &parts).await;
        eventually("the other query to run", within(60), async || {
            let ready = pipeline.deployment("query", "raw").await?.status.and_then(|status| status.ready_replicas);
            ensure!(ready == Some(1), "{ready:?} ready");
            Ok(())
        })
        .await;
        let raw = pipeline.generation("raw").await.unwrap();

        // Somebody else's table will do.
        let schema = world.schema();
        let create = format!(
            "CREATE TABLE `{schema}`.aggregated_dat (processing_id bigint AUTO_INCREMENT PRIMARY KEY, processed_at timestamp(6) NULL, sector varchar(64), \
             total_volume bigint, date date)"
        );
        sqlx::query(AssertSqlSafe(create)).execute(&world.mysql).await.unwrap();
        pipeline.until_ready(within(60)).await;
        assert_eq!(pipeline.generation("raw").await.unwrap(), raw);
    });
}

#[test]
fn what_would_lose_data_is_refused_and_nothing_is_touched() {
    story(async |world| {
        world.apply_secrets().await.unwrap();
        let mut pipeline = world.pipeline(SMALL);
        let columns = json!([{"name": "id", "type": "bigint"}, {"name": "note", "type": "text"}]);
        pipeline.list("/spec/cassandra/tables").push(json!({"name": "notes", "columns": columns, "partitionKey": ["id"]}));
        pipeline.apply().await.unwrap();
        pipeline.until_ready(within(90)).await;
        let raw = pipeline.generation("raw").await.unwrap();

        // The API server itself refuses fewer partitions.
        pipeline.set("/spec/kafka/topics/0/partitions", json!(1));
        let refusal = pipeline.apply().await.unwrap_err().to_string();
        assert!(refusal.contains("a topic cannot have fewer partitions than it has"), "{refusal}");
        pipeline.set("/spec/kafka/topics/0/partitions", json!(2));

        pipeline.set("/spec/cassandra/tables/1/columns/1/type", json!("int"));
        pipeline.apply().await.unwrap();
        soon_says(&pipeline, "WouldLoseData", Cure::ChangeTheObject, &["spec.cassandra.tables[1].columns[1].type", "notes", "another name"]).await;
        pipeline.set("/spec/cassandra/tables/1/columns/1/type", json!("text"));
        pipeline.apply().await.unwrap();
        pipeline.until_ready(within(60)).await;
        raw_goes_on(world, 1).await;
        assert_eq!(pipeline.generation("raw").await.unwrap(), raw);
    });
}
