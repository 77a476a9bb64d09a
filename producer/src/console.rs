//! `tapeline-producer console`: the lines of standard input as messages of a topic. For `kubectl run`, where there is no Kafka of one's own at hand.

use std::io::{self, BufRead};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use tapeline_api::duration::GoDuration;

use crate::kafka::tail::Shape;
use crate::kafka::{Fault, console_config, log_line};
use crate::shutdown;

/// How much may be under way. More does not make it faster, and would be held in memory.
const MAX_MESSAGES: usize = 10_000;
const MAX_BYTES: usize = 8 << 20;
/// Between two questions for the topic.
const AGAIN: Duration = Duration::from_millis(500);

/// What is sent where.
#[derive(Debug, Clone, Args)]
pub struct Console {
    /// host:port of some brokers, separated by commas
    #[arg(long)]
    pub bootstrap_servers: String,
    /// The topic; it has to be there
    #[arg(long)]
    pub topic: String,
    /// What stands between a message's key and the message in each line, such as a tab; without it messages have no key
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub key_separator: Option<String>,
    /// A setting of librdkafka, such as security.protocol=SASL_SSL; may be repeated
    #[arg(short = 'X', long = "client-property", value_name = "NAME=VALUE", value_parser = property)]
    pub client_properties: Vec<(String, String)>,
    /// How long the brokers may take to acknowledge a message
    #[arg(long, default_value = "60s", value_name = "DURATION")]
    pub timeout: GoDuration,
}

fn property(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Why not everything was sent. Lines are numbered from 1, and blank ones count.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// librdkafka does not take a setting.
    #[error("the brokers' client cannot be set up; look at --client-property: {0}")]
    Client(KafkaError),
    /// No broker says anything about the topic.
    #[error("no broker told about the topic {topic}; look at --bootstrap-servers and at network policies: {reason}")]
    Unreachable {
        /// The topic.
        topic: String,
        /// What came of the last attempt.
        reason: String,
    },
    /// There is no such topic.
    #[error("the topic {0} does not exist; create it, or name another")]
    NoTopic(String),
    /// Standard input broke off.
    #[error("standard input cannot be read on behind line {line}: {source}")]
    Input {
        /// The last line that was read.
        line: u64,
        /// Why.
        source: io::Error,
    },
    /// A line without a key.
    #[error("line {0} has no key: it has not the text of --key-separator; the lines before are sent, nothing from this one on")]
    NoKey(u64),
    /// Something was not acknowledged.
    #[error("line {line} was not taken: {reason}; {sent} others were, and nothing was read behind them")]
    NotTaken {
        /// The first such line.
        line: u64,
        /// Why.
        reason: String,
        /// How many were taken.
        sent: u64,
    },
    /// The brokers said nothing more.
    #[error("{open} of the messages were not acknowledged within {seconds} s; {sent} were")]
    Silence {
        /// How many are open.
        open: usize,
        /// After how long.
        seconds: u64,
        /// How many were taken.
        sent: u64,
    },
}

/// What came of the messages so far.
#[derive(Debug, Default)]
struct Tally {
    open: usize,
    open_bytes: usize,
    sent: u64,
    /// The first line that was refused, and why.
    refused: Option<(u64, String)>,
}

/// Shared with librdkafka's thread, which acknowledges.
#[derive(Debug, Default)]
struct Deliveries {
    tally: Mutex<Tally>,
    changed: Condvar,
}

impl Deliveries {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for another message of so many bytes, and takes it.
    fn take(&self, bytes: usize) {
        let full = |tally: &mut Tally| tally.open > 0 && (tally.open >= MAX_MESSAGES || tally.open_bytes + bytes > MAX_BYTES);
        let mut tally = self.changed.wait_while(self.tally(), full).unwrap_or_else(PoisonError::into_inner);
        tally.open += 1;
        tally.open_bytes += bytes;
    }

    fn settle(&self, line: u64, bytes: usize, result: Result<(), String>) {
        let mut tally = self.tally();
        tally.open = tally.open.saturating_sub(1);
        tally.open_bytes = tally.open_bytes.saturating_sub(bytes);
        match result {
            Ok(()) => tally.sent += 1,
            Err(reason) if tally.refused.as_ref().is_none_or(|(first, _)| line < *first) => tally.refused = Some((line, reason)),
            Err(_) => {}
        }
        drop(tally);
        self.changed.notify_all();
    }
}

