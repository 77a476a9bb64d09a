//! Rows as documents: `{_id, <the query's columns>, _w}`, and the statements that write them.
//!
//! `_w` is the row's write time, which rises with the records of a partition: a document gives way to one with a higher `_w` only, so that it does not matter in which
//! order, or how often, statements arrive.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, ListArray, RecordBatch, StringArray};
use arrow::array::{Int32Array, TimestampMicrosecondArray};
use arrow::datatypes::{Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use mongodb::bson::raw::{CString, cstr};
use mongodb::bson::{self, DateTime, Decimal128, RawArrayBuf, RawBson, RawBsonRef, RawDocument, RawDocumentBuf};
use tapeline_query::record_uuid::record_uuid;
use tapeline_query::schema::hidden;

use crate::sink::rows::{decimal_text, places};

/// The largest document that the servers take.
const MAX_DOCUMENT: usize = 16 << 20;
const MS_PER_DAY: i64 = 86_400_000;

/// Why a row cannot be a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misfit {
    #[error("column \"{0}\" is part of the _id and the value is null")]
    NullId(String),
    #[error("column \"{0}\" is part of the _id and the value is a list")]
    ListId(String),
    #[error("column \"{0}\": the number has more than the 34 digits that MongoDB's decimals hold")]
    Decimal(String),
    #[error("the document would be larger than 16 MiB, which is what MongoDB takes")]
    TooLarge,
}

/// Rows that cannot be written at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("column \"{0}\" is of a type that is no type of a document")]
    Type(String),
    #[error("the rows do not have the query's columns, or not the hidden ones")]
    Columns,
}

/// Makes documents.
#[derive(Debug)]
pub(super) struct Encoder {
    topic: String,
    names: Vec<(String, CString)>,
    /// Places of the columns that make the `_id`.
    id: Vec<usize>,
}

impl Encoder {
    /// Makes documents of `columns`, with an `_id` of those named in `id`, or of the record of `topic`.
    ///
    /// # Errors
    /// The column that is not there, or cannot be a field.
    pub(super) fn new(columns: &[String], id: &[impl AsRef<str>], topic: String) -> Result<Self, String> {
        let named = |name: &String| CString::try_from(name.as_str()).map(|key| (name.clone(), key)).map_err(|_| name.clone());
        let names: Result<Vec<_>, String> = columns.iter().map(named).collect();
        Ok(Self { topic, names: names?, id: places(columns, id)? })
    }

    /// Looks at the columns of `rows`.
    pub(super) fn rows<'a>(&'a self, rows: &'a RecordBatch) -> Result<Rows<'a>, Unfit> {
        let cells: Vec<Cell> = rows
            .columns()
            .iter()
            .zip(&self.names)
            .map(|(column, (name, _))| Cell::new(column).ok_or_else(|| Unfit::Type(name.clone())))
            .collect::<Result<_, _>>()?;
        let ints = |name| rows.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int32Type>());
        let longs = |name| rows.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>());
        let origin = (ints(hidden::PARTITION), longs(hidden::OFFSET), ints(hidden::INDEX), longs(hidden::WRITE_TIME));
        match origin {
            (Some(partitions), Some(offsets), Some(indices), Some(write_times)) if cells.len() == self.names.len() => {
                Ok(Rows { encoder: self, cells, partitions, offsets, indices, write_times })
            }
            _ => Err(Unfit::Columns),
        }
    }
}

/// The rows of a record batch.
pub(super) struct Rows<'a> {
    encoder: &'a Encoder,
    cells: Vec<Cell>,
    partitions: &'a Int32Array,
    offsets: &'a Int64Array,
    indices: &'a Int32Array,
    write_times: &'a Int64Array,
}

impl Rows<'_> {
    /// The statement of the update command that writes a row.
    ///
    /// A document with this `_id` and a lower `_w` is replaced, and one without, which somebody else wrote. If the server finds none it inserts, and may find the
    /// `_id` taken then: by a newer document, or by an older one that another command has inserted meanwhile. [`if_there`] tells them apart.
    pub(super) fn statement(&self, row: usize) -> Result<RawDocumentBuf, Misfit> {
        let id = self.id(row)?;
        let write_time = self.write_times.value(row);
        let mut document = RawDocumentBuf::new();
        document.append(cstr!("_id"), id.as_raw_bson_ref());
        for (cell, (name, key)) in self.cells.iter().zip(&self.encoder.names) {
            cell.append(&mut document, name, key, row)?;
        }
        document.append(cstr!("_w"), write_time);
        if document.as_bytes().len() > MAX_DOCUMENT {
            return Err(Misfit::TooLarge);
        }
        let (mut newer, mut older) = (RawDocumentBuf::new(), RawDocumentBuf::new());
        newer.append(cstr!("$gte"), write_time);
        older.append(cstr!("$not"), &newer);
        let mut filter = RawDocumentBuf::new();
        filter.append(cstr!("_id"), id.as_raw_bson_ref());
        filter.append(cstr!("_w"), &older);
        let mut statement = RawDocumentBuf::new();
        statement.append(cstr!("q"), &filter);
        statement.append(cstr!("u"), &document);
        statement.append(cstr!("upsert"), true);
        Ok(statement)
    }

    fn id(&self, row: usize) -> Result<RawBson, Misfit> {
        match self.encoder.id.as_slice() {
            [] => {
                let uuid = record_uuid(&self.encoder.topic, self.partitions.value(row), self.offsets.value(row), self.indices.value(row));
                Ok(RawBson::String(uuid.to_string()))
            }
            [column] => self.part_of_id(*column, row),
            several => {
                let mut parts = RawDocumentBuf::new();
                for &column in several {
                    let part = self.part_of_id(column, row)?;
                    if let Some((_, key)) = self.encoder.names.get(column) {
                        parts.append(key, part);
                    }
                }
                Ok(RawBson::Document(parts))
            }
        }
    }

    fn part_of_id(&self, column: usize, row: usize) -> Result<RawBson, Misfit> {
        let name = || self.encoder.names.get(column).map(|(name, _)| name.clone()).unwrap_or_default();
        let value = self.cells.get(column).map_or(Ok(RawBson::Null), |cell| cell.value(row)).map_err(|TooManyDigits| Misfit::Decimal(name()))?;
        match value {
            RawBson::Null => Err(Misfit::NullId(name())),
            RawBson::Array(_) => Err(Misfit::ListId(name())),
            value => Ok(value),
        }
    }
}

