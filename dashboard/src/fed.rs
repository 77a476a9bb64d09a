//! Whether new rows come to what a chart shows. The age of a reading says nothing of that: with its worker gone, the same old rows are read again and again. Pure.

use std::time::Duration;

use tapeline_api::TradingPipelineSpec;
use tapeline_api::duration::GoDuration;
use tapeline_api::pipeline::queries::Query;
use tapeline_api::pipeline::status::{ItemState, TradingPipelineStatus};

use crate::charts::Source;
use crate::graph::relations;
use crate::live::snapshot::{QueryNumbers, Snapshot, Told};
use crate::pages::words::seconds;
use crate::tone::Tone;

/// A query may be behind for three triggers, and half a minute in any case: a record waits for the end of its micro-batch, and for that to be written.
const TRIGGERS: u32 = 3;
const AT_LEAST: Duration = Duration::from_secs(30);
/// When it is behind for so many times as long, something is wrong.
const FAR: i64 = 4;

/// What is known of the queries that write what a chart shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fed {
    /// When a micro-batch was stored last, in milliseconds since 1970.
    pub stored_ms: Option<i64>,
    /// The worst of what is wrong, in words, and how bad it is.
    pub trouble: Option<(Tone, String)>,
}

impl Fed {
    /// Of the rows of `source`.
    #[must_use]
    pub fn of(spec: &TradingPipelineSpec, status: Option<&TradingPipelineStatus>, live: &Snapshot, source: &Source) -> Self {
        let mut fed = Self::default();
        for query in queries(spec, source) {
            let numbers = live.queries.get(query.name.as_str());
            let state = status.and_then(|status| status.queries.iter().find(|known| known.name == query.name)).map(|known| known.state);
            let stored = numbers.and_then(|numbers| numbers.last_batch.as_ref());
            fed.stored_ms = fed.stored_ms.max(stored.map(|batch| batch.cut_at_ms + i64::try_from(batch.commit_ms).unwrap_or_default()));
            // Before the first look nothing is known of any pod.
            let trouble = if live.at_ms == 0 { None } else { trouble(query, state.unwrap_or(ItemState::Pending), numbers) };
            let is_worse = trouble.as_ref().is_some_and(|(tone, _)| fed.trouble.as_ref().is_none_or(|(known, _)| *known == Tone::Warn && *tone == Tone::Bad));
            if is_worse {
                fed.trouble = trouble.map(|(tone, what)| (tone, format!("query {}: {what}", query.name)));
            }
        }
        fed
    }
}

/// The queries that write to the table, or to the tables that the view reads; all into MySQL if its SQL names none of those.
fn queries<'a>(spec: &'a TradingPipelineSpec, source: &Source) -> Vec<&'a Query> {
    let into = |wanted: &dyn Fn(&str) -> bool| -> Vec<&'a Query> {
        spec.queries.iter().filter(|query| query.sink.mysql.as_ref().is_some_and(|sink| wanted(&sink.table.as_str().to_lowercase()))).collect()
    };
    match source {
        Source::Table(table) => into(&|name| name == table.name.as_str().to_lowercase()),
        Source::View(view) => {
            let sql = spec.mysql.iter().flat_map(|mysql| &mysql.views).find(|known| known.name == *view).map(|view| relations(&view.sql));
            let read = sql.unwrap_or_default();
            let found = into(&|name| read.iter().any(|read| read == name));
            if found.is_empty() { into(&|_| true) } else { found }
        }
    }
}

