//! What a query waits for before it has a Deployment.

use rstest::rstest;
use tapeline_api::progress::PROGRESS_TOPIC;

use super::*;
use crate::external::{self, Applied, Node, NodeOutcome, Refusal};
use crate::reconcile::validate::tests::{good, pipeline};
use crate::reconcile::validate::validate;

fn found(folder: &'static str) -> Found {
    let reference = serde_json::from_value(serde_json::json!({"name": folder})).unwrap();
    let mounted = MountedSecret::user(folder, &reference, "uid.7".into());
    let credentials = external::Credentials { user: "u".into(), password: "p".into(), field: "spec", secret: folder.into() };
    Found { credentials, mounted }
}

fn inputs() -> Inputs {
    let found = |folder| Some(Ok(found(folder)));
    Inputs { mysql: found("mysql"), cassandra: found("cassandra"), mongodb: found("mongodb"), ..Inputs::default() }
}

fn system(kind: ResourceKind, names: &[&str]) -> System {
    let outcome = |name: &&str| {
        let node = Node { kind, name: (*name).to_owned(), field: "spec".into() };
        NodeOutcome { node, state: NodeState::AsDeclared, origin: None, server: "s".into() }
    };
    System { applied: Applied { nodes: names.iter().map(outcome).collect(), topics: Vec::new() }, ..System::default() }
}

/// Everything that the good pipeline names is there.
fn systems() -> Vec<(Area, System)> {
    vec![
        (Area::Topics, system(ResourceKind::Topic, &["trading_data", "trading_data.dead-letter", "by_sector", PROGRESS_TOPIC])),
        (Area::Cassandra, system(ResourceKind::CassandraTable, &["trading.real_time_data"])),
        (Area::MySql, system(ResourceKind::MySQLTable, &["trading.profile", "trading.aggregated_data"])),
        (Area::MongoDb, system(ResourceKind::MongoDBCollection, &["trading.ticks"])),
    ]
}

fn of(systems: &mut [(Area, System)], wanted: Area) -> &mut System {
    systems.iter_mut().find(|(area, _)| *area == wanted).map(|(_, system)| system).unwrap()
}

/// The plan of the query of this name.
fn planned(query: &str, inputs: &Inputs, systems: Vec<(Area, System)>, object: serde_json::Value) -> ItemPlan {
    let target = Target::of(&pipeline(object)).unwrap();
    let options = Options {
        worker_image: "worker".into(),
        producer_image: "producer".into(),
        image_pull_policy: None,
        namespaces: Vec::new(),
        listen: "0.0.0.0:8080".parse().unwrap(),
        leader_election_namespace: String::new(),
        identity: None,
    };
    let validated = validate(&target.pipeline.spec);
    let plans = plan(&target, &options, "c", &validated, inputs, &systems.into_iter().collect(), &TradingPipelineStatus::default());
    plans.into_iter().find(|plan| plan.kind == Kind::Query && plan.name.as_str() == query).unwrap()
}

/// The folders of the Secrets that its pods mount, or what is awaited.
fn step(plan: &ItemPlan) -> Result<Vec<&'static str>, &str> {
    match &plan.step {
        Step::Run(workload) => Ok(workload.credentials.iter().map(|credentials| credentials.folder).collect()),
        Step::Leave(awaited) => Err(awaited),
        Step::Stop => Err("stopped"),
        Step::Pause => Err("paused"),
    }
}

#[rstest]
#[case("raw", &["cassandra"])]
#[case("volume", &["mysql"])]
#[case("documents", &["mongodb"])]
#[case("sectors", &[])]
fn a_query_runs_with_the_secret_of_its_sink(#[case] query: &str, #[case] folders: &[&'static str]) {
    assert_eq!(step(&planned(query, &inputs(), systems(), good())), Ok(folders.to_vec()));
}

#[test]
fn a_query_without_its_secret_waits() {
    let missing = Problem::waiting(Area::MongoDb, Reason::SecretMissing, "spec.mongodb.credentialsSecretRef", "no Secret \"mongodb\"");
    let inputs = Inputs { mongodb: Some(Err(missing)), ..inputs() };
    assert_eq!(step(&planned("documents", &inputs, systems(), good())), Err("spec.mongodb.credentialsSecretRef: no Secret \"mongodb\""));
    let none = Inputs { mongodb: None, ..inputs };
    assert_eq!(step(&planned("documents", &none, systems(), good())), Ok(vec![]), "servers that ask for none");
}

#[rstest]
#[case::its_topic("by_sector")]
#[case::the_progress("tapeline-progress")]
fn a_query_into_a_topic_waits_for(#[case] topic: &str) {
    let mut systems = systems();
    let outcome = of(&mut systems, Area::Topics).applied.nodes.iter_mut().find(|outcome| outcome.node.name == topic).unwrap();
    outcome.state = NodeState::Missing(format!("topic {topic:?} does not exist"));
    let plan = planned("sectors", &inputs(), systems, good());
    assert_eq!(step(&plan), Err(format!("topic {topic:?} does not exist").as_str()));
}

