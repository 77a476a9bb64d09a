use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
use proptest::prelude::*;
use rstest::rstest;
use tapeline_api::pipeline::queries::Takes;

use super::*;
use crate::plan::CheckedQuery;
use crate::plan::check::tests::{checked, run_at, run_query};

const CANDLES: &str = "SELECT id, date_bin(INTERVAL '1 minute', coalesce(created_at, TIMESTAMP '1970-01-01')) AS minute, \
    first_value(price ORDER BY created_at) AS open, max(price) AS high, min(price) AS low, last_value(price ORDER BY created_at) AS close, \
    sum(volume) AS volume, count(*) AS trades, now() AS updated_at FROM ticks GROUP BY 1, 2";

fn kinds(sql: &str) -> Result<Vec<Merge>, String> {
    checked(sql, Takes::Mergeable).map(|query| query.merge().to_vec()).map_err(|error| error.to_string())
}

#[test]
fn candles_are_merged() {
    use Merge::{First, Greatest, Key, Last, Least, Sum};
    assert_eq!(kinds(CANDLES), Ok(vec![Key, Key, First, Greatest, Least, Last, Sum, Sum, Greatest]));
}

#[rstest]
#[case::casts("SELECT id, CAST(sum(volume) AS BIGINT) AS v, CAST(max(price) AS FLOAT) AS p FROM ticks GROUP BY id", &[Merge::Key, Merge::Sum, Merge::Greatest])]
#[case::of_the_key("SELECT id, id % 7 AS rest, 'x' AS source, count(*) AS n FROM ticks GROUP BY id", &[Merge::Key, Merge::Keep, Merge::Keep, Merge::Sum])]
#[case::newest_first("SELECT id, first_value(price ORDER BY created_at DESC) AS p FROM ticks GROUP BY id", &[Merge::Key, Merge::Last])]
#[case::inner("SELECT s AS sector, n FROM (SELECT coalesce(sector, '') AS s, count(*) AS n FROM ticks GROUP BY 1) AS t", &[Merge::Key, Merge::Sum])]
#[case::tested("SELECT sector, count(*) AS n FROM ticks WHERE volume > 0 AND sector IS NOT NULL GROUP BY sector", &[Merge::Key, Merge::Sum])]
#[case::least_of_distinct("SELECT id, min(DISTINCT volume) AS v FROM ticks GROUP BY id", &[Merge::Key, Merge::Least])]
#[case::order_of_dates("SELECT id, last_value(price ORDER BY CAST(created_at AS DATE)) AS p FROM ticks GROUP BY id", &[Merge::Key, Merge::Last])]
#[case::cast_time("SELECT id, CAST(max(created_at) AS DATE) AS d, CAST(now() AS DATE) AS seen FROM ticks GROUP BY id", &[Merge::Key, Merge::Greatest, Merge::Greatest])]
#[case::joined("SELECT ticks.id, sum(volume * shares) AS v FROM ticks JOIN profile p ON p.id = ticks.id GROUP BY 1", &[Merge::Key, Merge::Sum])]
fn what_can_be_merged(#[case] sql: &str, #[case] expected: &[Merge]) {
    assert_eq!(kinds(sql), Ok(expected.to_vec()));
}

#[rstest]
#[case::as_it_is("created_at", 6)]
#[case::minutes("date_bin(INTERVAL '1 minute', created_at)", 0)]
#[case::tenths("date_bin(INTERVAL '100 milliseconds', created_at)", 1)]
#[case::from_an_origin("date_bin(INTERVAL '1 minute', created_at, TIMESTAMP '2024-01-01 00:00:00.25')", 2)]
#[case::truncated("date_trunc('second', created_at)", 0)]
#[case::truncated_to_millis("date_trunc('millisecond', created_at)", 3)]
#[case::cast("arrow_cast(created_at, 'Timestamp(Millisecond, None)')", 3)]
#[case::day("CAST(created_at AS DATE)", 0)]
#[case::number("id", 0)]
fn digits_of_a_key(#[case] key: &str, #[case] digits: u8) {
    let plain = format!("SELECT {key} AS k, count(*) AS n FROM ticks WHERE created_at IS NOT NULL AND ({key}) IS NOT NULL GROUP BY 1");
    let inner = format!("SELECT k, count(*) AS n FROM (SELECT {key} AS k FROM ticks) AS t WHERE k IS NOT NULL GROUP BY k");
    for sql in [plain, inner] {
        let query = checked(&sql, Takes::Mergeable).unwrap();
        assert_eq!(query.output()[0].digits, digits, "{sql}");
    }
}

