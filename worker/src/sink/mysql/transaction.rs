//! The transaction of a cut, and the progress table.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Executor, Row};

use super::super::{Advance, Progress, ProgressKey};
use super::session::{is_contention, refuses_content};
use super::statement::{Insert, together};

/// What a transaction writes.
pub(super) struct Work {
    pub(super) key: Arc<ProgressKey>,
    pub(super) insert: Arc<Insert>,
    pub(super) advances: Vec<Advance>,
    pub(super) rows: Vec<RecordBatch>,
}

/// Why it did not.
#[derive(Debug)]
pub(super) enum Failure {
    /// Other progress is stored.
    Fenced(String),
    /// The answer to COMMIT is lost.
    InDoubt(sqlx::Error),
    /// Rows, by their place in the pending rows, are refused.
    Refused { places: Vec<usize>, errors: Vec<String> },
    /// Nothing was written.
    Other(sqlx::Error),
    /// A fault of Tapeline.
    Internal(String),
}

/// How often a transaction is tried again after a deadlock before the engine waits.
const ATTEMPTS: u32 = 5;

/// Runs the transaction. The session comes back if it can be used again.
pub(super) async fn run(mut session: MySqlConnection, work: Work) -> (Option<MySqlConnection>, Result<(), Failure>) {
    let rows = match together(&work.rows).and_then(|rows| work.insert.in_order(rows)) {
        Ok(rows) => rows,
        Err(error) => return (Some(session), Err(Failure::Internal(error.to_string()))),
    };
    let mut attempt = 0;
    loop {
        attempt += 1;
        match once(&mut session, &work, &rows).await {
            Ok(()) => return (Some(session), Ok(())),
            Err(Failure::Other(error)) if is_contention(&error) && attempt < ATTEMPTS => {
                if let Err(error) = session.execute("ROLLBACK").await {
                    return (None, Err(Failure::Other(error)));
                }
                tokio::time::sleep(Duration::from_millis(rand::random_range(5..50 << attempt))).await; // jitter, so that two workers do not meet again
            }
            Err(Failure::Other(error)) if refuses_content(&error) => {
                let found = match session.execute("ROLLBACK").await {
                    Ok(_) => find_refused(&mut session, &work).await,
                    Err(error) => Err(Failure::Other(error)),
                };
                return match found {
                    // It is not refused when looked at closely: the table was changed in between. Try again.
                    Ok(places) if places.is_empty() => (Some(session), Err(Failure::Other(error))),
                    Ok(places) => {
                        let (places, errors) = places.into_iter().unzip();
                        (Some(session), Err(Failure::Refused { places, errors }))
                    }
                    Err(failure) => (None, Err(failure)),
                };
            }
            Err(Failure::Fenced(text)) => {
                let session = session.execute("ROLLBACK").await.is_ok().then_some(session);
                return (session, Err(Failure::Fenced(text)));
            }
            Err(failure) => return (None, Err(failure)),
        }
    }
}

async fn once(session: &mut MySqlConnection, work: &Work, rows: &RecordBatch) -> Result<(), Failure> {
    session.execute("START TRANSACTION").await.map_err(Failure::Other)?;
    for advance in &work.advances {
        swap(session, &work.key, advance).await?;
    }
    let step = work.insert.rows_per_statement();
    for from in (0..rows.num_rows()).step_by(step) {
        insert(session, &work.insert, rows, from, (from + step).min(rows.num_rows())).await?;
    }
    session.execute("COMMIT").await.map_err(Failure::InDoubt)?;
    Ok(())
}

async fn insert(session: &mut MySqlConnection, statement: &Insert, rows: &RecordBatch, from: usize, to: usize) -> Result<(), Failure> {
    let arguments = statement.arguments(rows, from, to).map_err(Failure::Internal)?;
    // Only full statements are worth being prepared for the next time.
    let is_full = to - from == statement.rows_per_statement();
    sqlx::query_with(AssertSqlSafe(statement.sql(to - from)), arguments).persistent(is_full).execute(session).await.map_err(Failure::Other)?;
    Ok(())
}

/// Compares and swaps the progress of one partition.
async fn swap(session: &mut MySqlConnection, key: &ProgressKey, advance: &Advance) -> Result<(), Failure> {
    let Advance { partition, from, to } = advance;
    let swapped = sqlx::query(
        "UPDATE `tapeline_progress` SET `epoch` = ?, `next_offset` = ?, `write_time` = ?, `sink_table` = ?, `plan_hash` = ?, `updated_at` = NOW(6) \
         WHERE `kafka_cluster` = ? AND `query` = ? AND `topic` = ? AND `partition` = ? AND `epoch` = ? AND `next_offset` = ?",
    )
    .bind(to.epoch)
    .bind(to.next_offset)
    .bind(to.write_time)
    .bind(&key.sink_table)
    .bind(&key.plan_hash)
    .bind(&key.kafka_cluster)
    .bind(&key.query)
    .bind(&key.topic)
    .bind(partition)
    .bind(from.epoch)
    .bind(from.next_offset)
    .execute(session)
    .await
    .map_err(Failure::Other)?
    .rows_affected(); // matched rows: sqlx connects with CLIENT_FOUND_ROWS
    if swapped == 1 { Ok(()) } else { Err(Failure::Fenced(format!("partition {partition} is not at offset {} any more", from.next_offset))) }
}

