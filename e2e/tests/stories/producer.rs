//! The producers' own promise: whatever ends one, it goes on where it stopped, and each trade is in the topic once.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tapeline_api::report::{ProducerReport, ProducerState};
use tapeline_api::settings::{FORMAT_VERSION, KafkaSettings, MySqlConnection, ProducerSettings};
use tapeline_e2e::bed::block_on;
use tapeline_e2e::topic::Sent;
use tapeline_e2e::{Bed, command, eventually, golden, topic, within};

/// A producer process; it does not outlive the test.
struct Running(Child);

impl Running {
    fn start(settings: &Path, port: u16) -> Self {
        // Beside this test program: target/release/deps/producer-..
        let binary = std::env::current_exe().unwrap().parent().and_then(Path::parent).unwrap().join("tapeline-producer");
        let folder = settings.parent().unwrap().as_os_str();
        let child = Command::new(&binary)
            .args(["--settings".as_ref(), settings.as_os_str(), "--credentials".as_ref(), folder, "--data-dir".as_ref(), folder])
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

    /// SIGTERM, as Kubernetes ends it, and waits until it has ended well.
    fn stop(&mut self) {
        assert!(Command::new("kill").arg(self.0.id().to_string()).status().unwrap().success());
        let status = self.0.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// The settings of a producer with `source`, written as the operator writes them. Its user of MySQL is in the same folder.
fn settings(folder: &Path, bed: &Bed, topic: &str, source: Value, database: Option<&str>) -> PathBuf {
    let settings = ProducerSettings {
        format_version: FORMAT_VERSION,
        namespace: "e2e".to_owned(),
        pipeline: topic.to_owned(),
        producer: "feed".parse().unwrap(),
        kafka: KafkaSettings { bootstrap_servers: bed.kafka.clone(), client_properties: std::collections::BTreeMap::new() },
        topic: topic.parse().unwrap(),
        source: serde_json::from_value(source).unwrap(),
        once: None,
        mysql: database.map(|database| {
            let options = bed.mysql.connect_options();
            MySqlConnection { host: options.get_host().to_owned(), port: options.get_port(), database: database.parse().unwrap() }
        }),
    };
    std::fs::create_dir_all(folder.join("mysql")).unwrap();
    for file in ["username", "password"] {
        std::fs::write(folder.join("mysql").join(file), "root").unwrap();
    }
    let file = folder.join("settings.json");
    std::fs::write(&file, serde_json::to_vec(&settings).unwrap()).unwrap();
    file
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn sent(port: u16, least: u64) {
    eventually("the producer to send", within(60), async || {
        let report = report(port).await?;
        ensure!(report.messages_total >= least, "{report:?}");
        Ok(())
    })
    .await;
}

/// The messages of a topic as lists of trades, by their first id.
async fn messages(bed: &Bed, topic: &str) -> Result<Vec<Vec<Value>>> {
    let records = topic::records(&bed.kafka, topic).await?;
    let payloads = records.iter().filter_map(|record| record.payload.as_deref().filter(|payload| !payload.is_empty()));
    let mut messages: Vec<Vec<Value>> = payloads.map(|payload| serde_json::from_slice(payload).context("a list of trades")).collect::<Result<_>>()?;
    messages.sort_by_key(|trades| trades[0]["id"].as_i64());
    Ok(messages)
}

async fn report(port: u16) -> Result<ProducerReport> {
    tapeline_e2e::http::json(&format!("http://127.0.0.1:{port}/status")).await
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
        let settings = settings(folder.path(), bed, &name, json!({"replay": {"file": "stocks.csv.gz", "speed": "41000000x"}}), None);
        let port = free_port();
        for round in 1..=5 {
            let mut producer = Running::start(&settings, port);
            sent(port, 1).await;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..1500))).await;
            let sent = report(port).await.unwrap();
            producer.kill();
            println!("kill {round} after {} messages, {:?}", sent.messages_total, sent.state);
        }
        let producer = Running::start(&settings, port);
        done(port).await;
        let sent = topic::trades(&bed.kafka, &name).await.unwrap();
        assert_eq!(sent, Sent { history: golden::TRADES, whole: true, ..Sent::default() }, "seed {seed}");
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

#[test]
fn a_simulated_market_is_the_same_however_often_its_producer_ends() {
    block_on(async {
        let bed = Bed::get().await;
        let names = ["undisturbed", "ended"].map(|name| format!("e2e-simulate-{name}-{:08x}", rand::random::<u32>()));
        let database = format!("e2e_simulate_{:08x}", rand::random::<u32>());
        for statement in [
            format!("CREATE DATABASE {database}"),
            format!("CREATE TABLE {database}.profile (ticker VARCHAR(8) PRIMARY KEY, sector VARCHAR(64), shares BIGINT)"),
            format!("INSERT INTO {database}.profile VALUES ('AAPL', 'IT', 1000), ('IBM', 'IT', 2000), ('KO', 'Staples', NULL)"),
        ] {
            sqlx::query(AssertSqlSafe(statement)).execute(&bed.mysql).await.unwrap();
        }
        let source = json!({"simulate": {"interval": "20ms", "seed": 5, "firstId": 1000, "symbolsFrom": {"mysql": {"table": "profile"}}}});
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let mut markets = Vec::new();
        for ((name, folder), ends) in names.iter().zip(&folders).zip([0, 6]) {
            topic::create(&bed.kafka, name, 3).await.unwrap();
            let settings = settings(folder.path(), bed, name, source.clone(), Some(&database));
            let port = free_port();
            for end in 0..ends {
                let mut producer = Running::start(&settings, port);
                sent(port, 10).await;
                if end % 2 == 0 { producer.stop() } else { producer.kill() }
            }
            let mut producer = Running::start(&settings, port);
            sent(port, 60).await;
            producer.stop();
            markets.push(messages(bed, name).await.unwrap());
        }
        // Apart from the time at which they were made, the ticks of both are the same.
        let essence = |market: &[Vec<Value>]| -> Vec<Value> {
            let trades = market.iter().flatten();
            trades.map(|trade| json!([trade["id"], trade["ticker"], trade["sector"], trade["price"], trade["volume"], trade["market_cap"]])).collect()
        };
        let (one, other) = (essence(&markets[0]), essence(&markets[1]));
        let common = one.len().min(other.len());
        assert!(common >= 3 * 60 && other.len() >= 3 * 120, "{} and {} trades", one.len(), other.len());
        assert_eq!(one[..common], other[..common]);
        let ids: Vec<i64> = other.iter().map(|trade| trade[0].as_i64().unwrap()).collect();
        assert!(ids.iter().copied().eq((1000..).take(ids.len())), "every id once: {ids:?}");

        sqlx::query(AssertSqlSafe(format!("DROP DATABASE {database}"))).execute(&bed.mysql).await.unwrap();
        topic::delete(&bed.kafka, &names.each_ref().map(String::as_str)).await.unwrap();
    });
}

#[test]
fn a_replay_of_a_mounted_file_begins_again_with_further_ids() {
    block_on(async {
        let bed = Bed::get().await;
        let name = format!("e2e-loop-{:08x}", rand::random::<u32>());
        topic::create(&bed.kafka, &name, 2).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let bars = "Ticker,Date,Open,High,Low,Close,Volume\nA,2024-01-02,10,12,9,11,1003\nA,2024-01-03,11,12,10,10.5,998\nB,2024-01-03,5,5,5,5,7\n";
        std::fs::write(folder.path().join("bars.csv"), bars).unwrap();
        // A day in 30 ms.
        let replay = json!({"configMapKeyRef": {"name": "bars", "key": "bars.csv"}, "tradesPerBar": 4, "loop": true, "speed": "2880000x"});
        let settings = settings(folder.path(), bed, &name, json!({"replay": replay}), None);
        let port = free_port();
        for end in 0..4 {
            let mut producer = Running::start(&settings, port);
            sent(port, 15).await;
            if end % 2 == 0 { producer.kill() } else { producer.stop() }
        }
        let trades: Vec<Value> = messages(bed, &name).await.unwrap().into_iter().flatten().collect();
        let ids: Vec<i64> = trades.iter().map(|trade| trade["id"].as_i64().unwrap()).collect();
        assert!(ids.iter().copied().eq((1..).take(ids.len())), "every id once: {ids:?}");
        let round = 3 * 4;
        assert!(trades.len() >= 4 * 15, "{}", trades.len());
        for round in trades.chunks_exact(round) {
            assert_eq!(round.iter().map(|trade| trade["volume"].as_i64().unwrap()).sum::<i64>(), 1003 + 998 + 7);
        }
        topic::delete(&bed.kafka, &[&name]).await.unwrap();
    });
}
