//! Step 6: says what came of it. `health` gathers what stands against the pipeline, `conditions` puts it into words, `writer` writes, only what differs.

pub mod conditions;
mod events;
mod health;
pub mod losses;
mod scheduled;
pub mod writer;

use std::collections::BTreeMap;

use tapeline_api::names::TopicName;
use tapeline_api::pipeline::queries::Target as SinkTarget;
use tapeline_api::pipeline::status::{DashboardStatus, Origin, ProducerStatus, QueryStatus, ResourceKind, Summary};
use tapeline_api::progress::PROGRESS_TOPIC;
use tapeline_api::{TradingPipelineSpec, TradingPipelineStatus};

use super::apply::ItemResult;
use super::build::{Kind, companions};
use super::dereference::Inputs;
use super::systems::Systems;
use super::validate::Validated;
use super::{Error, Target};
use crate::context::Scope;
use crate::reason::{Area, Problem};
use health::{ItemHealth, Outlook};

/// Every condition that a pipeline can have.
pub const CONDITIONS: &[&str] = &[
    "Ready",
    "Reconciling",
    "Stalled",
    "TopicsReady",
    "CassandraReady",
    "MySQLReady",
    "MongoDBReady",
    "WorkersReady",
    "DashboardReady",
    conditions::DEGRADED,
    losses::DATA_LOST,
];

/// Everything that a status is made of.
pub struct Outcome<'a> {
    /// The pipeline.
    pub target: &'a Target,
    /// What is wrong with the specification.
    pub validated: &'a Validated,
    /// What was found.
    pub inputs: &'a Inputs,
    /// What became of the systems.
    pub systems: &'a Systems,
    /// What became of queries, producers and the dashboard.
    pub items: &'a [ItemResult],
    /// Why Deployments of items that are no longer in the specification are still there.
    pub leftover: &'a [Problem],
    /// Whether pods of its queries and producers are still there.
    pub pods_left: bool,
}

/// Writes the status, sends Events for what changed, and says whether to look again soon.
///
/// # Errors
/// When the status cannot be written.
pub async fn update_status(outcome: &Outcome<'_>, scope: &Scope) -> Result<bool, Error> {
    let outlook = health::look(outcome);
    let (target, shared) = (outcome.target, &scope.shared);
    let written = shared.statuses.update(shared, target, |status| set(status, outcome, &outlook)).await?;
    let conditions = match &written {
        Some(written) => written.after.conditions.clone(),
        None => shared.statuses.current(target).await.conditions,
    };
    for condition in &conditions {
        shared.metrics.condition(&target.namespace, &target.name, &condition.type_, &condition.status);
    }
    if let Some(written) = &written {
        events::transitions(target, written, scope).await;
    }
    events::changes(target, outcome.systems, scope).await;
    Ok(outlook.look_soon)
}

/// The areas that a pipeline has conditions for.
fn areas(target: &Target) -> Vec<Area> {
    let spec = &target.pipeline.spec;
    let used = [
        (Area::Topics, true),
        (Area::Cassandra, spec.cassandra.is_some()),
        (Area::MySql, spec.mysql.is_some()),
        (Area::MongoDb, spec.mongodb.is_some()),
        (Area::Workers, !spec.queries.is_empty() || !spec.producers.is_empty()),
        (Area::Dashboard, spec.dashboard.is_some()),
    ];
    used.into_iter().filter(|(_, used)| *used).map(|(area, _)| area).collect()
}

/// Sets everything but the numbers, which are the observer's.
fn set(status: &mut TradingPipelineStatus, outcome: &Outcome<'_>, outlook: &Outlook) {
    let generation = outcome.target.generation;
    status.observed_generation = Some(generation);
    let said = conditions::conditions(&outlook.health, &areas(outcome.target));
    let mut all = conditions::with_times(said, &status.conditions, generation);
    let lost = status.conditions.iter().find(|condition| condition.type_ == losses::DATA_LOST);
    let acknowledged = outcome.target.pipeline.metadata.annotations.as_ref().and_then(|annotations| annotations.get(losses::ACKNOWLEDGE));
    all.extend(losses::condition(lost, acknowledged.map(String::as_str), generation));
    status.conditions = all;
    status.summary = Some(summary(outcome));
    resources(status, outcome);
    topics(status, outcome);
    queries(status, outcome, &outlook.items);
    producers(status, outcome, &outlook.items);
    dashboard(status, outcome, &outlook.items);
}

