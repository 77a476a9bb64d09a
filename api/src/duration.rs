//! Durations as Go writes them (`10s`, `1h30m`), compared as parsed values: `60s` equals `1m`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration from an object. It keeps the text that it was read from, so that it is written back unchanged; equality is that of the value.
#[derive(Debug, Clone)]
pub struct GoDuration {
    text: String,
    value: Duration,
}

/// A text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write a number and a unit of ms, s, m or h, such as 500ms, 10s or 1h30m")]
pub struct InvalidDuration(String);

impl GoDuration {
    /// The value.
    #[must_use]
    pub const fn get(&self) -> Duration {
        self.value
    }
}

impl FromStr for GoDuration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, InvalidDuration> {
        let invalid = || InvalidDuration(text.to_owned());
        let mut value = Duration::ZERO;
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|&at| at > 0).ok_or_else(invalid)?;
            let (number, tail) = rest.split_at(digits);
            let number: u64 = number.parse().map_err(|_| invalid())?;
            // `ms` before `m`, or 5ms would be five minutes and an s.
            let (unit, tail) = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)]
                .into_iter()
                .find_map(|(name, millis)| Some((millis, tail.strip_prefix(name)?)))
                .ok_or_else(invalid)?;
            let millis = number.checked_mul(unit).ok_or_else(invalid)?;
            value = value.checked_add(Duration::from_millis(millis)).ok_or_else(invalid)?;
            rest = tail;
        }
        if text.is_empty() { Err(invalid()) } else { Ok(Self { text: text.to_owned(), value }) }
    }
}

impl PartialEq for GoDuration {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Eq for GoDuration {}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for GoDuration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 20, "pattern": "^([0-9]{1,9}(ms|s|m|h))+$"})
    }
}

/// The rule of the API server for a duration of `min` to `max`.
pub(crate) fn between(min: &str, max: &str) -> serde_json::Value {
    serde_json::json!([{
        "rule": format!("duration(self) >= duration('{min}') && duration(self) <= duration('{max}')"),
        "message": format!("from {min} to {max}"),
    }])
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("500ms", 500)]
    #[case("10s", 10_000)]
    #[case("5m", 300_000)]
    #[case("1h30m", 5_400_000)]
    #[case("720h", 2_592_000_000)]
    fn parses_as_go_does(#[case] text: &str, #[case] millis: u64) {
        assert_eq!(text.parse::<GoDuration>().unwrap().get(), Duration::from_millis(millis));
    }

    #[rstest]
    #[case("")]
    #[case("10")]
    #[case("s")]
    #[case("10 s")]
    #[case("-1s")]
    #[case("1d")]
    #[case("99999999999999999999h")]
    fn refuses_what_is_none(#[case] text: &str) {
        assert!(text.parse::<GoDuration>().is_err());
    }

    #[test]
    fn equal_by_value_and_written_back_as_read() {
        let minute: GoDuration = "1m".parse().unwrap();
        assert_eq!(minute, "60s".parse().unwrap());
        assert_eq!(serde_json::to_string(&minute).unwrap(), "\"1m\"");
    }
}
