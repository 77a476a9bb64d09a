//! A value of a query's output as the bytes of a column in Cassandra, and why a value may not fit. The bytes are those of the native protocol, big-endian.

use arrow::array::{ArrayRef, AsArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Date32Type, Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
use scylla::cluster::metadata::{ColumnType, NativeType};
use uuid::Uuid;

use crate::sink::rows::decimal_text;

/// The longest value of a key column.
pub(super) const MAX_KEY: usize = 65_535;
const MS_PER_DAY: i64 = 86_400_000;

/// Why a value cannot be stored in its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misfit {
    #[error("the value is out of its range")]
    OutOfRange,
    #[error("the value has digits behind the point, which it cannot hold")]
    NotWhole,
    #[error("the value is not a UUID")]
    NotUuid,
    #[error("the value has characters that are not ASCII")]
    NotAscii,
    #[error("it is part of the primary key and the value is null")]
    NullKey,
    #[error("it is the partition key and the value is empty")]
    EmptyKey,
    #[error("it is part of the primary key, of which Cassandra takes 65,535 bytes at most, and the value is longer")]
    LongKey,
}

/// The size of an integer column.
#[derive(Debug, Clone, Copy)]
pub(super) enum Width {
    Tinyint,
    Smallint,
    Int,
    Bigint,
}

/// The size of a column of floating-point numbers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Precision {
    Float,
    Double,
}

/// Where the bytes of a value are put together: four of a decimal's scale and sixteen of its digits at most.
#[derive(Debug, Default)]
pub(super) struct Scratch([u8; 20]);

impl Scratch {
    fn put<const N: usize>(&mut self, bytes: [u8; N]) -> &[u8] {
        self.0.first_chunk_mut::<N>().map_or(&[], |place| {
            *place = bytes;
            place.as_slice()
        })
    }

    fn integer(&mut self, value: i64, width: Width) -> Result<&[u8], Misfit> {
        Ok(match width {
            Width::Tinyint => self.put(i8::try_from(value).map_err(|_| Misfit::OutOfRange)?.to_be_bytes()),
            Width::Smallint => self.put(i16::try_from(value).map_err(|_| Misfit::OutOfRange)?.to_be_bytes()),
            Width::Int => self.put(i32::try_from(value).map_err(|_| Misfit::OutOfRange)?.to_be_bytes()),
            Width::Bigint => self.put(value.to_be_bytes()),
        })
    }

    #[allow(clippy::cast_possible_truncation, reason = "a column of floats asks for rounding")]
    fn float(&mut self, value: f64, precision: Precision) -> &[u8] {
        match precision {
            Precision::Float => self.put((value as f32).to_be_bytes()),
            Precision::Double => self.put(value.to_be_bytes()),
        }
    }

    /// The scale, then the digits as a two's complement of as few bytes as hold it.
    fn decimal(&mut self, value: i128, scale: i8) -> &[u8] {
        let sign_bits = if value < 0 { value.leading_ones() } else { value.leading_zeros() };
        let superfluous = usize::try_from((sign_bits - 1) / 8).unwrap_or(0).min(15);
        if let Some(digits) = self.0.last_chunk_mut::<16>() {
            *digits = value.to_be_bytes();
        }
        // The scale takes the place of what is superfluous before the digits.
        if let Some(place) = self.0.get_mut(superfluous..superfluous + 4) {
            place.copy_from_slice(&i32::from(scale).to_be_bytes());
        }
        self.0.get(superfluous..).unwrap_or_default()
    }
}

/// A column of a record batch with the type that it is to have in Cassandra.
#[derive(Debug)]
pub(super) enum Cell {
    Boolean(BooleanArray),
    Integer(Int64Array, Width),
    IntegerAsFloat(Int64Array, Precision),
    IntegerAsDecimal(Int64Array),
    Float(Float64Array, Precision),
    Decimal(Decimal128Array),
    DecimalAsInteger(Decimal128Array, Width),
    DecimalAsFloat(Decimal128Array, Precision),
    Text(StringArray),
    Ascii(StringArray),
    Uuid(StringArray),
    Date(Date32Array),
    DateAsTimestamp(Date32Array),
    Timestamp(TimestampMicrosecondArray),
}

impl Cell {
    /// `column` for a column of type `target`. None if the one cannot be stored in the other at all.
    pub(super) fn new(column: &ArrayRef, target: &ColumnType<'_>) -> Option<Self> {
        let ColumnType::Native(target) = target else { return None };
        if let Some(values) = column.as_boolean_opt() {
            return matches!(target, NativeType::Boolean).then(|| Self::Boolean(values.clone()));
        }
        if let Some(values) = column.as_primitive_opt::<Int64Type>() {
            return Some(match (width(target), precision(target), target) {
                (Some(width), ..) => Self::Integer(values.clone(), width),
                (_, Some(precision), _) => Self::IntegerAsFloat(values.clone(), precision),
                (.., NativeType::Decimal) => Self::IntegerAsDecimal(values.clone()),
                _ => return None,
            });
        }
        if let Some(values) = column.as_primitive_opt::<Float64Type>() {
            return precision(target).map(|precision| Self::Float(values.clone(), precision));
        }
        if let Some(values) = column.as_primitive_opt::<Decimal128Type>() {
            return Some(match (width(target), precision(target), target) {
                (Some(width), ..) => Self::DecimalAsInteger(values.clone(), width),
                (_, Some(precision), _) => Self::DecimalAsFloat(values.clone(), precision),
                (.., NativeType::Decimal) => Self::Decimal(values.clone()),
                _ => return None,
            });
        }
        if let Some(values) = column.as_string_opt::<i32>() {
            return Some(match target {
                NativeType::Text => Self::Text(values.clone()),
                NativeType::Ascii => Self::Ascii(values.clone()),
                NativeType::Uuid => Self::Uuid(values.clone()),
                _ => return None,
            });
        }
        if let Some(values) = column.as_primitive_opt::<Date32Type>() {
            return Some(match target {
                NativeType::Date => Self::Date(values.clone()),
                NativeType::Timestamp => Self::DateAsTimestamp(values.clone()),
                _ => return None,
            });
        }
        let values = column.as_primitive_opt::<TimestampMicrosecondType>()?;
        matches!(target, NativeType::Timestamp).then(|| Self::Timestamp(values.clone()))
    }

