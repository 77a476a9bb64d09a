//! Producers that run now and then: on the minute, by hand, never two at a time; and messages that somebody wrote down, which arrive once.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use tapeline_api::TradingPipeline;
use tapeline_api::pipeline::status::{ItemState, ProducerStatus};
use tapeline_e2e::processes::{self, Process};
use tapeline_e2e::{Pipeline, World, eventually, status, story, topic, within};

use crate::small::{ready, volume};

const THREE: &str = "{\"id\": 1, \"volume\": 1}\n{\"id\": 2, \"volume\": 10}\n\n{\"id\": 3, \"volume\": 100}\n";
/// The volume of the three.
const VOLUME: i64 = 111;

/// Puts `lines` into the ConfigMap that the producer reads.
pub(crate) async fn write_file(world: &World, lines: &str) {
    let file = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "trades"}, "data": {"trades.jsonl": lines}});
    world.apply(&[file]).await.unwrap();
}

/// The producer `hand` of the small pipeline: a line each second.
pub(crate) fn producer(world: &World, schedule: Option<Value>) -> Value {
    let file = json!({"configMapKeyRef": {"name": "trades", "key": "trades.jsonl"}, "key": "/id", "interval": "1s"});
    let mut producer = json!({"name": "hand", "topic": world.topic("ticks"), "source": {"file": file}});
    if let Some(schedule) = schedule {
        producer["schedule"] = schedule;
    }
    producer
}

/// How often each line is in the topic, by its id.
async fn sent(world: &World) -> Result<BTreeMap<i64, usize>> {
    let mut counts = BTreeMap::new();
    for record in topic::records(&world.kafka, &world.topic("ticks")).await? {
        if let Some(payload) = record.payload.as_deref().filter(|payload| !payload.is_empty()) {
            let id = serde_json::from_slice::<Value>(payload)?.get("id").and_then(Value::as_i64).context("an id")?;
            ensure!(record.key.as_deref() == Some(id.to_string().as_bytes()), "the key of {id} is {:?}", record.key);
            *counts.entry(id).or_default() += 1;
        }
    }
    Ok(counts)
}

/// Each of the three lines so often.
fn each(times: usize) -> BTreeMap<i64, usize> {
    (1..=3).map(|id| (id, times)).filter(|(_, times)| *times > 0).collect()
}

fn cron_job_name(pipeline: &Pipeline<'_>) -> String {
    format!("{}-producer-hand", pipeline.name)
}

async fn cron_job(world: &World, pipeline: &Pipeline<'_>) -> Result<CronJob> {
    let api: Api<CronJob> = Api::namespaced(world.kube.clone(), &world.namespace);
    Ok(api.get(&cron_job_name(pipeline)).await?)
}

/// The runs that have ended with `condition`.
async fn runs(world: &World, condition: &str) -> Result<usize> {
    let api: Api<Job> = Api::namespaced(world.kube.clone(), &world.namespace);
    let jobs = api.list(&ListParams::default().labels("tapeline.dev/producer=hand")).await?.items;
    let ended = |job: &Job| job.status.iter().flat_map(|status| status.conditions.iter().flatten()).any(|had| had.type_ == condition && had.status == "True");
    Ok(jobs.iter().filter(|job| ended(job)).count())
}

async fn run_by_hand(world: &World, pipeline: &Pipeline<'_>, name: &str) {
    let from = format!("--from=cronjob/{}", cron_job_name(pipeline));
    world.kubectl(&["create", "job", name, &from], "").await.unwrap();
}

async fn until_runs(world: &World, count: usize) {
    eventually(&format!("{count} runs to be done"), within(120), async || {
        let done = runs(world, "Complete").await?;
        ensure!(done >= count, "{done} are");
        Ok(())
    })
    .await;
}

/// What is said of the producer, once it is in `state`.
fn says(now: &TradingPipeline, state: ItemState) -> Result<ProducerStatus> {
    let said = status::producer(now, "hand")?;
    ensure!(said.state == state, "{said:?}");
    Ok(said)
}

