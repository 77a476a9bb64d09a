//! Collections of MongoDB. The test bed's is not MongoDB itself, and has no decimals.

use mongodb::bson::{Bson, DateTime, Document, doc};
use mongodb::options::{ClientOptions, Credential, ServerAddress};
use mongodb::{Client, Collection};
use serde_json::json;
use tapeline_api::names::SqlName;
use tapeline_api::settings::MongoDbConnection;
use tapeline_dashboard::store::StoreError;
use tapeline_dashboard::store::mongodb::MongoDb;
use tapeline_dashboard::table::{Cell, Kind};

use crate::support::{Mounted, Scratch, address, all, lengths, pages};

fn admin() -> Client {
    let credential = Credential::builder().username("tapeline".to_owned()).password("tapeline".to_owned()).source("admin".to_owned()).build();
    let hosts = vec![ServerAddress::parse(address("TESTBED_MONGO", 27017)).unwrap()];
    Client::with_options(ClientOptions::builder().hosts(hosts).direct_connection(true).credential(credential).build()).unwrap()
}

fn connection(address: &str, database: &str) -> MongoDbConnection {
    serde_json::from_value(json!({"hosts": [address], "authSource": "admin", "database": database})).unwrap()
}

/// A database of its own, and the collection `trades` in it.
fn database() -> (Scratch, Mounted, MongoDb, Collection<Document>) {
    let name = Scratch::new(|name| {
        Box::pin(async move {
            admin().database(&name).drop().await.unwrap();
        })
    });
    let mounted = Mounted::new("mongodb", "tapeline", "tapeline");
    let store = MongoDb::new(connection(&address("TESTBED_MONGO", 27017), &name), mounted.credentials());
    let collection = admin().database(&name).collection("trades");
    (name, mounted, store, collection)
}

fn trades() -> SqlName {
    "trades".parse().unwrap()
}

#[tokio::test]
async fn every_document_is_on_one_page_whatever_comes_meanwhile() {
    let (_name, _mounted, store, collection) = database();
    collection
        .insert_many((1..=120_i64).map(|id| doc! {"_id": format!("{id:05}"), "id": id, "_w": id}))
        .await
        .expect("the test bed's mongo runs (testbed/up.sh)");
    let mut new = 500_i64;
    let pages = pages(
        async |cursor: Option<&str>| store.page(&trades(), cursor, 50).await,
        async || {
            new += 1;
            collection.insert_one(doc! {"_id": format!("{new:05}"), "id": new}).await.unwrap();
        },
    )
    .await;
    assert_eq!(lengths(&pages), [50, 50, 20]);
    assert_eq!(all(&pages, "id"), (1..=120).rev().collect::<Vec<_>>());
    assert_eq!(pages[0].order, "greatest first by _id");
}

#[tokio::test]
async fn ids_of_columns_are_gone_on_from_too() {
    let (_name, _mounted, store, collection) = database();
    collection.insert_many((1..=7_i64).map(|id| doc! {"_id": {"ticker": "AAPL", "id": id}, "id": id})).await.unwrap();
    let pages = pages(async |cursor: Option<&str>| store.page(&trades(), cursor, 3).await, async || {}).await;
    assert_eq!((lengths(&pages), all(&pages, "id")), (vec![3, 3, 1], (1..=7).rev().collect()));
}

#[tokio::test]
async fn documents_are_rows_and_what_is_nested_is_json() {
    let (_name, _mounted, store, collection) = database();
    let full = doc! {"_id": 2_i64, "_w": 9_i64, "at": DateTime::from_millis(1_724_569_485_123), "price": 0.1, "ok": true, "tags": ["a", "b"], "deep": {"z": 1, "a": {"b": Bson::Null}}};
    collection.insert_many([full, doc! {"_id": 1_i64, "price": 2.5, "ticker": "AAPL"}]).await.unwrap();
    let table = store.page(&trades(), None, 10).await.unwrap().table;
    let columns: Vec<_> = table.columns.iter().map(|column| (column.name.as_str(), column.kind)).collect();
    let expected = [
        ("_id", Kind::Integer),
        ("at", Kind::Timestamp),
        ("price", Kind::Float),
        ("ok", Kind::Boolean),
        ("tags", Kind::Text),
        ("deep", Kind::Text),
        ("ticker", Kind::Text),
        ("_w", Kind::Integer),
    ];
    assert_eq!(columns, expected);
    let text = |text: &str| Cell::Text(text.to_owned());
    let first = [
        Cell::Integer(2),
        Cell::Timestamp(1_724_569_485_123_000),
        Cell::Float(0.1),
        Cell::Boolean(true),
        text(r#"["a","b"]"#),
        text(r#"{"z":1,"a":{"b":null}}"#),
        Cell::Null,
        Cell::Integer(9),
    ];
    assert_eq!(table.rows[0], first);
}

#[tokio::test]
async fn a_wrong_password_is_denied_and_a_new_one_is_read() {
    let (_name, mounted, store, collection) = database();
    collection.insert_one(doc! {"_id": 1}).await.unwrap();
    mounted.set("mongodb", "tapeline", "wrong password");
    let error = store.page(&trades(), None, 10).await.unwrap_err();
    assert!(matches!(&error, StoreError::Denied(text) if !text.contains("wrong password")), "{error:?}");
    mounted.set("mongodb", "tapeline", "tapeline");
    assert_eq!(store.page(&trades(), None, 10).await.unwrap().table.rows.len(), 1);
}

#[tokio::test]
async fn what_is_not_there_is_missing_and_what_is_empty_is_not() {
    let (name, mounted, store, collection) = database();
    let error = store.page(&trades(), None, 10).await.unwrap_err();
    assert!(matches!(&error, StoreError::Missing(text) if text.contains("trades")), "{error:?}");
    collection.insert_one(doc! {"_id": 1}).await.unwrap();
    collection.delete_one(doc! {"_id": 1}).await.unwrap();
    assert_eq!(store.page(&trades(), None, 10).await.unwrap().table.rows.len(), 0);
    let error = MongoDb::new(connection("127.0.0.1:1", &name), mounted.credentials()).page(&trades(), None, 10).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unreachable(_)), "{error:?}");
}
