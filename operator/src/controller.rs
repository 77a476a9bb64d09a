//! Watches one namespace, or the whole cluster, and starts reconciles: on a new generation, annotation or finalizer of a pipeline, on a change of its
//! Deployments, CronJobs, Jobs and pods, when the observer sees a state move, and after a while by itself.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::core::NamespaceResourceScope;
use kube::runtime::controller::{Action, Config as ControllerConfig, applier};
use kube::runtime::reflector::{ObjectRef, store::Writer};
use kube::runtime::utils::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{PredicateConfig, predicates, reflector};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::context::{Context, Guarded, Scope, Trigger};
use crate::http::Readiness;
use crate::observer;
use crate::reconcile::build::{MANAGED_BY, MANAGED_BY_LABEL, PIPELINE_LABEL};
use crate::reconcile::{Error, reconcile};

/// Events of one rollout come in bursts; a reconcile waits for the end of one.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Reconciles at a time. Most of one is waiting for servers.
const CONCURRENCY: u16 = 32;
const FIRST_RETRY: Duration = Duration::from_secs(2);

/// Runs the controller of `namespace` (or of all) until `stop`, and waits for reconciles that have begun. Caches are filled at once, so that a stand-by is
/// ready to take over; reconciles begin when the process has been `elected`.
pub async fn run(shared: Arc<Context>, namespace: Option<String>, readiness: Readiness, elected: CancellationToken, stop: CancellationToken) {
    let tasks = TaskTracker::new();
    let (requests, triggered) = mpsc::unbounded_channel();
    let (pipelines, pipeline_writer) = reflector::store::<Guarded>();
    let (deployments, deployment_writer) = reflector::store::<Deployment>();
    let (cron_jobs, cron_job_writer) = reflector::store::<CronJob>();
    let (jobs, job_writer) = reflector::store::<Job>();
    let (pods, pod_writer) = reflector::store::<Pod>();
    let scope = Arc::new(Scope {
        shared: Arc::clone(&shared),
        pipelines,
        deployments: deployments.clone(),
        cron_jobs: cron_jobs.clone(),
        jobs: jobs.clone(),
        pods: pods.clone(),
        trigger: Trigger { requests, elected: elected.clone() },
    });
    let caches = format!("the caches of {}", namespace.as_deref().unwrap_or("all namespaces"));
    readiness.wait_for(&caches, "not read yet");

    let ours = watcher::Config::default().labels(&format!("{MANAGED_BY_LABEL}={MANAGED_BY}"));
    let (filled, first_list) = oneshot::channel();
    tasks.spawn(follow(api::<Deployment>(&shared, namespace.as_deref()), ours.clone(), deployment_writer, Arc::clone(&scope), stop.clone()));
    tasks.spawn(follow(api::<CronJob>(&shared, namespace.as_deref()), ours.clone(), cron_job_writer, Arc::clone(&scope), stop.clone()));
    tasks.spawn(follow(api::<Job>(&shared, namespace.as_deref()), ours.clone(), job_writer, Arc::clone(&scope), stop.clone()));
    tasks.spawn(follow(api::<Pod>(&shared, namespace.as_deref()), ours, pod_writer, Arc::clone(&scope), stop.clone()));
    tasks.spawn(follow_pipelines(api::<Guarded>(&shared, namespace.as_deref()), pipeline_writer, Arc::clone(&scope), filled, stop.clone()));

    // A reconcile that starts before the caches of Deployments, CronJobs, Jobs and pods are filled would see none. `wait_until_ready` wakes one waiter only (kube 5.0), and the
    // applier is the one of the cache of pipelines: hence `first_list`.
    let ready = async {
        let _ = tokio::join!(deployments.wait_until_ready(), cron_jobs.wait_until_ready(), jobs.wait_until_ready(), pods.wait_until_ready(), first_list);
        readiness.is_there(&caches);
        elected.cancelled().await;
    };
    tokio::select! {
        () = ready => {
            scope.ask_for_all();
            tasks.spawn(run_observer(Arc::clone(&scope), stop.clone()));
            reconcile_all(&scope, triggered, &stop).await;
        }
        () = stop.cancelled() => {}
    }
    tasks.close();
    tasks.wait().await;
}

