//! What queries and producers need outside Kubernetes, and how it is said that it is not there.

use tapeline_api::names::SqlName;
use tapeline_api::pipeline::status::ResourceKind;

use crate::external::{NodeState, RefusalReason};
use crate::reason::{Area, Problem, Reason, near_miss};
use crate::reconcile::build::MountedSecret;
use crate::reconcile::dereference::Found;
use crate::reconcile::systems::System;

/// How a kind of store is spoken of.
pub(super) struct Store {
    pub(super) area: Area,
    pub(super) kind: ResourceKind,
    /// Its member of `spec` and of `sink`.
    member: &'static str,
    /// What a query writes to: the member of the sink; with an s, that of the store.
    noun: &'static str,
}

pub(super) const CASSANDRA: Store = Store { area: Area::Cassandra, kind: ResourceKind::CassandraTable, member: "cassandra", noun: "table" };
pub(super) const MYSQL: Store = Store { area: Area::MySql, kind: ResourceKind::MySQLTable, member: "mysql", noun: "table" };
pub(super) const MONGODB: Store = Store { area: Area::MongoDb, kind: ResourceKind::MongoDBCollection, member: "mongodb", noun: "collection" };

/// A table or collection that a query writes to.
pub(super) struct Wanted<'a> {
    pub(super) store: &'static Store,
    pub(super) schema: &'a SqlName,
    pub(super) name: &'a SqlName,
    pub(super) declared: Vec<&'a SqlName>,
    pub(super) query: &'a str,
}

impl Wanted<'_> {
    pub(super) fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    fn field(&self) -> String {
        format!("{}.sink.{}.{}", self.query, self.store.member, self.store.noun)
    }

    pub(super) fn missing(&self) -> Problem {
        let Store { member, noun, .. } = self.store;
        let hint = near_miss(self.name.as_str(), self.declared.iter().map(|name| name.as_str()));
        let message =
            format!("there is no {noun} \"{}\", and the pipeline declares none{hint}; declare it under spec.{member}.{noun}s, or create it", self.full_name());
        Problem::waiting(Area::Workers, Reason::TableMissing, self.field(), message)
    }

    pub(super) fn unfit(&self, why: &str) -> Problem {
        let message = format!("{} \"{}\" {why}; put that right, or name another one", self.store.noun, self.full_name());
        Problem::waiting(Area::Workers, Reason::ResourceConflict, self.field(), message)
    }
}

/// Whether a thing that an item needs is there. One that differs from its declaration, without being of another kind, can be used all the same.
///
/// # Errors
/// What is awaited, in words.
pub(super) fn usable(system: Option<&System>, kind: ResourceKind, name: &str) -> Result<(), String> {
    let Some(system) = system else { return Err(format!("{name} is not declared")) };
    if let Some(problem) = &system.unavailable {
        return Err(problem.to_string());
    }
    let Some(outcome) = system.node(kind, name) else { return Err(format!("the declaration of {name} is not valid")) };
    match &outcome.state {
        NodeState::AsDeclared | NodeState::Changed(_) | NodeState::Recreated(_) => Ok(()),
        NodeState::Refused(refusals)
            if refusals.iter().all(|refusal| matches!(refusal.reason, RefusalReason::WouldLoseData | RefusalReason::ConfigContested)) =>
        {
            Ok(())
        }
        NodeState::Waiting(error) => Err(error.message.clone()),
        NodeState::Missing(message) => Err(message.clone()),
        NodeState::Refused(refusals) => Err(refusals.first().map(|refusal| refusal.message.clone()).unwrap_or_default()),
    }
}

/// The Secret of a store, if it is used with one.
///
/// # Errors
/// What is awaited, in words.
pub(super) fn mounted(found: Option<&Result<Found, Problem>>) -> Result<Option<MountedSecret>, String> {
    match found {
        None => Ok(None),
        Some(Ok(found)) => Ok(Some(found.mounted.clone())),
        Some(Err(problem)) => Err(problem.to_string()),
    }
}
