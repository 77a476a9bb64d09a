//! Reference rows: a CSV file with a header, checked cell by cell against the declared columns, so that a wrong one is told with line and column instead of in
//! MySQL's words. Pure.

use std::collections::HashMap;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::mysql::{MySqlColumn, MySqlTable};
use tapeline_api::types::MySqlType;

use super::ddl::is_key;

/// How many wrong cells are told. A file with one wrong column has as many as it has lines.
const TOLD: usize = 5;

/// The rows of a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rows {
    /// The columns of the header.
    pub(super) columns: Vec<SqlName>,
    /// The rows, each with a cell for each column.
    pub(super) rows: Vec<Vec<Cell>>,
}

/// A value as it is bound.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Null,
    Integer(i64),
    Float(f64),
    /// Also decimals, dates and times, which MySQL reads itself.
    Text(String),
}

/// Reads `text`.
///
/// # Errors
/// What is wrong, each with its place, the first few of them.
pub(super) fn parse(text: &str, table: &MySqlTable) -> Result<Rows, Vec<String>> {
    // A byte order mark is what spreadsheets leave in front.
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.trim_start_matches('\u{feff}').as_bytes());
    let header = reader.headers().map_err(|error| vec![format!("cannot be read as CSV: {error}")])?;
    let columns = columns(header, table)?;
    let key: Vec<usize> = columns.iter().enumerate().filter(|(_, column)| is_key(table, &column.name)).map(|(index, _)| index).collect();

    let (mut rows, mut problems, mut lines_by_key) = (Vec::new(), Vec::new(), HashMap::new());
    for record in reader.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                problems.push(format!("cannot be read as CSV: {error}"));
                break;
            }
        };
        let line = record.position().map_or(0, csv::Position::line);
        let mut row = Vec::with_capacity(columns.len());
        for (text, column) in record.iter().zip(&columns) {
            match cell(text, column, is_key(table, &column.name)) {
                Ok(cell) => row.push(cell),
                Err(problem) => problems.push(format!("line {line}, column {:?}: {problem}", column.name.as_str())),
            }
        }
        let values: Vec<&str> = key.iter().filter_map(|index| record.get(*index)).collect();
        if let Some(first) = lines_by_key.insert(values.join("\u{1f}"), line)
            && !key.is_empty()
        {
            problems.push(format!("line {line}: the key {} is in line {first} already", values.join(", ")));
        }
        rows.push(row);
        if problems.len() > TOLD {
            break;
        }
    }
    if problems.is_empty() {
        return Ok(Rows { columns: columns.into_iter().map(|column| column.name.clone()).collect(), rows });
    }
    if problems.len() > TOLD {
        problems.truncate(TOLD);
        problems.push("and further ones".to_owned());
    }
    Err(problems)
}

/// The columns of the header.
fn columns<'a>(header: &csv::StringRecord, table: &'a MySqlTable) -> Result<Vec<&'a MySqlColumn>, Vec<String>> {
    let (mut columns, mut problems) = (Vec::<&MySqlColumn>::new(), Vec::new());
    for name in header {
        match table.columns.iter().find(|column| column.name.as_str() == name) {
            Some(column) if columns.iter().any(|before| before.name == column.name) => problems.push(format!("line 1: column {name:?} is there twice")),
            Some(column) => columns.push(column),
            None => problems.push(format!("line 1: table {} has no column {name:?}{}", table.name, near(name, table))),
        }
    }
    for column in &table.columns {
        let needed = (is_key(table, &column.name) || !column.nullable) && !column.auto_increment;
        if needed && problems.is_empty() && !columns.iter().any(|there| there.name == column.name) {
            problems.push(format!("line 1: column {:?} is missing, which cannot be null", column.name.as_str()));
        }
    }
    if problems.is_empty() { Ok(columns) } else { Err(problems) }
}

