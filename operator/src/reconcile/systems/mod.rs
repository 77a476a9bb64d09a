//! Step 3 (IO): Kafka, Cassandra, MySQL and MongoDB, side by side. Each is described, planned (pure), recorded in the status and brought to what is declared; one
//! that does not answer is a problem of its own nodes and does not hold up the others.
//!
//! Each system is a file here that says what is asked of it ([`Prepared`]); what is done with that is the same for all of them.

mod cassandra;
mod kafka;
mod mongodb;
mod mysql;
mod problems;

use std::collections::{BTreeMap, BTreeSet};

use tapeline_api::TradingPipelineSpec;
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::status::{ResourceKind, TradingPipelineStatus};

use super::check_query::TableColumn;
use super::dereference::Inputs;
use super::status::losses;
use super::validate::Validated;
use super::{Error, Target};
use crate::context::Scope;
use crate::external::{self, Applied, Clients, ErrorClass, ExternalError, Guard, NodeOutcome, NodeState, Owner, Recorded, Records};
use crate::reason::{Area, Problem};
use problems::{from_error, node_problems};

/// An external call is begun only if the lease lasts this long.
const CALL: std::time::Duration = external::REQUEST_TIMEOUT;

/// What became of each system that the pipeline uses.
#[derive(Debug, Default)]
pub struct Systems(BTreeMap<Area, System>);

/// What became of one system.
#[derive(Debug, Default)]
pub struct System {
    /// Why it was not looked at, if so.
    pub unavailable: Option<Problem>,
    /// What became of its nodes.
    pub applied: Applied,
    /// Problems of reading what it is to be filled with (`rowsFrom`).
    pub inputs: Vec<Problem>,
    /// Tables and collections that queries and producers name and nobody here declares.
    pub looked_up: BTreeMap<SqlName, LookedUp>,
}

/// What stands under a name that nobody here declares.
#[derive(Debug, Clone, PartialEq)]
pub enum LookedUp {
    /// Nothing.
    Missing,
    /// A table with these columns.
    Table(Vec<TableColumn>),
    /// A collection, which takes whatever columns a query gives.
    Collection,
    /// Something that takes no rows of a query: why, behind its name.
    Unfit(String),
}

impl System {
    fn unavailable(problem: Problem) -> Self {
        Self { unavailable: Some(problem), ..Self::default() }
    }

    /// What became of a node.
    #[must_use]
    pub fn node(&self, kind: ResourceKind, name: &str) -> Option<&NodeOutcome> {
        self.applied.nodes.iter().find(|outcome| outcome.node.kind == kind && outcome.node.name == name)
    }

    /// Everything that is wrong with it.
    #[must_use]
    pub fn problems(&self, area: Area) -> Vec<Problem> {
        let nodes = self.applied.nodes.iter().flat_map(|outcome| node_problems(area, outcome));
        let mut problems: Vec<Problem> = self.unavailable.iter().cloned().chain(self.inputs.iter().cloned()).chain(nodes).collect();
        // A server that went away in the middle is one problem, not one for each of its tables.
        let mut seen = BTreeSet::new();
        problems.retain(|problem| seen.insert(problem.clone()));
        problems
    }
}

impl FromIterator<(Area, System)> for Systems {
    fn from_iter<I: IntoIterator<Item = (Area, System)>>(systems: I) -> Self {
        Self(systems.into_iter().collect())
    }
}

impl Systems {
    /// One of them, if the pipeline has it.
    #[must_use]
    pub fn of(&self, area: Area) -> Option<&System> {
        self.0.get(&area)
    }

    /// The systems with their areas.
    pub fn iter(&self) -> impl Iterator<Item = (Area, &System)> {
        self.0.iter().map(|(area, system)| (*area, system))
    }

    /// Itself, unless something was left to the next leader: what is left undone is no state to report, and only the next leader knows what comes of it.
    fn unless_deposed(self) -> Result<Self, Error> {
        let is_deposed = |outcome: &NodeOutcome| matches!(&outcome.state, NodeState::Waiting(error) if error.class == ErrorClass::NotLeader);
        if self.iter().any(|(_, system)| system.applied.nodes.iter().any(is_deposed)) { Err(Error::NotLeader) } else { Ok(self) }
    }
}

/// Brings every system to what is declared, as far as it can be.
///
/// # Errors
/// When the status cannot be written: what is about to be created is recorded first. When the lease runs out meanwhile.
pub async fn bring_up(target: &Target, validated: &Validated, inputs: &Inputs, scope: &Scope) -> Result<Systems, Error> {
    let leadership = scope.shared.leadership.clone();
    let step = Step {
        target,
        validated,
        inputs,
        scope,
        owner: Owner::new(&scope.shared.cluster_id, &target.namespace, &target.name),
        guard: Guard::new(move || leadership.has(CALL)),
        status: scope.shared.statuses.current(target).await,
    };
    let (kafka, cassandra, mysql, mongodb) = tokio::join!(
        step.bring(kafka::prepare(&step)),
        step.bring(cassandra::prepare(&step)),
        step.bring(mysql::prepare(&step)),
        step.bring(mongodb::prepare(&step)),
    );
    // Every pipeline has Kafka, also one whose client cannot be made.
    let kafka = kafka?.or_else(|| Some((Area::Topics, System::default())));
    [kafka, cassandra?, mysql?, mongodb?].into_iter().flatten().collect::<Systems>().unless_deposed()
}

