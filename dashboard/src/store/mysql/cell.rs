//! Values of MySQL's binary protocol as cells.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use sqlx::mysql::types::MySqlTime;
use sqlx::mysql::{MySql, MySqlColumn as Received, MySqlRow};
use sqlx::{Column as _, Row, Type, TypeInfo};
use tapeline_api::pipeline::mysql::MySqlColumn;
use tapeline_api::types::MySqlType;

use crate::table::{Cell, Column, Kind};

/// What a value takes in memory beside its text, in bytes.
const VALUE: usize = 32;

/// How the values of a column are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Boolean,
    Signed,
    Unsigned,
    Decimal,
    Float,
    Double,
    Date,
    Timestamp,
    Time,
    Text,
}

/// The columns of an answer that are shown.
pub(super) struct Shape(Vec<(usize, String, Form, Kind)>);

impl Shape {
    /// The columns that were received. A `tinyint(1)` is a boolean where it was declared as one. The order columns that mode Merge keeps beside first and last values
    /// (`<column>_order`, `BINARY`) are not shown.
    pub(super) fn of(received: &[Received], declared: &[MySqlColumn]) -> Self {
        let shown = received.iter().filter_map(|column| {
            let name = column.name();
            let declared = declared.iter().find(|known| known.name.as_str() == name).map(|known| known.type_);
            let type_ = column.type_info();
            let hidden = type_.name() == "BINARY" && declared.is_none() && name.ends_with("_order");
            let (form, kind) = form(type_.name(), <u64 as Type<MySql>>::compatible(type_), declared);
            (!hidden).then(|| (column.ordinal(), name.to_owned(), form, kind))
        });
        Self(shown.collect())
    }

    pub(super) fn columns(&self) -> Vec<Column> {
        self.0.iter().map(|(_, name, _, kind)| Column::new(name, *kind)).collect()
    }

    pub(super) fn cells(&self, row: &MySqlRow) -> Result<Vec<Cell>, sqlx::Error> {
        self.0.iter().map(|(place, _, form, _)| cell(row, *place, *form)).collect()
    }

    /// About how many bytes a row takes.
    pub(super) fn weight(&self, row: &MySqlRow) -> usize {
        self.0.iter().map(|(place, ..)| VALUE + bytes(row, *place).ok().flatten().map_or(0, <[u8]>::len)).sum()
    }
}

/// How a column of the type `name` is read, and what it is shown as.
fn form(name: &str, unsigned: bool, declared: Option<MySqlType>) -> (Form, Kind) {
    match name {
        "BOOLEAN" | "TINYINT" if declared == Some(MySqlType::Boolean) => (Form::Boolean, Kind::Boolean),
        // More than 64 bits with a sign hold.
        "BIGINT UNSIGNED" => (Form::Unsigned, Kind::Decimal),
        "BIT" => (Form::Unsigned, Kind::Integer),
        _ if unsigned => (Form::Unsigned, Kind::Integer),
        "BOOLEAN" | "TINYINT" | "SMALLINT" | "MEDIUMINT" | "INT" | "BIGINT" | "YEAR" => (Form::Signed, Kind::Integer),
        "DECIMAL" => (Form::Decimal, Kind::Decimal),
        "FLOAT" => (Form::Float, Kind::Float),
        "DOUBLE" => (Form::Double, Kind::Float),
        "DATE" => (Form::Date, Kind::Date),
        "DATETIME" | "TIMESTAMP" => (Form::Timestamp, Kind::Timestamp),
        "TIME" => (Form::Time, Kind::Text),
        _ => (Form::Text, Kind::Text),
    }
}

fn bytes(row: &MySqlRow, place: usize) -> Result<Option<&[u8]>, sqlx::Error> {
    // Unchecked, since a type that sqlx knows no Rust type for would be refused: the bytes are what is wanted.
    row.try_get_unchecked(place)
}

fn cell(row: &MySqlRow, place: usize, form: Form) -> Result<Cell, sqlx::Error> {
    Ok(match form {
        Form::Boolean => row.try_get_unchecked::<Option<i64>, _>(place)?.map(|value| Cell::Boolean(value != 0)),
        Form::Signed => row.try_get_unchecked::<Option<i64>, _>(place)?.map(Cell::Integer),
        Form::Unsigned => row.try_get_unchecked::<Option<u64>, _>(place)?.map(unsigned),
        Form::Float => row.try_get_unchecked::<Option<f32>, _>(place)?.map(Cell::short_float),
        Form::Double => row.try_get_unchecked::<Option<f64>, _>(place)?.map(Cell::Float),
        Form::Time => row.try_get_unchecked::<Option<MySqlTime>, _>(place)?.map(|time| Cell::Text(time.to_string())),
        Form::Decimal => bytes(row, place)?.map(|digits| Cell::decimal(&String::from_utf8_lossy(digits))),
        Form::Date => bytes(row, place)?.map(date),
        Form::Timestamp => bytes(row, place)?.map(timestamp),
        Form::Text => bytes(row, place)?.map(|text| Cell::Text(String::from_utf8_lossy(text).into_owned())),
    }
    .unwrap_or(Cell::Null))
}

