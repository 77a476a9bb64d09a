//! The transaction of a cut, and the progress table.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Executor, Row};
use tokio::time::timeout;

use super::super::{Advance, Beginning, Progress, ProgressKey};
use super::refused;
use super::session::{STATEMENT, in_time, is_contention, late, refused_words};
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
    /// Rows, by their place in the pending rows, are refused, and why.
    Refused(Vec<(usize, String)>),
    /// Nothing was written.
    Other(sqlx::Error),
    /// A fault of Tapeline.
    Internal(String),
}

/// A whole transaction may take this long before it counts as lost. What comes after it, the search for refused rows, has no such limit: thousands of them take
/// longer, and would for ever.
const TRANSACTION: Duration = Duration::from_secs(60);
/// How often a transaction is tried again after a deadlock before the engine waits.
const ATTEMPTS: u32 = 5;

/// Runs the transaction. The session comes back if it can be used again.
pub(super) async fn run(mut session: MySqlConnection, work: Work) -> (Option<MySqlConnection>, Result<(), Failure>) {
    let rows = match together(&work.rows).and_then(|rows| work.insert.in_order(rows)) {
        Ok(rows) => rows,
        Err(error) => return (Some(session), Err(Failure::Internal(error.to_string()))),
    };
    let done = timeout(TRANSACTION, attempts(&mut session, &work, &rows)).await.unwrap_or_else(|_elapsed| Err(Failure::InDoubt(late())));
    match done {
        Ok(()) => (Some(session), Ok(())),
        Err(Failure::Other(error)) if refused_words(&error).is_some() => {
            let found = match in_time(STATEMENT, session.execute("ROLLBACK")).await {
                Ok(_) => refused::find(&mut session, &work).await,
                Err(error) => Err(Failure::Other(error)),
            };
            match found {
                // It is not refused when looked at closely: the table was changed in between. Try again.
                Ok(rows) if rows.is_empty() => (Some(session), Err(Failure::Other(error))),
                Ok(rows) => (Some(session), Err(Failure::Refused(rows))),
                Err(failure) => (None, Err(failure)),
            }
        }
        Err(Failure::Fenced(text)) => {
            let session = in_time(STATEMENT, session.execute("ROLLBACK")).await.is_ok().then_some(session);
            (session, Err(Failure::Fenced(text)))
        }
        Err(failure) => (None, Err(failure)),
    }
}

/// The transaction, and again after a deadlock.
async fn attempts(session: &mut MySqlConnection, work: &Work, rows: &RecordBatch) -> Result<(), Failure> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match once(session, work, rows).await {
            Err(Failure::Other(error)) if is_contention(&error) && attempt < ATTEMPTS => {
                session.execute("ROLLBACK").await.map_err(Failure::Other)?;
                tokio::time::sleep(Duration::from_millis(rand::random_range(5..50 << attempt))).await; // jitter, so that two workers do not meet again
            }
            result => return result,
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

pub(super) async fn insert(session: &mut MySqlConnection, statement: &Insert, rows: &RecordBatch, from: usize, to: usize) -> Result<(), Failure> {
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

/// Stores where partitions begin, in one transaction. Some text means: fenced, and nothing is stored.
pub(super) async fn store_starts(session: &mut MySqlConnection, key: &ProgressKey, beginnings: &[Beginning]) -> Result<Option<String>, sqlx::Error> {
    session.execute("START TRANSACTION").await?;
    for &Beginning { partition, stored, start } in beginnings {
        match stored {
            Some(from) => {
                let swapped = swap(session, key, &Advance { partition, from, to: start }).await;
                if let Err(Failure::Other(error)) = swapped {
                    return Err(error);
                }
            }
            None => insert_start(session, key, partition, start).await?,
        }
    }
    // Under the row locks that were just taken, so what is here is what will be.
    let now = progress(session, key).await?;
    let taken = beginnings.iter().find(|beginning| now.get(&beginning.partition).is_none_or(|now| now.place() != beginning.start.place()));
    session.execute(if taken.is_some() { "ROLLBACK" } else { "COMMIT" }).await?;
    Ok(taken.map(|beginning| format!("partition {} has other progress already", beginning.partition)))
}

/// Stores the first progress of a partition, unless there is some.
async fn insert_start(session: &mut MySqlConnection, key: &ProgressKey, partition: i32, start: Progress) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO `tapeline_progress` (`kafka_cluster`, `query`, `topic`, `partition`, `epoch`, `next_offset`, `write_time`, `sink_table`, `plan_hash`, `updated_at`) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NOW(6)) AS new ON DUPLICATE KEY UPDATE `partition` = new.`partition`",
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
    .execute(session)
    .await
    .map(drop)
}
