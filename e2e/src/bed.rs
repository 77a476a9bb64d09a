//! The running test bed: addresses (from `testbed/env`, with its defaults) and one client for each server, shared by all stories of a test program.

use std::env;
use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context as _, Result};
use scylla::client::session::Session;
use sqlx::mysql::MySqlPool;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::connect;

/// All stories run on one runtime: clients have background tasks that end with the runtime which they were made on.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime"));
static BED: OnceCell<Bed> = OnceCell::const_new();

/// Runs `future` on the runtime that all stories share.
pub fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}

/// The servers.
pub struct Bed {
    /// Kafka's address.
    pub kafka: String,
    /// The addresses of the cluster of three brokers, with commas between them.
    pub brokers: String,
    /// The API server.
    pub kube: kube::Client,
    /// Cassandra.
    pub cassandra: Session,
    /// MySQL.
    pub mysql: MySqlPool,
    with_users: OnceCell<Session>,
    /// MongoDB's address.
    pub mongodb_address: String,
    mongodb: OnceCell<mongodb::Client>,
}

impl Bed {
    /// The servers, connected once.
    pub async fn get() -> &'static Self {
        // Boxed: the drivers' futures are nested more deeply than rustc likes to look.
        BED.get_or_init(async || {
            Box::pin(Self::connect()).await.expect("the test bed runs (testbed/up.sh) and its environment is set (eval \"$(testbed/env)\")")
        })
        .await
    }

    /// The Cassandra that knows users, as its superuser, connected at the first call. Pipelines come as `tapeline` with the password `tapeline`, who owns
    /// the keyspaces that it makes and sees no others.
    pub async fn cassandra_auth(&self) -> &Session {
        self.with_users
            .get_or_init(async || {
                let address = address("TESTBED_CASSANDRA_AUTH", 9043);
                let session = Box::pin(connect::cassandra_as("cassandra", "cassandra", &address)).await;
                session.expect("the test bed's cassandra-auth runs (testbed/up.sh --keep cassandra-auth)")
            })
            .await
    }

    /// MongoDB, which most stories do without: its client is made when it is first asked for.
    ///
    /// # Errors
    /// The address is none.
    pub async fn mongodb(&self) -> Result<&mongodb::Client> {
        self.mongodb.get_or_try_init(async || connect::mongodb(&self.mongodb_address)).await
    }

    /// Whether MongoDB takes connections.
    pub async fn has_mongodb(&self) -> bool {
        matches!(timeout(Duration::from_secs(2), TcpStream::connect(&self.mongodb_address)).await, Ok(Ok(_)))
    }

    async fn connect() -> Result<Self> {
        let mysql = format!("mysql://root:root@{}", address("TESTBED_MYSQL", 3306));
        Ok(Self {
            kafka: address("TESTBED_KAFKA", 9092),
            brokers: env::var("TESTBED_BROKERS").unwrap_or_else(|_| "10.99.0.1:9192,10.99.0.1:9193,10.99.0.1:9194".into()),
            kube: kube::Client::try_default().await.context("a client of the API server of $KUBECONFIG")?,
            cassandra: Box::pin(connect::cassandra(&address("TESTBED_CASSANDRA", 9042))).await?,
            mysql: connect::mysql(&mysql).await?,
            with_users: OnceCell::new(),
            mongodb_address: address("TESTBED_MONGO", 27017),
            mongodb: OnceCell::new(),
        })
    }
}

/// This machine's address as pods see it.
#[must_use]
pub fn host() -> String {
    env::var("TESTBED_HOST").unwrap_or_else(|_| "10.99.0.2".to_owned())
}

fn address(name: &str, port: u16) -> String {
    env::var(name).unwrap_or_else(|_| format!("10.99.0.1:{port}"))
}
