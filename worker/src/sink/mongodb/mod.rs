//! Rows into a collection of MongoDB. They flow at once, in unordered update commands; a document gives way to one of a later record only, so to write it again
//! changes nothing. At the cut, when all rows are acknowledged by a majority, progress is stored, if it is what this worker thinks.
//!
//! [`queue`] holds the rows, [`document`] turns them into statements, [`connect`] has the connection, [`progress`] the document of progress, [`trouble`] what errors
//! mean.

mod connect;
mod document;
mod progress;
mod queue;
mod trouble;

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use mongodb::Database;
use mongodb::bson::{Document, doc};
use tapeline_api::names::SqlName;
use tapeline_api::progress::PROGRESS_TABLE;
use tapeline_api::settings::MongoDbConnection;

use self::connect::{connect, run, write_concern};
use self::document::Encoder;
use self::progress::{Change, before, first, id, parse, update};
use self::queue::Queue;
use self::trouble::{Trouble, number};
use super::{Advance, Beginning, Progress, ProgressKey, Sink, SinkError};
use crate::dead_letters::DeadLetter;
use crate::settings::Credentials;

/// When nothing was heard for so long the connection is made anew: credentials are read and names resolved again.
const RENEW_AFTER: Duration = Duration::from_secs(15);

/// Writes to a collection of MongoDB.
pub struct MongoDbSink {
    connection: MongoDbConnection,
    credentials: Credentials,
    collection: SqlName,
    key: ProgressKey,
    database: Option<Database>,
    queue: Queue,
    /// Since when nothing succeeds.
    failing: Option<Instant>,
}

impl std::fmt::Debug for MongoDbSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MongoDbSink").field("collection", &self.collection).field("connected", &self.database.is_some()).finish_non_exhaustive()
    }
}

impl MongoDbSink {
    /// A sink for a query whose output columns are `columns`, with an `_id` of those in `id_columns`, or of the record. Nothing is connected yet.
    ///
    /// # Errors
    /// A column of `id_columns` is none of the query's.
    pub(super) fn new(
        connection: MongoDbConnection,
        credentials: Credentials,
        collection: SqlName,
        id_columns: &[SqlName],
        key: ProgressKey,
        columns: &[String],
    ) -> io::Result<Self> {
        let names: Vec<&str> = id_columns.iter().map(SqlName::as_str).collect();
        let unknown = |name| io::Error::new(io::ErrorKind::InvalidInput, format!("the column \"{name}\" of the sink's id is none of the query's"));
        let encoder = Encoder::new(columns, &names, key.topic.clone()).map_err(unknown)?;
        Ok(Self { connection, credentials, collection, key, database: None, queue: Queue::new(encoder, columns.len()), failing: None })
    }

    async fn database(&mut self) -> Result<Database, SinkError> {
        if let Some(database) = &self.database {
            return Ok(database.clone());
        }
        match connect(&self.connection, &self.credentials, &self.collection).await {
            Ok(database) => Ok(self.database.insert(database).clone()),
            Err(trouble) => Err(trouble.into()),
        }
    }

    /// Sends rows and takes answers until there is room for more, or until `all` are acknowledged.
    async fn flush(&mut self, all: bool) -> Result<(), SinkError> {
        while !self.queue.is_done() {
            let database = self.database().await?;
            let mut answers = self.queue.take_answers();
            if answers.is_ok() {
                self.queue.load()?;
                self.queue.send(&database, &self.collection);
                if !all && !self.queue.is_full() {
                    return Ok(());
                }
                answers = self.queue.answer().await;
            }
            match answers {
                Ok(()) => self.failing = None,
                Err(trouble) => return Err(self.failed(trouble)),
            }
        }
        Ok(())
    }

    /// What is to be done about `trouble` before the next call.
    fn failed(&mut self, trouble: Trouble) -> SinkError {
        self.queue.recall();
        let silence = self.failing.get_or_insert_with(Instant::now).elapsed();
        match &trouble {
            Trouble::Denied(_) | Trouble::Missing(_) => self.database = None,
            Trouble::Unreachable(_) | Trouble::Slow(_) if silence > RENEW_AFTER => self.database = None,
            Trouble::Unreachable(_) | Trouble::Slow(_) | Trouble::Refuses(_) | Trouble::Fault(_) => {}
        }
        trouble.into()
    }

