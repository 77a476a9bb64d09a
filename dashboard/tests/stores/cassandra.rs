//! Tables of Cassandra.

use std::time::Duration;

use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use serde_json::json;
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::cassandra::CassandraTable;
use tapeline_api::settings::CassandraConnection;
use tapeline_dashboard::store::StoreError;
use tapeline_dashboard::store::cassandra::Cassandra;
use tapeline_dashboard::table::{Cell, Kind};

use crate::support::{Mounted, Scratch, address, all, integers, is_there, lengths, pages};

async fn admin() -> Session {
    let profile = ExecutionProfile::builder().request_timeout(Some(Duration::from_secs(60))).build();
    let builder = SessionBuilder::new().known_node(address("TESTBED_CASSANDRA", 9042)).default_execution_profile_handle(profile.into_handle());
    Box::pin(builder.build()).await.expect("the test bed's cassandra runs (testbed/up.sh)")
}

fn connection(address: &str, keyspace: &str) -> CassandraConnection {
    serde_json::from_value(json!({"contactPoints": [address], "keyspace": keyspace, "replication": "SimpleStrategy"})).unwrap()
}

/// A keyspace with the tables that `statements` make in it.
async fn keyspace(statements: &[&str]) -> (Scratch, Session, Cassandra) {
    let name = Scratch::new(|name| {
        Box::pin(async move {
            admin().await.query_unpaged(format!("DROP KEYSPACE IF EXISTS {name}"), ()).await.unwrap();
        })
    });
    let session = admin().await;
    let create = format!("CREATE KEYSPACE {} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}", &*name);
    session.query_unpaged(create, ()).await.unwrap();
    session.use_keyspace(&*name, false).await.unwrap();
    for statement in statements {
        session.query_unpaged(*statement, ()).await.unwrap();
    }
    let cassandra = Cassandra::new(connection(&address("TESTBED_CASSANDRA", 9042), &name), Mounted::nothing().credentials());
    (name, session, cassandra)
}

fn given(partition: &[(&str, &str)]) -> Vec<(SqlName, String)> {
    partition.iter().map(|(name, value)| (name.parse().unwrap(), (*value).to_owned())).collect()
}

fn by_id() -> CassandraTable {
    serde_json::from_value(json!({
        "name": "by_id", "columns": [{"name": "id", "type": "bigint"}, {"name": "ticker", "type": "text"}], "partitionKey": ["id"]
    }))
    .unwrap()
}

fn by_ticker(order: &str) -> CassandraTable {
    serde_json::from_value(json!({
        "name": "by_ticker",
        "columns": [{"name": "ticker", "type": "text"}, {"name": "created_at", "type": "timestamp"}, {"name": "id", "type": "bigint"}],
        "partitionKey": ["ticker"],
        "clusteringKey": [{"column": "created_at", "order": order}, {"column": "id", "order": order}],
    }))
    .unwrap()
}

#[tokio::test]
async fn every_row_is_on_one_page() {
    let (_name, session, cassandra) = keyspace(&["CREATE TABLE by_id (id bigint PRIMARY KEY, ticker text)"]).await;
    let insert = session.prepare("INSERT INTO by_id (id, ticker) VALUES (?, 'AAPL')").await.unwrap();
    for id in 1..=120_i64 {
        session.execute_unpaged(&insert, (id,)).await.unwrap();
    }
    let table = by_id();
    let pages = pages(async |cursor: Option<&str>| cassandra.page(&table, &[], cursor, 50).await, async || {}).await;
    assert_eq!(lengths(&pages), [50, 50, 20]);
    let found = session.query_unpaged("SELECT id FROM by_id", ()).await.unwrap().into_rows_result().unwrap();
    let in_token_order: Vec<i64> = found.rows::<(i64,)>().unwrap().map(|row| row.unwrap().0).collect();
    assert_eq!(all(&pages, "id"), in_token_order);
    assert_eq!(pages[0].order, "by token");
    let single = cassandra.page(&table, &given(&[("id", "77")]), None, 50).await.unwrap();
    assert_eq!((integers(&single.table, "id"), single.next), (vec![77], None));
    assert_eq!(cassandra.page(&table, &given(&[("id", "777")]), None, 50).await.unwrap().table.rows.len(), 0);
}

