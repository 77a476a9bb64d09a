//! The rows between `push` and the server's acknowledgement: record batches that wait, commands that wait, commands under way. One that fails goes back to the front,
//! so nothing is lost before it is acknowledged or refused. What is under way lives in tasks of its own: whoever awaits here may stop at any time.
//!
//! Commands may overtake each other: two of them that write the same document, which is not there yet, both find none, and the second to insert finds the `_id` taken.
//! Whether the document that is there is the newer of the two it is asked once more, without inserting.

use std::collections::{HashMap, VecDeque};

use arrow::array::RecordBatch;
use mongodb::Database;
use mongodb::bson::raw::cstr;
use mongodb::bson::{self, Document, RawArrayBuf, RawDocumentBuf};
use tapeline_api::names::SqlName;
use tapeline_api::report::ProblemClass;
use tokio::task::{Id, JoinError, JoinSet};

use super::connect::{run_raw, write_concern};
use super::document::{Encoder, if_there};
use super::trouble::{self, NotDone, Trouble};
use crate::sink::rows::{refused, size};
use crate::sink::{RefusedRow, SinkError};

/// Statements of a command, and about how many bytes of them: what servers take at once is a hundred times as much, and is slower to acknowledge.
const STATEMENTS: usize = 1_000;
const BYTES: usize = 1 << 20;
/// Commands at once.
const IN_FLIGHT: usize = 4;
/// Rows that may wait: two rounds of commands, so that the next is at hand when an answer comes. And about how many bytes of them.
const ROOM: usize = 8_000;
const BUFFER: usize = 8 << 20;

/// Statements that go together, and the rows that they are of.
#[derive(Debug)]
struct Chunk {
    rows: RecordBatch,
    /// Each with its row.
    statements: Vec<(usize, RawDocumentBuf)>,
}

impl Chunk {
    fn bytes(&self) -> usize {
        self.statements.iter().map(|(_, statement)| statement.as_bytes().len()).sum()
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    encoder: Encoder,
    /// The query's columns; behind them come the hidden ones.
    columns: usize,
    pushed: VecDeque<RecordBatch>,
    chunks: VecDeque<Chunk>,
    /// Rows in both, and about how many bytes they are.
    waiting: usize,
    bytes: usize,
    tasks: JoinSet<Result<Document, Trouble>>,
    under_way: HashMap<Id, Chunk>,
    /// Statements of a command as the server can follow: halved when it does not answer in time, else it would never get through.
    most: usize,
    refused: Vec<RefusedRow>,
    /// Rows acknowledged.
    pub(super) written: u64,
}

impl Queue {
    pub(super) fn new(encoder: Encoder, columns: usize) -> Self {
        let (pushed, chunks, tasks, under_way) = (VecDeque::new(), VecDeque::new(), JoinSet::new(), HashMap::new());
        Self { encoder, columns, pushed, chunks, waiting: 0, bytes: 0, tasks, under_way, most: STATEMENTS, refused: Vec::new(), written: 0 }
    }

    pub(super) fn push(&mut self, rows: RecordBatch) {
        self.waiting += rows.num_rows();
        self.bytes += size(&rows);
        self.pushed.push_back(rows);
    }

    /// Whether more waits than should.
    pub(super) const fn is_full(&self) -> bool {
        self.waiting > ROOM || self.bytes >= BUFFER
    }

    /// Whether all that was pushed is acknowledged or refused.
    pub(super) fn is_done(&self) -> bool {
        self.waiting == 0 && self.tasks.is_empty() && self.refused.is_empty()
    }