fn near(name: &str, table: &MySqlTable) -> String {
    let distance = |column: &&MySqlColumn| strsim::damerau_levenshtein(name, column.name.as_str());
    let near = table.columns.iter().min_by_key(distance).filter(|column| distance(column) <= 2);
    match near {
        Some(column) => format!("; did you mean {:?}?", column.name.as_str()),
        None => format!("; it has {}", table.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")),
    }
}

/// A cell as a value of `column`.
fn cell(text: &str, column: &MySqlColumn, key: bool) -> Result<Cell, String> {
    if text.is_empty() {
        return if key || !column.nullable { Err("is empty, which means null, and the column takes none".to_owned()) } else { Ok(Cell::Null) };
    }
    let type_ = column.type_;
    let wrong = || format!("{} is not a {type_}", shorten(text));
    let integer = |min: i64, max: i64| match text.parse::<i64>() {
        Ok(number) if (min..=max).contains(&number) => Ok(Cell::Integer(number)),
        Ok(_) => Err(format!("{text} does not fit into a {type_}, which holds {min} to {max}")),
        Err(_) => Err(wrong()),
    };
    match type_ {
        MySqlType::Boolean => match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(Cell::Integer(1)),
            "false" | "0" => Ok(Cell::Integer(0)),
            _ => Err(format!("{}; write true or false", wrong())),
        },
        MySqlType::Tinyint => integer(i64::from(i8::MIN), i64::from(i8::MAX)),
        MySqlType::Smallint => integer(i64::from(i16::MIN), i64::from(i16::MAX)),
        MySqlType::Int => integer(i64::from(i32::MIN), i64::from(i32::MAX)),
        MySqlType::Bigint => integer(i64::MIN, i64::MAX),
        MySqlType::Float | MySqlType::Double => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Cell::Float(number)),
            _ => Err(wrong()),
        },
        MySqlType::Decimal { precision, scale } => decimal(text, precision, scale).then(|| Cell::Text(text.to_owned())).ok_or_else(wrong),
        MySqlType::Varchar(length) | MySqlType::Char(length) => match text.chars().count() {
            count if count <= usize::from(length) => Ok(Cell::Text(text.to_owned())),
            count => Err(format!("{} has {count} characters and a {type_} holds {length}", shorten(text))),
        },
        MySqlType::Binary(_) => Err(format!("a {type_} is written by Tapeline itself")),
        MySqlType::Text => Ok(Cell::Text(text.to_owned())),
        MySqlType::Date => text.parse::<Date>().map(|date| Cell::Text(date.to_string())).map_err(|_| format!("{}; write it as 2024-08-25", wrong())),
        MySqlType::Timestamp(_) | MySqlType::Datetime(_) => {
            time(text).map(Cell::Text).ok_or_else(|| format!("{}; write it as 2024-08-25 07:04:45 (UTC) or 2024-08-25T07:04:45Z", wrong()))
        }
    }
}

/// Whether `text` is a number that a decimal of this size holds exactly.
fn decimal(text: &str, precision: u8, scale: u8) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let numeric = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = (whole, fraction.trim_end_matches('0'));
    numeric(whole)
        && numeric(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && fraction.len() <= usize::from(scale)
        && whole.trim_start_matches('0').len() <= usize::from(precision.saturating_sub(scale))
}

/// A time in UTC as MySQL reads it; one without a zone is in UTC already.
fn time(text: &str) -> Option<String> {
    let civil = |time: DateTime| time.strftime("%Y-%m-%d %H:%M:%S%.6f").to_string();
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(civil(time.to_zoned(jiff::tz::TimeZone::UTC).datetime()));
    }
    text.parse::<DateTime>().ok().map(civil)
}

