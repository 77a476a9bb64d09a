//! One fault run: the pipeline, whose feed is slow enough that each fault has work to hit, the faults, and the comparison at the end.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::future::{join_all, try_join_all};
use k8s_openapi::api::core::v1::Pod;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use tapeline_api::report::WorkerReport;
use tapeline_api::settings::HTTP_PORT;
use tapeline_e2e::connect::MONGODB_USER;
use tapeline_e2e::golden::{BARS, DAYS};
use tapeline_e2e::processes::{self, Process};
use tapeline_e2e::recompute::{self, Expected, Record};
use tapeline_e2e::report::Report;
use tapeline_e2e::servers::{Down, Server};
use tapeline_e2e::sinks::Sink;
use tapeline_e2e::wait::all_along;
use tapeline_e2e::{Pipeline, World, eventually, golden, status, topic, within};

const SIX_SINKS: &str = include_str!("../../pipelines/six-sinks.yaml");
/// The companies of the recording, with the sectors and shares that the example gives them.
const COMPANIES: &str = "ticker,sector,shares\nAAPL,Information Technology,6170000000\nFB,Communication Services,9933000000\n\
    GOOG,Communication Services,5098000000\nIBM,Information Technology,7877000000\nMSFT,Information Technology,4739000000\n";
/// A member that is silent for longer is taken for dead by the group, as the pipeline asks for.
const SESSION_TIMEOUT: Duration = Duration::from_secs(15);
/// Of both topics.
const PARTITIONS: i32 = 6;
/// Seconds of recorded time, from the first bar to the last.
const HISTORY: u64 = 410_313_600;

/// How the recording is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Feed {
    pub(crate) trades_per_bar: u64,
    /// Over how long. What is left when the faults are over comes as fast as it can.
    pub(crate) seconds: u64,
    /// How many workers each query begins with.
    pub(crate) workers: usize,
}

/// A server that is down, and since when.
pub(crate) struct Outage {
    down: Down,
    server: Server,
    since: Instant,
}

pub(crate) struct Run<'w> {
    world: &'w World,
    pub(crate) pipeline: Pipeline<'w>,
    random: StdRng,
    feed: Feed,
    applied: Instant,
    report: Report<'w>,
}

