//! `date_bin` over the whole range of timestamps. DataFusion's counts in nanoseconds, and makes null of what those do not reach (before 1677, after 2262): the
//! group of a record that says 9999-12-31 would have no key.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray};
use arrow::compute::kernels::arity::try_unary;
use arrow::datatypes::{ArrowTimestampType, DataType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampSecondType};
use arrow::error::ArrowError;
use datafusion::common::{Result, ScalarValue};
use datafusion::functions::datetime::date_bin::DateBinFunc;
use datafusion::logical_expr::{ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature};

/// The name under which SQL calls it.
pub(crate) const DATE_BIN: &str = "date_bin";

/// `date_bin`.
pub(crate) fn date_bin() -> ScalarUDF {
    ScalarUDF::from(DateBin(DateBinFunc::new()))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct DateBin(DateBinFunc);

impl ScalarUDFImpl for DateBin {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.0.return_type(arguments)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (stride, times, origin) = match args.args.as_slice() {
            [ColumnarValue::Scalar(stride), ColumnarValue::Array(times)] => (fixed_micros(stride), times, Some(0)),
            [ColumnarValue::Scalar(stride), ColumnarValue::Array(times), ColumnarValue::Scalar(ScalarValue::TimestampNanosecond(Some(origin), None))] => {
                (fixed_micros(stride), times, (origin % 1000 == 0).then_some(origin / 1000))
            }
            _ => return self.0.invoke_with_args(args),
        };
        let (Some(stride), Some(origin)) = (stride, origin) else { return self.0.invoke_with_args(args) };
        let bins = Bins { stride: stride.into(), origin: origin.into() };
        Ok(ColumnarValue::Array(match times.data_type() {
            DataType::Timestamp(TimeUnit::Second, None) => bins.of::<TimestampSecondType>(times, 1_000_000)?,
            DataType::Timestamp(TimeUnit::Millisecond, None) => bins.of::<TimestampMillisecondType>(times, 1_000)?,
            DataType::Timestamp(TimeUnit::Microsecond, None) => bins.of::<TimestampMicrosecondType>(times, 1)?,
            _ => return self.0.invoke_with_args(args),
        }))
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.0.documentation()
    }
}

/// Bins of the same length, in microseconds.
struct Bins {
    stride: i128,
    origin: i128,
}

impl Bins {
    /// Where the bin of each of `times` begins, which are in units of so many `micros`.
    fn of<T: ArrowTimestampType>(&self, times: &ArrayRef, micros: i128) -> std::result::Result<ArrayRef, ArrowError> {
        let start = |time: i64| {
            let behind = i128::from(time) * micros - self.origin;
            let bin = behind.div_euclid(self.stride) * self.stride + self.origin;
            i64::try_from(bin.div_euclid(micros))
                .map_err(|_| ArrowError::ComputeError("date_bin: the bin begins before the first timestamp that there is".to_owned()))
        };
        Ok(Arc::new(try_unary::<T, _, T>(times.as_primitive(), start)?))
    }
}

