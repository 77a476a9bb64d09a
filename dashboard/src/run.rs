//! One dashboard from start to end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::follow::Followed;
use crate::live::Live;
use crate::store::Credentials;
use crate::{assets, server, settings};

/// How long answers that are being sent may take when the process is to stop.
const GRACE: Duration = Duration::from_secs(5);

/// How a dashboard is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// The settings' file.
    pub settings: PathBuf,
    /// The folder of mounted Secrets.
    pub credentials: PathBuf,
    /// Where it is served.
    pub listen: SocketAddr,
}

/// Runs until SIGTERM.
///
/// # Errors
/// Settings that cannot be used, no way to Kubernetes, or an address that is taken.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let settings = settings::read(&options.settings)?;
    let client = kube::Client::try_default().await.context("finding the way to Kubernetes")?;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    assets::pack();
    let followed = Followed::start(&client, &settings.namespace, &settings.pipeline, &tasks, &stop);
    let live = Live::default();
    let app = App::new(settings, Credentials::new(options.credentials), followed.clone(), live.clone(), tasks.clone(), stop.clone());
    tasks.spawn({
        let (live, followed, stop) = (live.clone(), followed.clone(), stop.clone());
        async move {
            if let Err(error) = live.run(followed, stop).await {
                tracing::error!(%error, "pods are not read");
            }
        }
    });
    tasks.spawn({
        let (app, stop) = (app.clone(), stop.clone());
        async move { app.rows.keep_fresh(&app.followed, &app.live, &stop).await }
    });
    tasks.close();
    let served = server::serve(app, options.listen);
    tokio::pin!(served);
    let result = tokio::select! {
        result = &mut served => result,
        _ = terminate.recv() => {
            tracing::info!("stopping");
            stop.cancel();
            // A browser that does not read keeps its connection.
            timeout(GRACE, served).await.unwrap_or(Ok(()))
        }
    };
    stop.cancel();
    tasks.wait().await;
    Ok(result?)
}
