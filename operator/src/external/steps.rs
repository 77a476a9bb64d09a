//! What is common to the plans of the stores: a list of operations for each node, what is true when they are done, and the books of who owns what.

use tapeline_api::names::SqlName;
use tapeline_api::pipeline::status::{Origin, ResourceKind, ResourceStatus};

use super::ownership::{self, OwnerRow, Standing, kind_name};
use super::{Loss, Node, NodeOutcome, NodeState, Owner, Recorded, Records, Refusal};

/// What must happen to a database or keyspace and to what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan<O> {
    /// The id of the server.
    pub server: String,
    /// The database or keyspace.
    pub schema: SqlName,
    /// This pipeline.
    pub owner: Owner,
    /// The database or keyspace, then what is in it, in the order of the specification.
    pub nodes: Vec<NodePlan<O>>,
}

impl<O> Plan<O> {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.iter().all(|node| node.ops.is_empty())
    }

    /// What to store before it is applied.
    #[must_use]
    pub fn records(&self) -> Records {
        records(&self.nodes)
    }
}

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

    /// Marks it as one that is about to be created, and as lost if it was there before.
    pub(super) fn creates(&mut self, books: &Books<'_>, loss: Option<String>) {
        if books.origin(&self.node) != Some(Origin::Creating) {
            self.record = Some(creating(&self.node, books.server));
        }
        if let Some(loss) = loss {
            self.loses(loss);
        }
        self.origin = Some(Origin::Created);
    }

    /// Marks a database or keyspace, in the system's `word`, as one that is about to be created.
    pub(super) fn creates_root(&mut self, books: &Books<'_>, word: &str) {
        let name = &self.node.name;
        let lost = is_lost(None, books.origin(&self.node)).then(|| {
            format!(
                "{word} {name} had been dropped and was created again, empty, with the progress of all queries in it: rows are missing \
                until they are replayed"
            )
        });
        self.state = NodeState::Changed(format!("created {word} {name}"));
        self.creates(books, lost);
    }

    /// What is lost is created again, empty.
    pub(super) fn loses(&mut self, loss: String) {
        self.state = NodeState::Recreated(loss.clone());
        self.loss = Some(loss);
    }

    /// What became of it: `failed` where an operation was not done.
    pub(super) fn outcome(&self, server: &str, failed: Option<NodeState>) -> NodeOutcome {
        // Nothing new is recorded then. What was to be created stays recorded as under way, what existed stays what it was, and a database that was found, but
        // takes no table, is not the pipeline's yet: once it were, that Tapeline's own tables are missing would mean that somebody had dropped them.
        let origin = self.origin.filter(|_| failed.is_none());
        NodeOutcome { node: self.node.clone(), state: failed.unwrap_or_else(|| self.state.clone()), origin, server: server.to_owned() }
    }
}

/// What is stored of a node that is about to be created on `server`.
pub(super) fn creating(node: &Node, server: &str) -> ResourceStatus {
    ResourceStatus { kind: node.kind, name: node.name.clone(), origin: Origin::Creating, server: Some(server.to_owned()) }
}

/// What to store before the plan that consists of `nodes` is applied.
pub(super) fn records<'a, O: 'a>(nodes: impl IntoIterator<Item = &'a NodePlan<O>>) -> Records {
    let mut records = Records::default();
    for plan in nodes {
        records.resources.extend(plan.record.clone());
        records.losses.extend(plan.loss.iter().map(|message| Loss { node: plan.node.clone(), message: message.clone() }));
    }
    records
}

/// Operations on the table of owners, which each store has.
pub(super) trait OwnerOp {
    /// Stores who owns something, if nobody else does.
    const CLAIM: fn(OwnerRow) -> Self;
    /// Stores what is true of it now.
    const STORE: fn(OwnerRow) -> Self;
}

/// What is written of who owns what on a server: in the object's status, and in the table of owners beside the data.
#[derive(Clone, Copy)]
pub(super) struct Books<'a> {
    pub(super) recorded: Recorded<'a>,
    pub(super) owners: Option<&'a [OwnerRow]>,
    pub(super) owner: &'a Owner,
    pub(super) server: &'a str,
}