impl<'w> Run<'w> {
    /// The pipeline, once the first trades are in all stores.
    pub(crate) async fn begin(world: &'w World, test: &'static str, feed: Feed) -> Self {
        let seed = std::env::var("FAULT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
        println!("FAULT_SEED={seed}");
        let report = Report::begin(world, test, seed);
        world.apply_secrets().await.unwrap();
        let user = json!({"username": MONGODB_USER, "password": MONGODB_USER});
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mongodb"}, "stringData": user});
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "five-companies"}, "data": {"profile.csv": COMPANIES}});
        world.apply(&[secret, map]).await.unwrap();
        let mut pipeline = world.pipeline(SIX_SINKS);
        pipeline.set("/spec/producers/0/source/replay/tradesPerBar", json!(feed.trades_per_bar));
        pipeline.set("/spec/producers/0/source/replay/speed", json!(format!("{}x", HISTORY / feed.seconds)));
        scale(&mut pipeline, feed.workers);
        let applied = Instant::now();
        pipeline.apply().await.unwrap();
        pipeline.until_ready(within(240)).await;
        let run = Self { world, pipeline, random: StdRng::seed_from_u64(seed), feed, applied, report };
        for sink in Sink::ALL {
            eventually(&format!("the first trades in {sink}"), within(120), async || {
                ensure!(sink.arrived(world).await? > 0, "none yet");
                Ok(())
            })
            .await;
        }
        run
    }

    pub(crate) fn between(&mut self, seconds: Range<f64>) -> Duration {
        Duration::from_secs_f64(self.random.random_range(seconds))
    }

    pub(crate) fn one_of(&mut self, servers: &[Server]) -> Server {
        servers[self.random.random_range(0..servers.len())]
    }

    /// Lets time pass: the moment of the next fault.
    pub(crate) async fn moment(&mut self, seconds: Range<f64>) {
        tokio::time::sleep(self.between(seconds)).await;
    }

    /// A fault after the end of a query's work would show nothing.
    pub(crate) async fn goes_on(&self, sinks: &[Sink]) {
        // The feed keeps its time, so until then more is to come for all.
        if self.applied.elapsed() < Duration::from_secs(self.feed.seconds) {
            return;
        }
        for sink in sinks {
            // A store that was stopped has not counted everything.
            let arrived = sink.arrived(self.world).await.unwrap_or_default();
            assert!(u64::try_from(arrived).unwrap() < sink.goal(self.feed.trades_per_bar), "everything had arrived in {sink} before the fault");
        }
    }

    /// Does something to a running worker of the sink's query, and returns its pod's name. One that is just ending, by an earlier fault, is not taken.
    async fn strike(&mut self, sink: Sink, act: impl Fn(&Process) -> Result<()>) -> (String, Process) {
        self.goes_on(&[sink]).await;
        let (pipeline, random) = (&self.pipeline, &mut self.random);
        eventually(&format!("a running worker of {}", sink.query()), within(360), async || {
            let running: Vec<_> = pipeline.pods(sink.query()).await?.into_iter().filter_map(|pod| processes::of(&pod).map(|process| (pod, process))).collect();
            ensure!(!running.is_empty(), "no worker of {} runs", sink.query());
            let chosen = random.random_range(0..running.len());
            let (pod, process) = running.into_iter().nth(chosen).context("a victim")?;
            act(&process)?;
            Ok((pod.metadata.name.unwrap_or_default(), process))
        })
        .await
    }

    /// Kills a worker of each query, and so many `further` ones, at random moments and in random order.
    pub(crate) async fn kill_workers(&mut self, further: usize) {
        let mut victims = Sink::ALL.to_vec();
        for _ in 0..further {
            victims.push(Sink::ALL[self.random.random_range(0..Sink::ALL.len())]);
        }
        victims.shuffle(&mut self.random);
        for sink in victims {
            self.moment(0.2..3.0).await;
            let (name, _) = self.strike(sink, Process::kill).await;
            self.world.say(format!("killed the worker in {name}"));
        }
    }

    /// Freezes a worker of each query until the others have taken over its partitions, and for `longer`; then it goes on where it stood. (After a minute of silence
    /// the kubelet would end it: on a slow machine the default session timeout, 45 s, leaves too little of that.)
    pub(crate) async fn freeze_workers(&mut self, longer: Duration) {
        let mut frozen = Vec::new();
        for sink in Sink::ALL {
            let (name, process) = self.strike(sink, Process::freeze).await;
            self.world.say(format!("froze the worker in {name}"));
            frozen.push((sink, name, process));
        }
        join_all(frozen.iter().map(async |(sink, name, process)| {
            // A container that was killed several times is started again after minutes only.
            eventually(&format!("the other workers of {} to read all partitions", sink.query()), SESSION_TIMEOUT + within(360), async || {
                let others: Vec<Pod> = self.pipeline.pods(sink.query()).await?.into_iter().filter(|other| other.metadata.name.as_ref() != Some(name)).collect();
                shared(&held(&others).await?)
            })
            .await;
            self.world.say(format!("the others have taken over from {name}"));
            tokio::time::sleep(longer).await;
            process.thaw().unwrap();
            self.world.say(format!("the worker in {name} goes on"));
        }))
        .await;
    }

    /// Asks for so many workers of each query.
    pub(crate) async fn ask_for_workers(&mut self, count: usize) {
        self.goes_on(&Sink::ALL).await;
        scale(&mut self.pipeline, count);
        self.pipeline.apply().await.unwrap();
        self.world.say(format!("asked for {count} workers of each query"));
    }

    /// Waits until so many workers of each query share all partitions.
    pub(crate) async fn until_shared_by(&self, count: usize) {
        for sink in Sink::ALL {
            eventually(&format!("{count} workers of {} to share all partitions", sink.query()), within(480), async || {
                let pods = self.pipeline.pods(sink.query()).await?;
                ensure!(pods.len() == count, "there are {}", pods.len());
                let held = held(&pods).await?;
                ensure!(held.iter().all(|of_one| !of_one.is_empty()), "they read {held:?}");
                shared(&held)
            })
            .await;
        }
        self.world.say(format!("{count} of each query share the partitions"));
    }

    pub(crate) async fn stop(&self, server: Server) -> Outage {
        let outage = Outage { down: server.stop().await.unwrap(), server, since: Instant::now() };
        self.world.say(format!("stopped {server:?}"));
        outage
    }

    pub(crate) async fn kill(&self, server: Server) -> Outage {
        let outage = Outage { down: server.kill().await.unwrap(), server, since: Instant::now() };
        self.world.say(format!("killed {server:?}"));
        outage
    }

    pub(crate) async fn freeze(&self, server: Server) -> Outage {
        let outage = Outage { down: server.freeze().await.unwrap(), server, since: Instant::now() };
        self.world.say(format!("froze {server:?}"));
        outage
    }

    /// Brings a server back when it was down for `lasting`.
    pub(crate) async fn start(&self, outage: Outage, lasting: Duration) {
        tokio::time::sleep(lasting.saturating_sub(outage.since.elapsed())).await;
        outage.down.start().await.unwrap();
        self.world.say(format!("{:?} is back after {} s", outage.server, outage.since.elapsed().as_secs()));
    }

    /// Waits until more has arrived in each of `sinks` than now, while other servers are down.
    pub(crate) async fn arrives_further(&self, sinks: &[Sink]) {
        let mut counts = Vec::new();
        for sink in sinks {
            // Our own connection with a store that was down comes back in its own time, too.
            counts.push((sink, eventually(&format!("a count of what is in {sink}"), within(60), async || sink.arrived(self.world).await).await));
        }
        for (sink, before) in counts {
            eventually(&format!("the query into {sink} to go on"), within(60), async || {
                let now = sink.arrived(self.world).await?;
                ensure!(now > before, "still {now}");
                Ok(())
            })
            .await;
        }
        self.world.say(format!("meanwhile more arrives in {}", sinks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")));
    }

    /// Waits until the query says that it waits for its store, by name.
    pub(crate) async fn until_query_waits_for(&self, sink: Sink, store: &str) {
        let says = |now: &tapeline_api::TradingPipeline| {
            let query = status::query(now, sink.query())?;
            ensure!(query.state.to_string() == "Waiting" && query.message.contains(store), "{query:?}");
            let ready = status::expect(now, "Ready", "False")?;
            ensure!(ready.message.contains(store), "{}", status::describe(now));
            Ok(())
        };
        self.pipeline.until(&format!("the query {} to wait for {store}", sink.query()), within(60), says).await;
    }

    /// Waits until Ready is False for `reason`.
    pub(crate) async fn until_reason(&self, reason: &str) {
        let says = |now: &tapeline_api::TradingPipeline| {
            ensure!(status::expect(now, "Ready", "False")?.reason == reason, "{}", status::describe(now));
            Ok(())
        };
        self.pipeline.until(&format!("the reason {reason}"), within(60), says).await;
        self.world.say(format!("the pipeline says {reason}"));
    }

    /// The generations of all queries' Deployments.
    pub(crate) async fn generations(&self) -> Vec<i64> {
        try_join_all(Sink::ALL.map(|sink| self.pipeline.generation(sink.query()))).await.unwrap()
    }

    /// Lets the rest of the feed come at once, and checks that every record of the topic is in each store, once, and stays so.
    pub(crate) async fn ends_exact(&mut self, deadline: Duration) {
        let world = self.world;
        self.pipeline.set("/spec/producers/0/source/replay/speed", json!("Max"));
        self.pipeline.apply().await.unwrap();
        world.say("the rest of the recording comes at once");
        let records = self.all_sent(deadline).await;
        assert_eq!(recompute::by_sector(&records), golden::volumes(&golden::BY_SECTOR), "the topic holds the recording");
        let expected = Expected::of(&records).unwrap();
        self.until_caught_up(deadline).await;

        let probe = async || {
            let mut compared = Vec::new();
            for sink in Sink::ALL {
                compared.push(sink.compare(world, &expected).await?);
            }
            Ok(compared)
        };
        let compared = eventually("what arrived to equal the topic", deadline, probe).await;
        world.say("what arrived equals a recomputation from the topic");
        all_along("what arrived", within(5), async || probe().await.map(drop)).await;
        println!("{}", compared.join("\n"));
        let letters = topic::records(&world.kafka, &world.topic("trades.dead-letter")).await.unwrap();
        assert_eq!(letters.len(), 0, "no outage makes a record a bad one: {:?}", letters.first());
        self.report.compared(compared);
        self.pipeline.until_ready(within(180)).await;
    }

    /// Waits until no query lags behind its topic, by what its workers say. To compare is to read everything, which takes the processors from those who write.
    async fn until_caught_up(&self, deadline: Duration) {
        for sink in Sink::ALL {
            eventually(&format!("the query {} to catch up", sink.query()), deadline, async || {
                let pods = self.pipeline.pods(sink.query()).await?;
                let reports = try_join_all(pods.iter().map(report)).await?;
                let partitions: Vec<_> = reports.iter().flat_map(|report| &report.partitions).collect();
                shared(&[partitions.iter().map(|known| known.partition).collect()])?;
                let behind: Vec<_> = partitions.iter().filter(|known| known.end_offset != Some(known.next_offset)).collect();
                ensure!(behind.is_empty(), "{behind:?}");
                Ok(())
            })
            .await;
        }
        self.world.say("no query lags any more");
    }

    /// The report says so.
    pub(crate) fn passed(self) {
        self.report.passed();
    }

    /// The records of the topic, once it has the whole recording.
    async fn all_sent(&self, deadline: Duration) -> Vec<Record> {
        let Feed { trades_per_bar, .. } = self.feed;
        eventually("the whole recording in the topic", deadline, async || {
            let ends = topic::ends(&self.world.kafka, &self.world.topic("trades")).await?;
            let messages = u64::try_from(ends.into_iter().map(|(_, end)| end).sum::<i64>())?;
            ensure!(messages >= DAYS * trades_per_bar, "{messages} messages");
            let records = recompute::records(&self.world.kafka, &self.world.topic("trades")).await?;
            ensure!(records.len() as u64 == BARS * trades_per_bar, "{} trades", records.len());
            Ok(records)
        })
        .await
    }
}

fn scale(pipeline: &mut Pipeline<'_>, workers: usize) {
    for query in pipeline.list("/spec/queries") {
        query["scale"] = json!({"replicas": workers});
    }
}

/// Which partitions each of `pods` reads.
async fn held(pods: &[Pod]) -> Result<Vec<BTreeSet<i32>>> {
    let partitions = async |pod| anyhow::Ok(report(pod).await?.partitions.iter().map(|held| held.partition).collect());
    try_join_all(pods.iter().map(partitions)).await
}

async fn report(pod: &Pod) -> Result<WorkerReport> {
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).context("the pod has no address")?;
    tapeline_e2e::http::json(&format!("http://{address}:{HTTP_PORT}/status")).await
}

/// Each partition is read by one of them.
fn shared(held: &[BTreeSet<i32>]) -> Result<()> {
    let read: Vec<i32> = held.iter().flatten().copied().collect();
    let distinct: BTreeSet<i32> = read.iter().copied().collect();
    ensure!(read.len() == distinct.len() && distinct.into_iter().eq(0..PARTITIONS), "they read {held:?}");
    Ok(())
}
