//! Mode Merge: whether what a micro-batch aggregated can be merged with what is stored of the same group, and the plan that gives what merging needs.
//!
//! A sum is merged by adding, a least by the least, and so on ([`Merge`]). `first_value` and `last_value` need to know when the stored value was: their plan gives
//! for each a second column, `<column>_order`, with a key that no two records share (see [`order_key`]), so parts can be merged in any order and any number of times
//! split. What cannot be merged is refused with the way out.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result as PlanResult;
use datafusion::functions_aggregate::first_last::{first_value_udaf, last_value_udaf};
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams, NullTreatment, Sort};
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, LogicalPlan, Projection, cast};

use super::digits;
use super::not_null::never_null;
use super::row_wise::{carry_hidden, column, shape};
use super::{CheckError, OutputColumn};
use crate::functions::{BATCH_TIME_FUNCTIONS, order_key};
use crate::schema::{TIMESTAMP_TYPE, hidden};
use crate::sink::Canonical;

/// How a column of a group is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// It names the group, and is part of the table's primary key.
    Key,
    /// It follows from the group, or is a constant: what is stored is right.
    Keep,
    /// The sum of both.
    Sum,
    /// The lesser of both.
    Least,
    /// The greater of both.
    Greatest,
    /// That with the lesser `<column>_order`.
    First,
    /// That with the greater `<column>_order`.
    Last,
}

impl Merge {
    /// Whether the plan gives a column `<column>_order` for it.
    #[must_use]
    pub const fn has_order(self) -> bool {
        matches!(self, Self::First | Self::Last)
    }
}

/// The column that holds when the value of `column` was: `BINARY(24)`.
#[must_use]
pub fn order_column(column: &str) -> String {
    format!("{column}_order")
}

/// A plan whose groups can be merged.
pub(super) struct Merging {
    /// How each output column is merged.
    pub(super) kinds: Vec<Merge>,
    /// [`OutputColumn::digits`], of keys those that the expression leaves.
    pub(super) digits: Vec<u8>,
    /// The plan: the output columns, then an order column for each first and last.
    pub(super) plan: LogicalPlan,
}

/// Looks whether the groups of `raw` can be merged, and makes the plan for it.
///
/// # Errors
/// [`CheckError::NotMergeable`].
pub(super) fn merging(raw: &LogicalPlan, output: &[OutputColumn], stream: &str) -> Result<Merging, CheckError> {
    let (aggregate, exprs) = over_aggregate(raw).map_err(CheckError::NotMergeable)?;
    if let Some(why) = shape(&aggregate.input, stream)? {
        return Err(CheckError::NotMergeable(format!("what it groups is no row of the stream: {why}; group once, and aggregate further in a view")));
    }
    let groups = Groups { aggregate, output };
    groups.check_keys(&exprs).map_err(CheckError::NotMergeable)?;
    let kinds: Result<Vec<Merge>, String> =
        exprs.iter().zip(output).map(|(expr, column)| groups.kind(expr).map_err(|why| format!("column \"{}\" {why}", column.name))).collect();
    let kinds = kinds.map_err(CheckError::NotMergeable)?;
    let plan = groups.plan(&exprs, &kinds).map_err(|error| CheckError::Planning(crate::one_line(&error)))?;
    let digits = exprs.iter().zip(output).map(|(expr, column)| groups.digits(expr).unwrap_or(column.digits)).collect();
    Ok(Merging { kinds, digits, plan })
}

