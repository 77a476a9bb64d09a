//! Databases, tables, views and reference rows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, ConnectOptions};
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::mysql::MySql;
use tapeline_api::pipeline::status::Origin;
use tapeline_api::types::MySqlType;
use tapeline_operator::external::mysql::{Client, Desired, Endpoint, Plan, plan};
use tapeline_operator::external::{Applied, Clients, Credentials, ErrorClass, Guard, NodeState, Owner, RefusalReason};

use crate::support::{Memory, Scratch, address, assert_all_as_declared, assert_error, node, owner, refusal};

const CSV: &str = "ticker,company_name,sector,shares\nTMAS.JK,Temas,Logistics,12\nBBCA.JK,,Banks,13\n";

fn server() -> (String, u16) {
    let address = address("TESTBED_MYSQL", "10.99.0.1:3306");
    let (host, port) = address.rsplit_once(':').unwrap();
    (host.to_owned(), port.parse().unwrap())
}

fn spec(database: &str) -> MySql {
    serde_json::from_value(json!({
        "host": server().0,
        "credentialsSecretRef": {"name": "mysql"},
        "database": database,
        "tables": [
            {
                "name": "profile",
                "columns": [
                    {"name": "ticker", "type": "varchar(16)"},
                    {"name": "company_name", "type": "varchar(255)"},
                    {"name": "sector", "type": "varchar(64)"},
                    {"name": "shares", "type": "bigint"},
                ],
                "primaryKey": ["ticker"],
                "rowsFrom": {"configMapKeyRef": {"name": "profile", "key": "profile.csv"}},
            },
            {
                "name": "aggregated_data",
                "columns": [
                    {"name": "processing_id", "type": "bigint", "autoIncrement": true},
                    {"name": "processed_at", "type": "timestamp(6)"},
                    {"name": "sector", "type": "varchar(64)"},
                    {"name": "total_volume", "type": "int"},
                    {"name": "final", "type": "boolean", "nullable": false},
                    {"name": "date", "type": "date"},
                ],
                "primaryKey": ["processing_id"],
                "indexes": [{"columns": ["date", "sector"]}],
            },
        ],
        "views": [
            {"name": "a_share_of_the_day", "sql": "SELECT sector, total_volume FROM volume_today WHERE total_volume > 0"},
            {
                "name": "volume_today",
                "sql": "SELECT sector, SUM(total_volume) AS total_volume FROM aggregated_data WHERE date = UTC_DATE() GROUP BY sector;",
            },
        ],
    }))
    .unwrap()
}

fn credentials(user: &str, password: &str) -> Credentials {
    Credentials { user: user.into(), password: password.into(), field: "spec.mysql.credentialsSecretRef", secret: "mysql".into() }
}

fn client_of(user: &str, password: &str) -> Client {
    let (host, port) = server();
    Clients::default().mysql(Endpoint { host, port, credentials: credentials(user, password) })
}

fn client() -> Client {
    client_of("root", "root")
}

/// The administrator, who does things behind the operator's back.
async fn admin() -> MySqlConnection {
    let (host, port) = server();
    MySqlConnectOptions::new().host(&host).port(port).username("root").password("root").connect().await.unwrap()
}

async fn run(sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut admin().await).await.unwrap();
}

/// A database.
fn scratch() -> Scratch {
    Scratch::new("db", |name| Box::pin(run(format!("DROP DATABASE IF EXISTS {name}"))))
}

async fn number(sql: String) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut admin().await).await.unwrap()
}

fn desired(spec: &MySql, csv: &str) -> Desired {
    let profile: SqlName = "profile".parse().unwrap();
    Desired::of(spec, &BTreeMap::from([(profile, Arc::from(csv))]))
}

async fn planned(client: &Client, desired: &Desired, memory: &Memory, owner: &Owner) -> Plan {
    plan(desired, &client.describe(desired).await.unwrap(), memory.recorded(), owner)
}

async fn apply(client: &Client, desired: &Desired, memory: &mut Memory, owner: &Owner) -> Applied {
    let plan = planned(client, desired, memory, owner).await;
    memory.before(&plan.records());
    let applied = client.apply(&plan, &Guard::always()).await;
    memory.after(&applied);
    applied
}

