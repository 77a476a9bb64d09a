//! The examples do what their READMEs say: the commands are run, and what is to be seen is compared, both read from the README itself. Deleting an example leaves nothing of it in
//! the namespace, and keeps topics and rows.
//!
//! An example's names are fixed, so that users can read them; hence each has names that no other has, and one test.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tapeline_e2e::readme::{self, Look, Step};
use tapeline_e2e::servers::{self, Server as BedServer};
use tapeline_e2e::wait::all_along;
use tapeline_e2e::world::story_with_own_operator;
use tapeline_e2e::{World, command, eventually, http, look, story, topic, within};
use tempfile::NamedTempFile;
use tokio::net::TcpStream;

#[test]
fn sales() {
    story(async |world| _ = Example::new(world, "0-sales").await.holds().await);
}

#[test]
fn stock_volume() {
    story(async |world| _ = Example::new(world, "1-stock-volume").await.holds().await);
}

#[test]
fn crypto_trades() {
    story(async |world| {
        servers::start(&[BedServer::CassandraAuth]).await.unwrap();
        Example::new(world, "2-crypto-trades").await.holds().await;
    });
}

#[test]
fn many_topics() {
    story(async |world| {
        servers::start(&[BedServer::Mongo]).await.unwrap();
        world.take_brokers().await.unwrap();
        let topics = Example::new(world, "3-many-topics").await.holds().await;
        assert_eq!(topics.len(), 12, "six, each with its dead letters: {topics:?}");
        assert!(topics.values().all(|copies| copies == &[3, 3, 3]), "each partition is on all three brokers: {topics:?}");
    });
}

/// In a namespace that no earlier run had: what a query into Kafka has read is kept under the namespace's name in a topic that all pipelines share.
#[test]
fn item_sales() {
    story_with_own_operator(async |world| _ = Example::new(world, "4-item-sales").await.holds().await);
}

#[test]
fn candles() {
    story(async |world| _ = Example::new(world, "5-candles").await.holds().await);
}

#[test]
fn enriched() {
    story(async |world| _ = Example::new(world, "6-enriched").await.holds().await);
}

/// Each folder has a test above, which is named as the folder without its number.
#[test]
fn every_example_is_tested() {
    let examples = std::fs::read_dir(command::repository().join("examples")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let numbered: Vec<String> = examples.filter(|name| name.starts_with(|c: char| c.is_ascii_digit())).collect();
    assert_eq!(numbered.len(), 7, "{numbered:?}");
    for folder in numbered {
        let quoted = format!("\"{folder}\"");
        assert!(include_str!("examples.rs").contains(&quoted), "{folder} has no test");
        readme::steps(&readme_of(&folder)).unwrap_or_else(|error| panic!("{folder}: {error:#}"));
    }
}

/// Rendered as the READMEs say, and taken by the API server: lists are merged by name, with the OpenAPI file that is shipped.
#[test]
fn overlays_change_what_they_name_and_nothing_else() {
    story(async |world| {
        let changed = [
            ("1-stock-volume/datacenters", "/spec/cassandra/replication", json!({"class": "NetworkTopologyStrategy", "datacenters": {"datacenter1": 3}})),
            ("1-stock-volume/datacenters", "/spec/kafka/topics/1/replicationFactor", json!(3)),
            ("1-stock-volume/datacenters", "/spec/kafka/topics/1/partitions", json!(6)),
            ("2-crypto-trades/local", "/spec/producers/0/source/websocket/url", json!("ws://10.99.0.2:8090/finnhub?token=${apiKey}")),
            ("2-crypto-trades/local", "/spec/producers/0/source/websocket/feed", json!("Finnhub")),
            ("3-many-topics/local", "/spec/producers/0/source/http/url", json!("http://10.99.0.2:8091/users?results=10")),
            ("3-many-topics/local", "/spec/producers/0/source/http/elements", json!("/results")),
        ];
        for (overlay, pointer, expected) in changed {
            let folder = format!("examples/{overlay}");
            let rendered = command::kubectl(&["kustomize", "--load-restrictor", "LoadRestrictionsNone", &folder], "").await.unwrap();
            let documents: Vec<Value> = serde_yaml::from_multiple(&rendered).unwrap();
            let pipeline = documents.iter().find(|document| document["kind"] == "TradingPipeline").unwrap();
            assert_eq!(pipeline.pointer(pointer), Some(&expected), "{overlay}: {pointer}");
            world.kubectl(&["apply", "--dry-run=server", "-f", "-"], &rendered).await.unwrap();
        }
    });
}

fn readme_of(folder: &str) -> String {
    std::fs::read_to_string(command::repository().join("examples").join(folder).join("README.md")).unwrap()
}

/// Topics by name, each with the number of replicas of each partition.
type Topics = BTreeMap<String, Vec<usize>>;

/// An example in the namespace of a test.
struct Example<'w> {
    world: &'w World,
    folder: &'static str,
    /// The pipelines that it consists of.
    pipelines: Vec<Value>,
    /// As `KUBECONFIG`: the test's namespace is the current one, as a README takes for granted.
    kubeconfig: NamedTempFile,
}

