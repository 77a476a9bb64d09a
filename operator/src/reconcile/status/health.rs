//! What stands against a pipeline: the problems of its specification, of the systems, and of each query, producer and dashboard. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment;
use tapeline_api::TradingPipelineSpec;
use tapeline_api::pipeline::queries::Target as SinkTarget;
use tapeline_api::pipeline::status::ItemState;
use tapeline_api::report::ProblemClass;

use super::conditions::Health;
use super::{Outcome, scheduled};
use crate::observer::reports::{ItemView, PodsState};
use crate::reason::{Area, Cure, Problem, Reason};
use crate::reconcile::Target;
use crate::reconcile::apply::ItemResult;
use crate::reconcile::build::Kind;
use crate::reconcile::build::deployment::is_rolled_out;
use crate::reconcile::plan::Step;

/// A query, a producer or the dashboard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ItemHealth {
    /// In one word.
    pub(super) state: ItemState,
    /// What is wrong; empty when nothing is.
    pub(super) message: String,
    /// Pods asked for.
    pub(super) replicas: Option<i32>,
    /// Pods that are ready.
    pub(super) ready_replicas: Option<i32>,
}

/// The pipeline and its items, in the order of the results.
#[derive(Debug)]
pub(super) struct Outlook {
    /// The pipeline.
    pub(super) health: Health,
    /// Its items.
    pub(super) items: Vec<ItemHealth>,
    /// Whether something may heal that no watch tells of. What the pods say is told as soon as they say otherwise.
    pub(super) look_soon: bool,
}

/// What stands against one item.
#[derive(Debug, Default)]
struct Findings {
    problems: Vec<Problem>,
    /// What its pods themselves say is wrong.
    said: Option<Problem>,
    /// What looks wrong, though it runs.
    notices: Vec<Problem>,
    unread: Option<Problem>,
}

/// Gathers everything.
#[must_use]
pub(super) fn look(outcome: &Outcome<'_>) -> Outlook {
    let mut problems = outcome.validated.problems.clone();
    problems.extend_from_slice(outcome.leftover);
    for (area, system) in outcome.systems.iter() {
        problems.extend(system.problems(area));
    }
    // The workers' own Secret, where the operator connects with another.
    if outcome.inputs.mysql_admin.is_some() {
        problems.extend(outcome.inputs.mysql.as_ref().and_then(|found| found.as_ref().err()).cloned());
    }
    let mut health = Health { problems: Vec::new(), notices: Vec::new(), unread: None, suspended: outcome.target.pipeline.spec.suspend };
    let (mut items, mut said) = (Vec::new(), Vec::new());
    for result in outcome.items {
        let view = outcome.inputs.reports.get(&(result.plan.kind, result.plan.name.clone())).cloned().unwrap_or_default();
        let findings = findings(outcome, result, &view);
        items.push(item(outcome, result, &view, &findings));
        problems.extend(findings.problems);
        said.extend(findings.said);
        health.notices.extend(findings.notices);
        health.unread = health.unread.or(findings.unread);
    }
    if health.suspended && outcome.pods_left {
        problems.push(Problem::progress(Area::Workers, Reason::Progressing, "spec.suspend", "pods are finishing their last micro-batches"));
    }
    // That a run failed is told by its Job.
    let look_soon =
        problems.iter().any(|problem| problem.cure == Cure::Waiting && problem.reason != Reason::ProducerFailed) || scheduled::awaits_a_pod(outcome);
    problems.extend(said);
    let mut seen = BTreeSet::new();
    problems.retain(|problem| seen.insert(problem.clone()));
    problems.sort_by_key(|problem| (problem.cure, problem.reason));
    health.problems = problems;
    Outlook { health, items, look_soon }
}

