//! The processes behind a browser: chromedriver, which is started here, and Chromium, which chromedriver starts. Both have ended when [`Driver`] is dropped, however the
//! test ends.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use super::webdriver::Session;
use crate::chart::lock_file;
use crate::wait::{eventually, within};

/// Debian's, without the script /usr/bin/chromium, which adds flags of its own and keys for Google's services.
const CHROMIUM: &str = "/usr/lib/chromium/chromium";
/// How many browsers all tests have at a time: each takes 300 MB and what there is of the processors.
const BROWSERS: usize = 2;
const START: Duration = within(60);
/// How long Chromium may take to end before it is killed.
const END: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(20);
/// What chromedriver prints, in the profile.
const LOG: &str = "chromedriver.log";
/// What a page or script may take, in milliseconds.
const PATIENCE: u64 = 30_000;

/// No window, no sandbox (tests run as root), no scroll bars, which would take 15 pixels of a desk's width; nothing that Chromium does on its own account. Names are not looked up and addresses of others not connected to: a page
/// of the test bed has neither.
const FLAGS: [&str; 16] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-pings",
    "--lang=en-US",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.*, EXCLUDE 10.*, EXCLUDE localhost",
];

/// A chromedriver with one session.
pub(super) struct Driver {
    chromedriver: Child,
    port: u16,
    session: Option<String>,
    profile: TempDir,
    _slot: File,
}

impl Driver {
    /// Starts both.
    ///
    /// # Errors
    /// One does not start; the error has chromedriver's log.
    pub(super) async fn start() -> Result<(Self, Session)> {
        let slot = free_slot().await;
        let profile = tempfile::Builder::new().prefix("tapeline-browser-").tempdir()?;
        let log = File::options().create(true).append(true).open(profile.path().join(LOG))?;
        let chromedriver = Command::new("chromedriver")
            .arg("--port=0")
            // Chromium keeps its reports of crashes there.
            .env("XDG_CONFIG_HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting chromedriver; testbed/install.sh browser installs it")?;
        let mut driver = Self { chromedriver, port: 0, session: None, profile, _slot: slot };
        match timeout(START, driver.connect()).await {
            Ok(Ok(session)) => Ok((driver, session)),
            Ok(Err(error)) => Err(error).with_context(|| driver.log()),
            Err(_) => bail!("no browser after {START:?}; {}", driver.log()),
        }
    }

    async fn connect(&mut self) -> Result<Session> {
        self.port = loop {
            if let Some(port) = port_of(&self.log()) {
                break port;
            }
            if let Some(status) = self.chromedriver.try_wait()? {
                bail!("chromedriver ended with {status}");
            }
            tokio::time::sleep(PAUSE).await;
        };
        let session = Session::begin(&format!("http://127.0.0.1:{}/session", self.port), &capabilities(self.profile.path())).await?;
        self.session = Some(session.id.clone());
        Ok(session)
    }

    /// What chromedriver has printed.
    fn log(&self) -> String {
        std::fs::read_to_string(self.profile.path().join(LOG)).unwrap_or_default()
    }

    /// The pids of chromedriver and of Chromium's first process, with which its others end.
    pub(super) fn pids(&self) -> Vec<u32> {
        let mut pids = chromiums(self.profile.path());
        pids.push(self.chromedriver.id());
        pids
    }

    /// Asks chromedriver to end Chromium, for which it waits.
    fn quit(&self, session: &str) -> std::io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)), END)?;
        stream.set_read_timeout(Some(END))?;
        write!(stream, "DELETE /session/{session} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\r\n", self.port)?;
        stream.read(&mut [0; 64]).map(drop)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Killed, chromedriver leaves Chromium behind. One that does not answer is killed all the same, and then Chromium is.
        if let Some(session) = &self.session
            && let Err(error) = self.quit(session)
        {
            eprintln!("chromedriver {} does not end its session: {error}", self.chromedriver.id());
        }
        _ = self.chromedriver.kill();
        _ = self.chromedriver.wait();
        let begun = Instant::now();
        loop {
            let left = chromiums(self.profile.path());
            for pid in &left {
                _ = Command::new("kill").arg("-KILL").arg(pid.to_string()).status();
            }
            // Its other processes end with the first, and write to the profile until they do.
            if (left.is_empty() && std::fs::remove_dir_all(self.profile.path()).is_ok()) || begun.elapsed() > END {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }
}

async fn free_slot() -> File {
    eventually("one of the browsers to be free", within(900), async || {
        for number in 1..=BROWSERS {
            let file = lock_file(&format!("browser-{number}"))?;
            if file.try_lock().is_ok() {
                return Ok(file);
            }
        }
        bail!("all {BROWSERS} are taken")
    })
    .await
}

/// The port that chromedriver says it has found.
fn port_of(log: &str) -> Option<u16> {
    let (_, rest) = log.split_once("started successfully on port ")?;
    rest.split_once('.')?.0.parse().ok()
}

fn capabilities(profile: &Path) -> Value {
    let mut flags: Vec<String> = FLAGS.map(str::to_owned).to_vec();
    flags.push(format!("--user-data-dir={}", profile.display()));
    json!({
        "browserName": "chrome",
        "timeouts": {"pageLoad": PATIENCE, "script": PATIENCE},
        "goog:chromeOptions": {
            "binary": CHROMIUM,
            "args": flags,
            // 4: the URLs that are given. The page of a new tab would begin to load a hundred files.
            "prefs": {"session.restore_on_startup": 4, "session.startup_urls": ["about:blank"]},
            "perfLoggingPrefs": {"enableNetwork": true, "enablePage": false},
        },
        "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
    })
}

/// Processes of Chromium with this profile, which nobody else has. (Of one that has ended and is not waited for nothing is left to read.)
fn chromiums(profile: &Path) -> Vec<u32> {
    let flag = format!("--user-data-dir={}", profile.display());
    let pids = std::fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.split(|&byte| byte == 0).any(|argument| argument == flag.as_bytes())
    })
    .collect()
}
