//! Numbers that must not be rounded, from the text they were written in: decimals, and what an epoch timestamp counts.
//!
//! arrow's own reader cuts off what is behind the scale, cuts off the fraction of an epoch, and overflows its counter of digits at 256 of them (59.3). So such fields
//! are read as texts, a number as it was written, and parsed here.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, TimestampMicrosecondArray};
use tapeline_api::pipeline::streams::EpochUnit;

/// Digits that an `i128` holds for certain.
const DIGITS: usize = 38;

/// Why a text is not the number it should be. Without the text: contents of records are nobody's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misfit {
    NotANumber,
    TooLarge,
    TooFine,
}

/// A number as it is written: `mantissa * 10^exponent`, the mantissa without zeros at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Number {
    negative: bool,
    mantissa: u128,
    exponent: i64,
}

impl Number {
    /// From `-12.50`, `1.5e-7`, `+2E3`. At most 38 digits between the first and the last that is not 0.
    fn parse(text: &[u8]) -> Result<Self, Misfit> {
        let (negative, mut rest) = match text.split_first() {
            Some((b'-', rest)) => (true, rest),
            Some((b'+', rest)) => (false, rest),
            _ => (false, text),
        };
        let (mut mantissa, mut digits, mut zeros) = (0_u128, 0_usize, 0_usize);
        let (mut any, mut too_long, mut behind_point) = (false, false, None::<i64>);
        while let Some((&byte, tail)) = rest.split_first() {
            match byte {
                b'0'..=b'9' => {
                    any = true;
                    if let Some(behind) = &mut behind_point {
                        *behind += 1;
                    }
                    if byte == b'0' {
                        zeros += usize::from(digits > 0); // kept back: they count only if another digit follows
                    } else {
                        digits += zeros + 1;
                        too_long |= digits > DIGITS;
                        if !too_long {
                            mantissa = mantissa * power(zeros + 1) + u128::from(byte - b'0');
                        }
                        zeros = 0;
                    }
                }
                b'.' if behind_point.is_none() => behind_point = Some(0),
                _ => break,
            }
            rest = tail;
        }
        let shift = match rest.split_first() {
            None => 0,
            Some((b'e' | b'E', exponent)) => integer(exponent)?,
            Some(_) => return Err(Misfit::NotANumber),
        };
        if !any {
            return Err(Misfit::NotANumber);
        }
        let zeros = i64::try_from(zeros).unwrap_or(i64::MAX);
        let exponent = shift.saturating_add(zeros).saturating_sub(behind_point.unwrap_or(0));
        // More digits than any type holds: too many behind the point if there are some behind it, otherwise before it.
        if too_long {
            return Err(if exponent < 0 { Misfit::TooFine } else { Misfit::TooLarge });
        }
        Ok(Self { negative, mantissa, exponent })
    }

    /// `self * 10^scale`, if that is a whole number of at most `digits` digits.
    fn scaled(self, scale: i64, digits: usize) -> Result<i128, Misfit> {
        if self.mantissa == 0 {
            return Ok(0);
        }
        let shift = self.exponent.saturating_add(scale);
        let shift = usize::try_from(shift).map_err(|_| Misfit::TooFine)?;
        if shift > DIGITS {
            return Err(Misfit::TooLarge);
        }
        let value = self.mantissa.checked_mul(power(shift)).filter(|value| *value < power(digits)).ok_or(Misfit::TooLarge)?;
        let value = i128::try_from(value).map_err(|_| Misfit::TooLarge)?;
        Ok(if self.negative { -value } else { value })
    }
}

/// The exponent behind an `e`. One that no number of ours can have is as large as can be.
fn integer(text: &[u8]) -> Result<i64, Misfit> {
    let (negative, digits) = match text.split_first() {
        Some((b'-', digits)) => (true, digits),
        Some((b'+', digits)) => (false, digits),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Misfit::NotANumber);
    }
    let value = digits.iter().fold(0_i64, |value, digit| value.saturating_mul(10).saturating_add(i64::from(digit - b'0'))).min(i64::MAX / 4);
    Ok(if negative { -value } else { value })
}

/// `10^exponent`, for at most 38.
fn power(exponent: usize) -> u128 {
    u32::try_from(exponent).ok().and_then(|exponent| 10_u128.checked_pow(exponent)).unwrap_or(u128::MAX)
}

