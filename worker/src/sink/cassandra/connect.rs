//! The connection to a cluster and the statements prepared on it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use scylla::client::PoolSize;
use scylla::client::execution_profile::{ExecutionProfile, ExecutionProfileHandle};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::cluster::ClusterState;
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::policies::retry::FallthroughRetryPolicy;
use scylla::statement::Consistency;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use secrecy::ExposeSecret;
use tapeline_api::names::SqlName;
use tapeline_api::settings::CassandraConnection;
use tokio::time::timeout;

use super::chunk::{Key, MAX_ROWS, Shape, Target};
use super::progress::{insert_progress, select_progress};
use super::trouble::Trouble;
use crate::settings::Credentials;

/// How long a connection, and the first look at the cluster, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request may take.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an idle connection is asked whether it lives, and how long the answer may take.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Connections to each node. One would do for the requests, but not for the time in which it breaks.
const CONNECTIONS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);

/// A connected cluster.
pub(super) struct Cluster {
    pub(super) session: Arc<Session>,
    /// The data centre that is written to, where there are several.
    pub(super) datacenter: Option<String>,
}

/// Connects with the credentials as they are now.
pub(super) async fn connect(connection: &CassandraConnection, credentials: &Credentials) -> Result<Cluster, Trouble> {
    let login = credentials.of("cassandra").map_err(|error| Trouble::Denied(format!("user and password of Cassandra cannot be read: {error}")))?;
    let profile = ExecutionProfile::builder()
        .consistency(Consistency::LocalQuorum)
        .request_timeout(Some(REQUEST_TIMEOUT))
        // Rows are sent again by the sink, which knows what else is under way.
        .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
        .build();
    let mut handle = profile.into_handle();
    let mut builder = SessionBuilder::new()
        .known_nodes(&connection.contact_points)
        .default_execution_profile_handle(handle.clone())
        .connection_timeout(CONNECT_TIMEOUT)
        .hostname_resolution_timeout(Some(CONNECT_TIMEOUT))
        .metadata_request_serverside_timeout(CONNECT_TIMEOUT)
        .metadata_request_clientside_timeout(CONNECT_TIMEOUT)
        .pool_size(PoolSize::PerHost(CONNECTIONS))
        .keepalive_interval(KEEPALIVE)
        .keepalive_timeout(KEEPALIVE)
        // Routing needs to know how the keyspace is replicated, and nothing else of the schema.
        .keyspaces_to_fetch([connection.keyspace.as_str()])
        .fetch_full_schema_metadata(false);
    if let Some(login) = &login {
        builder = builder.user(&login.user, login.password.expose_secret());
    }
    let session = match timeout(2 * CONNECT_TIMEOUT, builder.build()).await {
        Ok(Ok(session)) => session,
        Ok(Err(error)) => {
            tracing::info!(%error, "connecting to Cassandra");
            return Err(Trouble::from(&error));
        }
        Err(_) => return Err(Trouble::Unreachable(format!("no contact point of Cassandra answers within {} s", 2 * CONNECT_TIMEOUT.as_secs()))),
    };
    let datacenter = choose_datacenter(&session.get_cluster_state(), &connection.contact_points).await;
    if let Some(datacenter) = &datacenter {
        prefer(&mut handle, datacenter);
    }
    Ok(Cluster { session: Arc::new(session), datacenter })
}

fn prefer(handle: &mut ExecutionProfileHandle, datacenter: &str) {
    let policy = DefaultPolicy::builder().prefer_datacenter(datacenter.to_owned()).build();
    let profile = handle.pointee_to_builder().load_balancing_policy(policy).build();
    handle.map_to_another_profile(profile);
}

/// Where there are several data centres, a quorum is local to one of them: it must always be the same one, or progress stored in one is not seen in the other.
/// It is the one of a contact point, or the first by name where these are addresses of a proxy.
async fn choose_datacenter(cluster: &ClusterState, contact_points: &[String]) -> Option<String> {
    let nodes: Vec<(SocketAddr, &str)> = cluster
        .get_nodes_info()
        .iter()
        .filter_map(|node| node.datacenter.as_deref().map(|datacenter| (SocketAddr::new(node.address.ip(), node.address.port()), datacenter)))
        .collect();
    if nodes.iter().all(|(_, datacenter)| nodes.first().is_none_or(|(_, first)| datacenter == first)) {
        return None;
    }
    let mut contacts = Vec::new();
    for contact_point in contact_points {
        if let Ok(Ok(found)) = timeout(CONNECT_TIMEOUT, tokio::net::lookup_host(contact_point)).await {
            contacts.extend(found);
        }
    }
    local_datacenter(&nodes, &contacts).map(str::to_owned)
}

fn local_datacenter<'a>(nodes: &[(SocketAddr, &'a str)], contacts: &[SocketAddr]) -> Option<&'a str> {
    let of_contacts = nodes.iter().filter(|(address, _)| contacts.contains(address)).map(|(_, datacenter)| *datacenter).min();
    of_contacts.or_else(|| nodes.iter().map(|(_, datacenter)| *datacenter).min())
}