async fn reconcile(client: &Client, spec: &MySql, memory: &mut Memory, owner: &Owner) -> Applied {
    apply(client, &desired(spec, CSV), memory, owner).await
}

/// Rows ever written in a database, and the times of its tables' creation or change.
async fn written(database: &str) -> (i64, String) {
    let rows =
        number(format!("SELECT CAST(SUM(count_write) AS SIGNED) FROM performance_schema.table_io_waits_summary_by_table WHERE object_schema = '{database}'"))
            .await;
    let times: String = sqlx::query_scalar(AssertSqlSafe(format!(
        "SELECT CAST(GROUP_CONCAT(CONCAT(table_name, ' ', create_time) ORDER BY table_name) AS CHAR) FROM information_schema.tables WHERE table_schema = \
        '{database}'"
    )))
    .fetch_one(&mut admin().await)
    .await
    .unwrap();
    (rows, times)
}

#[tokio::test]
async fn a_database_is_created_with_all_in_it_and_then_left_alone() {
    let (client, database, mut memory, owner) = (client(), scratch(), Memory::default(), owner("a"));
    let spec = spec(&database);
    let applied = reconcile(&client, &spec, &mut memory, &owner).await;
    assert_all_as_declared(&applied);
    assert!(applied.nodes.iter().all(|outcome| outcome.origin == Some(Origin::Created)));
    assert_eq!(number(format!("SELECT CAST(SUM(shares) AS SIGNED) FROM {database}.profile")).await, 25);
    assert_eq!(number(format!("SELECT COUNT(*) FROM {database}.a_share_of_the_day")).await, 0);

    let before = written(&database).await;
    let again = planned(&client, &desired(&spec, CSV), &memory, &owner).await;
    assert!(again.is_empty() && again.records().is_empty(), "{again:#?}");
    let applied = reconcile(&client, &spec, &mut Memory::default(), &owner).await;
    assert!(applied.nodes.iter().all(|outcome| outcome.state == NodeState::AsDeclared), "with a lost status as well: {applied:#?}");
    assert_eq!(written(&database).await, before);
}

#[tokio::test]
async fn tables_grow_and_what_would_lose_data_is_refused() {
    let (client, database, mut memory, owner) = (client(), scratch(), Memory::default(), owner("a"));
    let mut spec = spec(&database);
    reconcile(&client, &spec, &mut memory, &owner).await;
    run(format!("INSERT INTO {database}.aggregated_data (sector, total_volume, final, date) VALUES ('Banks', 2147483647, true, '2024-08-25')")).await;

    let table = &mut spec.tables[1];
    table.columns.push(serde_json::from_value(json!({"name": "trades", "type": "bigint"})).unwrap());
    table.columns[2].type_ = MySqlType::Varchar(100);
    table.columns[3].type_ = MySqlType::Bigint;
    table.indexes.push(serde_json::from_value(json!({"columns": ["processed_at"]})).unwrap());
    assert_all_as_declared(&reconcile(&client, &spec, &mut memory, &owner).await);
    assert!(planned(&client, &desired(&spec, CSV), &memory, &owner).await.is_empty());
    assert_eq!(number(format!("SELECT total_volume FROM {database}.aggregated_data WHERE trades IS NULL")).await, 2_147_483_647);
    let shape = client.describe_table(&spec.database, &spec.tables[1].name).await.unwrap().unwrap();
    assert_eq!((shape.column("total_volume").unwrap().type_, shape.indexes.len()), (Some(MySqlType::Bigint), 2));

    spec.tables[1].columns[3].type_ = MySqlType::Int;
    spec.tables[1].columns.push(serde_json::from_value(json!({"name": "venue", "type": "varchar(8)", "nullable": false})).unwrap());
    let applied = reconcile(&client, &spec, &mut memory, &owner).await;
    let NodeState::Refused(refusals) = &node(&applied, &format!("{database}.aggregated_data")).state else { panic!("{applied:#?}") };
    let fields: Vec<&str> = refusals.iter().map(|refusal| refusal.field.as_str()).collect();
    assert_eq!(fields, ["spec.mysql.tables[1].columns[3].type", "spec.mysql.tables[1].columns[7].nullable"]);
    assert!(node(&applied, &format!("{database}.profile")).state.is_as_declared());
}