/// Reconciles whatever is asked for until `stop`.
async fn reconcile_all(scope: &Arc<Scope>, triggered: mpsc::UnboundedReceiver<ObjectRef<Guarded>>, stop: &CancellationToken) {
    let asked = stream::unfold(triggered, async |mut triggered| triggered.recv().await.map(|object| (Ok::<_, watcher::Error>(object), triggered)));
    let queue = Box::pin(asked.take_until(stop.clone().cancelled_owned()));
    let config = ControllerConfig::default().debounce(DEBOUNCE).concurrency(CONCURRENCY);
    applier(start, retry, Arc::clone(scope), scope.pipelines.clone(), queue, config)
        .for_each(async |result| {
            if let Err(error) = result {
                tracing::debug!(%error, "a reconcile did not end well");
            }
        })
        .await;
}

/// Each reconcile in a task of its own: one that panics is that pipeline's problem alone.
fn start(object: Arc<Guarded>, scope: Arc<Scope>) -> impl Future<Output = Result<Action, Error>> + Unpin {
    Box::pin(async move { tokio::spawn(reconcile(object, scope)).await.unwrap_or_else(|error| Err(Error::Panic(error.to_string()))) })
}

fn retry(object: Arc<Guarded>, error: &Error, _: Arc<Scope>) -> Action {
    if !matches!(error, Error::NotLeader | Error::Conflict) {
        tracing::warn!(pipeline = object.name_any(), namespace = object.namespace(), %error, "a reconcile failed and is tried again");
    }
    Action::requeue(FIRST_RETRY.mul_f64(1.0 + rand::random::<f64>() * 4.0))
}

async fn run_observer(scope: Arc<Scope>, stop: CancellationToken) {
    if let Err(error) = observer::observe(scope, stop).await {
        tracing::error!(%error, "workers are not observed");
    }
}

fn api<K>(shared: &Context, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match namespace {
        Some(namespace) => Api::namespaced(shared.watches.clone(), namespace),
        None => Api::all(shared.watches.clone()),
    }
}

