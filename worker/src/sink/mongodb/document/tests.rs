use std::sync::Arc;

use mongodb::bson::{Bson, Document, doc};
use rstest::rstest;

use super::*;

fn rows(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let count = columns.first().map_or(0, |(_, column)| column.len());
    let ints = |value| Arc::new(Int32Array::from(vec![value; count])) as ArrayRef;
    let longs = |value| Arc::new(Int64Array::from(vec![value; count])) as ArrayRef;
    let hidden = [(hidden::PARTITION, ints(3)), (hidden::OFFSET, longs(17)), (hidden::INDEX, ints(0)), (hidden::WRITE_TIME, longs(99))];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().chain(hidden).map(|(name, column)| (name, column, true))).unwrap()
}

fn statement(rows: &RecordBatch, id: &[&str], row: usize) -> Result<Document, Misfit> {
    let names: Vec<String> = rows.schema_ref().fields().iter().map(|field| field.name().clone()).filter(|name| !hidden::is(name)).collect();
    let encoder = Encoder::new(&names, id, "ticks".to_owned()).unwrap();
    let statement = encoder.rows(rows).unwrap().statement(row)?;
    Ok(Document::try_from(&*statement).unwrap())
}

fn texts(values: Vec<Option<&str>>) -> ArrayRef {
    Arc::new(StringArray::from(values))
}

#[test]
fn every_type_has_its_own() {
    let decimals = Decimal128Array::from(vec![Some(-12_345)]).with_precision_and_scale(38, 2).unwrap();
    let rows = rows(vec![
        ("id", Arc::new(Int64Array::from(vec![i64::MAX]))),
        ("ok", Arc::new(BooleanArray::from(vec![true]))),
        ("price", Arc::new(Float64Array::from(vec![1.5]))),
        ("exact", Arc::new(decimals)),
        ("day", Arc::new(Date32Array::from(vec![19_960]))),
        ("at", Arc::new(TimestampMicrosecondArray::from(vec![-1]))),
        ("parts", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None])]))),
        ("name", texts(vec![None])),
    ]);
    let expected = doc! {
        "_id": i64::MAX, "id": i64::MAX, "ok": true, "price": 1.5, "exact": "-123.45".parse::<Decimal128>().unwrap(),
        "day": DateTime::from_millis(1_724_544_000_000), "at": DateTime::from_millis(-1), "parts": [1_i64, Bson::Null], "name": Bson::Null, "_w": 99_i64,
    };
    assert_eq!(statement(&rows, &["id"], 0).unwrap().get_document("u").unwrap(), &expected);
}

#[test]
fn an_older_document_is_replaced_and_a_missing_one_inserted() {
    let statement = statement(&rows(vec![("name", texts(vec![Some("a")]))]), &["name"], 0).unwrap();
    assert_eq!(statement, doc! {"q": {"_id": "a", "_w": {"$not": {"$gte": 99_i64}}}, "u": {"_id": "a", "name": "a", "_w": 99_i64}, "upsert": true});
}

#[test]
fn the_id_is_of_the_record_or_of_several_columns() {
    let rows = rows(vec![("a", texts(vec![Some("x")])), ("b", texts(vec![Some("y")]))]);
    assert_eq!(statement(&rows, &[], 0).unwrap().get_document("u").unwrap().get_str("_id").unwrap(), "abef654a-8700-5589-a6f6-88e2efc8e1f1");
    assert_eq!(statement(&rows, &["b", "a"], 0).unwrap().get_document("u").unwrap().get_document("_id").unwrap(), &doc! {"b": "y", "a": "x"});
}

#[rstest]
#[case::null_id(texts(vec![None]), &["x"], Misfit::NullId("x".to_owned()))]
#[case::list_id(Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1)])])), &["x"], Misfit::ListId("x".to_owned()))]
#[case::digits(Arc::new(Decimal128Array::from(vec![12_345_678_901_234_567_890_123_456_789_012_345])), &[], Misfit::Decimal("x".to_owned()))]
#[case::size(Arc::new(StringArray::from(vec!["x".repeat(MAX_DOCUMENT)])), &[], Misfit::TooLarge)]
fn what_is_no_document_is_refused(#[case] column: ArrayRef, #[case] id: &[&str], #[case] misfit: Misfit) {
    assert_eq!(statement(&rows(vec![("x", column)]), id, 0), Err(misfit));
}

#[test]
fn thirty_four_digits_are_exact() {
    let decimals = Decimal128Array::from(vec![1_234_567_890_123_456_789_012_345_678_901_234]).with_precision_and_scale(38, 4).unwrap();
    let statement = statement(&rows(vec![("x", Arc::new(decimals))]), &[], 0).unwrap();
    assert_eq!(statement.get_document("u").unwrap().get("x").unwrap().to_string(), "123456789012345678901234567890.1234");
}
