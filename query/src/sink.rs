//! What comes out of a query beside the columns of a table: which output column goes where, and whether it can.

use arrow::datatypes::{DataType, TimeUnit};
use tapeline_api::types::{CqlType, MySqlType};

use crate::did_you_mean;
use crate::plan::{Merge, OutputColumn};

/// The seven types that a sink has to deal with; a plan ends with a cast to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Canonical {
    /// `DataType::Boolean`
    Boolean,
    /// `DataType::Int64`: all integers
    Integer,
    /// `DataType::Float64`
    Float,
    /// `DataType::Decimal128`
    Decimal,
    /// `DataType::Utf8`
    Text,
    /// `DataType::Date32`
    Date,
    /// Microseconds, UTC
    Timestamp,
}

impl Canonical {
    /// The canonical type of a column of `data_type`, with the Arrow type that it is cast to. None if no sink can hold it (lists, structs, intervals, ..).
    #[must_use]
    pub fn of(data_type: &DataType) -> Option<(Self, DataType)> {
        Some(match data_type {
            DataType::Boolean => (Self::Boolean, DataType::Boolean),
            DataType::UInt64 => (Self::Decimal, DataType::Decimal128(20, 0)),
            integer if integer.is_integer() => (Self::Integer, DataType::Int64),
            DataType::Float16 | DataType::Float32 | DataType::Float64 => (Self::Float, DataType::Float64),
            // As `CAST(.. AS DECIMAL(10,-2))` gives it.
            DataType::Decimal128(precision, scale @ ..0) => (Self::Decimal, DataType::Decimal128(precision.saturating_add(scale.unsigned_abs()).min(38), 0)),
            decimal @ DataType::Decimal128(..) => (Self::Decimal, decimal.clone()),
            DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => (Self::Text, DataType::Utf8),
            DataType::Date32 | DataType::Date64 => (Self::Date, DataType::Date32),
            DataType::Timestamp(..) => (Self::Timestamp, DataType::Timestamp(TimeUnit::Microsecond, None)),
            _ => return None,
        })
    }

    /// As a stream's field of that type is declared.
    const fn name(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Integer => "bigint",
            Self::Float => "double",
            Self::Decimal => "decimal",
            Self::Text => "string",
            Self::Date => "date",
            Self::Timestamp => "timestamp",
        }
    }
}

/// A column of a table that a query writes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableColumn {
    /// Its name.
    pub name: String,
    /// Its type, as the store writes it.
    pub type_name: String,
    /// What it takes.
    pub takes: Vec<Canonical>,
    /// Whether a row may come without it: it is nullable, or has a default, or numbers itself.
    pub optional: bool,
    /// Whether it is part of the primary key.
    pub key: bool,
}

impl TableColumn {
    /// A column of Cassandra.
    #[must_use]
    pub fn cassandra(name: &str, cql: CqlType, key: bool) -> Self {
        Self { name: name.to_owned(), type_name: cql.to_string(), takes: cql_takes(cql), optional: !key, key }
    }

    /// A column of MySQL.
    #[must_use]
    pub fn mysql(name: &str, mysql: MySqlType, optional: bool, key: bool) -> Self {
        Self { name: name.to_owned(), type_name: mysql.to_string(), takes: mysql_takes(mysql), optional, key }
    }
}

fn cql_takes(cql: CqlType) -> Vec<Canonical> {
    use Canonical::{Boolean, Date, Decimal, Float, Integer, Text, Timestamp};
    match cql {
        CqlType::Boolean => vec![Boolean],
        CqlType::Tinyint | CqlType::Smallint | CqlType::Int | CqlType::Bigint => vec![Integer, Decimal],
        CqlType::Float | CqlType::Double => vec![Float, Integer, Decimal],
        CqlType::Decimal => vec![Decimal, Integer],
        CqlType::Text | CqlType::Uuid => vec![Text],
        CqlType::Date => vec![Date],
        CqlType::Timestamp => vec![Timestamp, Date],
    }
}

