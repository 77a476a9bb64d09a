//! `spec.mongodb`: the servers, the database and the collections.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::CredentialsSecretRef;
use super::cassandra::Order;
use crate::names::SqlName;

/// The MongoDB deployment that a pipeline writes documents to, and its collections there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MongoDb {
    /// `host:port` of one or more servers. Looked up from the operator's pod and from the pipeline's: give a Service's name with its namespace.
    #[schemars(length(min = 1, max = 20), inner(length(min = 1, max = 300), pattern(r"^[^\s:/@,]+:[0-9]{1,5}$")), extend("x-kubernetes-list-type" = "atomic"))]
    pub hosts: Vec<String>,
    /// The replica set's name: servers of another one are not spoken to. Its other members are found through the hosts, by the names that they have in its
    /// configuration, whether this is set or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), pattern(r"^[^\s/?&]+$"))]
    pub replica_set: Option<String>,
    /// User and password, where the servers ask for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<CredentialsSecretRef>,
    /// The database in which the user is defined.
    #[serde(default = "admin")]
    #[schemars(length(min = 1, max = 63), pattern("^[a-zA-Z$][a-zA-Z0-9_-]*$"))]
    pub auth_source: String,
    /// The database, which is there as soon as a collection is in it.
    pub database: SqlName,
    /// Collections that the operator creates when they are missing and adds indexes to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub collections: Vec<Collection>,
}

fn admin() -> String {
    "admin".to_owned()
}

/// A collection of documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Collection {
    /// The collection's name.
    pub name: SqlName,
    /// Indexes beside that of `_id`, for those who read the collection. One that is taken out of the list stays.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), extend("x-kubernetes-list-type" = "atomic"))]
    pub indexes: Vec<CollectionIndex>,
}

/// An index of a collection. Never a unique one: a document that it refuses would be neither stored nor a bad record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CollectionIndex {
    /// Its fields, in order.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub fields: Vec<IndexField>,
}

/// A field of an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IndexField {
    /// The field's name.
    pub name: SqlName,
    /// Ascending or descending.
    #[serde(default)]
    pub order: Order,
}