/// The value of a `decimal(precision,scale)`, in units of its last digit.
pub(super) fn decimal(text: &str, precision: u8, scale: u8) -> Result<i128, Misfit> {
    Number::parse(text.as_bytes())?.scaled(i64::from(scale), usize::from(precision))
}

/// Microseconds since 1970. Nanoseconds are cut off to them, downwards, as there are no finer timestamps; any other unit has to fit.
pub(super) fn epoch(text: &str, unit: EpochUnit) -> Result<i64, Misfit> {
    let number = Number::parse(text.as_bytes())?;
    let micros = match unit {
        EpochUnit::Seconds => number.scaled(6, DIGITS)?,
        EpochUnit::Milliseconds => number.scaled(3, DIGITS)?,
        EpochUnit::Microseconds => number.scaled(0, DIGITS)?,
        EpochUnit::Nanoseconds => number.scaled(0, DIGITS)?.div_euclid(1000),
    };
    i64::try_from(micros).map_err(|_| Misfit::TooLarge)
}

/// A column of texts as decimals.
///
/// # Errors
/// What is wrong with the first that is none, as the end of a sentence that began with the field.
pub(super) fn decimals(texts: &ArrayRef, precision: u8, scale: u8) -> Result<ArrayRef, String> {
    let texts = texts.as_string_opt::<i32>().ok_or("no texts")?;
    let values: Result<Vec<i128>, Misfit> = texts.iter().map(|text| text.map_or(Ok(0), |text| decimal(text, precision, scale))).collect();
    let values = values.map_err(|misfit| {
        let why = match misfit {
            Misfit::NotANumber => "what the record has there is no number".to_owned(),
            Misfit::TooLarge => format!("the number has more than {} digits before the point", precision - scale),
            Misfit::TooFine => format!("the number has more than {scale} digits behind the point, and is not rounded"),
        };
        format!("is not a decimal({precision},{scale}): {why}")
    })?;
    let array = Decimal128Array::new(values.into(), texts.nulls().cloned());
    let array = array.with_precision_and_scale(precision, i8::try_from(scale).unwrap_or(i8::MAX)).map_err(|error| error.to_string())?;
    Ok(Arc::new(array))
}