#[tokio::test]
async fn a_partition_is_shown_from_its_newest_row_whatever_its_order_and_what_comes_meanwhile() {
    for order in ["Desc", "Asc"] {
        let clustering = format!("created_at {order}, id {order}");
        let create = format!(
            "CREATE TABLE by_ticker (ticker text, created_at timestamp, id bigint, PRIMARY KEY (ticker, created_at, id)) WITH CLUSTERING ORDER BY ({clustering})"
        );
        let (_name, session, cassandra) = keyspace(&[&create]).await;
        let insert = session.prepare("INSERT INTO by_ticker (ticker, created_at, id) VALUES (?, ?, ?)").await.unwrap();
        let put = async |ticker: &str, id: i64| {
            let at = scylla::value::CqlTimestamp(1_724_569_485_000 + id * 1000);
            session.execute_unpaged(&insert, (ticker, at, id)).await.unwrap();
        };
        for id in 1..=120 {
            put("AAPL", id).await;
            put("MSFT", 1000 + id).await;
        }
        let (table, partition) = (by_ticker(order), given(&[("ticker", "AAPL")]));
        let mut new = 500;
        let pages = pages(
            async |cursor: Option<&str>| cassandra.page(&table, &partition, cursor, 50).await,
            async || {
                new += 1;
                put("AAPL", new).await;
            },
        )
        .await;
        assert_eq!(lengths(&pages), [50, 50, 20], "{order}");
        assert_eq!(all(&pages, "id"), (1..=120).rev().collect::<Vec<_>>(), "{order}");
        assert_eq!(pages[0].order, "newest first by created_at");
        // A cursor belongs to its partition.
        let other = cassandra.page(&table, &given(&[("ticker", "MSFT")]), pages[0].next.as_deref(), 50).await.unwrap_err();
        assert!(matches!(&other, StoreError::Invalid(_)), "{other:?}");
    }
}

#[tokio::test]
async fn large_rows_are_read_as_many_as_the_dashboard_can_hold() {
    let (_name, session, cassandra) = keyspace(&["CREATE TABLE by_id (id bigint PRIMARY KEY, ticker text)"]).await;
    let insert = session.prepare("INSERT INTO by_id (id, ticker) VALUES (?, ?)").await.unwrap();
    let large = "x".repeat(1 << 20);
    for id in 1..=40_i64 {
        session.execute_unpaged(&insert, (id, &large)).await.unwrap();
    }
    let table = by_id();
    let pages = pages(async |cursor: Option<&str>| cassandra.page(&table, &[], cursor, 1000).await, async || {}).await;
    assert!(pages.iter().all(|page| page.table.rows.len() <= 17), "{:?}", lengths(&pages));
    let mut ids = all(&pages, "id");
    ids.sort_unstable();
    assert_eq!(ids, (1..=40).collect::<Vec<_>>());
}

#[tokio::test]
async fn values_are_exact() {
    let create = "CREATE TABLE kinds (id bigint PRIMARY KEY, b boolean, t tinyint, s smallint, i int, f float, d double, e decimal, x text, day date, at timestamp, u uuid, \
        v varint, l list<int>, o blob)";
    let insert = "INSERT INTO kinds (id, b, t, s, i, f, d, e, x, day, at, u, v, l, o) VALUES (-9223372036854775808, true, -128, -32768, -2147483648, 0.1, 0.1, \
        -12345678901234567890.0123456789, 'Größe', '2024-08-25', '2024-08-25T07:04:45.123Z', 6fa459ea-ee8a-3ca4-894e-db77e160355e, 123456789012345678901234567890, [1, 2], 0x01ab)";
    let (_name, _session, cassandra) = keyspace(&[create, insert, "INSERT INTO kinds (id) VALUES (0)"]).await;
    let columns = [
        ("id", "bigint"),
        ("at", "timestamp"),
        ("b", "boolean"),
        ("t", "tinyint"),
        ("s", "smallint"),
        ("i", "int"),
        ("f", "float"),
        ("d", "double"),
        ("e", "decimal"),
        ("x", "text"),
        ("day", "date"),
        ("u", "uuid"),
    ];
    let columns: Vec<_> = columns.iter().map(|(name, type_)| json!({"name": name, "type": type_})).collect();
    let table: CassandraTable = serde_json::from_value(json!({"name": "kinds", "columns": columns, "partitionKey": ["id"]})).unwrap();
    let text = |text: &str| Cell::Text(text.to_owned());
    let expected = [
        ("id", Kind::Integer, Cell::Integer(i64::MIN)),
        ("at", Kind::Timestamp, Cell::Timestamp(1_724_569_485_123_000)),
        ("b", Kind::Boolean, Cell::Boolean(true)),
        ("t", Kind::Integer, Cell::Integer(-128)),
        ("s", Kind::Integer, Cell::Integer(-32_768)),
        ("i", Kind::Integer, Cell::Integer(-2_147_483_648)),
        ("f", Kind::Float, Cell::Float(0.1)),
        ("d", Kind::Float, Cell::Float(0.1)),
        ("e", Kind::Decimal, Cell::decimal("-12345678901234567890.0123456789")),
        ("x", Kind::Text, text("Größe")),
        ("day", Kind::Date, Cell::Date(jiff::civil::date(2024, 8, 25))),
        ("u", Kind::Text, text("6fa459ea-ee8a-3ca4-894e-db77e160355e")),
        ("l", Kind::Text, text("[1,2]")),
        ("o", Kind::Text, text("0x01ab")),
        ("v", Kind::Decimal, Cell::decimal("123456789012345678901234567890")),
    ];
    let page = cassandra.page(&table, &given(&[("id", "-9223372036854775808")]), None, 10).await.unwrap();
    let found: Vec<_> = page.table.columns.iter().zip(&page.table.rows[0]).map(|(column, cell)| (column.name.as_str(), column.kind, cell.clone())).collect();
    assert_eq!(found, expected);
    let nulls = cassandra.page(&table, &given(&[("id", "0")]), None, 10).await.unwrap();
    assert!(nulls.table.rows[0][1..].iter().all(Cell::is_null));
}

