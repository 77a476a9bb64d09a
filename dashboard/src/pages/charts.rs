//! The first page: title, the day, a chart for each view with its rows as a table beside it, and filters that stay in the address.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use futures::future::join_all;
use tapeline_api::{TradingPipeline, TradingPipelineSpec};

use super::words::{machine, person, query_string};
use super::{Framed, Page, respond};
use crate::app::App;
use crate::charts::{Chart, charts};
use crate::error::Failure;
use crate::events::{Fragment, NewData, Parts};
use crate::fed::Fed;
use crate::rows::{FOR_A_PAGE, Known, interval};
use crate::table::{Kind, Table};
use crate::tone::Tone;

/// Values that a filter offers to choose from; a column with more has a field to write into.
const CHOICES: usize = 200;
/// Rows of the table beside a chart. All of them are in the files.
const SHOWN: usize = 500;
/// Scripts of the page: Vega comes after everything else.
const SCRIPTS: &[(&str, &str)] =
    &[("vendor/vega.min.js", "defer"), ("vendor/vega-lite.min.js", "defer"), ("vendor/vega-interpreter.js", "type=module"), ("charts.js", "type=module")];

#[derive(Template)]
#[template(path = "charts/page.html")]
struct Body<'a> {
    base: &'a str,
    filters: String,
    charts: Vec<Drawn>,
}

/// The form, hidden as long as there is nothing to choose from.
#[derive(Template)]
#[template(path = "charts/filters.html")]
struct Form<'a> {
    base: &'a str,
    filters: Vec<Filter>,
    is_filtered: bool,
}

/// A column by which people filter.
struct Filter {
    column: String,
    label: String,
    chosen: String,
    /// None: too many.
    choices: Option<Vec<String>>,
}

struct Drawn {
    name: String,
    title: String,
    /// `?sector=..`, or nothing.
    query: String,
    has_picture: bool,
    head: String,
    rows: String,
}

#[derive(Template)]
#[template(path = "charts/head.html")]
struct Head<'a> {
    id: String,
    error: Option<&'a str>,
    /// What is wrong with the chart itself.
    notes: Vec<String>,
    /// What is wrong with the queries that write what it shows.
    trouble: Option<(Tone, String)>,
    /// When the rows were read, for machines and for people.
    read: Option<(String, String)>,
    /// When a micro-batch was stored last.
    stored: Option<(String, String)>,
    /// Seconds after which a reading is no longer fresh, and old.
    amber: u64,
    red: u64,
}

#[derive(Template)]
#[template(path = "charts/rows.html")]
struct Shown<'a> {
    id: String,
    title: &'a str,
    columns: Vec<(String, bool)>,
    rows: Vec<Vec<(String, bool)>>,
    all: usize,
    truncated: bool,
    known: bool,
}

/// A chart and what is known of its rows.
struct Looked {
    chart: Chart,
    known: Arc<Known>,
    filtered: Option<Arc<Table>>,
    fed: Fed,
}

/// `GET /`.
pub(crate) async fn page(State(app): State<App>, Query(filters): Query<Vec<(String, String)>>) -> Result<Response, Failure> {
    let pipeline = app.pipeline().ok_or(Failure::NoPipeline)?;
    if charts(&pipeline.spec).is_empty() {
        return Ok(Redirect::temporary(&format!("{}/overview", app.base())).into_response());
    }
    let filters = chosen(filters);
    let every = interval(&pipeline.spec);
    // Read before they are looked at: together, so that the slowest alone is waited for.
    let shown = charts(&pipeline.spec);
    let readings: Vec<_> = shown.iter().map(|chart| app.rows.of(&chart.source, every, FOR_A_PAGE)).collect();
    join_all(readings).await;
    let looked = look(&app, &pipeline, &filters);
    let form = form(&app, &looked, &filters)?;
    let query = if filters.is_empty() { String::new() } else { format!("?{}", query_string(filters.iter().cloned())) };
    let drawn = looked.iter().map(|looked| {
        Ok(Drawn {
            name: looked.chart.name.clone(),
            title: looked.chart.title.clone(),
            query: query.clone(),
            has_picture: looked.chart.broken.is_none() && looked.known.table.as_ref().is_none_or(|table| looked.chart.specification(table).is_some()),
            head: head(looked, &pipeline.spec).render()?,
            rows: rows(looked).render()?,
        })
    });
    let charts = drawn.collect::<Result<Vec<_>, askama::Error>>()?;
    let body = Body { base: app.base(), filters: form, charts }.render()?;
    respond(&app, Framed { heading: "Charts", nav: "charts", page: Page::Charts(filters), styles: &[], scripts: SCRIPTS, body })
}

