//! Live numbers: what workers and producers say on `/status`, read once for all who look, and kept for an hour.

pub(crate) mod batches;
pub mod history;
pub(crate) mod poll;
pub mod snapshot;

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::follow::Followed;
use history::History;
use snapshot::Snapshot;

/// Between two looks while somebody watches.
pub const WATCHED: Duration = Duration::from_secs(1);
/// Between two looks while nobody does; and between two points of the history.
pub const UNWATCHED: Duration = Duration::from_secs(5);
/// For how long after the last request somebody is taken to watch.
const LINGER_MS: i64 = 30_000;

/// The newest numbers and those before.
#[derive(Debug, Clone)]
pub struct Live(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    newest: watch::Sender<Arc<Snapshot>>,
    history: Mutex<History>,
    viewers: AtomicUsize,
    asked_ms: AtomicI64,
}

/// Somebody who watches, until this is dropped.
#[derive(Debug)]
pub struct Viewer(Arc<Inner>);

impl Drop for Viewer {
    fn drop(&mut self) {
        self.0.viewers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Live {
    fn default() -> Self {
        let newest = watch::Sender::new(Arc::default());
        Self(Arc::new(Inner { newest, history: Mutex::default(), viewers: AtomicUsize::new(0), asked_ms: AtomicI64::new(0) }))
    }
}

impl Live {
    /// Reads the pods of `followed` until `stop`.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub async fn run(self, followed: Followed, stop: CancellationToken) -> Result<(), reqwest::Error> {
        poll::run(&self, &followed, &stop).await
    }

    /// The newest numbers.
    #[must_use]
    pub fn newest(&self) -> Arc<Snapshot> {
        self.asked();
        self.0.newest.borrow().clone()
    }

    /// Changes of the newest numbers.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.0.newest.subscribe()
    }

    /// The numbers of the last hour.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.0.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody watches from now on.
    #[must_use]
    pub fn watch(&self) -> Viewer {
        self.0.viewers.fetch_add(1, Ordering::Relaxed);
        Viewer(Arc::clone(&self.0))
    }

    /// How many watch.
    #[must_use]
    pub fn viewers(&self) -> usize {
        self.0.viewers.load(Ordering::Relaxed)
    }

    /// Somebody asked for something.
    pub fn asked(&self) {
        self.0.asked_ms.store(now_ms(), Ordering::Relaxed);
    }

    /// Whether somebody watches, or did a moment ago.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.viewers() > 0 || now_ms() - self.0.asked_ms.load(Ordering::Relaxed) < LINGER_MS
    }

    fn publish(&self, snapshot: Snapshot) {
        self.0.newest.send_replace(Arc::new(snapshot));
    }
}

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