#[tokio::test]
async fn a_row_is_found_by_what_its_page_shows() {
    let create = "CREATE TABLE keys (e decimal, at timestamp, day date, u uuid, f float, id bigint, PRIMARY KEY ((e, at, day, u, f)))";
    let insert =
        "INSERT INTO keys (e, at, day, u, f, id) VALUES (1.50, '2024-08-25T07:04:45.120Z', '2024-08-25', 6fa459ea-ee8a-3ca4-894e-db77e160355e, 0.1, 7)";
    let (_name, _session, cassandra) = keyspace(&[create, insert]).await;
    let names = ["e", "at", "day", "u", "f"];
    let columns = [("e", "decimal"), ("at", "timestamp"), ("day", "date"), ("u", "uuid"), ("f", "float"), ("id", "bigint")];
    let columns: Vec<_> = columns.iter().map(|(name, type_)| json!({"name": name, "type": type_})).collect();
    let table: CassandraTable = serde_json::from_value(json!({"name": "keys", "columns": columns, "partitionKey": names})).unwrap();
    let shown = cassandra.page(&table, &[], None, 10).await.unwrap().table;
    let partition: Vec<(SqlName, String)> = names.iter().zip(&shown.rows[0]).map(|(name, cell)| (name.parse().unwrap(), cell.to_string())).collect();
    assert_eq!(integers(&cassandra.page(&table, &partition, None, 10).await.unwrap().table, "id"), [7], "{partition:?}");
}

#[tokio::test]
async fn what_is_not_there_is_missing_and_what_is_no_place_is_invalid() {
    let (name, _session, cassandra) = keyspace(&["CREATE TABLE other (id bigint PRIMARY KEY)"]).await;
    for partition in [vec![], given(&[("id", "1")])] {
        let error = cassandra.page(&by_id(), &partition, None, 10).await.unwrap_err();
        assert!(matches!(&error, StoreError::Missing(text) if text.contains("by_id")), "{error:?}");
    }
    let nowhere = Cassandra::new(connection("127.0.0.1:1", &name), Mounted::nothing().credentials());
    let error = nowhere.page(&by_id(), &[], None, 10).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unreachable(_)), "{error:?}");
}

#[tokio::test]
async fn a_wrong_password_is_denied_and_a_new_one_is_read() {
    let address = address("TESTBED_CASSANDRA_AUTH", 9043);
    if !is_there(&address).await {
        eprintln!("left out: the test bed's cassandra-auth does not run (testbed/up.sh --keep cassandra-auth)");
        return;
    }
    let mounted = Mounted::new("cassandra", "tapeline", "wrong password");
    let cassandra = Cassandra::new(connection(&address, "dashboard_of_nobody"), mounted.credentials());
    let error = cassandra.page(&by_id(), &[], None, 10).await.unwrap_err();
    assert!(matches!(&error, StoreError::Denied(text) if !text.contains("wrong password")), "{error:?}");
    mounted.set("cassandra", "tapeline", "tapeline");
    let error = cassandra.page(&by_id(), &[], None, 10).await.unwrap_err();
    assert!(matches!(&error, StoreError::Missing(_) | StoreError::Denied(_)), "the login is taken, the keyspace is not there: {error:?}");
    let nobody = Cassandra::new(connection(&address, "dashboard_of_nobody"), Mounted::nothing().credentials());
    let error = nobody.page(&by_id(), &[], None, 10).await.unwrap_err();
    assert!(matches!(&error, StoreError::Denied(text) if text.contains("credentialsSecretRef")), "{error:?}");
}
