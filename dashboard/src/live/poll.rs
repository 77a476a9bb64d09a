//! Reads `/status` of each pod: each second while somebody watches, else each five seconds. One reading serves everybody.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use serde::de::DeserializeOwned;
use tapeline_api::labels::{PRODUCER_LABEL, QUERY_LABEL};
use tapeline_api::settings::HTTP_PORT;
use tokio_util::sync::CancellationToken;

use super::snapshot::{PodNumbers, Reading, Snapshot, Told};
use super::{Live, UNWATCHED, WATCHED, now_ms};
use crate::follow::Followed;

/// A pod that does not answer within this has not answered.
const TIMEOUT: Duration = Duration::from_secs(2);
const IN_FLIGHT: usize = 32;

/// A client for addresses of this cluster.
pub(crate) fn http() -> reqwest::ClientBuilder {
    // Built together with the producers, reqwest has TLS, and no client without whose cryptography it is, although this one never uses it. Done before is as good.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy()
}

pub(super) async fn run(live: &Live, followed: &Followed, stop: &CancellationToken) -> Result<(), reqwest::Error> {
    let http = http().timeout(TIMEOUT).build()?;
    let mut before: HashMap<String, PodNumbers> = HashMap::new();
    let mut kept: Option<Instant> = None;
    loop {
        let begun = Instant::now();
        let snapshot = Snapshot::of(read_all(&http, followed).await, &mut before, now_ms());
        if kept.is_none_or(|at| at.elapsed() >= UNWATCHED.mul_f64(0.9)) {
            kept = Some(begun);
            live.history().keep(&snapshot);
        } else {
            live.history().look(&snapshot);
        }
        live.publish(snapshot);
        tokio::select! {
            () = next(live, begun) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// Ends when it is time for the next look; sooner when somebody begins to watch.
async fn next(live: &Live, begun: Instant) {
    loop {
        let pause = if live.is_watched() { WATCHED } else { UNWATCHED };
        let left = pause.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(WATCHED / 4)).await;
    }
}

async fn read_all(http: &reqwest::Client, followed: &Followed) -> Vec<Reading> {
    let pods: Vec<Reading> = followed.pods().iter().filter_map(|pod| reading(pod)).collect();
    let readings = pods.into_iter().map(|mut reading| async move {
        if let Some(address) = &reading.address {
            reading.told = read(http, address, reading.is_query).await;
        }
        reading
    });
    stream::iter(readings).buffer_unordered(IN_FLIGHT).collect().await
}

/// A pod of a query or producer that has not ended.
fn reading(pod: &Pod) -> Option<Reading> {
    let labels = pod.metadata.labels.as_ref()?;
    let (is_query, item) = match (labels.get(QUERY_LABEL), labels.get(PRODUCER_LABEL)) {
        (Some(query), _) => (true, query),
        (None, Some(producer)) => (false, producer),
        (None, None) => return None,
    };
    let status = pod.status.as_ref()?;
    let phase = status.phase.as_deref().unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return None;
    }
    let is_ready = status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let restarts = status.container_statuses.iter().flatten().map(|container| container.restart_count).sum();
    let is_up = phase == "Running" && pod.metadata.deletion_timestamp.is_none();
    let address =
        status.pod_ip.as_deref().filter(|_| is_up).map(|ip| if ip.contains(':') { format!("[{ip}]:{HTTP_PORT}") } else { format!("{ip}:{HTTP_PORT}") });
    Some(Reading { pod: pod.metadata.name.clone()?, item: item.clone(), is_query, is_ready, restarts, address, told: Told::Nothing })
}

async fn read(http: &reqwest::Client, address: &str, is_query: bool) -> Told {
    if is_query { get(http, address).await.map_or(Told::Nothing, Told::Worker) } else { get(http, address).await.map_or(Told::Nothing, Told::Producer) }
}

async fn get<T: DeserializeOwned>(http: &reqwest::Client, address: &str) -> Option<T> {
    let answer = http.get(format!("http://{address}/status")).send().await.and_then(reqwest::Response::error_for_status);
    let read = match answer {
        Ok(answer) => answer.json().await,
        Err(error) => Err(error),
    };
    read.map_err(|error| tracing::debug!(%error, address, "a pod does not tell its status")).ok()
}
