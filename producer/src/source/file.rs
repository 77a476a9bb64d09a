//! Messages that somebody wrote down, in the file's order. The tick of a message is its place in the file, counted on from what the topic holds already.
//!
//! The mark of each message says whose it is: `last_id` is the file (its key in the ConfigMap, so that a ConfigMap of another name with the same content is the
//! same file), `check` is a hash of everything from the file's beginning up to and with the message. So the last mark in the topic tells whether what was sent is
//! still there, unchanged, and where to go on. In a scheduled run the run is part of both: another run begins with the first message, another attempt of the same
//! run goes on.
//!
//! Without a schedule the file is looked at all the time: Kubernetes brings a changed ConfigMap into the running pod, within a minute or two.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use futures::future::LocalBoxFuture;
use serde_json::Value;
use serde_json::value::RawValue;
use tapeline_api::pipeline::file::{File as Wish, FileFormat};
use tapeline_api::report::ProblemClass;
use tokio::time::MissedTickBehavior;

use super::{Rounds, Source};
use crate::halt::{Halt, problem};
use crate::kafka::Fault;
use crate::kafka::sender::Sender;
use crate::noise::Fnv;
use crate::search::Position;
use crate::trade::Message;

/// After so many messages the other tasks get their turn, should the brokers be faster than this one.
const TURN: u64 = 64;

/// How often it is looked whether the file has changed.
const LOOK: Duration = Duration::from_secs(2);

/// Why a file is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is not there.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// It is no JSON array.
    #[error("is not a JSON array of messages: {0}; correct it, or choose format Lines")]
    NoArray(#[from] serde_json::Error),
}

/// A file to send.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    wish: Wish,
    rounds: Rounds,
    id: i64,
    messages: Vec<Written>,
    /// Why there are none.
    unusable: Option<String>,
    /// When the file that was read was written, and how long it is.
    version: Version,
    /// The tick of the first message, once it is known what the topic holds.
    first: Option<u64>,
}

type Version = Option<(SystemTime, u64)>;

/// A message as it is in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Written {
    payload: Vec<u8>,
    key: Option<Vec<u8>>,
    check: u64,
}

impl File {
    /// A file that is not read yet.
    #[must_use]
    pub fn new(path: PathBuf, wish: Wish, rounds: Rounds) -> Self {
        // What a schedule sent is never mistaken for what was sent without one.
        let mut id = Fnv::default();
        add(&mut id, wish.config_map_key_ref.key.as_str().as_bytes());
        add(&mut id, if rounds == Rounds::Endless { b"once" } else { b"each run" });
        let id = i64::try_from(id.get() >> 1).unwrap_or(0);
        Self { path, wish, rounds, id, messages: Vec::new(), unusable: None, version: None, first: None }
    }

    /// Reads the file. What is wrong with it shows when it is to be sent.
    pub fn read(&mut self) {
        // Before the content: a change in between is read once more, and not missed.
        self.version = version(&self.path);
        self.first = None;
        match std::fs::read(&self.path).map_err(FileError::from).and_then(|content| self.divide(&content)) {
            Ok(messages) => {
                tracing::info!(file = %self.wish.config_map_key_ref.key, messages = messages.len(), "read the file");
                (self.messages, self.unusable) = (messages, None);
            }
            Err(error) => (self.messages, self.unusable) = (Vec::new(), Some(format!("the key \"{}\" {error}", self.wish.config_map_key_ref.key))),
        }
    }

    fn divide(&self, content: &[u8]) -> Result<Vec<Written>, FileError> {
        let payloads: Vec<&[u8]> = match self.wish.format {
            FileFormat::Lines => lines(content).collect(),
            FileFormat::JSON => serde_json::from_slice::<Vec<&RawValue>>(content)?.into_iter().map(|element| element.get().as_bytes()).collect(),
        };
        let mut so_far = Fnv::default();
        add(&mut so_far, self.rounds.run().as_bytes());
        let write = |payload: &[u8]| {
            add(&mut so_far, payload);
            Written { payload: payload.to_vec(), key: self.wish.key.as_deref().and_then(|pointer| key(payload, pointer)), check: so_far.get() }
        };
        Ok(payloads.into_iter().map(write).collect())
    }

