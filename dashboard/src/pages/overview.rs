//! The pipeline as a graph with what moves on it, its conditions and its Events.

mod nodes;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use tapeline_api::TradingPipeline;
use tapeline_api::pipeline::status::{ItemState, TradingPipelineStatus};
use tapeline_api::report::Problem;

use self::nodes::Told;
use super::words::{grouped, machine, person, rate, seconds};
use super::{Framed, Page, respond};
use crate::app::App;
use crate::error::Failure;
use crate::events::{Fragment, Parts};
use crate::follow::last_seen;
use crate::graph::{self, Edge, Graph, Kind};
use crate::live::history::{self, History};
use crate::live::snapshot::{QueryNumbers, Snapshot};
use crate::tone::Tone;

/// Events that are shown.
const EVENTS: usize = 30;

/// The state of a query or producer that the status calls `told`: its pods know of a problem sooner.
#[must_use]
pub const fn state_now(told: ItemState, problem: Option<&Problem>) -> ItemState {
    if problem.is_some() && matches!(told, ItemState::Running) { ItemState::Waiting } else { told }
}

/// A number with what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    label: &'static str,
    value: String,
    note: String,
    tone: Tone,
}

#[derive(Template)]
#[template(path = "overview/numbers.html")]
struct Numbers {
    cards: Vec<Card>,
}

#[derive(Template)]
#[template(path = "overview/graph.html")]
struct Drawn {
    graph: Graph,
    edges: Vec<(Edge, Tone)>,
    /// Nodes of one kind, with the kind in words.
    lanes: Vec<(&'static str, Vec<DrawnNode>)>,
}

struct DrawnNode {
    id: String,
    x: i32,
    y: i32,
    name: String,
    lines: Vec<String>,
    /// Whether the first line says what is wrong.
    why: bool,
    tone: Tone,
    state: String,
    href: Option<String>,
}

#[derive(Template)]
#[template(path = "overview/conditions.html")]
struct Conditions {
    rows: Vec<ConditionRow>,
}

struct ConditionRow {
    name: String,
    status: String,
    reason: String,
    message: String,
    since: String,
    since_machine: String,
    tone: Tone,
}

#[derive(Template)]
#[template(path = "overview/events.html")]
struct Happened {
    rows: Vec<EventRow>,
}

struct EventRow {
    at: String,
    at_machine: String,
    reason: String,
    note: String,
    count: i32,
    tone: Tone,
}

#[derive(Template)]
#[template(path = "overview/page.html")]
struct Body {
    numbers: String,
    graph: String,
    conditions: String,
    events: String,
}

/// `GET /overview`.
pub(crate) async fn page(State(app): State<App>) -> Result<Response, Failure> {
    let pipeline = app.pipeline().ok_or(Failure::NoPipeline)?;
    let Fragments { numbers, graph, conditions, events } = fragments(&app, &pipeline)?;
    let body = Body { numbers, graph, conditions, events }.render()?;
    respond(&app, Framed { heading: "Overview", nav: "overview", page: Page::Overview, styles: &[], scripts: &[], body })
}

/// What moves on it.
pub(super) fn parts(app: &App) -> Result<Parts, askama::Error> {
    let Some(pipeline) = app.pipeline() else { return Ok(Parts::default()) };
    let Fragments { numbers, graph, conditions, events } = fragments(app, &pipeline)?;
    let all = [("numbers", numbers), ("graph-card", graph), ("conditions-card", conditions), ("events-card", events)];
    Ok(Parts { fragments: all.map(|(id, html)| Fragment { id: id.to_owned(), html }).to_vec(), ..Parts::default() })
}

struct Fragments {
    numbers: String,
    graph: String,
    conditions: String,
    events: String,
}

fn fragments(app: &App, pipeline: &TradingPipeline) -> Result<Fragments, askama::Error> {
    let (live, status) = (app.live.newest(), pipeline.status.clone().unwrap_or_default());
    Ok(Fragments {
        numbers: Numbers { cards: cards(&status, &live) }.render()?,
        graph: drawn(app.base(), pipeline, &status, &live, &app.live.history()).render()?,
        conditions: Conditions { rows: conditions(&status) }.render()?,
        events: happened(app).render()?,
    })
}

fn cards(status: &TradingPipelineStatus, live: &Snapshot) -> Vec<Card> {
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    let state = match ready.map(|ready| (ready.status.as_str(), ready.reason.as_str())) {
        Some(("True", reason)) => Card { label: "State", value: "Ready".into(), note: reason.into(), tone: Tone::Ok },
        Some(("False", reason)) => Card { label: "State", value: "Not ready".into(), note: reason.into(), tone: Tone::Bad },
        _ => Card { label: "State", value: "Unknown".into(), note: "the operator has not looked yet".into(), tone: Tone::Warn },
    };
    let worst = |of: fn(&QueryNumbers) -> Option<i64>| live.queries.iter().filter_map(|(name, query)| Some((of(query)?, name))).max();
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "\u{2013}".into());
    let of_query = |worst: Option<(i64, &String)>| worst.filter(|(number, _)| *number > 0).map_or_else(String::new, |(_, name)| format!("query {name}"));
    let (lag, behind) = (worst(|query| query.lag), worst(|query| query.behind_seconds));
    let rows: Option<f64> = live.queries.values().filter_map(|query| query.rows_per_second).reduce(|sum, more| sum + more);
    let bad: u64 = live.queries.values().map(|query| query.totals.bad_records).sum();
    let pods = live.queries.values().map(|query| &query.pods).chain(live.producers.values().map(|producer| &producer.pods)).flatten();
    let (ready_pods, all_pods) = pods.fold((0, 0), |(ready, all), pod| (ready + usize::from(pod.is_ready), all + 1));
    vec![
        state,
        Card { label: "Rows per second", value: or_dash(rows.map(rate)), note: "all queries together".into(), tone: Tone::Idle },
        Card { label: "Lag", value: or_dash(lag.map(|(lag, _)| grouped(lag))), note: of_query(lag), tone: Tone::Idle },
        Card { label: "Behind", value: or_dash(behind.map(|(behind, _)| seconds(behind))), note: of_query(behind), tone: Tone::Idle },
        Card {
            label: "Dead letters",
            value: grouped(i64::try_from(bad).unwrap_or(i64::MAX)),
            note: "since the workers started".into(),
            tone: if bad > 0 { Tone::Warn } else { Tone::Idle },
        },
        Card {
            label: "Pods",
            value: format!("{ready_pods}/{all_pods}"),
            note: "ready".into(),
            tone: if ready_pods < all_pods { Tone::Warn } else { Tone::Idle },
        },
    ]
}

