//! What one test has for itself: a namespace that the operator watches, and a prefix for topics, keyspace and databases that nobody else has. All of it is removed
//! at the end, however the test ends; a test that fails first shows what a user would look at.

use std::fs::File;
use std::iter;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tokio::sync::OnceCell;

use crate::bed::{Bed, block_on};
use crate::chart::{Operator, SELECTOR, image_tag, lock_file};
use crate::command;
use crate::pipeline::Pipeline;
use crate::servers;
use crate::topic;
use crate::wait::{eventually, within};

/// One test's part of the world.
pub struct World {
    bed: &'static Bed,
    /// The operator that watches the namespace.
    pub operator: Watching,
    /// The namespace.
    pub namespace: String,
    /// What the names of all things of this test begin with: letters and digits.
    pub id: String,
    begun: Instant,
    said: Mutex<Vec<String>>,
    _slot: File,
    three_brokers: OnceCell<File>,
}

/// The operator of a test.
pub enum Watching {
    /// That of all tests.
    Shared(&'static Operator),
    /// The test's own.
    Own(Box<Operator>),
}

impl Deref for Watching {
    type Target = Operator;

    fn deref(&self) -> &Operator {
        match self {
            Self::Shared(operator) => operator,
            Self::Own(operator) => operator,
        }
    }
}

impl Deref for World {
    type Target = Bed;

    fn deref(&self) -> &Bed {
        self.bed
    }
}

/// The servers of all tests: shared, but for a test that stops them, which is alone. Else it would be the only fault that the others meet.
static SERVERS: RwLock<()> = RwLock::new(());

fn sharing() -> RwLockReadGuard<'static, ()> {
    SERVERS.read().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `test` in a world of its own, with the operator of all tests.
pub fn story(test: impl AsyncFnOnce(&World)) {
    let _servers = sharing();
    block_on(story_within(test));
}

/// As [`story`], while no other test of this program runs: it may stop the servers.
pub fn story_alone(test: impl AsyncFnOnce(&World)) {
    let _servers = SERVERS.write().unwrap_or_else(PoisonError::into_inner);
    block_on(story_within(test));
}

/// As [`story`], inside of another one.
pub async fn story_within(test: impl AsyncFnOnce(&World)) {
    let operator = Operator::shared().await;
    let (namespace, slot) = free_slot(operator).await;
    World::new(Watching::Shared(operator), namespace, slot).await.run(test).await;
}

/// Runs `test` with an operator of its own, which it may stop and kill.
pub fn story_with_own_operator(test: impl AsyncFnOnce(&World)) {
    let _servers = sharing();
    block_on(async {
        let release = format!("e2e-{}", random_id());
        let namespace = format!("{release}-pipelines");
        let operator = Operator::install(&release, vec![namespace.clone()]).await.expect("the chart can be installed");
        let slot = lock_file(&release).expect("a lock file");
        World::new(Watching::Own(Box::new(operator)), namespace, slot).await.run(test).await;
    });
}

/// A watched namespace that no other test has.
async fn free_slot(operator: &Operator) -> (String, File) {
    eventually("a free namespace", within(900), async || {
        for namespace in &operator.watched {
            let file = lock_file(namespace)?;
            if file.try_lock().is_ok() {
                return Ok((namespace.clone(), file));
            }
        }
        anyhow::bail!("all {} are taken", operator.watched.len())
    })
    .await
}

fn random_id() -> String {
    let letters = b"abcdefghjkmnpqrstuvwxyz23456789";
    (0..5).map(|_| char::from(*letters.get(rand::random_range(0..letters.len())).unwrap_or(&b'a'))).collect()
}

impl World {
    async fn new(operator: Watching, namespace: String, slot: File) -> Self {
        let world = Self {
            bed: Bed::get().await,
            operator,
            namespace,
            id: format!("e{}", random_id()),
            begun: Instant::now(),
            said: Mutex::default(),
            _slot: slot,
            three_brokers: OnceCell::new(),
        };
        // What an interrupted test left.
        world.empty_namespace().await.expect("the namespace can be emptied");
        world
    }

    async fn run(self, test: impl AsyncFnOnce(&Self)) {
        let outcome = AssertUnwindSafe(Box::pin(test(&self))).catch_unwind().await;
        if outcome.is_err() {
            self.show().await;
            if std::env::var_os("E2E_KEEP").is_some() {
                eprintln!("kept, since E2E_KEEP is set: namespace {}, prefix {}", self.namespace, self.id);
                outcome.unwrap_or_else(|panic| resume_unwind(panic));
                return;
            }
        }
        let cleaned = self.clean_up().await;
        outcome.unwrap_or_else(|panic| resume_unwind(panic));
        cleaned.expect("what the test made can be removed");
    }

    /// A line in the test's output, with the time since its begin.
    pub fn say(&self, text: impl AsRef<str>) {
        let line = format!("{:>6.1} s  {}", self.begun.elapsed().as_secs_f64(), text.as_ref());
        println!("{line}");
        self.said.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// All that was said.
    #[must_use]
    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the cluster of three brokers is free, and keeps it for this test alone.
    ///
    /// # Errors
    /// One does not start.
    pub async fn take_brokers(&self) -> Result<()> {
        self.three_brokers.get_or_try_init(servers::brokers).await.map(drop)
    }

    /// A topic of this test.
    #[must_use]
    pub fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.id)
    }

    /// The keyspace and the databases of this test.
    #[must_use]
    pub fn schema(&self) -> String {
        format!("{}_trading", self.id)
    }

