//! `spec.references[]`: static tables that queries join.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::{GoDuration, between};
use crate::names::SqlName;
use crate::types::FieldType;

/// A table of reference data, held in each worker's memory, that queries join with their stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reference {
    /// The table's name in SQL.
    pub name: SqlName,
    /// Where its rows are.
    pub mysql: MySqlReference,
    /// How often the rows are read again. Micro-batches go on meanwhile, each with the rows that were there when it began. Default: 1m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = between("1s", "24h")))]
    pub refresh: Option<GoDuration>,
    /// Its columns. Default: those of the table, where `spec.mysql.tables` declares it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub fields: Vec<ReferenceField>,
}

/// A table, or what a SELECT gives, in the database of `spec.mysql`. Exactly one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend(
    "x-kubernetes-map-type" = "atomic",
    "x-kubernetes-validations" = [{"rule": "has(self.table) != has(self.sql)", "message": "give either table or sql"}]
))]
pub struct MySqlReference {
    /// A table or view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<SqlName>,
    /// A SELECT in MySQL's SQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20_000))]
    pub sql: Option<String>,
}

/// A column of reference data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReferenceField {
    /// The column's name, in MySQL and in SQL over the stream.
    pub name: SqlName,
    /// boolean, int, bigint, float, double, string, date, timestamp or decimal(precision,scale).
    #[serde(rename = "type")]
    pub type_: FieldType,
}

/// Reference data as SQL sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReferenceTable {
    /// The table's name in SQL.
    pub name: SqlName,
    /// Its columns, each of which may be null.
    pub fields: Vec<ReferenceField>,
}