fn findings(outcome: &Outcome<'_>, result: &ItemResult, view: &ItemView) -> Findings {
    let mut findings = Findings { problems: result.plan.problems.clone(), ..Findings::default() };
    findings.problems.extend(result.failed.clone());
    let Step::Run(workload) = &result.plan.step else { return findings };
    let (field, area) = (result.plan.field.clone(), result.plan.kind.area());
    if result.failed.is_some() {
        return findings;
    }
    let said = reported(&outcome.target.pipeline.spec, result, view);
    match result.live.as_deref() {
        _ if let Some(timed) = &workload.schedule => findings.problems.extend(scheduled::problems(outcome, result, workload, timed)),
        None => findings.problems.push(Problem::progress(area, Reason::Progressing, field.clone(), "its pods are being created")),
        // A pod that says why it failed is not ready; that it is not ready says nothing more.
        Some(_) if said.is_some() && view.state == Some(PodsState::Failed) => {}
        Some(live) => rollout(outcome, result, live, workload.replicas, &mut findings),
    }
    findings.said = said;
    findings.notices.extend(view.notices.iter().map(|notice| Problem::waiting(area, notice.kind.into(), field.clone(), notice.message.clone())));
    if view.unreachable {
        let message = "its pods are ready, but their status cannot be read; allow the operator's pods to reach port 8080 of the pipeline's pods (a NetworkPolicy, which the chart ships)";
        findings.unread = Some(Problem::waiting(area, Reason::StatusUnreachable, field, message));
    }
    findings
}

/// What a Deployment says of its pods.
fn rollout(outcome: &Outcome<'_>, result: &ItemResult, live: &Deployment, wanted: i32, findings: &mut Findings) {
    let (field, area) = (result.plan.field.clone(), result.plan.kind.area());
    let status = live.status.clone().unwrap_or_default();
    let ready = status.ready_replicas.unwrap_or(0);
    let waiting = |message: String| Problem::waiting(area, Reason::WorkersNotReady, field.clone(), message);
    let refused = status.conditions.iter().flatten().find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True");
    let stuck = outcome.inputs.pods.get(&(result.plan.kind, result.plan.name.clone())).map(|pods| &pods.stuck).filter(|reasons| !reasons.is_empty());
    if let Some(refused) = refused {
        findings.problems.push(waiting(format!("pods cannot be created: {}", refused.message.as_deref().unwrap_or_default())));
    } else if is_rolled_out(live) && (ready > 0 || wanted == 0) {
        // Scaling, or one pod of several that restarts, is no trouble.
    } else if let Some(reasons) = stuck {
        findings.problems.push(waiting(reasons.iter().map(String::as_str).collect::<Vec<_>>().join(", ")));
    } else if is_rolled_out(live) {
        findings.problems.push(waiting("no pod is ready; see kubectl describe pod".to_owned()));
    } else {
        findings.problems.push(Problem::progress(area, Reason::Progressing, field, "its pods are rolling out"));
    }
}

/// What the pods themselves say.
fn reported(spec: &TradingPipelineSpec, result: &ItemResult, view: &ItemView) -> Option<Problem> {
    let problem = view.problem.as_ref()?;
    let reason = match (problem.class, result.plan.kind) {
        (ProblemClass::StoreUnreachable, _) => store(spec, result).unreachable(),
        (ProblemClass::ReferenceUnreachable, _) => Area::MySql.unreachable(),
        (
            ProblemClass::StoreRefuses | ProblemClass::BadRecord | ProblemClass::OutOfMemory | ProblemClass::InvalidSettings | ProblemClass::Internal,
            Kind::Producer,
        ) => Reason::ProducerFailed,
        (class, _) => class.into(),
    };
    let field = result.plan.field.clone();
    // Which record it is, where a single one is the trouble: somebody has to look at it.
    let message = match (problem.partition, problem.offset) {
        (Some(partition), Some(offset)) => format!("{} (partition {partition}, offset {offset})", problem.message),
        _ => problem.message.clone(),
    };
    Some(Problem { area: Area::Workers, reason, cure: cure(view.state, problem.class), field, message })
}

/// The system that an item needs beside the brokers that it reads from or writes to.
fn store(spec: &TradingPipelineSpec, result: &ItemResult) -> Area {
    let query = spec.queries.iter().find(|query| result.plan.kind == Kind::Query && query.name == result.plan.name);
    match query.map(|query| query.sink.target()) {
        // A producer has its symbols from there.
        None | Some(Some(SinkTarget::MySql(_))) => Area::MySql,
        Some(Some(SinkTarget::Cassandra(_))) => Area::Cassandra,
        Some(Some(SinkTarget::MongoDb(_))) => Area::MongoDb,
        Some(Some(SinkTarget::Kafka(_) | SinkTarget::Blackhole) | None) => Area::Topics,
    }
}

