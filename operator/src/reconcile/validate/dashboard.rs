//! The dashboard's charts: whether what they show is declared, and whether what was pasted is a Vega-Lite specification. None of it stops the dashboard, which shows
//! the charts that are right.

use std::collections::BTreeSet;

use serde_json::Value;
use tapeline_api::TradingPipelineSpec;
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::dashboard::Chart;
use tapeline_api::pipeline::mysql::MySql;

use super::Validated;
use crate::reason::{Area, Problem, Reason, near_miss};

/// A Vega-Lite specification has one of these: a mark alone, or what puts several views together.
const VIEWS: [&str; 7] = ["mark", "layer", "hconcat", "vconcat", "concat", "facet", "repeat"];

pub(super) fn validate(spec: &TradingPipelineSpec, validated: &mut Validated) {
    let Some(dashboard) = &spec.dashboard else { return };
    let mut problems = Vec::new();
    match &spec.mysql {
        None if !dashboard.charts.is_empty() => {
            let message = "charts show views and tables of MySQL, and the pipeline has none; add spec.mysql, or remove them";
            problems.push(invalid("spec.dashboard.charts".to_owned(), message));
        }
        None => {}
        Some(mysql) => {
            for (index, chart) in dashboard.charts.iter().enumerate() {
                let mut check = Check { mysql, path: format!("spec.dashboard.charts[{index}]"), problems: &mut problems };
                check.chart(chart);
            }
        }
    }
    validated.problems.extend(problems.iter().cloned());
    validated.dashboard_problems = problems;
}

fn invalid(field: String, message: impl Into<String>) -> Problem {
    Problem::change(Area::Dashboard, Reason::InvalidSpec, field, message)
}

/// Collects what is wrong with the chart under `path`.
struct Check<'a> {
    mysql: &'a MySql,
    path: String,
    problems: &'a mut Vec<Problem>,
}

