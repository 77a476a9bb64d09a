//! `spec.streams[]`: a topic as a SQL table.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::names::{SqlName, TopicName};
use crate::types::FieldType;

/// A topic as a SQL table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stream {
    /// The table's name in SQL.
    pub name: SqlName,
    /// The topic. One that is not under `spec.kafka.topics` is looked up and never altered.
    pub topic: TopicName,
    /// What a message is.
    #[serde(default)]
    pub format: Format,
    /// Where a query begins that has no stored progress for the topic. Later it always goes on from its progress, and partitions that are added are read from their start. Default: Earliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_from: Option<StartFrom>,
    /// The topic for records that cannot be read or that a store refuses, created when it is missing. Without it such a record stops the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter_topic: Option<TopicName>,
    /// What a query does when records that it has not read yet are gone (deleted by retention, or the topic was created anew): Stop, or Continue behind the gap.
    #[serde(default)]
    pub on_data_loss: OnDataLoss,
    /// The fields of a record, which are the table's columns. Fields of a message that are not listed are passed over.
    #[schemars(length(min = 1, max = 200), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub fields: Vec<Field>,
}

/// How messages are encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Format {
    /// A JSON object, or an array of objects (one row each), per message. An empty message has no rows.
    #[default]
    #[serde(rename = "JSON")]
    Json,
}

/// What to do about records that are gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnDataLoss {
    /// The query stops with DataLoss.
    #[default]
    Stop,
    /// The query goes on with the first record that is there.
    Continue,
}

/// Where to begin. Exactly one member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend(
    "x-kubernetes-map-type" = "atomic",
    "x-kubernetes-validations" = [{"rule": "has(self.position) != has(self.timestamp)", "message": "give either position or timestamp"}]
))]
pub struct StartFrom {
    /// Earliest: all that the topic holds. Latest: what comes from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// The first record with this timestamp or a later one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Time>,
}

/// An end of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Position {
    /// The first record that the topic holds.
    Earliest,
    /// Behind the last record that the topic holds.
    Latest,
}

/// A field of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "!has(self.unit) || self.type == 'timestamp'", "message": "unit is for timestamps"}]))]
pub struct Field {
    /// The field's name in the message, and the column's in SQL.
    pub name: SqlName,
    /// boolean, int, bigint, float, double, string, date, timestamp or decimal(precision,scale).
    #[serde(rename = "type")]
    pub type_: FieldType,
    /// A record without this field, or with null in it, is a bad record. Otherwise it is null.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// For a timestamp that is a number: what it counts since 1970-01-01 UTC. Without it a timestamp is a text: RFC 3339, or `2024-08-25T07:04:45` or `2024-08-25 07:04:45` in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<EpochUnit>,
}

/// What an epoch timestamp counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the names say it")]
pub enum EpochUnit {
    Seconds,
    Milliseconds,
    Microseconds,
}
