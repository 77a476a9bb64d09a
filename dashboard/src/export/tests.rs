use std::collections::BTreeMap;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Date32Type, Decimal128Type, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use arrow::ipc::reader::StreamReader;
use jiff::civil::date;
use proptest::prelude::*;

use super::*;
use crate::table::Column;

fn trades() -> Table {
    let columns = [
        ("id", Kind::Integer),
        ("total", Kind::Decimal),
        ("price", Kind::Float),
        ("sector", Kind::Text),
        ("date", Kind::Date),
        ("at", Kind::Timestamp),
        ("final", Kind::Boolean),
    ];
    let row = vec![
        Cell::Integer(9_007_199_254_740_993),
        Cell::decimal("123456789012345678901234567890.1200"),
        Cell::Float(0.1),
        Cell::Text("Oil, \"Gas\"\n& more".to_owned()),
        Cell::Date(date(2024, 8, 25)),
        Cell::Timestamp(1_724_569_485_000_000),
        Cell::Boolean(true),
    ];
    let columns = columns.into_iter().map(|(name, kind)| Column::new(name, kind)).collect();
    Table { columns, rows: vec![row, vec![Cell::Null, Cell::decimal("-7.5")]], truncated: false }
}

#[test]
fn csv_is_what_spreadsheets_read() {
    let text = String::from_utf8(csv(&trades()).unwrap()).unwrap();
    let expected = "id,total,price,sector,date,at,final\r\n\
        9007199254740993,123456789012345678901234567890.1200,0.1,\"Oil, \"\"Gas\"\"\n& more\",2024-08-25,2024-08-25T07:04:45Z,true\r\n\
        ,-7.5,,,,,\r\n";
    assert_eq!(text, expected);
}

#[test]
fn json_has_every_digit() {
    let text = String::from_utf8(json(&trades()).unwrap()).unwrap();
    let expected = "[{\"id\":9007199254740993,\"total\":123456789012345678901234567890.1200,\"price\":0.1,\"sector\":\"Oil, \\\"Gas\\\"\\n& more\",\
        \"date\":\"2024-08-25\",\"at\":\"2024-08-25T07:04:45Z\",\"final\":true},\
        {\"id\":null,\"total\":-7.5,\"price\":null,\"sector\":null,\"date\":null,\"at\":null,\"final\":null}]";
    assert_eq!(text, expected);
}

#[test]
fn json_has_no_nan() {
    let table = Table { columns: vec![Column::new("x", Kind::Float)], rows: vec![vec![Cell::Float(f64::NAN)]], truncated: false };
    assert_eq!(json(&table).unwrap(), br#"[{"x":"NaN"}]"#);
}

fn read(bytes: &[u8]) -> RecordBatch {
    let mut reader = StreamReader::try_new(bytes, None).unwrap();
    let batch = reader.next().unwrap().unwrap();
    assert!(reader.next().is_none());
    batch
}

#[test]
fn arrow_has_the_types() {
    let batch = read(&arrow(&trades()).unwrap());
    let types: Vec<DataType> = batch.schema().fields().iter().map(|field| field.data_type().clone()).collect();
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    assert_eq!(types, [DataType::Int64, DataType::Decimal128(38, 4), DataType::Float64, DataType::Utf8, DataType::Date32, utc, DataType::Boolean]);
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().value(0), 9_007_199_254_740_993);
    assert_eq!(batch.column(1).as_primitive::<Decimal128Type>().value(0), 1_234_567_890_123_456_789_012_345_678_901_200);
    assert_eq!(batch.column(1).as_primitive::<Decimal128Type>().value(1), -75_000);
    assert_eq!(batch.column(2).as_primitive::<Float64Type>().value(0).to_bits(), 0.1_f64.to_bits());
    assert_eq!(batch.column(4).as_primitive::<Date32Type>().value(0), 19_960);
    assert_eq!(batch.column(5).as_primitive::<TimestampMicrosecondType>().value(0), 1_724_569_485_000_000);
    assert_eq!(batch.columns().iter().map(arrow::array::Array::null_count).sum::<usize>(), 6, "what a row does not have is null");
}

#[test]
fn what_does_not_fit_its_arrow_type_is_text() {
    let columns = vec![Column::new("long", Kind::Decimal), Column::new("mixed", Kind::Integer), Column::new("power", Kind::Decimal)];
    let row = vec![Cell::decimal(&"9".repeat(39)), Cell::Text("many".to_owned()), Cell::decimal("1E+3")];
    let batch = read(&arrow(&Table { columns, rows: vec![row, vec![Cell::decimal("1"), Cell::Integer(1), Cell::Null]], truncated: false }).unwrap());
    let texts: Vec<&str> = (0..3).map(|column| batch.column(column).as_string::<i32>().value(0)).collect();
    assert_eq!(texts, ["9".repeat(39).as_str(), "many", "1E+3"]);
    assert_eq!(batch.column(1).as_string::<i32>().value(1), "1");
}

#[test]
fn two_scales_that_do_not_fit_together_are_text() {
    let rows = vec![vec![Cell::decimal(&"9".repeat(38))], vec![Cell::decimal("0.5")]];
    let batch = read(&arrow(&Table { columns: vec![Column::new("x", Kind::Decimal)], rows, truncated: false }).unwrap());
    assert_eq!(batch.column(0).as_string::<i32>().value(1), "0.5");
}

