//! `tapeline-dashboard`: the web page of a pipeline. The operator starts it with its settings and credentials mounted; see `tapeline_dashboard`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tapeline_api::settings::{CREDENTIALS_DIR, SETTINGS_PATH};
use tapeline_dashboard::run::{self, run};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Serves the web page of a Tapeline pipeline.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The settings that the operator wrote.
    #[arg(long, env = "TAPELINE_SETTINGS", default_value = SETTINGS_PATH)]
    settings: PathBuf,
    /// Where Secrets are mounted.
    #[arg(long, env = "TAPELINE_CREDENTIALS", default_value = CREDENTIALS_DIR)]
    credentials: PathBuf,
    /// Where it is served, with /metrics, /healthz and /readyz.
    #[arg(long, env = "TAPELINE_LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
}

fn main() -> ExitCode {
    let Options { settings, credentials, listen } = Options::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,scylla=error,sqlx=error"));
    tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(run::Options { settings, credentials, listen })));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
