//! What is common to the plans of the stores: a list of operations for each node, and what is true when they are done.

use tapeline_api::pipeline::status::{Origin, ResourceStatus};

use super::ownership::OwnerRow;
use super::{Loss, Node, NodeOutcome, NodeState, Recorded, Records, Refusal};

/// What must happen to one node of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlan<O> {
    /// The node.
    pub node: Node,
    /// What is to be done, in order. Something refused may still have operations that concern what is beside it.
    pub ops: Vec<O>,
    /// How the node is when that is done.
    pub state: NodeState,
    /// How the pipeline came by it, then; `None` if it did not.
    pub origin: Option<Origin>,
    /// What is to be stored before anything is done.
    pub record: Option<ResourceStatus>,
    /// What is lost.
    pub loss: Option<String>,
}

impl<O> NodePlan<O> {
    /// A node to which nothing is to be done.
    pub(super) const fn settled(node: Node, state: NodeState, origin: Option<Origin>) -> Self {
        Self { node, ops: Vec::new(), state, origin, record: None, loss: None }
    }

    /// Adds to the description of what was done.
    pub(super) fn changed(&mut self, what: String) {
        match &mut self.state {
            NodeState::AsDeclared => self.state = NodeState::Changed(what),
            NodeState::Changed(before) => *before = format!("{before}; {what}"),
            _ => {}
        }
    }

    /// Adds to the refusals, if there are any.
    pub(super) fn refuse(&mut self, refusals: Vec<Refusal>) {
        if refusals.is_empty() {
            return;
        }
        match &mut self.state {
            NodeState::Refused(before) => before.extend(refusals),
            state => *state = NodeState::Refused(refusals),
        }
    }

    /// Marks it as one that is about to be created on `server`, and as lost if it was there before.
    pub(super) fn creates(&mut self, recorded: Recorded<'_>, server: &str, loss: Option<String>) {
        let Node { kind, name, .. } = &self.node;
        if recorded.origin(*kind, name, server) != Some(Origin::Creating) {
            self.record = Some(ResourceStatus { kind: *kind, name: name.clone(), origin: Origin::Creating, server: Some(server.to_owned()) });
        }
        if let Some(loss) = loss {
            self.state = NodeState::Recreated(loss.clone());
            self.loss = Some(loss);
        }
        self.origin = Some(Origin::Created);
    }

    /// What became of it: `failed` where an operation was not done.
    pub(super) fn outcome(&self, server: &str, failed: Option<NodeState>) -> NodeOutcome {
        // Nothing new is recorded then. What was to be created stays recorded as under way, what existed stays what it was, and a database that was found, but
        // takes no table, is not the pipeline's yet: once it were, that Tapeline's own tables are missing would mean that somebody had dropped them.
        let origin = self.origin.filter(|_| failed.is_none());
        NodeOutcome { node: self.node.clone(), state: failed.unwrap_or_else(|| self.state.clone()), origin, server: server.to_owned(), note: None }
    }
}

/// What to store before the plan that consists of `nodes` is applied.
pub(super) fn records<O>(nodes: &[NodePlan<O>]) -> Records {
    Records {
        resources: nodes.iter().filter_map(|plan| plan.record.clone()).collect(),
        topics: Vec::new(),
        losses: nodes.iter().filter_map(|plan| Some(Loss { node: plan.node.clone(), message: plan.loss.clone()? })).collect(),
    }
}

/// How the pipeline came by something that exists. The row beside the data knows better than the object's status, which a restored cluster may lack.
pub(super) fn origin_of_existing(row: Option<&OwnerRow>, recorded: Option<Origin>) -> Origin {
    match (row.map(OwnerRow::origin), recorded) {
        // The creation went through, and the operator was killed before it could say so.
        (Some(Origin::Creating | Origin::Created), _) | (None, Some(Origin::Creating | Origin::Created)) => Origin::Created,
        (Some(Origin::Adopted | Origin::Released), _) | (None, Some(Origin::Adopted | Origin::Released) | None) => Origin::Adopted,
    }
}

/// Whether something that does not exist did exist, as this pipeline's.
pub(super) fn is_lost(row: Option<&OwnerRow>, recorded: Option<Origin>) -> bool {
    let existed = |origin| matches!(origin, Origin::Created | Origin::Adopted);
    row.is_some_and(|row| existed(row.origin())) || recorded.is_some_and(existed)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tapeline_api::pipeline::status::ResourceKind;

    use super::*;
    use crate::external::Owner;

    fn row(origin: Option<Origin>) -> Option<OwnerRow> {
        origin.map(|origin| OwnerRow::new("MySQLTable", "t", &Owner::new("c", "n", "p"), origin, String::new()))
    }

    #[rstest]
    #[case::found(None, None, Origin::Adopted)]
    #[case::cut_short_behind_the_record(None, Some(Origin::Creating), Origin::Created)]
    #[case::cut_short_behind_the_claim(Some(Origin::Creating), Some(Origin::Creating), Origin::Created)]
    #[case::the_row_was_deleted(None, Some(Origin::Created), Origin::Created)]
    #[case::the_status_was_lost(Some(Origin::Created), None, Origin::Created)]
    #[case::adopted(Some(Origin::Adopted), Some(Origin::Adopted), Origin::Adopted)]
    fn how_the_pipeline_came_by_it(#[case] stored: Option<Origin>, #[case] recorded: Option<Origin>, #[case] origin: Origin) {
        assert_eq!(origin_of_existing(row(stored).as_ref(), recorded), origin);
    }

    #[rstest]
    #[case::new(None, None, false)]
    #[case::under_way(Some(Origin::Creating), Some(Origin::Creating), false)]
    #[case::dropped(Some(Origin::Created), Some(Origin::Created), true)]
    #[case::dropped_and_the_status_lost(Some(Origin::Adopted), None, true)]
    #[case::dropped_with_its_database(None, Some(Origin::Created), true)]
    #[case::dropped_and_the_recreation_cut_short(Some(Origin::Created), Some(Origin::Creating), true)]
    #[case::given_back(None, Some(Origin::Released), false)]
    fn what_is_lost(#[case] stored: Option<Origin>, #[case] recorded: Option<Origin>, #[case] lost: bool) {
        assert_eq!(is_lost(row(stored).as_ref(), recorded), lost);
    }

    #[test]
    fn a_database_that_takes_no_table_is_not_the_pipelines_yet() {
        let node = Node { kind: ResourceKind::MySQLDatabase, name: "trading".into(), field: "spec.mysql.database".into() };
        let plan = NodePlan::<()>::settled(node, NodeState::AsDeclared, Some(Origin::Adopted));
        assert_eq!(plan.outcome("s", None).origin, Some(Origin::Adopted));
        let failed = NodeState::Missing("no right to create a table".into());
        assert_eq!(plan.outcome("s", Some(failed)).origin, None);
    }
}
