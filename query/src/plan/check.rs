//! From SQL to a checked plan.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::common::config::Dialect;
use datafusion::common::{SchemaError, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::functions::all_default_functions;
use datafusion::functions_aggregate::all_default_aggregate_functions;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::planner::SqlToRel;
use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Ident, ObjectName, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, Statement, TableFactor, VisitMut, VisitorMut,
    WildcardAdditionalOptions,
};
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::streams::Stream;

use super::row_wise::{carry_hidden, hidden_columns, shape};
use super::stream_table::{Slot, StreamTable};
use super::{CheckError, CheckedQuery, OutputColumn};
use crate::functions::{BatchClock, batch_time, exact_sum};
use crate::schema::{HIDDEN, METADATA, table_schema};
use crate::sink::Canonical;
use crate::{did_you_mean, one_line};

/// Memory that the plan of one micro-batch may hold, in bytes, before it fails with `ResourcesExhausted`. A group of an aggregate takes about 115.
pub(super) const MEMORY_LIMIT: usize = 96 << 20;

/// Checks `sql` against the streams of a pipeline.
///
/// # Errors
/// What is wrong with it, in words for its author.
pub fn check(streams: &[Stream], sql: &str) -> Result<CheckedQuery, CheckError> {
    let clock = BatchClock::default();
    let state = session(&clock).map_err(|error| CheckError::Planning(one_line(&error)))?;
    let mut statement = parse(&state, sql)?;
    let stream = the_stream(&state, &statement, streams)?;
    hide_metadata(&mut statement, &stream.name);

    let schema = table_schema(stream);
    let slot = Arc::new(Slot::new(Arc::clone(&schema)));
    let raw = plan_statement(&state, &slot, stream, statement)?;
    let not_row_wise = shape(&raw)?;
    let output = output_columns(&raw)?;
    let plan = finish(&state, raw, &output, not_row_wise.is_none()).map_err(|error| planning_error(&error, stream))?;
    Ok(CheckedQuery { stream: stream.name.clone(), output, not_row_wise, plan, state, slot, clock, table_schema: schema })
}

fn session(clock: &BatchClock) -> Result<SessionState, DataFusionError> {
    let mut config = SessionConfig::new().with_target_partitions(1).with_batch_size(8192);
    config.options_mut().sql_parser.dialect = Dialect::PostgreSQL;
    // Not to disk: a worker's root is read-only, so an attempt would fail as if a record were bad; too little memory is cured by smaller micro-batches.
    let no_spilling = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    let runtime = RuntimeEnvBuilder::new().with_memory_limit(MEMORY_LIMIT, 1.0).with_disk_manager_builder(no_spilling).build_arc()?;
    // `current_time` would be the time at which the plan was made: better not there at all.
    let replaced = ["now", "current_date", "current_time"];
    let scalars = all_default_functions().into_iter().filter(|function| !replaced.contains(&function.name())).collect();
    let aggregates = all_default_aggregate_functions().into_iter().filter(|function| function.name() != "sum").chain([Arc::new(exact_sum())]).collect();
    let mut state = SessionStateBuilder::new()
        .with_default_features()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_scalar_functions(scalars)
        .with_aggregate_functions(aggregates)
        .build();
    for function in batch_time(clock) {
        datafusion::logical_expr::registry::FunctionRegistry::register_udf(&mut state, Arc::new(function))?;
    }
    Ok(state)
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

fn the_stream<'a>(state: &SessionState, query: &Query, streams: &'a [Stream]) -> Result<&'a Stream, CheckError> {
    let statement = DfStatement::Statement(Box::new(Statement::Query(Box::new(query.clone()))));
    let tables = state.resolve_table_references(&statement).map_err(|error| CheckError::Syntax(one_line(&error)))?;
    let names: HashSet<String> = tables.iter().map(|table| table.table().to_owned()).collect();
    for name in &names {
        if !streams.iter().any(|stream| stream.name.as_str() == name) {
            let hint = did_you_mean(name, streams.iter().map(|stream| stream.name.as_str()));
            return Err(CheckError::NoSuchStream { name: name.clone(), hint });
        }
    }
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    match names.as_slice() {
        [name] => streams.iter().find(|stream| stream.name.as_str() == *name).ok_or_else(|| CheckError::NotOneStream("none".to_owned())),
        [] => Err(CheckError::NotOneStream("none".to_owned())),
        several => Err(CheckError::NotOneStream(several.join(", "))),
    }
}

/// Makes `*` mean the declared fields: the columns of the message and the hidden ones are excluded wherever a SELECT reads the stream itself.
fn hide_metadata(query: &mut Query, stream: &SqlName) {
    struct Hide<'a>(&'a str);

    impl VisitorMut for Hide<'_> {
        type Break = ();

        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
            self.body(&mut query.body);
            ControlFlow::Continue(())
        }
    }

    impl Hide<'_> {
        fn body(&self, body: &mut SetExpr) {
            match body {
                SetExpr::Select(select) => self.select(select),
                SetExpr::SetOperation { left, right, .. } => {
                    self.body(left);
                    self.body(right);
                }
                _ => {}
            }
        }

        fn select(&self, select: &mut Select) {
            let reads_stream = select.from.iter().any(|from| matches!(&from.relation, TableFactor::Table { name, .. } if is_name(name, self.0)));
            if !reads_stream {
                return;
            }
            for item in &mut select.projection {
                match item {
                    SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(_), options) => exclude(options),
                    _ => {}
                }
            }
        }
    }

    fn is_name(name: &ObjectName, stream: &str) -> bool {
        name.0.last().and_then(|part| part.as_ident()).is_some_and(|ident| ident.value.eq_ignore_ascii_case(stream))
    }

    fn exclude(options: &mut WildcardAdditionalOptions) {
        let ours = METADATA.into_iter().chain(HIDDEN).map(|name| ObjectName::from(Ident::with_quote('"', name)));
        let mut all: Vec<ObjectName> = match options.opt_exclude.take() {
            Some(ExcludeSelectItem::Single(one)) => vec![one],
            Some(ExcludeSelectItem::Multiple(several)) => several,
            None => Vec::new(),
        };
        all.extend(ours);
        options.opt_exclude = Some(ExcludeSelectItem::Multiple(all));
    }

    let _ = query.visit(&mut Hide(stream.as_str()));
}

