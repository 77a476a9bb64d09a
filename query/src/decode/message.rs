//! A message, and what SQL sees of it beside its fields: where it stands, its time, its key and its headers. Key, headers and topic are made only for a query that reads
//! them; others get columns of nulls, which cost nothing worth measuring.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{ArrayRef, MapBuilder, MapFieldNames, StringArray, StringBuilder, new_null_array};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use super::Rows;
use crate::schema::{HEADERS, KEY, TOPIC, headers_type};

/// A header: its name and its value.
pub type Header<'a> = (&'a str, Option<&'a [u8]>);

/// A message as the consumer borrows it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Message<'a> {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in milliseconds since 1970, if it has one.
    pub timestamp_ms: Option<i64>,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its headers, in order; may be left empty if [`super::Decoder::wants_headers`] says no.
    pub headers: &'a [Header<'a>],
    /// Its value; none is a tombstone.
    pub payload: Option<&'a [u8]>,
}

/// Which of the columns that cost something are read.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// The topic's name, if it is.
    topic: Option<String>,
    key: bool,
    pub(super) headers: bool,
}

impl Wanted {
    pub(super) fn new(topic: &str, reads: impl Fn(&str) -> bool) -> Self {
        Self { topic: reads(TOPIC).then(|| topic.to_owned()), key: reads(KEY), headers: reads(HEADERS) }
    }

    /// The columns `_topic`, `_key` and `_headers` for `count` rows that stand as `layout` says.
    pub(super) fn columns(&self, layout: &[Rows<'_>], count: usize) -> Result<[ArrayRef; 3], ArrowError> {
        let topic: ArrayRef = match &self.topic {
            Some(topic) => Arc::new(StringArray::from_iter_values(std::iter::repeat_n(topic, count))),
            None => Arc::new(StringArray::new(OffsetBuffer::new_zeroed(count), Buffer::default(), None)), // never null, so not read as empty texts
        };
        let key = if self.key { keys(layout) } else { new_null_array(&DataType::Utf8, count) };
        let headers = if self.headers { headers(layout)? } else { new_null_array(&headers_type(), count) };
        Ok([topic, key, headers])
    }
}

fn keys(layout: &[Rows<'_>]) -> ArrayRef {
    let mut column = StringBuilder::new();
    for rows in layout {
        let key = rows.message.key.map(as_text);
        for _ in 0..rows.count {
            column.append_option(key.as_deref());
        }
    }
    Arc::new(column.finish())
}

fn headers(layout: &[Rows<'_>]) -> Result<ArrayRef, ArrowError> {
    let names = MapFieldNames { entry: "entries".to_owned(), key: "keys".to_owned(), value: "values".to_owned() };
    let mut column = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for rows in layout {
        // The last of a name: the map of a column has each once.
        let headers: BTreeMap<&str, Option<Cow<'_, str>>> = rows.message.headers.iter().map(|(name, value)| (*name, value.map(as_text))).collect();
        for _ in 0..rows.count {
            for (name, value) in &headers {
                column.keys().append_value(name);
                column.values().append_option(value.as_deref());
            }
            column.append(true)?;
        }
    }
    Ok(Arc::new(column.finish()))
}

/// Bytes as text: as they are, or `\x` and their hexadecimal digits if they are no UTF-8.
fn as_text(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("\\x");
    for byte in bytes {
        let _ = write!(text, "{byte:02x}"); // to a String, which does not fail
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_as_text() {
        assert_eq!(as_text("Größe".as_bytes()), "Größe");
        assert_eq!(as_text(&[0, 255, 16]), "\\x00ff10");
        assert_eq!(as_text(&[]), "");
    }
}
