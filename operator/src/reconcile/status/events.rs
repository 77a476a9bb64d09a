//! Events, on transitions only and short; the detail is in the conditions.

use kube::Resource;
use kube::runtime::events::{Event, EventType};

use super::writer::Written;
use crate::context::Scope;
use crate::external::{Node, NodeState};
use crate::reconcile::Target;
use crate::reconcile::systems::Systems;

/// The API server takes 1,024 bytes.
const MAX_NOTE: usize = 1_000;
const MAX_ACTION: usize = 128;

/// Ready or `DataLost` changed its status or reason.
pub(super) async fn transitions(target: &Target, written: &Written, scope: &Scope) {
    for after in written.after.conditions.iter().filter(|condition| matches!(condition.type_.as_str(), "Ready" | super::losses::DATA_LOST)) {
        let before = written.before.conditions.iter().find(|condition| condition.type_ == after.type_);
        if before.is_some_and(|before| before.status == after.status && before.reason == after.reason) {
            continue;
        }
        let good = (after.status == "True") == (after.type_ == "Ready");
        let type_ = if good || after.reason == "Progressing" { EventType::Normal } else { EventType::Warning };
        send(target, type_, &after.reason, "Reconcile", &after.message, scope).await;
    }
}

/// Something outside Kubernetes was created, changed or created again.
pub(super) async fn changes(target: &Target, systems: &Systems, scope: &Scope) {
    for outcome in systems.iter().flat_map(|(_, system)| &system.applied.nodes) {
        match &outcome.state {
            NodeState::Changed(what) => send(target, EventType::Normal, "Changed", &action(&outcome.node), what, scope).await,
            NodeState::Recreated(what) => send(target, EventType::Warning, "RecreatedEmpty", &action(&outcome.node), what, scope).await,
            _ => {}
        }
    }
}

/// Names the thing: Events that differ in their note alone are counted as one by the recorder, and the first note would stand for all.
fn action(node: &Node) -> String {
    format!("Apply{}/{}", node.kind, node.name).chars().take(MAX_ACTION).collect()
}

async fn send(target: &Target, type_: EventType, reason: &str, action: &str, note: &str, scope: &Scope) {
    let end = note.char_indices().map(|(at, _)| at).take_while(|at| *at <= MAX_NOTE).last().unwrap_or(0);
    let note = if note.len() <= MAX_NOTE { note } else { note.get(..end).unwrap_or_default() };
    let event = Event { type_, reason: reason.to_owned(), note: Some(note.to_owned()), action: action.to_owned(), secondary: None };
    let result = scope.shared.recorder.publish(&event, &target.pipeline.object_ref(&())).await;
    scope.shared.metrics.wrote("event", result.is_ok());
    if let Err(error) = result {
        // An Event that is lost loses nothing: the condition says the same.
        tracing::info!(%error, "cannot publish an Event");
    }
}
