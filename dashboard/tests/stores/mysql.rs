//! Tables and views of MySQL.

use serde_json::json;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, MySqlPool, Row};
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::mysql::MySqlTable;
use tapeline_dashboard::store::StoreError;
use tapeline_dashboard::store::mysql::MySql;
use tapeline_dashboard::table::{Cell, Kind};

use crate::support::{Mounted, Scratch, address, all, column, host_and_port, integers, lengths, pages};

const PASSWORD: &str = "secret of the test";

fn options() -> MySqlConnectOptions {
    let (host, port) = host_and_port(&address("TESTBED_MYSQL", 3306));
    MySqlConnectOptions::new().host(&host).port(port).username("root").password("root")
}

async fn admin() -> MySqlConnection {
    options().connect().await.expect("the test bed's mysql runs (testbed/up.sh)")
}

/// A database and a user of its name, who may read it.
async fn database() -> (Scratch, Mounted, MySql, MySqlPool) {
    let name = Scratch::new(|name| {
        Box::pin(async move {
            let mut admin = admin().await;
            admin.execute(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name}"))).await.unwrap();
            admin.execute(AssertSqlSafe(format!("DROP USER IF EXISTS {name}"))).await.unwrap();
        })
    });
    let mut admin = admin().await;
    for statement in [
        format!("CREATE DATABASE {}", &*name),
        format!("CREATE USER {} IDENTIFIED BY '{PASSWORD}'", &*name),
        format!("GRANT SELECT, EXECUTE ON {0}.* TO {0}", &*name),
    ] {
        admin.execute(AssertSqlSafe(statement)).await.unwrap();
    }
    let mounted = Mounted::new("mysql", &name, PASSWORD);
    let mysql = MySql::new(connection(&name), mounted.credentials());
    let pool = MySqlPoolOptions::new().max_connections(1).connect_with(options().database(&name)).await.unwrap();
    (name, mounted, mysql, pool)
}

fn connection(database: &str) -> tapeline_api::settings::MySqlConnection {
    let (host, port) = host_and_port(&address("TESTBED_MYSQL", 3306));
    serde_json::from_value(json!({"host": host, "port": port, "database": database})).unwrap()
}

fn trades() -> MySqlTable {
    serde_json::from_value(json!({
        "name": "trades",
        "columns": [{"name": "id", "type": "bigint", "autoIncrement": true}, {"name": "ticker", "type": "varchar(16)"}],
        "primaryKey": ["id"],
    }))
    .unwrap()
}

/// `trades` with `count` rows.
async fn fill(pool: &MySqlPool, count: i64) {
    pool.execute("CREATE TABLE trades (id BIGINT AUTO_INCREMENT PRIMARY KEY, ticker VARCHAR(16))").await.unwrap();
    let rows: Vec<String> = (1..=count).map(|id| format!("({id}, 'T{}')", id % 7)).collect();
    pool.execute(AssertSqlSafe(format!("INSERT INTO trades VALUES {}", rows.join(", ")))).await.unwrap();
}

fn name(text: &str) -> SqlName {
    text.parse().unwrap()
}

/// How many rows the server has looked at for this user's prepared statements.
async fn examined(user: &str) -> u64 {
    let text = "SELECT CAST(COALESCE(SUM(SUM_ROWS_EXAMINED), 0) AS UNSIGNED) FROM performance_schema.events_statements_summary_by_user_by_event_name \
        WHERE USER = ? AND EVENT_NAME = 'statement/com/Execute'";
    sqlx::query_scalar(text).bind(user).fetch_one(&mut admin().await).await.unwrap()
}

#[tokio::test]
async fn every_row_is_on_one_page_whatever_comes_meanwhile() {
    let (_name, _mounted, mysql, pool) = database().await;
    fill(&pool, 120).await;
    let table = trades();
    let read = async |cursor: Option<&str>| mysql.page(&table, cursor, 50).await;
    let pages = pages(read, async || {
        pool.execute("INSERT INTO trades (ticker) VALUES ('NEW')").await.unwrap();
    })
    .await;
    assert_eq!(lengths(&pages), [50, 50, 20]);
    assert_eq!(all(&pages, "id"), (1..=120).rev().collect::<Vec<_>>());
    assert_eq!(pages[0].order, "newest first by id");
    assert!(pages.iter().all(|page| !page.table.truncated));
}

