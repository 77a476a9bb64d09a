//! Builds the Kubernetes objects of a pipeline: for each query, producer and dashboard a ConfigMap with its settings and a Deployment, or a CronJob where it has a
//! schedule. Pure: what is known of the outside comes in, objects come out. `settings` says what the program inside is told, `deployment` and `cron_job` how it
//! runs, `companions` what a dashboard needs beside that.

pub mod companions;
pub mod cron_job;
pub mod deployment;
pub mod settings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use kube::api::ObjectMeta;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tapeline_api::TradingPipeline;
pub use tapeline_api::labels::{DASHBOARD_LABEL, PIPELINE_LABEL, PRODUCER_LABEL, QUERY_LABEL};
use tapeline_api::names::{DataKey, ItemName, ObjectName};
use tapeline_api::pipeline::CredentialsSecretRef;
use tapeline_api::pipeline::workers::Resources;

use crate::reason::Area;

/// What `app.kubernetes.io/managed-by` says.
pub const MANAGED_BY: &str = "tapeline";
/// The label by which the operator's watches select.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";

/// What a Deployment runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    Query,
    Producer,
    Dashboard,
}

impl Kind {
    /// As it is part of names and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Producer => "producer",
            Self::Dashboard => "dashboard",
        }
    }

    /// Where items of this kind are declared.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::Query => "spec.queries",
            Self::Producer => "spec.producers",
            Self::Dashboard => "spec.dashboard",
        }
    }

    /// Whose trouble theirs is.
    #[must_use]
    pub const fn area(self) -> Area {
        match self {
            Self::Query | Self::Producer => Area::Workers,
            Self::Dashboard => Area::Dashboard,
        }
    }

    /// The label that holds the item's name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Query => QUERY_LABEL,
            Self::Producer => PRODUCER_LABEL,
            Self::Dashboard => DASHBOARD_LABEL,
        }
    }
}

/// A Secret that a pod mounts, as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedSecret {
    /// The folder under the credentials' folder: `mysql`, `cassandra`, `mongodb`, `feed` or `dashboard`.
    pub folder: &'static str,
    /// The Secret.
    pub secret: ObjectName,
    /// Which of its keys become which files in the folder.
    pub files: Vec<(DataKey, String)>,
    /// The Secret's uid and resourceVersion: pods roll when it moves. Never a hash of the content, which whoever may view pods could guess offline.
    pub version: String,
}

impl MountedSecret {
    /// The user and password of a store, under the names that clients read them by.
    #[must_use]
    pub fn user(folder: &'static str, reference: &CredentialsSecretRef, version: String) -> Self {
        let files = vec![(reference.username_key.clone(), "username".to_owned()), (reference.password_key.clone(), "password".to_owned())];
        Self { folder, secret: reference.name.clone(), files, version }
    }
}

/// Everything that the objects of one query, producer or dashboard are built from.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// What it is.
    pub kind: Kind,
    /// Its name in the pipeline.
    pub name: ItemName,
    /// The document for the program.
    pub settings: String,
    /// The image.
    pub image: String,
    /// `imagePullPolicy`; the cluster's default when absent.
    pub image_pull_policy: Option<String>,
    /// Secrets that it mounts.
    pub credentials: Vec<MountedSecret>,
    /// A ConfigMap with a file to send or replay, its key, and its uid and resourceVersion, or nothing: pods roll when that moves.
    pub data: Option<(ObjectName, DataKey, String)>,
    /// CPU and memory.
    pub resources: ResourceRequirements,
    /// Pods.
    pub replicas: i32,
    /// What must never run in two versions at once (SQL and sink; source): a change of it stops the old pods before the new ones start.
    pub exclusive: String,
    /// When it runs, if not all the time.
    pub schedule: Option<Timed>,
}

/// When a scheduled producer runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timed {
    /// As Kubernetes takes it.
    pub cron: String,
    /// Its time zone.
    pub time_zone: String,
    /// Whether no further run begins.
    pub suspend: bool,
    /// After which a run gives up.
    pub time_limit: Duration,
}

