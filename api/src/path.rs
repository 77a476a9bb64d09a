//! Where a field stands in a record: the keys that lead to it.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::names::InvalidName;

/// `location.city`: keys with dots between them; `\.` is a dot that belongs to a key, `\\` a backslash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FieldPath(String);

/// The longest path, in bytes.
const MAX: usize = 255;
/// The most keys of a path: each is a level of nested columns when it is read.
const MAX_KEYS: usize = 16;
const RULE: &str =
    "keys with dots between them (location.city), 16 keys and 255 characters at most; a dot or backslash that belongs to a key has a backslash before it";

impl FieldPath {
    /// The keys, at least one, none of them empty.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        keys(&self.0).unwrap_or_default()
    }
}

/// A path for `keys`, as it would be written.
#[must_use]
pub fn join<'a>(keys: impl IntoIterator<Item = &'a str>) -> String {
    keys.into_iter().map(|key| key.replace('\\', r"\\").replace('.', r"\.")).collect::<Vec<_>>().join(".")
}

/// Takes a path apart. None if a key is empty, or a backslash stands before anything else than a dot or a backslash.
fn keys(text: &str) -> Option<Vec<String>> {
    let mut keys = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '.' => keys.push(String::new()),
            '\\' => keys.last_mut()?.push(characters.next().filter(|next| matches!(next, '.' | '\\'))?),
            other => keys.last_mut()?.push(other),
        }
    }
    (keys.len() <= MAX_KEYS && keys.iter().all(|key| !key.is_empty())).then_some(keys)
}

impl TryFrom<String> for FieldPath {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        if text.chars().count() <= MAX && keys(&text).is_some() { Ok(Self(text)) } else { Err(InvalidName { text, what: "a field's path", rule: RULE }) }
    }
}

impl FromStr for FieldPath {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::try_from(text.to_owned())
    }
}

impl From<FieldPath> for String {
    fn from(path: FieldPath) -> Self {
        path.0
    }
}

impl AsRef<str> for FieldPath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for FieldPath {
    fn schema_name() -> Cow<'static, str> {
        "FieldPath".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "minLength": 1, "maxLength": MAX, "pattern": r"^([^.\\]|\\[.\\])+(\.([^.\\]|\\[.\\])+){0,15}$"})
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("city", Some(vec!["city"]))]
    #[case("location.city", Some(vec!["location", "city"]))]
    #[case(r"a\.b.c", Some(vec!["a.b", "c"]))]
    #[case(r"a\\.b", Some(vec![r"a\", "b"]))]
    #[case("Größe.@x y", Some(vec!["Größe", "@x y"]))]
    #[case("", None)]
    #[case(".city", None)]
    #[case("location..city", None)]
    #[case("location.", None)]
    #[case(r"a\b", None)]
    #[case(r"a\", None)]
    #[case("a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a", None)]
    fn paths(#[case] text: &str, #[case] keys: Option<Vec<&str>>) {
        let parsed = text.parse::<FieldPath>().ok().map(|path| path.keys());
        assert_eq!(parsed, keys.map(|keys| keys.into_iter().map(str::to_owned).collect()));
        if let Some(parsed) = parsed {
            assert_eq!(join(parsed.iter().map(String::as_str)), text);
        }
    }
}