    /// The tick of the first message, if the topic's last one is of this file and round.
    fn begun(&self, position: &Position) -> Result<Option<u64>, Halt> {
        let Some(last) = position.last.as_ref().filter(|last| last.stamp.last_id == self.id) else { return Ok(None) };
        let place = (0..).zip(&self.messages).find(|(_, written)| last.stamp.check == Some(written.check)).map(|(place, _)| place);
        match (place.and_then(|place: u64| last.tick.checked_sub(place)), &self.rounds) {
            (Some(first), _) => Ok(Some(first)),
            (None, Rounds::One { .. }) => Ok(None),
            (None, Rounds::Endless) => Err(Halt::Failed(problem(
                ProblemClass::InvalidSettings,
                format!(
                    "the messages under the key \"{}\" that were sent are not there any more, or were changed: restore them and add new ones at the end, \
                     or put the new ones under another key, from which all are sent",
                    self.wish.config_map_key_ref.key
                ),
            ))),
        }
    }

    fn message(&self, tick: u64, written: &Written) -> Message {
        Message { tick, key: written.key.clone(), payload: written.payload.clone(), records: 1, last_id: self.id, check: Some(written.check) }
    }
}

impl Source for File {
    /// Finds its place in what the topic holds.
    ///
    /// # Errors
    /// When the file cannot be read, or what was sent of it is not in it any more. Sending the rest would leave in the dark what the topic has, sending all would send much of it twice.
    fn resume(&mut self, position: &mut Position) -> Result<(), Halt> {
        if let Some(why) = &self.unusable {
            return Err(Halt::Failed(problem(ProblemClass::InvalidSettings, why.clone())));
        }
        let first = self.begun(position)?.unwrap_or(position.end);
        self.first = Some(first);
        // What an earlier file or run did not finish is nothing of this one's.
        if position.floor < first {
            position.before = if first == position.end { position.last.as_ref().map(|last| last.stamp) } else { None };
            position.floor = first;
            position.present = position.present.split_off(&first);
            while let Some(stamp) = position.present.remove(&position.floor) {
                position.before = Some(stamp);
                position.floor += 1;
            }
        }
        Ok(())
    }

    fn run<'a>(&'a mut self, position: &'a Position, sender: &'a Sender) -> LocalBoxFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            let mut clock = self.wish.interval.as_ref().map(|interval| tokio::time::interval(interval.get().max(Duration::from_millis(1))));
            if let Some(clock) = &mut clock {
                clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
            }
            for (tick, written) in (self.first.unwrap_or(position.end)..).zip(&self.messages) {
                if tick < position.floor || position.present.contains_key(&tick) {
                    continue;
                }
                if let Some(clock) = &mut clock {
                    clock.tick().await;
                }
                sender.send(&self.message(tick, written)).await?;
                if tick.is_multiple_of(TURN) {
                    tokio::task::yield_now().await;
                }
            }
            sender.settled().await
        })
    }

    /// Behind the tick of the last message. Not known before the topic was looked at.
    fn goal(&self) -> Option<u64> {
        self.first?.checked_add(u64::try_from(self.messages.len()).ok()?)
    }

    fn more(&mut self) -> LocalBoxFuture<'_, ()> {
        Box::pin(async move {
            while version(&self.path) == self.version {
                tokio::time::sleep(LOOK).await;
            }
            self.read();
        })
    }
}

fn version(path: &Path) -> Version {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// The lines that are not blank, without their ends.
fn lines(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    let content = content.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(content);
    content.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).filter(|line| !line.trim_ascii().is_empty())
}

/// The key of a message: a text as it is, anything else as JSON writes it. None where there is nothing, or no JSON.
fn key(payload: &[u8], pointer: &str) -> Option<Vec<u8>> {
    match serde_json::from_slice::<Value>(payload).ok()?.pointer(pointer)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone().into_bytes()),
        other => Some(other.to_string().into_bytes()),
    }
}

