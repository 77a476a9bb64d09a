//! Rows into a Cassandra table. They flow at once, in small unlogged batches with many under way, each row with a write time that is a function of its record: to
//! write it again changes nothing, and of two records of one key the later wins. At the cut, when all rows are acknowledged, progress is stored.
//!
//! [`queue`] holds the rows, [`chunk`] and [`cell`] turn them into batches and bytes, [`connect`] has the session and its statements, [`window`] the number of
//! batches under way, [`progress`] the rows of the progress table, [`trouble`] what errors mean.

mod cell;
mod chunk;
mod connect;
mod progress;
mod queue;
mod trouble;
mod window;

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::RecordBatch;
use scylla::client::session::Session;
use scylla::cluster::ClusterState;
use scylla::errors::ExecutionError;
use scylla::frame::response::result::TableSpec;
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::queries::Nulls;
use tapeline_api::report::ProblemClass;
use tapeline_api::settings::CassandraConnection;
use tapeline_query::plan::CheckedQuery;

use self::chunk::{MAX_ROWS, Rows};
use self::connect::{Cluster, Statements, connect, prepare, unlogged};
use self::progress::progress_row;
use self::queue::Queue;
use self::trouble::Trouble;
use super::{Advance, Beginning, Progress, ProgressKey, Sink, SinkError};
use crate::dead_letters::DeadLetter;
use crate::settings::Credentials;

/// Rows that may wait: two rounds of batches, so that the next is at hand when an answer comes.
const ROOM: usize = 2 * 32 * MAX_ROWS;
/// When nothing was heard for so long the session is made anew: credentials are read and names resolved again, and no back-off of the driver is waited for.
const RENEW_AFTER: Duration = Duration::from_secs(15);

/// Writes to a table of Cassandra.
pub struct CassandraSink {
    connection: CassandraConnection,
    credentials: Credentials,
    table: SqlName,
    nulls: Nulls,
    key: ProgressKey,
    columns: Vec<String>,
    cluster: Option<Cluster>,
    statements: Option<Statements>,
    queue: Queue,
}

impl std::fmt::Debug for CassandraSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CassandraSink").field("table", &self.table).field("connected", &self.cluster.is_some()).finish_non_exhaustive()
    }
}

impl CassandraSink {
    /// A sink for what `query` gives. Nothing is connected yet.
    #[must_use]
    pub fn new(connection: CassandraConnection, credentials: Credentials, table: SqlName, nulls: Nulls, key: ProgressKey, query: &CheckedQuery) -> Self {
        let columns: Vec<String> = query.output().iter().map(|column| column.name.clone()).collect();
        let queue = Queue::new(columns.len());
        Self { connection, credentials, table, nulls, key, columns, cluster: None, statements: None, queue }
    }

    /// Connects and prepares what is not.
    async fn ready(&mut self) -> Result<(), SinkError> {
        if self.cluster.is_none() {
            self.cluster = Some(connect(&self.connection, &self.credentials).await?);
        }
        if self.statements.is_none()
            && let Some(cluster) = &self.cluster
        {
            match prepare(&cluster.session, &self.connection.keyspace, &self.table, &self.columns).await {
                Ok(statements) => {
                    self.queue.accept(&statements.shape)?;
                    self.statements = Some(statements);
                }
                Err(trouble) => return Err(self.failed(trouble)),
            }
        }
        Ok(())
    }

    fn linked(&self) -> Result<(&Cluster, &Statements), SinkError> {
        let linked = self.cluster.as_ref().zip(self.statements.as_ref());
        linked.ok_or_else(|| SinkError::outage(ProblemClass::StoreUnreachable, "there is no connection to Cassandra"))
    }

    /// Sends rows and takes answers until `most` rows wait, and none is under way if `most` is 0.
    async fn flush(&mut self, most: usize) -> Result<(), SinkError> {
        while !self.queue.is_done() {
            if self.queue.has_suspects() {
                self.statements = None;
            }
            self.ready().await?;
            let Self { cluster: Some(cluster), statements: Some(statements), queue, connection, table, nulls, .. } = self else { continue };
            let mut answers = queue.take_answers();
            if answers.is_ok() {
                let state = cluster.session.get_cluster_state();
                let place = |rows: &Rows, index| replicas(&state, cluster.datacenter.as_deref(), &connection.keyspace, table, rows, index);
                queue.set_nodes(state.get_nodes_info().len());
                queue.load(statements, *nulls, place)?;
                queue.send(&cluster.session, statements);
                if most > 0 && queue.waiting() <= most {
                    return Ok(());
                }
                answers = queue.answer().await;
            }
            match answers {
                Ok(()) => {}
                // Whether the rows or the table are at fault shows when the statement is prepared again.
                Err(Trouble::Invalid(_)) => self.statements = None,
                Err(trouble) => return Err(self.failed(trouble)),
            }
        }
        Ok(())
    }

    /// What is to be done about `trouble` before the next call.
    fn failed(&mut self, trouble: Trouble) -> SinkError {
        self.queue.recall();
        let silence = self.queue.contact.failed();
        match &trouble {
            Trouble::Denied(_) => self.cluster = None,
            Trouble::Unreachable(_) | Trouble::Slow(_) if silence > RENEW_AFTER => self.cluster = None,
            Trouble::Missing(_) | Trouble::Invalid(_) | Trouble::Stale => self.statements = None,
            Trouble::Unreachable(_) | Trouble::Slow(_) | Trouble::Fault(_) => {}
        }
        if self.cluster.is_none() {
            self.statements = None;
        }
        trouble.into()
    }

