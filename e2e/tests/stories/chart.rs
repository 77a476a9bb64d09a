//! The chart: the API server takes what it renders, it grants what the operator uses and no more, and everything runs under the `restricted` Pod Security level.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use tapeline_api::TradingPipeline;
use tapeline_e2e::bed::block_on;
use tapeline_e2e::chart::Operator;
use tapeline_e2e::{Pipeline, World, audit, command, eventually, status, story, within};

use crate::small::ready;

#[test]
fn the_api_server_takes_what_the_chart_renders() {
    block_on(async {
        let release = &Operator::shared().await.release;
        for values in ["watch.cluster=false", "watch.cluster=true", "watch.namespaces={default,data}", "operator.replicas=2,rbac.aggregate=false"] {
            let rendered = command::run("helm", &["template", "dry-run", "charts/tapeline", "-n", release, "--set", values], "").await.unwrap();
            assert!(rendered.contains("kind: CustomResourceDefinition"), "the definition is part of the chart");
            let taken = command::kubectl(&["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"], &rendered).await.unwrap();
            assert!(taken.contains("deployment.apps/dry-run-tapeline"), "{values}: {taken}");
        }
    });
}

#[test]
fn values_that_the_chart_does_not_know_are_refused() {
    block_on(async {
        for values in ["image.tga=1", "watch.namespaces=default", "operator.replicas=none"] {
            let refusal = command::run("helm", &["template", "dry-run", "charts/tapeline", "--set", values], "").await.unwrap_err();
            assert!(refusal.to_string().contains("values don't meet the specifications of the schema"), "{values}: {refusal}");
        }
    });
}

#[test]
fn everything_runs_restricted_and_with_the_charts_role_only() {
    story(async |world| {
        let mark = audit::mark().unwrap();
        let pipeline = ready(world).await;

        let release = &world.operator.release;
        for namespace in [release, &world.namespace] {
            let level = ["get", "namespace", namespace, "-o", r"jsonpath={.metadata.labels.pod-security\.kubernetes\.io/enforce}"];
            assert_eq!(command::kubectl(&level, "").await.unwrap(), "restricted", "{namespace}");
        }
        let account = world.operator.service_account().await.unwrap();
        let requests = audit::requests_since(mark, release, &account).unwrap();
        assert!(requests.iter().any(|request| request.is_write() && request.namespace == world.namespace), "the log has the operator's requests");
        let refused: Vec<_> = requests.iter().filter(|request| request.code == 403).collect();
        assert!(refused.is_empty(), "asked for more than the Role grants: {refused:?}");
        // The pods of queries and producers have no token of a service account.
        let pods = world.pods("app.kubernetes.io/managed-by=tapeline").await.unwrap();
        assert_eq!(pods.len(), 2);
        assert!(pods.iter().all(|pod| pod.spec.as_ref().unwrap().automount_service_account_token == Some(false)));
        uses_what_it_is_granted(world, pipeline, &account).await;
    });
}

/// What no test can bring about: an admission plugin asks for the first, the second is for Events that repeat, the third is no request of its own.
const RARELY_USED: [(&str, &str); 3] = [("tradingpipelines/finalizers", "update"), ("events", "patch"), ("roles", "bind")];

