//! One reconcile of one pipeline. The steps are files of their own, named as here; IO is only at both ends.

pub mod apply;
pub mod build;
pub mod check_query;
pub mod dereference;
mod invalid;
pub mod plan;
pub mod pods;
pub mod runs;
pub mod status;
pub mod systems;
pub mod validate;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::ResourceExt;
use kube::runtime::controller::Action;
use rand::RngExt;
use tapeline_api::TradingPipeline;

use crate::context::{Guarded, Scope};
use crate::external::REQUEST_TIMEOUT;
use status::Outcome;

/// A pipeline at rest is looked at again after this, give or take a tenth.
const RESYNC: Duration = Duration::from_mins(5);
/// A pipeline that waits for something is looked at again after this: what is put right shows within 15 s.
const WAITING: Duration = Duration::from_secs(9);

/// Why a reconcile ended early. Problems of a pipeline are not errors; they are in its status.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not answer.
    #[error("cannot read {what}: {source}")]
    Read {
        /// What was to be read.
        what: &'static str,
        /// The cause.
        source: kube::Error,
    },
    /// The API server refused a write.
    #[error("cannot write {what}: {source}")]
    Write {
        /// What was to be written.
        what: &'static str,
        /// The cause.
        source: kube::Error,
    },
    /// A status that is not JSON.
    #[error("cannot write the status as JSON: {0}")]
    Status(serde_json::Error),
    /// It was changed, or deleted and created anew, since it was looked at; what is to be done is decided anew.
    #[error("the pipeline was changed meanwhile")]
    Conflict,
    /// It was deleted.
    #[error("the pipeline is gone")]
    Gone,
    /// A ConfigMap that is not the pipeline's stands in the way.
    #[error("a ConfigMap \"{0}\" exists that does not belong to this pipeline; it is left alone: delete it")]
    NameTaken(String),
    /// Another process leads.
    #[error("this process may no longer act")]
    NotLeader,
    /// The reconcile itself broke.
    #[error("the reconcile panicked: {0}")]
    Panic(String),
}

/// The pipeline of a reconcile, with what must be there taken out of its metadata.
#[derive(Debug, Clone)]
pub struct Target {
    /// As it was in the cache.
    pub pipeline: Arc<TradingPipeline>,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its generation.
    pub generation: i64,
}

impl Target {
    /// None for an object that did not come from the API server.
    #[must_use]
    pub fn of(pipeline: &TradingPipeline) -> Option<Self> {
        Some(Self {
            namespace: pipeline.namespace()?,
            name: pipeline.metadata.name.clone()?,
            uid: pipeline.metadata.uid.clone()?,
            generation: pipeline.metadata.generation?,
            pipeline: Arc::new(pipeline.clone()),
        })
    }
}

/// Brings the world to what the object asks for, or says why the object cannot be read.
///
/// # Errors
/// When the API server does not do its part; the caller tries again.
pub async fn reconcile(object: Arc<Guarded>, scope: Arc<Scope>) -> Result<Action, Error> {
    if !scope.shared.leadership.has(REQUEST_TIMEOUT) {
        return Err(Error::NotLeader);
    }
    let started = Instant::now();
    let result = match &object.0 {
        Ok(pipeline) => match Target::of(pipeline) {
            Some(target) if pipeline.metadata.deletion_timestamp.is_none() => Box::pin(pipeline_to_spec(&target, &scope)).await,
            // Its Deployments and ConfigMaps go with it; everything outside Kubernetes stays.
            _ => Ok(Action::await_change()),
        },
        Err(invalid) => invalid::report(invalid, &scope).await,
    };
    let result = match result {
        Err(Error::Gone) => Ok(Action::await_change()),
        result => result,
    };
    scope.forget_if_deleted(&object);
    scope.shared.metrics.reconciled(result.is_ok(), started.elapsed());
    result
}

/// Brings the world to what `target` asks for, part by part. Steps marked IO talk to the outside; the others are pure and tested without a client.
async fn pipeline_to_spec(target: &Target, scope: &Scope) -> Result<Action, Error> {
    let shared = &scope.shared;
    let inputs = dereference::dereference(target, scope).await?; //                                       IO: Secrets, ConfigMaps, Deployments
    let validated = shared.validated.get_or(&target.uid, target.generation, || validate::validate(&target.pipeline.spec));
    let systems = Box::pin(systems::bring_up(target, &validated, &inputs, scope)).await?; //              IO: topics, keyspaces, tables, views, collections
    systems::remember(target, &systems, scope).await?; //                                                 IO: what was created
    let known = shared.statuses.current(target).await;
    let plans = plan::plan(target, &shared.options, &shared.cluster_id, &validated, &inputs, &systems, &known);
    let applied = apply::apply(target, plans, &inputs, scope).await?; //                                  IO: ConfigMaps, Deployments
    let pods_left = pods::any(target, &scope.pods);
    let outcome = Outcome { target, validated: &validated, inputs: &inputs, systems: &systems, items: &applied.items, leftover: &applied.leftover, pods_left };
    let may_heal = status::update_status(&outcome, scope).await?; //                                      IO: only when something changed
    Ok(Action::requeue(if may_heal { jitter(WAITING) } else { jitter(RESYNC) }))
}

fn jitter(about: Duration) -> Duration {
    about.mul_f64(rand::rng().random_range(0.9..1.1))
}