/// Ends when it is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

impl<'w> Example<'w> {
    async fn new(world: &'w World, folder: &'static str) -> Self {
        let mut pipelines = Vec::new();
        for entry in std::fs::read_dir(command::repository().join("examples").join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let documents: Vec<Value> = serde_yaml::from_multiple(&std::fs::read_to_string(path).unwrap()).unwrap();
                pipelines.extend(documents.into_iter().filter(|document| document["kind"] == "TradingPipeline"));
            }
        }
        assert!(!pipelines.is_empty(), "{folder} has no pipeline");
        let mut kubeconfig = NamedTempFile::new().unwrap();
        let config = command::kubectl(&["config", "view", "--raw", "--minify", "--flatten"], "").await.unwrap();
        kubeconfig.write_all(config.as_bytes()).unwrap();
        let path = kubeconfig.path().display().to_string();
        command::kubectl(&["--kubeconfig", &path, "config", "set-context", "--current", "--namespace", &world.namespace], "").await.unwrap();
        Self { world, folder, pipelines, kubeconfig }
    }

    /// Does what the README says, and looks whether it is so. Gives its topics.
    async fn holds(&self) -> Topics {
        self.nobody_else_runs_it().await;
        self.remove_what_it_made().await.unwrap();
        let (mut servers, mut looks, mut topics) = (Vec::new(), Vec::new(), None);
        for step in readme::steps(&readme_of(self.folder)).unwrap() {
            match step {
                Step::Run(commands) => {
                    self.shell(&commands).await.unwrap();
                    // What the cluster shows may be what these commands put an end to; rows and messages stay.
                    looks.retain(|(look, _)| !matches!(look, Look::Shell(_)));
                }
                Step::Server(command) => servers.push(self.server(&command).await),
                Step::Look(look, expected) => {
                    self.shows(&look, &expected).await;
                    looks.push((look, expected));
                }
                Step::Delete(commands) => {
                    self.goes_on_showing(&looks).await;
                    self.has_its_dashboards().await;
                    topics = Some(self.topics().await.unwrap());
                    self.shell(&commands).await.unwrap();
                }
            }
        }
        let topics = topics.expect("the README says how to delete it");
        self.nothing_is_left_in_the_namespace().await;
        looks.retain(|(look, _)| !matches!(look, Look::Shell(_)));
        assert!(looks.iter().any(|(look, _)| !matches!(look, Look::Kcat(_))), "the README looks at rows");
        self.goes_on_showing(&looks).await;
        assert_eq!(self.topics().await.unwrap(), topics, "deleting keeps topics");
        self.remove_what_it_made().await.unwrap();
        topics
    }

    /// Runs commands of the README as they stand there, from the root of the repository.
    async fn shell(&self, commands: &str) -> Result<String> {
        self.world.say(commands);
        let kubeconfig = format!("KUBECONFIG={}", self.kubeconfig.path().display());
        command::run("env", &[&kubeconfig, "bash", "-euo", "pipefail", "-c", commands], "").await
    }

    /// Starts a program of the test suite as the README says, without compiling it again.
    async fn server(&self, command: &str) -> Server {
        let (cargo, arguments) = command.split_once(" -- ").expect("a call of cargo run");
        let name = cargo.strip_prefix("cargo run --release -p tapeline-e2e --bin ").expect("a program of the test suite");
        let program = PathBuf::from(env!("CARGO_BIN_EXE_demo-report")).with_file_name(name);
        let mut child = Command::new(&program);
        child.args(arguments.split_whitespace()).current_dir(command::repository()).stdin(Stdio::null());
        let server = Server(child.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display())));
        let (_, port) = arguments.split_once("0.0.0.0:").expect("where it listens");
        let port: u16 = port.split_whitespace().next().unwrap().parse().unwrap();
        eventually("the server to listen", within(20), async || Ok(TcpStream::connect(("127.0.0.1", port)).await.map(drop)?)).await;
        server
    }

    /// Waits until it is to be seen what the README prints.
    async fn shows(&self, look: &Look, expected: &str) {
        let what = format!("{}: {look:?}", self.folder);
        eventually(&what, within(120), async || self.look(look, expected).await).await;
        self.world.say(format!("{look:?}\n{expected}"));
    }

    /// What was to be seen once is to be seen all along: sums may pass through the right number.
    async fn goes_on_showing(&self, looks: &[(Look, String)]) {
        let what = format!("{}: what its README shows", self.folder);
        all_along(&what, within(5), async || {
            for (look, expected) in looks {
                self.look(look, expected).await.with_context(|| format!("{look:?}"))?;
            }
            Ok(())
        })
        .await;
    }

    async fn look(&self, look: &Look, expected: &str) -> Result<()> {
        let cells = readme::cells(expected);
        let mut by_row = cells.clone();
        if let Some((_, rows)) = by_row.split_first_mut() {
            rows.sort();
        }
        match look {
            Look::MySql(sql) => same(&look::mysql(&self.world.mysql, sql).await?, &cells),
            Look::Cassandra(cql) => same(&look::cassandra(&self.world.cassandra, cql).await?, &by_row),
            Look::CassandraAuth(cql) => same(&look::cassandra(&look::cassandra_with_users().await?, cql).await?, &by_row),
            Look::Mongo(expression) => same(&look::mongosh(&look::mongodb()?, expression).await?, &serde_json::from_str(expected)?),
            Look::Kcat(command) => same(&look::kcat(&self.world.kafka, command).await?.as_str(), &expected),
            Look::Shell(commands) => same(&self.shell(commands).await?.trim(), &expected.trim()),
        }
    }

    /// Each pipeline that asks for a dashboard has one, with its overview and rows for each of its charts.
    async fn has_its_dashboards(&self) {
        let all: Value = serde_json::from_str(&self.world.kubectl(&["get", "tp", "-o", "json"], "").await.unwrap()).unwrap();
        for pipeline in list(&all, "/items").iter().filter(|pipeline| pipeline["spec"]["dashboard"].is_object()) {
            let name = pipeline["metadata"]["name"].as_str().unwrap();
            let service = format!("{name}-dashboard");
            let address = self.world.kubectl(&["get", "service", &service, "-o", "jsonpath={.spec.clusterIP}"], "").await.unwrap();
            eventually(&format!("{service} to show what there is"), within(90), async || {
                let charts: Vec<Value> = http::json(&format!("http://{address}/api/v1/charts")).await?;
                let shown: Vec<&Value> = charts.iter().map(|chart| &chart["name"]).collect();
                for declared in list(pipeline, "/spec/dashboard/charts") {
                    ensure!(shown.contains(&&declared["name"]), "{} is not among {shown:?}", declared["name"]);
                }
                for chart in &charts {
                    let rows: Vec<Value> = http::json(&format!("http://{address}{}", chart["json"].as_str().context("an address")?)).await?;
                    ensure!(!rows.is_empty(), "{chart} has no rows");
                }
                for path in ["/", "/overview"] {
                    let page = http::client().build()?.get(format!("http://{address}{path}")).send().await?.error_for_status()?.text().await?;
                    ensure!(page.contains(name), "{path}: {page}");
                }
                Ok(())
            })
            .await;
            self.world.say(format!("{service} shows what there is"));
        }
    }

    async fn nothing_is_left_in_the_namespace(&self) {
        eventually("everything of the example to be gone", within(90), async || {
            let kinds = "tradingpipelines,deployments,cronjobs,jobs,pods,configmaps,secrets";
            let left = self.world.kubectl(&["get", kinds, "-o", "name"], "").await?;
            // Of Kubernetes, in each namespace.
            let left: Vec<&str> = left.lines().filter(|name| *name != "configmap/kube-root-ca.crt").collect();
            ensure!(left.is_empty(), "{left:?} are left");
            Ok(())
        })
        .await;
    }

    /// A demo on the same servers has the same names; its rows are not to be removed.
    async fn nobody_else_runs_it(&self) {
        let all = command::kubectl(&["get", "tp", "-A", "-o", "jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name} {end}"], "").await.unwrap();
        for pipeline in &self.pipelines {
            let name = pipeline["metadata"]["name"].as_str().unwrap();
            let other =
                all.split_whitespace().find(|found| found.split_once('/').is_some_and(|(namespace, found)| found == name && namespace != self.world.namespace));
            assert!(other.is_none(), "{} runs already and has the same tables; delete it first (make demo-down)", other.unwrap_or_default());
        }
    }

    /// Topics, keyspaces and databases, which deleting a pipeline keeps.
    async fn remove_what_it_made(&self) -> Result<()> {
        for pipeline in &self.pipelines {
            let text = |pointer: &str| pipeline.pointer(pointer).and_then(Value::as_str);
            if let Some(keyspace) = text("/spec/cassandra/keyspace") {
                let drop = format!("DROP KEYSPACE IF EXISTS {keyspace}");
                match text("/spec/cassandra/contactPoints/0") {
                    Some("cassandra.data:9042") => _ = self.world.cassandra.query_unpaged(drop, ()).await?,
                    Some("cassandra-auth.data:9043") => _ = self.world.cassandra_auth().await.query_unpaged(drop, ()).await?,
                    other => bail!("a Cassandra that this does not know: {other:?}"),
                }
            }
            if let Some(database) = text("/spec/mysql/database") {
                sqlx::query(AssertSqlSafe(format!("DROP DATABASE IF EXISTS `{database}`"))).execute(&self.world.mysql).await?;
            }
            if let Some(database) = text("/spec/mongodb/database") {
                look::mongodb()?.database(database).drop().await?;
            }
            self.remove_topics(pipeline).await?;
        }
        Ok(())
    }

    /// The topics of the example, which are as it declares them.
    async fn topics(&self) -> Result<Topics> {
        let mut all = Topics::new();
        for pipeline in &self.pipelines {
            let copies = topic::copies(self.kafka(pipeline)?).await?;
            for name in names_of_topics(pipeline) {
                let of: Vec<usize> = copies.iter().filter(|copies| copies.topic == name).map(|copies| copies.replicas.len()).collect();
                ensure!(!of.is_empty(), "the topic {name} is not there");
                all.insert(name, of);
            }
            for declared in list(pipeline, "/spec/kafka/topics") {
                let (partitions, factor) = (declared["partitions"].as_u64(), declared["replicationFactor"].as_u64());
                let of = &all[declared["name"].as_str().context("a name")?];
                ensure!(partitions.is_none_or(|partitions| of.len() as u64 == partitions), "{declared} has {} partitions", of.len());
                ensure!(factor.is_none_or(|factor| of.iter().all(|copies| *copies as u64 == factor)), "{declared} has {of:?} replicas");
            }
        }
        Ok(all)
    }

    async fn remove_topics(&self, pipeline: &Value) -> Result<()> {
        let (kafka, names) = (self.kafka(pipeline)?, names_of_topics(pipeline));
        ensure!(!names.is_empty(), "the example has no topics");
        let there = topic::names(kafka).await.context("listing topics")?;
        let ours: Vec<&str> = names.iter().map(String::as_str).filter(|name| there.iter().any(|topic| topic == name)).collect();
        topic::delete(kafka, &ours).await?;
        eventually("the topics to be gone", within(30), async || {
            let there = topic::names(kafka).await?;
            let left: Vec<&&str> = ours.iter().filter(|name| there.iter().any(|topic| topic == *name)).collect();
            ensure!(left.is_empty(), "{left:?} are there");
            Ok(())
        })
        .await;
        Ok(())
    }

    /// The brokers of a pipeline, seen from here.
    fn kafka(&self, pipeline: &Value) -> Result<&str> {
        match pipeline.pointer("/spec/kafka/bootstrapServers").and_then(Value::as_str) {
            Some("kafka.data:9092") => Ok(&self.world.kafka),
            Some("brokers.data:9092") => Ok(&self.world.brokers),
            other => bail!("brokers that this does not know: {other:?}"),
        }
    }
}

fn list(pipeline: &Value, pointer: &str) -> Vec<Value> {
    pipeline.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default()
}

fn names_of_topics(pipeline: &Value) -> Vec<String> {
    let topics = list(pipeline, "/spec/kafka/topics").into_iter().map(|topic| topic["name"].clone());
    let letters = list(pipeline, "/spec/streams").into_iter().map(|stream| stream["deadLetterTopic"].clone());
    topics.chain(letters).filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

fn same<T: PartialEq + std::fmt::Debug>(seen: &T, expected: &T) -> Result<()> {
    ensure!(seen == expected, "{seen:?} is not {expected:?}");
    Ok(())
}
