//! What stands on the nodes of the graph: three lines fit. Pure.

use tapeline_api::pipeline::status::{ItemState, TradingPipelineStatus};
use tapeline_api::report::ProblemClass;

use super::state_now;
use crate::graph::Kind;
use crate::live::snapshot::{ProducerNumbers, QueryNumbers};
use crate::pages::words::{grouped, millis, rate, seconds};
use crate::tone::Tone;

/// What is told of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    /// What is wrong: the first line.
    pub(super) why: Option<String>,
    /// The other lines.
    pub(super) lines: Vec<String>,
    pub(super) tone: Tone,
    pub(super) state: String,
}

fn count(number: u64) -> String {
    grouped(i64::try_from(number).unwrap_or(i64::MAX))
}

pub(super) fn producer(status: &TradingPipelineStatus, name: &str, numbers: Option<&ProducerNumbers>) -> Told {
    let known = status.producers.iter().find(|producer| producer.name.as_str() == name);
    let problem = numbers.and_then(|numbers| numbers.problem.as_ref());
    let state = state_now(known.map_or(ItemState::Pending, |known| known.state), problem);
    let message = known.map(|known| known.message.clone()).filter(|message| !message.is_empty());
    let sent = numbers.and_then(|numbers| numbers.messages_per_second).map(|per_second| format!("{} messages/s", rate(per_second)));
    let total = numbers.and_then(|numbers| numbers.messages).map(|messages| format!("{} sent", count(messages)));
    let why = message.or_else(|| Some(problem?.message.clone()));
    Told { why, lines: sent.into_iter().chain(total).collect(), tone: Tone::of(state), state: state.to_string() }
}

pub(super) fn query(status: &TradingPipelineStatus, name: &str, numbers: Option<&QueryNumbers>) -> Told {
    let known = status.queries.iter().find(|query| query.name.as_str() == name);
    let problem = numbers.and_then(|numbers| numbers.problem.as_ref());
    let state = state_now(known.map_or(ItemState::Pending, |known| known.state), problem);
    let message = known.map(|known| known.message.clone()).filter(|message| !message.is_empty());
    let mut first: Vec<String> = Vec::new();
    let mut second: Vec<String> = Vec::new();
    if let Some(numbers) = numbers {
        first.extend(numbers.rows_per_second.map(|per_second| format!("{} rows/s", rate(per_second))));
        first.extend(numbers.lag.map(|lag| format!("lag {}", grouped(lag))));
        first.extend(numbers.behind_seconds.filter(|behind| *behind > 0).map(|behind| format!("{} behind", seconds(behind))));
        second.extend(numbers.last_batch.as_ref().map(|batch| format!("batch: {} rows, {}", count(batch.rows_in), millis(batch.commit_ms))));
        let bad = numbers.totals.bad_records;
        second.extend((bad > 0).then(|| format!("{bad} bad")));
    }
    let lines = [first.join(" \u{b7} "), second.join(" \u{b7} ")].into_iter().filter(|line| !line.is_empty()).collect();
    Told { why: message.or_else(|| Some(problem?.message.clone())), lines, tone: Tone::of(state), state: state.to_string() }
}

pub(super) fn topic(status: &TradingPipelineStatus, name: &str, messages_in: Option<f64>) -> Told {
    let partitions = status.topics.iter().find(|topic| topic.name.as_str() == name).and_then(|topic| topic.partitions);
    let partitions = match partitions {
        Some(1) => "1 partition".to_owned(),
        Some(partitions) => format!("{partitions} partitions"),
        None => "topic".to_owned(),
    };
    let lines = std::iter::once(partitions).chain(messages_in.map(|per_second| format!("{} messages/s in", rate(per_second))));
    Told { why: None, lines: lines.collect(), tone: Tone::Idle, state: String::new() }
}

/// What `queries` write to: rows of their last micro-batches, and what the store has against them.
pub(super) fn sink<'a>(kind: Kind, queries: impl Iterator<Item = &'a QueryNumbers>) -> Told {
    let (mut rows, mut why): (Option<u64>, Option<String>) = (None, None);
    for query in queries {
        if let Some(batch) = &query.last_batch {
            rows = Some(rows.unwrap_or(0) + batch.rows_out);
        }
        let of_store = query.problem.as_ref().filter(|problem| is_of_store(problem.class));
        why = why.or_else(|| of_store.map(|problem| problem.message.clone()));
    }
    let stored = rows.map(|rows| format!("last batch: {} rows", count(rows)));
    let (tone, state) = if why.is_some() { (Tone::Warn, ItemState::Waiting.to_string()) } else { (Tone::Idle, String::new()) };
    Told { why, lines: std::iter::once(kind.label().to_owned()).chain(stored).collect(), tone, state }
}

/// Whether a query's problem is its sink's.
const fn is_of_store(class: ProblemClass) -> bool {
    matches!(class, ProblemClass::StoreUnreachable | ProblemClass::StoreDenied | ProblemClass::StoreRefuses | ProblemClass::TableMissing)
}

#[cfg(test)]
mod tests {
    use tapeline_api::report::{BatchReport, Problem};

    use super::*;

    fn told(why: Option<&str>, lines: &[&str], tone: Tone, state: &str) -> Told {
        Told { why: why.map(str::to_owned), lines: lines.iter().map(ToString::to_string).collect(), tone, state: state.to_owned() }
    }

    #[test]
    fn a_query_that_waits_says_so_before_the_status_does_and_still_what_it_did_last() {
        let status: TradingPipelineStatus =
            serde_json::from_value(serde_json::json!({"conditions": [], "queries": [{"name": "raw", "state": "Running"}]})).unwrap();
        let problem = Some(Problem::new(ProblemClass::StoreUnreachable, "Cassandra does not answer"));
        let last_batch = Some(BatchReport { rows_in: 7, rows_out: 7, commit_ms: 12, plan_ms: 0, open_ms: 0, cut_at_ms: 1 });
        let waiting = QueryNumbers { problem, lag: Some(1_234), last_batch, ..QueryNumbers::default() };
        let why = Some("Cassandra does not answer");
        assert_eq!(query(&status, "raw", Some(&waiting)), told(why, &["lag 1\u{202f}234", "batch: 7 rows, 12 ms"], Tone::Warn, "Waiting"));
        assert_eq!(query(&status, "raw", None), told(None, &[], Tone::Ok, "Running"));
        assert_eq!(query(&status, "new", None).tone, Tone::Warn);
        let both = sink(Kind::Cassandra, [&waiting, &waiting].into_iter());
        assert_eq!(both, told(why, &["Cassandra", "last batch: 14 rows"], Tone::Warn, "Waiting"));
    }

    #[test]
    fn a_topic_tells_what_comes_to_it() {
        let status: TradingPipelineStatus = serde_json::from_value(serde_json::json!({"topics": [{"name": "trades", "partitions": 3}]})).unwrap();
        assert_eq!(topic(&status, "trades", Some(41.6)).lines, ["3 partitions", "42 messages/s in"]);
        assert_eq!(topic(&status, "other", None).lines, ["topic"]);
    }
}
