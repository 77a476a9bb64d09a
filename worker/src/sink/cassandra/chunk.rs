//! Rows on their way to Cassandra: a record batch as rows of the table, checked once, and the chunks of it that go into one batch each.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::datatypes::Int64Type;
use scylla::cluster::metadata::ColumnType;
use scylla::routing::Token;
use scylla::routing::partitioner::{Murmur3Partitioner, Partitioner, PartitionerHasher};
use scylla::serialize::SerializationError;
use scylla::serialize::batch::{BatchValues, BatchValuesIterator};
use scylla::serialize::row::RowSerializationContext;
use scylla::serialize::writers::RowWriter;
use tapeline_api::pipeline::queries::Nulls;
use tapeline_query::schema::hidden;

use super::cell::{Cell, MAX_KEY, Misfit, Scratch};

/// Rows of a batch: at more partitions the server warns that its coordinator has to reach many nodes (`unlogged_batch_across_partitions_warn_threshold`).
pub(super) const MAX_ROWS: usize = 10;
/// Bytes of a batch as the server counts them: above this it warns (`batch_size_warn_threshold`), and at ten times that it refuses. It does neither for one row.
const MAX_BYTES: usize = 5 * 1024;
/// What the server counts for a cell beside its value: write time, time to live, time of deletion.
const CELL_OVERHEAD: usize = 20;
/// The longest row. The server takes half a segment of its commit log (16 MiB), and a frame of 16 MiB.
const MAX_ROW: usize = 15 << 20;

/// What a column is of the primary key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// The whole partition key: it may not even be an empty text.
    Partition,
    /// A part of the primary key.
    Part,
    /// Nothing.
    No,
}

/// A column that the query writes to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) type_: ColumnType<'static>,
    pub(super) key: Key,
}

impl Target {
    fn type_name(&self) -> String {
        match &self.type_ {
            ColumnType::Native(native) => format!("{native:?}").to_lowercase(),
            _ => "of a composite type".to_owned(),
        }
    }
}

/// The columns that the query writes to, in its order, and which of them make the partition key, in the table's order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shape {
    pub(super) columns: Vec<Target>,
    pub(super) partition_key: Vec<usize>,
}

/// Why a record batch cannot be written at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("column \"{column}\" of the table is {type_name}, and the query gives {given}; change the table's column or the query")]
    Type { column: String, type_name: String, given: String },
    #[error("the query gives {given} columns for {wanted} of the table")]
    Columns { given: usize, wanted: usize },
    #[error("the query's rows carry no write time")]
    NoWriteTime,
}

#[derive(Debug)]
struct Column {
    cell: Cell,
    nulls: Option<NullBuffer>,
}

/// The rows of a record batch as rows of the table.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) batch: RecordBatch,
    shape: Arc<Shape>,
    columns: Vec<Column>,
    write_times: Int64Array,
    nulls: Nulls,
}

