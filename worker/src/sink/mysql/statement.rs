//! The INSERT of a sink: made once from the table's description, then filled with as many rows as a statement takes.

use arrow::array::{Array, AsArray, RecordBatch, UInt64Array};
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Date32Type, Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use sqlx::Arguments;
use sqlx::mysql::{MySqlArguments, MySqlConnection};
use std::sync::Arc;
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::queries::MySqlMode;
use tapeline_api::report::ProblemClass;

use super::super::SinkError;
use super::super::rows::decimal_text;

/// Placeholders in a statement, by the protocol.
const PLACEHOLDERS: usize = 65_535;
/// Rows in a statement: beyond this a statement gains nothing.
const ROWS: usize = 1_000;

/// How rows are inserted.
#[derive(Debug)]
pub(super) struct Insert {
    head: String,
    tail: String,
    columns: Vec<String>,
    /// For Upsert: the key, by which rows are sorted, so that two workers lock rows in the same order.
    key: Vec<String>,
}

/// A table as it is.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// None for a view.
    engine: Option<String>,
    /// Its columns, and which of them belong to the primary key.
    columns: Vec<(String, bool)>,
    /// Its unique keys, the primary key as `PRIMARY`.
    unique: Vec<String>,
}

/// Looks at the table. One that is not there has no columns.
pub(super) async fn describe(session: &mut MySqlConnection, database: &SqlName, table: &SqlName) -> Result<Table, sqlx::Error> {
    let engines = sqlx::query_scalar("SELECT CAST(ENGINE AS CHAR) FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?");
    let Some(engine) = engines.bind(database.as_str()).bind(table.as_str()).fetch_optional(&mut *session).await? else { return Ok(Table::default()) };
    let columns = sqlx::query_as(
        "SELECT CAST(COLUMN_NAME AS CHAR), COLUMN_KEY = 'PRI' FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION",
    );
    let columns = columns.bind(database.as_str()).bind(table.as_str()).fetch_all(&mut *session).await?;
    let unique = sqlx::query_scalar(
        "SELECT DISTINCT CAST(INDEX_NAME AS CHAR) FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND NON_UNIQUE = 0",
    );
    let unique = unique.bind(database.as_str()).bind(table.as_str()).fetch_all(session).await?;
    Ok(Table { engine, columns, unique })
}

impl Table {
    /// The statement that inserts `columns` into it. The operator has looked at the tables that the pipeline declares; this may be another one.
    pub(super) fn insert(self, name: &SqlName, mode: MySqlMode, columns: &[String]) -> Result<Insert, SinkError> {
        let refused = |text: String| Err(SinkError::fatal(ProblemClass::StoreRefuses, text));
        if self.columns.is_empty() {
            let text = format!("table \"{name}\" is not there: declare it under spec.mysql.tables, or create it");
            return Err(SinkError::outage(ProblemClass::TableMissing, text));
        }
        if let Some(missing) = columns.iter().find(|column| self.columns.iter().all(|(name, _)| name != *column)) {
            let text = format!("table \"{name}\" has no column \"{missing}\": add it to the table, or leave it out of the query");
            return Err(SinkError::outage(ProblemClass::TableMissing, text));
        }
        match self.engine.as_deref() {
            Some("InnoDB") => {}
            None => return refused(format!("table \"{name}\" is a view, of which nobody can tell whether it knows transactions: name the table behind it")),
            // What a cut that fails has written would stay, and be written again.
            Some(engine) => {
                return refused(format!(
                    "table \"{name}\" has the engine {engine}, which knows no transactions: run ALTER TABLE {} ENGINE=InnoDB and restart the query's pods, or use \
                     another table",
                    name.backticked()
                ));
            }
        }
        // ON DUPLICATE KEY UPDATE does not say which key: it would overwrite the row that has this one in common.
        if mode == MySqlMode::Upsert && self.unique.len() > 1 {
            let second = self.unique.iter().find(|key| *key != "PRIMARY").map_or("", String::as_str);
            return refused(format!(
                "table \"{name}\" has a second unique key \"{second}\", by which mode Upsert may overwrite another row than the one meant: drop it or make it a plain \
                 index, and restart the query's pods, or use another table"
            ));
        }
        let key: Vec<String> = self.columns.into_iter().filter(|(_, is_key)| *is_key).map(|(name, _)| name).collect();
        Ok(Insert::new(name, mode, columns, key))
    }
}

