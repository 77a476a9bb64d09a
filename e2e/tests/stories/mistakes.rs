//! What a user gets wrong, and what the conditions then say: within 15 s, with the field, the problem and the remedy. Put right, it heals by itself. What was
//! right all along is not touched.

use anyhow::{Result, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use mongodb::bson::{Document, doc};
use serde_json::json;
use sqlx::AssertSqlSafe;
use tapeline_api::TradingPipeline;
use tapeline_e2e::connect::MONGODB_USER;
use tapeline_e2e::wait::all_along;
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

#[test]
fn an_average_cannot_be_merged_and_the_way_out_is_told() {
    story(async |world| {
        let mut pipeline = ready(world).await;
        let before = (pipeline.generation("raw").await.unwrap(), pipeline.generation("volume").await.unwrap());
        let columns = json!([{"name": "sector", "type": "varchar(64)"}, {"name": "mean", "type": "double"}, {"name": "total", "type": "bigint"}, {"name": "trades", "type": "bigint"}]);
        pipeline.list("/spec/mysql/tables").push(json!({"name": "by_sector", "columns": columns, "primaryKey": ["sector"]}));
        let wrong = "SELECT COALESCE(sector, '') AS sector, AVG(volume) AS mean FROM ticks GROUP BY 1";
        let query = json!({"name": "mean", "sql": wrong, "trigger": {"interval": "1s"}, "sink": {"mysql": {"table": "by_sector", "mode": "Merge"}}});
        pipeline.list("/spec/queries").push(query);
        pipeline.apply().await.unwrap();
        let parts = ["spec.queries[2].sql", "\"mean\"", "avg(", "cannot be merged", "store sum(", "count(", "divide in a view"];
        soon_says(&pipeline, "InvalidSQL", Cure::ChangeTheObject, &parts).await;
        assert!(pipeline.deployment("query", "mean").await.is_err(), "what cannot be right does not run");
        raw_goes_on(world, 1).await;
        assert_eq!((pipeline.generation("raw").await.unwrap(), pipeline.generation("volume").await.unwrap()), before);

        let right = "SELECT COALESCE(sector, '') AS sector, SUM(volume) AS total, COUNT(volume) AS trades FROM ticks GROUP BY 1";
        pipeline.set("/spec/queries/2/sql", json!(right));
        let view = json!({"name": "mean_by_sector", "sql": "SELECT sector, total / trades AS mean FROM by_sector"});
        pipeline.list("/spec/mysql/views").push(view);
        pipeline.apply().await.unwrap();
        pipeline.until_ready(within(90)).await;
        // One of them was there before the query.
        topic::send(&world.kafka, &world.topic("ticks"), None, &[r#"{"id": 2, "volume": 4}"#, r#"{"id": 3, "volume": 7}"#]).await.unwrap();
        eventually("the mean of 1, 4 and 7", within(30), async || {
            let sql = format!("SELECT CAST(mean AS DOUBLE) FROM `{}`.mean_by_sector", world.schema());
            let means: Vec<f64> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&world.mysql).await?;
            ensure!(means == [4.0], "{means:?}");
            Ok(())
        })
        .await;
    });
}

#[test]
fn a_column_of_another_type_than_the_query_gives_is_named_with_both() {
    story(async |world| {
        let mut pipeline = ready(world).await;
        let raw = pipeline.generation("raw").await.unwrap();
        pipeline.set("/spec/queries/0/sql", json!("SELECT id, volume AS sector FROM ticks"));
        pipeline.apply().await.unwrap();
        let parts = ["spec.queries[0].sql", "\"sector\"", "\"real_time_data\"", "is text and takes no bigint", "CAST("];
        soon_says(&pipeline, "InvalidSQL", Cure::ChangeTheObject, &parts).await;
        raw_goes_on(world, 1).await;
        assert_eq!(pipeline.generation("raw").await.unwrap(), raw);

        pipeline.set("/spec/queries/0/sql", json!("SELECT id, CAST(volume AS VARCHAR) AS sector FROM ticks"));
        pipeline.apply().await.unwrap();
        pipeline.until_ready(within(90)).await;
        raw_goes_on(world, 2).await;
    });
}

/// As many records as are looked at before anything is said, and some.
fn places(from: i64) -> Vec<String> {
    let place = |id| json!({"id": id, "created_at": "2024-08-25T07:04:45Z", "ticker": "ENI", "sector": "Energy", "volume": 1, "location": {"city": "Rome", "country": "IT"}});
    (from..from + 1_100).map(|id| place(id).to_string()).collect()
}

#[test]
fn a_path_that_no_record_has_is_told_though_everything_runs() {
    story(async |world| {
        world.apply_secrets().await.unwrap();
        let mut pipeline = world.pipeline(SMALL);
        pipeline.list("/spec/cassandra/tables/0/columns").push(json!({"name": "city", "type": "text"}));
        pipeline.list("/spec/streams/0/fields").push(json!({"name": "city", "type": "string", "path": "locaton.city"}));
        pipeline.apply().await.unwrap();
        pipeline.until_ready(within(90)).await;
        pipeline.until_condition("Degraded", "False", within(30)).await;
        let send = async |from| {
            let places = places(from);
            topic::send(&world.kafka, &world.topic("ticks"), None, &places.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
        };
        send(0).await;
        let says = |now: &TradingPipeline| -> Result<Condition> {
            let degraded = status::expect(now, "Degraded", "True")?;
            ensure!(degraded.reason == "FieldNeverSeen", "{}", status::describe(now));
            let parts = ["spec.queries[0]", "\"city\"", "\"locaton.city\"", "created_at, id, location, sector, ticker, volume"];
            let missing: Vec<_> = parts.iter().filter(|part| !degraded.message.contains(**part)).collect();
            ensure!(missing.is_empty(), "the message lacks {missing:?}: {}", degraded.message);
            // Which of the fields a record has is its own affair: nothing is held up.
            status::expect(now, "Ready", "True")?;
            status::expect(now, "Stalled", "False")?;
            Ok(degraded)
        };
        let degraded = pipeline.until("Degraded=True FieldNeverSeen", within(60), says).await;
        println!("{}: {}", degraded.reason, degraded.message);
        all_along("Ready", within(3), async || says(&pipeline.get().await?).map(drop)).await;

        let last = pipeline.list("/spec/streams/0/fields").len() - 1;
        pipeline.set(&format!("/spec/streams/0/fields/{last}/path"), json!("location.city"));
        pipeline.apply().await.unwrap();
        pipeline.until_ready(within(90)).await;
        send(10_000).await;
        eventually("the city in Cassandra", within(60), async || {
            let sql = format!("SELECT city FROM {}.real_time_data WHERE id = 10000", world.schema());
            let rows = world.cassandra.query_unpaged(sql, ()).await?.into_rows_result()?;
            let city = rows.maybe_first_row::<(Option<String>,)>()?.and_then(|(city,)| city);
            ensure!(city.as_deref() == Some("Rome"), "{city:?}");
            Ok(())
        })
        .await;
        pipeline.until_condition("Degraded", "False", within(90)).await;
    });
}

#[test]
fn a_mongodb_that_refuses_the_user_is_told_from_a_dead_one() {
    story(async |world| {
        world.apply_secrets().await.unwrap();
        let secret = |password: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mongodb"}, "stringData": {"username": MONGODB_USER, "password": password}});
        world.apply(&[secret("guess")]).await.unwrap();
        let mut pipeline = world.pipeline(SMALL);
        let mongodb = json!({
            "hosts": ["mongo.data:27017"], "credentialsSecretRef": {"name": "mongodb"}, "database": world.schema(), "collections": [{"name": "trades"}],
        });
        pipeline.set("/spec/mongodb", mongodb);
        let sink = json!({"mongodb": {"collection": "trades", "id": ["id"]}});
        pipeline.list("/spec/queries").push(json!({"name": "documents", "sql": "SELECT * FROM ticks", "trigger": {"interval": "1s"}, "sink": sink}));
        pipeline.apply().await.unwrap();
        let schema = world.schema();
        let parts = ["spec.mongodb.credentialsSecretRef", "refuses user \"tapeline\"", "Secret \"mongodb\"", "grantRolesToUser", schema.as_str()];
        soon_says(&pipeline, "AccessDenied", Cure::WaitForSomething, &parts).await;
        let now = pipeline.get().await.unwrap();
        assert!(!status::describe(&now).contains("guess"), "the password is nowhere to be read");
        status::expect(&now, "MongoDBReady", "False").unwrap();
        pipeline.until_condition("CassandraReady", "True", within(30)).await;
        eventually("the query into Cassandra to run all the same", within(60), async || {
            let ready = pipeline.deployment("query", "raw").await?.status.and_then(|status| status.ready_replicas);
            ensure!(ready == Some(1), "{ready:?} ready");
            Ok(())
        })
        .await;
        raw_goes_on(world, 1).await;
        assert!(pipeline.deployment("query", "documents").await.is_err(), "what has no collection has no Deployment");

        world.apply(&[secret(MONGODB_USER)]).await.unwrap();
        pipeline.until_ready(within(90)).await;
        eventually("trade 1 in MongoDB", within(60), async || {
            let trades = world.mongodb().await?.database(&world.schema()).collection::<Document>("trades");
            let found = trades.find_one(doc! {"_id": 1_i64}).await?;
            ensure!(found.as_ref().is_some_and(|trade| trade.get_i64("volume").ok() == Some(1)), "{found:?}");
            Ok(())
        })
        .await;
    });
}