/// librdkafka's side of it.
struct Context(Arc<Deliveries>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log_line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<(u64, usize)>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<(u64, usize)>) {
        let (line, bytes) = *sent;
        self.0.settle(line, bytes, result.as_ref().map(drop).map_err(|(error, _)| reason(error)));
    }
}

fn reason(error: &KafkaError) -> String {
    error.rdkafka_error_code().map_or_else(|| error.to_string(), |code| code.to_string())
}

/// Sends standard input, says on standard error what came of it, and returns what the process is to exit with.
pub async fn main(console: Console) -> u8 {
    let Ok(stop) = shutdown::listen() else { return 1 };
    let topic = console.topic.clone();
    let send = tokio::task::spawn_blocking(move || send(&console, io::stdin().lock()));
    tokio::select! {
        sent = send => match sent {
            Ok(Ok(sent)) => {
                eprintln!("{sent} messages are in the topic {topic}");
                0
            }
            Ok(Err(error)) => {
                eprintln!("error: {error}");
                1
            }
            Err(error) => {
                eprintln!("error: {error}");
                1
            }
        },
        // The reading thread may wait for a line that never comes; the process ends without it.
        () = stop.cancelled() => {
            eprintln!("interrupted; what was not acknowledged yet may be missing");
            shutdown::IMPATIENT
        }
    }
}

/// Sends every line of `input` that is not blank, and returns how many there were when all of them are acknowledged.
pub fn send(console: &Console, mut input: impl BufRead) -> Result<u64, ConsoleError> {
    let deliveries = Arc::new(Deliveries::default());
    let producer: ThreadedProducer<Context> = config(console).create_with_context(Context(Arc::clone(&deliveries))).map_err(ConsoleError::Client)?;
    // Before `kubectl run -i` is attached nobody hears what is said, and then comes the first line.
    input.fill_buf().map_err(|source| ConsoleError::Input { line: 0, source })?;
    find_topic(console, &producer)?;
    let ended = each_message(input, console.key_separator.as_deref(), |line, key, payload| {
        let bytes = payload.len();
        deliveries.take(bytes);
        let mut record = BaseRecord::<[u8], [u8], _>::with_opaque_to(&console.topic, Box::new((line, bytes))).payload(payload);
        if let Some(key) = key {
            record = record.key(key);
        }
        if let Err((error, _)) = producer.send(record) {
            deliveries.settle(line, bytes, Err(reason(&error)));
        }
        deliveries.tally().refused.is_none()
    });
    // What was read is waited for, however the reading ended. librdkafka gives each message up by itself when its time is over.
    let _ = producer.flush(console.timeout.get() + Duration::from_secs(5));
    let tally = deliveries.tally();
    if let Some((line, reason)) = tally.refused.clone() {
        return Err(ConsoleError::NotTaken { line, reason, sent: tally.sent });
    }
    if tally.open > 0 {
        return Err(ConsoleError::Silence { open: tally.open, seconds: console.timeout.get().as_secs(), sent: tally.sent });
    }
    ended.map(|()| tally.sent)
}

/// Hands each line that is not blank to `take`, as number, key and message, until it says no.
fn each_message(mut input: impl BufRead, separator: Option<&str>, mut take: impl FnMut(u64, Option<&[u8]>, &[u8]) -> bool) -> Result<(), ConsoleError> {
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        if input.read_until(b'\n', &mut text).map_err(|source| ConsoleError::Input { line: line - 1, source })? == 0 {
            break;
        }
        let message = text.strip_suffix(b"\n").unwrap_or(&text);
        let message = message.strip_suffix(b"\r").unwrap_or(message);
        if message.trim_ascii().is_empty() {
            continue;
        }
        let (key, message) = match separator {
            None => (None, message),
            Some(separator) => {
                let at = message.windows(separator.len()).position(|window| window == separator.as_bytes()).ok_or(ConsoleError::NoKey(line))?;
                let (key, rest) = message.split_at_checked(at).ok_or(ConsoleError::NoKey(line))?;
                (Some(key), rest.get(separator.len()..).unwrap_or_default())
            }
        };
        if !take(line, key, message) {
            break;
        }
    }
    Ok(())
}

