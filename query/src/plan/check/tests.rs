use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Decimal128Type, Int64Type};
use rstest::rstest;
use tapeline_api::pipeline::references::ReferenceTable;
use tapeline_api::pipeline::streams::Stream;

use super::*;
use crate::decode::{Decoder, Message, WriteTimes};
use crate::plan::{MicroBatch, RunError};

fn ticks() -> Stream {
    serde_json::from_value(serde_json::json!({
        "name": "ticks", "topic": "trading_data",
        "fields": [
            {"name": "id", "type": "bigint", "required": true},
            {"name": "created_at", "type": "timestamp"},
            {"name": "sector", "type": "string"},
            {"name": "volume", "type": "bigint"},
            {"name": "price", "type": "double"},
        ],
    }))
    .unwrap()
}

fn profile() -> ReferenceTable {
    serde_json::from_value(serde_json::json!({
        "name": "profile",
        "fields": [{"name": "id", "type": "bigint"}, {"name": "company_name", "type": "string"}, {"name": "shares", "type": "bigint"}],
    }))
    .unwrap()
}

pub(in crate::plan) fn checked(sql: &str, takes: Takes) -> Result<CheckedQuery, CheckError> {
    check(Tables { streams: &[ticks()], references: &[profile()] }, sql, takes)
}

const VOLUME: &str = "SELECT CAST(created_at AS DATE) AS date, sector, SUM(volume) AS total_volume, now() AS processed_at FROM ticks GROUP BY 1, 2";

async fn run(sql: &str, payloads: &[&str]) -> Vec<RecordBatch> {
    run_query(&checked(sql, Takes::AnyPlan).unwrap(), payloads).await
}

/// One micro-batch with these messages of partition 0, at offsets from 0.
pub(in crate::plan) async fn run_query(query: &CheckedQuery, payloads: &[&str]) -> Vec<RecordBatch> {
    let numbered: Vec<(i64, &str)> = (0..).zip(payloads.iter().copied()).collect();
    run_at(query, &numbered).await
}

/// One micro-batch with these messages of partition 0, at these offsets.
pub(in crate::plan) async fn run_at(query: &CheckedQuery, payloads: &[(i64, &str)]) -> Vec<RecordBatch> {
    query.set_now(1_724_569_485_000_000);
    let mut batch = query.start().await.unwrap();
    let mut decoder = Decoder::new(&ticks(), |_| true).unwrap();
    let mut times = WriteTimes::default();
    let messages: Vec<Message<'_>> = payloads
        .iter()
        .map(|&(offset, text)| Message { partition: 0, offset, timestamp_ms: Some(1), payload: Some(text.as_bytes()), ..Message::default() })
        .collect();
    let chunk = decoder.decode(&messages, &mut times).unwrap();
    assert_eq!(chunk.bad, []);
    batch.input.try_send(chunk.batch).unwrap();
    drop(batch.input);
    let mut rows = Vec::new();
    while let Some(part) = batch.output.next().await {
        rows.push(part.unwrap());
    }
    rows
}

#[test]
fn select_star_gives_the_declared_fields_and_is_row_wise() {
    let query = checked("SELECT * FROM ticks", Takes::AnyPlan).unwrap();
    let names: Vec<&str> = query.output().iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["id", "created_at", "sector", "volume", "price"]);
    assert!(query.is_row_wise());
}

#[test]
fn the_reference_aggregate_is_checked_with_its_types() {
    let query = checked(VOLUME, Takes::AnyPlan).unwrap();
    let columns: Vec<(&str, &DataType)> = query.output().iter().map(|column| (column.name.as_str(), &column.data_type)).collect();
    assert_eq!(
        columns,
        [
            ("date", &DataType::Date32),
            ("sector", &DataType::Utf8),
            ("total_volume", &DataType::Decimal128(38, 0)),
            ("processed_at", &crate::schema::TIMESTAMP_TYPE)
        ]
    );
    assert!(!query.is_row_wise());
    assert!(checked(VOLUME, Takes::RowWise).unwrap_err().to_string().contains("aggregates"));
}

