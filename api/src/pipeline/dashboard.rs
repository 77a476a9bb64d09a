//! `spec.dashboard`: a web page for the pipeline.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::CredentialsSecretRef;
use super::workers::Resources;
use crate::names::{ItemName, SqlName};

/// The name of a dashboard as an item of the pipeline: there is one.
pub const DASHBOARD: &str = "dashboard";

/// [`DASHBOARD`], as items are called.
#[must_use]
#[allow(clippy::expect_used, clippy::missing_panics_doc, reason = "a constant that the test below parses")]
pub fn item_name() -> ItemName {
    DASHBOARD.parse().expect("a constant name")
}

/// A web page for the pipeline: its numbers as charts and tables, and the health of what makes them. A Deployment and a Service `<pipeline>-dashboard`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dashboard {
    /// What stands at the top of each page. Default: the pipeline's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub title: Option<String>,
    /// What the first page shows, in this order. Default: a bar chart for each view of `spec.mysql`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub charts: Vec<Chart>,
    /// The path under which an ingress serves it, such as `/stock-volume`. Default: `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200), pattern(r"^(/[A-Za-z0-9._~-]+)+$"), extend("x-kubernetes-validations" = [
        {"rule": "self.split('/').all(part, part != '.' && part != '..')", "message": "no part of it may be . or .., which browsers resolve"},
        {"rule": "!(self in ['/healthz', '/readyz', '/metrics'])", "message": "the dashboard itself answers there; choose another path"}
    ]))]
    pub base_path: Option<String>,
    /// Who may see it. Default: whoever reaches its Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// What people may do there beside looking. Default: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1), extend("x-kubernetes-list-type" = "set"))]
    pub allow: Vec<Allowed>,
    /// CPU and memory. Default: 50m and 64Mi asked for, 256Mi as the limit of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Stops the dashboard alone; its Service stays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
}

/// A chart over a view or table of `spec.mysql`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "has(self.view) != has(self.table)", "message": "give either view or table"}]))]
pub struct Chart {
    /// The chart's name, which is part of its address.
    pub name: ItemName,
    /// What stands above it. Default: the title in `vegaLite`, or the name of the view or table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub title: Option<String>,
    /// The view whose rows it shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<SqlName>,
    /// The table whose rows it shows: the 10,000 with the greatest primary keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<SqlName>,
    /// Columns by which people can filter. Default: those of text and dates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    pub filters: Option<Vec<SqlName>>,
    /// A Vega-Lite specification, pasted unchanged: as JSON in a text, as Altair's `chart.to_json()` gives it, or as an object (of which `kubectl apply` without
    /// `--server-side` loses each `null` when it changes). Its data are replaced by the rows of the view or table. Default: a bar for each row, the longest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text_or_object")]
    pub vega_lite: Option<Value>,
}

fn text_or_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"nullable": true, "x-kubernetes-preserve-unknown-fields": true})
}

impl Chart {
    /// The Vega-Lite specification, read where it was given as a text.
    ///
    /// # Errors
    /// The text is no JSON.
    pub fn specification(&self) -> Result<Option<Value>, serde_json::Error> {
        match &self.vega_lite {
            Some(Value::String(text)) => serde_json::from_str(text).map(Some),
            given => Ok(given.clone()),
        }
    }
}

/// Who may see a dashboard. Exactly one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend(
    "x-kubernetes-map-type" = "atomic",
    "x-kubernetes-validations" = [{"rule": "has(self.passwordSecretRef) != has(self.header)", "message": "give exactly one of passwordSecretRef and header"}]
))]
pub struct Auth {
    /// Whoever knows this user name and password (HTTP's Basic authentication: use it behind TLS).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_ref: Option<CredentialsSecretRef>,
    /// Whoever a proxy in front of it lets through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<AuthHeader>,
}

/// A header by which a proxy (oauth2-proxy, an ingress with OpenID Connect) says who is there. Only the proxy may be able to reach the dashboard: whoever else does can
/// write the header, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthHeader {
    /// The header's name, such as `X-Forwarded-User`. A request without it, or with an empty one, is refused.
    #[schemars(length(min = 1, max = 100), pattern("^[A-Za-z0-9-]+$"), extend("x-kubernetes-validations" = [{
        "rule": "!(self.lowerAscii() in ['host', 'user-agent', 'accept', 'connection'])", "message": "every request has this header; name the one that the proxy sets"
    }]))]
    pub name: String,
    /// Who may see it; empty: whoever has the header.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200), extend("x-kubernetes-list-type" = "set"), inner(length(min = 1, max = 200)))]
    pub users: Vec<String>,
}

