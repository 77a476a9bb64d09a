//! MySQL: the database, its tables with their reference rows, its views, and the tables of progress and owners beside the data.

mod apply;
mod client;
mod ddl;
mod describe;
mod errors;
mod plan;
mod rows;
mod shape;
mod tables;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tapeline_api::names::SqlName;
use tapeline_api::pipeline::mysql::{MySql, MySqlTable, View};
use tapeline_api::pipeline::status::ResourceKind;

use super::ownership::OwnerRow;
use super::{Credentials, ExternalError, Node};

pub use client::Client;
pub(in crate::external) use client::Shared;
pub use plan::{NodePlan, Op, Plan, plan};
pub use shape::{ColumnShape, IndexShape, TableShape};

/// Where the server is and who asks.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
    /// User and password: those of `adminCredentialsSecretRef` where it is set.
    pub credentials: Credentials,
}

impl Endpoint {
    /// The server of `mysql`.
    #[must_use]
    pub fn of(mysql: &MySql, credentials: Credentials) -> Self {
        Self { host: mysql.host.clone(), port: mysql.port, credentials }
    }
}

/// The database, tables and views that a pipeline asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// The database.
    pub database: SqlName,
    /// The tables.
    pub tables: Vec<DesiredTable>,
    /// The views.
    pub views: Vec<DesiredView>,
}

/// A table that a pipeline asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredTable {
    /// As declared.
    pub table: MySqlTable,
    /// `spec.mysql.tables[0]`
    pub field: String,
    /// The text of `rowsFrom`, a CSV file; `None` where nothing is declared, or while the ConfigMap is not there.
    pub rows: Option<Arc<str>>,
    /// Those of its columns that nobody declared: mode Merge needs them.
    pub added: BTreeSet<SqlName>,
}

/// A view that a pipeline asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredView {
    /// As declared.
    pub view: View,
    /// `spec.mysql.views[0]`
    pub field: String,
}

impl Desired {
    /// What `mysql` declares, with the contents of the ConfigMaps of `rowsFrom` by table.
    #[must_use]
    pub fn of(mysql: &MySql, rows: &BTreeMap<SqlName, Arc<str>>) -> Self {
        let table = |(index, table): (usize, &MySqlTable)| DesiredTable {
            table: table.clone(),
            field: format!("spec.mysql.tables[{index}]"),
            rows: table.rows_from.as_ref().and_then(|_| rows.get(&table.name).cloned()),
            added: BTreeSet::new(),
        };
        let view = |(index, view): (usize, &View)| DesiredView { view: view.clone(), field: format!("spec.mysql.views[{index}]") };
        Self {
            database: mysql.database.clone(),
            tables: mysql.tables.iter().enumerate().map(table).collect(),
            views: mysql.views.iter().enumerate().map(view).collect(),
        }
    }

    /// The node that all others are in.
    fn root(&self) -> Node {
        Node { kind: ResourceKind::MySQLDatabase, name: self.database.to_string(), field: "spec.mysql.database".to_owned() }
    }
}

impl DesiredTable {
    fn node(&self, database: &SqlName) -> Node {
        Node { kind: ResourceKind::MySQLTable, name: format!("{database}.{}", self.table.name), field: self.field.clone() }
    }
}

impl DesiredView {
    fn node(&self, database: &SqlName) -> Node {
        Node { kind: ResourceKind::MySQLView, name: format!("{database}.{}", self.view.name), field: self.field.clone() }
    }
}

/// What is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actual {
    /// `@@server_uuid`
    pub server_uuid: String,
    /// Whether the database is there.
    pub database: bool,
    /// The base tables of those asked for.
    pub tables: BTreeMap<SqlName, TableShape>,
    /// Tables that are not among these, and may be there all the same: MySQL does not tell this user.
    pub denied: BTreeMap<SqlName, ExternalError>,
    /// The views of those asked for.
    pub views: BTreeMap<SqlName, ViewShape>,
    /// How many rows a table has, counted up to [`COUNTED`], for those tables where it decides what may be done.
    pub rows: BTreeMap<SqlName, u64>,
    /// Whether the table of progress is there.
    pub progress_table: bool,
    /// The rows of the table of owners; `None` if it is not there.
    pub owners: Option<Vec<OwnerRow>>,
}

/// Up to how many rows a table is counted. One with fewer may be rewritten under its writers (in a second or so), a larger one is left to a person.
pub const COUNTED: u64 = 100_000;

/// A view as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ViewShape {
    /// The text as MySQL rewrote it; empty where this user may not see it.
    pub definition: String,
    /// `INVOKER` or `DEFINER`
    pub security: String,
}
