//! What is stored: the rows of tables and collections, page by page along their keys, never by a full scan.

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use tapeline_api::TradingPipelineSpec;
use tapeline_api::names::SqlName;

use super::words::{part, query_string};
use super::{Framed, Page, respond};
use crate::app::App;
use crate::error::Failure;
use crate::store;
use crate::table::Kind;

/// Rows of a page.
pub(crate) const SIZE: usize = 50;

#[derive(Template)]
#[template(path = "data/list.html")]
struct List {
    places: String,
}

/// Where one can go: all tables, collections and topics.
#[derive(Template)]
#[template(path = "data/places.html")]
struct Places {
    groups: Vec<Group>,
}

struct Group {
    title: String,
    items: Vec<Item>,
}

struct Item {
    name: String,
    href: String,
    role: &'static str,
    is_here: bool,
}

#[derive(Template)]
#[template(path = "data/page.html")]
struct Body<'a> {
    places: String,
    base: &'a str,
    store: &'a str,
    name: &'a str,
    label: &'static str,
    /// Of this page, for its files: `?after=..`, or nothing.
    query: String,
    order: String,
    /// Key columns to look up by, with what is looked up now.
    keys: Vec<(String, String)>,
    columns: Vec<(String, bool)>,
    rows: Vec<Vec<(String, bool)>>,
    first: Option<String>,
    next: Option<String>,
}

/// `GET /data`.
pub(crate) async fn list(State(app): State<App>) -> Result<Response, Failure> {
    let pipeline = app.pipeline().ok_or(Failure::NoPipeline)?;
    let body = List { places: places(&pipeline.spec, app.base(), "")? }.render()?;
    respond(&app, Framed { heading: "Data", nav: "data", page: Page::Still, styles: &[], scripts: &[], body })
}

/// The list of all places, of which `here` is where one is.
pub(super) fn places(spec: &TradingPipelineSpec, base: &str, here: &str) -> Result<String, askama::Error> {
    Places { groups: groups(spec, base, here) }.render()
}

fn groups(spec: &TradingPipelineSpec, base: &str, here: &str) -> Vec<Group> {
    let mut groups = Vec::new();
    let item = |href: String, name: &str, role: &'static str| Item { name: name.to_owned(), is_here: href == here, href, role };
    let mut group = |title: String, items: Vec<Item>| {
        if !items.is_empty() {
            groups.push(Group { title, items });
        }
    };
    let of = |store: &str, name: &SqlName| item(format!("{base}/data/{store}/{name}"), name.as_str(), "");
    if let Some(cassandra) = &spec.cassandra {
        group(format!("Cassandra {}", cassandra.keyspace), cassandra.tables.iter().map(|table| of("cassandra", &table.name)).collect());
    }
    if let Some(mysql) = &spec.mysql {
        group(format!("MySQL {}", mysql.database), mysql.tables.iter().map(|table| of("mysql", &table.name)).collect());
    }
    if let Some(mongodb) = &spec.mongodb {
        group(format!("MongoDB {}", mongodb.database), mongodb.collections.iter().map(|collection| of("mongodb", &collection.name)).collect());
    }
    let topics = super::topics::all(spec);
    let topics = topics.iter().map(|topic| {
        let name = topic.name.as_str();
        item(format!("{base}/topics/{}", part(name)), name, if topic.sources.is_empty() { "" } else { "dead letters" })
    });
    group("Topics".to_owned(), topics.collect());
    groups
}