/// Stores what was created, before Deployments are built from it: a worker is told how often its topic was created.
///
/// # Errors
/// When the status cannot be written.
pub async fn remember(target: &Target, systems: &Systems, scope: &Scope) -> Result<(), Error> {
    let change = |status: &mut TradingPipelineStatus| {
        for (_, system) in systems.iter() {
            system.applied.resources().into_iter().for_each(|resource| losses::put_resource(&mut status.resources, resource));
            system.applied.topics.iter().for_each(|topic| losses::put_topic(&mut status.topics, topic.clone()));
        }
        // In the order that the last step keeps, or each would undo the other's.
        status.resources.sort();
        status.topics.sort_by(|left, right| left.name.cmp(&right.name));
    };
    scope.shared.statuses.update(&scope.shared, target, change).await?;
    Ok(())
}

/// A system that the pipeline uses: its client, and what is asked of it.
trait Prepared: Sync {
    /// Whose problems its problems are.
    const AREA: Area;
    /// What is there.
    type Actual: Send + Sync;
    /// What must happen.
    type Plan: Send + Sync;

    /// IO, reads only.
    fn describe(&self) -> impl Future<Output = Result<Self::Actual, ExternalError>> + Send;

    /// Pure.
    fn plan(&self, actual: &Self::Actual, step: &Step<'_>) -> Self::Plan;

    /// What is stored before `plan` is applied.
    fn records(plan: &Self::Plan) -> Records;

    /// IO; each node succeeds or fails by itself.
    fn apply(&self, plan: &Self::Plan, guard: &Guard) -> impl Future<Output = Applied> + Send;

    /// Adds what is to be known beyond what became of the nodes.
    fn complete(&self, _: &Self::Actual, _: &Step<'_>, _: &mut System) {}
}

/// What all systems of a pipeline are brought up with.
struct Step<'a> {
    target: &'a Target,
    validated: &'a Validated,
    inputs: &'a Inputs,
    scope: &'a Scope,
    owner: Owner,
    guard: Guard,
    status: TradingPipelineStatus,
}

impl Step<'_> {
    fn spec(&self) -> &TradingPipelineSpec {
        &self.target.pipeline.spec
    }

    fn clients(&self) -> &Clients {
        &self.scope.shared.external
    }

    fn recorded(&self) -> Recorded<'_> {
        Recorded { topics: &self.status.topics, resources: &self.status.resources }
    }

    /// Describes, plans, records and applies. Before something is created, it is stored that it is about to be: a process that is killed in between is followed by
    /// one that knows.
    async fn bring<P: Prepared>(&self, prepared: Option<Result<P, Problem>>) -> Result<Option<(Area, System)>, Error> {
        let prepared = match prepared {
            None => return Ok(None),
            Some(Err(problem)) => return Ok(Some((P::AREA, System::unavailable(problem)))),
            Some(Ok(prepared)) => prepared,
        };
        let metrics = &self.scope.shared.metrics;
        let actual = match prepared.describe().await {
            Ok(actual) => actual,
            Err(error) => {
                metrics.external_call(P::AREA.system(), false);
                return Ok(Some((P::AREA, System::unavailable(from_error(P::AREA, &error)))));
            }
        };
        let plan = prepared.plan(&actual, self);
        let records = P::records(&plan);
        if !records.is_empty() {
            let generation = self.target.generation;
            let change = |status: &mut TradingPipelineStatus| losses::record(status, records, generation);
            self.scope.shared.statuses.update(&self.scope.shared, self.target, change).await?;
        }
        let applied = prepared.apply(&plan, &self.guard).await;
        let failed = applied.nodes.iter().any(|outcome| matches!(outcome.state, NodeState::Waiting(_)));
        metrics.external_call(P::AREA.system(), !failed);
        let mut system = System { applied, ..System::default() };
        prepared.complete(&actual, self, &mut system);
        Ok(Some((P::AREA, system)))
    }
}

#[cfg(test)]
mod tests {
    use strum::IntoEnumIterator;

    use super::*;
    use crate::external::Node;

    fn error(class: ErrorClass) -> ExternalError {
        ExternalError { class, field: "spec.kafka".into(), message: "no".into() }
    }

    fn system(class: ErrorClass) -> System {
        let node = Node { kind: ResourceKind::Topic, name: "t".into(), field: "spec.kafka.topics[0]".into() };
        let outcome = NodeOutcome { node, state: NodeState::Waiting(error(class)), origin: None, server: String::new() };
        System { applied: Applied { nodes: vec![outcome], topics: Vec::new() }, ..System::default() }
    }

    #[test]
    fn what_was_not_done_since_the_lease_ran_out_is_never_reported() {
        for class in ErrorClass::iter() {
            for area in [Area::Topics, Area::MySql, Area::MongoDb] {
                let outcome = Systems::from_iter([(Area::Cassandra, System::default()), (area, system(class))]).unless_deposed();
                assert_eq!(matches!(outcome, Err(Error::NotLeader)), class == ErrorClass::NotLeader, "{class}");
            }
            assert_eq!(system(class).problems(Area::Topics).len(), 1, "{class} is a problem");
        }
    }
}
