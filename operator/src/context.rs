//! What every reconcile shares: clients, caches, what workers report, and who may act.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::core::DeserializeGuard;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::{ObjectRef, Store};
use tapeline_api::TradingPipeline;
use tokio::sync::mpsc;

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
    /// Kubernetes.
    pub client: Client,
    /// Flags.
    pub options: Options,
    /// `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Kafka, Cassandra, MySQL: one client for each endpoint and credentials.
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
    /// Pods with our label.
    pub pods: Store<Pod>,
    /// Asks for a reconcile.
    pub trigger: mpsc::UnboundedSender<ObjectRef<Guarded>>,
}

impl Scope {
    /// Asks for a reconcile of a pipeline. Several requests before it starts are one.
    pub fn ask_for(&self, namespace: &str, name: &str) {
        // The receiver is gone only when the process stops.
        let _ = self.trigger.send(ObjectRef::new(name).within(namespace));
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
