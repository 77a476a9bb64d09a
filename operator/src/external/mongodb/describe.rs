//! What is there of a database's collections. Reads only.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use mongodb::{Client, Database};
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::cassandra::Order;
use tapeline_api::progress::{PROGRESS_TABLE, RESOURCES_TABLE};
use uuid::Uuid;

use super::client::{asked, within};
use super::errors::NAMESPACE_NOT_FOUND;
use super::{Actual, CollectionShape, Desired, Direction, IndexShape, Other};
use crate::external::REQUEST_TIMEOUT;
use crate::external::breaker::Fault;
use crate::external::ownership::OwnerRow;

/// The `_id` of the document in the collection of owners that holds the database's id.
pub(super) const IDENTITY: &str = "server";

/// What of an index does not change what it holds and refuses.
const HARMLESS: &[&str] = &["v", "key", "name", "ns", "unique", "background", "2dsphereIndexVersion", "textIndexVersion"];

/// What is there.
pub(super) async fn describe(client: &Client, desired: &Desired) -> Result<Actual, Fault> {
    let database = client.database(desired.database.as_str());
    let there = collections(&database).await?;
    let mut actual = Actual { new_id: Uuid::new_v4().to_string(), database: !there.is_empty(), ..Actual::default() };
    actual.progress = there.contains_key(PROGRESS_TABLE);
    if there.contains_key(RESOURCES_TABLE) {
        let documents = resources(&database).await?;
        actual.id = documents.iter().find_map(id);
        actual.owners = Some(documents.iter().filter_map(owner).collect());
    }
    for name in desired.collections.iter().map(|declared| &declared.collection.name) {
        match there.get(name.as_str()) {
            None => {}
            Some(Some(other)) => _ = actual.other.insert(name.clone(), *other),
            Some(None) => _ = actual.collections.insert(name.clone(), CollectionShape { indexes: indexes(&database, name).await? }),
        }
    }
    Ok(actual)
}

/// The names in a database, and what they name where that is no ordinary collection.
async fn collections(database: &Database) -> Result<BTreeMap<String, Option<Other>>, Fault> {
    let doing = format!("list the collections of database {}", database.name());
    let request = async { database.run_cursor_command(doc! { "listCollections": 1, "cursor": {} }).await?.try_collect::<Vec<_>>().await };
    let found: Vec<Document> = asked(&doing, request).await?;
    Ok(found.iter().filter_map(|document| Some((document.get_str("name").ok()?.to_owned(), other(document)))).collect())
}

fn other(document: &Document) -> Option<Other> {
    match document.get_str("type") {
        Ok("view") => return Some(Other::View),
        Ok("timeseries") => return Some(Other::TimeSeries),
        _ => {}
    }
    let options = document.get_document("options").ok()?;
    if options.get_bool("capped").unwrap_or(false) {
        return Some(Other::Capped);
    }
    options.contains_key("collation").then_some(Other::Collated)
}

/// The indexes of a collection, beside that of `_id`.
async fn indexes(database: &Database, name: &SqlName) -> Result<Vec<IndexShape>, Fault> {
    let doing = format!("list the indexes of collection {}.{name}", database.name());
    let request = async { database.run_cursor_command(doc! { "listIndexes": name.as_str(), "cursor": {} }).await?.try_collect::<Vec<_>>().await };
    let found: Vec<Document> = within(REQUEST_TIMEOUT, request).await.map_err(|failed| match failed.code() {
        Some(NAMESPACE_NOT_FOUND) => Fault::failed(format!("collection {}.{name} vanished a moment ago; it is looked at again", database.name())),
        _ => failed.fault(&doing),
    })?;
    Ok(found.iter().map(index).filter(|index| !matches!(index.fields.as_slice(), [(field, _)] if field == "_id")).collect())
}

fn index(document: &Document) -> IndexShape {
    let is_set = |value: &Bson| !matches!(value, Bson::Boolean(false) | Bson::Null);
    let options = document.iter().filter(|(key, value)| !HARMLESS.contains(&key.as_str()) && is_set(value));
    IndexShape {
        name: document.get_str("name").unwrap_or_default().to_owned(),
        fields: document.get_document("key").into_iter().flatten().map(|(field, how)| (field.clone(), direction(how))).collect(),
        unique: document.get_bool("unique").unwrap_or(false),
        options: options.map(|(key, _)| key.clone()).collect(),
    }
}