    /// Whether there are values that do not fit.
    pub(super) const fn may_misfit(&self) -> bool {
        !matches!(
            self,
            Self::Boolean(_)
                | Self::Integer(_, Width::Bigint)
                | Self::IntegerAsFloat(..)
                | Self::IntegerAsDecimal(_)
                | Self::Float(..)
                | Self::Decimal(_)
                | Self::DecimalAsFloat(..)
                | Self::Text(_)
                | Self::Date(_)
                | Self::DateAsTimestamp(_)
                | Self::Timestamp(_)
        )
    }

    /// The value of row `index`, which is not null, as Cassandra takes it.
    #[inline]
    #[allow(clippy::cast_precision_loss, reason = "a column of floats asks for rounding")]
    pub(super) fn bytes<'a>(&'a self, index: usize, scratch: &'a mut Scratch) -> Result<&'a [u8], Misfit> {
        Ok(match self {
            Self::Boolean(values) => scratch.put([u8::from(values.value(index))]),
            Self::Integer(values, width) => scratch.integer(values.value(index), *width)?,
            Self::IntegerAsFloat(values, precision) => scratch.float(values.value(index) as f64, *precision),
            Self::IntegerAsDecimal(values) => scratch.decimal(i128::from(values.value(index)), 0),
            Self::Float(values, precision) => scratch.float(values.value(index), *precision),
            Self::Decimal(values) => scratch.decimal(values.value(index), values.scale()),
            Self::DecimalAsInteger(values, width) => scratch.integer(whole(values.value(index), values.scale())?, *width)?,
            Self::DecimalAsFloat(values, precision) => scratch.float(nearest(values.value(index), values.scale()), *precision),
            Self::Text(values) => values.value(index).as_bytes(),
            Self::Ascii(values) => Some(values.value(index)).filter(|text| text.is_ascii()).ok_or(Misfit::NotAscii)?.as_bytes(),
            Self::Uuid(values) => scratch.put(Uuid::try_parse(values.value(index)).map_err(|_| Misfit::NotUuid)?.into_bytes()),
            // Days since 1970 stand in the middle of the range.
            Self::Date(values) => scratch.put((values.value(index) ^ i32::MIN).to_be_bytes()),
            Self::DateAsTimestamp(values) => scratch.put((i64::from(values.value(index)) * MS_PER_DAY).to_be_bytes()),
            Self::Timestamp(values) => scratch.put(values.value(index).div_euclid(1000).to_be_bytes()),
        })
    }

    /// The length of the value of row `index`, or what it is at most.
    #[inline]
    pub(super) fn length(&self, index: usize) -> usize {
        match self {
            Self::Text(values) | Self::Ascii(values) => usize::try_from(values.value_length(index)).unwrap_or(0),
            _ => self.fixed_length(),
        }
    }

    /// The length of every value, or what it is at most; 0 for text.
    pub(super) const fn fixed_length(&self) -> usize {
        match self {
            Self::Text(_) | Self::Ascii(_) => 0,
            Self::Boolean(_) => 1,
            Self::Date(_) => 4,
            Self::IntegerAsDecimal(_) | Self::Decimal(_) => 20,
            Self::Uuid(_) => 16,
            _ => 8,
        }
    }

    /// Whether the length differs from row to row.
    pub(super) const fn is_text(&self) -> bool {
        matches!(self, Self::Text(_) | Self::Ascii(_))
    }
}

const fn width(target: &NativeType) -> Option<Width> {
    Some(match target {
        NativeType::TinyInt => Width::Tinyint,
        NativeType::SmallInt => Width::Smallint,
        NativeType::Int => Width::Int,
        NativeType::BigInt => Width::Bigint,
        _ => return None,
    })
}

const fn precision(target: &NativeType) -> Option<Precision> {
    Some(match target {
        NativeType::Float => Precision::Float,
        NativeType::Double => Precision::Double,
        _ => return None,
    })
}

/// `value / 10^scale`, if that is a whole number.
fn whole(value: i128, scale: i8) -> Result<i64, Misfit> {
    let power = 10_i128.checked_pow(u32::from(scale.unsigned_abs())).ok_or(Misfit::OutOfRange)?;
    let whole = if scale < 0 {
        value.checked_mul(power).ok_or(Misfit::OutOfRange)?
    } else if value % power == 0 {
        value / power
    } else {
        return Err(Misfit::NotWhole);
    };
    i64::try_from(whole).map_err(|_| Misfit::OutOfRange)
}

/// The double nearest to `value / 10^scale`.
#[allow(clippy::cast_precision_loss, reason = "the first branch is within what a double holds exactly")]
fn nearest(value: i128, scale: i8) -> f64 {
    // Both numbers are exact then, and the division of two exact numbers rounds once.
    if value.unsigned_abs() <= 1 << f64::MANTISSA_DIGITS && (0..=22).contains(&scale) {
        return value as f64 / 10_f64.powi(i32::from(scale));
    }
    let text = if scale < 0 { format!("{value}e{}", scale.unsigned_abs()) } else { decimal_text(value, scale) };
    text.parse().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests;
