//! What the first page shows: a chart for each entry of `spec.dashboard.charts`, or for each view. A chart is the rows of a view or table and a Vega-Lite specification
//! over them; whatever data the specification brought along (Altair puts them in) are replaced. Pure.

use serde_json::{Map, Value, json};
use tapeline_api::TradingPipelineSpec;
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::mysql::MySqlTable;

use crate::table::{Column, Kind, Table};

/// The name of the rows in a specification.
pub const ROWS: &str = "rows";
/// Members under which a Vega-Lite specification has further ones.
const NESTED: [&str; 6] = ["layer", "hconcat", "vconcat", "concat", "spec", "facet"];
/// What Vega-Lite makes rows from without any data.
const GENERATORS: [&str; 3] = ["sequence", "graticule", "sphere"];

/// A chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// Its name, in addresses.
    pub name: String,
    /// What stands above it.
    pub title: String,
    /// Where its rows are.
    pub source: Source,
    /// Columns by which people can filter; none: those that the rows suggest.
    pub filters: Option<Vec<String>>,
    /// The specification, as it was given.
    pub given: Option<Value>,
    /// Why what was given is none: there is nothing to draw then.
    pub broken: Option<String>,
}

/// Where the rows of a chart are.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A view.
    View(SqlName),
    /// A table.
    Table(Box<MySqlTable>),
}

impl Source {
    /// The name of the view or table.
    #[must_use]
    pub const fn name(&self) -> &SqlName {
        match self {
            Self::View(name) => name,
            Self::Table(table) => &table.name,
        }
    }
}

/// The charts of a pipeline. One whose view or table is not declared is left out; the operator says so in the pipeline's status.
#[must_use]
pub fn charts(spec: &TradingPipelineSpec) -> Vec<Chart> {
    let Some(mysql) = &spec.mysql else { return Vec::new() };
    let declared = spec.dashboard.iter().flat_map(|dashboard| &dashboard.charts);
    let given: Vec<Chart> = declared
        .filter_map(|chart| {
            let source = match (&chart.view, &chart.table) {
                (Some(view), _) => Source::View(mysql.views.iter().find(|declared| declared.name == *view)?.name.clone()),
                (None, Some(table)) => Source::Table(Box::new(mysql.tables.iter().find(|declared| declared.name == *table)?.clone())),
                (None, None) => return None,
            };
            let broken = |why: &str| (None, Some(format!("spec.dashboard.charts[{}].vegaLite: {why}", chart.name)));
            let (given, broken) = match chart.specification() {
                Ok(given) if given.as_ref().is_none_or(Value::is_object) => (given, None),
                Ok(_) => broken("the text is no JSON object"),
                Err(error) => broken(&format!("the text is no JSON: {error}")),
            };
            let of_spec = given.as_ref().and_then(title_of);
            Some(Chart {
                name: chart.name.to_string(),
                title: chart.title.clone().or(of_spec).unwrap_or_else(|| sentence(source.name().as_str())),
                source,
                filters: chart.filters.as_ref().map(|names| names.iter().map(ToString::to_string).collect()),
                given,
                broken,
            })
        })
        .collect();
    if !given.is_empty() || spec.dashboard.as_ref().is_some_and(|dashboard| !dashboard.charts.is_empty()) {
        return given;
    }
    let of_view = |name: &SqlName| Chart {
        name: name.to_string(),
        title: sentence(name.as_str()),
        source: Source::View(name.clone()),
        filters: None,
        given: None,
        broken: None,
    };
    mysql.views.iter().map(|view| of_view(&view.name)).collect()
}

