//! Why pods do not start, in the words of Kubernetes and without names or numbers that change with each pod.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::runtime::reflector::Store;
use tapeline_api::names::ItemName;

use super::Target;
use super::build::{DASHBOARD_LABEL, Kind, PIPELINE_LABEL};

/// The pods of a query, a producer or the dashboard that have not ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Why some do not start, each reason once.
    pub stuck: BTreeSet<String>,
    /// Whether one of them has a node.
    pub placed: bool,
}

impl Standing {
    fn add(&mut self, pod: &Pod) {
        self.stuck.extend(reason(pod));
        self.placed |= pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    }

    /// Why those of a scheduled producer do not start. Beside another one they are meant to find no node.
    pub fn stuck_alone(&self) -> impl Iterator<Item = &str> {
        self.stuck.iter().map(String::as_str).filter(|reason| !self.placed || !reason.starts_with(UNSCHEDULABLE))
    }
}

const UNSCHEDULABLE: &str = "Unschedulable";

/// The pods of each item that have not ended.
#[must_use]
pub fn standing(target: &Target, pods: &Store<Pod>) -> BTreeMap<(Kind, ItemName), Standing> {
    let mut found: BTreeMap<(Kind, ItemName), Standing> = BTreeMap::new();
    for pod in pods.state_filter(|pod| pod.metadata.namespace.as_deref() == Some(target.namespace.as_str()) && label(pod, PIPELINE_LABEL) == Some(&target.name))
    {
        if let Some(item) = item(&pod).filter(|_| !has_ended(&pod)) {
            found.entry(item).or_default().add(&pod);
        }
    }
    found
}

/// Whether there is still a pod of the pipeline that works.
#[must_use]
pub fn any(target: &Target, pods: &Store<Pod>) -> bool {
    let is_ours = |pod: &Pod| pod.metadata.namespace.as_deref() == Some(target.namespace.as_str()) && label(pod, PIPELINE_LABEL) == Some(&target.name);
    pods.find(|pod| is_ours(pod) && works(pod)).is_some()
}

/// Whether a suspended pipeline waits for the pod to be gone: not for the dashboard's, which stays, and not for one that a run left behind, which stays as long as
/// its Job does.
fn works(pod: &Pod) -> bool {
    label(pod, DASHBOARD_LABEL).is_none() && !is_left_behind(pod)
}

fn is_left_behind(pod: &Pod) -> bool {
    has_ended(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Whether it has ended for good.
#[must_use]
pub fn has_ended(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).is_some_and(|phase| matches!(phase, "Succeeded" | "Failed"))
}

/// Whose pod it is.
#[must_use]
pub fn item(pod: &Pod) -> Option<(Kind, ItemName)> {
    [Kind::Query, Kind::Producer, Kind::Dashboard].into_iter().find_map(|kind| Some((kind, label(pod, kind.label())?.parse().ok()?)))
}

/// A label of a pod.
#[must_use]
pub fn label<'a>(pod: &'a Pod, key: &str) -> Option<&'a String> {
    pod.metadata.labels.as_ref()?.get(key)
}

/// Whether Kubernetes calls the pod ready.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none() && conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn reason(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let unscheduled = status.conditions.iter().flatten().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    if let Some(unscheduled) = unscheduled {
        // Only its beginning: what follows are counts of nodes.
        return Some(format!("{}: no node takes the pod", unscheduled.reason.as_deref().unwrap_or(UNSCHEDULABLE)));
    }
    status.container_statuses.iter().flatten().find_map(container)
}

fn container(status: &ContainerStatus) -> Option<String> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    match reason {
        "ContainerCreating" | "PodInitializing" => None,
        "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName" => Some(format!("the image \"{}\" cannot be pulled", status.image)),
        "CrashLoopBackOff" => {
            let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
            let why = last.and_then(|last| last.reason.as_deref()).unwrap_or("Error");
            Some(format!("the container ends again and again ({why}); see kubectl logs"))
        }
        "CreateContainerConfigError" => Some(format!("CreateContainerConfigError: {}", waiting.message.as_deref().unwrap_or_default())),
        other => Some(other.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case("Pending", false)]
    #[case("Running", false)]
    #[case("Succeeded", true)]
    #[case("Failed", true)]
    fn the_pod_of_a_run_that_is_over_has_ended(#[case] phase: &str, #[case] ended: bool) {
        let pod = serde_json::from_value(json!({"status": {"phase": phase}})).unwrap();
        assert_eq!((has_ended(&pod), is_left_behind(&pod)), (ended, ended));
    }

    #[test]
    fn a_suspended_pipeline_does_not_wait_for_its_dashboard() {
        let pod = |label: &str| serde_json::from_value(json!({"metadata": {"labels": {label: "x"}}, "status": {"phase": "Running"}})).unwrap();
        assert!(works(&pod("tapeline.dev/query")) && works(&pod("tapeline.dev/producer")));
        assert!(!works(&pod("tapeline.dev/dashboard")));
    }

    /// As one of a Deployment that was deleted does for a moment.
    #[test]
    fn a_pod_that_has_ended_and_is_being_deleted_is_still_there() {
        let pod = serde_json::from_value(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Succeeded"}})).unwrap();
        assert_eq!((has_ended(&pod), is_left_behind(&pod)), (true, false));
    }
}
