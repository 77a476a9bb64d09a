//! The runs of scheduled producers: what their Jobs came to. A Job that was made by hand (`kubectl create job --from`) is a run like those of the schedule, as it has
//! the CronJob for its controller.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::runtime::reflector::Store;
use tapeline_api::names::ItemName;

use super::build::Kind;
use super::build::cron_job::template_of;
use super::build::deployment::settings_in;
use super::dereference::Live;
use super::pods::{has_ended, label};

const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// Within this a Job has its first pod, and the next one after one that failed.
const POD_WITHIN: SignedDuration = SignedDuration::from_mins(2);

/// The runs of a producer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runs {
    /// How many are under way, or wait for their turn.
    pub active: usize,
    /// The ConfigMaps that these use.
    pub settings: BTreeSet<String>,
    /// One under way that has no pod, or none that has not ended.
    pub podless: Option<Podless>,
    /// How the last one ended that did; `None` if it failed, and the next one will be another.
    pub last: Option<Last>,
    /// When the newest began.
    pub began: Option<Time>,
}

/// A run without a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Podless {
    /// Its Job.
    pub job: String,
    /// Whether it should have had one by now.
    pub overdue: bool,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Last {
    /// Everything was sent.
    Good,
    /// For this reason it was not.
    Failed(String),
}

/// The runs of each of these CronJobs.
#[must_use]
pub fn of(cron_jobs: &BTreeMap<(Kind, ItemName), Live<CronJob>>, jobs: &Store<Job>, pods: &Store<Pod>) -> BTreeMap<ItemName, Runs> {
    let ours = cron_jobs.iter().filter_map(|((_, name), live)| Some((name, live.ours()?)));
    ours.map(|(name, cron_job)| {
        let jobs = jobs.state_filter(|job| is_of(job, cron_job));
        let names: BTreeSet<&str> = jobs.iter().filter_map(|job| job.metadata.name.as_deref()).collect();
        let namespace = cron_job.metadata.namespace.as_deref();
        let pods =
            pods.state_filter(|pod| pod.metadata.namespace.as_deref() == namespace && label(pod, JOB_NAME).is_some_and(|job| names.contains(job.as_str())));
        (name.clone(), look(cron_job, &jobs, &pods, Timestamp::now()))
    })
    .collect()
}

fn is_of(job: &Job, cron_job: &CronJob) -> bool {
    let uid = cron_job.metadata.uid.as_deref();
    job.metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true) && Some(owner.uid.as_str()) == uid)
}

fn look(cron_job: &CronJob, jobs: &[Arc<Job>], pods: &[Arc<Pod>], now: Timestamp) -> Runs {
    let mut runs = Runs { began: cron_job.status.as_ref().and_then(|status| status.last_schedule_time.clone()), ..Runs::default() };
    let mut newest: Option<(Time, &Job, Option<String>)> = None;
    for job in jobs {
        let began = job.status.as_ref().and_then(|status| status.start_time.clone()).or_else(|| job.metadata.creation_timestamp.clone());
        runs.began = runs.began.max(began.clone());
        match end(job) {
            None => {
                runs.active += 1;
                if runs.podless.is_none() && job.spec.as_ref().is_some_and(|spec| spec.suspend != Some(true)) {
                    runs.podless = podless(job, began, pods, now);
                }
                runs.settings.extend(job.spec.as_ref().and_then(|spec| settings_in(&spec.template)).map(str::to_owned));
            }
            Some((at, failure)) if newest.as_ref().is_none_or(|(known, ..)| at >= *known) => newest = Some((at, job, failure)),
            Some(_) => {}
        }
    }
    runs.last = newest.and_then(|(_, job, failure)| match failure {
        None => Some(Last::Good),
        Some(said) => is_current(job, cron_job).then(|| Last::Failed(why(job, pods).unwrap_or(said))),
    });
    runs
}

/// A run that has no pod, or only such as have ended and that no other follows. (The waits between attempts add up to little more than a minute.)
fn podless(job: &Job, began: Option<Time>, pods: &[Arc<Pod>], now: Timestamp) -> Option<Podless> {
    let ours = || pods.iter().filter(|pod| is_pod_of(pod, job));
    if ours().any(|pod| !has_ended(pod)) {
        return None;
    }
    let last_end = ours().filter_map(|pod| terminated(pod)?.finished_at.clone()).max();
    let overdue = began.max(last_end).is_some_and(|since| now.duration_since(since.0) > POD_WITHIN);
    Some(Podless { job: job.metadata.name.clone().unwrap_or_default(), overdue })
}

