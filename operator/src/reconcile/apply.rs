//! Step 5 (IO): brings ConfigMaps, Deployments and CronJobs to what was planned. Each item by itself; an object that is as planned already is not sent.

mod companions;
mod cron_job;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource};
use serde_json::json;
use tapeline_api::{FIELD_MANAGER, TradingPipeline};

use super::build::deployment::{OLD_SETTINGS, annotation, deployment, is_applied, is_rolled_out, settings_of};
use super::build::{Kind, Workload, config_map};
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
    /// The CronJob as it is now, if there is one of ours.
    pub cron_job: Option<Arc<CronJob>>,
    /// Why it could not be applied.
    pub failed: Option<Problem>,
}

/// What became of all.
#[derive(Debug, Default)]
pub struct Applied {
    /// Each item of the specification.
    pub items: Vec<ItemResult>,
    /// Why Deployments and CronJobs of items that are no longer in it are still there.
    pub leftover: Vec<Problem>,
}

/// Applies the plan of each item, and stops what is no longer in the specification.
///
/// # Errors
/// When this process may no longer act.
pub async fn apply(target: &Target, plans: Vec<ItemPlan>, inputs: &Inputs, scope: &Scope) -> Result<Applied, Error> {
    let client = Cluster::new(target, &scope.shared);
    let mut applied = Applied::default();
    if target.pipeline.spec.dashboard.is_none() {
        // Before its Deployment, which leads to them.
        applied.leftover.extend(inputs.companions.unread().cloned());
        if let Err(error) = client.take_away(&inputs.companions).await {
            applied.leftover.push(failed(Kind::Dashboard.field(), error)?);
        }
    }
    for leftover in &inputs.leftover {
        if let Err(error) = client.stop(leftover).await {
            applied.leftover.push(failed(field_of(leftover), error)?);
        }
    }
    for leftover in &inputs.leftover_cron_jobs {
        if let Err(error) = client.stop_schedule(leftover).await {
            applied.leftover.push(failed("spec.producers", error)?);
        }
    }
    for plan in plans {
        let key = (plan.kind, plan.name.clone());
        let before = Objects {
            deployment: inputs.deployments.get(&key).and_then(Live::ours).cloned(),
            cron_job: inputs.cron_jobs.get(&key).and_then(Live::ours).cloned(),
        };
        let done = match &plan.step {
            Step::Run(workload) => client.bring_up(workload, before.clone(), inputs).await,
            Step::Stop => client.stop_all(&before).await.map(|()| Objects::default()),
            Step::Pause => client.pause(&before).await,
            Step::Leave(_) => Ok(before.clone()),
        };
        let (Objects { deployment: live, cron_job }, failed) = match done {
            Ok(objects) => (objects, None),
            Err(error) => (before, Some(failed(&plan.field, error)?)),
        };
        applied.items.push(ItemResult { plan, live, cron_job, failed });
    }
    Ok(applied)
}

/// What the API server refuses (a quota, an admission webhook) concerns the item under `field` alone.
///
/// # Errors
/// When this process may no longer act.
fn failed(field: &str, error: Error) -> Result<Problem, Error> {
    let area = if field == Kind::Dashboard.field() { Area::Dashboard } else { Area::Workers };
    match error {
        Error::NotLeader => Err(Error::NotLeader),
        // No other answer to the same object: only a change of what it is made from helps.
        Error::Write { source: kube::Error::Api(ref status), .. } if status.code == 422 => {
            Ok(Problem::change(area, Reason::KubernetesRefused, field, format!("{error}; change what it refuses")))
        }
        Error::NameTaken(_) => {
            let field = if area == Area::Dashboard { field.to_owned() } else { format!("{field}.name") };
            Ok(Problem::waiting(area, Reason::NameTaken, field, error.to_string()))
        }
        _ => {
            let message = format!("{error}; see what refuses it, and whether the operator's Role is that of its chart");
            Ok(Problem::waiting(area, Reason::KubernetesRefused, field, message))
        }
    }
}

/// Where the item of a Deployment was declared.
fn field_of(leftover: &Deployment) -> &'static str {
    let labels = leftover.metadata.labels.as_ref();
    let kind = [Kind::Producer, Kind::Dashboard].into_iter().find(|kind| labels.is_some_and(|labels| labels.contains_key(kind.label())));
    kind.unwrap_or(Kind::Query).field()
}

