//! A table as a file: CSV for spreadsheets, JSON for scripts, an Arrow stream for DataFrames and charts. The three carry the same values, none of them rounded.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Field, Schema};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use csv::{Terminator, WriterBuilder};
use jiff::Timestamp;
use jiff::civil::Date;
use serde::ser::{Error as _, SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::table::{Cell, Kind, Table};

/// The digits that Arrow's 128-bit decimals hold.
const DECIMAL_DIGITS: u8 = 38;
/// Integers up to this size are whole numbers as floats, too.
const EXACT_FLOAT: u64 = 1 << f64::MANTISSA_DIGITS;

/// A table that cannot be written. Memory is all that it is written to, so this is a fault of Tapeline.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Writing CSV.
    #[error("writing the rows as CSV: {0}")]
    Csv(#[from] csv::Error),
    /// Writing CSV, at its end.
    #[error("writing the rows as CSV: {0}")]
    Flush(String),
    /// Writing JSON.
    #[error("writing the rows as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Writing Arrow.
    #[error("writing the rows as an Arrow stream: {0}")]
    Arrow(#[from] ArrowError),
}

/// `table` as CSV (RFC 4180) with a header. A null is an empty cell, as an empty text is; timestamps are RFC 3339. Cells that begin with `=` are left as they are:
/// whoever compares the file with the store finds no difference.
///
/// # Errors
/// A fault of Tapeline.
pub fn csv(table: &Table) -> Result<Vec<u8>, ExportError> {
    if table.columns.is_empty() {
        return Ok(Vec::new());
    }
    let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(Vec::new());
    writer.write_record(table.columns.iter().map(|column| &column.name))?;
    for row in &table.rows {
        writer.write_record((0..table.columns.len()).map(|place| row.get(place).map(text).unwrap_or_default()))?;
    }
    writer.into_inner().map_err(|error| ExportError::Flush(error.to_string()))
}

/// `table` as a JSON array of objects, members in the columns' order. Numbers have all their digits, also where JavaScript would round them; a number that JSON
/// does not have (`NaN`) is a string.
///
/// # Errors
/// A fault of Tapeline.
pub fn json(table: &Table) -> Result<Vec<u8>, ExportError> {
    Ok(serde_json::to_vec(&Rows(table))?)
}

/// `table` as an Arrow IPC stream of one batch. Decimals have the largest scale of their column; a column is text where its values do not fit its kind (a decimal of
/// more than 38 digits, documents with a field of several types).
///
/// # Errors
/// A fault of Tapeline.
pub fn arrow(table: &Table) -> Result<Vec<u8>, ExportError> {
    let columns: Vec<ArrayRef> = table.columns.iter().enumerate().map(|(place, column)| array(table, place, column.kind)).collect();
    let fields: Vec<Field> = table.columns.iter().zip(&columns).map(|(column, array)| Field::new(&column.name, array.data_type().clone(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let options = RecordBatchOptions::new().with_row_count(Some(table.rows.len()));
    let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options)?;
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &schema)?;
    writer.write(&batch)?;
    writer.finish()?;
    drop(writer);
    Ok(bytes)
}

/// A cell for programs: as people see it, but for timestamps, which say that they are in UTC.
fn text(cell: &Cell) -> String {
    rfc3339(cell).unwrap_or_else(|| cell.to_string())
}

fn rfc3339(cell: &Cell) -> Option<String> {
    let Cell::Timestamp(value) = cell else { return None };
    Timestamp::from_microsecond(*value).ok().map(|time| time.to_string())
}

struct Rows<'a>(&'a Table);
struct Row<'a>(&'a Table, &'a [Cell]);
struct Value<'a>(&'a Cell);

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rows = serializer.serialize_seq(Some(self.0.rows.len()))?;
        for row in &self.0.rows {
            rows.serialize_element(&Row(self.0, row))?;
        }
        rows.end()
    }
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(Some(self.0.columns.len()))?;
        for (place, column) in self.0.columns.iter().enumerate() {
            object.serialize_entry(&column.name, &Value(self.1.get(place).unwrap_or(&Cell::Null)))?;
        }
        object.end()
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Cell::Null => serializer.serialize_unit(),
            Cell::Boolean(value) => serializer.serialize_bool(*value),
            Cell::Integer(value) => serializer.serialize_i64(*value),
            Cell::Float(value) if value.is_finite() => serializer.serialize_f64(*value),
            Cell::Decimal(digits) => RawValue::from_string(digits.clone()).map_err(S::Error::custom)?.serialize(serializer),
            cell => serializer.serialize_str(&text(cell)),
        }
    }
}