fn queries(status: &mut TradingPipelineStatus, outcome: &Outcome<'_>, items: &[ItemHealth]) {
    let known: BTreeMap<_, _> = status.queries.drain(..).map(|query| (query.name.clone(), query)).collect();
    let ours = outcome.items.iter().zip(items).filter(|(result, _)| result.plan.kind == Kind::Query);
    status.queries = ours
        .map(|(result, item)| {
            let numbers = known.get(&result.plan.name);
            QueryStatus {
                name: result.plan.name.clone(),
                state: item.state,
                message: item.message.clone(),
                replicas: item.replicas,
                ready_replicas: item.ready_replicas,
                lag: numbers.and_then(|query| query.lag),
                behind_seconds: numbers.and_then(|query| query.behind_seconds),
                rows_per_second: numbers.and_then(|query| query.rows_per_second),
                bad_records: numbers.and_then(|query| query.bad_records),
            }
        })
        .collect();
    if status.queries.iter().all(|query| query.lag.is_none()) {
        (status.lag, status.behind_seconds, status.rows_per_second) = (None, None, None);
    }
}

fn producers(status: &mut TradingPipelineStatus, outcome: &Outcome<'_>, items: &[ItemHealth]) {
    let known: BTreeMap<_, _> = status.producers.drain(..).map(|producer| (producer.name.clone(), producer)).collect();
    let ours = outcome.items.iter().zip(items).filter(|(result, _)| result.plan.kind == Kind::Producer);
    status.producers = ours
        .map(|(result, item)| ProducerStatus {
            name: result.plan.name.clone(),
            state: item.state,
            message: item.message.clone(),
            messages: known.get(&result.plan.name).and_then(|producer| producer.messages),
            last_run: scheduled::last_run(outcome, result, known.get(&result.plan.name)),
        })
        .collect();
}

/// One that is taken out of the specification is remembered until nothing of it is left: what stands beside its Deployment is found by this.
fn dashboard(status: &mut TradingPipelineStatus, outcome: &Outcome<'_>, items: &[ItemHealth]) {
    let target = outcome.target;
    if let Some((_, item)) = outcome.items.iter().zip(items).find(|(result, _)| result.plan.kind == Kind::Dashboard) {
        let service = format!("{}.{}", companions::name(&target.name), target.namespace);
        status.dashboard = Some(DashboardStatus { state: item.state, message: item.message.clone(), service });
    } else if outcome.leftover.iter().all(|problem| problem.field != Kind::Dashboard.field()) {
        status.dashboard = None;
    }
}

/// What was created or found; what is no longer asked for is Released, never deleted.
fn resources(status: &mut TradingPipelineStatus, outcome: &Outcome<'_>) {
    let asked: Vec<(ResourceKind, String)> = asked(outcome.target);
    for (_, system) in outcome.systems.iter() {
        for resource in system.applied.resources() {
            losses::put_resource(&mut status.resources, resource);
        }
    }
    for resource in &mut status.resources {
        if !asked.contains(&(resource.kind, resource.name.clone())) {
            resource.origin = Origin::Released;
        }
    }
    status.resources.sort();
}

