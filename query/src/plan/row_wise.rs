//! Whether a plan handles each row by itself, and if so, how the hidden columns follow the row to the sink.

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchemaRef};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection, Volatility};
use std::sync::Arc;

use super::CheckError;
use crate::functions::BATCH_TIME_FUNCTIONS;
use crate::schema::HIDDEN;

/// What a plan does that is more than handling each row by itself.
///
/// # Errors
/// What no sink can take.
pub(super) fn shape(plan: &LogicalPlan) -> std::result::Result<Option<String>, CheckError> {
    let mut refused = None;
    let mut not_row_wise = None;
    let _ = plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::TableScan(_) => {}
            LogicalPlan::Aggregate(_) => note(&mut not_row_wise, "it aggregates rows (GROUP BY or an aggregate function)"),
            LogicalPlan::Distinct(_) => note(&mut not_row_wise, "it compares rows with each other (DISTINCT)"),
            LogicalPlan::Window(_) => {
                refused = Some(("OVER (..)", "a window function would have to hold the whole stream; group by date_bin(..) and finish in a view of MySQL"));
            }
            LogicalPlan::Sort(_) => refused = Some(("ORDER BY", "a table has no order; put ORDER BY into the view or the SELECT that reads the table")),
            LogicalPlan::Limit(_) => {
                refused = Some(("LIMIT", "it would mean other rows in each micro-batch; put LIMIT into the view or the SELECT that reads the table"));
            }
            LogicalPlan::Join(_) => refused = Some(("JOIN", "a query reads one stream")),
            LogicalPlan::Union(_) => refused = Some(("UNION", "a query reads one stream once; write two queries into the same table")),
            LogicalPlan::Subquery(_) => refused = Some(("a subquery in an expression", "it would read the stream a second time")),
            _ => refused = Some(("this statement", "a query is a SELECT with WHERE and GROUP BY over one stream")),
        }
        for expr in node.expressions() {
            if let Some(name) = random_function(&expr) {
                note(&mut not_row_wise, &format!("{name}() gives another value when a record is read again"));
            }
        }
        Ok(if refused.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    match refused {
        Some((what, why)) => Err(CheckError::Unsupported { what, why }),
        None => Ok(not_row_wise),
    }
}

fn note(slot: &mut Option<String>, text: &str) {
    slot.get_or_insert_with(|| text.to_owned());
}

fn random_function(expr: &Expr) -> Option<String> {
    let mut found = None;
    let _ = expr.apply(|part| {
        if let Expr::ScalarFunction(call) = part
            && call.func.signature().volatility == Volatility::Volatile
            && !BATCH_TIME_FUNCTIONS.contains(&call.func.name())
        {
            found = Some(call.func.name().to_owned());
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

/// The hidden columns of `schema`.
pub(super) fn hidden_columns(schema: &DFSchemaRef) -> Vec<Expr> {
    schema.columns().into_iter().filter(|column| HIDDEN.contains(&column.name.as_str())).map(Expr::Column).collect()
}

/// Adds the hidden columns to every projection of a row-wise plan.
pub(super) fn carry_hidden(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up(|node| match node {
        LogicalPlan::Projection(projection) => {
            let mut exprs = projection.expr;
            let input = projection.input;
            let present = |exprs: &[Expr], name: &str| exprs.iter().any(|expr| expr.schema_name().to_string().ends_with(name));
            let missing: Vec<Column> =
                input.schema().columns().into_iter().filter(|column| HIDDEN.contains(&column.name.as_str()) && !present(&exprs, &column.name)).collect();
            exprs.extend(missing.into_iter().map(Expr::Column));
            Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(exprs, Arc::clone(&input))?)))
        }
        // The schemas of aliases follow those of their inputs.
        other => Ok(Transformed::yes(other.recompute_schema()?)),
    })
    .map(|transformed| transformed.data)
}
