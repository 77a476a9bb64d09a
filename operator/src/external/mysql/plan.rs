//! What must happen to a database, its tables and views. Pure.

use tapeline_api::names::SqlName;
use tapeline_api::pipeline::mysql::View;
use tapeline_api::progress::{MYSQL_PROGRESS, MYSQL_RESOURCES};

use super::rows::Rows;
use super::{Actual, Desired, ddl, tables, views};
use crate::external::ownership::OwnerRow;
use crate::external::steps::{self, Books, OwnerOp, is_lost, origin_of_existing};
use crate::external::{NodeState, Owner, Recorded};

/// What must happen to one node.
pub type NodePlan = steps::NodePlan<Op>;

/// What must happen to a database, its tables and then its views.
pub type Plan = steps::Plan<Op>;

/// An operation on a database, table or view. None of them destroys.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Creates the database, if it is not there.
    CreateDatabase(String),
    /// Creates a table in the database, if it is not there.
    CreateTable(String),
    /// Changes a table. That it is changed already (a column or index of that name is there) is as good.
    Alter(String),
    /// Stores who owns it, if nobody else does.
    Claim(OwnerRow),
    /// Stores what is true of it now.
    Store(OwnerRow),
    /// Creates or replaces a view, and stores how MySQL wrote it down.
    PutView(View),
    /// Upserts reference rows, and stores that this was done.
    LoadRows(Load),
}

/// Reference rows to be upserted.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    pub(super) table: SqlName,
    pub(super) primary_key: Vec<SqlName>,
    pub(super) rows: Rows,
    /// What is stored in the same transaction.
    pub(super) row: OwnerRow,
}

impl OwnerOp for Op {
    const CLAIM: fn(OwnerRow) -> Self = Self::Claim;
    const STORE: fn(OwnerRow) -> Self = Self::Store;
}

/// What must happen to `actual` so that it serves `desired`. Never holds an operation that destroys: what would need one is refused.
#[must_use]
pub fn plan(desired: &Desired, actual: &Actual, recorded: Recorded<'_>, owner: &Owner) -> Plan {
    let books = Books { recorded, owners: actual.owners.as_deref(), owner, server: &actual.server_uuid };
    let context = Context { desired, actual, books };
    let mut nodes = vec![context.database()];
    nodes.extend(desired.tables.iter().map(|table| tables::plan(&context, table)));
    nodes.extend(desired.views.iter().map(|view| views::plan(&context, view)));
    Plan { server: actual.server_uuid.clone(), schema: desired.database.clone(), owner: owner.clone(), nodes }
}

/// What the plans of tables and views look at.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) desired: &'a Desired,
    pub(super) actual: &'a Actual,
    pub(super) books: Books<'a>,
}

impl Context<'_> {
    fn database(&self) -> NodePlan {
        let database = &self.desired.database;
        let mut plan = NodePlan::settled(self.desired.root(), NodeState::AsDeclared, None);
        let recorded = self.books.origin(&plan.node);
        if self.actual.database {
            plan.origin = Some(origin_of_existing(None, recorded));
        } else {
            plan.creates_root(&self.books, "database");
            plan.ops.push(Op::CreateDatabase(ddl::create_database(database)));
        }
        // Progress first: if it is missing while the table of owners is there, somebody dropped it.
        if !self.actual.progress_table {
            plan.ops.push(Op::CreateTable(MYSQL_PROGRESS.to_owned()));
            plan.changed(format!("created Tapeline's own tables in database {database}"));
            if self.actual.database && is_lost(None, recorded) {
                plan.loses(format!(
                    "table {database}.tapeline_progress had been dropped and was created again, empty: queries into this database begin at their startFrom \
                    again, or at the start of their \
                     topic, and what Append had written is written twice"
                ));
            }
        }
        if self.actual.owners.is_none() {
            plan.ops.push(Op::CreateTable(MYSQL_RESOURCES.to_owned()));
            plan.changed(format!("created table {database}.tapeline_resources"));
        }
        plan
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