fn mysql_takes(mysql: MySqlType) -> Vec<Canonical> {
    use Canonical::{Boolean, Date, Decimal, Float, Integer, Text, Timestamp};
    match mysql {
        MySqlType::Boolean => vec![Boolean, Integer],
        MySqlType::Tinyint | MySqlType::Smallint | MySqlType::Int | MySqlType::Bigint => vec![Integer, Decimal, Boolean],
        MySqlType::Float | MySqlType::Double => vec![Float, Integer, Decimal],
        MySqlType::Decimal { .. } => vec![Decimal, Integer],
        MySqlType::Varchar(_) | MySqlType::Char(_) | MySqlType::Text => vec![Text],
        MySqlType::Binary(_) => vec![],
        MySqlType::Date => vec![Date],
        MySqlType::Timestamp(_) | MySqlType::Datetime(_) => vec![Timestamp, Date],
    }
}

/// What a column is that no table can hold.
fn nested(data_type: &DataType) -> String {
    match data_type {
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => "a list, which no table can hold".to_owned(),
        DataType::Map(..) => "a map, which no table can hold".to_owned(),
        DataType::Struct(_) => "a struct, which no table can hold".to_owned(),
        other => format!("a {other}, which no table can hold"),
    }
}

/// How it becomes a text.
const fn ways_out(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => "array_to_string(.., ',') or to_json(..)",
        _ => "to_json(..)",
    }
}

/// The columns of `output` that no table can hold, each with what it is and the way out.
#[must_use]
pub fn unfit(output: &[OutputColumn]) -> Vec<String> {
    output.iter().filter(|column| Canonical::of(&column.data_type).is_none()).map(unfit_column).collect()
}

fn unfit_column(column: &OutputColumn) -> String {
    format!("column \"{}\" is {}; pick a part of it, or write {}", column.name, nested(&column.data_type), ways_out(&column.data_type))
}

/// Compares what a query gives with the columns of `table`. Every finding is a sentence that says what is wrong and what to do; none means that it fits.
#[must_use]
pub fn mismatches(output: &[OutputColumn], table: &str, columns: &[TableColumn]) -> Vec<String> {
    let mut findings = Vec::new();
    for column in output {
        let Some(target) = columns.iter().find(|target| target.name == column.name) else {
            let hint = did_you_mean(&column.name, columns.iter().map(|target| target.name.as_str()));
            findings.push(format!("table \"{table}\" has no column \"{}\"{hint}", column.name));
            continue;
        };
        match Canonical::of(&column.data_type) {
            Some((canonical, _)) if target.takes.contains(&canonical) => {}
            Some((canonical, _)) => findings.push(format!(
                "column \"{}\" of table \"{table}\" is {} and takes no {}; convert it with CAST(.. AS ..), or change the column",
                column.name,
                target.type_name,
                canonical.name()
            )),
            None => findings.push(unfit_column(column)),
        }
    }
    for target in columns.iter().filter(|target| !target.optional && output.iter().all(|column| column.name != target.name)) {
        let part = if target.key { "part of the primary key" } else { "NOT NULL" };
        findings.push(format!("column \"{}\" of table \"{table}\" is {part}, but the query does not give it; add it to the SELECT", target.name));
    }
    findings
}

/// Sums of mode Merge that the column of `table` rounds. It is the sum of each micro-batch that is rounded, so the error grows with their number.
#[must_use]
pub fn rounded_sums(output: &[OutputColumn], merge: &[Merge], table: &str, columns: &[TableColumn]) -> Vec<String> {
    let sums = output.iter().zip(merge).filter(|(_, kind)| **kind == Merge::Sum);
    let findings = sums.filter_map(|(column, _)| {
        let target = columns.iter().find(|target| target.name == column.name)?;
        let wider = wider_for_sum(&column.data_type, target.type_name.parse().ok()?)?;
        let (name, is) = (&column.name, &target.type_name);
        Some(format!("column \"{name}\" of table \"{table}\" is {is}, which rounds the sum of each micro-batch, so what is merged is off; make it {wider}"))
    });
    findings.collect()
}

/// Keys of mode Merge of which the column of `table` holds less than the query tells apart: their groups would meet in one row.
#[must_use]
pub fn rounded_keys(output: &[OutputColumn], merge: &[Merge], table: &str, columns: &[TableColumn]) -> Vec<String> {
    let keys = output.iter().zip(merge).filter(|(_, kind)| **kind == Merge::Key);
    let findings = keys.filter_map(|(column, _)| {
        let target = columns.iter().find(|target| target.name == column.name)?;
        let wider = wider_for_key(column, target.type_name.parse().ok()?)?;
        let (name, is) = (&column.name, &target.type_name);
        Some(format!("column \"{name}\" of table \"{table}\" is {is}, which rounds the key, so different groups would be merged into one row; {wider}"))
    });
    findings.collect()
}