/// A producer of the life of a pipeline that runs once a year: its CronJob is there, and goes with it.
async fn has_a_schedule_for_a_while(world: &World, pipeline: &mut Pipeline<'_>) {
    crate::schedule::write_file(world, "").await;
    let producer = crate::schedule::producer(world, Some(serde_json::json!({"cron": "@yearly"})));
    pipeline.set("/spec/producers", serde_json::json!([producer]));
    pipeline.apply().await.unwrap();
    pipeline.until_ready(within(60)).await;
    pipeline.unset("/spec/producers");
    pipeline.apply().await.unwrap();
    eventually("no CronJob", within(60), async || {
        let left = world.kubectl(&["get", "cronjobs", "-o", "name"], "").await?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
    .await;
}

/// A dashboard of the life of a pipeline. Its pod alone has a token, for an account with a Role that grants what it uses; what stands beside it goes with it.
async fn has_a_dashboard_for_a_while(world: &World, pipeline: &mut Pipeline<'_>, role: &str) {
    let account = format!("{}-dashboard", pipeline.name);
    let mark = audit::mark().unwrap();
    pipeline.set("/spec/dashboard", serde_json::json!({}));
    pipeline.apply().await.unwrap();
    pipeline.until_ready(within(60)).await;
    let with_token = |pod: &&Pod| pod.spec.as_ref().unwrap().automount_service_account_token == Some(true);
    let pods = world.pods("app.kubernetes.io/managed-by=tapeline").await.unwrap();
    let accounts: Vec<_> = pods.iter().filter(with_token).map(|pod| pod.spec.as_ref().unwrap().service_account_name.clone()).collect();
    assert_eq!(accounts, [Some(account.clone())]);
    pipeline.unset("/spec/dashboard");
    pipeline.apply().await.unwrap();
    eventually("nothing to be left of the dashboard", within(60), async || {
        let left = ["get", "deployments,services,serviceaccounts,rolebindings,configmaps", "-l", "tapeline.dev/dashboard", "-o", "name"];
        let left = world.kubectl(&left, "").await?;
        ensure!(left.is_empty(), "{left}");
        ensure!(status::of(&pipeline.get().await?).dashboard.is_none(), "the status still speaks of it");
        Ok(())
    })
    .await;
    // A watch is in the log when it has ended.
    until_used(&granted(world, role).await, || audit::requests_since(mark, &world.namespace, &account)).await;
    let requests = audit::requests_since(mark, &world.namespace, &account).unwrap();
    assert!(requests.iter().all(|request| request.code != 403 && !request.is_write()), "{requests:?}");
}

/// A Role that grants more than is used is found here: the life of a pipeline, then the Role beside the API server's log.
async fn uses_what_it_is_granted(world: &World, mut pipeline: Pipeline<'_>, account: &str) {
    pipeline.set("/spec/queries/0/trigger/interval", "2s".into());
    pipeline.set("/spec/queries/1/scale", serde_json::json!({"replicas": 2}));
    pipeline.apply().await.unwrap();
    let scaled = |now: &TradingPipeline| {
        ensure!(status::query(now, "volume")?.ready_replicas == Some(2), "{}", status::describe(now));
        Ok(())
    };
    pipeline.until("the new settings", within(60), scaled).await;
    has_a_schedule_for_a_while(world, &mut pipeline).await;
    has_a_dashboard_for_a_while(world, &mut pipeline, &format!("{account}-dashboard")).await;
    pipeline.set("/spec/suspend", true.into());
    pipeline.apply().await.unwrap();
    eventually("no pods", within(90), async || {
        ensure!(world.pods("app.kubernetes.io/managed-by=tapeline").await?.is_empty());
        Ok(())
    })
    .await;

    let mut granted = granted(world, account).await;
    assert!(granted.len() > 10, "{granted:?}");
    for (resource, verb) in RARELY_USED {
        assert!(granted.remove(&(resource.to_owned(), verb.to_owned())), "{verb} {resource} is not granted any more");
    }
    until_used(&granted, || audit::requests_since(audit::BEGINNING, &world.operator.release, account)).await;
}

/// What the Role grants: resources and verbs.
async fn granted(world: &World, role: &str) -> BTreeSet<(String, String)> {
    let role: serde_json::Value = serde_json::from_str(&world.kubectl(&["get", "role", role, "-o", "json"], "").await.unwrap()).unwrap();
    let texts = |value: &serde_json::Value| -> Vec<String> { value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect() };
    let mut granted = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        for resource in texts(&rule["resources"]) {
            granted.extend(texts(&rule["verbs"]).into_iter().map(|verb| (resource.clone(), verb)));
        }
    }
    granted
}

/// Waits until all of `granted` is among the `requests`.
async fn until_used(granted: &BTreeSet<(String, String)>, requests: impl Fn() -> Result<Vec<audit::Request>>) {
    eventually("everything that is granted to be used", within(30), async || {
        let mut used = BTreeSet::new();
        for audit::Request { verb, resource, code, .. } in requests()?.into_iter().filter(|request| request.code != 403) {
            // An apply that creates an object needs the right to create it, too.
            if verb == "patch" && code == 201 {
                used.insert((resource.clone(), "create".to_owned()));
            }
            used.insert((resource, verb));
        }
        let unused: Vec<_> = granted.difference(&used).collect();
        ensure!(unused.is_empty(), "granted and never used: {unused:?}");
        Ok(())
    })
    .await;
}

#[test]
fn the_api_server_takes_the_servers_of_the_demo_on_kind() {
    block_on(async {
        Operator::shared().await; // a cluster with the namespace `data`
        let taken = command::kubectl(&["apply", "--dry-run=server", "-f", "examples/servers"], "").await.unwrap();
        let more = command::kubectl(&["apply", "--dry-run=server", "-f", "examples/servers/more"], "").await.unwrap();
        for (taken, server) in [(&taken, "kafka"), (&taken, "cassandra"), (&taken, "mysql"), (&more, "mongo"), (&more, "brokers"), (&more, "cassandra-auth")] {
            assert!(taken.contains(&format!("statefulset.apps/{server} created (server dry run)")), "{taken}");
        }
    });
}
