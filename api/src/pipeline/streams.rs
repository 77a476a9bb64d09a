//! `spec.streams[]`: a topic as a SQL table.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::names::{SqlName, TopicName};
use crate::path::FieldPath;
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
    /// What a record is that has a field which no path below covers, at any depth: Ignore passes the field over, Reject makes it a bad record.
    #[serde(default)]
    pub unknown_fields: UnknownFields,
    /// What a message without a value is (also an empty one, and null): Ignore gives no row, Row one whose fields are all null, for its `_key`, Reject makes it a bad record.
    #[serde(default)]
    pub tombstones: Tombstones,
    /// The fields of a record, which are the table's columns. Beside them SQL has the message's `_topic`, `_partition`, `_offset`, `_index`, `_timestamp`, `_key` and `_headers`.
    #[schemars(length(min = 1, max = 200), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub fields: Vec<Field>,
}

impl Stream {
    /// The fields that stand in each other's way, as pairs of places in `fields`, the later one first: one's path is the other's, or leads to it.
    #[must_use]
    pub fn path_conflicts(&self) -> Vec<(usize, usize)> {
        let keys: Vec<Vec<String>> = self.fields.iter().map(Field::keys).collect();
        let before = |later: usize| keys.iter().take(later).enumerate();
        let meet = |one: &[String], other: &[String]| one.starts_with(other) || other.starts_with(one);
        keys.iter().enumerate().filter_map(|(later, path)| before(later).find(|(_, other)| meet(path, other)).map(|(earlier, _)| (later, earlier))).collect()
    }
}

/// How messages are encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Format {
    /// A JSON object, or an array of objects (one row each), per message. An empty message has no rows.
    #[default]
    #[serde(rename = "JSON")]
    Json,
}

/// What to do about fields that are not declared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UnknownFields {
    /// They are passed over.
    #[default]
    Ignore,
    /// The record is a bad one.
    Reject,
}

/// What to do about messages without a value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Tombstones {
    /// They give no row.
    #[default]
    Ignore,
    /// They give one row, whose fields are all null, also required ones.
    Row,
    /// They are bad records.
    Reject,
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
    /// The column's name in SQL, and the field's in the message unless `path` says otherwise.
    pub name: SqlName,
    /// boolean, int, bigint, float, double, string, date, timestamp, decimal(precision,scale), json (whatever stands there, as its JSON text), or a list of scalars: list(boolean), list(bigint), list(double), list(string).
    #[serde(rename = "type")]
    pub type_: FieldType,
    /// Where the field stands in a record: the keys that lead to it, with dots between them (`location.city`). Keys are matched exactly. A dot or backslash that belongs to a key has a backslash before it. Default: `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<FieldPath>,
    /// A record without this field, or with null in it, is a bad record. Otherwise it is null.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// For a timestamp that is a number, in quotes or not: what it counts since 1970-01-01 UTC; it may have a fraction. Without it a timestamp is a text: RFC 3339, or `2024-08-25T07:04:45` or `2024-08-25 07:04:45` in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<EpochUnit>,
}

impl Field {
    /// The keys that lead to the field.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.path.as_ref().map_or_else(|| vec![self.name.to_string()], FieldPath::keys)
    }

    /// The path as it is written.
    #[must_use]
    pub fn path_text(&self) -> &str {
        self.path.as_ref().map_or(self.name.as_str(), AsRef::as_ref)
    }
}

/// What an epoch timestamp counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the names say it")]
pub enum EpochUnit {
    Seconds,
    Milliseconds,
    Microseconds,
    Nanoseconds,
}
