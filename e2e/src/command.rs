//! Programs that a test calls as a user would: kubectl, helm, the scripts of the test bed.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// The repository.
#[must_use]
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// Runs `program` in the repository with `input`, and returns what it printed.
///
/// # Errors
/// It cannot be started, or fails; the error has what it printed.
pub async fn run(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let (program, input) = (program.to_owned(), input.to_owned());
    let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    tokio::task::spawn_blocking(move || run_now(&program, &arguments, &input)).await?
}

fn run_now(program: &str, arguments: &[String], input: &str) -> Result<String> {
    let command = || format!("{program} {}", arguments.join(" "));
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(repository())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {program}; is it in PATH? eval \"$(testbed/env)\""))?;
    if let Some(mut stdin) = child.stdin.take() {
        // Whoever does not read its input may close it.
        _ = stdin.write_all(input.as_bytes());
    }
    let Output { status, stdout, stderr } = child.wait_with_output()?;
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    if !status.success() {
        bail!("{} ended with {status}: {}{}", command(), stdout, stderr.trim());
    }
    Ok(stdout.into_owned())
}

/// `kubectl ARGUMENTS`, with `input`.
///
/// # Errors
/// As [`run`].
pub async fn kubectl(arguments: &[&str], input: &str) -> Result<String> {
    run("kubectl", arguments, input).await
}
