//! Rows as people look at them, wherever they come from: what the stores read becomes a [`Table`], which pages filter and show, charts draw, and exports write.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use jiff::civil::Date;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// true or false
    Boolean,
    /// 64 bits, signed
    Integer,
    /// Exact numbers of any length
    Decimal,
    /// IEEE 754, 64 bits
    Float,
    /// Text, and whatever is shown as text
    Text,
    /// Days without a time zone
    Date,
    /// Microseconds since 1970 in UTC
    Timestamp,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name in the store.
    pub name: String,
    /// What its cells are. A cell can be of another kind where the store mixes them (documents), or has a value that the kind cannot hold.
    pub kind: Kind,
}

impl Column {
    /// The column `name` of `kind`.
    #[must_use]
    pub fn new(name: impl Into<String>, kind: Kind) -> Self {
        Self { name: name.into(), kind }
    }
}

/// A value. Its `Display` is for people: nothing for a null, `2024-08-25 07:04:45` in UTC for a timestamp.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// No value.
    Null,
    /// true or false
    Boolean(bool),
    /// 64 bits, signed
    Integer(i64),
    /// The digits of a number, as JSON writes them: made with [`Cell::decimal`].
    Decimal(String),
    /// IEEE 754, 64 bits
    Float(f64),
    /// Text.
    Text(String),
    /// A day.
    Date(Date),
    /// Microseconds since 1970 in UTC.
    Timestamp(i64),
}

impl Cell {
    /// The number that `digits` write, or a text if they write none (`NaN`). Leading zeros go, since JSON has none; nothing is rounded.
    #[must_use]
    pub fn decimal(digits: &str) -> Self {
        number(digits).map_or_else(|| Self::Text(digits.to_owned()), Self::Decimal)
    }

    /// A number of 32 bits, as the shortest digits that name it: 0.1, not 0.10000000149011612.
    #[must_use]
    pub fn short_float(value: f32) -> Self {
        Self::Float(value.to_string().parse().unwrap_or_else(|_| f64::from(value)))
    }

    /// A timestamp of a store that counts milliseconds; as a text if it is further away than microseconds reach.
    #[must_use]
    pub fn milliseconds(value: i64) -> Self {
        value.checked_mul(1000).map_or_else(|| Self::Text(format!("{value} ms since 1970")), Self::Timestamp)
    }

    /// Whether there is no value.
    #[must_use]
    pub const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The kind of column that it fits best; none for a null.
    #[must_use]
    pub const fn kind(&self) -> Option<Kind> {
        Some(match self {
            Self::Null => return None,
            Self::Boolean(_) => Kind::Boolean,
            Self::Integer(_) => Kind::Integer,
            Self::Decimal(_) => Kind::Decimal,
            Self::Float(_) => Kind::Float,
            Self::Text(_) => Kind::Text,
            Self::Date(_) => Kind::Date,
            Self::Timestamp(_) => Kind::Timestamp,
        })
    }

    /// The order in which people look for a value: numbers and times by size, everything else as text.
    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Integer(one), Self::Integer(other)) | (Self::Timestamp(one), Self::Timestamp(other)) => one.cmp(other),
            (Self::Float(one), Self::Float(other)) => one.total_cmp(other),
            (Self::Date(one), Self::Date(other)) => one.cmp(other),
            (Self::Decimal(one), Self::Decimal(other)) => {
                let (near, far) = (one.parse::<f64>().unwrap_or(0.0), other.parse::<f64>().unwrap_or(0.0));
                near.total_cmp(&far).then_with(|| one.cmp(other))
            }
            _ => self.to_string().cmp(&other.to_string()),
        }
    }
}

