//! The second loop: reads `/status` of every worker and producer, and writes numbers. It decides nothing; when the state of a query moves (it waits for a
//! store, it failed, it runs again) it asks for a reconcile, which does.
//!
//! A status write every ten seconds costs 13 KB of etcd each, 390 MB between compactions for 1,000 pipelines (measured): so numbers are rounded to two
//! digits, and written at most once a minute and only when a rounded one moved. Live numbers are in the workers' own `/metrics`.

mod ask;
pub mod numbers;
pub mod reports;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use rand::RngExt;
use tapeline_api::names::ItemName;
use tapeline_api::settings::HTTP_PORT;
use tokio_util::sync::CancellationToken;

use crate::context::Scope;
use crate::reconcile::build::{Kind, PIPELINE_LABEL};
use crate::reconcile::pods::{has_ended, is_ready, item, label};
use reports::{ItemView, PodState, Report};

const TICK: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_secs(15);
const SOON: Duration = Duration::from_secs(3);
/// For how long a worker may be without partitions because it has just joined its group, rather than because there are more workers than partitions.
const STARTING: Duration = Duration::from_secs(30);
const IN_FLIGHT: usize = 64;

/// A pod to read, and what is known of it.
#[derive(Debug)]
struct Watched {
    namespace: String,
    pipeline: String,
    item: (Kind, ItemName),
    address: Option<String>,
    due: Instant,
    state: PodState,
}

impl Watched {
    fn age(&self) -> Duration {
        self.state.ready_since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// What was seen of a pipeline at the last look, to find what moved.
#[derive(Debug, Default)]
struct Seen {
    states: BTreeMap<(Kind, ItemName), ItemView>,
    numbers_at: Option<Instant>,
}

/// Observes the pods of a scope until `stop`.
///
/// # Errors
/// When the HTTP client cannot be made.
pub async fn observe(scope: Arc<Scope>, stop: CancellationToken) -> Result<(), reqwest::Error> {
    let http = ask::client()?;
    let mut pods: HashMap<String, Watched> = HashMap::new();
    let mut seen: HashMap<(String, String), Seen> = HashMap::new();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return Ok(()),
        }
        update_pods(&scope, &mut pods);
        poll_due(&scope, &http, &mut pods).await;
        publish(&scope, &pods, &mut seen).await;
    }
}

/// Takes over which pods there are. A pod that has just become ready is due at once.
fn update_pods(scope: &Scope, pods: &mut HashMap<String, Watched>) {
    let now = Instant::now();
    let present = scope.pods.state();
    let mut uids = std::collections::HashSet::new();
    // What a run said that is over is not what the next one says.
    for pod in present.iter().filter(|pod| !has_ended(pod)) {
        let Some((uid, namespace, pipeline, item)) = identity(pod) else { continue };
        uids.insert(uid.clone());
        let watched = pods.entry(uid).or_insert_with(|| Watched {
            namespace,
            pipeline,
            item,
            address: None,
            due: now,
            state: PodState { report: None, ready_since: None },
        });
        watched.address = address(pod);
        match (is_ready(pod), watched.state.ready_since) {
            (true, None) => {
                watched.state.ready_since = Some(now);
                watched.due = now;
            }
            (false, Some(_)) => watched.state.ready_since = None,
            _ => {}
        }
    }
    pods.retain(|uid, _| uids.contains(uid));
}

/// None for pods that have no report: a dashboard asks, and is not asked.
fn identity(pod: &Pod) -> Option<(String, String, String, (Kind, ItemName))> {
    let item = item(pod).filter(|(kind, _)| *kind != Kind::Dashboard)?;
    Some((pod.metadata.uid.clone()?, pod.metadata.namespace.clone()?, label(pod, PIPELINE_LABEL)?.clone(), item))
}

/// Where a running pod listens.
fn address(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let running = status.phase.as_deref() == Some("Running") && pod.metadata.deletion_timestamp.is_none();
    let ip = status.pod_ip.as_deref().filter(|_| running)?;
    Some(if ip.contains(':') { format!("[{ip}]:{HTTP_PORT}") } else { format!("{ip}:{HTTP_PORT}") })
}

