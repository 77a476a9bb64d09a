//! What was heard of a source outside, in numbers: for `/metrics` and `/status`.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use tapeline_api::report::FeedReport;

type Seconds = Counter<f64, AtomicU64>;

/// The numbers. All are 0 for a producer with another source.
#[derive(Debug, Default)]
pub struct FeedNumbers {
    in_use: Arc<OnceLock<()>>,
    connected: Gauge,
    reconnections: Counter,
    disconnected: Seconds,
    gaps: Family<CauseLabel, Counter>,
    missing: Counter,
    repeats: Counter,
    unknown: Counter,
    frames: Counter,
    requests: Family<StatusLabel, Counter>,
    all_requests: Counter,
    rate_limited: Seconds,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: String,
}

const DISCONNECTED: CauseLabel = CauseLabel { cause: "Disconnected" };
const MISSING_IDS: CauseLabel = CauseLabel { cause: "MissingIds" };

impl FeedNumbers {
    /// Takes them into `/metrics`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("feed_connected", "1 while the source is connected and subscribed, or its last request succeeded", self.connected.clone());
        registry.register("feed_reconnections", "Connections made again after one that was lost", self.reconnections.clone());
        registry.register_with_unit("feed_disconnected", "Time between a lost connection and the next subscription", Unit::Seconds, self.disconnected.clone());
        registry.register("feed_gaps", "Times at which something was not delivered: the connection was down, or ids are missing", self.gaps.clone());
        registry.register("feed_missing", "Ids that are missing, where a feed counts", self.missing.clone());
        registry.register("feed_repeats", "Elements that came again and were not sent", self.repeats.clone());
        registry.register("feed_unknown", "Frames and elements that mean nothing to the mapping", self.unknown.clone());
        registry.register("feed_frames", "Frames or answers that were read", self.frames.clone());
        registry.register("feed_requests", "Requests to an HTTP API by the status of the answer; none if there was none", self.requests.clone());
        registry.register_with_unit("feed_rate_limited", "Time that was waited since the source asked for it", Unit::Seconds, self.rate_limited.clone());
    }

    /// That the producer has a source outside, so that its `/status` speaks of it.
    pub fn begin(&self) {
        self.in_use.get_or_init(|| ());
    }

    /// Whether it is connected and subscribed.
    pub fn connected(&self, connected: bool) {
        self.connected.set(i64::from(connected));
    }

    /// It is connected again, after so long.
    pub fn reconnected(&self, after: Duration) {
        self.reconnections.inc();
        self.disconnected.inc_by(after.as_secs_f64());
        self.gaps.get_or_create(&DISCONNECTED).inc();
    }

    /// So many ids are missing in one place.
    pub fn missing(&self, ids: u64) {
        self.gaps.get_or_create(&MISSING_IDS).inc();
        self.missing.inc_by(ids);
    }

    /// A frame was read, with so many repeats and unknown things in it.
    pub fn frame(&self, repeats: u64, unknown: u64) {
        self.frames.inc();
        self.repeats.inc_by(repeats);
        self.unknown.inc_by(unknown);
    }

    /// A request was answered, or was not.
    pub fn request(&self, status: Option<u16>) {
        let status = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
        self.requests.get_or_create(&StatusLabel { status }).inc();
        self.all_requests.inc();
    }

    /// It is waited for so long, since the source asked for it.
    pub fn rate_limited(&self, wait: Duration) {
        self.rate_limited.inc_by(wait.as_secs_f64());
    }

    /// For `/status`, if the producer has a source outside.
    #[must_use]
    pub fn report(&self) -> Option<FeedReport> {
        self.in_use.get()?;
        let gaps = |cause| self.gaps.get_or_create(&cause).get();
        Some(FeedReport {
            connected: self.connected.get() == 1,
            reconnections_total: self.reconnections.get(),
            gaps_total: gaps(DISCONNECTED) + gaps(MISSING_IDS),
            missing_total: self.missing.get(),
            repeats_total: self.repeats.get(),
            unknown_total: self.unknown.get(),
            requests_total: self.all_requests.get(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_source_outside_is_spoken_of() {
        let numbers = FeedNumbers::default();
        assert_eq!(numbers.report(), None);
        numbers.begin();
        assert_eq!(numbers.report(), Some(FeedReport::default()));
        numbers.connected(true);
        numbers.reconnected(Duration::from_millis(1500));
        numbers.missing(7);
        numbers.frame(2, 3);
        numbers.request(Some(429));
        let report = numbers.report().unwrap();
        assert_eq!((report.connected, report.reconnections_total, report.gaps_total, report.missing_total), (true, 1, 2, 7));
        assert_eq!((report.repeats_total, report.unknown_total, report.requests_total), (2, 3, 1));
        let mut registry = Registry::default();
        numbers.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in ["feed_gaps_total{cause=\"MissingIds\"} 1", "feed_requests_total{status=\"429\"} 1", "feed_disconnected_seconds_total 1.5"] {
            assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
        }
    }
}
