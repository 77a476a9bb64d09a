//! How many digits behind the point the values of a column can have. A key column that holds fewer would let groups meet in one row, each as right as the other.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};

use crate::functions::{DATE_BIN, fixed_micros};
use crate::schema::TIMESTAMP_TYPE;
use crate::sink::Canonical;

/// Digits of a microsecond, the smallest that sinks hold.
const MICROS: u8 = 6;

/// Of a value of `data_type`: of the fraction of a second for a timestamp, the scale of a decimal; 0 for all others.
pub(super) fn of_type(data_type: &DataType) -> u8 {
    match data_type {
        DataType::Timestamp(TimeUnit::Second, _) => 0,
        DataType::Timestamp(TimeUnit::Millisecond, _) => 3,
        DataType::Timestamp(..) => MICROS,
        _ => match Canonical::of(data_type) {
            Some((Canonical::Decimal, DataType::Decimal128(_, scale))) => scale.unsigned_abs(),
            _ => 0,
        },
    }
}

/// Of `expr` over the rows of `plan`. At most [`of_type`]; less where `date_bin`, `date_trunc` or a cast take digits away.
pub(super) fn of_expr(expr: &Expr, plan: &LogicalPlan) -> u8 {
    let at_most = expr.get_type(plan.schema()).map_or(MICROS, |is| of_type(&is));
    let known = match expr {
        Expr::Alias(alias) => Some(of_expr(&alias.expr, plan)),
        Expr::Literal(value, _) => of_literal(value),
        // An origin is a timestamp of microseconds here, whose cast is still to be computed.
        Expr::Cast(cast) if let Expr::Literal(ScalarValue::Utf8(Some(text)), _) = cast.expr.as_ref() => {
            ScalarValue::try_from_string(text.clone(), &TIMESTAMP_TYPE).ok().and_then(|value| of_literal(&value))
        }
        Expr::Cast(cast) if is_timestamp(&cast.expr, plan) => Some(of_expr(&cast.expr, plan)),
        Expr::Column(name) => match plan {
            LogicalPlan::Projection(projection) => {
                let inner = projection.schema.maybe_index_of_column(name).and_then(|place| projection.expr.get(place));
                inner.map(|inner| of_expr(inner, &projection.input))
            }
            LogicalPlan::Filter(filter) => Some(of_expr(expr, &filter.input)),
            LogicalPlan::SubqueryAlias(alias) => {
                let place = alias.schema.maybe_index_of_column(name);
                place.map(|place| of_expr(&Expr::Column(alias.input.schema().qualified_field(place).into()), &alias.input))
            }
            _ => None,
        },
        Expr::ScalarFunction(call) => match (call.func.name(), call.args.as_slice()) {
            (DATE_BIN, [Expr::Literal(stride, _), _]) => fixed_micros(stride).map(needed).or(Some(0)),
            (DATE_BIN, [Expr::Literal(stride, _), _, origin]) => fixed_micros(stride).map(|stride| needed(stride).max(of_expr(origin, plan))),
            ("date_trunc", [Expr::Literal(unit, _), _]) => unit.try_as_str().flatten().map(|unit| match unit.to_lowercase().as_str() {
                "millisecond" | "milliseconds" => 3,
                "microsecond" | "microseconds" | "nanosecond" | "nanoseconds" => MICROS,
                _ => 0,
            }),
            ("coalesce" | "nvl", arguments) => arguments.iter().map(|part| of_expr(part, plan)).max(),
            _ => None,
        },
        _ => None,
    };
    known.unwrap_or(MICROS).min(at_most)
}

fn is_timestamp(expr: &Expr, plan: &LogicalPlan) -> bool {
    expr.get_type(plan.schema()).is_ok_and(|is| matches!(is, DataType::Timestamp(..)))
}

fn of_literal(value: &ScalarValue) -> Option<u8> {
    match value {
        ScalarValue::TimestampNanosecond(Some(nanos), _) if nanos % 1000 == 0 => Some(needed(nanos / 1000)),
        ScalarValue::TimestampMicrosecond(Some(micros), _) => Some(needed(*micros)),
        _ => None,
    }
}

/// The digits of a second's fraction that multiples of `micros` need.
fn needed(micros: i64) -> u8 {
    (0..MICROS).find(|digits| micros % 10_i64.pow(u32::from(MICROS - digits)) == 0).unwrap_or(MICROS)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(60_000_000, 0)]
    #[case(1_500_000, 1)]
    #[case(100_000, 1)]
    #[case(1_000, 3)]
    #[case(7, 6)]
    fn multiples_need_digits(#[case] micros: i64, #[case] digits: u8) {
        assert_eq!(needed(micros), digits);
    }
}
