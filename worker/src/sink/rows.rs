//! What sinks ask of a record batch: the columns of the table, where a row came from, and a row as JSON for the dead-letter topic.

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int32Type, Int64Type};
use arrow::error::ArrowError;
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use tapeline_api::report::ProblemClass;
use tapeline_query::schema::hidden;

use super::{RefusedRow, SinkError};

/// Where the columns `names` are among `columns`.
///
/// # Errors
/// The one that is not there.
pub(super) fn places(columns: &[String], names: &[impl AsRef<str>]) -> Result<Vec<usize>, String> {
    let place = |name: &str| columns.iter().position(|column| column == name).ok_or_else(|| name.to_owned());
    names.iter().map(|name| place(name.as_ref())).collect()
}

/// Whether the rows can be traced to their records: those of a row-wise query can.
pub(super) fn is_traceable(rows: &RecordBatch) -> bool {
    hidden::names().all(|name| rows.column_by_name(name).is_some())
}

/// Row `index` of `rows` as refused. None if it cannot be traced to a record.
pub(super) fn refused(rows: &RecordBatch, index: usize, columns: usize, error: String) -> Option<RefusedRow> {
    let int = |name| rows.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int32Type>().map(|column| column.value(index)));
    let offset = rows.column_by_name(hidden::OFFSET)?.as_primitive_opt::<Int64Type>()?.value(index);
    Some(RefusedRow { partition: int(hidden::PARTITION)?, offset, index: int(hidden::INDEX)?, error, payload: as_json(rows, index, columns) })
}

/// Takes the rows at the places `found` out of `pending`, where `store` refuses them, and why.
///
/// # Errors
/// They cannot be traced to records, which stops the query.
pub(super) fn take_out(pending: &mut Vec<RecordBatch>, columns: usize, found: &[(usize, String)], store: &str) -> Result<Vec<RefusedRow>, SinkError> {
    let untraceable = || {
        let why = found.first().map_or("", |(_, why)| why);
        let what =
            format!("{store} refuses a row for its content ({why}), and a row of an aggregate cannot be traced to a record; change the query or the table");
        SinkError::fatal(ProblemClass::BadRecord, what)
    };
    let mut places = found.iter().peekable();
    let (mut rest, mut taken, mut before) = (Vec::new(), Vec::new(), 0);
    for rows in pending.iter() {
        if !is_traceable(rows) {
            return Err(untraceable());
        }
        let mut keep = vec![true; rows.num_rows()];
        while let Some((place, why)) = places.next_if(|(place, _)| place - before < rows.num_rows()) {
            taken.push(refused(rows, place - before, columns, why.clone()).ok_or_else(untraceable)?);
            if let Some(keep) = keep.get_mut(place - before) {
                *keep = false;
            }
        }
        let kept = filter_record_batch(rows, &BooleanArray::from(keep)).map_err(|error| SinkError::fatal(ProblemClass::Internal, error.to_string()))?;
        rest.push(kept);
        before += rows.num_rows();
    }
    *pending = rest;
    Ok(taken)
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

    use arrow::array::{ArrayRef, Int32Array, Int64Array, StringArray};
    use rstest::rstest;

    use super::*;

    #[test]
    fn a_row_is_one_object_with_its_nulls_and_without_hidden_columns() {
        let ids = Arc::new(Int64Array::from(vec![1, 2]));
        let names = Arc::new(StringArray::from(vec![Some("a"), None]));
        let rows = RecordBatch::try_from_iter([("id", Arc::clone(&ids) as _), ("name", names as _), ("__offset", ids as _)]).unwrap();
        assert_eq!(String::from_utf8(as_json(&rows, 1, 2)).unwrap(), r#"{"id":2,"name":null}"#);
    }

    #[test]
    fn a_column_that_is_not_there_is_named() {
        let columns = ["a".to_owned(), "b".to_owned()];
        assert_eq!(places(&columns, &["b", "a"]), Ok(vec![1, 0]));
        assert_eq!(places(&columns, &["b", "c"]), Err("c".to_owned()));
    }

    fn traceable(ids: std::ops::Range<i64>) -> RecordBatch {
        let ints = || Arc::new(Int32Array::from_iter_values(ids.clone().map(|_| 0))) as ArrayRef;
        let ids = || Arc::new(Int64Array::from_iter_values(ids.clone())) as ArrayRef;
        RecordBatch::try_from_iter([("id", ids()), (hidden::PARTITION, ints()), (hidden::OFFSET, ids()), (hidden::INDEX, ints()), (hidden::WRITE_TIME, ids())])
            .unwrap()
    }

    #[test]
    fn refused_rows_are_out_of_the_buffer_and_say_where_they_came_from() {
        let mut pending = vec![traceable(0..3), traceable(3..5)];
        let refused = take_out(&mut pending, 1, &[(1, "too long".to_owned()), (4, "null".to_owned())], "Kafka").unwrap();
        let said: Vec<(i64, &str)> = refused.iter().map(|row| (row.offset, row.error.as_str())).collect();
        assert_eq!(said, [(1, "too long"), (4, "null")]);
        let left: Vec<&i64> = pending.iter().flat_map(|rows| rows.column(0).as_primitive::<Int64Type>().values()).collect();
        assert_eq!(left, [&0, &2, &3]);
    }

    #[test]
    fn a_refused_row_of_an_aggregate_stops_the_query() {
        let mut pending = vec![traceable(0..3).project(&[0]).unwrap()];
        let error = take_out(&mut pending, 1, &[(1, "too large".to_owned())], "Kafka").unwrap_err();
        assert!(matches!(&error, SinkError::Fatal(problem) if problem.class == ProblemClass::BadRecord), "{error:?}");
        assert!(error.to_string().contains("Kafka refuses a row for its content (too large)"), "{error}");
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
