//! The part of step 5 that brings CronJobs to what was planned.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::CronJob;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use tapeline_api::FIELD_MANAGER;

use super::Cluster;
use crate::reconcile::Error;
use crate::reconcile::build::cron_job::{cron_job, old_settings, remembered, template_of};
use crate::reconcile::build::deployment::{is_applied, settings_in};
use crate::reconcile::build::{Timed, Workload};

impl Cluster<'_> {
    /// Brings the CronJob of `workload` up. ConfigMaps that are `in_use` by runs stay.
    pub(super) async fn run_on_schedule(
        &self,
        workload: &Workload,
        timed: &Timed,
        live: Option<Arc<CronJob>>,
        in_use: &BTreeSet<String>,
    ) -> Result<Arc<CronJob>, Error> {
        self.settings(workload).await?;
        let (go, keep) = live.as_ref().map(|live| old_settings(live, &workload.config_map_name(&self.target.name), in_use)).unwrap_or_default();
        for name in &go {
            self.delete_settings(name).await?;
        }
        let built = cron_job(&self.target.pipeline, workload, timed, &keep);
        match live {
            Some(live) if is_applied(&built, &live) => Ok(live),
            _ => {
                self.may_write()?;
                let name = workload.object_name(&self.target.name);
                let applied = self.cron_jobs.patch(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&built)).await;
                self.wrote("cronjob", "a CronJob", applied).map(Arc::new)
            }
        }
    }

    /// Starts no more runs, where what the CronJob would be built from cannot be read.
    pub(super) async fn pause_schedule(&self, live: &Arc<CronJob>) -> Result<Arc<CronJob>, Error> {
        if live.metadata.deletion_timestamp.is_some() || live.spec.suspend == Some(true) {
            return Ok(Arc::clone(live));
        }
        self.may_write()?;
        let name = live.metadata.name.as_deref().unwrap_or_default();
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        // With its uid: another CronJob of that name is not ours.
        let patch = json!({"metadata": {"uid": live.metadata.uid}, "spec": {"suspend": true}});
        let paused = self.cron_jobs.patch(name, &params, &Patch::Merge(patch)).await;
        self.wrote("cronjob", "a CronJob", paused).map(Arc::new)
    }

    /// Its Jobs and their pods go with it. Settings first: if the process is killed in between, the CronJob still leads to them.
    pub(super) async fn stop_schedule(&self, live: &CronJob) -> Result<(), Error> {
        if live.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let current = template_of(live).and_then(settings_in).map(str::to_owned);
        for name in remembered(live).into_iter().chain(current) {
            self.delete_settings(&name).await?;
        }
        self.may_write()?;
        let preconditions = Preconditions { uid: live.metadata.uid.clone(), resource_version: None };
        let name = live.metadata.name.as_deref().unwrap_or_default();
        let deleted = self.cron_jobs.delete(name, &DeleteParams::background().preconditions(preconditions)).await;
        self.gone("cronjob", "a CronJob", deleted)
    }
}