impl<'a> Books<'a> {
    /// How the pipeline came by `node`, by the object's status.
    pub(super) fn origin(&self, node: &Node) -> Option<Origin> {
        self.recorded.origin(node.kind, &node.name, self.server)
    }

    /// Whose `name` is, by the table of owners.
    pub(super) fn standing(&self, kind: &str, name: &SqlName) -> Standing<'a> {
        ownership::standing(self.owners, kind, name.as_str(), self.owner)
    }

    /// A row of this pipeline's.
    pub(super) fn row(&self, kind: ResourceKind, name: &SqlName, origin: Origin, spec_hash: String) -> OwnerRow {
        OwnerRow::new(kind_name(kind), name.as_str(), self.owner, origin, spec_hash)
    }

    /// What is written of the table or view `name`. If it is another pipeline's there is no entry, and `plan` is refused. `schema` is quoted.
    pub(super) fn entry<O>(&self, plan: &mut NodePlan<O>, name: &SqlName, schema: &str, spec_hash: String) -> Option<Entry<'a>> {
        let kind = plan.node.kind;
        match self.standing(kind_name(kind), name) {
            Standing::Theirs(row) => {
                plan.refuse(vec![ownership::conflict(&plan.node, self.owner, row, schema)]);
                None
            }
            Standing::Free(row) => Some(Entry { books: *self, row, recorded: self.origin(&plan.node), done: self.row(kind, name, Origin::Created, spec_hash) }),
        }
    }
}

/// What the books say of a table, view or collection that is this pipeline's, or nobody's yet.
pub(super) struct Entry<'a> {
    books: Books<'a>,
    pub(super) row: Option<&'a OwnerRow>,
    pub(super) recorded: Option<Origin>,
    /// The row of one that was created and is as declared.
    done: OwnerRow,
}

impl Entry<'_> {
    /// How the pipeline came by it, as it exists.
    pub(super) fn origin(&self) -> Origin {
        origin_of_existing(self.row, self.recorded)
    }

    /// Its row when it is as declared.
    pub(super) fn target(&self, origin: Origin) -> OwnerRow {
        OwnerRow { origin: origin.to_string(), ..self.done.clone() }
    }

    /// A table that is not there: it is claimed, created by `create`, and stored as created.
    pub(super) fn create<O: OwnerOp>(&self, plan: &mut NodePlan<O>, create: impl IntoIterator<Item = O>) {
        let (noun, name) = (noun(plan.node.kind), &plan.node.name);
        let lost = is_lost(self.row, self.recorded).then(|| {
            format!(
                "{noun} {name} had been dropped and was created again, empty: rows below the stored progress of the queries that write to it are missing \
            until they are replayed"
            )
        });
        plan.state = NodeState::Changed(format!("created {noun} {name}"));
        plan.creates(&self.books, lost);
        if self.row.is_none() {
            plan.ops.push(O::CLAIM(self.target(Origin::Creating)));
        }
        plan.ops.extend(create);
        if self.row != Some(&self.done) {
            plan.ops.push(O::STORE(self.done.clone()));
        }
    }

    /// A table that is there, behind what is to be done to it: it is taken over if it is nobody's. Nothing is done, and `false` returned, if it is refused.
    pub(super) fn keep<O: OwnerOp>(&self, plan: &mut NodePlan<O>) -> bool {
        let origin = self.origin();
        if matches!(plan.state, NodeState::Refused(_)) {
            plan.ops.clear();
            // What was refused before it was ours is not ours.
            plan.origin = self.row.map(|_| origin).or(self.recorded);
            return false;
        }
        plan.origin = Some(origin);
        match self.row {
            None => {
                // First of all: another pipeline may be about to take it over as well.
                plan.ops.insert(0, O::CLAIM(self.target(origin)));
                plan.changed(format!("took over {} {}, which was there", noun(plan.node.kind), plan.node.name));
            }
            Some(row) if *row != self.target(origin) => plan.ops.push(O::STORE(self.target(origin))),
            Some(_) => {}
        }
        true
    }
}

/// What users call it.
const fn noun(kind: ResourceKind) -> &'static str {
    match kind {
        ResourceKind::MongoDBCollection => "collection",
        _ => "table",
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

    use super::*;

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