/// `GET /data/{store}/{name}`.
pub(crate) async fn page(
    State(app): State<App>,
    Path((store, name)): Path<(String, String)>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, Failure> {
    let found = read(&app, &store, &name, &query, SIZE).await?;
    let is_number = |kind: Kind| matches!(kind, Kind::Integer | Kind::Decimal | Kind::Float);
    let columns: Vec<(String, bool)> = found.page.table.columns.iter().map(|column| (column.name.clone(), is_number(column.kind))).collect();
    let row = |row: &Vec<crate::table::Cell>| row.iter().zip(&columns).map(|(cell, (_, right))| (cell.to_string(), *right)).collect();
    let rows = found.page.table.rows.iter().map(row).collect();
    let here = format!("{}/data/{store}/{name}", app.base());
    let looked_up: Vec<(String, String)> = found.keys.iter().filter(|(_, value)| !value.is_empty()).cloned().collect();
    let address = |more: Option<(String, String)>| {
        let query = query_string(looked_up.iter().cloned().chain(more));
        if query.is_empty() { here.clone() } else { format!("{here}?{query}") }
    };
    let is_first = query.iter().all(|(key, _)| key != "after");
    let this = looked_up.iter().cloned().chain(query.iter().filter(|(key, _)| key == "after").cloned());
    let this = query_string(this);
    let pipeline = app.pipeline().ok_or(Failure::NoPipeline)?;
    let body = Body {
        places: places(&pipeline.spec, app.base(), &here)?,
        base: app.base(),
        store: &store,
        name: &name,
        label: match store.as_str() {
            "cassandra" => "Cassandra table",
            "mysql" => "MySQL table",
            _ => "MongoDB collection",
        },
        query: if this.is_empty() { this } else { format!("?{this}") },
        order: found.page.order.clone(),
        keys: found.keys.clone(),
        columns: columns.clone(),
        rows,
        first: (!is_first).then(|| address(None)),
        next: found.page.next.clone().map(|next| address(Some(("after".to_owned(), next)))),
    }
    .render()?;
    respond(&app, Framed { heading: &name, nav: "data", page: Page::Still, styles: &[], scripts: &[], body })
}

/// A page of a table, and the key columns by which it can be looked up.
pub(crate) struct Found {
    pub(crate) page: store::Page,
    pub(crate) keys: Vec<(String, String)>,
}

/// Reads a page of a table or collection. `query` may have `after`, the mark of the page before, and key columns.
pub(crate) async fn read(app: &App, store: &str, name: &str, query: &[(String, String)], size: usize) -> Result<Found, Failure> {
    let pipeline = app.pipeline().ok_or(Failure::NoPipeline)?;
    let spec = &pipeline.spec;
    let value = |key: &str| query.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty());
    let after = value("after");
    let missing = || Failure::NotFound(format!("the pipeline declares no \"{name}\" in {store}"));
    let plain = |page| Found { page, keys: Vec::new() };
    match store {
        "mysql" => {
            let table = spec.mysql.iter().flat_map(|mysql| &mysql.tables).find(|table| table.name.as_str() == name).ok_or_else(missing)?;
            let page = Box::pin(app.mysql.as_ref().ok_or_else(missing)?.page(table, after, size)).await?;
            Ok(plain(page))
        }
        "cassandra" => {
            let table = spec.cassandra.iter().flat_map(|cassandra| &cassandra.tables).find(|table| table.name.as_str() == name).ok_or_else(missing)?;
            let given: Vec<(SqlName, String)> =
                table.partition_key.iter().filter_map(|column| Some((column.clone(), value(column.as_str())?.to_owned()))).collect();
            if !given.is_empty() && given.len() < table.partition_key.len() {
                let names: Vec<&str> = table.partition_key.iter().map(SqlName::as_str).collect();
                return Err(Failure::BadRequest(format!("a partition is found by all of its key columns: give {}", names.join(", "))));
            }
            let page = Box::pin(app.cassandra.as_ref().ok_or_else(missing)?.page(table, &given, after, size)).await?;
            let keys = table.partition_key.iter().map(|column| (column.to_string(), value(column.as_str()).unwrap_or_default().to_owned())).collect();
            Ok(Found { page, keys })
        }
        "mongodb" => {
            let collection = spec.mongodb.iter().flat_map(|mongodb| &mongodb.collections).find(|collection| collection.name.as_str() == name);
            let collection = collection.ok_or_else(missing)?;
            let page = Box::pin(app.mongodb.as_ref().ok_or_else(missing)?.page(&collection.name, after, size)).await?;
            Ok(plain(page))
        }
        _ => Err(missing()),
    }
}
