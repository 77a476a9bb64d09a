//! What Kubernetes knows of the pipeline: the object itself with its status, its pods and its Events, kept up to date by watches. Every page is made from it, so a change
//! of the specification shows without a restart.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tapeline_api::TradingPipeline;
use tapeline_api::labels::PIPELINE_LABEL;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::live::now_ms;

/// For how long an error is taken for an interruption: longer than the longest pause between two tries (kube's: 30 s, and by chance up to as long again). A watch that goes on
/// where it was interrupted says nothing until something changes, so no news is good news after that.
const INTERRUPTED_MS: i64 = 90_000;

/// The pipeline, as Kubernetes knows it.
#[derive(Debug, Clone)]
pub struct Followed {
    pipelines: Store<TradingPipeline>,
    pods: Store<Pod>,
    events: Store<Event>,
    /// When the watch of the pipeline failed last, in milliseconds since 1970; 0 once it has told something since.
    failed_ms: Arc<AtomicI64>,
}

impl Followed {
    /// Begins to follow the pipeline `name`. The tasks end with `stop`.
    #[must_use]
    pub fn start(client: &Client, namespace: &str, name: &str, tasks: &TaskTracker, stop: &CancellationToken) -> Self {
        let failed_ms = Arc::new(AtomicI64::new(0));
        let ours = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let its_pods = watcher::Config::default().labels(&format!("{PIPELINE_LABEL}={name}"));
        let about = format!("involvedObject.kind=TradingPipeline,involvedObject.name={name}");
        let its_events = watcher::Config::default().fields(&about);
        Self {
            pipelines: follow(Api::namespaced(client.clone(), namespace), ours, "the pipeline", &failed_ms, tasks, stop),
            pods: follow(Api::namespaced(client.clone(), namespace), its_pods, "its pods", &Arc::default(), tasks, stop),
            events: follow(Api::namespaced(client.clone(), namespace), its_events, "its Events", &Arc::default(), tasks, stop),
            failed_ms,
        }
    }

    /// The object. None before it was read first, and once it is deleted.
    #[must_use]
    pub fn pipeline(&self) -> Option<Arc<TradingPipeline>> {
        self.pipelines.state().into_iter().next()
    }

    /// Its pods.
    #[must_use]
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.state()
    }

    /// Its Events, the newest first.
    #[must_use]
    pub fn events(&self) -> Vec<Arc<Event>> {
        let mut events = self.events.state();
        events.sort_by_key(|event| std::cmp::Reverse(last_seen(event)));
        events
    }

    /// Whether the watch of the pipeline is interrupted: what is shown is as old as that.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        is_recent(self.failed_ms.load(Ordering::Relaxed), now_ms())
    }
}

/// Whether an error at `failed_ms` is one of a watch that has not come back.
const fn is_recent(failed_ms: i64, now_ms: i64) -> bool {
    failed_ms > 0 && now_ms - failed_ms < INTERRUPTED_MS
}

/// When an Event was seen last, in milliseconds since 1970.
#[must_use]
pub fn last_seen(event: &Event) -> Option<i64> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0.as_millisecond());
    let last = event.last_timestamp.as_ref().map(|time| time.0.as_millisecond());
    let first = event.event_time.as_ref().map(|time| time.0.as_millisecond());
    series.max(last).max(first).or_else(|| event.metadata.creation_timestamp.as_ref().map(|time| time.0.as_millisecond()))
}

fn follow<K>(api: Api<K>, config: watcher::Config, what: &'static str, failed_ms: &Arc<AtomicI64>, tasks: &TaskTracker, stop: &CancellationToken) -> Store<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let (failed_ms, stop) = (Arc::clone(failed_ms), stop.clone());
    tasks.spawn(async move {
        let events = watcher(api, config).default_backoff().reflect(writer).take_until(stop.cancelled_owned());
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(_) => failed_ms.store(0, Ordering::Relaxed),
                Err(error) => {
                    failed_ms.store(now_ms(), Ordering::Relaxed);
                    tracing::warn!(%error, "the watch of {what} was interrupted and goes on");
                }
            }
        }
    });
    store
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    impl Followed {
        /// What is known when Kubernetes has told of `pipeline` and nothing else.
        pub(crate) fn of(pipeline: TradingPipeline) -> Self {
            let (pipelines, mut writer) = reflector::store();
            writer.apply_watcher_event(&watcher::Event::Apply(pipeline));
            Self { pipelines, pods: reflector::store().0, events: reflector::store().0, failed_ms: Arc::default() }
        }
    }

    #[test]
    fn an_interruption_is_over_some_time_after_its_last_error() {
        assert!(!is_recent(0, 1_000_000), "there was none, or the watch has told something since");
        assert!(is_recent(1_000_000, 1_089_999));
        assert!(!is_recent(1_000_000, 1_090_000));
    }
}