fn is_pod_of(pod: &Pod, job: &Job) -> bool {
    label(pod, JOB_NAME) == job.metadata.name.as_ref()
}

/// Whether the next run will have the settings and the image of this one: what has been changed since may have been the cure.
fn is_current(job: &Job, cron_job: &CronJob) -> bool {
    let of = |template: &PodTemplateSpec| {
        let images = template.spec.iter().flat_map(|spec| &spec.containers).map(|container| container.image.clone());
        (settings_in(template).map(str::to_owned), images.collect::<Vec<_>>())
    };
    job.spec.as_ref().map(|spec| of(&spec.template)) == template_of(cron_job).map(of)
}

/// When a Job ended, and what Kubernetes says if it failed.
fn end(job: &Job) -> Option<(Time, Option<String>)> {
    let conditions = job.status.as_ref()?.conditions.iter().flatten();
    let ended = conditions.filter(|condition| condition.status == "True").find(|condition| matches!(condition.type_.as_str(), "Complete" | "Failed"))?;
    let at = ended.last_transition_time.clone().or_else(|| job.metadata.creation_timestamp.clone())?;
    Some((at, (ended.type_ == "Failed").then(|| ended.message.clone().unwrap_or_default())))
}

/// What the last pod of a Job said when it ended.
fn why(job: &Job, pods: &[Arc<Pod>]) -> Option<String> {
    let ours = pods.iter().filter(|pod| is_pod_of(pod, job));
    let ended = ours.filter_map(|pod| Some((pod.status.as_ref()?, terminated(pod)?)));
    let (status, last) = ended.max_by_key(|(_, terminated)| terminated.finished_at.clone())?;
    let said = last.message.as_deref().map(str::trim).filter(|message| !message.is_empty());
    Some(match (said, status.reason.as_deref(), last.reason.as_deref()) {
        (Some(said), ..) => said.to_owned(),
        (None, Some("DeadlineExceeded"), _) => "it neither came to an end within its time nor said why".to_owned(),
        (None, _, reason) => format!("its container ended without a word ({}, exit code {}); see kubectl logs", reason.unwrap_or("Error"), last.exit_code),
    })
}

