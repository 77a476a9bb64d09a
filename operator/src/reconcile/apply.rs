//! Step 5 (IO): brings ConfigMaps and Deployments to what was planned. Each item by itself; an object that is as planned already is not sent.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;
use tapeline_api::FIELD_MANAGER;

use super::build::deployment::{OLD_SETTINGS, annotation, deployment, is_applied, is_rolled_out, settings_of};
use super::build::{Workload, config_map};
use super::dereference::{Inputs, Live};
use super::plan::{ItemPlan, Step};
use super::{Error, Target};
use crate::context::{Context, Scope};
use crate::external::REQUEST_TIMEOUT;
use crate::reason::{Area, Problem, Reason};

/// What became of an item.
#[derive(Debug)]
pub struct ItemResult {
    /// What was planned.
    pub plan: ItemPlan,
    /// The Deployment as it is now, if there is one of ours.
    pub live: Option<Arc<Deployment>>,
    /// Why it could not be applied.
    pub failed: Option<Problem>,
}

/// Applies the plan of each item, and stops what is no longer in the specification.
///
/// # Errors
/// When this process may no longer act.
pub async fn apply(target: &Target, plans: Vec<ItemPlan>, inputs: &Inputs, scope: &Scope) -> Result<Vec<ItemResult>, Error> {
    let client = Cluster::new(target, &scope.shared);
    for leftover in &inputs.leftover {
        client.stop(leftover).await?;
    }
    let mut results = Vec::new();
    for plan in plans {
        let live = inputs.deployments.get(&(plan.kind, plan.name.clone())).and_then(Live::ours).cloned();
        let done = match &plan.step {
            Step::Run(workload) => client.run(workload, live.clone()).await.map(Some),
            Step::Stop => match &live {
                Some(live) => client.stop(live).await.map(|()| None),
                None => Ok(None),
            },
            Step::Leave(_) => Ok(live.clone()),
        };
        let (live, failed) = match done {
            Ok(live) => (live, None),
            Err(Error::NotLeader) => return Err(Error::NotLeader),
            // What the API server refuses (a quota, an admission webhook) concerns this item alone.
            Err(error) => {
                let message = format!("{error}; see what refuses it, and whether the operator's Role is that of its chart");
                (live, Some(Problem::waiting(Area::Workers, Reason::KubernetesRefused, plan.field.clone(), message)))
            }
        };
        results.push(ItemResult { plan, live, failed });
    }
    Ok(results)
}

/// The objects of one pipeline.
struct Cluster<'a> {
    target: &'a Target,
    shared: &'a Context,
    deployments: Api<Deployment>,
    config_maps: Api<ConfigMap>,
}

impl<'a> Cluster<'a> {
    fn new(target: &'a Target, shared: &'a Context) -> Self {
        let api = || shared.client.clone();
        Self { target, shared, deployments: Api::namespaced(api(), &target.namespace), config_maps: Api::namespaced(api(), &target.namespace) }
    }

    async fn run(&self, workload: &Workload, live: Option<Arc<Deployment>>) -> Result<Arc<Deployment>, Error> {
        let pipeline = &self.target.pipeline;
        self.settings(workload).await?;
        if let Some(live) = &live {
            self.forget_old_settings(live, &workload.config_map_name(&self.target.name)).await?;
        }
        let built = deployment(pipeline, workload, live.as_deref());
        let now = match live {
            Some(live) if is_applied(&built, &live) => live,
            _ => {
                self.may_write()?;
                let name = workload.object_name(&self.target.name);
                let applied = self.deployments.patch(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&built)).await;
                Arc::new(self.wrote("deployment", "a Deployment", applied)?)
            }
        };
        if now.spec.as_ref().and_then(|spec| spec.replicas) != Some(workload.replicas) {
            self.may_write()?;
            let name = workload.object_name(&self.target.name);
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            let scaled = self.deployments.patch_scale(&name, &params, &Patch::Merge(json!({"spec": {"replicas": workload.replicas}}))).await;
            self.wrote("scale", "the number of pods", scaled)?;
            // `now` stays as it was: a change of scale is no rollout, and the watch brings what comes of it.
        }
        Ok(now)
    }

    /// The ConfigMap of this content. Its name says what is in it; one of that name with other content was tampered with, and is made again.
    async fn settings(&self, workload: &Workload) -> Result<(), Error> {
        let built = config_map(&self.target.pipeline, workload);
        let name = workload.config_map_name(&self.target.name);
        match self.config_maps.get_opt(&name).await.map_err(|source| Error::Read { what: "a ConfigMap", source })? {
            Some(found) if found.data == built.data => return Ok(()),
            Some(_) => self.delete_config_map(&name).await?,
            None => {}
        }
        self.may_write()?;
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let created = self.config_maps.create(&params, &built).await;
        self.wrote("configmap", "a ConfigMap", created).map(|_| ())
    }

    /// Deletes the settings of earlier templates once no pod uses them; the next apply takes them from the annotation.
    async fn forget_old_settings(&self, live: &Deployment, wanted: &str) -> Result<(), Error> {
        if !is_rolled_out(live) || settings_of(live) != Some(wanted) {
            return Ok(());
        }
        for name in annotation(live, OLD_SETTINGS).into_iter().flat_map(|list| list.split(',')).filter(|name| !name.is_empty()) {
            self.delete_config_map(name).await?;
        }
        Ok(())
    }

    /// Settings first: if the process is killed in between, the Deployment still leads to them.
    async fn stop(&self, live: &Deployment) -> Result<(), Error> {
        if live.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let old = annotation(live, OLD_SETTINGS).into_iter().flat_map(|list| list.split(',')).filter(|name| !name.is_empty());
        for name in old.chain(settings_of(live)) {
            self.delete_config_map(name).await?;
        }
        self.may_write()?;
        let preconditions = Preconditions { uid: live.metadata.uid.clone(), resource_version: None };
        let name = live.metadata.name.as_deref().unwrap_or_default();
        let deleted = self.deployments.delete(name, &DeleteParams::background().preconditions(preconditions)).await;
        self.gone("deployment", "a Deployment", deleted)
    }

    async fn delete_config_map(&self, name: &str) -> Result<(), Error> {
        self.may_write()?;
        let deleted = self.config_maps.delete(name, &DeleteParams::default()).await;
        self.gone("configmap", "a ConfigMap", deleted)
    }

    fn may_write(&self) -> Result<(), Error> {
        if self.shared.leadership.has(REQUEST_TIMEOUT) { Ok(()) } else { Err(Error::NotLeader) }
    }

    fn wrote<T>(&self, kind: &str, what: &'static str, result: Result<T, kube::Error>) -> Result<T, Error> {
        self.shared.metrics.wrote(kind, result.is_ok());
        result.map_err(|source| Error::Write { what, source })
    }

    /// What is already gone is as wanted.
    fn gone<T>(&self, kind: &str, what: &'static str, result: Result<T, kube::Error>) -> Result<(), Error> {
        match result {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => self.wrote(kind, what, other).map(|_| ()),
        }
    }
}