    async fn stored(&mut self) -> Result<BTreeMap<i32, Progress>, SinkError> {
        self.ready().await?;
        self.queue.contact.begin();
        let (cluster, statements) = self.linked()?;
        match select(&cluster.session, statements, &self.key).await {
            Ok(found) => {
                self.queue.contact.answered();
                Ok(found)
            }
            Err(trouble) => Err(self.failed(trouble)),
        }
    }

    /// All rows live in one partition, so that they are one mutation: all of them or none.
    async fn store(&mut self, steps: impl Iterator<Item = (i32, Progress)>) -> Result<(), SinkError> {
        let steps: Vec<_> = steps.collect();
        if steps.is_empty() {
            return Ok(());
        }
        self.ready().await?;
        self.queue.contact.begin();
        let (cluster, statements) = self.linked()?;
        let rows: Option<Vec<_>> = steps.iter().map(|(partition, progress)| progress_row(&self.key, *partition, *progress)).collect();
        let rows = rows.ok_or_else(|| SinkError::fatal(ProblemClass::Internal, "an epoch or offset is beyond what a write time can hold"))?;
        let batch = unlogged(&statements.write_progress, rows.len());
        match cluster.session.batch(&batch, &rows).await {
            Ok(_) => {
                self.queue.contact.answered();
                Ok(())
            }
            Err(error) => Err(self.failed(Trouble::from(&error))),
        }
    }
}

async fn select(session: &Session, statements: &Statements, key: &ProgressKey) -> Result<BTreeMap<i32, Progress>, Trouble> {
    let values = (&key.kafka_cluster, &key.query, &key.topic);
    let found = session.execute_unpaged(&statements.read_progress, values).await.map_err(|error: ExecutionError| Trouble::from(&error))?;
    let fault = |error: &dyn std::error::Error| Trouble::Fault(format!("reading progress: {error}"));
    let found = found.into_rows_result().map_err(|error| fault(&error))?;
    let mut stored = BTreeMap::new();
    for row in found.rows::<(i32, Option<i64>, Option<i64>, Option<i64>)>().map_err(|error| fault(&error))? {
        // A row without offsets is what is left of a deleted one.
        if let (partition, Some(epoch), Some(next_offset), Some(write_time)) = row.map_err(|error| fault(&error))? {
            stored.insert(partition, Progress { epoch, next_offset, write_time });
        }
    }
    Ok(stored)
}

fn fenced(partition: i32, now: Option<(i64, i64)>) -> SinkError {
    SinkError::Fenced(now.map_or_else(
        || format!("the progress of partition {partition} is gone"),
        |(epoch, next_offset)| format!("partition {partition} is at offset {next_offset} of epoch {epoch}"),
    ))
}

/// Names the set of nodes where a row lives, so that a batch has one coordinator that holds all of its rows. One node holds them anyway.
fn replicas(state: &ClusterState, datacenter: Option<&str>, keyspace: &SqlName, table: &SqlName, rows: &Rows, index: u32) -> u128 {
    if state.get_nodes_info().len() < 2 {
        return 0;
    }
    let Some(known) = state.get_keyspace(keyspace) else { return 0 };
    let spec = TableSpec::borrowed(keyspace.as_str(), table.as_str());
    let nodes = state.replica_locator().replicas_for_token(rows.token(index), &known.strategy, datacenter, &spec);
    nodes.into_iter().fold(0, |set, (node, _)| set ^ node.host_id.as_u128())
}

impl Sink for CassandraSink {
    async fn read_progress(&mut self) -> Result<BTreeMap<i32, Progress>, SinkError> {
        self.stored().await
    }

    async fn store_starts(&mut self, beginnings: &[Beginning]) -> Result<(), SinkError> {
        let stored = self.stored().await?;
        let place = |partition: &i32, stored: &BTreeMap<i32, Progress>| stored.get(partition).copied().map(Progress::place);
        let missing: Vec<&Beginning> = beginnings.iter().filter(|beginning| place(&beginning.partition, &stored) != Some(beginning.start.place())).collect();
        if let Some(beginning) = missing.iter().find(|beginning| place(&beginning.partition, &stored) != beginning.stored.map(Progress::place)) {
            return Err(fenced(beginning.partition, place(&beginning.partition, &stored)));
        }
        self.store(missing.iter().map(|beginning| (beginning.partition, beginning.start))).await?;
        let stored = self.stored().await?;
        for Beginning { partition, start, .. } in missing {
            match place(partition, &stored) {
                Some(now) if now == start.place() => {}
                Some(now) if now > start.place() => return Err(fenced(*partition, Some(now))),
                // The write time of progress is an offset, and that of a DELETE is the clock: everything written afterwards lies under it.
                _ => {
                    return Err(SinkError::outage(
                        ProblemClass::TableMissing,
                        "progress that was stored cannot be read: rows of tapeline_progress were deleted with DELETE, which hides what is stored later; TRUNCATE the table",
                    ));
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, rows: RecordBatch) {
        self.queue.push(rows);
    }

    fn is_full(&self) -> bool {
        self.queue.waiting() > ROOM
    }

    async fn drain(&mut self) -> Result<(), SinkError> {
        self.flush(ROOM).await
    }

    async fn commit(&mut self, advances: &[Advance], _letters: &[DeadLetter]) -> Result<u64, SinkError> {
        self.flush(0).await?;
        self.store(advances.iter().filter(|advance| advance.from != advance.to).map(|advance| (advance.partition, advance.to))).await?;
        Ok(std::mem::take(&mut self.queue.written))
    }

    fn discard(&mut self) {
        self.queue.clear();
    }
}
