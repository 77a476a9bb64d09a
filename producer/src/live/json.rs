//! Looks into JSON without taking it apart: a value keeps the text in which the feed wrote it, so that no digit of a price is lost on the way.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A value, opened by one level.
#[derive(Debug)]
pub struct Node<'a> {
    raw: &'a RawValue,
    children: Children<'a>,
}

#[derive(Debug)]
enum Children<'a> {
    Object(Vec<(String, &'a RawValue)>),
    Array(Vec<&'a RawValue>),
    None,
}

impl<'a> Node<'a> {
    /// Opens a document.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text).map(Self::of)
    }

    /// Opens a value.
    #[must_use]
    pub fn of(raw: &'a RawValue) -> Self {
        let children = match raw.get().as_bytes().first() {
            Some(b'{') => serde_json::from_str(raw.get()).map_or(Children::None, |Members(members)| Children::Object(members)),
            Some(b'[') => serde_json::from_str(raw.get()).map_or(Children::None, Children::Array),
            _ => Children::None,
        };
        Self { raw, children }
    }

    /// The value as it was written.
    #[must_use]
    pub const fn raw(&self) -> &'a RawValue {
        self.raw
    }

    /// The elements of an array.
    #[must_use]
    pub fn items(&self) -> Option<&[&'a RawValue]> {
        match &self.children {
            Children::Array(items) => Some(items),
            Children::Object(_) | Children::None => None,
        }
    }

    /// The value to which `steps` lead: names in objects, indices in arrays.
    #[must_use]
    pub fn find(&self, steps: &[String]) -> Option<&'a RawValue> {
        let Some((step, rest)) = steps.split_first() else { return Some(self.raw) };
        let child = match &self.children {
            // The last of several of one name, as JSON parsers commonly take it.
            Children::Object(members) => members.iter().rev().find(|(name, _)| name == step).map(|(_, value)| *value)?,
            Children::Array(items) => items.get(step.parse::<usize>().ok()?).copied()?,
            Children::None => return None,
        };
        if rest.is_empty() { Some(child) } else { Self::of(child).find(rest) }
    }

    /// The text of the member `name`, if it is one.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        match &self.children {
            Children::Object(members) => members.iter().rev().find(|(member, _)| member == name).and_then(|(_, value)| text(value)),
            Children::Array(_) | Children::None => None,
        }
    }
}

/// A value as a text: what is in the quotes, or a number, true or false as written; nothing for null.
#[must_use]
pub fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    match raw.get() {
        "null" => None,
        quoted if quoted.starts_with('"') => serde_json::from_str::<String>(quoted).ok().map(Cow::Owned),
        other => Some(Cow::Borrowed(other)),
    }
}

/// Whether `text` is a number as JSON writes them.
#[must_use]
pub fn is_number(text: &str) -> bool {
    text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) && serde_json::from_str::<&RawValue>(text).is_ok_and(|raw| raw.get() == text)
}

/// The members of an object, in order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Collect).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const DOCUMENT: &str = r#"{"a": [ {"p": 0.10000000000000000555} , 2], "q~/": "x\ny", "n": null, "twice": 1, "twice": 2}"#;

    #[rstest]
    #[case(&[], Some(DOCUMENT))]
    #[case(&["a", "0", "p"], Some("0.10000000000000000555"))]
    #[case(&["a", "1"], Some("2"))]
    #[case(&["q~/"], Some(r#""x\ny""#))]
    #[case(&["twice"], Some("2"))]
    #[case(&["a", "2"], None)]
    #[case(&["a", "p"], None)]
    #[case(&["n", "x"], None)]
    fn values_are_found_as_they_are_written(#[case] steps: &[&str], #[case] found: Option<&str>) {
        let steps: Vec<String> = steps.iter().map(|step| (*step).to_owned()).collect();
        assert_eq!(Node::parse(DOCUMENT).unwrap().find(&steps).map(RawValue::get), found);
    }

    #[test]
    fn texts_are_taken_out_of_their_quotes() {
        let node = Node::parse(DOCUMENT).unwrap();
        assert_eq!((node.text("q~/").as_deref(), node.text("n"), node.text("twice").as_deref()), (Some("x\ny"), None, Some("2")));
        assert!(Node::parse("{\"half\": ").is_err());
    }

    #[rstest]
    #[case("0.00100000", true)]
    #[case("-12e5", true)]
    #[case("01", false)]
    #[case(" 1", false)]
    #[case("1 ", false)]
    #[case("NaN", false)]
    #[case("", false)]
    fn numbers(#[case] text: &str, #[case] is: bool) {
        assert_eq!(is_number(text), is);
    }
}
