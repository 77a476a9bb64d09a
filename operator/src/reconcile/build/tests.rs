//! Whole built objects as snapshots, and the decisions between one version of a Deployment and the next.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use k8s_openapi::api::rbac::v1::RoleRef;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rstest::rstest;
use tapeline_api::TradingPipeline;

use super::cron_job::{self, cron_job};
use super::deployment::{OLD_SETTINGS, annotation, deployment, is_applied, is_rolled_out, old_settings};
use super::settings::{self, Identity};
use super::*;
use crate::reconcile::validate::tests::{good, pipeline};

const IDENTITY: Identity<'static> = Identity { namespace: "demo", pipeline: "stock-volume", cluster_id: "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9" };

fn fixture() -> TradingPipeline {
    pipeline(good())
}

fn credentials(folder: &'static str) -> MountedSecret {
    let reference = serde_json::from_value(serde_json::json!({"name": folder})).unwrap();
    MountedSecret::user(folder, &reference, format!("{folder}-uid.7"))
}

fn query(pipeline: &TradingPipeline, index: usize, folder: &'static str) -> Workload {
    let query = &pipeline.spec.queries[index];
    let settings = settings::worker(IDENTITY, &pipeline.spec, query, &pipeline.spec.streams[0], &[], 1).unwrap();
    Workload {
        kind: Kind::Query,
        name: query.name.clone(),
        settings: serde_json::to_string_pretty(&settings).unwrap(),
        image: "tapeline/worker:1".into(),
        image_pull_policy: None,
        credentials: vec![credentials(folder)],
        data: None,
        resources: resources(None, None),
        replicas: 2,
        exclusive: query.sql.clone(),
        schedule: None,
    }
}

fn producer(pipeline: &TradingPipeline) -> Workload {
    let producer = &pipeline.spec.producers[1];
    Workload {
        kind: Kind::Producer,
        name: producer.name.clone(),
        settings: serde_json::to_string_pretty(&settings::producer(IDENTITY, &pipeline.spec, producer)).unwrap(),
        image: "tapeline/producer:1".into(),
        image_pull_policy: Some("Never".into()),
        credentials: Vec::new(),
        data: Some(("bars".parse().unwrap(), "bars.csv.gz".parse().unwrap(), "bars-uid.3".into())),
        resources: resources(None, None),
        replicas: 1,
        exclusive: String::new(),
        schedule: None,
    }
}

fn dashboard(pipeline: &TradingPipeline) -> Workload {
    let declared = pipeline.spec.dashboard.as_ref().unwrap();
    Workload {
        kind: Kind::Dashboard,
        name: tapeline_api::pipeline::dashboard::item_name(),
        settings: serde_json::to_string_pretty(&settings::dashboard(IDENTITY, &pipeline.spec, declared)).unwrap(),
        image: "tapeline/dashboard:1".into(),
        image_pull_policy: None,
        credentials: vec![credentials("mysql"), credentials("dashboard")],
        data: None,
        resources: dashboard_resources(None),
        replicas: 1,
        exclusive: String::new(),
        schedule: None,
    }
}

fn role() -> RoleRef {
    RoleRef { api_group: Some("rbac.authorization.k8s.io".into()), kind: "Role".into(), name: "tapeline-dashboard".into() }
}

/// As the API server would hold it, with every pod of it ready.
fn rolled_out(mut deployment: Deployment) -> Deployment {
    deployment.metadata.generation = Some(1);
    deployment.status = Some(DeploymentStatus {
        observed_generation: Some(1),
        replicas: Some(2),
        updated_replicas: Some(2),
        ready_replicas: Some(2),
        conditions: Some(vec![DeploymentCondition {
            type_: "Progressing".into(),
            status: "True".into(),
            reason: Some("NewReplicaSetAvailable".into()),
            ..DeploymentCondition::default()
        }]),
        ..DeploymentStatus::default()
    });
    deployment
}

fn strategy(deployment: &Deployment) -> &str {
    deployment.spec.as_ref().unwrap().strategy.as_ref().unwrap().type_.as_deref().unwrap()
}

#[test]
fn the_deployment_of_a_query() {
    let pipeline = fixture();
    insta::assert_yaml_snapshot!(deployment(&pipeline, &query(&pipeline, 1, "mysql"), None));
}

