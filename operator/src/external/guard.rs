//! Whether this process may still write: the rest of the leader's lease, looked at before each operation.

use std::fmt;
use std::sync::Arc;

use super::{ErrorClass, ExternalError};

/// Asked before each operation on an external system. A lease that ran out while a slow server was waited for must not be followed by a write, since another
/// process leads by then.
#[derive(Clone)]
pub struct Guard(Arc<dyn Fn() -> bool + Send + Sync>);

impl Guard {
    /// A guard that asks `holds`.
    #[must_use]
    pub fn new(holds: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(holds))
    }

    /// A guard for a process that is alone: the command line, tests.
    #[must_use]
    pub fn always() -> Self {
        Self::new(|| true)
    }

    /// # Errors
    /// [`ErrorClass::NotLeader`] when this process may no longer write.
    pub fn check(&self) -> Result<(), ExternalError> {
        if (self.0)() {
            Ok(())
        } else {
            Err(ExternalError {
                class: ErrorClass::NotLeader,
                field: "spec".to_owned(),
                message: "this operator is no longer the leader; the one that is goes on".to_owned(),
            })
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard")
    }
}
