//! Reading a pipeline's status as a user would: conditions, and what is said of a query.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tapeline_api::TradingPipeline;
use tapeline_api::pipeline::status::{ProducerStatus, QueryStatus, TradingPipelineStatus};

/// The status; empty as long as there is none.
#[must_use]
pub fn of(pipeline: &TradingPipeline) -> TradingPipelineStatus {
    pipeline.status.clone().unwrap_or_default()
}

/// The condition `kind`, once it speaks of the present specification.
///
/// # Errors
/// It is not there, or speaks of an older specification.
pub fn condition(pipeline: &TradingPipeline, kind: &str) -> Result<Condition> {
    let found = of(pipeline).conditions.into_iter().find(|condition| condition.type_ == kind);
    let condition = found.with_context(|| format!("no condition {kind}; there are: {}", describe(pipeline)))?;
    let (seen, is) = (condition.observed_generation, pipeline.metadata.generation);
    ensure!(seen == is, "the condition {kind} speaks of generation {seen:?}, the object has {is:?}: {}", describe(pipeline));
    Ok(condition)
}

/// Checks that the condition `kind` is `status`, and returns it.
///
/// # Errors
/// It is something else; the error has all conditions.
pub fn expect(pipeline: &TradingPipeline, kind: &str, status: &str) -> Result<Condition> {
    let condition = condition(pipeline, kind)?;
    ensure!(condition.status == status, "{kind} is not {status}: {}", describe(pipeline));
    Ok(condition)
}

/// What is said of the query `name`.
///
/// # Errors
/// Nothing.
pub fn query(pipeline: &TradingPipeline, name: &str) -> Result<QueryStatus> {
    let found = of(pipeline).queries.into_iter().find(|query| query.name.as_str() == name);
    found.with_context(|| format!("the status does not speak of the query {name}: {}", describe(pipeline)))
}

/// What is said of the producer `name`.
///
/// # Errors
/// Nothing.
pub fn producer(pipeline: &TradingPipeline, name: &str) -> Result<ProducerStatus> {
    let found = of(pipeline).producers.into_iter().find(|producer| producer.name.as_str() == name);
    found.with_context(|| format!("the status does not speak of the producer {name}: {}", describe(pipeline)))
}

/// All conditions in one line.
#[must_use]
pub fn describe(pipeline: &TradingPipeline) -> String {
    let mut text = String::new();
    for condition in of(pipeline).conditions {
        _ = write!(text, "{}={} {} ({}); ", condition.type_, condition.status, condition.reason, condition.message);
    }
    for query in of(pipeline).queries {
        _ = write!(text, "query {} {} {}; ", query.name, query.state, query.message);
    }
    text
}