#[test]
fn the_deployment_of_a_producer() {
    let pipeline = fixture();
    insta::assert_yaml_snapshot!(deployment(&pipeline, &producer(&pipeline), None));
}

/// With the pods of workers and producers it shares what the pipeline says of pods, but not the service account.
#[test]
fn the_deployment_of_a_dashboard() {
    let mut object = good();
    object["spec"]["workers"] =
        serde_json::json!({"serviceAccountName": "workers", "image": "mine:1", "podLabels": {"team": "a"}, "imagePullSecrets": [{"name": "r"}]});
    let pipeline = pipeline(object);
    insta::assert_yaml_snapshot!(deployment(&pipeline, &dashboard(&pipeline), None));
}

#[test]
fn the_settings_of_a_dashboard() {
    let pipeline = fixture();
    insta::assert_yaml_snapshot!(config_map(&pipeline, &dashboard(&pipeline)));
}

#[test]
fn what_stands_beside_a_dashboard() {
    let pipeline = fixture();
    insta::assert_yaml_snapshot!("the_service_of_a_dashboard", companions::service(&pipeline));
    insta::assert_yaml_snapshot!("the_service_account_of_a_dashboard", companions::service_account(&pipeline));
    insta::assert_yaml_snapshot!("the_role_binding_of_a_dashboard", companions::role_binding(&pipeline, &role()));
}

/// As the API server holds it: with what it adds.
#[test]
fn what_stands_beside_a_dashboard_is_applied_once() {
    let pipeline = fixture();
    let mut service = companions::service(&pipeline);
    let spec = service.spec.as_mut().unwrap();
    (spec.cluster_ip, spec.session_affinity) = (Some("10.0.0.7".into()), Some("None".into()));
    service.metadata.resource_version = Some("7".into());
    assert!(is_applied(&companions::service(&pipeline), &service));
    service.spec.as_mut().unwrap().selector.as_mut().unwrap().clear();
    assert!(!is_applied(&companions::service(&pipeline), &service), "somebody else's hand");

    let binding = companions::role_binding(&pipeline, &role());
    assert!(is_applied(&binding, &binding));
    let cluster = RoleRef { kind: "ClusterRole".into(), ..role() };
    assert!(!is_applied(&companions::role_binding(&pipeline, &cluster), &binding));
}

#[test]
fn a_dashboard_stays_up_while_it_is_replaced() {
    let pipeline = fixture();
    let mut workload = dashboard(&pipeline);
    let mut first = rolled_out(deployment(&pipeline, &workload, None));
    workload.settings.push(' ');
    for strategy in ["RollingUpdate", "Recreate"] {
        first.spec.as_mut().unwrap().strategy.as_mut().unwrap().type_ = Some(strategy.into());
        let built = deployment(&pipeline, &workload, Some(&first)).spec.unwrap().strategy.unwrap().rolling_update.unwrap();
        assert_eq!((built.max_surge, built.max_unavailable), (Some(IntOrString::Int(1)), Some(IntOrString::Int(0))));
    }
}

/// The producer with a schedule, beside the pipeline's own affinity.
fn scheduled() -> (TradingPipeline, Workload, Timed) {
    let mut object = good();
    object["spec"]["producers"][1]["schedule"] = serde_json::json!({"cron": "*/5 * * * *", "timeZone": "Asia/Jakarta"});
    let far_from = serde_json::json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "noisy"}}});
    object["spec"]["workers"] = serde_json::json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [far_from]}}});
    let pipeline = pipeline(object);
    let mut workload = producer(&pipeline);
    let timed = Timed { cron: "*/5 * * * *".into(), time_zone: "Asia/Jakarta".into(), suspend: false, time_limit: Duration::from_secs(600) };
    workload.schedule = Some(timed.clone());
    (pipeline, workload, timed)
}

#[test]
fn the_cron_job_of_a_producer() {
    let (pipeline, workload, timed) = scheduled();
    insta::assert_yaml_snapshot!(cron_job(&pipeline, &workload, &timed, &["older".to_owned()].into()));
    assert!(workload.settings.contains("\"timeLimitMs\": 600000"), "{}", workload.settings);
}