/// Finds, by halving, the rows that are refused for their content. Nothing stays written.
async fn find_refused(session: &mut MySqlConnection, work: &Work) -> Result<Vec<(usize, String)>, Failure> {
    let rows = together(&work.rows).map_err(|error| Failure::Internal(error.to_string()))?;
    session.execute("START TRANSACTION").await.map_err(Failure::Other)?;
    let mut refused = Vec::new();
    let step = work.insert.rows_per_statement();
    let mut ranges: Vec<(usize, usize)> = (0..rows.num_rows()).step_by(step).map(|from| (from, (from + step).min(rows.num_rows()))).collect();
    while let Some((from, to)) = ranges.pop() {
        // A statement that fails is undone by itself, so no savepoint is needed.
        match insert(session, &work.insert, &rows, from, to).await {
            Ok(()) => {}
            Err(Failure::Other(error)) if refuses_content(&error) => {
                if to - from == 1 {
                    let text = error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
                    refused.push((from, text));
                } else {
                    let middle = from.midpoint(to);
                    ranges.extend([(from, middle), (middle, to)]);
                }
            }
            Err(failure) => return Err(failure),
        }
    }
    session.execute("ROLLBACK").await.map_err(Failure::Other)?;
    refused.sort_unstable();
    Ok(refused)
}

const PROGRESS: &str =
    "SELECT `partition`, `epoch`, `next_offset`, `write_time` FROM `tapeline_progress` WHERE `kafka_cluster` = ? AND `query` = ? AND `topic` = ?";

async fn select(session: &mut MySqlConnection, sql: &str, key: &ProgressKey) -> Result<BTreeMap<i32, Progress>, sqlx::Error> {
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(&key.kafka_cluster).bind(&key.query).bind(&key.topic).fetch_all(session).await?;
    rows.iter()
        .map(|row| {
            let progress = Progress { epoch: row.try_get("epoch")?, next_offset: row.try_get("next_offset")?, write_time: row.try_get("write_time")? };
            Ok((row.try_get("partition")?, progress))
        })
        .collect()
}

/// The stored progress of the query.
pub(super) async fn progress(session: &mut MySqlConnection, key: &ProgressKey) -> Result<BTreeMap<i32, Progress>, sqlx::Error> {
    select(session, PROGRESS, key).await
}

/// The same, once every transaction that is at it has ended.
pub(super) async fn locked_progress(session: &mut MySqlConnection, key: &ProgressKey) -> Result<BTreeMap<i32, Progress>, sqlx::Error> {
    session.execute("START TRANSACTION").await?;
    let found = select(session, &format!("{PROGRESS} FOR UPDATE"), key).await?;
    session.execute("ROLLBACK").await?;
    Ok(found)
}

/// Whether two positions are the same for the fence.
pub(super) const fn same(one: Progress, other: Progress) -> bool {
    one.epoch == other.epoch && one.next_offset == other.next_offset
}

/// Stores the first progress of a partition. Some text means: fenced.
pub(super) async fn store_start(session: &mut MySqlConnection, key: &ProgressKey, partition: i32, start: Progress) -> Result<Option<String>, sqlx::Error> {
    sqlx::query(
        // A later epoch replaces an earlier one; anything else stays. The order matters: MySQL assigns from left to right.
        "INSERT INTO `tapeline_progress` (`kafka_cluster`, `query`, `topic`, `partition`, `epoch`, `next_offset`, `write_time`, `sink_table`, `plan_hash`, `updated_at`) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NOW(6)) AS new ON DUPLICATE KEY UPDATE \
         `next_offset` = IF(new.`epoch` > `tapeline_progress`.`epoch`, new.`next_offset`, `tapeline_progress`.`next_offset`), \
         `write_time` = IF(new.`epoch` > `tapeline_progress`.`epoch`, new.`write_time`, `tapeline_progress`.`write_time`), \
         `epoch` = GREATEST(new.`epoch`, `tapeline_progress`.`epoch`)",
    )
    .bind(&key.kafka_cluster)
    .bind(&key.query)
    .bind(&key.topic)
    .bind(partition)
    .bind(start.epoch)
    .bind(start.next_offset)
    .bind(start.write_time)
    .bind(&key.sink_table)
    .bind(&key.plan_hash)
    .execute(&mut *session)
    .await?;
    let stored = progress(session, key).await?.get(&partition).copied();
    Ok(match stored {
        Some(stored) if same(stored, start) => None,
        _ => Some(format!("partition {partition} has progress already")),
    })
}