/// `volume_today` as a title: `Volume today`.
#[must_use]
pub fn sentence(name: &str) -> String {
    let words = name.replace('_', " ");
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn title_of(spec: &Value) -> Option<String> {
    let title = spec.get("title")?;
    match title.get("text").unwrap_or(title) {
        Value::String(text) => Some(text.clone()),
        Value::Array(lines) => Some(lines.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")),
        _ => None,
    }
}

impl Chart {
    /// The specification to draw, for rows with the columns of `table`. None when there is nothing that a bar could show.
    #[must_use]
    pub fn specification(&self, table: &Table) -> Option<Value> {
        let mut spec = match (&self.given, &self.broken) {
            (_, Some(_)) => return None,
            (Some(given), None) => given.clone(),
            (None, None) => bars(table)?,
        };
        let parse: Map<String, Value> = table.columns.iter().filter_map(|column| Some((column.name.clone(), json!(parsed_as(column.kind)?)))).collect();
        let top = spec.as_object_mut()?;
        keep_datasets(top);
        strip_data(top);
        top.insert("data".to_owned(), json!({"name": ROWS}));
        // Above the chart already.
        if top.get("title").is_some() && title_of(&Value::Object(top.clone())).as_deref() == Some(self.title.as_str()) {
            top.remove("title");
        }
        let meta = top.entry("usermeta").or_insert_with(|| json!({}));
        if let Some(meta) = meta.as_object_mut() {
            meta.insert("tapeline".to_owned(), json!({"parse": parse}));
        }
        Some(spec)
    }

    /// What is wrong with the chart itself, in words.
    #[must_use]
    pub fn notes(&self, table: Option<&Table>) -> Vec<String> {
        let mut notes: Vec<String> = self.broken.iter().cloned().collect();
        let Some(table) = table else { return notes };
        let there: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
        for name in self.filters.iter().flatten().filter(|name| !there.contains(&name.as_str())) {
            notes.push(format!("spec.dashboard.charts[{}].filters: the rows have no column \"{name}\"; they have {}", self.name, there.join(", ")));
        }
        let mut fields = Vec::new();
        let is_plain = self.given.as_ref().is_none_or(|given| reads(given, &mut fields));
        for name in fields.into_iter().filter(|name| is_plain && !there.contains(name)) {
            notes.push(format!(
                "spec.dashboard.charts[{}].vegaLite: the rows have no column \"{name}\", which it reads; they have {}",
                self.name,
                there.join(", ")
            ));
        }
        notes
    }

    /// The columns by which people can filter.
    #[must_use]
    pub fn filter_columns(&self, table: &Table) -> Vec<String> {
        let wanted = self.filters.clone().unwrap_or_else(|| table.default_filters());
        wanted.into_iter().filter(|name| table.columns.iter().any(|column| column.name == *name)).collect()
    }
}

/// Adds the columns that a specification reads, each once. False where it makes columns of its own.
fn reads<'a>(spec: &'a Value, fields: &mut Vec<&'a str>) -> bool {
    match spec {
        Value::Object(members) => members.iter().all(|(member, value)| match (member.as_str(), value) {
            ("transform", _) => false,
            ("data", data) => GENERATORS.iter().all(|generator| data.get(generator).is_none()),
            ("datasets", _) => true,
            ("field", Value::String(name)) => {
                // One with a dot or a bracket is a path into a value.
                if !name.contains(['.', '[', '\\']) && !fields.contains(&name.as_str()) {
                    fields.push(name);
                }
                true
            }
            (_, value) => reads(value, fields),
        }),
        Value::Array(all) => all.iter().all(|value| reads(value, fields)),
        _ => true,
    }
}

/// Takes away the named data, but those that other data are looked up in: without them a specification does not compile.
fn keep_datasets(spec: &mut Map<String, Value>) {
    let mut names = Vec::new();
    for (member, value) in spec.iter().filter(|(member, _)| *member != "datasets") {
        looked_up(member, value, &mut names);
    }
    if let Some(Value::Object(datasets)) = spec.get_mut("datasets") {
        datasets.retain(|name, _| names.contains(name));
        if !datasets.is_empty() {
            return;
        }
    }
    spec.remove("datasets");
}

/// Adds the names of data from which `value`, under `member`, takes some: `"from": {"data": {"name": ..}}`.
fn looked_up(member: &str, value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            let name = value.get("data").and_then(|data| data.get("name")).and_then(Value::as_str);
            names.extend(name.filter(|_| member == "from").map(str::to_owned));
            members.iter().for_each(|(member, value)| looked_up(member, value, names));
        }
        Value::Array(values) => values.iter().for_each(|value| looked_up("", value, names)),
        _ => {}
    }
}

/// Takes away the data of all parts, so that they have those of the whole; what makes its own rows stays.
fn strip_data(spec: &mut Map<String, Value>) {
    let keeps = spec.get("data").is_some_and(|data| GENERATORS.iter().any(|generator| data.get(generator).is_some()));
    if !keeps {
        spec.remove("data");
    }
    for member in NESTED {
        match spec.get_mut(member) {
            Some(Value::Object(part)) => strip_data(part),
            Some(Value::Array(parts)) => parts.iter_mut().filter_map(Value::as_object_mut).for_each(strip_data),
            _ => {}
        }
    }
}