#[rstest]
#[case::rows("SELECT id FROM ticks", "it has no groups to be merged; write GROUP BY, or use mode Upsert or Append")]
#[case::no_key("SELECT count(*) AS n FROM ticks", "it has no GROUP BY")]
#[case::key_left_out("SELECT id, count(*) AS n FROM ticks GROUP BY id, volume", "it groups by ticks.volume, which is not among the output columns")]
#[case::key_may_be_null(
    "SELECT sector, count(*) AS n FROM ticks GROUP BY sector",
    "it groups by ticks.sector, which can be null, and a primary key cannot; mark the field as required: true"
)]
#[case::average(
    "SELECT id, avg(price) AS mean FROM ticks GROUP BY id",
    "column \"mean\" is avg(ticks.price), whose parts cannot be merged; store sum(ticks.price) and count(ticks.price), and divide in a view"
)]
#[case::distinct("SELECT id, count(DISTINCT sector) AS n FROM ticks GROUP BY id", "column \"n\" is count(DISTINCT ticks.sector), whose parts cannot be merged")]
#[case::median("SELECT id, median(price) AS m FROM ticks GROUP BY id", "column \"m\" is median(ticks.price), whose parts cannot be merged")]
#[case::computed("SELECT id, sum(price) / count(*) AS mean FROM ticks GROUP BY id", "column \"mean\" computes with aggregates, whose parts cannot be merged")]
#[case::rounded("SELECT id, CAST(sum(price) AS BIGINT) AS p FROM ticks GROUP BY id", "column \"p\" rounds the sum of each micro-batch")]
#[case::unordered("SELECT id, first_value(price) AS p FROM ticks GROUP BY id", "column \"p\" is first_value without one column that says what is first")]
#[case::order_of_doubles(
    "SELECT id, last_value(volume ORDER BY price) AS v FROM ticks GROUP BY id",
    "column \"v\" is last_value ordered by ticks.price, a Float64; order by a timestamp, a date or an integer"
)]
#[case::order_of_texts("SELECT id, first_value(volume ORDER BY sector) AS v FROM ticks GROUP BY id", "column \"v\" is first_value ordered by ticks.sector")]
#[case::greatest_text("SELECT id, CAST(max(volume) AS TEXT) AS v FROM ticks GROUP BY id", "column \"v\" is cast to a type that compares otherwise")]
#[case::least_number("SELECT id, CAST(min(sector) AS BIGINT) AS v FROM ticks GROUP BY id", "column \"v\" is cast to a type that compares otherwise")]
#[case::to_hundreds("SELECT id, CAST(sum(volume) AS DECIMAL(10,-2)) AS v FROM ticks GROUP BY id", "column \"v\" rounds the sum of each micro-batch")]
#[case::time_as_text("SELECT id, to_char(now(), '%d.%m.%Y') AS seen FROM ticks GROUP BY id", "column \"seen\" computes with the time of the micro-batch")]
#[case::months_are_not_for_all(
    "SELECT date_bin(INTERVAL '1 month', _timestamp) AS month, count(*) AS n FROM ticks WHERE _timestamp IS NOT NULL GROUP BY 1",
    "it groups by date_bin("
)]
#[case::having(
    "SELECT id, count(*) AS n FROM ticks GROUP BY id HAVING count(*) > 1",
    "a condition on the groups (HAVING) would see the part of one micro-batch only"
)]
#[case::twice("SELECT n, count(*) AS m FROM (SELECT id, count(*) AS n FROM ticks GROUP BY id) AS t GROUP BY n", "what it groups is no row of the stream")]
#[case::rollup("SELECT id, volume, count(*) AS n FROM ticks GROUP BY ROLLUP(id, volume)", "ROLLUP, CUBE and GROUPING SETS")]
fn what_cannot_be_merged_is_refused_with_the_way_out(#[case] sql: &str, #[case] message: &str) {
    let error = kinds(sql).unwrap_err();
    assert!(error.starts_with(message), "{error}");
}

/// A value that compares as MySQL compares it.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
enum Value {
    Number(i128),
    Double(f64),
    Bytes(Vec<u8>),
}

type Group = BTreeMap<String, Option<Value>>;

fn value(column: &dyn Array, row: usize) -> Option<Value> {
    if column.is_null(row) {
        return None;
    }
    Some(match column.data_type() {
        DataType::Int64 => Value::Number(column.as_primitive::<Int64Type>().value(row).into()),
        DataType::Decimal128(..) => Value::Number(column.as_primitive::<Decimal128Type>().value(row)),
        DataType::Float64 => Value::Double(column.as_primitive::<Float64Type>().value(row)),
        DataType::Timestamp(..) => Value::Number(column.as_primitive::<TimestampMicrosecondType>().value(row).into()),
        DataType::Binary => Value::Bytes(column.as_binary::<i32>().value(row).to_vec()),
        other => panic!("{other}"),
    })
}