impl Insert {
    fn new(table: &SqlName, mode: MySqlMode, columns: &[String], key: Vec<String>) -> Self {
        // The names went through the query's check, which lets only SQL names out; quoted all the same.
        let quoted: Vec<String> = columns.iter().map(|column| format!("`{}`", column.replace('`', "``"))).collect();
        let head = format!("INSERT INTO {} ({}) VALUES ", table.backticked(), quoted.join(", "));
        let updates: Vec<String> =
            columns.iter().zip(&quoted).filter(|(column, _)| !key.contains(column)).map(|(_, quoted)| format!("{quoted} = new.{quoted}")).collect();
        let tail = match mode {
            MySqlMode::Append => String::new(),
            MySqlMode::Upsert if updates.is_empty() => {
                let first = quoted.first().map_or("", String::as_str);
                format!(" AS new ON DUPLICATE KEY UPDATE {first} = new.{first}")
            }
            MySqlMode::Upsert => format!(" AS new ON DUPLICATE KEY UPDATE {}", updates.join(", ")),
        };
        let key = if mode == MySqlMode::Upsert { key } else { Vec::new() };
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
    use rstest::rstest;

    use super::*;

    fn insert(mode: MySqlMode) -> Insert {
        Insert::new(&"t".parse().unwrap(), mode, &["id".to_owned(), "name".to_owned()], vec!["id".to_owned()])
    }

    #[test]
    fn statements() {
        assert_eq!(insert(MySqlMode::Append).sql(2), "INSERT INTO `t` (`id`, `name`) VALUES (?, ?), (?, ?)");
        assert_eq!(insert(MySqlMode::Upsert).sql(1), "INSERT INTO `t` (`id`, `name`) VALUES (?, ?) AS new ON DUPLICATE KEY UPDATE `name` = new.`name`");
    }

    fn table() -> Table {
        Table { engine: Some("InnoDB".to_owned()), columns: vec![("id".to_owned(), true), ("name".to_owned(), false)], unique: vec!["PRIMARY".to_owned()] }
    }

    #[rstest]
    #[case::missing(Table::default(), ProblemClass::TableMissing, "table \"t\" is not there: declare it under spec.mysql.tables, or create it")]
    #[case::column(Table { columns: vec![("id".to_owned(), true)], ..table() }, ProblemClass::TableMissing, "table \"t\" has no column \"name\"")]
    #[case::engine(Table { engine: Some("MyISAM".to_owned()), ..table() }, ProblemClass::StoreRefuses, "the engine MyISAM, which knows no transactions: run ALTER TABLE `t`")]
    #[case::view(Table { engine: None, ..table() }, ProblemClass::StoreRefuses, "table \"t\" is a view")]
    #[case::second_key(Table { unique: vec!["PRIMARY".to_owned(), "by_name".to_owned()], ..table() }, ProblemClass::StoreRefuses, "a second unique key \"by_name\"")]
    fn a_table_that_does_not_serve_is_refused_with_a_remedy(#[case] table: Table, #[case] class: ProblemClass, #[case] message: &str) {
        let Err(SinkError::Outage(problem) | SinkError::Fatal(problem)) = upsert_into(table) else { unreachable!("it is not refused") };
        assert_eq!(problem.class, class);
        assert!(problem.message.contains(message), "{}", problem.message);
    }

    fn upsert_into(table: Table) -> Result<Insert, SinkError> {
        table.insert(&"t".parse().unwrap(), MySqlMode::Upsert, &["id".to_owned(), "name".to_owned()])
    }

    #[test]
    fn one_unique_key_is_enough_for_upsert_and_append_takes_several() {
        assert!(upsert_into(table()).is_ok());
        assert!(upsert_into(Table { unique: vec!["by_id".to_owned()], ..table() }).is_ok(), "MySQL takes it for the primary key where there is none");
        let several = Table { unique: vec!["PRIMARY".to_owned(), "by_name".to_owned()], ..table() };
        assert!(several.insert(&"t".parse().unwrap(), MySqlMode::Append, &["id".to_owned()]).is_ok());
    }

    #[test]
    fn upserted_rows_are_sorted_by_key_and_the_last_of_equal_ones_stays_last() {
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![2, 1, 2, 1]));
        let names: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c", "d"]));
        let sorted = insert(MySqlMode::Upsert).in_order(RecordBatch::try_from_iter([("id", ids), ("name", names)]).unwrap()).unwrap();
        let names: Vec<_> = sorted.column(1).as_string::<i32>().iter().flatten().collect();
        assert_eq!(names, ["b", "d", "a", "c"]);
    }

    #[test]
    fn texts_of_times() {
        assert_eq!(timestamp_text(1_724_569_485_000_001), "2024-08-25 07:04:45.000001");
        assert_eq!(date_text(0), "1970-01-01");
    }
}
