//! What must happen to a keyspace and its tables. Pure.

use std::collections::BTreeMap;

use tapeline_api::names::SqlName;
use tapeline_api::pipeline::cassandra::{CassandraColumn, CassandraTable, Order};
use tapeline_api::pipeline::status::{Origin, ResourceKind};
use tapeline_api::progress::{cassandra_progress, cassandra_resources};

use super::{Actual, Desired, DesiredTable, TableShape, ddl};
use crate::external::ownership::{self, OwnerRow, Standing, hash, kind_name};
use crate::external::steps::{self, Books, OwnerOp, is_lost, origin_of_existing};
use crate::external::{NodeState, Owner, Recorded, Refusal, RefusalReason};

/// What must happen to one node.
pub type NodePlan = steps::NodePlan<Op>;

/// What must happen to a keyspace and its tables.
pub type Plan = steps::Plan<Op>;

/// An operation on a keyspace or table. None of them destroys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Creates a keyspace or table, if it is not there.
    Create(String),
    /// Changes one, to the same effect when it is done twice.
    Alter(String),
    /// Adds columns, of which some may be there by then.
    AddColumns {
        /// The table.
        table: SqlName,
        /// The columns.
        columns: Vec<CassandraColumn>,
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
    let books = Books { recorded, owners: actual.owners.as_deref(), owner, server: &actual.cluster_name };
    let context = Context { desired, actual, books };
    let mut nodes = vec![context.keyspace()];
    nodes.extend(desired.tables.iter().map(|table| context.table(table)));
    Plan { server: actual.cluster_name.clone(), schema: desired.keyspace.clone(), owner: owner.clone(), nodes }
}

#[derive(Clone, Copy)]
struct Context<'a> {
    desired: &'a Desired,
    actual: &'a Actual,
    books: Books<'a>,
}

impl Context<'_> {
    fn keyspace(&self) -> NodePlan {
        let Desired { keyspace, replication, .. } = self.desired;
        let mut plan = NodePlan::settled(self.desired.root(), NodeState::AsDeclared, None);
        let recorded = self.books.origin(&plan.node);
        let kind = ResourceKind::CassandraKeyspace;
        let options = ddl::options(replication);
        let target = |origin| self.books.row(kind, keyspace, origin, hash(&[&ddl::literal(&options)]));

        let Some(actual) = &self.actual.replication else {
            plan.creates_root(&self.books, "keyspace");
            plan.ops.push(Op::Create(ddl::create_keyspace(keyspace, &options)));
            self.bookkeeping(&mut plan);
            plan.ops.push(Op::Claim(target(Origin::Created)));
            return plan;
        };

        self.bookkeeping(&mut plan);
        if !self.actual.progress_table && is_lost(None, recorded) {
            plan.loses(format!(
                "table {keyspace}.tapeline_progress had been dropped and was created again, empty: queries into this keyspace begin at their startFrom again, \
                or at the start of their topic"
            ));
        }
        let same = stored(actual) == options;
        let (row, origin) = match self.books.standing(kind_name(kind), keyspace) {
            Standing::Theirs(row) => {
                plan.origin = Some(recorded.filter(|origin| *origin == Origin::Created).unwrap_or(Origin::Adopted));
                if !same {
                    plan.refuse(vec![self.replication_conflict(row, actual)]);
                }
                return plan;
            }
            Standing::Free(row) => (row, origin_of_existing(row, recorded)),
        };
        plan.origin = Some(origin);
        if !same {
            plan.refuse(vec![self.other_replication(actual, &options)]);
            return plan;
        }
        match row {
            None => plan.ops.push(Op::Claim(target(origin))),
            Some(row) if *row != target(origin) => plan.ops.push(Op::Store(target(origin))),
            Some(_) => {}
        }
        plan
    }

    fn bookkeeping(&self, plan: &mut NodePlan) {
        let keyspace = self.desired.keyspace.quoted();
        // Progress first: if it is missing while the table of owners is there, somebody dropped it.
        if !self.actual.progress_table {
            plan.ops.push(Op::Create(cassandra_progress(&keyspace)));
        }
        if self.actual.owners.is_none() {
            plan.ops.push(Op::Create(cassandra_resources(&keyspace)));
        }
        if !plan.ops.is_empty() {
            plan.changed(format!("created Tapeline's own tables in keyspace {}", self.desired.keyspace));
        }
    }

    fn replication_conflict(&self, row: &OwnerRow, actual: &BTreeMap<String, String>) -> Refusal {
        let keyspace = &self.desired.keyspace;
        let message = format!(
            "keyspace {keyspace} is replicated with {} by {}; pipelines that share a keyspace declare the same replication: change it there, or declare the \
            same here",
            show(actual),
            ownership::describe_owner(self.books.owner, &row.owner)
        );
        Refusal::new(RefusalReason::ResourceConflict, "spec.cassandra.replication", message)
    }

    /// Fewer copies may lose rows, and of more copies most are empty until they are repaired: a quorum may find no progress, and a query would begin anew.
    fn other_replication(&self, actual: &BTreeMap<String, String>, declared: &BTreeMap<String, String>) -> Refusal {
        let keyspace = &self.desired.keyspace;
        let message = format!(
            "keyspace {keyspace} is replicated with {} and {} is declared; until its copies are repaired, rows and the progress of queries may not be found: \
            declare what it has, or suspend the pipelines that write to it, run: {}; then nodetool repair --full {keyspace} on each node, and resume them",
            show(actual),
            ddl::literal(declared),
            ddl::alter_keyspace(keyspace, declared)
        );
        Refusal::new(RefusalReason::WouldLoseData, "spec.cassandra.replication", message)
    }

    fn table(&self, desired: &DesiredTable) -> NodePlan {
        let (keyspace, table) = (&self.desired.keyspace, &desired.table);
        let mut plan = NodePlan::settled(desired.node(keyspace), NodeState::AsDeclared, None);
        let create = ddl::create_table(keyspace, table);
        let Some(entry) = self.books.entry(&mut plan, &table.name, &keyspace.quoted(), hash(&[&create])) else { return plan };
        if let Some(other) = self.actual.other.get(&table.name) {
            let message = format!("{keyspace}.{} is {other}, not a table: use another name", table.name);
            plan.refuse(vec![Refusal::new(RefusalReason::ResourceConflict, &desired.field, message)]);
            return plan;
        }
        if let Some(shape) = self.actual.tables.get(&table.name) {
            self.existing(&mut plan, desired, shape, entry.origin());
            entry.keep(&mut plan);
        } else {
            entry.create(&mut plan, [Op::Create(create)]);
        }
        plan
    }

    fn existing(&self, plan: &mut NodePlan, desired: &DesiredTable, shape: &TableShape, origin: Origin) {
        let (table, name) = (&desired.table, plan.node.name.clone());
        plan.refuse(key_refusals(desired, shape, &name));
        let mut missing = Vec::new();
        for (index, column) in table.columns.iter().enumerate() {
            match shape.columns.get(column.name.as_str()) {
                None => missing.push(column.clone()),
                Some(actual) if actual.type_ == Some(column.type_) => {}
                Some(actual) => {
                    let message = format!(
                        "column {} of table {name} is {} and {} is declared; Cassandra cannot change a column's type: declare {}, or add a column under \
                        another name",
                        column.name, actual.type_text, column.type_, actual.type_text
                    );
                    plan.refuse(vec![Refusal::new(RefusalReason::WouldLoseData, format!("{}.columns[{index}].type", desired.field), message)]);
                }
            }
        }
        if !missing.is_empty() {
            let names: Vec<&str> = missing.iter().map(|column| column.name.as_str()).collect();
            plan.changed(format!("added to table {name}: {}", names.join(", ")));
            plan.ops.push(Op::AddColumns { table: table.name.clone(), columns: missing });
        }
        let ttl = ddl::ttl_seconds(table);
        // A change concerns rows that are written from now on. What somebody else set on a table that was found is left where nothing else is declared.
        if ttl != shape.default_ttl && (ttl != 0 || origin == Origin::Created) {
            plan.changed(format!(
                "rows of table {name} that are written from now on are kept {}",
                if ttl == 0 { "for ever".to_owned() } else { format!("{ttl} s") }
            ));
            plan.ops.push(Op::Alter(ddl::set_ttl(&self.desired.keyspace, &table.name, ttl)));
        }
    }
}

