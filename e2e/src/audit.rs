//! The API server's audit log, which has every request of a service account: what an operator really asked for.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// A place in the audit log.
#[derive(Debug, Clone, Copy)]
pub struct Mark(u64);

/// Where the log begins.
pub const BEGINNING: Mark = Mark(0);

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `get`, `patch`, ..
    pub verb: String,
    /// `deployments/scale`, ..
    pub resource: String,
    /// The object's namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// The answer's HTTP status.
    pub code: u64,
}

impl Request {
    /// Whether it is meant to change something. Renewing a Lease is how an operator says that it lives.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch") && self.resource != "leases"
    }
}

fn path() -> Result<PathBuf> {
    Ok(std::env::var("TESTBED_AUDIT_LOG").context("TESTBED_AUDIT_LOG is not set; eval \"$(testbed/env)\"")?.into())
}

/// The end of the log.
///
/// # Errors
/// There is no log.
pub fn mark() -> Result<Mark> {
    Ok(Mark(path()?.metadata().context("the audit log")?.len()))
}

/// What the service account `namespace/name` asked for since `mark`.
///
/// # Errors
/// The log cannot be read.
pub fn requests_since(mark: Mark, namespace: &str, name: &str) -> Result<Vec<Request>> {
    let user = format!("system:serviceaccount:{namespace}:{name}");
    let mut log = File::open(path()?).context("the audit log")?;
    // A log that grew too long was put aside, and a new one begun.
    let from = if log.metadata()?.len() < mark.0 { 0 } else { mark.0 };
    log.seek(SeekFrom::Start(from))?;
    let mut requests = Vec::new();
    for line in BufReader::new(log).lines() {
        let line = line?;
        // The last line may still be being written.
        let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        if text("/user/username") == user && text("/stage") == "ResponseComplete" {
            let (resource, part) = (text("/objectRef/resource"), text("/objectRef/subresource"));
            let resource = if part.is_empty() { resource } else { format!("{resource}/{part}") };
            let code = event.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or_default();
            requests.push(Request { verb: text("/verb"), resource, namespace: text("/objectRef/namespace"), name: text("/objectRef/name"), code });
        }
    }
    Ok(requests)
}
