//! Records that cannot be read: they are put aside with what is needed to find and repair them, and nothing else is held up.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::Value;
use sqlx::AssertSqlSafe;
use tapeline_e2e::topic::{self, Record};
use tapeline_e2e::wait::all_along;
use tapeline_e2e::{World, eventually, status, story, within};

use crate::small::{SMALL, ready, volume};

fn trade(id: i64, volume: i64) -> String {
    format!(r#"{{"id": {id}, "created_at": "2024-08-25T07:04:45Z", "ticker": "IBM", "sector": "IT", "volume": {volume}}}"#)
}

/// Ids and volumes in Cassandra.
async fn rows(world: &World) -> Result<BTreeMap<i64, i64>> {
    let sql = format!("SELECT id, CAST(volume AS bigint) FROM {}.real_time_data", world.schema());
    let result = world.cassandra.query_unpaged(sql, ()).await?.into_rows_result()?;
    Ok(result.rows::<(i64, Option<i64>)>()?.map(|row| row.map(|(id, volume)| (id, volume.unwrap_or(-1)))).collect::<Result<_, _>>()?)
}

/// The letter of `query` for the record at `offset`.
fn letter_of<'a>(letters: &'a [Record], query: &str, offset: i64) -> &'a Record {
    let offset = offset.to_string();
    let wanted = |letter: &&Record| letter.header("tapeline-query") == Some(query) && letter.header("tapeline-offset") == Some(&offset);
    letters.iter().find(wanted).unwrap_or_else(|| panic!("no letter of {query} for offset {offset} in {letters:?}"))
}

async fn arrived(world: &World, expected: &[(i64, i64)]) {
    let (expected, sum) = (expected.iter().copied().collect::<BTreeMap<_, _>>(), expected.iter().map(|(_, volume)| volume).sum::<i64>());
    eventually("the good records in both tables", within(60), async || {
        let (rows, volume) = (rows(world).await?, volume(world).await?);
        ensure!(rows == expected && volume == sum, "Cassandra {rows:?}, MySQL {volume}");
        Ok(())
    })
    .await;
}

#[test]
fn a_bad_record_goes_to_the_dead_letter_topic_and_its_neighbours_arrive() {
    story(async |world| {
        let pipeline = ready(world).await;

        let broken = r#"{"id": 2, "volume": "#;
        let wrong_type = r#"{"id": 4, "volume": "a lot"}"#;
        let (one, three, five) = (trade(1, 10), trade(3, 30), format!("[{}, {}]", trade(5, 50), trade(6, 60)));
        let payloads = [one.as_str(), broken, &three, wrong_type, &five, r#"{"volume": 1}"#, &trade(7, 70)];
        let places = topic::send(&world.kafka, &world.topic("ticks"), Some(1), &payloads).await.unwrap();

        arrived(world, &[(1, 10), (3, 30), (5, 50), (6, 60), (7, 70)]).await;
        let letters = eventually("three bad records of each query in the dead-letter topic", within(60), async || {
            let letters = topic::records(&world.kafka, &world.topic("ticks.dead-letter")).await?;
            // At least once: what is there twice has the same key.
            let distinct: BTreeMap<_, Record> =
                letters.into_iter().map(|letter| ((letter.header("tapeline-query").map(str::to_owned), letter.key.clone()), letter)).collect();
            ensure!(distinct.len() >= 6, "{distinct:?}");
            Ok(distinct.into_values().collect::<Vec<_>>())
        })
        .await;
        assert_eq!(letters.len(), 6, "{letters:?}");
        for query in ["raw", "volume"] {
            for bad in [1, 3, 5] {
                let letter = letter_of(&letters, query, places[bad].1);
                assert_eq!(letter.payload.as_deref(), Some(payloads[bad].as_bytes()));
                let (partition, offset) = (places[bad].0.to_string(), places[bad].1.to_string());
                let (source, name) = (world.topic("ticks"), format!("{}/{}", world.namespace, pipeline.name));
                for (header, value) in [("pipeline", &name), ("topic", &source), ("partition", &partition)] {
                    assert_eq!(letter.header(&format!("tapeline-{header}")), Some(value.as_str()), "{header} of {letter:?}");
                }
                assert!(letter.header("tapeline-error").is_some_and(|error| !error.is_empty()), "{letter:?}");
                assert_eq!(letter.header("tapeline-kind"), Some("record"), "{letter:?}");
                let key = format!("{source}/{partition}/{offset}/{}", letter.header("tapeline-index").unwrap());
                assert_eq!(letter.key.as_deref(), Some(key.as_bytes()), "{letter:?}");
            }
        }
        // A pipeline that puts bad records aside is well, and says how many there were.
        pipeline
            .until("three bad records in the status of both queries", within(120), |pipeline| {
                for name in ["raw", "volume"] {
                    let query = status::query(pipeline, name)?;
                    ensure!(query.bad_records == Some(3), "{query:?}");
                }
                status::expect(pipeline, "Ready", "True")
            })
            .await;
    });
}

/// Ids in the MySQL table `sectors`.
async fn sectors(world: &World) -> Result<Vec<i64>> {
    let sql = format!("SELECT id FROM `{}`.sectors ORDER BY id", world.schema());
    Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&world.mysql).await?)
}

