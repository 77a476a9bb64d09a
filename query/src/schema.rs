//! The columns of a stream: the declared fields, what is known of the message they came in, and four hidden columns that follow each row to the sink.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use tapeline_api::pipeline::streams::{Stream, Tombstones};
use tapeline_api::types::{FieldType, ListItem};

/// The partition of the message, as a column that SQL may name.
pub const PARTITION: &str = "_partition";
/// The offset of the message.
pub const OFFSET: &str = "_offset";
/// The place of the record in its message, from 0.
pub const INDEX: &str = "_index";
/// The timestamp of the message.
pub const TIMESTAMP: &str = "_timestamp";

/// The topic of the message.
pub const TOPIC: &str = "_topic";
/// The key of the message as text; `\x` and hexadecimal digits where it is no UTF-8, null where there is none.
pub const KEY: &str = "_key";
/// The headers of the message: a map of texts, the last of a repeated name. `_headers['trace-id']` is one of them, null where there is none of that name.
pub const HEADERS: &str = "_headers";

/// The columns of the message, which `SELECT *` leaves out.
pub const METADATA: [&str; 7] = [PARTITION, OFFSET, INDEX, TIMESTAMP, TOPIC, KEY, HEADERS];

/// What follows each row through a plan that handles rows by themselves: where it came from and the write time that makes it idempotent in Cassandra and MongoDB.
/// No stream can declare such a field: SQL names begin with a letter.
pub mod hidden {
    use arrow::datatypes::DataType;

    /// The partition of the row's record, an Int32.
    pub const PARTITION: &str = "__tapeline_partition";
    /// The offset of the row's record, an Int64.
    pub const OFFSET: &str = "__tapeline_offset";
    /// The place of the row's record in its message, an Int32.
    pub const INDEX: &str = "__tapeline_index";
    /// The row's write time, an Int64: see [`crate::decode::WriteTimes`].
    pub const WRITE_TIME: &str = "__tapeline_write_time";

    /// All of them, in the order of [`super::table_schema`] and of what comes out of a plan.
    pub const ALL: [(&str, DataType); 4] = [(PARTITION, DataType::Int32), (OFFSET, DataType::Int64), (INDEX, DataType::Int32), (WRITE_TIME, DataType::Int64)];

    /// Their names.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ALL.into_iter().map(|(name, _)| name)
    }

    /// Whether a column is one of them.
    #[must_use]
    pub fn is(name: &str) -> bool {
        names().any(|hidden| hidden == name)
    }
}

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
        FieldType::String | FieldType::Json => DataType::Utf8,
        FieldType::Date => DataType::Date32,
        FieldType::Timestamp => TIMESTAMP_TYPE,
        FieldType::Decimal { precision, scale } => DataType::Decimal128(precision, i8::try_from(scale).unwrap_or(38)),
        FieldType::List(item) => DataType::new_list(
            match item {
                ListItem::Boolean => DataType::Boolean,
                ListItem::Bigint => DataType::Int64,
                ListItem::Double => DataType::Float64,
                ListItem::String => DataType::Utf8,
            },
            true,
        ),
    }
}

/// The type of the column [`HEADERS`].
#[must_use]
pub fn headers_type() -> DataType {
    let entries = Field::new_struct("entries", vec![Field::new("keys", DataType::Utf8, false), Field::new("values", DataType::Utf8, true)], false);
    DataType::Map(Arc::new(entries), false)
}

/// The schema of the stream as a table: the declared fields, then [`METADATA`], then those of [`hidden`].
#[must_use]
pub fn table_schema(stream: &Stream) -> SchemaRef {
    let rows_without_fields = stream.tombstones == Tombstones::Row;
    let declared = stream.fields.iter().map(|field| Field::new(field.name.as_str(), arrow_type(field.type_), !field.required || rows_without_fields));
    let metadata = [
        Field::new(PARTITION, DataType::Int32, false),
        Field::new(OFFSET, DataType::Int64, false),
        Field::new(INDEX, DataType::Int32, false),
        Field::new(TIMESTAMP, TIMESTAMP_TYPE, true),
        Field::new(TOPIC, DataType::Utf8, false),
        Field::new(KEY, DataType::Utf8, true),
        Field::new(HEADERS, headers_type(), true),
    ];
    let hidden = hidden::ALL.into_iter().map(|(name, data_type)| Field::new(name, data_type, false));
    Arc::new(Schema::new(declared.chain(metadata).chain(hidden).collect::<Vec<_>>()))
}
