//! Rows as messages: a JSON object of the query's columns for each, and its key.
//!
//! Integers and decimals are numbers with all their digits, so a reader that takes numbers for doubles loses some of them; a double that is no number is null.
//! Timestamps are RFC 3339 in UTC with microseconds, dates `2024-08-25`; nulls are there, the hidden columns are not.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, FieldRef, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::json::WriterBuilder;
use arrow::json::writer::{Encoder as ValueEncoder, EncoderFactory, EncoderOptions, LineDelimited, NullableEncoder};
use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;

use crate::sink::rows::places;

/// Makes messages of rows.
#[derive(Debug, Clone)]
pub(super) struct Encoder {
    /// The query's columns; behind them come the hidden ones.
    columns: usize,
    /// Places of the key's columns.
    key: Vec<usize>,
}

/// The messages of a record batch.
pub(super) struct Messages {
    payloads: Lines,
    keys: Keys,
}

enum Keys {
    None,
    /// One column of text: its value.
    Text(StringArray),
    /// One column of another type: its value as JSON, without quotes. An empty one is a null.
    Value(Vec<String>),
    /// Several columns: an object of them.
    Objects(Lines),
}

impl Encoder {
    /// Makes messages of `columns`, with a key of those named in `key`.
    ///
    /// # Errors
    /// The one that is no column.
    pub(super) fn new(columns: &[String], key: &[impl AsRef<str>]) -> Result<Self, String> {
        Ok(Self { columns: columns.len(), key: places(columns, key)? })
    }

    /// Whether every message is without a key.
    pub(super) const fn has_no_key(&self) -> bool {
        self.key.is_empty()
    }

    /// Rows that cannot be written, in order, and why.
    pub(super) fn misfits(&self, rows: &RecordBatch) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for (column, field) in rows.columns().iter().zip(rows.schema_ref().fields()).take(self.columns) {
            let Some(times) = column.as_primitive_opt::<TimestampMicrosecondType>() else { continue };
            let is_unwritable = |row: &usize| times.is_valid(*row) && Timestamp::from_microsecond(times.value(*row)).is_err();
            let why = || format!("column \"{}\": a timestamp beyond the year 9999, or before -9999", field.name());
            found.extend((0..times.len()).filter(is_unwritable).map(|row| (row, why())));
        }
        found.sort_by_key(|(row, _)| *row);
        found.dedup_by_key(|(row, _)| *row);
        found
    }

    /// The messages of `rows`.
    pub(super) fn encode(&self, rows: &RecordBatch) -> Result<Messages, ArrowError> {
        let payloads = Lines::of(rows, &(0..self.columns.min(rows.num_columns())).collect::<Vec<_>>())?;
        let keys = match self.key.as_slice() {
            [] => Keys::None,
            [column] => match rows.columns().get(*column).and_then(|values| values.as_string_opt::<i32>()) {
                Some(values) => Keys::Text(values.clone()),
                None => Keys::Value(values(rows, *column)?),
            },
            several => Keys::Objects(Lines::of(rows, several)?),
        };
        Ok(Messages { payloads, keys })
    }
}

impl Messages {
    /// The message of a row: its key, if it has one, and its payload.
    pub(super) fn get(&self, row: usize) -> (Option<&[u8]>, &[u8]) {
        let key = match &self.keys {
            Keys::None => None,
            Keys::Text(values) => values.is_valid(row).then(|| values.value(row).as_bytes()),
            Keys::Value(values) => values.get(row).filter(|value| !value.is_empty()).map(String::as_bytes),
            Keys::Objects(objects) => Some(objects.get(row)),
        };
        (key, self.payloads.get(row))
    }
}

/// JSON objects, one behind the other.
struct Lines {
    text: Vec<u8>,
    /// Behind each line's end, the newline included.
    ends: Vec<usize>,
}

impl Lines {
    fn of(rows: &RecordBatch, columns: &[usize]) -> Result<Self, ArrowError> {
        let mut writer = WriterBuilder::new().with_explicit_nulls(true).with_encoder_factory(Arc::new(Timestamps)).build::<_, LineDelimited>(Vec::new());
        writer.write(&rows.project(columns)?)?;
        writer.finish()?;
        let text = writer.into_inner();
        // A newline within a value is escaped.
        let ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
        Ok(Self { text, ends })
    }

    fn get(&self, row: usize) -> &[u8] {
        let start = if row == 0 { 0 } else { self.ends.get(row - 1).copied().unwrap_or(0) };
        let end = self.ends.get(row).map_or(start, |end| end - 1);
        self.text.get(start..end).unwrap_or_default()
    }
}