/// What to do when `column` of the table does not hold the values of `key` as they are.
fn wider_for_key(key: &OutputColumn, column: MySqlType) -> Option<String> {
    let (canonical, _) = Canonical::of(&key.data_type)?;
    let digits = key.digits;
    match (canonical, column) {
        (Canonical::Timestamp, MySqlType::Timestamp(held)) if held < digits => {
            Some(format!("make it timestamp({digits}), or group by date_trunc('second', ..) or a date_bin(..) of whole seconds"))
        }
        (Canonical::Timestamp, MySqlType::Datetime(held)) if held < digits => {
            Some(format!("make it datetime({digits}), or group by date_trunc('second', ..) or a date_bin(..) of whole seconds"))
        }
        (Canonical::Decimal, MySqlType::Decimal { scale, .. }) if scale < digits => Some(format!("make it decimal(38,{digits})")),
        (Canonical::Decimal, MySqlType::Tinyint | MySqlType::Smallint | MySqlType::Int | MySqlType::Bigint) if digits > 0 => {
            Some(format!("make it decimal(38,{digits})"))
        }
        (Canonical::Decimal, MySqlType::Float | MySqlType::Double) => Some(format!("make it decimal(38,{digits})")),
        (Canonical::Integer, MySqlType::Float | MySqlType::Double) => Some("make it bigint".to_owned()),
        (Canonical::Float, MySqlType::Float) => Some("make it double".to_owned()),
        _ => None,
    }
}

