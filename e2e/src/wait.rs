//! Waiting for what is to come, with a deadline that says what was awaited and what was seen last.

use std::time::{Duration, Instant};

use anyhow::Result;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// `seconds` as a duration, for reading `within(15)`.
#[must_use]
pub const fn within(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Looks with `probe` until it gives a value. Its error says what it saw instead.
pub async fn eventually<T>(what: &str, deadline: Duration, mut probe: impl AsyncFnMut() -> Result<T>) -> T {
    let (begun, mut seen) = (Instant::now(), "nothing: the first look did not end".to_owned());
    loop {
        let left = deadline.saturating_sub(begun.elapsed());
        // A probe that never has to wait is ready before any timeout, even one of no time.
        match tokio::time::timeout(left, probe()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(error)) if !left.is_zero() => seen = format!("{error:#}"),
            Ok(Err(error)) => panic!("waited {deadline:?} in vain for {what}; last seen: {error:#}"),
            Err(elapsed) => panic!("waited {deadline:?} in vain for {what} ({elapsed}); last seen: {seen}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Looks with `probe` for `period`; each look has to succeed.
pub async fn all_along(what: &str, period: Duration, mut probe: impl AsyncFnMut() -> Result<()>) {
    let begun = Instant::now();
    while begun.elapsed() < period {
        if let Err(error) = probe().await {
            panic!("{what} did not stay so: {error:#}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}
