//! When micro-batches are cut: at full multiples of the interval, as Spark's, but never later than one interval after the last by the monotonic clock, so that
//! a clock that is set back stops nothing. Missed cuts are skipped. Each replica is a little off, so that they do not meet in the store.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// The cuts of one worker.
#[derive(Debug)]
pub(super) struct Schedule {
    interval: Duration,
    shift: Duration,
    last: Instant,
    next: Instant,
}

impl Schedule {
    pub(super) fn new(interval: Duration, replica: &str) -> Self {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        replica.hash(&mut hasher);
        let widest = u64::try_from((interval / 20).min(Duration::from_millis(250)).as_millis()).unwrap_or(0);
        let shift = Duration::from_millis(hasher.finish().checked_rem(widest).unwrap_or(0));
        let now = Instant::now();
        let mut schedule = Self { interval, shift, last: now, next: now };
        schedule.was_cut();
        schedule
    }

    /// When the open micro-batch is to be cut.
    pub(super) const fn next(&self) -> Instant {
        self.next
    }

    /// A micro-batch was cut, or there was none to cut.
    pub(super) fn was_cut(&mut self) {
        self.last = Instant::now();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.next = self.last + until_next(wall, self.interval, self.shift);
    }
}

/// From `wall` to the next multiple of `interval`, shifted; `interval` at most.
fn until_next(wall: Duration, interval: Duration, shift: Duration) -> Duration {
    let nanos = interval.as_nanos().max(1);
    let since = wall.saturating_sub(shift).as_nanos() % nanos;
    Duration::from_nanos(u64::try_from(nanos - since).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn cuts_are_at_full_multiples() {
        assert_eq!(until_next(Duration::from_secs(61), MINUTE, Duration::ZERO), Duration::from_secs(59));
        assert_eq!(until_next(Duration::from_secs(120), MINUTE, Duration::ZERO), MINUTE);
        assert_eq!(until_next(Duration::from_secs(119), MINUTE, Duration::from_secs(2)), Duration::from_secs(3));
    }

    #[tokio::test]
    async fn never_later_than_one_interval() {
        let schedule = Schedule::new(Duration::from_millis(100), "worker-0");
        assert!(schedule.next() <= Instant::now() + Duration::from_millis(100));
    }
}