/// A number that is shown exactly, whether a signed one holds it or not.
fn unsigned(value: u64) -> Cell {
    i64::try_from(value).map_or_else(|_| Cell::decimal(&value.to_string()), Cell::Integer)
}

/// Year, month, day, hour, minute, second and microseconds, behind their length in bytes: 4, 7 or 11, what is missing is 0.
fn parts(bytes: &[u8]) -> ([i16; 6], u32) {
    let byte = |place: usize| bytes.get(place).copied().unwrap_or(0);
    let year = i16::from_le_bytes([byte(1), byte(2)]);
    let [month, day, hour, minute, second] = [3, 4, 5, 6, 7].map(|place| i16::from(byte(place)));
    ([year, month, day, hour, minute, second], u32::from_le_bytes([byte(8), byte(9), byte(10), byte(11)]))
}

/// A day; as text if it is none (`2024-00-00`, which MySQL takes in some modes).
fn date(bytes: &[u8]) -> Cell {
    let ([year, month, day, ..], _) = parts(bytes);
    let small = |value: i16| i8::try_from(value).unwrap_or(-1);
    Date::new(year, small(month), small(day)).map_or_else(|_| Cell::Text(format!("{year:04}-{month:02}-{day:02}")), Cell::Date)
}

fn timestamp(bytes: &[u8]) -> Cell {
    let ([year, month, day, hour, minute, second], microseconds) = parts(bytes);
    let small = |value: i16| i8::try_from(value).unwrap_or(-1);
    let nanoseconds = i32::try_from(microseconds).ok().and_then(|value| value.checked_mul(1000)).unwrap_or(-1);
    let time = DateTime::new(year, small(month), small(day), small(hour), small(minute), small(second), nanoseconds);
    match time.and_then(|time| TimeZone::UTC.to_timestamp(time)) {
        Ok(time) => Cell::Timestamp(time.as_microsecond()),
        Err(_) => Cell::Text(format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{microseconds:06}")),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::day(&[4, 0xE8, 0x07, 8, 25], "2024-08-25")]
    #[case::no_day(&[4, 0xE8, 0x07, 0, 0], "2024-00-00")]
    #[case::cut(&[4], "0000-00-00")]
    fn days(#[case] bytes: &[u8], #[case] expected: &str) {
        assert_eq!(date(bytes).to_string(), expected);
    }

    #[rstest]
    #[case::midnight(&[4, 0xE8, 0x07, 8, 25], Cell::Timestamp(1_724_544_000_000_000))]
    #[case::seconds(&[7, 0xE8, 0x07, 8, 25, 7, 4, 45], Cell::Timestamp(1_724_569_485_000_000))]
    #[case::microseconds(&[11, 0xE8, 0x07, 8, 25, 7, 4, 45, 0x40, 0xE2, 0x01, 0x00], Cell::Timestamp(1_724_569_485_123_456))]
    #[case::no_time(&[7, 0xE8, 0x07, 0, 0, 7, 4, 45], Cell::Text("2024-00-00 07:04:45.000000".to_owned()))]
    fn timestamps(#[case] bytes: &[u8], #[case] expected: Cell) {
        assert_eq!(timestamp(bytes), expected);
    }

    #[test]
    fn the_largest_number_is_exact() {
        assert_eq!(unsigned(u64::MAX), Cell::Decimal("18446744073709551615".to_owned()));
        assert_eq!(unsigned(7), Cell::Integer(7));
    }

    #[rstest]
    #[case::declared("BOOLEAN", Some(MySqlType::Boolean), Kind::Boolean)]
    #[case::not_declared("BOOLEAN", None, Kind::Integer)]
    #[case::declared_as_a_number("BOOLEAN", Some(MySqlType::Tinyint), Kind::Integer)]
    #[case::json("JSON", None, Kind::Text)]
    #[case::shape("GEOMETRY", None, Kind::Text)]
    #[case::sum("DECIMAL", None, Kind::Decimal)]
    fn kinds(#[case] name: &str, #[case] declared: Option<MySqlType>, #[case] expected: Kind) {
        assert_eq!(form(name, false, declared).1, expected);
    }
}
