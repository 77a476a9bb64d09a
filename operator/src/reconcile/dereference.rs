//! Step 1 (IO, reads only): what the specification refers to in Kubernetes. Secrets are read by name, one by one, and only the named keys are kept; what is
//! missing or lacks a key is a problem of those who need it, not an error.

mod companions;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::core::NamespaceResourceScope;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tapeline_api::TradingPipeline;
use tapeline_api::names::{DataKey, ItemName, ObjectName, SqlName};
use tapeline_api::pipeline::{ConfigMapKeyRef, CredentialsSecretRef, dashboard};
use tapeline_api::settings::{DASHBOARD_FOLDER, FEED_FOLDER};

use super::build::{DASHBOARD_LABEL, Kind, MountedSecret, object_name};
use super::pods;
use super::runs::Runs;
use super::{Error, Target};
use crate::context::Scope;
use crate::external;
use crate::observer::reports::ItemView;
use crate::reason::{Area, Problem, Reason, near_miss};
pub use companions::Companions;

/// What was found.
#[derive(Debug, Default)]
pub struct Inputs {
    /// `spec.mysql.credentialsSecretRef`, which workers and producers mount.
    pub mysql: Option<Result<Found, Problem>>,
    /// `spec.mysql.adminCredentialsSecretRef`, where it is set.
    pub mysql_admin: Option<Result<Found, Problem>>,
    /// `spec.cassandra.credentialsSecretRef`, where it is set.
    pub cassandra: Option<Result<Found, Problem>>,
    /// `spec.mongodb.credentialsSecretRef`, where it is set.
    pub mongodb: Option<Result<Found, Problem>>,
    /// Reference rows of MySQL tables.
    pub rows: BTreeMap<SqlName, Result<Arc<str>, Problem>>,
    /// ConfigMaps that producers send or replay: name, key, uid and resourceVersion; these are empty where the pods are not to be replaced when it changes.
    pub data: BTreeMap<ItemName, Result<(ObjectName, DataKey, String), Problem>>,
    /// Secrets that the sources of producers need.
    pub secrets: BTreeMap<ItemName, Vec<Result<MountedSecret, Problem>>>,
    /// `spec.dashboard.auth.passwordSecretRef`, where it is set.
    pub password: Option<Result<MountedSecret, Problem>>,
    /// What stands beside the dashboard's Deployment, or is left of it.
    pub companions: Companions,
    /// The Deployments under the names that the pipeline's have.
    pub deployments: BTreeMap<(Kind, ItemName), Live>,
    /// Deployments of items that are no longer in the specification.
    pub leftover: Vec<Arc<Deployment>>,
    /// The CronJobs under the names that the pipeline's have.
    pub cron_jobs: BTreeMap<(Kind, ItemName), Live<CronJob>>,
    /// CronJobs of producers that are no longer in the specification.
    pub leftover_cron_jobs: Vec<Arc<CronJob>>,
    /// The runs of each scheduled producer.
    pub runs: BTreeMap<ItemName, Runs>,
    /// What the pods of each item say.
    pub reports: BTreeMap<(Kind, ItemName), ItemView>,
    /// The pods of each item that have not ended.
    pub pods: BTreeMap<(Kind, ItemName), pods::Standing>,
}

/// User and password.
#[derive(Debug, Clone)]
pub struct Found {
    /// For the operator's own connection.
    pub credentials: external::Credentials,
    /// For pods that mount the Secret.
    pub mounted: MountedSecret,
}

/// What stands under the name of a Deployment or CronJob.
#[derive(Debug, Clone, Default)]
pub enum Live<K = Deployment> {
    /// Nothing.
    #[default]
    Absent,
    /// Ours.
    Ours(Arc<K>),
    /// Somebody else's.
    Foreign,
    /// What the API server does not show.
    Unread(Problem),
}

impl<K: Resource> Live<K> {
    fn of(found: Option<Arc<K>>, target: &Target) -> Self {
        match found {
            None => Self::Absent,
            Some(found) if is_ours(&*found, target) => Self::Ours(found),
            Some(_) => Self::Foreign,
        }
    }
}

impl<K> Live<K> {
    /// Ours, if it is.
    #[must_use]
    pub const fn ours(&self) -> Option<&Arc<K>> {
        match self {
            Self::Ours(object) => Some(object),
            Self::Absent | Self::Foreign | Self::Unread(_) => None,
        }
    }

    /// Why it is not known what there is.
    #[must_use]
    pub const fn unread(&self) -> Option<&Problem> {
        match self {
            Self::Unread(problem) => Some(problem),
            Self::Absent | Self::Foreign | Self::Ours(_) => None,
        }
    }

