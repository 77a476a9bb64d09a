//! One operator works at a time, and one that lost its Lease does nothing until it holds it again.

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use tapeline_e2e::wait::all_along;
use tapeline_e2e::world::story_with_own_operator;
use tapeline_e2e::{World, audit, eventually, within};

use crate::small::ready;

/// Takes the Lease, or renews it, as another operator would.
async fn hold(leases: &Api<Lease>) -> Result<()> {
    let lease = json!({"spec": {"holderIdentity": "another", "renewTime": MicroTime(k8s_openapi::jiff::Timestamp::now())}});
    leases.patch("tapeline-operator", &PatchParams::default(), &Patch::Merge(lease)).await?;
    Ok(())
}

async fn restarts(world: &World) -> Result<i32> {
    let pods = world.operator.pods().await?;
    Ok(pods
        .iter()
        .flat_map(|pod| pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten()))
        .map(|container| container.restart_count)
        .sum())
}

#[test]
fn an_operator_that_lost_its_lease_ends_and_waits_for_it() {
    story_with_own_operator(async |world| {
        let pipeline = ready(world).await;
        let leases: Api<Lease> = Api::namespaced(world.kube.clone(), &world.operator.release);
        let deployments: Api<Deployment> = Api::namespaced(world.kube.clone(), &world.namespace);

        hold(&leases).await.unwrap();
        eventually("the operator to have ended", within(30), async || {
            hold(&leases).await?;
            ensure!(restarts(world).await? > 0, "it runs on");
            Ok(())
        })
        .await;
        world.say("it ended and was started again");
        let mark = audit::mark().unwrap();
        let name = format!("{}-query-raw", pipeline.name);
        deployments.delete(&name, &DeleteParams::background()).await.unwrap();
        // Longer than a Lease lasts: it is renewed all the time.
        all_along("the Deployment is left alone by who does not hold the Lease", within(25), async || {
            hold(&leases).await?;
            ensure!(deployments.get_opt(&name).await?.is_none(), "it was created again");
            Ok(())
        })
        .await;
        let account = world.operator.service_account().await.unwrap();
        let written: Vec<_> = audit::requests_since(mark, &world.operator.release, &account).unwrap().into_iter().filter(audit::Request::is_write).collect();
        assert!(written.is_empty(), "{written:?}");

        // Nobody renews it any more.
        eventually("the Deployment to come back", within(90), async || {
            ensure!(deployments.get_opt(&name).await?.is_some());
            Ok(())
        })
        .await;
        pipeline.until_ready(within(90)).await;
    });
}