/// From when to when the containers of the runs were there.
async fn times(world: &World) -> Vec<(String, String)> {
    let pods = world.pods("tapeline.dev/producer=hand").await.unwrap();
    let ran = |pod: &Pod| {
        let terminated = pod.status.as_ref()?.container_statuses.as_ref()?.first()?.state.as_ref()?.terminated.clone()?;
        Some((terminated.started_at?.0.to_string(), terminated.finished_at?.0.to_string()))
    };
    let mut times: Vec<_> = pods.iter().filter_map(ran).collect();
    times.sort();
    times
}

#[test]
fn a_schedule_runs_on_the_minute_and_by_hand_and_never_twice_at_a_time() {
    story(async |world| {
        let mut pipeline = ready(world).await;
        write_file(world, THREE).await;
        pipeline.set("/spec/producers", json!([producer(world, Some(json!({"cron": "* * * * *"})))]));
        pipeline.apply().await.unwrap();
        pipeline.until_ready(within(60)).await;
        until_runs(world, 1).await;
        let said = pipeline.until("the run to be told", within(30), |now| says(now, ItemState::Done)).await;
        assert!(said.last_run.is_some() && said.message.is_empty(), "{said:?}");
        world.say("ran on the minute");

        // Suspended: nothing runs on the minute any more, and by hand all the same.
        pipeline.set("/spec/producers/0/suspend", true.into());
        pipeline.apply().await.unwrap();
        pipeline.until("the producer to be suspended", within(90), |now| says(now, ItemState::Suspended)).await;
        assert_eq!(cron_job(world, &pipeline).await.unwrap().spec.suspend, Some(true));
        let before = runs(world, "Complete").await.unwrap();
        assert_eq!(sent(world).await.unwrap(), each(before));
        run_by_hand(world, &pipeline, "one").await;
        run_by_hand(world, &pipeline, "two").await;
        for job in ["job/one", "job/two"] {
            world.kubectl(&["wait", "--for=condition=Complete", job, "--timeout=90s"], "").await.unwrap();
        }
        assert_eq!(sent(world).await.unwrap(), each(before + 2), "each run sends each line once");
        let times = times(world).await;
        assert!(times.len() >= 2, "{times:?}");
        for pair in times.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "{} begins before {} has ended", pair[1].0, pair[0].1);
        }
        let expected = i64::try_from(before + 2).unwrap() * VOLUME;
        eventually("the rows in MySQL", within(60), async || {
            let volume = volume(world).await?;
            ensure!(volume == expected, "{volume} instead of {expected}");
            Ok(())
        })
        .await;
        pipeline.until_ready(within(30)).await;
    });
}

#[test]
fn switching_a_schedule_on_and_off_leaves_one_object() {
    story(async |world| {
        let mut pipeline = ready(world).await;
        write_file(world, THREE).await;
        let objects = async || world.kubectl(&["get", "deployments,cronjobs", "-l", "tapeline.dev/producer=hand", "-o", "name"], "").await.unwrap();
        for (schedule, kind) in [(None, "deployment.apps"), (Some(json!({"cron": "@yearly"})), "cronjob.batch"), (None, "deployment.apps")] {
            pipeline.set("/spec/producers", json!([producer(world, schedule)]));
            pipeline.apply().await.unwrap();
            pipeline.until_ready(within(90)).await;
            assert_eq!(objects().await.trim(), format!("{kind}/{}", cron_job_name(&pipeline)));
        }
        // Without a schedule it goes on where it was: nothing is sent again.
        eventually("each line once", within(60), async || {
            let sent = sent(world).await?;
            ensure!(sent == each(1), "{sent:?}");
            Ok(())
        })
        .await;
        pipeline.until("the producer to be done", within(60), |now| says(now, ItemState::Done)).await;
    });
}

