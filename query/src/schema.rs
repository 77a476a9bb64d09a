//! The columns of a stream: the declared fields, what is known of the message they came in, and four hidden columns that follow each row to the sink.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use tapeline_api::pipeline::streams::{EpochUnit, Stream};
use tapeline_api::types::FieldType;

/// The partition of the message, as a column that SQL may name.
pub const PARTITION: &str = "_partition";
/// The offset of the message.
pub const OFFSET: &str = "_offset";
/// The place of the record in its message, from 0.
pub const INDEX: &str = "_index";
/// The timestamp of the message.
pub const TIMESTAMP: &str = "_timestamp";

/// The columns of the message, which `SELECT *` leaves out.
pub const METADATA: [&str; 4] = [PARTITION, OFFSET, INDEX, TIMESTAMP];

/// What follows each row through a plan that handles rows by themselves: where it came from and the write time that makes it idempotent in Cassandra.
/// No stream can declare such a field: SQL names begin with a letter.
pub const HIDDEN: [&str; 4] = ["__tapeline_partition", "__tapeline_offset", "__tapeline_index", "__tapeline_write_time"];

/// The type of a timestamp column: microseconds since 1970, UTC.
pub const TIMESTAMP_TYPE: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

/// The type of a field as SQL sees it.
#[must_use]
pub fn arrow_type(field: FieldType) -> DataType {
    match field {
        FieldType::Boolean => DataType::Boolean,
        FieldType::Int => DataType::Int32,
        FieldType::Bigint => DataType::Int64,
        FieldType::Float => DataType::Float32,
        FieldType::Double => DataType::Float64,
        FieldType::String => DataType::Utf8,
        FieldType::Date => DataType::Date32,
        FieldType::Timestamp => TIMESTAMP_TYPE,
        FieldType::Decimal { precision, scale } => DataType::Decimal128(precision, i8::try_from(scale).unwrap_or(38)),
    }
}

/// The declared fields as the JSON reader is to read them: every one nullable, since a missing required field is found afterwards and reported with its name;
/// a timestamp that is a text as text, since the reader would take a number for microseconds; one that is a number in its own unit.
#[must_use]
pub(crate) fn reader_fields(stream: &Stream) -> Vec<Field> {
    stream
        .fields
        .iter()
        .map(|field| {
            let data_type = match (field.type_, field.unit) {
                (FieldType::Timestamp, None) => DataType::Utf8,
                (FieldType::Timestamp, Some(EpochUnit::Seconds)) => DataType::Timestamp(TimeUnit::Second, None),
                (FieldType::Timestamp, Some(EpochUnit::Milliseconds)) => DataType::Timestamp(TimeUnit::Millisecond, None),
                (other, _) => arrow_type(other),
            };
            Field::new(field.name.as_str(), data_type, true)
        })
        .collect()
}

/// The schema of the stream as a table: the declared fields, then [`METADATA`], then [`HIDDEN`].
#[must_use]
pub fn table_schema(stream: &Stream) -> SchemaRef {
    let declared = stream.fields.iter().map(|field| Field::new(field.name.as_str(), arrow_type(field.type_), !field.required));
    let metadata = [
        Field::new(PARTITION, DataType::Int32, false),
        Field::new(OFFSET, DataType::Int64, false),
        Field::new(INDEX, DataType::Int32, false),
        Field::new(TIMESTAMP, TIMESTAMP_TYPE, true),
    ];
    let types = [DataType::Int32, DataType::Int64, DataType::Int32, DataType::Int64];
    let hidden = HIDDEN.into_iter().zip(types).map(|(name, data_type)| Field::new(name, data_type, false));
    Arc::new(Schema::new(declared.chain(metadata).chain(hidden).collect::<Vec<_>>()))
}
