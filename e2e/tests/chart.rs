//! The chart: the API server takes what it renders, it asks for no more than the operator uses, and everything runs under the `restricted` Pod Security level.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use tapeline_e2e::chart::Operator;
use tapeline_e2e::{audit, bed::block_on, command, story, within};

const SMALL: &str = include_str!("../pipelines/small.yaml");

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
        world.apply_secrets().await.unwrap();
        let pipeline = world.pipeline(SMALL);
        pipeline.apply().await.unwrap();
        pipeline.until_ready(within(90)).await;

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
        // Pods have no token of a service account.
        let pods = world.pods("app.kubernetes.io/managed-by=tapeline").await.unwrap();
        assert_eq!(pods.len(), 2);
        assert!(pods.iter().all(|pod| pod.spec.as_ref().unwrap().automount_service_account_token == Some(false)));
    });
}
