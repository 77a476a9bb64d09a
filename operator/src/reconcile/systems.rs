//! Step 3 (IO): Kafka, Cassandra and MySQL, side by side. Each is described, planned (pure), recorded in the status and brought to what is declared; one
//! that does not answer is a problem of its own nodes and does not hold up the others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use tapeline_api::names::{SqlName, TopicName};
use tapeline_api::pipeline::status::{Origin, ResourceKind, TradingPipelineStatus};
use tapeline_api::{TradingPipeline, TradingPipelineSpec};

use super::check_query::TableColumn;
use super::dereference::Inputs;
use super::status::losses;
use super::validate::Validated;
use super::{Error, Target, lookup};
use crate::context::{Guarded, Scope};
use crate::external::{
    self, Applied, ErrorClass, ExternalError, Guard, NodeOutcome, NodeState, Owner, Recorded, Records, RefusalReason, cassandra, kafka, mysql,
};
use crate::reason::{Area, Cure, Problem, Reason};

/// An external call is begun only if the lease lasts this long.
const CALL: Duration = external::REQUEST_TIMEOUT;

/// What became of each system that the pipeline uses.
#[derive(Debug, Default)]
pub struct Systems {
    /// Kafka.
    pub kafka: System,
    /// Cassandra, if the pipeline has one.
    pub cassandra: Option<System>,
    /// MySQL, if the pipeline has one.
    pub mysql: Option<System>,
}

/// What became of one system.
#[derive(Debug, Default)]
pub struct System {
    /// Why it was not looked at, if so.
    pub unavailable: Option<Problem>,
    /// What became of its nodes.
    pub applied: Applied,
    /// Problems of reading what it is to be filled with (`rowsFrom`).
    pub inputs: Vec<Problem>,
    /// Tables that queries and producers name and nobody here declares: their columns, or none if they are not there.
    pub looked_up: BTreeMap<SqlName, Option<Vec<TableColumn>>>,
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
        let mut seen = std::collections::BTreeSet::new();
        problems.retain(|problem| seen.insert(problem.clone()));
        problems
    }
}

impl Systems {
    /// The systems with their areas.
    pub fn iter(&self) -> impl Iterator<Item = (Area, &System)> {
        let cassandra = self.cassandra.iter().map(|system| (Area::Cassandra, system));
        let mysql = self.mysql.iter().map(|system| (Area::MySql, system));
        std::iter::once((Area::Topics, &self.kafka)).chain(cassandra).chain(mysql)
    }

    /// Itself, unless something was left to the next leader: what is left undone is no state to report, and only the next leader knows what comes of it.
    fn unless_deposed(self) -> Result<Self, Error> {
        let is_deposed = |outcome: &NodeOutcome| matches!(&outcome.state, NodeState::Waiting(error) if error.class == ErrorClass::NotLeader);
        if self.iter().any(|(_, system)| system.applied.nodes.iter().any(is_deposed)) { Err(Error::NotLeader) } else { Ok(self) }
    }
}

/// What stands against a node.
#[must_use]
pub fn node_problems(area: Area, outcome: &NodeOutcome) -> Vec<Problem> {
    match &outcome.state {
        NodeState::AsDeclared | NodeState::Changed(_) | NodeState::Recreated(_) => Vec::new(),
        NodeState::Waiting(error) => vec![from_error(area, error)],
        NodeState::Missing(message) => {
            let reason = if outcome.node.kind == ResourceKind::Topic { Reason::TopicMissing } else { Reason::TableMissing };
            vec![Problem::waiting(area, reason, outcome.node.field.clone(), message.clone())]
        }
        NodeState::Refused(refusals) => refusals
            .iter()
            .map(|refusal| {
                let (reason, cure) = match refusal.reason {
                    RefusalReason::WouldLoseData => (Reason::WouldLoseData, Cure::Change),
                    RefusalReason::ResourceConflict | RefusalReason::Incompatible => (Reason::ResourceConflict, Cure::Change),
                    RefusalReason::InvalidSpec => (Reason::InvalidSpec, Cure::Change),
                    RefusalReason::BadRows => (Reason::OperationFailed, Cure::Waiting),
                    RefusalReason::ConfigContested => (Reason::ConfigContested, Cure::Waiting),
                };
                Problem { area, reason, cure, field: refusal.field.clone(), message: refusal.message.clone() }
            })
            .collect(),
    }
}