/// What people may do on a dashboard beside looking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Allowed {
    /// Sending dead letters to their topic again.
    ReplayDeadLetters,
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::crd::definition;

    fn schema(pointer: &str) -> Value {
        let crd = serde_json::to_value(definition().unwrap()).unwrap();
        let dashboard = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/dashboard";
        crd.pointer(&format!("{dashboard}{pointer}")).unwrap_or_else(|| panic!("the schema has no {pointer}")).clone()
    }

    #[test]
    fn the_item_has_its_name() {
        assert_eq!(item_name().as_str(), DASHBOARD);
    }

    #[test]
    fn a_dashboard_needs_no_more_than_to_be_there() {
        let dashboard: Dashboard = serde_json::from_value(json!({})).unwrap();
        assert_eq!(dashboard, Dashboard::default());
        assert_eq!(serde_json::to_value(&dashboard).unwrap(), json!({}));
    }

    #[rstest]
    #[case::of_the_dashboard(json!({"chart": []}), "unknown field `chart`")]
    #[case::of_a_chart(json!({"charts": [{"name": "today", "view": "v", "filter": []}]}), "unknown field `filter`")]
    #[case::of_a_name(json!({"charts": [{"name": "Today", "view": "v"}]}), "\"Today\" is not a name of a query, producer or chart")]
    #[case::of_the_access(json!({"auth": {"header": {"name": "X-Forwarded-User", "groups": []}}}), "unknown field `groups`")]
    #[case::of_what_is_allowed(json!({"allow": ["DropTables"]}), "unknown variant `DropTables`")]
    fn what_is_not_known_is_refused(#[case] dashboard: Value, #[case] error: &str) {
        let refused = serde_json::from_value::<Dashboard>(dashboard).unwrap_err().to_string();
        assert!(refused.contains(error), "{refused}");
    }

    /// It is pasted from elsewhere, so nothing in it is ours to judge, or to leave out.
    #[test]
    fn a_specification_of_vega_lite_comes_back_as_it_was_pasted() {
        let pasted = json!({"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "mark": {"type": "bar"}, "encoding": {"x": {"field": "v", "title": null}},
            "config": {"view": {"continuousWidth": 300.5}}, "data": {"values": [{"v": 1e300}]}});
        let chart: Chart = serde_json::from_value(json!({"name": "today", "view": "volume_today", "vegaLite": pasted})).unwrap();
        assert_eq!(serde_json::to_value(&chart).unwrap(), json!({"name": "today", "view": "volume_today", "vegaLite": pasted}));
        let schema = schema("/properties/charts/items/properties/vegaLite");
        assert_eq!(
            (&schema["type"], &schema["x-kubernetes-preserve-unknown-fields"]),
            (&Value::Null, &json!(true)),
            "nothing of it is pruned, and it may be a text"
        );
        assert_eq!(chart.specification().unwrap(), Some(pasted.clone()));
        let text: Chart = serde_json::from_value(json!({"name": "today", "view": "volume_today", "vegaLite": pasted.to_string()})).unwrap();
        assert_eq!(text.specification().unwrap(), Some(pasted));
        let cut: Chart = serde_json::from_value(json!({"name": "today", "view": "volume_today", "vegaLite": "{\"mark\": "})).unwrap();
        cut.specification().unwrap_err();
    }

    #[test]
    fn the_api_server_refuses_what_is_neither_or_both() {
        let rule = |pointer: &str| schema(&format!("{pointer}/x-kubernetes-validations/0/rule"));
        assert_eq!(rule("/properties/charts/items"), json!("has(self.view) != has(self.table)"));
        assert_eq!(rule("/properties/auth"), json!("has(self.passwordSecretRef) != has(self.header)"));
        assert_eq!(schema("/properties/auth/x-kubernetes-map-type"), json!("atomic"), "another manager can replace one by the other");
        assert_eq!(schema("/properties/charts/x-kubernetes-list-map-keys"), json!(["name"]), "two charts of one name are refused");
    }
}