/// What is wrong with a query.
fn trouble(query: &Query, state: ItemState, numbers: Option<&QueryNumbers>) -> Option<(Tone, String)> {
    match state {
        ItemState::Suspended => return None,
        ItemState::Failed | ItemState::Invalid => return Some((Tone::Bad, state.to_string())),
        _ => {}
    }
    let Some(numbers) = numbers.filter(|numbers| numbers.pods.iter().any(|pod| matches!(pod.told, Told::Worker(_)))) else {
        return Some((Tone::Warn, "no worker answers".to_owned()));
    };
    if let Some(problem) = &numbers.problem {
        return Some((if problem.class.is_outage() { Tone::Warn } else { Tone::Bad }, problem.message.clone()));
    }
    let trigger = query.trigger.as_ref().and_then(|trigger| trigger.interval.as_ref()).map_or(Duration::from_secs(10), GoDuration::get);
    let allowed = i64::try_from((trigger * TRIGGERS).max(AT_LEAST).as_secs()).unwrap_or(i64::MAX);
    let behind = numbers.behind_seconds.filter(|behind| *behind > allowed)?;
    let tone = if behind > allowed.saturating_mul(FAR) { Tone::Bad } else { Tone::Warn };
    Some((tone, format!("{} behind", seconds(behind))))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rstest::rstest;
    use serde_json::json;
    use tapeline_api::report::{Problem, ProblemClass};

    use super::*;
    use crate::live::batches::tests::stored;

    fn spec() -> TradingPipelineSpec {
        serde_json::from_value(json!({
            "kafka": {"bootstrapServers": "k:9092"},
            "mysql": {
                "host": "m", "database": "d", "credentialsSecretRef": {"name": "mysql"},
                "views": [{"name": "today", "sql": "SELECT * FROM Volumes v JOIN profile p ON p.id = v.id"}, {"name": "odd", "sql": "SELECT 1"}],
            },
            "queries": [
                {"name": "volume", "sql": "SELECT 1", "sink": {"mysql": {"table": "volumes", "mode": "Append"}}},
                {"name": "candles", "sql": "SELECT 1", "trigger": {"interval": "60s"}, "sink": {"mysql": {"table": "candles", "mode": "Append"}}},
                {"name": "raw", "sql": "SELECT 1", "sink": {"cassandra": {"table": "volumes"}}},
            ],
        }))
        .unwrap()
    }

    #[test]
    fn a_view_is_fed_by_the_queries_into_the_tables_that_it_reads() {
        let spec = spec();
        let names = |view: &str| queries(&spec, &Source::View(view.parse().unwrap())).iter().map(|query| query.name.to_string()).collect::<Vec<_>>();
        assert_eq!((names("today"), names("odd")), (vec!["volume".to_owned()], vec!["volume".to_owned(), "candles".to_owned()]));
    }

    #[allow(clippy::unnecessary_wraps, reason = "as the cases need it")]
    fn numbers(behind_seconds: Option<i64>, problem: Option<ProblemClass>) -> Option<QueryNumbers> {
        let problem = problem.map(|class| Problem::new(class, "what is wrong"));
        Some(QueryNumbers { pods: vec![stored("a", 1_000, 7)], behind_seconds, problem, ..QueryNumbers::default() })
    }

    #[rstest]
    #[case::fresh(ItemState::Running, numbers(Some(30), None), None)]
    #[case::idle(ItemState::Running, numbers(None, None), None)]
    #[case::late(ItemState::Running, numbers(Some(31), None), Some((Tone::Warn, "31 s behind")))]
    #[case::too_late(ItemState::Running, numbers(Some(121), None), Some((Tone::Bad, "2 min 1 s behind")))]
    #[case::no_pod(ItemState::Running, None, Some((Tone::Warn, "no worker answers")))]
    #[case::silent_pod(ItemState::Running, Some(QueryNumbers::default()), Some((Tone::Warn, "no worker answers")))]
    #[case::outage(ItemState::Running, numbers(Some(0), Some(ProblemClass::StoreUnreachable)), Some((Tone::Warn, "what is wrong")))]
    #[case::broken(ItemState::Running, numbers(Some(0), Some(ProblemClass::StoreRefuses)), Some((Tone::Bad, "what is wrong")))]
    #[case::failed(ItemState::Failed, None, Some((Tone::Bad, "Failed")))]
    #[case::on_request(ItemState::Suspended, None, None)]
    fn rows_that_do_not_come_are_told(#[case] state: ItemState, #[case] numbers: Option<QueryNumbers>, #[case] expected: Option<(Tone, &str)>) {
        let found = trouble(&spec().queries[0], state, numbers.as_ref());
        assert_eq!(found, expected.map(|(tone, text)| (tone, text.to_owned())));
    }

    #[test]
    fn a_long_trigger_is_allowed_more() {
        let of = |behind| trouble(&spec().queries[1], ItemState::Running, numbers(Some(behind), None).as_ref());
        assert_eq!([of(180), of(181)].map(|trouble| trouble.is_some()), [false, true]);
    }

    #[test]
    fn the_last_micro_batch_is_stored_when_it_is_written_and_a_dead_worker_is_told() {
        let (spec, source) = (spec(), Source::View("today".parse().unwrap()));
        let mut pod = stored("a", 1_000, 7);
        pod.item = "volume".into();
        let live = Snapshot::of(vec![pod], &mut HashMap::new(), 2_000);
        assert_eq!(Fed::of(&spec, None, &live, &source), Fed { stored_ms: Some(1_015), trouble: None });
        let dead = Fed::of(&spec, None, &Snapshot { at_ms: 3_000, ..Snapshot::default() }, &source);
        assert_eq!(dead, Fed { stored_ms: None, trouble: Some((Tone::Warn, "query volume: no worker answers".to_owned())) });
        assert_eq!(Fed::of(&spec, None, &Snapshot::default(), &source), Fed::default(), "nobody has looked yet");
    }
}
