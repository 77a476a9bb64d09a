//! What is sent: [`replay`] or [`simulate`].

pub mod replay;
pub mod simulate;

use tapeline_api::names::SqlName;
use tapeline_api::settings::ProducerSettings;

use crate::halt::{Halt, blocking};
use crate::kafka::Fault;
use crate::kafka::sender::Sender;
use crate::options::Options;
use crate::search::Position;
use crate::settings::{SettingsError, recording};
use crate::symbols::Symbol;
use replay::Replay;
use simulate::Simulate;

/// A source of messages.
#[derive(Debug)]
pub enum Source {
    /// Recorded bars.
    Replay(Box<Replay>),
    /// A made-up market.
    Simulate(Box<Simulate>),
}

impl Source {
    /// Makes the source that the settings ask for, and reads its file.
    pub async fn open(options: &Options, settings: &ProducerSettings) -> Result<Self, Halt> {
        match (&settings.source.replay, &settings.source.simulate) {
            (Some(replay), None) => {
                let (path, replay) = (recording(options, replay)?, replay.clone());
                blocking(move || Replay::open(&path, replay)).await.map(|replay| Self::Replay(Box::new(replay)))
            }
            (None, Some(simulate)) => Ok(Self::Simulate(Box::new(Simulate::new(simulate.clone())))),
            (None, None) => Err(SettingsError::Ambiguous("no source").into()),
            (Some(_), Some(_)) => Err(SettingsError::Ambiguous("two sources").into()),
        }
    }

    /// How many ticks there are in all, if they have an end.
    #[must_use]
    pub fn goal(&self) -> Option<u64> {
        match self {
            Self::Replay(replay) => replay.goal(),
            Self::Simulate(_) => None,
        }
    }

    /// Whether it goes on from the content of its last message.
    #[must_use]
    pub const fn wants_its_last_message(&self) -> bool {
        matches!(self, Self::Simulate(_))
    }

    /// The table of symbols that it still needs.
    #[must_use]
    pub fn wants_symbols(&self) -> Option<SqlName> {
        match self {
            Self::Replay(replay) => replay.wants_symbols(),
            Self::Simulate(simulate) => simulate.wants_symbols(),
        }
    }

    /// Gives it the symbols.
    pub fn take_symbols(&mut self, symbols: Vec<Symbol>) {
        match self {
            Self::Replay(replay) => replay.take_symbols(symbols),
            Self::Simulate(simulate) => simulate.take_symbols(symbols),
        }
    }

    /// Looks whether it can go on at `position`, and makes that its own.
    pub fn resume(&mut self, position: &mut Position) -> Result<(), Halt> {
        match self {
            Self::Replay(replay) => replay.agree(position),
            Self::Simulate(simulate) => {
                simulate.resume(position);
                Ok(())
            }
        }
    }

    /// Sends what `position` says is missing. Returns when everything is sent and acknowledged, which for some sources is never.
    pub async fn run(&mut self, position: &Position, sender: &Sender) -> Result<(), Fault> {
        match self {
            Self::Replay(replay) => replay.run(position, sender).await,
            Self::Simulate(simulate) => match simulate.run(position, sender).await {
                Err(fault) => Err(fault),
            },
        }
    }
}
