//! The operator's promises: it ends in the same state whenever it is killed, does nothing when there is nothing to do, and repairs what was broken behind its back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use sqlx::{AssertSqlSafe, Row as _};
use tapeline_api::TradingPipeline;
use tapeline_api::pipeline::status::Origin;
use tapeline_e2e::audit::{self, Mark};
use tapeline_e2e::footprint::Footprint;
use tapeline_e2e::world::story_with_own_operator;
use tapeline_e2e::{Pipeline, World, command, eventually, processes, status, story, topic, within};

use crate::small::{SMALL, ready, rows, volume};

/// Sends `count` trades of volume 1 with ids from `first` on, and waits until both stores have `total`.
async fn feed(world: &World, first: i64, count: i64, total: i64) {
    let payloads: Vec<String> =
        (first..first + count).map(|id| format!(r#"{{"id": {id}, "created_at": "2024-08-25", "sector": "IT", "volume": 1}}"#)).collect();
    topic::send(&world.kafka, &world.topic("ticks"), None, &payloads.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
    arrived(world, total).await;
}

async fn arrived(world: &World, total: i64) {
    eventually(&format!("{total} trades in both stores"), within(60), async || {
        let (volume, trades) = (volume(world).await?, rows(world).await?);
        ensure!(volume == total && trades == total, "MySQL {volume}, Cassandra {trades}");
        Ok(())
    })
    .await;
}

/// Kills the operator's process and takes its pod away, so that nothing of it is orderly.
async fn kill_operator(world: &World) {
    let pods = world.operator.pods().await.unwrap();
    assert!(pods.iter().any(|pod| processes::of(pod).is_some()), "there is an operator to kill");
    for pod in pods {
        if let Some(process) = processes::of(&pod) {
            process.kill().unwrap();
        }
        let name = pod.metadata.name.unwrap();
        let gone = ["delete", "pod", "-n", &world.operator.release, &name, "--force", "--grace-period=0", "--ignore-not-found"];
        command::kubectl(&gone, "").await.unwrap();
    }
    world.say("killed the operator");
}

/// What the operator made: its records, the Deployments' specifications, the tables.
async fn end_state(world: &World, pipeline: &Pipeline<'_>) -> Result<Vec<String>> {
    let now = pipeline.get().await?;
    let mut state: Vec<String> = status::of(&now).resources.iter().map(|resource| format!("{} {} {}", resource.kind, resource.name, resource.origin)).collect();
    state.extend(status::of(&now).conditions.iter().map(|condition| format!("{} {} {}", condition.type_, condition.status, condition.reason)));
    for query in ["raw", "volume"] {
        let mut deployment = pipeline.deployment("query", query).await?;
        // The names of ConfigMaps hash the settings, which have the test's names in them.
        let volumes = deployment.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()).and_then(|pod| pod.volumes.take());
        ensure!(volumes.is_some_and(|volumes| !volumes.is_empty()), "the pods have no settings");
        let mut spec = deployment.spec.unwrap();
        spec.template.metadata.as_mut().unwrap().annotations = None;
        state.push(serde_json::to_string(&spec)?);
    }
    for table in ["aggregated_data", "tapeline_progress", "tapeline_resources", "volume_by_day"] {
        let row = sqlx::query(AssertSqlSafe(format!("SHOW CREATE TABLE `{}`.`{table}`", world.schema()))).fetch_one(&world.mysql).await?;
        state.push(row.try_get::<String, _>(1)?);
    }
    let described = format!("SELECT table_name, column_name, type FROM system_schema.columns WHERE keyspace_name = '{}'", world.schema());
    for row in world.cassandra.query_unpaged(described, ()).await?.into_rows_result()?.rows::<(String, String, String)>()? {
        state.push(format!("{:?}", row?));
    }
    let topics = topic::names(&world.kafka).await?.into_iter().filter(|name| name.starts_with(&world.topic("")));
    state.extend(topics.collect::<BTreeSet<_>>());
    Ok(state)
}

#[test]
fn an_operator_killed_at_any_moment_of_creation_ends_in_the_same_state() {
    type Moment = (&'static str, fn(&TradingPipeline) -> bool);
    story_with_own_operator(async |world| {
        world.apply_secrets().await.unwrap();
        let pipeline = world.pipeline(SMALL);
        let moments: [Moment; 3] = [
            ("it is about to create the first thing", |now| !status::of(now).resources.is_empty()),
            ("it has created something", |now| status::of(now).resources.iter().any(|resource| resource.origin == Origin::Created)),
            ("it has Deployments", |now| !status::of(now).queries.is_empty()),
        ];
        pipeline.apply().await.unwrap();
        for (what, reached) in moments {
            pipeline.until(what, within(90), |now| if reached(now) { Ok(()) } else { anyhow::bail!("{}", status::describe(now)) }).await;
            kill_operator(world).await;
            // The next one works: it holds the lease.
            world.operator.until_ready().await;
            let pause = Duration::from_millis(rand::random_range(0..1500));
            tokio::time::sleep(pause).await;
            world.say(format!("{pause:?} after the next one began"));
            kill_operator(world).await;
            world.operator.until_ready().await;
        }
        pipeline.until_ready(within(120)).await;
        let disturbed = end_state(world, &pipeline).await.unwrap();
        feed(world, 1, 10, 10).await;
        let normal = |text: &str, world: &World| text.replace(&world.id, "ID").replace(&world.namespace, "NS");
        let disturbed: Vec<String> = disturbed.iter().map(|line| normal(line, world)).collect();

        // The same, undisturbed, in a world of its own.
        story_beside(&disturbed, normal).await;
    });
}

/// Compares with what comes out when nothing is killed.
async fn story_beside(disturbed: &[String], normal: impl Fn(&str, &World) -> String) {
    tapeline_e2e::world::story_within(async |calm| {
        let pipeline = ready(calm).await;
        let expected: Vec<String> = end_state(calm, &pipeline).await.unwrap().iter().map(|line| normal(line, calm)).collect();
        assert_eq!(disturbed, expected);
    })
    .await;
}

/// The operator's writes about this test since `mark`.
async fn writes(world: &World, mark: Mark) -> Result<Vec<audit::Request>> {
    let account = world.operator.service_account().await?;
    Ok(audit::requests_since(mark, &world.operator.release, &account)?.into_iter().filter(audit::Request::is_write).collect())
}

/// Waits until the operator has looked at the pipeline since `mark`: each reconcile reads its Secret.
async fn looked(world: &World, mark: Mark) {
    let account = world.operator.service_account().await.unwrap();
    eventually("the operator to look at the pipeline", within(120), async || {
        let requests = audit::requests_since(mark, &world.operator.release, &account)?;
        let read = requests.iter().any(|request| request.resource == "secrets" && request.namespace == world.namespace);
        ensure!(read, "{} requests, none for the Secret", requests.len());
        Ok(())
    })
    .await;
}

#[test]
fn a_converged_pipeline_causes_no_writes_even_after_a_restart_of_the_operator() {
    story_with_own_operator(async |world| {
        let mut pipeline = ready(world).await;
        feed(world, 1, 10, 10).await;
        // Beside its Deployment it has a Service, an account and a RoleBinding, which are read each time.
        pipeline.set("/spec/dashboard", json!({"charts": [{"name": "by-day", "view": "volume_by_day"}]}));
        pipeline.apply().await.unwrap();
        pipeline.until_ready(within(90)).await;
        // Numbers are written once a minute while they move; then comes silence.
        let mut since = (audit::mark().unwrap(), Instant::now());
        eventually("70 s without a write", within(300), async || {
            let seen = writes(world, since.0).await?;
            if !seen.is_empty() {
                since = (audit::mark()?, Instant::now());
            }
            ensure!(since.1.elapsed() >= within(70), "{seen:?}");
            Ok(())
        })
        .await;

        let before = Footprint::take(world).await.unwrap();
        let mark = audit::mark().unwrap();
        pipeline.touch("first").await.unwrap();
        looked(world, mark).await;
        let restarted = audit::mark().unwrap();
        let rollout = ["rollout", "restart", "deployment", "-n", &world.operator.release];
        command::kubectl(&rollout, "").await.unwrap();
        looked(world, restarted).await;
        world.operator.until_ready().await;
        let again = audit::mark().unwrap();
        pipeline.touch("second").await.unwrap();
        looked(world, again).await;
        pipeline.expect_calm().await.unwrap();

        let kubernetes = writes(world, mark).await.unwrap();
        assert!(kubernetes.is_empty(), "Kubernetes: {kubernetes:?}");
        let servers = before.changes_since(world).await.unwrap();
        assert!(servers.is_empty(), "{servers:#?}");

        // The proof is able to fail: one record leaves traces in all three servers.
        feed(world, 11, 1, 11).await;
        let servers = before.changes_since(world).await.unwrap();
        for trace in ["MySQL: ", "Kafka: ", "messages: ", "Cassandra's writes: "] {
            assert!(servers.iter().any(|change| change.starts_with(trace)), "no {trace:?} in {servers:#?}");
        }
    });
}

#[test]
fn a_deleted_deployment_comes_back_and_goes_on() {
    story(async |world| {
        let pipeline = ready(world).await;
        feed(world, 1, 3, 3).await;
        let old = pipeline.deployment("query", "volume").await.unwrap().metadata.uid;
        world.kubectl(&["delete", "deployment", &format!("{}-query-volume", pipeline.name)], "").await.unwrap();
        eventually("another Deployment", within(30), async || {
            let new = pipeline.deployment("query", "volume").await?.metadata.uid;
            ensure!(new != old, "still the old one");
            Ok(())
        })
        .await;
        feed(world, 4, 3, 6).await;
        pipeline.until_ready(within(60)).await;
    });
}

#[test]
fn a_dropped_table_comes_back_empty_and_the_loss_is_named() {
    story(async |world| {
        let pipeline = ready(world).await;
        feed(world, 1, 3, 3).await;
        sqlx::query(AssertSqlSafe(format!("DROP TABLE `{}`.aggregated_data", world.schema()))).execute(&world.mysql).await.unwrap();
        pipeline.touch("dropped").await.unwrap();
        let lost = pipeline.until_condition("DataLost", "True", within(60)).await;
        assert_eq!(lost.reason, "RecreatedEmpty");
        assert!(lost.message.contains("spec.mysql.tables[0]") && lost.message.contains("aggregated_data"), "{}", lost.message);
        println!("{}", lost.message);
        pipeline.until_ready(within(90)).await;

        // What comes now is counted; what was lost stays lost, and stays named until somebody acknowledges it.
        topic::send(&world.kafka, &world.topic("ticks"), None, &[r#"{"id": 4, "created_at": "2024-08-25", "sector": "IT", "volume": 1}"#]).await.unwrap();
        eventually("the new trade in the new table", within(60), async || {
            let volume = volume(world).await?;
            ensure!(volume == 1, "{volume}");
            Ok(())
        })
        .await;
        let time = serde_json::to_value(&lost.last_transition_time).unwrap();
        pipeline.until_condition("DataLost", "True", within(5)).await;
        let acknowledge = format!("tapeline.dev/acknowledge-data-loss={}", time.as_str().unwrap());
        world.kubectl(&["annotate", "tp", &pipeline.name, &acknowledge], "").await.unwrap();
        pipeline.until_condition("DataLost", "False", within(30)).await;
    });
}

#[test]
fn a_deleted_topic_comes_back_and_the_loss_is_named() {
    story(async |world| {
        let pipeline = ready(world).await;
        feed(world, 1, 3, 3).await;
        topic::delete(&world.kafka, &[&world.topic("ticks")]).await.unwrap();
        eventually("the topic to be gone", within(30), async || {
            ensure!(!topic::names(&world.kafka).await?.contains(&world.topic("ticks")), "it is still there");
            Ok(())
        })
        .await;
        pipeline.touch("deleted").await.unwrap();
        let lost = pipeline.until_condition("DataLost", "True", within(60)).await;
        assert!(lost.message.contains("spec.kafka.topics[0]") && lost.message.contains(&world.topic("ticks")), "{}", lost.message);
        println!("{}", lost.message);
        let topics = status::of(&pipeline.get().await.unwrap()).topics;
        assert_eq!((topics[0].partitions, topics[0].incarnation), (Some(2), Some(2)));
        pipeline.until_ready(within(120)).await;

        // The new topic is read from its start, and the old rows stay.
        feed(world, 4, 3, 6).await;
    });
}

#[test]
fn a_changed_trigger_rolls_one_deployment_once() {
    story(async |world| {
        let mut pipeline = ready(world).await;
        let before = (pipeline.generation("raw").await.unwrap(), revision(&pipeline, "volume").await.unwrap());
        pipeline.set("/spec/queries/1/trigger/interval", json!("2s"));
        pipeline.apply().await.unwrap();
        eventually("the Deployment of the changed query to have rolled", within(90), async || {
            let revision = revision(&pipeline, "volume").await?;
            let status = pipeline.deployment("query", "volume").await?.status.unwrap_or_default();
            ensure!(
                revision > before.1 && status.updated_replicas == Some(1) && status.ready_replicas == Some(1) && status.replicas == Some(1),
                "{revision} {status:?}"
            );
            Ok(())
        })
        .await;
        pipeline.until_ready(within(60)).await;
        feed(world, 1, 3, 3).await;
        // The same in other words is no change.
        pipeline.set("/spec/queries/1/trigger/interval", json!("2000ms"));
        pipeline.apply().await.unwrap();
        pipeline.until_ready(within(60)).await;
        assert_eq!((pipeline.generation("raw").await.unwrap(), revision(&pipeline, "volume").await.unwrap()), (before.0, before.1 + 1));
    });
}

/// How often the pods of a query were rolled, as Kubernetes counts it. (A Deployment's generation counts changed annotations, too.)
async fn revision(pipeline: &Pipeline<'_>, query: &str) -> Result<i64> {
    let annotations = pipeline.deployment("query", query).await?.metadata.annotations.unwrap_or_default();
    Ok(annotations.get("deployment.kubernetes.io/revision").context("no revision yet")?.parse()?)
}

#[test]
fn suspended_means_no_pods_and_goes_on_where_it_stopped() {
    story(async |world| {
        let mut pipeline = ready(world).await;
        feed(world, 1, 3, 3).await;
        pipeline.set("/spec/suspend", json!(true));
        pipeline.apply().await.unwrap();
        let suspended = pipeline
            .until("Ready=True Suspended", within(60), |now| {
                let ready = status::expect(now, "Ready", "True")?;
                ensure!(ready.reason == "Suspended", "{}", status::describe(now));
                Ok(ready)
            })
            .await;
        assert!(!suspended.message.is_empty());
        assert_eq!(world.pods("app.kubernetes.io/managed-by=tapeline").await.unwrap().len(), 0);

        let payload =
            r#"[{"id": 4, "created_at": "2024-08-25", "sector": "IT", "volume": 1}, {"id": 5, "created_at": "2024-08-25", "sector": "IT", "volume": 1}]"#;
        topic::send(&world.kafka, &world.topic("ticks"), None, &[payload]).await.unwrap();
        pipeline.set("/spec/suspend", json!(false));
        pipeline.apply().await.unwrap();
        arrived(world, 5).await;
        pipeline.until_ready(within(60)).await;
    });
}

#[test]
fn a_deleted_pipeline_keeps_its_data_and_another_of_its_name_goes_on() {
    story(async |world| {
        let pipeline = ready(world).await;
        feed(world, 1, 3, 3).await;
        pipeline.delete().await.unwrap();
        eventually("the pods to be gone", within(60), async || {
            let pods = world.pods("app.kubernetes.io/managed-by=tapeline").await?.len();
            ensure!(pods == 0, "{pods} are left");
            Ok(())
        })
        .await;
        assert_eq!((volume(world).await.unwrap(), rows(world).await.unwrap()), (3, 3));
        assert!(topic::names(&world.kafka).await.unwrap().contains(&world.topic("ticks")));

        pipeline.apply().await.unwrap();
        pipeline.until_ready(within(90)).await;
        feed(world, 4, 3, 6).await;
    });
}

#[test]
fn two_pipelines_do_not_manage_one_table_or_topic() {
    story(async |world| {
        let first = ready(world).await;
        let mut second = first.copy(&format!("rival-{}", world.id));
        second.set("/spec/kafka/topics/0/config", json!({"retention.ms": 3_600_000}));
        second.apply().await.unwrap();
        let conflict = second
            .until("a condition that names the owner", within(30), |now| {
                let stalled = status::expect(now, "Stalled", "True")?;
                ensure!(stalled.reason == "ResourceConflict", "{}", status::describe(now));
                Ok(stalled)
            })
            .await;
        assert!(conflict.message.contains(&format!("{}/{}", world.namespace, first.name)), "{}", conflict.message);
        let topics = status::expect(&second.get().await.unwrap(), "TopicsReady", "False").unwrap();
        assert!(topics.reason == "ResourceConflict" && topics.message.contains("spec.kafka.topics[0]"), "{topics:?}");
        first.expect_calm().await.unwrap();
    });
}