/// Everything outside Kubernetes that the specification names.
fn asked(target: &Target) -> Vec<(ResourceKind, String)> {
    let spec = &target.pipeline.spec;
    let mut asked: Vec<(ResourceKind, String)> = Vec::new();
    let dead_letters = spec.streams.iter().filter_map(|stream| stream.dead_letter_topic.as_ref());
    asked.extend(spec.kafka.topics.iter().map(|topic| &topic.name).chain(dead_letters).map(|name| (ResourceKind::Topic, name.to_string())));
    if let Some(cassandra) = &spec.cassandra {
        let keyspace = &cassandra.keyspace;
        asked.push((ResourceKind::CassandraKeyspace, keyspace.to_string()));
        asked.extend(cassandra.tables.iter().map(|table| (ResourceKind::CassandraTable, format!("{keyspace}.{}", table.name))));
    }
    if let Some(mysql) = &spec.mysql {
        let database = &mysql.database;
        asked.push((ResourceKind::MySQLDatabase, database.to_string()));
        asked.extend(mysql.tables.iter().map(|table| (ResourceKind::MySQLTable, format!("{database}.{}", table.name))));
        asked.extend(mysql.views.iter().map(|view| (ResourceKind::MySQLView, format!("{database}.{}", view.name))));
    }
    if let Some(mongodb) = &spec.mongodb {
        let database = &mongodb.database;
        asked.push((ResourceKind::MongoDBDatabase, database.to_string()));
        asked.extend(mongodb.collections.iter().map(|collection| (ResourceKind::MongoDBCollection, format!("{database}.{}", collection.name))));
    }
    if published(spec).next().is_some() {
        asked.push((ResourceKind::Topic, PROGRESS_TOPIC.to_owned()));
    }
    asked
}

/// The topics that queries publish to.
fn published(spec: &TradingPipelineSpec) -> impl Iterator<Item = &TopicName> {
    spec.queries.iter().filter_map(|query| match query.sink.target() {
        Some(SinkTarget::Kafka(sink)) => Some(&sink.topic),
        _ => None,
    })
}

fn topics(status: &mut TradingPipelineStatus, outcome: &Outcome<'_>) {
    let spec = &outcome.target.pipeline.spec;
    for topic in outcome.systems.of(Area::Topics).into_iter().flat_map(|kafka| kafka.applied.topics.clone()) {
        losses::put_topic(&mut status.topics, topic);
    }
    let streams = spec.streams.iter().flat_map(|stream| stream.dead_letter_topic.iter().chain([&stream.topic]));
    let written = published(spec).chain(spec.producers.iter().flat_map(|producer| producer.topics().map(|(_, topic)| topic)));
    let named: Vec<_> = spec.kafka.topics.iter().map(|topic| &topic.name).chain(streams).chain(written).collect();
    let has_progress = published(spec).next().is_some();
    losses::forget_topics(&mut status.topics, |name| named.contains(&name) || (has_progress && name.as_str() == PROGRESS_TOPIC));
    status.topics.sort_by(|left, right| left.name.cmp(&right.name));
}