#[test]
fn a_schedule_that_is_none_is_named_and_what_was_right_stays() {
    story(async |world| {
        let mut pipeline = ready(world).await;
        write_file(world, THREE).await;
        pipeline.set("/spec/producers", json!([producer(world, Some(json!({"cron": "@yearly"})))]));
        pipeline.apply().await.unwrap();
        pipeline.until_ready(within(60)).await;
        let mistakes = [
            (json!({"cron": "*/5 * * * 7"}), &["spec.producers[0].schedule.cron", "day of the week \"7\"", "Sunday is 0"][..]),
            (json!({"cron": "every minute"}), &["spec.producers[0].schedule.cron", "2 fields instead of five"][..]),
            (json!({"cron": "@daily", "timeZone": "Europe/Berlni"}), &["spec.producers[0].schedule.timeZone", "did you mean \"Europe/Berlin\"?"][..]),
        ];
        for (schedule, parts) in mistakes {
            pipeline.set("/spec/producers/0/schedule", schedule);
            pipeline.apply().await.unwrap();
            let said = pipeline.until("the mistake to be named", within(15), |now| {
                status::expect(now, "Stalled", "True")?;
                let ready = status::expect(now, "Ready", "False")?;
                ensure!(ready.reason == "InvalidSpec" && parts.iter().all(|part| ready.message.contains(part)), "{}", status::describe(now));
                Ok(ready.message)
            });
            println!("{}", said.await);
            assert_eq!(cron_job(world, &pipeline).await.unwrap().spec.schedule, "@yearly");
        }
        pipeline.set("/spec/producers/0/schedule", json!({"cron": "@daily", "timeZone": "Europe/Berlin"}));
        pipeline.apply().await.unwrap();
        pipeline.until_ready(within(30)).await;
        assert_eq!(cron_job(world, &pipeline).await.unwrap().spec.time_zone.as_deref(), Some("Europe/Berlin"));
    });
}

