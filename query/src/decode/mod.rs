//! From JSON messages to record batches of the stream's table. A chunk of messages goes through arrow's JSON reader in one piece; only when something in it
//! is wrong is it read again, by halves down to the message that fails, and that one element by element ([`element`]), so that a bad record is told from its neighbours.
//!
//! What counts as a number or a text is arrow's: a number in quotes is a number, a number or boolean where a text is asked for is its text as written, and a
//! fraction is cut off where an integer is asked for (by way of a double). Decimals, timestamps and dates are read as texts, and by [`exact`]; [`json_text`] is for what has no type at all.

mod depth;
mod element;
mod exact;
mod json_text;
mod message;
mod never_seen;
mod record;
mod write_time;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StructArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use arrow::json::reader::Decoder as JsonDecoder;
use tapeline_api::pipeline::streams::{Stream, Tombstones, UnknownFields};

use crate::schema::table_schema;
use element::Body;
use json_text::JsonText;
use message::Wanted;
pub use message::{Header, Message};
pub use never_seen::NeverSeen;
use record::Record;
pub use write_time::WriteTimes;

/// A record that is not what the stream declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRecord {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its place in the message, if it is an element of an array; none if the whole message is bad.
    pub index: Option<usize>,
    /// What is wrong, with the field's name where it is known.
    pub error: String,
    /// The record itself.
    pub payload: Vec<u8>,
}

/// What a chunk of messages gave.
#[derive(Debug)]
pub struct Chunk {
    /// The rows, with the schema of [`table_schema`].
    pub batch: RecordBatch,
    /// The records that are none.
    pub bad: Vec<BadRecord>,
}

/// Reads the messages of one stream.
pub struct Decoder {
    record: Record,
    reader: JsonDecoder,
    /// Present if the stream has fields of type `json`.
    json: Option<JsonText>,
    tombstones: Tombstones,
    rejects_unknown: bool,
    wanted: Wanted,
    search: never_seen::Search,
    schema: SchemaRef,
}

/// How many messages the reader may hold: chunks are bounded by their makers, in bytes.
const MESSAGES: usize = 1 << 16;

/// Where the rows of a message stand in the rows of its chunk.
struct Rows<'a> {
    message: Message<'a>,
    count: usize,
    /// The index in the message of its first row.
    first_index: usize,
}

const TOMBSTONE: &str = "the message has no value, and the stream rejects tombstones";

impl Decoder {
    /// A reader for `stream`, by a query that reads those columns of it that `reads` says.
    ///
    /// # Errors
    /// Two fields of the stream stand in each other's way, which the operator refuses ([`Stream::path_conflicts`]).
    pub fn new(stream: &Stream, reads: impl Fn(&str) -> bool) -> Result<Self, ArrowError> {
        let record = Record::new(stream)?;
        let rejects_unknown = stream.unknown_fields == UnknownFields::Reject;
        Ok(Self {
            reader: json_decoder(&record, rejects_unknown, MESSAGES)?,
            json: JsonText::new(&record.members),
            record,
            tombstones: stream.tombstones,
            rejects_unknown,
            wanted: Wanted::new(stream.topic.as_str(), &reads),
            search: never_seen::Search::new(stream, &reads),
            schema: table_schema(stream),
        })
    }

    /// Whether the query reads `_headers`: otherwise messages may come without.
    #[must_use]
    pub const fn wants_headers(&self) -> bool {
        self.wanted.headers
    }

    /// The fields that the query reads and that none of the records so far has, once there were a thousand. It only ever becomes shorter.
    #[must_use]
    pub fn never_seen(&self) -> &[NeverSeen] {
        self.search.found()
    }