#[rstest]
#[case::an_index_that_differs(RefusalReason::WouldLoseData, true)]
#[case::a_unique_index(RefusalReason::Incompatible, false)]
#[case::another_owner(RefusalReason::ResourceConflict, false)]
fn a_refused_collection_is_used_where_it_takes_documents(#[case] reason: RefusalReason, #[case] runs: bool) {
    let mut systems = systems();
    of(&mut systems, Area::MongoDb).applied.nodes[0].state = NodeState::Refused(vec![Refusal::new(reason, "spec", "no")]);
    assert_eq!(step(&planned("documents", &inputs(), systems, good())).is_ok(), runs);
}

#[rstest]
#[case::there(LookedUp::Collection, None)]
#[case::missing(
    LookedUp::Missing,
    Some(
        "spec.queries[2].sink.mongodb.collection: there is no collection \"trading.tick\", and the pipeline declares none; did you mean \"ticks\"?; declare it under \
          spec.mongodb.collections, or create it"
    )
)]
#[case::a_view(LookedUp::Unfit("is a view".into()),
    Some("spec.queries[2].sink.mongodb.collection: collection \"trading.tick\" is a view; put that right, or name another one"))]
fn a_collection_that_nobody_declares_is_looked_up(#[case] found: LookedUp, #[case] problem: Option<&str>) {
    let mut object = good();
    object["spec"]["queries"][2]["sink"]["mongodb"]["collection"] = "tick".into();
    let mut systems = systems();
    of(&mut systems, Area::MongoDb).looked_up.insert("tick".parse().unwrap(), found);
    let plan = planned("documents", &inputs(), systems, object);
    assert_eq!(plan.problems.iter().map(ToString::to_string).collect::<Vec<_>>(), problem.map(str::to_owned).into_iter().collect::<Vec<_>>());
    assert_eq!(step(&plan).err(), problem);
}

/// The plan of the second producer, whose topic is not there, with a schedule and what `change` makes of the object.
fn planned_producer(change: impl FnOnce(&mut serde_json::Value)) -> ItemPlan {
    let mut object = good();
    object["spec"]["producers"][1]["schedule"] = serde_json::json!({"cron": "@daily"});
    change(&mut object);
    let target = Target::of(&pipeline(object)).unwrap();
    let options = Options {
        worker_image: "worker".into(),
        producer_image: "producer".into(),
        image_pull_policy: None,
        namespaces: Vec::new(),
        listen: "127.0.0.1:1".parse().unwrap(),
        leader_election_namespace: "default".into(),
        identity: None,
    };
    let validated = validate(&target.pipeline.spec);
    let plans = plan(&target, &options, "", &validated, &Inputs::default(), &Systems::default(), &TradingPipelineStatus::default());
    plans.into_iter().filter(|plan| plan.kind == Kind::Producer).nth(1).unwrap()
}

#[test]
fn a_name_that_is_too_long_for_a_cron_job_is_the_specifications_fault() {
    let long = |length: usize| {
        move |object: &mut serde_json::Value| {
            object["metadata"]["name"] = "p".repeat(12).into();
            object["spec"]["producers"][1]["name"] = "n".repeat(length).into();
        }
    };
    assert_eq!(planned_producer(long(30)).invalid, None);
    let item = planned_producer(long(32));
    assert_eq!(
        item.problems.iter().map(|problem| (problem.reason, problem.field.as_str())).collect::<Vec<_>>(),
        [(Reason::InvalidSpec, "spec.producers[1].name")]
    );
    assert!(item.problems[0].message.ends_with("a name that is 2 shorter"), "{}", item.problems[0].message);
    assert!(matches!(item.step, Step::Leave(_)) && item.invalid.is_some());
    let without = planned_producer(|object| {
        long(32)(object);
        object["spec"]["producers"][1].as_object_mut().unwrap().remove("schedule");
    });
    assert_eq!(without.invalid, None, "a Deployment has more room");
}

#[test]
fn what_cannot_be_built_waits_and_starts_nothing_when_it_is_suspended() {
    assert!(matches!(planned_producer(|_| {}).step, Step::Leave(_)));
    let suspended = planned_producer(|object| object["spec"]["suspend"] = true.into());
    assert!(matches!(suspended.step, Step::Pause) && suspended.problems.is_empty(), "its runs would go with a CronJob that is deleted");
    let invalid = planned_producer(|object| {
        object["spec"]["suspend"] = true.into();
        object["spec"]["producers"][1]["schedule"]["cron"] = "daily".into();
    });
    assert!(matches!(invalid.step, Step::Pause));
    let without = planned_producer(|object| {
        object["spec"]["suspend"] = true.into();
        object["spec"]["producers"][1].as_object_mut().unwrap().remove("schedule");
    });
    assert!(matches!(without.step, Step::Stop));
}
