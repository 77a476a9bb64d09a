//! The CronJob of a scheduled producer. Its pods are those of a Deployment, but for how they end.
//!
//! Two runs never overlap, whoever starts them. `Forbid` sees to it for those that the schedule starts, and knows nothing of a Job that was made by hand. So each
//! pod refuses all nodes as long as another pod of its producer has not ended (anti-affinity; the scheduler, which is one, places one pod after the other): a
//! run that is started by hand waits. That holds for the pods of the Deployment too which a producer has without a schedule, when it is switched from one to the
//! other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::batch::v1::{
    CronJob, CronJobSpec, JobSpec, JobTemplateSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
    PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{Affinity, EnvVar, EnvVarSource, ObjectFieldSelector, PodAffinityTerm, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::ObjectMeta;
use tapeline_api::TradingPipeline;
use tapeline_api::settings::{RUN_FAILED, RUN_VARIABLE};

use super::deployment::{BUILT_HASH, OLD_SETTINGS, annotation, selector, settings_in, template};
use super::settings::grace_seconds;
use super::{Timed, Workload, hash_of, labels, owner};

/// The longest name that a CronJob may have: Kubernetes adds eleven characters for each Job.
pub const LONGEST_NAME: usize = 52;

/// How late a run may begin, as when the controller was away: so that a short outage leaves out no run, and a long one is not made good hours later.
const STARTING_DEADLINE_SECONDS: i64 = 300;
/// Finished Jobs that are kept for who looks, those that were made by hand among them. No time to live beside it: the last failure stays until a run went well.
const HISTORY: i32 = 3;
/// Attempts after the first. The program itself waits for what is away, and says when trying again is of no use; this is for pods that die.
const RETRIES: i32 = 3;
/// A label that each node has, with the same value on all that can run these pods.
const ALL_NODES: &str = "kubernetes.io/os";
/// Beyond a run's own limit and grace: only a frozen process is still there then.
const SLACK: Duration = Duration::from_secs(60);

/// The CronJob of `workload`, which runs as `timed` says. `old` are the ConfigMaps that pods of earlier templates still use.
#[must_use]
pub fn cron_job(pipeline: &TradingPipeline, workload: &Workload, timed: &Timed, old: &BTreeSet<String>) -> CronJob {
    let name = pipeline.metadata.name.as_deref().unwrap_or_default();
    let labels = labels(name, workload.kind, workload.name.as_str());
    let mut annotations = BTreeMap::from([(OLD_SETTINGS.to_owned(), old.iter().map(String::as_str).collect::<Vec<_>>().join(","))]);
    let mut built = CronJob {
        metadata: ObjectMeta {
            name: Some(workload.object_name(name)),
            namespace: pipeline.metadata.namespace.clone(),
            labels: Some(labels.clone()),
            owner_references: owner(pipeline).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: CronJobSpec {
            schedule: timed.cron.clone(),
            time_zone: Some(timed.time_zone.clone()),
            suspend: Some(timed.suspend),
            concurrency_policy: Some("Forbid".to_owned()),
            starting_deadline_seconds: Some(STARTING_DEADLINE_SECONDS),
            successful_jobs_history_limit: Some(HISTORY),
            failed_jobs_history_limit: Some(HISTORY),
            job_template: JobTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
                spec: Some(JobSpec {
                    backoff_limit: Some(RETRIES),
                    pod_failure_policy: Some(failure_policy()),
                    template: run(pipeline, workload, timed),
                    ..JobSpec::default()
                }),
            },
        },
        status: None,
    };
    annotations.insert(BUILT_HASH.to_owned(), hash_of(&(&annotations, &built)));
    built.metadata.annotations = Some(annotations);
    built
}

/// The pod of a run. It is not restarted in place: a pod that failed stays, with its log and its reason.
fn run(pipeline: &TradingPipeline, workload: &Workload, timed: &Timed) -> PodTemplateSpec {
    let name = pipeline.metadata.name.as_deref().unwrap_or_default();
    let mut template = template(pipeline, workload);
    if let Some(spec) = &mut template.spec {
        spec.restart_policy = Some("Never".to_owned());
        let limit = (timed.time_limit + SLACK).as_secs();
        spec.active_deadline_seconds = Some(i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(grace_seconds(&pipeline.spec)));
        let mut affinity = spec.affinity.take().unwrap_or_default();
        add_alone(&mut affinity, selector(name, workload.kind, workload.name.as_str()));
        spec.affinity = Some(affinity);
        for container in &mut spec.containers {
            // The same for each attempt, and never again for another run.
            let field = ObjectFieldSelector { field_path: "metadata.labels['batch.kubernetes.io/controller-uid']".to_owned(), api_version: None };
            let value = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
            container.env.get_or_insert_default().push(EnvVar { name: RUN_VARIABLE.to_owned(), value: None, value_from: Some(value) });
        }
    }
    template
}

fn add_alone(affinity: &mut Affinity, labels: BTreeMap<String, String>) {
    let term = PodAffinityTerm {
        label_selector: Some(LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }),
        topology_key: ALL_NODES.to_owned(),
        ..PodAffinityTerm::default()
    };
    let others = affinity.pod_anti_affinity.get_or_insert_default();
    others.required_during_scheduling_ignored_during_execution.get_or_insert_default().push(term);
}

fn failure_policy() -> PodFailurePolicy {
    let hopeless = PodFailurePolicyRule {
        action: "FailJob".to_owned(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: Some("producer".to_owned()),
            operator: "In".to_owned(),
            values: vec![RUN_FAILED.into()],
        }),
        on_pod_conditions: None,
    };
    // A node that is drained is no failure of the run.
    let disrupted = PodFailurePolicyRule {
        action: "Ignore".to_owned(),
        on_exit_codes: None,
        on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern { type_: "DisruptionTarget".to_owned(), status: Some("True".to_owned()) }]),
    };
    PodFailurePolicy { rules: vec![hopeless, disrupted] }
}

/// The pod template of a CronJob.
#[must_use]
pub fn template_of(live: &CronJob) -> Option<&PodTemplateSpec> {
    live.spec.job_template.spec.as_ref().map(|spec| &spec.template)
}

/// The ConfigMaps of earlier templates, as the CronJob remembers them.
#[must_use]
pub fn remembered(live: &CronJob) -> BTreeSet<String> {
    annotation(live, OLD_SETTINGS).into_iter().flat_map(|list| list.split(',')).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Which ConfigMaps of earlier templates may go, and which are to be remembered on. A run keeps the settings that it began with; those of the template that is
/// live now are kept until it is replaced.
#[must_use]
pub fn old_settings(live: &CronJob, wanted: &str, in_use: &BTreeSet<String>) -> (BTreeSet<String>, BTreeSet<String>) {
    let current = template_of(live).and_then(settings_in).filter(|current| *current != wanted);
    let remembered = remembered(live).into_iter().filter(|name| name != wanted);
    let (mut keep, go): (BTreeSet<_>, BTreeSet<_>) = remembered.partition(|name| in_use.contains(name) || current == Some(name));
    keep.extend(current.map(str::to_owned));
    (go, keep)
}
