//! What must happen to a database and its collections. Pure.

use tapeline_api::names::SqlName;
use tapeline_api::progress::{PROGRESS_TABLE, RESOURCES_TABLE};

use super::{Actual, CollectionShape, Desired, DesiredCollection, IndexShape, unfit};
use crate::external::ownership::{OwnerRow, hash};
use crate::external::steps::{self, Books, OwnerOp, is_lost, origin_of_existing};
use crate::external::{NodeState, Owner, Recorded, Refusal, RefusalReason};

/// What must happen to one node.
pub type NodePlan = steps::NodePlan<Op>;

/// What must happen to a database and its collections.
pub type Plan = steps::Plan<Op>;

/// An operation on a database or collection. None of them destroys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Creates a collection, if it is not there, and its database with it.
    CreateCollection(String),
    /// Stores the database's id, if it has none.
    Identify(String),
    /// Adds indexes to a collection, as far as they are not there.
    CreateIndexes {
        /// The collection.
        collection: SqlName,
        /// The indexes.
        indexes: Vec<IndexShape>,
    },
    /// Stores who owns it, if nobody else does.
    Claim(OwnerRow),
    /// Stores what is true of it now.
    Store(OwnerRow),
}

impl OwnerOp for Op {
    const CLAIM: fn(OwnerRow) -> Self = Self::Claim;
    const STORE: fn(OwnerRow) -> Self = Self::Store;
}

/// What must happen to `actual` so that it serves `desired`. Never holds an operation that destroys: what would need one is refused.
#[must_use]
pub fn plan(desired: &Desired, actual: &Actual, recorded: Recorded<'_>, owner: &Owner) -> Plan {
    let server = id(desired, actual, recorded);
    let books = Books { recorded, owners: actual.owners.as_deref(), owner, server: &server };
    let context = Context { desired, actual, books };
    let mut nodes = vec![context.database()];
    nodes.extend(desired.collections.iter().map(|collection| context.collection(collection)));
    Plan { schema: desired.database.clone(), owner: owner.clone(), nodes, server }
}

/// The id of what holds the collections. It lies in the database, so that where it is missing the database is new, or was dropped: the pipeline that had it there
/// knows its id, and so that something is missing.
fn id(desired: &Desired, actual: &Actual, recorded: Recorded<'_>) -> String {
    let root = desired.root();
    let known = || recorded.resources.iter().find(|resource| resource.kind == root.kind && resource.name == root.name)?.server.clone();
    actual.id.clone().or_else(known).unwrap_or_else(|| actual.new_id.clone())
}

#[derive(Clone, Copy)]
struct Context<'a> {
    desired: &'a Desired,
    actual: &'a Actual,
    books: Books<'a>,
}

