//! Many open pages, without as many browsers: each asks for what a page asks for when it is opened, and then reads the server's events as an `EventSource` does, until the
//! time is over. Told of new rows by an event `data`, it fetches them as the page's script does. Only addresses of this machine and of the test bed are visited.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flate2::read::GzDecoder;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use crate::http;

/// Of pages at most.
pub const MOST_PAGES: usize = 1000;
/// Of their time at most.
pub const LONGEST: Duration = Duration::from_mins(10);
/// How long browsers wait until they connect again.
const AGAIN: Duration = Duration::from_secs(3);
/// The networks of the test bed (`testbed/lib.sh`): servers, kind's cable, Services, pods.
const TEST_BED: [(Ipv4Addr, u32); 4] =
    [(Ipv4Addr::new(10, 99, 0, 0), 24), (Ipv4Addr::new(10, 99, 1, 0), 30), (Ipv4Addr::new(10, 96, 0, 0), 16), (Ipv4Addr::new(10, 244, 0, 0), 16)];

/// What is opened.
#[derive(Debug, Clone)]
pub struct Visit {
    base: Url,
    pages: usize,
    period: Duration,
    opened_within: Duration,
    gets: Vec<Url>,
    events: Url,
}

/// What one page has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Events with data.
    pub events: u64,
    /// How often it connected for them.
    pub connections: u64,
    /// Answers to what it asked for when it was opened.
    pub answers: u64,
    /// Rows of charts that were others than before, each with when they were here.
    pub rows: Vec<(Instant, String)>,
    /// Bytes of answers and events.
    pub bytes: u64,
    /// What went wrong.
    pub failures: Vec<String>,
}

impl Visit {
    /// `pages` pages at `base` for `period`, the first second or tenth of which is for opening them. Each asks for `gets` and then for `events`, all of them relative to
    /// `base`.
    ///
    /// # Errors
    /// It is too much, or somewhere else than on this machine or the test bed.
    pub fn new(base: &str, pages: usize, period: Duration, gets: &[impl AsRef<str>], events: &str) -> Result<Self> {
        ensure!((1..=MOST_PAGES).contains(&pages), "{pages} pages: give 1 to {MOST_PAGES}");
        ensure!(!period.is_zero() && period <= LONGEST, "{period:?}: give up to {LONGEST:?}");
        let base: Url = format!("{}/", base.trim_end_matches('/')).parse().with_context(|| format!("the URL {base}"))?;
        ensure!(base.scheme() == "http", "{base}: only http");
        let below = |path: &str| {
            let url = base.join(path.trim_start_matches('/')).with_context(|| format!("the path {path}"))?;
            ensure!(is_ours(&url), "{url} is neither on this machine nor on the test bed; give a loopback address, or one of its servers, Services or pods");
            Ok(url)
        };
        let gets = gets.iter().map(|path| below(path.as_ref())).collect::<Result<_>>()?;
        let opened_within = (period / 10).clamp(Duration::from_secs(1).min(period), Duration::from_secs(10));
        Ok(Self { events: below(events)?, base, pages, period, opened_within, gets })
    }

    /// Opens the pages and comes back when their time is over, with what each has seen.
    ///
    /// # Errors
    /// A page cannot be opened at all. What it is answered is no error, but in what it has seen.
    pub async fn open(&self) -> Result<Vec<Seen>> {
        let begun = Instant::now();
        let mut pages = JoinSet::new();
        for page in 0..self.pages {
            let visit = self.clone();
            let begin = begun + self.opened_within * u32::try_from(page)? / u32::try_from(self.pages)?;
            pages.spawn(async move {
                tokio::time::sleep_until(begin).await;
                visit.page(begun + visit.period).await
            });
        }
        pages.join_all().await.into_iter().collect()
    }

