//! Numbers in the status: rounded, at most once a minute, only when one moved. One that was unknown does not wait for the minute, or a new pipeline would
//! show none for that long.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kube::runtime::reflector::ObjectRef;
use tapeline_api::TradingPipelineStatus;
use tapeline_api::names::ItemName;

use super::reports::{ItemView, Numbers, round};
use crate::context::Scope;
use crate::reconcile::build::Kind;
use crate::reconcile::status::writer::now;
use crate::reconcile::{Error, Target};

const AT_MOST_EVERY: Duration = Duration::from_mins(1);
const NEWLY_KNOWN_AT_MOST_EVERY: Duration = Duration::from_secs(10);

/// Writes the numbers of a pipeline if it is time and one moved. Returns when they were last compared: at rest that is once a minute, since it costs a copy of
/// the pipeline.
pub(super) async fn write(scope: &Scope, namespace: &str, name: &str, views: &BTreeMap<(Kind, ItemName), ItemView>, last: Option<Instant>) -> Option<Instant> {
    if views.values().all(|view| view.numbers.is_none()) {
        return last;
    }
    let object = scope.pipelines.get(&ObjectRef::new(name).within(namespace))?;
    let pipeline = object.0.as_ref().ok()?;
    if !is_time(last.map(|last| last.elapsed()), pipeline.status.as_ref(), views) {
        return last;
    }
    let target = Target::of(pipeline)?;
    let written = scope.shared.statuses.update(&scope.shared, &target, |status| set(status, views)).await;
    scope.forget_if_deleted(&object);
    match written {
        // Whoever changed the object, or leads now, has numbers written, too.
        Ok(_) | Err(Error::Conflict | Error::Gone | Error::NotLeader) => {}
        Err(error) => tracing::warn!(%error, namespace, name, "cannot write the numbers of a pipeline"),
    }
    Some(Instant::now())
}

/// Whether to compare the numbers with the status, `since` the last time.
fn is_time(since: Option<Duration>, status: Option<&TradingPipelineStatus>, views: &BTreeMap<(Kind, ItemName), ItemView>) -> bool {
    let newly_known = || status.is_some_and(|status| is_newly_known(status, views));
    since.is_none_or(|since| since >= AT_MOST_EVERY || (since >= NEWLY_KNOWN_AT_MOST_EVERY && newly_known()))
}

/// Whether the lag of a query, or what a producer sent, is known and the status does not have it.
fn is_newly_known(status: &TradingPipelineStatus, views: &BTreeMap<(Kind, ItemName), ItemView>) -> bool {
    let numbers = |kind, name: &ItemName| views.get(&(kind, name.clone())).and_then(|view| view.numbers).unwrap_or_default();
    status.queries.iter().any(|query| query.lag.is_none() && numbers(Kind::Query, &query.name).lag.is_some())
        || status.producers.iter().any(|producer| producer.messages.is_none() && numbers(Kind::Producer, &producer.name).messages.is_some())
}

/// Sets the numbers of items that the reconcile has listed. What is not known is absent, never 0, and then `observedAt` stays old.
fn set(status: &mut TradingPipelineStatus, views: &BTreeMap<(Kind, ItemName), ItemView>) {
    let before = (status.queries.clone(), status.producers.clone());
    let numbers = |kind, name: &ItemName| views.get(&(kind, name.clone())).and_then(|view| view.numbers);
    for query in &mut status.queries {
        let Numbers { lag, behind_seconds, rows_per_second, bad_records, .. } = numbers(Kind::Query, &query.name).unwrap_or_default();
        query.lag = lag.map(round);
        query.behind_seconds = behind_seconds.map(round);
        query.rows_per_second = rows_per_second.map(round);
        query.bad_records = bad_records;
    }
    for producer in &mut status.producers {
        producer.messages = numbers(Kind::Producer, &producer.name).and_then(|numbers| numbers.messages).map(round);
    }
    status.lag = status.queries.iter().filter_map(|query| query.lag).max();
    status.behind_seconds = status.queries.iter().filter_map(|query| query.behind_seconds).max();
    let rates: Vec<i64> = status.queries.iter().filter_map(|query| query.rows_per_second).collect();
    status.rows_per_second = (!rates.is_empty()).then(|| round(rates.iter().sum()));
    if before != (status.queries.clone(), status.producers.clone()) {
        status.observed_at = Some(now());
    }
}

#[cfg(test)]
mod tests {
    use tapeline_api::pipeline::status::{ItemState, QueryStatus};

    use super::*;

    fn query() -> QueryStatus {
        QueryStatus {
            name: "raw".parse().unwrap(),
            state: ItemState::Running,
            message: String::new(),
            replicas: None,
            ready_replicas: None,
            lag: None,
            behind_seconds: None,
            rows_per_second: None,
            bad_records: None,
        }
    }

    #[test]
    fn numbers_that_hardly_move_are_not_written() {
        let mut status = TradingPipelineStatus { queries: vec![query()], ..TradingPipelineStatus::default() };
        let views = |lag| {
            let numbers = Some(Numbers { lag: Some(lag), rows_per_second: Some(1000), ..Numbers::default() });
            BTreeMap::from([((Kind::Query, query().name), ItemView { numbers, ..ItemView::default() })])
        };
        assert!(is_newly_known(&status, &views(1004)));
        set(&mut status, &views(1004));
        assert!(!is_newly_known(&status, &views(2000)));
        assert_eq!((status.lag, status.rows_per_second), (Some(1000), Some(1000)));
        let before = status.clone();
        set(&mut status, &views(1049));
        assert_eq!(status, before);
        set(&mut status, &BTreeMap::new());
        assert_eq!(status.lag, None);
    }

    #[test]
    fn at_rest_numbers_are_compared_once_a_minute() {
        let known = TradingPipelineStatus { queries: vec![query()], ..TradingPipelineStatus::default() };
        let unknown = BTreeMap::new();
        assert!(is_time(None, Some(&known), &unknown));
        assert!(!is_time(Some(Duration::from_secs(59)), Some(&known), &unknown));
        assert!(is_time(Some(Duration::from_secs(60)), Some(&known), &unknown));
        let numbers = Some(Numbers { lag: Some(3), ..Numbers::default() });
        let newly = BTreeMap::from([((Kind::Query, query().name), ItemView { numbers, ..ItemView::default() })]);
        assert!(!is_time(Some(Duration::from_secs(9)), Some(&known), &newly));
        assert!(is_time(Some(Duration::from_secs(10)), Some(&known), &newly));
    }
}
