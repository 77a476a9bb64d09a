//! A dead letter, sent once more to the topic that it came from. What it looks like is in [`tapeline_api::dead_letter`]. The record's own key and headers are not in it.

use std::time::{Duration, Instant};

use rdkafka::message::{BorrowedMessage, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tapeline_api::dead_letter::{CUT, INDEX, KIND, Kind, PARTITION, REPLAYED, TOPIC};
use tapeline_api::names::TopicName;
use tapeline_api::settings::KafkaSettings;

use super::super::StoreError;
use super::backlog::Window;
use super::message::{Message, headers};
use super::reader::{Reader, client_config, of_code, of_settings};

/// How long all replicas may take to have the message.
const DELIVERY: Duration = Duration::from_secs(10);

/// Where a letter was sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The topic.
    pub topic: TopicName,
    /// Its partition.
    pub partition: i32,
    /// The offset there.
    pub offset: i64,
}

/// Where a letter goes.
#[derive(Debug, PartialEq, Eq)]
struct Address<'a> {
    topic: &'a TopicName,
    /// The partition that it came from.
    partition: Option<i32>,
    /// Whether it is one element of a message's array.
    is_element: bool,
}

impl Message {
    /// Why this message cannot be sent again to one of `sources`, if it cannot.
    #[must_use]
    pub fn not_replayable(&self, sources: &[TopicName]) -> Option<String> {
        let header = |name: &str| self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.text.as_str());
        let size = (!self.tombstone).then_some(self.payload.cut_from.unwrap_or(self.payload.text.len()));
        address(header, size, sources).err().map(|error| error.to_string())
    }
}

/// Sends the letter at `offset` of `partition` to the one of `sources` that it came from, and returns its place there.
pub(super) fn replay(
    kafka: &KafkaSettings,
    reader: &Reader,
    sources: &[TopicName],
    partition: i32,
    offset: i64,
    deadline: Instant,
) -> Result<Place, StoreError> {
    let gone = || StoreError::Missing(format!("there is no dead letter at offset {offset} of partition {partition} any more"));
    let range = reader.range(partition, deadline)?;
    if !(range.from..range.to).contains(&offset) {
        return Err(gone());
    }
    let mut letter = None;
    let window = Window { partition, from: offset, to: offset.saturating_add(1) };
    let read = reader.read(&[window], 1, deadline, |message| letter = Some((message.topic().to_owned(), open(message, sources))))?;
    let Some((topic, letter)) = letter else {
        return Err(if read.done.is_empty() {
            StoreError::Unreachable("Kafka did not deliver the dead letter within 5 s: try again".to_owned())
        } else {
            gone()
        });
    };
    let (address, value) = letter?;
    let partitions = reader.look_up(address.topic.as_str(), deadline.max(Instant::now() + Duration::from_secs(1)))?;
    let to = address.partition.filter(|partition| partitions.contains(partition));
    send(kafka, address.topic, to, &value, &format!("{topic}/{partition}/{offset}"))
}

fn open<'a>(message: &BorrowedMessage<'_>, sources: &'a [TopicName]) -> Result<(Address<'a>, Vec<u8>), StoreError> {
    let headers = headers(message);
    let header = |name: &str| headers.iter().find(|(key, _)| *key == name).and_then(|(_, value)| std::str::from_utf8(value).ok());
    let address = address(header, message.payload().map(<[u8]>::len), sources)?;
    let value = value(&address, message.payload().unwrap_or_default());
    Ok((address, value))
}

/// Where the letter with these headers and a value of `size` bytes goes: to one of `sources`, or nowhere, since it is not what was once in that topic.
fn address<'h, 'a>(header: impl Fn(&str) -> Option<&'h str>, size: Option<usize>, sources: &'a [TopicName]) -> Result<Address<'a>, StoreError> {
    let refused = |text: String| Err(StoreError::Refused(text));
    let Some(source) = header(TOPIC) else {
        return refused(format!("this message is no dead letter of Tapeline: it has no header {TOPIC}"));
    };
    let Some(topic) = sources.iter().find(|topic| topic.as_str() == source) else {
        let known: Vec<&str> = sources.iter().map(TopicName::as_str).collect();
        return refused(format!("this letter came from the topic {source}, and is not sent to {}", known.join(" or ")));
    };
    let index = header(INDEX).unwrap_or_default();
    match (Kind::of(header(KIND), index), size) {
        (Some(Kind::Row), _) => refused(format!(
            "this letter holds a row that a store refused, not a message of {source}: mend the query or the table, and send the record again from where it came from"
        )),
        (None, _) => refused(format!("this letter does not say whether it holds a message of {source} or a row of a query: it has no header {KIND} that is known")),
        (_, None | Some(0)) => refused("this letter has no value: there is nothing to send".to_owned()),
        (_, Some(CUT)) => {
            refused("this letter has only the first 256 KiB of its record, which was too large for the dead-letter topic: send the record again from where it came from".to_owned())
        }
        (Some(Kind::Record), Some(_)) => {
            let partition = header(PARTITION).and_then(|partition| partition.parse().ok());
            Ok(Address { topic, partition, is_element: !index.is_empty() })
        }
    }
}