/// What is prepared on a session.
pub(super) struct Statements {
    /// Batches of one to [`MAX_ROWS`] rows: made once, since a batch that is put together for each request costs as much as its rows.
    batches: Vec<Arc<Batch>>,
    insert: PreparedStatement,
    pub(super) shape: Arc<Shape>,
    pub(super) read_progress: PreparedStatement,
    pub(super) write_progress: PreparedStatement,
}

impl Statements {
    /// The batch of `rows` rows.
    pub(super) fn batch(&self, rows: usize) -> Arc<Batch> {
        self.batches.get(rows.saturating_sub(1)).map_or_else(|| Arc::new(unlogged(&self.insert, rows)), Arc::clone)
    }
}

/// Prepares the statements of a sink that writes `columns` of `table`.
pub(super) async fn prepare(session: &Session, keyspace: &SqlName, table: &SqlName, columns: &[String]) -> Result<Statements, Trouble> {
    let insert = prepare_one(session, &insert_rows(keyspace, table, columns)).await?;
    let read_progress = prepare_one(session, &select_progress(keyspace)).await?;
    let write_progress = prepare_one(session, &insert_progress(keyspace)).await?;
    let kinds = column_kinds(session, keyspace, table).await?;
    let shape = Arc::new(shape(&insert, columns, &kinds));
    let batches = (1..=MAX_ROWS).map(|rows| Arc::new(unlogged(&insert, rows))).collect();
    Ok(Statements { batches, insert, shape, read_progress, write_progress })
}

async fn prepare_one(session: &Session, text: &str) -> Result<PreparedStatement, Trouble> {
    let prepared = timeout(REQUEST_TIMEOUT, session.prepare(text)).await.map_err(|_| Trouble::no_answer_within(REQUEST_TIMEOUT))?;
    let mut prepared = prepared.map_err(|error| Trouble::from(&error))?;
    prepared.set_is_idempotent(true);
    Ok(prepared)
}

/// An unlogged batch of `rows` times the same statement.
pub(super) fn unlogged(statement: &PreparedStatement, rows: usize) -> Batch {
    let mut batch = Batch::new_with_statements(BatchType::Unlogged, vec![statement.clone().into(); rows]);
    batch.set_is_idempotent(true);
    batch
}

/// What each column of the table is of its key, in the server's words. The statement tells the partition key only.
async fn column_kinds(session: &Session, keyspace: &SqlName, table: &SqlName) -> Result<HashMap<String, String>, Trouble> {
    let text = "SELECT column_name, kind FROM system_schema.columns WHERE keyspace_name = ? AND table_name = ?";
    let found = session.query_unpaged(text, (keyspace.as_str(), table.as_str())).await.map_err(|error| Trouble::from(&error))?;
    let found = found.into_rows_result().map_err(|error| Trouble::Fault(format!("reading the columns of the table: {error}")))?;
    let rows = found.rows::<(String, String)>().map_err(|error| Trouble::Fault(format!("reading the columns of the table: {error}")))?;
    rows.map(|row| row.map_err(|error| Trouble::Fault(format!("reading the columns of the table: {error}")))).collect()
}

fn shape(insert: &PreparedStatement, columns: &[String], kinds: &HashMap<String, String>) -> Shape {
    let mut partition_key = insert.get_variable_pk_indexes().to_vec();
    partition_key.sort_by_key(|part| part.sequence);
    let specs = insert.get_variable_col_specs();
    let targets = columns.iter().zip(specs.iter()).map(|(name, spec)| Target {
        name: name.clone(),
        type_: spec.typ().clone(),
        key: match kinds.get(name).map(String::as_str) {
            Some("partition_key") if partition_key.len() == 1 => Key::Partition,
            Some("partition_key" | "clustering") => Key::Part,
            _ => Key::No,
        },
    });
    Shape { columns: targets.collect(), partition_key: partition_key.iter().map(|part| usize::from(part.index)).collect() }
}

fn insert_rows(keyspace: &SqlName, table: &SqlName, columns: &[String]) -> String {
    let names: Vec<String> = columns.iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect();
    let marks = vec!["?"; columns.len()].join(", ");
    format!("INSERT INTO {}.{} ({}) VALUES ({marks}) USING TIMESTAMP ?", keyspace.quoted(), table.quoted(), names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_inserted_with_their_write_time() {
        let name = |text: &str| text.parse::<SqlName>().unwrap();
        let text = insert_rows(&name("trading"), &name("real_time_data"), &["id".to_owned(), "od\"d".to_owned()]);
        assert_eq!(text, r#"INSERT INTO "trading"."real_time_data" ("id", "od""d") VALUES (?, ?) USING TIMESTAMP ?"#);
    }

    #[test]
    fn the_data_centre_is_the_one_of_a_contact_point() {
        let address = |last: u8| SocketAddr::from(([10, 0, 0, last], 9042));
        let nodes = [(address(1), "west"), (address(2), "east"), (address(3), "north")];
        assert_eq!(local_datacenter(&nodes, &[address(1)]), Some("west"));
        assert_eq!(local_datacenter(&nodes, &[address(9)]), Some("east"), "behind a proxy all take the first by name");
        assert_eq!(local_datacenter(&[], &[address(1)]), None);
    }
}
