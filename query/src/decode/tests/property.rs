//! Whatever records serde_json can build for whatever stream, they are read as serde_json says; and in one piece as one by one.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{Decimal128Type, Float64Type, Int64Type};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tapeline_api::path::join;

use super::*;

const TYPES: [&str; 8] = ["boolean", "bigint", "double", "string", "json", "list(string)", "list(bigint)", "decimal(38,10)"];

/// The keys above a field.
fn parents() -> impl Strategy<Value = Vec<String>> {
    vec(prop::sample::select(vec!["o", "p.q", "R s", "ä\\"]).prop_map(str::to_owned), 0..3)
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        finite().prop_map(Value::from),
        ".*".prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,3}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect()))
        ]
    })
}

fn finite() -> impl Strategy<Value = f64> {
    any::<f64>().prop_filter("JSON has no others", |number| number.is_finite())
}

/// What a record has at a field of `type_`, and what is to be read there.
fn value(type_: &str) -> BoxedStrategy<Value> {
    match type_ {
        "boolean" => any::<bool>().prop_map(Value::from).boxed(),
        "bigint" => any::<i64>().prop_map(Value::from).boxed(),
        "double" => finite().prop_map(Value::from).boxed(),
        "string" => ".*".prop_map(Value::from).boxed(),
        "json" => any_json().boxed(),
        "list(string)" => vec(prop_oneof![Just(Value::Null), ".*".prop_map(Value::from)], 0..4).prop_map(Value::from).boxed(),
        "list(bigint)" => vec(any::<i64>().prop_map(Value::from), 0..4).prop_map(Value::from).boxed(),
        _ => (-(10_i128.pow(38) - 1)..10_i128.pow(38)).prop_map(|units| Value::from(in_decimal(units))).boxed(),
    }
}

/// As text, with ten digits behind the point.
fn in_decimal(units: i128) -> String {
    let unit = 10_i128.pow(10);
    format!("{}{}.{:010}", if units < 0 { "-" } else { "" }, (units / unit).abs(), (units % unit).abs())
}

#[derive(Debug, Clone)]
struct Given {
    stream: Stream,
    keys: Vec<Vec<String>>,
    types: Vec<&'static str>,
    /// Of each record the value of each field, if it has it.
    records: Vec<Vec<Option<Value>>>,
    extra: Value,
}

fn given() -> impl Strategy<Value = Given> {
    vec((prop::sample::select(TYPES.to_vec()), parents()), 1..6).prop_flat_map(|fields| {
        let types: Vec<&'static str> = fields.iter().map(|(type_, _)| *type_).collect();
        let keys: Vec<Vec<String>> =
            fields.iter().enumerate().map(|(index, (_, parents))| parents.iter().cloned().chain([format!("f.{index}")]).collect()).collect();
        let declared: Vec<Value> = keys
            .iter()
            .zip(&types)
            .enumerate()
            .map(|(index, (keys, type_))| json!({"name": format!("f{index}"), "type": type_, "path": join(keys.iter().map(String::as_str))}))
            .collect();
        let stream: Stream = serde_json::from_value(json!({"name": "s", "topic": "t", "fields": declared})).unwrap();
        let record: Vec<_> = types.iter().map(|type_| prop::option::of(value(type_))).collect();
        (vec(record, 0..8), any_json()).prop_map(move |(records, extra)| Given {
            stream: stream.clone(),
            keys: keys.clone(),
            types: types.clone(),
            records,
            extra,
        })
    })
}

impl Given {
    fn record(&self, values: &[Option<Value>]) -> Value {
        let mut record = Map::from_iter([("unknown".to_owned(), self.extra.clone())]);
        for (keys, value) in self.keys.iter().zip(values) {
            let Some(value) = value else { continue };
            let (last, parents) = keys.split_last().unwrap();
            let mut object = &mut record;
            for key in parents {
                object = object.entry(key.clone()).or_insert_with(|| json!({})).as_object_mut().unwrap();
            }
            object.insert(last.clone(), value.clone());
        }
        Value::Object(record)
    }

    /// Every second record in an object of its own, the others in arrays.
    fn payloads(&self) -> Vec<String> {
        let records: Vec<Value> = self.records.iter().map(|values| self.record(values)).collect();
        records.chunks(3).flat_map(|three| [three[0].to_string(), Value::from(three[1..].to_vec()).to_string()]).collect()
    }

    fn read(&self, payloads: &[String]) -> Chunk {
        let messages: Vec<Message<'_>> =
            payloads.iter().zip(0..).map(|(text, offset)| Message { offset, payload: Some(text.as_bytes()), ..Message::default() }).collect();
        Decoder::new(&self.stream, |_| true).unwrap().decode(&messages, &mut WriteTimes::default()).unwrap()
    }
}

/// What a column has in a row, as JSON.
fn shown(column: &ArrayRef, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Boolean => column.as_boolean().value(row).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).into(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(row).into(),
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        DataType::Decimal128(..) => in_decimal(column.as_primitive::<Decimal128Type>().value(row)).into(),
        _ => {
            let items = column.as_list::<i32>().value(row);
            (0..items.len()).map(|item| shown(&items, item)).collect()
        }
    }
}

proptest! {
    #[test]
    fn records_are_read_as_serde_json_says(given in given()) {
        let chunk = given.read(&given.payloads());
        prop_assert!(chunk.bad.is_empty(), "{:?}", chunk.bad);
        prop_assert_eq!(chunk.batch.num_rows(), given.records.len());
        for (row, record) in given.records.iter().enumerate() {
            for (index, (value, type_)) in record.iter().zip(&given.types).enumerate() {
                let expected = match value {
                    Some(value) if *type_ == "json" && !value.is_null() => Value::from(value.to_string()),
                    other => other.clone().unwrap_or_default(),
                };
                prop_assert_eq!(shown(chunk.batch.column(index), row), expected);
            }
        }
    }

    #[test]
    fn one_by_one_they_are_the_same_as_in_one_piece(given in given(), place in any::<prop::sample::Index>()) {
        let mut payloads = given.payloads();
        let whole = given.read(&payloads);
        payloads.insert(place.index(payloads.len() + 1), "{\"f\": ".to_owned());
        let pieces = given.read(&payloads);
        prop_assert_eq!(pieces.bad.len(), 1);
        for index in 0..given.types.len() {
            prop_assert_eq!(whole.batch.column(index), pieces.batch.column(index));
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_lose_a_neighbour(bytes in vec(any::<u8>(), 0..60), json in "[\\[\\]{}\":,0-9a\\\\ue. -]{0,60}") {
        let stream: Stream = serde_json::from_value(json!({"name": "s", "topic": "t", "unknownFields": "Reject", "fields": [
            {"name": "a", "type": "bigint"}, {"name": "j", "type": "json", "path": "e.a"}, {"name": "d", "type": "decimal(9,2)"}
        ]})).unwrap();
        let payloads: [&[u8]; 4] = [br#"{"a": 1}"#, &bytes, json.as_bytes(), br#"{"a": 2}"#];
        let messages: Vec<Message<'_>> = payloads.into_iter().zip(0..).map(|(payload, offset)| Message { offset, payload: Some(payload), ..Message::default() }).collect();
        let chunk = Decoder::new(&stream, |_| true).unwrap().decode(&messages, &mut WriteTimes::default()).unwrap();
        let offsets = chunk.batch.column_by_name("_offset").unwrap().as_primitive::<Int64Type>().values().to_vec();
        prop_assert!(offsets.contains(&0) && offsets.contains(&3), "{offsets:?} {:?}", chunk.bad);
    }
}
