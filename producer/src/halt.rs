//! Why work stopped, in the three ways that matter: to end, to wait and try again, or to stay and say that only a change helps.

use tapeline_api::report::{Problem, ProblemClass};

/// Why work stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Halt {
    /// The process was asked to end.
    Stopped,
    /// Something is missing that may come back; it is tried again.
    Waiting(Problem),
    /// Only a change of the settings helps.
    Failed(Problem),
}

/// A problem without a place.
#[must_use]
pub const fn problem(class: ProblemClass, message: String) -> Problem {
    Problem { class, message, partition: None, offset: None }
}

/// Does on a thread of its own what blocks.
///
/// # Errors
/// [`Halt::Failed`] if it panics, else its own.
pub async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Halt>
where
    T: Send + 'static,
    E: Into<Halt> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => Err(Halt::Failed(problem(ProblemClass::Internal, format!("a thread ended: {error}")))),
    }
}
