//! `/api/v1`: what the pages show, for other programs (Grafana, Superset, Streamlit, curl) and for the scripts of the pages.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::app::App;
use crate::charts::{Chart, charts};
use crate::error::Failure;
use crate::export;
use crate::live::history::Kind;
use crate::pages::data::{SIZE, read};
use crate::rows::{FOR_A_PROGRAM, interval};
use crate::table::Table;

/// Rows that a page of a table has at most.
const MOST: usize = 1_000;

/// A format of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Csv,
    Arrow,
}

impl Format {
    /// Of a file's name, with what stands before the point.
    fn of(file: &str) -> Option<(&str, Self)> {
        let (name, ending) = file.rsplit_once('.')?;
        let format = match ending {
            "json" => Self::Json,
            "csv" => Self::Csv,
            "arrow" => Self::Arrow,
            _ => return None,
        };
        Some((name, format))
    }

    fn write(self, table: &Table, name: &str) -> Result<Response, Failure> {
        let internal = |error: &dyn std::fmt::Display| Failure::Internal(format!("the rows cannot be written: {error}"));
        let (content_type, body) = match self {
            Self::Json => ("application/json", export::json(table).map_err(|error| internal(&error))?),
            Self::Csv => ("text/csv; charset=utf-8; header=present", export::csv(table).map_err(|error| internal(&error))?),
            Self::Arrow => ("application/vnd.apache.arrow.stream", export::arrow(table).map_err(|error| internal(&error))?),
        };
        let mut response = body.into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if self != Self::Json {
            let ending = if self == Self::Csv { "csv" } else { "arrow" };
            if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}.{ending}\"")) {
                response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
            }
        }
        Ok(response)
    }
}

/// An answer that tells a program what is wrong in JSON.
pub(crate) struct ApiFailure(Failure);

impl<E: Into<Failure>> From<E> for ApiFailure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for ApiFailure {
    fn into_response(self) -> Response {
        let text = self.0.to_string();
        let status = self.0.into_response().status();
        (status, Json(json!({"error": {"message": text}}))).into_response()
    }
}

type Answer = Result<Response, ApiFailure>;

/// `GET /api/v1/pipeline`: `namespace` and `name`, `status` as the object has it, and `live`: at which time (milliseconds since 1970) which numbers of queries and producers were
/// read. The specification is not in it.
pub(crate) async fn pipeline(State(app): State<App>) -> Answer {
    let pipeline = app.pipeline().ok_or(Failure::NoPipeline)?;
    let live = app.live.newest();
    let queries: serde_json::Map<String, Value> = live
        .queries
        .iter()
        .map(|(name, query)| {
            let numbers = json!({
                "rowsPerSecond": query.rows_per_second, "lag": query.lag, "behindSeconds": query.behind_seconds, "lastBatch": query.last_batch,
                "partitions": query.partitions, "rowsTotal": query.totals.rows, "batchesTotal": query.totals.batches,
                "discardedTotal": query.totals.discarded, "badRecordsTotal": query.totals.bad_records, "problem": query.problem, "notices": query.notices,
            });
            (name.clone(), numbers)
        })
        .collect();
    let producers: serde_json::Map<String, Value> = live
        .producers
        .iter()
        .map(|(name, producer)| {
            (name.clone(), json!({"messagesPerSecond": producer.messages_per_second, "messagesTotal": producer.messages, "problem": producer.problem}))
        })
        .collect();
    let body = json!({
        "namespace": app.settings.namespace, "name": app.settings.pipeline, "status": pipeline.status,
        "live": {"at": live.at_ms, "queries": queries, "producers": producers},
    });
    Ok(fresh(Json(body).into_response()))
}

/// `GET /api/v1/charts`: what charts there are.
pub(crate) async fn list(State(app): State<App>) -> Answer {
    let pipeline = app.pipeline().ok_or(Failure::NoPipeline)?;
    let base = app.base();
    let one = |chart: Chart| {
        let address = |file: &str| format!("{base}/api/v1/charts/{}/{file}", chart.name);
        json!({
            "name": chart.name, "title": chart.title, "source": chart.source.name(), "spec": address("spec.json"),
            "json": address("data.json"), "csv": address("data.csv"), "arrow": address("data.arrow"),
        })
    };
    Ok(fresh(Json(charts(&pipeline.spec).into_iter().map(one).collect::<Vec<_>>()).into_response()))
}

