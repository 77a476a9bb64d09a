//! Whether an expression can be null. The engine's own answer is "perhaps" for almost every function, and a primary key needs a no.

use datafusion::common::{DFSchema, ExprSchema};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan, Operator};

use crate::functions::{BATCH_TIME_FUNCTIONS, DATE_BIN, fixed_micros};

/// Functions that give null for no arguments but null ones.
const STRICT: &[&str] = &[
    "date_trunc",
    "date_part",
    "to_date",
    "to_timestamp",
    "to_timestamp_seconds",
    "to_timestamp_millis",
    "to_timestamp_micros",
    "to_timestamp_nanos",
    "upper",
    "lower",
    "trim",
    "btrim",
    "ltrim",
    "rtrim",
    "left",
    "right",
    "substr",
    "replace",
    "reverse",
    "lpad",
    "rpad",
    "character_length",
    "strpos",
    "starts_with",
    "ends_with",
];

/// Whether `expr` over the rows of `plan` is never null.
pub(super) fn never_null(expr: &Expr, plan: &LogicalPlan) -> bool {
    Known { schema: plan.schema(), tested: tested(plan) }.never_null(expr)
}

/// What a WHERE right below leaves no nulls of.
fn tested(plan: &LogicalPlan) -> Vec<&Expr> {
    let LogicalPlan::Filter(filter) = plan else { return Vec::new() };
    let conditions = split_conjunction(&filter.predicate).into_iter();
    conditions.filter_map(|condition| if let Expr::IsNotNull(inner) = condition { Some(inner.as_ref()) } else { None }).chain(tested(&filter.input)).collect()
}

struct Known<'a> {
    schema: &'a DFSchema,
    tested: Vec<&'a Expr>,
}

impl Known<'_> {
    fn never_null(&self, expr: &Expr) -> bool {
        let all = |exprs: &[Expr]| exprs.iter().all(|part| self.never_null(part));
        if self.tested.contains(&expr) {
            return true;
        }
        match expr {
            Expr::Alias(alias) => self.never_null(&alias.expr),
            Expr::Column(column) => self.schema.nullable(column).is_ok_and(|nullable| !nullable),
            Expr::Literal(value, _) => !value.is_null(),
            // A value that cannot be cast is an error, unless TRY_CAST is asked for.
            Expr::Cast(cast) => self.never_null(&cast.expr),
            Expr::Negative(inner) | Expr::Not(inner) => self.never_null(inner),
            Expr::IsNull(_) | Expr::IsNotNull(_) | Expr::IsTrue(_) | Expr::IsFalse(_) | Expr::IsNotTrue(_) | Expr::IsNotFalse(_) => true,
            Expr::BinaryExpr(binary) => is_strict(binary.op) && self.never_null(&binary.left) && self.never_null(&binary.right),
            Expr::Between(between) => self.never_null(&between.expr) && self.never_null(&between.low) && self.never_null(&between.high),
            Expr::Case(case) => {
                let otherwise = case.else_expr.as_ref().is_some_and(|expr| self.never_null(expr));
                otherwise && case.when_then_expr.iter().all(|(_, then)| self.never_null(then))
            }
            Expr::ScalarFunction(call) => match call.func.name() {
                "coalesce" | "nvl" => call.args.iter().any(|part| self.never_null(part)),
                "concat" => true, // of nothing but nulls it gives an empty text
                "concat_ws" => call.args.first().is_some_and(|separator| self.never_null(separator)), // likewise
                DATE_BIN => is_fixed(call.args.first()) && all(&call.args),
                name if BATCH_TIME_FUNCTIONS.contains(&name) => true,
                name if STRICT.contains(&name) => all(&call.args),
                _ => false,
            },
            _ => false,
        }
    }
}

/// Whether bins of this stride reach every timestamp.
fn is_fixed(stride: Option<&Expr>) -> bool {
    matches!(stride, Some(Expr::Literal(stride, _)) if fixed_micros(stride).is_some())
}

const fn is_strict(operator: Operator) -> bool {
    use Operator::{And, Divide, Eq, Gt, GtEq, Lt, LtEq, Minus, Modulo, Multiply, NotEq, Or, Plus, StringConcat};
    matches!(operator, And | Divide | Eq | Gt | GtEq | Lt | LtEq | Minus | Modulo | Multiply | NotEq | Or | Plus | StringConcat)
}