#[tokio::test]
async fn a_dropped_table_comes_back_with_its_reference_rows_and_is_told() {
    let (client, database, mut memory, owner) = (client(), scratch(), Memory::default(), owner("a"));
    let spec = spec(&database);
    reconcile(&client, &spec, &mut memory, &owner).await;
    run(format!("DROP TABLE {database}.profile")).await;
    // Even with a status that knows nothing: the truth lies beside the data.
    let applied = reconcile(&client, &spec, &mut Memory::default(), &owner).await;
    assert!(matches!(node(&applied, &format!("{database}.profile")).state, NodeState::Recreated(_)), "{applied:#?}");
    assert_eq!(number(format!("SELECT COUNT(*) FROM {database}.profile")).await, 2);
    assert!(planned(&client, &desired(&spec, CSV), &memory, &owner).await.is_empty());
}

#[tokio::test]
async fn a_dropped_database_comes_back_and_all_that_was_in_it_is_told() {
    let (client, database, mut memory, owner) = (client(), scratch(), Memory::default(), owner("a"));
    let spec = spec(&database);
    reconcile(&client, &spec, &mut memory, &owner).await;
    run(format!("DROP DATABASE {database}")).await;
    let losses = planned(&client, &desired(&spec, CSV), &memory, &owner).await.records().losses;
    assert_eq!(losses.len(), 3, "the database and two tables: {losses:#?}");
    assert_all_as_declared(&reconcile(&client, &spec, &mut memory, &owner).await);
}

#[tokio::test]
async fn views_are_kept_as_declared() {
    let (client, database, mut memory, owner) = (client(), scratch(), Memory::default(), owner("a"));
    let mut spec = spec(&database);
    reconcile(&client, &spec, &mut memory, &owner).await;
    let view = format!("{database}.volume_today");
    run(format!("CREATE OR REPLACE VIEW {view} AS SELECT 'x' AS sector, 1 AS total_volume")).await;
    let applied = reconcile(&client, &spec, &mut memory, &owner).await;
    assert_eq!(node(&applied, &view).state, NodeState::Changed(format!("view {view} had been altered and was put back")));
    assert_eq!(number(format!("SELECT COUNT(*) FROM {view}")).await, 0);

    run(format!("DROP VIEW {view}")).await;
    let applied = reconcile(&client, &spec, &mut memory, &owner).await;
    assert_eq!(node(&applied, &view).state, NodeState::Changed(format!("created again view {view}")));

    spec.views[1].sql = "SELECT sector, MAX(total_volume) AS total_volume FROM aggregated_data GROUP BY sector".into();
    let applied = reconcile(&client, &spec, &mut memory, &owner).await;
    assert_eq!(node(&applied, &view).state, NodeState::Changed(format!("replaced view {view}")));
    assert!(planned(&client, &desired(&spec, CSV), &memory, &owner).await.is_empty());
}

#[tokio::test]
async fn a_view_that_mysql_does_not_take_is_told_in_its_words() {
    let (client, database, mut memory, owner) = (client(), scratch(), Memory::default(), owner("a"));
    let mut spec = spec(&database);
    for (sql, words) in [
        ("SELECT sectr FROM aggregated_data", "Unknown column 'sectr' in 'field list'"),
        ("SELEC 1", "You have an error in your SQL syntax"),
        ("SELECT 1; DROP TABLE profile", "You have an error in your SQL syntax"),
        ("SELECT ? AS x", "parameter"),
    ] {
        spec.views[1].sql = sql.into();
        let applied = reconcile(&client, &spec, &mut memory, &owner).await;
        let (reason, field, message) = refusal(node(&applied, &format!("{database}.volume_today")));
        assert_eq!((reason, field), (RefusalReason::InvalidSpec, "spec.mysql.views[1].sql"));
        assert!(message.contains(words), "{message}");
        let NodeState::Missing(message) = &node(&applied, &format!("{database}.a_share_of_the_day")).state else { panic!("{applied:#?}") };
        assert!(message.contains("volume_today, which does not exist: it is declared here"), "{message}");
        assert!(node(&applied, &format!("{database}.profile")).state.is_as_declared());
    }
    spec.views[1].sql = "SELECT sector, total_volume FROM upstream".into();
    let applied = reconcile(&client, &spec, &mut memory, &owner).await;
    let NodeState::Missing(message) = &node(&applied, &format!("{database}.volume_today")).state else { panic!("{applied:#?}") };
    assert!(message.contains(&format!("reads {database}.upstream, which does not exist")), "{message}");
    run(format!("CREATE TABLE {database}.upstream (sector varchar(8), total_volume int)")).await;
    assert_all_as_declared(&reconcile(&client, &spec, &mut memory, &owner).await);
}

