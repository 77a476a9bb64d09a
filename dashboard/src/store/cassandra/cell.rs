//! Values of CQL as cells, exactly.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use scylla::cluster::metadata::{ColumnType, NativeType};
use scylla::value::{CqlDate, CqlTime, CqlTimestamp, CqlValue};

use super::value::DAY_ZERO;
use crate::table::{Cell, Kind};

const SECONDS_PER_DAY: i64 = 86_400;
/// A scale up to this is written out; beyond it the number gets an exponent, as a few bytes may stand for gigabytes of zeros.
const MOST_ZEROS: i32 = 100;
/// Longer numbers, in bytes, are not written out: that takes time with the square of their length.
const LONGEST: usize = 512;

/// What a column of type `type_` is shown as.
pub(super) const fn kind(type_: &ColumnType<'_>) -> Kind {
    let ColumnType::Native(native) = type_ else { return Kind::Text };
    match native {
        NativeType::Boolean => Kind::Boolean,
        NativeType::TinyInt | NativeType::SmallInt | NativeType::Int | NativeType::BigInt | NativeType::Counter => Kind::Integer,
        NativeType::Decimal | NativeType::Varint => Kind::Decimal,
        NativeType::Float | NativeType::Double => Kind::Float,
        NativeType::Date => Kind::Date,
        NativeType::Timestamp => Kind::Timestamp,
        _ => Kind::Text,
    }
}

/// `value` as a cell; lists, maps and the like as CQL writes them.
pub(super) fn cell(value: Option<CqlValue>) -> Cell {
    let Some(value) = value else { return Cell::Null };
    match value {
        CqlValue::Boolean(value) => Cell::Boolean(value),
        CqlValue::TinyInt(value) => Cell::Integer(value.into()),
        CqlValue::SmallInt(value) => Cell::Integer(value.into()),
        CqlValue::Int(value) => Cell::Integer(value.into()),
        CqlValue::BigInt(value) => Cell::Integer(value),
        CqlValue::Counter(value) => Cell::Integer(value.0),
        CqlValue::Float(value) => Cell::short_float(value),
        CqlValue::Double(value) => Cell::Float(value),
        CqlValue::Decimal(value) => {
            let (digits, scale) = value.as_signed_be_bytes_slice_and_exponent();
            decimal(digits, scale)
        }
        CqlValue::Varint(value) => decimal(value.as_signed_bytes_be_slice(), 0),
        CqlValue::Ascii(text) | CqlValue::Text(text) => Cell::Text(text),
        CqlValue::Date(CqlDate(day)) => date(i64::from(day) - DAY_ZERO),
        CqlValue::Timestamp(CqlTimestamp(milliseconds)) => Cell::milliseconds(milliseconds),
        CqlValue::Time(CqlTime(nanoseconds)) => Cell::Text(time(nanoseconds)),
        CqlValue::Inet(address) => Cell::Text(address.to_string()),
        other => Cell::Text(other.to_string()),
    }
}

fn date(days: i64) -> Cell {
    let midnight = Timestamp::from_second(days * SECONDS_PER_DAY);
    midnight.map_or_else(|_| Cell::Text(format!("{days} days since 1970")), |midnight| Cell::Date(TimeZone::UTC.to_datetime(midnight).date()))
}

