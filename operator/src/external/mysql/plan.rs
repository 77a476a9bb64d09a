//! What must happen to a database, its tables and views. Pure.

use tapeline_api::names::SqlName;
use tapeline_api::pipeline::mysql::View;
use tapeline_api::pipeline::status::{Origin, ResourceKind};
use tapeline_api::progress::{MYSQL_PROGRESS, MYSQL_RESOURCES};

use super::rows::Rows;
use super::{Actual, Desired, ddl, tables, views};
use crate::external::ownership::{OwnerRow, Standing, kind_name, standing};
use crate::external::steps::{is_lost, origin_of_existing};
use crate::external::{NodeState, Owner, Recorded, Records, steps};

/// What must happen to one node.
pub type NodePlan = steps::NodePlan<Op>;

/// What must happen to a database, its tables and views.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The server's uuid.
    pub server_uuid: String,
    /// The database.
    pub database: SqlName,
    /// This pipeline.
    pub owner: Owner,
    /// The database, then the tables, then the views, each in the order of the specification.
    pub nodes: Vec<NodePlan>,
}

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

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.iter().all(|node| node.ops.is_empty())
    }

    /// What to store before [`apply`](super::Client::apply).
    #[must_use]
    pub fn records(&self) -> Records {
        steps::records(&self.nodes)
    }
}

/// What must happen to `actual` so that it serves `desired`. Never holds an operation that destroys: what would need one is refused.
#[must_use]
pub fn plan(desired: &Desired, actual: &Actual, recorded: Recorded<'_>, owner: &Owner) -> Plan {
    let context = Context { desired, actual, recorded, owner };
    let mut nodes = vec![context.database()];
    nodes.extend(desired.tables.iter().map(|table| tables::plan(&context, table)));
    nodes.extend(desired.views.iter().map(|view| views::plan(&context, view)));
    Plan { server_uuid: actual.server_uuid.clone(), database: desired.database.clone(), owner: owner.clone(), nodes }
}

/// What the plans of tables and views look at.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) desired: &'a Desired,
    pub(super) actual: &'a Actual,
    pub(super) recorded: Recorded<'a>,
    pub(super) owner: &'a Owner,
}

impl<'a> Context<'a> {
    pub(super) fn recorded_origin(&self, plan: &NodePlan) -> Option<Origin> {
        self.recorded.origin(plan.node.kind, &plan.node.name, &self.actual.server_uuid)
    }

    pub(super) fn standing(&self, kind: &str, name: &SqlName) -> Standing<'a> {
        standing(self.actual.owners.as_deref(), kind, name.as_str(), self.owner)
    }

    pub(super) fn row(&self, kind: ResourceKind, name: &SqlName, origin: Origin, spec_hash: String) -> OwnerRow {
        OwnerRow::new(kind_name(kind), name.as_str(), self.owner, origin, spec_hash)
    }

    fn database(&self) -> NodePlan {
        let database = &self.desired.database;
        let mut plan = NodePlan::settled(self.desired.nodes().swap_remove(0), NodeState::AsDeclared, None);
        let recorded = self.recorded_origin(&plan);
        if self.actual.database {
            plan.origin = Some(origin_of_existing(None, recorded));
        } else {
            let lost = is_lost(None, recorded).then(|| {
                format!(
                    "database {database} had been dropped and was created again, empty, with the progress of all queries in it: rows are missing \
                until they are replayed"
                )
            });
            plan.state = NodeState::Changed(format!("created database {database}"));
            plan.creates(self.recorded, &self.actual.server_uuid, lost);
            plan.ops.push(Op::CreateDatabase(ddl::create_database(database)));
        }
        // Progress first: if it is missing while the table of owners is there, somebody dropped it.
        if !self.actual.progress_table {
            plan.ops.push(Op::CreateTable(MYSQL_PROGRESS.to_owned()));
            plan.changed(format!("created Tapeline's own tables in database {database}"));
            if self.actual.database && is_lost(None, recorded) {
                let loss = format!(
                    "table {database}.tapeline_progress had been dropped and was created again, empty: queries into this database begin at their startFrom \
                    again, or at the start of their \
                     topic, and what Append had written is written twice"
                );
                plan.state = NodeState::Recreated(loss.clone());
                plan.loss = Some(loss);
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