/// Whose a ConfigMap is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owned {
    Ours,
    /// By a pipeline of the same name that is gone; Kubernetes deletes it sooner or later, whoever uses it.
    ByPredecessor,
    BySomebodyElse,
}

fn owned(config_map: &ConfigMap, target: &Target) -> Owned {
    let owner = config_map.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    match owner {
        Some(owner) if owner.uid == target.uid => Owned::Ours,
        Some(owner) if owner.kind == TradingPipeline::kind(&()) && owner.name == target.name => Owned::ByPredecessor,
        _ => Owned::BySomebodyElse,
    }
}

/// What an item runs as: one of both, but for the moment in which it is switched.
#[derive(Debug, Clone, Default)]
struct Objects {
    deployment: Option<Arc<Deployment>>,
    cron_job: Option<Arc<CronJob>>,
}

/// The objects of one pipeline.
struct Cluster<'a> {
    target: &'a Target,
    shared: &'a Context,
    deployments: Api<Deployment>,
    cron_jobs: Api<CronJob>,
    config_maps: Api<ConfigMap>,
}

impl<'a> Cluster<'a> {
    fn new(target: &'a Target, shared: &'a Context) -> Self {
        let api = || shared.client.clone();
        let namespace = &target.namespace;
        Self {
            target,
            shared,
            deployments: Api::namespaced(api(), namespace),
            cron_jobs: Api::namespaced(api(), namespace),
            config_maps: Api::namespaced(api(), namespace),
        }
    }

    /// Brings up what an item runs as. What it ran as before goes first. That its pods have ended is seen to by those of a CronJob, which wait for them, and beside
    /// which no other pod of the item is placed.
    async fn bring_up(&self, workload: &Workload, before: Objects, inputs: &Inputs) -> Result<Objects, Error> {
        if let Some(timed) = &workload.schedule {
            if let Some(deployment) = &before.deployment {
                self.stop(deployment).await?;
            }
            let in_use = inputs.runs.get(&workload.name).map(|runs| runs.settings.clone()).unwrap_or_default();
            let cron_job = self.run_on_schedule(workload, timed, before.cron_job, &in_use).await?;
            return Ok(Objects { deployment: None, cron_job: Some(cron_job) });
        }
        if let Some(cron_job) = &before.cron_job {
            self.stop_schedule(cron_job).await?;
        }
        if workload.kind == Kind::Dashboard {
            self.accompany(&inputs.companions).await?;
        }
        let deployment = self.run(workload, before.deployment).await?;
        Ok(Objects { deployment: Some(deployment), cron_job: None })
    }

    /// A CronJob starts no more runs, and keeps those that it has.
    async fn pause(&self, before: &Objects) -> Result<Objects, Error> {
        if let Some(deployment) = &before.deployment {
            self.stop(deployment).await?;
        }
        let cron_job = match &before.cron_job {
            Some(live) => Some(self.pause_schedule(live).await?),
            None => None,
        };
        Ok(Objects { deployment: None, cron_job })
    }

