//! `spec.producers[].source.websocket` and `.http`: sources outside, which deliver what they have when they have it.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use strum::{Display, IntoStaticStr};

use super::SecretKeyRef;
use crate::duration::{GoDuration, between};
use crate::names::TopicName;

/// A websocket that delivers JSON. Each element of what it delivers becomes a message; the message's key is the symbol, or what `mapping.key` says.
/// After a broken connection it connects and subscribes again; what the server sent to others meanwhile is not delivered, and counted as a gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.feed) != has(self.mapping)", "message": "give either feed or mapping"},
    {"rule": "!has(self.feed) || !has(self.onOpen)", "message": "a feed knows what to send when it opens; remove onOpen, or give a mapping instead of feed"},
    {"rule": "!has(self.feed) || has(self.symbols)", "message": "name at least one symbol to subscribe to"}
]))]
pub struct WebSocket {
    /// Where it is. `${apiKey}` stands for the Secret's value. With `ws://` everything is sent in plain text, the API key too: use it within a cluster only.
    #[schemars(length(max = 2000), pattern(r"^wss?://[^/?#\s]+[^\s]*$"))]
    pub url: String,
    /// The API key; written `${apiKey}` in `url` and in `onOpen`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_secret_ref: Option<SecretKeyRef>,
    /// A feed that is known: how to subscribe, what its answers mean, and how a trade is mapped. Messages have symbol, price, volume, timestamp_unix
    /// (milliseconds), conditions, and what identifies a trade: Binance trade_id; Massive trade_id, exchange and sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feed: Option<FeedKind>,
    /// What to subscribe to, as the feed names it: BINANCE:BTCUSDT at Finnhub, BTCUSDT at Binance, XT.BTC-USD or T.AAPL at Massive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 500), inner(length(min = 1, max = 64), pattern(r"^\S+$")), extend("x-kubernetes-list-type" = "set"))]
    pub symbols: Vec<String>,
    /// Messages to send when the connection is open. One with `${symbol}` in it is sent once for each symbol.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 50), inner(length(min = 1, max = 4000)))]
    pub on_open: Vec<String>,
    /// What becomes of a frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<Mapping>,
    /// When nothing was heard for so long, not even a ping, the connection is made anew. Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = between("1s", "24h")))]
    pub silence_timeout: Option<GoDuration>,
}

/// A feed whose frames are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, Display, IntoStaticStr)]
pub enum FeedKind {
    /// Finnhub's trades. They have no ids, so a trade that comes again after a broken connection cannot be told from another one.
    Finnhub,
    /// Binance's trades, on the raw (`/ws`) or the combined (`/stream`) address. Their ids count up by one, so repeats and gaps are known.
    Binance,
    /// Massive's (Polygon's) trades of crypto-currencies (XT) and stocks (T). They have ids, so repeats are known.
    Massive,
}

/// What becomes of a JSON document: which elements it has, which of them count, and what is taken from each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mapping {
    /// Which frames count. The others are passed over and counted as unknown. Default: all.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub frames: Option<Condition>,
    /// Where the elements are: an array, or a single one. Default: the frame itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elements: Option<JsonPointer>,
    /// Which elements count. The others are passed over and counted as unknown. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elements_where: Option<Condition>,
    /// What a message consists of, each value taken from the element as it is written there. Default: the element as it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 100))]
    pub fields: Vec<MappedField>,
    /// The message's key, in the element. Messages of one key stay in order. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<JsonPointer>,
    /// What tells an element from others of the same key. Those that come again in a later frame are counted and not sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ElementId>,
}

/// A field of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MappedField {
    /// Its name in the message.
    #[schemars(length(min = 1, max = 100))]
    pub name: String,
    /// Where its value is in the element; null where there is none.
    pub pointer: JsonPointer,
    /// Passes a number that is written as a text (`"0.0100"`) on as a number (`0.0100`), digit for digit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unquote: bool,
}