fn from_error(area: Area, error: &ExternalError) -> Problem {
    let (reason, cure) = match error.class {
        ErrorClass::Unreachable => (area.unreachable(), Cure::Waiting),
        ErrorClass::Denied => (Reason::AccessDenied, Cure::Waiting),
        // A reconcile that is no longer the leader's ends before its problems are told.
        ErrorClass::Failed | ErrorClass::NotLeader => (Reason::OperationFailed, Cure::Waiting),
        ErrorClass::Invalid => (Reason::InvalidSpec, Cure::Change),
    };
    Problem { area, reason, cure, field: error.field.clone(), message: error.message.clone() }
}

/// Brings every system to what is declared, as far as it can be.
///
/// # Errors
/// When the status cannot be written: what is about to be created is recorded first. When the lease runs out meanwhile.
pub async fn bring_up(target: &Target, validated: &Validated, inputs: &Inputs, scope: &Scope) -> Result<Systems, Error> {
    let leadership = scope.shared.leadership.clone();
    let step = Step {
        target,
        scope,
        owner: Owner::new(&scope.shared.cluster_id, &target.namespace, &target.name),
        guard: Guard::new(move || leadership.has(CALL)),
        status: scope.shared.statuses.current(target).await,
    };
    let spec = &target.pipeline.spec;
    let (kafka, cassandra, mysql) = tokio::join!(step.kafka(spec, validated), step.cassandra(spec, validated, inputs), step.mysql(spec, validated, inputs));
    Systems { kafka: kafka?, cassandra: cassandra?, mysql: mysql? }.unless_deposed()
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

struct Step<'a> {
    target: &'a Target,
    scope: &'a Scope,
    owner: Owner,
    guard: Guard,
    status: TradingPipelineStatus,
}

