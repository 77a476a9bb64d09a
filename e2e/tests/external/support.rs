//! What the tests share: addresses, names, and the status that the operator would keep.

use std::ops::Deref;
use std::pin::Pin;
use std::{env, fmt, thread};

use tapeline_api::pipeline::status::{ResourceStatus, TopicStatus};
use tapeline_operator::external::{Applied, ErrorClass, ExternalError, NodeOutcome, NodeState, Owner, Recorded, Records, RefusalReason};
use uuid::Uuid;

pub(crate) fn address(variable: &str, default: &str) -> String {
    env::var(variable).unwrap_or_else(|_| default.to_owned())
}

/// A name that nothing else has, of a topic, keyspace, database or user. What it names is removed at the end, also of a test that fails: Cassandra gets slow
/// with the number of its tables.
pub(crate) struct Scratch {
    name: String,
    remove: fn(String) -> Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Scratch {
    pub(crate) fn new(what: &str, remove: fn(String) -> Pin<Box<dyn Future<Output = ()> + Send>>) -> Self {
        Self { name: format!("ext_{what}_{}", &Uuid::new_v4().simple().to_string()[..10]), remove }
    }
}

impl Deref for Scratch {
    type Target = str;

    fn deref(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.name, f)
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.name, f)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let removal = (self.remove)(self.name.clone());
        // In a thread of its own, as the test's runtime is busy with dropping this.
        let thread = thread::spawn(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(removal));
        if thread.join().is_err() {
            eprintln!("{} was not removed", self.name);
        }
    }
}

pub(crate) fn owner(name: &str) -> Owner {
    Owner::new("e2e", "external", name)
}

/// `status.topics` and `status.resources`, as the operator keeps them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    topics: Vec<TopicStatus>,
    resources: Vec<ResourceStatus>,
}

impl Memory {
    pub(crate) fn recorded(&self) -> Recorded<'_> {
        Recorded { topics: &self.topics, resources: &self.resources }
    }

    pub(crate) fn topic(&self, name: &str) -> &TopicStatus {
        self.topics.iter().find(|topic| topic.name.as_str() == name).unwrap()
    }

    /// Before a plan is applied.
    pub(crate) fn before(&mut self, records: &Records) {
        self.put(&records.topics, &records.resources);
    }

    /// Behind it.
    pub(crate) fn after(&mut self, applied: &Applied) {
        self.put(&applied.topics, &applied.resources());
    }

    fn put(&mut self, topics: &[TopicStatus], resources: &[ResourceStatus]) {
        for topic in topics {
            self.topics.retain(|before| before.name != topic.name);
            self.topics.push(topic.clone());
        }
        for resource in resources {
            self.resources.retain(|before| (before.kind, &before.name) != (resource.kind, &resource.name));
            self.resources.push(resource.clone());
        }
    }
}

pub(crate) fn node<'a>(applied: &'a Applied, name: &str) -> &'a NodeOutcome {
    applied.nodes.iter().find(|outcome| outcome.node.name == name).unwrap_or_else(|| panic!("no node {name} in {applied:#?}"))
}

pub(crate) fn assert_all_as_declared(applied: &Applied) {
    for outcome in &applied.nodes {
        assert!(outcome.state.is_as_declared(), "{outcome:#?}");
    }
}

/// The one refusal of a node, as reason, field and message.
pub(crate) fn refusal(outcome: &NodeOutcome) -> (RefusalReason, &str, &str) {
    let NodeState::Refused(refusals) = &outcome.state else { panic!("not refused: {outcome:#?}") };
    assert_eq!(refusals.len(), 1, "{refusals:#?}");
    (refusals[0].reason, &refusals[0].field, &refusals[0].message)
}

pub(crate) fn assert_error(error: &ExternalError, class: ErrorClass, parts: &[&str]) {
    assert_eq!(error.class, class, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{part:?} is not in {error}");
    }
}