#[test]
fn a_row_that_a_store_refuses_goes_to_the_dead_letter_topic_and_without_one_stops_its_query_alone() {
    story(async |world| {
        world.apply_secrets().await.unwrap();
        let mut pipeline = world.pipeline(SMALL);
        // Both columns are narrower than what comes: Cassandra's is found by the worker, MySQL's by the server.
        pipeline.set("/spec/cassandra/tables/0/columns/4/type", "int".into());
        pipeline.list("/spec/mysql/tables").push(serde_json::json!({
            "name": "sectors", "columns": [{"name": "id", "type": "bigint"}, {"name": "sector", "type": "varchar(4)"}], "primaryKey": ["id"],
        }));
        pipeline.list("/spec/queries")[1] = serde_json::json!({
            "name": "sectors", "sql": "SELECT id, sector FROM ticks", "trigger": {"interval": "1s"}, "sink": {"mysql": {"table": "sectors", "mode": "Upsert"}},
        });
        pipeline.apply().await.unwrap();
        pipeline.until_ready(within(90)).await;

        let large = trade(2, 3_000_000_000);
        let long = trade(4, 40).replace(r#""IT""#, "\"Energy\"");
        let sent = [trade(1, 10), large, trade(3, 30), long, trade(5, 50)];
        let places = topic::send(&world.kafka, &world.topic("ticks"), Some(1), &sent.each_ref().map(String::as_str)).await.unwrap();
        let expected = BTreeMap::from([(1, 10), (3, 30), (4, 40), (5, 50)]);
        eventually("the rows that fit in both tables", within(60), async || {
            let (rows, sectors) = (rows(world).await?, sectors(world).await?);
            ensure!(rows == expected && sectors == [1, 2, 3, 5], "Cassandra {rows:?}, MySQL {sectors:?}");
            Ok(())
        })
        .await;
        let letters = eventually("one refused row of each query", within(30), async || {
            let letters = topic::records(&world.kafka, &world.topic("ticks.dead-letter")).await?;
            ensure!(letters.len() >= 2, "{letters:?}");
            Ok(letters)
        })
        .await;
        let letter = letter_of(&letters, "raw", places[1].1);
        assert!(letter.header("tapeline-error").is_some_and(|error| error.contains("\"volume\"") && error.contains("range")), "{letter:?}");
        let row: Value = serde_json::from_slice(letter.payload.as_deref().unwrap()).unwrap();
        assert_eq!((&row["id"], &row["volume"], letter.header("tapeline-kind")), (&2.into(), &3_000_000_000_i64.into(), Some("row")), "{letter:?}");
        let letter = letter_of(&letters, "sectors", places[3].1);
        assert!(letter.header("tapeline-error").is_some_and(|error| error.contains("sector")), "{letter:?}");
        assert_eq!(letter.payload.as_deref(), Some(br#"{"id":4,"sector":"Energy"}"#.as_slice()));

        // Without a dead-letter topic the query that cannot store a row stops, and says which; so many rows that they are written while the batch is open.
        pipeline.unset("/spec/streams/0/deadLetterTopic");
        pipeline.apply().await.unwrap();
        pipeline.until_ready(within(90)).await;
        let many: Vec<String> = (100..10_100).map(|id| trade(id, if id == 5_000 { 3_000_000_000 } else { 1 })).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let places = topic::send(&world.kafka, &world.topic("ticks"), Some(0), &many).await.unwrap();
        let offset = format!("offset {}", places[4_900].1);
        pipeline
            .until("a condition that names the refused row", within(60), |pipeline| {
                let ready = status::expect(pipeline, "WorkersReady", "False")?;
                let parts = ["spec.queries[0]", "partition 0", &offset, "deadLetterTopic", "\"volume\""];
                ensure!(parts.iter().all(|part| ready.message.contains(part)), "{}", ready.message);
                Ok(())
            })
            .await;
        eventually("the other query to go on", within(60), async || {
            let stored = sectors(world).await?.len();
            ensure!(stored == 10_004, "{stored}");
            Ok(())
        })
        .await;

        // The remedy: everything else is stored.
        pipeline.set("/spec/streams/0/deadLetterTopic", world.topic("ticks.dead-letter").into());
        pipeline.apply().await.unwrap();
        eventually("all rows that fit", within(90), async || {
            let stored = rows(world).await?;
            ensure!(stored.len() == 10_003 && !stored.contains_key(&5_000), "{} rows", stored.len());
            Ok(())
        })
        .await;
        pipeline.until_ready(within(60)).await;
    });
}

#[test]
fn a_query_without_a_dead_letter_topic_stops_alone_and_names_partition_and_offset() {
    story(async |world| {
        world.apply_secrets().await.unwrap();
        let mut pipeline = world.pipeline(SMALL);
        // `strict` reads a second topic without a dead-letter topic into MySQL; the two others go on with theirs.
        let mut stream: Value = pipeline.list("/spec/streams")[0].clone();
        stream["name"] = "orders".into();
        stream["topic"] = world.topic("orders").into();
        stream.as_object_mut().unwrap().remove("deadLetterTopic");
        pipeline.list("/spec/streams").push(stream);
        pipeline.list("/spec/kafka/topics").push(serde_json::json!({"name": world.topic("orders"), "partitions": 1}));
        pipeline.list("/spec/queries").push(serde_json::json!({
            "name": "strict",
            "sql": "SELECT CAST(created_at AS DATE) AS date, sector, SUM(volume) AS total_volume, now() AS processed_at FROM orders GROUP BY 1, 2",
            "trigger": {"interval": "1s"},
            "sink": {"mysql": {"table": "aggregated_data", "mode": "Append"}},
        }));
        pipeline.apply().await.unwrap();
        pipeline.until_ready(within(90)).await;

        topic::send(&world.kafka, &world.topic("orders"), Some(0), &[&trade(1, 1000), "not JSON", &trade(2, 2000)]).await.unwrap();
        let condition = pipeline
            .until("a condition that names the record", within(60), |pipeline| {
                let ready = status::expect(pipeline, "WorkersReady", "False")?;
                ensure!(["spec.queries[2]", "partition 0", "offset 1"].iter().all(|part| ready.message.contains(part)), "{}", ready.message);
                Ok(ready)
            })
            .await;
        assert!(condition.message.contains("deadLetterTopic"), "the remedy is named: {}", condition.message);
        let now = pipeline.get().await.unwrap();
        status::expect(&now, "Ready", "False").unwrap();
        assert_eq!(status::query(&now, "strict").unwrap().state.to_string(), "Failed");

        // The others count what comes meanwhile. What strict had read before the bad record may have been counted, what came behind it must not.
        topic::send(&world.kafka, &world.topic("ticks"), None, &[&trade(11, 1), &trade(12, 2)]).await.unwrap();
        eventually("the other queries to go on", within(30), async || {
            let (rows, volume) = (rows(world).await?, volume(world).await?);
            ensure!(rows.len() == 2 && [3, 1003].contains(&volume), "{rows:?} {volume}");
            Ok(())
        })
        .await;
        all_along("the record behind the bad one is not counted", within(3), async || {
            let volume = volume(world).await?;
            ensure!([3, 1003].contains(&volume), "{volume}");
            Ok(())
        })
        .await;

        // The remedy: it goes on behind the bad record, and everything is counted once.
        pipeline.set("/spec/streams/1/deadLetterTopic", world.topic("orders.dead-letter").into());
        pipeline.apply().await.unwrap();
        eventually("everything to be counted once", within(90), async || {
            let volume = volume(world).await?;
            ensure!(volume == 3003, "{volume}");
            Ok(())
        })
        .await;
        pipeline.until_ready(within(60)).await;
    });
}