/// A bar for each row, the longest first: the first column of text or dates against the first of numbers.
fn bars(table: &Table) -> Option<Value> {
    let find = |kinds: &[Kind]| table.columns.iter().find(|column| kinds.contains(&column.kind));
    let amount = find(&[Kind::Integer, Kind::Decimal, Kind::Float])?;
    let name =
        find(&[Kind::Text]).or_else(|| find(&[Kind::Date, Kind::Timestamp])).or_else(|| table.columns.iter().find(|column| column.name != amount.name))?;
    let tooltip: Vec<Value> = table.columns.iter().map(|column| json!({"field": column.name, "type": tooltip_type(column)})).collect();
    Some(json!({
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "mark": {"type": "bar", "cornerRadiusEnd": 2},
        "width": "container",
        "height": {"step": 28},
        "encoding": {
            "y": {"field": name.name, "type": "nominal", "sort": "-x", "title": null},
            "x": {"field": amount.name, "type": "quantitative", "title": sentence(&amount.name), "axis": {"format": "~s"}},
            "tooltip": tooltip,
        },
    }))
}

/// How Vega-Lite is to read a column. A day by itself would be midnight in Greenwich, and the day before in America.
const fn parsed_as(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Date => Some("date:'%Y-%m-%d'"),
        Kind::Timestamp => Some("date"),
        _ => None,
    }
}

