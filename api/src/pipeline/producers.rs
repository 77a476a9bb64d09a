//! `spec.producers[]`: what feeds topics.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ConfigMapKeyRef;
use super::file::File;
use super::live::{Http, SecretFile, WebSocket};
use super::orders::Orders;
use super::schedule::Schedule;
use super::workers::Resources;
use crate::duration::{GoDuration, between};
use crate::names::{ItemName, SqlName, TopicName};

/// Something that feeds a topic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Producer {
    /// The producer's name. Its Deployment, or its CronJob, is `<pipeline>-producer-<name>`.
    pub name: ItemName,
    /// The topic that it writes to.
    pub topic: TopicName,
    /// What it writes.
    pub source: Source,
    /// Runs it now and then instead of all the time: for sources that come to an end, such as a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// CPU and memory of its pod. Default: those under `spec.workers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Stops this producer alone. A scheduled one begins no further run, and can be run by hand all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
}

/// What a producer writes. Exactly one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend(
    "x-kubernetes-map-type" = "atomic",
    "x-kubernetes-validations" = [{
        "rule": "[has(self.simulate), has(self.replay), has(self.orders), has(self.file), has(self.websocket), has(self.http)].exists_one(x, x)",
        "message": "give exactly one of simulate, replay, orders, file, websocket and http"
    }]
))]
pub struct Source {
    /// A made-up market: each tick one message with a trade of every symbol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simulate: Option<Simulate>,
    /// Recorded bars, split into trades.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
    /// Made-up orders of a shop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orders: Option<Orders>,
    /// Messages from a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<File>,
    /// What a websocket delivers: trades of Finnhub, Binance or Massive, or anything in JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub websocket: Option<WebSocket>,
    /// What a JSON API answers, asked again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
}

impl Source {
    /// The keys of Secrets that it needs as files.
    #[must_use]
    pub fn secret_files(&self) -> Vec<SecretFile<'_>> {
        let websocket = self.websocket.iter().flat_map(WebSocket::secret_files);
        websocket.chain(self.http.iter().flat_map(Http::secret_files)).collect()
    }
}

impl Producer {
    /// The topics that it writes to, each with its field below the producer's.
    pub fn topics(&self) -> impl Iterator<Item = (String, &TopicName)> {
        let more = self.source.http.iter().flat_map(|http| &http.more_topics).enumerate();
        std::iter::once(("topic".to_owned(), &self.topic)).chain(more.map(|(index, topic)| (format!("source.http.moreTopics[{index}]"), topic)))
    }
}

/// A made-up market: prices walk at random from a seed. Each message is a JSON array with one trade of every symbol
/// (id, created_at, ticker, sector, volume, market_cap, price).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Simulate {
    /// Time between two messages.
    #[schemars(extend("x-kubernetes-validations" = between("1ms", "24h")))]
    pub interval: GoDuration,
    /// The same seed gives the same market.
    #[serde(default, skip_serializing_if = "super::is_zero")]
    #[schemars(range(min = 0))]
    pub seed: i64,
    /// The first trade's id; the others follow. After a restart the producer goes on behind the last id that it finds in the topic. Ids of two producers must not meet.
    #[serde(default = "super::one")]
    #[schemars(range(min = 0))]
    pub first_id: i64,
    /// Where the symbols come from.
    pub symbols_from: SymbolsFrom,
}

/// Recorded bars, replayed as trades whose volumes add up to each bar's. Each message is a JSON array with one trade of every symbol that has a bar on that day.
/// When all is sent the producer idles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "has(self.file) != has(self.configMapKeyRef)", "message": "give either file or configMapKeyRef"}]))]
pub struct Replay {
    /// A CSV file in the producer's image, under /data, gzipped or not, with the columns Ticker, Date, Open, High, Low, Close and Volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), pattern("^[a-zA-Z0-9_-][a-zA-Z0-9._-]*$"))]
    pub file: Option<String>,
    /// The same from a ConfigMap (`binaryData` for a gzipped one).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<ConfigMapKeyRef>,
    /// Into how many trades a bar is split. From 4 on they touch its open, high, low and close.
    #[serde(default = "ten")]
    #[schemars(range(min = 1, max = 1000))]
    pub trades_per_bar: i32,
    /// Max: as fast as the brokers take it. `86400x`: a day's bar in a second.
    #[serde(default = "max_speed")]
    pub speed: Speed,
    /// Begins again at the end, with further ids.
    #[serde(default, rename = "loop", skip_serializing_if = "std::ops::Not::not")]
    pub repeat: bool,
    /// The first trade's id; the others follow. After a restart the producer goes on behind the last record of its own that it finds in the topic. Ids of two producers must not meet.
    #[serde(default = "super::one")]
    #[schemars(range(min = 0))]
    pub first_id: i64,
    /// Where sectors and numbers of shares come from; without it trades have neither sector nor market_cap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symbols_from: Option<SymbolsFrom>,
}

/// How fast recorded time passes: `Max`, or a factor such as `60x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Speed {
    /// As fast as the brokers take it.
    Max,
    /// Seconds of recorded time in a second, at least 1.
    Factor(u64),
}

impl TryFrom<String> for Speed {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let factor = || text.strip_suffix('x')?.parse().ok().filter(|&factor| factor > 0);
        if text == "Max" {
            return Ok(Self::Max);
        }
        factor().map(Self::Factor).ok_or_else(|| format!("{text:?} is not a speed: write Max, or a factor such as 60x"))
    }
}

impl From<Speed> for String {
    fn from(speed: Speed) -> Self {
        match speed {
            Speed::Max => "Max".to_owned(),
            Speed::Factor(factor) => format!("{factor}x"),
        }
    }
}

impl JsonSchema for Speed {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Speed".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "maxLength": 16, "pattern": "^(Max|[1-9][0-9]{0,11}x)$"})
    }
}

/// Where symbols come from. Exactly one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct SymbolsFrom {
    /// A table in the database of `spec.mysql` with the columns ticker, sector and shares.
    pub mysql: SymbolsTable,
}

/// A table of symbols.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SymbolsTable {
    /// The table's name.
    pub table: SqlName,
}

const fn ten() -> i32 {
    10
}

const fn max_speed() -> Speed {
    Speed::Max
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("Max", Some(Speed::Max))]
    #[case("86400x", Some(Speed::Factor(86_400)))]
    #[case("0x", None)]
    #[case("fast", None)]
    #[case("1.5x", None)]
    fn speeds(#[case] text: &str, #[case] speed: Option<Speed>) {
        assert_eq!(Speed::try_from(text.to_owned()).ok(), speed);
    }
}
