//! A message as people look at it: JSON with a line for each member, other text as it is, bytes in hexadecimal, and of long ones the beginning.

use std::fmt::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use serde::Serialize;
use serde::de::IgnoredAny;

/// Bytes of a text that are shown.
const MOST: usize = 16 << 10;
/// Bytes that are shown of what is no text.
const MOST_BINARY: usize = 1 << 10;
/// How far a nested member stands to the right.
const INDENT: &str = "  ";

/// A message of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Milliseconds since 1970, by the producer's clock or the broker's.
    pub timestamp_ms: Option<i64>,
    /// Its key.
    pub key: Option<Text>,
    /// Its headers, in order.
    pub headers: Vec<(String, Text)>,
    /// Its value: pretty where it is JSON. Empty for a tombstone.
    pub payload: Text,
    /// Whether the value is JSON.
    pub json: bool,
    /// Whether there is no value, which deletes the key of a compacted topic.
    pub tombstone: bool,
}

/// The headers of `message`, in order. One whose name is no UTF-8 is left out: rdkafka 0.39 panics on it, which must not end a view for all who follow it.
pub(super) fn headers<'a>(message: &'a BorrowedMessage<'_>) -> Vec<(&'a str, &'a [u8])> {
    let Some(headers) = message.headers() else { return Vec::new() };
    (0..headers.count())
        .filter_map(|index| catch_unwind(AssertUnwindSafe(|| headers.try_get(index))).ok().flatten())
        .map(|header| (header.key, header.value.unwrap_or_default()))
        .collect()
}

/// Bytes as text. Its `Display` says at the end how large the whole is, if this is not all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Text {
    /// What is shown.
    pub text: String,
    /// Whether that is hexadecimal, since the bytes are no text.
    pub hex: bool,
    /// The size of the whole in bytes, if only its beginning is shown.
    pub cut_from: Option<usize>,
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        match self.cut_from {
            Some(size) => write!(f, "\n… cut: this is the beginning of {size} bytes"),
            None => Ok(()),
        }
    }
}

