//! How long to wait: between attempts, and because a server says so.

use std::sync::Once;
use std::time::{Duration, SystemTime};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use rand::RngExt as _;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use tapeline_api::pipeline::live::Interval;

/// The longest pause between two attempts that nobody asked for.
const LONGEST: Duration = Duration::from_secs(60);
/// What they grow to before jitter, which at most doubles them.
const GROWN: Duration = Duration::from_secs(30);
/// The longest that a server's word is taken for. More is a mistake of its clock or of its author.
const OBEYED: Duration = Duration::from_secs(24 * 3600);
/// Seconds since 1970 rather than seconds from now.
const EPOCH: u64 = 1_000_000_000;

/// Growing pauses between attempts, with jitter, from half a second to a minute.
#[derive(Debug)]
pub struct Pauses(ExponentialBackoff);

impl Default for Pauses {
    fn default() -> Self {
        Self(ExponentialBuilder::new().with_min_delay(Duration::from_millis(500)).with_max_delay(GROWN).without_max_times().with_jitter().build())
    }
}

impl Pauses {
    /// The next one; longer if the server asked for it.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        let own = self.0.next().unwrap_or(LONGEST);
        asked.map_or(own, |asked| asked.max(own))
    }
}

/// What `Retry-After` asks for, in seconds or as a date.
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(OBEYED))
}

/// How long to wait since no request is left, by the headers that APIs commonly have: `X-RateLimit-Remaining` and `-Reset`, with or without the X; the reset in
/// seconds from now, or since 1970. One that is more than a day away is in another unit, milliseconds perhaps, and is passed over.
#[must_use]
pub fn used_up(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let number = |name: &str| {
        let value = headers.get(format!("x-{name}")).or_else(|| headers.get(name))?;
        value.to_str().ok()?.trim().parse::<u64>().ok()
    };
    if number("ratelimit-remaining")? > 0 {
        return None;
    }
    let wait = match number("ratelimit-reset")? {
        moment if moment >= EPOCH => moment.saturating_sub(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()),
        seconds => seconds,
    };
    let wait = Duration::from_secs(wait);
    if wait > OBEYED {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| tracing::warn!(seconds = wait.as_secs(), "X-RateLimit-Reset is more than a day away; it is passed over, and not told of again"));
        return None;
    }
    Some(wait)
}

/// The time from one request to the next.
#[must_use]
pub fn draw(interval: &Interval) -> Duration {
    let drawn = match (&interval.every, &interval.between) {
        (Some(every), _) => every.get(),
        (None, Some(between)) if between.min.get() < between.max.get() => rand::rng().random_range(between.min.get()..=between.max.get()),
        (None, Some(between)) => between.min.get(),
        (None, None) => LONGEST,
    };
    // Less is refused by the resource's rules.
    drawn.max(Duration::from_millis(100))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (reqwest::header::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    /// Sun, 06 Nov 1994 08:49:37 GMT
    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)
    }

    #[rstest]
    #[case("120", Some(120))]
    #[case("Sun, 06 Nov 1994 08:50:07 GMT", Some(30))]
    #[case("Sun, 06 Nov 1994 08:00:00 GMT", Some(0))]
    #[case("99999999", Some(86_400))]
    #[case("soon", None)]
    #[case("-1", None)]
    fn a_server_says_when_to_come_back(#[case] value: &str, #[case] seconds: Option<u64>) {
        assert_eq!(retry_after(&headers(&[("retry-after", value)]), now()), seconds.map(Duration::from_secs));
    }

    #[rstest]
    #[case(&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "30")], Some(30))]
    #[case(&[("ratelimit-remaining", "0"), ("ratelimit-reset", "30")], Some(30))]
    #[case(&[("x-ratelimit-remaining", "1"), ("x-ratelimit-reset", "30")], None)]
    #[case(&[("x-ratelimit-remaining", "0")], None)]
    fn a_server_says_that_nothing_is_left(#[case] pairs: &[(&'static str, &str)], #[case] seconds: Option<u64>) {
        assert_eq!(used_up(&headers(pairs), now()), seconds.map(Duration::from_secs));
        let moment = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1000000050")];
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH);
        assert_eq!(used_up(&headers(&moment), then), Some(Duration::from_secs(50)));
    }

    #[rstest]
    #[case::milliseconds("1000000050000")]
    #[case::largest("18446744073709551615")]
    #[case::two_days_from_now("172800")]
    fn a_moment_that_cannot_be_meant_is_passed_over(#[case] reset: &str) {
        let moment = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", reset)];
        assert_eq!(used_up(&headers(&moment), SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH)), None);
    }

    #[test]
    fn random_times_are_within_their_bounds() {
        let interval: Interval = serde_json::from_str(r#"{"between": {"min": "1s", "max": "10s"}}"#).unwrap();
        let drawn: Vec<Duration> = (0..200).map(|_| draw(&interval)).collect();
        assert!(drawn.iter().all(|time| (1.0..=10.0).contains(&time.as_secs_f64())));
        assert!(drawn.iter().min() < drawn.iter().max());
        assert_eq!(draw(&serde_json::from_str(r#"{"every": "10s"}"#).unwrap()), Duration::from_secs(10));
    }

    #[test]
    fn pauses_grow_to_a_minute_and_a_server_may_ask_for_more() {
        let mut pauses = Pauses::default();
        let own: Vec<Duration> = (0..100).map(|_| pauses.next(None)).collect();
        assert!(own[0] < Duration::from_secs(2) && own[11] >= GROWN, "{own:?}");
        assert!(own.iter().all(|pause| *pause <= LONGEST), "{own:?}");
        assert_eq!(Pauses::default().next(Some(Duration::from_secs(300))), Duration::from_secs(300));
        assert!(pauses.next(Some(Duration::ZERO)) >= GROWN);
    }
}