/// The aggregate that `plan` ends with, and the output columns as expressions over it.
fn over_aggregate(plan: &LogicalPlan) -> Result<(&Aggregate, Vec<Expr>), String> {
    match plan {
        LogicalPlan::Aggregate(aggregate) => Ok((aggregate, aggregate.schema.columns().into_iter().map(Expr::Column).collect())),
        LogicalPlan::SubqueryAlias(alias) => over_aggregate(&alias.input),
        LogicalPlan::Projection(projection) => {
            let (aggregate, inner) = over_aggregate(&projection.input)?;
            let replace = |expr: &Expr| {
                let replaced = expr.clone().unalias_nested().data.transform_up(|part| match &part {
                    Expr::Column(name) => {
                        let place = projection.input.schema().index_of_column(name)?;
                        Ok(inner.get(place).map_or_else(|| Transformed::no(part), |expr| Transformed::yes(expr.clone())))
                    }
                    _ => Ok(Transformed::no(part)),
                });
                replaced.map(|replaced| replaced.data).map_err(|error| crate::one_line(&error))
            };
            Ok((aggregate, projection.expr.iter().map(replace).collect::<Result<_, _>>()?))
        }
        LogicalPlan::Filter(filter) if over_aggregate(&filter.input).is_ok() => {
            Err("a condition on the groups (HAVING) would see the part of one micro-batch only; put it into the view or the SELECT that reads the table"
                .to_owned())
        }
        _ => Err("it has no groups to be merged; write GROUP BY, or use mode Upsert or Append".to_owned()),
    }
}

struct Groups<'a> {
    aggregate: &'a Aggregate,
    output: &'a [OutputColumn],
}

impl Groups<'_> {
    fn check_keys(&self, exprs: &[Expr]) -> Result<(), String> {
        let groups = &self.aggregate.group_expr;
        if groups.is_empty() {
            return Err("it has no GROUP BY: the columns that it groups by are the primary key of what is merged".to_owned());
        }
        for (place, group) in groups.iter().enumerate() {
            if matches!(group, Expr::GroupingSet(_)) {
                return Err("ROLLUP, CUBE and GROUPING SETS give groups whose key is null; write a query for each of them".to_owned());
            }
            let shown = group.clone().unalias();
            if !exprs.iter().any(|expr| self.place(expr) == Some(place)) {
                return Err(format!(
                    "it groups by {shown}, which is not among the output columns, so different groups would be merged into one; add it to the SELECT"
                ));
            }
            if !never_null(group, &self.aggregate.input) {
                return Err(format!(
                    "it groups by {shown}, which can be null, and a primary key cannot; mark the field as required: true, leave such rows out with a WHERE .. IS NOT NULL, or write COALESCE({shown}, ..)"
                ));
            }
        }
        Ok(())
    }

    /// Which column of the aggregate `expr` is.
    fn place(&self, expr: &Expr) -> Option<usize> {
        match expr {
            Expr::Column(name) => self.aggregate.schema.maybe_index_of_column(name),
            _ => None,
        }
    }

    /// Digits behind the point of a column that names the group.
    fn digits(&self, expr: &Expr) -> Option<u8> {
        let group = self.place(expr).and_then(|place| self.aggregate.group_expr.get(place))?;
        Some(digits::of_expr(group, &self.aggregate.input))
    }

    /// How an output column is merged.
    fn kind(&self, expr: &Expr) -> Result<Merge, String> {
        let keys = self.aggregate.group_expr.len();
        match expr {
            Expr::Column(_) => match self.place(expr) {
                Some(place) if place < keys => Ok(Merge::Key),
                Some(place) => {
                    let expr = self.aggregate.aggr_expr.get(place - keys).ok_or("is not known")?;
                    let kind = measure(expr)?;
                    if kind.has_order() { check_order(expr, self.aggregate.input.schema()).map(|()| kind) } else { Ok(kind) }
                }
                None => Err("is not known".to_owned()),
            },
            Expr::Cast(part) => match self.kind(&part.expr)? {
                Merge::Key => Ok(Merge::Keep),
                Merge::Sum if !adds_up(&part.expr, part.field.data_type(), &self.aggregate.schema) => {
                    Err("rounds the sum of each micro-batch, so what is merged is off; leave the CAST out, and round in a view".to_owned())
                }
                Merge::Least | Merge::Greatest if !keeps_order(&part.expr, part.field.data_type(), &self.aggregate.schema) => {
                    Err("is cast to a type that compares otherwise (as a text 9 is more than 10); leave the CAST out, and convert in a view".to_owned())
                }
                kind => Ok(kind),
            },
            _ => {
                let names = expr.column_refs();
                let of_keys = names.iter().all(|name| self.aggregate.schema.maybe_index_of_column(name).is_some_and(|place| place < keys));
                match (of_keys, is_of_the_batch(expr)) {
                    (true, false) => Ok(Merge::Keep),
                    (true, true) if is_batch_time(expr) => Ok(Merge::Greatest),
                    (true, true) => Err("computes with the time of the micro-batch; write now() itself, and compute in a view".to_owned()),
                    _ => {
                        Err("computes with aggregates, whose parts cannot be merged; store each aggregate in a column of its own, and compute in a view"
                            .to_owned())
                    }
                }
            }
        }
    }

    fn plan(&self, exprs: &[Expr], kinds: &[Merge]) -> PlanResult<LogicalPlan> {
        let keys = self.aggregate.group_expr.len();
        let input = carry_hidden(self.aggregate.input.as_ref().clone())?;
        let mut measures = Vec::new();
        for (place, measure) in self.aggregate.aggr_expr.iter().enumerate() {
            let measure = measure.clone().unalias();
            match ordered(&measure, input.schema())? {
                Some(Ordered { value, order }) => {
                    measures.push(value.alias(value_name(place)));
                    measures.push(order.alias(order_name(place)));
                }
                None => measures.push(measure.alias(value_name(place))),
            }
        }
        let aggregate = LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(input), self.aggregate.group_expr.clone(), measures)?);
        let (mut columns, mut orders) = (Vec::new(), Vec::new());
        for ((expr, column), kind) in exprs.iter().zip(self.output).zip(kinds) {
            if kind.has_order()
                && let Some(place) = expr.column_refs().into_iter().find_map(|name| self.aggregate.schema.maybe_index_of_column(name))
            {
                orders.push(Expr::Column(Column::from_name(order_name(place - keys))).alias(order_column(&column.name)));
            }
            let renamed = expr.clone().transform_up(|part| {
                let place = self.place(&part).and_then(|place| place.checked_sub(keys));
                Ok(place.map_or_else(|| Transformed::no(part), |place| Transformed::yes(Expr::Column(Column::from_name(value_name(place))))))
            })?;
            columns.push(renamed.data.alias(&column.name));
        }
        columns.extend(orders);
        Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(aggregate))?))
    }
}