impl Step<'_> {
    async fn kafka(&self, spec: &TradingPipelineSpec, validated: &Validated) -> Result<System, Error> {
        if !validated.kafka_is_valid {
            // The problem itself is among those of the specification.
            return Ok(System::default());
        }
        let client = self.scope.shared.external.kafka(kafka::Endpoint::of(&spec.kafka));
        let mut desired = kafka::Desired::of(spec);
        desired.topics.retain(|topic| !validated.bad_topics.contains(&topic.name));
        let actual = match client.describe(&desired).await {
            Ok(actual) => actual,
            Err(error) => return Ok(self.unreachable(Area::Topics, &error)),
        };
        self.leave_to_others(&mut desired, &actual.cluster_id);
        let plan = kafka::plan(&desired, &actual, self.recorded(), &self.owner, &client.contested(&actual, &self.owner));
        self.carry_out(Area::Topics, plan.records(), || client.apply(&plan, &self.guard)).await
    }

    /// A topic has no place for its owner, as a table has: of several pipelines that declare one, the oldest manages it.
    fn leave_to_others(&self, desired: &mut kafka::Desired, cluster_id: &str) {
        let others = self.scope.pipelines.state();
        for topic in desired.topics.iter_mut().filter(|topic| matches!(topic.role, kafka::Role::Managed { .. })) {
            if let Some(by) = manager(&others, &self.target.pipeline, &topic.name, cluster_id) {
                topic.role = kafka::Role::Taken { by };
            }
        }
    }

    async fn cassandra(&self, spec: &TradingPipelineSpec, validated: &Validated, inputs: &Inputs) -> Result<Option<System>, Error> {
        let Some(cassandra) = &spec.cassandra else { return Ok(None) };
        let credentials = match &inputs.cassandra {
            None => None,
            Some(Ok(found)) => Some(found.credentials.clone()),
            Some(Err(problem)) => return Ok(Some(System::unavailable(problem.clone()))),
        };
        let client = self.scope.shared.external.cassandra(cassandra::Endpoint::of(cassandra, credentials));
        let mut desired = cassandra::Desired::of(cassandra);
        desired.tables.retain(|table| !validated.bad_cassandra_tables.contains(&table.table.name));
        let looked_up = lookup::cassandra(spec);
        let actual = match client.describe(&lookup::with_cassandra(&desired, &looked_up)).await {
            Ok(actual) => actual,
            Err(error) => return Ok(Some(self.unreachable(Area::Cassandra, &error))),
        };
        let plan = cassandra::plan(&desired, &actual, self.recorded(), &self.owner);
        let mut system = self.carry_out(Area::Cassandra, plan.records(), || client.apply(&plan, &self.guard)).await?;
        system.looked_up = looked_up.into_iter().map(|name| (name.clone(), lookup::cassandra_columns(&actual, &name))).collect();
        Ok(Some(system))
    }

    async fn mysql(&self, spec: &TradingPipelineSpec, validated: &Validated, inputs: &Inputs) -> Result<Option<System>, Error> {
        let Some(mysql) = &spec.mysql else { return Ok(None) };
        let credentials = match inputs.mysql_admin.as_ref().or(inputs.mysql.as_ref()) {
            Some(Ok(found)) => found.credentials.clone(),
            Some(Err(problem)) => return Ok(Some(System::unavailable(problem.clone()))),
            None => return Ok(None),
        };
        let client = self.scope.shared.external.mysql(mysql::Endpoint::of(mysql, credentials));
        let rows: BTreeMap<SqlName, Arc<str>> = inputs.rows.iter().filter_map(|(table, rows)| Some((table.clone(), Arc::clone(rows.as_ref().ok()?)))).collect();
        let mut desired = mysql::Desired::of(mysql, &rows);
        desired.tables.retain(|table| !validated.bad_mysql_tables.contains(&table.table.name));
        desired.views.retain(|view| !validated.bad_mysql_views.contains(&view.view.name));
        let looked_up = lookup::mysql(spec);
        let actual = match client.describe(&lookup::with_mysql(&desired, &looked_up)).await {
            Ok(actual) => actual,
            Err(error) => return Ok(Some(self.unreachable(Area::MySql, &error))),
        };
        let plan = mysql::plan(&desired, &actual, self.recorded(), &self.owner);
        let mut system = self.carry_out(Area::MySql, plan.records(), || client.apply(&plan, &self.guard)).await?;
        system.looked_up = looked_up.into_iter().map(|name| (name.clone(), lookup::mysql_columns(&actual, &name))).collect();
        system.inputs = inputs.rows.values().filter_map(|rows| rows.as_ref().err().cloned()).collect();
        Ok(Some(system))
    }

    fn recorded(&self) -> Recorded<'_> {
        Recorded { topics: &self.status.topics, resources: &self.status.resources }
    }

    /// Stores `records`, and then applies the plan that they are of. Before something is created, it is stored that it is about to be: a process that is killed
    /// in between is followed by one that knows.
    async fn carry_out<F: Future<Output = Applied>>(&self, area: Area, records: Records, apply: impl FnOnce() -> F) -> Result<System, Error> {
        if !records.is_empty() {
            let generation = self.target.generation;
            let change = |status: &mut TradingPipelineStatus| losses::record(status, records, generation);
            self.scope.shared.statuses.update(&self.scope.shared, self.target, change).await?;
        }
        let applied = apply().await;
        let failed = applied.nodes.iter().any(|outcome| matches!(outcome.state, NodeState::Waiting(_)));
        self.scope.shared.metrics.external_call(area.system(), !failed);
        Ok(System { applied, ..System::default() })
    }

    fn unreachable(&self, area: Area, error: &ExternalError) -> System {
        self.scope.shared.metrics.external_call(area.system(), false);
        System::unavailable(from_error(area, error))
    }
}