    async fn stop_all(&self, objects: &Objects) -> Result<(), Error> {
        if let Some(cron_job) = &objects.cron_job {
            self.stop_schedule(cron_job).await?;
        }
        match &objects.deployment {
            Some(deployment) => self.stop(deployment).await,
            None => Ok(()),
        }
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

    /// The ConfigMap of this content. Its name says what is in it; one of that name with other content was tampered with, and is made again, like one that
    /// would go with the pipeline before this one.
    async fn settings(&self, workload: &Workload) -> Result<(), Error> {
        let built = config_map(&self.target.pipeline, workload);
        let name = workload.config_map_name(&self.target.name);
        if let Some(found) = self.config_maps.get_opt(&name).await.map_err(|source| Error::Read { what: "a ConfigMap", source })? {
            match owned(&found, self.target) {
                Owned::Ours if found.data == built.data => return Ok(()),
                Owned::Ours | Owned::ByPredecessor => self.delete_config_map(&found).await?,
                Owned::BySomebodyElse => return Err(Error::NameTaken(name)),
            }
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
            self.delete_settings(name).await?;
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
            self.delete_settings(name).await?;
        }
        self.may_write()?;
        let preconditions = Preconditions { uid: live.metadata.uid.clone(), resource_version: None };
        let name = live.metadata.name.as_deref().unwrap_or_default();
        let deleted = self.deployments.delete(name, &DeleteParams::background().preconditions(preconditions)).await;
        self.gone("deployment", "a Deployment", deleted)
    }

    /// The name comes from a Deployment, where anybody may have written it: a ConfigMap that is not ours stays.
    async fn delete_settings(&self, name: &str) -> Result<(), Error> {
        match self.config_maps.get_opt(name).await.map_err(|source| Error::Read { what: "a ConfigMap", source })? {
            Some(found) if owned(&found, self.target) != Owned::BySomebodyElse => self.delete_config_map(&found).await,
            _ => Ok(()),
        }
    }

    async fn delete_config_map(&self, found: &ConfigMap) -> Result<(), Error> {
        self.may_write()?;
        let preconditions = Preconditions { uid: found.metadata.uid.clone(), resource_version: None };
        let name = found.metadata.name.as_deref().unwrap_or_default();
        let deleted = self.config_maps.delete(name, &DeleteParams::default().preconditions(preconditions)).await;
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

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
    use kube::core::Status;
    use rstest::rstest;

    use super::*;
    use crate::reason::Cure;
    use crate::reconcile::build::labels;
    use crate::reconcile::validate::tests::{good, pipeline};

    #[rstest]
    #[case::ours("6a3a8a5e-0000-4000-8000-000000000001", "TradingPipeline", "stock-volume", true, Owned::Ours)]
    #[case::of_the_pipeline_before("old", "TradingPipeline", "stock-volume", true, Owned::ByPredecessor)]
    #[case::of_another_pipeline("other", "TradingPipeline", "other", true, Owned::BySomebodyElse)]
    #[case::of_another_kind("other", "Deployment", "stock-volume", true, Owned::BySomebodyElse)]
    #[case::not_controlled("6a3a8a5e-0000-4000-8000-000000000001", "TradingPipeline", "stock-volume", false, Owned::BySomebodyElse)]
    fn a_config_map_belongs_to_its_controller(#[case] uid: &str, #[case] kind: &str, #[case] name: &str, #[case] controller: bool, #[case] expected: Owned) {
        let target = Target::of(&pipeline(good())).unwrap();
        let mut found = ConfigMap::default();
        assert_eq!(owned(&found, &target), Owned::BySomebodyElse);
        let owner = OwnerReference { uid: uid.into(), kind: kind.into(), name: name.into(), controller: Some(controller), ..OwnerReference::default() };
        found.metadata.owner_references = Some(vec![owner]);
        assert_eq!(owned(&found, &target), expected);
    }

    #[test]
    fn a_deployment_that_is_no_longer_declared_tells_where_it_was() {
        for kind in [Kind::Query, Kind::Producer, Kind::Dashboard] {
            let mut leftover = Deployment::default();
            leftover.metadata.labels = Some(labels("p", kind, "x"));
            assert_eq!(field_of(&leftover), kind.field());
        }
    }

    #[test]
    fn what_is_refused_concerns_one_item_and_a_lost_lease_all() {
        let refused = kube::Error::Api(Box::new(Status::failure("admission webhook \"w\" denied the request", "Forbidden").with_code(403)));
        let problem = failed("spec.queries", Error::Write { what: "a Deployment", source: refused }).unwrap();
        assert_eq!((problem.reason, problem.field.as_str()), (Reason::KubernetesRefused, "spec.queries"));
        assert!(problem.message.contains("webhook"), "{}", problem.message);
        let invalid = kube::Error::Api(Box::new(Status::failure("CronJob.batch \"x\" is invalid: spec.schedule", "Invalid").with_code(422)));
        let problem = failed("spec.producers[0]", Error::Write { what: "a CronJob", source: invalid }).unwrap();
        assert_eq!((problem.cure, problem.field.as_str()), (Cure::Change, "spec.producers[0]"), "it is not tried again and again");
        assert!(problem.message.contains("spec.schedule"), "{}", problem.message);
        let taken = failed("spec.queries[1]", Error::NameTaken("x".into())).unwrap();
        assert_eq!((taken.reason, taken.field.as_str()), (Reason::NameTaken, "spec.queries[1].name"));
        assert_eq!(failed("spec.dashboard", Error::NameTaken("x".into())).unwrap().field, "spec.dashboard", "it has no name of its own");
        assert!(matches!(failed("spec.queries", Error::NotLeader), Err(Error::NotLeader)));
    }
}
