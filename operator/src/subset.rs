//! Whether a built object is already what the API server holds. A server-side apply that changes nothing is a request all the same, and a converged pipeline
//! makes none: so the built object is compared with the cached live one first.
//!
//! "Already there" means: each field that we would send has our value. What the live object has beside it (defaults, status, fields of others) does not count.
//! Lists with items that have a `name` (containers, volumes, ports, env) or a `mountPath` are compared by it, as server-side apply merges them; other lists
//! as they are.

use serde_json::{Map, Value};

/// Whether applying `built` would leave `live` as it is.
#[must_use]
pub fn is_subset(built: &Value, live: &Value) -> bool {
    match (built, live) {
        (Value::Object(built), Value::Object(live)) => built.iter().all(|(key, value)| object_member(key, value, live)),
        (Value::Array(built), Value::Array(live)) => list(built, live),
        (Value::String(built), Value::String(live)) => built == live || same_quantity(built, live),
        _ => built == live,
    }
}

fn object_member(key: &str, value: &Value, live: &Map<String, Value>) -> bool {
    match live.get(key) {
        Some(live) => is_subset(value, live),
        None => is_empty(value),
    }
}

/// An empty list or object, and a null, are not stored by the API server. A `false` is: those that are built are not the field's default, and one that is
/// gone was taken away.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.values().all(is_empty),
        _ => false,
    }
}

fn list(built: &[Value], live: &[Value]) -> bool {
    let key = ["mountPath", "containerPort", "uid", "name"].into_iter().find(|key| !built.is_empty() && built.iter().all(|item| item.get(key).is_some()));
    match key {
        Some(key) => {
            built.len() <= live.len()
                && built.iter().all(|item| live.iter().find(|other| other.get(key) == item.get(key)).is_some_and(|other| is_subset(item, other)))
        }
        None => built.len() == live.len() && built.iter().zip(live).all(|(built, live)| is_subset(built, live)),
    }
}

/// `0.1` and `100m`, `1Gi` and `1024Mi` are the same quantity, and the API server writes the shorter.
fn same_quantity(left: &str, right: &str) -> bool {
    match (quantity(left), quantity(right)) {
        (Some(left), Some(right)) => (left - right).abs() <= left.abs() * 1e-12,
        _ => false,
    }
}

fn quantity(text: &str) -> Option<f64> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(split)?;
    let factor = match suffix {
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case::equal(json!({"a": 1}), json!({"a": 1}), true)]
    #[case::the_live_one_has_more(json!({"a": 1}), json!({"a": 1, "b": 2}), true)]
    #[case::a_value_differs(json!({"a": 1}), json!({"a": 2}), false)]
    #[case::a_field_is_missing(json!({"a": 1}), json!({}), false)]
    #[case::empty_is_not_stored(json!({"a": {}, "b": [], "c": null}), json!({}), true)]
    #[case::a_token_is_mounted_again(json!({"automountServiceAccountToken": false}), json!({}), false)]
    #[case::lists_by_name(json!([{"name": "b", "x": 1}]), json!([{"name": "a"}, {"name": "b", "x": 1, "y": 2}]), true)]
    #[case::an_item_is_missing(json!([{"name": "c"}]), json!([{"name": "a"}]), false)]
    #[case::plain_lists_in_order(json!(["a", "b"]), json!(["b", "a"]), false)]
    #[case::a_plain_list_is_longer(json!(["a"]), json!(["a", "b"]), false)]
    #[case::quantities(json!({"cpu": "0.1", "memory": "1024Mi"}), json!({"cpu": "100m", "memory": "1Gi"}), true)]
    #[case::other_quantities(json!({"cpu": "0.2"}), json!({"cpu": "100m"}), false)]
    fn compares(#[case] built: Value, #[case] live: Value, #[case] same: bool) {
        assert_eq!(is_subset(&built, &live), same);
    }
}