#[tokio::test]
async fn an_aggregate_gives_its_groups_when_the_input_ends() {
    let rows = run(
        VOLUME,
        &[
            r#"[{"id":1,"created_at":"2024-08-25T07:04:45Z","sector":"A","volume":9223372036854775807}]"#,
            r#"[{"id":2,"created_at":"2024-08-25T07:04:45Z","sector":"A","volume":9223372036854775807}]"#,
        ],
    )
    .await;
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
    let total = rows[0].column_by_name("total_volume").unwrap().as_primitive::<Decimal128Type>().value(0);
    assert_eq!(total, 2 * i128::from(i64::MAX), "a sum does not wrap around");
}

#[tokio::test]
async fn a_row_wise_query_carries_where_each_row_came_from() {
    let sql = "SELECT id * 2 AS id, price FROM (SELECT id, price FROM ticks AS t WHERE volume > 5) AS inner_query WHERE price > 1";
    let rows = run(sql, &[r#"{"id":1,"volume":1,"price":2}"#, r#"[{"id":2,"volume":6,"price":2},{"id":3,"volume":7,"price":2}]"#]).await;
    let all = arrow::compute::concat_batches(&rows[0].schema(), &rows).unwrap();
    let column = |name: &str| all.column_by_name(name).unwrap().as_primitive::<Int64Type>().values().to_vec();
    assert_eq!(column("id"), [4, 6]);
    assert_eq!(column("__tapeline_offset"), [1, 1]);
    assert_eq!(all.num_columns(), 6);
}

#[rstest]
#[case::typo("SELECT sectr FROM ticks", "no column \"sectr\" in stream \"ticks\"; did you mean \"sector\"?")]
#[case::stream("SELECT * FROM tick", "no stream or reference \"tick\"; did you mean \"ticks\"?")]
#[case::syntax("SELEC 1", "sql parser error")]
#[case::insert("INSERT INTO ticks VALUES (1)", "a query is one SELECT; this is INSERT INTO")]
#[case::two("SELECT id FROM ticks; SELECT id FROM ticks", "a query is one SELECT")]
#[case::none("SELECT 1 AS one", "a query reads exactly one stream, once; this one reads none")]
#[case::itself("SELECT a.id FROM ticks a JOIN ticks b ON a.id = b.id", "JOIN of a stream with itself cannot be used")]
#[case::union("SELECT id FROM ticks UNION ALL SELECT id FROM ticks", "UNION cannot be used")]
#[case::window("SELECT id, SUM(volume) OVER () AS s FROM ticks", "OVER (..) cannot be used")]
#[case::order("SELECT id FROM ticks ORDER BY id", "ORDER BY cannot be used")]
#[case::limit("SELECT id FROM ticks LIMIT 5", "LIMIT cannot be used")]
#[case::subquery("SELECT id FROM ticks WHERE id = (SELECT max(id) FROM ticks)", "cannot be used")]
#[case::unnamed("SELECT sector, SUM(volume) FROM ticks GROUP BY sector", "output column 2 (sum(ticks.volume)) needs a name")]
#[case::twice("SELECT id, volume AS id FROM ticks", "two output columns are called \"id\"; give one of them another name with AS")]
#[case::twice_with_as("SELECT id AS a, volume AS a FROM ticks", "have the same name")]
#[case::of_both_tables("SELECT * FROM ticks JOIN profile ON ticks.id = profile.id", "two output columns are called \"id\"")]
#[case::which("SELECT id FROM ticks JOIN profile ON ticks.id = profile.id", "column \"id\" is in more than one table: write the table's name in front of it")]
#[case::column_of_the_reference(
    "SELECT profile.compani_name FROM ticks JOIN profile ON ticks.id = profile.id",
    "no column \"compani_name\" in reference \"profile\"; did you mean \"company_name\"?"
)]
#[case::no_stream("SELECT id FROM profile", "this one reads none")]
#[case::unmatched("SELECT ticks.volume, p.shares FROM ticks RIGHT JOIN profile p ON ticks.id = p.id", "this kind of JOIN cannot be used")]
#[case::full("SELECT ticks.volume, p.shares FROM profile p FULL JOIN ticks ON ticks.id = p.id", "this kind of JOIN cannot be used")]
#[case::reference_first("SELECT ticks.volume, p.shares FROM profile p LEFT JOIN ticks ON ticks.id = p.id", "this kind of JOIN cannot be used")]
#[case::held_in_memory("SELECT id FROM ticks WHERE id NOT IN (SELECT id FROM profile)", "this way of combining tables cannot be used")]
#[case::group_of_records("SELECT sector, min(record_uuid()) AS u FROM ticks GROUP BY sector", "record_uuid() in this query cannot be used")]
#[case::uuid_of_nothing(
    "SELECT id FROM ticks WHERE NOT EXISTS (SELECT 1 FROM profile p WHERE p.company_name = record_uuid())",
    "record_uuid() in a subquery cannot be used"
)]
#[case::uuid_beside_chance("SELECT record_uuid() AS id, random() AS r FROM ticks", "it groups rows, or has a random function, and no record is known any more")]
#[case::never("SELECT id FROM ticks WHERE false", "its conditions can never be true")]
#[case::function("SELECT upperr(sector) AS s FROM ticks", "upperr")]
#[case::current_time("SELECT current_time() AS t FROM ticks", "current_time")]
#[case::types("SELECT sector + interval '1 day' AS s FROM ticks", "Interval")]
fn what_cannot_be_right_is_refused_with_a_reason(#[case] sql: &str, #[case] message: &str) {
    let error = checked(sql, Takes::AnyPlan).unwrap_err().to_string();
    assert!(error.contains(message), "{error}");
    assert!(!error.contains('\n'), "{error}");
}

