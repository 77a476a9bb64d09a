//! The rows between `push` and the server's acknowledgement: record batches that wait, chunks that wait, batches under way. A batch that fails goes back to the
//! front, so nothing is lost before it is acknowledged or refused. What is under way lives in tasks of its own: whoever awaits here may stop at any time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use scylla::client::session::Session;
use tapeline_api::pipeline::queries::Nulls;
use tapeline_api::report::ProblemClass;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::chunk::{Chunk, Rows, Shape, Unfit, chunks};
use super::connect::Statements;
use super::trouble::Trouble;
use super::window::Window;
use crate::sink::rows::refused;
use crate::sink::{RefusedRow, SinkError};

/// A server that acknowledged something this long ago is busy, not gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long nothing is sent to a server that cannot follow.
const PAUSE: Duration = Duration::from_millis(100);

/// Since when nothing was heard of the server.
#[derive(Debug)]
pub(super) struct Contact {
    since: Instant,
    failing: bool,
}

impl Contact {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), failing: false }
    }

    /// Something is asked after a time in which nothing was.
    pub(super) fn begin(&mut self) {
        if !self.failing {
            self.since = Instant::now();
        }
    }

    pub(super) fn answered(&mut self) {
        *self = Self::new();
    }

    /// How long nothing was heard.
    pub(super) fn failed(&mut self) -> Duration {
        self.failing = true;
        self.since.elapsed()
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    pushed: VecDeque<RecordBatch>,
    chunks: VecDeque<Chunk>,
    /// Rows in both.
    waiting: usize,
    tasks: JoinSet<Result<(), Trouble>>,
    under_way: HashMap<Id, (u64, Chunk)>,
    window: Window,
    pause: Option<Instant>,
    /// Rows that the server called invalid by themselves. Whether it is their fault or the table's shows when the statement is prepared again.
    suspects: Vec<(Chunk, String)>,
    refused: Vec<RefusedRow>,
    /// The table as the chunks know it.
    shape: Option<Arc<Shape>>,
    /// The query's columns; behind them come the hidden ones.
    columns: usize,
    /// Rows acknowledged.
    pub(super) written: u64,
    pub(super) contact: Contact,
}

impl Queue {
    pub(super) fn new(columns: usize) -> Self {
        Self {
            pushed: VecDeque::new(),
            chunks: VecDeque::new(),
            waiting: 0,
            tasks: JoinSet::new(),
            under_way: HashMap::new(),
            window: Window::new(),
            pause: None,
            suspects: Vec::new(),
            refused: Vec::new(),
            shape: None,
            columns,
            written: 0,
            contact: Contact::new(),
        }
    }

    pub(super) fn push(&mut self, rows: RecordBatch) {
        self.waiting += rows.num_rows();
        self.pushed.push_back(rows);
    }

    /// Rows that are not sent yet.
    pub(super) const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether all that was pushed is acknowledged or refused.
    pub(super) fn is_done(&self) -> bool {
        self.waiting == 0 && self.tasks.is_empty() && self.suspects.is_empty() && self.refused.is_empty()
    }

    pub(super) fn set_nodes(&mut self, nodes: usize) {
        self.window.set_nodes(nodes);
    }

    /// Makes chunks of the next record batch when there are none. Rows for which `place` says the same may share one.
    ///
    /// # Errors
    /// Rows are refused; what is left of them stays. Or none of them can be written to this table.
    pub(super) fn load(&mut self, statements: &Statements, nulls: Nulls, place: impl Fn(&Rows, u32) -> u128) -> Result<(), SinkError> {
        while self.chunks.is_empty()
            && let Some(batch) = self.pushed.pop_front()
        {
            let rows = match Rows::new(batch.clone(), Arc::clone(&statements.shape), nulls) {
                Ok(rows) => Arc::new(rows),
                Err(unfit) => {
                    self.pushed.push_front(batch);
                    return Err(match unfit {
                        Unfit::Type { .. } => SinkError::outage(ProblemClass::TableMissing, unfit.to_string()),
                        Unfit::Columns { .. } | Unfit::NoWriteTime => SinkError::fatal(ProblemClass::Internal, unfit.to_string()),
                    });
                }
            };
            let misfits = rows.misfits();
            let indices: Vec<u32> = misfits.iter().map(|(index, _)| *index).collect();
            chunks(&rows, &indices, |index| place(&rows, index), &mut self.chunks);
            self.waiting -= misfits.len();
            for (index, error) in misfits {
                self.refuse(&rows, index, error)?;
            }
        }
        if self.refused.is_empty() { Ok(()) } else { Err(SinkError::Refused(std::mem::take(&mut self.refused))) }
    }

    fn refuse(&mut self, rows: &Rows, index: u32, error: String) -> Result<(), SinkError> {
        let row = refused(&rows.batch, index as usize, self.columns, error);
        self.refused.push(row.ok_or_else(|| SinkError::fatal(ProblemClass::Internal, "a row that Cassandra refuses cannot be traced to its record"))?);
        Ok(())
    }

