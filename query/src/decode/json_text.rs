//! Fields of type `json`. arrow's reader cannot give a value as its text, so before it reads a message each such value is put into quotes; the reader then finds a text.
//! One pass more over the messages of a stream that has such fields; other streams do not come here.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::record::{Members, Node};

/// Puts the values of the fields of type `json` into quotes.
pub(super) struct JsonText {
    fields: Members,
    out: Vec<u8>,
}

impl JsonText {
    /// For the fields of type `json` in `members`; none if there are none.
    pub(super) fn new(members: &Members) -> Option<Self> {
        let fields = only_json(members);
        (!fields.0.is_empty()).then_some(Self { fields, out: Vec::new() })
    }

    /// `text`, an object or an array of objects, with these values in quotes. Null stays null.
    ///
    /// # Errors
    /// It is not JSON.
    pub(super) fn quote(&mut self, text: &[u8]) -> Result<&[u8], String> {
        let mut found: Vec<&str> = Vec::new();
        let mut reader = serde_json::Deserializer::from_slice(text);
        let read = Records { fields: &self.fields, found: &mut found }.deserialize(&mut reader).and_then(|()| reader.end());
        read.map_err(|error| format!("not JSON: {error}"))?;
        self.out.clear();
        let mut done = 0;
        for value in found {
            let start = value.as_ptr().addr() - text.as_ptr().addr();
            self.out.extend_from_slice(text.get(done..start).unwrap_or_default());
            done = start + value.len();
            if value == "null" {
                self.out.extend_from_slice(b"null");
            } else {
                quoted(value.as_bytes(), &mut self.out);
            }
        }
        self.out.extend_from_slice(text.get(done..).unwrap_or_default());
        Ok(&self.out)
    }
}

/// The members that are, or lead to, fields of type `json`.
fn only_json(members: &Members) -> Members {
    let keep = |node: &Node| match node {
        Node::Value(_) => None,
        Node::Json => Some(Node::Json),
        Node::Object(inner) => Some(only_json(inner)).filter(|inner| !inner.0.is_empty()).map(Node::Object),
    };
    Members(members.0.iter().filter_map(|(key, node)| Some((key.clone(), keep(node)?))).collect())
}

fn quoted(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        let (plain, special) = rest.split_at(at);
        out.extend_from_slice(plain);
        out.push(b'\\');
        let (byte, behind) = special.split_at(1);
        out.extend_from_slice(byte);
        rest = behind;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Reads a record, or an array of them, and notes where the values stand that are to be quoted. Anything else is passed over: the reader says what is wrong with it.
struct Records<'t, 'f, 'de> {
    fields: &'t Members,
    found: &'f mut Vec<&'de str>,
}

impl<'de> DeserializeSeed<'de> for Records<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Records<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(node) = map.next_key_seed(Key(self.fields))? {
            match node {
                None | Some(Node::Value(_)) => {
                    let IgnoredAny = map.next_value()?;
                }
                Some(Node::Json) => self.found.push(map.next_value::<&'de RawValue>()?.get()),
                Some(Node::Object(fields)) => map.next_value_seed(Records { fields, found: &mut *self.found })?,
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Records { fields: self.fields, found: &mut *self.found })?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// A key, as what it leads to.
struct Key<'t>(&'t Members);

impl<'de, 't> DeserializeSeed<'de> for Key<'t> {
    type Value = Option<&'t Node>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_str(self)
    }
}

impl<'t> Visitor<'_> for Key<'t> {
    type Value = Option<&'t Node>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.get(key))
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(r#"{"j": {"a": [1, "x\"\\"]}, "k": {"j": 1}}"#, r#"{"j": "{\"a\": [1, \"x\\\"\\\\\"]}", "k": {"j": 1}}"#)]
    #[case(r#"[{"j": 1.50}, {"j": null}, 3, {"o": {"j": "x"}}]"#, r#"[{"j": "1.50"}, {"j": null}, 3, {"o": {"j": "\"x\""}}]"#)]
    #[case(r#"{"j": 1, "j": 2, "o": 5}"#, r#"{"j": "1", "j": "2", "o": 5}"#)]
    #[case(r#"{"\u006a": true}"#, r#"{"\u006a": "true"}"#)]
    fn values_get_quotes(#[case] text: &str, #[case] quoted: &str) {
        let members = Members(vec![
            ("a".to_owned(), Node::Value(DataType::Utf8)),
            ("j".to_owned(), Node::Json),
            ("o".to_owned(), Node::Object(Members(vec![("j".to_owned(), Node::Json)]))),
        ]);
        let mut fields = JsonText::new(&members).unwrap();
        assert_eq!(std::str::from_utf8(fields.quote(text.as_bytes()).unwrap()).unwrap(), quoted);
    }

    #[test]
    fn a_stream_without_such_fields_has_no_such_pass() {
        assert!(JsonText::new(&Members(vec![("a".to_owned(), Node::Object(Members(vec![("b".to_owned(), Node::Value(DataType::Utf8))])))])).is_none());
    }
}
