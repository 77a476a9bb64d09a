//! What the operator says of itself in `/metrics`. Live numbers of pipelines are the workers' own; here are only those about the operator's work.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// A pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PipelineLabels {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pipeline: String,
}

/// A condition of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ConditionLabels {
    /// The pipeline's namespace.
    pub namespace: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The condition's type.
    pub condition: String,
}

/// A thing that is counted by what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabels {
    /// The system or object that was spoken to.
    pub target: String,
    /// Ok or Error.
    pub result: Outcome,
}

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Outcome {
    Ok,
    Error,
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let text = match self {
            Self::Ok => "ok",
            Self::Error => "error",
        };
        EncodeLabelValue::encode(&text, encoder)
    }
}

/// All metrics of the operator.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconciles: Family<ResultLabels, Counter>,
    duration: Histogram,
    conditions: Family<ConditionLabels, Gauge>,
    calls: Family<ResultLabels, Counter>,
    polls: Family<ResultLabels, Counter>,
    workers: Family<PipelineLabels, Gauge>,
    writes: Family<ResultLabels, Counter>,
    invalid: Counter<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("tapeline_operator");
        let reconciles = Family::default();
        let duration = Histogram::new(exponential_buckets(0.01, 2.0, 12));
        let conditions = Family::default();
        let (calls, polls, workers, writes) = (Family::default(), Family::default(), Family::default(), Family::default());
        let invalid = Counter::default();
        registry.register("reconciles", "Reconciles of pipelines", reconciles.clone());
        registry.register("reconcile_duration_seconds", "How long a reconcile took", duration.clone());
        registry.register("condition", "Conditions of pipelines: 1 True, 0 False, -1 Unknown", conditions.clone());
        registry.register("external_calls", "Descriptions and changes of Kafka, Cassandra, MySQL and MongoDB, by result", calls.clone());
        registry.register("worker_polls", "Reads of /status of workers and producers", polls.clone());
        registry.register("workers", "Pods of workers and producers that are ready", workers.clone());
        registry.register("kubernetes_writes", "Writes to the API server; none when nothing changes", writes.clone());
        registry.register("invalid_objects", "TradingPipelines that could not be read", invalid.clone());
        Self { registry, reconciles, duration, conditions, calls, polls, workers, writes, invalid }
    }
}

impl Metrics {
    /// A reconcile has ended.
    pub fn reconciled(&self, ok: bool, took: Duration) {
        self.reconciles.get_or_create(&labels("pipeline", ok)).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// A condition of a pipeline is now `status` (True, False, Unknown).
    pub fn condition(&self, namespace: &str, pipeline: &str, condition: &str, status: &str) {
        let labels = ConditionLabels { namespace: namespace.to_owned(), pipeline: pipeline.to_owned(), condition: condition.to_owned() };
        let value = match status {
            "True" => 1,
            "False" => 0,
            _ => -1,
        };
        self.conditions.get_or_create(&labels).set(value);
    }

    /// A pipeline is gone: its series end.
    pub fn forget(&self, namespace: &str, pipeline: &str) {
        for condition in crate::reconcile::status::CONDITIONS {
            let labels = ConditionLabels { namespace: namespace.to_owned(), pipeline: pipeline.to_owned(), condition: (*condition).to_owned() };
            self.conditions.remove(&labels);
        }
        self.workers.remove(&PipelineLabels { namespace: namespace.to_owned(), pipeline: pipeline.to_owned() });
    }

    /// `system` was described or changed.
    pub fn external_call(&self, system: &str, ok: bool) {
        self.calls.get_or_create(&labels(system, ok)).inc();
    }

    /// A pod's `/status` was read, or not.
    pub fn polled(&self, what: &str, ok: bool) {
        self.polls.get_or_create(&labels(what, ok)).inc();
    }

    /// So many pods of a pipeline are ready.
    pub fn ready_pods(&self, namespace: &str, pipeline: &str, count: i64) {
        self.workers.get_or_create(&PipelineLabels { namespace: namespace.to_owned(), pipeline: pipeline.to_owned() }).set(count);
    }

    /// A write to the API server.
    pub fn wrote(&self, kind: &str, ok: bool) {
        self.writes.get_or_create(&labels(kind, ok)).inc();
    }

    /// An object that could not be read.
    pub fn invalid_object(&self) {
        self.invalid.inc();
    }

    /// The text for Prometheus.
    ///
    /// # Errors
    /// Only when a metric cannot be written as text.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn labels(target: &str, ok: bool) -> ResultLabels {
    ResultLabels { target: target.to_owned(), result: if ok { Outcome::Ok } else { Outcome::Error } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forgotten_pipeline_has_no_series() {
        let metrics = Metrics::default();
        metrics.condition("ns", "p", "Ready", "False");
        assert!(metrics.encode().unwrap().contains("tapeline_operator_condition{namespace=\"ns\",pipeline=\"p\",condition=\"Ready\"} 0"));
        metrics.forget("ns", "p");
        assert!(!metrics.encode().unwrap().contains("condition=\"Ready\""));
    }
}