#[test]
fn a_run_that_fails_says_why_until_the_next_one_goes_well() {
    story(async |world| {
        let mut pipeline = ready(world).await;
        write_file(world, "no array").await;
        let mut wrong = producer(world, Some(json!({"cron": "@yearly"})));
        wrong["source"]["file"]["format"] = json!("JSON");
        pipeline.set("/spec/producers", json!([wrong]));
        pipeline.apply().await.unwrap();
        pipeline.until_ready(within(60)).await;
        run_by_hand(world, &pipeline, "bad").await;
        world.kubectl(&["wait", "--for=condition=Failed", "job/bad", "--timeout=90s"], "").await.unwrap();
        let said = pipeline.until("the failure to be told", within(15), |now| {
            let ready = status::expect(now, "Ready", "False")?;
            ensure!(ready.reason == "ProducerFailed", "{}", status::describe(now));
            says(now, ItemState::Failed)
        });
        let message = said.await.message;
        println!("{message}");
        assert!(message.contains("the key \"trades.jsonl\" is not a JSON array of messages") && message.contains("--from=cronjob/"), "{message}");
        // It tried once, since nothing had come of trying again.
        assert_eq!(world.pods("batch.kubernetes.io/job-name=bad").await.unwrap().len(), 1);

        write_file(world, r#"[{"id": 1, "volume": 1}]"#).await;
        run_by_hand(world, &pipeline, "good").await;
        world.kubectl(&["wait", "--for=condition=Complete", "job/good", "--timeout=90s"], "").await.unwrap();
        pipeline.until_ready(within(15)).await;
        let said = says(&pipeline.get().await.unwrap(), ItemState::Done).unwrap();
        assert_eq!(said.message, "");
        assert_eq!(sent(world).await.unwrap(), BTreeMap::from([(1, 1)]));
    });
}

/// Kills the producer's process, and waits for the next one. (To delete its pod by force would be another thing: Kubernetes may then run two at once.)
async fn kill_producer(world: &World) {
    let running = async || -> Result<Process> {
        let pods = world.pods("tapeline.dev/producer=hand").await?;
        pods.iter().find_map(processes::of).context("the producer does not run")
    };
    let killed = running().await.unwrap();
    killed.kill().unwrap();
    eventually("the next process of the producer", within(90), async || {
        ensure!(running().await? != killed, "the one before is still there");
        Ok(())
    })
    .await;
}

#[test]
fn lines_that_are_added_to_a_file_arrive_once_over_restarts() {
    story(async |world| {
        let mut pipeline = ready(world).await;
        write_file(world, THREE).await;
        pipeline.set("/spec/producers", json!([producer(world, None)]));
        pipeline.apply().await.unwrap();
        let arrive = async |expected: BTreeMap<i64, usize>| {
            // Kubernetes brings a ConfigMap that changed into a running pod within a minute or two.
            eventually(&format!("{expected:?} in the topic"), within(180), async || {
                let sent = sent(world).await?;
                ensure!(sent == expected, "{sent:?}");
                Ok(())
            })
            .await;
        };
        // Killed in the middle.
        eventually("the first line", within(90), async || {
            ensure!(!sent(world).await?.is_empty());
            Ok(())
        })
        .await;
        kill_producer(world).await;
        arrive(each(1)).await;
        world.say("the lines arrived once");

        write_file(world, &format!("{THREE}{{\"id\": 4, \"volume\": 1000}}\n")).await;
        let mut four = each(1);
        four.insert(4, 1);
        arrive(four.clone()).await;
        world.say("the added line arrived");
        kill_producer(world).await;
        pipeline.until("the producer to be done", within(90), |now| says(now, ItemState::Done)).await;
        assert_eq!(sent(world).await.unwrap(), four);

        // What was sent may not change; put right, it goes on.
        write_file(world, &THREE.replace("100}", "200}")).await;
        let said = pipeline.until("the change to be told", within(180), |now| says(now, ItemState::Failed)).await;
        assert!(said.message.contains("\"trades.jsonl\"") && said.message.contains("another key"), "{}", said.message);
        write_file(world, &format!("{THREE}{{\"id\": 4, \"volume\": 1000}}\n{{\"id\": 5, \"volume\": 1}}\n")).await;
        four.insert(5, 1);
        arrive(four).await;
        pipeline.until_ready(within(60)).await;
    });
}

/// `kubectl run` of the console producer, under the `restricted` level.
async fn console(world: &World, name: &str, arguments: &[&str], input: &str) -> Result<String> {
    let image = world.producer_image().await?;
    let arguments = [&["console", "--bootstrap-servers", "kafka.data:9092"], arguments].concat();
    let restricted =
        json!({"spec": {"securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}, "containers": [{
            "name": name, "image": image, "imagePullPolicy": "IfNotPresent", "stdin": true, "stdinOnce": true,
            "args": arguments,
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        }]}})
        .to_string();
    let image = format!("--image={image}");
    world.kubectl(&["run", name, "--rm", "-i", "--restart=Never", "--pod-running-timeout=2m", &image, "--overrides", &restricted], input).await
}

#[test]
fn a_console_producer_feeds_a_topic_and_says_what_was_not_taken() {
    story(async |world| {
        let _pipeline = ready(world).await;
        let name = world.topic("ticks");
        let said = console(world, "feed", &["--topic", &name, "--key-separator", "|"], "1|{\"id\": 1, \"volume\": 1}\n\n2|{\"id\": 2, \"volume\": 10}\n")
            .await
            .unwrap();
        println!("{said}");
        assert_eq!(sent(world).await.unwrap(), BTreeMap::from([(1, 1), (2, 1)]));
        eventually("the rows in MySQL", within(60), async || {
            let volume = volume(world).await?;
            ensure!(volume == 11, "{volume}");
            Ok(())
        })
        .await;
        let refused = console(world, "wrong", &["--topic", &world.topic("tiks")], "1\n").await.unwrap_err().to_string();
        assert!(refused.contains("does not exist"), "{refused}");
    });
}
