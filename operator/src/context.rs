//! What every reconcile shares: clients, caches, what workers report, and who may act.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::Pod;
use kube::core::DeserializeGuard;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt};
use tapeline_api::TradingPipeline;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::external::Clients;
use crate::leader::Leadership;
use crate::metrics::Metrics;
use crate::observer::reports::Reports;
use crate::options::Options;
use crate::reconcile::status::writer::StatusWriter;
use crate::reconcile::validate::Validated;

/// A pipeline that may not have been readable: one bad object does not stop the watch of the others.
pub type Guarded = DeserializeGuard<TradingPipeline>;

/// Shared by all pipelines of this process.
pub struct Context {
    /// Kubernetes, for everything but watches: a call that is not answered ends.
    pub client: Client,
    /// Kubernetes, for watches, which are silent while nothing happens.
    pub watches: Client,
    /// Flags.
    pub options: Options,
    /// `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Kafka, Cassandra, MySQL, MongoDB: one client for each endpoint and credentials.
    pub external: Clients,
    /// Whether this process may act.
    pub leadership: Leadership,
    /// The uid of the namespace kube-system, which is the Kubernetes cluster's identity.
    pub cluster_id: String,
    /// Events.
    pub recorder: Recorder,
    /// The only writer of statuses.
    pub statuses: StatusWriter,
    /// What workers and producers said last.
    pub reports: Reports,
    /// Specifications that were validated, by uid and generation.
    pub validated: ValidatedCache,
}

/// One watched namespace, or the whole cluster: its caches, and the way to ask for a reconcile.
pub struct Scope {
    /// What is shared with other scopes.
    pub shared: Arc<Context>,
    /// The pipelines.
    pub pipelines: Store<Guarded>,
    /// Deployments with our label.
    pub deployments: Store<Deployment>,
    /// CronJobs with our label.
    pub cron_jobs: Store<CronJob>,
    /// Jobs with our label: the runs of those.
    pub jobs: Store<Job>,
    /// Pods with our label.
    pub pods: Store<Pod>,
    /// Asks for a reconcile.
    pub trigger: Trigger,
}

/// The way to ask for a reconcile. Nobody reads the requests of a stand-by, which may wait for months: it has none, and asks for every pipeline when it is
/// elected.
#[derive(Debug)]
pub struct Trigger {
    /// The requests.
    pub requests: mpsc::UnboundedSender<ObjectRef<Guarded>>,
    /// Whether this process reconciles.
    pub elected: CancellationToken,
}

impl Trigger {
    fn ask_for(&self, namespace: &str, name: &str) {
        if self.elected.is_cancelled() {
            // The receiver is gone only when the process stops.
            let _ = self.requests.send(ObjectRef::new(name).within(namespace));
        }
    }
}

impl Scope {
    /// Asks for a reconcile of a pipeline. Several requests before it starts are one.
    pub fn ask_for(&self, namespace: &str, name: &str) {
        self.trigger.ask_for(namespace, name);
    }

    /// Asks for a reconcile of every pipeline.
    pub fn ask_for_all(&self) {
        for object in self.pipelines.state() {
            self.ask_for(&object.namespace().unwrap_or_default(), &object.name_any());
        }
    }

    /// Whether there is a pipeline of this name.
    #[must_use]
    pub fn has(&self, namespace: &str, name: &str) -> bool {
        self.pipelines.get(&ObjectRef::new(name).within(namespace)).is_some()
    }

    /// What is kept of a pipeline goes with it; what is kept by name stays where there is another of that name already.
    pub fn forget(&self, uid: &str, namespace: &str, name: &str) {
        self.shared.statuses.forget(uid);
        self.shared.validated.forget(uid);
        if !self.has(namespace, name) {
            self.shared.reports.forget(namespace, name);
            self.shared.metrics.forget(namespace, name);
        }
    }

    /// Forgets a pipeline whose deletion came while something was done for it, which would leave what is kept of it for ever.
    pub fn forget_if_deleted(&self, object: &Guarded) {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let there = self.pipelines.get(&ObjectRef::new(&name).within(&namespace));
        if there.is_none_or(|there| there.uid() != object.uid()) {
            self.forget(&object.uid().unwrap_or_default(), &namespace, &name);
        }
    }
}

/// Validation depends on the specification alone and plans SQL, which is most of a reconcile's CPU: it is done once for each generation.
#[derive(Debug, Default)]
pub struct ValidatedCache(Mutex<HashMap<String, (i64, Arc<Validated>)>>);

impl ValidatedCache {
    /// What was found for this generation, or `validate` now.
    pub fn get_or(&self, uid: &str, generation: i64, validate: impl FnOnce() -> Validated) -> Arc<Validated> {
        if let Some((known, validated)) = self.lock().get(uid)
            && *known == generation
        {
            return Arc::clone(validated);
        }
        let validated = Arc::new(validate());
        self.lock().insert(uid.to_owned(), (generation, Arc::clone(&validated)));
        validated
    }

    /// A pipeline is gone.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (i64, Arc<Validated>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_by_collects_no_requests() {
        let (requests, mut asked) = mpsc::unbounded_channel();
        let trigger = Trigger { requests, elected: CancellationToken::new() };
        trigger.ask_for("ns", "early");
        trigger.elected.cancel();
        trigger.ask_for("ns", "late");
        assert_eq!(asked.try_recv().unwrap().name, "late");
        assert!(asked.try_recv().is_err());
    }
}