#[test]
fn a_cron_job_is_applied_once_and_again_when_it_is_suspended() {
    let (pipeline, workload, timed) = scheduled();
    let build = |timed: &Timed| cron_job(&pipeline, &workload, timed, &[].into());
    assert!(is_applied(&build(&timed), &build(&timed)));
    assert!(!is_applied(&build(&Timed { suspend: true, ..timed.clone() }), &build(&timed)));
}

#[test]
fn a_run_keeps_the_settings_that_it_began_with() {
    let (pipeline, mut workload, timed) = scheduled();
    let first = cron_job(&pipeline, &workload, &timed, &[].into());
    let old = workload.config_map_name("stock-volume");
    workload.settings.push(' ');
    let wanted = workload.config_map_name("stock-volume");
    let (nothing, one): (BTreeSet<String>, BTreeSet<String>) = ([].into(), [old.clone()].into());
    assert_eq!(cron_job::old_settings(&first, &old, &nothing), (nothing.clone(), nothing.clone()));
    assert_eq!(cron_job::old_settings(&first, &wanted, &nothing), (nothing.clone(), one.clone()), "the template that names it is still there");
    let second = cron_job(&pipeline, &workload, &timed, &one);
    assert_eq!(cron_job::old_settings(&second, &wanted, &one), (nothing.clone(), one.clone()), "a run uses it");
    assert_eq!(cron_job::old_settings(&second, &wanted, &nothing), (one, nothing));
}

#[test]
fn the_settings_of_a_query() {
    let pipeline = fixture();
    insta::assert_yaml_snapshot!(config_map(&pipeline, &query(&pipeline, 0, "cassandra")));
}

#[test]
fn what_is_built_twice_is_applied_once() {
    let pipeline = fixture();
    let first = rolled_out(deployment(&pipeline, &query(&pipeline, 0, "cassandra"), None));
    assert!(is_applied(&deployment(&pipeline, &query(&pipeline, 0, "cassandra"), Some(&first)), &first));
}

#[rstest]
#[case::the_trigger(|workload: &mut Workload| workload.settings.push(' '), "RollingUpdate")]
#[case::the_sql(|workload: &mut Workload| { workload.settings.push(' '); workload.exclusive.push(' '); }, "Recreate")]
#[case::the_secret(|workload: &mut Workload| workload.credentials[0].version.push('1'), "RollingUpdate")]
fn what_changes_decides_how_pods_are_replaced(#[case] change: fn(&mut Workload), #[case] expected: &str) {
    let pipeline = fixture();
    let mut workload = query(&pipeline, 0, "cassandra");
    let first = rolled_out(deployment(&pipeline, &workload, None));
    assert_eq!(strategy(&first), "RollingUpdate");
    change(&mut workload);
    let second = deployment(&pipeline, &workload, Some(&first));
    assert_eq!(strategy(&second), expected);
    assert!(!is_applied(&second, &first));
    // While it rolls out, and after, the next look finds nothing to do.
    let mut rolling = second.clone();
    rolling.metadata.generation = Some(2);
    rolling.status = first.status;
    assert!(!is_rolled_out(&rolling));
    assert!(is_applied(&deployment(&pipeline, &workload, Some(&rolling)), &rolling));
}

#[test]
fn old_settings_stay_until_no_pod_uses_them() {
    let pipeline = fixture();
    let mut workload = query(&pipeline, 0, "cassandra");
    let first = rolled_out(deployment(&pipeline, &workload, None));
    let old = workload.config_map_name("stock-volume");
    workload.settings.push(' ');
    let wanted = workload.config_map_name("stock-volume");
    let mut second = deployment(&pipeline, &workload, Some(&first));
    assert_eq!(annotation(&second, OLD_SETTINGS), Some(old.as_str()));
    second.metadata.generation = Some(2);
    second.status.clone_from(&first.status);
    assert_eq!(old_settings(Some(&second), &wanted), [old.as_str()]);
    let done = rolled_out(second);
    assert_eq!(old_settings(Some(&done), &wanted), Vec::<&str>::new());
    assert!(!is_applied(&deployment(&pipeline, &workload, Some(&done)), &done), "the annotation is emptied once");
}

#[test]
fn the_longest_names_fit() {
    let long = "a".repeat(40);
    let name = object_name(&long, Kind::Producer, &long);
    assert!(name.len() + 11 < 253 && long.len() <= 63, "{name}");
}
