//! The Deployment of a query, a producer or a dashboard. `.spec.replicas` is not in it: it is set through `/scale`, and leaving it out of an apply that once held it sets
//! it to 1 (probed on 1.36).

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapProjection, Container, ContainerPort, EnvVar, HTTPGetAction, KeyToPath, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
    ProjectedVolumeSource, SeccompProfile, SecretProjection, SecurityContext, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;
use kube::api::ObjectMeta;
use serde::Serialize;
use tapeline_api::TradingPipeline;
use tapeline_api::settings::HTTP_PORT;

use super::companions;
use super::settings::grace_seconds;
use super::{DASHBOARD_LABEL, Kind, PIPELINE_LABEL, PRODUCER_LABEL, QUERY_LABEL, Workload, hash_of, labels, owner, short_hash};
use crate::subset::is_subset;

/// A hash of everything built. Fields that we no longer send are found by it; a comparison with the live object alone would leave them.
pub const BUILT_HASH: &str = "tapeline.dev/built-hash";
/// A hash of the pod template.
pub const TEMPLATE_HASH: &str = "tapeline.dev/template-hash";
/// A hash of what must never run in two versions at once.
pub const EXCLUSIVE_HASH: &str = "tapeline.dev/exclusive-hash";
/// ConfigMaps of earlier templates, separated by commas. They go when no pod uses them any more.
pub const OLD_SETTINGS: &str = "tapeline.dev/old-settings";
/// Uid and resourceVersion of what a pod mounts that can change under the same name.
pub const MOUNTED_VERSION: &str = "tapeline.dev/mounted-version";

const USER: i64 = 65_532;
const MOUNT_DIR: &str = "/etc/tapeline";

/// The Deployment of `workload`, given the `live` one: its strategy is for the step from there to here.
#[must_use]
pub fn deployment(pipeline: &TradingPipeline, workload: &Workload, live: Option<&Deployment>) -> Deployment {
    let name = pipeline.metadata.name.as_deref().unwrap_or_default();
    let template = template(pipeline, workload);
    let template_hash = hash_of(&template);
    let exclusive_hash = short_hash(&workload.exclusive);
    let mut annotations = BTreeMap::from([
        (TEMPLATE_HASH.to_owned(), template_hash.clone()),
        (EXCLUSIVE_HASH.to_owned(), exclusive_hash.clone()),
        (OLD_SETTINGS.to_owned(), old_settings(live, &workload.config_map_name(name)).join(",")),
    ]);
    let mut built = Deployment {
        metadata: ObjectMeta {
            name: Some(workload.object_name(name)),
            namespace: pipeline.metadata.namespace.clone(),
            labels: Some(labels(name, workload.kind, workload.name.as_str())),
            annotations: None,
            owner_references: owner(pipeline).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(DeploymentSpec {
            replicas: None,
            // One old ReplicaSet for who looks; its settings may be gone, so going back to it is the operator's work, not `kubectl rollout undo`'s.
            revision_history_limit: Some(1),
            selector: LabelSelector { match_labels: Some(selector(name, workload.kind, workload.name.as_str())), ..LabelSelector::default() },
            strategy: Some(strategy(workload.kind, &template, &template_hash, &exclusive_hash, live)),
            template,
            ..DeploymentSpec::default()
        }),
        status: None,
    };
    annotations.insert(BUILT_HASH.to_owned(), hash_of(&(&annotations, &built)));
    built.metadata.annotations = Some(annotations);
    built
}

/// Whether `live` is `built` already, so that nothing needs to be sent.
#[must_use]
pub fn is_applied<K: Resource + Serialize>(built: &K, live: &K) -> bool {
    annotation(live, BUILT_HASH) == annotation(built, BUILT_HASH)
        && match (serde_json::to_value(built), serde_json::to_value(live)) {
            (Ok(built), Ok(live)) => is_subset(&built, &live),
            _ => false,
        }
}

/// Whether every pod is of the newest template, and was ready once: from then on a restarting pod is a restarting pod, not a rollout.
#[must_use]
pub fn is_rolled_out(live: &Deployment) -> bool {
    let Some(status) = &live.status else { return false };
    let replicas = status.replicas.unwrap_or(0);
    let complete = status.conditions.iter().flatten().any(|c| c.type_ == "Progressing" && c.reason.as_deref() == Some("NewReplicaSetAvailable"));
    // Between the old pods of a Recreate and the new ones there are none, and the condition still speaks of the old ones.
    let has_pods = replicas > 0 || live.spec.as_ref().and_then(|spec| spec.replicas) == Some(0);
    status.observed_generation >= live.metadata.generation && status.updated_replicas.unwrap_or(0) == replicas && has_pods && complete
}

/// An annotation of an object.
#[must_use]
pub fn annotation<'a, K: Resource>(object: &'a K, key: &str) -> Option<&'a str> {
    object.meta().annotations.as_ref()?.get(key).map(String::as_str)
}

