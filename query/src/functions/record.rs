//! Functions of the record that a row came from: its uuid, and its place in the order of a group.
//!
//! `record_uuid()` is written without arguments; where it came from is known to the hidden columns, so the plan is given another function in its place
//! ([`uuid_of`]) once it carries them.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BinaryBuilder, Int32Array, Int64Array, StringBuilder};
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// The name under which SQL calls it.
pub(crate) const RECORD_UUID: &str = "record_uuid";

/// `record_uuid()` as SQL has it.
pub(crate) fn record_uuid() -> ScalarUDF {
    // Volatile: not folded into a literal before it is replaced.
    ScalarUDF::from(RecordUuid { signature: Signature::nullary(Volatility::Volatile) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct RecordUuid {
    signature: Signature,
}

impl ScalarUDFImpl for RecordUuid {
    fn name(&self) -> &'static str {
        RECORD_UUID
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!("record_uuid() was called where no record is known")
    }
}

/// The uuid of the record of `topic` at (partition Int32, offset Int64, index Int32), as text.
pub(crate) fn uuid_of(topic: &str) -> ScalarUDF {
    let arguments = vec![DataType::Int32, DataType::Int64, DataType::Int32];
    ScalarUDF::from(UuidOf { topic: topic.to_owned(), signature: Signature::exact(arguments, Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct UuidOf {
    topic: String,
    signature: Signature,
}

impl ScalarUDFImpl for UuidOf {
    fn name(&self) -> &'static str {
        "record_uuid_of"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Columns { partitions, offsets, indexes } = Columns::of(&args.args, args.number_rows)?;
        let mut uuids = StringBuilder::with_capacity(args.number_rows, args.number_rows * 36);
        for ((partition, offset), index) in partitions.values().iter().zip(offsets.values()).zip(indexes.values()) {
            let mut text = uuid::Uuid::encode_buffer();
            uuids.append_value(crate::record_uuid::record_uuid(&self.topic, *partition, *offset, *index).hyphenated().encode_lower(&mut text));
        }
        Ok(ColumnarValue::Array(Arc::new(uuids.finish())))
    }
}

/// The length of an order key in bytes.
const ORDER_KEY_BYTES: usize = 24;

/// What orders the rows of a group for `first_value` and `last_value`: 24 bytes of (time Int64, partition Int32, offset Int64, index Int32) that compare as the
/// four do, so no two records tie and the order in which parts are merged does not matter. A time that is null comes last for `first`, and first for `last`: it
/// never wins against one that is known.
pub(crate) fn order_key(first: bool) -> ScalarUDF {
    let arguments = vec![DataType::Int64, DataType::Int32, DataType::Int64, DataType::Int32];
    ScalarUDF::from(OrderKey { first, signature: Signature::exact(arguments, Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OrderKey {
    first: bool,
    signature: Signature,
}

impl ScalarUDFImpl for OrderKey {
    fn name(&self) -> &'static str {
        if self.first { "order_key_of_first" } else { "order_key_of_last" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [time, place @ ..] = args.args.as_slice() else { return plan_err!("an order key is of a time and a place") };
        let times = time.to_array(args.number_rows)?;
        let Some(times) = times.as_primitive_opt::<Int64Type>() else { return plan_err!("the time of an order key is an Int64") };
        let Columns { partitions, offsets, indexes } = Columns::of(place, args.number_rows)?;
        let unknown = if self.first { [u8::MAX; 8] } else { [0; 8] };
        let mut keys = BinaryBuilder::with_capacity(args.number_rows, args.number_rows * ORDER_KEY_BYTES);
        for (row, ((partition, offset), index)) in partitions.values().iter().zip(offsets.values()).zip(indexes.values()).enumerate() {
            let mut key = [0; ORDER_KEY_BYTES];
            let time = if times.is_null(row) { unknown } else { ordered(times.value(row)) };
            key[..8].copy_from_slice(&time);
            key[8..12].copy_from_slice(&(partition.cast_unsigned() ^ 1 << 31).to_be_bytes());
            key[12..20].copy_from_slice(&ordered(*offset));
            key[20..].copy_from_slice(&(index.cast_unsigned() ^ 1 << 31).to_be_bytes());
            keys.append_value(key);
        }
        Ok(ColumnarValue::Array(Arc::new(keys.finish())))
    }
}

/// Bytes that compare as signed numbers do.
const fn ordered(number: i64) -> [u8; 8] {
    (number.cast_unsigned() ^ 1 << 63).to_be_bytes()
}

/// Where rows came from.
struct Columns {
    partitions: Int32Array,
    offsets: Int64Array,
    indexes: Int32Array,
}

impl Columns {
    fn of(args: &[ColumnarValue], rows: usize) -> Result<Self> {
        let [partition, offset, index] = args else { return plan_err!("a record's place is a partition, an offset and an index") };
        let (partition, offset, index) = (partition.to_array(rows)?, offset.to_array(rows)?, index.to_array(rows)?);
        let columns = (partition.as_primitive_opt::<Int32Type>(), offset.as_primitive_opt::<Int64Type>(), index.as_primitive_opt::<Int32Type>());
        let (Some(partitions), Some(offsets), Some(indexes)) = columns else { return plan_err!("a record's place is an Int32, an Int64 and an Int32") };
        Ok(Self { partitions: partitions.clone(), offsets: offsets.clone(), indexes: indexes.clone() })
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::ArrayRef;
    use arrow::datatypes::Field;
    use datafusion::common::config::ConfigOptions;
    use proptest::prelude::*;

    use super::*;

    type Row = (Option<i64>, i32, i64, i32);

    fn invoke(function: &ScalarUDF, columns: Vec<ArrayRef>) -> ArrayRef {
        let rows = columns[0].len();
        let arg_fields = columns.iter().map(|column| Arc::new(Field::new("c", column.data_type().clone(), true))).collect();
        let args = ScalarFunctionArgs {
            args: columns.into_iter().map(ColumnarValue::Array).collect(),
            arg_fields,
            number_rows: rows,
            return_field: Arc::new(Field::new("r", DataType::Binary, true)),
            config_options: Arc::new(ConfigOptions::default()),
        };
        function.invoke_with_args(args).unwrap().to_array(rows).unwrap()
    }

    fn keys(first: bool, rows: &[Row]) -> Vec<Vec<u8>> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|row| Some(row.1)).collect::<Int32Array>()),
            Arc::new(rows.iter().map(|row| Some(row.2)).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|row| Some(row.3)).collect::<Int32Array>()),
        ];
        invoke(&order_key(first), columns).as_binary::<i32>().iter().map(|key| key.unwrap().to_vec()).collect()
    }

    proptest! {
        #[test]
        fn keys_compare_as_the_rows_do(rows in prop::collection::vec(any::<(i64, i32, i64, i32)>(), 2)) {
            let rows: Vec<Row> = rows.into_iter().map(|(time, partition, offset, index)| (Some(time), partition, offset, index)).collect();
            let keys = keys(true, &rows);
            prop_assert_eq!(keys[0].len(), ORDER_KEY_BYTES);
            prop_assert_eq!(keys[0].cmp(&keys[1]), rows[0].cmp(&rows[1]));
        }
    }

    #[test]
    fn an_unknown_time_never_wins() {
        let rows = [(None, 0, 0, 0), (Some(-5), 9, 9, 9)];
        let (first, last) = (keys(true, &rows), keys(false, &rows));
        assert!(first[1] < first[0] && last[1] > last[0]);
    }
}