/// A value that must be as given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Condition {
    /// Where it is.
    pub pointer: JsonPointer,
    /// The text, number, true or false that it must be.
    #[schemars(length(max = 200))]
    pub equals: String,
}

/// What identifies an element.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ElementId {
    /// Where it is in the element.
    pub pointer: JsonPointer,
    /// Ids are numbers that count up by one for each key, so that missing ones are counted and logged.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub consecutive: bool,
}

/// A JSON API that is asked again and again. Each element of an answer becomes a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Http {
    /// What is asked for with GET. `${apiKey}` stands for the Secret's value. Redirects to another host are not followed.
    #[schemars(length(max = 2000), pattern(r"^https?://[^/?#\s]+[^\s]*$"))]
    pub url: String,
    /// The API key; written `${apiKey}` in `url`. One that goes into a header is named under `headers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_secret_ref: Option<SecretKeyRef>,
    /// Headers of each request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 20))]
    pub headers: Vec<Header>,
    /// When it is asked.
    pub interval: Interval,
    /// How many times it is asked in a run, where the producer has a schedule. Default: once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub requests: Option<i32>,
    /// Where the elements are in an answer: an array, or a single one. Default: the answer itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elements: Option<JsonPointer>,
    /// What a message consists of, each value taken from the element as it is written there. Default: the element as it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 100))]
    pub fields: Vec<MappedField>,
    /// The message's key, in the element. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<JsonPointer>,
    /// What tells an element from others of the same key. Those that come again in a later answer are counted and not sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ElementId>,
    /// Further topics: messages go to the producer's topic and to these by turns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 50), extend("x-kubernetes-list-type" = "set"))]
    pub more_topics: Vec<TopicName>,
}

/// A header of a request. Its value is given, or is in a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "has(self.value) != has(self.valueFrom)", "message": "give either value or valueFrom"}]))]
pub struct Header {
    /// Its name.
    #[schemars(length(min = 1, max = 100), pattern("^[a-zA-Z0-9!#$%&'*+.^_|~-]+$"))]
    pub name: String,
    /// Its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2000), pattern("^[ -~]*$"))]
    pub value: Option<String>,
    /// Where its value is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<HeaderSource>,
}

/// Where a header's value is. Exactly one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct HeaderSource {
    /// A key of a Secret.
    pub secret_key_ref: SecretKeyRef,
}

/// When something is done again. Exactly one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend(
    "x-kubernetes-map-type" = "atomic",
    "x-kubernetes-validations" = [{"rule": "[has(self.every), has(self.between)].exists_one(x, x)", "message": "give exactly one of every and between"}]
))]
pub struct Interval {
    /// Always after the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = between("100ms", "24h")))]
    pub every: Option<GoDuration>,
    /// After a time that is drawn anew each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub between: Option<Between>,
}

/// The bounds of a random time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "duration(self.min) <= duration(self.max)", "message": "min is larger than max"}]))]
pub struct Between {
    /// The shortest.
    #[schemars(extend("x-kubernetes-validations" = between("100ms", "24h")))]
    pub min: GoDuration,
    /// The longest.
    #[schemars(extend("x-kubernetes-validations" = between("100ms", "24h")))]
    pub max: GoDuration,
}

/// A JSON pointer (RFC 6901): `/data/0/price`. The empty one is the whole document.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JsonPointer(String);

/// A text that is not a JSON pointer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a JSON pointer: write / before each step, such as /data/price, ~1 for a / in a name and ~0 for a ~")]
pub struct InvalidPointer(String);

impl JsonPointer {
    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names (or indices) that lead to the value, unescaped.
    pub fn steps(&self) -> impl Iterator<Item = String> + '_ {
        self.0.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~"))
    }
}

impl TryFrom<String> for JsonPointer {
    type Error = InvalidPointer;

    fn try_from(text: String) -> Result<Self, InvalidPointer> {
        let escapes = text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
        if text.chars().count() <= 500 && escapes && (text.is_empty() || text.starts_with('/')) { Ok(Self(text)) } else { Err(InvalidPointer(text)) }
    }
}