/// Asks for the topic until a broker answers: else a wrong name would show only when the first message has waited for long enough.
fn find_topic(console: &Console, producer: &ThreadedProducer<Context>) -> Result<(), ConsoleError> {
    let begun = Instant::now();
    loop {
        match Shape::ask(producer.client(), &console.topic) {
            Ok(_) => return Ok(()),
            Err(Fault::TopicMissing(topic)) => return Err(ConsoleError::NoTopic(topic)),
            Err(fault) if begun.elapsed() >= console.timeout.get() => {
                return Err(ConsoleError::Unreachable { topic: console.topic.clone(), reason: fault.to_string() });
            }
            Err(_) => std::thread::sleep(AGAIN),
        }
    }
}

fn config(console: &Console) -> ClientConfig {
    let wished = console.client_properties.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    console_config(&console.bootstrap_servers, wished, console.timeout.get())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// A line's number, key and message.
    type Taken = (u64, Option<String>, String);

    fn messages(input: &str, separator: Option<&str>) -> (Vec<Taken>, Result<(), ConsoleError>) {
        let mut all = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let ended = each_message(input.as_bytes(), separator, |line, key, message| {
            all.push((line, key.map(text), text(message)));
            true
        });
        (all, ended)
    }

    #[rstest]
    #[case::no_key("a\n\n  \n{\"b\": 1}\r\nc", None, &[(1, None, "a"), (4, None, "{\"b\": 1}"), (5, None, "c")])]
    #[case::keys("1:a:b\n:c\n2:\n", Some(":"), &[(1, Some("1"), "a:b"), (2, Some(""), "c"), (3, Some("2"), "")])]
    #[case::a_long_separator("1 => a\n", Some(" => "), &[(1, Some("1"), "a")])]
    fn lines_are_messages(#[case] input: &str, #[case] separator: Option<&str>, #[case] expected: &[(u64, Option<&str>, &str)]) {
        let (all, ended) = messages(input, separator);
        ended.unwrap();
        let expected: Vec<_> = expected.iter().map(|(line, key, text)| (*line, key.map(str::to_owned), (*text).to_owned())).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn a_line_without_a_key_ends_it_and_is_named() {
        let (all, ended) = messages("1:a\n\nb\n2:c\n", Some(":"));
        assert_eq!(all.len(), 1);
        assert!(matches!(ended, Err(ConsoleError::NoKey(3))), "{ended:?}");
    }

    #[test]
    fn nothing_is_read_behind_what_was_refused() {
        let mut taken = 0;
        let take = |_, _: Option<&[u8]>, _: &[u8]| {
            taken += 1;
            taken < 2
        };
        each_message("a\nb\nc\n".as_bytes(), None, take).unwrap();
        assert_eq!(taken, 2);
    }

    #[test]
    fn the_first_line_that_was_refused_is_kept() {
        let deliveries = Deliveries::default();
        for _ in 0..3 {
            deliveries.take(5);
        }
        deliveries.settle(3, 5, Err("late".to_owned()));
        deliveries.settle(2, 5, Err("too large".to_owned()));
        deliveries.settle(1, 5, Ok(()));
        let tally = deliveries.tally();
        assert_eq!((tally.open, tally.open_bytes, tally.sent, tally.refused.clone()), (0, 0, 1, Some((2, "too large".to_owned()))));
    }

    #[test]
    fn librdkafka_accepts_the_settings_and_users_do_not_weaken_them() {
        let console = Console {
            bootstrap_servers: "127.0.0.1:1".to_owned(),
            topic: "t".to_owned(),
            key_separator: None,
            client_properties: ["acks=0", "linger.ms=50", "request.required.acks=1", "delivery.timeout.ms=1"].map(|text| property(text).unwrap()).into(),
            timeout: "10s".parse().unwrap(),
        };
        let config = config(&console);
        assert_eq!((config.get("acks"), config.get("linger.ms"), config.get("message.timeout.ms")), (Some("all"), Some("50"), Some("10000")));
        assert_eq!((config.get("request.required.acks"), config.get("delivery.timeout.ms"), config.get("partitioner")), (None, None, Some("murmur2_random")));
        config.create_native_config().unwrap();
        let short = Console { timeout: "100ms".parse().unwrap(), ..console };
        let error = send(&short, "a\n".as_bytes()).unwrap_err();
        assert!(matches!(error, ConsoleError::Unreachable { .. }), "{error}");
    }

    #[rstest]
    #[case("a=b=c", Ok(("a".to_owned(), "b=c".to_owned())))]
    #[case("a", Err("write NAME=VALUE".to_owned()))]
    #[case("=b", Err("write NAME=VALUE".to_owned()))]
    fn properties(#[case] text: &str, #[case] expected: Result<(String, String), String>) {
        assert_eq!(property(text), expected);
    }
}