#[tokio::test]
async fn too_many_groups_are_out_of_memory_and_are_not_spilled() {
    let query = checked("SELECT sector, COUNT(*) AS n FROM ticks GROUP BY sector", Takes::AnyPlan).unwrap();
    assert!(!query.state.runtime_env().disk_manager.tmp_files_enabled());
    let MicroBatch { input, mut output } = query.start().await.unwrap();
    let feed = async move {
        let mut decoder = Decoder::new(&ticks(), |_| true).unwrap();
        for offset in 0..200 {
            let records: Vec<String> = (0..1_000).map(|id| format!(r#"{{"id": {id}, "sector": "{offset} {id} {}"}}"#, "x".repeat(1_000))).collect();
            let text = format!("[{}]", records.join(","));
            let message = Message { partition: 0, offset, timestamp_ms: None, payload: Some(text.as_bytes()), ..Message::default() };
            let rows = decoder.decode(&[message], &mut WriteTimes::default()).unwrap().batch;
            if input.send(rows).await.is_err() {
                return; // the plan has ended
            }
        }
    };
    let run = async move {
        while let Some(rows) = output.next().await {
            rows?;
        }
        Ok(())
    };
    assert_eq!(futures::join!(feed, run).1, Err(RunError::OutOfMemory));
}

#[test]
fn random_values_are_not_row_wise() {
    assert_eq!(
        checked("SELECT id, random() AS r FROM ticks", Takes::RowWise).unwrap_err(),
        CheckError::NotRowWise("random() gives another value when a record is read again".to_owned())
    );
    assert!(checked("SELECT id, now() AS seen, current_date AS day FROM ticks", Takes::RowWise).unwrap().is_row_wise());
}

#[tokio::test]
async fn a_row_knows_the_uuid_of_its_record() {
    let query = checked("SELECT upper(u) AS u, id FROM (SELECT record_uuid() AS u, id FROM ticks) AS t", Takes::RowWise).unwrap();
    let rows = run_query(&query, &[r#"[{"id":1},{"id":1}]"#]).await;
    let uuids: Vec<&str> = rows[0].column(0).as_string::<i32>().iter().flatten().collect();
    let expected = [0, 1].map(|index| crate::record_uuid::record_uuid("trading_data", 0, 0, index).to_string().to_uppercase());
    assert_eq!(uuids, expected);
}

fn companies(rows: &[(i64, &str)]) -> RecordBatch {
    use arrow::array::{Int64Array, StringArray};
    let ids = rows.iter().map(|(id, _)| *id).collect::<Int64Array>();
    let names = rows.iter().map(|(_, name)| Some(*name)).collect::<StringArray>();
    let shares = Int64Array::from(vec![None; rows.len()]);
    RecordBatch::try_new(crate::plan::reference_schema(&profile()), vec![Arc::new(ids), Arc::new(names), Arc::new(shares)]).unwrap()
}

#[rstest]
#[case::inner("SELECT t.id, company_name FROM ticks t JOIN profile p ON t.id = p.id", &[(2, Some("b"))])]
#[case::left("SELECT t.id, company_name FROM ticks t LEFT JOIN profile p ON t.id = p.id", &[(1, None), (2, Some("b"))])]
#[case::right("SELECT t.id, company_name FROM profile p RIGHT JOIN ticks t ON t.id = p.id", &[(1, None), (2, Some("b"))])]
#[case::semi("SELECT id, sector AS company_name FROM ticks WHERE id IN (SELECT id FROM profile)", &[(2, None)])]
#[case::anti("SELECT id, sector AS company_name FROM ticks WHERE NOT EXISTS (SELECT 1 FROM profile p WHERE p.id = ticks.id)", &[(1, None)])]
#[case::unequal("SELECT t.id, company_name FROM ticks t JOIN profile p ON p.id > t.id", &[(1, Some("b"))])]
#[case::two_references("SELECT t.id, p.company_name FROM ticks t JOIN profile p ON t.id = p.id LEFT JOIN profile q ON q.id = p.id WHERE q.shares IS NULL", &[(2, Some("b"))])]
#[case::cross("SELECT t.id, p.company_name FROM ticks t CROSS JOIN profile p", &[(1, Some("b")), (2, Some("b"))])]
#[case::grouped("SELECT t.id, p.name AS company_name FROM ticks t JOIN (SELECT id, max(company_name) AS name FROM profile GROUP BY id) p ON t.id = p.id", &[(2, Some("b"))])]
#[case::some_of_it("SELECT t.id, p.company_name FROM ticks t JOIN (SELECT * FROM profile ORDER BY id LIMIT 1) p ON t.id = p.id", &[(2, Some("b"))])]
#[case::one_value("SELECT id, sector AS company_name FROM ticks WHERE id >= (SELECT max(id) FROM profile)", &[(2, None)])]
#[case::is_there("SELECT id, sector AS company_name FROM ticks WHERE EXISTS (SELECT 1 FROM profile p WHERE p.id = ticks.id LIMIT 1)", &[(2, None)])]
#[case::uuid("SELECT t.id, p.company_name FROM profile p JOIN ticks t ON p.company_name <> record_uuid() AND t.id = p.id", &[(2, Some("b"))])]
#[case::star("SELECT t.*, p.company_name FROM ticks AS t LEFT JOIN profile AS p ON t.id = p.id", &[(1, None), (2, Some("b"))])]
#[tokio::test]
async fn a_join_with_a_reference_is_row_wise_and_sees_the_rows_that_were_there_at_its_begin(#[case] sql: &str, #[case] expected: &[(i64, Option<&str>)]) {
    let query = checked(sql, Takes::RowWise).unwrap();
    assert_eq!(query.references().map(AsRef::as_ref).collect::<Vec<&str>>(), ["profile"]);
    query.set_reference(&"profile".parse().unwrap(), companies(&[(2, "b")]));
    let rows = run_query(&query, &[r#"{"id":1}"#, r#"{"id":2}"#]).await;
    let all = arrow::compute::concat_batches(&rows[0].schema(), &rows).unwrap();
    let names = all.column_by_name("company_name").unwrap().as_string::<i32>();
    let ids = all.column_by_name("id").unwrap().as_primitive::<Int64Type>();
    let mut found: Vec<(i64, Option<&str>)> = ids.values().iter().copied().zip(names.iter()).collect();
    found.sort_unstable();
    assert_eq!(found, expected);
    assert!(all.column_by_name("__tapeline_write_time").is_some());
}

#[tokio::test]
async fn a_reference_that_is_loaded_anew_is_seen_by_the_next_micro_batch() {
    let query = checked("SELECT t.id, company_name FROM ticks t JOIN profile p ON t.id = p.id", Takes::AnyPlan).unwrap();
    for (rows, expected) in [(vec![], 0), (vec![(1, "a")], 1), (vec![(1, "a"), (1, "b")], 2)] {
        query.set_reference(&"profile".parse().unwrap(), companies(&rows));
        let rows = run_query(&query, &[r#"{"id":1}"#]).await;
        assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), expected);
    }
}

#[test]
fn the_hash_follows_what_is_computed() {
    let hash = |sql: &str| checked(sql, Takes::AnyPlan).unwrap().hash();
    assert_eq!(hash("SELECT id FROM ticks"), hash("select  id from ticks"));
    assert_ne!(hash("SELECT id FROM ticks"), hash("SELECT id + 1 AS id FROM ticks"));
}
