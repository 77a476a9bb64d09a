//! How something is, at a glance.

use tapeline_api::pipeline::status::ItemState;

/// How something is, at a glance: each has a colour and a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Tone {
    Ok,
    Warn,
    Bad,
    Idle,
}

impl Tone {
    /// The class in the style sheet.
    #[must_use]
    pub const fn class(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Bad => "bad",
            Self::Idle => "idle",
        }
    }

    /// Of a query or producer.
    #[must_use]
    pub const fn of(state: ItemState) -> Self {
        match state {
            ItemState::Running | ItemState::Done => Self::Ok,
            ItemState::Pending | ItemState::Waiting => Self::Warn,
            ItemState::Failed | ItemState::Invalid => Self::Bad,
            ItemState::Suspended | ItemState::Scheduled => Self::Idle,
        }
    }
}