/// The type that a column needs for sums of `data_type`, if `column` rounds them.
fn wider_for_sum(data_type: &DataType, column: MySqlType) -> Option<String> {
    let (canonical, arrow) = Canonical::of(data_type)?;
    let scale = if let DataType::Decimal128(_, scale) = arrow { scale.unsigned_abs() } else { 0 };
    let exact = if scale == 0 { "bigint, or decimal(38,0)".to_owned() } else { format!("decimal(38,{scale})") };
    match (canonical, column) {
        (Canonical::Float, MySqlType::Float) => Some("double".to_owned()),
        (Canonical::Integer | Canonical::Decimal, MySqlType::Float | MySqlType::Double) => Some(exact),
        (Canonical::Decimal, MySqlType::Decimal { scale: of_column, .. }) if of_column < scale => Some(exact),
        (Canonical::Decimal, MySqlType::Tinyint | MySqlType::Smallint | MySqlType::Int | MySqlType::Bigint) if scale > 0 => Some(exact),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn output(name: &str, data_type: DataType) -> OutputColumn {
        OutputColumn { name: name.to_owned(), data_type, nullable: true, digits: 0 }
    }

    fn table() -> Vec<TableColumn> {
        vec![
            TableColumn::mysql("id", MySqlType::Bigint, true, true),
            TableColumn::mysql("sector", MySqlType::Varchar(64), false, false),
            TableColumn::mysql("total", MySqlType::Bigint, true, false),
        ]
    }

    #[test]
    fn what_fits_has_no_findings() {
        let columns = [output("sector", DataType::Utf8View), output("total", DataType::Decimal128(38, 0))];
        assert_eq!(mismatches(&columns, "t", &table()), Vec::<String>::new());
    }

    #[rstest]
    #[case(output("sectr", DataType::Utf8), "table \"t\" has no column \"sectr\"; did you mean \"sector\"?")]
    #[case(
        output("total", DataType::Utf8),
        "column \"total\" of table \"t\" is bigint and takes no string; convert it with CAST(.. AS ..), or change the column"
    )]
    #[case(
        output("total", DataType::new_list(DataType::Int64, true)),
        "column \"total\" is a list, which no table can hold; pick a part of it, or write array_to_string(.., ',') or to_json(..)"
    )]
    fn each_misfit_is_named(#[case] column: OutputColumn, #[case] finding: &str) {
        let findings = mismatches(&[column, output("sector", DataType::Utf8)], "t", &table());
        assert_eq!(findings, [finding.to_owned()]);
    }

    #[rstest]
    #[case(DataType::Int64, MySqlType::Bigint, None)]
    #[case(DataType::Int64, MySqlType::Decimal { precision: 20, scale: 0 }, None)]
    #[case(DataType::Int64, MySqlType::Float, Some("bigint, or decimal(38,0)"))]
    #[case(DataType::Decimal128(38, 0), MySqlType::Double, Some("bigint, or decimal(38,0)"))]
    #[case(DataType::Decimal128(28, 4), MySqlType::Decimal { precision: 20, scale: 4 }, None)]
    #[case(DataType::Decimal128(28, 4), MySqlType::Decimal { precision: 20, scale: 2 }, Some("decimal(38,4)"))]
    #[case(DataType::Decimal128(28, 4), MySqlType::Bigint, Some("decimal(38,4)"))]
    #[case(DataType::Float64, MySqlType::Double, None)]
    #[case(DataType::Float64, MySqlType::Float, Some("double"))]
    fn a_column_that_rounds_sums_is_named(#[case] data_type: DataType, #[case] column: MySqlType, #[case] wider: Option<&str>) {
        let columns = [TableColumn::mysql("total", column, true, false)];
        let found = |kind| rounded_sums(&[output("total", data_type.clone())], &[kind], "t", &columns);
        let message =
            |wider| format!("column \"total\" of table \"t\" is {column}, which rounds the sum of each micro-batch, so what is merged is off; make it {wider}");
        assert_eq!(found(Merge::Sum), wider.map(message).into_iter().collect::<Vec<_>>());
        assert_eq!(found(Merge::Greatest), Vec::<String>::new());
    }

    #[rstest]
    #[case(DataType::Timestamp(TimeUnit::Microsecond, None), 1, MySqlType::Datetime(0), Some("make it datetime(1), or group by date_trunc('second', ..)"))]
    #[case(DataType::Timestamp(TimeUnit::Microsecond, None), 6, MySqlType::Timestamp(3), Some("make it timestamp(6), or group by"))]
    #[case(DataType::Timestamp(TimeUnit::Microsecond, None), 0, MySqlType::Timestamp(0), None)]
    #[case(DataType::Timestamp(TimeUnit::Microsecond, None), 3, MySqlType::Datetime(3), None)]
    #[case(DataType::Date32, 0, MySqlType::Date, None)]
    #[case(DataType::Decimal128(18, 4), 4, MySqlType::Decimal { precision: 18, scale: 2 }, Some("make it decimal(38,4)"))]
    #[case(DataType::Decimal128(18, 4), 4, MySqlType::Bigint, Some("make it decimal(38,4)"))]
    #[case(DataType::Decimal128(20, 0), 0, MySqlType::Bigint, None)]
    #[case(DataType::Decimal128(20, 0), 0, MySqlType::Double, Some("make it decimal(38,0)"))]
    #[case(DataType::Int64, 0, MySqlType::Double, Some("make it bigint"))]
    #[case(DataType::Int64, 0, MySqlType::Bigint, None)]
    #[case(DataType::Float64, 0, MySqlType::Float, Some("make it double"))]
    fn a_column_that_rounds_keys_is_named(#[case] data_type: DataType, #[case] digits: u8, #[case] column: MySqlType, #[case] wider: Option<&str>) {
        let columns = [TableColumn::mysql("at", column, false, true)];
        let key = OutputColumn { digits, ..output("at", data_type) };
        let found = |kind| rounded_keys(std::slice::from_ref(&key), &[kind], "t", &columns);
        let begin =
            |wider| format!("column \"at\" of table \"t\" is {column}, which rounds the key, so different groups would be merged into one row; {wider}");
        match (found(Merge::Key).as_slice(), wider) {
            ([], None) => {}
            ([one], Some(wider)) => assert!(one.starts_with(&begin(wider)), "{one}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(found(Merge::Greatest), Vec::<String>::new());
    }

    #[test]
    fn decimals_of_hundreds_are_held_whole() {
        assert_eq!(Canonical::of(&DataType::Decimal128(10, -2)), Some((Canonical::Decimal, DataType::Decimal128(12, 0))));
    }

    #[test]
    fn what_no_table_holds_is_named() {
        let list = output("tags", DataType::new_list(DataType::Utf8, true));
        assert_eq!(
            unfit(&[output("id", DataType::Int64), list]),
            ["column \"tags\" is a list, which no table can hold; pick a part of it, or write array_to_string(.., ',') or to_json(..)"]
        );
    }

    #[test]
    fn a_missing_column_is_named() {
        let findings = mismatches(&[output("total", DataType::Int64)], "t", &table());
        assert_eq!(findings, ["column \"sector\" of table \"t\" is NOT NULL, but the query does not give it; add it to the SELECT"]);
    }
}
