use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Decimal128Type, Int64Type};
use rstest::rstest;

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

const VOLUME: &str = "SELECT CAST(created_at AS DATE) AS date, sector, SUM(volume) AS total_volume, now() AS processed_at FROM ticks GROUP BY 1, 2";

async fn run(sql: &str, payloads: &[&str]) -> Vec<RecordBatch> {
    let query = check(&[ticks()], sql).unwrap();
    query.set_now(1_724_569_485_000_000);
    let mut batch = query.start().await.unwrap();
    let mut decoder = Decoder::new(&ticks()).unwrap();
    let mut times = WriteTimes::default();
    for (offset, text) in (0..).zip(payloads) {
        let message = Message { partition: 0, offset, timestamp_ms: Some(1), payload: Some(text.as_bytes()) };
        let chunk = decoder.decode(&[message], &mut times).unwrap();
        batch.input.try_send(chunk.batch).unwrap();
    }
    drop(batch.input);
    let mut rows = Vec::new();
    while let Some(part) = batch.output.next().await {
        rows.push(part.unwrap());
    }
    rows
}

#[test]
fn select_star_gives_the_declared_fields_and_is_row_wise() {
    let query = check(&[ticks()], "SELECT * FROM ticks").unwrap();
    let names: Vec<&str> = query.output().iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["id", "created_at", "sector", "volume", "price"]);
    assert_eq!(query.is_row_wise(), Ok(()));
}

#[test]
fn the_reference_aggregate_is_checked_with_its_types() {
    let query = check(&[ticks()], VOLUME).unwrap();
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
    assert!(query.is_row_wise().unwrap_err().contains("aggregates"));
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
#[case::stream("SELECT * FROM tick", "no stream \"tick\"; did you mean \"ticks\"?")]
#[case::syntax("SELEC 1", "sql parser error")]
#[case::insert("INSERT INTO ticks VALUES (1)", "a query is one SELECT; this is INSERT INTO")]
#[case::two("SELECT id FROM ticks; SELECT id FROM ticks", "a query is one SELECT")]
#[case::none("SELECT 1 AS one", "a query reads exactly one stream, once; this one reads none")]
#[case::itself("SELECT a.id FROM ticks a JOIN ticks b ON a.id = b.id", "JOIN cannot be used")]
#[case::union("SELECT id FROM ticks UNION ALL SELECT id FROM ticks", "UNION cannot be used")]
#[case::window("SELECT id, SUM(volume) OVER () AS s FROM ticks", "OVER (..) cannot be used")]
#[case::order("SELECT id FROM ticks ORDER BY id", "ORDER BY cannot be used")]
#[case::limit("SELECT id FROM ticks LIMIT 5", "LIMIT cannot be used")]
#[case::subquery("SELECT id FROM ticks WHERE id = (SELECT max(id) FROM ticks)", "cannot be used")]
#[case::unnamed("SELECT sector, SUM(volume) FROM ticks GROUP BY sector", "output column 2 (sum(ticks.volume)) needs a name")]
#[case::twice("SELECT id, volume AS id FROM ticks", "two output columns are called \"id\"; give one of them another name with AS")]
#[case::twice_with_as("SELECT id AS a, volume AS a FROM ticks", "have the same name")]
#[case::function("SELECT upperr(sector) AS s FROM ticks", "upperr")]
#[case::current_time("SELECT current_time() AS t FROM ticks", "current_time")]
#[case::types("SELECT sector + interval '1 day' AS s FROM ticks", "Interval")]
fn what_cannot_be_right_is_refused_with_a_reason(#[case] sql: &str, #[case] message: &str) {
    let error = check(&[ticks()], sql).unwrap_err().to_string();
    assert!(error.contains(message), "{error}");
    assert!(!error.contains('\n'), "{error}");
}

#[tokio::test]
async fn too_many_groups_are_out_of_memory_and_are_not_spilled() {
    let query = check(&[ticks()], "SELECT sector, COUNT(*) AS n FROM ticks GROUP BY sector").unwrap();
    assert!(!query.state.runtime_env().disk_manager.tmp_files_enabled());
    let MicroBatch { input, mut output } = query.start().await.unwrap();
    let feed = async move {
        let mut decoder = Decoder::new(&ticks()).unwrap();
        for offset in 0..200 {
            let records: Vec<String> = (0..1_000).map(|id| format!(r#"{{"id": {id}, "sector": "{offset} {id} {}"}}"#, "x".repeat(1_000))).collect();
            let text = format!("[{}]", records.join(","));
            let message = Message { partition: 0, offset, timestamp_ms: None, payload: Some(text.as_bytes()) };
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
        check(&[ticks()], "SELECT id, random() AS r FROM ticks").unwrap().is_row_wise(),
        Err("random() gives another value when a record is read again".to_owned())
    );
    assert_eq!(check(&[ticks()], "SELECT id, now() AS seen, current_date AS day FROM ticks").unwrap().is_row_wise(), Ok(()));
}

#[test]
fn the_hash_follows_what_is_computed() {
    let hash = |sql: &str| check(&[ticks()], sql).unwrap().hash();
    assert_eq!(hash("SELECT id FROM ticks"), hash("select  id from ticks"));
    assert_ne!(hash("SELECT id FROM ticks"), hash("SELECT id + 1 AS id FROM ticks"));
}
