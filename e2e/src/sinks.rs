//! What the stores of `pipelines/six-sinks.yaml` hold, read as a user would and brought into the shapes of [`crate::recompute`].

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, Result, ensure};
use futures::TryStreamExt as _;
use mongodb::bson::{Bson, Document, doc};
use scylla::deserialize::value::DeserializeValue;
use scylla::statement::Statement;
use scylla::value::CqlTimestamp;
use sqlx::mysql::{MySql, MySqlRow};
use sqlx::{AssertSqlSafe, Row as _};

use crate::golden::{BARS, MONTHS};
use crate::recompute::{self, Candle, DayOfSector, DayOfTicker, Expected, Message, Total, Trade, equal};
use crate::topic;
use crate::world::World;

/// Fields of a document: the seven columns, `_id` and `_w`.
const DOCUMENT_FIELDS: usize = 9;
/// The tables and the collection that keep the last trade of each symbol's month, and the column that they know it by.
const LAST: &str = "last_of_month";
const MONTH: &str = "month_of_symbol";

/// A query of the pipeline and its sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Sink {
    Cassandra,
    Append,
    Upsert,
    Merge,
    MongoDb,
    Kafka,
    /// What the query into Kafka publishes, the last of each symbol's month: in Cassandra,
    LastInCassandra,
    /// in MySQL with mode Upsert,
    LastInMySql,
    /// and in MongoDB.
    LastInMongoDb,
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cassandra => "Cassandra",
            Self::Append => "MySQL Append",
            Self::Upsert => "MySQL Upsert",
            Self::Merge => "MySQL Merge",
            Self::MongoDb => "MongoDB",
            Self::Kafka => "Kafka",
            Self::LastInCassandra => "Cassandra, by month",
            Self::LastInMySql => "MySQL Upsert, by month",
            Self::LastInMongoDb => "MongoDB, by month",
        })
    }
}

impl Sink {
    /// All, those first that are read quickest; those that follow what is published, behind Kafka.
    pub const ALL: [Self; 9] =
        [Self::Append, Self::Upsert, Self::Merge, Self::Kafka, Self::LastInMySql, Self::LastInCassandra, Self::LastInMongoDb, Self::Cassandra, Self::MongoDb];

    /// The query's name.
    #[must_use]
    pub const fn query(self) -> &'static str {
        match self {
            Self::Cassandra => "raw",
            Self::Append => "append",
            Self::Upsert => "upsert",
            Self::Merge => "merge",
            Self::MongoDb => "documents",
            Self::Kafka => "publish",
            Self::LastInCassandra => "last-cassandra",
            Self::LastInMySql => "last-mysql",
            Self::LastInMongoDb => "last-mongodb",
        }
    }

    /// What [`Self::arrived`] comes to, of a recording with so many trades a bar.
    #[must_use]
    pub const fn goal(self, trades_per_bar: u64) -> u64 {
        match self {
            Self::LastInCassandra | Self::LastInMySql | Self::LastInMongoDb => MONTHS,
            _ => BARS * trades_per_bar,
        }
    }

    /// How many records have arrived, or rows where they overwrite each other.
    ///
    /// # Errors
    /// The table is not there, or the store does not answer.
    pub async fn arrived(self, world: &World) -> Result<i64> {
        Ok(match self {
            Self::Cassandra => i64::try_from(ids(world, "every_trade").await?)?,
            Self::LastInCassandra => i64::try_from(ids(world, LAST).await?)?,
            Self::Append => number(world, "SELECT CAST(COALESCE(SUM(trades), 0) AS SIGNED) FROM volumes").await?,
            Self::Upsert => number(world, "SELECT COUNT(*) FROM latest").await?,
            Self::LastInMySql => number(world, &format!("SELECT COUNT(*) FROM {LAST}")).await?,
            Self::Merge => number(world, "SELECT CAST(COALESCE(SUM(trades), 0) AS SIGNED) FROM candles").await?,
            Self::MongoDb => i64::try_from(collection(world, "trades").await?.estimated_document_count().await?)?,
            Self::LastInMongoDb => i64::try_from(collection(world, LAST).await?.estimated_document_count().await?)?,
            Self::Kafka => i64::try_from(topic::records(&world.kafka, &world.topic("published")).await?.len())?,
        })
    }

    /// Compares what is there with what must be, and says what was compared.
    ///
    /// # Errors
    /// They differ, and how; or the store does not answer.
    pub async fn compare(self, world: &World, expected: &Expected) -> Result<String> {
        let name = self.to_string();
        let volume = |volumes: &mut dyn Iterator<Item = i64>| volumes.sum::<i64>();
        let (keys, what, volume) = match self {
            Self::Cassandra | Self::Upsert | Self::MongoDb => {
                let stored = match self {
                    Self::Cassandra => rows(world, "every_trade", "id").await?,
                    Self::Upsert => latest(world, "latest", "id").await?,
                    _ => documents(world, "trades", |document| Ok(document.get_i64("_id")?)).await?,
                };
                equal(&name, &expected.trades, &stored)?;
                (stored.len(), "rows by id", volume(&mut stored.values().map(|trade| trade.volume)))
            }
            Self::LastInCassandra | Self::LastInMySql | Self::LastInMongoDb => {
                let last = recompute::last(&recompute::published(&world.kafka, &world.topic("published")).await?)?;
                let stored = match self {
                    Self::LastInCassandra => rows(world, LAST, MONTH).await?,
                    Self::LastInMySql => latest(world, LAST, MONTH).await?,
                    _ => documents(world, LAST, |document| Ok(document.get_str("_id")?.to_owned())).await?,
                };
                equal(&name, &last, &stored)?;
                (stored.len(), "rows by symbol, each the last one published", volume(&mut stored.values().map(|trade| trade.volume)))
            }
            Self::Append => {
                let stored = totals(world).await?;
                equal(&name, &expected.totals, &stored)?;
                (stored.len(), "sums by day and sector", volume(&mut stored.values().map(|total| total.volume)))
            }
            Self::Merge => {
                let stored = candles(world).await?;
                equal(&name, &expected.candles, &stored)?;
                (stored.len(), "candles by symbol and day", volume(&mut stored.values().map(|candle| candle.total.volume)))
            }
            Self::Kafka => {
                let stored = messages(world).await?;
                equal(&name, &expected.messages, &stored)?;
                let volume = volume(&mut stored.values().flatten().map(|(_, trade)| trade.volume));
                (stored.values().map(Vec::len).sum(), "committed messages with their keys", volume)
            }
        };
        Ok(format!("{name}: {keys} {what}, volume {volume}, equal"))
    }
}

