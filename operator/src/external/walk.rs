//! The walk over a plan: what is done, in which order, and what becomes of the rest when something fails.

use std::collections::BTreeMap;

use super::breaker::Fault;
use super::steps::{NodePlan, Plan};
use super::{Applied, ErrorClass, ExternalError, Guard, NodeState, Refusal};

/// A system that plans are carried out on.
pub(super) trait System: Sync {
    /// An operation on a node.
    type Op: Sync;
    /// What the operations of one node share: a connection, and what they found out.
    type Session: Send;

    /// Comes before the first operation of `node`.
    fn begin(&self, node: &NodePlan<Self::Op>) -> impl Future<Output = Result<Self::Session, Failure>> + Send;

    /// Does `op`, or finds it done. Nobody uses a session behind a failure.
    fn run(&self, session: Self::Session, node: &NodePlan<Self::Op>, op: &Self::Op) -> impl Future<Output = Result<Self::Session, Failure>> + Send;

    /// Tells `fault` in the words of the pipeline, and gives up a connection that failed.
    fn failed(&self, fault: &Fault) -> impl Future<Output = ExternalError> + Send;
}

/// Why an operation was not done.
pub(super) enum Failure {
    /// It may work later.
    Fault(Fault),
    /// For a reason of the node's own: the specification is wrong, or something is missing.
    Node(NodeState),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<ExternalError> for Failure {
    fn from(error: ExternalError) -> Self {
        Self::Node(NodeState::Waiting(error))
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Node(NodeState::Refused(vec![refusal]))
    }
}

/// Carries out `plan`. Each node succeeds or fails by itself, but what is in a database fails for the reason of the database, which is the first node. One that
/// misses something is tried again behind the others, as long as something is done that came behind it: views may read each other.
pub(super) async fn walk<S: System>(system: &S, plan: &Plan<S::Op>, guard: &Guard) -> Applied {
    let mut failed: BTreeMap<usize, NodeState> = BTreeMap::new();
    let mut pending: Vec<_> = plan.nodes.iter().enumerate().filter(|(_, node)| !node.ops.is_empty()).collect();
    while !pending.is_empty() {
        let (mut again, mut helped) = (Vec::new(), false);
        for (index, node) in pending {
            let result = match failed.get(&0) {
                Some(reason) => {
                    tracing::debug!(node = node.node.name, "not done, since its database was not");
                    Err(reason.clone())
                }
                None => carry_out(system, node, guard).await.map(|_| ()),
            };
            match &result {
                Err(NodeState::Missing(_)) => again.push((index, node)),
                _ => helped |= !again.is_empty(),
            }
            match result {
                Ok(()) => failed.remove(&index),
                Err(state) => failed.insert(index, state),
            };
        }
        pending = if helped { again } else { Vec::new() };
    }
    let nodes = plan.nodes.iter().enumerate().map(|(index, node)| node.outcome(&plan.server, failed.remove(&index)));
    Applied { nodes: nodes.collect(), topics: Vec::new() }
}

/// Does the operations of one node, each only while this process leads.
pub(super) async fn carry_out<S: System>(system: &S, node: &NodePlan<S::Op>, guard: &Guard) -> Result<S::Session, NodeState> {
    match operate(system, node, guard).await {
        Ok(session) => Ok(session),
        Err(Failure::Node(state)) => Err(state),
        Err(Failure::Fault(fault)) => {
            let mut error = system.failed(&fault).await;
            // The server as a whole is well.
            if fault.class == ErrorClass::Failed {
                error.field.clone_from(&node.node.field);
            }
            Err(NodeState::Waiting(error))
        }
    }
}

async fn operate<S: System>(system: &S, node: &NodePlan<S::Op>, guard: &Guard) -> Result<S::Session, Failure> {
    let mut session = system.begin(node).await?;
    for op in &node.ops {
        guard.check()?;
        session = system.run(session, node, op).await?;
    }
    Ok(session)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rstest::rstest;
    use tapeline_api::pipeline::status::{Origin, ResourceKind};

    use super::*;
    use crate::external::{Node, NodeOutcome, Owner, RefusalReason};

    /// Operations are names; each call to one is kept. Those that start with `-` fail for their own reason, those with `!` for the server's, and those with `?`
    /// until what is named behind it was done.
    #[derive(Default)]
    struct Fake(Mutex<Vec<&'static str>>);

    impl System for Fake {
        type Op = &'static str;
        type Session = ();

        async fn begin(&self, _: &NodePlan<&'static str>) -> Result<(), Failure> {
            Ok(())
        }

        async fn run(&self, (): (), node: &NodePlan<&'static str>, op: &&'static str) -> Result<(), Failure> {
            let mut calls = self.0.lock().unwrap();
            let missing = op.strip_prefix('?').is_some_and(|needed| !calls.contains(&needed));
            calls.push(*op);
            match op.chars().next() {
                Some('-') => Err(Refusal::new(RefusalReason::InvalidSpec, &node.node.field, "refused").into()),
                Some('!') => Err(Fault::failed("read-only").into()),
                Some('?') if missing => Err(Failure::Node(NodeState::Missing("reads what is not there".into()))),
                _ => Ok(()),
            }
        }

        async fn failed(&self, fault: &Fault) -> ExternalError {
            ExternalError { class: fault.class, field: "spec.mysql.host".into(), message: fault.detail.clone() }
        }
    }

    /// Nodes are separated by `;`, operations by blanks.
    fn plan(nodes: &'static str) -> Plan<&'static str> {
        let node = |(index, ops): (usize, &'static str)| {
            let node = Node { kind: ResourceKind::MySQLTable, name: index.to_string(), field: format!("spec.{index}") };
            NodePlan { ops: ops.split_whitespace().collect(), ..NodePlan::settled(node, NodeState::AsDeclared, Some(Origin::Created)) }
        };
        let nodes = nodes.split(';').enumerate().map(node).collect();
        Plan { server: "s".into(), schema: "trading".parse().unwrap(), owner: Owner::new("c", "n", "p"), nodes }
    }

    /// What was called, and the problems.
    async fn walked(nodes: &'static str, guard: &Guard) -> (String, String) {
        let fake = Fake::default();
        let applied = walk(&fake, &plan(nodes), guard).await;
        let problem = |outcome: &NodeOutcome| match &outcome.state {
            NodeState::Waiting(error) => Some(error.to_string()),
            NodeState::Missing(message) => Some(format!("{}: {message}", outcome.node.field)),
            NodeState::Refused(refusals) => Some(format!("{}: {}", refusals[0].field, refusals[0].message)),
            _ => None,
        };
        let problems: Vec<String> = applied.nodes.iter().filter_map(problem).collect();
        (fake.0.into_inner().unwrap().join(" "), problems.join(", "))
    }

    #[rstest]
    #[case::each_by_itself("a; -b c; d", "a -b d", "spec.1: refused")]
    #[case::under_its_own_field("a; !b", "a !b", "spec.1: read-only")]
    #[case::without_its_database("-a; b; ", "-a", "spec.0: refused, spec.0: refused")]
    #[case::behind_what_it_reads("; ?c; c", "?c c ?c", "")]
    #[case::once_where_nothing_was_done_behind_it("a; ?b", "a ?b", "spec.1: reads what is not there")]
    #[tokio::test]
    async fn nodes_are_done(#[case] nodes: &'static str, #[case] calls: &str, #[case] problems: &str) {
        assert_eq!(walked(nodes, &Guard::always()).await, (calls.to_owned(), problems.to_owned()));
    }

    #[tokio::test]
    async fn an_operation_is_begun_only_while_this_process_leads() {
        let asked = AtomicUsize::new(0);
        let guard = Guard::new(move || asked.fetch_add(1, Ordering::Relaxed) < 2);
        let (called, told) = walked("a b c", &guard).await;
        assert_eq!(called, "a b");
        assert!(told.contains("no longer the leader"), "{told}");
    }
}
