//! Cassandra: the declared keyspace and tables, and the tables that only queries name.

use std::collections::BTreeSet;

use tapeline_api::TradingPipelineSpec;
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::cassandra::CassandraTable;

use super::{LookedUp, Prepared, Step, System};
use crate::external::cassandra::{Actual, Client, ColumnShape, Desired, DesiredTable, Endpoint, Plan, plan};
use crate::external::{Applied, ExternalError, Guard, Records};
use crate::reason::{Area, Problem};
use crate::reconcile::check_query::TableColumn;

/// The cluster, and what is asked of it.
pub(super) struct Keyspace {
    client: Client,
    desired: Desired,
    looked_up: BTreeSet<SqlName>,
}

/// None where the pipeline has no Cassandra.
pub(super) fn prepare(step: &Step<'_>) -> Option<Result<Keyspace, Problem>> {
    let spec = step.spec();
    let cassandra = spec.cassandra.as_ref()?;
    let credentials = match &step.inputs.cassandra {
        None => None,
        Some(Ok(found)) => Some(found.credentials.clone()),
        Some(Err(problem)) => return Some(Err(problem.clone())),
    };
    let mut desired = Desired::of(cassandra);
    desired.tables.retain(|table| !step.validated.bad_cassandra_tables.contains(&table.table.name));
    Some(Ok(Keyspace { client: step.clients().cassandra(Endpoint::of(cassandra, credentials)), desired, looked_up: looked_up(spec) }))
}

/// Tables that only queries name.
fn looked_up(spec: &TradingPipelineSpec) -> BTreeSet<SqlName> {
    let declared = |name: &SqlName| spec.cassandra.iter().flat_map(|cassandra| &cassandra.tables).any(|table| table.name == *name);
    let sinks = spec.queries.iter().filter_map(|query| query.sink.cassandra.as_ref()).map(|sink| &sink.table);
    sinks.filter(|name| !declared(name)).cloned().collect()
}

impl Prepared for Keyspace {
    const AREA: Area = Area::Cassandra;
    type Actual = Actual;
    type Plan = Plan;

    async fn describe(&self) -> Result<Actual, ExternalError> {
        let mut asked = self.desired.clone();
        asked.tables.extend(self.looked_up.iter().map(|name| DesiredTable {
            table: CassandraTable { name: name.clone(), columns: Vec::new(), partition_key: Vec::new(), clustering_key: Vec::new(), ttl: None },
            field: String::new(),
        }));
        self.client.describe(&asked).await
    }

    fn plan(&self, actual: &Actual, step: &Step<'_>) -> Plan {
        plan(&self.desired, actual, step.recorded(), &step.owner)
    }

    fn records(plan: &Plan) -> Records {
        plan.records()
    }

    async fn apply(&self, plan: &Plan, guard: &Guard) -> Applied {
        self.client.apply(plan, guard).await
    }

    fn complete(&self, actual: &Actual, _: &Step<'_>, system: &mut System) {
        let found = |name| columns(actual, name).map_or(LookedUp::Missing, LookedUp::Table);
        system.looked_up = self.looked_up.iter().map(|name| (name.clone(), found(name))).collect();
    }
}

/// The columns of a table that was looked up.
fn columns(actual: &Actual, name: &SqlName) -> Option<Vec<TableColumn>> {
    let table = actual.tables.get(name)?;
    let is_key = |column: &str| table.partition_key.iter().any(|key| key == column) || table.clustering_key.iter().any(|(key, _)| key == column);
    let column = |(name, shape): (&String, &ColumnShape)| match shape.type_ {
        Some(type_) => TableColumn::cassandra(name, type_, is_key(name)),
        None => TableColumn { name: name.clone(), type_name: shape.type_text.clone(), takes: Vec::new(), optional: !is_key(name), key: is_key(name) },
    };
    Some(table.columns.iter().map(column).collect())
}
