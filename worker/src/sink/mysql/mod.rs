//! MySQL: rows are buffered until the cut; then one short transaction compares and swaps the progress of each partition, writes the
//! rows, and commits. Whoever finds other progress than it thinks writes nothing.

mod refused;
pub(crate) mod session;
mod statement;
mod table;
mod transaction;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use sqlx::mysql::MySqlConnection;
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::queries::MySqlMode;
use tapeline_api::report::ProblemClass;
use tapeline_api::settings::MySqlConnection as Address;
use tapeline_query::plan::{CheckedQuery, Merge, order_column};

use super::{Advance, Beginning, Doubt, Progress, ProgressKey, Sink, SinkError, rows};
use crate::dead_letters::DeadLetter;
use crate::settings::Credentials;
use session::{STATEMENT, classify, in_time};
use statement::Insert;
use transaction::{Failure, Work};

/// Bytes of rows after which the micro-batch is cut early: what a transaction of comfortable size holds.
const BUFFER: usize = 8 << 20;
/// The server closes idle sessions after 30 s, so that a vanished worker's locks go; one that idled longer than this is not used again.
const IDLE: Duration = Duration::from_secs(20);

/// What a query gives.
#[derive(Debug, Clone, Default)]
pub(super) struct Output {
    /// Its output columns.
    columns: Vec<String>,
    /// How each is merged; empty for the other modes.
    merge: Vec<Merge>,
}

impl Output {
    fn new(query: &CheckedQuery) -> Self {
        Self { columns: query.output().iter().map(|column| column.name.clone()).collect(), merge: query.merge().to_vec() }
    }

    #[cfg(test)]
    fn of(columns: &[&str]) -> Self {
        Self { columns: columns.iter().map(|&column| column.to_owned()).collect(), merge: Vec::new() }
    }

    /// Each merged column, and how.
    fn merged(&self) -> impl Iterator<Item = (&str, Merge)> {
        self.columns.iter().map(String::as_str).zip(self.merge.iter().copied())
    }

    /// What is written: the output columns and the order columns behind them.
    fn all(&self) -> Vec<String> {
        let orders = self.merged().filter(|(_, kind)| kind.has_order()).map(|(column, _)| order_column(column));
        self.columns.iter().cloned().chain(orders).collect()
    }
}

/// A table in MySQL.
pub struct MySqlSink {
    address: Address,
    credentials: Credentials,
    table: SqlName,
    mode: MySqlMode,
    key: Arc<ProgressKey>,
    output: Output,
    session: Option<(MySqlConnection, Instant)>,
    insert: Option<Arc<Insert>>,
    pending: Vec<RecordBatch>,
    bytes: usize,
    /// The answer to a COMMIT was lost: what happened has to be looked up before anything else.
    in_doubt: bool,
}

impl MySqlSink {
    /// A sink that connects when it is first used.
    #[must_use]
    pub(super) fn new(address: Address, credentials: Credentials, table: SqlName, mode: MySqlMode, key: Arc<ProgressKey>, query: &CheckedQuery) -> Self {
        let output = Output::new(query);
        Self { address, credentials, table, mode, key, output, session: None, insert: None, pending: Vec::new(), bytes: 0, in_doubt: false }
    }

    /// Takes the session that is there, or makes one; with the statement for the table, which is looked at if there is none.
    async fn session(&mut self) -> Result<(MySqlConnection, Arc<Insert>), SinkError> {
        let mut session = match self.session.take() {
            Some((session, used)) if used.elapsed() < IDLE => session,
            _ => session::connect(&self.address, &self.credentials).await?,
        };
        let insert = if let Some(insert) = &self.insert {
            Arc::clone(insert)
        } else {
            let found = in_time(STATEMENT, table::describe(&mut session, &self.address.database, &self.table)).await.map_err(|error| classify(&error))?;
            let insert = found.insert(&self.table, self.mode, &self.output)?;
            Arc::clone(self.insert.insert(Arc::new(insert)))
        };
        Ok((session, insert))
    }

    fn keep(&mut self, session: MySqlConnection) {
        self.session = Some((session, Instant::now()));
    }

    /// Runs `work` on a session, in time.
    async fn on_session<T>(&mut self, work: impl AsyncFnOnce(&mut MySqlConnection) -> Result<T, sqlx::Error>) -> Result<T, SinkError> {
        let (mut session, _) = self.session().await?;
        let value = in_time(STATEMENT, work(&mut session)).await.map_err(|error| classify(&error))?;
        self.keep(session);
        Ok(value)
    }

    /// After a lost answer to COMMIT: whether it happened.
    async fn look_up(&mut self, advances: &[Advance]) -> Result<bool, SinkError> {
        let key = Arc::clone(&self.key);
        let stored = self.on_session(async |session| transaction::locked_progress(session, &key).await).await?;
        self.in_doubt = false;
        match Doubt::decide(advances, &stored) {
            Doubt::Done => Ok(true),
            Doubt::Undone => Ok(false),
            Doubt::Fenced => Err(SinkError::Fenced("after a lost answer to COMMIT the stored progress is neither the old nor the new".to_owned())),
        }
    }
}

impl Sink for MySqlSink {
    async fn read_progress(&mut self) -> Result<BTreeMap<i32, Progress>, SinkError> {
        let key = Arc::clone(&self.key);
        self.on_session(async |session| transaction::progress(session, &key).await).await
    }

    async fn store_starts(&mut self, beginnings: &[Beginning]) -> Result<(), SinkError> {
        let key = Arc::clone(&self.key);
        let fenced = self.on_session(async |session| transaction::store_starts(session, &key, beginnings).await).await?;
        fenced.map_or(Ok(()), |text| Err(SinkError::Fenced(text)))
    }

    fn push(&mut self, batch: RecordBatch) {
        self.bytes += rows::size(&batch);
        self.pending.push(batch);
    }

    fn is_full(&self) -> bool {
        self.bytes >= BUFFER
    }

    async fn drain(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    async fn commit(&mut self, advances: &[Advance], _letters: &[DeadLetter]) -> Result<u64, SinkError> {
        let count = self.pending.iter().map(|batch| batch.num_rows() as u64).sum();
        if self.in_doubt && self.look_up(advances).await? {
            self.discard();
            return Ok(count);
        }
        let (session, insert) = self.session().await?;
        let work = Work { key: Arc::clone(&self.key), insert, advances: advances.to_vec(), rows: self.pending.clone() };
        // In a task of its own: a transaction that is dropped half-way would leave the session in it.
        let task = tokio::spawn(transaction::run(session, work));
        let (session, result) = match task.await {
            Ok(done) => done,
            Err(error) => return Err(SinkError::fatal(ProblemClass::Internal, format!("the transaction's task ended: {error}"))),
        };
        if let Some(session) = session {
            self.keep(session);
        }
        match result {
            Ok(()) => {
                self.discard();
                Ok(count)
            }
            Err(Failure::Fenced(text)) => Err(SinkError::Fenced(text)),
            Err(Failure::InDoubt(error)) => {
                self.in_doubt = true;
                Err(classify(&error))
            }
            Err(Failure::Refused(found)) => Err(SinkError::Refused(rows::take_out(&mut self.pending, self.output.columns.len(), &found, "MySQL")?)),
            Err(Failure::Other(error)) => {
                self.insert = None; // the table may have changed: look at it again
                Err(classify(&error))
            }
            Err(Failure::Internal(error)) => Err(SinkError::fatal(ProblemClass::Internal, error)),
        }
    }

    fn discard(&mut self) {
        self.pending.clear();
        self.bytes = 0;
        self.in_doubt = false;
    }
}