impl Text {
    /// `bytes` as they are, or in hexadecimal.
    pub(super) fn of(bytes: &[u8]) -> Self {
        if let Ok(text) = std::str::from_utf8(bytes) {
            return Self::cut(text.get(..floor(text, MOST)).unwrap_or_default().to_owned(), text.len() > MOST, bytes.len());
        }
        let shown = bytes.get(..MOST_BINARY).unwrap_or(bytes);
        let text = shown.iter().fold(String::with_capacity(2 * shown.len()), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        Self { hex: true, ..Self::cut(text, bytes.len() > MOST_BINARY, bytes.len()) }
    }

    /// The same for a value, and whether it is JSON.
    fn of_value(bytes: &[u8]) -> (Self, bool) {
        if serde_json::from_slice::<IgnoredAny>(bytes).is_err() {
            return (Self::of(bytes), false);
        }
        let (text, cut) = pretty(&String::from_utf8_lossy(bytes));
        (Self::cut(text, cut, bytes.len()), true)
    }

    fn cut(text: String, cut: bool, size: usize) -> Self {
        Self { text, hex: false, cut_from: cut.then_some(size) }
    }
}

/// The last boundary between characters of `text` up to `most` bytes.
fn floor(text: &str, most: usize) -> usize {
    (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0)
}

/// `json`, which is JSON, with a line for each member, and whether it was cut. Only the space between its tokens changes: members keep their order, numbers their digits.
fn pretty(json: &str) -> (String, bool) {
    let mut text = String::new();
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    let mut characters = json.chars().peekable();
    let newline = |text: &mut String, depth: usize| {
        text.push('\n');
        text.extend(std::iter::repeat_n(INDENT, depth));
    };
    while let Some(character) = characters.next() {
        if text.len() > MOST {
            text.truncate(floor(&text, MOST));
            return (text, true);
        }
        if quoted {
            text.push(character);
            (quoted, escaped) = (escaped || character != '"', !escaped && character == '\\');
            continue;
        }
        match character {
            ' ' | '\t' | '\r' | '\n' => {}
            '{' | '[' => {
                text.push(character);
                while characters.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(end) = characters.next_if(|next| matches!(next, '}' | ']')) {
                    text.push(end);
                } else {
                    depth += 1;
                    newline(&mut text, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                newline(&mut text, depth);
                text.push(character);
            }
            ',' => {
                text.push(',');
                newline(&mut text, depth);
            }
            ':' => text.push_str(": "),
            other => {
                quoted = other == '"';
                text.push(other);
            }
        }
    }
    let cut = text.len() > MOST;
    text.truncate(floor(&text, MOST));
    (text, cut)
}

impl Message {
    /// `message` as people look at it.
    pub(super) fn of(message: &BorrowedMessage<'_>) -> Self {
        let headers = headers(message).into_iter().map(|(name, value)| (name.to_owned(), Text::of(value))).collect();
        let (payload, json) = Text::of_value(message.payload().unwrap_or_default());
        Self {
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            key: message.key().map(Text::of),
            headers,
            payload,
            json,
            tombstone: message.payload().is_none(),
        }
    }
}

/// What is looked for in keys and values, whatever the case of its letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Filter(String);

impl Filter {
    /// Everything, if nothing is given.
    pub(super) fn new(text: Option<&str>) -> Self {
        Self(text.unwrap_or_default().to_lowercase())
    }

    pub(super) const fn takes_all(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn takes(&self, message: &BorrowedMessage<'_>) -> bool {
        self.is_in(message.key()) || self.is_in(message.payload())
    }

    fn is_in(&self, bytes: Option<&[u8]>) -> bool {
        self.takes_all() || bytes.is_some_and(|bytes| String::from_utf8_lossy(bytes).to_lowercase().contains(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::object(br#"{ "b":1.10,"a" : [1,2], "c":{}, "d":[ ] }"#, "{\n  \"b\": 1.10,\n  \"a\": [\n    1,\n    2\n  ],\n  \"c\": {},\n  \"d\": []\n}")]
    #[case::braces_in_a_string(br#"["a{,:\"}", "\\"]"#, "[\n  \"a{,:\\\"}\",\n  \"\\\\\"\n]")]
    #[case::many_digits(b"123456789012345678901234567890.10", "123456789012345678901234567890.10")]
    #[case::string(b"\"a  b\"", "\"a  b\"")]
    fn json_has_a_line_for_each_member(#[case] bytes: &[u8], #[case] expected: &str) {
        assert_eq!(Text::of_value(bytes), (Text { text: expected.to_owned(), hex: false, cut_from: None }, true));
    }

    #[rstest]
    #[case::text("Größe".as_bytes(), "Größe", false)]
    #[case::almost_json(br#"{"id": 1"#, r#"{"id": 1"#, false)]
    #[case::nothing(b"", "", false)]
    #[case::binary(&[0, 0xFF, 0x10], "00ff10", true)]
    fn what_is_not_json_is_text_or_hexadecimal(#[case] bytes: &[u8], #[case] expected: &str, #[case] hex: bool) {
        assert_eq!(Text::of_value(bytes), (Text { text: expected.to_owned(), hex, cut_from: None }, false));
    }

    #[test]
    fn of_a_long_value_the_beginning_is_shown_with_the_size_of_the_whole() {
        let text = Text::of("ä".repeat(MOST).as_bytes());
        assert_eq!((text.text.len(), text.cut_from), (MOST, Some(2 * MOST)));
        let odd = Text::of(format!("a{}", "ä".repeat(MOST)).as_bytes());
        assert_eq!(odd.text.len(), MOST - 1, "no half characters");
        assert!(odd.to_string().ends_with("the beginning of 32769 bytes"), "{odd}");
        let binary = Text::of(&[0xFF; 5000]);
        assert_eq!((binary.text.len(), binary.cut_from), (2 * MOST_BINARY, Some(5000)));
        let (json, is_json) = Text::of_value(format!("[{}1]", "1,".repeat(20_000)).as_bytes());
        assert!(is_json && json.text.len() <= MOST && json.cut_from == Some(40_003), "{json:?}");
    }

    #[rstest]
    #[case(Some("aapl"), true)]
    #[case(Some("ÄPFEL"), true)]
    #[case(Some("msft"), false)]
    #[case(Some(""), true)]
    #[case(None, true)]
    fn a_filter_looks_for_text_whatever_the_case(#[case] filter: Option<&str>, #[case] found: bool) {
        assert_eq!(Filter::new(filter).is_in(Some("{\"ticker\":\"AAPL\",\"name\":\"Äpfel\"}".as_bytes())), found);
    }

    proptest! {
        #[test]
        fn prettiness_changes_no_value(names in prop::collection::vec("\\PC{0,8}", 0..6), numbers in prop::collection::vec(any::<f64>(), 0..6)) {
            let numbers: Vec<f64> = numbers.into_iter().filter(|number| number.is_finite()).collect();
            let value = serde_json::json!({"names": names, "numbers": numbers, "nested": [{}, [], {"a\"b": [names]}]});
            let (text, cut) = pretty(&value.to_string());
            prop_assert!(!cut);
            // Read from the same digits: serde_json does not give every double back as it was.
            let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
            prop_assert_eq!(read(&text), read(&value.to_string()));
            prop_assert_eq!(text, serde_json::to_string_pretty(&value).unwrap());
        }
    }
}
