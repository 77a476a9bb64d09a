//! The process: listens for signals and requests, reads the settings, feeds the topic. What is wrong with the settings does not end it: it stays and says so.
//! A run that a schedule started ends: with everything sent, or with the reason why not.

use std::net::SocketAddr;
use std::time::Duration;

use tapeline_api::report::{Problem, ProblemClass};
use tapeline_api::settings::{ProducerSettings, RUN_FAILED};
use tokio_util::sync::CancellationToken;

use crate::feed::Feed;
use crate::halt::{Halt, problem};
use crate::options::Options;
use crate::status::Status;
use crate::{http, live, settings, shutdown, source};

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

/// How the process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// As it should: a producer was stopped, a run is done.
    Well,
    /// A run was stopped before it was done.
    Interrupted,
    /// A run failed.
    Failed(Problem),
}

impl Ended {
    /// What the process exits with.
    #[must_use]
    pub const fn code(&self) -> u8 {
        match self {
            Self::Well => 0,
            Self::Interrupted => shutdown::IMPATIENT,
            Self::Failed(_) => RUN_FAILED,
        }
    }
}

/// Runs until a signal ends it, or, where a schedule started it, until everything is sent.
pub async fn run(options: &Options) -> Result<Ended, StartError> {
    let stop = shutdown::listen().map_err(StartError::Signals)?;
    let status = Status::default();
    let listener = http::bind(options.listen).await.map_err(|source| StartError::Listen { address: options.listen, source })?;
    let mut server = tokio::spawn(http::serve(listener, status.clone()));
    tokio::select! {
        ended = work(options, &status, &stop) => {
            tracing::info!(?ended, "stopped");
            Ok(ended)
        }
        ended = &mut server => Err(StartError::Serve(match ended {
            Ok(Err(error)) => error,
            Ok(Ok(())) => std::io::Error::other("the server ended"),
            Err(error) => std::io::Error::other(error),
        })),
    }
}

async fn work(options: &Options, status: &Status, stop: &CancellationToken) -> Ended {
    // A run whose settings cannot be read is a run all the same.
    let mut once = options.run.is_some();
    let halt = match settings::load(&options.settings) {
        Ok(settings) => {
            once = settings.once.is_some();
            let limit = settings.once.map(|once| Duration::from_millis(once.time_limit_ms));
            let stop_feed = stop.child_token();
            Box::pin(within(limit, status, &stop_feed, feed(options, settings, status, &stop_feed))).await
        }
        Err(error) => error.into(),
    };
    match halt {
        Halt::Done => Ended::Well,
        Halt::Stopped if once => Ended::Interrupted,
        Halt::Stopped => Ended::Well,
        Halt::Waiting(problem) | Halt::Failed(problem) => {
            status.failed(problem.clone());
            if once {
                return Ended::Failed(problem);
            }
            stop.cancelled().await;
            Ended::Well
        }
    }
}

async fn feed(options: &Options, settings: ProducerSettings, status: &Status, stop: &CancellationToken) -> Halt {
    status.name(settings.producer.as_str());
    tracing::info!(producer = settings.identity(), topic = %settings.topic, version = env!("CARGO_PKG_VERSION"), "starting");
    if live::is_wanted(&settings.source) {
        return live::run(options, settings, status, stop).await;
    }
    match source::open(options, &settings).await {
        Ok(source) => Feed::new(settings, options.credentials.join("mysql"), source, status.clone(), stop.clone()).run().await,
        Err(halt) => halt,
    }
}

/// Lets `feed` work for as long as a run may take. After that it is stopped as by a signal, so that what is under way still arrives.
async fn within(limit: Option<Duration>, status: &Status, stop: &CancellationToken, feed: impl Future<Output = Halt>) -> Halt {
    let Some(limit) = limit else { return feed.await };
    let mut feed = std::pin::pin!(feed);
    if let Ok(halt) = tokio::time::timeout(limit, &mut feed).await {
        return halt;
    }
    let awaited = status.report().problem;
    stop.cancel();
    match feed.await {
        Halt::Stopped | Halt::Waiting(_) => Halt::Waiting(late(limit, awaited)),
        // It came to its end at the same moment.
        halt => halt,
    }
}

