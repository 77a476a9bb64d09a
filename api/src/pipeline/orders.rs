//! `spec.producers[].source.orders`: a made-up shop.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::{GoDuration, between};

/// Made-up orders of a shop: five products, four regions, 500 customers, all drawn from a seed. Each message is a JSON object with order_id, ordered_at, customer,
/// product, region, quantity and unit_price (two digits). When all are sent the producer idles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Orders {
    /// How many orders there are in all. A larger number later goes on behind those that were sent.
    #[schemars(range(min = 1, max = 1_000_000_000_000_i64))]
    pub count: i64,
    /// The same seed gives the same orders.
    #[serde(default, skip_serializing_if = "super::is_zero")]
    #[schemars(range(min = 0))]
    pub seed: i64,
    /// The first order's id; the others follow.
    #[serde(default = "super::one")]
    #[schemars(range(min = 0, max = 1_000_000_000_000_000_i64))]
    pub first_id: i64,
    /// When the first order was placed.
    pub begin: Time,
    /// From one order to the next, in the orders' own time. Default: 1m.
    #[serde(default = "minute")]
    #[schemars(extend("x-kubernetes-validations" = between("1ms", "24h")))]
    pub spacing: GoDuration,
    /// Time between two messages. Default: as fast as the brokers take them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = between("1ms", "24h")))]
    pub interval: Option<GoDuration>,
}

#[allow(clippy::expect_used, reason = "a constant that the test below parses")]
fn minute() -> GoDuration {
    "1m".parse().expect("a constant duration")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_shop_needs_no_more_than_a_number_and_a_begin() {
        let orders: Orders = serde_json::from_value(serde_json::json!({"count": 10, "begin": "2024-08-19T00:00:00Z"})).unwrap();
        assert_eq!((orders.seed, orders.first_id, orders.spacing.get(), orders.interval), (0, 1, Duration::from_secs(60), None));
    }
}