#[tokio::test]
async fn reference_rows_follow_their_file() {
    let (client, database, mut memory, owner) = (client(), scratch(), Memory::default(), owner("a"));
    let spec = spec(&database);
    reconcile(&client, &spec, &mut memory, &owner).await;
    let changed = desired(&spec, "ticker,shares\nTMAS.JK,20\nNEW.JK,1\n");
    assert_all_as_declared(&apply(&client, &changed, &mut memory, &owner).await);
    assert_eq!(number(format!("SELECT CAST(SUM(shares) AS SIGNED) FROM {database}.profile")).await, 34);
    assert_eq!(number(format!("SELECT COUNT(*) FROM {database}.profile WHERE company_name = 'Temas'")).await, 1, "a column that is not in the file stays");
    assert!(planned(&client, &changed, &memory, &owner).await.is_empty());

    let wrong = desired(&spec, "ticker,shares\nTMAS.JK,many\n");
    let applied = apply(&client, &wrong, &mut memory, &owner).await;
    let (reason, field, message) = refusal(node(&applied, &format!("{database}.profile")));
    assert_eq!((reason, field), (RefusalReason::BadRows, "spec.mysql.tables[0].rowsFrom"));
    assert_eq!(message, "ConfigMap \"profile\" key \"profile.csv\" line 2, column \"shares\": \"many\" is not a bigint");
}

#[tokio::test]
async fn every_type_comes_back_as_it_was_declared() {
    let (client, database, mut memory, owner) = (client(), scratch(), Memory::default(), owner("a"));
    let mut spec = spec(&database);
    let types = [
        "boolean",
        "tinyint",
        "smallint",
        "int",
        "bigint",
        "float",
        "double",
        "decimal(38,4)",
        "varchar(10)",
        "varchar(4000)",
        "char(3)",
        "text",
        "date",
        "timestamp",
        "timestamp(6)",
        "datetime",
        "datetime(3)",
    ];
    let mut columns = vec![json!({"name": "id", "type": "bigint", "autoIncrement": true})];
    columns.extend(types.iter().enumerate().map(|(index, type_)| json!({"name": format!("c{index}"), "type": type_, "nullable": index % 2 == 0})));
    spec.tables = vec![serde_json::from_value(json!({"name": "types", "columns": columns, "primaryKey": ["id"]})).unwrap()];
    spec.views.clear();
    assert_all_as_declared(&reconcile(&client, &spec, &mut memory, &owner).await);
    assert!(planned(&client, &desired(&spec, CSV), &memory, &owner).await.is_empty());
}

