//! MySQL, modes Append and Upsert: rows are buffered until the cut; then one short transaction compares and swaps the progress of each partition, writes the
//! rows, and commits. Whoever finds other progress than it thinks writes nothing.

mod refused;
mod session;
mod statement;
mod transaction;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use sqlx::mysql::MySqlConnection;
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::queries::MySqlMode;
use tapeline_api::report::ProblemClass;
use tapeline_api::settings::MySqlConnection as Address;

use super::{Advance, Beginning, Progress, ProgressKey, Sink, SinkError, rows};
use crate::settings::Credentials;
use session::{STATEMENT, classify, in_time};
use statement::Insert;
use transaction::{Failure, Work};

/// Bytes of rows after which the micro-batch is cut early: what a transaction of comfortable size holds.
const BUFFER: usize = 8 << 20;
/// The server closes idle sessions after 30 s, so that a vanished worker's locks go; one that idled longer than this is not used again.
const IDLE: Duration = Duration::from_secs(20);

/// A table in MySQL.
pub struct MySqlSink {
    address: Address,
    credentials: Credentials,
    table: SqlName,
    mode: MySqlMode,
    key: Arc<ProgressKey>,
    columns: Vec<String>,
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
    pub(super) const fn new(address: Address, credentials: Credentials, table: SqlName, mode: MySqlMode, key: Arc<ProgressKey>, columns: Vec<String>) -> Self {
        Self { address, credentials, table, mode, key, columns, session: None, insert: None, pending: Vec::new(), bytes: 0, in_doubt: false }
    }

    /// Takes the session that is there, or makes one.
    async fn session(&mut self) -> Result<MySqlConnection, SinkError> {
        if let Some((session, used)) = self.session.take()
            && used.elapsed() < IDLE
        {
            return Ok(session);
        }
        let mut session = session::connect(&self.address, &self.credentials).await?;
        if self.insert.is_none() {
            let found = in_time(STATEMENT, statement::describe(&mut session, &self.address.database, &self.table)).await.map_err(|error| classify(&error))?;
            self.insert = Some(Arc::new(found.insert(&self.table, self.mode, &self.columns)?));
        }
        Ok(session)
    }

    fn keep(&mut self, session: MySqlConnection) {
        self.session = Some((session, Instant::now()));
    }

    /// Runs `work` on a session, in time.
    async fn on_session<T>(&mut self, work: impl AsyncFnOnce(&mut MySqlConnection) -> Result<T, sqlx::Error>) -> Result<T, SinkError> {
        let mut session = self.session().await?;
        let value = in_time(STATEMENT, work(&mut session)).await.map_err(|error| classify(&error))?;
        self.keep(session);
        Ok(value)
    }

    /// After a lost answer to COMMIT: whether it happened.
    async fn look_up(&mut self, advances: &[Advance]) -> Result<bool, SinkError> {
        let key = Arc::clone(&self.key);
        let stored = self.on_session(async |session| transaction::locked_progress(session, &key).await).await?;
        let is = |pick: fn(&Advance) -> Progress| {
            advances.iter().all(|advance| stored.get(&advance.partition).is_some_and(|stored| stored.place() == pick(advance).place()))
        };
        self.in_doubt = false;
        match (is(|advance| advance.to), is(|advance| advance.from)) {
            (true, _) => Ok(true),
            (false, true) => Ok(false),
            (false, false) => Err(SinkError::Fenced("after a lost answer to COMMIT the stored progress is neither the old nor the new".to_owned())),
        }
    }

    /// Takes the refused rows out of the buffer.
    fn take_out(&mut self, found: Vec<(usize, String)>) -> Result<Vec<super::RefusedRow>, SinkError> {
        let all = statement::together(&self.pending).map_err(|error| SinkError::fatal(ProblemClass::Internal, error.to_string()))?;
        let untraceable = || {
            let why = found.first().map_or("", |(_, why)| why);
            let what =
                format!("MySQL refuses a row for its content ({why}), and a row of an aggregate cannot be traced to a record; change the query or the table");
            SinkError::fatal(ProblemClass::BadRecord, what)
        };
        if !rows::is_traceable(&all) {
            return Err(untraceable());
        }
        let refused: Option<Vec<_>> = found.iter().map(|(place, why)| rows::refused(&all, *place, self.columns.len(), why.clone())).collect();
        let places: HashSet<usize> = found.iter().map(|(place, _)| *place).collect();
        let keep: arrow::array::BooleanArray = (0..all.num_rows()).map(|place| Some(!places.contains(&place))).collect();
        let rest = arrow::compute::filter_record_batch(&all, &keep).map_err(|error| SinkError::fatal(ProblemClass::Internal, error.to_string()))?;
        self.pending = vec![rest];
        refused.ok_or_else(untraceable)
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

    async fn commit(&mut self, advances: &[Advance]) -> Result<u64, SinkError> {
        let count = self.pending.iter().map(|batch| batch.num_rows() as u64).sum();
        if self.in_doubt && self.look_up(advances).await? {
            self.discard();
            return Ok(count);
        }
        let session = self.session().await?;
        let Some(insert) = self.insert.clone() else {
            return Err(SinkError::fatal(ProblemClass::Internal, "no statement"));
        };
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
            Err(Failure::Refused(found)) => Err(SinkError::Refused(self.take_out(found)?)),
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array};
    use arrow::datatypes::Int64Type;
    use tapeline_query::schema::HIDDEN;

    use super::*;

    fn sink() -> MySqlSink {
        let address = Address { host: "mysql".to_owned(), port: 3306, database: "trading".parse().unwrap() };
        let text = || "t".to_owned();
        let key = ProgressKey { kafka_cluster: text(), query: text(), topic: text(), sink_table: text(), plan_hash: text() };
        MySqlSink::new(address, Credentials::new(PathBuf::new()), "t".parse().unwrap(), MySqlMode::Append, Arc::new(key), vec!["id".to_owned()])
    }

    fn rows(ids: std::ops::Range<i64>) -> RecordBatch {
        let [partition, offset, index, write_time] = HIDDEN;
        let ints = || Arc::new(Int32Array::from_iter_values(ids.clone().map(|_| 0))) as ArrayRef;
        let ids = || Arc::new(Int64Array::from_iter_values(ids.clone())) as ArrayRef;
        RecordBatch::try_from_iter([("id", ids()), (partition, ints()), (offset, ids()), (index, ints()), (write_time, ids())]).unwrap()
    }

    #[test]
    fn refused_rows_are_out_of_the_buffer_and_say_where_they_came_from() {
        let mut sink = sink();
        sink.push(rows(0..3));
        sink.push(rows(3..5));
        let refused = sink.take_out(vec![(1, "too long".to_owned()), (4, "null".to_owned())]).unwrap();
        let said: Vec<(i64, &str)> = refused.iter().map(|row| (row.offset, row.error.as_str())).collect();
        assert_eq!(said, [(1, "too long"), (4, "null")]);
        let left: Vec<&i64> = sink.pending.iter().flat_map(|rows| rows.column(0).as_primitive::<Int64Type>().values()).collect();
        assert_eq!(left, [&0, &2, &3]);
    }

    #[test]
    fn a_refused_row_of_an_aggregate_stops_the_query() {
        let mut sink = sink();
        sink.push(rows(0..3).project(&[0]).unwrap());
        let Err(SinkError::Fatal(problem)) = sink.take_out(vec![(1, "Data too long for column 'id' at row 1".to_owned())]) else { unreachable!("it goes on") };
        assert_eq!(problem.class, ProblemClass::BadRecord);
        assert!(problem.message.contains("column 'id'"), "{}", problem.message);
    }
}
