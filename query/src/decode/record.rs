//! What a record is: the declared fields as a tree of keys, how arrow's reader is to read each, and how its columns become those that SQL sees.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Fields, Float32Type, Float64Type};
use arrow::error::ArrowError;
use tapeline_api::pipeline::streams::{self, EpochUnit, Stream};
use tapeline_api::types::FieldType;

use super::element::with_article;
use super::exact;
use crate::schema::{TIMESTAMP_TYPE, arrow_type};

/// The members of an object, in the order of the reader's fields.
#[derive(Debug, Clone, Default)]
pub(super) struct Members(pub(super) Vec<(String, Node)>);

/// What a member of an object is.
#[derive(Debug, Clone)]
pub(super) enum Node {
    /// A declared field, with the type that the reader gives it.
    Value(DataType),
    /// A declared field of type `json`, which the reader finds as a text.
    Json,
    /// It leads to declared fields.
    Object(Members),
}

impl Members {
    /// What `key` leads to.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// Adds a field, and returns its place: the position at each level. None if another field stands in the way.
    fn insert(&mut self, keys: &[String], node: Node) -> Option<Vec<usize>> {
        let (key, rest) = keys.split_first()?;
        let known = self.0.iter().position(|(name, _)| name == key);
        if rest.is_empty() {
            if known.is_some() {
                return None;
            }
            self.0.push((key.clone(), node));
            return Some(vec![self.0.len() - 1]);
        }
        let at = known.unwrap_or_else(|| {
            self.0.push((key.clone(), Node::Object(Self::default())));
            self.0.len() - 1
        });
        let Some((_, Node::Object(inner))) = self.0.get_mut(at) else { return None };
        let mut place = vec![at];
        place.extend(inner.insert(rest, node)?);
        Some(place)
    }

    /// As the reader takes them: every one nullable, since a missing required field is found afterwards and reported with its path.
    fn fields(&self) -> Fields {
        let data_type = |node: &Node| match node {
            Node::Value(data_type) => data_type.clone(),
            Node::Json => DataType::Utf8,
            Node::Object(members) => DataType::Struct(members.fields()),
        };
        self.0.iter().map(|(key, node)| Field::new(key, data_type(node), true)).collect()
    }
}

/// A declared field.
pub(super) struct Leaf {
    /// Its path as it was declared.
    pub(super) path: String,
    /// The same as keys.
    pub(super) keys: Vec<String>,
    /// Its declared type.
    pub(super) type_: FieldType,
    /// What the reader gives it.
    pub(super) read_as: DataType,
    unit: Option<EpochUnit>,
    required: bool,
    place: Vec<usize>,
}

/// The type in which the reader gives a field. Texts, with numbers as they were written, for what it would round or misread: a number in a timestamp is taken for
/// microseconds by it, one in a date for days.
fn read_as(field: &streams::Field) -> DataType {
    match field.type_ {
        FieldType::Timestamp | FieldType::Date | FieldType::Decimal { .. } => DataType::Utf8,
        other => arrow_type(other),
    }
}

/// A record of a stream.
pub(super) struct Record {
    /// As the reader takes it.
    pub(super) fields: Fields,
    /// The tree of keys.
    pub(super) members: Members,
    /// The declared fields, in their order.
    pub(super) leaves: Vec<Leaf>,
}

impl Record {
    /// The record of `stream`.
    ///
    /// # Errors
    /// Two of its fields stand in each other's way; see [`Stream::path_conflicts`].
    pub(super) fn new(stream: &Stream) -> Result<Self, ArrowError> {
        let mut members = Members::default();
        let mut leaves = Vec::with_capacity(stream.fields.len());
        for field in &stream.fields {
            let (keys, read_as) = (field.keys(), read_as(field));
            let node = if field.type_ == FieldType::Json { Node::Json } else { Node::Value(read_as.clone()) };
            let path = field.path_text().to_owned();
            let place = members.insert(&keys, node).ok_or_else(|| {
                ArrowError::SchemaError(format!("field \"{}\": another field has the path \"{path}\", or leads to it, or is led to by it", field.name))
            })?;
            leaves.push(Leaf { path, keys, type_: field.type_, read_as, unit: field.unit, required: field.required, place });
        }
        Ok(Self { fields: members.fields(), members, leaves })
    }

