//! The queries, as people know them from the Spark UI: rates, micro-batches by step, and lag by partition over time.

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;
use tapeline_api::TradingPipeline;
use tapeline_api::pipeline::queries::{Query, Target};
use tapeline_api::pipeline::status::ItemState;

use super::overview::state_now;
use super::words::{grouped, machine, millis, person, rate, seconds};
use super::{Framed, Page, respond};
use crate::app::App;
use crate::error::Failure;
use crate::events::{Fragment, NewPoints, Parts};
use crate::live::history::Kind;
use crate::live::snapshot::{QueryNumbers, Told, lag_of};
use crate::tone::Tone;

const STYLES: &[&str] = &["vendor/uPlot.min.css"];
const SCRIPTS: &[(&str, &str)] = &[("vendor/uPlot.iife.min.js", "defer"), ("queries.js", "type=module")];

struct Row {
    name: String,
    state: String,
    tone: Tone,
    sink: String,
    trigger: String,
    rows_per_second: String,
    lag: String,
    behind: String,
    batch: String,
    bad: String,
    pods: String,
    message: String,
}

#[derive(Template)]
#[template(path = "queries/list.html")]
struct List<'a> {
    base: &'a str,
    rows: Vec<Row>,
}

#[derive(Template)]
#[template(path = "queries/list_page.html")]
struct ListBody {
    list: String,
}

#[derive(Template)]
#[template(path = "queries/page.html")]
struct Body<'a> {
    base: &'a str,
    name: &'a str,
    sql: &'a str,
    numbers: String,
}

#[derive(Template)]
#[template(path = "queries/numbers.html")]
struct Numbers {
    row: Row,
    totals: Vec<(&'static str, String)>,
    batch: Option<Batch>,
    notices: Vec<String>,
    partitions: Vec<PartitionRow>,
    pods: Vec<PodRow>,
}

struct Batch {
    at: String,
    at_machine: String,
    rows_in: String,
    rows_out: String,
    /// Name, duration in words, and share of the whole in percent.
    steps: Vec<(&'static str, String, u64)>,
}

struct PartitionRow {
    partition: i32,
    stored: String,
    end: String,
    lag: String,
}

struct PodRow {
    name: String,
    state: String,
    tone: Tone,
    partitions: usize,
    restarts: i32,
}

/// `GET /queries`.
pub(crate) async fn list_page(State(app): State<App>) -> Result<Response, Failure> {
    let pipeline = app.pipeline().ok_or(Failure::NoPipeline)?;
    let body = ListBody { list: list(&app, &pipeline).render()? }.render()?;
    respond(&app, Framed { heading: "Queries", nav: "queries", page: Page::Queries, styles: &[], scripts: &[], body })
}

/// What moves on it.
pub(super) fn list_parts(app: &App) -> Result<Parts, askama::Error> {
    let Some(pipeline) = app.pipeline() else { return Ok(Parts::default()) };
    let html = list(app, &pipeline).render()?;
    Ok(Parts { fragments: vec![Fragment { id: "queries".to_owned(), html }], ..Parts::default() })
}

/// `GET /queries/{name}`.
pub(crate) async fn page(State(app): State<App>, Path(name): Path<String>) -> Result<Response, Failure> {
    let pipeline = app.pipeline().ok_or(Failure::NoPipeline)?;
    let query = pipeline.spec.queries.iter().find(|query| query.name.as_str() == name);
    let query = query.ok_or_else(|| Failure::NotFound(format!("the pipeline has no query \"{name}\"")))?;
    let numbers = numbers(&app, &pipeline, query).render()?;
    let body = Body { base: app.base(), name: &name, sql: query.sql.trim(), numbers }.render()?;
    respond(&app, Framed { heading: &format!("Query {name}"), nav: "queries", page: Page::Query(name.clone()), styles: STYLES, scripts: SCRIPTS, body })
}

/// What moves on it.
pub(super) fn parts(app: &App, name: &str) -> Result<Parts, askama::Error> {
    let Some(pipeline) = app.pipeline() else { return Ok(Parts::default()) };
    let Some(query) = pipeline.spec.queries.iter().find(|query| query.name.as_str() == name) else { return Ok(Parts::default()) };
    let html = numbers(app, &pipeline, query).render()?;
    let points = Kind::ALL.into_iter().flat_map(|kind| newest_points(app, name, kind)).collect();
    Ok(Parts { fragments: vec![Fragment { id: "query".to_owned(), html }], points, ..Parts::default() })
}

/// The newest points of the lines of a query.
fn newest_points(app: &App, query: &str, kind: Kind) -> Vec<NewPoints> {
    let Some(newest) = app.live.history().newest(query, kind) else { return Vec::new() };
    let labels: Vec<String> = newest.series.iter().map(|line| line.label.clone()).collect();
    let points = newest.at.iter().enumerate().map(|(place, at)| {
        let values = newest.series.iter().map(|line| line.values.get(place).copied().flatten()).collect();
        NewPoints { query: query.to_owned(), series: kind.as_str(), at: *at, labels: labels.clone(), values }
    });
    points.collect()
}

fn list<'a>(app: &'a App, pipeline: &TradingPipeline) -> List<'a> {
    let live = app.live.newest();
    List { base: app.base(), rows: pipeline.spec.queries.iter().map(|query| row(pipeline, query, live.queries.get(query.name.as_str()))).collect() }
}

fn count(number: u64) -> String {
    grouped(i64::try_from(number).unwrap_or(i64::MAX))
}