/// A stride that always has the same length, in microseconds; none for months, and for what microseconds do not express.
pub(crate) fn fixed_micros(stride: &ScalarValue) -> Option<i64> {
    const DAY: i64 = 86_400_000_000;
    let micros = match stride {
        ScalarValue::IntervalMonthDayNano(Some(of)) if of.months == 0 && of.nanoseconds % 1000 == 0 => {
            i64::from(of.days).checked_mul(DAY)?.checked_add(of.nanoseconds / 1000)?
        }
        ScalarValue::IntervalDayTime(Some(of)) => i64::from(of.days).checked_mul(DAY)?.checked_add(i64::from(of.milliseconds) * 1000)?,
        _ => return None,
    };
    (micros > 0).then_some(micros)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, TimestampMicrosecondArray};
    use arrow::datatypes::{Field, IntervalMonthDayNano};
    use datafusion::common::config::ConfigOptions;
    use rstest::rstest;

    use super::*;
    use crate::schema::TIMESTAMP_TYPE;

    fn bin(stride: IntervalMonthDayNano, origin: Option<&str>, times: &[&str]) -> Vec<Option<String>> {
        bin_in(TimeUnit::Microsecond, stride, origin, times)
    }

    fn bin_in(unit: TimeUnit, stride: IntervalMonthDayNano, origin: Option<&str>, times: &[&str]) -> Vec<Option<String>> {
        let micros = |text: &str| ScalarValue::try_from_string(text.to_owned(), &TIMESTAMP_TYPE).unwrap();
        let times: ArrayRef = Arc::new(
            times
                .iter()
                .map(|text| match micros(text) {
                    ScalarValue::TimestampMicrosecond(value, _) => value,
                    other => panic!("{other}"),
                })
                .collect::<TimestampMicrosecondArray>(),
        );
        let times = arrow::compute::cast(&times, &DataType::Timestamp(unit, None)).unwrap();
        let rows = times.len();
        let mut args = vec![ColumnarValue::Scalar(ScalarValue::IntervalMonthDayNano(Some(stride))), ColumnarValue::Array(times)];
        let origin = origin.map(|text| micros(text).cast_to(&DataType::Timestamp(arrow::datatypes::TimeUnit::Nanosecond, None)).unwrap());
        args.extend(origin.map(ColumnarValue::Scalar));
        let args = ScalarFunctionArgs {
            arg_fields: args.iter().map(|arg| Arc::new(Field::new("a", arg.data_type(), true))).collect(),
            args,
            number_rows: rows,
            return_field: Arc::new(Field::new("r", TIMESTAMP_TYPE, true)),
            config_options: Arc::new(ConfigOptions::default()),
        };
        let binned = date_bin().invoke_with_args(args).unwrap().to_array(rows).unwrap();
        let texts = arrow::compute::cast(&binned, &DataType::Utf8).unwrap();
        texts.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
    }

    const TIMES: [&str; 4] = ["0001-01-01T00:00:59", "1969-12-31T23:59:30", "2024-08-25T07:04:45.000001", "9999-12-31T23:59:59"];

    #[rstest]
    #[case::minutes(IntervalMonthDayNano::new(0, 0, 60_000_000_000), None, ["0001-01-01T00:00:00", "1969-12-31T23:59:00", "2024-08-25T07:04:00", "9999-12-31T23:59:00"])]
    #[case::days(IntervalMonthDayNano::new(0, 1, 0), None, ["0001-01-01T00:00:00", "1969-12-31T00:00:00", "2024-08-25T00:00:00", "9999-12-31T00:00:00"])]
    #[case::from_an_origin(IntervalMonthDayNano::new(0, 1, 0), Some("2024-01-01T03:00:00"),
        ["0000-12-31T03:00:00", "1969-12-31T03:00:00", "2024-08-25T03:00:00", "9999-12-31T03:00:00"])]
    fn every_timestamp_has_a_bin(#[case] stride: IntervalMonthDayNano, #[case] origin: Option<&str>, #[case] expected: [&str; 4]) {
        assert_eq!(bin(stride, origin, &TIMES), expected.map(|text| Some(text.to_owned())));
    }

    #[rstest]
    #[case(TimeUnit::Second)]
    #[case(TimeUnit::Millisecond)]
    fn timestamps_that_a_query_makes_in_coarser_units_have_one_too(#[case] unit: TimeUnit) {
        let minutes = bin_in(unit, IntervalMonthDayNano::new(0, 0, 60_000_000_000), None, &TIMES);
        assert_eq!(minutes, ["0001-01-01T00:00:00", "1969-12-31T23:59:00", "2024-08-25T07:04:00", "9999-12-31T23:59:00"].map(|text| Some(text.to_owned())));
    }

    #[test]
    fn what_has_no_fixed_length_is_binned_as_before() {
        assert_eq!(bin(IntervalMonthDayNano::new(1, 0, 0), None, &["2024-08-25T07:04:45"]), [Some("2024-08-01T00:00:00".to_owned())]);
    }
}