impl Workload {
    /// The name of its Deployment or CronJob.
    #[must_use]
    pub fn object_name(&self, pipeline: &str) -> String {
        object_name(pipeline, self.kind, self.name.as_str())
    }

    /// The name of the ConfigMap, which changes with its content: it is immutable, so a pod keeps the settings that it was started with.
    #[must_use]
    pub fn config_map_name(&self, pipeline: &str) -> String {
        format!("{}-{}", self.object_name(pipeline), short_hash(&self.settings))
    }
}

/// `<pipeline>-query-<name>`, `<pipeline>-producer-<name>` or, as there is one, `<pipeline>-dashboard`.
#[must_use]
pub fn object_name(pipeline: &str, kind: Kind, name: &str) -> String {
    match kind {
        Kind::Query | Kind::Producer => format!("{pipeline}-{}-{name}", kind.as_str()),
        Kind::Dashboard => format!("{pipeline}-{name}"),
    }
}

/// Labels of the objects of an item.
#[must_use]
pub fn labels(pipeline: &str, kind: Kind, name: &str) -> BTreeMap<String, String> {
    let program = match kind {
        Kind::Query => "tapeline-worker",
        Kind::Producer => "tapeline-producer",
        Kind::Dashboard => "tapeline-dashboard",
    };
    [
        ("app.kubernetes.io/name", program),
        ("app.kubernetes.io/instance", pipeline),
        ("app.kubernetes.io/component", kind.as_str()),
        (MANAGED_BY_LABEL, MANAGED_BY),
        (PIPELINE_LABEL, pipeline),
        (kind.label(), name),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// The reference by which Kubernetes deletes our objects with the pipeline: before it, where the deletion is in the foreground.
#[must_use]
pub fn owner(pipeline: &TradingPipeline) -> Option<OwnerReference> {
    pipeline.controller_owner_ref(&()).map(|owner| OwnerReference { block_owner_deletion: Some(true), ..owner })
}

/// The ConfigMap of an item.
#[must_use]
pub fn config_map(pipeline: &TradingPipeline, workload: &Workload) -> ConfigMap {
    let name = pipeline.metadata.name.as_deref().unwrap_or_default();
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(workload.config_map_name(name)),
            namespace: pipeline.metadata.namespace.clone(),
            labels: Some(labels(name, workload.kind, workload.name.as_str())),
            owner_references: owner(pipeline).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        data: Some([("settings.json".to_owned(), workload.settings.clone())].into()),
        immutable: Some(true),
        ..ConfigMap::default()
    }
}

/// The first that is set: the item's, the pipeline's, the default.
#[must_use]
pub fn resources(item: Option<&Resources>, pipeline: Option<&Resources>) -> ResourceRequirements {
    given_or(item.or(pipeline), "100m")
}

/// The dashboard's, or its default. Those of the pipeline are for the work, which it does not do.
#[must_use]
pub fn dashboard_resources(given: Option<&Resources>) -> ResourceRequirements {
    given_or(given, "50m")
}

fn given_or(given: Option<&Resources>, cpu: &str) -> ResourceRequirements {
    let quantities = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).to_owned(), Quantity((*value).to_owned()))).collect();
    match given {
        Some(given) => ResourceRequirements {
            requests: (!given.requests.is_empty()).then(|| given.requests.clone()),
            limits: (!given.limits.is_empty()).then(|| given.limits.clone()),
            ..ResourceRequirements::default()
        },
        None => ResourceRequirements {
            requests: Some(quantities(&[("cpu", cpu), ("memory", "64Mi")])),
            limits: Some(quantities(&[("memory", "256Mi")])),
            ..ResourceRequirements::default()
        },
    }
}

/// Ten hexadecimal digits of SHA-256: enough for names that differ by content, short enough to be read.
#[must_use]
pub fn short_hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}

/// [`short_hash`] of the value's JSON.
#[must_use]
pub fn hash_of<T: Serialize>(value: &T) -> String {
    short_hash(&serde_json::to_string(value).unwrap_or_default())
}