#[tokio::test]
async fn a_large_file_of_every_type_is_loaded() {
    let (client, database, mut memory, owner) = (client(), scratch(), Memory::default(), owner("a"));
    let mut spec = spec(&database);
    spec.views.clear();
    spec.tables = vec![
        serde_json::from_value(json!({
            "name": "profile",
            "columns": [
                {"name": "ticker", "type": "varchar(16)"},
                {"name": "price", "type": "decimal(10,2)"},
                {"name": "weight", "type": "double"},
                {"name": "seen_at", "type": "timestamp(6)"},
                {"name": "listed", "type": "date"},
                {"name": "active", "type": "boolean"},
            ],
            "primaryKey": ["ticker"],
            "rowsFrom": {"configMapKeyRef": {"name": "profile", "key": "profile.csv"}},
        }))
        .unwrap(),
    ];
    let lines: String = (0..5_000).map(|n| format!("T{n},{n}.25,0.5,2024-08-25T07:04:45+07:00,2024-08-25,{}\n", n % 2 == 0)).collect();
    let rows = desired(&spec, &format!("ticker,price,weight,seen_at,listed,active\n{lines}"));
    assert_all_as_declared(&apply(&client, &rows, &mut memory, &owner).await);
    let good = format!(
        "SELECT COUNT(*) FROM {database}.profile WHERE price = CAST(SUBSTR(ticker, 2) AS SIGNED) + 0.25 AND UNIX_TIMESTAMP(seen_at) = 1724544285 AND listed = \
        '2024-08-25'"
    );
    assert_eq!(number(good).await, 5_000);
}

#[tokio::test]
async fn a_table_that_was_there_is_adopted_with_its_rows() {
    let (client, database, mut memory, owner) = (client(), scratch(), Memory::default(), owner("a"));
    run(format!("CREATE DATABASE {database}")).await;
    run(format!(
        "CREATE TABLE {database}.profile (ticker varchar(16) COLLATE utf8mb4_0900_bin PRIMARY KEY, company_name varchar(255), sector varchar(64), note text); \
         INSERT INTO {database}.profile VALUES ('OLD.JK', 'Old', 'Banks', 'kept')"
    ))
    .await;
    let applied = reconcile(&client, &spec(&database), &mut memory, &owner).await;
    assert_all_as_declared(&applied);
    assert_eq!((node(&applied, &database).origin, node(&applied, &format!("{database}.profile")).origin), (Some(Origin::Adopted), Some(Origin::Adopted)));
    assert_eq!(number(format!("SELECT COUNT(*) FROM {database}.profile WHERE note = 'kept' AND shares IS NULL")).await, 1);
    assert!(planned(&client, &desired(&spec(&database), CSV), &memory, &owner).await.is_empty());
}

#[tokio::test]
async fn two_pipelines_share_a_database_and_not_its_tables_and_views() {
    let (client, database) = (client(), scratch());
    let spec = spec(&database);
    reconcile(&client, &spec, &mut Memory::default(), &owner("first")).await;
    let second = owner("second");
    let applied = reconcile(&client, &spec, &mut Memory::default(), &second).await;
    assert_eq!(node(&applied, &database).state, NodeState::AsDeclared);
    let (reason, field, message) = refusal(node(&applied, &format!("{database}.volume_today")));
    assert_eq!((reason, field), (RefusalReason::ResourceConflict, "spec.mysql.views[1]"));
    assert!(message.contains("belongs to pipeline external/first"), "{message}");
    let (reason, _, message) = refusal(node(&applied, &format!("{database}.profile")));
    assert_eq!(reason, RefusalReason::ResourceConflict);

    // The way out that the message names.
    run(message.split_once("release it with: ").unwrap().1.to_owned()).await;
    let applied = reconcile(&client, &spec, &mut Memory::default(), &second).await;
    assert!(node(&applied, &format!("{database}.profile")).state.is_as_declared());
}

#[tokio::test]
async fn a_view_of_somebody_else_and_a_table_of_that_name_are_conflicts() {
    let (client, database, owner) = (client(), scratch(), owner("a"));
    run(format!("CREATE DATABASE {database}")).await;
    run(format!(
        "CREATE VIEW {database}.volume_today AS SELECT 1 AS mine; CREATE TABLE {database}.a_share_of_the_day (id int); CREATE VIEW {database}.profile \
    AS SELECT 2 AS mine"
    ))
    .await;
    let applied = reconcile(&client, &spec(&database), &mut Memory::default(), &owner).await;
    for (name, field) in [("volume_today", "spec.mysql.views[1]"), ("a_share_of_the_day", "spec.mysql.views[0]"), ("profile", "spec.mysql.tables[0]")] {
        let outcome = node(&applied, &format!("{database}.{name}"));
        assert_eq!((refusal(outcome).0, refusal(outcome).1), (RefusalReason::ResourceConflict, field));
    }
    assert_eq!(number(format!("SELECT mine FROM {database}.volume_today")).await, 1);
}