/// `text` as JSON writes numbers: `-0012.50` is `-12.50`. None if it is no number.
fn number(text: &str) -> Option<String> {
    let (sign, rest) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (mantissa, exponent) = rest.find(['e', 'E']).and_then(|at| rest.split_at_checked(at)).unwrap_or((rest, ""));
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(whole, fraction)| (whole, Some(fraction)));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let power = exponent.strip_prefix(['e', 'E']).map(|power| power.strip_prefix(['+', '-']).unwrap_or(power));
    if !digits(whole) || !fraction.is_none_or(digits) || !power.is_none_or(digits) {
        return None;
    }
    let whole = Some(whole.trim_start_matches('0')).filter(|rest| !rest.is_empty()).unwrap_or("0");
    Some(fraction.map_or_else(|| format!("{sign}{whole}{exponent}"), |fraction| format!("{sign}{whole}.{fraction}{exponent}")))
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Boolean(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Float(value) if value.is_infinite() => f.write_str(if *value < 0.0 { "-Infinity" } else { "Infinity" }),
            // Both write as few digits as name the number; the other one would write all zeros of 1e300.
            Self::Float(value) if value.is_nan() || *value == 0.0 || (1e-5..1e15).contains(&value.abs()) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value:e}"),
            Self::Decimal(text) | Self::Text(text) => f.write_str(text),
            Self::Date(value) => write!(f, "{value}"),
            Self::Timestamp(value) => match Timestamp::from_microsecond(*value) {
                Ok(time) => write!(f, "{}", time.strftime("%F %T%.f")),
                Err(_) => write!(f, "{value} µs since 1970"),
            },
        }
    }
}

/// Rows of named columns. A row may be shorter than there are columns (what is missing is null) or longer (what is too much is not looked at).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    /// The columns, in order.
    pub columns: Vec<Column>,
    /// The rows, in order.
    pub rows: Vec<Vec<Cell>>,
    /// Whether the store has more rows than were asked for.
    pub truncated: bool,
}

impl Table {
    /// The rows that `filters` (column, value) leave: a row stays if each column that is named has, as people see it, one of the values that are named for it.
    /// Columns that are not there are not looked at.
    #[must_use]
    pub fn filtered(&self, filters: &[(String, String)]) -> Self {
        let mut wanted: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
        for (name, value) in filters {
            if let Some(place) = self.place(name) {
                wanted.entry(place).or_default().insert(value);
            }
        }
        let stays = |row: &&Vec<Cell>| wanted.iter().all(|(place, values)| values.contains(row.get(*place).map(Cell::to_string).unwrap_or_default().as_str()));
        Self { columns: self.columns.clone(), rows: self.rows.iter().filter(stays).cloned().collect(), truncated: self.truncated }
    }

    /// The values of a column as people see them, each once, numbers and times by size, without nulls. None if there are more than `most`, or no such column.
    #[must_use]
    pub fn distinct(&self, column: &str, most: usize) -> Option<Vec<String>> {
        let place = self.place(column)?;
        let mut values: BTreeMap<String, &Cell> = BTreeMap::new();
        for cell in self.rows.iter().filter_map(|row| row.get(place)).filter(|cell| !cell.is_null()) {
            values.insert(cell.to_string(), cell);
            if values.len() > most {
                return None;
            }
        }
        let mut values: Vec<(String, &Cell)> = values.into_iter().collect();
        values.sort_by(|(_, one), (_, other)| one.compare(other));
        Some(values.into_iter().map(|(text, _)| text).collect())
    }

    /// The columns by which people filter where nothing else is said: those of text and of days.
    #[must_use]
    pub fn default_filters(&self) -> Vec<String> {
        self.columns.iter().filter(|column| matches!(column.kind, Kind::Text | Kind::Date)).map(|column| column.name.clone()).collect()
    }

    fn place(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|known| known.name == column)
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;
    use rstest::rstest;

    use super::*;

    fn volumes() -> Table {
        let row = |sector: &str, day: i8, volume: i64| vec![Cell::Text(sector.to_owned()), Cell::Date(date(2024, 8, day)), Cell::Integer(volume)];
        let columns = vec![Column::new("sector", Kind::Text), Column::new("date", Kind::Date), Column::new("volume", Kind::Integer)];
        let rows = vec![row("Banks", 25, 10), row("Energy", 25, 9), row("Banks", 26, 200), vec![Cell::Text("Retail".to_owned())], vec![]];
        Table { columns, rows, truncated: true }
    }

