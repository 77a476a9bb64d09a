//! From JSON messages to record batches of the stream's table. A chunk of messages goes through arrow's JSON reader in one piece; only when something in it
//! is wrong is it read again, by halves down to the message that fails, and that one element by element ([`element`]), so that a bad record is told from its neighbours.
//!
//! What counts as a number or a text is arrow's: a number in quotes is a number, and a fraction is cut off where an integer is asked for.

mod element;
mod write_time;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StructArray, TimestampMicrosecondArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Fields, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use arrow::json::reader::Decoder as JsonDecoder;
use tapeline_api::pipeline::streams::Stream;

use crate::schema::{TIMESTAMP_TYPE, reader_fields, table_schema};
pub use write_time::WriteTimes;

/// A message as the consumer borrows it.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in milliseconds since 1970, if it has one.
    pub timestamp_ms: Option<i64>,
    /// Its value; none is a tombstone.
    pub payload: Option<&'a [u8]>,
}

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
    fields: Fields,
    reader: JsonDecoder,
    required: Vec<usize>,
    text_timestamps: Vec<usize>,
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

impl Decoder {
    /// A reader for `stream`.
    ///
    /// # Errors
    /// A type that arrow's reader does not read, which the API's types rule out.
    pub fn new(stream: &Stream) -> Result<Self, ArrowError> {
        let fields: Fields = reader_fields(stream).into();
        let positions = |wanted: &dyn Fn(usize) -> bool| (0..stream.fields.len()).filter(|&index| wanted(index)).collect();
        let declared = &stream.fields;
        Ok(Self {
            reader: json_decoder(&fields, MESSAGES)?,
            required: positions(&|index| declared.get(index).is_some_and(|field| field.required)),
            text_timestamps: positions(&|index| {
                let is_text = fields.get(index).is_some_and(|field| field.data_type() == &DataType::Utf8);
                is_text && declared.get(index).is_some_and(|field| field.type_ == tapeline_api::types::FieldType::Timestamp)
            }),
            fields,
            schema: table_schema(stream),
        })
    }