fn summary(outcome: &Outcome<'_>) -> Summary {
    let spec = &outcome.target.pipeline.spec;
    let good = |area: Area, kinds: &[ResourceKind], declared: &dyn Fn(&str) -> bool| {
        let nodes = outcome.systems.of(area).into_iter().flat_map(|system| &system.applied.nodes);
        nodes.filter(|outcome| kinds.contains(&outcome.node.kind) && outcome.state.is_as_declared() && declared(&outcome.node.name)).count()
    };
    let topics = good(Area::Topics, &[ResourceKind::Topic], &|name| spec.kafka.topics.iter().any(|topic| topic.name.as_str() == name));
    let cassandra = good(Area::Cassandra, &[ResourceKind::CassandraTable], &|_| true);
    let mysql = good(Area::MySql, &[ResourceKind::MySQLTable, ResourceKind::MySQLView], &|_| true);
    let mongodb = good(Area::MongoDb, &[ResourceKind::MongoDBCollection], &|_| true);
    let tables = spec.cassandra.as_ref().map_or(0, |cassandra| cassandra.tables.len());
    let tables = tables + spec.mysql.as_ref().map_or(0, |mysql| mysql.tables.len() + mysql.views.len());
    let tables = tables + spec.mongodb.as_ref().map_or(0, |mongodb| mongodb.collections.len());
    let (mut ready, mut wanted) = (0, 0);
    for result in outcome.items.iter().filter(|result| result.plan.kind != Kind::Dashboard) {
        let (replicas, ready_replicas) = health::replicas(outcome.target, result);
        ready += ready_replicas.unwrap_or(0);
        wanted += replicas.unwrap_or(0);
    }
    Summary {
        topics: format!("{topics}/{}", spec.kafka.topics.len()),
        tables: format!("{}/{tables}", cassandra + mysql + mongodb),
        workers: format!("{ready}/{wanted}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus};

    use tapeline_api::pipeline::status::ItemState;
    use tapeline_api::report::{Problem as ReportedProblem, ProblemClass};

    use super::*;
    use crate::observer::reports::{ItemView, PodsState};
    use crate::reason::Reason;
    use crate::reconcile::build::{Workload, resources};
    use crate::reconcile::plan::{ItemPlan, Step};
    use crate::reconcile::validate::tests::{good, pipeline};

    /// A query that asks for two pods, has been rolled out, and has `ready` pods.
    fn query(ready: i32) -> ItemResult {
        let name: tapeline_api::names::ItemName = "raw".parse().unwrap();
        let workload = Workload {
            kind: Kind::Query,
            name: name.clone(),
            settings: String::new(),
            image: String::new(),
            image_pull_policy: None,
            credentials: Vec::new(),
            data: None,
            resources: resources(None, None),
            replicas: 2,
            exclusive: String::new(),
            schedule: None,
        };
        let complete = DeploymentCondition { type_: "Progressing".into(), reason: Some("NewReplicaSetAvailable".into()), ..DeploymentCondition::default() };
        let live = Deployment {
            spec: Some(DeploymentSpec { replicas: Some(2), ..DeploymentSpec::default() }),
            status: Some(DeploymentStatus {
                replicas: Some(2),
                updated_replicas: Some(2),
                ready_replicas: Some(ready),
                conditions: Some(vec![complete]),
                ..DeploymentStatus::default()
            }),
            ..Deployment::default()
        };
        let step = Step::Run(Box::new(workload));
        let plan = ItemPlan { kind: Kind::Query, name, field: "spec.queries[0]".into(), step, problems: Vec::new(), invalid: None };
        ItemResult { plan, live: Some(Arc::new(live)), cron_job: None, failed: None }
    }

    /// The dashboard, whose pod is ready or not.
    fn dashboard(ready: i32) -> ItemResult {
        let mut result = query(ready);
        (result.plan.kind, result.plan.name) = (Kind::Dashboard, tapeline_api::pipeline::dashboard::item_name());
        result.plan.field = Kind::Dashboard.field().to_owned();
        result
    }

    /// What `of` makes of the good pipeline with such items.
    fn with_outcome<T>(items: &[ItemResult], leftover: &[Problem], of: impl FnOnce(&Outcome<'_>) -> T) -> T {
        let target = Target::of(&pipeline(good())).unwrap();
        let (validated, inputs, systems) = (Validated::default(), Inputs::default(), Systems::default());
        of(&Outcome { target: &target, validated: &validated, inputs: &inputs, systems: &systems, items, leftover, pods_left: true })
    }

    fn said(items: &[ItemResult], leftover: &[Problem]) -> Vec<(conditions::Is, Reason)> {
        with_outcome(items, leftover, |outcome| {
            conditions::conditions(&health::look(outcome).health, &[]).into_iter().map(|said| (said.is, said.reason)).collect()
        })
    }

    /// The table of rule 6.
    #[test]
    fn one_pod_of_several_that_restarts_is_no_trouble() {
        let settled = (conditions::Is::False, Reason::Settled);
        let calm = [(conditions::Is::True, Reason::Ready), settled, (conditions::Is::False, Reason::NotStalled), settled];
        assert_eq!(said(&[query(2)], &[]), calm);
        assert_eq!(said(&[query(1)], &[]), calm);
        assert_eq!(said(&[query(0)], &[])[0], (conditions::Is::False, Reason::WorkersNotReady));
    }

    /// What pods say comes by itself when they say something else.
    #[test]
    fn what_only_the_pods_can_heal_is_not_looked_at_again_soon() {
        let target = Target::of(&pipeline(good())).unwrap();
        let (validated, systems, items) = (Validated::default(), Systems::default(), [query(2)]);
        let problem = |class| ReportedProblem { class, message: "no broker answers".into(), partition: None, offset: None };
        let mut inputs = Inputs::default();
        let view = ItemView { state: Some(PodsState::Waiting), problem: Some(problem(ProblemClass::KafkaUnreachable)), ..ItemView::default() };
        inputs.reports.insert((Kind::Query, items[0].plan.name.clone()), view);
        let refused = [Problem::waiting(Area::Workers, Reason::KubernetesRefused, "spec.queries", "a webhook")];
        let look = |leftover| {
            health::look(&Outcome { target: &target, validated: &validated, inputs: &inputs, systems: &systems, items: &items, leftover, pods_left: true })
        };
        assert_eq!(look(&[]).health.problems.iter().map(|problem| problem.reason).collect::<Vec<_>>(), [Reason::KafkaUnreachable]);
        assert!(!look(&[]).look_soon);
        assert!(look(&refused).look_soon);
    }

    #[test]
    fn a_deployment_that_cannot_be_deleted_is_said() {
        let refused = Problem::waiting(Area::Workers, Reason::KubernetesRefused, "spec.queries", "a webhook");
        assert_eq!(said(&[query(2)], &[refused])[..2], [(conditions::Is::False, Reason::KubernetesRefused), (conditions::Is::True, Reason::KubernetesRefused)]);
    }

    /// The status that comes of it where `before` was the last one.
    fn status(mut before: TradingPipelineStatus, items: &[ItemResult], leftover: &[Problem]) -> TradingPipelineStatus {
        with_outcome(items, leftover, |outcome| set(&mut before, outcome, &health::look(outcome)));
        before
    }

    #[test]
    fn a_dashboard_that_does_not_start_is_the_pipelines_trouble_and_nobody_elses() {
        let state = |status: &TradingPipelineStatus| status.dashboard.as_ref().map(|dashboard| (dashboard.state, dashboard.service.clone()));
        let service = "stock-volume-dashboard.demo".to_owned();
        let good = status(TradingPipelineStatus::default(), &[query(2), dashboard(1)], &[]);
        assert_eq!(state(&good), Some((ItemState::Running, service.clone())));
        let bad = status(good.clone(), &[query(2), dashboard(0)], &[]);
        assert_eq!(state(&bad), Some((ItemState::Pending, service)));
        assert_eq!((&bad.queries, bad.summary.as_ref().map(|summary| summary.workers.as_str())), (&good.queries, Some("2/1")), "no word of the workers");
        let condition = |type_: &str| {
            let condition = bad.conditions.iter().find(|condition| condition.type_ == type_);
            condition.map(|condition| (condition.status.as_str(), condition.message.as_str()))
        };
        assert_eq!(condition("WorkersReady"), Some(("True", "")));
        assert_eq!(condition("DashboardReady"), Some(("False", "spec.dashboard: no pod is ready; see kubectl describe pod")));
    }

    #[test]
    fn a_dashboard_is_forgotten_when_nothing_of_it_is_left() {
        let known = status(TradingPipelineStatus::default(), &[query(2), dashboard(1)], &[]);
        let refused = Problem::waiting(Area::Dashboard, Reason::KubernetesRefused, "spec.dashboard", "a webhook");
        assert_eq!(status(known.clone(), &[query(2)], &[refused]).dashboard, known.dashboard, "it leads to what is left");
        assert_eq!(status(known, &[query(2)], &[]).dashboard, None);
    }
}
