//! What stands against a scheduled producer, between its runs and during one. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tapeline_api::pipeline::status::{ItemState, ProducerStatus};

use super::Outcome;
use crate::observer::reports::{ItemView, PodsState};
use crate::reason::{Area, Problem, Reason};
use crate::reconcile::apply::ItemResult;
use crate::reconcile::build::{Timed, Workload};
use crate::reconcile::pods::Standing;
use crate::reconcile::runs::{Last, Podless, Runs};

/// What is wrong, beside what its pods themselves say.
pub(super) fn problems(outcome: &Outcome<'_>, result: &ItemResult, workload: &Workload, timed: &Timed) -> Vec<Problem> {
    let field = result.plan.field.as_str();
    if result.cron_job.is_none() {
        return vec![Problem::progress(Area::Workers, Reason::Progressing, field, "its CronJob is being created")];
    }
    let runs = runs(outcome, result);
    let mut problems = Vec::new();
    let pods = outcome.inputs.pods.get(&(result.plan.kind, result.plan.name.clone())).filter(|_| runs.active > 0);
    let mut stuck: Vec<String> = pods.into_iter().flat_map(Standing::stuck_alone).map(str::to_owned).collect();
    if let Some(Podless { job, .. }) = runs.podless.as_ref().filter(|podless| podless.overdue) {
        stuck.push(format!("the pod of run {job} is not created; kubectl describe job {job} says why (a quota, a missing service account)"));
    }
    if !stuck.is_empty() {
        problems.push(Problem::waiting(Area::Workers, Reason::WorkersNotReady, field, stuck.join(", ")));
    }
    if let Some(Last::Failed(why)) = runs.last.as_ref().filter(|_| !timed.suspend) {
        let object = workload.object_name(&outcome.target.name);
        let message = format!("its last run failed: {why}; it runs again as scheduled, or at once: kubectl create job --from=cronjob/{object} <name>");
        problems.push(Problem::waiting(Area::Workers, Reason::ProducerFailed, field, message));
    }
    problems
}

/// In one word.
pub(super) fn state(outcome: &Outcome<'_>, result: &ItemResult, view: &ItemView, suspended: bool) -> ItemState {
    let runs = runs(outcome, result);
    match (runs.active, view.state, &runs.last) {
        (0, ..) if suspended => ItemState::Suspended,
        (0, _, None) => ItemState::Scheduled,
        (0, _, Some(Last::Good)) => ItemState::Done,
        (0, _, Some(Last::Failed(_))) | (_, Some(PodsState::Failed), _) => ItemState::Failed,
        (_, Some(PodsState::Waiting), _) => ItemState::Waiting,
        (_, Some(PodsState::Running | PodsState::Done | PodsState::Stopping), _) => ItemState::Running,
        (_, Some(PodsState::Starting) | None, _) => ItemState::Pending,
    }
}

/// Whether a run has no pod yet. What it has to wait for, if anything, no watch tells.
pub(super) fn awaits_a_pod(outcome: &Outcome<'_>) -> bool {
    outcome.inputs.runs.values().any(|runs| runs.podless.is_some())
}

/// When the last run began; remembered when its Job is gone.
pub(super) fn last_run(outcome: &Outcome<'_>, result: &ItemResult, known: Option<&ProducerStatus>) -> Option<Time> {
    outcome.target.pipeline.spec.producers.iter().find(|producer| producer.name == result.plan.name)?.schedule.as_ref()?;
    runs(outcome, result).began.max(known.and_then(|known| known.last_run.clone()))
}

