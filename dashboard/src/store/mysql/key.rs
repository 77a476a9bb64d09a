//! The primary key of a table as a place to go on from: the condition for what comes after a row, and the values that it is bound to.

use tapeline_api::names::SqlName;
use tapeline_api::pipeline::mysql::MySqlTable;
use tapeline_api::types::MySqlType;

use super::super::{StoreError, descending, not_a_cursor};
use crate::table::{Cell, Column};

/// A value that is bound to a statement.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Bound {
    Integer(i64),
    Float(f64),
    Text(String),
}

/// The columns of a primary key, in order.
#[derive(Debug)]
pub(super) struct Key<'a> {
    columns: Vec<(&'a SqlName, MySqlType)>,
    /// Whether greater means later: the rows are numbered as they come, or begin with a time.
    newest: bool,
}

impl<'a> Key<'a> {
    pub(super) fn of(table: &'a MySqlTable) -> Result<Self, StoreError> {
        let declared = |name: &SqlName| table.columns.iter().find(|column| column.name == *name);
        let columns: Option<Vec<_>> = table.primary_key.iter().map(|name| Some((name, declared(name)?.type_))).collect();
        let columns = columns.filter(|columns| !columns.is_empty());
        let columns = columns
            .ok_or_else(|| StoreError::Invalid(format!("the primary key of the table {} is not among its columns: see spec.mysql.tables", table.name)))?;
        let newest = table
            .primary_key
            .first()
            .and_then(declared)
            .is_some_and(|first| first.auto_increment || matches!(first.type_, MySqlType::Date | MySqlType::Timestamp(_) | MySqlType::Datetime(_)));
        Ok(Self { columns, newest })
    }

    pub(super) fn names(&self) -> Vec<&str> {
        self.columns.iter().map(|(name, _)| name.as_str()).collect()
    }

    pub(super) fn words(&self) -> String {
        descending(self.newest, &self.names())
    }

    pub(super) fn order(&self) -> String {
        self.columns.iter().map(|(name, _)| format!("{} DESC", name.backticked())).collect::<Vec<_>>().join(", ")
    }

    /// The condition of what comes after a row: for each column, those before it equal and itself less. Bound to what [`Key::bound`] gives.
    pub(super) fn after(&self) -> String {
        let compared = |(name, type_): &(&SqlName, MySqlType), with: &str| format!("{} {with} {}", name.backticked(), parameter(*type_));
        let alternatives = self.columns.iter().enumerate().map(|(place, last)| {
            let equal = self.columns.iter().take(place).map(|column| compared(column, "="));
            let terms: Vec<String> = equal.chain([compared(last, "<")]).collect();
            format!("({})", terms.join(" AND "))
        });
        alternatives.collect::<Vec<_>>().join(" OR ")
    }

    /// The key of `row` as text.
    pub(super) fn values(&self, columns: &[Column], row: &[Cell]) -> Option<Vec<String>> {
        let value = |(name, _): &(&SqlName, MySqlType)| {
            let place = columns.iter().position(|column| column.name == name.as_str())?;
            Some(match row.get(place)? {
                Cell::Null => return None,
                Cell::Boolean(value) => i8::from(*value).to_string(),
                cell => cell.to_string(),
            })
        };
        self.columns.iter().map(value).collect()
    }

    /// The parameters of [`Key::after`] for a row with the key `values`.
    pub(super) fn bound(&self, values: &[String]) -> Result<Vec<Bound>, StoreError> {
        if values.len() != self.columns.len() {
            return Err(not_a_cursor());
        }
        let bound: Option<Vec<Bound>> = self.columns.iter().zip(values).map(|((_, type_), value)| bind(*type_, value)).collect();
        let bound = bound.ok_or_else(not_a_cursor)?;
        Ok((1..=bound.len()).flat_map(|length| bound.iter().take(length).cloned().collect::<Vec<_>>()).collect())
    }
}

/// What stands for a value. Decimals and times are compared as such: with a text MySQL would compare decimals as floats, which round them.
fn parameter(type_: MySqlType) -> String {
    match type_ {
        MySqlType::Decimal { precision, scale } => format!("CAST(? AS DECIMAL({precision},{scale}))"),
        MySqlType::Date => "CAST(? AS DATE)".to_owned(),
        MySqlType::Timestamp(digits) | MySqlType::Datetime(digits) => format!("CAST(? AS DATETIME({digits}))"),
        _ => "?".to_owned(),
    }
}

fn bind(type_: MySqlType, value: &str) -> Option<Bound> {
    Some(match type_ {
        MySqlType::Boolean | MySqlType::Tinyint | MySqlType::Smallint | MySqlType::Int | MySqlType::Bigint => Bound::Integer(value.parse().ok()?),
        // The column's value is that of the 32 bits, not of the digits that name them.
        MySqlType::Float => Bound::Float(value.parse::<f32>().ok()?.into()),
        MySqlType::Double => Bound::Float(value.parse().ok()?),
        _ => Bound::Text(value.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;
    use serde_json::json;

    use super::*;
    use crate::table::Kind;

    fn table() -> MySqlTable {
        serde_json::from_value(json!({
            "name": "candles",
            "columns": [
                {"name": "date", "type": "date"}, {"name": "final", "type": "boolean"}, {"name": "weight", "type": "float"},
                {"name": "price", "type": "decimal(30,10)"}, {"name": "volume", "type": "bigint"}
            ],
            "primaryKey": ["date", "final", "weight", "price"],
        }))
        .unwrap()
    }

    #[test]
    fn a_row_is_gone_on_from_by_the_values_of_its_key() {
        let table = table();
        let key = Key::of(&table).unwrap();
        let columns: Vec<Column> = ["volume", "price", "weight", "final", "date"].map(|name| Column::new(name, Kind::Text)).to_vec();
        let price = "12345678901234567890.0123456789";
        let row = [Cell::Integer(7), Cell::decimal(price), Cell::short_float(0.1), Cell::Boolean(true), Cell::Date(date(2024, 8, 25))];
        let values = key.values(&columns, &row).unwrap();
        assert_eq!(values, ["2024-08-25", "1", "0.1", price]);
        let [day, end, weight] = [Bound::Text("2024-08-25".to_owned()), Bound::Integer(1), Bound::Float(f64::from(0.1_f32))];
        let expected = [&day, &day, &end, &day, &end, &weight, &day, &end, &weight, &Bound::Text(price.to_owned())].map(Clone::clone);
        assert_eq!(key.bound(&values).unwrap(), expected);
        assert_eq!(key.after().matches('?').count(), expected.len());
    }

    #[test]
    fn a_row_without_its_key_is_no_place() {
        let table = table();
        assert_eq!(Key::of(&table).unwrap().values(&[Column::new("date", Kind::Date)], &[Cell::Date(date(2024, 8, 25))]), None);
    }

    #[test]
    fn the_order_is_said_in_words() {
        let mut table = table();
        assert_eq!(Key::of(&table).unwrap().words(), "newest first by date, final, weight, price");
        table.primary_key = vec!["volume".parse().unwrap()];
        assert_eq!(Key::of(&table).unwrap().words(), "greatest first by volume");
        table.columns.iter_mut().for_each(|column| column.auto_increment = column.name.as_str() == "volume");
        assert_eq!(Key::of(&table).unwrap().words(), "newest first by volume");
    }

    #[test]
    fn a_key_that_is_no_column_is_invalid() {
        let mut table = table();
        table.primary_key = vec!["id".parse().unwrap()];
        assert!(matches!(Key::of(&table), Err(StoreError::Invalid(text)) if text.contains("candles")));
    }
}
