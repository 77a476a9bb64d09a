//! One connection for all pipelines with the same endpoint and credentials, behind a breaker.

use std::fmt;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::ErrorClass;
use super::breaker::{Breaker, Fault};

/// What pipelines with the same endpoint and credentials share.
pub(super) struct Shared<T> {
    /// Held while connecting, so that all who wait for a dead server get the first one's answer.
    slot: Mutex<Option<Arc<T>>>,
    breaker: Breaker,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { slot: Mutex::default(), breaker: Breaker::default() }
    }
}

impl<T> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("breaker", &self.breaker).finish_non_exhaustive()
    }
}

impl<T> Shared<T> {
    /// The connection, made by `connect` if there is none.
    pub(super) async fn get<F: Future<Output = Result<T, Fault>>>(&self, connect: impl FnOnce() -> F) -> Result<Arc<T>, Fault> {
        self.breaker.check()?;
        let mut slot = self.slot.lock().await;
        self.breaker.check()?;
        if let Some(there) = &*slot {
            return Ok(Arc::clone(there));
        }
        let made = self.breaker.learn(connect().await)?;
        Ok(Arc::clone(slot.insert(Arc::new(made))))
    }

    /// Gives the connection up if it failed: a new one has no leftovers (librdkafka keeps its log and its dead brokers), starts from the declared address, which
    /// may lead elsewhere now, and its first error says what is wrong now.
    pub(super) async fn give_up(&self, fault: &Fault) {
        if fault.class == ErrorClass::Unreachable {
            self.breaker.note(fault);
            self.slot.lock().await.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(shared: &Shared<u8>, answer: Result<u8, Fault>) -> Result<u8, Fault> {
        shared.get(|| async { answer }).await.map(|connection| *connection)
    }

    #[tokio::test]
    async fn one_connection_serves_all_until_it_fails_and_a_failure_stands_for_all() {
        let (shared, fault) = (Shared::default(), Fault::unreachable("the connection was closed"));
        assert_eq!(get(&shared, Ok(1)).await, Ok(1));
        shared.give_up(&Fault::failed("no such table")).await;
        assert_eq!(get(&shared, Ok(2)).await, Ok(1));
        shared.give_up(&fault).await;
        assert_eq!(get(&shared, Ok(3)).await, Err(fault));
    }
}
