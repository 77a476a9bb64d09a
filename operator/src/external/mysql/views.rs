//! What must happen to a view. Pure.
//!
//! MySQL keeps a view in its own words, so the declared text cannot be compared with the stored one. Behind each change the hashes of both are kept in the
//! owner's row: if both are as they were, the view is as declared; if only the stored one differs, somebody altered it.

use tapeline_api::pipeline::mysql::View;
use tapeline_api::pipeline::status::Origin;

use super::plan::{Context, NodePlan, Op};
use super::{DesiredView, ViewShape};
use crate::external::ownership::hash;
use crate::external::{NodeState, Refusal, RefusalReason};

/// Raised when the statement around a view's text changes, so that all views are replaced once.
const STATEMENT: &str = "INVOKER 1";

/// What must happen to the view `desired`.
pub(super) fn plan(context: &Context<'_>, desired: &DesiredView) -> NodePlan {
    let (database, view) = (&context.desired.database, &desired.view);
    let mut plan = NodePlan::settled(desired.node(database), NodeState::AsDeclared, None);
    let name = plan.node.name.clone();
    let Some(entry) = context.books.entry(&mut plan, &view.name, &database.backticked(), String::new()) else { return plan };
    let row = entry.row;
    if context.actual.tables.contains_key(&view.name) {
        let message = format!("{name} is a table, not a view: use another name for the view");
        plan.refuse(vec![Refusal::new(RefusalReason::ResourceConflict, &desired.field, message)]);
        return plan;
    }
    let there = context.actual.views.get(&view.name);
    let ours = row.is_some() || entry.recorded == Some(Origin::Created);
    match there {
        Some(_) if !ours => {
            let message = format!(
                "view {name} was there before this pipeline, which would replace it: use another name, or, if its text is no longer needed, run: DROP VIEW \
                {}.{}",
                database.backticked(),
                view.name.backticked()
            );
            plan.refuse(vec![Refusal::new(RefusalReason::ResourceConflict, &desired.field, message)]);
            return plan;
        }
        Some(shape) if row.is_some_and(|row| row.origin() == Origin::Created && row.spec_hash == fingerprint(view, shape)) => {
            plan.origin = Some(Origin::Created);
            return plan;
        }
        // It differs, but whether in our text or in MySQL's tells what happened.
        Some(_) if row.is_some_and(|row| row.spec_hash.starts_with(&declared_hash(view))) => {
            plan.state = NodeState::Changed(format!("view {name} had been altered and was put back"));
            plan.origin = Some(Origin::Created);
        }
        Some(_) => {
            plan.state = NodeState::Changed(format!("replaced view {name}"));
            plan.origin = Some(Origin::Created);
        }
        None => {
            let what = if row.is_some_and(|row| row.origin() == Origin::Created) { "created again view" } else { "created view" };
            plan.state = NodeState::Changed(format!("{what} {name}"));
            // A view holds no rows, so nothing is lost with it.
            plan.creates(&context.books, None);
        }
    }
    if row.is_none() {
        plan.ops.push(Op::Claim(entry.target(Origin::Creating)));
    }
    plan.ops.push(Op::PutView(view.clone()));
    plan
}

/// The text as it is sent: a trailing semicolon is a habit, not an error.
pub(super) fn text(view: &View) -> &str {
    view.sql.trim().trim_end_matches(';').trim_end()
}

fn declared_hash(view: &View) -> String {
    hash(&[STATEMENT, text(view)])
}

/// What a view as declared and its stored form are known by: fits into `spec_hash`.
pub(super) fn fingerprint(view: &View, stored: &ViewShape) -> String {
    format!("{}:{}", declared_hash(view), hash(&[&stored.definition, &stored.security]))
}