#[tokio::test]
async fn a_last_page_that_is_full_has_no_next_one() {
    let (_name, _mounted, mysql, pool) = database().await;
    fill(&pool, 100).await;
    let table = trades();
    let pages = pages(async |cursor: Option<&str>| mysql.page(&table, cursor, 50).await, async || {}).await;
    assert_eq!(lengths(&pages), [50, 50]);
}

#[tokio::test]
async fn a_page_far_behind_costs_what_the_first_one_costs() {
    let (user, _mounted, mysql, pool) = database().await;
    pool.execute("CREATE TABLE candles (start DATETIME(6), ticker VARCHAR(16), price DECIMAL(30,10), PRIMARY KEY (start, ticker, price))").await.unwrap();
    pool.execute("SET SESSION cte_max_recursion_depth = 20000").await.unwrap();
    pool.execute(
        "INSERT INTO candles WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 9999) \
         SELECT TIMESTAMPADD(SECOND, i DIV 100, '2024-08-25'), CONCAT('T', i % 10), 12345678901234567890.0000000001 + (i DIV 10 % 10) * 0.0000000001 FROM n",
    )
    .await
    .unwrap();
    pool.execute("ANALYZE TABLE candles").await.unwrap();
    let candles: MySqlTable = serde_json::from_value(json!({
        "name": "candles",
        "columns": [{"name": "start", "type": "datetime(6)"}, {"name": "ticker", "type": "varchar(16)"}, {"name": "price", "type": "decimal(30,10)"}],
        "primaryKey": ["start", "ticker", "price"],
    }))
    .unwrap();

    let (mut cursor, mut seen): (Option<String>, Vec<Vec<String>>) = (None, Vec::new());
    loop {
        let before = examined(&user).await;
        let page = mysql.page(&candles, cursor.as_deref(), 900).await.unwrap();
        let cost = examined(&user).await - before;
        assert!(cost <= 910, "{cost} rows were looked at for the page after {} rows", seen.len());
        seen.extend(page.table.rows.iter().map(|row| row.iter().map(Cell::to_string).collect()));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    let expected = "SELECT CAST(start AS CHAR), ticker, CAST(price AS CHAR) FROM candles ORDER BY candles.start DESC, candles.ticker DESC, candles.price DESC";
    let expected: Vec<Vec<String>> =
        sqlx::query(expected).fetch_all(&pool).await.unwrap().iter().map(|row| (0..3).map(|place| row.get(place)).collect()).collect();
    let expected: Vec<Vec<String>> = expected.into_iter().map(|row| vec![row[0].replace(".000000", ""), row[1].clone(), row[2].clone()]).collect();
    assert_eq!((seen.len(), seen == expected), (10_000, true));

    let statement = format!("EXPLAIN FORMAT=TRADITIONAL {}", mysql.page_statement(&candles, true).unwrap());
    let mut query = sqlx::query(AssertSqlSafe(statement));
    let (start, ticker, price) = ("2024-08-25 00:00:50.000000", "T5", "12345678901234567890.0000000005");
    for value in [start, start, ticker, start, ticker, price] {
        query = query.bind(value);
    }
    let plan = query.bind(51).fetch_all(&pool).await.unwrap();
    let (access, key, extra): (String, String, String) = (plan[0].get("type"), plan[0].get("key"), plan[0].get("Extra"));
    assert_eq!((plan.len(), access.as_str(), key.as_str()), (1, "range", "PRIMARY"), "{extra}");
    assert!(!extra.contains("filesort") && !extra.contains("temporary"), "{extra}");
}

#[tokio::test]
async fn values_are_exact() {
    let (_name, _mounted, mysql, pool) = database().await;
    pool.execute(
        "CREATE TABLE kinds (id BIGINT PRIMARY KEY, b TINYINT(1), t TINYINT(1), u BIGINT UNSIGNED, m MEDIUMINT, d DECIMAL(40,10), f FLOAT, g DOUBLE, \
         c CHAR(4), v VARCHAR(20), x TEXT, day DATE, at TIMESTAMP(6) NULL, dt DATETIME(3), j JSON, o BLOB, ti TIME(2), y YEAR, bi BIT(9), e ENUM('a','b'), \
         s SET('p','q'), v_order BINARY(24))",
    )
    .await
    .unwrap();
    pool.execute(
        "INSERT INTO kinds VALUES (-9223372036854775808, 1, 1, 18446744073709551615, -8388608, -123456789012345678901234567890.0123456789, 0.1, 0.1, \
         'ab', 'Größe', '', '2024-08-25', '2024-08-25 07:04:45.123456', '2024-08-25 07:04:45.5', '{\"a\": [1]}', 'raw', '-01:02:03.50', 2024, b'100000001', 'b', 'p,q', ''), \
         (0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
    )
    .await
    .unwrap();
    let kinds: MySqlTable = serde_json::from_value(json!({
        "name": "kinds", "columns": [{"name": "id", "type": "bigint"}, {"name": "b", "type": "boolean"}], "primaryKey": ["id"]
    }))
    .unwrap();
    let page = mysql.page(&kinds, None, 10).await.unwrap();
    let text = |text: &str| Cell::Text(text.to_owned());
    let expected = [
        ("id", Kind::Integer, Cell::Integer(i64::MIN)),
        ("b", Kind::Boolean, Cell::Boolean(true)),
        ("t", Kind::Integer, Cell::Integer(1)),
        ("u", Kind::Decimal, Cell::decimal("18446744073709551615")),
        ("m", Kind::Integer, Cell::Integer(-8_388_608)),
        ("d", Kind::Decimal, Cell::decimal("-123456789012345678901234567890.0123456789")),
        ("f", Kind::Float, Cell::Float(0.1)),
        ("g", Kind::Float, Cell::Float(0.1)),
        ("c", Kind::Text, text("ab")),
        ("v", Kind::Text, text("Größe")),
        ("x", Kind::Text, text("")),
        ("day", Kind::Date, Cell::Date(jiff::civil::date(2024, 8, 25))),
        ("at", Kind::Timestamp, Cell::Timestamp(1_724_569_485_123_456)),
        ("dt", Kind::Timestamp, Cell::Timestamp(1_724_569_485_500_000)),
        ("j", Kind::Text, text("{\"a\": [1]}")),
        ("o", Kind::Text, text("raw")),
        ("ti", Kind::Text, text("-1:02:03.5")),
        ("y", Kind::Integer, Cell::Integer(2024)),
        ("bi", Kind::Integer, Cell::Integer(257)),
        ("e", Kind::Text, text("b")),
        ("s", Kind::Text, text("p,q")),
    ];
    for (column, (name, kind, cell)) in page.table.columns.iter().zip(&expected) {
        assert_eq!((column.name.as_str(), column.kind), (*name, *kind));
        assert_eq!(crate::support::column(&page.table, name)[1], *cell, "{name}");
    }
    assert_eq!(page.table.columns.len(), expected.len(), "an order column of mode Merge is not shown");
    assert!(page.table.rows[0][1..].iter().all(Cell::is_null), "{:?}", page.table.rows[0]);
}

#[tokio::test]
async fn a_view_is_cut_where_it_is_long_and_has_columns_where_it_is_empty() {
    let (_name, _mounted, mysql, pool) = database().await;
    fill(&pool, 30).await;
    pool.execute("CREATE VIEW by_ticker AS SELECT ticker, SUM(id) AS total, COUNT(*) AS number FROM trades GROUP BY ticker ORDER BY ticker").await.unwrap();
    pool.execute("CREATE VIEW nothing AS SELECT id, ticker FROM trades WHERE id < 0").await.unwrap();
    let whole = mysql.relation(&name("by_ticker"), 7).await.unwrap();
    assert_eq!((whole.rows.len(), whole.truncated), (7, false));
    assert_eq!(whole.rows[0], [Cell::Text("T0".to_owned()), Cell::decimal("70"), Cell::Integer(4)]);
    let cut = mysql.relation(&name("by_ticker"), 6).await.unwrap();
    assert_eq!((cut.rows.len(), cut.truncated), (6, true));
    let empty = mysql.relation(&name("nothing"), 10).await.unwrap();
    let columns: Vec<_> = empty.columns.iter().map(|column| (column.name.as_str(), column.kind)).collect();
    assert_eq!(columns, [("id", Kind::Integer), ("ticker", Kind::Text)]);
    // A view that is replaced is read as it is now.
    pool.execute("CREATE OR REPLACE VIEW nothing AS SELECT 1 AS one").await.unwrap();
    assert_eq!(column(&mysql.relation(&name("nothing"), 10).await.unwrap(), "one"), [Cell::Integer(1)]);
}

#[tokio::test]
async fn the_greatest_rows_are_those_of_a_chart() {
    let (_name, _mounted, mysql, pool) = database().await;
    fill(&pool, 30).await;
    let table = mysql.greatest(&trades(), 5).await.unwrap();
    assert_eq!((integers(&table, "id"), table.truncated), (vec![30, 29, 28, 27, 26], true));
    assert!(!mysql.greatest(&trades(), 30).await.unwrap().truncated);
}

#[tokio::test]
async fn a_wrong_password_is_denied_and_a_new_one_is_read() {
    let (user, mounted, mysql, pool) = database().await;
    fill(&pool, 3).await;
    mounted.set("mysql", &user, "wrong password");
    let error = mysql.page(&trades(), None, 10).await.unwrap_err();
    assert!(matches!(&error, StoreError::Denied(text) if !text.contains("wrong password")), "{error:?}");
    mounted.set("mysql", &user, PASSWORD);
    assert_eq!(mysql.page(&trades(), None, 10).await.unwrap().table.rows.len(), 3);
}

#[tokio::test]
async fn what_is_not_there_is_missing() {
    let (name, _mounted, mysql, _pool) = database().await;
    let error = mysql.page(&trades(), None, 10).await.unwrap_err();
    assert!(matches!(&error, StoreError::Missing(text) if text.contains("trades")), "{error:?}");
    let mut nowhere = connection(&name);
    nowhere.port = 1;
    let error = MySql::new(nowhere, Mounted::new("mysql", "root", "root").credentials()).relation(&self::name("v"), 1).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unreachable(_)), "{error:?}");
}

