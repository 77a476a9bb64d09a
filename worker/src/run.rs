//! One worker from start to end: settings, consumer, engine, and the signals that end it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tapeline_api::pipeline::references::ReferenceTable;
use tapeline_api::report::{Problem, ProblemClass};
use tapeline_api::settings::{SinkSettings, WorkerSettings};
use tapeline_query::plan::{CheckedQuery, Tables, check};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::consumer::{self, Membership, Urgent};
use crate::dead_letters::DeadLetters;
use crate::engine::{Engine, Parts};
use crate::http;
use crate::references::References;
use crate::settings::{Credentials, read};
use crate::sink::{AnySink, ProgressKey};
use crate::status::Status;

/// How a worker is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// The settings' file.
    pub settings: PathBuf,
    /// The folder of mounted Secrets.
    pub credentials: PathBuf,
    /// Where it is asked for its status.
    pub listen: SocketAddr,
    /// End when the topic's end is reached.
    pub until_caught_up: bool,
}

/// What remains of the grace period when the engine has to be done, to leave the group in order.
const MARGIN: Duration = Duration::from_secs(5);

/// Why the work ended without being asked to.
enum Ended {
    /// The settings cannot be used, and a new start would not change that.
    Settings(anyhow::Error),
    /// A fault that a new start may cure.
    Broken(anyhow::Error),
}

/// Runs until SIGTERM. Settings that cannot be used are no reason to end: the worker stays, unready, and says why on `/status`.
///
/// # Errors
/// The status cannot be served, the system refuses a signal handler or a thread, or the consumer's thread has ended by itself.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let (stop, stopping) = watch::channel::<Urgent>(None);
    let settings = read(&options.settings);
    let name = settings.as_ref().map(|settings| settings.query.to_string()).unwrap_or_default();
    let grace = Duration::from_secs(settings.as_ref().map_or(60, |settings| settings.grace_period_seconds));
    let status = Arc::new(Status::new(name));

    let server = tokio::spawn(http::serve(options.listen, Arc::clone(&status)));
    let work = work(settings, &options, &status, stopping);
    tokio::pin!(work);
    let finished = tokio::select! {
        result = &mut work => Some(result),
        _ = terminate.recv() => None,
        served = server => return Ok(served??),
    };
    match finished {
        Some(Ok(())) if options.until_caught_up => return Ok(()),
        Some(Err(Ended::Broken(error))) => return Err(error),
        Some(result) => {
            if let Err(Ended::Settings(error)) = result {
                let problem = Problem::new(ProblemClass::InvalidSettings, format!("{error:#}"));
                tracing::error!("{}", problem.message);
                status.failed(problem);
            }
            // It stays, so that /status can say why: an end would be a crash loop.
            terminate.recv().await;
            return Ok(());
        }
        None => {}
    }
    tracing::info!("stopping");
    let deadline = Instant::now() + grace.saturating_sub(MARGIN).max(Duration::from_secs(1));
    stop.send_replace(Some(deadline));
    tokio::select! {
        _ = &mut work => {}
        _ = terminate.recv() => tracing::warn!("stopped at once"),
        () = tokio::time::sleep_until(deadline + MARGIN / 2) => tracing::warn!("stopped without leaving the group"),
    }
    Ok(())
}

async fn work(
    settings: Result<WorkerSettings, crate::settings::SettingsError>,
    options: &Options,
    status: &Arc<Status>,
    stopping: watch::Receiver<Urgent>,
) -> Result<(), Ended> {
    let settings = settings.map_err(|error| Ended::Settings(error.into()))?;
    let references: Vec<ReferenceTable> = settings.references.iter().map(|reference| reference.table.clone()).collect();
    let tables = Tables { streams: std::slice::from_ref(&settings.stream), references: &references };
    let query = check(tables, &settings.sql, settings.sink.takes()).map_err(|error| Ended::Settings(anyhow::anyhow!("the query: {error}")))?;
    // A sink that writes to Kafka has them in its transactions.
    let is_kafka = matches!(settings.sink, SinkSettings::Kafka { .. });
    let dead_letters = if is_kafka { None } else { DeadLetters::new(&settings).map_err(|error| Ended::Settings(error.into()))? };
    let references = References::new(settings.references.clone(), Credentials::new(options.credentials.clone()), query.clone(), Arc::clone(status));
    // Before the group is joined, which would wait for this worker.
    if !references.load(stopping.clone()).await {
        return Ok(());
    }
    let mut refreshing = references.keep_fresh();
    let mut handle = consumer::spawn(&settings, |column| query.reads(column), Arc::clone(status), stopping).map_err(Ended::Settings)?;
    // No id: the process is to end before any broker answered.
    if let Ok(cluster) = (&mut handle.cluster).await {
        let sink = sink(&settings, &query, options, cluster, Membership::new(handle.commands.clone()));
        let sink =
            sink.map_err(|error| if error.kind() == io::ErrorKind::InvalidInput { Ended::Settings(error.into()) } else { Ended::Broken(error.into()) })?;
        let engine = Engine::new(Parts {
            settings,
            query,
            sink,
            dead_letters,
            events: handle.events,
            commands: handle.commands,
            urgent: handle.urgent,
            status: Arc::clone(status),
            until_caught_up: options.until_caught_up,
        });
        Box::pin(engine.run()).await;
    }
    refreshing.shutdown().await;
    let thread = handle.thread;
    match tokio::task::spawn_blocking(move || thread.join()).await {
        Ok(Ok(result)) => result.map_err(Ended::Broken),
        Ok(Err(_)) | Err(_) => Err(Ended::Broken(anyhow::anyhow!("the consumer's thread has panicked"))),
    }
}

fn sink(settings: &WorkerSettings, query: &CheckedQuery, options: &Options, kafka_cluster: String, membership: Membership) -> io::Result<AnySink> {
    let key = ProgressKey {
        kafka_cluster,
        query: settings.progress_name(),
        topic: settings.stream.topic.to_string(),
        sink_table: settings.sink.table().to_owned(),
        plan_hash: query.hash(),
    };
    AnySink::new(settings, &Credentials::new(options.credentials.clone()), key, query, membership)
}