    async fn page(&self, end: Instant) -> Result<Seen> {
        let (client, mut seen) = (client()?, Seen::default());
        let mut etags = BTreeMap::new();
        for url in &self.gets {
            match timeout_at(end, get(&client, url)).await {
                Ok(Ok(bytes)) => (seen.answers, seen.bytes) = (seen.answers + 1, seen.bytes + bytes),
                Ok(Err(error)) => seen.failures.push(format!("{error:#}")),
                Err(_) => seen.failures.push(format!("{url}: no answer when the time was over")),
            }
        }
        while Instant::now() < end {
            match timeout_at(end, self.follow(&client, &mut etags, &mut seen)).await {
                Err(_) => break,
                Ok(Ok(())) => {}
                Ok(Err(error)) => seen.failures.push(format!("{error:#}")),
            }
            sleep(AGAIN.min(end - Instant::now())).await;
        }
        Ok(seen)
    }

    /// One connection for events, until the server ends it. `etags` has those of the rows that the page has.
    async fn follow(&self, client: &Client, etags: &mut BTreeMap<String, HeaderValue>, seen: &mut Seen) -> Result<()> {
        let url = &self.events;
        seen.connections += 1;
        let mut answer = client.get(url.clone()).header(ACCEPT, "text/event-stream").send().await?;
        let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
        ensure!(answer.status().is_success() && kind.starts_with("text/event-stream"), "{url} answers {} with {kind:?}, not events", answer.status());
        let mut events = Events::default();
        while let Some(bytes) = answer.chunk().await? {
            seen.bytes += bytes.len() as u64;
            for event in events.take(&bytes) {
                seen.events += 1;
                if event.kind == "data" {
                    self.fetch(client, &event, etags, seen).await?;
                }
            }
        }
        Ok(())
    }

    /// The rows that an event speaks of, unless the page has them.
    async fn fetch(&self, client: &Client, event: &Event, etags: &mut BTreeMap<String, HeaderValue>, seen: &mut Seen) -> Result<()> {
        let NewRows { source } = serde_json::from_str(&event.data).with_context(|| format!("the event {event:?}"))?;
        let url = self.base.join(&format!("api/v1/charts/{source}/data.json"))?;
        let mut request = client.get(url.clone()).header(ACCEPT_ENCODING, "gzip");
        if let Some(etag) = etags.get(&source) {
            request = request.header(IF_NONE_MATCH, etag.clone());
        }
        let answer = request.send().await?;
        if answer.status() == StatusCode::NOT_MODIFIED {
            return Ok(());
        }
        ensure!(answer.status().is_success(), "{url} answers {}", answer.status());
        let is_packed = answer.headers().get(CONTENT_ENCODING).is_some_and(|encoding| encoding == "gzip");
        if let Some(etag) = answer.headers().get(ETAG) {
            etags.insert(source, etag.clone());
        }
        let bytes = answer.bytes().await?;
        seen.bytes += bytes.len() as u64;
        seen.rows.push((Instant::now(), if is_packed { unpacked(&bytes)? } else { String::from_utf8(bytes.to_vec())? }));
        Ok(())
    }

    /// Where the pages are.
    #[must_use]
    pub const fn base(&self) -> &Url {
        &self.base
    }
}

/// As a browser's: for each page its own connections. It goes nowhere else.
fn client() -> Result<Client> {
    Ok(http::client().redirect(Policy::none()).build()?)
}

async fn get(client: &Client, url: &Url) -> Result<u64> {
    // It is compressed as for a browser, and not unpacked.
    let answer = client.get(url.clone()).header(ACCEPT_ENCODING, "gzip").send().await?;
    ensure!(answer.status().is_success(), "{url} answers {}", answer.status());
    Ok(answer.bytes().await?.len() as u64)
}

fn unpacked(bytes: &[u8]) -> Result<String> {
    let mut text = String::new();
    GzDecoder::new(bytes).read_to_string(&mut text)?;
    Ok(text)
}

/// What an event `data` says.
#[derive(Deserialize)]
struct NewRows {
    source: String,
}

/// An event of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    kind: String,
    data: String,
}