/// `GET /api/v1/charts/{name}/{file}`: `spec.json`, or the rows as `data.json`, `data.csv` or `data.arrow`; filters are in the query.
pub(crate) async fn chart(
    State(app): State<App>,
    Path((name, file)): Path<(String, String)>,
    Query(filters): Query<Vec<(String, String)>>,
    request: HeaderMap,
) -> Answer {
    let pipeline = app.pipeline().ok_or(Failure::NoPipeline)?;
    let chart = charts(&pipeline.spec).into_iter().find(|chart| chart.name == name);
    let chart = chart.ok_or_else(|| Failure::NotFound(format!("there is no chart \"{name}\"")))?;
    let known = app.rows.of(&chart.source, interval(&pipeline.spec), FOR_A_PROGRAM).await;
    app.live.asked();
    let Some(table) = &known.table else {
        let why = known.error.clone().unwrap_or_else(|| "its rows were not read yet".to_owned());
        return Err(Failure::Store(crate::store::StoreError::Unreachable(why)).into());
    };
    if file == "spec.json" {
        let nothing = || chart.broken.clone().unwrap_or_else(|| "the rows have no column of numbers, so there is nothing to draw".to_owned());
        let spec = chart.specification(table).ok_or_else(|| Failure::NotFound(nothing()))?;
        return Ok(fresh(Json(spec).into_response()));
    }
    let Some(("data", format)) = Format::of(&file) else {
        return Err(Failure::NotFound("there is spec.json, data.json, data.csv and data.arrow".to_owned()).into());
    };
    let etag = format!("\"{}-{}\"", app.rows.started(), known.version);
    let is_known = request.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()) == Some(etag.as_str());
    let mut response =
        if is_known { StatusCode::NOT_MODIFIED.into_response() } else { format.write(&crate::pages::charts::filtered(table, &filters), &name)? };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(value) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, value);
    }
    if let Ok(value) = HeaderValue::from_str(&crate::pages::words::machine(known.read_ms)) {
        headers.insert("x-tapeline-read-at", value);
    }
    headers.insert("x-data-version", HeaderValue::from(known.version));
    if table.truncated {
        headers.insert("x-tapeline-truncated", HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// `GET /api/v1/queries/{name}/history.json?series=rates|batches|rows|lag`.
pub(crate) async fn history(State(app): State<App>, Path(name): Path<String>, Query(query): Query<Vec<(String, String)>>) -> Answer {
    let wanted = query.iter().find(|(key, _)| key == "series").map_or("rates", |(_, value)| value.as_str());
    let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == wanted);
    let kind = kind.ok_or_else(|| Failure::BadRequest("series is rates, batches, rows or lag".to_owned()))?;
    let series = app.live.history().series(&name, kind);
    let series = series.ok_or_else(|| Failure::NotFound(format!("nothing is known of a query \"{name}\" yet")))?;
    Ok(fresh(Json(series).into_response()))
}

/// `GET /api/v1/data/{store}/{file}`: a page of a table or collection, as `<name>.json`, `.csv` or `.arrow`. The header `x-tapeline-next` has the mark for `after=..` of the
/// next one.
pub(crate) async fn data(State(app): State<App>, Path((store, file)): Path<(String, String)>, Query(query): Query<Vec<(String, String)>>) -> Answer {
    let (name, format) = Format::of(&file).ok_or_else(|| Failure::NotFound("a table is <name>.json, <name>.csv or <name>.arrow".to_owned()))?;
    let size = query.iter().find(|(key, _)| key == "limit").map(|(_, value)| value.parse::<usize>());
    let size = size.transpose().map_err(|_| Failure::BadRequest(format!("limit is a number from 1 to {MOST}")))?.unwrap_or(SIZE).clamp(1, MOST);
    let found = read(&app, &store, name, &query, size).await?;
    let mut response = fresh(format.write(&found.page.table, name)?);
    if let Some(Ok(next)) = found.page.next.as_deref().map(HeaderValue::from_str) {
        response.headers_mut().insert("x-tapeline-next", next);
    }
    Ok(response)
}

/// An answer that nobody keeps.
fn fresh(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_the_ending_of_a_name() {
        assert_eq!(Format::of("real.time.csv"), Some(("real.time", Format::Csv)));
        assert_eq!((Format::of("data.json"), Format::of("data.arrow")), (Some(("data", Format::Json)), Some(("data", Format::Arrow))));
        assert_eq!((Format::of("data.xml"), Format::of("data")), (None, None));
    }
}
