//! The systems outside Kubernetes that a pipeline needs: Kafka, Cassandra, MySQL, MongoDB. Each is a module of three steps that the reconcile calls in this order:
//!
//! ```text
//! client = clients.kafka(Endpoint::of(..))           one per endpoint and credentials, shared by all pipelines
//! actual = client.describe(&desired).await?          IO, reads only
//! plan   = kafka::plan(&desired, &actual, ..)        pure; never holds an operation that destroys
//!          the caller stores plan.records() in the object's status: `origin: Creating`, incarnations, losses
//! result = client.apply(&plan, &guard).await         IO; each node succeeds or fails by itself
//!          the caller stores result.resources() and result.topics
//! ```
//!
//! What they have in common is written once: `connection` (shared, behind a breaker), `steps` (of a plan, with the books of who owns what) and `walk` (over the
//! steps).
//!
//! A converged system is only read: its plan [is empty](kafka::Plan::is_empty) and applying it sends nothing. Every operation is safe when it is run twice,
//! since a process that is killed cannot know how far it came. No request takes longer than its timeout ([`CONNECT_TIMEOUT`], [`REQUEST_TIMEOUT`],
//! [`DDL_TIMEOUT`]).
//!
//! Texts in here are read by users, in conditions and Events: the field's path beside a message that says what is wrong and what to do. They hold no times and
//! no numbers that move, so that the same trouble has the same text.

mod breaker;
pub mod cassandra;
mod clients;
mod connection;
mod guard;
pub mod kafka;
pub mod mongodb;
pub mod mysql;
mod ownership;
mod reach;
mod steps;
mod walk;

use std::time::Duration;

use secrecy::SecretString;
use strum::{Display, EnumIter, IntoStaticStr};
use tapeline_api::pipeline::status::{Origin, ResourceKind, ResourceStatus, TopicStatus};

pub use clients::Clients;
pub use guard::Guard;
pub use ownership::{Owner, OwnerRow};
pub use steps::{NodePlan, Plan};

/// How long connecting to a server may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one request may take.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one change of a schema may take: it waits for every node of a Cassandra cluster, and for whoever holds a MySQL table. One that takes longer is
/// found done, or is done again, by the next reconcile.
pub const DDL_TIMEOUT: Duration = Duration::from_secs(20);

/// Why a server could not be asked. The same call may succeed later, unless the class is [`ErrorClass::Invalid`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct ExternalError {
    /// What kind of trouble it is.
    pub class: ErrorClass,
    /// The field to look at: `spec.mysql.credentialsSecretRef`.
    pub field: String,
    /// Which server, what is wrong, what to do.
    pub message: String,
}

/// Kinds of trouble with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, IntoStaticStr, EnumIter)]
pub enum ErrorClass {
    /// Nobody answers, or not in time.
    Unreachable,
    /// User, password or a permission is missing or wrong.
    Denied,
    /// The server answered that it cannot do it now: overloaded, read-only, too few replicas.
    Failed,
    /// The specification itself makes it impossible (a client property that does not exist): only a change of it helps.
    Invalid,
    /// This process is no longer the leader, so it left the rest to the one that is.
    NotLeader,
}

/// User and password, and where they came from.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password.
    pub password: SecretString,
    /// The field that names the Secret: `spec.mysql.credentialsSecretRef`.
    pub field: &'static str,
    /// The Secret's name.
    pub secret: String,
}

/// What the object's status remembers of earlier runs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Recorded<'a> {
    /// `status.topics`
    pub topics: &'a [TopicStatus],
    /// `status.resources`
    pub resources: &'a [ResourceStatus],
}

impl<'a> Recorded<'a> {
    /// How the pipeline came by a thing, if that is recorded for this very server: a thing of the same name on another server is another thing.
    #[must_use]
    pub fn origin(&self, kind: ResourceKind, name: &str, server: &str) -> Option<Origin> {
        let recorded = self.resources.iter().find(|resource| resource.kind == kind && resource.name == name)?;
        recorded.server.as_deref().is_none_or(|recorded| recorded == server).then_some(recorded.origin)
    }

