//! Carries out a plan for a database. MongoDB takes each change by itself, so each must be able to find itself done.

use mongodb::Database;
use mongodb::bson::{Bson, Document, doc};
use tapeline_api::progress::RESOURCES_TABLE;

use super::client::{MAJORITY_TIMEOUT, within};
use super::errors::{DUPLICATE_KEY, Failed, NAMESPACE_EXISTS};
use super::plan::NodePlan;
use super::{Client, Direction, IndexShape, Op, Plan, describe};
use crate::external::breaker::Fault;
use crate::external::ownership::{self, OwnerRow};
use crate::external::walk::{Failure, System, walk};
use crate::external::{Applied, DDL_TIMEOUT, ExternalError, Guard, REQUEST_TIMEOUT, Refusal, RefusalReason};
use tapeline_api::pipeline::cassandra::Order;

/// Carries out `plan`.
pub(super) async fn apply(client: &Client, plan: &Plan, guard: &Guard) -> Applied {
    walk(&Work { client, plan }, plan, guard).await
}

struct Work<'a> {
    client: &'a Client,
    plan: &'a Plan,
}

impl System for Work<'_> {
    type Op = Op;
    type Session = Database;

    async fn begin(&self, _: &NodePlan) -> Result<Database, Failure> {
        let database = &self.plan.schema;
        let connection = self.client.connection().await.map_err(|fault| self.client.endpoint.error(&fault, database))?;
        Ok(connection.database(database.as_str()))
    }

    async fn run(&self, database: Database, node: &NodePlan, op: &Op) -> Result<Database, Failure> {
        match op {
            Op::CreateCollection(name) => create(&database, node, name).await?,
            Op::Identify(id) => identify(&database, id).await?,
            Op::CreateIndexes { collection, indexes } => {
                let command =
                    doc! { "createIndexes": collection.as_str(), "indexes": indexes.iter().map(specification).collect::<Vec<_>>(), "writeConcern": majority() };
                let doing = format!("create indexes in database {}", database.name());
                change(&database, command).await.map_err(|failed| refused(&failed, node, &format!("{}.indexes", node.node.field), &doing))?;
            }
            Op::Claim(row) => claim(&database, self.plan, node, row).await?,
            Op::Store(row) => store(&database, row).await?,
        }
        Ok(database)
    }

    async fn failed(&self, fault: &Fault) -> ExternalError {
        self.client.failed(fault, &self.plan.schema).await
    }
}

/// What is written must not be taken back by a failover.
fn majority() -> Document {
    doc! { "w": "majority", "wtimeout": i64::try_from(MAJORITY_TIMEOUT.as_millis()).unwrap_or_default() }
}

async fn change(database: &Database, command: Document) -> Result<(), Failed> {
    within(DDL_TIMEOUT, async { database.run_command(command).await }).await.map(|_| ())
}

async fn create(database: &Database, node: &NodePlan, name: &str) -> Result<(), Failure> {
    match change(database, doc! { "create": name, "writeConcern": majority() }).await {
        Err(failed) if failed.code() != Some(NAMESPACE_EXISTS) => {
            Err(refused(&failed, node, &node.node.field, &format!("create collections in database {}", database.name())))
        }
        _ => Ok(()),
    }
}

fn refused(failed: &Failed, node: &NodePlan, field: &str, doing: &str) -> Failure {
    match failed.refusal() {
        Some(message) => Refusal::new(RefusalReason::InvalidSpec, field, format!("MongoDB does not take {}: {message}", node.node.name)).into(),
        None => failed.fault(doing).into(),
    }
}

fn specification(index: &IndexShape) -> Bson {
    let direction = |direction: &Direction| match direction {
        Direction::Sorted(Order::Asc) => Bson::Int32(1),
        Direction::Sorted(Order::Desc) => Bson::Int32(-1),
        Direction::Other(other) => Bson::String(other.clone()),
    };
    let key: Document = index.fields.iter().map(|(field, how)| (field.clone(), direction(how))).collect();
    doc! { "key": key, "name": index.name.as_str() }.into()
}

/// Stores `document` under its `_id`; false if there is one already.
async fn insert(database: &Database, document: Document) -> Result<bool, Fault> {
    match within(REQUEST_TIMEOUT, async { database.collection::<Document>(RESOURCES_TABLE).insert_one(document).await }).await {
        Ok(_) => Ok(true),
        Err(failed) if failed.code() == Some(DUPLICATE_KEY) => Ok(false),
        Err(failed) => Err(failed.fault(&writing(database))),
    }
}

fn writing(database: &Database) -> String {
    format!("write to collection {}.{RESOURCES_TABLE}", database.name())
}

async fn identify(database: &Database, id: &str) -> Result<(), Failure> {
    if insert(database, doc! { "_id": describe::IDENTITY, "id": id }).await? {
        return Ok(());
    }
    match describe::resource(database, describe::IDENTITY).await?.as_ref().and_then(describe::id) {
        Some(stored) if stored == id => Ok(()),
        _ => Err(Fault::failed(format!("database {} got its id from another pipeline a moment ago; it is looked at again", database.name())).into()),
    }
}

fn key(row: &OwnerRow) -> Document {
    doc! { "kind": row.kind.as_str(), "name": row.name.as_str() }
}

async fn claim(database: &Database, plan: &Plan, node: &NodePlan, row: &OwnerRow) -> Result<(), Failure> {
    let document = doc! { "_id": key(row), "owner": row.owner.as_str(), "origin": row.origin.as_str(), "spec_hash": row.spec_hash.as_str() };
    if insert(database, document).await? {
        return Ok(());
    }
    match describe::resource(database, key(row)).await?.as_ref().and_then(describe::owner) {
        Some(winner) if winner.owner == row.owner => Ok(()),
        Some(winner) => Err(ownership::conflict(&node.node, &plan.owner, &winner, plan.schema.as_str()).into()),
        None => Err(Fault::failed(format!("the owner of {} cannot be stored", node.node.name)).into()),
    }
}

async fn store(database: &Database, row: &OwnerRow) -> Result<(), Failure> {
    let (ours, now) = (doc! { "_id": key(row), "owner": row.owner.as_str() }, doc! { "origin": row.origin.as_str(), "spec_hash": row.spec_hash.as_str() });
    let request = async { database.collection::<Document>(RESOURCES_TABLE).update_one(ours, doc! { "$set": now }).await };
    let done = within(REQUEST_TIMEOUT, request).await.map_err(|failed| failed.fault(&writing(database)))?;
    if done.matched_count == 1 { Ok(()) } else { Err(Fault::failed(format!("{} came to belong to another pipeline a moment ago", row.name)).into()) }
}
