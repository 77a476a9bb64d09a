//! What comes out of a query beside the columns of a table: which output column goes where, and whether it can.

use arrow::datatypes::{DataType, TimeUnit};
use tapeline_api::types::{CqlType, MySqlType};

use crate::did_you_mean;
use crate::plan::OutputColumn;

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
        MySqlType::Date => vec![Date],
        MySqlType::Timestamp(_) | MySqlType::Datetime(_) => vec![Timestamp, Date],
    }
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
            None => findings.push(format!("column \"{}\" is a {}, which no table can hold; pick a part of it", column.name, column.data_type)),
        }
    }
    for target in columns.iter().filter(|target| !target.optional && output.iter().all(|column| column.name != target.name)) {
        let part = if target.key { "part of the primary key" } else { "NOT NULL" };
        findings.push(format!("column \"{}\" of table \"{table}\" is {part}, but the query does not give it; add it to the SELECT", target.name));
    }
    findings
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn output(name: &str, data_type: DataType) -> OutputColumn {
        OutputColumn { name: name.to_owned(), data_type, nullable: true }
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
    #[case(output("total", DataType::new_list(DataType::Int64, true)), "column \"total\" is a List(Int64), which no table can hold; pick a part of it")]
    fn each_misfit_is_named(#[case] column: OutputColumn, #[case] finding: &str) {
        let findings = mismatches(&[column, output("sector", DataType::Utf8)], "t", &table());
        assert_eq!(findings, [finding.to_owned()]);
    }

    #[test]
    fn a_missing_column_is_named() {
        let findings = mismatches(&[output("total", DataType::Int64)], "t", &table());
        assert_eq!(findings, ["column \"sector\" of table \"t\" is NOT NULL, but the query does not give it; add it to the SELECT"]);
    }
}
