//! A server that does not answer is not asked again for a moment: otherwise each pipeline that names it would wait out the timeout, one behind the other, and
//! hold up the pipelines that have nothing to do with it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::ErrorClass;

/// How long a failure stands for further calls. Shorter than the reconcile's back-off (15 s), so that a pipeline's own next attempt is a real one.
const OPEN_FOR: Duration = Duration::from_secs(5);

/// What went wrong with a server, without the words around it: the same fault is told to each pipeline with its own field paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) class: ErrorClass,
    pub(super) detail: String,
}

impl Fault {
    pub(super) fn unreachable(detail: impl Into<String>) -> Self {
        Self { class: ErrorClass::Unreachable, detail: detail.into() }
    }

    pub(super) fn denied(detail: impl Into<String>) -> Self {
        Self { class: ErrorClass::Denied, detail: detail.into() }
    }

    pub(super) fn failed(detail: impl Into<String>) -> Self {
        Self { class: ErrorClass::Failed, detail: detail.into() }
    }

    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self { class: ErrorClass::Invalid, detail: detail.into() }
    }
}

/// The last failure to connect, while it stands.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<Option<(Instant, Fault)>>);

impl Breaker {
    /// The fault that stands, if one does.
    pub(super) fn check(&self) -> Result<(), Fault> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            Some((since, fault)) if since.elapsed() < OPEN_FOR => Err(fault.clone()),
            _ => Ok(()),
        }
    }

    /// Remembers a fault that concerns the server as a whole; others (a table that is not there) pass through.
    pub(super) fn note(&self, fault: &Fault) {
        if matches!(fault.class, ErrorClass::Unreachable | ErrorClass::Denied) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), fault.clone()));
        }
    }

    /// What came of connecting, which stands for those who come next.
    pub(super) fn learn<T>(&self, result: Result<T, Fault>) -> Result<T, Fault> {
        match &result {
            Ok(_) => *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None,
            Err(fault) => self.note(fault),
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_the_server_stands_and_one_of_a_table_does_not() {
        let breaker = Breaker::default();
        breaker.note(&Fault::failed("no such table"));
        assert_eq!(breaker.check(), Ok(()));
        let fault = Fault::unreachable("connection refused");
        breaker.note(&fault);
        assert_eq!(breaker.check(), Err(fault));
        assert_eq!(breaker.learn(Ok(())), Ok(()));
        assert_eq!(breaker.check(), Ok(()));
    }
}
