//! Stops, freezes and kills the test bed's servers (`testbed/server.sh`). Whatever happens to the test, they are running again afterwards.

use std::process::Command;

use anyhow::Result;

use crate::command;

/// One of the test bed's servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Server {
    Kafka,
    Cassandra,
    MySql,
}

impl Server {
    const fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Cassandra => "cassandra",
            Self::MySql => "mysql",
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
        command::run(&script(), &[action, self.name()], "").await?;
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
            command::run(&script(), &[undo, self.server.name()], "").await?;
        }
        Ok(())
    }
}

impl Drop for Down {
    fn drop(&mut self) {
        if let Some(undo) = self.undo.take() {
            let outcome = Command::new(script()).args([undo, self.server.name()]).status();
            eprintln!("{undo} {}: {outcome:?}", self.server.name());
        }
    }
}

fn script() -> String {
    let folder = std::env::var("TESTBED_DIR").unwrap_or_else(|_| command::repository().join("testbed").display().to_string());
    format!("{folder}/server.sh")
}