fn terminated(pod: &Pod) -> Option<&ContainerStateTerminated> {
    pod.status.as_ref()?.container_statuses.iter().flatten().find_map(|container| container.state.as_ref()?.terminated.as_ref())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn cron_job() -> CronJob {
        serde_json::from_value(json!({
            "metadata": {"name": "p-producer-sales", "namespace": "demo", "uid": "cron"},
            "spec": {"schedule": "@daily", "jobTemplate": {"spec": {"template": template("now")}}},
        }))
        .unwrap()
    }

    /// The template of a pod with such settings.
    fn template(settings: &str) -> Value {
        let volume = json!({"name": "tapeline", "projected": {"sources": [{"configMap": {"name": format!("settings-{settings}")}}]}});
        json!({"spec": {"containers": [{"name": "producer", "image": "producer:1"}], "volumes": [volume]}})
    }

    fn job(name: &str, began: &str, end: Option<(&str, &str)>) -> Arc<Job> {
        let conditions: Vec<Value> = end
            .into_iter()
            .map(|(kind, at)| json!({"type": kind, "status": "True", "lastTransitionTime": at, "message": format!("{name} has reached its limit")}))
            .collect();
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "demo", "ownerReferences": [
                    {"apiVersion": "batch/v1", "kind": "CronJob", "name": "p-producer-sales", "uid": "cron", "controller": true}]},
                "spec": {"template": template("now")},
                "status": {"startTime": began, "conditions": conditions},
            }))
            .unwrap(),
        )
    }

    fn pod(job: &str, finished: &str, terminated: Value) -> Arc<Pod> {
        let mut state = json!({"exitCode": 3, "finishedAt": finished});
        state.as_object_mut().unwrap().extend(terminated.as_object().unwrap().clone());
        let container = json!({"name": "producer", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": state}});
        let labels = json!({JOB_NAME: job});
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": format!("{job}-x"), "labels": labels}, "status": {"phase": "Failed", "containerStatuses": [container]}}),
            )
            .unwrap(),
        )
    }

    fn running(job: &str) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": format!("{job}-y"), "labels": {JOB_NAME: job}}, "status": {"phase": "Running"}})).unwrap())
    }

    #[test]
    fn a_failed_run_says_why_until_one_goes_well() {
        let failed = job("a", "2026-01-01T00:00:00Z", Some(("Failed", "2026-01-01T00:01:00Z")));
        let pods = [
            pod("a", "2026-01-01T00:00:30Z", json!({"reason": "OOMKilled", "exitCode": 137})),
            pod("a", "2026-01-01T00:01:00Z", json!({"reason": "Error", "message": "topic sales does not exist\n"})),
            pod("b", "2026-01-01T00:09:00Z", json!({"message": "of another run"})),
        ];
        let runs = look(&cron_job(), std::slice::from_ref(&failed), &pods, Timestamp::UNIX_EPOCH);
        assert_eq!((runs.active, runs.last), (0, Some(Last::Failed("topic sales does not exist".into()))));
        let good = job("b", "2026-01-01T00:05:00Z", Some(("Complete", "2026-01-01T00:05:10Z")));
        let runs = look(&cron_job(), &[good, failed], &pods, Timestamp::UNIX_EPOCH);
        assert_eq!(runs.last, Some(Last::Good));
        assert_eq!(serde_json::to_value(runs.began).unwrap(), json!("2026-01-01T00:05:00Z"));
    }

    #[test]
    fn a_run_that_dies_without_a_word_has_a_reason_too() {
        let failed = [job("a", "2026-01-01T00:00:00Z", Some(("Failed", "2026-01-01T00:01:00Z")))];
        let last = |pods: &[Arc<Pod>]| match look(&cron_job(), &failed, pods, Timestamp::UNIX_EPOCH).last {
            Some(Last::Failed(why)) => why,
            other => panic!("{other:?}"),
        };
        let killed = pod("a", "2026-01-01T00:01:00Z", json!({"reason": "OOMKilled", "exitCode": 137}));
        assert_eq!(last(&[killed]), "its container ended without a word (OOMKilled, exit code 137); see kubectl logs");
        assert_eq!(last(&[]), "a has reached its limit");
    }

    #[test]
    fn a_failure_of_what_was_changed_since_is_history() {
        let mut changed = cron_job();
        changed.spec.job_template.spec.as_mut().unwrap().template = serde_json::from_value(template("corrected")).unwrap();
        let last = |end| look(&changed, &[job("a", "2026-01-01T00:00:00Z", Some((end, "2026-01-01T00:01:00Z")))], &[], Timestamp::UNIX_EPOCH).last;
        assert_eq!(last("Failed"), None);
        assert_eq!(last("Complete"), Some(Last::Good));
    }

    #[test]
    fn a_run_under_way_keeps_its_settings_and_what_was_before() {
        let good = job("a", "2026-01-01T00:00:00Z", Some(("Complete", "2026-01-01T00:01:00Z")));
        let runs = look(&cron_job(), &[good, job("b", "2026-01-01T00:05:00Z", None), job("c", "2026-01-01T00:04:00Z", None)], &[], Timestamp::UNIX_EPOCH);
        assert_eq!((runs.active, runs.last), (2, Some(Last::Good)));
        assert_eq!(runs.settings, ["settings-now".to_owned()].into());
        assert_eq!(look(&cron_job(), &[], &[], Timestamp::UNIX_EPOCH), Runs::default());
    }

    #[test]
    fn a_run_that_gets_no_pod_is_overdue_after_a_while() {
        let begun = [job("a", "2026-01-01T00:00:00Z", None)];
        let podless = |pods: &[Arc<Pod>], at: &str| look(&cron_job(), &begun, pods, at.parse().unwrap()).podless;
        assert_eq!(podless(&[], "2026-01-01T00:00:10Z"), Some(Podless { job: "a".into(), overdue: false }));
        assert_eq!(podless(&[], "2026-01-01T00:02:01Z"), Some(Podless { job: "a".into(), overdue: true }));
        assert_eq!(podless(&[running("a")], "2026-01-01T00:02:01Z"), None);
        let died = pod("a", "2026-01-01T00:01:00Z", json!({}));
        assert_eq!(
            podless(std::slice::from_ref(&died), "2026-01-01T00:02:59Z"),
            Some(Podless { job: "a".into(), overdue: false }),
            "the next attempt waits a while"
        );
        assert_eq!(podless(std::slice::from_ref(&died), "2026-01-01T00:03:01Z"), Some(Podless { job: "a".into(), overdue: true }));
        assert_eq!(podless(&[died, running("a")], "2026-01-01T00:09:00Z"), None);
    }

    #[test]
    fn a_job_belongs_to_the_cron_job_that_controls_it() {
        let mut other = cron_job();
        let run = job("a", "2026-01-01T00:00:00Z", None);
        assert!(is_of(&run, &other));
        other.metadata.uid = Some("its predecessor's".into());
        assert!(!is_of(&run, &other));
    }
}