#[tokio::test]
async fn nothing_is_written_whatever_a_view_calls() {
    let (_name, _mounted, mysql, pool) = database().await;
    pool.execute("CREATE TABLE written (x INT)").await.unwrap();
    pool.execute("CREATE FUNCTION writes() RETURNS INT DETERMINISTIC BEGIN INSERT INTO written VALUES (1); RETURN 1; END").await.unwrap();
    pool.execute("CREATE VIEW sly AS SELECT writes() AS x").await.unwrap();
    let error = mysql.relation(&name("sly"), 10).await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused(text) if text.contains("writes")), "{error:?}");
    let written: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM written").fetch_one(&pool).await.unwrap();
    assert_eq!(written, 0);
}

#[tokio::test]
async fn sessions_are_few_and_bounded() {
    let (user, _mounted, mysql, pool) = database().await;
    fill(&pool, 3).await;
    let table = trades();
    let reads = (0..12).map(|_| mysql.page(&table, None, 10));
    for result in futures::future::join_all(reads).await {
        result.unwrap();
    }
    let text = "SELECT v.VARIABLE_NAME, v.VARIABLE_VALUE FROM performance_schema.variables_by_thread v JOIN performance_schema.threads t USING (THREAD_ID) \
        WHERE t.PROCESSLIST_USER = ? AND v.VARIABLE_NAME IN ('max_execution_time', 'time_zone', 'transaction_read_only') ORDER BY 1";
    let settings = sqlx::query(text).bind(&*user).fetch_all(&mut admin().await).await.unwrap();
    let settings: Vec<(String, String)> = settings.iter().map(|row| (row.get(0), row.get(1))).collect();
    let of_one = [("max_execution_time", "10000"), ("time_zone", "+00:00"), ("transaction_read_only", "ON")];
    let expected: Vec<(String, String)> = of_one.iter().flat_map(|(name, value)| vec![((*name).to_owned(), (*value).to_owned()); settings.len() / 3]).collect();
    assert!([3, 6, 9].contains(&settings.len()), "one to three sessions: {settings:?}");
    assert_eq!(settings, expected);
}