#[test]
fn a_table_without_columns_or_rows_is_a_file() {
    let nothing = Table::default();
    assert_eq!((csv(&nothing).unwrap(), json(&nothing).unwrap()), (vec![], b"[]".to_vec()));
    assert_eq!(read(&arrow(&nothing).unwrap()).num_columns(), 0);
    let no_rows = Table { rows: vec![], ..trades() };
    assert_eq!(csv(&no_rows).unwrap(), b"id,total,price,sector,date,at,final\r\n");
    assert_eq!(read(&arrow(&no_rows).unwrap()).num_rows(), 0);
}

fn cell(kind: Kind) -> BoxedStrategy<Cell> {
    let value = match kind {
        Kind::Boolean => any::<bool>().prop_map(Cell::Boolean).boxed(),
        Kind::Integer => any::<i64>().prop_map(Cell::Integer).boxed(),
        Kind::Decimal => "-?[0-9]{1,45}(\\.[0-9]{1,10})?".prop_map(|digits| Cell::decimal(&digits)).boxed(),
        Kind::Float => any::<f64>().prop_filter("a number that JSON has", |value| value.is_finite()).prop_map(Cell::Float).boxed(),
        Kind::Text => "\\PC*|[\\r\\n\",=]{0,5}".prop_map(Cell::Text).boxed(),
        Kind::Date => (-9999_i16..=9999, 1_i8..=12, 1_i8..=28).prop_map(|(year, month, day)| Cell::Date(date(year, month, day))).boxed(),
        Kind::Timestamp => (-377_705_023_201_000_000_i64..=253_402_207_200_999_999).prop_map(Cell::Timestamp).boxed(),
    };
    prop_oneof![1 => Just(Cell::Null), 6 => value].boxed()
}

const KINDS: [Kind; 7] = [Kind::Boolean, Kind::Integer, Kind::Decimal, Kind::Float, Kind::Text, Kind::Date, Kind::Timestamp];

fn table() -> impl Strategy<Value = Table> {
    let row = KINDS.map(cell).to_vec();
    prop::collection::vec(row, 0..8).prop_flat_map(|rows| {
        let ragged: Vec<_> = rows.into_iter().map(|row| (Just(row), 0..=KINDS.len()).prop_map(|(row, length)| row[..length].to_vec())).collect();
        ragged.prop_map(|rows| {
            let columns = KINDS.iter().enumerate().map(|(place, kind)| Column::new(format!("c{place}"), *kind)).collect();
            Table { columns, rows, truncated: false }
        })
    })
}

/// `text` read as a cell of `kind`, by other means than those that wrote it.
fn parsed(kind: Kind, text: &str) -> Cell {
    match kind {
        Kind::Boolean => Cell::Boolean(text.parse().unwrap()),
        Kind::Integer => Cell::Integer(text.parse().unwrap()),
        Kind::Decimal => Cell::Decimal(text.to_owned()),
        Kind::Float => Cell::Float(text.parse().unwrap()),
        Kind::Text => Cell::Text(text.to_owned()),
        Kind::Date => Cell::Date(text.parse().unwrap()),
        Kind::Timestamp => Cell::Timestamp(text.parse::<Timestamp>().unwrap().as_microsecond()),
    }
}

proptest! {
    #[test]
    fn csv_and_json_carry_the_values_of_the_table(table in table()) {
        let csv = csv(&table).unwrap();
        let records: Vec<csv::StringRecord> = csv::Reader::from_reader(csv.as_slice()).into_records().map(Result::unwrap).collect();
        let objects: Vec<BTreeMap<String, Box<RawValue>>> = serde_json::from_slice(&json(&table).unwrap()).unwrap();
        prop_assert_eq!((records.len(), objects.len()), (table.rows.len(), table.rows.len()));
        for ((row, record), object) in table.rows.iter().zip(&records).zip(&objects) {
            prop_assert_eq!(object.len(), table.columns.len());
            for (place, column) in table.columns.iter().enumerate() {
                let cell = row.get(place).unwrap_or(&Cell::Null);
                let raw = object[&column.name].get();
                let empty = matches!(cell, Cell::Text(text) if text.is_empty());
                if cell.is_null() || empty {
                    prop_assert_eq!(&record[place], "");
                    prop_assert_eq!(raw, if empty { "\"\"" } else { "null" });
                } else {
                    let text = serde_json::from_str::<String>(raw).unwrap_or_else(|_| raw.to_owned());
                    prop_assert_eq!(&parsed(column.kind, &record[place]), cell);
                    prop_assert_eq!(&parsed(column.kind, &text), cell);
                    prop_assert_eq!(raw.starts_with('"'), matches!(column.kind, Kind::Text | Kind::Date | Kind::Timestamp));
                }
            }
        }
    }

    #[test]
    fn arrow_carries_as_many_values_as_the_table(table in table()) {
        let batch = read(&arrow(&table).unwrap());
        for place in 0..table.columns.len() {
            let nulls = table.rows.iter().filter(|row| row.get(place).is_none_or(Cell::is_null)).count();
            prop_assert_eq!(batch.column(place).null_count(), nulls);
        }
    }
}