impl Rows {
    pub(super) fn new(batch: RecordBatch, shape: Arc<Shape>, nulls: Nulls) -> Result<Self, Unfit> {
        let write_times =
            batch.column_by_name(hidden::WRITE_TIME).and_then(|column| column.as_primitive_opt::<Int64Type>()).cloned().ok_or(Unfit::NoWriteTime)?;
        if batch.num_columns() < shape.columns.len() {
            return Err(Unfit::Columns { given: batch.num_columns(), wanted: shape.columns.len() });
        }
        let columns = shape.columns.iter().zip(batch.columns()).map(|(target, column)| match Cell::new(column, &target.type_) {
            Some(cell) => Ok(Column { cell, nulls: column.nulls().filter(|nulls| nulls.null_count() > 0).cloned() }),
            None => Err(Unfit::Type { column: target.name.clone(), type_name: target.type_name(), given: column.data_type().to_string() }),
        });
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { batch, shape, columns, write_times, nulls })
    }

    /// The rows that cannot be stored, rising, with the first reason of each. Columns in which nothing can be wrong cost nothing.
    pub(super) fn misfits(&self) -> Vec<(u32, String)> {
        let mut found: Vec<(u32, String)> = Vec::new();
        let mut scratch = Scratch::default();
        for (column, target) in self.columns.iter().zip(&self.shape.columns) {
            let key = target.key != Key::No;
            if !column.cell.may_misfit() && !(key && (column.nulls.is_some() || column.cell.is_text())) {
                continue;
            }
            for index in 0..self.batch.num_rows() {
                if let Err(misfit) = column.check(index, target.key, &mut scratch) {
                    found.push((row_number(index), format!("column \"{}\" of the table is {}: {misfit}", target.name, target.type_name())));
                }
            }
        }
        self.find_long_keys(&mut found);
        self.find_long_rows(&mut found);
        found.sort_by_key(|(index, _)| *index);
        found.dedup_by_key(|(index, _)| *index);
        found
    }

    fn find_long_keys(&self, found: &mut Vec<(u32, String)>) {
        let parts: Vec<&Column> = self.partition_key().collect();
        if parts.len() < 2 || !parts.iter().any(|column| column.cell.is_text()) {
            return;
        }
        for index in 0..self.batch.num_rows() {
            // Each part has its length in front and an end mark.
            if parts.iter().map(|column| column.cell.length(index) + 3).sum::<usize>() > MAX_KEY {
                found.push((row_number(index), format!("the partition key: {}", Misfit::LongKey)));
            }
        }
    }

    fn find_long_rows(&self, found: &mut Vec<(u32, String)>) {
        if self.batch.get_array_memory_size() < MAX_ROW {
            return;
        }
        for index in 0..self.batch.num_rows() {
            let bytes = self.size(index);
            if bytes > MAX_ROW {
                found.push((row_number(index), format!("the row has {bytes} bytes, and Cassandra takes 16 MiB at most")));
            }
        }
    }

    fn partition_key(&self) -> impl Iterator<Item = &Column> {
        self.shape.partition_key.iter().filter_map(|&place| self.columns.get(place))
    }

    /// Where the row lives.
    pub(super) fn token(&self, index: u32) -> Token {
        let index = index as usize;
        let mut scratch = Scratch::default();
        let mut hasher = Murmur3Partitioner.build_hasher();
        let alone = self.shape.partition_key.len() == 1;
        for column in self.partition_key() {
            let bytes = column.cell.bytes(index, &mut scratch).unwrap_or_default();
            if alone {
                hasher.write(bytes);
            } else {
                hasher.write(&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes());
                hasher.write(bytes);
                hasher.write(&[0]);
            }
        }
        hasher.finish()
    }

    /// What the server counts for the row, or a little more.
    fn size(&self, index: usize) -> usize {
        self.columns.iter().map(|column| column.cell.length(index) + CELL_OVERHEAD).sum()
    }

    #[inline]
    fn write(&self, index: usize, writer: &mut RowWriter<'_>) -> Result<(), SerializationError> {
        let mut scratch = Scratch::default();
        for column in &self.columns {
            let cell = writer.make_cell_writer();
            if column.is_null(index) {
                match self.nulls {
                    Nulls::Write => cell.set_null(),
                    Nulls::Keep => cell.set_unset(),
                };
            } else {
                let bytes = column.cell.bytes(index, &mut scratch).map_err(SerializationError::new)?;
                cell.set_value(bytes).map_err(SerializationError::new)?;
            }
        }
        let write_time = self.write_times.value(index).to_be_bytes();
        writer.make_cell_writer().set_value(&write_time).map_err(SerializationError::new)?;
        Ok(())
    }
}

impl Column {
    #[inline]
    fn is_null(&self, index: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(index))
    }

    fn check(&self, index: usize, key: Key, scratch: &mut Scratch) -> Result<(), Misfit> {
        if self.is_null(index) {
            return if key == Key::No { Ok(()) } else { Err(Misfit::NullKey) };
        }
        let bytes = self.cell.bytes(index, scratch)?;
        match key {
            Key::Partition if bytes.is_empty() => Err(Misfit::EmptyKey),
            Key::Partition | Key::Part if bytes.len() > MAX_KEY => Err(Misfit::LongKey),
            _ => Ok(()),
        }
    }
}

