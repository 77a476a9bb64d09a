//! What a stream can say of its records: paths, json, lists, exact numbers, unknown fields, tombstones, and the message's own columns.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Date32Type, Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
use rstest::rstest;
use serde_json::json;

use super::*;

fn stream(fields: serde_json::Value, more: serde_json::Value) -> Stream {
    let mut stream = json!({"name": "s", "topic": "t", "fields": fields});
    stream.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(stream).unwrap()
}

fn message(text: &str, offset: i64) -> Message<'_> {
    Message { offset, payload: Some(text.as_bytes()), ..Message::default() }
}

fn read(stream: &Stream, payloads: &[&str]) -> Chunk {
    let messages: Vec<Message<'_>> = payloads.iter().zip(0..).map(|(text, offset)| message(text, offset)).collect();
    Decoder::new(stream, |_| true).unwrap().decode(&messages, &mut WriteTimes::default()).unwrap()
}

fn one_field(field: serde_json::Value) -> Stream {
    stream(json!([field]), json!({}))
}

fn texts(chunk: &Chunk, column: &str) -> Vec<Option<String>> {
    chunk.batch.column_by_name(column).unwrap().as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
}

fn some(texts: &[&str]) -> Vec<Option<String>> {
    texts.iter().map(|&text| Some(text.to_owned())).collect()
}

/// The one error of one record between two good ones, which arrive.
fn error(stream: &Stream, good: &str, bad: &str) -> String {
    let chunk = read(stream, &[good, bad, good]);
    assert_eq!((chunk.batch.num_rows(), chunk.bad.len()), (2, 1), "{:?}", chunk.bad);
    assert_eq!(chunk.bad[0].offset, 1);
    chunk.bad[0].error.clone()
}

fn nested() -> Stream {
    let fields = json!([
        {"name": "id", "type": "bigint", "required": true},
        {"name": "city", "type": "string", "path": "location.city"},
        {"name": "lat", "type": "double", "path": "location.point.lat"},
        {"name": "dotted", "type": "string", "path": r"a\.b"},
        {"name": "symbol", "type": "string", "path": "Symbol"},
    ]);
    stream(fields, json!({}))
}