fn key_refusals(desired: &DesiredTable, shape: &TableShape, name: &str) -> Vec<Refusal> {
    let CassandraTable { partition_key, clustering_key, .. } = &desired.table;
    let partition: Vec<&str> = partition_key.iter().map(SqlName::as_str).collect();
    let clustering: Vec<(&str, Order)> = clustering_key.iter().map(|column| (column.column.as_str(), column.order)).collect();
    let has_clustering: Vec<(&str, Order)> = shape.clustering_key.iter().map(|(column, order)| (column.as_str(), *order)).collect();
    let mut refusals = Vec::new();
    let mut refuse = |part: &str, is: String, declared: String| {
        let message = format!(
            "the {part} of table {name} is ({is}) and ({declared}) is declared; the key of a table cannot be changed: declare ({is}), or use another table, \
            into which the rows are replayed"
        );
        let field = if part == "partition key" { "partitionKey" } else { "clusteringKey" };
        refusals.push(Refusal::new(RefusalReason::WouldLoseData, format!("{}.{field}", desired.field), message));
    };
    if partition != shape.partition_key {
        refuse("partition key", shape.partition_key.join(", "), partition.join(", "));
    }
    if clustering != has_clustering {
        refuse("clustering key", show_clustering(&has_clustering), show_clustering(&clustering));
    }
    refusals
}

fn show_clustering(columns: &[(&str, Order)]) -> String {
    columns.iter().map(|(column, order)| format!("{column} {order:?}")).collect::<Vec<_>>().join(", ")
}

/// Options as they are stored, with the class as users write it.
fn stored(actual: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let short = |key: &String, value: &String| if key == "class" { ddl::class_name(value).to_owned() } else { value.clone() };
    actual.iter().map(|(key, value)| (key.clone(), short(key, value))).collect()
}

fn show(actual: &BTreeMap<String, String>) -> String {
    ddl::literal(&stored(actual))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
