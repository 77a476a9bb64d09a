//! Queries: SQL against streams and references.

use tapeline_api::TradingPipelineSpec;

use super::{ValidQuery, Validated, sinks};
use crate::reason::{Area, Problem, Reason};
use crate::reconcile::check_query::{self, Tables};

/// Why nothing else may be written to [`tapeline_api::progress::PROGRESS_TOPIC`].
pub(super) const INTO_PROGRESS: &str = "it is the topic in which Tapeline keeps the progress of queries; name another topic";

pub(super) fn invalid(field: String, message: impl Into<String>) -> Problem {
    Problem::change(Area::Workers, Reason::InvalidSpec, field, message)
}

pub(super) fn invalid_sql(field: String, message: impl Into<String>) -> Problem {
    Problem::change(Area::Workers, Reason::InvalidSQL, field, message)
}

pub(super) fn queries(spec: &TradingPipelineSpec, validated: &mut Validated) {
    for (index, query) in spec.queries.iter().enumerate() {
        let path = format!("spec.queries[{index}]");
        let mut problems = Vec::new();
        let Some(target) = query.sink.target() else { continue };
        let tables = Tables { streams: &spec.streams, references: &validated.references };
        let checked = match check_query::check(tables, &query.sql, target) {
            Ok(checked) => Some(checked),
            Err(message) => {
                problems.push(invalid_sql(format!("{path}.sql"), message));
                None
            }
        };
        sinks::sink(spec, query, checked.as_ref(), &path, &mut problems);
        let stream = checked.as_ref().and_then(|checked| spec.streams.iter().position(|stream| stream.name.as_str() == checked.stream));
        if let (Some(checked), Some(stream), true) = (checked, stream, problems.is_empty())
            && !validated.bad_streams.iter().any(|bad| bad.as_str() == checked.stream)
        {
            let references = validated.references.iter().filter(|table| checked.references.contains(&table.name)).cloned().collect();
            validated.queries.insert(query.name.clone(), ValidQuery { stream, references, checked });
        }
        validated.problems.extend(problems.iter().cloned());
        validated.query_problems.insert(query.name.clone(), problems);
    }
}
