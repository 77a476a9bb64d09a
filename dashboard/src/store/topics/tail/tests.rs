use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::message::Text;
use super::*;

fn message(offset: i64) -> Message {
    let payload = Text { text: String::new(), hex: false, cut_from: None };
    Message { partition: 0, offset, timestamp_ms: None, key: None, headers: vec![], payload, json: false, tombstone: false }
}

fn viewer(filter: &str, waiting: usize) -> (Viewer, mpsc::Receiver<Item>) {
    let (sender, receiver) = mpsc::channel(waiting);
    (Viewer::new(Filter::new(Some(filter)), sender, oneshot::channel().0), receiver)
}

fn seat(joined: Instant, listing: &Arc<AsyncMutex<Option<Listing>>>) -> (mpsc::Sender<Item>, Seat) {
    let (sender, messages) = mpsc::channel(WAITING);
    (sender, Seat { joined, filter: Filter::default(), listing: Arc::clone(listing), messages })
}

fn found(offsets: &[i64]) -> Found {
    Found { messages: offsets.iter().map(|offset| message(*offset)).collect(), scanned: 0, complete: true, older: super::super::Places::new() }
}

/// Offsets of messages, and how many were left out as negative numbers.
fn told(receiver: &mut mpsc::Receiver<Item>) -> Vec<i64> {
    let number = |item: Item| match item.unwrap() {
        Tailed::Message(message) => message.offset,
        Tailed::Missed(count) => -i64::try_from(count).unwrap(),
    };
    std::iter::from_fn(|| receiver.try_recv().ok()).map(number).collect()
}

#[test]
fn a_slow_viewer_is_told_how_many_it_missed() {
    let (mut viewer, mut receiver) = viewer("", 3);
    let now = Instant::now();
    let mut offer = |offset| viewer.offer(now, || Arc::new(message(offset)));
    (0..8).for_each(&mut offer);
    assert_eq!(told(&mut receiver), [0, 1, 2]);
    offer(8);
    assert_eq!(told(&mut receiver), [-5, 8]);
}

#[test]
fn nobody_is_sent_more_in_a_second_than_can_be_read() {
    let (mut viewer, mut receiver) = viewer("", WAITING);
    let now = Instant::now();
    for offset in 0..100 {
        viewer.offer(now, || Arc::new(message(offset)));
    }
    assert_eq!(told(&mut receiver), (0..i64::from(PER_SECOND)).collect::<Vec<_>>());
    assert!(viewer.confess());
    assert_eq!(told(&mut receiver), [-80], "it is said when nothing comes");
    viewer.offer(now + Duration::from_secs(1), || Arc::new(message(100)));
    assert_eq!(told(&mut receiver), [100]);
}

#[test]
fn a_message_is_made_once_for_all_who_look_for_it_and_those_who_have_gone_are_forgotten() {
    let mut audience = Audience::default();
    let mut receivers = Vec::new();
    for filter in ["", "aapl", "", "msft"] {
        let (viewer, receiver) = viewer(filter, WAITING);
        audience.enter(viewer);
        receivers.push(receiver);
    }
    let made = AtomicUsize::new(0);
    let make = || {
        made.fetch_add(1, Ordering::Relaxed);
        message(7)
    };
    audience.tell(Instant::now(), |filter| *filter != Filter::new(Some("msft")), make);
    assert_eq!(receivers.iter_mut().map(told).collect::<Vec<_>>(), [vec![7], vec![7], vec![7], vec![]]);
    assert_eq!(made.load(Ordering::Relaxed), 1);
    receivers.truncate(1);
    assert!(!audience.is_deserted());
    assert_eq!(audience.viewers.len(), 1);
    receivers.clear();
    assert!(audience.is_deserted());
}

#[tokio::test]
async fn a_failure_is_said_to_all_and_ends_their_views() {
    let mut audience = Audience::default();
    let (viewer, mut receiver) = viewer("", WAITING);
    audience.enter(viewer);
    let error = StoreError::Unreachable("away".to_owned());
    audience.fail(&error);
    assert_eq!((receiver.recv().await, receiver.recv().await), (Some(Err(error)), None));
}

#[tokio::test]
async fn many_follow_a_topic_and_few_topics_are_followed() {
    let kafka = KafkaSettings { bootstrap_servers: "127.0.0.1:1".to_owned(), client_properties: std::collections::BTreeMap::new() };
    let tails = Tails::new(Arc::new(kafka));
    for number in 0..TOPICS {
        lock(&tails.open).insert(format!("t{number}").parse().unwrap(), Arc::default());
    }
    let mut receivers = Vec::new();
    for _ in 0..100 {
        let (viewer, receiver) = viewer("", WAITING);
        assert!(tails.enter(&"t3".parse().unwrap(), viewer).is_ok());
        receivers.push(receiver);
    }
    let refused = tails.enter(&"another".parse().unwrap(), viewer("", WAITING).0);
    assert!(matches!(refused.err(), Some(StoreError::Refused(text)) if text.contains("16 topics")));
}

#[tokio::test]
async fn those_who_come_at_once_share_a_look_for_the_newest() {
    let (listing, joined, looks) = (Arc::default(), Instant::now(), AtomicUsize::new(0));
    let look = async || {
        looks.fetch_add(1, Ordering::Relaxed);
        Ok(found(&[2, 1]))
    };
    for _ in 0..100 {
        let (_sender, seat) = seat(joined, &listing);
        let newest: Vec<i64> = seat.newest(look()).await.unwrap().iter().map(|message| message.offset).collect();
        assert_eq!(newest, [1, 2], "oldest first");
    }
    assert_eq!(looks.load(Ordering::Relaxed), 1);
    let (_sender, late) = seat(Instant::now() + Duration::from_secs(1), &listing);
    late.newest(look()).await.unwrap();
    assert_eq!(looks.load(Ordering::Relaxed), 2, "a look of before would leave a gap");
}

#[tokio::test]
async fn what_comes_follows_the_newest_without_a_gap_or_a_message_twice() {
    let (sender, seat) = seat(Instant::now(), &Arc::default());
    for offset in 2..5 {
        sender.send(Ok(Tailed::Message(Arc::new(message(offset))))).await.unwrap();
    }
    drop(sender);
    let newest = seat.newest(async { Ok(found(&[3, 2, 1])) }).await.unwrap();
    let items: Vec<Item> = seat.follow(newest).collect().await;
    let expected: [Item; 4] = [1, 2, 3, 4].map(|offset| Ok(Tailed::Message(Arc::new(message(offset)))));
    assert_eq!(items, expected);
}
