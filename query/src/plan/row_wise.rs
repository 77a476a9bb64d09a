//! Whether a plan handles each row by itself, and if so, how the hidden columns follow the row to the sink.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DFSchemaRef, JoinType};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, Join, LogicalPlan, Projection, Volatility};

use super::CheckError;
use crate::functions::{BATCH_TIME_FUNCTIONS, RECORD_UUID, uuid_of};
use crate::schema::hidden;

/// What a plan does that is more than handling each row by itself.
///
/// # Errors
/// What no sink can take.
pub(super) fn shape(plan: &LogicalPlan, stream: &str) -> std::result::Result<Option<String>, CheckError> {
    let mut refused = None;
    let mut not_row_wise = None;
    let mut scans = 0;
    let _ = plan.apply_with_subqueries(|node| {
        if !reads(node, stream) {
            // References may be grouped, sorted and limited as one likes.
            if let Some(name) = random_function_below(node) {
                note(&mut not_row_wise, &format!("{name}() gives another value when a record is read again"));
            }
            return Ok(TreeNodeRecursion::Jump);
        }
        match node {
            LogicalPlan::TableScan(scan) => scans += usize::from(scan.table_name.table() == stream),
            LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Unnest(_) => {}
            LogicalPlan::Aggregate(_) => note(&mut not_row_wise, "it aggregates rows (GROUP BY or an aggregate function)"),
            LogicalPlan::Distinct(_) => note(&mut not_row_wise, "it compares rows with each other (DISTINCT)"),
            LogicalPlan::Join(join) => refused = join_problem(join, stream),
            LogicalPlan::Window(_) => {
                refused = Some(("OVER (..)", "a window function would have to hold the whole stream; group by date_bin(..) and finish in a view of MySQL"));
            }
            LogicalPlan::Sort(_) => refused = Some(("ORDER BY", "a table has no order; put ORDER BY into the view or the SELECT that reads the table")),
            LogicalPlan::Limit(_) => {
                refused = Some(("LIMIT", "it would mean other rows in each micro-batch; put LIMIT into the view or the SELECT that reads the table"));
            }
            LogicalPlan::Union(_) => refused = Some(("UNION", "a query reads one stream once; write two queries into the same table")),
            LogicalPlan::Subquery(_) => refused = Some(("a subquery in an expression", "it would read the stream a second time")),
            _ => refused = Some(("this statement", "a query is a SELECT with WHERE, JOIN of references, and GROUP BY over one stream")),
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
        None if scans > 1 => Err(CheckError::NotOneStream(format!("\"{stream}\" {scans} times"))),
        None => Ok(not_row_wise),
    }
}

/// The stream's rows have to be those that are kept: a row of a reference that no record has matched would be given anew by each micro-batch.
fn join_problem(join: &Join, stream: &str) -> Option<(&'static str, &'static str)> {
    use JoinType::{Inner, Left, LeftAnti, LeftMark, LeftSemi, Right, RightAnti, RightMark, RightSemi};
    let fits = match (reads(&join.left, stream), reads(&join.right, stream)) {
        (true, true) => return Some(("JOIN of a stream with itself", "a query reads one stream, once; group the rows instead")),
        (true, false) => matches!(join.join_type, Inner | Left | LeftSemi | LeftAnti | LeftMark),
        (false, true) => matches!(join.join_type, Inner | Right | RightSemi | RightAnti | RightMark),
        (false, false) => true,
    };
    let why =
        "rows of the reference that no record matches would come again with every micro-batch; write the stream first, and JOIN or LEFT JOIN the reference";
    (!fits).then_some(("this kind of JOIN", why))
}

fn reads(plan: &LogicalPlan, stream: &str) -> bool {
    plan.exists(|node| Ok(matches!(node, LogicalPlan::TableScan(scan) if scan.table_name.table() == stream))).unwrap_or(true)
}

fn note(slot: &mut Option<String>, text: &str) {
    slot.get_or_insert_with(|| text.to_owned());
}

fn random_function_below(plan: &LogicalPlan) -> Option<String> {
    let mut found = None;
    let _ = plan.apply_with_subqueries(|node| {
        found = node.expressions().iter().find_map(random_function);
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found
}

fn random_function(expr: &Expr) -> Option<String> {
    let mut found = None;
    let _ = expr.apply(|part| {
        if let Expr::ScalarFunction(call) = part
            && call.func.signature().volatility == Volatility::Volatile
            && !BATCH_TIME_FUNCTIONS.contains(&call.func.name())
            && call.func.name() != RECORD_UUID
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
    schema.columns().into_iter().filter(|column| hidden::is(&column.name)).map(Expr::Column).collect()
}

/// The column `name` of `schema`, under whatever table it stands there.
pub(super) fn column(schema: &DFSchema, name: &str) -> Option<Expr> {
    schema.columns().into_iter().find(|column| column.name == name).map(Expr::Column)
}

/// Adds the hidden columns to every projection of a row-wise plan.
pub(super) fn carry_hidden(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up(|node| match node {
        LogicalPlan::Projection(projection) => {
            let mut exprs = projection.expr;
            let input = projection.input;
            let present = |exprs: &[Expr], name: &str| exprs.iter().any(|expr| expr.schema_name().to_string().ends_with(name));
            let missing: Vec<Column> =
                input.schema().columns().into_iter().filter(|column| hidden::is(&column.name) && !present(&exprs, &column.name)).collect();
            exprs.extend(missing.into_iter().map(Expr::Column));
            Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(exprs, Arc::clone(&input))?)))
        }
        // The schemas of aliases and of unnest, which repeats the other columns of a row for each element, follow those of their inputs.
        other => Ok(Transformed::yes(other.recompute_schema()?)),
    })
    .map(|transformed| transformed.data)
}

/// Replaces `record_uuid()` by the function of the hidden columns, which `plan` carries.
pub(super) fn resolve_record_uuid(plan: LogicalPlan, topic: &str) -> Result<LogicalPlan> {
    let function = Arc::new(uuid_of(topic));
    plan.transform_up(|node| {
        let place_in = |input: &&LogicalPlan| -> Option<Vec<Expr>> {
            [hidden::PARTITION, hidden::OFFSET, hidden::INDEX].into_iter().map(|name| column(input.schema(), name)).collect()
        };
        let place = node.inputs().iter().find_map(place_in);
        let Some(place) = place else { return Ok(Transformed::no(node)) };
        let node = node.map_expressions(|expr| {
            // Under the name that it had: the nodes above know the column by it.
            let name = expr.schema_name().to_string();
            let replaced = expr.transform_up(|part| {
                Ok(match part {
                    Expr::ScalarFunction(call) if call.func.name() == RECORD_UUID => Transformed::yes(function.call(place.clone())),
                    other => Transformed::no(other),
                })
            })?;
            Ok(if replaced.transformed { Transformed::yes(replaced.data.alias_if_changed(name)?) } else { replaced })
        })?;
        if node.transformed { Ok(Transformed::yes(node.data.recompute_schema()?)) } else { Ok(node) }
    })
    .map(|transformed| transformed.data)
}