    /// A pipeline from `template`: `${id}`, `${topic}` (a prefix of topics, with its dot) and `${schema}` are replaced by this test's.
    #[must_use]
    pub fn pipeline(&self, template: &str) -> Pipeline<'_> {
        let yaml = template.replace("${id}", &self.id).replace("${topic}", &self.topic("")).replace("${schema}", &self.schema());
        Pipeline::new(self, serde_yaml::from_str(&yaml).expect("a template is YAML"))
    }

    /// `examples/1-stock-volume` with the names of this test and a trigger of a second, without the simulated market. Its ConfigMap is applied.
    ///
    /// # Errors
    /// The example cannot be read or applied.
    pub async fn stock_volume(&self) -> Result<Pipeline<'_>> {
        let text = std::fs::read_to_string(command::repository().join("examples/1-stock-volume/pipeline.yaml"))?;
        let documents: Vec<Value> = serde_yaml::from_multiple(&text)?;
        let (pipelines, others): (Vec<_>, Vec<_>) = documents.into_iter().partition(|document| document.pointer("/kind") == Some(&json!("TradingPipeline")));
        self.apply(&others).await?;
        let mut pipeline = Pipeline::new(self, pipelines.into_iter().next().context("the example has no TradingPipeline")?);
        pipeline.rename_everything();
        Ok(pipeline)
    }

    /// The Secret `mysql` as the example has it.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn apply_secrets(&self) -> Result<()> {
        self.kubectl(&["apply", "-f", "examples/1-stock-volume/secrets.yaml"], "").await.map(drop)
    }

    /// Applies objects as a user does.
    ///
    /// # Errors
    /// The API server refuses one.
    pub async fn apply(&self, documents: &[Value]) -> Result<String> {
        let input = documents.iter().map(Value::to_string).collect::<Vec<_>>().join("\n---\n");
        // A large ConfigMap does not fit into the annotation of a client-side apply.
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &input).await
    }

    /// `kubectl -n NAMESPACE ARGUMENTS`.
    ///
    /// # Errors
    /// kubectl fails.
    pub async fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String> {
        command::kubectl(&[&["-n", &self.namespace], arguments].concat(), input).await
    }

    /// The image of producers that is tested.
    ///
    /// # Errors
    /// None is built.
    pub async fn producer_image(&self) -> Result<String> {
        Ok(format!("tapeline-producer:{}", image_tag().await?))
    }

    /// The namespace's pods with `selector`.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn pods(&self, selector: &str) -> Result<Vec<Pod>> {
        let api: Api<Pod> = Api::namespaced(self.kube.clone(), &self.namespace);
        Ok(api.list(&ListParams::default().labels(selector)).await?.items)
    }

    /// What a user would look at when something is wrong.
    async fn show(&self) {
        for arguments in
            [&["get", "tp", "-o", "yaml"][..], &["get", "pods,deployments,cronjobs,jobs", "-o", "wide"], &["get", "events", "--sort-by=.lastTimestamp"]]
        {
            let shown = self.kubectl(arguments, "").await.unwrap_or_else(|error| format!("{error:#}"));
            println!("--- kubectl {}\n{}", arguments.join(" "), last_lines(&shown, 250));
        }
        for pod in self.pods("").await.unwrap_or_default() {
            let name = pod.metadata.name.unwrap_or_default();
            let logs = self.kubectl(&["logs", "--tail=40", &name], "").await.unwrap_or_else(|error| format!("{error:#}"));
            println!("--- logs of {name}\n{logs}");
        }
        let release = &self.operator.release;
        let logs = command::kubectl(&["logs", "-n", release, "--tail=400", "-l", SELECTOR], "").await.unwrap_or_default();
        let ours: Vec<&str> = logs.lines().filter(|line| line.contains(&self.namespace) || line.contains(&self.id)).collect();
        println!("--- what the operator of {release} logged of {}\n{}", self.namespace, last_lines(&ours.join("\n"), 60));
    }

    async fn clean_up(&self) -> Result<()> {
        self.empty_namespace().await?;
        for kafka in iter::once(&self.kafka).chain(self.three_brokers.get().map(|_| &self.brokers)) {
            let topics = topic::names(kafka).await?;
            let ours: Vec<&str> = topics.iter().map(String::as_str).filter(|name| name.starts_with(&self.topic(""))).collect();
            topic::delete(kafka, &ours).await?;
        }
        let schema = self.schema();
        self.cassandra.query_unpaged(format!("DROP KEYSPACE IF EXISTS {schema}"), ()).await?;
        sqlx::query(AssertSqlSafe(format!("DROP DATABASE IF EXISTS `{schema}`"))).execute(&self.mysql).await?;
        if self.has_mongodb().await {
            self.mongodb().await?.database(&schema).drop().await?;
        }
        if let Watching::Own(operator) = &self.operator {
            operator.uninstall().await?;
        }
        Ok(())
    }

    async fn empty_namespace(&self) -> Result<()> {
        self.kubectl(&["delete", "tp", "--all", "--timeout=60s"], "").await?;
        // Pods have a grace period of a minute, in which a frozen one would not end.
        self.kubectl(&["delete", "deployments,cronjobs,jobs,configmaps,secrets", "--all", "--timeout=60s"], "").await?;
        eventually("the pods to be gone", within(60), async || {
            self.kubectl(&["delete", "pods", "--all", "--force", "--grace-period=0", "--wait=false"], "").await?;
            let left = self.pods("").await?.len();
            ensure!(left == 0, "{left} are left");
            Ok(())
        })
        .await;
        Ok(())
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
}
