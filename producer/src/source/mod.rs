//! What is sent, as a [`Source`]: [`file`], [`orders`], [`replay`] or [`simulate`].

pub mod file;
pub mod orders;
pub mod replay;
pub mod simulate;

use futures::future::LocalBoxFuture;
use tapeline_api::names::SqlName;
use tapeline_api::settings::ProducerSettings;

use crate::halt::{Halt, blocking};
use crate::kafka::Fault;
use crate::kafka::sender::Sender;
use crate::options::Options;
use crate::search::Position;
use crate::settings::{SettingsError, hand_fed, recording};
use crate::symbols::Symbol;
use file::File;
use orders::Orders;
use replay::Replay;
use simulate::Simulate;

/// How often a source goes through what it has.
///
/// A source that can be scheduled returns from [`Source::run`] after one round, with everything acknowledged: a file when all of it is sent, a poll when what it
/// brought is sent. It tells another attempt of the same run from another run by the name, and sends in that only what is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rounds {
    /// For as long as the process lives.
    Endless,
    /// One; then the process ends.
    One {
        /// What tells the run from every other; see [`tapeline_api::settings::RUN_VARIABLE`].
        run: String,
    },
}

impl Rounds {
    /// As the settings and the environment say.
    #[must_use]
    pub fn of(options: &Options, settings: &ProducerSettings) -> Self {
        match (&settings.once, &options.run) {
            (None, _) => Self::Endless,
            (Some(_), Some(run)) => Self::One { run: run.clone() },
            // By hand, without Kubernetes: each start is a run.
            (Some(_), None) => Self::One { run: jiff::Timestamp::now().to_string() },
        }
    }

    /// What tells the run from every other; nothing outside of one.
    #[must_use]
    pub fn run(&self) -> &str {
        match self {
            Self::Endless => "",
            Self::One { run } => run,
        }
    }
}

/// A source of numbered messages, one a tick.
pub trait Source {
    /// Looks whether it can go on at `position`, and makes that its own.
    ///
    /// # Errors
    /// [`Halt::Failed`] where what the topic holds is not its own.
    fn resume(&mut self, position: &mut Position) -> Result<(), Halt>;

    /// Sends what `position` says is missing. Returns when everything is sent and acknowledged, which for some sources is never.
    ///
    /// # Errors
    /// When the sender cannot go on, or there is nothing left to number messages with.
    fn run<'a>(&'a mut self, position: &'a Position, sender: &'a Sender) -> LocalBoxFuture<'a, Result<(), Fault>>;

    /// How many ticks there are in all, if they have an end, and it is known.
    fn goal(&self) -> Option<u64> {
        None
    }

    /// What it has to be given before it runs.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Gives it the symbols.
    fn take_symbols(&mut self, _symbols: Vec<Symbol>) {}

    /// Waits until there is more to send than when it was read, which for most sources is never, and reads it.
    fn more(&mut self) -> LocalBoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

/// What a source has to be given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// The content of its last message, from which it goes on.
    pub last_message: bool,
    /// The table of symbols, as long as it has none.
    pub symbols: Option<SqlName>,
}

/// Makes the source that the settings ask for, and reads its file.
///
/// # Errors
/// [`Halt::Failed`] if they ask for none or several, or the file is not usable.
pub async fn open(options: &Options, settings: &ProducerSettings) -> Result<Box<dyn Source>, Halt> {
    let source = &settings.source;
    match (&source.replay, &source.simulate, &source.file, &source.orders) {
        (Some(replay), None, None, None) => {
            let (path, replay) = (recording(options, replay)?, replay.clone());
            Ok(Box::new(blocking(move || Replay::open(&path, replay)).await?))
        }
        (None, Some(simulate), None, None) => Ok(Box::new(Simulate::new(simulate.clone()))),
        (None, None, Some(file), None) => {
            let mut file = File::new(hand_fed(options, file), file.clone(), Rounds::of(options, settings));
            file.read();
            Ok(Box::new(file))
        }
        (None, None, None, Some(orders)) => Ok(Box::new(Orders::new(orders.clone()))),
        (None, None, None, None) => Err(SettingsError::Ambiguous("no source").into()),
        _ => Err(SettingsError::Ambiguous("several sources").into()),
    }
}
