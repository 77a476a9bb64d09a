//! The INSERT of a sink: made once from the table's description, then filled with as many rows as a statement takes.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, UInt64Array};
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Date32Type, Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use sqlx::Arguments;
use sqlx::mysql::MySqlArguments;
use tapeline_api::names::SqlName;
use tapeline_query::plan::{Merge, order_column};

use super::super::rows::decimal_text;

/// Placeholders in a statement, by the protocol.
const PLACEHOLDERS: usize = 65_535;
/// Rows in a statement: beyond this a statement gains nothing.
const ROWS: usize = 1_000;

/// What is done to the row that has the key already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OnDuplicate {
    /// It is an error: each row is a new one.
    Refuse,
    /// It is overwritten; `key` is the primary key.
    Overwrite { key: Vec<String> },
    /// It is merged with the new one.
    Merge(Vec<Merged>),
}

/// A column of merged rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Merged {
    pub(super) name: String,
    pub(super) kind: Merge,
    /// Whether it holds text, whose order is then that of its bytes, as in the plan, whatever the column's collation.
    pub(super) is_text: bool,
}

/// How rows are inserted.
#[derive(Debug)]
pub(super) struct Insert {
    head: String,
    tail: String,
    columns: Vec<String>,
    /// The key, by which rows are sorted that may meet others, so that two workers lock rows in the same order.
    key: Vec<String>,
}

impl Insert {
    /// The statement that writes `columns` into `table`.
    pub(super) fn new(table: &SqlName, columns: &[String], on_duplicate: OnDuplicate) -> Self {
        let all: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
        let head = format!("INSERT INTO {} ({}) VALUES ", table.backticked(), all.join(", "));
        let update = |assignments: Vec<String>| format!(" AS new ON DUPLICATE KEY UPDATE {}", assignments.join(", "));
        let (tail, key) = match on_duplicate {
            OnDuplicate::Refuse => (String::new(), Vec::new()),
            OnDuplicate::Overwrite { key } => {
                let mut assignments: Vec<String> = columns
                    .iter()
                    .filter(|column| !key.contains(column))
                    .map(|column| quoted(column))
                    .map(|column| format!("{column} = new.{column}"))
                    .collect();
                if assignments.is_empty() {
                    assignments.extend(all.first().map(|first| format!("{first} = new.{first}")));
                }
                (update(assignments), key)
            }
            OnDuplicate::Merge(merged) => {
                let key: Vec<String> = merged.iter().filter(|column| column.kind == Merge::Key).map(|column| column.name.clone()).collect();
                let table = table.backticked();
                // From left to right: values while the old order is there to be compared with, then the order.
                let mut assignments: Vec<String> = merged.iter().filter_map(|column| column.value(&table)).collect();
                assignments.extend(merged.iter().filter_map(|column| column.order(&table)));
                if assignments.is_empty() {
                    assignments.extend(all.first().map(|first| format!("{first} = new.{first}")));
                }
                (update(assignments), key)
            }
        };
        Self { head, tail, columns: columns.to_vec(), key }
    }

    /// How many rows a statement takes.
    pub(super) fn rows_per_statement(&self) -> usize {
        (PLACEHOLDERS / self.columns.len().max(1)).clamp(1, ROWS)
    }

    /// The statement for `count` rows.
    pub(super) fn sql(&self, count: usize) -> String {
        let row = format!("({})", vec!["?"; self.columns.len()].join(", "));
        format!("{}{}{}", self.head, vec![row.as_str(); count].join(", "), self.tail)
    }

    /// The values of rows `from..to`.
    ///
    /// # Errors
    /// A value that cannot be encoded.
    pub(super) fn arguments(&self, rows: &RecordBatch, from: usize, to: usize) -> Result<MySqlArguments, String> {
        let mut arguments = MySqlArguments::default();
        for row in from..to {
            for column in rows.columns().iter().take(self.columns.len()) {
                bind(&mut arguments, column.as_ref(), row)?;
            }
        }
        Ok(arguments)
    }

    /// The order in which rows are written: by key, and in the order of the stream among equal ones, so that the last wins.
    ///
    /// # Errors
    /// Only faults of this program.
    pub(super) fn in_order(&self, rows: RecordBatch) -> Result<RecordBatch, ArrowError> {
        if self.key.is_empty() || rows.num_rows() < 2 {
            return Ok(rows);
        }
        let column = |values| SortColumn { values, options: None };
        let mut columns: Vec<SortColumn> = self.key.iter().filter_map(|name| rows.column_by_name(name)).cloned().map(column).collect();
        columns.push(column(Arc::new(UInt64Array::from_iter_values(0..rows.num_rows() as u64))));
        take_record_batch(&rows, &lexsort_to_indices(&columns, None)?)
    }
}