/// Reads the events of a stream, wherever it is cut: lines up to an empty one, of which one at least begins with `data`. (Comments are no events.)
#[derive(Debug, Default)]
struct Events {
    line: Vec<u8>,
    kind: String,
    data: Option<String>,
}

impl Events {
    fn take(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut ended = Vec::new();
        for &byte in bytes {
            match byte {
                b'\r' => {}
                b'\n' if self.line.is_empty() => {
                    let kind = std::mem::take(&mut self.kind);
                    ended.extend(self.data.take().map(|data| Event { kind, data }));
                }
                b'\n' => self.end_line(),
                _ => self.line.push(byte),
            }
        }
        ended
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.line).into_owned();
        let (name, value) = line.split_once(':').unwrap_or((line.as_str(), ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => value.clone_into(&mut self.kind),
            "data" => match &mut self.data {
                Some(data) => *data = format!("{data}\n{value}"),
                None => self.data = Some(value.to_owned()),
            },
            _ => {}
        }
        self.line.clear();
    }
}

fn is_ours(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let ours = |address: Ipv4Addr| {
        let within = |&(network, bits): &(Ipv4Addr, u32)| (address.to_bits() ^ network.to_bits()) >> (32 - bits) == 0;
        address.is_loopback() || TEST_BED.iter().any(within)
    };
    match host.trim_matches(['[', ']']).parse() {
        Ok(IpAddr::V4(address)) => ours(address),
        Ok(IpAddr::V6(address)) => address == Ipv6Addr::LOCALHOST,
        Err(_) => host == "localhost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_and_the_test_bed_are_visited() {
        let visit = |base: &str, get: &str| Visit::new(base, 1, LONGEST, &[get], "events");
        for base in
            ["http://127.0.0.1:1", "http://localhost", "http://[::1]:8080/", "http://10.99.0.1", "http://10.96.3.4/stock-volume", "http://10.244.0.9:8080"]
        {
            visit(base, "/").unwrap_or_else(|error| panic!("{base}: {error}"));
        }
        for base in [
            "http://192.0.2.1",
            "http://10.98.0.1",
            "http://10.99.1.4",
            "http://example.com",
            "http://localhost.example.com",
            "https://127.0.0.1",
            "http://[::2]",
        ] {
            assert!(visit(base, "/").is_err(), "{base}");
        }
        assert!(visit("http://127.0.0.1", "http://192.0.2.1/").is_err(), "a path that is none");
        let below = visit("http://127.0.0.1/base", "/app.css").unwrap();
        assert_eq!((below.gets.first().unwrap().as_str(), below.events.as_str()), ("http://127.0.0.1/base/app.css", "http://127.0.0.1/base/events"));
    }

    #[test]
    fn it_is_bounded() {
        let visit = |pages, period| Visit::new("http://127.0.0.1", pages, period, &[""], "events");
        assert!(visit(MOST_PAGES, LONGEST).is_ok());
        assert!(visit(MOST_PAGES + 1, LONGEST).is_err() && visit(0, LONGEST).is_err());
        assert!(visit(1, LONGEST + Duration::from_secs(1)).is_err() && visit(1, Duration::ZERO).is_err());
    }

    #[test]
    fn events_are_read_wherever_the_stream_is_cut() {
        let stream = b": hello\n\nretry: 200\n\nevent: data\ndata: {\"source\": \"v\"}\n\ndata: 1\r\ndata: 2\r\n\r\n:\n\ndata: not ended";
        let event = |kind: &str, data: &str| Event { kind: kind.to_owned(), data: data.to_owned() };
        for cut in 0..stream.len() {
            let (first, second) = stream.split_at(cut);
            let mut events = Events::default();
            let read: Vec<Event> = events.take(first).into_iter().chain(events.take(second)).collect();
            assert_eq!(read, [event("data", r#"{"source": "v"}"#), event("", "1\n2")], "cut at {cut}");
        }
    }
}
