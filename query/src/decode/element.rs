//! The slow path: messages and their elements one by one.

use arrow::array::{Array, ArrayRef};
use arrow::compute::concat as concat_arrays;
use arrow::datatypes::Fields;
use arrow::error::ArrowError;
use serde_json::value::RawValue;

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
}

/// Takes a message apart.
///
/// # Errors
/// Why it is not JSON of the right shape.
pub(super) fn split(payload: Option<&[u8]>) -> Result<Elements<'_>, String> {
    let text = |bytes| std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"));
    match body(payload) {
        None => Ok(Elements { texts: Vec::new(), is_array: false }),
        Some(Body::Other) => Err("neither a JSON object nor an array of objects".to_owned()),
        Some(Body::Object(bytes)) => {
            let text = text(bytes)?;
            serde_json::from_str::<&RawValue>(text).map_err(|error| format!("not JSON: {error}"))?;
            Ok(Elements { texts: vec![text], is_array: false })
        }
        Some(Body::Array(bytes)) => {
            let elements: Vec<&RawValue> = serde_json::from_str(text(bytes)?).map_err(|error| format!("not JSON: {error}"))?;
            Ok(Elements { texts: elements.into_iter().map(RawValue::get).collect(), is_array: true })
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

/// What is wrong with an element, with the name of the field where it can be told: the reader's own errors name only the type.
pub(super) fn describe(error: &ArrowError, text: &str, fields: &Fields) -> String {
    let Ok(serde_json::Value::Object(object)) = serde_json::from_str(text) else {
        return "a record is a JSON object".to_owned();
    };
    for field in fields {
        if let Some(value) = object.get(field.name())
            && !alone_readable(field, value)
        {
            let kind = match value {
                serde_json::Value::String(_) => "text",
                serde_json::Value::Number(_) => "number",
                serde_json::Value::Bool(_) => "boolean",
                serde_json::Value::Array(_) => "array",
                serde_json::Value::Object(_) => "object",
                serde_json::Value::Null => "null",
            };
            return format!("field \"{}\" is not a {}: the record has a {kind} there that does not fit", field.name(), type_name(field));
        }
    }
    error.to_string()
}

fn type_name(field: &arrow::datatypes::Field) -> &'static str {
    use arrow::datatypes::DataType;
    match field.data_type() {
        DataType::Boolean => "boolean",
        DataType::Int32 => "int",
        DataType::Int64 => "bigint",
        DataType::Float32 => "float",
        DataType::Float64 => "double",
        DataType::Date32 => "date",
        DataType::Timestamp(..) => "timestamp",
        DataType::Decimal128(..) => "decimal",
        _ => "string",
    }
}

fn alone_readable(field: &arrow::datatypes::Field, value: &serde_json::Value) -> bool {
    let schema = std::sync::Arc::new(arrow::datatypes::Schema::new(vec![field.clone()]));
    let Ok(mut reader) = arrow::json::ReaderBuilder::new(schema).build_decoder() else { return true };
    let text = serde_json::json!({field.name(): value}).to_string();
    reader.decode(text.as_bytes()).is_ok() && reader.flush().is_ok()
}