/// What is sent: the message as it was, or an element in brackets, as it stood. Without them an element that is a list, or null, would be something else than it was.
fn value(address: &Address<'_>, payload: &[u8]) -> Vec<u8> {
    if address.is_element { [b"[".as_slice(), payload, b"]"].concat() } else { payload.to_vec() }
}

fn send(kafka: &KafkaSettings, target: &TopicName, partition: Option<i32>, payload: &[u8], letter: &str) -> Result<Place, StoreError> {
    let producer: FutureProducer = client_config(kafka)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("allow.auto.create.topics", "false")
        .set("message.timeout.ms", DELIVERY.as_millis().to_string())
        .set("message.max.bytes", "100000000") // the topic's own limit decides
        .set("queue.buffering.max.kbytes", "102400")
        .set("linger.ms", "0")
        .create()
        .map_err(|error| of_settings(&error))?;
    let headers = OwnedHeaders::new().insert(Header { key: REPLAYED, value: Some(letter) });
    let mut record = FutureRecord::<(), [u8]>::to(target.as_str()).payload(payload).headers(headers);
    record.partition = partition;
    let delivery = producer.send_result(record).map_err(|(error, _)| not_sent(target, error.rdkafka_error_code()))?;
    // On a thread for blocking work, and no longer than the producer's own limit.
    match futures::executor::block_on(delivery) {
        Ok(Ok(delivery)) => Ok(Place { topic: target.clone(), partition: delivery.partition, offset: delivery.offset }),
        Ok(Err((error, _))) => Err(not_sent(target, error.rdkafka_error_code())),
        Err(_canceled) => Err(not_sent(target, None)),
    }
}

fn not_sent(target: &TopicName, code: Option<rdkafka::error::RDKafkaErrorCode>) -> StoreError {
    use rdkafka::error::RDKafkaErrorCode::{MessageSizeTooLarge, MessageTimedOut};
    match code {
        Some(MessageSizeTooLarge) => StoreError::Refused(format!("the topic {target} does not take a message of this size: raise its max.message.bytes")),
        Some(MessageTimedOut) | None => {
            let text = format!(
                "the topic {target} did not confirm the message in time: look at its newest messages before you send it again, since it may have arrived"
            );
            StoreError::Unreachable(text)
        }
        Some(code) => of_code(target.as_str(), code, None),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    type Headers<'a> = &'a [(&'a str, &'a str)];

    fn found<'a>(headers: Headers<'_>, size: Option<usize>, sources: &'a [TopicName]) -> Result<Address<'a>, StoreError> {
        address(|name| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value), size, sources)
    }

    fn sources() -> [TopicName; 2] {
        ["quotes", "ticks"].map(|name| name.parse().unwrap())
    }

    #[test]
    fn a_letter_goes_to_the_one_of_the_sources_that_it_came_from() {
        let headers = [("tapeline-query", "raw"), ("tapeline-topic", "ticks"), ("tapeline-partition", "3")];
        let sources = sources();
        assert_eq!(found(&headers, Some(1), &sources), Ok(Address { topic: &sources[1], partition: Some(3), is_element: false }));
        assert_eq!(found(&headers[..2], Some(1), &sources), Ok(Address { topic: &sources[1], partition: None, is_element: false }));
    }

    #[rstest]
    #[case::message("", br#"{"id": 1}"#, br#"{"id": 1}"#)]
    #[case::element("3", br#"{"id": "a"}"#, br#"[{"id": "a"}]"#)]
    #[case::element_that_is_none("0", b"null", b"[null]")]
    fn what_is_sent_is_what_it_once_was(#[case] index: &str, #[case] payload: &[u8], #[case] expected: &[u8]) {
        let sources = sources();
        let address = found(&[("tapeline-topic", "ticks"), ("tapeline-kind", "record"), ("tapeline-index", index)], Some(payload.len()), &sources).unwrap();
        assert_eq!(value(&address, payload), expected);
    }

    #[rstest]
    #[case::no_letter(&[], Some(2), "no dead letter")]
    #[case::other_topic(&[("tapeline-topic", "trades")], Some(2), "came from the topic trades, and is not sent to quotes or ticks")]
    #[case::tombstone(&[("tapeline-topic", "ticks")], None, "no value")]
    #[case::empty(&[("tapeline-topic", "ticks")], Some(0), "no value")]
    #[case::cut(&[("tapeline-topic", "ticks")], Some(CUT), "256 KiB")]
    #[case::row(&[("tapeline-topic", "ticks"), ("tapeline-kind", "row"), ("tapeline-index", "0")], Some(2), "a row that a store refused")]
    #[case::element_or_row(&[("tapeline-topic", "ticks"), ("tapeline-index", "0")], Some(2), "tapeline-kind")]
    fn a_letter_that_is_not_what_was_in_the_topic_is_refused(#[case] headers: Headers<'_>, #[case] size: Option<usize>, #[case] said: &str) {
        let error = found(headers, size, &sources()).unwrap_err();
        assert!(matches!(&error, StoreError::Refused(text) if text.contains(said)), "{error}");
    }
}
