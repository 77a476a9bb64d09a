//! The process: listens for signals and requests, reads the settings, feeds the topic. What is wrong with the settings does not end it: it stays and says so.

use std::net::SocketAddr;

use crate::feed::Feed;
use crate::halt::Halt;
use crate::options::Options;
use crate::source::Source;
use crate::status::Status;
use crate::{http, settings, shutdown};

/// Why the process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Signals cannot be listened for.
    #[error("listening for signals: {0}")]
    Signals(std::io::Error),
    /// The address is taken, or not ours.
    #[error("listening at {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The server broke off.
    #[error("serving requests: {0}")]
    Serve(std::io::Error),
}

/// Runs until a signal ends it.
pub async fn run(options: &Options) -> Result<(), StartError> {
    let stop = shutdown::listen().map_err(StartError::Signals)?;
    let status = Status::default();
    let listener = http::bind(options.listen).await.map_err(|source| StartError::Listen { address: options.listen, source })?;
    let mut server = tokio::spawn(http::serve(listener, status.clone()));
    let work = async {
        match feed(options, &status, &stop).await {
            Halt::Stopped => {}
            Halt::Waiting(problem) | Halt::Failed(problem) => {
                status.failed(problem);
                stop.cancelled().await;
            }
        }
    };
    tokio::select! {
        () = work => {
            tracing::info!("stopped");
            Ok(())
        }
        ended = &mut server => Err(StartError::Serve(match ended {
            Ok(Err(error)) => error,
            Ok(Ok(())) => std::io::Error::other("the server ended"),
            Err(error) => std::io::Error::other(error),
        })),
    }
}

async fn feed(options: &Options, status: &Status, stop: &tokio_util::sync::CancellationToken) -> Halt {
    let settings = match settings::load(&options.settings) {
        Ok(settings) => settings,
        Err(error) => return error.into(),
    };
    status.name(settings.producer.as_str());
    tracing::info!(producer = settings.identity(), topic = %settings.topic, version = env!("CARGO_PKG_VERSION"), "starting");
    match Source::open(options, &settings).await {
        Ok(source) => Feed::new(settings, options.credentials.join("mysql"), source, status.clone(), stop.clone()).run().await,
        Err(halt) => halt,
    }
}
