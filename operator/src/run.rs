//! Starts everything and stops it in order: the HTTP server, the check of the definition, the Lease, then a controller for each watched namespace.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Namespace;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Api, Client, Config};
use tapeline_api::FIELD_MANAGER;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::context::{Context, ValidatedCache};
use crate::external::Clients;
use crate::http::{Readiness, serve};
use crate::leader::Elector;
use crate::metrics::Metrics;
use crate::observer::reports::Reports;
use crate::options::Options;
use crate::reconcile::status::writer::StatusWriter;
use crate::{controller, skew};

/// Reconciles that have begun may take this long to end; less than the pod's grace period of 30 s.
const LAST_RECONCILES: Duration = Duration::from_secs(22);
/// And the answers of the HTTP server this long.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// A call to the API server ends after this much silence.
const SILENCE: Duration = Duration::from_secs(15);
const CANNOT_CONNECT: &str = "cannot make a client for the Kubernetes cluster";

/// Runs the operator until a signal, or until it loses the Lease.
///
/// # Errors
/// When it cannot start, and when the Lease is lost: the process has to end then.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let config = Config::infer().await.context("cannot find the Kubernetes cluster: neither a service account nor a kubeconfig")?;
    let watches = Client::try_from(config.clone()).context(CANNOT_CONNECT)?;
    let client = Client::try_from(for_calls(config)).context(CANNOT_CONNECT)?;
    let (readiness, metrics) = (Readiness::default(), Arc::new(Metrics::default()));
    let built_hash = tapeline_api::crd::built_schema_hash().context("cannot compute the schema's hash")?;
    let (fits, fitting) = watch::channel(false);
    readiness.wait_for(skew::WHAT, "not looked at yet");
    tasks.spawn(skew::watch_definition(client.clone(), built_hash, readiness.clone(), fits, stop.clone()));
    tasks.spawn(signals(stop.clone()));
    let server = tasks.spawn({
        let (listen, readiness, metrics, stop) = (options.listen, readiness.clone(), Arc::clone(&metrics), stop.clone());
        async move {
            let served = serve(listen, readiness, metrics, stop.clone()).await;
            // Without probes and metrics the process is better started anew.
            stop.cancel();
            served
        }
    });
    let result = lead(client, watches, options, &readiness, metrics, fitting, &stop).await;
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(LAST_ANSWERS, tasks.wait()).await.is_err() {
        tracing::info!("open connections are closed");
        return result;
    }
    server.await?.context("cannot serve /healthz, /readyz and /metrics")?;
    result
}

/// For everything but watches, which are silent while nothing happens.
fn for_calls(mut config: Config) -> Config {
    config.read_timeout = Some(SILENCE);
    // Else the time for which a pooled connection was idle counts as silence.
    config.reset_reader_on_write = true;
    // It sends a write again for minutes, long after the lease has run out. Whoever calls tries again, and asks for the lease then.
    config.default_retry = false;
    config
}

/// Works from the moment when it holds the Lease, for as long as it does.
async fn lead(
    client: Client,
    watches: Client,
    options: Options,
    readiness: &Readiness,
    metrics: Arc<Metrics>,
    fitting: watch::Receiver<bool>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let identity = options.identity.clone().unwrap_or_else(|| format!("tapeline-operator-{}", uuid::Uuid::new_v4()));
    let namespace = options.leader_election_namespace.clone();
    let mut elector = Elector::new(client.clone(), &namespace, identity.clone());
    let elected = CancellationToken::new();
    let Some(cluster_id) = stop.run_until_cancelled(cluster_id(&client)).await else { return Ok(()) };
    let reporter = Reporter { controller: FIELD_MANAGER.to_owned(), instance: Some(identity.clone()) };
    let shared = Arc::new(Context {
        recorder: Recorder::new(client.clone(), reporter),
        client: client.clone(),
        watches,
        metrics,
        external: Clients::default(),
        leadership: elector.leadership(),
        cluster_id,
        statuses: StatusWriter::default(),
        reports: Reports::default(),
        validated: ValidatedCache::default(),
        options,
    });
    let election = async {
        elector.acquire().await;
        tracing::info!(identity, "holding the lease");
        elected.cancel();
        elector.keep().await
    };
    let too_long = async {
        stop.cancelled().await;
        tokio::time::sleep(LAST_RECONCILES).await;
    };
    tokio::select! {
        lost = election => bail!(lost),
        result = work(&shared, readiness, &elected, fitting, stop) => {
            // Only when all work has ended, or the next process would begin beside it.
            Elector::release(client, &namespace, &identity).await;
            result
        }
        () = too_long => bail!("a reconcile did not end in time; the lease runs out by itself"),
    }
}

/// A controller for each watched namespace, while the installed definition is this program's: with another, statuses would lose fields.
async fn work(
    shared: &Arc<Context>,
    readiness: &Readiness,
    elected: &CancellationToken,
    mut fitting: watch::Receiver<bool>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut namespaces: Vec<Option<String>> = shared.options.namespaces.iter().filter(|name| !name.is_empty()).cloned().map(Some).collect();
    if namespaces.is_empty() {
        namespaces.push(None);
    }
    while !stop.is_cancelled() {
        match stop.run_until_cancelled(fitting.wait_for(|fits| *fits)).await {
            None => return Ok(()),
            Some(changed) => drop(changed.context("the check of the definition ended")?),
        }
        let round = stop.child_token();
        let controllers =
            namespaces.iter().map(|namespace| controller::run(Arc::clone(shared), namespace.clone(), readiness.clone(), elected.clone(), round.clone()));
        let unfit = async {
            let _ = fitting.wait_for(|fits| !*fits).await;
            round.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = join_all(controllers) => {}
            () = unfit => {}
        }
    }
    Ok(())
}

/// The uid of the namespace kube-system, which lives as long as the cluster.
async fn cluster_id(client: &Client) -> String {
    let api: Api<Namespace> = Api::all(client.clone());
    loop {
        match api.get("kube-system").await {
            Ok(namespace) => {
                if let Some(uid) = namespace.metadata.uid {
                    return uid;
                }
            }
            Err(error) => tracing::warn!(%error, "cannot read the namespace kube-system, whose uid is the cluster's identity"),
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
}

async fn signals(stop: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::error!("cannot listen for signals");
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = stop.cancelled() => return,
    }
    tracing::info!("stopping");
    stop.cancel();
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_call_that_nobody_answers_ends() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", server.local_addr().unwrap());
        let mut config = for_calls(Config::new(url.parse().unwrap()));
        assert_eq!(config.read_timeout.replace(Duration::from_millis(50)), Some(SILENCE));
        let api: Api<Namespace> = Api::all(Client::try_from(config).unwrap());
        let answer = tokio::time::timeout(Duration::from_secs(30), api.get("kube-system")).await;
        assert!(answer.unwrap().is_err());
    }
}