    /// Whether it is somebody else's.
    #[must_use]
    pub const fn is_foreign(&self) -> bool {
        matches!(self, Self::Foreign)
    }
}

/// Reads what `target` refers to.
///
/// # Errors
/// When the API server does not answer, or cannot. What it refuses is a problem of those who need it.
pub async fn dereference(target: &Target, scope: &Scope) -> Result<Inputs, Error> {
    let mut inputs = Inputs::default();
    let spec = &target.pipeline.spec;
    if let Some(mysql) = &spec.mysql {
        let field = "spec.mysql.credentialsSecretRef";
        inputs.mysql = Some(secret(target, scope, Area::MySql, "mysql", field, &mysql.credentials_secret_ref).await?);
        if let Some(admin) = &mysql.admin_credentials_secret_ref {
            inputs.mysql_admin = Some(secret(target, scope, Area::MySql, "mysql", "spec.mysql.adminCredentialsSecretRef", admin).await?);
        }
        for (index, table) in mysql.tables.iter().enumerate() {
            if let Some(rows) = &table.rows_from {
                let field = format!("spec.mysql.tables[{index}].rowsFrom.configMapKeyRef");
                inputs.rows.insert(table.name.clone(), rows_of(target, scope, field, &rows.config_map_key_ref).await?);
            }
        }
    }
    if let Some(reference) = spec.cassandra.as_ref().and_then(|cassandra| cassandra.credentials_secret_ref.as_ref()) {
        let field = "spec.cassandra.credentialsSecretRef";
        inputs.cassandra = Some(secret(target, scope, Area::Cassandra, "cassandra", field, reference).await?);
    }
    if let Some(reference) = spec.mongodb.as_ref().and_then(|mongodb| mongodb.credentials_secret_ref.as_ref()) {
        let field = "spec.mongodb.credentialsSecretRef";
        inputs.mongodb = Some(secret(target, scope, Area::MongoDb, "mongodb", field, reference).await?);
    }
    for (index, producer) in spec.producers.iter().enumerate() {
        let source = &producer.source;
        let replay = source.replay.as_ref().and_then(|replay| replay.config_map_key_ref.as_ref()).map(|reference| ("replay", reference));
        if let Some((kind, reference)) = replay.or_else(|| source.file.as_ref().map(|file| ("file", &file.config_map_key_ref))) {
            let field = format!("spec.producers[{index}].source.{kind}.configMapKeyRef");
            let found = config_map(target, scope, Area::Workers, field, reference).await?;
            // A file that grows is followed by the pod that sends it; another recording is for another pod.
            let version = |version: String| if kind == "file" { String::new() } else { version };
            inputs.data.insert(producer.name.clone(), found.map(|(_, found)| (reference.name.clone(), reference.key.clone(), version(found))));
        }
        for file in producer.source.secret_files() {
            let field = format!("spec.producers[{index}].source.{}", file.field);
            let (name, key) = (&file.reference.name, &file.reference.key);
            let found = secret_texts(target, scope, Area::Workers, &field, name, [key]).await?;
            // Only that it is there: the producer reads it, where it is mounted.
            let mounted = |version| MountedSecret { folder: FEED_FOLDER, secret: name.clone(), files: vec![(key.clone(), file.file.clone())], version };
            inputs.secrets.entry(producer.name.clone()).or_default().push(found.map(|(_, version)| mounted(version)));
        }
    }
    if let Some(reference) = spec.dashboard.as_ref().and_then(|dashboard| dashboard.auth.as_ref()).and_then(|auth| auth.password_secret_ref.as_ref()) {
        let field = "spec.dashboard.auth.passwordSecretRef";
        let found = secret(target, scope, Area::Dashboard, DASHBOARD_FOLDER, field, reference).await?;
        inputs.password = Some(found.map(|found| found.mounted));
    }
    let scheduled =
        |kind: Kind, name: &ItemName| kind == Kind::Producer && spec.producers.iter().any(|producer| producer.name == *name && producer.schedule.is_some());
    (inputs.deployments, inputs.leftover) = standing(target, scope, &scope.deployments, "a Deployment", |kind, name| !scheduled(kind, name)).await?;
    (inputs.cron_jobs, inputs.leftover_cron_jobs) = standing(target, scope, &scope.cron_jobs, "a CronJob", scheduled).await?;
    // One that was taken out of the specification leads to them by its Deployment, or by what the status says of it.
    let had_one = inputs.leftover.iter().any(|deployment| is_of_dashboard(deployment)) || scope.shared.statuses.current(target).await.dashboard.is_some();
    if spec.dashboard.is_some() || had_one {
        inputs.companions = companions::read(target, scope).await?;
    }
    inputs.runs = super::runs::of(&inputs.cron_jobs, &scope.jobs, &scope.pods);
    inputs.reports = scope.shared.reports.of(&target.namespace, &target.name);
    inputs.pods = pods::standing(target, &scope.pods);
    Ok(inputs)
}

