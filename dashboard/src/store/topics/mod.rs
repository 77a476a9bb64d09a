//! Topics: the newest messages, those before a message, a live view, and dead letters sent once more.
//!
//! Each look has a consumer of its own, which reads committed records only, is in no group, commits nothing, and is gone after at most five seconds. librdkafka blocks, so all
//! of it runs on threads for blocking work; there are few of them at once, since a consumer costs threads and memory. All who follow a topic share one.

mod backlog;
mod message;
mod reader;
mod replay;
mod tail;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::BoxStream;
use rdkafka::message::Message as _;
use tapeline_api::names::TopicName;
use tapeline_api::settings::KafkaSettings;
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub use self::message::{Message, Text};
pub use self::replay::Place;
pub use self::tail::Tailed;

use self::backlog::{Backlog, Dated, Window};
use self::message::Filter;
use self::reader::Reader;
use self::tail::Tails;
use super::StoreError;

/// How long a look may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Messages that a search looks at, at most.
pub const MOST_SCANNED: usize = 5_000;
/// Messages that are shown at once, at most.
pub const MOST_SHOWN: usize = 500;
/// Looks at once.
const LOOKS: usize = 4;
/// Offsets of each partition that are read first, at least; more where a filter leaves few of them.
const STEP: usize = 10;
const FILTERED_STEP: usize = 200;

/// The topics of a pipeline.
#[derive(Clone)]
pub struct Topics {
    kafka: Arc<KafkaSettings>,
    looks: Arc<Semaphore>,
    tails: Tails,
}

/// An offset in each of some partitions.
pub type Places = BTreeMap<i32, i64>;

/// Messages that were looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The messages, newest first.
    pub messages: Vec<Message>,
    /// How many messages were looked at.
    pub scanned: usize,
    /// Whether these are as many as were asked for, or all that there are. If not, the search ended at [`MOST_SCANNED`] messages or after five seconds.
    pub complete: bool,
    /// Where older ones may be, for [`Topics::before`]; nowhere: all were looked at.
    pub older: Places,
}

impl Dated for Message {
    fn time(&self) -> Option<i64> {
        self.timestamp_ms
    }

    fn offset(&self) -> i64 {
        self.offset
    }
}

impl Topics {
    /// Those of the brokers that `kafka` describes.
    #[must_use]
    pub fn new(kafka: KafkaSettings) -> Self {
        let kafka = Arc::new(kafka);
        Self { tails: Tails::new(Arc::clone(&kafka)), kafka, looks: Arc::new(Semaphore::new(LOOKS)) }
    }