/// MongoDB takes any number for a direction, and keeps it as it was given.
fn direction(how: &Bson) -> Direction {
    let sorted = |ascending| Direction::Sorted(if ascending { Order::Asc } else { Order::Desc });
    match how {
        Bson::Int32(number) => sorted(*number > 0),
        Bson::Int64(number) => sorted(*number > 0),
        Bson::Double(number) => sorted(*number > 0.0),
        Bson::String(how) => Direction::Other(how.clone()),
        how => Direction::Other(how.to_string()),
    }
}

/// The documents of the collection of owners.
async fn resources(database: &Database) -> Result<Vec<Document>, Fault> {
    let doing = format!("read collection {}.{RESOURCES_TABLE}", database.name());
    let request = async { database.collection::<Document>(RESOURCES_TABLE).find(doc! {}).await?.try_collect().await };
    asked(&doing, request).await
}

/// The document of one thing, by its `_id`.
pub(super) async fn resource(database: &Database, id: impl Into<Bson>) -> Result<Option<Document>, Fault> {
    let doing = format!("read collection {}.{RESOURCES_TABLE}", database.name());
    asked(&doing, async { database.collection::<Document>(RESOURCES_TABLE).find_one(doc! { "_id": id.into() }).await }).await
}

/// The database's id, if it is that document.
pub(super) fn id(document: &Document) -> Option<String> {
    document.get_str("_id").ok().filter(|id| *id == IDENTITY).and_then(|_| document.get_str("id").ok()).map(str::to_owned)
}

/// The owner of something, if it is such a document.
pub(super) fn owner(document: &Document) -> Option<OwnerRow> {
    let key = document.get_document("_id").ok()?;
    let text = |document: &Document, field: &str| document.get_str(field).ok().map(str::to_owned);
    Some(OwnerRow {
        kind: text(key, "kind")?,
        name: text(key, "name")?,
        owner: text(document, "owner")?,
        origin: text(document, "origin").unwrap_or_default(),
        spec_hash: text(document, "spec_hash").unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::plain(doc! {"name": "ticks", "type": "collection", "options": {}}, None)]
    #[case::of_an_old_server(doc! {"name": "ticks"}, None)]
    #[case::view(doc! {"name": "ticks", "type": "view", "options": {"viewOn": "x", "pipeline": []}}, Some(Other::View))]
    #[case::time_series(doc! {"name": "ticks", "type": "timeseries", "options": {"timeseries": {"timeField": "t"}}}, Some(Other::TimeSeries))]
    #[case::collated(doc! {"name": "ticks", "type": "collection", "options": {"collation": {"locale": "en", "strength": 2}}}, Some(Other::Collated))]
    #[case::capped(doc! {"name": "ticks", "type": "collection", "options": {"capped": true, "size": 4096}}, Some(Other::Capped))]
    fn what_a_name_stands_for(#[case] document: Document, #[case] expected: Option<Other>) {
        assert_eq!(other(&document), expected);
    }

    #[rstest]
    #[case::plain(doc! {"v": 2, "key": {"ticker": 1, "at": -1}, "name": "ticker_1_at_-1"}, "ticker 1, at -1", false, &[])]
    #[case::of_a_shell(doc! {"key": {"ticker": 1.0, "at": -1_i64}, "name": "x", "sparse": false}, "ticker 1, at -1", false, &[])]
    #[case::unique(doc! {"key": {"ticker": 1}, "name": "x", "unique": true}, "ticker 1", true, &[])]
    #[case::expires(doc! {"key": {"at": 1}, "name": "x", "expireAfterSeconds": 60, "sparse": true}, "at 1", false, &["expireAfterSeconds", "sparse"])]
    #[case::hashed(doc! {"key": {"ticker": "hashed"}, "name": "x"}, "ticker hashed", false, &[])]
    fn what_an_index_holds(#[case] document: Document, #[case] fields: &str, #[case] unique: bool, #[case] options: &[&str]) {
        let index = index(&document);
        let found: Vec<&str> = index.options.iter().map(String::as_str).collect();
        assert_eq!((index.fields_text().as_str(), index.unique, found.as_slice()), (fields, unique, options));
    }

    #[test]
    fn documents_of_the_collection_of_owners() {
        let owned = doc! {"_id": {"kind": "MongoDBCollection", "name": "ticks"}, "owner": "c/n/p", "origin": "Created", "spec_hash": "h"};
        let identity = doc! {"_id": "server", "id": "i"};
        assert_eq!((id(&owned), id(&identity).as_deref()), (None, Some("i")));
        assert_eq!(owner(&owned).map(|row| (row.name, row.owner)), Some(("ticks".to_owned(), "c/n/p".to_owned())));
        assert_eq!(owner(&identity), None);
    }
}