const fn tooltip_type(column: &Column) -> &'static str {
    match column.kind {
        Kind::Integer | Kind::Decimal | Kind::Float => "quantitative",
        Kind::Date | Kind::Timestamp => "temporal",
        Kind::Boolean | Kind::Text => "nominal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Cell;

    fn spec(dashboard: Value) -> TradingPipelineSpec {
        serde_json::from_value(json!({
            "kafka": {"bootstrapServers": "k:9092"},
            "mysql": {
                "host": "m", "database": "trading", "credentialsSecretRef": {"name": "mysql"},
                "tables": [{"name": "volumes", "columns": [{"name": "id", "type": "bigint"}], "primaryKey": ["id"]}],
                "views": [{"name": "volume_today", "sql": "SELECT 1"}, {"name": "volume_by_ticker", "sql": "SELECT 1"}],
            },
            "dashboard": dashboard,
        }))
        .unwrap()
    }

    fn volumes() -> Table {
        let column = |name: &str, kind| Column { name: name.into(), kind };
        let columns = vec![column("day", Kind::Date), column("sector", Kind::Text), column("total_volume", Kind::Decimal)];
        Table { columns, rows: vec![vec![Cell::Null, Cell::Text("IT".into()), Cell::Decimal("7".into())]], truncated: false }
    }

    #[test]
    fn without_charts_each_view_has_one() {
        let names = |charts: Vec<Chart>| charts.into_iter().map(|chart| (chart.name, chart.title)).collect::<Vec<_>>();
        let expected = [("volume_today", "Volume today"), ("volume_by_ticker", "Volume by ticker")].map(|(name, title)| (name.to_owned(), title.to_owned()));
        assert_eq!(names(charts(&spec(json!({})))), expected);
        let declared = json!({"charts": [{"name": "all", "table": "volumes", "title": "All"}, {"name": "gone", "view": "volume_todya"}]});
        assert_eq!(names(charts(&spec(declared))), [("all".to_owned(), "All".to_owned())]);
    }

    #[test]
    fn bars_are_those_of_the_reference_dashboard() {
        let chart = charts(&spec(json!({}))).remove(0);
        let drawn = chart.specification(&volumes()).unwrap();
        assert_eq!(drawn["data"], json!({"name": "rows"}));
        assert_eq!(drawn["encoding"]["y"], json!({"field": "sector", "type": "nominal", "sort": "-x", "title": null}));
        assert_eq!((&drawn["encoding"]["x"]["field"], &drawn["encoding"]["x"]["title"]), (&json!("total_volume"), &json!("Total volume")));
        assert_eq!(drawn["usermeta"]["tapeline"]["parse"], json!({"day": "date:'%Y-%m-%d'"}));
        let nothing = Table { columns: vec![Column { name: "sector".into(), kind: Kind::Text }], rows: Vec::new(), truncated: false };
        assert_eq!(chart.specification(&nothing), None);
    }

    #[test]
    fn data_that_a_specification_brings_along_are_replaced() {
        let given = json!({
            "title": {"text": "Volume"}, "datasets": {"data-1": [{"x": 1}]}, "data": {"name": "data-1"}, "usermeta": {"embedOptions": {}},
            "layer": [{"mark": "bar", "data": {"url": "https://elsewhere/x.csv"}}, {"mark": "rule", "data": {"sequence": {"start": 0, "stop": 3}}}],
        });
        let chart = charts(&spec(json!({"charts": [{"name": "v", "view": "volume_today", "vegaLite": given}]}))).remove(0);
        assert_eq!(chart.title, "Volume");
        let drawn = chart.specification(&volumes()).unwrap();
        assert_eq!(
            drawn,
            json!({
                "data": {"name": "rows"}, "layer": [{"mark": "bar"}, {"mark": "rule", "data": {"sequence": {"start": 0, "stop": 3}}}],
                "usermeta": {"embedOptions": {}, "tapeline": {"parse": {"day": "date:'%Y-%m-%d'"}}},
            })
        );
    }

    #[test]
    fn data_that_others_are_looked_up_in_stay() {
        let given = json!({
            "datasets": {"data-1": [{"x": 1}], "names": [{"ticker": "A", "name": "Agilent"}]}, "data": {"name": "data-1"},
            "hconcat": [{"mark": "bar", "transform": [{"lookup": "ticker", "from": {"data": {"name": "names"}, "key": "ticker", "fields": ["name"]}}]}],
        });
        let chart = charts(&spec(json!({"charts": [{"name": "v", "view": "volume_today", "vegaLite": given}]}))).remove(0);
        let drawn = chart.specification(&volumes()).unwrap();
        assert_eq!((&drawn["data"], &drawn["datasets"]), (&json!({"name": "rows"}), &json!({"names": [{"ticker": "A", "name": "Agilent"}]})));
        assert_eq!(drawn["hconcat"][0]["transform"][0]["from"]["data"]["name"], "names");
    }

    #[test]
    fn a_specification_may_be_the_text_of_one() {
        let of = |given: Value| charts(&spec(json!({"charts": [{"name": "v", "view": "volume_today", "vegaLite": given}]}))).remove(0);
        let (text, object) = (of(json!("{\"title\": \"Volume\", \"mark\": \"bar\"}")), of(json!({"title": "Volume", "mark": "bar"})));
        assert_eq!(text, object);
        let broken = of(json!("{\"mark\": "));
        assert_eq!((broken.title.as_str(), broken.specification(&volumes())), ("Volume today", None));
        assert!(broken.notes(None)[0].starts_with("spec.dashboard.charts[v].vegaLite: the text is no JSON: "), "{:?}", broken.notes(None));
        assert_eq!(of(json!("[]")).given, None);
    }

    #[test]
    fn a_filter_that_is_no_column_is_told_with_those_that_are() {
        let chart = charts(&spec(json!({"charts": [{"name": "v", "view": "volume_today", "filters": ["sectr", "day"]}]}))).remove(0);
        let expected = "spec.dashboard.charts[v].filters: the rows have no column \"sectr\"; they have day, sector, total_volume";
        assert_eq!((chart.notes(None), chart.notes(Some(&volumes()))), (Vec::new(), vec![expected.to_owned()]));
    }
    #[rstest::rstest]
    #[case::misspelt(json!({"mark": "bar", "encoding": {"x": {"field": "total_volum"}, "y": {"field": "sector", "sort": {"field": "secto"}}}}), &["total_volum", "secto"])]
    #[case::right(json!({"mark": "bar", "encoding": {"x": {"field": "total_volume"}, "y": {"field": "sector"}}}), &[])]
    #[case::a_path(json!({"mark": "bar", "encoding": {"x": {"field": "a.b"}}}), &[])]
    #[case::a_column_of_its_own(json!({"mark": "bar", "transform": [{"calculate": "1", "as": "one"}], "encoding": {"x": {"field": "one"}}}), &[])]
    #[case::rows_of_its_own(json!({"layer": [{"data": {"sequence": {"start": 0, "stop": 9, "as": "n"}}, "encoding": {"x": {"field": "n"}}}]}), &[])]
    #[case::rows_that_it_brought_along(json!({"datasets": {"d": [{"field": "x"}]}, "data": {"name": "d"}, "mark": "bar"}), &[])]
    fn a_column_that_is_read_and_is_not_there_is_told(#[case] given: Value, #[case] expected: &[&str]) {
        let chart = charts(&spec(json!({"charts": [{"name": "v", "view": "volume_today", "vegaLite": given}]}))).remove(0);
        let notes = chart.notes(Some(&volumes()));
        assert_eq!(notes.len(), expected.len(), "{notes:?}");
        for (note, name) in notes.iter().zip(expected) {
            assert!(note.contains(&format!("no column \"{name}\"")), "{note}");
        }
    }
}