#[test]
fn nested_fields_are_found_by_their_path() {
    let full = r#"{"id": 1, "location": {"city": "Bonn", "point": {"lat": 50.7, "lon": 7.1}, "zip": [1]}, "a.b": "x", "a": {"b": "y"}, "Symbol": "IBM", "symbol": "no"}"#;
    let chunk = read(&nested(), &[full, r#"{"id": 2, "location": null}"#, r#"[{"id": 3, "location": {"city": null, "point": null}}, {"id": 4}]"#]);
    assert!(chunk.bad.is_empty(), "{:?}", chunk.bad);
    assert_eq!(texts(&chunk, "city"), [Some("Bonn".to_owned()), None, None, None]);
    assert_eq!(texts(&chunk, "dotted"), [Some("x".to_owned()), None, None, None]);
    assert_eq!(texts(&chunk, "symbol"), [Some("IBM".to_owned()), None, None, None]);
    let lat = chunk.batch.column_by_name("lat").unwrap().as_primitive::<Float64Type>();
    assert_eq!((lat.value(0), lat.null_count()), (50.7, 3));
}

#[test]
fn of_objects_with_one_key_twice_the_last_counts() {
    let chunk = read(&nested(), &[r#"{"id": 1, "id": 2, "location": {"city": "Bonn"}, "location": {"city": "Rom", "city": "Oslo"}}"#]);
    assert_eq!((ids(&chunk), texts(&chunk, "city")), (vec![2], some(&["Oslo"])));
}

#[rstest]
#[case(r#"{"id": 1, "location": {"city": ["Bonn"]}}"#, r#"field "location.city" is not a string: the record has an array there that does not fit"#)]
#[case(r#"{"id": 1, "location": "Bonn"}"#, r#"field "location.city" cannot be there: "location" is a text, not an object"#)]
#[case(r#"{"id": 1, "location": {"point": 5}}"#, r#"field "location.point.lat" cannot be there: "location.point" is a number, not an object"#)]
#[case(r#"{"id": 1, "location": {"point": {"lat": "north"}}}"#, r#"field "location.point.lat" is not a double: the record has a text there"#)]
#[case(r#"{"id": 1, "a.b": {}}"#, r#"field "a\.b" is not a string"#)]
#[case(r#"{"location": {"city": "Bonn"}}"#, r#"required field "id" is missing or null"#)]
fn what_is_wrong_inside_a_record_is_named_by_its_path(#[case] bad: &str, #[case] expected: &str) {
    let found = error(&nested(), r#"{"id": 1}"#, bad);
    assert!(found.contains(expected), "{found}");
}

#[test]
fn a_required_nested_field_may_not_be_missing_with_its_parent() {
    let stream = one_field(json!({"name": "city", "type": "string", "path": "location.city", "required": true}));
    let good = r#"{"location": {"city": "Bonn"}}"#;
    for bad in ["{}", r#"{"location": null}"#, r#"{"location": {}}"#, r#"{"location": {"city": null}}"#] {
        assert_eq!(error(&stream, good, bad), "required field \"location.city\" is missing or null");
    }
}

#[test]
fn json_is_whatever_stands_there_as_its_text() {
    let fields = json!([
        {"name": "j", "type": "json"}, {"name": "n", "type": "bigint"}, {"name": "deep", "type": "json", "path": "o.deep"},
    ]);
    let values =
        [r#"{"b": [1, "x\"y\\"], "a": {}}"#, "[1, 2.50, 1e400]", "12345678901234567890.10", r#""te\u00e4xt""#, r#""\ud800""#, "true", "{\n\t\"a\" : 1 }"];
    let payloads: Vec<String> = values.iter().map(|value| format!(r#"{{"n": 1, "j": {value}, "o": {{"deep": {value}, "x": 1}}}}"#)).collect();
    let chunk = read(&stream(fields.clone(), json!({})), &payloads.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(chunk.bad.is_empty(), "{:?}", chunk.bad);
    assert_eq!(texts(&chunk, "j"), some(&values));
    assert_eq!(texts(&chunk, "deep"), some(&values));

    let chunk = read(&stream(fields, json!({})), &[r#"{"j": null}"#, "{}", r#"[{"j": 1, "o": null}, {"n": 5, "j": {}}]"#, r#"{"j": 1, "j": [2]}"#]);
    assert_eq!(texts(&chunk, "j"), [None, None, Some("1".to_owned()), Some("{}".to_owned()), Some("[2]".to_owned())]);
}

#[test]
fn a_stream_with_json_tells_bad_records_from_their_neighbours() {
    let stream = stream(json!([{"name": "j", "type": "json", "required": true}, {"name": "n", "type": "bigint"}]), json!({}));
    let good = r#"[{"j": {"a": 1}, "n": 1}]"#;
    assert!(error(&stream, good, r#"{"j": {"a": 1}"#).contains("not JSON"));
    assert!(error(&stream, good, r#"{"j": {"a": 01}}"#).contains("not JSON"));
    assert!(error(&stream, good, r#"{"j": 1}{"j": 2}"#).contains("not JSON"));
    assert!(error(&stream, good, r#"{"j": 1, "n": "x"}"#).contains("field \"n\" is not a bigint"));
    assert!(error(&stream, good, r#"{"j": null}"#).contains("required field \"j\""));
    let chunk = read(&stream, &[r#"[{"j": 1}, {"j": 2, "n": []}, 7, {"j": 3}]"#, good]);
    assert_eq!((texts(&chunk, "j"), chunk.bad.len()), (some(&["1", "3", "{\"a\": 1}"]), 2));
}

#[test]
fn lists() {
    let fields = json!([
        {"name": "tags", "type": "list(string)"}, {"name": "sizes", "type": "list(bigint)"}, {"name": "ratios", "type": "list(double)", "path": "o.ratios"},
        {"name": "flags", "type": "list(boolean)"},
    ]);
    let stream = stream(fields, json!({}));
    let chunk = read(
        &stream,
        &[r#"{"tags": ["a", null, "b"], "sizes": [1, "2", 3], "o": {"ratios": [0.5]}, "flags": [true, false]}"#, r#"{"tags": [], "sizes": null}"#],
    );
    assert!(chunk.bad.is_empty(), "{:?}", chunk.bad);
    let tags = chunk.batch.column_by_name("tags").unwrap().as_list::<i32>();
    assert_eq!(tags.value(0).as_string::<i32>().iter().collect::<Vec<_>>(), [Some("a"), None, Some("b")]);
    assert_eq!((tags.value(1).len(), tags.null_count()), (0, 0));
    let sizes = chunk.batch.column_by_name("sizes").unwrap().as_list::<i32>();
    assert_eq!((sizes.value(0).as_primitive::<Int64Type>().values().to_vec(), sizes.is_null(1)), (vec![1, 2, 3], true));
    for (bad, expected) in [
        (r#"{"tags": "a"}"#, "field \"tags\" is not a list(string): the record has a text there"),
        (r#"{"sizes": [1, "many"]}"#, "field \"sizes\" is not a list(bigint): the record has an array there"),
        (r#"{"tags": [["a"]]}"#, "field \"tags\" is not a list(string)"),
        (r#"{"o": {"ratios": [1e400]}}"#, "field \"o.ratios\" is not a list(double): it is beyond the range of the type"),
    ] {
        let found = error(&stream, "{}", bad);
        assert!(found.contains(expected), "{found}");
    }
}

#[rstest]
#[case("0.1", 1_000)]
#[case(r#""0.1""#, 1_000)]
#[case("1.5e-3", 15)]
#[case(r#""2E3""#, 20_000_000)]
#[case("1.50000000000000000000000000000000000000000", 15_000)]
#[case("-0", 0)]
#[case("99999999999999.9999", 999_999_999_999_999_999)]
fn decimals_are_exact_from_numbers_and_texts(#[case] written: &str, #[case] value: i128) {
    let stream = one_field(json!({"name": "paid", "type": "decimal(18,4)"}));
    let chunk = read(&stream, &[&format!("{{\"paid\": {written}}}"), "{}"]);
    assert!(chunk.bad.is_empty(), "{:?}", chunk.bad);
    let paid = chunk.batch.column_by_name("paid").unwrap().as_primitive::<Decimal128Type>();
    assert_eq!((paid.value(0), paid.is_null(1), paid.data_type()), (value, true, &DataType::Decimal128(18, 4)));
}

#[rstest]
#[case("0.00001", "is not a decimal(18,4): the number has more than 4 digits behind the point, and is not rounded")]
#[case("1e14", "is not a decimal(18,4): the number has more than 14 digits before the point")]
#[case("1e400", "has more than 14 digits before the point")]
#[case(r#""NaN""#, "what the record has there is no number")]
#[case(r#""""#, "what the record has there is no number")]
#[case("true", "what the record has there is no number")]
#[case("[1]", "field \"paid\" is not a decimal(18,4): the record has an array there that does not fit")]
#[case(&"9".repeat(300), "has more than 14 digits before the point")]
fn a_decimal_is_never_rounded(#[case] written: &str, #[case] expected: &str) {
    let stream = one_field(json!({"name": "paid", "type": "decimal(18,4)"}));
    let found = error(&stream, r#"{"paid": 1}"#, &format!("{{\"paid\": {written}}}"));
    assert!(found.starts_with("field \"paid\" ") && found.contains(expected), "{found}");
    assert!(written.len() < 5 || !found.contains(written), "no value of a record stands in an error: {found}");
}

#[rstest]
#[case("Seconds", "1724569485", 1_724_569_485_000_000)]
#[case("Seconds", "1724569485.123", 1_724_569_485_123_000)]
#[case("Seconds", r#""1724569485.123456""#, 1_724_569_485_123_456)]
#[case("Milliseconds", "1724569485123", 1_724_569_485_123_000)]
#[case("Microseconds", "1724569485123456", 1_724_569_485_123_456)]
#[case("Nanoseconds", "1724569485123456789", 1_724_569_485_123_456)]
#[case("Nanoseconds", "1.724569485e18", 1_724_569_485_000_000)]
fn epochs_of_every_unit(#[case] unit: &str, #[case] written: &str, #[case] micros: i64) {
    let stream = one_field(json!({"name": "at", "type": "timestamp", "unit": unit}));
    let chunk = read(&stream, &[&format!("{{\"at\": {written}}}")]);
    assert!(chunk.bad.is_empty(), "{:?}", chunk.bad);
    assert_eq!(chunk.batch.column_by_name("at").unwrap().as_primitive::<TimestampMicrosecondType>().value(0), micros);
}

#[rstest]
#[case("Seconds", "1724569485.1234567", "is not a timestamp: the number is finer than a microsecond, and is not rounded")]
#[case("Seconds", "1e15", "is not a timestamp: the number is beyond what a timestamp holds; is the unit right?")]
#[case("Seconds", r#""2024-08-25T07:04:45Z""#, "is not a timestamp: what the record has there is no number")]
#[case("Seconds", "{}", "is not a timestamp: the record has an object there")]
fn an_epoch_is_never_cut_off(#[case] unit: &str, #[case] written: &str, #[case] expected: &str) {
    let stream = one_field(json!({"name": "at", "type": "timestamp", "unit": unit}));
    let found = error(&stream, r#"{"at": 1}"#, &format!("{{\"at\": {written}}}"));
    assert!(found.contains(expected), "{found}");
}

#[rstest]
#[case::beyond_bigint("bigint", "9223372036854775808", Err("is not a bigint"))]
#[case::largest("bigint", "9223372036854775807", Ok("9223372036854775807"))]
#[case::minus_zero("bigint", "-0", Ok("0"))]
#[case::beyond_double("double", "1e400", Err("is not a double: it is beyond the range of the type, or not a number"))]
#[case::nan("double", r#""NaN""#, Err("is not a double: it is beyond the range of the type, or not a number"))]
#[case::infinity("float", r#""-Infinity""#, Err("is not a float"))]
#[case::beyond_float("float", "1e300", Err("is not a float"))]
#[case::beyond_int("int", "2147483648", Err("is not an int"))]
#[case::number_as_text("string", "12345678901234567890123.10", Ok("12345678901234567890123.10"))]
#[case::boolean_as_text("string", "true", Ok("true"))]
#[case::escapes("string", r#""\u00e4\ud83d\ude00\n""#, Ok("ä😀\n"))]
#[case::lone_surrogate("string", r#""\ud800""#, Err("is not a string: the record has a text there that does not fit"))]
#[case::broken_pair("string", r#""\ud800\u0041""#, Err("is not a string"))]
fn edges(#[case] type_: &str, #[case] written: &str, #[case] expected: Result<&str, &str>) {
    let stream = one_field(json!({"name": "x", "type": type_}));
    let text = format!("{{\"x\": {written}}}");
    match expected {
        Ok(value) => {
            let chunk = read(&stream, &[&text]);
            assert!(chunk.bad.is_empty(), "{:?}", chunk.bad);
            let shown = arrow::util::display::array_value_to_string(chunk.batch.column(0), 0).unwrap();
            assert_eq!(shown, value);
        }
        Err(part) => {
            let found = error(&stream, "{}", &text);
            assert!(found.contains(part), "{found}");
        }
    }
}

#[test]
fn unknown_fields_are_named_if_they_are_rejected() {
    let fields = json!([
        {"name": "id", "type": "bigint"}, {"name": "city", "type": "string", "path": "location.city"}, {"name": "rest", "type": "json"},
    ]);
    let stream = stream(fields, json!({"unknownFields": "Reject"}));
    let good = r#"{"id": 1, "location": {"city": "Bonn"}, "rest": {"whatever": 1}}"#;
    let found = error(&stream, good, r#"{"id": 1, "location": {"city": "Bonn", "zip.code": 1}}"#);
    assert_eq!(found, r#"field "location.zip\.code" is not declared, and the stream rejects unknown fields; declare it, or set unknownFields: Ignore"#);
    assert!(error(&stream, good, r#"[{"ID": 1}]"#).starts_with("field \"ID\" is not declared"));
}

#[test]
fn tombstones_are_rows_if_they_are_asked_for() {
    let stream = stream(
        json!([{"name": "id", "type": "bigint", "required": true}, {"name": "j", "type": "json"}]),
        json!({"tombstones": "Row", "unknownFields": "Reject"}),
    );
    let messages = [
        Message { offset: 0, key: Some(b"a"), payload: Some(br#"{"id": 1}"#), ..Message::default() },
        Message { offset: 1, key: Some(b"b"), payload: None, ..Message::default() },
        Message { offset: 2, key: Some(&[0xff]), payload: Some(b" null "), ..Message::default() },
    ];
    let mut decoder = Decoder::new(&stream, |_| true).unwrap();
    let chunk = decoder.decode(&messages, &mut WriteTimes::default()).unwrap();
    assert!(chunk.bad.is_empty(), "{:?}", chunk.bad);
    assert_eq!(texts(&chunk, "_key"), some(&["a", "b", "\\xff"]));
    let id = chunk.batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().clone();
    assert_eq!((id.value(0), id.is_null(1), id.is_null(2)), (1, true, true));

    // Beside a bad record they are the same, and a record without a required field is no tombstone.
    let with_bad = [messages[0], message("{}", 1), Message { offset: 2, ..messages[1] }, message(r#"{"id": 5}"#, 3)];
    let chunk = decoder.decode(&with_bad, &mut WriteTimes::default()).unwrap();
    assert_eq!((chunk.batch.num_rows(), chunk.bad.len()), (3, 1));
    assert_eq!(texts(&chunk, "_key"), [Some("a".to_owned()), Some("b".to_owned()), None]);
}

#[rstest]
#[case::missing(None)]
#[case::empty(Some(b"" as &[u8]))]
#[case::null(Some(b"null" as &[u8]))]
fn tombstones_are_bad_records_if_they_are_rejected(#[case] payload: Option<&[u8]>) {
    let stream = stream(json!([{"name": "id", "type": "bigint"}]), json!({"tombstones": "Reject"}));
    let messages = [message(r#"{"id": 1}"#, 0), Message { offset: 1, payload, ..Message::default() }];
    let chunk = Decoder::new(&stream, |_| true).unwrap().decode(&messages, &mut WriteTimes::default()).unwrap();
    assert_eq!((ids(&chunk), chunk.bad.len()), (vec![1], 1));
    assert_eq!(chunk.bad[0].error, "the message has no value, and the stream rejects tombstones");
}

#[test]
fn the_message_has_topic_key_and_headers() {
    let stream = one_field(json!({"name": "id", "type": "bigint"}));
    let headers: [Header<'_>; 4] = [("trace-id", Some(b"1")), ("empty", None), ("trace-id", Some(b"2")), ("raw", Some(&[1, 0xfe]))];
    let messages = [
        Message { offset: 0, key: Some("schlüssel".as_bytes()), headers: &headers, payload: Some(br#"[{"id": 1}, {"id": 2}]"#), ..Message::default() },
        message(r#"{"id": 3}"#, 1),
    ];
    let mut decoder = Decoder::new(&stream, |_| true).unwrap();
    assert!(decoder.wants_headers());
    let chunk = decoder.decode(&messages, &mut WriteTimes::default()).unwrap();
    assert_eq!(texts(&chunk, "_topic"), some(&["t", "t", "t"]));
    assert_eq!(texts(&chunk, "_key"), [Some("schlüssel".to_owned()), Some("schlüssel".to_owned()), None]);
    let maps = chunk.batch.column_by_name("_headers").unwrap().as_map();
    let of = |row| {
        let entries = maps.value(row);
        let (names, values) = (entries.column(0).as_string::<i32>().clone(), entries.column(1).as_string::<i32>().clone());
        names.iter().flatten().map(str::to_owned).zip(values.iter().map(|value| value.map(str::to_owned)).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    let expected = [("empty".to_owned(), None), ("raw".to_owned(), Some("\\x01fe".to_owned())), ("trace-id".to_owned(), Some("2".to_owned()))];
    assert_eq!((of(0), of(1), of(2)), (expected.to_vec(), expected.to_vec(), vec![]));

    let mut decoder = Decoder::new(&stream, |column| column == "id").unwrap();
    assert!(!decoder.wants_headers());
    let chunk = decoder.decode(&messages, &mut WriteTimes::default()).unwrap();
    assert_eq!(ids(&chunk), [1, 2, 3]);
}

#[rstest]
#[case::arrays("[", "")]
#[case::in_a_declared_field(r#"{"id": "#, "[")]
#[case::in_another_field(r#"{"other": "#, "{\"a\":")]
#[case::closed("[", "]")]
fn deep_nesting_is_a_bad_record_and_no_crash(#[case] begin: &str, #[case] more: &str) {
    let deep = match more {
        "]" => format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)),
        "" => begin.repeat(100_000),
        more => format!("{begin}{}", more.repeat(100_000)),
    };
    for fields in [json!([{"name": "id", "type": "bigint"}]), json!([{"name": "id", "type": "bigint"}, {"name": "other", "type": "json"}])] {
        assert_eq!(error(&stream(fields, json!({})), r#"{"id": 1}"#, &deep), "nested more than 1024 deep");
    }
    // As deep as may be, in a field where it does not belong: the reader writes it into its error.
    let allowed = format!(r#"{{"id": {}{}}}"#, "[".repeat(1000), "]".repeat(1000));
    assert!(error(&one_field(json!({"name": "id", "type": "bigint"})), "{}", &allowed).contains("the record has an array there"));
}

#[test]
fn half_messages_do_not_eat_their_neighbours() {
    let stream = stream(json!([{"name": "id", "type": "bigint"}, {"name": "j", "type": "json"}, {"name": "d", "type": "decimal(9,2)"}]), json!({}));
    let whole = r#"{"id": 1, "j": {"a": "\"b"}, "d": 1.25}"#;
    for end in 1..whole.len() - 1 {
        let chunk = read(&stream, &[whole, &whole[..end], whole]);
        assert_eq!((ids(&chunk), chunk.bad.len()), (vec![1, 1], 1), "{}", &whole[..end]);
    }
}

#[test]
fn a_path_that_no_record_has_is_told_with_what_records_have() {
    let fields = json!([
        {"name": "id", "type": "bigint"}, {"name": "city", "type": "string", "path": "locaton.city"},
        {"name": "zip", "type": "string", "path": "location.zp"}, {"name": "unread", "type": "string"},
    ]);
    let stream = stream(fields, json!({}));
    let mut decoder = Decoder::new(&stream, |column| column != "unread").unwrap();
    let rows = r#"{"id": 1, "location": {"city": "Bonn", "zip": "53111"}, "name": "x"},"#.repeat(999);
    let first = format!("[{}]", rows.trim_end_matches(','));
    decoder.decode(&[message(&first, 0)], &mut WriteTimes::default()).unwrap();
    assert_eq!(decoder.never_seen(), [], "not enough records");
    decoder.decode(&[message(r#"{"id": 1, "location": {"city": "Bonn", "zip": "53111"}, "name": "x"}"#, 1)], &mut WriteTimes::default()).unwrap();
    let told: Vec<String> = decoder.never_seen().iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "field \"city\": none of the records since the worker's start (1000 or more) has a value at \"locaton.city\"; one of them has: id, location, name",
            "field \"zip\": none of the records since the worker's start (1000 or more) has a value at \"location.zp\"; one of them has: location.city, location.zip; did you mean \"location.zip\"?",
        ]
    );
    decoder.decode(&[message(r#"{"locaton": {"city": "Rom"}}"#, 2)], &mut WriteTimes::default()).unwrap();
    assert_eq!(decoder.never_seen().len(), 1, "once it was seen nothing is said of it");
}

#[test]
fn fields_in_each_others_way_are_refused() {
    let both = stream(json!([{"name": "location", "type": "json"}, {"name": "city", "type": "string", "path": "location.city"}]), json!({}));
    assert_eq!(both.path_conflicts(), [(1, 0)]);
    assert!(Decoder::new(&both, |_| true).is_err());
}

#[test]
fn a_date_is_a_day_as_text() {
    let stream = one_field(json!({"name": "day", "type": "date"}));
    let chunk = read(&stream, &[r#"{"day": "2024-08-25"}"#, r#"{"day": null}"#, "{}", r#"{"day": "9999-12-31"}"#]);
    assert!(chunk.bad.is_empty(), "{:?}", chunk.bad);
    let days: Vec<Option<i32>> = chunk.batch.column_by_name("day").unwrap().as_primitive::<Date32Type>().iter().collect();
    assert_eq!(days, [Some(19_960), None, None, Some(2_932_896)]);
}

#[rstest]
#[case::a_number_of_digits("20240825")]
#[case::digits_as_text(r#""20240825""#)]
#[case::days_since_1970("45123.7")]
#[case::a_moment(r#""2024-08-25T23:30:00-05:00""#)]
#[case::no_such_day(r#""2023-02-29""#)]
#[case::a_word(r#""yesterday!""#)]
fn what_is_no_day_is_no_date(#[case] value: &str) {
    let stream = one_field(json!({"name": "day", "type": "date"}));
    let error = error(&stream, r#"{"day": "2024-08-25"}"#, &format!(r#"{{"day": {value}}}"#));
    assert!(error.starts_with("field \"day\" is not a date as text, like 2024-08-25"), "{error}");
}
