//! The pipeline of most stories, which is there within seconds: trades of one topic into Cassandra, their volume into MySQL.

use anyhow::Result;
use sqlx::{AssertSqlSafe, Row as _};
use tapeline_e2e::{Pipeline, World, within};

pub(crate) const SMALL: &str = include_str!("../../pipelines/small.yaml");

/// Applies it with its Secret, and waits until it is Ready.
pub(crate) async fn ready(world: &World) -> Pipeline<'_> {
    world.apply_secrets().await.unwrap();
    let pipeline = world.pipeline(SMALL);
    pipeline.apply().await.unwrap();
    pipeline.until_ready(within(90)).await;
    pipeline
}

/// The volume in MySQL.
pub(crate) async fn volume(world: &World) -> Result<i64> {
    let sql = format!("SELECT CAST(COALESCE(SUM(total_volume), 0) AS SIGNED) FROM `{}`.aggregated_data", world.schema());
    Ok(sqlx::query(AssertSqlSafe(sql)).fetch_one(&world.mysql).await?.try_get(0)?)
}

/// How many trades are in Cassandra.
pub(crate) async fn rows(world: &World) -> Result<i64> {
    let sql = format!("SELECT id FROM {}.real_time_data", world.schema());
    Ok(i64::try_from(world.cassandra.query_unpaged(sql, ()).await?.into_rows_result()?.rows_num())?)
}