async fn poll_due(scope: &Scope, http: &reqwest::Client, pods: &mut HashMap<String, Watched>) {
    let now = Instant::now();
    let due: Vec<(String, Kind, String)> =
        pods.iter().filter(|(_, pod)| pod.due <= now).filter_map(|(uid, pod)| Some((uid.clone(), pod.item.0, pod.address.clone()?))).collect();
    let mut answers =
        stream::iter(due).map(|(uid, kind, address)| async move { (uid, kind, ask::read(http, kind, &address).await) }).buffer_unordered(IN_FLIGHT);
    while let Some((uid, kind, answer)) = answers.next().await {
        scope.shared.metrics.polled(kind.as_str(), answer.is_ok());
        let Some(pod) = pods.get_mut(&uid) else { continue };
        // With jitter, or the pods of one rollout would all be read in the same second for ever. One that has not answered yet, or does not read yet, is asked
        // sooner.
        let is_starting = match &answer {
            Ok(Report::Worker(report)) => pod.age() < STARTING && report.partitions.is_empty(),
            Ok(Report::Producer(_)) => false,
            Err(_) => pod.state.report.is_none(),
        };
        let pause = if is_starting { SOON } else { EVERY };
        pod.due = Instant::now() + pause.mul_f64(rand::rng().random_range(0.8..1.0));
        match answer {
            Ok(report) => pod.state.report = Some((report, Instant::now())),
            Err(error) => tracing::debug!(%error, pod.pipeline, "a pod does not tell its status"),
        }
    }
}

/// Hands the reports to reconciles, asks for one where a state moved, and writes numbers.
async fn publish(scope: &Scope, pods: &HashMap<String, Watched>, seen: &mut HashMap<(String, String), Seen>) {
    type Items = BTreeMap<(Kind, ItemName), BTreeMap<String, PodState>>;
    let shared = &scope.shared;
    let mut pipelines: BTreeMap<(String, String), Items> = BTreeMap::new();
    for (uid, pod) in pods {
        let items = pipelines.entry((pod.namespace.clone(), pod.pipeline.clone())).or_default();
        items.entry(pod.item.clone()).or_default().insert(uid.clone(), pod.state.clone());
    }
    // Pods outlive their pipeline by as long as they need to end; nothing is kept of it again for them.
    pipelines.retain(|(namespace, name), _| scope.has(namespace, name));
    seen.retain(|key, _| {
        let keep = pipelines.contains_key(key);
        if !keep {
            gone(scope, key);
        }
        keep
    });
    for ((namespace, name), items) in pipelines {
        let ready = items.values().flat_map(BTreeMap::values).filter(|pod| pod.ready_since.is_some()).count();
        shared.metrics.ready_pods(&namespace, &name, i64::try_from(ready).unwrap_or(i64::MAX));
        shared.reports.set(&namespace, &name, items);
        let views = shared.reports.of(&namespace, &name);
        let seen = seen.entry((namespace.clone(), name.clone())).or_default();
        if !same_states(&seen.states, &views) {
            scope.ask_for(&namespace, &name);
        }
        seen.numbers_at = numbers::write(scope, &namespace, &name, &views, seen.numbers_at).await;
        seen.states = views;
    }
}

/// A pipeline has no pods any more, or is gone itself.
fn gone(scope: &Scope, (namespace, name): &(String, String)) {
    scope.shared.reports.forget(namespace, name);
    if scope.has(namespace, name) {
        scope.shared.metrics.ready_pods(namespace, name, 0);
    } else {
        scope.shared.metrics.forget(namespace, name);
    }
}

/// Whether nothing moved that a condition speaks of.
fn same_states(before: &BTreeMap<(Kind, ItemName), ItemView>, now: &BTreeMap<(Kind, ItemName), ItemView>) -> bool {
    let essence = |views: &BTreeMap<(Kind, ItemName), ItemView>| -> Vec<_> {
        views
            .iter()
            .map(|(item, view)| {
                let problem = view.problem.as_ref().map(|problem| (problem.class, problem.message.clone()));
                (item.clone(), view.state, view.unreachable, problem, view.notices.clone())
            })
            .collect()
    };
    essence(before) == essence(now)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case("tapeline.dev/query", Some(Kind::Query))]
    #[case("tapeline.dev/producer", Some(Kind::Producer))]
    #[case("tapeline.dev/dashboard", None)]
    fn workers_and_producers_are_asked_for_their_report(#[case] item: &str, #[case] asked: Option<Kind>) {
        let labels = json!({"tapeline.dev/pipeline": "p", item: "x"});
        let pod = serde_json::from_value(json!({"metadata": {"uid": "u", "namespace": "ns", "labels": labels}})).unwrap();
        assert_eq!(identity(&pod).map(|(.., (kind, _))| kind), asked);
    }
}