/// The same statement for a document that is there: it inserts none, so where it finds none to replace, a newer one is there.
pub(super) fn if_there(statement: &RawDocument) -> bson::error::Result<RawDocumentBuf> {
    let mut other = RawDocumentBuf::new();
    other.append(cstr!("q"), statement.get_document("q")?);
    other.append(cstr!("u"), statement.get_document("u")?);
    other.append(cstr!("upsert"), false);
    Ok(other)
}

/// More digits than a decimal of MongoDB holds.
struct TooManyDigits;

/// A column.
enum Cell {
    Boolean(BooleanArray),
    Integer(Int64Array),
    Float(Float64Array),
    Decimal(Decimal128Array),
    Text(StringArray),
    Date(Date32Array),
    Timestamp(TimestampMicrosecondArray),
    List(ListArray, Box<Cell>),
}

impl Cell {
    fn new(column: &ArrayRef) -> Option<Self> {
        if let Some(values) = column.as_boolean_opt() {
            return Some(Self::Boolean(values.clone()));
        }
        if let Some(values) = column.as_string_opt::<i32>() {
            return Some(Self::Text(values.clone()));
        }
        if let Some(values) = column.as_list_opt::<i32>() {
            return Some(Self::List(values.clone(), Box::new(Self::new(values.values())?)));
        }
        let integer = column.as_primitive_opt::<Int64Type>().cloned().map(Self::Integer);
        let float = || column.as_primitive_opt::<Float64Type>().cloned().map(Self::Float);
        let decimal = || column.as_primitive_opt::<Decimal128Type>().cloned().map(Self::Decimal);
        let date = || column.as_primitive_opt::<Date32Type>().cloned().map(Self::Date);
        let timestamp = || column.as_primitive_opt::<TimestampMicrosecondType>().cloned().map(Self::Timestamp);
        integer.or_else(float).or_else(decimal).or_else(date).or_else(timestamp)
    }

    fn array(&self) -> &dyn Array {
        match self {
            Self::Boolean(values) => values,
            Self::Integer(values) => values,
            Self::Float(values) => values,
            Self::Decimal(values) => values,
            Self::Text(values) => values,
            Self::Date(values) => values,
            Self::Timestamp(values) => values,
            Self::List(values, _) => values,
        }
    }

    /// The value of a row, as BSON has it: milliseconds are what its dates hold, so microseconds are cut off.
    fn value(&self, row: usize) -> Result<RawBson, TooManyDigits> {
        if self.array().is_null(row) {
            return Ok(RawBson::Null);
        }
        Ok(match self {
            Self::Boolean(values) => RawBson::Boolean(values.value(row)),
            Self::Integer(values) => RawBson::Int64(values.value(row)),
            Self::Float(values) => RawBson::Double(values.value(row)),
            Self::Decimal(values) => {
                let exact = decimal_text(values.value(row), values.scale()).parse::<Decimal128>();
                RawBson::Decimal128(exact.map_err(|_| TooManyDigits)?)
            }
            Self::Text(values) => RawBson::String(values.value(row).to_owned()),
            Self::Date(values) => RawBson::DateTime(DateTime::from_millis(i64::from(values.value(row)) * MS_PER_DAY)),
            Self::Timestamp(values) => RawBson::DateTime(DateTime::from_millis(values.value(row).div_euclid(1000))),
            Self::List(values, elements) => {
                let offsets = values.value_offsets();
                let bound = |place: usize| offsets.get(place).and_then(|offset| usize::try_from(*offset).ok()).unwrap_or(0);
                let mut array = RawArrayBuf::new();
                for element in bound(row)..bound(row + 1) {
                    array.push(elements.value(element)?);
                }
                RawBson::Array(array)
            }
        })
    }

    fn append(&self, document: &mut RawDocumentBuf, name: &str, key: &CString, row: usize) -> Result<(), Misfit> {
        match self {
            // Without a copy.
            Self::Text(values) if values.is_valid(row) => document.append(key, RawBsonRef::String(values.value(row))),
            cell => document.append(key, cell.value(row).map_err(|TooManyDigits| Misfit::Decimal(name.to_owned()))?),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