/// What moves on it.
pub(super) fn parts(app: &App, filters: &[(String, String)]) -> Result<Parts, askama::Error> {
    let Some(pipeline) = app.pipeline() else { return Ok(Parts::default()) };
    let mut parts = Parts::default();
    let looked = look(app, &pipeline, filters);
    parts.fragments.push(Fragment { id: "filters".to_owned(), html: form(app, &looked, filters)? });
    for looked in looked {
        parts.fragments.push(Fragment { id: head_id(&looked.chart), html: head(&looked, &pipeline.spec).render()? });
        parts.fragments.push(Fragment { id: rows_id(&looked.chart), html: rows(&looked).render()? });
        parts.data.push(NewData { source: looked.chart.name.clone(), version: looked.known.version, at: looked.known.read_ms });
    }
    Ok(parts)
}

/// The filters that are set: a field that is left empty is none.
fn chosen(filters: Vec<(String, String)>) -> Vec<(String, String)> {
    filters.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

/// Of `filters` those that concern any rows, in order: pages that differ in the others show the same.
pub(super) fn concerning(app: &App, filters: &[(String, String)]) -> Vec<(String, String)> {
    if filters.is_empty() { Vec::new() } else { concerning_any(&app.rows.tables(), filters) }
}

fn concerning_any(tables: &[Arc<Table>], filters: &[(String, String)]) -> Vec<(String, String)> {
    let is_column = |name: &str| tables.iter().any(|table| table.columns.iter().any(|column| column.name == name));
    let mut filters: Vec<(String, String)> = filters.iter().filter(|(name, value)| !value.is_empty() && is_column(name)).cloned().collect();
    filters.sort();
    filters.dedup();
    filters
}

/// All charts with what is known of them.
fn look(app: &App, pipeline: &TradingPipeline, filters: &[(String, String)]) -> Vec<Looked> {
    let live = app.live.newest();
    let looked = charts(&pipeline.spec).into_iter().map(|chart| {
        let known = app.rows.peek(&chart.source);
        let filtered = known.table.as_ref().map(|table| filtered(table, filters));
        let fed = Fed::of(&pipeline.spec, pipeline.status.as_ref(), &live, &chart.source);
        Looked { chart, known, filtered, fed }
    });
    looked.collect()
}

/// The rows that pass the filters; the table itself where all do.
pub(crate) fn filtered(table: &Arc<Table>, filters: &[(String, String)]) -> Arc<Table> {
    let concerns = filters.iter().any(|(column, _)| table.columns.iter().any(|known| known.name == *column));
    if concerns { Arc::new(table.filtered(filters)) } else { Arc::clone(table) }
}

fn form(app: &App, looked: &[Looked], filters: &[(String, String)]) -> Result<String, askama::Error> {
    Form { base: app.base(), filters: offered(looked, filters), is_filtered: !filters.is_empty() }.render()
}

/// The filters to choose from: each column once, with the values of all charts that have it.
fn offered(looked: &[Looked], filters: &[(String, String)]) -> Vec<Filter> {
    let mut offered: Vec<Filter> = Vec::new();
    for Looked { chart, known, .. } in looked {
        let Some(table) = &known.table else { continue };
        for column in chart.filter_columns(table) {
            let values = table.distinct(&column, CHOICES);
            if let Some(filter) = offered.iter_mut().find(|filter| filter.column == column) {
                filter.choices = filter.choices.take().zip(values).map(|(mut choices, values)| {
                    choices.extend(values);
                    choices.sort();
                    choices.dedup();
                    choices
                });
                continue;
            }
            let chosen = filters.iter().find(|(name, _)| *name == column).map(|(_, value)| value.clone()).unwrap_or_default();
            offered.push(Filter { label: crate::charts::sentence(&column), column, chosen, choices: values });
        }
    }
    for filter in &mut offered {
        // What is in the address is kept, whether a row has it now or not.
        if let Some(choices) = filter.choices.as_mut().filter(|choices| !filter.chosen.is_empty() && !choices.contains(&filter.chosen)) {
            choices.insert(0, filter.chosen.clone());
        }
    }
    offered
}

fn head_id(chart: &Chart) -> String {
    format!("head-{}", chart.name)
}

fn rows_id(chart: &Chart) -> String {
    format!("rows-{}", chart.name)
}

fn head<'a>(looked: &'a Looked, spec: &TradingPipelineSpec) -> Head<'a> {
    let every = interval(spec).as_secs().max(1);
    let times = |millis: i64| (machine(millis), person(millis));
    Head {
        id: head_id(&looked.chart),
        error: looked.known.error.as_deref(),
        notes: looked.chart.notes(looked.known.table.as_deref()),
        trouble: looked.fed.trouble.clone(),
        read: looked.known.table.is_some().then(|| times(looked.known.read_ms)),
        stored: looked.fed.stored_ms.map(times),
        amber: (every * 2).max(15),
        red: (every * 6).max(60),
    }
}