    /// The newest `count` messages of all partitions, newest first: those with `filter` in their key or value, whatever the case, if it is given.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn latest(&self, topic: &TopicName, count: usize, filter: Option<&str>) -> Result<Found, StoreError> {
        let filter = Filter::new(filter);
        self.look(topic, move |reader, deadline| {
            let ranges: Result<Vec<Window>, StoreError> = reader.partitions.iter().map(|partition| reader.range(*partition, deadline)).collect();
            search(reader, &ranges?, count, &filter, deadline)
        })
        .await
    }

    /// The newest `count` messages of the partitions of `places` before these offsets, newest first, filtered as those of [`Topics::latest`].
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn before(&self, topic: &TopicName, places: &Places, count: usize, filter: Option<&str>) -> Result<Found, StoreError> {
        let (filter, places) = (Filter::new(filter), places.clone());
        self.look(topic, move |reader, deadline| {
            let range = |(partition, offset): (i32, i64)| -> Result<Window, StoreError> {
                let range = reader.range(partition, deadline)?;
                Ok(Window { to: offset.clamp(range.from, range.to), ..range })
            };
            let ranges: Result<Vec<Window>, StoreError> = places.into_iter().map(range).collect();
            search(reader, &ranges?, count, &filter, deadline)
        })
        .await
    }

    /// The newest `count` messages, oldest first, and then messages as they come; those with `filter` in their key or value, if it is given. Who cannot take what comes is
    /// told how many were left out. The stream ends after an error, and when the topic gets more partitions.
    ///
    /// # Errors
    /// See [`StoreError`]. [`StoreError::Refused`] if too many other topics are followed.
    pub async fn tail(&self, topic: &TopicName, count: usize, filter: Option<&str>) -> Result<BoxStream<'static, Result<Tailed, StoreError>>, StoreError> {
        let seat = self.tails.join(topic, Filter::new(filter)).await?;
        let newest = seat.newest(self.latest(topic, count, filter)).await?;
        Ok(seat.follow(newest))
    }

    /// Sends the record of a dead letter to the one of `sources` that it came from, to the partition that it came from, and waits until all replicas have it. Returns its new
    /// place. The letter stays where it is, and has no key to send along: the worker keeps none.
    ///
    /// # Errors
    /// See [`StoreError`]. [`StoreError::Refused`] if the letter is none, came from another topic, or does not hold a whole record.
    pub async fn replay(&self, dead_letter_topic: &TopicName, sources: &[TopicName], partition: i32, offset: i64) -> Result<Place, StoreError> {
        let (kafka, sources) = (Arc::clone(&self.kafka), sources.to_vec());
        self.look(dead_letter_topic, move |reader, deadline| replay::replay(&kafka, reader, &sources, partition, offset, deadline)).await
    }

    /// Runs `work` with a consumer, on a thread for blocking work.
    async fn look<T: Send + 'static>(
        &self,
        topic: &TopicName,
        work: impl FnOnce(&Reader, Instant) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let busy = || StoreError::Unreachable("too many viewers look at topics at once: try again".to_owned());
        let place = timeout(LIMIT, Arc::clone(&self.looks).acquire_owned()).await.map_err(|_elapsed| busy())?.map_err(|_closed| busy())?;
        let (kafka, topic) = (Arc::clone(&self.kafka), topic.clone());
        let looking = tokio::task::spawn_blocking(move || {
            let deadline = Instant::now() + LIMIT;
            let result = Reader::connect(&kafka, &topic, deadline).and_then(|reader| work(&reader, deadline));
            drop(place);
            result
        });
        looking.await.unwrap_or_else(|error| {
            tracing::error!(%error, "looking at a topic");
            Err(StoreError::Refused("a fault of Tapeline: see the dashboard's log".to_owned()))
        })
    }
}

/// The newest `count` messages of `ranges` that `filter` takes.
fn search(reader: &Reader, ranges: &[Window], count: usize, filter: &Filter, deadline: Instant) -> Result<Found, StoreError> {
    let count = count.min(MOST_SHOWN);
    // Half as many again: partitions are seldom even, and what one lacks costs a second round.
    let share = count.div_ceil(ranges.len().max(1)) * 3 / 2;
    let step = if filter.takes_all() { share.max(STEP) } else { share.max(FILTERED_STEP) };
    let mut backlog = Backlog::new(ranges, count, i64::try_from(step).unwrap_or(i64::MAX));
    let mut scanned = 0;
    loop {
        let budget = MOST_SCANNED - scanned;
        let windows = backlog.windows(budget);
        if windows.is_empty() || budget == 0 || Instant::now() >= deadline {
            break;
        }
        let mut found: BTreeMap<i32, Vec<Message>> = BTreeMap::new();
        let read = reader.read(&windows, budget, deadline, |message| {
            if filter.takes(message) {
                found.entry(message.partition()).or_default().push(Message::of(message));
            }
        })?;
        scanned += read.scanned.values().sum::<usize>();
        let all = windows.len();
        // What was read of a window before it could be read to its end is its older part: without the newer one it would be shown in the wrong place.
        for window in windows.into_iter().filter(|window| read.done.contains(&window.partition)) {
            let looked_at = read.scanned.get(&window.partition).copied().unwrap_or(0);
            backlog.add(window, found.remove(&window.partition).unwrap_or_default(), looked_at);
        }
        if read.done.len() < all {
            break;
        }
    }
    let (messages, complete, older) = backlog.finish();
    if messages.is_empty() && scanned == 0 && !complete {
        return Err(StoreError::Unreachable("Kafka delivered nothing within 5 s: look at the health of its brokers".to_owned()));
    }
    Ok(Found { messages, scanned, complete, older })
}