fn time(nanoseconds: i64) -> String {
    let (seconds, rest) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    let text = format!("{:02}:{:02}:{:02}.{rest:09}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The number `digits / 10^scale`, where `digits` is a two's complement.
fn decimal(digits: &[u8], scale: i32) -> Cell {
    if digits.len() > LONGEST {
        return Cell::Text(format!("a number of {} bytes", digits.len()));
    }
    let (sign, digits) = whole(digits);
    let places = usize::try_from(scale).unwrap_or(0);
    Cell::decimal(&match scale {
        0 => format!("{sign}{digits}"),
        1..=MOST_ZEROS => {
            let padded = format!("{digits:0>width$}", width = places + 1);
            let (whole, fraction) = padded.split_at_checked(padded.len() - places).unwrap_or((&padded, "0"));
            format!("{sign}{whole}.{fraction}")
        }
        _ => format!("{sign}{digits}e{}", -i64::from(scale)),
    })
}

/// The sign and the digits of a two's complement, big-endian.
fn whole(bytes: &[u8]) -> (&'static str, String) {
    const CHUNK: u64 = 1_000_000_000;
    let negative = bytes.first().is_some_and(|first| *first >= 0x80);
    let mut magnitude: Vec<u8> = bytes.iter().map(|byte| if negative { !byte } else { *byte }).collect();
    if negative {
        // One more than the complement. It cannot run over: the first bit was a 0 before.
        for byte in magnitude.iter_mut().rev() {
            let (sum, carry) = byte.overflowing_add(1);
            *byte = sum;
            if !carry {
                break;
            }
        }
    }
    let mut chunks = Vec::new();
    while magnitude.iter().any(|byte| *byte != 0) {
        let mut rest = 0;
        for byte in &mut magnitude {
            let value = (rest << 8) | u64::from(*byte);
            *byte = u8::try_from(value / CHUNK).unwrap_or(u8::MAX);
            rest = value % CHUNK;
        }
        chunks.push(rest);
    }
    let digits: String = chunks.iter().rev().map(|chunk| format!("{chunk:09}")).collect();
    let digits = Some(digits.trim_start_matches('0')).filter(|rest| !rest.is_empty()).unwrap_or("0").to_owned();
    (if negative { "-" } else { "" }, digits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&[], 0, "0")]
    #[case(&[0], 2, "0.00")]
    #[case(&[0x80], 0, "-128")]
    #[case(&[0x00, 0x80], 0, "128")]
    #[case(&[0xFF], 3, "-0.001")]
    #[case(&[0x04, 0xE2], 2, "12.50")]
    #[case(&[0x07], -3, "7e3")]
    #[case(&[0x07], i32::MAX, "7e-2147483647")]
    #[case(&[0x07], i32::MIN, "7e2147483648")]
    fn decimals(#[case] digits: &[u8], #[case] scale: i32, #[case] expected: &str) {
        assert_eq!(decimal(digits, scale), Cell::Decimal(expected.to_owned()));
    }

    #[test]
    fn a_number_that_nobody_reads_is_not_written_out() {
        assert_eq!(decimal(&vec![1; 1 << 20], 0), Cell::Text("a number of 1048576 bytes".to_owned()));
    }

    proptest! {
        #[test]
        fn every_number_is_exact(value in any::<i128>()) {
            prop_assert_eq!(decimal(&value.to_be_bytes(), 0), Cell::Decimal(value.to_string()));
        }
    }

    #[rstest]
    #[case(CqlValue::Date(CqlDate(1 << 31)), "1970-01-01")]
    #[case(CqlValue::Date(CqlDate(0)), "-2147483648 days since 1970")]
    #[case(CqlValue::Timestamp(CqlTimestamp(i64::MAX)), "9223372036854775807 ms since 1970")]
    #[case(CqlValue::Time(CqlTime(25_485_500_000_000)), "07:04:45.5")]
    #[case(CqlValue::Time(CqlTime(0)), "00:00:00")]
    #[case(CqlValue::Float(0.1), "0.1")]
    #[case(CqlValue::Blob(vec![1, 0xAB]), "0x01ab")]
    #[case(CqlValue::List(vec![CqlValue::Int(1), CqlValue::Int(2)]), "[1,2]")]
    #[case(CqlValue::Inet("10.0.0.7".parse().unwrap()), "10.0.0.7")]
    fn a_value_as_people_see_it(#[case] value: CqlValue, #[case] expected: &str) {
        assert_eq!(cell(Some(value)).to_string(), expected);
    }
}