    /// Runs a command on the collection of progress.
    async fn ask(&mut self, command: Document) -> Result<Document, SinkError> {
        let database = self.database().await?;
        match run(&database, command).await {
            Ok(reply) => {
                self.failing = None;
                Ok(reply)
            }
            Err(trouble) => Err(self.failed(trouble)),
        }
    }

    async fn stored(&mut self) -> Result<BTreeMap<i32, Progress>, SinkError> {
        let command = doc! {"find": PROGRESS_TABLE, "filter": {"_id": id(&self.key)}, "limit": 1, "singleBatch": true, "readConcern": {"level": "majority"}};
        let reply = self.ask(command).await?;
        let found = reply.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch")).map(Vec::as_slice).unwrap_or_default();
        found.first().and_then(|document| document.as_document()).map_or_else(|| Ok(BTreeMap::new()), |document| parse(document).map_err(SinkError::from))
    }

    /// Stores `changes`, all or none. That they are stored already is no error: an answer may have been lost.
    async fn store(&mut self, changes: &[Change]) -> Result<(), SinkError> {
        if changes.is_empty() {
            return Ok(());
        }
        let statement = doc! {"q": before(&self.key, changes), "u": update(&self.key, changes)};
        let reply = self.ask(doc! {"update": PROGRESS_TABLE, "updates": [statement], "writeConcern": write_concern()}).await?;
        self.acknowledged(&reply)?;
        if number(&reply, "n") == Some(1) {
            return Ok(());
        }
        if changes.iter().all(|(_, from, _)| from.is_none()) {
            // The query's first progress. That a document is there already is found out below.
            let command = doc! {"insert": PROGRESS_TABLE, "documents": [first(&self.key, changes)], "writeConcern": write_concern()};
            let reply = self.ask(command).await?;
            self.acknowledged(&reply)?;
        }
        let stored = self.stored().await?;
        match changes.iter().find(|(partition, _, to)| stored.get(partition).map(|stored| stored.place()) != Some(to.place())) {
            None => Ok(()),
            Some((partition, ..)) => Err(SinkError::Fenced(format!("partition {partition} has other progress"))),
        }
    }

    fn acknowledged(&mut self, reply: &Document) -> Result<(), SinkError> {
        match trouble::not_done(reply) {
            Ok(not_done) if not_done.refused.is_empty() => Ok(()), // that a document is there already is looked at by the caller
            Ok(_) => Err(self.failed(Trouble::Refuses("the collection tapeline_progress refuses progress: take its validator away".to_owned()))),
            Err(trouble) => Err(self.failed(trouble)),
        }
    }
}

impl Sink for MongoDbSink {
    async fn read_progress(&mut self) -> Result<BTreeMap<i32, Progress>, SinkError> {
        self.stored().await
    }

    async fn store_starts(&mut self, beginnings: &[Beginning]) -> Result<(), SinkError> {
        let stored = self.stored().await?;
        let is_missing = |beginning: &&Beginning| stored.get(&beginning.partition).map(|stored| stored.place()) != Some(beginning.start.place());
        let changes: Vec<Change> = beginnings.iter().filter(is_missing).map(|beginning| (beginning.partition, beginning.stored, beginning.start)).collect();
        self.store(&changes).await
    }

    fn push(&mut self, rows: RecordBatch) {
        self.queue.push(rows);
    }

    fn is_full(&self) -> bool {
        self.queue.is_full()
    }

    async fn drain(&mut self) -> Result<(), SinkError> {
        self.flush(false).await
    }

    async fn commit(&mut self, advances: &[Advance], _letters: &[DeadLetter]) -> Result<u64, SinkError> {
        self.flush(true).await?;
        let moved = advances.iter().filter(|advance| advance.from != advance.to);
        let changes: Vec<Change> = moved.map(|advance| (advance.partition, Some(advance.from), advance.to)).collect();
        self.store(&changes).await?;
        Ok(std::mem::take(&mut self.queue.written))
    }

    fn discard(&mut self) {
        self.queue.clear();
    }
}