/// A column of texts as timestamps that count `unit`.
///
/// # Errors
/// As [`decimals`].
pub(super) fn epochs(texts: &ArrayRef, unit: EpochUnit) -> Result<ArrayRef, String> {
    let texts = texts.as_string_opt::<i32>().ok_or("no texts")?;
    let values: Result<Vec<i64>, Misfit> = texts.iter().map(|text| text.map_or(Ok(0), |text| epoch(text, unit))).collect();
    let values = values.map_err(|misfit| {
        let why = match misfit {
            Misfit::NotANumber => "what the record has there is no number",
            Misfit::TooLarge => "the number is beyond what a timestamp holds; is the unit right?",
            Misfit::TooFine if unit == EpochUnit::Nanoseconds => "the number is finer than a nanosecond",
            Misfit::TooFine => "the number is finer than a microsecond, and is not rounded",
        };
        format!("is not a timestamp: {why}")
    })?;
    Ok(Arc::new(TimestampMicrosecondArray::new(values.into(), texts.nulls().cloned())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0.1", Ok(1_000))]
    #[case("-0", Ok(0))]
    #[case("-0.0001", Ok(-1))]
    #[case("1.5e-3", Ok(15))]
    #[case("2E3", Ok(20_000_000))]
    #[case("+2e+3", Ok(20_000_000))]
    #[case("1.50000000000000000000000000000000000000000000000", Ok(15_000))]
    #[case("0.00000000000000000000000000000000000000000000000e99999999999999999999", Ok(0))]
    #[case("00012", Ok(120_000))]
    #[case("99999999999999.9999", Ok(999_999_999_999_999_999))]
    #[case("100000000000000", Err(Misfit::TooLarge))]
    #[case("1e400", Err(Misfit::TooLarge))]
    #[case("1e99999999999999999999", Err(Misfit::TooLarge))]
    #[case("1e-99999999999999999999", Err(Misfit::TooFine))]
    #[case("0.00001", Err(Misfit::TooFine))]
    #[case("0.1234567890123456789012345678901234567890123", Err(Misfit::TooFine))]
    #[case("1234567890123456789012345678901234567890123", Err(Misfit::TooLarge))]
    #[case("", Err(Misfit::NotANumber))]
    #[case("-", Err(Misfit::NotANumber))]
    #[case(".", Err(Misfit::NotANumber))]
    #[case("1.2.3", Err(Misfit::NotANumber))]
    #[case("1e", Err(Misfit::NotANumber))]
    #[case("1e5.5", Err(Misfit::NotANumber))]
    #[case("NaN", Err(Misfit::NotANumber))]
    #[case("Infinity", Err(Misfit::NotANumber))]
    #[case("0x10", Err(Misfit::NotANumber))]
    #[case("1 ", Err(Misfit::NotANumber))]
    #[case("1,5", Err(Misfit::NotANumber))]
    fn a_decimal_of_18_digits_4_behind_the_point(#[case] text: &str, #[case] value: Result<i128, Misfit>) {
        assert_eq!(decimal(text, 18, 4), value);
    }

    #[test]
    fn hundreds_of_digits_do_no_harm() {
        assert_eq!(decimal(&"9".repeat(100_000), 38, 0), Err(Misfit::TooLarge));
        assert_eq!(decimal(&format!("1.{}", "0".repeat(100_000)), 38, 38), Err(Misfit::TooLarge));
        assert_eq!(decimal(&format!("1.{}", "0".repeat(100_000)), 38, 37), Ok(10_i128.pow(37)));
    }

    #[rstest]
    #[case(EpochUnit::Seconds, "1724569485", Ok(1_724_569_485_000_000))]
    #[case(EpochUnit::Seconds, "1724569485.123", Ok(1_724_569_485_123_000))]
    #[case(EpochUnit::Seconds, "1.724569485123456e9", Ok(1_724_569_485_123_456))]
    #[case(EpochUnit::Seconds, "1724569485.1234567", Err(Misfit::TooFine))]
    #[case(EpochUnit::Seconds, "-0.5", Ok(-500_000))]
    #[case(EpochUnit::Milliseconds, "1724569485000", Ok(1_724_569_485_000_000))]
    #[case(EpochUnit::Milliseconds, "1724569485000.25", Ok(1_724_569_485_000_250))]
    #[case(EpochUnit::Microseconds, "1724569485000000", Ok(1_724_569_485_000_000))]
    #[case(EpochUnit::Microseconds, "1.5", Err(Misfit::TooFine))]
    #[case(EpochUnit::Nanoseconds, "1724569485000000999", Ok(1_724_569_485_000_000))]
    #[case(EpochUnit::Nanoseconds, "-1", Ok(-1))]
    #[case(EpochUnit::Seconds, "1e15", Err(Misfit::TooLarge))]
    #[case(EpochUnit::Seconds, "2024-08-25T07:04:45Z", Err(Misfit::NotANumber))]
    fn epochs_of_every_unit(#[case] unit: EpochUnit, #[case] text: &str, #[case] micros: Result<i64, Misfit>) {
        assert_eq!(epoch(text, unit), micros);
    }

    proptest! {
        #[test]
        fn a_decimal_comes_back_as_it_was_written(value in -(10_i128.pow(38) - 1)..10_i128.pow(38), scale in 0_u8..=38) {
            let array = Decimal128Array::from(vec![value]).with_precision_and_scale(38, i8::try_from(scale).unwrap()).unwrap();
            prop_assert_eq!(decimal(&array.value_as_string(0), 38, scale), Ok(value));
        }

        #[test]
        fn the_way_of_writing_does_not_matter(mantissa in -(10_i64.pow(15))..10_i64.pow(15), exponent in -20_i32..=20) {
            let plain = decimal(&format!("{mantissa}e{exponent}"), 38, 19);
            let shifted = decimal(&format!("{mantissa}000.000E{:+}", exponent - 3), 38, 19);
            prop_assert_eq!(plain, shifted);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[-+.0-9eE]{0,80}") {
            let _ = decimal(&text, 38, 19);
            let _ = epoch(&text, EpochUnit::Nanoseconds);
        }
    }
}