async fn secret(
    target: &Target,
    scope: &Scope,
    area: Area,
    folder: &'static str,
    field: &'static str,
    reference: &CredentialsSecretRef,
) -> Result<Result<Found, Problem>, Error> {
    let keys = [&reference.username_key, &reference.password_key];
    let found = secret_texts(target, scope, area, field, &reference.name, keys).await?;
    Ok(found.map(|([user, password], version)| Found {
        credentials: external::Credentials { user, password: password.into(), field, secret: reference.name.to_string() },
        mounted: MountedSecret::user(folder, reference, version),
    }))
}

/// The texts under `keys`, with the Secret's uid and resourceVersion.
async fn secret_texts<const N: usize>(
    target: &Target,
    scope: &Scope,
    area: Area,
    field: &str,
    name: &ObjectName,
    keys: [&DataKey; N],
) -> Result<Result<([String; N], String), Problem>, Error> {
    let api: Api<Secret> = Api::namespaced(scope.shared.client.clone(), &target.namespace);
    let missing = |message: String| Ok(Err(Problem::waiting(area, Reason::SecretMissing, field, message)));
    let found = match refused(api.get_opt(name.as_str()).await, "a Secret", area, field)? {
        Ok(found) => found,
        Err(problem) => return Ok(Err(problem)),
    };
    let Some(secret) = found else {
        let namespace = &target.namespace;
        let literals: String = keys.iter().map(|key| format!(" --from-literal={key}=..")).collect();
        return missing(format!("no Secret \"{name}\" in namespace \"{namespace}\"; create it: kubectl create secret generic {name} -n {namespace}{literals}"));
    };
    let version = version(&secret.metadata);
    let data = secret.data.unwrap_or_default();
    let text = |key: &DataKey| data.get(key.as_str()).and_then(|value| String::from_utf8(value.0.clone()).ok());
    if let Some(wanted) = keys.into_iter().find(|key| text(key).is_none()) {
        let hint = near_miss(wanted.as_str(), data.keys().map(String::as_str));
        return missing(format!("the Secret \"{name}\" has no text under the key \"{wanted}\"{hint}; add it, or name another key"));
    }
    Ok(Ok((keys.map(|key| text(key).unwrap_or_default()), version)))
}

/// A refusal (a Role that lacks a rule) concerns what was asked for alone; an API server that cannot answer concerns everything.
fn refused<T>(answer: Result<T, kube::Error>, what: &'static str, area: Area, field: &str) -> Result<Result<T, Problem>, Error> {
    match answer {
        Ok(found) => Ok(Ok(found)),
        // 429 is said by one that is overloaded.
        Err(kube::Error::Api(status)) if (400..500).contains(&status.code) && status.code != 429 => {
            let message = format!("cannot read {what}: {}; see whether the operator's Role is that of its chart", status.message);
            Ok(Err(Problem::waiting(area, Reason::KubernetesRefused, field, message)))
        }
        Err(source) => Err(Error::Read { what, source }),
    }
}

async fn rows_of(target: &Target, scope: &Scope, field: String, reference: &ConfigMapKeyRef) -> Result<Result<Arc<str>, Problem>, Error> {
    let (bytes, _) = match config_map(target, scope, Area::MySql, field.clone(), reference).await? {
        Ok(found) => found,
        Err(problem) => return Ok(Err(problem)),
    };
    Ok(String::from_utf8(bytes).map(Arc::from).map_err(|_| {
        let message = format!("key \"{}\" of the ConfigMap \"{}\" is not UTF-8 text; save the CSV as UTF-8", reference.key, reference.name);
        Problem::waiting(Area::MySql, Reason::ConfigMapMissing, field, message)
    }))
}

