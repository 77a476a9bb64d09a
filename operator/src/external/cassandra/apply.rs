//! Carries out a plan for a keyspace. Changes of the schema are serialised for each cluster and wait until all nodes agree; rows of owners are written with
//! lightweight transactions throughout, as these must not be mixed with others.

use std::sync::Arc;

use scylla::client::session::Session;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::statement::unprepared::Statement;
use scylla::value::{CqlValue, Row};
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::cassandra::CassandraColumn;
use tapeline_api::progress::RESOURCES_TABLE;

use super::client::{agreement_fault, execution_fault};
use super::plan::NodePlan;
use super::{Client, Op, Plan, ddl, describe};
use crate::external::breaker::Fault;
use crate::external::ownership::{self, OwnerRow};
use crate::external::walk::{Failure, System, walk};
use crate::external::{Applied, DDL_TIMEOUT, ExternalError, Guard, NodeState, Refusal, RefusalReason};

/// Carries out `plan`.
pub(super) async fn apply(client: &Client, plan: &Plan, guard: &Guard) -> Applied {
    walk(&Work { client, plan, guard }, plan, guard).await
}

struct Work<'a> {
    client: &'a Client,
    plan: &'a Plan,
    guard: &'a Guard,
}

impl System for Work<'_> {
    type Op = Op;
    type Session = Arc<Session>;

    async fn begin(&self, _: &NodePlan) -> Result<Arc<Session>, Failure> {
        Ok(self.client.session().await.map_err(|fault| self.client.endpoint.error(&fault))?)
    }

    async fn run(&self, session: Arc<Session>, node: &NodePlan, op: &Op) -> Result<Arc<Session>, Failure> {
        let keyspace = &self.plan.schema;
        match op {
            Op::Create(cql) | Op::Alter(cql) => self.change_schema(&session, node, cql).await?,
            Op::AddColumns { table, columns } => {
                match self.change_schema(&session, node, &ddl::add_columns(keyspace, table, columns)).await {
                    // An attempt before this one went through, though its answer was lost.
                    Err(Failure::Node(NodeState::Refused(_))) if has_columns(&session, keyspace, table, columns).await? => {}
                    result => result?,
                }
            }
            Op::Claim(row) => claim(&session, self.plan, node, row).await?,
            Op::Store(row) => store(&session, self.plan, row).await?,
        }
        Ok(session)
    }

    async fn failed(&self, fault: &Fault) -> ExternalError {
        self.client.failed(fault).await
    }
}

impl Work<'_> {
    async fn change_schema(&self, session: &Session, node: &NodePlan, cql: &str) -> Result<(), Failure> {
        let lock = self.client.locks.of(&self.plan.server);
        let _serialised = lock.lock().await;
        session.await_schema_agreement().await.map_err(|error| agreement_fault(&error))?;
        // Both can take longer than the lease lasts.
        self.guard.check()?;
        let mut statement = Statement::new(cql);
        statement.set_request_timeout(Some(DDL_TIMEOUT));
        // The driver waits for the nodes to agree behind each change, within the session's limit.
        match session.query_unpaged(statement, ()).await {
            Ok(_) => Ok(()),
            Err(ExecutionError::RequestTimeout(limit)) => {
                Err(Fault::failed(format!("a change of the schema was not done within {} s; it is looked at and repeated", limit.as_secs())).into())
            }
            Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(code, message))) if is_refusal(&code) => {
                Err(Refusal::new(RefusalReason::InvalidSpec, refused_field(node, cql), format!("Cassandra refuses it: {message}")).into())
            }
            Err(error) => Err(execution_fault(&error).into()),
        }
    }
}

/// The statements are ours and well-formed, so what Cassandra does not take of them is what was declared.
fn is_refusal(code: &DbError) -> bool {
    matches!(code, DbError::SyntaxError | DbError::Invalid | DbError::ConfigError | DbError::AlreadyExists { .. })
}

fn refused_field(node: &NodePlan, cql: &str) -> String {
    if cql.contains(" WITH replication = ") { "spec.cassandra.replication".to_owned() } else { node.node.field.clone() }
}

async fn has_columns(session: &Session, keyspace: &SqlName, table: &SqlName, columns: &[CassandraColumn]) -> Result<bool, Fault> {
    let Some(shape) = describe::table(session, keyspace, table).await? else { return Ok(false) };
    Ok(columns.iter().all(|column| shape.columns.get(column.name.as_str()).is_some_and(|actual| actual.type_ == Some(column.type_))))
}

async fn claim(session: &Session, plan: &Plan, node: &NodePlan, row: &OwnerRow) -> Result<(), Failure> {
    let table = format!("{}.{RESOURCES_TABLE}", plan.schema.quoted());
    let statement = format!("INSERT INTO {table} (kind, name, owner, origin, spec_hash) VALUES (?, ?, ?, ?, ?) IF NOT EXISTS");
    if conditional(session, &statement, (&row.kind, &row.name, &row.owner, &row.origin, &row.spec_hash)).await? {
        return Ok(());
    }
    let statement = format!("SELECT owner, origin, spec_hash FROM {table} WHERE kind = ? AND name = ?");
    let found: Vec<(Option<String>, Option<String>, Option<String>)> = describe::rows(session, &statement, (&row.kind, &row.name)).await?;
    let Some((Some(owner), origin, spec_hash)) = found.into_iter().next() else {
        return Err(Fault::failed(format!("the owner of {} cannot be read", node.node.name)).into());
    };
    // A keyspace is shared: whoever was first keeps its replication.
    if owner == row.owner || row.kind == ownership::kind_name(tapeline_api::pipeline::status::ResourceKind::CassandraKeyspace) {
        return Ok(());
    }
    let winner = OwnerRow { owner, origin: origin.unwrap_or_default(), spec_hash: spec_hash.unwrap_or_default(), ..row.clone() };
    Err(ownership::conflict(&node.node, &plan.owner, &winner, &plan.schema.quoted()).into())
}

async fn store(session: &Session, plan: &Plan, row: &OwnerRow) -> Result<(), Failure> {
    let statement = format!("UPDATE {}.{RESOURCES_TABLE} SET origin = ?, spec_hash = ? WHERE kind = ? AND name = ? IF owner = ?", plan.schema.quoted());
    if conditional(session, &statement, (&row.origin, &row.spec_hash, &row.kind, &row.name, &row.owner)).await? {
        Ok(())
    } else {
        Err(Fault::failed(format!("{} came to belong to another pipeline a moment ago", row.name)).into())
    }
}

/// Whether the condition of a lightweight transaction held.
async fn conditional(session: &Session, statement: &str, values: (&String, &String, &String, &String, &String)) -> Result<bool, Fault> {
    let answer: Vec<Row> = describe::rows(session, statement, values).await?;
    Ok(answer.first().and_then(|row| row.columns.first()) == Some(&Some(CqlValue::Boolean(true))))
}