async fn ids(world: &World, table: &str) -> Result<usize> {
    let select = Statement::new(format!("SELECT id FROM {}.{table}", world.schema())).with_page_size(5_000);
    let ids = world.cassandra.query_iter(select, ()).await.with_context(|| format!("reading {table} in Cassandra"))?.rows_stream::<(i64,)>()?;
    Ok(ids.try_fold(0, async |count, _| Ok(count + 1)).await?)
}

/// The rows of `table`, which its column `key` identifies.
async fn rows<K>(world: &World, table: &str, key: &str) -> Result<BTreeMap<K, Trade>>
where
    K: Ord + for<'f, 'm> DeserializeValue<'f, 'm>,
{
    type Columns<K> = (K, i64, CqlTimestamp, String, Option<String>, i64, Option<f64>, f64);
    let sql = format!("SELECT {key}, id, created_at, ticker, sector, volume, market_cap, price FROM {}.{table}", world.schema());
    let rows = world.cassandra.query_iter(Statement::new(sql).with_page_size(5_000), ()).await.with_context(|| format!("reading {table} in Cassandra"))?;
    let trade =
        |(key, id, at, ticker, sector, volume, market_cap, price): Columns<K>| (key, Trade { id, at_ms: at.0, ticker, sector, volume, market_cap, price });
    Ok(rows.rows_stream::<Columns<K>>()?.map_ok(trade).try_collect().await?)
}

/// `sql` in the test's database.
async fn mysql(world: &World, sql: &str) -> Result<Vec<MySqlRow>> {
    let sql = sql.replace("FROM ", &format!("FROM `{}`.", world.schema()));
    sqlx::query(AssertSqlSafe(sql.as_str())).fetch_all(&world.mysql).await.with_context(|| format!("MySQL: {sql}"))
}

async fn number(world: &World, sql: &str) -> Result<i64> {
    Ok(mysql(world, sql).await?.first().context("no row")?.try_get(0)?)
}

