//! The slow path: messages and their elements one by one.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::compute::concat as concat_arrays;
use arrow::datatypes::{Field, Schema};
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use serde_json::value::RawValue;
use tapeline_api::path::join;
use tapeline_api::pipeline::streams::Tombstones;
use tapeline_api::types::FieldType;

use super::TOMBSTONE;
use super::depth::{MAX_DEPTH, is_too_deep};
use super::record::{Leaf, Members, Node, Record};

/// What a message is, by its first byte that is not white space.
pub(super) enum Body<'a> {
    /// `[..]`
    Array(&'a [u8]),
    /// `{..}`
    Object(&'a [u8]),
    /// Anything else.
    Other,
}

/// The body of a message; none for a tombstone: no value, an empty one, or `null`.
pub(super) fn body(payload: Option<&[u8]>) -> Option<Body<'_>> {
    let text = payload?.trim_ascii();
    match text.first() {
        None => None,
        Some(b'[') => Some(Body::Array(text)),
        Some(b'{') => Some(Body::Object(text)),
        Some(_) if text == b"null" => None,
        Some(_) => Some(Body::Other),
    }
}

/// The records of a message as text.
pub(super) struct Elements<'a> {
    pub(super) texts: Vec<&'a str>,
    pub(super) is_array: bool,
    /// It stands for a message without a value.
    pub(super) is_tombstone: bool,
}

/// Takes a message apart.
///
/// # Errors
/// Why it is not JSON of the right shape.
pub(super) fn split(payload: Option<&[u8]>, tombstones: Tombstones) -> Result<Elements<'_>, String> {
    let text = |bytes| std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"));
    let alone = |text, is_tombstone| Elements { texts: vec![text], is_array: false, is_tombstone };
    match (body(payload), tombstones) {
        (None, Tombstones::Ignore) => Ok(Elements { texts: Vec::new(), is_array: false, is_tombstone: true }),
        (None, Tombstones::Row) => Ok(alone("{}", true)),
        (None, Tombstones::Reject) => Err(TOMBSTONE.to_owned()),
        (Some(Body::Other), _) => Err("neither a JSON object nor an array of objects".to_owned()),
        (Some(Body::Object(bytes) | Body::Array(bytes)), _) if is_too_deep(bytes) => Err(format!("nested more than {MAX_DEPTH} deep")),
        (Some(Body::Object(bytes)), _) => {
            let text = text(bytes)?;
            serde_json::from_str::<&RawValue>(text).map_err(|error| format!("not JSON: {error}"))?;
            Ok(alone(text, false))
        }
        (Some(Body::Array(bytes)), _) => {
            let elements: Vec<&RawValue> = serde_json::from_str(text(bytes)?).map_err(|error| format!("not JSON: {error}"))?;
            Ok(Elements { texts: elements.into_iter().map(RawValue::get).collect(), is_array: true, is_tombstone: false })
        }
    }
}

/// Puts single rows together.
pub(super) fn concat(rows: &[Vec<ArrayRef>]) -> Result<Vec<ArrayRef>, ArrowError> {
    let width = rows.first().map_or(0, Vec::len);
    (0..width)
        .map(|column| {
            let parts: Vec<&dyn Array> = rows.iter().filter_map(|row| row.get(column).map(AsRef::as_ref)).collect();
            concat_arrays(&parts)
        })
        .collect()
}

/// What is wrong with an element, with the path of the field where it can be told: the reader's own errors name only the type, and some of them the value.
pub(super) fn describe(error: &ArrowError, text: &str, record: &Record, rejects_unknown: bool) -> String {
    if kind(text) != "object" {
        return "a record is a JSON object".to_owned();
    }
    if let Err(error) = serde_json::from_str::<BTreeMap<String, &RawValue>>(text) {
        return format!("not JSON: {error}");
    }
    for leaf in &record.leaves {
        match find(text, &leaf.keys) {
            Found::Value(value) if !is_readable(leaf, value) => {
                let (type_, kind) = (with_article(&leaf.type_.to_string()), with_article(kind(value)));
                return format!("field \"{}\" is not {type_}: the record has {kind} there that does not fit", leaf.path);
            }
            Found::NoObject { depth, kind } => {
                let parent = join(leaf.keys.iter().take(depth).map(String::as_str));
                return format!("field \"{}\" cannot be there: \"{parent}\" is {}, not an object", leaf.path, with_article(kind));
            }
            Found::Value(_) | Found::Nothing => {}
        }
    }
    if rejects_unknown && let Some(path) = unknown(text, &record.members, &mut Vec::new()) {
        return format!("field \"{path}\" is not declared, and the stream rejects unknown fields; declare it, or set unknownFields: Ignore");
    }
    error.to_string()
}

/// `an int`, `a text`.
pub(super) fn with_article(word: &str) -> String {
    let article = if word.starts_with(['a', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {word}")
}

/// What a JSON text is, by its first character.
fn kind(text: &str) -> &'static str {
    match text.trim_start().bytes().next() {
        Some(b'"') => "text",
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b't' | b'f') => "boolean",
        Some(b'n') => "null",
        _ => "number",
    }
}

/// What stands at the end of a path.
enum Found<'a> {
    Value(&'a str),
    Nothing,
    /// The first `depth` keys lead to something that has no members.
    NoObject {
        depth: usize,
        kind: &'static str,
    },
}

/// Follows `keys`. Of members with the same key the last counts, as for the reader.
fn find<'a>(record: &'a str, keys: &[String]) -> Found<'a> {
    let mut value = record;
    for (depth, key) in keys.iter().enumerate() {
        match kind(value) {
            "object" => {}
            "null" => return Found::Nothing,
            kind => return Found::NoObject { depth, kind },
        }
        let Ok(members) = serde_json::from_str::<BTreeMap<String, &RawValue>>(value) else { return Found::Nothing };
        let Some(member) = members.get(key) else { return Found::Nothing };
        value = member.get();
    }
    Found::Value(value)
}

/// The path of a member that leads to no declared field, if there is one.
fn unknown(text: &str, declared: &Members, way: &mut Vec<String>) -> Option<String> {
    let members = serde_json::from_str::<BTreeMap<String, &RawValue>>(text).ok()?;
    for (key, value) in members {
        way.push(key);
        let name = way.last().map_or("", String::as_str);
        match declared.get(name) {
            None => return Some(join(way.iter().map(String::as_str))),
            Some(Node::Object(inner)) => {
                if let Some(path) = unknown(value.get(), inner, way) {
                    return Some(path);
                }
            }
            Some(_) => {}
        }
        way.pop();
    }
    None
}

/// Whether the reader takes `value` for the field. One of type `json` takes any.
fn is_readable(leaf: &Leaf, value: &str) -> bool {
    if leaf.type_ == FieldType::Json {
        return true;
    }
    let schema = Arc::new(Schema::new(vec![Field::new("value", leaf.read_as.clone(), true)]));
    let Ok(mut reader) = ReaderBuilder::new(schema).with_coerce_primitive(true).build_decoder() else { return true };
    let text = format!("{{\"value\": {value}}}");
    reader.decode(text.as_bytes()).is_ok() && reader.flush().is_ok()
}
