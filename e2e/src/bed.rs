//! The running test bed: addresses (from `testbed/env`, with its defaults) and one client for each server, shared by all stories of a test program.

use std::env;
use std::future::Future;
use std::sync::LazyLock;

use anyhow::{Context as _, Result};
use scylla::client::session::Session;
use sqlx::mysql::MySqlPool;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::OnceCell;

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
    /// The API server.
    pub kube: kube::Client,
    /// Cassandra.
    pub cassandra: Session,
    /// MySQL.
    pub mysql: MySqlPool,
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

    async fn connect() -> Result<Self> {
        let address = |name: &str, port: u16| env::var(name).unwrap_or_else(|_| format!("10.99.0.1:{port}"));
        let mysql = format!("mysql://root:root@{}", address("TESTBED_MYSQL", 3306));
        Ok(Self {
            kafka: address("TESTBED_KAFKA", 9092),
            kube: kube::Client::try_default().await.context("a client of the API server of $KUBECONFIG")?,
            cassandra: Box::pin(connect::cassandra(&address("TESTBED_CASSANDRA", 9042))).await?,
            mysql: connect::mysql(&mysql).await?,
        })
    }
}