/// The oldest of the pipelines before `pipeline` that manage a topic of a Kafka cluster: it declares the topic, and its status says that it has it there.
fn manager(others: &[Arc<Guarded>], pipeline: &TradingPipeline, topic: &TopicName, cluster_id: &str) -> Option<String> {
    let age = |pipeline: &TradingPipeline| (pipeline.metadata.creation_timestamp.as_ref().map(|time| time.0), pipeline.metadata.uid.clone());
    let manages = |other: &TradingPipeline| {
        let declares = other.spec.kafka.topics.iter().any(|declared| declared.managed && declared.name == *topic);
        let mut resources = other.status.iter().flat_map(|status| &status.resources);
        declares
            && resources.any(|resource| {
                resource.kind == ResourceKind::Topic
                    && resource.name == topic.as_str()
                    && resource.origin != Origin::Released
                    && resource.server.as_deref() == Some(cluster_id)
            })
    };
    let older = others.iter().filter_map(|other| other.0.as_ref().ok()).filter(|other| age(other) < age(pipeline));
    let oldest = older.filter(|other| other.metadata.deletion_timestamp.is_none() && manages(other)).min_by_key(|other| age(other))?;
    Some(format!("{}/{}", oldest.namespace().unwrap_or_default(), oldest.name_any()))
}

#[cfg(test)]
mod tests {
    use kube::core::DeserializeGuard;
    use rstest::rstest;
    use strum::IntoEnumIterator;
    use tapeline_api::pipeline::status::ResourceStatus;

    use super::*;
    use crate::external::Node;
    use crate::reconcile::validate::tests::{good, pipeline};

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
            let kafka = Systems { kafka: system(class), ..Systems::default() }.unless_deposed();
            let mysql = Systems { mysql: Some(system(class)), ..Systems::default() }.unless_deposed();
            let deposed = class == ErrorClass::NotLeader;
            assert!(matches!(&kafka, Err(Error::NotLeader)) == deposed && matches!(&mysql, Err(Error::NotLeader)) == deposed, "{class}");
            assert_eq!(system(class).problems(Area::Topics).len(), 1, "{class} is a problem");
        }
    }

    /// A pipeline of this age that declares topic `test_topic`, and says that it has it on Kafka cluster `c`.
    fn declaring(name: &str, day: u32) -> TradingPipeline {
        let mut pipeline = pipeline(good());
        pipeline.metadata.name = Some(name.to_owned());
        pipeline.metadata.uid = Some(name.to_owned());
        pipeline.metadata.creation_timestamp = serde_json::from_value(format!("2026-01-0{day}T00:00:00Z").into()).unwrap();
        let resource = ResourceStatus { kind: ResourceKind::Topic, name: "test_topic".into(), origin: Origin::Adopted, server: Some("c".into()) };
        pipeline.status = Some(TradingPipelineStatus { resources: vec![resource], ..TradingPipelineStatus::default() });
        pipeline
    }

    #[rstest]
    #[case::older(1, |_: &mut TradingPipeline| (), Some("demo/other"))]
    #[case::younger(3, |_: &mut TradingPipeline| (), None)]
    #[case::as_old_and_before_it_by_uid(2, |_: &mut TradingPipeline| (), Some("demo/other"))]
    #[case::only_reads_it(1, |other: &mut TradingPipeline| other.spec.kafka.topics[0].managed = false, None)]
    #[case::has_not_got_it_yet(1, |other: &mut TradingPipeline| other.status = None, None)]
    #[case::on_another_cluster(1, |other: &mut TradingPipeline| other.status.as_mut().unwrap().resources[0].server = Some("d".into()), None)]
    #[case::gave_it_back(1, |other: &mut TradingPipeline| other.status.as_mut().unwrap().resources[0].origin = Origin::Released, None)]
    #[case::goes(1, |other: &mut TradingPipeline| other.metadata.deletion_timestamp = other.metadata.creation_timestamp.clone(), None)]
    fn of_two_pipelines_that_declare_a_topic_the_older_manages_it(#[case] day: u32, #[case] differ: fn(&mut TradingPipeline), #[case] by: Option<&str>) {
        let (mut other, this) = (declaring("other", day), declaring("this", 2));
        differ(&mut other);
        let all = [Arc::new(DeserializeGuard(Ok(this.clone()))), Arc::new(DeserializeGuard(Ok(other)))];
        assert_eq!(manager(&all, &this, &"test_topic".parse().unwrap(), "c").as_deref(), by);
    }
}
