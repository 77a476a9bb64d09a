//! Reference data: joined, loaded again while micro-batches go on, and kept when a load fails.

use anyhow::{Result, ensure};
use sqlx::{AssertSqlSafe, Row as _};
use tapeline_e2e::{World, eventually, status, story, topic, within};

const JOINED: &str = include_str!("../../pipelines/joined.yaml");

async fn sql(world: &World, statement: &str) -> Result<()> {
    let statement = statement.replace("${schema}", &world.schema());
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&world.mysql).await?;
    Ok(())
}

/// Company, market capitalisation and rank of the trade `id`, if it arrived.
async fn row(world: &World, id: i64) -> Result<Option<(String, String, Option<i32>)>> {
    let select = format!("SELECT company_name, CAST(market_cap AS CHAR), rank_of_shares FROM `{}`.enriched WHERE id = {id}", world.schema());
    let row = sqlx::query(AssertSqlSafe(select)).fetch_optional(&world.mysql).await?;
    row.map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).transpose()
}

async fn send(world: &World, id: i64, ticker: &str) {
    let trade = format!(r#"{{"id": {id}, "ticker": "{ticker}", "price": "2.5"}}"#);
    topic::send(&world.kafka, &world.topic("ticks"), Some(0), &[&trade]).await.unwrap();
}

/// Sends trades of `ticker` from the id `from` on until one has the company `company`, and returns its row.
async fn until_known(world: &World, from: i64, ticker: &str, company: &str) -> (String, String, Option<i32>) {
    let mut id = from;
    eventually(&format!("a trade of {ticker} as {company}"), within(60), async || {
        send(world, id, ticker).await;
        // The trade behind it tells that its micro-batch is done, whether it found its company or not.
        let found = eventually("the trade, or a later one of IBM", within(30), async || {
            send(world, -id, "IBM").await;
            ensure!(row(world, -id).await?.is_some(), "neither");
            row(world, id).await
        })
        .await;
        id += 1;
        found.filter(|(name, ..)| name == company).ok_or_else(|| anyhow::anyhow!("{:?}", "not yet"))
    })
    .await
}

#[test]
fn references_are_joined_loaded_anew_and_kept_when_a_load_fails() {
    story(async |world| {
        world.apply_secrets().await.unwrap();
        let pipeline = world.pipeline(JOINED);
        pipeline.apply().await.unwrap();
        world.say("the query waits for a table that is not there yet");
        pipeline
            .until("a message that names it", within(90), |now| {
                let query = status::query(now, "enriched")?;
                ensure!(query.message.contains("reference \"profile\"") && query.message.contains("doesn't exist"), "{query:?}");
                ensure!(status::expect(now, "Ready", "False")?.reason == "TableMissing", "{}", status::describe(now));
                status::expect(now, "Stalled", "False")
            })
            .await;
        sql(world, "CREATE TABLE `${schema}`.profile (ticker varchar(16) PRIMARY KEY, company_name varchar(255), shares bigint)").await.unwrap();
        pipeline.until_ready(within(90)).await;
        let generation = pipeline.generation("enriched").await.unwrap();

        world.say("rows that are there, and rows that come later, are joined");
        sql(world, "INSERT INTO `${schema}`.profile VALUES ('IBM', 'International Business Machines', 900), ('AAPL', 'Apple', 1000)").await.unwrap();
        let (_, market_cap, rank) = until_known(world, 1, "IBM", "International Business Machines").await;
        assert_eq!((market_cap.as_str(), rank), ("2250.0000", Some(2)));
        sql(world, "INSERT INTO `${schema}`.profile VALUES ('MSFT', 'Microsoft', 5000)").await.unwrap();
        let (_, market_cap, rank) = until_known(world, 1_000, "MSFT", "Microsoft").await;
        assert_eq!((market_cap.as_str(), rank), ("12500.0000", Some(1)));

        world.say("a load that fails keeps the last rows, and says so");
        sql(world, "RENAME TABLE `${schema}`.profile TO `${schema}`.hidden").await.unwrap();
        let degraded = pipeline.until_condition("Degraded", "True", within(60)).await;
        assert_eq!(degraded.reason, "ReferenceStale");
        assert!(degraded.message.contains("reference \"profile\"") && degraded.message.contains("doesn't exist"), "{}", degraded.message);
        until_known(world, 2_000, "MSFT", "Microsoft").await;

        world.say("it heals by itself");
        sql(world, "RENAME TABLE `${schema}`.hidden TO `${schema}`.profile").await.unwrap();
        sql(world, "UPDATE `${schema}`.profile SET company_name = 'Big Blue' WHERE ticker = 'IBM'").await.unwrap();
        until_known(world, 3_000, "IBM", "Big Blue").await;
        pipeline
            .until("no word of it", within(60), |now| {
                ensure!(status::condition(now, "Degraded").map_or(true, |condition| condition.status == "False"), "{}", status::describe(now));
                status::expect(now, "Ready", "True")
            })
            .await;
        assert_eq!(pipeline.generation("enriched").await.unwrap(), generation, "no load is a reason to roll a Deployment");
    });
}