impl Context<'_> {
    fn database(&self) -> NodePlan {
        let database = &self.desired.database;
        let mut plan = NodePlan::settled(self.desired.root(), NodeState::AsDeclared, None);
        let recorded = self.books.origin(&plan.node);
        let lost = is_lost(None, recorded);
        if self.actual.database {
            plan.origin = Some(origin_of_existing(None, recorded));
        } else {
            plan.creates_root(&self.books, "database");
            if lost {
                plan.loses(format!(
                    "database {database} had been dropped, or spec.mongodb.hosts leads to other servers than before; it was created, empty, without the progress of \
                     the queries that write to it: documents are missing until they are replayed"
                ));
            }
        }
        // Progress first: if it is missing while the collection of owners is there, somebody dropped it.
        if !self.actual.progress {
            plan.ops.push(Op::CreateCollection(PROGRESS_TABLE.to_owned()));
            plan.changed(format!("created Tapeline's own collections in database {database}"));
            if self.actual.database && lost {
                plan.loses(format!(
                    "collection {database}.{PROGRESS_TABLE} had been dropped and was created again, empty: queries into this database begin at their startFrom again, \
                     or at the start of their topic"
                ));
            }
        }
        if self.actual.owners.is_none() {
            plan.ops.push(Op::CreateCollection(RESOURCES_TABLE.to_owned()));
            plan.changed(format!("created collection {database}.{RESOURCES_TABLE}"));
        }
        if self.actual.id.is_none() {
            plan.ops.push(Op::Identify(self.books.server.to_owned()));
            plan.changed(format!("gave database {database} an id"));
        }
        plan
    }

    fn collection(&self, desired: &DesiredCollection) -> NodePlan {
        let (database, collection) = (&self.desired.database, &desired.collection);
        let mut plan = NodePlan::settled(desired.node(database), NodeState::AsDeclared, None);
        let declared: Vec<IndexShape> = collection.indexes.iter().map(IndexShape::of).collect();
        let names: Vec<&str> = declared.iter().map(|index| index.name.as_str()).collect();
        let Some(entry) = self.books.entry(&mut plan, &collection.name, database.as_str(), hash(&names)) else { return plan };
        if let Some(other) = self.actual.other.get(&collection.name) {
            let message = format!("{} is {}: use another name", plan.node.name, other.described());
            plan.refuse(vec![Refusal::new(RefusalReason::ResourceConflict, &desired.field, message)]);
            return plan;
        }
        if let Some(shape) = self.actual.collections.get(&collection.name) {
            existing(&mut plan, desired, declared, shape, database);
            entry.keep(&mut plan);
        } else {
            let indexes = (!declared.is_empty()).then(|| Op::CreateIndexes { collection: collection.name.clone(), indexes: declared });
            entry.create(&mut plan, [Op::CreateCollection(collection.name.to_string())].into_iter().chain(indexes));
        }
        plan
    }
}

fn existing(plan: &mut NodePlan, desired: &DesiredCollection, declared: Vec<IndexShape>, shape: &CollectionShape, database: &SqlName) {
    let (name, collection) = (plan.node.name.clone(), &desired.collection.name);
    let drop = |index: &IndexShape| format!("db.getSiblingDB(\"{database}\").{collection}.dropIndex({:?})", index.name);
    if let Some(why) = unfit(shape) {
        let unique: Vec<String> = shape.indexes.iter().filter(|index| index.unique).map(drop).collect();
        let message = format!("collection {name} {why}; make the fields the sink's id instead and run: {}, or use another collection", unique.join("; "));
        plan.refuse(vec![Refusal::new(RefusalReason::Incompatible, &desired.field, message)]);
    }
    let mut missing: Vec<IndexShape> = Vec::new();
    for (number, index) in declared.into_iter().enumerate() {
        let same: Vec<&IndexShape> = shape.indexes.iter().filter(|there| there.fields == index.fields).collect();
        if same.iter().any(|there| there.options.is_empty()) {
            continue;
        }
        if let Some(there) = same.first().filter(|there| !there.unique) {
            let message = format!(
                "index {:?} of collection {name} has the declared fields ({}), and also {}, which cannot be declared and which Tapeline does not take away: take the \
                 index out of the specification, or, to have it without that, run: {}",
                there.name,
                there.fields_text(),
                there.options.join(", "),
                drop(there)
            );
            plan.refuse(vec![Refusal::new(RefusalReason::WouldLoseData, format!("{}.indexes[{number}]", desired.field), message)]);
        } else if same.is_empty() {
            missing.push(named(index, shape, &missing));
        }
    }
    if !missing.is_empty() {
        let names: Vec<&str> = missing.iter().map(|index| index.name.as_str()).collect();
        plan.changed(format!("added to collection {name}: index {}", names.join(", index ")));
        plan.ops.push(Op::CreateIndexes { collection: collection.clone(), indexes: missing });
    }
}

/// `index` under a name that no other one has.
fn named(index: IndexShape, shape: &CollectionShape, others: &[IndexShape]) -> IndexShape {
    let is_taken = |name: &str| shape.indexes.iter().chain(others).any(|other| other.name == name);
    let mut name = index.name.clone();
    while is_taken(&name) {
        name.push_str("_tapeline");
    }
    IndexShape { name, ..index }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