/// The ConfigMap that the template of `live` mounts.
#[must_use]
pub fn settings_of(live: &Deployment) -> Option<&str> {
    settings_in(&live.spec.as_ref()?.template)
}

/// The ConfigMap that a template mounts.
#[must_use]
pub fn settings_in(template: &PodTemplateSpec) -> Option<&str> {
    let volumes = template.spec.as_ref()?.volumes.as_ref()?;
    let sources = volumes.iter().filter(|volume| volume.name == "tapeline").find_map(|volume| volume.projected.as_ref()?.sources.as_ref())?;
    sources.iter().find_map(|source| source.config_map.as_ref()).map(|source| source.name.as_str())
}

/// The ConfigMaps that pods of earlier templates may still use. Emptied when the rollout is complete (`apply` deletes them first).
#[must_use]
pub fn old_settings<'a>(live: Option<&'a Deployment>, wanted: &str) -> Vec<&'a str> {
    let Some(live) = live else { return Vec::new() };
    let current = settings_of(live);
    if is_rolled_out(live) && current == Some(wanted) {
        return Vec::new();
    }
    let mut old: Vec<&str> = annotation(live, OLD_SETTINGS).into_iter().flat_map(|list| list.split(',')).chain(current).collect();
    old.retain(|name| !name.is_empty() && *name != wanted);
    old.sort_unstable();
    old.dedup();
    old
}

/// Recreate when two versions must not run side by side, else one pod after the other, never more than asked for. What was chosen for a rollout holds until
/// the next change: switching to RollingUpdate in the middle of a Recreate would start new pods beside old ones. A web page stays up: its old pod goes when the
/// new one answers.
fn strategy(kind: Kind, template: &PodTemplateSpec, template_hash: &str, exclusive_hash: &str, live: Option<&Deployment>) -> DeploymentStrategy {
    let recreate = || DeploymentStrategy { type_: Some("Recreate".to_owned()), rolling_update: None };
    let rolling = |surge, unavailable| DeploymentStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdateDeployment { max_surge: Some(IntOrString::Int(surge)), max_unavailable: Some(IntOrString::Int(unavailable)) }),
    };
    match kind {
        Kind::Query => {}
        Kind::Producer => return recreate(),
        Kind::Dashboard => return rolling(1, 0),
    }
    let Some(live) = live else { return rolling(0, 1) };
    let was_recreate = live.spec.as_ref().and_then(|spec| spec.strategy.as_ref()).is_some_and(|strategy| strategy.type_.as_deref() == Some("Recreate"));
    let same_template = annotation(live, TEMPLATE_HASH) == Some(template_hash) && template_is(template, live);
    let same_work = annotation(live, EXCLUSIVE_HASH) == Some(exclusive_hash);
    let keep = same_template || !is_rolled_out(live);
    if !same_work || (keep && was_recreate) { recreate() } else { rolling(0, 1) }
}

fn template_is(template: &PodTemplateSpec, live: &Deployment) -> bool {
    let live = live.spec.as_ref().map(|spec| serde_json::to_value(&spec.template));
    matches!((serde_json::to_value(template), live), (Ok(built), Some(Ok(live))) if is_subset(&built, &live))
}

/// The labels that tell the pods of an item from all others.
pub(super) fn selector(pipeline: &str, kind: Kind, name: &str) -> BTreeMap<String, String> {
    let mut labels = labels(pipeline, kind, name);
    labels.retain(|key, _| matches!(key.as_str(), PIPELINE_LABEL | QUERY_LABEL | PRODUCER_LABEL | DASHBOARD_LABEL));
    labels
}

