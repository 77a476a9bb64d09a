//! `tapeline-worker`: runs one query. The operator starts it with its settings and credentials mounted; see `tapeline_worker`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tapeline_api::settings::{CREDENTIALS_DIR, SETTINGS_PATH};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs one query of a Tapeline pipeline.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The settings that the operator wrote.
    #[arg(long, env = "TAPELINE_SETTINGS", default_value = SETTINGS_PATH)]
    settings: PathBuf,
    /// Where Secrets are mounted.
    #[arg(long, env = "TAPELINE_CREDENTIALS", default_value = CREDENTIALS_DIR)]
    credentials: PathBuf,
    /// Where /status, /metrics, /healthz and /readyz are served.
    #[arg(long, env = "TAPELINE_LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Ends when the topic's end is reached and everything is in the sink. For measuring.
    #[arg(long)]
    until_caught_up: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,scylla=error,sqlx=error"));
    tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).with_writer(std::io::stderr).init();
    let run = tapeline_worker::run::run(tapeline_worker::run::Options {
        settings: options.settings,
        credentials: options.credentials,
        listen: options.listen,
        until_caught_up: options.until_caught_up,
    });
    // One thread for plan and sink: a multi-threaded runtime was slower (measured).
    match tokio::runtime::Builder::new_current_thread().enable_all().build().map(|runtime| runtime.block_on(run)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
        Err(error) => {
            tracing::error!("starting the runtime: {error}");
            ExitCode::FAILURE
        }
    }
}
