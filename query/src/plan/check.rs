//! From SQL to a checked plan.

use std::sync::Arc;

use datafusion::common::SchemaError;
use datafusion::common::config::Dialect;
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, TableSource, cast};
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::planner::SqlToRel;
use datafusion::sql::sqlparser::ast::{Query, Statement};
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::queries::Takes;

use super::context::Context;
use super::digits;
use super::merge::merging;
use super::names::{Named, hide_metadata, named};
use super::physical::check_flow;
use super::reference_table::{ReferenceProvider, Rows};
use super::row_wise::{carry_hidden, hidden_columns, resolve_record_uuid, shape};
use super::session::session;
use super::stream_table::{Slot, StreamTable};
use super::{CheckError, CheckedQuery, OutputColumn, Tables};
use crate::functions::{BatchClock, RECORD_UUID};
use crate::schema::{hidden, table_schema};
use crate::sink::Canonical;
use crate::{did_you_mean, one_line};

/// Checks `sql` against the streams and references of a pipeline, for a sink that `takes` such plans.
///
/// # Errors
/// What is wrong with it, in words for its author.
pub fn check(tables: Tables<'_>, sql: &str, takes: Takes) -> Result<CheckedQuery, CheckError> {
    let clock = BatchClock::default();
    let state = session(&clock).map_err(|error| CheckError::Planning(one_line(&error)))?;
    let mut query = parse(&state, sql)?;
    let named = named(&state, &query, tables)?;
    hide_metadata(&mut query, named.stream);

    let stream = named.stream;
    let table_schema = table_schema(stream);
    let slot = Arc::new(Slot::new(Arc::clone(&table_schema)));
    let references: Vec<(SqlName, Arc<Rows>)> = named.references.iter().map(|table| (table.name.clone(), Arc::new(Rows::new(table)))).collect();
    let raw = plan_statement(&state, &slot, &references, &named, query)?;
    let not_row_wise = shape(&raw, stream.name.as_str())?;
    let mut output = output_columns(&raw)?;
    let (plan, merge, carries_hidden) = match (takes, &not_row_wise) {
        (Takes::Mergeable, _) => {
            let merging = merging(&raw, &output, stream.name.as_str())?;
            for (column, digits) in output.iter_mut().zip(merging.digits) {
                column.digits = digits;
            }
            (merging.plan, merging.kinds, false)
        }
        (Takes::RowWise, Some(why)) => return Err(CheckError::NotRowWise(why.clone())),
        (_, None) => (carry_hidden(raw).map_err(|error| planning_error(&error, &named))?, Vec::new(), true),
        (Takes::AnyPlan, Some(_)) => (raw, Vec::new(), false),
    };
    let plan = if carries_hidden { resolve_record_uuid(plan, stream.topic.as_str()).map_err(|error| planning_error(&error, &named))? } else { plan };
    if names_function(&plan, RECORD_UUID) {
        let (what, why) = if carries_hidden {
            ("record_uuid() in a subquery", "no record is known there; name it in the SELECT, a WHERE or the condition of a JOIN")
        } else {
            (
                "record_uuid() in this query",
                "it groups rows, or has a random function, and no record is known any more; name it in a query that handles each row by itself",
            )
        };
        return Err(CheckError::Unsupported { what, why });
    }
    let plan = finish(&state, plan, &output, carries_hidden).map_err(|error| planning_error(&error, &named))?;
    check_flow(&state, &plan)?;
    Ok(CheckedQuery { stream: stream.name.clone(), output, merge, is_row_wise: carries_hidden, plan, state, slot, references, clock, table_schema })
}

fn parse(state: &SessionState, sql: &str) -> Result<Query, CheckError> {
    let statement = state.sql_to_statement(sql, &Dialect::PostgreSQL).map_err(|error| match &error {
        DataFusionError::Plan(_) | DataFusionError::NotImplemented(_) => CheckError::NotOneSelect("more than one statement".to_owned()),
        _ => CheckError::Syntax(one_line(&error)),
    })?;
    match statement {
        DfStatement::Statement(statement) => match *statement {
            Statement::Query(query) => Ok(*query),
            other => Err(CheckError::NotOneSelect(first_words(&other.to_string()))),
        },
        other => Err(CheckError::NotOneSelect(first_words(&other.to_string()))),
    }
}