    /// The columns of rows that the reader gave, in the types that SQL sees. `without_fields` of the rows are tombstones, of which nothing is required.
    ///
    /// # Errors
    /// A row is null, lacks a required field or holds what its type cannot.
    pub(super) fn columns(&self, rows: &ArrayRef, without_fields: usize) -> Result<Vec<ArrayRef>, String> {
        let rows = rows.as_struct_opt().ok_or("no struct")?;
        if rows.null_count() > 0 {
            return Err("null is not a record".to_owned());
        }
        self.leaves.iter().map(|leaf| leaf.column(rows.columns(), without_fields)).collect()
    }
}

impl Leaf {
    fn column(&self, columns: &[ArrayRef], without_fields: usize) -> Result<ArrayRef, String> {
        let column = self.find(columns).ok_or("no column")?;
        if self.required && column.null_count() > without_fields {
            return Err(format!("required field \"{}\" is missing or null", self.path));
        }
        let wrong = |why: String| format!("field \"{}\" {why}", self.path);
        match (self.type_, self.unit) {
            (FieldType::Timestamp, Some(unit)) => exact::epochs(column, unit).map_err(wrong),
            (FieldType::Timestamp, None) => timestamps(column).map_err(wrong),
            (FieldType::Date, _) => dates(column).map_err(wrong),
            (FieldType::Decimal { precision, scale }, _) => exact::decimals(column, precision, scale).map_err(wrong),
            _ if is_finite(column) => Ok(Arc::clone(column)),
            _ => Err(wrong(format!("is not {}: it is beyond the range of the type, or not a number", with_article(&self.type_.to_string())))),
        }
    }

    fn find<'a>(&self, columns: &'a [ArrayRef]) -> Option<&'a ArrayRef> {
        let (last, parents) = self.place.split_last()?;
        let mut columns = columns;
        for &at in parents {
            columns = columns.get(at)?.as_struct_opt()?.columns(); // null where the object is missing or null
        }
        columns.get(*last)
    }
}

/// Texts as timestamps.
fn timestamps(texts: &ArrayRef) -> Result<ArrayRef, String> {
    let converted = cast_with_options(texts, &TIMESTAMP_TYPE, &CastOptions { safe: true, ..CastOptions::default() }).map_err(|error| error.to_string())?;
    if converted.null_count() == texts.null_count() {
        Ok(converted)
    } else {
        Err("is not a timestamp as text, like 2024-08-25T07:04:45Z; for a number since 1970 the field needs a unit".to_owned())
    }
}

/// Texts as dates. What has a time of day behind it may be of another day elsewhere.
fn dates(texts: &ArrayRef) -> Result<ArrayRef, String> {
    let wrong = "is not a date as text, like 2024-08-25; what has a time of day is a timestamp, and CAST(.. AS DATE) is its day";
    let is_plain =
        |text: &str| text.len() == 10 && text.bytes().enumerate().all(|(at, byte)| if matches!(at, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() });
    if !texts.as_string_opt::<i32>().is_some_and(|texts| texts.iter().flatten().all(is_plain)) {
        return Err(wrong.to_owned());
    }
    let converted = cast_with_options(texts, &DataType::Date32, &CastOptions { safe: true, ..CastOptions::default() }).map_err(|error| error.to_string())?;
    if converted.null_count() == texts.null_count() { Ok(converted) } else { Err(wrong.to_owned()) }
}

/// Whether no number in a column is infinite or NaN: the reader makes such of 1e400 and of texts, and one in a sum would stay there.
fn is_finite(column: &ArrayRef) -> bool {
    match column.data_type() {
        DataType::Float64 => column.as_primitive::<Float64Type>().values().iter().all(|number| number.is_finite()),
        DataType::Float32 => column.as_primitive::<Float32Type>().values().iter().all(|number| number.is_finite()),
        DataType::List(_) => is_finite(column.as_list::<i32>().values()),
        _ => true,
    }
}