    fn filters(filters: &[(&str, &str)]) -> Vec<(String, String)> {
        filters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[rstest]
    #[case::null(Cell::Null, "")]
    #[case::whole_seconds(Cell::Timestamp(1_724_569_485_000_000), "2024-08-25 07:04:45")]
    #[case::a_fraction(Cell::Timestamp(1_724_569_485_120_000), "2024-08-25 07:04:45.12")]
    #[case::before_1970(Cell::Timestamp(-1), "1969-12-31 23:59:59.999999")]
    #[case::beyond_the_calendar(Cell::Timestamp(i64::MAX), "9223372036854775807 µs since 1970")]
    #[case::date(Cell::Date(date(2024, 8, 25)), "2024-08-25")]
    #[case::decimal(Cell::decimal("12345678901234567890.1200"), "12345678901234567890.1200")]
    #[case::small(Cell::Float(0.25), "0.25")]
    #[case::whole(Cell::Float(3.0), "3")]
    #[case::large(Cell::Float(1e300), "1e300")]
    #[case::tiny(Cell::Float(-2.5e-9), "-2.5e-9")]
    #[case::zero(Cell::Float(0.0), "0")]
    #[case::no_number(Cell::Float(f64::NAN), "NaN")]
    #[case::endless(Cell::Float(f64::NEG_INFINITY), "-Infinity")]
    #[case::short(Cell::short_float(0.1), "0.1")]
    #[case::milliseconds(Cell::milliseconds(1_724_569_485_001), "2024-08-25 07:04:45.001")]
    #[case::far_away(Cell::milliseconds(i64::MIN), "-9223372036854775808 ms since 1970")]
    fn a_cell_as_people_see_it(#[case] cell: Cell, #[case] expected: &str) {
        assert_eq!(cell.to_string(), expected);
    }

    #[rstest]
    #[case("1.50", Some("1.50"))]
    #[case("-0012.50", Some("-12.50"))]
    #[case("000", Some("0"))]
    #[case("00.5", Some("0.5"))]
    #[case("1E+3", Some("1E+3"))]
    #[case("-1e-20", Some("-1e-20"))]
    #[case("", None)]
    #[case("-", None)]
    #[case("1.", None)]
    #[case(".5", None)]
    #[case("1e", None)]
    #[case("NaN", None)]
    #[case("1,5", None)]
    fn a_decimal_is_what_json_takes_for_a_number(#[case] text: &str, #[case] expected: Option<&str>) {
        match expected {
            Some(digits) => assert_eq!(Cell::decimal(text), Cell::Decimal(digits.to_owned())),
            None => assert_eq!(Cell::decimal(text), Cell::Text(text.to_owned())),
        }
        if let Some(digits) = expected {
            assert!(serde_json::from_str::<serde_json::Number>(digits).is_ok(), "{digits}");
        }
    }

    #[rstest]
    #[case::none(&[], 5)]
    #[case::one(&[("sector", "Banks")], 2)]
    #[case::either_value(&[("sector", "Banks"), ("sector", "Energy")], 3)]
    #[case::both_columns(&[("sector", "Banks"), ("date", "2024-08-25")], 1)]
    #[case::number(&[("volume", "200")], 1)]
    #[case::no_value(&[("date", "")], 2)]
    #[case::unknown_column(&[("colour", "red")], 5)]
    #[case::unknown_value(&[("sector", "banks")], 0)]
    fn a_filter_takes_what_people_see(#[case] by: &[(&str, &str)], #[case] rows: usize) {
        let table = volumes().filtered(&filters(by));
        assert_eq!((table.rows.len(), table.columns.len(), table.truncated), (rows, 3, true));
    }

    #[test]
    fn distinct_values_are_in_the_order_in_which_people_look_for_them() {
        let table = volumes();
        assert_eq!(table.distinct("sector", 3), Some(vec!["Banks".to_owned(), "Energy".to_owned(), "Retail".to_owned()]));
        assert_eq!(table.distinct("volume", 10), Some(vec!["9".to_owned(), "10".to_owned(), "200".to_owned()]));
        assert_eq!(table.distinct("sector", 2), None);
        assert_eq!(table.distinct("colour", 10), None);
    }

    #[test]
    fn people_filter_by_texts_and_days() {
        assert_eq!(volumes().default_filters(), ["sector", "date"]);
    }
}