/// Column `place` as an array of `kind`, or of text if one of its cells is of no such kind.
fn array(table: &Table, place: usize, kind: Kind) -> ArrayRef {
    let cells: Vec<&Cell> = table.rows.iter().map(|row| row.get(place).unwrap_or(&Cell::Null)).collect();
    typed(&cells, kind).unwrap_or_else(|| Arc::new(cells.iter().map(|cell| (!cell.is_null()).then(|| text(cell))).collect::<StringArray>()))
}

fn typed(cells: &[&Cell], kind: Kind) -> Option<ArrayRef> {
    Some(match kind {
        Kind::Boolean => Arc::new(BooleanArray::from(values(cells, |cell| if let Cell::Boolean(value) = cell { Some(*value) } else { None })?)),
        Kind::Integer => Arc::new(Int64Array::from(values(cells, |cell| if let Cell::Integer(value) = cell { Some(*value) } else { None })?)),
        Kind::Float => Arc::new(Float64Array::from(values(cells, float)?)),
        Kind::Date => Arc::new(Date32Array::from(values(cells, |cell| if let Cell::Date(value) = cell { Some(days(*value)) } else { None })?)),
        Kind::Timestamp => {
            let times = values(cells, |cell| if let Cell::Timestamp(value) = cell { Some(*value) } else { None })?;
            Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))
        }
        Kind::Decimal => decimals(cells)?,
        Kind::Text => return None,
    })
}

/// What `value` makes of each cell that is not null; none if it makes nothing of one.
fn values<T>(cells: &[&Cell], value: impl Fn(&Cell) -> Option<T>) -> Option<Vec<Option<T>>> {
    cells.iter().map(|cell| if cell.is_null() { Some(None) } else { value(cell).map(Some) }).collect()
}

#[allow(clippy::cast_precision_loss, reason = "only of numbers that a float holds exactly")]
const fn float(cell: &Cell) -> Option<f64> {
    match cell {
        Cell::Float(value) => Some(*value),
        Cell::Integer(value) if value.unsigned_abs() <= EXACT_FLOAT => Some(*value as f64),
        _ => None,
    }
}

fn days(date: Date) -> i32 {
    date.since(Date::constant(1970, 1, 1)).map_or(0, |span| span.get_days())
}

fn decimals(cells: &[&Cell]) -> Option<ArrayRef> {
    let exact = values(cells, |cell| match cell {
        Cell::Decimal(digits) => digits_and_scale(digits),
        Cell::Integer(value) => Some((i128::from(*value), 0)),
        _ => None,
    })?;
    let scale = exact.iter().flatten().map(|(_, scale)| *scale).max().unwrap_or(0);
    let limit = 10_i128.pow(DECIMAL_DIGITS.into());
    let mut scaled = Vec::with_capacity(exact.len());
    for value in exact {
        scaled.push(match value {
            None => None,
            Some((digits, own)) => {
                let power = 10_i128.checked_pow(u32::from(scale - own))?;
                Some(digits.checked_mul(power).filter(|digits| (-limit..limit).contains(digits)).filter(|_| scale <= DECIMAL_DIGITS)?)
            }
        });
    }
    let array = Decimal128Array::from(scaled).with_precision_and_scale(DECIMAL_DIGITS, i8::try_from(scale).ok()?);
    Some(Arc::new(array.ok()?))
}

/// `12.50` as (1250, 2). None if it has an exponent, or more digits than fit.
fn digits_and_scale(text: &str) -> Option<(i128, u8)> {
    let scale = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    Some((text.replace('.', "").parse().ok()?, u8::try_from(scale).ok()?))
}

#[cfg(test)]
mod tests;