/// The bytes under a key, with the ConfigMap's uid and resourceVersion.
async fn config_map(
    target: &Target,
    scope: &Scope,
    area: Area,
    field: String,
    reference: &ConfigMapKeyRef,
) -> Result<Result<(Vec<u8>, String), Problem>, Error> {
    let api: Api<ConfigMap> = Api::namespaced(scope.shared.client.clone(), &target.namespace);
    let missing = |message: String| Ok(Err(Problem::waiting(area, Reason::ConfigMapMissing, field.clone(), message)));
    let (name, key) = (&reference.name, &reference.key);
    let found = match refused(api.get_opt(name.as_str()).await, "a ConfigMap", area, &field)? {
        Ok(found) => found,
        Err(problem) => return Ok(Err(problem)),
    };
    let Some(found) = found else {
        let namespace = &target.namespace;
        return missing(format!(
            "no ConfigMap \"{name}\" in namespace \"{namespace}\"; create it: kubectl create configmap {name} -n {namespace} --from-file={key}=<file>"
        ));
    };
    let version = version(&found.metadata);
    let (mut data, mut binary) = (found.data.unwrap_or_default(), found.binary_data.unwrap_or_default());
    let keys: Vec<String> = data.keys().chain(binary.keys()).cloned().collect();
    if let Some(bytes) = data.remove(key.as_str()).map(String::into_bytes).or_else(|| binary.remove(key.as_str()).map(|bytes| bytes.0)) {
        Ok(Ok((bytes, version)))
    } else {
        let hint = near_miss(key.as_str(), keys.iter().map(String::as_str));
        missing(format!("the ConfigMap \"{name}\" has no key \"{key}\"{hint}; add it, or name another key"))
    }
}

fn version(metadata: &kube::api::ObjectMeta) -> String {
    format!("{}.{}", metadata.uid.as_deref().unwrap_or_default(), metadata.resource_version.as_deref().unwrap_or_default())
}

/// What stands under the names of a pipeline's objects of a kind, and those of ours that no item has any more.
type Standing<K> = (BTreeMap<(Kind, ItemName), Live<K>>, Vec<Arc<K>>);

/// The objects of a kind: from the cache, and where it has none, from the API server, since one without our label is not in the cache. Those that an item is not
/// to have (`wanted`) are looked for in the cache only.
async fn standing<K>(
    target: &Target,
    scope: &Scope,
    cache: &Store<K>,
    what: &'static str,
    wanted: impl Fn(Kind, &ItemName) -> bool,
) -> Result<Standing<K>, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(scope.shared.client.clone(), &target.namespace);
    let mut standing = BTreeMap::new();
    let mut names = Vec::new();
    for (kind, name) in items(&target.pipeline) {
        let object = object_name(&target.name, kind, name.as_str());
        let live = match cache.get(&ObjectRef::new(&object).within(&target.namespace)) {
            Some(cached) => Live::of(Some(cached), target),
            None if wanted(kind, &name) => match refused(api.get_opt(&object).await, what, kind.area(), kind.field())? {
                Ok(found) => Live::of(found.map(Arc::new), target),
                Err(problem) => Live::Unread(problem),
            },
            None => Live::Absent,
        };
        standing.insert((kind, name), live);
        names.push(object);
    }
    let ours = cache.state_filter(|object| object.meta().namespace.as_deref() == Some(target.namespace.as_str()) && is_ours(object, target));
    let leftover = ours.into_iter().filter(|object| !object.meta().name.as_ref().is_some_and(|name| names.contains(name))).collect();
    Ok((standing, leftover))
}

/// All queries and producers, and the dashboard.
fn items(pipeline: &TradingPipeline) -> impl Iterator<Item = (Kind, ItemName)> {
    let queries = pipeline.spec.queries.iter().map(|query| (Kind::Query, query.name.clone()));
    let producers = pipeline.spec.producers.iter().map(|producer| (Kind::Producer, producer.name.clone()));
    queries.chain(producers).chain(pipeline.spec.dashboard.iter().map(|_| (Kind::Dashboard, dashboard::item_name())))
}

fn is_of_dashboard(deployment: &Deployment) -> bool {
    deployment.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(DASHBOARD_LABEL))
}

/// Whether its controller is this very pipeline, not one of the same name before it.
fn is_ours<K: Resource>(object: &K, target: &Target) -> bool {
    object.meta().owner_references.iter().flatten().any(|owner| owner.controller == Some(true) && owner.uid == target.uid)
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn what_is_refused_is_a_problem_of_who_needs_it() {
        let answer = |code| -> Result<(), _> { Err(kube::Error::Api(Box::new(Status::failure("secrets \"s\" is forbidden", "Forbidden").with_code(code)))) };
        let problem = refused(answer(403), "a Secret", Area::MySql, "spec.mysql.credentialsSecretRef").unwrap().unwrap_err();
        assert_eq!((problem.area, problem.reason), (Area::MySql, Reason::KubernetesRefused));
        assert!(problem.message.contains("secrets \"s\" is forbidden"), "{}", problem.message);
        for code in [429, 500, 503] {
            assert!(matches!(refused(answer(code), "a Secret", Area::MySql, "spec"), Err(Error::Read { .. })), "{code}");
        }
    }
}