fn drawn(base: &str, pipeline: &TradingPipeline, status: &TradingPipelineStatus, live: &Snapshot, history: &History) -> Drawn {
    let graph = graph::graph(&pipeline.spec);
    let topics = super::topics::all(&pipeline.spec);
    let nodes: Vec<DrawnNode> = graph
        .nodes
        .iter()
        .enumerate()
        .map(|(at, node)| {
            let name = node.name.as_str();
            let Told { why, lines, tone, state } = match node.kind {
                Kind::Producer => nodes::producer(status, name, live.producers.get(name)),
                Kind::Query => nodes::query(status, name, live.queries.get(name)),
                Kind::Topic => nodes::topic(status, name, graph.behind(at).find_map(|query| messages_in(history, &query.name))),
                _ => nodes::sink(node.kind, graph.before(at).filter_map(|query| live.queries.get(&query.name))),
            };
            let href = match node.kind {
                Kind::Query => Some(format!("{base}/queries/{name}")),
                Kind::Topic => topics.iter().any(|known| known.name.as_str() == name).then(|| format!("{base}/topics/{}", super::words::part(name))),
                Kind::Cassandra => Some(format!("{base}/data/cassandra/{name}")),
                Kind::MySql => Some(format!("{base}/data/mysql/{name}")),
                Kind::MongoDb => Some(format!("{base}/data/mongodb/{name}")),
                Kind::Producer | Kind::Blackhole => None,
            };
            let id = format!("node-{}-{name}", node.kind.label().to_lowercase());
            let (has_why, lines) = (why.is_some(), why.into_iter().chain(lines).collect());
            DrawnNode { id, x: node.x, y: node.y, name: node.name.clone(), lines, why: has_why, tone, state, href }
        })
        .collect();
    // An arrow is as the query or producer at one of its ends.
    let tone_of = |index: usize| nodes.get(index).map_or(Tone::Idle, |node| node.tone);
    let edges = graph.edges.iter().map(|edge| {
        let (from, to) = (tone_of(edge.from), tone_of(edge.to));
        (edge.clone(), if from == Tone::Idle { to } else { from })
    });
    let edges = edges.collect();
    let mut lanes: Vec<(&'static str, Vec<DrawnNode>)> = Vec::new();
    for (node, drawn) in graph.nodes.iter().zip(nodes) {
        let label = node.kind.plural();
        match lanes.iter_mut().find(|(known, _)| *known == label) {
            Some((_, lane)) => lane.push(drawn),
            None => lanes.push((label, vec![drawn])),
        }
    }
    Drawn { graph, edges, lanes }
}

/// Messages per second that come to the topic that `query` reads.
fn messages_in(history: &History, query: &str) -> Option<f64> {
    history.newest(query, history::Kind::Rates)?.series.first()?.values.last().copied().flatten()
}

fn conditions(status: &TradingPipelineStatus) -> Vec<ConditionRow> {
    let row = |condition: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
        let since = condition.last_transition_time.0.as_millisecond();
        ConditionRow {
            name: condition.type_.clone(),
            status: condition.status.clone(),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
            since: person(since),
            since_machine: machine(since),
            tone: condition_tone(&condition.type_, &condition.status),
        }
    };
    status.conditions.iter().map(row).collect()
}

