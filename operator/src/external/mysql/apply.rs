//! Carries out a plan for a database. MySQL commits each change of a schema by itself, so each must be able to find itself done.

use std::collections::BTreeMap;

use sqlx::mysql::{MySql, MySqlArguments, MySqlConnection};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Connection};
use tapeline_api::pipeline::mysql::View;
use tapeline_api::pipeline::status::{Origin, ResourceKind};
use tapeline_api::progress::RESOURCES_TABLE;

use super::client::{TimedError, execute, within};
use super::plan::{Load, NodePlan};
use super::rows::Cell;
use super::{Client, Op, Plan, ddl, describe, errors, views};
use crate::external::breaker::Fault;
use crate::external::ownership::{self, OwnerRow};
use crate::external::{Applied, DDL_TIMEOUT, ErrorClass, Guard, NodeState, REQUEST_TIMEOUT, Refusal, RefusalReason};

/// Placeholders in one INSERT, far below MySQL's 65,535.
const PLACEHOLDERS: usize = 8_192;

/// Why an operation was not done.
enum Failure {
    /// It may work later.
    Fault(Fault),
    /// The specification is wrong.
    Refused(Refusal),
    /// A view reads this table, which is not there.
    Reads(String),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Carries out `plan`: the database, the tables, then the views, which may read each other.
pub(super) async fn apply(client: &Client, plan: &Plan, guard: &Guard) -> Applied {
    let mut states: Vec<Option<NodeState>> = vec![None; plan.nodes.len()];
    let mut views = Vec::new();
    for (index, (node, state)) in plan.nodes.iter().zip(&mut states).enumerate() {
        if node.ops.is_empty() {
            continue;
        }
        if node.node.kind == ResourceKind::MySQLView {
            views.push((index, node));
            continue;
        }
        let failed = carry_out(client, plan, node, guard).await.err().map(|failure| told(client, plan, node, failure));
        let stop = failed.is_some() && node.node.kind == ResourceKind::MySQLDatabase;
        *state = failed;
        if stop {
            break;
        }
    }
    // What is in a database fails for the database's reason.
    if let Some(Some(reason)) = states.first().cloned() {
        for (node, state) in plan.nodes.iter().zip(&mut states).filter(|(node, _)| !node.ops.is_empty()) {
            tracing::debug!(node = node.node.name, "not done, since its database was not");
            *state = Some(reason.clone());
        }
    } else {
        for (index, failed) in apply_views(client, plan, views, guard).await {
            if let Some(state) = states.get_mut(index) {
                *state = Some(failed);
            }
        }
    }
    Applied { nodes: plan.nodes.iter().zip(states).map(|(node, failed)| node.outcome(&plan.server_uuid, failed)).collect(), topics: Vec::new() }
}

/// Views in an order in which each finds what it reads: those that do not are tried again behind the others, as long as that helps.
async fn apply_views(client: &Client, plan: &Plan, mut pending: Vec<(usize, &NodePlan)>, guard: &Guard) -> BTreeMap<usize, NodeState> {
    let mut failed = BTreeMap::new();
    loop {
        let before = pending.len();
        let mut again = Vec::new();
        for (index, node) in pending {
            match carry_out(client, plan, node, guard).await {
                Ok(()) => _ = failed.remove(&index),
                Err(failure) => {
                    if matches!(failure, Failure::Reads(_)) {
                        again.push((index, node));
                    }
                    failed.insert(index, told(client, plan, node, failure));
                }
            }
        }
        if again.is_empty() || again.len() == before {
            return failed;
        }
        pending = again;
    }
}

fn told(client: &Client, plan: &Plan, node: &NodePlan, failure: Failure) -> NodeState {
    match failure {
        Failure::Refused(refusal) => NodeState::Refused(vec![refusal]),
        Failure::Fault(fault) => {
            let mut error = client.failed(&fault);
            if fault.class == ErrorClass::Failed {
                error.field.clone_from(&node.node.field);
            }
            NodeState::Waiting(error)
        }
        Failure::Reads(table) => {
            let declared = plan.nodes.iter().any(|other| other.node.name == table);
            let remedy = if declared {
                "it is declared here, and created as soon as what stands against it is put right"
            } else {
                "correct the view's sql, or create the table"
            };
            NodeState::Missing(format!("view {} reads {table}, which does not exist: {remedy}", node.node.name))
        }
    }
}

async fn carry_out(client: &Client, plan: &Plan, node: &NodePlan, guard: &Guard) -> Result<(), Failure> {
    let mut lease = client.lease().await?;
    let mut in_database = false;
    for op in &node.ops {
        if !in_database && !matches!(op, Op::CreateDatabase(_)) {
            // Tapeline's own tables and the text of views name no database. USE is not for the protocol of prepared statements.
            let statement = format!("USE {}", plan.database.backticked());
            within(REQUEST_TIMEOUT, sqlx::raw_sql(AssertSqlSafe(statement)).execute(lease.connection())).await.map_err(|error| error.fault())?;
            in_database = true;
        }
        // Behind all that may take longer than the lease lasts: a free connection, an answer to USE.
        guard.check().map_err(|error| Fault { class: error.class, detail: error.message })?;
        if let Op::LoadRows(load) = op {
            // sqlx's transactions do not bear being dropped half-way, so this one runs in a task of its own, which goes on if nobody waits for it.
            let (load, field) = (load.clone(), node.node.field.clone());
            let task = tokio::spawn(async move {
                let result = load_rows(lease.connection(), &load, &field).await;
                (lease, result)
            });
            let (back, result) = task.await.map_err(|error| Fault::failed(error.to_string()))?;
            result?;
            lease = back;
        } else {
            run(lease.connection(), plan, node, op).await?;
        }
    }
    // A session keeps the database of its last USE. If that is dropped, the session would say so to another pipeline: it is closed instead.
    if !in_database {
        lease.give_back();
    }
    Ok(())
}

async fn run(connection: &mut MySqlConnection, plan: &Plan, node: &NodePlan, op: &Op) -> Result<(), Failure> {
    match op {
        Op::CreateDatabase(sql) | Op::CreateTable(sql) | Op::Alter(sql) => change(connection, node, sql).await,
        Op::Claim(row) => claim(connection, plan, node, row).await,
        Op::Store(row) => store(connection, row).await,
        Op::PutView(view) => put_view(connection, plan, node, view).await,
        // Run by the caller, in a task.
        Op::LoadRows(load) => load_rows(connection, load, &node.node.field).await,
    }
}

/// A change of the schema.
async fn change(connection: &mut MySqlConnection, node: &NodePlan, sql: &str) -> Result<(), Failure> {
    match execute(connection, sql, DDL_TIMEOUT).await {
        Ok(()) => Ok(()),
        Err(TimedError::Answer(error)) => {
            let number = errors::of_server(&error).map_or(0, sqlx::mysql::MySqlDatabaseError::number);
            match (number, errors::refusal(&error)) {
                (errors::DUPLICATE_COLUMN | errors::DUPLICATE_INDEX, _) => Ok(()),
                (_, Some(message)) => Err(Failure::Refused(Refusal::new(
                    RefusalReason::InvalidSpec,
                    &node.node.field,
                    format!("MySQL does not take {}: {message}", node.node.name),
                ))),
                (_, None) => Err(errors::fault(&error).into()),
            }
        }
        Err(error) => Err(error.fault().into()),
    }
}

async fn put_view(connection: &mut MySqlConnection, plan: &Plan, node: &NodePlan, view: &View) -> Result<(), Failure> {
    let field = format!("{}.sql", node.node.field);
    let sql = format!("CREATE OR REPLACE SQL SECURITY INVOKER VIEW {} AS {}", view.name.backticked(), views::text(view));
    match execute(connection, &sql, DDL_TIMEOUT).await {
        Ok(()) => {}
        Err(TimedError::Answer(error)) => return Err(view_failure(&error, &field)),
        Err(error) => return Err(error.fault().into()),
    }
    let stored = describe::view(connection, &plan.database, &view.name).await?.ok_or_else(|| Fault::failed(format!("view {} vanished at once", view.name)))?;
    let row = OwnerRow::new(ownership::kind_name(ResourceKind::MySQLView), view.name.as_str(), &plan.owner, Origin::Created, views::fingerprint(view, &stored));
    store(connection, &row).await
}

fn view_failure(error: &sqlx::Error, field: &str) -> Failure {
    let Some(server) = errors::of_server(error) else { return errors::fault(error).into() };
    match (server.number(), errors::refusal(error)) {
        // "Table 'trading.profile' doesn't exist"
        (errors::NO_SUCH_TABLE, _) => Failure::Reads(server.message().split('\'').nth(1).unwrap_or("a table").to_owned()),
        (errors::VIEW_INVALID, _) => Failure::Reads("a view that reads something".to_owned()),
        (_, Some(message)) => Failure::Refused(Refusal::new(RefusalReason::InvalidSpec, field, format!("MySQL does not take this SELECT: {message}"))),
        (_, None) => errors::fault(error).into(),
    }
}

async fn claim(connection: &mut MySqlConnection, plan: &Plan, node: &NodePlan, row: &OwnerRow) -> Result<(), Failure> {
    let sql = format!("INSERT IGNORE INTO {RESOURCES_TABLE} (kind, name, owner, origin, spec_hash) VALUES (?, ?, ?, ?, ?)");
    let query = sqlx::query(AssertSqlSafe(sql)).bind(&row.kind).bind(&row.name).bind(&row.owner).bind(&row.origin).bind(&row.spec_hash);
    within(REQUEST_TIMEOUT, query.execute(&mut *connection)).await.map_err(|error| error.fault())?;
    let sql = format!("SELECT owner, origin, spec_hash FROM {RESOURCES_TABLE} WHERE kind = ? AND name = ?");
    let found: Vec<(String, String, String)> = describe::rows(connection, &sql, &[&row.kind, &row.name]).await?;
    match found.into_iter().next() {
        Some((owner, ..)) if owner == row.owner => Ok(()),
        Some((owner, origin, spec_hash)) => {
            let winner = OwnerRow { owner, origin, spec_hash, ..row.clone() };
            Err(Failure::Refused(ownership::conflict(&node.node, &plan.owner, &winner, &plan.database.backticked())))
        }
        None => Err(Fault::failed(format!("the owner of {} cannot be stored", node.node.name)).into()),
    }
}

async fn store(connection: &mut MySqlConnection, row: &OwnerRow) -> Result<(), Failure> {
    let sql = format!("UPDATE {RESOURCES_TABLE} SET origin = ?, spec_hash = ? WHERE kind = ? AND name = ? AND owner = ?");
    let query = sqlx::query(AssertSqlSafe(sql)).bind(&row.origin).bind(&row.spec_hash).bind(&row.kind).bind(&row.name).bind(&row.owner);
    let done = within(REQUEST_TIMEOUT, query.execute(connection)).await.map_err(|error| error.fault())?;
    // sqlx counts rows that match, changed or not.
    if done.rows_affected() == 1 { Ok(()) } else { Err(Fault::failed(format!("{} came to belong to another pipeline a moment ago", row.name)).into()) }
}

/// All rows and the note that they are loaded, in one transaction.
async fn load_rows(connection: &mut MySqlConnection, load: &Load, field: &str) -> Result<(), Failure> {
    let transaction = async {
        let mut transaction = connection.begin().await?;
        for rows in load.rows.rows.chunks((PLACEHOLDERS / load.rows.columns.len().max(1)).max(1)) {
            let sql = upsert(load, rows.len());
            let query = rows.iter().flatten().fold(sqlx::query(AssertSqlSafe(sql)).persistent(false), bind);
            query.execute(&mut *transaction).await?;
        }
        let row = &load.row;
        let sql = format!(
            "INSERT INTO {RESOURCES_TABLE} (kind, name, owner, origin, spec_hash) VALUES (?, ?, ?, ?, ?) AS new \
             ON DUPLICATE KEY UPDATE owner = new.owner, origin = new.origin, spec_hash = new.spec_hash"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&row.kind).bind(&row.name).bind(&row.owner).bind(&row.origin).bind(&row.spec_hash);
        query.execute(&mut *transaction).await?;
        transaction.commit().await
    };
    match within(DDL_TIMEOUT, transaction).await {
        Ok(()) => Ok(()),
        Err(TimedError::Answer(error)) => Err(match errors::refusal(&error) {
            Some(message) => {
                Failure::Refused(Refusal::new(RefusalReason::BadRows, format!("{field}.rowsFrom"), format!("MySQL does not take these rows: {message}")))
            }
            None => errors::fault(&error).into(),
        }),
        Err(error) => Err(error.fault().into()),
    }
}

fn upsert(load: &Load, rows: usize) -> String {
    let columns = &load.rows.columns;
    let row = format!("({})", vec!["?"; columns.len()].join(", "));
    let mut updates: Vec<String> =
        columns.iter().filter(|column| !load.primary_key.contains(column)).map(|column| format!("{0} = new.{0}", column.backticked())).collect();
    if updates.is_empty() {
        // A table of keys alone: a row that is there is as it should be.
        updates.extend(load.primary_key.first().map(|column| format!("{0} = new.{0}", column.backticked())));
    }
    format!(
        "INSERT INTO {} ({}) VALUES {} AS new ON DUPLICATE KEY UPDATE {}",
        load.table.backticked(),
        ddl::list(columns),
        vec![row; rows].join(", "),
        updates.join(", ")
    )
}

fn bind<'q>(query: Query<'q, MySql, MySqlArguments>, cell: &Cell) -> Query<'q, MySql, MySqlArguments> {
    match cell {
        Cell::Null => query.bind(None::<String>),
        Cell::Integer(number) => query.bind(*number),
        Cell::Float(number) => query.bind(*number),
        Cell::Text(text) => query.bind(text.clone()),
    }
}