fn add(hash: &mut Fnv, part: &[u8]) {
    hash.add(&(part.len() as u64).to_le_bytes());
    hash.add(part);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::search::{Last, Stamp};

    fn file(content: &str, wish: Value, rounds: Rounds) -> File {
        let mut all = json!({"configMapKeyRef": {"name": "sales", "key": "sales.jsonl"}});
        all.as_object_mut().unwrap().extend(wish.as_object().unwrap().clone());
        let mut file = File::new(PathBuf::new(), serde_json::from_value(all).unwrap(), rounds);
        file.messages = file.divide(content.as_bytes()).unwrap();
        file
    }

    fn endless(content: &str) -> File {
        file(content, json!({}), Rounds::Endless)
    }

    fn run(content: &str, run: &str) -> File {
        file(content, json!({}), Rounds::One { run: run.to_owned() })
    }

    /// As a topic that holds the messages of these ticks, and below `floor` all of whatever sent them.
    fn holds(floor: u64, sent: &[(u64, &File, usize)]) -> Position {
        let stamp = |file: &File, place: usize| Stamp { last_id: file.id, check: Some(file.messages[place].check) };
        let stamps: BTreeMap<u64, Stamp> = sent.iter().map(|(tick, file, place)| (*tick, stamp(file, *place))).collect();
        let last = stamps.last_key_value().map(|(&tick, &stamp)| Last { tick, stamp, payload: None });
        Position {
            floor,
            before: floor.checked_sub(1).and_then(|tick| stamps.get(&tick).copied()),
            end: last.as_ref().map_or(0, |last| last.tick + 1),
            present: stamps.into_iter().filter(|(tick, _)| *tick >= floor).collect(),
            published: 0,
            last,
            ends: BTreeMap::new(),
        }
    }

    /// What would be sent, as tick and text.
    fn rest(file: &mut File, mut position: Position) -> Vec<(u64, String)> {
        file.resume(&mut position).unwrap();
        assert!(!position.present.contains_key(&position.floor));
        let all = (file.first.unwrap()..).zip(&file.messages);
        let missing = all.filter(|(tick, _)| *tick >= position.floor && !position.present.contains_key(tick));
        missing.map(|(tick, written)| (tick, String::from_utf8(written.payload.clone()).unwrap())).collect()
    }

    fn pairs(expected: &[(u64, &str)]) -> Vec<(u64, String)> {
        expected.iter().map(|(tick, text)| (*tick, (*text).to_owned())).collect()
    }

    #[rstest]
    #[case::lines("Lines", "a\r\n\n {\"id\": 1}\n \t\nno JSON", &["a", " {\"id\": 1}", "no JSON"])]
    #[case::a_byte_order_mark("Lines", "\u{feff}a\n", &["a"])]
    #[case::nothing("Lines", "\n", &[])]
    #[case::an_array("JSON", "[ {\"id\": 1,\n  \"n\": 1.50}, 7 ]", &["{\"id\": 1,\n  \"n\": 1.50}", "7"])]
    fn a_file_is_divided_into_messages(#[case] format: &str, #[case] content: &str, #[case] expected: &[&str]) {
        let file = file(content, json!({"format": format}), Rounds::Endless);
        let texts: Vec<&str> = file.messages.iter().map(|written| std::str::from_utf8(&written.payload).unwrap()).collect();
        assert_eq!(texts, expected);
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_file_is_named_until_it_is_put_right() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sales.json");
        let wish = serde_json::from_value(json!({"configMapKeyRef": {"name": "sales", "key": "sales.json"}, "format": "JSON"})).unwrap();
        let mut file = File::new(path.clone(), wish, Rounds::Endless);
        let wrong = |file: &mut File| match file.resume(&mut holds(0, &[])) {
            Err(Halt::Failed(problem)) => problem.message,
            other => panic!("{other:?}"),
        };
        file.read();
        assert!(wrong(&mut file).starts_with("the key \"sales.json\" cannot be read: "));
        std::fs::write(&path, "[1,\n2").unwrap();
        file.more().await;
        let message = wrong(&mut file);
        assert!(message.starts_with("the key \"sales.json\" is not a JSON array of messages: ") && message.contains("line 2"), "{message}");
        std::fs::write(&path, "[1,\n2]").unwrap();
        file.more().await;
        assert_eq!(rest(&mut file, holds(0, &[])), pairs(&[(0, "1"), (1, "2")]));
    }

    #[test]
    fn keys_are_found_by_their_pointer() {
        let content = "{\"a\": {\"id\": \"x/1\"}}\n{\"a\": {\"id\": 12}}\n{\"a\": {\"id\": null}}\n{}\nno JSON\n";
        let file = file(content, json!({"key": "/a/id"}), Rounds::Endless);
        let keys: Vec<Option<&[u8]>> = file.messages.iter().map(|written| written.key.as_deref()).collect();
        assert_eq!(keys, [Some(&b"x/1"[..]), Some(&b"12"[..]), None, None, None]);
    }

    #[test]
    fn lines_are_sent_once_and_those_added_later_follow() {
        let mut first = endless("a\nb\n");
        assert_eq!(rest(&mut first, holds(0, &[])), pairs(&[(0, "a"), (1, "b")]));
        let sent = holds(2, &[(0, &first, 0), (1, &first, 1)]);
        assert_eq!(rest(&mut endless("a\nb\n"), sent.clone()), []);
        assert_eq!(rest(&mut endless("a\nb\nc\n"), sent), pairs(&[(2, "c")]));
    }

    #[test]
    fn a_gap_that_a_killed_process_left_is_filled() {
        let mut file = endless("a\nb\nc\nd\n");
        let position = holds(1, &[(0, &file, 0), (2, &file, 2)]);
        assert_eq!(rest(&mut file, position), pairs(&[(1, "b"), (3, "d")]));
    }

    #[rstest]
    #[case::changed("a\nB\nc\n")]
    #[case::taken_away("a\n")]
    fn what_was_sent_may_not_change(#[case] content: &str) {
        let sent = endless("a\nb\n");
        let mut position = holds(2, &[(0, &sent, 0), (1, &sent, 1)]);
        let Err(Halt::Failed(problem)) = endless(content).resume(&mut position) else { panic!("it was changed") };
        assert_eq!(problem.class, ProblemClass::InvalidSettings);
        assert!(problem.message.contains("\"sales.jsonl\"") && problem.message.contains("another key"), "{}", problem.message);
    }

    #[test]
    fn another_key_is_another_file_and_another_config_map_is_not() {
        let sent = endless("a\nb\n");
        let position = holds(1, &[(0, &sent, 0), (2, &sent, 1)]);
        let mut other = file("a\nc\n", json!({"configMapKeyRef": {"name": "sales", "key": "tuesday.jsonl"}}), Rounds::Endless);
        assert_eq!(rest(&mut other, position), pairs(&[(3, "a"), (4, "c")]), "the gap of the file before is not its own");
        let mut renamed = file("a\nb\nc\n", json!({"configMapKeyRef": {"name": "sales-7h2k", "key": "sales.jsonl"}}), Rounds::Endless);
        assert_eq!(rest(&mut renamed, holds(2, &[(0, &sent, 0), (1, &sent, 1)])), pairs(&[(2, "c")]));
    }

    #[test]
    fn each_run_sends_all_and_a_further_attempt_the_rest() {
        let (one, mut again) = (run("a\nb\n", "1"), run("a\nb\n", "1"));
        assert_eq!(rest(&mut again, holds(1, &[(0, &one, 0)])), pairs(&[(1, "b")]));
        let done = holds(2, &[(0, &one, 0), (1, &one, 1)]);
        assert_eq!(rest(&mut again, done.clone()), []);
        assert_eq!(again.goal(), Some(2));
        assert_eq!(rest(&mut run("a\nb\n", "2"), done.clone()), pairs(&[(2, "a"), (3, "b")]));
        assert_eq!(rest(&mut run("changed\n", "3"), done.clone()), pairs(&[(2, "changed")]));
        // A run that failed half-way is not made good by the next.
        assert_eq!(rest(&mut run("a\nb\n", "2"), holds(0, &[(1, &one, 1)])), pairs(&[(2, "a"), (3, "b")]));
        assert_eq!(rest(&mut endless("a\nb\n"), done), pairs(&[(2, "a"), (3, "b")]), "without a schedule it is another file");
    }

    #[test]
    fn gaps_of_runs_before_do_not_hold_up_this_one() {
        let (one, two) = (run("a\nb\n", "1"), run("a\nb\nc\n", "2"));
        let mut position = holds(0, &[(1, &one, 1), (2, &two, 0), (4, &two, 2)]);
        let mut again = run("a\nb\nc\n", "2");
        again.resume(&mut position).unwrap();
        assert_eq!((position.floor, position.before.unwrap().check), (3, Some(two.messages[0].check)));
        assert_eq!(rest(&mut again, position), pairs(&[(3, "b")]));
    }
}