    /// Makes commands of the next record batch when there are none.
    ///
    /// # Errors
    /// Rows are refused. Or the rows are none that can be written.
    pub(super) fn load(&mut self) -> Result<(), SinkError> {
        while self.chunks.is_empty()
            && let Some(batch) = self.pushed.pop_front()
        {
            self.bytes -= size(&batch);
            self.encode(&batch)?;
        }
        if self.refused.is_empty() { Ok(()) } else { Err(SinkError::Refused(std::mem::take(&mut self.refused))) }
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<(), SinkError> {
        let Self { encoder, chunks, refused: found, waiting, bytes: all, columns, most, .. } = self;
        let rows = encoder.rows(batch).map_err(|unfit| SinkError::fatal(ProblemClass::Internal, unfit.to_string()))?;
        let (mut statements, mut bytes) = (Vec::new(), 0);
        for row in 0..batch.num_rows() {
            match rows.statement(row) {
                Ok(statement) => {
                    bytes += statement.as_bytes().len();
                    *all += statement.as_bytes().len();
                    statements.push((row, statement));
                }
                Err(misfit) => {
                    *waiting -= 1;
                    found.push(trace(batch, row, *columns, misfit.to_string())?);
                }
            }
            if statements.len() >= *most || bytes >= BYTES {
                chunks.push_back(Chunk { rows: batch.clone(), statements: std::mem::take(&mut statements) });
                bytes = 0;
            }
        }
        if !statements.is_empty() {
            chunks.push_back(Chunk { rows: batch.clone(), statements });
        }
        Ok(())
    }

    /// Sends as many commands as may be under way.
    pub(super) fn send(&mut self, database: &Database, collection: &SqlName) {
        while self.tasks.len() < IN_FLIGHT
            && let Some(chunk) = self.chunks.pop_front()
        {
            self.waiting -= chunk.statements.len();
            self.bytes -= chunk.bytes();
            let (database, command) = (database.clone(), command(collection, &chunk.statements));
            let task = self.tasks.spawn(async move { run_raw(&database, command?).await });
            self.under_way.insert(task.id(), chunk);
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

    /// Waits for an answer and takes what is there then.
    pub(super) async fn answer(&mut self) -> Result<(), Trouble> {
        let Some(answer) = self.tasks.join_next_with_id().await else { return Ok(()) };
        let first = self.settle(answer);
        first.and(self.take_answers())
    }

    fn settle(&mut self, answer: Result<(Id, Result<Document, Trouble>), JoinError>) -> Result<(), Trouble> {
        let (id, outcome) = match answer {
            Ok((id, outcome)) => (id, outcome),
            Err(error) => (error.id(), Err(Trouble::Fault("sending rows to MongoDB has panicked".to_owned()))),
        };
        let Some(chunk) = self.under_way.remove(&id) else { return Ok(()) };
        match outcome.and_then(|reply| trouble::not_done(&reply)) {
            Ok(NotDone { refused, taken }) => {
                self.written += (chunk.statements.len() - refused.len() - taken.len()) as u64;
                self.most = (self.most + self.most / 8 + 1).min(STATEMENTS);
                for (place, why) in refused {
                    let row = chunk.statements.get(place).map_or(0, |(row, _)| *row);
                    let traced = trace(&chunk.rows, row, self.columns, why).map_err(|error| Trouble::Fault(error.to_string()))?;
                    self.refused.push(traced);
                }
                self.ask_again(&chunk, &taken)
            }
            Err(trouble) => {
                if matches!(trouble, Trouble::Slow(_)) {
                    self.most = (chunk.statements.len() / 2).clamp(1, self.most);
                }
                self.put_back(chunk);
                Err(trouble)
            }
        }
    }

    /// Sends the statements at these places once more, for documents that are there now.
    fn ask_again(&mut self, chunk: &Chunk, taken: &[usize]) -> Result<(), Trouble> {
        let taken = taken.iter().filter_map(|place| chunk.statements.get(*place));
        let statements: Result<Vec<_>, _> = taken.map(|(row, statement)| Ok((*row, if_there(statement)?))).collect();
        let statements = statements.map_err(|error: bson::error::Error| Trouble::Fault(error.to_string()))?;
        if !statements.is_empty() {
            self.put_back(Chunk { rows: chunk.rows.clone(), statements });
        }
        Ok(())
    }

    fn put_back(&mut self, mut chunk: Chunk) {
        self.waiting += chunk.statements.len();
        self.bytes += chunk.bytes();
        while chunk.statements.len() > self.most {
            let statements = chunk.statements.split_off(chunk.statements.len() - self.most);
            self.chunks.push_front(Chunk { rows: chunk.rows.clone(), statements });
        }
        self.chunks.push_front(chunk);
    }

    /// Calls back what is under way: it is sent again, which does no harm.
    pub(super) fn recall(&mut self) {
        self.tasks = JoinSet::new();
        for chunk in std::mem::take(&mut self.under_way).into_values() {
            self.put_back(chunk);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.tasks = JoinSet::new();
        self.under_way.clear();
        self.pushed.clear();
        self.chunks.clear();
        self.refused.clear();
        self.waiting = 0;
        self.bytes = 0;
        self.written = 0;
    }
}

/// The command, unordered: a statement that fails stops no other.
fn command(collection: &SqlName, statements: &[(usize, RawDocumentBuf)]) -> Result<RawDocumentBuf, Trouble> {
    let mut updates = RawArrayBuf::new();
    for (_, statement) in statements {
        updates.push(statement);
    }
    let concern = RawDocumentBuf::try_from(&write_concern()).map_err(|error| Trouble::Fault(error.to_string()))?;
    let mut command = RawDocumentBuf::new();
    command.append(cstr!("update"), collection.as_str());
    command.append(cstr!("updates"), updates);
    command.append(cstr!("ordered"), false);
    command.append(cstr!("writeConcern"), &concern);
    Ok(command)
}

fn trace(rows: &RecordBatch, row: usize, columns: usize, why: String) -> Result<RefusedRow, SinkError> {
    refused(rows, row, columns, why).ok_or_else(|| SinkError::fatal(ProblemClass::Internal, "a row that MongoDB refuses cannot be traced to its record"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int32Array, Int64Array, StringArray};
    use mongodb::bson::doc;
    use tapeline_query::schema::hidden;

    use super::*;

    fn queue() -> Queue {
        let columns = ["id".to_owned(), "text".to_owned()];
        Queue::new(Encoder::new(&columns, &["id"], "ticks".to_owned()).unwrap(), columns.len())
    }

    /// Rows with these ids, and a text of `size` bytes each.
    fn rows(ids: impl IntoIterator<Item = Option<i64>>, size: usize) -> RecordBatch {
        let ids: Vec<Option<i64>> = ids.into_iter().collect();
        let texts = Arc::new(StringArray::from(vec!["x".repeat(size); ids.len()])) as ArrayRef;
        let ints = || Arc::new(Int32Array::from(vec![0; ids.len()])) as ArrayRef;
        let longs = || Arc::new(Int64Array::from_iter_values(0..i64::try_from(ids.len()).unwrap())) as ArrayRef;
        let columns = [
            ("id", Arc::new(Int64Array::from(ids.clone())) as ArrayRef),
            ("text", texts),
            (hidden::PARTITION, ints()),
            (hidden::OFFSET, longs()),
            (hidden::INDEX, ints()),
            (hidden::WRITE_TIME, longs()),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
    }

    #[test]
    fn commands_are_bounded_by_statements_and_by_bytes() {
        let mut queue = queue();
        queue.push(rows((0..2_500).map(Some), 1));
        queue.load().unwrap();
        let sizes = |queue: &Queue| queue.chunks.iter().map(|chunk| chunk.statements.len()).collect::<Vec<_>>();
        assert_eq!(sizes(&queue), [1_000, 1_000, 500]);
        queue.most = 400;
        let chunk = queue.chunks.pop_front().unwrap();
        queue.waiting -= chunk.statements.len();
        queue.bytes -= chunk.bytes();
        queue.put_back(chunk);
        assert_eq!(sizes(&queue), [200, 400, 400, 1_000, 500], "what goes back to a slow server goes in smaller parts");
        queue.clear();
        queue.push(rows((0..5).map(Some), 600_000));
        queue.load().unwrap();
        assert_eq!(sizes(&queue), [2, 2, 1]);
        assert_eq!(queue.waiting, 5);
    }

    #[test]
    fn a_row_without_an_id_is_refused_and_its_neighbours_stay() {
        let mut queue = queue();
        queue.push(rows([Some(1), None, Some(3)], 1));
        let Err(SinkError::Refused(refused)) = queue.load() else { panic!("nothing is refused") };
        assert_eq!(refused.iter().map(|row| row.offset).collect::<Vec<_>>(), [1]);
        assert_eq!(queue.waiting, 2);
        assert!(queue.load().is_ok() && !queue.is_done());
    }

    /// Lets the server answer to the first command that waits.
    async fn answered(queue: &mut Queue, reply: Document) -> Result<(), Trouble> {
        let chunk = queue.chunks.pop_front().unwrap();
        queue.waiting -= chunk.statements.len();
        queue.bytes -= chunk.bytes();
        let task = queue.tasks.spawn(async { Ok(reply) });
        queue.under_way.insert(task.id(), chunk);
        queue.answer().await
    }

    #[tokio::test]
    async fn a_document_that_came_between_is_looked_at_before_the_row_counts_as_written() {
        let mut queue = queue();
        queue.push(rows([Some(1), Some(2), Some(3)], 1));
        queue.load().unwrap();
        let taken = doc! {"index": 1, "code": 11000, "keyPattern": {"_id": 1}};
        answered(&mut queue, doc! {"ok": 1, "n": 2, "writeErrors": [taken]}).await.unwrap();
        assert_eq!((queue.written, queue.waiting, queue.is_done()), (2, 1, false));
        let statement = queue.chunks.front().map(|chunk| Document::try_from(&chunk.statements[0].1).unwrap()).unwrap();
        assert_eq!(statement.get_document("u").unwrap().get_i64("_id").unwrap(), 2);
        assert!(!statement.get_bool("upsert").unwrap());
        answered(&mut queue, doc! {"ok": 1, "n": 0}).await.unwrap();
        assert_eq!((queue.written, queue.bytes, queue.is_done()), (3, 0, true));
    }

    #[test]
    fn large_rows_fill_it_long_before_their_number_does() {
        let mut queue = queue();
        queue.push(rows((0..200).map(Some), 30_000));
        assert!(!queue.is_full());
        queue.push(rows((0..200).map(Some), 30_000));
        assert!(queue.is_full());
        queue.load().unwrap();
        assert!(queue.is_full(), "as statements they are as large");
        queue.clear();
        assert!(!queue.is_full());
    }
}
