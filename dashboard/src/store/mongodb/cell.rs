//! Documents as rows: a column for each field that one of them has, and a cell for each value; what is nested is its JSON text.

use std::fmt::Write;

use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, Document};

use crate::table::{Cell, Column, Kind, Table};

/// The row's write time, which Tapeline's sink keeps in each document: of least interest, so last.
const WRITE_TIME: &str = "_w";

/// `documents` as rows. Columns come in the order in which their fields first do, `_id` first and `_w` last.
pub(super) fn table(documents: Vec<Document>) -> Table {
    let mut names: Vec<String> = Vec::new();
    for name in documents.iter().flat_map(Document::keys) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names.sort_by_key(|name| match name.as_str() {
        "_id" => 0,
        WRITE_TIME => 2,
        _ => 1,
    });
    let row = |mut document: Document| names.iter().map(|name| document.remove(name).map_or(Cell::Null, cell)).collect();
    let rows: Vec<Vec<Cell>> = documents.into_iter().map(row).collect();
    let columns = names.iter().enumerate().map(|(place, name)| Column::new(name, kind(rows.iter().filter_map(|row| row.get(place))))).collect();
    Table { columns, rows, truncated: false }
}

/// What all of `cells` are; text if they are not of one kind, though whole numbers are floats and decimals, too.
fn kind<'a>(cells: impl Iterator<Item = &'a Cell>) -> Kind {
    let common = |one: Kind, other: Kind| match (one, other) {
        _ if one == other => one,
        (Kind::Integer, Kind::Float) | (Kind::Float, Kind::Integer) => Kind::Float,
        (Kind::Integer, Kind::Decimal) | (Kind::Decimal, Kind::Integer) => Kind::Decimal,
        _ => Kind::Text,
    };
    cells.filter_map(Cell::kind).reduce(common).unwrap_or(Kind::Text)
}

fn cell(value: Bson) -> Cell {
    match value {
        Bson::Null | Bson::Undefined => Cell::Null,
        Bson::Boolean(value) => Cell::Boolean(value),
        Bson::Int32(value) => Cell::Integer(value.into()),
        Bson::Int64(value) => Cell::Integer(value),
        Bson::Double(value) => Cell::Float(value),
        Bson::Decimal128(value) => Cell::decimal(&value.to_string()),
        Bson::DateTime(value) => Cell::milliseconds(value.timestamp_millis()),
        Bson::String(text) | Bson::Symbol(text) => Cell::Text(text),
        value @ (Bson::Document(_) | Bson::Array(_)) => {
            let mut text = String::new();
            json(&value, &mut text);
            Cell::Text(text)
        }
        other => Cell::Text(scalar(&other)),
    }
}

/// A value that is neither a number nor a time nor nested.
fn scalar(value: &Bson) -> String {
    match value {
        Bson::ObjectId(id) => id.to_hex(),
        Bson::Binary(binary) => binary_text(binary),
        Bson::String(text) | Bson::Symbol(text) => text.clone(),
        other => other.to_string(),
    }
}

fn binary_text(binary: &Binary) -> String {
    if binary.subtype == BinarySubtype::Uuid
        && let Ok(uuid) = binary.to_uuid()
    {
        return uuid.to_string();
    }
    let hex = binary.bytes.iter().fold(String::with_capacity(2 * binary.bytes.len()), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    format!("0x{hex}")
}

/// Appends `value` as JSON, members in their order, numbers with all their digits.
fn json(value: &Bson, text: &mut String) {
    match value {
        Bson::Document(document) => {
            text.push('{');
            for (place, (name, value)) in document.iter().enumerate() {
                text.push_str(if place == 0 { "" } else { "," });
                text.push_str(&quoted(name));
                text.push(':');
                json(value, text);
            }
            text.push('}');
        }
        Bson::Array(values) => {
            text.push('[');
            for (place, value) in values.iter().enumerate() {
                text.push_str(if place == 0 { "" } else { "," });
                json(value, text);
            }
            text.push(']');
        }
        other => match cell(other.clone()) {
            Cell::Null => text.push_str("null"),
            value @ (Cell::Boolean(_) | Cell::Integer(_) | Cell::Decimal(_)) => text.push_str(&value.to_string()),
            Cell::Float(value) if value.is_finite() => text.push_str(&Cell::Float(value).to_string()),
            value => text.push_str(&quoted(&value.to_string())),
        },
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use mongodb::bson::oid::ObjectId;
    use mongodb::bson::{DateTime, Uuid, doc};
    use rstest::rstest;

    use super::*;

    #[test]
    fn the_columns_of_a_page_are_the_fields_of_its_documents() {
        let documents = vec![doc! {"price": 1.5, "_w": 3_i64, "_id": "b"}, doc! {"_id": "a", "ticker": "AAPL", "price": 2, "_w": 1_i64}];
        let table = table(documents);
        let columns = [("_id", Kind::Text), ("price", Kind::Float), ("ticker", Kind::Text), ("_w", Kind::Integer)];
        assert_eq!(table.columns, columns.map(|(name, kind)| Column::new(name, kind)));
        assert_eq!(table.rows[0], [Cell::Text("b".to_owned()), Cell::Float(1.5), Cell::Null, Cell::Integer(3)]);
        assert_eq!(table.rows[1], [Cell::Text("a".to_owned()), Cell::Integer(2), Cell::Text("AAPL".to_owned()), Cell::Integer(1)]);
    }

    #[rstest]
    #[case::nested(Bson::Document(doc! {"z": [1, 2.5, Bson::Null], "a": {"t": "say \"hi\""}}), r#"{"z":[1,2.5,null],"a":{"t":"say \"hi\""}}"#)]
    #[case::time_in_a_list(Bson::Array(vec![DateTime::from_millis(1_724_569_485_000).into()]), r#"["2024-08-25 07:04:45"]"#)]
    #[case::exact_in_a_list(Bson::Array(vec![Bson::Int64(i64::MAX), Bson::Decimal128("0.10".parse().unwrap())]), "[9223372036854775807,0.10]")]
    #[case::no_number_in_a_list(Bson::Array(vec![Bson::Double(f64::NAN)]), r#"["NaN"]"#)]
    #[case::decimal(Bson::Decimal128("12345678901234567890.1200".parse().unwrap()), "12345678901234567890.1200")]
    #[case::time(Bson::DateTime(DateTime::from_millis(1_724_569_485_120)), "2024-08-25 07:04:45.12")]
    #[case::object_id(Bson::ObjectId(ObjectId::from_bytes([0xAB; 12])), "abababababababababababab")]
    #[case::uuid(Bson::Binary(Uuid::from_bytes([0x11; 16]).into()), "11111111-1111-1111-1111-111111111111")]
    #[case::bytes(Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 0xAB] }), "0x01ab")]
    fn a_value_as_people_see_it(#[case] value: Bson, #[case] expected: &str) {
        assert_eq!(cell(value).to_string(), expected);
    }

    #[test]
    fn nested_values_are_json() {
        let mut text = String::new();
        json(&Bson::Document(doc! {"a\n": [true, {"b": ObjectId::from_bytes([1; 12])}, Bson::MaxKey]}), &mut text);
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
    }

    #[test]
    fn a_field_of_several_types_is_text() {
        let table = table(vec![doc! {"x": 1}, doc! {"x": "one"}, doc! {"x": Bson::Null}]);
        assert_eq!(table.columns[0].kind, Kind::Text);
        assert_eq!(table.rows[0], [Cell::Integer(1)], "and its cells are what they are");
    }
}
