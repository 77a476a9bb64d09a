//! Cassandra: the keyspace and its tables, with the tables of progress and owners beside the data.

mod apply;
mod client;
mod ddl;
mod describe;
mod plan;

use std::collections::BTreeMap;

use tapeline_api::names::SqlName;
use tapeline_api::pipeline::cassandra::{Cassandra, CassandraTable, Order, Replication};
use tapeline_api::pipeline::status::ResourceKind;
use tapeline_api::types::CqlType;

use super::ownership::OwnerRow;
use super::{Credentials, Node};

pub use client::Client;
pub(in crate::external) use client::{DdlLocks, Shared};
pub use plan::{NodePlan, Op, Plan, plan};

/// Where the cluster is and who asks.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `host:port` of some nodes.
    pub contact_points: Vec<String>,
    /// User and password, where the cluster asks for them.
    pub credentials: Option<Credentials>,
}

impl Endpoint {
    /// The cluster of `cassandra`.
    #[must_use]
    pub fn of(cassandra: &Cassandra, credentials: Option<Credentials>) -> Self {
        Self { contact_points: cassandra.contact_points.clone(), credentials }
    }
}

/// The keyspace and tables that a pipeline asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// The keyspace.
    pub keyspace: SqlName,
    /// How it is replicated.
    pub replication: Replication,
    /// The tables.
    pub tables: Vec<DesiredTable>,
}

/// A table that a pipeline asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredTable {
    /// As declared.
    pub table: CassandraTable,
    /// `spec.cassandra.tables[0]`
    pub field: String,
}

impl Desired {
    /// What `cassandra` declares.
    #[must_use]
    pub fn of(cassandra: &Cassandra) -> Self {
        let tables = cassandra.tables.iter().enumerate();
        Self {
            keyspace: cassandra.keyspace.clone(),
            replication: cassandra.replication.clone(),
            tables: tables.map(|(index, table)| DesiredTable { table: table.clone(), field: format!("spec.cassandra.tables[{index}]") }).collect(),
        }
    }

    /// The node that all others are in.
    fn root(&self) -> Node {
        Node { kind: ResourceKind::CassandraKeyspace, name: self.keyspace.to_string(), field: "spec.cassandra.keyspace".to_owned() }
    }
}

impl DesiredTable {
    fn node(&self, keyspace: &SqlName) -> Node {
        Node { kind: ResourceKind::CassandraTable, name: format!("{keyspace}.{}", self.table.name), field: self.field.clone() }
    }
}

/// What is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actual {
    /// The cluster's name, which is its identity.
    pub cluster_name: String,
    /// The data centres of the cluster, for messages.
    pub datacenters: Vec<String>,
    /// How the keyspace is replicated, as Cassandra stores it: `class` and its options; `None` if it is not there.
    pub replication: Option<BTreeMap<String, String>>,
    /// The keyspace's tables of those asked for.
    pub tables: BTreeMap<SqlName, TableShape>,
    /// Names in the keyspace that are taken by something else than a table: materialized views.
    pub other: BTreeMap<SqlName, String>,
    /// Whether the table of progress is there.
    pub progress_table: bool,
    /// The rows of the table of owners; `None` if it is not there.
    pub owners: Option<Vec<OwnerRow>>,
}

/// A table as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableShape {
    /// Its columns by name.
    pub columns: BTreeMap<String, ColumnShape>,
    /// The partition key, in order.
    pub partition_key: Vec<String>,
    /// The clustering key, in order.
    pub clustering_key: Vec<(String, Order)>,
    /// Seconds for which a row is kept; 0: for ever.
    pub default_ttl: i32,
}

/// A column as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnShape {
    /// Its type, if it is one that a pipeline can declare.
    pub type_: Option<CqlType>,
    /// Its type in Cassandra's words.
    pub type_text: String,
    /// Whether it is static: one value for a partition.
    pub is_static: bool,
}
