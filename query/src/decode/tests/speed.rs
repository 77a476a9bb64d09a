//! How fast records are read, in rows per second of CPU. Not a test that can fail: run it before and after a change of the decoder, on a quiet machine.
//! `cargo test --release -p tapeline-query --lib -- --ignored --nocapture rows_per_second`

#![allow(clippy::cast_precision_loss, reason = "rows are counted, and shown with two digits")]

use std::time::Duration;

use serde_json::json;

use super::*;

const ROWS: usize = 500_000;
const ROWS_A_MESSAGE: usize = 10;
const CHUNK_BYTES: usize = 256 << 10;

/// Time that this thread has run.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

fn measure(what: &str, more: serde_json::Value, extra: &str, reads: impl Fn(&str) -> bool) {
    let mut fields = json!([
        {"name": "id", "type": "bigint", "required": true}, {"name": "created_at", "type": "timestamp"}, {"name": "ticker", "type": "string"},
        {"name": "sector", "type": "string"}, {"name": "volume", "type": "bigint"},
    ]);
    fields.as_array_mut().unwrap().extend(more.as_array().unwrap().clone());
    let stream: Stream = serde_json::from_value(json!({"name": "s", "topic": "t", "fields": fields})).unwrap();
    let row = |id: usize| {
        format!(r#"{{"id": {id}, "created_at": "2024-08-25T07:04:45.123Z", "ticker": "IBM", "sector": "Information Technology", "volume": {}{extra}}}"#, id * 7)
    };
    let payloads: Vec<String> = (0..ROWS / ROWS_A_MESSAGE)
        .map(|message| format!("[{}]", (0..ROWS_A_MESSAGE).map(|at| row(message * ROWS_A_MESSAGE + at)).collect::<Vec<_>>().join(", ")))
        .collect();
    let headers: [Header<'_>; 2] = [("trace-id", Some(b"4bf92f3577b34da6a3ce929d0e0e4736")), ("source", Some(b"exchange"))];
    let messages: Vec<Message<'_>> = payloads
        .iter()
        .zip(0..)
        .map(|(text, offset)| Message { offset, timestamp_ms: Some(1), key: Some(b"IBM"), headers: &headers, payload: Some(text.as_bytes()), partition: 0 })
        .collect();
    let mut decoder = Decoder::new(&stream, reads).unwrap();
    let mut times = WriteTimes::default();
    let bytes: usize = payloads.iter().map(String::len).sum();
    let a_chunk = CHUNK_BYTES / (bytes / payloads.len());
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let begun = cpu();
        for chunk in messages.chunks(a_chunk) {
            assert!(decoder.decode(chunk, &mut times).unwrap().bad.is_empty());
        }
        best = best.min(cpu().saturating_sub(begun));
    }
    let (rows, bytes) = (ROWS as f64 / best.as_secs_f64() / 1e6, bytes as f64 / best.as_secs_f64() / 1e6);
    println!("{what:<28} {rows:5.2} million rows/s  {bytes:4.0} MB/s");
}

#[test]
#[ignore = "a measurement"]
fn rows_per_second() {
    let none = |_: &str| false;
    let all = |_: &str| true;
    let flat = json!([]);
    let nested = r#", "location": {"city": "Bonn", "point": {"lat": 50.7, "lon": 7.1}}"#;
    let list = r#", "tags": ["a", "bc", "def"]"#;
    let decimals = r#", "paid": 1234.5678, "fee": "0.00012""#;
    let two_decimals = json!([{"name": "paid", "type": "decimal(18,4)"}, {"name": "fee", "type": "decimal(18,8)"}]);
    measure("flat", flat.clone(), "", none);
    measure("flat, with all of metadata", flat.clone(), "", all);
    measure("flat, nested text unread", flat.clone(), nested, none);
    measure(
        "nested, three of them",
        json!([{"name": "city", "type": "string", "path": "location.city"}, {"name": "lat", "type": "double", "path": "location.point.lat"}, {"name": "lon", "type": "double", "path": "location.point.lon"}]),
        nested,
        none,
    );
    measure("list(string)", json!([{"name": "tags", "type": "list(string)"}]), list, none);
    measure("list as json", json!([{"name": "tags", "type": "json"}]), list, none);
    measure("object as json", json!([{"name": "location", "type": "json"}]), nested, none);
    measure("two decimals", two_decimals, decimals, none);
    measure("the same as doubles", json!([{"name": "paid", "type": "double"}, {"name": "fee", "type": "double"}]), decimals, none);
    measure("epoch in seconds", json!([{"name": "at", "type": "timestamp", "unit": "Seconds"}]), r#", "at": 1724569485.123"#, none);
    measure("the same as a double", json!([{"name": "at", "type": "double"}]), r#", "at": 1724569485.123"#, none);
}
