//! Stops, freezes and kills the test bed's servers (`testbed/server.sh`). Whatever happens to the test, they are running again afterwards.

use std::fs::File;
use std::process::Command;

use anyhow::Result;

use crate::chart::lock_file;
use crate::command;
use crate::wait::{eventually, within};

/// One of the test bed's servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Server {
    Kafka,
    Cassandra,
    MySql,
    Mongo,
    Broker1,
    Broker2,
    Broker3,
    CassandraAuth,
}

impl Server {
    /// The brokers of the cluster of three, any one of which may be down.
    pub const BROKERS: [Self; 3] = [Self::Broker1, Self::Broker2, Self::Broker3];

    const fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Cassandra => "cassandra",
            Self::MySql => "mysql",
            Self::Mongo => "mongo",
            Self::Broker1 => "brokers-1",
            Self::Broker2 => "brokers-2",
            Self::Broker3 => "brokers-3",
            Self::CassandraAuth => "cassandra-auth",
        }
    }

    /// Stops it. It takes connections again when the guard was told to [`Down::start`], or is dropped.
    ///
    /// # Errors
    /// It does not stop.
    pub async fn stop(self) -> Result<Down> {
        self.down("stop", "start").await
    }

    /// Ends it with SIGKILL, as [`Self::stop`].
    ///
    /// # Errors
    /// It does not run.
    pub async fn kill(self) -> Result<Down> {
        self.down("kill", "start").await
    }

    /// Lets it stand still with its connections open, as [`Self::stop`].
    ///
    /// # Errors
    /// It does not run.
    pub async fn freeze(self) -> Result<Down> {
        self.down("freeze", "continue").await
    }

    async fn down(self, action: &str, undo: &'static str) -> Result<Down> {
        let down = Down { server: self, undo: Some(undo) };
        command::run(&script("server.sh"), &[action, self.name()], "").await?;
        Ok(down)
    }
}

/// A server that is down until this is told otherwise, or dropped.
#[derive(Debug)]
#[must_use = "the server comes back when this is dropped"]
pub struct Down {
    server: Server,
    undo: Option<&'static str>,
}

impl Down {
    /// Brings the server back and waits until it takes connections.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(mut self) -> Result<()> {
        if let Some(undo) = self.undo.take() {
            command::run(&script("server.sh"), &[undo, self.server.name()], "").await?;
        }
        Ok(())
    }
}

impl Drop for Down {
    fn drop(&mut self) {
        if let Some(undo) = self.undo.take() {
            let outcome = Command::new(script("server.sh")).args([undo, self.server.name()]).status();
            eprintln!("{undo} {}: {outcome:?}", self.server.name());
        }
    }
}

fn script(name: &str) -> String {
    let folder = std::env::var("TESTBED_DIR").unwrap_or_else(|_| command::repository().join("testbed").display().to_string());
    format!("{folder}/{name}")
}

/// Starts those of `servers` that do not run.
///
/// # Errors
/// One does not start.
pub async fn start(servers: &[Server]) -> Result<()> {
    let names: Vec<&str> = servers.iter().map(|server| server.name()).collect();
    command::run(&script("up.sh"), &[&["--keep"], &names[..]].concat(), "").await.map(drop)
}

/// The cluster of three brokers, for one test alone until the file is dropped: somebody stops them, and others would notice. All three run.
///
/// # Errors
/// One does not start.
pub async fn brokers() -> Result<File> {
    let file = lock_file("brokers")?;
    eventually("nobody else to have the three brokers", within(900), async || Ok(file.try_lock()?)).await;
    start(&Server::BROKERS).await?;
    Ok(file)
}