impl Merged {
    /// The assignment of its value. A null is no value: it neither counts nor erases.
    fn value(&self, table: &str) -> Option<String> {
        let name = quoted(&self.name);
        let (old, new) = (format!("{table}.{name}"), format!("new.{name}"));
        let bytes = |value: &str| if self.is_text { format!("CONVERT({value} USING utf8mb4) COLLATE utf8mb4_0900_bin") } else { value.to_owned() };
        let extreme = |function: &str| format!("{name} = COALESCE({function}({}, {}), {old}, {new})", bytes(&old), bytes(&new));
        let by_order = |sign: &str| {
            let order = quoted(&order_column(&self.name));
            format!("{name} = IF({table}.{order} IS NULL OR new.{order} {sign} {table}.{order}, {new}, {old})")
        };
        match self.kind {
            Merge::Key | Merge::Keep => None,
            Merge::Sum => Some(format!("{name} = COALESCE({old} + {new}, {old}, {new})")),
            Merge::Least => Some(extreme("LEAST")),
            Merge::Greatest => Some(extreme("GREATEST")),
            Merge::First => Some(by_order("<")),
            Merge::Last => Some(by_order(">")),
        }
    }

    /// The assignment of its order column.
    fn order(&self, table: &str) -> Option<String> {
        let function = match self.kind {
            Merge::First => "LEAST",
            Merge::Last => "GREATEST",
            _ => return None,
        };
        let order = quoted(&order_column(&self.name));
        Some(format!("{order} = COALESCE({function}({table}.{order}, new.{order}), {table}.{order}, new.{order})"))
    }
}

/// The names went through the query's check, which lets only SQL names out; quoted all the same.
fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// All pending batches as one.
pub(super) fn together(batches: &[RecordBatch]) -> Result<RecordBatch, ArrowError> {
    match batches {
        [] => Ok(RecordBatch::new_empty(Arc::new(arrow::datatypes::Schema::empty()))),
        [one] => Ok(one.clone()),
        [first, ..] => concat_batches(&first.schema(), batches),
    }
}

fn bind(arguments: &mut MySqlArguments, column: &dyn Array, row: usize) -> Result<(), String> {
    let is_null = column.is_null(row);
    let added = match column.data_type() {
        _ if is_null => arguments.add(None::<i64>),
        DataType::Boolean => arguments.add(column.as_boolean().value(row)),
        DataType::Int64 => arguments.add(column.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => arguments.add(column.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(_, scale) => arguments.add(decimal_text(column.as_primitive::<Decimal128Type>().value(row), *scale)),
        DataType::Utf8 => arguments.add(column.as_string::<i32>().value(row)),
        DataType::Binary => arguments.add(column.as_binary::<i32>().value(row)),
        DataType::Date32 => arguments.add(date_text(column.as_primitive::<Date32Type>().value(row))),
        DataType::Timestamp(..) => arguments.add(timestamp_text(column.as_primitive::<TimestampMicrosecondType>().value(row))),
        other => return Err(format!("a column of type {other} came out of the plan")),
    };
    added.map_err(|error| error.to_string())
}

/// `2024-08-25`; a day that has no such text is given to MySQL as it is, which refuses it.
fn date_text(days: i32) -> String {
    arrow::temporal_conversions::date32_to_datetime(days).map_or_else(|| days.to_string(), |day| day.format("%Y-%m-%d").to_string())
}

/// `2024-08-25 07:04:45.000000`.
fn timestamp_text(micros: i64) -> String {
    arrow::temporal_conversions::timestamp_us_to_datetime(micros).map_or_else(|| micros.to_string(), |time| time.format("%Y-%m-%d %H:%M:%S%.6f").to_string())
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    fn insert(on_duplicate: OnDuplicate) -> Insert {
        Insert::new(&"t".parse().unwrap(), &["id".to_owned(), "name".to_owned()], on_duplicate)
    }

    fn upsert() -> Insert {
        insert(OnDuplicate::Overwrite { key: vec!["id".to_owned()] })
    }

    #[test]
    fn statements() {
        assert_eq!(insert(OnDuplicate::Refuse).sql(2), "INSERT INTO `t` (`id`, `name`) VALUES (?, ?), (?, ?)");
        assert_eq!(upsert().sql(1), "INSERT INTO `t` (`id`, `name`) VALUES (?, ?) AS new ON DUPLICATE KEY UPDATE `name` = new.`name`");
    }

    #[test]
    fn merged_values_are_assigned_before_what_orders_them() {
        let column = |name: &str, kind| Merged { name: name.to_owned(), kind, is_text: false };
        let merged = vec![
            column("id", Merge::Key),
            column("source", Merge::Keep),
            column("volume", Merge::Sum),
            column("high", Merge::Greatest),
            Merged { is_text: true, ..column("least", Merge::Least) },
            column("open", Merge::First),
            column("close", Merge::Last),
        ];
        let columns: Vec<String> = merged.iter().map(|column| column.name.clone()).collect();
        insta::assert_snapshot!(Insert::new(&"t".parse().unwrap(), &columns, OnDuplicate::Merge(merged)).tail.replace(", `", ",\n`"));
    }

    #[test]
    fn upserted_rows_are_sorted_by_key_and_the_last_of_equal_ones_stays_last() {
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![2, 1, 2, 1]));
        let names: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c", "d"]));
        let sorted = upsert().in_order(RecordBatch::try_from_iter([("id", ids), ("name", names)]).unwrap()).unwrap();
        let names: Vec<_> = sorted.column(1).as_string::<i32>().iter().flatten().collect();
        assert_eq!(names, ["b", "d", "a", "c"]);
    }

    #[test]
    fn texts_of_times() {
        assert_eq!(timestamp_text(1_724_569_485_000_001), "2024-08-25 07:04:45.000001");
        assert_eq!(date_text(0), "1970-01-01");
    }
}
