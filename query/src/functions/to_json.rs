//! `to_json(x)`: any value as its JSON text, so that a list, a map or a struct can go to a column of text.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringBuilder};
use arrow::datatypes::{DataType, Field};
use arrow::json::writer::{EncoderOptions, make_encoder};
use datafusion::common::{Result, exec_datafusion_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// The function. Null gives null; nulls inside a list are `null`.
pub(crate) fn to_json() -> ScalarUDF {
    ScalarUDF::from(ToJson { signature: Signature::any(1, Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ToJson {
    signature: Signature,
}

impl ScalarUDFImpl for ToJson {
    fn name(&self) -> &'static str {
        "to_json"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [DataType::Interval(_) | DataType::Binary | DataType::LargeBinary | DataType::BinaryView] => {
                plan_err!("to_json takes no binary values and no intervals")
            }
            [_] => Ok(DataType::Utf8),
            _ => plan_err!("to_json takes one argument"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let [value] = <[ColumnarValue; 1]>::try_from(args.args).map_err(|_| exec_datafusion_err!("to_json takes one argument"))?;
        Ok(ColumnarValue::Array(texts(&value.into_array(rows)?)?))
    }
}

fn texts(values: &ArrayRef) -> Result<ArrayRef> {
    let field = Arc::new(Field::new("value", values.data_type().clone(), true));
    let options = EncoderOptions::default().with_explicit_nulls(true);
    let mut encoder = make_encoder(&field, values, &options)?;
    let mut out = StringBuilder::with_capacity(values.len(), values.len() * 16);
    let mut text = Vec::new();
    for row in 0..values.len() {
        if values.is_null(row) {
            out.append_null();
            continue;
        }
        text.clear();
        encoder.encode(row, &mut text);
        out.append_value(std::str::from_utf8(&text).map_err(|error| exec_datafusion_err!("to_json: {error}"))?);
    }
    Ok(Arc::new(out.finish()))
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Decimal128Array, Int64Array, ListArray, StringArray, TimestampMicrosecondArray};
    use arrow::datatypes::Int64Type;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::list(Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None])])), "[1,null]")]
    #[case::number(Arc::new(Int64Array::from(vec![17])), "17")]
    #[case::decimal(Arc::new(Decimal128Array::from(vec![150]).with_precision_and_scale(5, 2).unwrap()), "1.50")]
    #[case::text(Arc::new(StringArray::from(vec!["a\"b\\"])), r#""a\"b\\""#)]
    #[case::timestamp(Arc::new(TimestampMicrosecondArray::from(vec![1_500_000])), r#""1970-01-01T00:00:01.500""#)]
    fn values_as_json(#[case] values: ArrayRef, #[case] text: &str) {
        assert_eq!(texts(&values).unwrap().as_string::<i32>().value(0), text);
    }

    #[test]
    fn null_is_null() {
        let values: ArrayRef = Arc::new(Int64Array::from(vec![None]));
        assert!(texts(&values).unwrap().is_null(0));
    }
}