    /// Sends as many chunks as may be under way.
    pub(super) fn send(&mut self, session: &Arc<Session>, statements: &Statements) {
        if self.pause.is_some_and(|until| Instant::now() < until) {
            return;
        }
        self.pause = None;
        while self.tasks.len() < self.window.size()
            && let Some(chunk) = self.chunks.pop_front()
        {
            if self.tasks.is_empty() {
                self.contact.begin();
            }
            self.waiting -= chunk.len();
            let (session, batch, values) = (Arc::clone(session), statements.batch(chunk.len()), chunk.clone());
            let task = self.tasks.spawn(async move { session.batch(&batch, &values).await.map(|_| ()).map_err(|error| Trouble::from(&error)) });
            self.under_way.insert(task.id(), (self.window.send(), chunk));
        }
    }

    /// Takes the answers that are there.
    pub(super) fn take_answers(&mut self) -> Result<(), Trouble> {
        let mut result = Ok(());
        while let Some(answer) = self.tasks.try_join_next_with_id() {
            result = result.and(self.settle(answer));
        }
        result
    }

    /// Waits for an answer, or for the end of a pause, and takes what is there then.
    pub(super) async fn answer(&mut self) -> Result<(), Trouble> {
        if let Some(until) = self.pause
            && self.tasks.is_empty()
        {
            sleep_until(until).await;
            return Ok(());
        }
        match self.tasks.join_next_with_id().await {
            Some(answer) => {
                let first = self.settle(answer);
                first.and(self.take_answers())
            }
            None => Ok(()),
        }
    }

    fn settle(&mut self, answer: Result<(Id, Result<(), Trouble>), JoinError>) -> Result<(), Trouble> {
        let (id, outcome) = match answer {
            Ok((id, outcome)) => (id, outcome),
            Err(error) => (error.id(), Err(Trouble::Fault("sending rows to Cassandra has panicked".to_owned()))),
        };
        let Some((number, chunk)) = self.under_way.remove(&id) else { return Ok(()) };
        let Err(trouble) = outcome else {
            self.written += chunk.len() as u64;
            self.window.acknowledge();
            self.contact.answered();
            return Ok(());
        };
        tracing::debug!(?trouble, rows = chunk.len(), "a batch for Cassandra failed");
        match &trouble {
            Trouble::Invalid(text) => {
                if chunk.suspect {
                    self.suspects.push((chunk, text.clone()));
                } else {
                    self.waiting += chunk.len();
                    chunk.singly().for_each(|single| self.chunks.push_front(single));
                }
            }
            Trouble::Slow(_) => {
                self.window.too_slow(number);
                self.put_back(chunk);
                if self.contact.failed() < PATIENCE {
                    self.pause = Some(Instant::now() + PAUSE);
                    return Ok(());
                }
            }
            Trouble::Unreachable(_) => {
                self.window.too_slow(number);
                self.put_back(chunk);
            }
            Trouble::Denied(_) | Trouble::Missing(_) | Trouble::Stale | Trouble::Fault(_) => self.put_back(chunk),
        }
        Err(trouble)
    }

    fn put_back(&mut self, chunk: Chunk) {
        self.waiting += chunk.len();
        self.chunks.push_front(chunk);
    }

    /// Calls back what is under way: it is sent again, which does no harm.
    pub(super) fn recall(&mut self) {
        self.tasks = JoinSet::new();
        for (_, chunk) in std::mem::take(&mut self.under_way).into_values() {
            self.put_back(chunk);
        }
    }

    /// Whether it has to be found out who is at fault, the rows or the table: prepare the statement again, then [`Self::accept`].
    pub(super) const fn has_suspects(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// The statement is prepared and the table has this shape. If it had it before, suspect rows are guilty; otherwise all rows are looked at anew.
    ///
    /// # Errors
    /// A fault.
    pub(super) fn accept(&mut self, shape: &Arc<Shape>) -> Result<(), SinkError> {
        if self.shape.replace(Arc::clone(shape)).is_some_and(|before| before != *shape) {
            return self.reload();
        }
        for (chunk, error) in std::mem::take(&mut self.suspects) {
            for &index in chunk.indices() {
                self.refuse(&chunk.rows, index, error.clone())?;
            }
        }
        Ok(())
    }

    fn reload(&mut self) -> Result<(), SinkError> {
        self.recall();
        for (chunk, _) in std::mem::take(&mut self.suspects) {
            self.put_back(chunk);
        }
        for chunk in std::mem::take(&mut self.chunks) {
            let indices = UInt32Array::from_iter_values(chunk.indices().iter().copied());
            let rows = take_record_batch(&chunk.rows.batch, &indices).map_err(|error| SinkError::fatal(ProblemClass::Internal, error.to_string()))?;
            self.pushed.push_front(rows);
        }
        Ok(())
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.tasks = JoinSet::new();
        self.under_way.clear();
        self.pushed.clear();
        self.chunks.clear();
        self.suspects.clear();
        self.refused.clear();
        self.waiting = 0;
        self.written = 0;
        self.pause = None;
    }
}
