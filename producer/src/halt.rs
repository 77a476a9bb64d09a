//! Why work stopped, in the ways that matter: to end, to wait and try again, or to stay and say that only a change helps.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tapeline_api::report::{Problem, ProblemClass};
use tokio_util::sync::CancellationToken;

/// How long a stop waits for acknowledgements. A pod has 60 s.
pub const LAST_ACKNOWLEDGEMENTS: Duration = Duration::from_secs(10);
/// The longest pause between two attempts, before jitter, which at most doubles it.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// Why work stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Halt {
    /// The process was asked to end.
    Stopped,
    /// Everything is sent and acknowledged, by a run that ends then.
    Done,
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

/// Growing pauses between attempts, with jitter, from a fifth of a second on.
#[derive(Debug)]
pub struct Patience(ExponentialBackoff);

impl Default for Patience {
    fn default() -> Self {
        Self(ExponentialBuilder::new().with_min_delay(Duration::from_millis(200)).with_max_delay(LONGEST_PAUSE).without_max_times().with_jitter().build())
    }
}

impl Patience {
    /// Waits for the next attempt.
    ///
    /// # Errors
    /// [`Halt::Stopped`].
    pub async fn pause(&mut self, stop: &CancellationToken) -> Result<(), Halt> {
        let pause = self.0.next().unwrap_or(LONGEST_PAUSE);
        stop.run_until_cancelled(tokio::time::sleep(pause)).await.ok_or(Halt::Stopped)
    }
}

/// Tries until it succeeds or something else than waiting is called for; `waiting` hears what is waited for.
///
/// # Errors
/// [`Halt::Stopped`], or what only a change helps against.
pub async fn patiently<T>(stop: &CancellationToken, waiting: impl Fn(Problem), attempt: impl AsyncFn() -> Result<T, Halt>) -> Result<T, Halt> {
    let mut patience = Patience::default();
    loop {
        match stop.run_until_cancelled(attempt()).await {
            None => return Err(Halt::Stopped),
            Some(Err(Halt::Waiting(problem))) => waiting(problem),
            Some(result) => return result,
        }
        patience.pause(stop).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    #[tokio::test]
    async fn what_may_come_back_is_waited_for_and_told() {
        let (stop, told, attempts) = (CancellationToken::new(), RefCell::new(Vec::new()), Cell::new(0));
        let waiting = |problem: Problem| told.borrow_mut().push(problem.message);
        let attempt = async || {
            attempts.set(attempts.get() + 1);
            if attempts.get() < 3 { Err(Halt::Waiting(problem(ProblemClass::KafkaUnreachable, format!("{}", attempts.get())))) } else { Ok(7) }
        };
        assert_eq!(patiently(&stop, waiting, attempt).await, Ok(7));
        assert_eq!(*told.borrow(), ["1", "2"]);
        let failed = Halt::Failed(problem(ProblemClass::InvalidSettings, "no".to_owned()));
        assert_eq!(patiently(&stop, waiting, async || Err::<(), _>(failed.clone())).await, Err(failed));
        let attempt = async || {
            stop.cancel();
            Err::<(), _>(Halt::Waiting(problem(ProblemClass::KafkaUnreachable, "4".to_owned())))
        };
        assert_eq!(patiently(&stop, waiting, attempt).await, Err(Halt::Stopped));
    }
}
