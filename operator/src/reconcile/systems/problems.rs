//! What a system's answers mean to the pipeline. Pure.

use tapeline_api::pipeline::status::ResourceKind;

use crate::external::{ErrorClass, ExternalError, NodeOutcome, NodeState, RefusalReason};
use crate::reason::{Area, Cure, Problem, Reason};

/// What stands against a node.
#[must_use]
pub(super) fn node_problems(area: Area, outcome: &NodeOutcome) -> Vec<Problem> {
    match &outcome.state {
        NodeState::AsDeclared | NodeState::Changed(_) | NodeState::Recreated(_) => Vec::new(),
        NodeState::Waiting(error) => vec![from_error(area, error)],
        NodeState::Missing(message) => {
            let reason = if outcome.node.kind == ResourceKind::Topic { Reason::TopicMissing } else { Reason::TableMissing };
            vec![Problem::waiting(area, reason, outcome.node.field.clone(), message.clone())]
        }
        NodeState::Refused(refusals) => refusals
            .iter()
            .map(|refusal| {
                let (reason, cure) = match refusal.reason {
                    RefusalReason::WouldLoseData => (Reason::WouldLoseData, Cure::Change),
                    RefusalReason::ResourceConflict | RefusalReason::Incompatible => (Reason::ResourceConflict, Cure::Change),
                    RefusalReason::InvalidSpec => (Reason::InvalidSpec, Cure::Change),
                    RefusalReason::BadRows => (Reason::OperationFailed, Cure::Waiting),
                    RefusalReason::ConfigContested => (Reason::ConfigContested, Cure::Waiting),
                };
                Problem { area, reason, cure, field: refusal.field.clone(), message: refusal.message.clone() }
            })
            .collect(),
    }
}

/// What stands against a system that could not be asked.
pub(super) fn from_error(area: Area, error: &ExternalError) -> Problem {
    let (reason, cure) = match error.class {
        ErrorClass::Unreachable => (area.unreachable(), Cure::Waiting),
        ErrorClass::Denied => (Reason::AccessDenied, Cure::Waiting),
        // A reconcile that is no longer the leader's ends before its problems are told.
        ErrorClass::Failed | ErrorClass::NotLeader => (Reason::OperationFailed, Cure::Waiting),
        ErrorClass::Invalid => (Reason::InvalidSpec, Cure::Change),
    };
    Problem { area, reason, cure, field: error.field.clone(), message: error.message.clone() }
}