/// Keeps the cache of pipelines, and asks for a reconcile on changes that matter: not those of a status, which are our own.
async fn follow_pipelines(api: Api<Guarded>, writer: Writer<Guarded>, scope: Arc<Scope>, filled: oneshot::Sender<()>, stop: CancellationToken) {
    let matters = |object: &Guarded| {
        let of = |property: fn(&Guarded) -> Option<u64>| property(object);
        Some(hash(&[of(predicates::generation), of(predicates::annotations), of(predicates::finalizers)]))
    };
    let mut filled = Some(filled);
    let (seen, mut known) = (Arc::clone(&scope), Known::default());
    let changes = watcher(api, watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .inspect_ok(move |event| {
            for (uid, (namespace, name)) in known.gone(event) {
                seen.forget(&uid, &namespace, &name);
            }
            if matches!(event, Event::InitDone) {
                // The objects of a list are in the cache from now on; a reconcile that was asked for at one of them may have missed it.
                seen.ask_for_all();
                // The receiver is gone when the process stops.
                filled.take().map(|filled| filled.send(()));
            }
        })
        .applied_objects()
        .predicate_filter(matters, PredicateConfig::default())
        .take_until(stop.cancelled_owned());
    let mut changes = std::pin::pin!(changes);
    while let Some(change) = changes.next().await {
        match change {
            Ok(object) => scope.ask_for(&object.namespace().unwrap_or_default(), &object.name_any()),
            Err(error) => tracing::warn!(%error, "the watch of pipelines was interrupted and goes on"),
        }
    }
}

fn hash(parts: &[Option<u64>]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

/// The pipelines of a watch by uid, with namespace and name, to find those that vanished: one that is deleted while the watch is interrupted has no event.
#[derive(Debug, Default)]
struct Known {
    now: HashMap<String, (String, String)>,
    before: HashMap<String, (String, String)>,
}

impl Known {
    /// Takes an event over, and returns what is no longer there.
    fn gone<K: Resource>(&mut self, event: &Event<K>) -> HashMap<String, (String, String)> {
        let entry = |object: &K| (object.uid().unwrap_or_default(), (object.namespace().unwrap_or_default(), object.name_any()));
        match event {
            Event::Apply(object) | Event::InitApply(object) => {
                let (uid, name) = entry(object);
                self.before.remove(&uid);
                self.now.insert(uid, name);
            }
            Event::Delete(object) => {
                let (uid, name) = entry(object);
                self.now.remove(&uid);
                return HashMap::from([(uid, name)]);
            }
            // A list that was begun and not finished is begun again.
            Event::Init => self.before.extend(self.now.drain()),
            Event::InitDone => return std::mem::take(&mut self.before),
        }
        HashMap::new()
    }
}

/// Keeps a cache of labelled objects, and asks for a reconcile of the pipeline of each that changes.
async fn follow<K>(api: Api<K>, config: watcher::Config, writer: Writer<K>, scope: Arc<Scope>, stop: CancellationToken)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let events = watcher(api, config).default_backoff().reflect(writer).take_until(stop.cancelled_owned());
    let mut events = std::pin::pin!(events);
    // At a restart of the watch every object comes again; what vanished meanwhile does not, so the pipelines of before are asked for, too.
    let mut known: HashSet<(String, String)> = HashSet::new();
    let mut again: HashSet<(String, String)> = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object) | Event::Delete(object)) => {
                if let Some((namespace, name)) = pipeline_of(&object) {
                    scope.ask_for(&namespace, &name);
                    known.insert((namespace, name));
                }
            }
            Ok(Event::Init) => again.clear(),
            Ok(Event::InitApply(object)) => again.extend(pipeline_of(&object)),
            Ok(Event::InitDone) => {
                known.extend(again.drain());
                for (namespace, name) in &known {
                    scope.ask_for(namespace, name);
                }
            }
            Err(error) => tracing::warn!(%error, "a watch was interrupted and goes on"),
        }
    }
}

fn pipeline_of<K: Resource>(object: &K) -> Option<(String, String)> {
    let labels = object.meta().labels.as_ref()?;
    Some((object.meta().namespace.clone()?, labels.get(PIPELINE_LABEL)?.clone()))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::ObjectMeta;

    use super::*;

    fn object(name: &str, uid: &str) -> ConfigMap {
        let metadata = ObjectMeta { name: Some(name.into()), namespace: Some("ns".into()), uid: Some(uid.into()), ..ObjectMeta::default() };
        ConfigMap { metadata, ..ConfigMap::default() }
    }

    fn gone(known: &mut Known, events: impl IntoIterator<Item = Event<ConfigMap>>) -> Vec<String> {
        let mut gone: Vec<String> = events.into_iter().flat_map(|event| known.gone(&event).into_keys()).collect();
        gone.sort();
        gone
    }

    #[test]
    fn what_vanished_while_the_watch_was_interrupted_is_found_by_the_next_list() {
        let (mut known, nothing) = (Known::default(), Vec::<String>::new());
        let listed = |name, uid| Event::InitApply(object(name, uid));
        assert_eq!(gone(&mut known, [Event::Init, listed("a", "1"), listed("b", "2"), listed("c", "3"), Event::InitDone]), nothing);
        assert_eq!(gone(&mut known, [Event::Apply(object("d", "4")), Event::Delete(object("a", "1"))]), ["1"]);
        // `c` is deleted, `b` too and created again; the list is interrupted once.
        assert_eq!(gone(&mut known, [Event::Init, listed("d", "4"), Event::Init, listed("b", "5"), listed("d", "4"), Event::InitDone]), ["2", "3"]);
        assert_eq!(gone(&mut known, [Event::Init, listed("b", "5"), listed("d", "4"), Event::InitDone]), nothing);
    }
}