fn value_name(place: usize) -> String {
    format!("__value_{place}")
}

fn order_name(place: usize) -> String {
    format!("__order_{place}")
}

/// How an aggregate is merged, or why it cannot be and what to do.
fn measure(expr: &Expr) -> Result<Merge, String> {
    let Expr::AggregateFunction(AggregateFunction { func, params }) = expr.clone().unalias() else { return Err("is no aggregate".to_owned()) };
    let (name, args) = (func.name(), params.args.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    if params.distinct && !matches!(name, "min" | "max") {
        return Err(format!(
            "is {name}(DISTINCT {args}), whose parts cannot be merged, since a value may be in several; group by {args} as well, and count the rows in a view"
        ));
    }
    match name {
        "sum" | "count" => Ok(Merge::Sum),
        "min" | "bool_and" => Ok(Merge::Least),
        "max" | "bool_or" => Ok(Merge::Greatest),
        "first_value" | "last_value" => match params.order_by.as_slice() {
            [sort] => Ok(if (name == "first_value") == sort.asc { Merge::First } else { Merge::Last }),
            _ => Err(format!(
                "is {name} without one column that says what is {}; write {name}({args} ORDER BY created_at)",
                if name == "first_value" { "first" } else { "last" }
            )),
        },
        "avg" => Err(format!("is avg({args}), whose parts cannot be merged; store sum({args}) and count({args}), and divide in a view")),
        _ => Err(format!(
            "is {name}({args}), whose parts cannot be merged (sum, count, min, max, first_value and last_value can); store the rows with mode Append or in Cassandra, and \
             compute it in a view"
        )),
    }
}

/// A first or last value, and its order key.
struct Ordered {
    value: Expr,
    order: Expr,
}

fn ordered(aggregate: &Expr, input: &DFSchema) -> PlanResult<Option<Ordered>> {
    let Expr::AggregateFunction(AggregateFunction { params, .. }) = aggregate else { return Ok(None) };
    let kind = measure(aggregate).ok().filter(|kind| kind.has_order());
    let (Some(kind), [sort], [value]) = (kind, params.order_by.as_slice(), params.args.as_slice()) else { return Ok(None) };
    let is_first = kind == Merge::First;
    let time = match sort.expr.get_type(input)? {
        DataType::Timestamp(..) => cast(cast(sort.expr.clone(), TIMESTAMP_TYPE), DataType::Int64),
        _ => cast(sort.expr.clone(), DataType::Int64),
    };
    let place = [hidden::PARTITION, hidden::OFFSET, hidden::INDEX].into_iter().filter_map(|name| column(input, name));
    let key = order_key(is_first).call(std::iter::once(time).chain(place).collect());
    let ignores_nulls = params.null_treatment == Some(NullTreatment::IgnoreNulls);
    let filter = match (params.filter.clone(), ignores_nulls) {
        (filter, false) => filter,
        (None, true) => Some(Box::new(value.clone().is_not_null())),
        (Some(filter), true) => Some(Box::new(filter.and(value.clone().is_not_null()))),
    };
    let of = |args, order_by| AggregateFunctionParams { args, distinct: false, filter: filter.clone(), order_by, null_treatment: None };
    let (pick, extreme) = if is_first { (first_value_udaf(), min_udaf()) } else { (last_value_udaf(), max_udaf()) };
    let value = AggregateFunction { func: pick, params: of(vec![value.clone()], vec![Sort { expr: key.clone(), asc: true, nulls_first: false }]) };
    let order = AggregateFunction { func: extreme, params: of(vec![key], Vec::new()) };
    Ok(Some(Ordered { value: Expr::AggregateFunction(value), order: Expr::AggregateFunction(order) }))
}

/// What orders a first or last value has to be a number that the order key holds as it is.
fn check_order(measure: &Expr, input: &DFSchema) -> Result<(), String> {
    let Expr::AggregateFunction(AggregateFunction { func, params }) = measure.clone().unalias() else { return Ok(()) };
    let [sort] = params.order_by.as_slice() else { return Ok(()) };
    let type_ = sort.expr.get_type(input).map_err(|error| crate::one_line(&error))?;
    if matches!(type_, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64) || type_.is_signed_integer() {
        return Ok(());
    }
    let (name, by) = (func.name(), &sort.expr);
    Err(format!(
        "is {name} ordered by {by}, a {type_}; order by a timestamp, a date or an integer, such as CAST({by} * 1000 AS BIGINT) for seconds with a fraction"
    ))
}

/// Whether what is more stays more when it is cast.
fn keeps_order(expr: &Expr, to: &DataType, schema: &DFSchema) -> bool {
    use Canonical::{Date, Decimal, Float, Integer, Timestamp};
    let of = |data_type: &DataType| Canonical::of(data_type).map(|(canonical, _)| canonical);
    let from = expr.get_type(schema).ok().and_then(|from| of(&from));
    match (from, of(to)) {
        (Some(Integer | Float | Decimal), Some(Integer | Float | Decimal)) | (Some(Timestamp | Date), Some(Timestamp | Date)) => true,
        (from, to) => from.is_some() && from == to,
    }
}

/// Whether the parts of a sum still add up when each is cast.
fn adds_up(sum: &Expr, to: &DataType, schema: &DFSchema) -> bool {
    match (sum.get_type(schema), to) {
        (Ok(DataType::Decimal128(_, from)), DataType::Decimal128(_, to)) => *to >= from,
        (Ok(DataType::Decimal128(_, 0)), to) => to.is_integer(),
        (Ok(from), to) if from.is_integer() => to.is_integer() || matches!(to, DataType::Decimal128(_, 0..)),
        (Ok(DataType::Float32 | DataType::Float64), DataType::Float64) => true,
        _ => false,
    }
}

/// Whether it is the time of the micro-batch.
fn is_batch_time(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarFunction(call) if BATCH_TIME_FUNCTIONS.contains(&call.func.name()))
}

/// Whether it has the time of the micro-batch in it.
fn is_of_the_batch(expr: &Expr) -> bool {
    expr.exists(|part| Ok(is_batch_time(part))).unwrap_or(true)
}

#[cfg(test)]
mod tests;
