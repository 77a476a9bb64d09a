//! Why pods do not start, in the words of Kubernetes and without names or numbers that change with each pod.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::runtime::reflector::Store;
use tapeline_api::names::ItemName;

use super::Target;
use super::build::{Kind, PIPELINE_LABEL};

/// For each query and producer the reasons why pods of it do not start, each once.
#[must_use]
pub fn waiting(target: &Target, pods: &Store<Pod>) -> BTreeMap<(Kind, ItemName), Vec<String>> {
    let mut found: BTreeMap<(Kind, ItemName), BTreeSet<String>> = BTreeMap::new();
    for pod in pods.state_filter(|pod| pod.metadata.namespace.as_deref() == Some(target.namespace.as_str()) && label(pod, PIPELINE_LABEL) == Some(&target.name))
    {
        if let Some(item) = item(&pod) {
            found.entry(item).or_default().extend(reason(&pod));
        }
    }
    found.into_iter().map(|(item, reasons)| (item, reasons.into_iter().collect())).collect()
}

/// Whether there is still a pod of the pipeline.
#[must_use]
pub fn any(target: &Target, pods: &Store<Pod>) -> bool {
    pods.find(|pod| pod.metadata.namespace.as_deref() == Some(target.namespace.as_str()) && label(pod, PIPELINE_LABEL) == Some(&target.name)).is_some()
}

/// Whose pod it is.
#[must_use]
pub fn item(pod: &Pod) -> Option<(Kind, ItemName)> {
    [Kind::Query, Kind::Producer].into_iter().find_map(|kind| Some((kind, label(pod, kind.label())?.parse().ok()?)))
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
        return Some(format!("{}: no node takes the pod", unscheduled.reason.as_deref().unwrap_or("Unschedulable")));
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