fn late(limit: Duration, awaited: Option<Problem>) -> Problem {
    let seconds = limit.as_secs();
    match awaited {
        Some(awaited) => Problem { message: format!("not done within {seconds} s: {}", awaited.message), ..awaited },
        None => problem(ProblemClass::InvalidSettings, format!("not done within {seconds} s; raise schedule.timeLimit, or let a run send less")),
    }
}

#[cfg(test)]
mod tests {
    use tapeline_api::report::ProducerState;

    use super::*;

    const LIMIT: Option<Duration> = Some(Duration::from_millis(20));

    /// A feed that waits for a broker, and ends when it is asked to.
    async fn waiting(status: &Status, stop: &CancellationToken) -> Halt {
        status.waiting(problem(ProblemClass::KafkaUnreachable, "no broker answers".to_owned()));
        stop.cancelled().await;
        Halt::Stopped
    }

    #[tokio::test]
    async fn a_run_that_takes_too_long_says_what_it_waited_for() {
        let (status, stop) = (Status::default(), CancellationToken::new());
        let Halt::Waiting(problem) = within(LIMIT, &status, &stop, waiting(&status, &stop)).await else { panic!("its time is up") };
        assert_eq!((problem.class, problem.message.as_str()), (ProblemClass::KafkaUnreachable, "not done within 0 s: no broker answers"));
        let (status, stop) = (Status::default(), CancellationToken::new());
        let slow = async {
            stop.cancelled().await;
            Halt::Stopped
        };
        let Halt::Waiting(problem) = within(LIMIT, &status, &stop, slow).await else { panic!("its time is up") };
        assert!(problem.message.contains("raise schedule.timeLimit"), "{}", problem.message);
    }

    #[tokio::test]
    async fn a_run_that_ends_in_time_ends_as_it_does() {
        let (status, stop) = (Status::default(), CancellationToken::new());
        assert_eq!(within(LIMIT, &status, &stop, async { Halt::Done }).await, Halt::Done);
        assert!(!stop.is_cancelled());
        let just = async {
            stop.cancelled().await;
            Halt::Done
        };
        assert_eq!(within(LIMIT, &status, &stop, just).await, Halt::Done);
    }

    /// The program with settings that ask for a recording which is not there.
    async fn run_without_file(once: bool) -> (Ended, Status) {
        let folder = tempfile::tempdir().unwrap();
        let settings = folder.path().join("settings.json");
        let mut document = serde_json::json!({
            "formatVersion": 1, "namespace": "shop", "pipeline": "market", "producer": "sales", "topic": "sales", "kafka": {"bootstrapServers": "127.0.0.1:1"},
            "source": {"replay": {"configMapKeyRef": {"name": "bars", "key": "bars.csv"}}},
        });
        if once {
            document["once"] = serde_json::json!({"timeLimitMs": 60_000});
        }
        std::fs::write(&settings, document.to_string()).unwrap();
        let arguments = ["tapeline-producer", "--settings", settings.to_str().unwrap(), "--data-dir", folder.path().to_str().unwrap()];
        let options = <crate::options::CommandLine as clap::Parser>::parse_from(arguments).options;
        let (status, stop) = (Status::default(), CancellationToken::new());
        let ask = async {
            while status.report().problem.is_none() {
                tokio::task::yield_now().await;
            }
            stop.cancel();
        };
        (tokio::join!(work(&options, &status, &stop), ask).0, status)
    }

    #[tokio::test]
    async fn a_run_that_cannot_be_ends_and_a_producer_stays_to_say_so() {
        let (ended, _) = run_without_file(true).await;
        assert!(matches!(&ended, Ended::Failed(problem) if problem.message.contains("bars.csv cannot be read")), "{ended:?}");
        assert_eq!(ended.code(), RUN_FAILED);
        let (ended, status) = run_without_file(false).await;
        assert_eq!((ended, status.report().state), (Ended::Well, ProducerState::Failed));
    }
}