impl FromStr for JsonPointer {
    type Err = InvalidPointer;

    fn from_str(text: &str) -> Result<Self, InvalidPointer> {
        Self::try_from(text.to_owned())
    }
}

impl From<JsonPointer> for String {
    fn from(pointer: JsonPointer) -> Self {
        pointer.0
    }
}

impl fmt::Display for JsonPointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for JsonPointer {
    fn schema_name() -> Cow<'static, str> {
        "JsonPointer".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 500, "pattern": "^(/([^~/]|~[01])*)*$"})
    }
}

/// A key of a Secret that a source needs as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFile<'a> {
    /// The path of the reference below `source`.
    pub field: String,
    /// The Secret and the key.
    pub reference: &'a SecretKeyRef,
    /// The file's name in the folder of the source's credentials.
    pub file: String,
}

/// The file of an API key.
pub const API_KEY_FILE: &str = "api-key";

/// The file of the value of a request's header, by its place in the list.
#[must_use]
pub fn header_file(index: usize) -> String {
    format!("header-{index}")
}

impl WebSocket {
    /// The keys of Secrets that it needs.
    #[must_use]
    pub fn secret_files(&self) -> Vec<SecretFile<'_>> {
        self.api_key_secret_ref.iter().map(|reference| api_key("websocket", reference)).collect()
    }
}

impl Http {
    /// The keys of Secrets that it needs.
    #[must_use]
    pub fn secret_files(&self) -> Vec<SecretFile<'_>> {
        let headers = self.headers.iter().enumerate().filter_map(|(index, header)| {
            let reference = &header.value_from.as_ref()?.secret_key_ref;
            Some(SecretFile { field: format!("http.headers[{index}].valueFrom.secretKeyRef"), reference, file: header_file(index) })
        });
        self.api_key_secret_ref.iter().map(|reference| api_key("http", reference)).chain(headers).collect()
    }

    /// Which parts of an answer are sent, as a mapping.
    #[must_use]
    pub fn mapping(&self) -> Mapping {
        Mapping { elements: self.elements.clone(), fields: self.fields.clone(), key: self.key.clone(), id: self.id.clone(), ..Mapping::default() }
    }
}

fn api_key<'a>(source: &str, reference: &'a SecretKeyRef) -> SecretFile<'a> {
    SecretFile { field: format!("{source}.apiKeySecretRef"), reference, file: API_KEY_FILE.to_owned() }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("", Some(vec![]))]
    #[case("/data/0/p", Some(vec!["data", "0", "p"]))]
    #[case("/a~1b/~01", Some(vec!["a/b", "~1"]))]
    #[case("/", Some(vec![""]))]
    #[case("data", None)]
    #[case("/a~2", None)]
    #[case("/a~", None)]
    fn pointers(#[case] text: &str, #[case] steps: Option<Vec<&str>>) {
        let pointer = text.parse::<JsonPointer>().ok();
        assert_eq!(pointer.map(|pointer| pointer.steps().collect::<Vec<_>>()), steps.map(|steps| steps.into_iter().map(str::to_owned).collect()));
    }

    #[test]
    fn every_secret_that_is_named_becomes_a_file_of_its_own() {
        let http: Http = serde_json::from_value(serde_json::json!({
            "url": "https://api.test/users?key=${apiKey}", "interval": {"every": "10s"}, "apiKeySecretRef": {"name": "users", "key": "key"},
            "headers": [{"name": "Accept", "value": "application/json"}, {"name": "Authorization", "valueFrom": {"secretKeyRef": {"name": "users", "key": "token"}}}],
        }))
        .unwrap();
        let files: Vec<_> = http.secret_files().into_iter().map(|file| (file.field, file.reference.key.to_string(), file.file)).collect();
        let expected = [("http.apiKeySecretRef", "key", "api-key"), ("http.headers[1].valueFrom.secretKeyRef", "token", "header-1")];
        assert_eq!(files, expected.map(|(field, key, file)| (field.to_owned(), key.to_owned(), file.to_owned())));
    }
}
