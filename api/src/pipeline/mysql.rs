//! `spec.mysql`: the server, the database, the tables and views.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigMapKeyRef, CredentialsSecretRef};
use crate::names::SqlName;
use crate::types::MySqlType;

/// The MySQL server that a pipeline writes rows and aggregates to, and its tables and views there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MySql {
    /// The server's host. Looked up from the operator's pod and from the pipeline's: give a Service's name with its namespace.
    #[schemars(length(min = 1, max = 253), pattern(r"^[^\s:/@]+$"))]
    pub host: String,
    /// The server's port.
    #[serde(default = "port")]
    #[schemars(range(min = 1, max = 65_535), extend("format" = "int32"))]
    pub port: u16,
    /// User and password of the workers and, where `adminCredentialsSecretRef` is not set, of the operator.
    pub credentials_secret_ref: CredentialsSecretRef,
    /// User and password for creating the database, tables and views, when the workers are not to have those rights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_credentials_secret_ref: Option<CredentialsSecretRef>,
    /// The database, created when it is missing.
    pub database: SqlName,
    /// Tables that the operator creates when they are missing and adds columns to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub tables: Vec<MySqlTable>,
    /// Views that the operator creates and replaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub views: Vec<View>,
}

const fn port() -> u16 {
    3306
}

/// A MySQL table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MySqlTable {
    /// The table's name.
    pub name: SqlName,
    /// Its columns. Columns can be added later; one that is taken out of the list stays in the table.
    #[schemars(length(min = 1, max = 200), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub columns: Vec<MySqlColumn>,
    /// The columns that make a row's identity.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub primary_key: Vec<SqlName>,
    /// Further indexes, for those who read the table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), extend("x-kubernetes-list-type" = "atomic"))]
    pub indexes: Vec<Index>,
    /// Rows that the table holds from the start, such as reference data. They are upserted by primary key when the source changes, and never deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_from: Option<RowsFrom>,
}

/// A column of a MySQL table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MySqlColumn {
    /// The column's name; a query's output column of the same name goes there.
    pub name: SqlName,
    /// boolean, tinyint, smallint, int, bigint, float, double, decimal(p,s), varchar(n), char(n), text, date, timestamp(f) or datetime(f).
    #[serde(rename = "type")]
    pub type_: MySqlType,
    /// MySQL numbers the rows itself. The column must be the primary key's first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto_increment: bool,
    /// `false`: NOT NULL. Columns of the primary key never take nulls.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub nullable: bool,
}

const fn yes() -> bool {
    true
}

/// An index that is not unique.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Index {
    /// Its columns, in order.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub columns: Vec<SqlName>,
}

/// Where reference rows come from. Exactly one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct RowsFrom {
    /// A CSV file with a header line of column names; an empty cell is null.
    pub config_map_key_ref: ConfigMapKeyRef,
}

/// A MySQL view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct View {
    /// The view's name.
    pub name: SqlName,
    /// A SELECT in MySQL's SQL, over tables of the same database.
    #[schemars(length(min = 1, max = 20_000))]
    pub sql: String,
}