    /// Reads `messages`, at most 65,536 of them, each with a higher offset than those before it of its partition.
    ///
    /// # Errors
    /// Only faults of this program: what is wrong with a record is in [`Chunk::bad`].
    pub fn decode(&mut self, messages: &[Message<'_>], times: &mut WriteTimes) -> Result<Chunk, ArrowError> {
        if let Ok(rows) = self.fast(messages) {
            return Ok(Chunk { batch: self.assemble(rows.columns, &rows.layout, times)?, bad: Vec::new() });
        }
        let mut pieces = Pieces::default();
        self.slow(messages, &mut pieces)?;
        self.renew(MESSAGES)?;
        let columns = if pieces.good.is_empty() { self.empty().map_err(ArrowError::ComputeError)? } else { element::concat(&pieces.good)? };
        Ok(Chunk { batch: self.assemble(columns, &pieces.layout, times)?, bad: pieces.bad })
    }

    /// Another reader, since one that failed holds half a message. For up to `messages`, since it reserves memory for as many.
    fn renew(&mut self, messages: usize) -> Result<(), ArrowError> {
        self.reader = json_decoder(&self.fields, messages)?;
        Ok(())
    }

    /// All of `messages` in one piece. Any error means: read them again, piece by piece, with another reader.
    fn fast<'a>(&mut self, messages: &[Message<'a>]) -> Result<FastRows<'a>, String> {
        let mut with_rows = Vec::with_capacity(messages.len());
        let mut objects = Vec::new();
        for message in messages {
            let Some(body) = element::body(message.payload) else { continue };
            let before = self.reader.len();
            let parts: &[&[u8]] = match body {
                element::Body::Array(text) => &[text],
                element::Body::Object(text) => {
                    objects.push(with_rows.len());
                    &[b"[", text, b"]"]
                }
                element::Body::Other => return Err("neither an object nor an array".to_owned()),
            };
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
            with_rows.push(*message);
        }
        let Some(batch) = self.reader.flush().map_err(|error| error.to_string())? else {
            return Ok(FastRows { columns: self.empty()?, layout: Vec::new() });
        };
        let lists = batch.column(0).as_list_opt::<i32>().ok_or("no list")?;
        let lengths: Vec<usize> = lists.offsets().lengths().collect();
        // The reader does not ask for commas between the elements of a list, so `{..}{..}` in brackets would be two records.
        if objects.iter().any(|&place| lengths.get(place) != Some(&1)) {
            return Err("not one JSON object".to_owned());
        }
        let columns = self.columns(lists.values())?;
        let layout = lengths.into_iter().zip(with_rows).map(|(count, message)| Rows { message, count, first_index: 0 }).collect();
        Ok(FastRows { columns, layout })
    }

    fn empty(&self) -> Result<Vec<ArrayRef>, String> {
        self.columns(&(Arc::new(StructArray::new_null(self.fields.clone(), 0)) as ArrayRef))
    }

    /// The columns of the rows, in the types that SQL sees. Fails if a row is null, lacks a required field or holds a text that is no timestamp.
    fn columns(&self, rows: &ArrayRef) -> Result<Vec<ArrayRef>, String> {
        let rows = rows.as_struct_opt().ok_or("no struct")?;
        if rows.null_count() > 0 {
            return Err("null is not a record".to_owned());
        }
        let mut columns = rows.columns().to_vec();
        for (index, column) in columns.iter_mut().enumerate() {
            let name = self.fields.get(index).map_or("", |field| field.name());
            if self.required.contains(&index) && column.null_count() > 0 {
                return Err(format!("required field \"{name}\" is missing or null"));
            }
            let is_other = self.schema.fields().get(index).is_some_and(|field| field.data_type() != column.data_type());
            if is_other || self.text_timestamps.contains(&index) {
                let nulls = column.null_count();
                let converted =
                    cast_with_options(column, &TIMESTAMP_TYPE, &CastOptions { safe: true, ..CastOptions::default() }).map_err(|error| error.to_string())?;
                if converted.null_count() != nulls {
                    return Err(format!("field \"{name}\" is not a timestamp"));
                }
                *column = converted;
            }
        }
        Ok(columns)
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
                }
                Err(_) => self.slow(half, pieces)?,
            }
        }
        Ok(())
    }

    /// Every element of a message by itself.
    fn elements<'a>(&mut self, message: Message<'a>, pieces: &mut Pieces<'a>) -> Result<(), ArrowError> {
        let failed = |index, error, payload: &[u8]| BadRecord { partition: message.partition, offset: message.offset, index, error, payload: payload.to_vec() };
        let elements = match element::split(message.payload) {
            Ok(elements) => elements,
            Err(error) => {
                pieces.bad.push(failed(None, error, message.payload.unwrap_or_default()));
                return Ok(());
            }
        };
        self.renew(1)?;
        for (index, text) in elements.texts.into_iter().enumerate() {
            match self.one(text) {
                Ok(columns) => {
                    pieces.good.push(columns);
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
    fn one(&mut self, text: &str) -> Result<Vec<ArrayRef>, String> {
        let mut read = || -> Result<Option<RecordBatch>, ArrowError> {
            for part in [b"[" as &[u8], text.as_bytes(), b"]"] {
                self.reader.decode(part)?;
            }
            self.reader.flush()
        };
        let batch = read().map_err(|error| element::describe(&error, text, &self.fields))?.ok_or("no value")?;
        self.columns(batch.column(0).as_list_opt::<i32>().ok_or("no list")?.values())
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
        columns.extend([partitions, offsets, indexes, Arc::new(Int64Array::from(writes)) as ArrayRef]);
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }
}

struct FastRows<'a> {
    columns: Vec<ArrayRef>,
    layout: Vec<Rows<'a>>,
}

/// What came of a chunk that failed in one piece.
#[derive(Default)]
struct Pieces<'a> {
    good: Vec<Vec<ArrayRef>>,
    layout: Vec<Rows<'a>>,
    bad: Vec<BadRecord>,
}

/// A reader of up to `messages` values, which are lists of records, one list a message.
fn json_decoder(fields: &Fields, messages: usize) -> Result<JsonDecoder, ArrowError> {
    let record = Field::new("item", DataType::Struct(fields.clone()), true);
    ReaderBuilder::new_with_field(Field::new_list("records", record, true)).with_batch_size(messages).build_decoder()
}

#[cfg(test)]
mod tests;