/// The rows of `table`, which its column `key` identifies.
async fn latest<K>(world: &World, table: &str, key: &str) -> Result<BTreeMap<K, Trade>>
where
    K: Ord + for<'r> sqlx::Decode<'r, MySql> + sqlx::Type<MySql>,
{
    let columns = "id, CAST(UNIX_TIMESTAMP(created_at) * 1000 AS SIGNED), ticker, sector, volume, market_cap, price";
    let trade = |row: &MySqlRow| -> Result<(K, Trade)> {
        let (ticker, sector, volume) = (row.try_get(3)?, row.try_get(4)?, row.try_get(5)?);
        let trade = Trade { id: row.try_get(1)?, at_ms: row.try_get(2)?, ticker, sector, volume, market_cap: row.try_get(6)?, price: row.try_get(7)? };
        Ok((row.try_get(0)?, trade))
    };
    mysql(world, &format!("SELECT {key}, {columns} FROM {table}")).await?.iter().map(trade).collect()
}

async fn totals(world: &World) -> Result<BTreeMap<DayOfSector, Total>> {
    // A sum of bigint is a decimal in MySQL.
    let sql = "SELECT DATE_FORMAT(date, '%Y-%m-%d'), sector, CAST(SUM(total_volume) AS SIGNED), CAST(SUM(trades) AS SIGNED) FROM volumes GROUP BY date, sector";
    let total = |row: &MySqlRow| -> Result<(DayOfSector, Total)> {
        Ok(((row.try_get(0)?, row.try_get(1)?), Total { volume: row.try_get(2)?, trades: row.try_get(3)? }))
    };
    mysql(world, sql).await?.iter().map(total).collect()
}

async fn candles(world: &World) -> Result<BTreeMap<DayOfTicker, Candle>> {
    let sql = "SELECT ticker, DATE_FORMAT(day, '%Y-%m-%d'), open, high, low, close, volume, trades FROM candles";
    let candle = |row: &MySqlRow| -> Result<(DayOfTicker, Candle)> {
        let total = Total { volume: row.try_get(6)?, trades: row.try_get(7)? };
        let candle = Candle { open: row.try_get(2)?, high: row.try_get(3)?, low: row.try_get(4)?, close: row.try_get(5)?, total };
        Ok(((row.try_get(0)?, row.try_get(1)?), candle))
    };
    mysql(world, sql).await?.iter().map(candle).collect()
}

async fn collection(world: &World, name: &str) -> Result<mongodb::Collection<Document>> {
    Ok(world.mongodb().await?.database(&world.schema()).collection(name))
}

/// The documents of the collection `name`, whose `_id` is `id`.
async fn documents<K: Ord>(world: &World, name: &str, id: impl Fn(&Document) -> Result<K>) -> Result<BTreeMap<K, Trade>> {
    let found = collection(world, name).await?.find(doc! {}).batch_size(5_000).await.with_context(|| format!("reading the collection {name} in MongoDB"))?;
    let read = |document: &Document| -> Result<(K, Trade)> { Ok((id(document)?, trade(document)?)) };
    found.map_err(anyhow::Error::from).and_then(async |document| read(&document).with_context(|| format!("the document {document}"))).try_collect().await
}

fn trade(document: &Document) -> Result<Trade> {
    let fields = DOCUMENT_FIELDS + usize::from(document.contains_key(MONTH));
    ensure!(document.len() == fields, "it has not the query's columns, _id and _w");
    ensure!(document.get_i64("_w")? > 0, "it has no write time");
    let sector = Some(document.get("sector").context("no sector")?).filter(|sector| **sector != Bson::Null);
    let market_cap = Some(document.get("market_cap").context("no market_cap")?).filter(|cap| **cap != Bson::Null);
    Ok(Trade {
        id: document.get_i64("id")?,
        at_ms: document.get_datetime("created_at")?.timestamp_millis(),
        ticker: document.get_str("ticker")?.to_owned(),
        sector: sector.map(|sector| sector.as_str().map(str::to_owned).context("a sector that is no text")).transpose()?,
        volume: document.get_i64("volume")?,
        market_cap: market_cap.map(|cap| cap.as_f64().context("a market_cap that is no double")).transpose()?,
        price: document.get_f64("price")?,
    })
}

async fn messages(world: &World) -> Result<BTreeMap<i64, Vec<Message>>> {
    let mut all: BTreeMap<i64, Vec<Message>> = BTreeMap::new();
    for record in topic::records(&world.kafka, &world.topic("published")).await? {
        let trade = recompute::trade(&record.payload.context("a message without a row")?)?;
        let key = record.key.map(String::from_utf8).transpose()?;
        all.entry(trade.id).or_default().push((key, trade));
    }
    Ok(all)
}
