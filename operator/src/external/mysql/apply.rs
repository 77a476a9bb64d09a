//! Carries out a plan for a database. MySQL commits each change of a schema by itself, so each must be able to find itself done.

use sqlx::mysql::{MySql, MySqlArguments, MySqlConnection};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Connection};
use tapeline_api::pipeline::mysql::View;
use tapeline_api::pipeline::status::{Origin, ResourceKind};
use tapeline_api::progress::RESOURCES_TABLE;

use super::client::{Lease, TimedError, execute, within};
use super::plan::{Load, NodePlan};
use super::rows::Cell;
use super::{Client, Op, Plan, ddl, describe, errors, views};
use crate::external::breaker::Fault;
use crate::external::ownership::{self, OwnerRow};
use crate::external::walk::{Failure, System, walk};
use crate::external::{Applied, DDL_TIMEOUT, ExternalError, Guard, NodeState, REQUEST_TIMEOUT, Refusal, RefusalReason};

/// Placeholders in one INSERT, far below MySQL's 65,535.
const PLACEHOLDERS: usize = 8_192;

/// Carries out `plan`: the database, the tables, then the views, which may read each other.
pub(super) async fn apply(client: &Client, plan: &Plan, guard: &Guard) -> Applied {
    walk(&Work { client, plan }, plan, guard).await
}

struct Work<'a> {
    client: &'a Client,
    plan: &'a Plan,
}

impl System for Work<'_> {
    type Op = Op;
    /// It is never given back: a session keeps the database of its last USE, and if that is dropped, would say so to another pipeline.
    type Session = Lease;

    async fn begin(&self, node: &NodePlan) -> Result<Lease, Failure> {
        let mut lease = self.client.lease().await?;
        if !matches!(node.ops.first(), Some(Op::CreateDatabase(_))) {
            enter(lease.connection(), self.plan).await?;
        }
        Ok(lease)
    }

    async fn run(&self, mut lease: Lease, node: &NodePlan, op: &Op) -> Result<Lease, Failure> {
        let connection = lease.connection();
        match op {
            Op::CreateDatabase(sql) => {
                change(connection, node, sql).await?;
                enter(connection, self.plan).await?;
            }
            Op::CreateTable(sql) | Op::Alter(sql) => change(connection, node, sql).await?,
            Op::Claim(row) => claim(connection, self.plan, node, row).await?,
            Op::Store(row) => store(connection, row).await?,
            Op::PutView(view) => put_view(connection, self.plan, node, view).await?,
            Op::LoadRows(load) => {
                // sqlx's transactions do not bear being dropped half-way, so this one runs in a task of its own, which goes on if nobody waits for it.
                let (load, field) = (load.clone(), node.node.field.clone());
                let task = tokio::spawn(async move {
                    let result = load_rows(lease.connection(), &load, &field).await;
                    result.map(|()| lease)
                });
                return task.await.map_err(|error| Fault::failed(error.to_string()))?;
            }
        }
        Ok(lease)
    }

    async fn failed(&self, fault: &Fault) -> ExternalError {
        self.client.failed(fault)
    }
}

/// Tapeline's own tables and the text of views name no database. USE is not for the protocol of prepared statements.
async fn enter(connection: &mut MySqlConnection, plan: &Plan) -> Result<(), Fault> {
    let statement = format!("USE {}", plan.schema.backticked());
    within(REQUEST_TIMEOUT, sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection)).await.map(|_| ()).map_err(|error| error.fault())
}

/// A change of the schema.
async fn change(connection: &mut MySqlConnection, node: &NodePlan, sql: &str) -> Result<(), Failure> {
    match execute(connection, sql, DDL_TIMEOUT).await {
        Ok(()) => Ok(()),
        Err(TimedError::Answer(error)) => {
            let number = errors::of_server(&error).map_or(0, sqlx::mysql::MySqlDatabaseError::number);
            match (number, errors::refusal(&error)) {
                (errors::DUPLICATE_COLUMN | errors::DUPLICATE_INDEX, _) => Ok(()),
                (_, Some(message)) => {
                    let message = format!("MySQL does not take {}: {message}", node.node.name);
                    Err(Refusal::new(RefusalReason::InvalidSpec, &node.node.field, message).into())
                }
                (_, None) => Err(errors::fault(&error).into()),
            }
        }
        Err(error) => Err(error.fault().into()),
    }
}

async fn put_view(connection: &mut MySqlConnection, plan: &Plan, node: &NodePlan, view: &View) -> Result<(), Failure> {
    let sql = format!("CREATE OR REPLACE SQL SECURITY INVOKER VIEW {} AS {}", view.name.backticked(), views::text(view));
    match execute(connection, &sql, DDL_TIMEOUT).await {
        Ok(()) => {}
        Err(TimedError::Answer(error)) => return Err(view_failure(&error, plan, node)),
        Err(error) => return Err(error.fault().into()),
    }
    let stored = describe::view(connection, &plan.schema, &view.name).await?.ok_or_else(|| Fault::failed(format!("view {} vanished at once", view.name)))?;
    let row = OwnerRow::new(ownership::kind_name(ResourceKind::MySQLView), view.name.as_str(), &plan.owner, Origin::Created, views::fingerprint(view, &stored));
    store(connection, &row).await
}

fn view_failure(error: &sqlx::Error, plan: &Plan, node: &NodePlan) -> Failure {
    let Some(server) = errors::of_server(error) else { return errors::fault(error).into() };
    match (server.number(), errors::refusal(error)) {
        // "Table 'trading.profile' doesn't exist"
        (errors::NO_SUCH_TABLE, _) => reads(server.message().split('\'').nth(1).unwrap_or("a table"), plan, node),
        (errors::VIEW_INVALID, _) => reads("a view that reads something", plan, node),
        (_, Some(message)) => {
            Refusal::new(RefusalReason::InvalidSpec, format!("{}.sql", node.node.field), format!("MySQL does not take this SELECT: {message}")).into()
        }
        (_, None) => errors::fault(error).into(),
    }
}

/// The view `node` reads `table`, which is not there.
fn reads(table: &str, plan: &Plan, node: &NodePlan) -> Failure {
    let declared = plan.nodes.iter().any(|other| other.node.name == table);
    let remedy = if declared {
        "it is declared here, and created as soon as what stands against it is put right"
    } else {
        "correct the view's sql, or create the table"
    };
    Failure::Node(NodeState::Missing(format!("view {} reads {table}, which does not exist: {remedy}", node.node.name)))
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
            Err(ownership::conflict(&node.node, &plan.owner, &winner, &plan.schema.backticked()).into())
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
            Some(message) => Refusal::new(RefusalReason::BadRows, format!("{field}.rowsFrom"), format!("MySQL does not take these rows: {message}")).into(),
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