    /// What was seen of a topic.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&'a TopicStatus> {
        self.topics.iter().find(|topic| topic.name.as_str() == name)
    }
}

/// One thing outside Kubernetes that the pipeline names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    /// What it is.
    pub kind: ResourceKind,
    /// Its name as in `status.resources`: with the keyspace or database in front (`trading.profile`); a topic's, keyspace's or database's alone.
    pub name: String,
    /// The field that names it: `spec.mysql.tables[2]`, `spec.streams[0].topic`.
    pub field: String,
}

/// What became of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeOutcome {
    /// The node.
    pub node: Node,
    /// How it is now.
    pub state: NodeState,
    /// How the pipeline came by it; `None` for what it only looks at, and for what it did not get.
    pub origin: Option<Origin>,
    /// The id of the server that holds it.
    pub server: String,
}

/// How a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeState {
    /// As declared; nothing was written.
    AsDeclared,
    /// As declared now. What was done, for an Event.
    Changed(String),
    /// As declared now, but it had vanished with what it held. What was done and what is missing, for `DataLost`.
    Recreated(String),
    /// The server, or something on it, has to come back. Heals by itself.
    Waiting(ExternalError),
    /// Something that nobody here declares is not there: this very thing, or a table that a view reads. Heals when it appears.
    Missing(String),
    /// Nothing was done to it, since that would be wrong. Never empty.
    Refused(Vec<Refusal>),
}

impl NodeState {
    /// Whether the node can be used: what is refused may still exist, but is not as declared.
    #[must_use]
    pub const fn is_as_declared(&self) -> bool {
        matches!(self, Self::AsDeclared | Self::Changed(_) | Self::Recreated(_))
    }
}

/// Why nothing was done to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// In one word.
    pub reason: RefusalReason,
    /// The field that asks for it: `spec.mysql.tables[2].columns[1].type`.
    pub field: String,
    /// What is wrong, what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    #[must_use]
    pub fn new(reason: RefusalReason, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason, field: field.into(), message: message.into() }
    }
}

/// Why nothing was done to a node, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Display, IntoStaticStr)]
pub enum RefusalReason {
    /// What is asked for would lose what is there.
    WouldLoseData,
    /// It belongs to another pipeline, or is something else than declared.
    ResourceConflict,
    /// It is there in a form that Tapeline cannot use, and cannot change without guessing.
    Incompatible,
    /// The server says that the specification is wrong: bad SQL, a setting that does not exist.
    InvalidSpec,
    /// The reference rows are wrong: what cures it is their ConfigMap.
    BadRows,
    /// Somebody else keeps changing it back.
    ConfigContested,
}

/// What the caller stores in the object's status before it applies a plan, so that a process which is killed in between is followed by one that knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// Things that are about to be created, with `origin: Creating`. They replace the entries of the same kind and name.
    pub resources: Vec<ResourceStatus>,
    /// Topics that are about to be created, with their new incarnation. They replace the entries of the same name.
    pub topics: Vec<TopicStatus>,
    /// Things that had vanished and are about to be created again, empty: for `DataLost`, which is to be stored together with the rest, as nothing tells
    /// afterwards that the thing was ever gone.
    pub losses: Vec<Loss>,
}

impl Records {
    /// Whether there is nothing to store.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.topics.is_empty() && self.losses.is_empty()
    }
}

/// Something that had vanished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// What it was.
    pub node: Node,
    /// What is missing now and how to get it back.
    pub message: String,
}

/// What became of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Each node, in the order of the specification.
    pub nodes: Vec<NodeOutcome>,
    /// For Kafka: each topic as it is now, for `status.topics`.
    pub topics: Vec<TopicStatus>,
}

impl Applied {
    /// The entries for `status.resources`. What only was looked at has none; what could not be reached keeps the one it has.
    #[must_use]
    pub fn resources(&self) -> Vec<ResourceStatus> {
        self.nodes
            .iter()
            .filter_map(|outcome| {
                let origin = outcome.origin?;
                Some(ResourceStatus { kind: outcome.node.kind, name: outcome.node.name.clone(), origin, server: Some(outcome.server.clone()) })
            })
            .collect()
    }
}
