//! What a query, a producer and the dashboard wait for before they have a Deployment.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::rbac::v1::RoleRef;
use rstest::rstest;
use serde_json::json;
use tapeline_api::progress::PROGRESS_TOPIC;
use tapeline_api::settings::{DashboardAuth, DashboardSettings};

use super::*;
use crate::external::{self, Applied, Node, NodeOutcome, NodeState, Refusal, RefusalReason};
use crate::reconcile::dereference::{Companions, Found};
use crate::reconcile::systems::System;
use crate::reconcile::validate::tests::{good, pipeline};
use crate::reconcile::validate::validate;

fn found(folder: &'static str) -> Found {
    let reference = serde_json::from_value(serde_json::json!({"name": folder})).unwrap();
    let mounted = MountedSecret::user(folder, &reference, "uid.7".into());
    let credentials = external::Credentials { user: "u".into(), password: "p".into(), field: "spec", secret: folder.into() };
    Found { credentials, mounted }
}

fn inputs() -> Inputs {
    let password = Some(Ok(found("dashboard").mounted));
    let found = |folder| Some(Ok(found(folder)));
    Inputs { mysql: found("mysql"), cassandra: found("cassandra"), mongodb: found("mongodb"), password, ..Inputs::default() }
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

fn plans(inputs: &Inputs, systems: Vec<(Area, System)>, object: serde_json::Value) -> Vec<ItemPlan> {
    let target = Target::of(&pipeline(object)).unwrap();
    let options = Options {
        worker_image: "worker".into(),
        producer_image: "producer".into(),
        dashboard_image: "dashboard".into(),
        dashboard_role: RoleRef::default(),
        image_pull_policy: None,
        namespaces: Vec::new(),
        listen: "0.0.0.0:8080".parse().unwrap(),
        leader_election_namespace: String::new(),
        identity: None,
    };
    let validated = validate(&target.pipeline.spec);
    plan(&target, &options, "c", &validated, inputs, &systems.into_iter().collect(), &TradingPipelineStatus::default())
}

/// The plan of the query of this name.
fn planned(query: &str, inputs: &Inputs, systems: Vec<(Area, System)>, object: serde_json::Value) -> ItemPlan {
    plans(inputs, systems, object).into_iter().find(|plan| plan.kind == Kind::Query && plan.name.as_str() == query).unwrap()
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
    plans(&Inputs::default(), Vec::new(), object).into_iter().filter(|plan| plan.kind == Kind::Producer).nth(1).unwrap()
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

/// The plan of the dashboard, where nothing outside Kubernetes is there.
fn planned_dashboard(inputs: &Inputs, change: impl FnOnce(&mut serde_json::Value)) -> Option<ItemPlan> {
    let mut object = good();
    change(&mut object);
    plans(inputs, Vec::new(), object).into_iter().find(|plan| plan.kind == Kind::Dashboard)
}

fn problems(plan: &ItemPlan) -> Vec<(Reason, &str)> {
    plan.problems.iter().map(|problem| (problem.reason, problem.field.as_str())).collect()
}

#[test]
fn a_dashboard_waits_for_nothing() {
    let plan = planned_dashboard(&inputs(), |_| {}).unwrap();
    assert_eq!(step(&plan), Ok(vec!["cassandra", "mysql", "mongodb", "dashboard"]));
    assert_eq!((problems(&plan), plan.field.as_str()), (vec![], "spec.dashboard"));
    let plan = planned_dashboard(&Inputs::default(), |object| {
        object["spec"]["dashboard"] = json!({});
        for store in ["cassandra", "mysql", "mongodb"] {
            object["spec"].as_object_mut().unwrap().remove(store);
        }
    });
    assert_eq!(step(&plan.unwrap()), Ok(vec![]), "a pipeline of topics alone has one, too");
    assert!(planned_dashboard(&inputs(), |object| drop(object["spec"].as_object_mut().unwrap().remove("dashboard"))).is_none());
}

#[test]
fn a_dashboard_names_all_secrets_that_are_missing_and_runs_without_them() {
    let missing = |field| Problem::waiting(Area::Dashboard, Reason::SecretMissing, field, "no Secret");
    let mut inputs = inputs();
    inputs.mysql = Some(Err(missing("spec.mysql.credentialsSecretRef")));
    inputs.password = Some(Err(missing("spec.dashboard.auth.passwordSecretRef")));
    let plan = planned_dashboard(&inputs, |object| object["spec"]["dashboard"]["auth"] = json!({"passwordSecretRef": {"name": "people"}})).unwrap();
    assert_eq!(step(&plan), Ok(vec!["cassandra", "mongodb"]));
    let named = [(Reason::SecretMissing, "spec.mysql.credentialsSecretRef"), (Reason::SecretMissing, "spec.dashboard.auth.passwordSecretRef")];
    assert_eq!(problems(&plan), named);
    // One that ran without a password does not go on so: it is told to ask for one, and has none that would let somebody in.
    let Step::Run(workload) = plan.step else { panic!("{:?}", plan.step) };
    let settings: DashboardSettings = serde_json::from_str(&workload.settings).unwrap();
    assert_eq!(settings.auth, DashboardAuth::Password, "{:?}", settings.auth);
}

#[test]
fn a_suspended_pipeline_keeps_its_dashboard_and_a_suspended_dashboard_stops() {
    let pipeline = planned_dashboard(&inputs(), |object| object["spec"]["suspend"] = true.into()).unwrap();
    assert!(step(&pipeline).is_ok());
    let dashboard = planned_dashboard(&inputs(), |object| object["spec"]["dashboard"]["suspend"] = true.into()).unwrap();
    assert_eq!(step(&dashboard), Err("stopped"));
}

#[test]
fn a_chart_that_is_wrong_does_not_stop_the_dashboard() {
    let plan = planned_dashboard(&inputs(), |object| object["spec"]["dashboard"]["charts"][0]["view"] = "volume_todya".into()).unwrap();
    assert_eq!((problems(&plan), plan.invalid.as_ref()), (vec![(Reason::InvalidSpec, "spec.dashboard.charts[0].view")], None));
    assert!(step(&plan).is_ok());
}

#[test]
fn what_stands_under_its_name_and_is_not_ours_is_left_alone() {
    let companions = Companions { service: Live::Foreign, binding: Live::Foreign, ..Companions::default() };
    let plan = planned_dashboard(&Inputs { companions, ..inputs() }, |_| {}).unwrap();
    let message = "a Service \"stock-volume-dashboard\" exists that does not belong to this pipeline; it is left alone: rename the pipeline, or delete it";
    assert_eq!((problems(&plan), step(&plan)), (vec![(Reason::NameTaken, "spec.dashboard"); 2], Err(message)));

    let mut taken = inputs();
    taken.deployments.insert((Kind::Dashboard, "dashboard".parse().unwrap()), Live::Foreign);
    let plan = planned_dashboard(&taken, |_| {}).unwrap();
    assert_eq!(problems(&plan), [(Reason::NameTaken, "spec.dashboard")]);
    assert!(step(&plan).unwrap_err().starts_with("a Deployment \"stock-volume-dashboard\" exists"));

    let unread = Problem::waiting(Area::Dashboard, Reason::KubernetesRefused, "spec.dashboard", "no");
    let companions = Companions { service: Live::Ours(Arc::new(Service::default())), account: Live::Unread(unread), ..Companions::default() };
    let plan = planned_dashboard(&Inputs { companions, ..inputs() }, |_| {}).unwrap();
    assert_eq!((problems(&plan), step(&plan)), (vec![(Reason::KubernetesRefused, "spec.dashboard")], Err("spec.dashboard: no")));
}

#[test]
fn a_dashboard_is_told_how_to_reach_everything_and_nothing_that_would_stop_it() {
    let plan = planned_dashboard(&inputs(), |object| object["spec"]["kafka"]["clientProperties"] = json!({"group.id": "mine", "client.rack": "a"})).unwrap();
    let Step::Run(workload) = plan.step else { panic!("{:?}", plan.step) };
    let settings: DashboardSettings = serde_json::from_str(&workload.settings).unwrap();
    assert!(settings.cassandra.is_some() && settings.mysql.is_some() && settings.mongodb.is_some());
    assert_eq!(settings.kafka.client_properties.into_iter().collect::<Vec<_>>(), [("client.rack".to_owned(), "a".to_owned())]);
}
