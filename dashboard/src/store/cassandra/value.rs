//! What somebody typed, or what a page shows, as a value that Cassandra compares a partition key with.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use scylla::value::{CqlDate, CqlDecimal, CqlTimestamp, CqlValue};
use tapeline_api::types::CqlType;
use uuid::Uuid;

/// Days since 1970 stand in the middle of the range of Cassandra's dates.
pub(super) const DAY_ZERO: i64 = 1 << 31;
/// 1970.
const EPOCH: Date = Date::constant(1970, 1, 1);

/// `text` as a value of `type_`; none if it is no such value.
pub(super) fn parse(type_: CqlType, text: &str) -> Option<CqlValue> {
    Some(match type_ {
        CqlType::Boolean => CqlValue::Boolean(text.parse().ok()?),
        CqlType::Tinyint => CqlValue::TinyInt(text.parse().ok()?),
        CqlType::Smallint => CqlValue::SmallInt(text.parse().ok()?),
        CqlType::Int => CqlValue::Int(text.parse().ok()?),
        CqlType::Bigint => CqlValue::BigInt(text.parse().ok()?),
        CqlType::Float => CqlValue::Float(text.parse().ok()?),
        CqlType::Double => CqlValue::Double(text.parse().ok()?),
        CqlType::Decimal => CqlValue::Decimal(decimal(text)?),
        CqlType::Text => CqlValue::Text(text.to_owned()),
        CqlType::Date => CqlValue::Date(CqlDate(date(text)?)),
        CqlType::Timestamp => CqlValue::Timestamp(CqlTimestamp(milliseconds(text)?)),
        CqlType::Uuid => CqlValue::Uuid(Uuid::try_parse(text).ok()?),
    })
}

/// A key is equal to its value byte by byte: 1.50 is not 1.5, so the digits are taken as they are.
fn decimal(text: &str) -> Option<CqlDecimal> {
    let (mantissa, power) = text.split_once(['e', 'E']).map_or(Some((text, 0)), |(mantissa, power)| Some((mantissa, power.parse::<i32>().ok()?)))?;
    let scale = mantissa.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    let value: i128 = mantissa.replace('.', "").parse().ok()?;
    let sign_bits = if value < 0 { value.leading_ones() } else { value.leading_zeros() };
    let superfluous = usize::try_from((sign_bits - 1) / 8).unwrap_or(0).min(15);
    let digits = value.to_be_bytes().get(superfluous..)?.to_vec();
    Some(CqlDecimal::from_signed_be_bytes_and_exponent(digits, i32::try_from(scale).ok()?.checked_sub(power)?))
}

fn date(text: &str) -> Option<u32> {
    let days = text.parse::<Date>().ok()?.since(EPOCH).ok()?.get_days();
    u32::try_from(DAY_ZERO + i64::from(days)).ok()
}

/// With a zone, or without one in UTC. None if it is finer than Cassandra's milliseconds: no key is equal to it.
fn milliseconds(text: &str) -> Option<i64> {
    let time = text.parse::<Timestamp>().or_else(|_| text.parse::<DateTime>().and_then(|time| TimeZone::UTC.to_timestamp(time))).ok()?;
    (time.subsec_nanosecond() % 1_000_000 == 0).then(|| time.as_millisecond())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::cell;
    use super::*;

    #[rstest]
    #[case(CqlType::Boolean, "true")]
    #[case(CqlType::Tinyint, "-128")]
    #[case(CqlType::Bigint, "-9223372036854775808")]
    #[case(CqlType::Float, "0.1")]
    #[case(CqlType::Double, "1e300")]
    #[case(CqlType::Decimal, "1.50")]
    #[case(CqlType::Decimal, "-12345678901234567890.0123456789")]
    #[case(CqlType::Decimal, "0.00")]
    #[case(CqlType::Text, " a 'b' ")]
    #[case(CqlType::Date, "2024-08-25")]
    #[case(CqlType::Date, "0001-01-01")]
    #[case(CqlType::Timestamp, "2024-08-25 07:04:45.123")]
    #[case(CqlType::Uuid, "6fa459ea-ee8a-3ca4-894e-db77e160355e")]
    fn what_a_page_shows_finds_the_row(#[case] type_: CqlType, #[case] text: &str) {
        assert_eq!(cell::cell(parse(type_, text)).to_string(), text);
    }

    #[rstest]
    #[case(CqlType::Tinyint, "128")]
    #[case(CqlType::Int, "1.0")]
    #[case(CqlType::Decimal, "1,5")]
    #[case(CqlType::Date, "25.8.2024")]
    #[case(CqlType::Timestamp, "2024-08-25 07:04:45.123456")]
    #[case(CqlType::Uuid, "6fa459ea")]
    fn what_is_no_value_of_the_type_is_none(#[case] type_: CqlType, #[case] text: &str) {
        assert_eq!(parse(type_, text), None);
    }

    #[test]
    fn a_time_may_have_its_zone() {
        let expected = Some(CqlValue::Timestamp(CqlTimestamp(1_724_569_485_000)));
        assert_eq!(parse(CqlType::Timestamp, "2024-08-25T07:04:45Z"), expected);
        assert_eq!(parse(CqlType::Timestamp, "2024-08-25T09:04:45+02:00"), expected);
        assert_eq!(parse(CqlType::Timestamp, "2024-08-25T07:04:45"), expected);
    }
}
