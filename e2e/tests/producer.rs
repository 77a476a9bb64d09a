//! The replay's own promise: whatever kills the producer, each trade is in the topic once.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tapeline_api::pipeline::producers::{Replay, Source, Speed};
use tapeline_api::report::{ProducerReport, ProducerState};
use tapeline_api::settings::{FORMAT_VERSION, KafkaSettings, ProducerSettings};
use tapeline_e2e::bed::block_on;
use tapeline_e2e::topic::Sent;
use tapeline_e2e::{Bed, command, eventually, golden, topic, within};

/// A producer process; it does not outlive the test.
struct Running(Child);

impl Running {
    fn start(settings: &Path, port: u16) -> Self {
        // Beside this test program: target/release/deps/producer-..
        let binary = std::env::current_exe().unwrap().parent().and_then(Path::parent).unwrap().join("tapeline-producer");
        let child = Command::new(&binary)
            .args(["--settings".as_ref(), settings.as_os_str()])
            .args(["--image-data-dir".as_ref(), command::repository().join("examples/data").as_os_str()])
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap_or_else(|error| panic!("starting {}: {error}; cargo build --release --workspace", binary.display())))
    }

    /// SIGKILL, whatever it is doing.
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn settings(folder: &Path, kafka: &str, topic: &str, speed: Speed) -> PathBuf {
    let replay =
        Replay { file: Some("stocks.csv.gz".to_owned()), config_map_key_ref: None, trades_per_bar: 10, speed, repeat: false, first_id: 1, symbols_from: None };
    let settings = ProducerSettings {
        format_version: FORMAT_VERSION,
        namespace: "e2e".to_owned(),
        pipeline: topic.to_owned(),
        producer: "history".parse().unwrap(),
        kafka: KafkaSettings { bootstrap_servers: kafka.to_owned(), client_properties: std::collections::BTreeMap::new() },
        topic: topic.parse().unwrap(),
        source: Source { simulate: None, replay: Some(replay) },
        mysql: None,
    };
    let file = folder.join("settings.json");
    std::fs::write(&file, serde_json::to_vec(&settings).unwrap()).unwrap();
    file
}

async fn report(port: u16) -> Result<ProducerReport> {
    Ok(reqwest::get(format!("http://127.0.0.1:{port}/status")).await?.error_for_status()?.json().await?)
}

async fn done(port: u16) {
    eventually("the producer to say that it is done", within(90), async || {
        let report = report(port).await?;
        ensure!(report.state == ProducerState::Done, "{report:?}");
        Ok(())
    })
    .await;
}

#[test]
fn a_replay_killed_several_times_sends_each_trade_once() {
    let seed = std::env::var("FAULT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut random = StdRng::seed_from_u64(seed);
    block_on(async {
        let bed = Bed::get().await;
        let name = format!("e2e-replay-{:08x}", rand::random::<u32>());
        topic::create(&bed.kafka, &name, 6).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        // Thirteen years in ten seconds, so that there is something to interrupt.
        let settings = settings(folder.path(), &bed.kafka, &name, Speed::Factor(41_000_000));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        for round in 1..=5 {
            let mut producer = Running::start(&settings, port);
            eventually("the producer to send", within(60), async || {
                let report = report(port).await?;
                ensure!(report.messages_total > 0, "{report:?}");
                Ok(())
            })
            .await;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..1500))).await;
            let sent = report(port).await.unwrap();
            producer.kill();
            println!("kill {round} after {} messages, {:?}", sent.messages_total, sent.state);
        }
        let producer = Running::start(&settings, port);
        done(port).await;
        let sent = topic::trades(&bed.kafka, &name).await.unwrap();
        assert_eq!(sent, Sent { history: golden::TRADES, repeated: 0, others: 0 }, "seed {seed}");
        drop(producer);

        // A finished replay that is started again sends nothing.
        let before =
            topic::records(&bed.kafka, &name).await.unwrap().iter().filter(|record| record.payload.as_ref().is_some_and(|payload| !payload.is_empty())).count();
        let producer = Running::start(&settings, port);
        done(port).await;
        drop(producer);
        let after =
            topic::records(&bed.kafka, &name).await.unwrap().iter().filter(|record| record.payload.as_ref().is_some_and(|payload| !payload.is_empty())).count();
        assert_eq!(after, before);
        topic::delete(&bed.kafka, &[&name]).await.unwrap();
    });
}
