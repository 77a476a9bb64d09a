//! What the servers themselves remember of changes to one test's things: equal footprints mean that nothing was written, not even the same again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use sqlx::{AssertSqlSafe, Row as _};

use crate::topic;
use crate::world::World;

/// A moment in the servers' logs and counters.
#[derive(Debug, Clone)]
pub struct Footprint {
    /// MySQL's log of changes: file and position.
    binlog: (String, u64),
    /// Behind the last commit of consumer groups.
    commits: Vec<(i32, i64)>,
    counted: Counted,
}

/// What is counted rather than logged.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Counted {
    /// How often Kafka's log of topics and their settings names one of ours.
    kafka_metadata: usize,
    /// Behind the last message of our topics.
    messages: BTreeMap<String, Vec<(i32, i64)>>,
    /// Writes to each of our tables in Cassandra.
    cassandra_writes: BTreeMap<String, i64>,
    /// When each of our tables was last created or altered.
    cassandra_schema: BTreeMap<String, i64>,
}

impl Footprint {
    /// Now.
    ///
    /// # Errors
    /// A server does not answer.
    pub async fn take(world: &World) -> Result<Self> {
        let row = sqlx::raw_sql("SHOW BINARY LOG STATUS").fetch_one(&world.mysql).await.context("MySQL's log of changes")?;
        let binlog = (row.try_get(0)?, row.try_get(1)?);
        Ok(Self { binlog, commits: topic::ends(&world.kafka, "__consumer_offsets").await?, counted: Counted::take(world).await? })
    }

    /// What was written to this test's things since; empty if nothing was.
    ///
    /// # Errors
    /// A server does not answer.
    pub async fn changes_since(&self, world: &World) -> Result<Vec<String>> {
        let mut changes = self.mysql_changes(world).await?;
        for record in topic::records_after(&world.kafka, "__consumer_offsets", self.commits.clone()).await? {
            if record.key.as_deref().is_some_and(|key| count(key, world.id.as_bytes()) > 0) {
                changes.push(format!("Kafka: {}", String::from_utf8_lossy(record.key.as_deref().unwrap_or_default())));
            }
        }
        let (before, now) = (&self.counted, Counted::take(world).await?);
        let mut compare = |what: &str, before: String, now: String| {
            if before != now {
                changes.push(format!("{what}: {before} became {now}"));
            }
        };
        compare("Kafka's topics", before.kafka_metadata.to_string(), now.kafka_metadata.to_string());
        compare("messages", format!("{:?}", before.messages), format!("{:?}", now.messages));
        compare("Cassandra's writes", format!("{:?}", before.cassandra_writes), format!("{:?}", now.cassandra_writes));
        compare("Cassandra's schema", format!("{:?}", before.cassandra_schema), format!("{:?}", now.cassandra_schema));
        Ok(changes)
    }

    /// Events of MySQL's log that name our database. A statement or row of ours cannot come without its name.
    async fn mysql_changes(&self, world: &World) -> Result<Vec<String>> {
        let (first, position) = &self.binlog;
        let files = sqlx::raw_sql("SHOW BINARY LOGS").fetch_all(&world.mysql).await?;
        let mut changes = Vec::new();
        for file in files {
            let file: String = file.try_get(0)?;
            if file < *first {
                continue;
            }
            let from = if file == *first { *position } else { 4 };
            let events = sqlx::raw_sql(AssertSqlSafe(format!("SHOW BINLOG EVENTS IN '{file}' FROM {from}"))).fetch_all(&world.mysql).await?;
            for event in events {
                let info: String = event.try_get("Info")?;
                if info.contains(&world.schema()) {
                    changes.push(format!("MySQL: {info}"));
                }
            }
        }
        Ok(changes)
    }
}

impl Counted {
    async fn take(world: &World) -> Result<Self> {
        let mut messages = BTreeMap::new();
        for name in topic::names(&world.kafka).await?.into_iter().filter(|name| name.starts_with(&world.topic(""))) {
            messages.insert(name.clone(), topic::ends(&world.kafka, &name).await?);
        }
        let writes = by_table(world, "SELECT keyspace_name, table_name, count FROM system_views.local_write_latency").await?;
        let schema = by_table(world, "SELECT keyspace_name, table_name, WRITETIME(gc_grace_seconds) FROM system_schema.tables").await?;
        let counted = Self { kafka_metadata: kafka_metadata(&world.id)?, messages, cassandra_writes: writes, cassandra_schema: schema };
        // Counters that know nothing of this test would never move.
        let Self { kafka_metadata, messages, cassandra_writes, cassandra_schema } = &counted;
        ensure!(*kafka_metadata > 0 && !messages.is_empty() && !cassandra_writes.is_empty() && !cassandra_schema.is_empty(), "{counted:?}");
        Ok(counted)
    }
}

/// A number for each of our tables.
async fn by_table(world: &World, sql: &str) -> Result<BTreeMap<String, i64>> {
    let rows = world.cassandra.query_unpaged(sql, ()).await.with_context(|| sql.to_owned())?.into_rows_result()?;
    let mut numbers = BTreeMap::new();
    for row in rows.rows::<(String, String, Option<i64>)>()? {
        let (keyspace, table, number) = row?;
        if keyspace == world.schema() {
            numbers.insert(table, number.unwrap_or_default());
        }
    }
    Ok(numbers)
}

/// Kafka's brokers keep every creation and change of a topic in a log of their own, in the test bed's folder.
fn kafka_metadata(id: &str) -> Result<usize> {
    let audit: PathBuf = std::env::var("TESTBED_AUDIT_LOG").context("TESTBED_AUDIT_LOG is not set; eval \"$(testbed/env)\"")?.into();
    let folder = audit.parent().and_then(Path::parent).context("the test bed's folder")?.join("kafka/__cluster_metadata-0");
    let mut named = 0;
    for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            named += count(&std::fs::read(path)?, id.as_bytes());
        }
    }
    Ok(named)
}

fn count(haystack: &[u8], needle: &[u8]) -> usize {
    haystack.windows(needle.len()).filter(|window| *window == needle).count()
}