/// The values of a column that is not text, as JSON without quotes; a null is empty.
fn values(rows: &RecordBatch, column: usize) -> Result<Vec<String>, ArrowError> {
    let lines = Lines::of(rows, &[column])?;
    let before = rows.schema_ref().fields().get(column).map_or(0, |field| serde_json::Value::from(field.name().as_str()).to_string().len() + 2);
    let value = |row| {
        let line = lines.get(row);
        let value = line.get(before..line.len().saturating_sub(1)).unwrap_or_default();
        let value = String::from_utf8_lossy(value);
        if value == "null" { String::new() } else { value.trim_matches('"').to_owned() }
    };
    Ok((0..rows.num_rows()).map(value).collect())
}

/// Writes timestamps: arrow's own way has no `Z` and leaves digits out.
#[derive(Debug)]
struct Timestamps;

const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(6));

impl EncoderFactory for Timestamps {
    fn make_default_encoder<'a>(&self, _: &'a FieldRef, array: &'a dyn Array, _: &'a EncoderOptions) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        if !matches!(array.data_type(), DataType::Timestamp(TimeUnit::Microsecond, None)) {
            return Ok(None);
        }
        let values = array.as_primitive::<TimestampMicrosecondType>();
        Ok(Some(NullableEncoder::new(Box::new(Micros(values)), array.nulls().cloned())))
    }
}

struct Micros<'a>(&'a TimestampMicrosecondArray);

impl ValueEncoder for Micros<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let start = out.len();
        out.push(b'"');
        let printed = Timestamp::from_microsecond(self.0.value(row)).and_then(|time| PRINTER.print_timestamp(&time, &mut *out));
        if printed.is_ok() {
            out.push(b'"');
        } else {
            out.truncate(start); // see `Encoder::misfits`
            out.extend_from_slice(b"null");
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, ListArray};
    use arrow::datatypes::Int64Type;
    use rstest::rstest;

    use super::*;

    fn rows() -> RecordBatch {
        let decimals = Decimal128Array::from(vec![Some(12_345_678_901_234_567_890_123_456_789_012_345_678), Some(-1)]).with_precision_and_scale(38, 2).unwrap();
        let columns: [(&str, ArrayRef); 9] = [
            ("id", Arc::new(Int64Array::from(vec![i64::MAX, 2]))),
            ("name", Arc::new(StringArray::from(vec![Some("a\n\"b\""), None]))),
            ("ok", Arc::new(BooleanArray::from(vec![Some(true), None]))),
            ("price", Arc::new(Float64Array::from(vec![1.5, f64::NAN]))),
            ("exact", Arc::new(decimals)),
            ("day", Arc::new(Date32Array::from(vec![Some(19_960), None]))),
            ("at", Arc::new(TimestampMicrosecondArray::from(vec![Some(1_724_569_485_000_000), Some(-1)]))),
            ("parts", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None]))),
            ("__tapeline_offset", Arc::new(Int64Array::from(vec![7, 8]))),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
    }

    fn names() -> Vec<String> {
        ["id", "name", "ok", "price", "exact", "day", "at", "parts"].map(str::to_owned).to_vec()
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_row_is_an_object_with_every_digit_and_every_null() {
        let messages = Encoder::new(&names(), &[""; 0]).unwrap().encode(&rows()).unwrap();
        assert_eq!(
            text(messages.get(0).1),
            r#"{"id":9223372036854775807,"name":"a\n\"b\"","ok":true,"price":1.5,"exact":123456789012345678901234567890123456.78,"day":"2024-08-25","at":"2024-08-25T07:04:45.000000Z","parts":[1,null]}"#
        );
        assert_eq!(
            text(messages.get(1).1),
            r#"{"id":2,"name":null,"ok":null,"price":null,"exact":-0.01,"day":null,"at":"1969-12-31T23:59:59.999999Z","parts":null}"#
        );
        assert_eq!(messages.get(0).0, None);
    }

    #[rstest]
    #[case::text(&["name"], [Some("a\n\"b\""), None])]
    #[case::number(&["id"], [Some("9223372036854775807"), Some("2")])]
    #[case::date(&["day"], [Some("2024-08-25"), None])]
    #[case::timestamp(&["at"], [Some("2024-08-25T07:04:45.000000Z"), Some("1969-12-31T23:59:59.999999Z")])]
    #[case::several(&["id", "name"], [Some(r#"{"id":9223372036854775807,"name":"a\n\"b\""}"#), Some(r#"{"id":2,"name":null}"#)])]
    fn keys(#[case] key: &[&str], #[case] expected: [Option<&str>; 2]) {
        let messages = Encoder::new(&names(), key).unwrap().encode(&rows()).unwrap();
        assert_eq!([0, 1].map(|row| messages.get(row).0.map(text)), expected);
    }

    #[test]
    fn a_timestamp_that_has_no_text_is_a_misfit() {
        let column: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![Some(0), None, Some(i64::MAX)]));
        let rows = RecordBatch::try_from_iter([("at", column)]).unwrap();
        let found: Vec<usize> = Encoder::new(&["at".to_owned()], &[""; 0]).unwrap().misfits(&rows).into_iter().map(|(row, _)| row).collect();
        assert_eq!(found, [2]);
    }
}
