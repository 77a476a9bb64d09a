//! What sinks ask of a record batch: the columns of the table, where a row came from, and a row as JSON for the dead-letter topic.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use arrow::error::ArrowError;
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use tapeline_query::schema::HIDDEN;

use super::RefusedRow;

/// Whether the rows can be traced to their records: those of a row-wise query can.
pub(super) fn is_traceable(rows: &RecordBatch) -> bool {
    HIDDEN.iter().all(|name| rows.column_by_name(name).is_some())
}

/// Row `index` of `rows` as refused. None if it cannot be traced to a record.
pub(super) fn refused(rows: &RecordBatch, index: usize, columns: usize, error: String) -> Option<RefusedRow> {
    let [partition, offset, place, _] = HIDDEN;
    let int = |name| rows.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int32Type>().map(|column| column.value(index)));
    let offset = rows.column_by_name(offset)?.as_primitive_opt::<Int64Type>()?.value(index);
    Some(RefusedRow { partition: int(partition)?, offset, index: int(place)?, error, payload: as_json(rows, index, columns) })
}

/// The first `columns` of row `index` as an object, nulls too.
fn as_json(rows: &RecordBatch, index: usize, columns: usize) -> Vec<u8> {
    let write = || -> Result<Vec<u8>, ArrowError> {
        let visible: Vec<usize> = (0..columns.min(rows.num_columns())).collect();
        let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
        writer.write(&rows.slice(index, 1).project(&visible)?)?;
        writer.finish()?;
        Ok(writer.into_inner().trim_ascii_end().to_vec())
    };
    write().unwrap_or_else(|error| format!("the row cannot be written as JSON: {error}").into_bytes())
}

/// `decimal` as text, exact.
pub(super) fn decimal_text(value: i128, scale: i8) -> String {
    let digits = usize::try_from(scale).unwrap_or(0);
    let sign = if value < 0 { "-" } else { "" };
    let text = format!("{:0>width$}", value.unsigned_abs(), width = digits + 1);
    let (whole, fraction) = text.split_at(text.len() - digits);
    if digits == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// Bytes of `rows` that are worth counting: those of buffers that only they hold are not told from shared ones.
pub(super) fn size(rows: &RecordBatch) -> usize {
    rows.columns().iter().map(|column| column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size())).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use rstest::rstest;

    use super::*;

    #[test]
    fn a_row_is_one_object_with_its_nulls_and_without_hidden_columns() {
        let ids = Arc::new(Int64Array::from(vec![1, 2]));
        let names = Arc::new(StringArray::from(vec![Some("a"), None]));
        let rows = RecordBatch::try_from_iter([("id", Arc::clone(&ids) as _), ("name", names as _), ("__offset", ids as _)]).unwrap();
        assert_eq!(String::from_utf8(as_json(&rows, 1, 2)).unwrap(), r#"{"id":2,"name":null}"#);
    }

    #[rstest]
    #[case(0, 0, "0")]
    #[case(-17, 0, "-17")]
    #[case(12_345, 2, "123.45")]
    #[case(-5, 3, "-0.005")]
    #[case(i128::from(i64::MAX) * 2, 0, "18446744073709551614")]
    fn decimals(#[case] value: i128, #[case] scale: i8, #[case] text: &str) {
        assert_eq!(decimal_text(value, scale), text);
    }
}