fn first_words(text: &str) -> String {
    text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

fn plan_statement(
    state: &SessionState,
    slot: &Arc<Slot>,
    references: &[(SqlName, Arc<Rows>)],
    named: &Named<'_>,
    query: Query,
) -> Result<LogicalPlan, CheckError> {
    let stream = provider_as_source(Arc::new(StreamTable(Arc::clone(slot))));
    let references = references.iter().map(|(name, rows)| (name.as_str(), provider_as_source(Arc::new(ReferenceProvider(Arc::clone(rows))))));
    let tables: Vec<(&str, Arc<dyn TableSource>)> = std::iter::once((named.stream.name.as_str(), stream)).chain(references).collect();
    let context = Context { state, tables: &tables };
    SqlToRel::new(&context).sql_statement_to_plan(Statement::Query(Box::new(query))).map_err(|error| planning_error(&error, named))
}

fn planning_error(error: &DataFusionError, named: &Named<'_>) -> CheckError {
    if let DataFusionError::SchemaError(schema_error, _) = error.find_root() {
        match schema_error.as_ref() {
            SchemaError::FieldNotFound { field, .. } => {
                let of_stream = named.stream.fields.iter().map(|field| field.name.as_str());
                let hint_of = |names: &mut dyn Iterator<Item = &str>| did_you_mean(&field.name, names);
                let table = field.relation.as_ref().and_then(|relation| named.references.iter().find(|reference| reference.name.as_str() == relation.table()));
                let (kind, table, hint) = if let Some(table) = table {
                    ("reference", table.name.to_string(), hint_of(&mut table.fields.iter().map(|field| field.name.as_str())))
                } else {
                    let of_references = named.references.iter().flat_map(|reference| &reference.fields).map(|field| field.name.as_str());
                    ("stream", named.stream.name.to_string(), hint_of(&mut of_stream.chain(of_references)))
                };
                return CheckError::NoSuchColumn { name: field.name.clone(), kind, table, hint };
            }
            // With a relation: a column stands beside another of its name in one SELECT. Without one it is a name that two tables of a join have.
            SchemaError::AmbiguousReference { field } if field.relation.is_some() => return CheckError::DuplicateOutput(field.name.clone()),
            SchemaError::AmbiguousReference { field } => return CheckError::Ambiguous(field.name.clone()),
            _ => {}
        }
    }
    CheckError::Planning(one_line(error.find_root()))
}

fn output_columns(plan: &LogicalPlan) -> Result<Vec<OutputColumn>, CheckError> {
    let fields = plan.schema().fields();
    let mut columns: Vec<OutputColumn> = Vec::with_capacity(fields.len());
    for (index, field) in fields.iter().enumerate() {
        if field.name().parse::<SqlName>().is_err() {
            return Err(CheckError::UnnamedOutput { position: index + 1, expression: field.name().clone() });
        }
        // Columns of two tables of a join may have one name; a table's may not.
        if columns.iter().any(|column| column.name == *field.name()) {
            return Err(CheckError::DuplicateOutput(field.name().clone()));
        }
        let digits = digits::of_type(field.data_type());
        columns.push(OutputColumn { name: field.name().clone(), data_type: field.data_type().clone(), nullable: field.is_nullable(), digits });
    }
    Ok(columns)
}

fn names_function(plan: &LogicalPlan, name: &str) -> bool {
    use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
    let names = |expr: &Expr| expr.exists(|part| Ok(matches!(part, Expr::ScalarFunction(call) if call.func.name() == name))).unwrap_or(true);
    let mut found = false;
    let looked = plan.apply_with_subqueries(|node| {
        found = node.expressions().iter().any(names);
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found || looked.is_err()
}

/// Casts the output to the types that sinks know, keeps what stands behind it (order columns, or the hidden columns), and optimises.
fn finish(state: &SessionState, plan: LogicalPlan, output: &[OutputColumn], carries_hidden: bool) -> Result<LogicalPlan, DataFusionError> {
    let schema = Arc::clone(plan.schema());
    let columns = schema.columns();
    let mut exprs = Vec::with_capacity(columns.len());
    for (column, reference) in output.iter().zip(&columns) {
        let expr = Expr::Column(reference.clone());
        let is = expr.get_type(&schema)?;
        let expr = match Canonical::of(&is) {
            Some((_, target)) if target != is => cast(expr, target),
            _ => expr,
        };
        exprs.push(expr.alias(&column.name));
    }
    if carries_hidden {
        exprs.extend(hidden_columns(&schema).into_iter().zip(hidden::names()).map(|(expr, name)| expr.alias(name)));
    } else {
        exprs.extend(columns.iter().skip(output.len()).map(|column| Expr::Column(column.clone())));
    }
    state.optimize(&LogicalPlanBuilder::from(plan).project(exprs)?.build()?)
}

#[cfg(test)]
pub(in crate::plan) mod tests;