/// As the sink merges: a null is no value, first and last go by their order columns.
fn merge_into(stored: &mut Group, new: Group, kinds: &[(String, Merge)]) {
    let pick = |old: &Option<Value>, new: &Option<Value>, newer: bool| if old.is_none() || (new.is_some() && newer) { new.clone() } else { old.clone() };
    for (name, kind) in kinds {
        let (old, value) = (stored[name].clone(), new[name].clone());
        let merged = match kind {
            Merge::Key | Merge::Keep => old,
            Merge::Sum => match (old, value) {
                (Some(Value::Number(old)), Some(Value::Number(new))) => Some(Value::Number(old + new)),
                (old, new) => old.or(new),
            },
            Merge::Least => pick(&old, &value, value < old),
            Merge::Greatest => pick(&old, &value, value > old),
            Merge::First | Merge::Last => {
                let order = order_column(name);
                let (before, now) = (stored[&order].clone(), new[&order].clone());
                let wins = now.is_some() && (before.is_none() || if *kind == Merge::First { now < before } else { now > before });
                if wins {
                    stored.insert(order, now);
                    value
                } else {
                    old
                }
            }
        };
        stored.insert(name.clone(), merged);
    }
}

async fn groups(query: &CheckedQuery, records: &[(i64, String)]) -> Vec<Group> {
    let payloads: Vec<(i64, &str)> = records.iter().map(|(offset, text)| (*offset, text.as_str())).collect();
    let mut all = Vec::new();
    for rows in run_at(query, &payloads).await {
        let schema = rows.schema();
        for row in 0..rows.num_rows() {
            all.push(schema.fields().iter().zip(rows.columns()).map(|(field, column)| (field.name().clone(), value(column, row))).collect());
        }
    }
    all
}

/// What is stored after these micro-batches.
async fn merged(query: &CheckedQuery, batches: &[Vec<(i64, String)>]) -> Vec<Group> {
    let kinds: Vec<(String, Merge)> = query.output().iter().map(|column| column.name.clone()).zip(query.merge().iter().copied()).collect();
    let key = |group: &Group| kinds.iter().filter(|(_, kind)| *kind == Merge::Key).map(|(name, _)| format!("{:?}", group[name])).collect::<String>();
    let mut stored: BTreeMap<String, Group> = BTreeMap::new();
    for batch in batches.iter().filter(|batch| !batch.is_empty()) {
        for group in groups(query, batch).await {
            match stored.get_mut(&key(&group)) {
                Some(stored) => merge_into(stored, group, &kinds),
                None => drop(stored.insert(key(&group), group)),
            }
        }
    }
    stored.into_values().collect()
}

fn record() -> impl Strategy<Value = String> {
    // Prices are multiples of a quarter, whose sums are exact in any order; few seconds, so that there are ties.
    (0..3_i64, prop::option::of(0..150_i64), prop::option::of(-50..50_i64), prop::option::of(-8..8_i32)).prop_map(|(id, second, volume, price)| {
        let time = second.map(|second| format!("2024-08-25T07:{:02}:{:02}Z", second / 60, second % 60));
        serde_json::json!({"id": id, "created_at": time, "volume": volume, "price": price.map(|price| f64::from(price) / 4.0)}).to_string()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn merging_any_partition_of_the_rows_is_one_aggregate_over_all(
        records in prop::collection::vec((record(), 0..4_usize), 1..60), order in Just([2_usize, 0, 3, 1]).prop_shuffle(),
    ) {
        let query = checked(CANDLES, Takes::Mergeable).unwrap();
        let numbered: Vec<(i64, String)> = (0..).zip(records.iter().map(|(text, _)| text.clone())).collect();
        let part = |place: usize| numbered.iter().zip(&records).filter(|(_, (_, of))| *of == place).map(|(record, _)| record.clone()).collect::<Vec<_>>();
        let parts: Vec<Vec<(i64, String)>> = order.iter().map(|&place| part(place)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (whole, parts) = (merged(&query, &[numbered]).await, merged(&query, &parts).await);
            prop_assert_eq!(whole, parts);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_first_value_without_nulls_passes_over_them() {
    let sql = "SELECT id, first_value(price) IGNORE NULLS AS p FROM ticks GROUP BY id";
    assert!(kinds(sql).is_err(), "it still needs an order");
    let query = checked("SELECT id, first_value(price ORDER BY created_at) IGNORE NULLS AS p FROM ticks GROUP BY id", Takes::Mergeable).unwrap();
    let rows = run_query(&query, &[r#"{"id":1,"created_at":"2024-08-25T07:00:00Z"}"#, r#"{"id":1,"created_at":"2024-08-25T07:00:01Z","price":2}"#]).await;
    assert_eq!(rows[0].column_by_name("p").unwrap().as_primitive::<Float64Type>().value(0).to_bits(), 2.0_f64.to_bits());
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
}