    /// Reads `messages`, at most 65,536 of them, each with a higher offset than those before it of its partition.
    ///
    /// # Errors
    /// Only faults of this program: what is wrong with a record is in [`Chunk::bad`].
    pub fn decode(&mut self, messages: &[Message<'_>], times: &mut WriteTimes) -> Result<Chunk, ArrowError> {
        let (columns, layout, tombstones, bad) = if let Ok(rows) = self.fast(messages) {
            (rows.columns, rows.layout, rows.tombstones, Vec::new())
        } else {
            let mut pieces = Pieces::default();
            self.slow(messages, &mut pieces)?;
            self.renew(MESSAGES)?;
            let columns = if pieces.good.is_empty() { self.empty().map_err(ArrowError::ComputeError)? } else { element::concat(&pieces.good)? };
            (columns, pieces.layout, pieces.tombstones, pieces.bad)
        };
        let rows = columns.first().map_or(0, Array::len);
        self.search.look(&columns, rows.saturating_sub(tombstones), messages);
        Ok(Chunk { batch: self.assemble(columns, &layout, times)?, bad })
    }

    /// Another reader, since one that failed holds half a message. For up to `messages`, since it reserves memory for as many.
    fn renew(&mut self, messages: usize) -> Result<(), ArrowError> {
        self.reader = json_decoder(&self.record, self.rejects_unknown, messages)?;
        Ok(())
    }

    /// All of `messages` in one piece. Any error means: read them again, piece by piece, with another reader.
    fn fast<'a>(&mut self, messages: &[Message<'a>]) -> Result<FastRows<'a>, String> {
        let mut with_rows = Vec::with_capacity(messages.len());
        let mut objects = Vec::new();
        let mut tombstones = 0;
        for message in messages {
            let body = match (element::body(message.payload), self.tombstones) {
                (Some(body), _) => body,
                (None, Tombstones::Ignore) => continue,
                (None, Tombstones::Reject) => return Err(TOMBSTONE.to_owned()),
                (None, Tombstones::Row) => {
                    tombstones += 1;
                    Body::Object(b"{}")
                }
            };
            let (text, is_object) = match body {
                Body::Array(text) => (text, false),
                Body::Object(text) => (text, true),
                Body::Other => return Err("neither an object nor an array".to_owned()),
            };
            if depth::is_too_deep(text) {
                return Err("too deep".to_owned());
            }
            let text = match &mut self.json {
                Some(json) => json.quote(text)?,
                None => text,
            };
            let before = self.reader.len();
            let parts: &[&[u8]] = if is_object { &[b"[", text, b"]"] } else { &[text] };
            for part in parts {
                let used = self.reader.decode(part).map_err(|error| error.to_string())?;
                if used != part.len() {
                    return Err("the reader is full".to_owned());
                }
            }
            // A byte stream: without this a message that ends in the middle of a value would eat the next one, and `[..][..]` would be two.
            if self.reader.has_partial_record() || self.reader.len() != before + 1 {
                return Err("not one JSON value".to_owned());
            }
            if is_object {
                objects.push(with_rows.len());
            }
            with_rows.push(*message);
        }
        let Some(batch) = self.reader.flush().map_err(|error| error.to_string())? else {
            return Ok(FastRows { columns: self.empty()?, layout: Vec::new(), tombstones: 0 });
        };
        let lists = batch.column(0).as_list_opt::<i32>().ok_or("no list")?;
        let lengths: Vec<usize> = lists.offsets().lengths().collect();
        // The reader does not ask for commas between the elements of a list, so `{..}{..}` in brackets would be two records.
        if objects.iter().any(|&place| lengths.get(place) != Some(&1)) {
            return Err("not one JSON object".to_owned());
        }
        let columns = self.record.columns(lists.values(), tombstones)?;
        let layout = lengths.into_iter().zip(with_rows).map(|(count, message)| Rows { message, count, first_index: 0 }).collect();
        Ok(FastRows { columns, layout, tombstones })
    }

    fn empty(&self) -> Result<Vec<ArrayRef>, String> {
        self.record.columns(&(Arc::new(StructArray::new_null(self.record.fields.clone(), 0)) as ArrayRef), 0)
    }

    /// What fails in one piece: each half by itself, down to a message. Measured for 2,000 messages: 1 ms without a bad one, 2.6 ms with one, 8 ms with twenty, 43 ms
    /// where all are bad; every message by itself takes 19 ms as soon as one is bad.
    fn slow<'a>(&mut self, messages: &[Message<'a>], pieces: &mut Pieces<'a>) -> Result<(), ArrowError> {
        if let [message] = messages {
            return self.elements(*message, pieces);
        }
        let (first, second) = messages.split_at(messages.len() / 2);
        for half in [first, second] {
            self.renew(half.len())?;
            match self.fast(half) {
                Ok(rows) => {
                    pieces.good.push(rows.columns);
                    pieces.layout.extend(rows.layout);
                    pieces.tombstones += rows.tombstones;
                }
                Err(_) => self.slow(half, pieces)?,
            }
        }
        Ok(())
    }

    /// Every element of a message by itself.
    fn elements<'a>(&mut self, message: Message<'a>, pieces: &mut Pieces<'a>) -> Result<(), ArrowError> {
        let failed = |index, error, payload: &[u8]| BadRecord { partition: message.partition, offset: message.offset, index, error, payload: payload.to_vec() };
        let elements = match element::split(message.payload, self.tombstones) {
            Ok(elements) => elements,
            Err(error) => {
                pieces.bad.push(failed(None, error, message.payload.unwrap_or_default()));
                return Ok(());
            }
        };
        self.renew(1)?;
        for (index, text) in elements.texts.into_iter().enumerate() {
            match self.one(text, elements.is_tombstone) {
                Ok(columns) => {
                    pieces.good.push(columns);
                    pieces.tombstones += usize::from(elements.is_tombstone);
                    pieces.layout.push(Rows { message, count: 1, first_index: index });
                }
                Err(error) => {
                    pieces.bad.push(failed(elements.is_array.then_some(index), error, text.as_bytes()));
                    self.renew(1)?;
                }
            }
        }
        Ok(())
    }

    /// One element as a row.
    fn one(&mut self, text: &str, is_tombstone: bool) -> Result<Vec<ArrayRef>, String> {
        let Self { reader, json, .. } = self;
        let quoted = match json {
            Some(json) => json.quote(text.as_bytes())?,
            None => text.as_bytes(),
        };
        let mut read = || -> Result<Option<RecordBatch>, ArrowError> {
            for part in [b"[".as_slice(), quoted, b"]"] {
                reader.decode(part)?;
            }
            reader.flush()
        };
        let batch = read().map_err(|error| element::describe(&error, text, &self.record, self.rejects_unknown))?.ok_or("no value")?;
        self.record.columns(batch.column(0).as_list_opt::<i32>().ok_or("no list")?.values(), usize::from(is_tombstone))
    }

    /// Adds the message's columns and the hidden ones.
    fn assemble(&self, mut columns: Vec<ArrayRef>, layout: &[Rows<'_>], times: &mut WriteTimes) -> Result<RecordBatch, ArrowError> {
        let count = layout.iter().map(|rows| rows.count).sum();
        let (mut partitions, mut offsets) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let (mut indexes, mut stamps, mut writes) = (Vec::with_capacity(count), Vec::with_capacity(count), Vec::with_capacity(count));
        for rows in layout {
            let Message { partition, offset, timestamp_ms, .. } = rows.message;
            partitions.extend(std::iter::repeat_n(partition, rows.count));
            offsets.extend(std::iter::repeat_n(offset, rows.count));
            indexes.extend((rows.first_index..).map(|index| i32::try_from(index).unwrap_or(i32::MAX)).take(rows.count));
            stamps.extend(std::iter::repeat_n(timestamp_ms.and_then(|ms| ms.checked_mul(1000)), rows.count));
            writes.extend(times.next(partition, timestamp_ms, rows.count));
        }
        let partitions: ArrayRef = Arc::new(Int32Array::from(partitions));
        let offsets: ArrayRef = Arc::new(Int64Array::from(offsets));
        let indexes: ArrayRef = Arc::new(Int32Array::from(indexes));
        columns.extend([Arc::clone(&partitions), Arc::clone(&offsets), Arc::clone(&indexes), Arc::new(TimestampMicrosecondArray::from(stamps)) as ArrayRef]);
        columns.extend(self.wanted.columns(layout, count)?);
        columns.extend([partitions, offsets, indexes, Arc::new(Int64Array::from(writes)) as ArrayRef]);
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }
}

struct FastRows<'a> {
    columns: Vec<ArrayRef>,
    layout: Vec<Rows<'a>>,
    /// How many of the rows are tombstones.
    tombstones: usize,
}

/// What came of a chunk that failed in one piece.
#[derive(Default)]
struct Pieces<'a> {
    good: Vec<Vec<ArrayRef>>,
    layout: Vec<Rows<'a>>,
    bad: Vec<BadRecord>,
    tombstones: usize,
}

/// A reader of up to `messages` values, which are lists of records, one list a message.
fn json_decoder(record: &Record, rejects_unknown: bool, messages: usize) -> Result<JsonDecoder, ArrowError> {
    let item = Field::new("item", DataType::Struct(record.fields.clone()), true);
    let builder = ReaderBuilder::new_with_field(Field::new_list("records", item, true)).with_batch_size(messages);
    builder.with_coerce_primitive(true).with_strict_mode(rejects_unknown).build_decoder()
}

#[cfg(test)]
mod tests;