fn rows(looked: &Looked) -> Shown<'_> {
    let id = rows_id(&looked.chart);
    let title = looked.chart.title.as_str();
    let Some(table) = &looked.filtered else {
        return Shown { id, title, columns: Vec::new(), rows: Vec::new(), all: 0, truncated: false, known: false };
    };
    let is_number = |kind: Kind| matches!(kind, Kind::Integer | Kind::Decimal | Kind::Float);
    let columns: Vec<(String, bool)> = table.columns.iter().map(|column| (column.name.clone(), is_number(column.kind))).collect();
    let shown = table.rows.iter().take(SHOWN).map(|row| row.iter().zip(&columns).map(|(cell, (_, right))| (cell.to_string(), *right)).collect()).collect();
    Shown { id, title, columns, rows: shown, all: table.rows.len(), truncated: table.truncated, known: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charts::Source;
    use crate::table::{Cell, Column};

    fn looked(name: &str, columns: &[(&str, Kind)], rows: &[&[&str]]) -> Looked {
        let columns: Vec<Column> = columns.iter().map(|&(name, kind)| Column { name: name.into(), kind }).collect();
        let rows = rows.iter().map(|row| row.iter().map(|text| Cell::Text((*text).into())).collect()).collect();
        let table = Arc::new(Table { columns, rows, truncated: false });
        let chart = Chart { name: name.into(), title: name.into(), source: Source::View(name.parse().unwrap()), filters: None, given: None, broken: None };
        let known = Arc::new(Known { table: Some(Arc::clone(&table)), version: 1, ..Known::default() });
        Looked { chart, known, filtered: Some(table), fed: Fed::default() }
    }

    #[test]
    fn charts_share_the_filters_of_columns_that_they_share() {
        let two = [
            looked("a", &[("sector", Kind::Text), ("n", Kind::Integer)], &[&["IT", "1"], &["Food", "2"]]),
            looked("b", &[("sector", Kind::Text), ("ticker", Kind::Text)], &[&["IT", "X"], &["Energy", "Y"]]),
        ];
        let filters = offered(&two, &[("sector".into(), "Gone".into())]);
        let shown: Vec<_> = filters.iter().map(|filter| (filter.column.as_str(), filter.chosen.as_str(), filter.choices.clone().unwrap())).collect();
        assert_eq!(shown[0], ("sector", "Gone", ["Gone", "Energy", "Food", "IT"].map(str::to_owned).to_vec()));
        assert_eq!(shown[1], ("ticker", "", ["X", "Y"].map(str::to_owned).to_vec()));
    }

    #[test]
    fn a_filter_that_no_column_has_leaves_the_rows_as_they_are() {
        let one = looked("a", &[("sector", Kind::Text)], &[&["IT"], &["Food"]]);
        let table = one.filtered.unwrap();
        assert!(Arc::ptr_eq(&filtered(&table, &[("elsewhere".into(), "x".into())]), &table));
        assert_eq!(filtered(&table, &[("sector".into(), "Food".into())]).rows.len(), 1);
    }

    #[test]
    fn an_empty_field_is_no_filter() {
        assert_eq!(chosen(vec![("sector".into(), String::new()), ("date".into(), "x".into())]), [("date".to_owned(), "x".to_owned())]);
    }

    #[test]
    fn a_filter_that_concerns_no_rows_makes_no_page_of_its_own() {
        let table = looked("a", &[("sector", Kind::Text)], &[]).filtered.unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let given = [pair("x", "1"), pair("sector", "IT"), pair("sector", ""), pair("sector", "Food"), pair("sector", "IT")];
        assert_eq!(concerning_any(&[table], &given), [pair("sector", "Food"), pair("sector", "IT")]);
        assert!(concerning_any(&[], &given).is_empty(), "without rows there is nothing to filter");
    }

    #[test]
    fn the_head_of_a_chart_tells_when_rows_were_read_when_they_were_stored_and_what_keeps_them_back() {
        let spec: TradingPipelineSpec = serde_json::from_value(serde_json::json!({"kafka": {"bootstrapServers": "k:9092"}})).unwrap();
        let mut looked = looked("a", &[("sector", Kind::Text)], &[]);
        looked.fed = Fed { stored_ms: Some(1_724_569_485_123), trouble: Some((Tone::Warn, "query volume: no worker answers".to_owned())) };
        looked.chart.filters = Some(vec!["sectr".to_owned()]);
        let html = head(&looked, &spec).render().unwrap();
        for part in ["read <time", "last stored <time", "2024-08-25T07:04:45Z", "no worker answers", "no column", "badge warn"] {
            assert!(html.contains(part), "{part}: {html}");
        }
    }
}
