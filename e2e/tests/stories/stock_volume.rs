//! The main job: `examples/1-stock-volume`, applied as a user applies it, over the whole history.

use std::process::Command;

use anyhow::ensure;
use tapeline_e2e::{World, command, eventually, golden, status, story, topic, within};

use crate::small::ready;

#[test]
fn a_full_replay_gives_the_golden_sums_in_both_stores() {
    story(async |world| {
        world.apply_secrets().await.unwrap();
        let pipeline = world.stock_volume().await.unwrap();
        pipeline.apply().await.unwrap();
        // `kubectl wait` is how a script waits.
        let wait = ["wait", "--for=condition=Ready", &format!("tp/{}", pipeline.name), "--timeout=120s"];
        world.kubectl(&wait, "").await.unwrap();
        world.say("ready");

        eventually("the whole history in MySQL, by sector", within(120), async || {
            let sums = golden::by_sector(&world.mysql, &world.schema()).await?;
            ensure!(sums == golden::volumes(&golden::BY_SECTOR), "{sums:?}");
            Ok(())
        })
        .await;
        eventually("the whole history in Cassandra, by ticker", within(120), async || {
            let stored = golden::stored(&world.cassandra, &world.schema(), "real_time_data", i64::MAX).await?;
            ensure!(stored.history == golden::TRADES && stored.others == 0, "{stored:?}");
            ensure!(stored.by_ticker == golden::volumes(&golden::BY_TICKER), "{stored:?}");
            Ok(())
        })
        .await;
        world.say("all sums are right");
        let sent = topic::trades(&world.kafka, &world.topic("trading_data")).await.unwrap();
        assert_eq!((sent.history, sent.repeated, sent.others), (golden::TRADES, 0, 0));

        the_report_of_the_demo_agrees(world);
        pipeline.expect_calm().await.unwrap();
        what_kubectl_shows(world, &pipeline.name).await;
    });
}

/// `make demo` ends with this.
fn the_report_of_the_demo_agrees(world: &World) {
    let address = |name: &str, port: u16| std::env::var(name).unwrap_or_else(|_| format!("10.99.0.1:{port}"));
    let mysql = format!("mysql://root:root@{}", address("TESTBED_MYSQL", 3306));
    let (cassandra, schema, topic) = (address("TESTBED_CASSANDRA", 9042), world.schema(), world.topic("trading_data"));
    let arguments = ["--kafka", &world.kafka, "--cassandra", &cassandra, "--mysql", &mysql, "--keyspace", &schema, "--database", &schema, "--topic", &topic];
    let output = Command::new(env!("CARGO_BIN_EXE_demo-report")).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("309,890,993,650") && !text.contains('✗'), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

async fn what_kubectl_shows(world: &World, name: &str) {
    let columns = world.kubectl(&["get", "tp", name], "").await.unwrap();
    let lines: Vec<Vec<&str>> = columns.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "READY", "REASON", "LAG", "BEHIND", "ROWS/S", "AGE"], "{columns}");
    assert_eq!(lines[1][..3], [name, "True", "Ready"], "{columns}");
    let wide = world.kubectl(&["get", "tp", name, "-o", "wide"], "").await.unwrap();
    let (headers, values) = wide.split_once('\n').unwrap();
    let below =
        |header: &str| values.get(headers.find(header).unwrap_or_else(|| panic!("no {header} in {wide}"))..).unwrap().split_whitespace().next().unwrap();
    // Two topics; one table in Cassandra, two tables and a view in MySQL; three workers and one producer.
    assert_eq!(["TOPICS", "TABLES", "WORKERS", "MESSAGE"].map(below), ["2/2", "4/4", "4/4", "everything"], "{wide}");

    let described = world.kubectl(&["describe", "tp", name], "").await.unwrap();
    for part in ["TopicsReady", "CassandraReady", "MySQLReady", "WorkersReady", "Stalled", "Reconciling"] {
        assert!(described.contains(part), "no {part} in\n{described}");
    }
}

#[test]
fn numbers_of_the_workers_come_into_the_status() {
    story(async |world| {
        let pipeline = ready(world).await;
        topic::send(&world.kafka, &world.topic("ticks"), None, &[r#"[{"id": 1, "volume": 5}, {"id": 2, "volume": 7}]"#]).await.unwrap();
        pipeline
            .until("a lag of 0 for both queries", within(150), |pipeline| {
                for name in ["raw", "volume"] {
                    let query = status::query(pipeline, name)?;
                    ensure!((query.lag, query.replicas, query.ready_replicas) == (Some(0), Some(1), Some(1)), "{query:?}");
                    ensure!(query.bad_records == Some(0) && query.state.to_string() == "Running", "{query:?}");
                }
                ensure!(status::of(pipeline).lag == Some(0), "{:?}", status::of(pipeline));
                Ok(())
            })
            .await;
    });
}

#[test]
fn explain_reads_like_documentation() {
    story(async |_| {
        let explained = command::kubectl(&["explain", "tp.spec.queries"], "").await.unwrap();
        for part in ["SQL over a stream, run in micro-batches into a sink.", "When a micro-batch ends", "-required-", "scale", "trigger"] {
            assert!(explained.contains(part), "no {part:?} in\n{explained}");
        }
        let every_field = command::kubectl(&["explain", "tp.spec", "--recursive"], "").await.unwrap();
        assert!(every_field.contains("deadLetterTopic"), "{every_field}");
        let mode = command::kubectl(&["explain", "tp.spec.queries.sink.mysql.mode"], "").await.unwrap();
        assert!(mode.contains("Append: every output row of every micro-batch is a new row."), "{mode}");
    });
}

/// The ConfigMap of the example is the data's file.
#[test]
fn the_example_has_the_companies_of_the_data() {
    let read = |path: &str| std::fs::read_to_string(command::repository().join(path)).unwrap();
    let documents: Vec<serde_json::Value> = serde_yaml::from_multiple(&read("examples/1-stock-volume/pipeline.yaml")).unwrap();
    let map = documents.iter().find(|document| document["kind"] == "ConfigMap").unwrap();
    assert_eq!(map["data"]["profile.csv"].as_str().unwrap(), read("examples/data/profile.csv"));
}
