//! MongoDB: the collections of a database with their indexes, and the collections of progress and owners beside the data.
//!
//! Only plain commands are sent (hello, listCollections, listIndexes, create, createIndexes, find, insert, update), which servers that are compatible with MongoDB
//! know as well, and which the role `readWrite` on the database allows.

mod apply;
mod client;
mod describe;
mod errors;
mod plan;

use std::collections::BTreeMap;
use std::fmt;

use tapeline_api::names::SqlName;
use tapeline_api::pipeline::cassandra::Order;
use tapeline_api::pipeline::mongodb::{Collection, CollectionIndex, MongoDb};
use tapeline_api::pipeline::status::ResourceKind;

use super::ownership::OwnerRow;
use super::{Credentials, Node};

pub use client::Client;
pub(in crate::external) use client::Shared;
pub use plan::{NodePlan, Op, Plan, plan};

/// Where the servers are and who asks.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `host:port` of some servers.
    pub hosts: Vec<String>,
    /// The replica set's name, if it is to be that one. Its members are found in any case.
    pub replica_set: Option<String>,
    /// The database in which the user is defined.
    pub auth_source: String,
    /// User and password, where the servers ask for them.
    pub credentials: Option<Credentials>,
}

impl Endpoint {
    /// The servers of `mongodb`.
    #[must_use]
    pub fn of(mongodb: &MongoDb, credentials: Option<Credentials>) -> Self {
        Self { hosts: mongodb.hosts.clone(), replica_set: mongodb.replica_set.clone(), auth_source: mongodb.auth_source.clone(), credentials }
    }
}

/// The database and collections that a pipeline asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// The database.
    pub database: SqlName,
    /// The collections.
    pub collections: Vec<DesiredCollection>,
}

/// A collection that a pipeline asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredCollection {
    /// As declared.
    pub collection: Collection,
    /// `spec.mongodb.collections[0]`
    pub field: String,
}

impl Desired {
    /// What `mongodb` declares.
    #[must_use]
    pub fn of(mongodb: &MongoDb) -> Self {
        let collections = mongodb.collections.iter().enumerate();
        Self {
            database: mongodb.database.clone(),
            collections: collections
                .map(|(index, collection)| DesiredCollection { collection: collection.clone(), field: format!("spec.mongodb.collections[{index}]") })
                .collect(),
        }
    }

    /// The node that all others are in.
    fn root(&self) -> Node {
        Node { kind: ResourceKind::MongoDBDatabase, name: self.database.to_string(), field: "spec.mongodb.database".to_owned() }
    }
}

impl DesiredCollection {
    fn node(&self, database: &SqlName) -> Node {
        Node { kind: ResourceKind::MongoDBCollection, name: format!("{database}.{}", self.collection.name), field: self.field.clone() }
    }
}

/// What is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actual {
    /// The id that is stored in the database. MongoDB has none that every user may read and that stays: that of the process changes with each start, that of a
    /// replica set needs rights on the cluster, and an address is no identity.
    pub id: Option<String>,
    /// An id that nothing has, for a database that has none yet.
    pub new_id: String,
    /// Whether the database is there, which it is as soon as something is in it.
    pub database: bool,
    /// The collections of those asked for.
    pub collections: BTreeMap<SqlName, CollectionShape>,
    /// Names of those asked for that are taken by something else than an ordinary collection: what it is.
    pub other: BTreeMap<SqlName, Other>,
    /// Whether the collection of progress is there.
    pub progress: bool,
    /// The documents of the collection of owners; `None` if it is not there.
    pub owners: Option<Vec<OwnerRow>>,
}

/// What has a collection's name and does not take documents as a collection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Other {
    View,
    Capped,
    Collated,
    TimeSeries,
}

impl Other {
    /// What it is, and why it takes no rows of a query.
    #[must_use]
    pub const fn described(self) -> &'static str {
        match self {
            Self::View => "a view, which takes no documents",
            Self::Capped => "a capped collection, in which old documents make room for new ones and progress with them",
            Self::Collated => "a collection with a collation of its own, by which texts that differ can be one _id",
            Self::TimeSeries => "a time series, in which a document cannot be replaced by a later one",
        }
    }
}

/// A collection as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CollectionShape {
    /// Its indexes beside that of `_id`.
    pub indexes: Vec<IndexShape>,
}

/// An index as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IndexShape {
    /// Its name.
    pub name: String,
    /// Its fields, in order.
    pub fields: Vec<(String, Direction)>,
    /// Whether it refuses a document whose values are there already.
    pub unique: bool,
    /// What else is set that a declaration cannot say, in MongoDB's words: `expireAfterSeconds`, `sparse`.
    pub options: Vec<String>,
}

/// How an index holds a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Direction {
    /// Sorted.
    Sorted(Order),
    /// In another way, in MongoDB's words: `hashed`, `2dsphere`.
    Other(String),
}

impl IndexShape {
    /// What is declared.
    #[must_use]
    pub fn of(declared: &CollectionIndex) -> Self {
        let fields: Vec<(String, Direction)> = declared.fields.iter().map(|field| (field.name.to_string(), Direction::Sorted(field.order))).collect();
        // As MongoDB names one itself.
        let name = fields.iter().map(|(field, direction)| format!("{field}_{direction}")).collect::<Vec<_>>().join("_");
        Self { name, fields, ..Self::default() }
    }

    /// Its fields for a message: `ticker 1, created_at -1`.
    #[must_use]
    pub fn fields_text(&self) -> String {
        self.fields.iter().map(|(field, direction)| format!("{field} {direction}")).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sorted(Order::Asc) => f.write_str("1"),
            Self::Sorted(Order::Desc) => f.write_str("-1"),
            Self::Other(other) => f.write_str(other),
        }
    }
}

/// Why rows of a query must not be written into a collection of this shape; `None` if they may. For collections that nobody here declares as well.
#[must_use]
pub fn unfit(shape: &CollectionShape) -> Option<String> {
    let index = shape.indexes.iter().find(|index| index.unique)?;
    Some(format!(
        "has the unique index {:?} on ({}): documents that it refuses would be missing, since a duplicate key says that a later record is there already",
        index.name,
        index.fields_text()
    ))
}