fn row(pipeline: &TradingPipeline, query: &Query, numbers: Option<&QueryNumbers>) -> Row {
    let status = pipeline.status.as_ref().and_then(|status| status.queries.iter().find(|known| known.name == query.name));
    let problem = numbers.and_then(|numbers| numbers.problem.as_ref());
    let state = state_now(status.map_or(ItemState::Pending, |status| status.state), problem);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "\u{2013}".to_owned());
    let told = problem.map(|problem| problem.message.clone());
    let pods = numbers.map_or(0, |numbers| numbers.pods.iter().filter(|pod| pod.is_ready).count());
    Row {
        name: query.name.to_string(),
        state: state.to_string(),
        tone: Tone::of(state),
        sink: sink(query),
        trigger: query.trigger.as_ref().and_then(|trigger| trigger.interval.as_ref()).map_or_else(|| "10s".to_owned(), ToString::to_string),
        rows_per_second: or_dash(numbers.and_then(|numbers| numbers.rows_per_second).map(rate)),
        lag: or_dash(numbers.and_then(|numbers| numbers.lag).map(grouped)),
        behind: or_dash(numbers.and_then(|numbers| numbers.behind_seconds).map(seconds)),
        batch: or_dash(
            numbers.and_then(|numbers| numbers.last_batch.as_ref()).map(|batch| format!("{} rows, {}", count(batch.rows_in), millis(batch.commit_ms))),
        ),
        bad: or_dash(numbers.map(|numbers| count(numbers.totals.bad_records))),
        pods: format!("{pods}/{}", status.and_then(|status| status.replicas).map_or_else(|| "\u{2013}".to_owned(), |replicas| replicas.to_string())),
        message: status.map(|status| status.message.clone()).filter(|message| !message.is_empty()).or(told).unwrap_or_default(),
    }
}

fn sink(query: &Query) -> String {
    match query.sink.target() {
        Some(Target::Cassandra(sink)) => format!("Cassandra {}", sink.table),
        Some(Target::MySql(sink)) => format!("MySQL {} ({:?})", sink.table, sink.mode),
        Some(Target::MongoDb(sink)) => format!("MongoDB {}", sink.collection),
        Some(Target::Kafka(sink)) => format!("Kafka {}", sink.topic),
        Some(Target::Blackhole) | None => "nowhere".to_owned(),
    }
}

fn numbers(app: &App, pipeline: &TradingPipeline, query: &Query) -> Numbers {
    let live = app.live.newest();
    let known = live.queries.get(query.name.as_str()).cloned().unwrap_or_default();
    let batch = known.last_batch.as_ref().map(|batch| {
        let written = batch.commit_ms.saturating_sub(batch.plan_ms);
        let whole = (batch.open_ms + batch.commit_ms).max(1);
        let steps = [("collecting records", batch.open_ms), ("finishing the plan", batch.plan_ms), ("writing", written)];
        Batch {
            at: person(batch.cut_at_ms),
            at_machine: machine(batch.cut_at_ms),
            rows_in: count(batch.rows_in),
            rows_out: count(batch.rows_out),
            steps: steps.map(|(name, took)| (name, millis(took), took * 100 / whole)).to_vec(),
        }
    });
    let totals = known.totals;
    let dash = "\u{2013}".to_owned();
    Numbers {
        row: row(pipeline, query, live.queries.get(query.name.as_str())),
        totals: vec![
            ("Rows read", count(totals.rows)),
            ("Micro-batches stored", count(totals.batches)),
            ("Micro-batches discarded and read again", count(totals.discarded)),
            ("Records in the dead letters", count(totals.bad_records)),
        ],
        batch,
        notices: known.notices.iter().map(|notice| notice.message.clone()).collect(),
        partitions: known
            .partitions
            .iter()
            .map(|partition| PartitionRow {
                partition: partition.partition,
                stored: grouped(partition.next_offset),
                // The broker was asked a moment before the last records came.
                end: partition.end_offset.map_or_else(|| dash.clone(), |end| grouped(end.max(partition.next_offset))),
                lag: lag_of(partition).map_or_else(|| dash.clone(), grouped),
            })
            .collect(),
        pods: known
            .pods
            .iter()
            .map(|pod| {
                let (state, partitions) = match &pod.told {
                    Told::Worker(worker) => (worker.state.to_string(), worker.partitions.len()),
                    _ => ("no answer".to_owned(), 0),
                };
                let tone = if pod.is_ready && matches!(pod.told, Told::Worker(_)) { Tone::Ok } else { Tone::Warn };
                PodRow { name: pod.pod.clone(), state, tone, partitions, restarts: pod.restarts }
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tapeline_api::report::{Problem, ProblemClass};

    use super::*;

    #[test]
    fn a_query_that_waits_is_called_so_here_as_on_the_overview() {
        let spec = json!({"kafka": {"bootstrapServers": "k:9092"}, "queries": [{"name": "raw", "sql": "SELECT 1", "sink": {"blackhole": {}}}]});
        let mut pipeline = TradingPipeline::new("p", serde_json::from_value(spec).unwrap());
        pipeline.status = Some(serde_json::from_value(json!({"queries": [{"name": "raw", "state": "Running"}]})).unwrap());
        let problem = Some(Problem::new(ProblemClass::StoreUnreachable, "Cassandra does not answer"));
        let row = |numbers: Option<&QueryNumbers>| {
            let row = row(&pipeline, &pipeline.spec.queries[0], numbers);
            (row.state, row.tone, row.message)
        };
        let waiting = QueryNumbers { problem, ..QueryNumbers::default() };
        assert_eq!(row(Some(&waiting)), ("Waiting".to_owned(), Tone::Warn, "Cassandra does not answer".to_owned()));
        assert_eq!(row(None), ("Running".to_owned(), Tone::Ok, String::new()));
    }
}
