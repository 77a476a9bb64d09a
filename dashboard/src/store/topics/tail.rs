//! Live views of topics: one consumer for each topic that is followed, on a thread of its own, however many look. It ends when nobody looks any more.
//!
//! Whoever comes gets the newest messages and then those that come. Both overlap rather than leave a gap: a look for the newest begins after its viewer listens. Those who come
//! at once share a look.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use tapeline_api::names::TopicName;
use tapeline_api::settings::KafkaSettings;
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::super::StoreError;
use super::message::{Filter, Message};
use super::reader::{Polled, Reader};
use super::{Found, LIMIT};

/// Topics that are followed at once: a consumer costs threads and memory.
const TOPICS: usize = 16;
/// Messages that wait for a viewer; further ones are left out.
const WAITING: usize = 64;
/// Messages that a viewer gets in a second; further ones are left out, since nobody reads them.
const PER_SECOND: u32 = 20;
/// How often it is looked whether somebody still listens.
const POLL: Duration = Duration::from_millis(200);
/// How often it is looked whether the topic has got more partitions, or is gone.
const PARTITIONS: Duration = Duration::from_secs(60);

/// What a live view shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tailed {
    /// A message.
    Message(Arc<Message>),
    /// So many messages were left out here.
    Missed(u64),
}

pub(super) type Item = Result<Tailed, StoreError>;

/// The topics that are followed.
#[derive(Clone)]
pub(super) struct Tails {
    kafka: Arc<KafkaSettings>,
    open: Arc<Mutex<HashMap<TopicName, Arc<Room>>>>,
}

/// Those who follow one topic.
#[derive(Default)]
struct Room {
    audience: Mutex<Audience>,
    listing: Arc<AsyncMutex<Option<Listing>>>,
}

#[derive(Default)]
struct Audience {
    viewers: Vec<Viewer>,
    /// Whether the consumer has begun: what comes from now on is heard.
    has_begun: bool,
}

/// The newest messages as they were looked for last.
struct Listing {
    begun: Instant,
    filter: Filter,
    messages: Vec<Arc<Message>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tails {
    pub(super) fn new(kafka: Arc<KafkaSettings>) -> Self {
        Self { kafka, open: Arc::default() }
    }

    /// Listens to `topic`, and returns when nothing is missed from then on.
    pub(super) async fn join(&self, topic: &TopicName, filter: Filter) -> Result<Seat, StoreError> {
        let (sender, mut messages) = mpsc::channel(WAITING);
        let (begin, begun) = oneshot::channel();
        let listing = self.enter(topic, Viewer::new(filter.clone(), sender, begin))?;
        match begun.await {
            Ok(()) => Ok(Seat { joined: Instant::now(), filter, listing, messages }),
            Err(_ended) => Err(match messages.recv().await {
                Some(Err(error)) => error,
                _ => StoreError::Unreachable("the live view has ended: try again".to_owned()),
            }),
        }
    }

    fn enter(&self, topic: &TopicName, viewer: Viewer) -> Result<Arc<AsyncMutex<Option<Listing>>>, StoreError> {
        let mut open = lock(&self.open);
        if let Some(room) = open.get(topic) {
            lock(&room.audience).enter(viewer);
            return Ok(Arc::clone(&room.listing));
        }
        if open.len() >= TOPICS {
            return Err(StoreError::Refused(format!("{TOPICS} topics are followed already, which is the most at once: stop following one of them")));
        }
        let room = Arc::new(Room::default());
        lock(&room.audience).enter(viewer);
        open.insert(topic.clone(), Arc::clone(&room));
        drop(open); // a thread that cannot be started closes its room, too
        let listing = Arc::clone(&room.listing);
        let follower = Follower { tails: self.clone(), topic: topic.clone(), room };
        let started = thread::Builder::new().name("tail".to_owned()).spawn(move || follower.run());
        started.map(|_thread| listing).map_err(|_| StoreError::Refused("there is no room for another live view: close one".to_owned()))
    }
}

/// A place among those who follow a topic. It is given up by dropping it.
pub(super) struct Seat {
    joined: Instant,
    filter: Filter,
    listing: Arc<AsyncMutex<Option<Listing>>>,
    messages: mpsc::Receiver<Item>,
}

impl Seat {
    /// The newest messages, oldest first: those that `look` finds, or those of a look that another viewer has begun since this one listens.
    pub(super) async fn newest(&self, look: impl Future<Output = Result<Found, StoreError>>) -> Result<Vec<Arc<Message>>, StoreError> {
        let mut last = self.listing.lock().await;
        if let Some(known) = last.as_ref().filter(|known| known.begun >= self.joined && known.filter == self.filter) {
            return Ok(known.messages.clone());
        }
        let begun = Instant::now();
        let messages: Vec<Arc<Message>> = look.await?.messages.into_iter().rev().map(Arc::new).collect();
        *last = Some(Listing { begun, filter: self.filter.clone(), messages: messages.clone() });
        Ok(messages)
    }

    /// `newest`, and what comes.
    pub(super) fn follow(self, newest: Vec<Arc<Message>>) -> BoxStream<'static, Item> {
        let shown: BTreeSet<(i32, i64)> = newest.iter().map(|message| (message.partition, message.offset)).collect();
        let is_new = move |item: &Item| match item {
            Ok(Tailed::Message(message)) => !shown.contains(&(message.partition, message.offset)),
            _ => true,
        };
        let coming = ReceiverStream::new(self.messages).filter(move |item| std::future::ready(is_new(item)));
        stream::iter(newest.into_iter().map(|message| Ok(Tailed::Message(message)))).chain(coming).boxed()
    }
}

