//! Fields that no record has: most likely a path that is misspelt, which no single record can show, since a field may be missing.

use std::collections::BTreeMap;
use std::fmt;

use arrow::array::{Array, ArrayRef};
use serde_json::value::RawValue;
use tapeline_api::path::join;
use tapeline_api::pipeline::streams::Stream;

use super::element::{self, Body};
use super::message::Message;
use crate::did_you_mean;

/// Records that are looked at before anything is said.
const ENOUGH: usize = 1000;
/// Names that are told at most.
const NAMES: usize = 20;

/// A field that none of the first thousand records, or more, has. Its text is a sentence for the author of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeverSeen {
    column: usize,
    field: String,
    path: String,
    keys: Vec<String>,
    /// What one record has where the path leads away from it.
    names: Vec<String>,
}

impl fmt::Display for NeverSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, path, names, .. } = self;
        write!(f, "field \"{field}\": none of the records since the worker's start ({ENOUGH} or more) has a value at \"{path}\"")?;
        if !names.is_empty() {
            write!(f, "; one of them has: {}", names.join(", "))?;
        }
        f.write_str(&did_you_mean(path, names.iter().map(String::as_str).filter(|name| *name != path.as_str())))
    }
}

/// Looks for such fields.
pub(super) struct Search {
    unseen: Vec<NeverSeen>,
    records: usize,
    sampled: bool,
}

impl Search {
    /// For those fields of `stream` that are read.
    pub(super) fn new(stream: &Stream, reads: impl Fn(&str) -> bool) -> Self {
        let unseen = stream.fields.iter().enumerate().filter(|(_, field)| reads(field.name.as_str())).map(|(column, field)| NeverSeen {
            column,
            field: field.name.to_string(),
            path: field.path_text().to_owned(),
            keys: field.keys(),
            names: Vec::new(),
        });
        Self { unseen: unseen.collect(), records: 0, sampled: false }
    }

    /// Takes note of the columns of `records` records, which came in `messages`.
    pub(super) fn look(&mut self, columns: &[ArrayRef], records: usize, messages: &[Message<'_>]) {
        if self.unseen.is_empty() {
            return;
        }
        self.unseen.retain(|field| columns.get(field.column).is_none_or(|column| column.null_count() == column.len()));
        self.records = self.records.saturating_add(records);
        if self.records >= ENOUGH && !self.sampled && records > 0 {
            let sample = messages.iter().find_map(|message| first_record(message.payload));
            for field in &mut self.unseen {
                field.names = sample.map(|record| names(record, &field.keys)).unwrap_or_default();
            }
            self.sampled = sample.is_some();
        }
    }

    /// Those fields, once enough records were looked at.
    pub(super) fn found(&self) -> &[NeverSeen] {
        if self.records >= ENOUGH { &self.unseen } else { &[] }
    }
}

/// The first record of a message, if it is one.
fn first_record(payload: Option<&[u8]>) -> Option<&str> {
    let record = match element::body(payload)? {
        Body::Object(text) => std::str::from_utf8(text).ok()?,
        Body::Array(text) => serde_json::from_slice::<Vec<&RawValue>>(text).ok()?.first().map(|record| record.get())?,
        Body::Other => return None,
    };
    serde_json::from_str::<BTreeMap<String, &RawValue>>(record).is_ok().then_some(record)
}

/// The names of the deepest object on the way along `keys`, as paths.
fn names(record: &str, keys: &[String]) -> Vec<String> {
    let Ok(members) = serde_json::from_str::<BTreeMap<String, &RawValue>>(record) else { return Vec::new() };
    let mut way: Vec<&str> = Vec::new();
    let mut members = members;
    for key in keys {
        let Some(inner) = members.get(key).and_then(|value| serde_json::from_str(value.get()).ok()) else { break };
        members = inner;
        way.push(key);
    }
    members.keys().take(NAMES).map(|name| join(way.iter().copied().chain([name.as_str()]))).collect()
}