#[tokio::test]
async fn a_user_who_may_not_create_databases_works_in_one_that_is_there() {
    let (database, user, mut memory, owner) =
        (scratch(), Scratch::new("user", |name| Box::pin(run(format!("DROP USER IF EXISTS '{name}'@'%'")))), Memory::default(), owner("a"));
    run(format!("CREATE USER '{user}'@'%' IDENTIFIED BY 'pw'")).await;
    let client = client_of(&user, "pw");
    let denied = async || {
        // MySQL does not tell this user whether the database is there.
        let error = client.describe(&desired(&spec(&database), CSV)).await.unwrap_err();
        assert_error(&error, ErrorClass::Denied, &["spec.mysql.credentialsSecretRef", &database]);
    };
    denied().await;
    run(format!("CREATE DATABASE {database}")).await;
    denied().await;
    run(format!("GRANT SELECT ON {database}.* TO '{user}'@'%'")).await;
    let applied = reconcile(&client, &spec(&database), &mut memory, &owner).await;
    assert!(applied.nodes.iter().all(|outcome| matches!(&outcome.state, NodeState::Waiting(error) if error.class == ErrorClass::Denied)), "{applied:#?}");
    run(format!("GRANT ALL ON {database}.* TO '{user}'@'%'")).await;
    let applied = reconcile(&client, &spec(&database), &mut memory, &owner).await;
    assert_all_as_declared(&applied);
    let lost = |applied: &Applied| applied.nodes.iter().any(|outcome| matches!(outcome.state, NodeState::Recreated(_)));
    assert!(!lost(&applied), "what was never there is not lost: {applied:#?}");
    assert!(planned(&client, &desired(&spec(&database), CSV), &memory, &owner).await.is_empty());

    // What a user may not see any more is not gone.
    run(format!("REVOKE ALL ON {database}.* FROM '{user}'@'%'")).await;
    denied().await;
    run(format!("GRANT ALL ON {database}.* TO '{user}'@'%'")).await;
    let applied = reconcile(&client, &spec(&database), &mut memory, &owner).await;
    assert!(!lost(&applied), "{applied:#?}");
}

#[tokio::test]
async fn a_wrong_password_is_told_and_healed_by_the_right_one() {
    let (host, port) = server();
    let clients = Clients::default();
    let spec = spec(&scratch());
    let client = |password| clients.mysql(Endpoint { host: host.clone(), port, credentials: credentials("root", password) });
    let error = client("wrong").describe(&desired(&spec, CSV)).await.unwrap_err();
    assert_error(&error, ErrorClass::Denied, &["spec.mysql.credentialsSecretRef", "refuses user \"root\": wrong user or password", "Secret \"mysql\""]);
    client("root").describe(&desired(&spec, CSV)).await.unwrap();
}

#[tokio::test]
async fn a_closed_port_is_told_within_seconds_and_then_at_once() {
    let client = Clients::default().mysql(Endpoint { host: "10.99.0.1".into(), port: 1, credentials: credentials("root", "root") });
    let desired = desired(&spec("db"), CSV);
    let start = Instant::now();
    let error = client.describe(&desired).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(6));
    assert_error(&error, ErrorClass::Unreachable, &["spec.mysql.host", "10.99.0.1:1", "connection refused"]);
    let start = Instant::now();
    assert_eq!(client.describe(&desired).await.unwrap_err(), error);
    assert!(start.elapsed() < Duration::from_millis(50));
}

#[tokio::test]
async fn a_port_that_says_nothing_is_told_within_seconds() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let client = Clients::default().mysql(Endpoint { host: "127.0.0.1".into(), port, credentials: credentials("root", "root") });
    let start = Instant::now();
    let error = client.describe(&desired(&spec("db"), CSV)).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(6));
    assert_error(&error, ErrorClass::Unreachable, &["spec.mysql.host", "no answer within 5 s"]);
}