/// The thread that reads a topic for all in its room.
struct Follower {
    tails: Tails,
    topic: TopicName,
    room: Arc<Room>,
}

impl Follower {
    fn run(&self) {
        if let Err(error) = self.follow() {
            lock(&self.room.audience).fail(&error);
        }
    }

    /// Reads from the present ends on, until nobody listens.
    fn follow(&self) -> Result<(), StoreError> {
        let deadline = Instant::now() + LIMIT;
        let reader = Reader::connect(&self.tails.kafka, &self.topic, deadline)?;
        let ends: Result<Vec<(i32, i64)>, StoreError> =
            reader.partitions.iter().map(|partition| Ok((*partition, reader.range(*partition, deadline)?.to))).collect();
        reader.assign(ends?.into_iter())?;
        lock(&self.room.audience).begin();
        let mut looked = Instant::now();
        loop {
            let polled = reader.poll(POLL)?;
            let mut audience = lock(&self.room.audience);
            match polled {
                Polled::Message(message) => audience.tell(Instant::now(), |filter| filter.takes(&message), || Message::of(&message)),
                Polled::Nothing => audience.catch_up(),
                Polled::End(_) => {}
            }
            let is_deserted = audience.is_deserted();
            drop(audience);
            if is_deserted && self.leave(false) {
                return Ok(());
            }
            if looked.elapsed() >= PARTITIONS {
                looked = Instant::now();
                if reader.has_other_partitions(POLL) {
                    return Ok(()); // pages connect again, and begin with what is there then
                }
            }
        }
    }

    /// Closes the room, if nobody has come meanwhile or it is `over` all the same: whoever comes then opens another.
    fn leave(&self, over: bool) -> bool {
        let mut open = lock(&self.tails.open);
        let may_leave = over || lock(&self.room.audience).is_deserted();
        if may_leave && open.get(&self.topic).is_some_and(|room| Arc::ptr_eq(room, &self.room)) {
            open.remove(&self.topic);
        }
        may_leave
    }
}

impl Drop for Follower {
    /// However the thread ends: viewers whose room is closed hear that nothing comes any more.
    fn drop(&mut self) {
        self.leave(true);
    }
}

impl Audience {
    fn enter(&mut self, mut viewer: Viewer) {
        if self.has_begun {
            viewer.begin();
        }
        self.viewers.push(viewer);
    }

    fn begin(&mut self) {
        self.has_begun = true;
        self.viewers.iter_mut().for_each(Viewer::begin);
    }

    /// Tells those whose filter `takes` it of a message, which is made once, and only if somebody has room.
    fn tell(&mut self, now: Instant, takes: impl Fn(&Filter) -> bool, make: impl Fn() -> Message) {
        let mut made = None;
        for viewer in self.viewers.iter_mut().filter(|viewer| takes(&viewer.filter)) {
            viewer.offer(now, || Arc::clone(made.get_or_insert_with(|| Arc::new(make()))));
        }
    }

    /// Where nothing comes, nobody has to wait for the next message to hear what was left out.
    fn catch_up(&mut self) {
        for viewer in &mut self.viewers {
            viewer.confess();
        }
    }

    fn fail(&mut self, error: &StoreError) {
        for viewer in self.viewers.drain(..) {
            // One that is so slow that this has no room is told when it connects again.
            let _ = viewer.sender.try_send(Err(error.clone()));
        }
    }

    /// Whether nobody listens any more. Those who have gone are forgotten.
    fn is_deserted(&mut self) -> bool {
        self.viewers.retain(|viewer| !viewer.sender.is_closed());
        self.viewers.is_empty()
    }
}

/// Somebody who follows a topic.
struct Viewer {
    filter: Filter,
    sender: mpsc::Sender<Item>,
    begin: Option<oneshot::Sender<()>>,
    /// Messages that were left out and not told of yet.
    missed: u64,
    /// When the present second began, and what was shown in it.
    second: Option<Instant>,
    shown: u32,
}

impl Viewer {
    const fn new(filter: Filter, sender: mpsc::Sender<Item>, begin: oneshot::Sender<()>) -> Self {
        Self { filter, sender, begin: Some(begin), missed: 0, second: None, shown: 0 }
    }

    fn begin(&mut self) {
        if let Some(begin) = self.begin.take() {
            // Nobody waits for it where the viewer has gone.
            let _ = begin.send(());
        }
    }

    /// Hands over the message that `make` makes if there is room, after how many were left out before it.
    fn offer(&mut self, now: Instant, make: impl FnOnce() -> Arc<Message>) {
        if self.second.is_none_or(|second| now.saturating_duration_since(second) >= Duration::from_secs(1)) {
            (self.second, self.shown) = (Some(now), 0);
        }
        if self.shown >= PER_SECOND || !self.confess() {
            self.missed += 1;
            return;
        }
        match self.sender.try_reserve() {
            Ok(room) => {
                room.send(Ok(Tailed::Message(make())));
                self.shown += 1;
            }
            Err(_) => self.missed += 1,
        }
    }

    /// Says how many messages were left out. False: there is no room for it.
    fn confess(&mut self) -> bool {
        if self.missed > 0 && self.sender.try_send(Ok(Tailed::Missed(self.missed))).is_ok() {
            self.missed = 0;
        }
        self.missed == 0
    }
}

#[cfg(test)]
mod tests;