/// Of most conditions True is good; of these it is not.
fn condition_tone(type_: &str, status: &str) -> Tone {
    match (type_, status) {
        ("Stalled" | "DataLost", "True") => Tone::Bad,
        ("Reconciling" | "Degraded", "True") => Tone::Warn,
        ("Stalled" | "Reconciling" | "Degraded" | "DataLost", _) => Tone::Idle,
        (_, "True") => Tone::Ok,
        (_, "False") => Tone::Bad,
        _ => Tone::Warn,
    }
}

fn happened(app: &App) -> Happened {
    let events = app.followed.events();
    let rows = events.iter().take(EVENTS).map(|event| {
        let at = last_seen(event).unwrap_or_default();
        let count = event.series.as_ref().and_then(|series| series.count).or(event.count).unwrap_or(1);
        let tone = if event.type_.as_deref() == Some("Warning") { Tone::Warn } else { Tone::Idle };
        EventRow {
            at: person(at),
            at_machine: machine(at),
            reason: event.reason.clone().unwrap_or_default(),
            note: event.message.clone().unwrap_or_default(),
            count,
            tone,
        }
    });
    Happened { rows: rows.collect() }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tapeline_api::report::ProblemClass;

    use super::*;

    #[rstest]
    #[case("Ready", "True", Tone::Ok)]
    #[case("MySQLReady", "False", Tone::Bad)]
    #[case("Ready", "Unknown", Tone::Warn)]
    #[case("Stalled", "False", Tone::Idle)]
    #[case("Stalled", "True", Tone::Bad)]
    #[case("Degraded", "True", Tone::Warn)]
    fn conditions_have_a_tone(#[case] type_: &str, #[case] status: &str, #[case] tone: Tone) {
        assert_eq!(condition_tone(type_, status), tone);
    }

    #[test]
    fn numbers_that_nobody_told_are_a_dash() {
        let cards = cards(&TradingPipelineStatus::default(), &Snapshot::default());
        let values: Vec<(&str, &str)> = cards.iter().map(|card| (card.label, card.value.as_str())).collect();
        assert_eq!(
            values,
            [("State", "Unknown"), ("Rows per second", "\u{2013}"), ("Lag", "\u{2013}"), ("Behind", "\u{2013}"), ("Dead letters", "0"), ("Pods", "0/0")]
        );
    }

    #[test]
    fn what_stopped_is_not_said_to_wait() {
        let problem = Problem::new(ProblemClass::Internal, "a fault");
        let now = |state| state_now(state, Some(&problem));
        assert_eq!([ItemState::Running, ItemState::Failed, ItemState::Suspended].map(now), [ItemState::Waiting, ItemState::Failed, ItemState::Suspended]);
        assert_eq!(state_now(ItemState::Running, None), ItemState::Running);
    }
}
