//! `spec.cassandra`: the cluster, the keyspace and the tables.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::CredentialsSecretRef;
use crate::duration::GoDuration;
use crate::names::SqlName;
use crate::types::CqlType;

/// The Cassandra cluster that a pipeline writes rows to, and its tables there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cassandra {
    /// `host:port` of one or more nodes. The others are found through them.
    #[schemars(length(min = 1, max = 20), inner(length(min = 1, max = 300), pattern(r"^[^\s:]+:[0-9]{1,5}$")), extend("x-kubernetes-list-type" = "atomic"))]
    pub contact_points: Vec<String>,
    /// User and password, where the cluster asks for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<CredentialsSecretRef>,
    /// The keyspace, created when it is missing.
    pub keyspace: SqlName,
    /// How the keyspace is replicated. Used when it is created. A change is not carried out, since progress and rows may not be found until a repair is done: the status names the statement to run.
    pub replication: Replication,
    /// Tables that the operator creates when they are missing and adds columns to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub tables: Vec<CassandraTable>,
}

/// Replication of a keyspace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend(
    "x-kubernetes-map-type" = "atomic",
    "x-kubernetes-validations" = [{
        "rule": "self.class == 'SimpleStrategy' ? has(self.factor) && !has(self.datacenters) : has(self.datacenters) && !has(self.factor)",
        "message": "SimpleStrategy takes factor; NetworkTopologyStrategy takes datacenters"
    }]
))]
pub struct Replication {
    /// SimpleStrategy for one data centre or a test, NetworkTopologyStrategy in production.
    pub class: ReplicationClass,
    /// Copies of each row. For SimpleStrategy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub factor: Option<i32>,
    /// Copies of each row in each data centre. For NetworkTopologyStrategy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minProperties" = 1, "maxProperties" = 20))]
    pub datacenters: Option<BTreeMap<String, i32>>,
}

/// Cassandra's replication strategies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(clippy::enum_variant_names, reason = "Cassandra's own names")]
pub enum ReplicationClass {
    /// Copies on the next nodes of the ring.
    SimpleStrategy,
    /// Copies per data centre.
    NetworkTopologyStrategy,
}

/// A Cassandra table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CassandraTable {
    /// The table's name.
    pub name: SqlName,
    /// Its columns. Columns can be added later; one that is taken out of the list stays in the table.
    #[schemars(length(min = 1, max = 200), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub columns: Vec<CassandraColumn>,
    /// Columns that decide on which nodes a row lives.
    #[schemars(length(min = 1, max = 20), extend("x-kubernetes-list-type" = "atomic"))]
    pub partition_key: Vec<SqlName>,
    /// Columns by which the rows of a partition are ordered. Together with the partition key they make a row's identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), extend("x-kubernetes-list-type" = "atomic"))]
    pub clustering_key: Vec<ClusteringColumn>,
    /// How long a row is kept (`720h`). Default: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "duration(self) >= duration('1s')", "message": "at least 1s"}]))]
    pub ttl: Option<GoDuration>,
}

/// A column of a Cassandra table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CassandraColumn {
    /// The column's name; a query's output column of the same name goes there.
    pub name: SqlName,
    /// boolean, tinyint, smallint, int, bigint, float, double, decimal, text, date, timestamp or uuid.
    #[serde(rename = "type")]
    pub type_: CqlType,
}

/// A clustering column and its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusteringColumn {
    /// The column's name.
    pub column: SqlName,
    /// Ascending or descending.
    #[serde(default)]
    pub order: Order,
}

/// The order of a clustering column.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Order {
    /// Smallest first.
    #[default]
    Asc,
    /// Largest first.
    Desc,
}
