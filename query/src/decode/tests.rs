use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use rstest::rstest;

use super::*;

pub(crate) fn ticks() -> Stream {
    serde_json::from_value(serde_json::json!({
        "name": "ticks", "topic": "trading_data",
        "fields": [
            {"name": "id", "type": "bigint", "required": true},
            {"name": "created_at", "type": "timestamp"},
            {"name": "ticker", "type": "string"},
            {"name": "volume", "type": "bigint"},
            {"name": "price", "type": "double"},
            {"name": "paid", "type": "decimal(18,4)"},
            {"name": "seen_ms", "type": "timestamp", "unit": "Milliseconds"},
        ],
    }))
    .unwrap()
}

fn decode(payloads: &[&str]) -> Chunk {
    let messages: Vec<Message<'_>> = payloads
        .iter()
        .zip(0..)
        .map(|(text, offset)| Message { partition: 2, offset, timestamp_ms: Some(1_000), payload: Some(text.as_bytes()), ..Message::default() })
        .collect();
    Decoder::new(&ticks(), |_| true).unwrap().decode(&messages, &mut WriteTimes::default()).unwrap()
}

fn ids(chunk: &Chunk) -> Vec<i64> {
    chunk.batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().values().to_vec()
}

#[test]
fn objects_and_arrays_become_rows_with_their_origin() {
    let chunk = decode(&[r#"{"id": 1}"#, r#" [{"id": 2}, {"id": 3, "other": [1, {"a": "]"}]}] "#, "[]", "", "null", r#"{"id": 4}"#]);
    assert_eq!(ids(&chunk), [1, 2, 3, 4]);
    assert!(chunk.bad.is_empty());
    assert_eq!(chunk.batch.column_by_name("_offset").unwrap().as_primitive::<Int64Type>().values(), &[0, 1, 1, 5]);
    assert_eq!(chunk.batch.column_by_name("_index").unwrap().as_primitive::<Int32Type>().values(), &[0, 0, 1, 0]);
    assert_eq!(chunk.batch.column_by_name("_partition").unwrap().as_primitive::<Int32Type>().values(), &[2, 2, 2, 2]);
    assert_eq!(
        chunk.batch.column_by_name("__tapeline_write_time").unwrap().as_primitive::<Int64Type>().values(),
        &[1_000_002, 1_000_018, 1_000_034, 1_000_050]
    );
}

#[test]
fn a_tombstone_has_no_rows() {
    let message = Message { partition: 0, offset: 0, timestamp_ms: None, payload: None, ..Message::default() };
    let chunk = Decoder::new(&ticks(), |_| true).unwrap().decode(&[message], &mut WriteTimes::default()).unwrap();
    assert_eq!((chunk.batch.num_rows(), chunk.bad.len()), (0, 0));
}

#[rstest]
#[case(r#"{"id":1,"created_at":"2024-08-25T07:04:45Z"}"#)]
#[case(r#"{"id":1,"created_at":"2024-08-25T07:04:45"}"#)]
#[case(r#"{"id":1,"created_at":"2024-08-25 07:04:45"}"#)]
#[case(r#"{"id":1,"created_at":"2024-08-25T09:04:45+02:00"}"#)]
#[case(r#"{"id":1,"seen_ms":1724569485000}"#)]
fn timestamps(#[case] text: &str) {
    let chunk = decode(&[text]);
    assert!(chunk.bad.is_empty(), "{:?}", chunk.bad);
    let name = if text.contains("seen_ms") { "seen_ms" } else { "created_at" };
    assert_eq!(chunk.batch.column_by_name(name).unwrap().as_primitive::<TimestampMicrosecondType>().value(0), 1_724_569_485_000_000);
}

#[rstest]
#[case::broken(r#"{"id": 1"#, None, "not JSON")]
#[case::two_values(r#"{"id": 1}{"id": 2}"#, None, "not JSON")]
#[case::scalar("17", None, "neither a JSON object nor an array of objects")]
#[case::wrong_type(r#"{"id": 1, "volume": "many"}"#, None, "field \"volume\" is not a bigint: the record has a text there that does not fit")]
#[case::object_for_text(r#"{"id": 1, "ticker": {"a": 1}}"#, None, "field \"ticker\" is not a string")]
#[case::missing(r#"{"volume": 1}"#, None, "required field \"id\" is missing or null")]
#[case::no_timestamp(r#"{"id": 1, "created_at": "yesterday"}"#, None, "field \"created_at\" is not a timestamp")]
#[case::number_for_a_text_timestamp(
    r#"{"id": 1, "created_at": 1724569485}"#,
    None,
    "field \"created_at\" is not a timestamp as text, like 2024-08-25T07:04:45Z; for a number since 1970 the field needs a unit"
)]
#[case::day_as_a_number(r#"{"id": 1, "created_at": 20240825}"#, None, "field \"created_at\" is not a timestamp as text")]
#[case::time_as_a_number(r#"{"id": 1, "created_at": 20240825070445}"#, None, "field \"created_at\" is not a timestamp as text")]
#[case::element(r#"[{"id": 10}, {"id": "x"}, {"id": 11}]"#, Some(1), "field \"id\" is not a bigint")]
#[case::null_element(r#"[{"id": 10}, null, {"id": 11}]"#, Some(1), "null is not a record")]
#[case::number_element(r#"[{"id": 10}, 5, {"id": 11}]"#, Some(1), "a record is a JSON object")]
fn a_bad_record_is_told_from_its_neighbours(#[case] text: &str, #[case] index: Option<usize>, #[case] error: &str) {
    let chunk = decode(&[r#"{"id": 1}"#, text, r#"{"id": 2}"#]);
    let expected: &[i64] = if index.is_some() { &[1, 10, 11, 2] } else { &[1, 2] };
    assert_eq!(ids(&chunk), expected);
    assert_eq!(chunk.bad.len(), 1);
    let bad = &chunk.bad[0];
    assert_eq!((bad.partition, bad.offset, bad.index), (2, 1, index));
    assert!(bad.error.contains(error), "{}", bad.error);
    assert!(!bad.payload.is_empty());
}

#[test]
fn after_a_bad_chunk_the_next_is_read_as_if_nothing_was() {
    let mut decoder = Decoder::new(&ticks(), |_| true).unwrap();
    let mut times = WriteTimes::default();
    let message = |text: &'static str, offset| Message { partition: 0, offset, timestamp_ms: None, payload: Some(text.as_bytes()), ..Message::default() };
    let first = decoder.decode(&[message(r#"[{"id": 1"#, 0)], &mut times).unwrap();
    assert_eq!((first.batch.num_rows(), first.bad.len()), (0, 1));
    let second = decoder.decode(&[message(r#"{"id": 2}"#, 1)], &mut times).unwrap();
    assert_eq!((ids(&second), second.bad.len()), (vec![2], 0));
}

#[test]
fn a_message_is_read_beside_a_bad_one_as_it_is_alone() {
    let lenient = r#"[{"id": 1} {"id": 2}]"#; // the reader does not ask for the comma
    assert_eq!(ids(&decode(&[lenient])), [1, 2]);
    let chunk = decode(&[lenient, "17", lenient]);
    assert_eq!((ids(&chunk), chunk.bad.len()), (vec![1, 2, 1, 2], 1));
    assert_eq!(chunk.batch.column_by_name("_index").unwrap().as_primitive::<Int32Type>().values(), &[0, 1, 0, 1]);
}

#[test]
fn decimals_are_exact() {
    let chunk = decode(&[r#"{"id": 1, "paid": 0.1}"#, r#"{"id": 2, "paid": "12345678901234.5678"}"#]);
    let paid = chunk.batch.column_by_name("paid").unwrap().as_primitive::<arrow::datatypes::Decimal128Type>();
    assert_eq!((paid.value(0), paid.value(1)), (1_000, 123_456_789_012_345_678));
}

mod features;
mod property;
mod speed;
mod sql;