fn shorten(text: &str) -> String {
    let mut characters = text.chars();
    let head: String = characters.by_ref().take(40).collect();
    if characters.next().is_some() { format!("{head:?}..") } else { format!("{head:?}") }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn table() -> MySqlTable {
        serde_json::from_value(serde_json::json!({
            "name": "profile",
            "columns": [
                {"name": "ticker", "type": "varchar(8)"},
                {"name": "shares", "type": "bigint"},
                {"name": "price", "type": "decimal(6,2)"},
                {"name": "listed", "type": "date"},
                {"name": "seen_at", "type": "timestamp(6)"},
                {"name": "active", "type": "boolean", "nullable": false},
            ],
            "primaryKey": ["ticker"],
        }))
        .unwrap()
    }

    #[test]
    fn a_good_file() {
        let rows = parse("\u{feff}ticker,shares,active,seen_at\nTMAS.JK, 12,true,2024-08-25T07:04:45Z\nBBCA.JK,,0,2024-08-25 07:04:45\n", &table()).unwrap();
        assert_eq!(rows.columns.iter().map(SqlName::as_str).collect::<Vec<_>>(), ["ticker", "shares", "active", "seen_at"]);
        let seen = || Cell::Text("2024-08-25 07:04:45.000000".into());
        assert_eq!(
            rows.rows,
            vec![
                vec![Cell::Text("TMAS.JK".into()), Cell::Integer(12), Cell::Integer(1), seen()],
                vec![Cell::Text("BBCA.JK".into()), Cell::Null, Cell::Integer(0), seen()]
            ]
        );
    }

    #[rstest]
    #[case::a_typo("tikcer,active\nA,1", "line 1: table profile has no column \"tikcer\"; did you mean \"ticker\"?")]
    #[case::unknown("ticker,active,colour\nA,1,red", "line 1: table profile has no column \"colour\"; it has ticker, shares, price, listed, seen_at, active")]
    #[case::no_key("active\n1", "line 1: column \"ticker\" is missing, which cannot be null")]
    #[case::twice("ticker,active,active\nA,1,1", "line 1: column \"active\" is there twice")]
    #[case::no_number("ticker,active,shares\nA,1,1\nB,1,many", "line 3, column \"shares\": \"many\" is not a bigint")]
    #[case::null_in_the_key("ticker,active\n,1", "line 2, column \"ticker\": is empty, which means null, and the column takes none")]
    #[case::null("ticker,active\nA,", "line 2, column \"active\": is empty, which means null, and the column takes none")]
    #[case::too_long("ticker,active\nABCDEFGHI,1", "line 2, column \"ticker\": \"ABCDEFGHI\" has 9 characters and a varchar(8) holds 8")]
    #[case::decimal("ticker,active,price\nA,1,12345.1", "line 2, column \"price\": \"12345.1\" is not a decimal(6,2)")]
    #[case::boolean("ticker,active\nA,yes", "line 2, column \"active\": \"yes\" is not a boolean; write true or false")]
    #[case::date("ticker,active,listed\nA,1,25.8.2024", "line 2, column \"listed\": \"25.8.2024\" is not a date; write it as 2024-08-25")]
    #[case::repeated("ticker,active\nA,1\nB,1\nA,0", "line 4: the key A is in line 2 already")]
    #[case::ragged(
        "ticker,active\nA,1,2",
        "cannot be read as CSV: CSV error: record 1 (line: 2, byte: 14): found record with 3 fields, but the previous record has 2 fields"
    )]
    fn a_bad_file(#[case] text: &str, #[case] problem: &str) {
        assert_eq!(parse(text, &table()).unwrap_err(), vec![problem.to_owned()]);
    }

    #[test]
    fn a_file_that_is_wrong_throughout_is_not_told_in_full() {
        let text = format!("ticker,active\n{}", (0..100).map(|n| format!("T{n},x\n")).collect::<String>());
        let problems = parse(&text, &table()).unwrap_err();
        assert_eq!((problems.len(), problems.last().map(String::as_str)), (TOLD + 1, Some("and further ones")));
    }

    #[rstest]
    #[case("1234.56", true)]
    #[case("-0001234.500", true)]
    #[case(".5", true)]
    #[case("1.234", false)]
    #[case("12345", false)]
    #[case("", false)]
    #[case("1e3", false)]
    fn decimals(#[case] text: &str, #[case] fits: bool) {
        assert_eq!(decimal(text, 6, 2), fits);
    }
}