impl Check<'_> {
    fn wrong(&mut self, field: &str, message: impl Into<String>) {
        self.problems.push(invalid(format!("{}.{field}", self.path), message));
    }

    fn chart(&mut self, chart: &Chart) {
        let mysql = self.mysql;
        let (views, tables) = (|| mysql.views.iter().map(|declared| &declared.name), || mysql.tables.iter().map(|declared| &declared.name));
        if let Some(view) = &chart.view {
            self.declared("view", view, views(), tables());
        }
        if let Some(table) = &chart.table {
            self.declared("table", table, tables(), views());
            self.columns(table, chart.filters.as_deref().unwrap_or_default());
        }
        match chart.specification() {
            Ok(pasted) => pasted.iter().for_each(|pasted| self.vega_lite(pasted)),
            Err(error) => self.wrong("vegaLite", format!("its text is not JSON: {error}; paste what Altair's chart.to_json() gives, as it is")),
        }
        let mut seen = BTreeSet::new();
        for (at, column) in chart.filters.iter().flatten().enumerate().filter(|(_, column)| !seen.insert(*column)) {
            self.wrong(&format!("filters[{at}]"), format!("column \"{column}\" is named twice; name it once"));
        }
    }

    /// Whether `name` is among those `declared` under `field`, and not among `others`, which is what people mix up with them.
    fn declared<'n>(
        &mut self,
        field: &str,
        name: &SqlName,
        mut declared: impl Iterator<Item = &'n SqlName> + Clone,
        mut others: impl Iterator<Item = &'n SqlName>,
    ) {
        let names = declared.clone();
        if declared.any(|known| known == name) {
            return;
        }
        let hint = if others.any(|other| other == name) {
            let other = if field == "view" { "table" } else { "view" };
            format!("; it is a {other}: name it under {other}")
        } else {
            near_miss(name.as_str(), names.map(SqlName::as_str))
        };
        self.wrong(field, format!("spec.mysql.{field}s declares no \"{name}\"{hint}"));
    }

    /// Whether a table that is declared has the columns of its `filters`.
    fn columns(&mut self, table: &SqlName, filters: &[SqlName]) {
        let Some(found) = self.mysql.tables.iter().find(|declared| declared.name == *table) else { return };
        // The columns of a view are known to MySQL alone.
        let columns: Vec<&str> = found.columns.iter().map(|column| column.name.as_str()).collect();
        for (at, column) in filters.iter().enumerate().filter(|(_, column)| !columns.contains(&column.as_str())) {
            let hint = near_miss(column.as_str(), columns.iter().copied());
            self.wrong(&format!("filters[{at}]"), format!("no column \"{column}\" in table \"{table}\"{hint}"));
        }
    }

    fn vega_lite(&mut self, pasted: &Value) {
        let members = pasted.as_object();
        if members.is_some_and(|members| VIEWS.iter().any(|view| members.contains_key(*view))) {
            return;
        }
        let hint = members.into_iter().flat_map(serde_json::Map::keys).map(|key| near_miss(key, VIEWS)).find(|hint| !hint.is_empty()).unwrap_or_default();
        let message = format!("it is not a Vega-Lite specification, which has one of {}{hint}; paste what Altair's chart.to_dict() gives", VIEWS.join(", "));
        self.wrong("vegaLite", message);
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use crate::reconcile::validate::tests::{good, pipeline};
    use crate::reconcile::validate::validate;

    /// What is wrong with a pipeline that has this dashboard.
    fn problems(dashboard: Value) -> Vec<String> {
        let mut object = good();
        object["spec"]["dashboard"] = dashboard;
        let validated = validate(&pipeline(object).spec);
        assert_eq!(validated.problems, validated.dashboard_problems, "the rest of the pipeline is good");
        validated.problems.iter().map(|problem| format!("{} {problem}", problem.reason)).collect()
    }

    #[rstest]
    #[case::nothing_said(json!({}))]
    #[case::a_view(json!({"charts": [{"name": "today", "view": "volume_today", "filters": ["sector"]}]}))]
    #[case::a_table(json!({"charts": [{"name": "all", "table": "aggregated_data", "filters": ["sector", "date"], "vegaLite": {"mark": "bar"}}]}))]
    #[case::a_text(json!({"charts": [{"name": "today", "view": "volume_today", "vegaLite": "{\"mark\": \"bar\"}"}]}))]
    #[case::views_beside_each_other(json!({"charts": [{"name": "both", "view": "volume_today", "vegaLite": {"hconcat": [{"mark": "bar"}, {"mark": "line"}]}}]}))]
    fn good_dashboards(#[case] dashboard: Value) {
        assert_eq!(problems(dashboard), Vec::<String>::new());
    }

    #[rstest]
    #[case::no_such_view(json!({"view": "volume_todya"}),
        "InvalidSpec spec.dashboard.charts[1].view: spec.mysql.views declares no \"volume_todya\"; did you mean \"volume_today\"?")]
    #[case::no_such_table(json!({"table": "profiles"}),
        "InvalidSpec spec.dashboard.charts[1].table: spec.mysql.tables declares no \"profiles\"; did you mean \"profile\"?")]
    #[case::a_table_as_view(json!({"view": "profile"}),
        "InvalidSpec spec.dashboard.charts[1].view: spec.mysql.views declares no \"profile\"; it is a table: name it under table")]
    #[case::a_view_as_table(json!({"table": "volume_today"}),
        "InvalidSpec spec.dashboard.charts[1].table: spec.mysql.tables declares no \"volume_today\"; it is a view: name it under view")]
    #[case::no_such_column(json!({"table": "profile", "filters": ["sector", "tickr"]}),
        "InvalidSpec spec.dashboard.charts[1].filters[1]: no column \"tickr\" in table \"profile\"; did you mean \"ticker\"?")]
    #[case::a_column_twice(json!({"view": "volume_today", "filters": ["sector", "sector"]}),
        "InvalidSpec spec.dashboard.charts[1].filters[1]: column \"sector\" is named twice; name it once")]
    #[case::no_vega_lite(json!({"view": "volume_today", "vegaLite": {"title": "x"}}),
        "InvalidSpec spec.dashboard.charts[1].vegaLite: it is not a Vega-Lite specification, which has one of mark, layer, hconcat, vconcat, concat, facet, repeat; paste \
         what Altair's chart.to_dict() gives")]
    #[case::no_json(json!({"view": "volume_today", "vegaLite": "{\"mark\": bar}"}),
        "InvalidSpec spec.dashboard.charts[1].vegaLite: its text is not JSON: expected value at line 1 column 10; paste what Altair's chart.to_json() gives, as it is")]
    #[case::no_object(json!({"view": "volume_today", "vegaLite": "[1]"}),
        "InvalidSpec spec.dashboard.charts[1].vegaLite: it is not a Vega-Lite specification, which has one of mark, layer, hconcat, vconcat, concat, facet, repeat; paste \
         what Altair's chart.to_dict() gives")]
    #[case::vega(json!({"view": "volume_today", "vegaLite": {"marks": [], "scales": []}}),
        "InvalidSpec spec.dashboard.charts[1].vegaLite: it is not a Vega-Lite specification, which has one of mark, layer, hconcat, vconcat, concat, facet, repeat; did you \
         mean \"mark\"?; paste what Altair's chart.to_dict() gives")]
    fn what_is_wrong_with_a_chart_is_named(#[case] mut chart: Value, #[case] problem: &str) {
        chart["name"] = "second".into();
        assert_eq!(problems(json!({"charts": [{"name": "first", "view": "volume_today"}, chart]})), [problem]);
    }

    #[test]
    fn charts_need_mysql_and_the_rest_of_a_dashboard_does_not() {
        let fields = |dashboard: Value| -> Vec<String> {
            let mut object = good();
            object["spec"].as_object_mut().unwrap().remove("mysql");
            object["spec"]["dashboard"] = dashboard;
            validate(&pipeline(object).spec).dashboard_problems.iter().map(|problem| problem.field.clone()).collect()
        };
        assert_eq!(fields(json!({"charts": [{"name": "a", "view": "v"}, {"name": "b", "view": "w"}]})), ["spec.dashboard.charts"], "it is said once");
        assert_eq!(fields(json!({"title": "Health"})), Vec::<String>::new());
    }
}
