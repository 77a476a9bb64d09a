//! MySQL: the declared database, tables and views, and the tables that only queries and producers name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tapeline_api::TradingPipelineSpec;
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::mysql::{MySqlColumn, MySqlTable};
use tapeline_api::pipeline::queries::Query;

use super::{LookedUp, Prepared, Step, System};
use crate::external::mysql::{Actual, Client, ColumnShape, Desired, DesiredTable, Endpoint, Plan, plan};
use crate::external::{Applied, ExternalError, Guard, Records};
use crate::reason::{Area, Problem};
use crate::reconcile::check_query::TableColumn;
use crate::reconcile::validate::Validated;

/// The server, and what is asked of it.
pub(super) struct Database {
    client: Client,
    desired: Desired,
    looked_up: BTreeSet<SqlName>,
}

/// None where the pipeline has no MySQL.
pub(super) fn prepare(step: &Step<'_>) -> Option<Result<Database, Problem>> {
    let (spec, inputs, validated) = (step.spec(), step.inputs, step.validated);
    let mysql = spec.mysql.as_ref()?;
    let credentials = match inputs.mysql_admin.as_ref().or(inputs.mysql.as_ref())? {
        Ok(found) => found.credentials.clone(),
        Err(problem) => return Some(Err(problem.clone())),
    };
    let rows: BTreeMap<SqlName, Arc<str>> = inputs.rows.iter().filter_map(|(table, rows)| Some((table.clone(), Arc::clone(rows.as_ref().ok()?)))).collect();
    let mut desired = Desired::of(mysql, &rows);
    desired.tables.retain(|table| !validated.bad_mysql_tables.contains(&table.table.name));
    desired.views.retain(|view| !validated.bad_mysql_views.contains(&view.view.name));
    for table in &mut desired.tables {
        add_order_columns(table, spec, validated);
    }
    Some(Ok(Database { client: step.clients().mysql(Endpoint::of(mysql, credentials)), desired, looked_up: looked_up(spec) }))
}

/// The columns that mode Merge needs in `table` beside those that are declared.
fn add_order_columns(table: &mut DesiredTable, spec: &TradingPipelineSpec, validated: &Validated) {
    let into = |query: &&Query| query.sink.mysql.as_ref().is_some_and(|sink| sink.table == table.table.name);
    let checked = spec.queries.iter().filter(into).filter_map(|query| validated.queries.get(&query.name));
    let columns: Vec<MySqlColumn> = checked.flat_map(|valid| valid.checked.order_columns().unwrap_or_default()).collect();
    for column in columns {
        if table.table.columns.iter().all(|known| known.name != column.name) {
            table.added.insert(column.name.clone());
            table.table.columns.push(column);
        }
    }
}

/// Tables that only queries and producers name.
fn looked_up(spec: &TradingPipelineSpec) -> BTreeSet<SqlName> {
    let declared = |name: &SqlName| spec.mysql.iter().flat_map(|mysql| &mysql.tables).any(|table| table.name == *name);
    let sinks = spec.queries.iter().filter_map(|query| query.sink.mysql.as_ref()).map(|sink| &sink.table);
    let symbols = spec.producers.iter().filter_map(|producer| {
        let simulate = producer.source.simulate.as_ref().map(|simulate| &simulate.symbols_from);
        let symbols = simulate.or_else(|| producer.source.replay.as_ref()?.symbols_from.as_ref())?;
        Some(&symbols.mysql.table)
    });
    sinks.chain(symbols).filter(|name| !declared(name)).cloned().collect()
}

impl Prepared for Database {
    const AREA: Area = Area::MySql;
    type Actual = Actual;
    type Plan = Plan;

    async fn describe(&self) -> Result<Actual, ExternalError> {
        let mut asked = self.desired.clone();
        asked.tables.extend(self.looked_up.iter().map(|name| DesiredTable {
            table: MySqlTable { name: name.clone(), columns: Vec::new(), primary_key: Vec::new(), indexes: Vec::new(), rows_from: None },
            field: String::new(),
            rows: None,
            added: BTreeSet::new(),
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

    fn complete(&self, actual: &Actual, step: &Step<'_>, system: &mut System) {
        let found = |name| columns(actual, name).map_or(LookedUp::Missing, LookedUp::Table);
        system.looked_up = self.looked_up.iter().map(|name| (name.clone(), found(name))).collect();
        system.inputs = step.inputs.rows.values().filter_map(|rows| rows.as_ref().err().cloned()).collect();
    }
}

/// The columns of a table that was looked up. One that MySQL computes takes nothing.
fn columns(actual: &Actual, name: &SqlName) -> Option<Vec<TableColumn>> {
    let table = actual.tables.get(name)?;
    let column = |shape: &ColumnShape| {
        let key = table.primary_key.contains(&shape.name);
        let optional = shape.auto_increment || shape.has_default || shape.generated || (shape.nullable && !key);
        match shape.type_.filter(|_| !shape.generated) {
            Some(type_) => TableColumn::mysql(&shape.name, type_, optional, key),
            None => TableColumn { name: shape.name.clone(), type_name: shape.type_text.clone(), takes: Vec::new(), optional, key },
        }
    };
    Some(table.columns.iter().map(column).collect())
}
