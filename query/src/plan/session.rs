//! The engine's session of one query: its functions, its memory, its dialect.

use std::sync::Arc;

use datafusion::common::config::Dialect;
use datafusion::error::DataFusionError;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::functions::all_default_functions;
use datafusion::functions_aggregate::all_default_aggregate_functions;
use datafusion::functions_nested::all_default_nested_functions;
use datafusion::logical_expr::registry::FunctionRegistry;
use datafusion::prelude::SessionConfig;

use super::physical::optimizer_rules;
use crate::functions::{BatchClock, DATE_BIN, batch_time, date_bin, exact_sum, record_uuid, to_json};

/// Memory that the plan of one micro-batch may hold, in bytes, before it fails with `ResourcesExhausted`. A group of an aggregate takes about 115.
pub(super) const MEMORY_LIMIT: usize = 96 << 20;

pub(super) fn session(clock: &BatchClock) -> Result<SessionState, DataFusionError> {
    let mut config = SessionConfig::new().with_target_partitions(1).with_batch_size(8192);
    config.options_mut().sql_parser.dialect = Dialect::PostgreSQL;
    config.options_mut().optimizer.join_reordering = false; // by the numbers of rows; see [`optimizer_rules`]
    // Not to disk: a worker's root is read-only, so an attempt would fail as if a record were bad; too little memory is cured by smaller micro-batches.
    let no_spilling = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    let runtime = RuntimeEnvBuilder::new().with_memory_limit(MEMORY_LIMIT, 1.0).with_disk_manager_builder(no_spilling).build_arc()?;
    // `current_time` would be the time at which the plan was made: better not there at all.
    let replaced = ["now", "current_date", "current_time", DATE_BIN];
    let scalars = all_default_functions().into_iter().filter(|function| !replaced.contains(&function.name()));
    let scalars = scalars.chain(all_default_nested_functions()).chain([Arc::new(to_json()), Arc::new(date_bin())]).collect();
    let aggregates = all_default_aggregate_functions().into_iter().filter(|function| function.name() != "sum").chain([Arc::new(exact_sum())]).collect();
    let mut state = SessionStateBuilder::new()
        .with_default_features()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_scalar_functions(scalars)
        .with_aggregate_functions(aggregates)
        .with_physical_optimizer_rules(optimizer_rules())
        .build();
    for function in batch_time(clock).into_iter().chain([record_uuid()]) {
        state.register_udf(Arc::new(function))?;
    }
    Ok(state)
}