fn row_number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// The rows of one batch.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub(super) rows: Arc<Rows>,
    indices: [u32; MAX_ROWS],
    len: usize,
    /// The server has called a batch with this row invalid: it is to be tried by itself.
    pub(super) suspect: bool,
}

impl Chunk {
    const fn new(rows: Arc<Rows>) -> Self {
        Self { rows, indices: [0; MAX_ROWS], len: 0, suspect: false }
    }

    fn push(&mut self, index: u32) {
        if let Some(place) = self.indices.get_mut(self.len) {
            *place = index;
            self.len += 1;
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// The rows of the record batch that are in it.
    pub(super) fn indices(&self) -> &[u32] {
        self.indices.get(..self.len).unwrap_or_default()
    }

    /// Its rows, each by itself and suspect.
    pub(super) fn singly(&self) -> impl Iterator<Item = Self> {
        self.indices().iter().map(|&index| {
            let mut chunk = Self::new(Arc::clone(&self.rows));
            chunk.push(index);
            chunk.suspect = true;
            chunk
        })
    }
}

/// Puts the rows of `rows` into chunks, but for `misfits` (rising). Rows of a chunk share what `place` says of them, have [`MAX_BYTES`] together at most and
/// keep their order.
pub(super) fn chunks(rows: &Arc<Rows>, misfits: &[u32], mut place: impl FnMut(u32) -> u128, into: &mut VecDeque<Chunk>) {
    struct Open {
        place: u128,
        chunk: Chunk,
        bytes: usize,
    }

    let fixed = rows.columns.iter().map(|column| column.cell.fixed_length() + CELL_OVERHEAD).sum::<usize>();
    let texts: Vec<&Cell> = rows.columns.iter().map(|column| &column.cell).filter(|cell| cell.is_text()).collect();
    let mut misfits = misfits.iter().copied().peekable();
    let mut open: Vec<Open> = Vec::new();
    for index in 0..row_number(rows.batch.num_rows()) {
        if misfits.next_if_eq(&index).is_some() {
            continue;
        }
        let bytes = fixed + texts.iter().map(|cell| cell.length(index as usize)).sum::<usize>();
        let place = place(index);
        let Some(open) = open.iter_mut().find(|open| open.place == place) else {
            let mut chunk = Chunk::new(Arc::clone(rows));
            chunk.push(index);
            open.push(Open { place, chunk, bytes });
            continue;
        };
        if open.chunk.len == MAX_ROWS || open.bytes + bytes > MAX_BYTES {
            into.push_back(std::mem::replace(&mut open.chunk, Chunk::new(Arc::clone(rows))));
            open.bytes = 0;
        }
        open.chunk.push(index);
        open.bytes += bytes;
    }
    into.extend(open.into_iter().map(|open| open.chunk));
}

impl BatchValues for Chunk {
    type BatchValuesIter<'r> = ChunkValues<'r>;

    #[inline]
    fn batch_values_iter(&self) -> ChunkValues<'_> {
        ChunkValues { rows: &self.rows, indices: self.indices().iter() }
    }
}

/// Writes the rows of a chunk into a request, straight from the record batch's columns.
pub(super) struct ChunkValues<'r> {
    rows: &'r Rows,
    indices: std::slice::Iter<'r, u32>,
}

impl<'bv> BatchValuesIterator<'bv> for ChunkValues<'bv> {
    #[inline]
    fn serialize_next(&mut self, _: &RowSerializationContext<'_>, writer: &mut RowWriter<'_>) -> Option<Result<(), SerializationError>> {
        self.indices.next().map(|&index| self.rows.write(index as usize, writer))
    }

    #[inline]
    fn is_empty_next(&mut self) -> Option<bool> {
        self.indices.next().map(|_| false)
    }

    #[inline]
    fn skip_next(&mut self) -> Option<()> {
        self.indices.next().map(|_| ())
    }
}

#[cfg(test)]
mod tests;
