//! Names that cannot hold anything else: parsed once, at the edge, so that the code which writes SQL or object names never checks again.
//! The pattern in the CRD's schema and the check in the program are the same constant.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A text that is not the name it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}: {rule}")]
pub struct InvalidName {
    /// What was given.
    pub text: String,
    /// What it should have been, with its article ("a topic name").
    pub what: &'static str,
    /// The rule in words.
    pub rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, what: $what:literal, rule: $rule:literal, pattern: $pattern:literal, max: $max:literal, check: $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The longest that it may be, in bytes.
            pub const MAX: usize = $max;

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                let fits: fn(&str) -> bool = $check;
                if !text.is_empty() && text.len() <= $max && fits(&text) {
                    Ok(Self(text))
                } else {
                    Err(InvalidName { text, what: $what, rule: $rule })
                }
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "minLength": 1, "maxLength": $max, "pattern": $pattern})
            }
        }
    };
}

name! {
    /// A keyspace, database, table, column, view or stream.
    SqlName, what: "an SQL name",
    rule: "lower-case letters, digits and _, starting with a letter, 48 characters at most",
    pattern: "^[a-z][a-z0-9_]{0,47}$", max: 48,
    check: |text| text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

name! {
    /// A Kafka topic. `.` and `..` are refused by Kafka itself.
    TopicName, what: "a topic name",
    rule: "letters, digits, '.', '_' and '-', 249 characters at most, not '.' or '..'",
    pattern: r"^([a-zA-Z0-9_-]|\.[a-zA-Z0-9_-]|\.\.[a-zA-Z0-9._-])[a-zA-Z0-9._-]*$", max: 249,
    check: |text| text != "." && text != ".." && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

name! {
    /// A query, a producer or a chart: a DNS label, short enough that `<pipeline>-producer-<name>` is one too.
    ItemName, what: "a name of a query, producer or chart",
    rule: "lower-case letters, digits and -, starting with a letter, not ending with -, 40 characters at most",
    pattern: "^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$", max: 40,
    check: |text| text.starts_with(|c: char| c.is_ascii_lowercase()) && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

name! {
    /// A Kubernetes object that the pipeline refers to (a Secret, a ConfigMap): a DNS subdomain.
    ObjectName, what: "an object's name",
    rule: "lower-case letters, digits, '-' and '.', starting and ending with a letter or digit, 253 characters at most",
    pattern: "^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$", max: 253,
    check: |text| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}

name! {
    /// A key of a Secret or ConfigMap.
    DataKey, what: "a key of a Secret or ConfigMap",
    rule: "letters, digits, '-', '_' and '.', 253 characters at most",
    pattern: "^[-._a-zA-Z0-9]+$", max: 253,
    check: |text| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

impl SqlName {
    /// The name as MySQL and DataFusion-with-backticks take it.
    #[must_use]
    pub fn backticked(&self) -> String {
        format!("`{}`", self.0)
    }

    /// The name as CQL and standard SQL take it.
    #[must_use]
    pub fn quoted(&self) -> String {
        format!("\"{}\"", self.0)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("real_time_data", true)]
    #[case("a", true)]
    #[case("", false)]
    #[case("Upper", false)]
    #[case("1st", false)]
    #[case("drop table x", false)]
    #[case("a`b", false)]
    #[case("abcdefghijklmnopqrstuvwxyz_abcdefghijklmnopqrstuv", false)]
    fn sql_names(#[case] text: &str, #[case] good: bool) {
        assert_eq!(text.parse::<SqlName>().is_ok(), good);
    }

    #[rstest]
    #[case("trading_data.dead-letter", true)]
    #[case(".", false)]
    #[case("..", false)]
    #[case("...", true)]
    #[case("a b", false)]
    fn topic_names(#[case] text: &str, #[case] good: bool) {
        assert_eq!(text.parse::<TopicName>().is_ok(), good);
    }

    #[rstest]
    #[case("raw", true)]
    #[case("raw-", false)]
    #[case("-raw", false)]
    #[case("Raw", false)]
    fn item_names(#[case] text: &str, #[case] good: bool) {
        assert_eq!(text.parse::<ItemName>().is_ok(), good);
    }

    #[test]
    fn an_invalid_name_says_what_it_should_be() {
        let error = "Raw".parse::<ItemName>().unwrap_err().to_string();
        assert_eq!(
            error,
            "\"Raw\" is not a name of a query, producer or chart: lower-case letters, digits and -, starting with a letter, not ending with -, 40 characters at most"
        );
    }
}