fn plan_statement(state: &SessionState, slot: &Arc<Slot>, stream: &Stream, query: Query) -> Result<LogicalPlan, CheckError> {
    let source = provider_as_source(Arc::new(StreamTable(Arc::clone(slot))));
    let tables = [(TableReference::bare(stream.name.as_str()), source)];
    let context = run_context(state, &tables);
    SqlToRel::new(&context).sql_statement_to_plan(Statement::Query(Box::new(query))).map_err(|error| planning_error(&error, stream))
}

fn run_context<'a>(state: &'a SessionState, tables: &'a [(TableReference, Arc<dyn datafusion::logical_expr::TableSource>)]) -> context::Context<'a> {
    context::Context { state, tables }
}

mod context {
    //! What the SQL planner asks for: the one table, and the functions of the session.

    use std::sync::Arc;

    use arrow::datatypes::DataType;
    use datafusion::common::TableReference;
    use datafusion::common::config::ConfigOptions;
    use datafusion::common::plan_err;
    use datafusion::error::Result;
    use datafusion::execution::SessionState;
    use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner};
    use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF};

    pub(super) struct Context<'a> {
        pub(super) state: &'a SessionState,
        pub(super) tables: &'a [(TableReference, Arc<dyn TableSource>)],
    }

    impl ContextProvider for Context<'_> {
        fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
            if let Some((_, source)) = self.tables.iter().find(|(known, _)| known.table() == name.table()) {
                Ok(Arc::clone(source))
            } else {
                plan_err!("no stream \"{name}\"")
            }
        }

        fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
            self.state.expr_planners()
        }

        fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
            self.state.scalar_functions().get(name).cloned()
        }

        fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
            self.state.higher_order_functions().get(name).cloned()
        }

        fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
            self.state.aggregate_functions().get(name).cloned()
        }

        fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
            self.state.window_functions().get(name).cloned()
        }

        fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
            None
        }

        fn options(&self) -> &ConfigOptions {
            self.state.config_options()
        }

        fn udf_names(&self) -> Vec<String> {
            self.state.scalar_functions().keys().cloned().collect()
        }

        fn higher_order_function_names(&self) -> Vec<String> {
            self.state.higher_order_functions().keys().cloned().collect()
        }

        fn udaf_names(&self) -> Vec<String> {
            self.state.aggregate_functions().keys().cloned().collect()
        }

        fn udwf_names(&self) -> Vec<String> {
            self.state.window_functions().keys().cloned().collect()
        }
    }
}

fn planning_error(error: &DataFusionError, stream: &Stream) -> CheckError {
    if let DataFusionError::SchemaError(schema_error, _) = error.find_root() {
        match schema_error.as_ref() {
            SchemaError::FieldNotFound { field, .. } => {
                let names = stream.fields.iter().map(|field| field.name.as_str());
                return CheckError::NoSuchColumn { name: field.name.clone(), stream: stream.name.to_string(), hint: did_you_mean(&field.name, names) };
            }
            // With a relation: a column stands beside another of its name in one SELECT. Without one it is a name that two tables of a join have.
            SchemaError::AmbiguousReference { field } if field.relation.is_some() => return CheckError::DuplicateOutput(field.name.clone()),
            _ => {}
        }
    }
    CheckError::Planning(one_line(error.find_root()))
}

fn output_columns(plan: &LogicalPlan) -> Result<Vec<OutputColumn>, CheckError> {
    let fields = plan.schema().fields();
    let mut columns = Vec::with_capacity(fields.len());
    for (index, field) in fields.iter().enumerate() {
        if field.name().parse::<SqlName>().is_err() {
            return Err(CheckError::UnnamedOutput { position: index + 1, expression: field.name().clone() });
        }
        columns.push(OutputColumn { name: field.name().clone(), data_type: field.data_type().clone(), nullable: field.is_nullable() });
    }
    Ok(columns)
}

/// Casts the output to the types that sinks know, carries the hidden columns along, and optimises.
fn finish(state: &SessionState, raw: LogicalPlan, output: &[OutputColumn], row_wise: bool) -> Result<LogicalPlan, DataFusionError> {
    let plan = if row_wise { carry_hidden(raw)? } else { raw };
    let schema = Arc::clone(plan.schema());
    let mut exprs = Vec::with_capacity(output.len() + HIDDEN.len());
    for (column, reference) in output.iter().zip(schema.columns()) {
        let expr = Expr::Column(reference);
        let is = expr.get_type(&schema)?;
        let expr = match Canonical::of(&is) {
            Some((_, target)) if target != is => cast(expr, target),
            _ => expr,
        };
        exprs.push(expr.alias(&column.name));
    }
    if row_wise {
        exprs.extend(hidden_columns(&schema).into_iter().zip(HIDDEN).map(|(expr, name)| expr.alias(name)));
    }
    state.optimize(&LogicalPlanBuilder::from(plan).project(exprs)?.build()?)
}

#[cfg(test)]
mod tests;
