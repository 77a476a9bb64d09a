//! Numbers in the status: rounded, at most once a minute, only when one moved.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kube::runtime::reflector::ObjectRef;
use tapeline_api::TradingPipelineStatus;
use tapeline_api::names::ItemName;

use super::reports::{ItemView, Numbers, round};
use crate::context::Scope;
use crate::reconcile::Target;
use crate::reconcile::build::Kind;
use crate::reconcile::status::writer::now;

const AT_MOST_EVERY: Duration = Duration::from_mins(1);

/// Writes the numbers of a pipeline if it is time and one moved. Returns when they were last written.
pub(super) async fn write(scope: &Scope, namespace: &str, name: &str, views: &BTreeMap<(Kind, ItemName), ItemView>, last: Option<Instant>) -> Option<Instant> {
    if last.is_some_and(|last| last.elapsed() < AT_MOST_EVERY) || views.values().all(|view| view.numbers.is_none()) {
        return last;
    }
    let object = scope.pipelines.get(&ObjectRef::new(name).within(namespace))?;
    let target = Target::of(object.0.as_ref().ok()?)?;
    match scope.shared.statuses.update(&scope.shared, &target, |status| set(status, views)).await {
        Ok(Some(_)) => Some(Instant::now()),
        Ok(None) => last,
        Err(error) => {
            tracing::warn!(%error, namespace, name, "cannot write the numbers of a pipeline");
            Some(Instant::now())
        }
    }
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

    #[test]
    fn numbers_that_hardly_move_are_not_written() {
        let name: ItemName = "raw".parse().unwrap();
        let query = QueryStatus {
            name: name.clone(),
            state: ItemState::Running,
            message: String::new(),
            replicas: None,
            ready_replicas: None,
            lag: None,
            behind_seconds: None,
            rows_per_second: None,
            bad_records: None,
        };
        let mut status = TradingPipelineStatus { queries: vec![query], ..TradingPipelineStatus::default() };
        let views = |lag| {
            let numbers = Some(Numbers { lag: Some(lag), rows_per_second: Some(1000), ..Numbers::default() });
            BTreeMap::from([((Kind::Query, name.clone()), ItemView { numbers, ..ItemView::default() })])
        };
        set(&mut status, &views(1004));
        assert_eq!((status.lag, status.rows_per_second), (Some(1000), Some(1000)));
        let before = status.clone();
        set(&mut status, &views(1049));
        assert_eq!(status, before);
        set(&mut status, &BTreeMap::new());
        assert_eq!(status.lag, None);
    }
}
