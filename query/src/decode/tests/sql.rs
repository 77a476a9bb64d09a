//! What SQL can do with lists, json, headers and keys.

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use arrow::util::display::array_value_to_string;
use rstest::rstest;
use serde_json::json;
use tapeline_api::pipeline::queries::Takes;

use super::*;
use crate::plan::{Tables, check};
use crate::schema::hidden;

fn orders() -> Stream {
    serde_json::from_value(json!({"name": "orders", "topic": "orders", "tombstones": "Row", "fields": [
        {"name": "id", "type": "bigint", "required": true},
        {"name": "tags", "type": "list(string)"},
        {"name": "sizes", "type": "list(bigint)"},
        {"name": "detail", "type": "json"},
        {"name": "city", "type": "string", "path": "location.city"},
    ]}))
    .unwrap()
}

/// The output columns, row by row, as text.
async fn rows(sql: &str) -> Vec<Vec<String>> {
    let (batch, width) = run(sql).await;
    let shown = |column: usize, row: usize| {
        let values = batch.column(column);
        if values.is_null(row) { "null".to_owned() } else { array_value_to_string(values, row).unwrap() }
    };
    (0..batch.num_rows()).map(|row| (0..width).map(|column| shown(column, row)).collect()).collect()
}

async fn run(sql: &str) -> (RecordBatch, usize) {
    let stream = orders();
    let query = check(Tables { streams: std::slice::from_ref(&stream), references: &[] }, sql, Takes::AnyPlan).unwrap();
    let mut batch = query.start().await.unwrap();
    let first = br#"{"id": 1, "tags": ["a", "b"], "sizes": [3, null], "detail": {"x": [1.50]}, "location": {"city": "Bonn"}}"#;
    let headers: [Header<'_>; 1] = [("trace-id", Some(b"77"))];
    let messages = [
        Message { offset: 7, key: Some(b"k1"), headers: &headers, payload: Some(first), ..Message::default() },
        Message { offset: 8, key: Some(b"k2"), payload: Some(br#"{"id": 2, "tags": []}"#), ..Message::default() },
        Message { offset: 9, key: Some(b"k3"), payload: None, ..Message::default() },
    ];
    let mut decoder = Decoder::new(&stream, |column| query.reads(column)).unwrap();
    let chunk = decoder.decode(&messages, &mut WriteTimes::default()).unwrap();
    assert!(chunk.bad.is_empty(), "{:?}", chunk.bad);
    batch.input.try_send(chunk.batch).unwrap();
    drop(batch.input);
    let mut parts = Vec::new();
    while let Some(part) = batch.output.next().await {
        parts.push(part.unwrap());
    }
    (arrow::compute::concat_batches(&parts[0].schema(), &parts).unwrap(), query.output().len())
}

#[rstest]
#[case::unnest("SELECT id, unnest(tags) AS tag FROM orders", json!([["1", "a"], ["1", "b"]]))]
#[case::length("SELECT id, array_length(tags) AS n FROM orders WHERE id = 1", json!([["1", "2"]]))]
#[case::to_string("SELECT array_to_string(tags, '|') AS t FROM orders WHERE id = 1", json!([["a|b"]]))]
#[case::element("SELECT tags[2] AS t FROM orders WHERE id = 1", json!([["b"]]))]
#[case::as_json("SELECT to_json(tags) AS t, to_json(sizes) AS s, to_json(city) AS c, to_json(id) AS i FROM orders WHERE id = 1", json!([["[\"a\",\"b\"]", "[3,null]", "\"Bonn\"", "1"]]))]
#[case::json("SELECT detail FROM orders", json!([["{\"x\": [1.50]}"], ["null"], ["null"]]))]
#[case::key("SELECT _key AS key, id FROM orders", json!([["k1", "1"], ["k2", "2"], ["k3", "null"]]))]
#[case::deleted("SELECT _key AS key FROM orders WHERE id IS NULL", json!([["k3"]]))]
#[case::header("SELECT id, _headers['trace-id'] AS trace FROM orders", json!([["1", "77"], ["2", "null"], ["null", "null"]]))]
#[case::headers("SELECT to_json(_headers) AS h, _topic AS topic FROM orders WHERE id = 1", json!([["{\"trace-id\":\"77\"}", "orders"]]))]
#[case::star("SELECT * FROM orders WHERE id = 1", json!([["1", "[a, b]", "[3, ]", "{\"x\": [1.50]}", "Bonn"]]))]
#[tokio::test]
async fn sql_over_records(#[case] sql: &str, #[case] expected: serde_json::Value) {
    assert_eq!(json!(rows(sql).await), expected);
}

#[tokio::test]
async fn unnest_is_row_wise_and_carries_where_a_row_came_from() {
    let sql = "SELECT id, unnest(tags) AS tag FROM orders";
    assert!(check(Tables { streams: &[orders()], references: &[] }, sql, Takes::AnyPlan).unwrap().is_row_wise());
    let (batch, _) = run(sql).await;
    let offsets = batch.column_by_name(hidden::OFFSET).unwrap().as_primitive::<Int64Type>();
    assert_eq!(offsets.values(), &[7, 7]);
    assert!(hidden::names().all(|name| batch.column_by_name(name).is_some()));
    let nested = "SELECT upper(tag) AS tag FROM (SELECT unnest(tags) AS tag, id FROM orders) AS t WHERE id > 0";
    assert_eq!(run(nested).await.0.column_by_name(hidden::OFFSET).unwrap().len(), 2);
}

#[test]
fn a_query_knows_what_it_reads() {
    let reads = |sql: &str| {
        let query = check(Tables { streams: &[orders()], references: &[] }, sql, Takes::AnyPlan).unwrap();
        ["id", "tags", "_key", "_headers", "_topic"].into_iter().filter(|column| query.reads(column)).collect::<Vec<_>>()
    };
    assert_eq!(reads("SELECT * FROM orders"), ["id", "tags"]);
    assert_eq!(reads("SELECT id FROM orders WHERE _headers['a'] = 'b'"), ["id", "_headers"]);
    assert_eq!(reads("SELECT count(*) AS n FROM (SELECT _key, _topic, id FROM orders) AS o GROUP BY _key"), ["_key"]);
}

#[test]
fn with_tombstones_as_rows_nothing_is_required() {
    let id = |sql: &str| check(Tables { streams: &[orders()], references: &[] }, sql, Takes::AnyPlan).unwrap().output()[0].nullable;
    assert!(id("SELECT id FROM orders"));
    let mut stream = orders();
    stream.tombstones = Tombstones::Ignore;
    assert!(!check(Tables { streams: &[stream], references: &[] }, "SELECT id FROM orders", Takes::AnyPlan).unwrap().output()[0].nullable);
}