fn runs(outcome: &Outcome<'_>, result: &ItemResult) -> Runs {
    outcome.inputs.runs.get(&result.plan.name).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::batch::v1::CronJob;
    use rstest::rstest;

    use super::*;
    use crate::reconcile::Target;
    use crate::reconcile::build::{Kind, resources};
    use crate::reconcile::dereference::Inputs;
    use crate::reconcile::plan::{ItemPlan, Step};
    use crate::reconcile::systems::Systems;
    use crate::reconcile::validate::Validated;
    use crate::reconcile::validate::tests::{good, pipeline};

    fn failed(why: &str) -> Last {
        Last::Failed(why.into())
    }

    const FINE: (&[&str], bool) = (&[], true);

    /// State and problems of a producer with such runs, pods of which do not start for `stuck` reasons, while one of them has a node or none does.
    fn look(runs: Runs, (stuck, placed): (&[&str], bool), pods: Option<PodsState>, suspend: bool) -> (ItemState, Vec<String>) {
        let name: tapeline_api::names::ItemName = "market".parse().unwrap();
        let timed = Timed { cron: "@daily".into(), time_zone: "UTC".into(), suspend, time_limit: std::time::Duration::from_secs(60) };
        let workload = Workload {
            kind: Kind::Producer,
            name: name.clone(),
            settings: String::new(),
            image: String::new(),
            image_pull_policy: None,
            credentials: Vec::new(),
            data: None,
            resources: resources(None, None),
            replicas: 1,
            exclusive: String::new(),
            schedule: Some(timed.clone()),
        };
        let step = Step::Run(Box::new(workload.clone()));
        let plan = ItemPlan { kind: Kind::Producer, name: name.clone(), field: "spec.producers[0]".into(), step, problems: Vec::new(), invalid: None };
        let result = ItemResult { plan, live: None, cron_job: Some(Arc::new(CronJob::default())), failed: None };
        let target = Target::of(&pipeline(good())).unwrap();
        let (validated, systems) = (Validated::default(), Systems::default());
        let mut inputs = Inputs::default();
        inputs.runs.insert(name.clone(), runs);
        let stuck = stuck.iter().map(|&reason| reason.to_owned()).collect();
        inputs.pods.insert((Kind::Producer, name), Standing { stuck, placed });
        let outcome = Outcome { target: &target, validated: &validated, inputs: &inputs, systems: &systems, items: &[], leftover: &[], pods_left: false };
        let problems = problems(&outcome, &result, &workload, &timed).iter().map(|problem| format!("{} {problem}", problem.reason)).collect();
        (state(&outcome, &result, &ItemView { state: pods, ..ItemView::default() }, suspend), problems)
    }

    const BEHIND: &str = "Unschedulable: no node takes the pod";

    #[rstest]
    #[case::before_the_first(0, None, None, false, ItemState::Scheduled)]
    #[case::after_a_good_one(0, Some(Last::Good), None, false, ItemState::Done)]
    #[case::after_a_bad_one(0, Some(failed("x")), None, false, ItemState::Failed)]
    #[case::during_one(1, Some(failed("x")), Some(PodsState::Running), false, ItemState::Running)]
    #[case::during_an_outage(1, Some(Last::Good), Some(PodsState::Waiting), false, ItemState::Waiting)]
    #[case::just_begun(1, Some(Last::Good), None, false, ItemState::Pending)]
    #[case::suspended(0, Some(failed("x")), None, true, ItemState::Suspended)]
    #[case::by_hand_while_suspended(1, None, Some(PodsState::Running), true, ItemState::Running)]
    fn states(#[case] active: usize, #[case] last: Option<Last>, #[case] pods: Option<PodsState>, #[case] suspended: bool, #[case] expected: ItemState) {
        assert_eq!(look(Runs { active, last, ..Runs::default() }, FINE, pods, suspended).0, expected);
    }

    #[test]
    fn a_failure_is_shown_with_its_reason_and_what_to_do() {
        let bad = Runs { last: Some(failed("topic t does not exist")), ..Runs::default() };
        let problems = look(bad.clone(), FINE, None, false).1;
        assert_eq!(
            problems,
            ["ProducerFailed spec.producers[0]: its last run failed: topic t does not exist; it runs again as scheduled, or at once: \
              kubectl create job --from=cronjob/stock-volume-producer-market <name>"]
        );
        assert_eq!(look(bad, FINE, None, true).1, Vec::<String>::new(), "nothing is wrong with what is suspended");
    }

    #[test]
    fn only_a_run_that_waits_for_another_may_find_no_node() {
        let runs = |active| Runs { active, ..Runs::default() };
        let alone = format!("WorkersNotReady spec.producers[0]: {BEHIND}");
        assert_eq!(look(runs(2), (&[BEHIND], true), None, false).1, Vec::<String>::new());
        assert_eq!(look(runs(2), (&[BEHIND], false), None, false).1, std::slice::from_ref(&alone), "each waits for a node that none has");
        assert_eq!(look(runs(1), (&[BEHIND], false), None, false).1, [alone]);
        assert_eq!(look(runs(1), (&[BEHIND], true), None, false).1, Vec::<String>::new(), "behind a pod of the Deployment that was there before");
        assert_eq!(look(runs(0), (&[BEHIND], false), None, false).1, Vec::<String>::new(), "of a pod that is on its way out");
        let image = "the image \"x\" cannot be pulled";
        assert_eq!(look(runs(2), (&[BEHIND, image], true), None, false).1, [format!("WorkersNotReady spec.producers[0]: {image}")]);
    }

    #[test]
    fn a_run_that_gets_no_pod_is_no_success() {
        let runs = |overdue| Runs { active: 1, podless: Some(Podless { job: "run-1".into(), overdue }), ..Runs::default() };
        assert_eq!(look(runs(false), FINE, None, false).1, Vec::<String>::new());
        let said = look(runs(true), FINE, None, false).1;
        assert!(said[0].starts_with("WorkersNotReady spec.producers[0]: the pod of run run-1 is not created"), "{said:?}");
    }
}