/// The pod of an item.
pub(super) fn template(pipeline: &TradingPipeline, workload: &Workload) -> PodTemplateSpec {
    let name = pipeline.metadata.name.as_deref().unwrap_or_default();
    let workers = pipeline.spec.workers.clone().unwrap_or_default();
    // Ours win: the operator finds its pods by them.
    let mut pod_labels = workers.pod_labels;
    pod_labels.extend(labels(name, workload.kind, workload.name.as_str()));
    let mut annotations = workers.pod_annotations;
    let versions: Vec<&str> = workload
        .credentials
        .iter()
        .map(|credentials| credentials.version.as_str())
        .chain(workload.data.iter().map(|(_, _, version)| version.as_str()).filter(|version| !version.is_empty()))
        .collect();
    if !versions.is_empty() {
        annotations.insert(MOUNTED_VERSION.to_owned(), versions.join(","));
    }
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(pod_labels), annotations: (!annotations.is_empty()).then_some(annotations), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            containers: vec![container(workload)],
            volumes: Some(vec![volume(name, workload)]),
            automount_service_account_token: Some(workload.kind == Kind::Dashboard),
            enable_service_links: Some(false),
            service_account_name: match workload.kind {
                Kind::Query | Kind::Producer => workers.service_account_name,
                Kind::Dashboard => Some(companions::name(name)),
            },
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
                ..PodSecurityContext::default()
            }),
            termination_grace_period_seconds: Some(grace_seconds(&pipeline.spec)),
            image_pull_secrets: (!workers.image_pull_secrets.is_empty()).then_some(workers.image_pull_secrets),
            node_selector: (!workers.node_selector.is_empty()).then_some(workers.node_selector),
            tolerations: (!workers.tolerations.is_empty()).then_some(workers.tolerations),
            affinity: workers.affinity,
            topology_spread_constraints: (!workers.topology_spread_constraints.is_empty()).then_some(workers.topology_spread_constraints),
            priority_class_name: workers.priority_class_name,
            ..PodSpec::default()
        }),
    }
}

fn container(workload: &Workload) -> Container {
    Container {
        name: match workload.kind {
            Kind::Query => "worker".to_owned(),
            Kind::Producer => "producer".to_owned(),
            Kind::Dashboard => "dashboard".to_owned(),
        },
        image: Some(workload.image.clone()),
        image_pull_policy: workload.image_pull_policy.clone(),
        // Without it mimalloc asks for huge pages, and an idle worker holds memory that it never touched.
        env: Some(vec![EnvVar { name: "MIMALLOC_ALLOW_THP".to_owned(), value: Some("0".to_owned()), value_from: None }]),
        ports: Some(vec![ContainerPort {
            name: Some("http".to_owned()),
            container_port: i32::from(HTTP_PORT),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        startup_probe: Some(probe("/healthz", 1, 60)),
        liveness_probe: Some(probe("/healthz", 10, 6)),
        readiness_probe: Some(probe("/readyz", 2, 3)),
        resources: Some(workload.resources.clone()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![VolumeMount {
            name: "tapeline".to_owned(),
            mount_path: MOUNT_DIR.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        }]),
        ..Container::default()
    }
}

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("http".to_owned()),
            scheme: Some("HTTP".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(2),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}

/// One projected volume for settings, credentials and data: mounts inside a read-only mount are not possible.
fn volume(pipeline: &str, workload: &Workload) -> Volume {
    let path = |key: &str, path: String| KeyToPath { key: key.to_owned(), path, mode: None };
    let config_map = |name: String, items: Vec<KeyToPath>| VolumeProjection {
        config_map: Some(ConfigMapProjection { name, items: Some(items), optional: None }),
        ..VolumeProjection::default()
    };
    let mut sources = vec![config_map(workload.config_map_name(pipeline), vec![path("settings.json", "settings.json".to_owned())])];
    sources.extend(workload.credentials.iter().map(|credentials| VolumeProjection {
        secret: Some(SecretProjection {
            name: credentials.secret.to_string(),
            items: Some(credentials.files.iter().map(|(key, file)| path(key.as_str(), format!("credentials/{}/{file}", credentials.folder))).collect()),
            optional: None,
        }),
        ..VolumeProjection::default()
    }));
    sources.extend(workload.data.iter().map(|(name, key, _)| config_map(name.to_string(), vec![path(key.as_str(), format!("data/{key}"))])));
    Volume { name: "tapeline".to_owned(), projected: Some(ProjectedVolumeSource { default_mode: Some(0o440), sources: Some(sources) }), ..Volume::default() }
}