/// What makes a problem of the pods go away. What made them stop is not always in the specification: a fault of Tapeline's takes another image, which may come
/// while Helm waits.
const fn cure(state: Option<PodsState>, class: ProblemClass) -> Cure {
    match (state, class) {
        (
            Some(PodsState::Failed),
            ProblemClass::StoreRefuses
            | ProblemClass::BadRecord
            | ProblemClass::TooManyBadRecords
            | ProblemClass::DataLoss
            | ProblemClass::OutOfMemory
            | ProblemClass::InvalidSettings,
        ) => Cure::Change,
        _ => Cure::Waiting,
    }
}

fn item(outcome: &Outcome<'_>, result: &ItemResult, view: &ItemView, findings: &Findings) -> ItemHealth {
    let (replicas, ready_replicas) = replicas(outcome.target, result);
    let running = match view.state {
        Some(PodsState::Failed) => ItemState::Failed,
        Some(PodsState::Waiting) => ItemState::Waiting,
        Some(PodsState::Done) => ItemState::Done,
        Some(PodsState::Running | PodsState::Stopping) if ready_replicas.unwrap_or(0) > 0 => ItemState::Running,
        // Nobody asks its pod how it does.
        None if result.plan.kind == Kind::Dashboard && ready_replicas.unwrap_or(0) > 0 => ItemState::Running,
        _ => ItemState::Pending,
    };
    let state = match &result.plan.step {
        Step::Pause if result.cron_job.is_some() => scheduled::state(outcome, result, view, true),
        Step::Stop | Step::Pause => ItemState::Suspended,
        Step::Leave(_) if result.plan.invalid.is_some() => ItemState::Invalid,
        Step::Run(workload) if let Some(timed) = &workload.schedule => scheduled::state(outcome, result, view, timed.suspend),
        Step::Leave(_) if result.cron_job.is_some() => scheduled::state(outcome, result, view, false),
        Step::Leave(_) if result.live.is_none() => ItemState::Pending,
        Step::Leave(_) | Step::Run(_) => running,
    };
    // The worst, as in conditions: what a pod waits for says more than that it is not ready.
    let worst = findings.problems.iter().chain(&findings.said).min_by_key(|problem| (problem.cure, problem.reason));
    let message = match (&result.plan.step, worst.or(findings.notices.first())) {
        (Step::Leave(awaited), _) => awaited.clone(),
        (_, Some(problem)) => problem.message.clone(),
        _ => String::new(),
    };
    ItemHealth { state, message, replicas, ready_replicas }
}

/// Pods asked for, and pods ready.
#[must_use]
pub(super) fn replicas(target: &Target, result: &ItemResult) -> (Option<i32>, Option<i32>) {
    let spec = &target.pipeline.spec;
    let declared = match result.plan.kind {
        Kind::Query => {
            spec.queries.iter().find(|query| query.name == result.plan.name).and_then(|query| query.scale.as_ref()).map_or(1, |scale| scale.replicas)
        }
        // A run has a pod now and then, of which nobody asks how many there are.
        Kind::Producer if spec.producers.iter().any(|producer| producer.name == result.plan.name && producer.schedule.is_some()) => return (None, None),
        Kind::Producer | Kind::Dashboard => 1,
    };
    let wanted = if matches!(result.plan.step, Step::Stop) { 0 } else { declared };
    let ready = result.live.as_ref().and_then(|live| live.status.as_ref()).and_then(|status| status.ready_replicas);
    (Some(wanted), Some(ready.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::a_record_that_stops_the_query(PodsState::Failed, ProblemClass::BadRecord, Cure::Change)]
    #[case::a_chunk_that_is_too_large(PodsState::Failed, ProblemClass::OutOfMemory, Cure::Change)]
    #[case::a_fault_of_ours(PodsState::Failed, ProblemClass::Internal, Cure::Waiting)]
    #[case::a_broker_that_is_away(PodsState::Failed, ProblemClass::KafkaUnreachable, Cure::Waiting)]
    #[case::a_store_that_is_away(PodsState::Waiting, ProblemClass::StoreUnreachable, Cure::Waiting)]
    fn only_what_a_change_cures_stalls(#[case] state: PodsState, #[case] class: ProblemClass, #[case] expected: Cure) {
        assert_eq!(cure(Some(state), class), expected);
    }
}
