//! What only the finished plan tells: whether the stream flows through it, or would be held in memory for a join or a sort. Of the two sides of a join the engine holds
//! the left one, and picks it by how many rows it expects; that would change with each load of a reference. Here the stream is never that side, whatever the numbers.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::streaming::StreamingTableExec;
use futures::FutureExt;

use super::CheckError;
use crate::one_line;

/// The engine's rules, and behind its choice of sides this one.
pub(super) fn optimizer_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    let behind = rules.iter().position(|rule| rule.name() == "join_selection").map_or(rules.len(), |place| place + 1);
    rules.insert(behind, Arc::new(StreamFlows));
    rules
}

/// Swaps the sides of joins that would hold the stream.
#[derive(Debug)]
struct StreamFlows;

impl PhysicalOptimizerRule for StreamFlows {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let swapped = plan.transform_up(|node| {
            let Some(held) = held(&node) else { return Ok(Transformed::no(node)) };
            if scans(held) == 0 {
                return Ok(Transformed::no(node));
            }
            if let Some(join) = node.downcast_ref::<HashJoinExec>()
                && join.join_type().supports_swap()
                && !join.null_aware
            {
                return Ok(Transformed::yes(join.swap_inputs(PartitionMode::CollectLeft)?));
            }
            if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>()
                && join.join_type().supports_swap()
            {
                return Ok(Transformed::yes(join.swap_inputs()?));
            }
            if let Some(join) = node.downcast_ref::<CrossJoinExec>() {
                return Ok(Transformed::yes(join.swap_inputs()?));
            }
            Ok(Transformed::no(node))
        });
        swapped.map(|swapped| swapped.data)
    }

    fn name(&self) -> &'static str {
        "stream_flows"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The side of a join that is held in memory.
fn held(plan: &Arc<dyn ExecutionPlan>) -> Option<&Arc<dyn ExecutionPlan>> {
    let hash = plan.downcast_ref::<HashJoinExec>().map(HashJoinExec::left);
    let loops = || plan.downcast_ref::<NestedLoopJoinExec>().map(NestedLoopJoinExec::left);
    hash.or_else(loops).or_else(|| plan.downcast_ref::<CrossJoinExec>().map(CrossJoinExec::left))
}

/// Checks that the stream is read once, and on the side of joins that flows.
pub(super) fn check_flow(state: &SessionState, plan: &LogicalPlan) -> std::result::Result<(), CheckError> {
    // Nothing in it waits for anything: tables are in memory.
    let made = state.query_planner().create_physical_plan(plan, state).now_or_never();
    let plan = match made {
        Some(Ok(plan)) => plan,
        Some(Err(error)) => return Err(CheckError::Planning(one_line(&error))),
        None => return Err(CheckError::Planning("the plan is not made at once".to_owned())),
    };
    match scans(&plan) {
        1 => flows(&plan),
        0 => Err(CheckError::NotOneStream("none, since its conditions can never be true".to_owned())),
        several => Err(CheckError::NotOneStream(format!("it {several} times"))),
    }
}

/// How often the stream is read. References are read from memory, by another node.
fn scans(plan: &Arc<dyn ExecutionPlan>) -> usize {
    usize::from(plan.downcast_ref::<StreamingTableExec>().is_some()) + plan.children().into_iter().map(scans).sum::<usize>()
}

fn flows(plan: &Arc<dyn ExecutionPlan>) -> std::result::Result<(), CheckError> {
    let holds = match held(plan) {
        Some(held) => scans(held) > 0,
        None => ["Join", "Sort", "Window"].iter().any(|word| plan.name().contains(word)) && scans(plan) > 0,
    };
    if holds {
        return Err(CheckError::Unsupported {
            what: "this way of combining tables",
            why: "the records of a whole micro-batch would be held in memory for it; JOIN or LEFT JOIN a reference by equal columns, and write NOT EXISTS for NOT IN",
        });
    }
    plan.children().into_iter().try_for_each(flows)
}
