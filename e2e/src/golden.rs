//! What any run over all of `examples/data/stocks.csv.gz` must give, to the unit (examples/data/README.md), and how it is read from the two stores.
//! The history's trades have the ids from 1 on; simulated ones begin far above, and today.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use scylla::client::session::Session;
use scylla::statement::Statement;
use sqlx::mysql::MySqlPool;
use sqlx::{AssertSqlSafe, Row as _};

/// Bars of the recording.
pub const BARS: u64 = 12_154;
/// Its days.
pub const DAYS: u64 = 3_270;
/// Its months, those of each symbol counted by themselves.
pub const MONTHS: u64 = 586;
/// Trades of the replay: 12,154 bars, ten trades each.
pub const TRADES: u64 = 121_540;
/// The volume of all bars.
pub const VOLUME: i64 = 309_890_993_650;
/// The volume of each symbol.
pub const BY_TICKER: [(&str, i64); 5] =
    [("AAPL", 60_894_142_600), ("FB", 11_158_019_000), ("GOOG", 23_689_091_800), ("IBM", 22_882_631_500), ("MSFT", 191_267_108_750)];
/// The volume of each sector.
pub const BY_SECTOR: [(&str, i64); 2] = [("Communication Services", 34_847_110_800), ("Information Technology", 275_043_882_850)];
/// All bars are older than this day, and whatever is simulated is younger.
pub const HISTORY_ENDS: &str = "2014-01-01";

/// Volumes by name.
pub type Volumes = BTreeMap<String, i64>;

/// One of the tables above as [`Volumes`].
#[must_use]
pub fn volumes(table: &[(&str, i64)]) -> Volumes {
    table.iter().map(|&(name, volume)| (name.to_owned(), volume)).collect()
}

/// Whether `id` is that of a trade of the replay.
#[must_use]
pub fn is_history(id: i64) -> bool {
    u64::try_from(id).is_ok_and(|id| (1..=TRADES).contains(&id))
}

/// The volume of the history by sector, from `aggregated_data` in the MySQL database `database`.
///
/// # Errors
/// The table is not there, or MySQL does not answer.
pub async fn by_sector(mysql: &MySqlPool, database: &str) -> Result<Volumes> {
    // A sum of bigint is a decimal in MySQL.
    let sql =
        format!("SELECT COALESCE(sector, ''), CAST(SUM(total_volume) AS SIGNED) FROM `{database}`.aggregated_data WHERE date < '{HISTORY_ENDS}' GROUP BY 1");
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(mysql).await.context("summing the volume in MySQL")?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// The trades in a Cassandra table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// Rows of the history.
    pub history: u64,
    /// Their volume.
    pub by_ticker: Volumes,
    /// Further rows, with ids up to the one that was asked for.
    pub others: u64,
}

impl Stored {
    fn add(&mut self, (id, ticker, volume): (i64, Option<String>, Option<i64>), up_to: i64) {
        if is_history(id) {
            self.history += 1;
            *self.by_ticker.entry(ticker.unwrap_or_default()).or_default() += volume.unwrap_or_default();
        } else if id <= up_to {
            self.others += 1;
        }
    }

    fn merge(mut self, other: Self) -> Self {
        self.history += other.history;
        self.others += other.others;
        for (ticker, volume) in other.by_ticker {
            *self.by_ticker.entry(ticker).or_default() += volume;
        }
        self
    }
}

/// Into how many pieces the ring is cut for a scan, and how many of them are read at a time. Each is many pages, so that no request is near its timeout.
const RANGES: u32 = 64;
const AT_A_TIME: usize = 8;

/// Reads the whole table `keyspace.table`, piece by piece of the ring. Rows that are not of the history count up to the id `up_to`.
///
/// # Errors
/// The table is not there, or Cassandra does not answer.
pub async fn stored(cassandra: &Session, keyspace: &str, table: &str, up_to: i64) -> Result<Stored> {
    let sql = format!("SELECT id, ticker, volume FROM {keyspace}.{table} WHERE token(id) > ? AND token(id) <= ?");
    let select = cassandra.prepare(Statement::new(sql).with_page_size(5_000)).await.with_context(|| format!("reading the table {table} in Cassandra"))?;
    let select = &select;
    stream::iter(ranges())
        .map(async |range| -> Result<Stored> {
            let rows = cassandra.execute_iter(select.clone(), range).await?.rows_stream::<(i64, Option<String>, Option<i64>)>()?;
            Ok(rows
                .try_fold(Stored::default(), async |mut sum, row| {
                    sum.add(row, up_to);
                    Ok(sum)
                })
                .await?)
        })
        .buffer_unordered(AT_A_TIME)
        .try_fold(Stored::default(), async |sum, piece| Ok(sum.merge(piece)))
        .await
        .with_context(|| format!("reading the table {table} in Cassandra"))
}

/// The ring of tokens in [`RANGES`] pieces `(after, up to)`. No key has the smallest token.
fn ranges() -> impl Iterator<Item = (i64, i64)> {
    let edge = |piece: u32| i64::try_from(i128::from(i64::MIN) + (i128::from(u64::MAX) * i128::from(piece)) / i128::from(RANGES)).unwrap_or(i64::MAX);
    (0..RANGES).map(move |piece| (edge(piece), edge(piece + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_golden_numbers_agree() {
        assert_eq!(BY_TICKER.iter().map(|(_, volume)| volume).sum::<i64>(), VOLUME);
        assert_eq!(BY_SECTOR.iter().map(|(_, volume)| volume).sum::<i64>(), VOLUME);
    }

    #[test]
    fn the_ranges_cover_the_ring_without_a_gap() {
        let ranges: Vec<_> = ranges().collect();
        assert_eq!((ranges.first().unwrap().0, ranges.last().unwrap().1), (i64::MIN, i64::MAX));
        assert!(ranges.windows(2).all(|pair| pair[0].1 == pair[1].0 && pair[0].0 < pair[0].1));
    }
}
