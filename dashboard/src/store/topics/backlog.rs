//! The newest messages of several partitions, found from their ends backwards without reading more than it takes. Pure: what is read is asked for in windows of offsets.
//!
//! Kafka reads forwards only, so a window behind the last one is read for each partition of which nothing is left to compare, until the newest of all are known. Offsets are
//! no count of messages: compaction and transactions leave gaps, so windows grow.

use std::collections::{BTreeMap, VecDeque};

/// By how much the next window of a partition is longer.
const GROWTH: i64 = 4;

/// Something that has a time, and a place in its partition.
pub(super) trait Dated {
    /// Milliseconds since 1970; none: before everything that has one.
    fn time(&self) -> Option<i64>;

    /// Its place.
    fn offset(&self) -> i64;
}

/// The offsets of a partition, and what may be read of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) partition: i32,
    /// The first offset.
    pub(super) from: i64,
    /// The one behind the last.
    pub(super) to: i64,
}

#[derive(Debug)]
struct Lane<T> {
    partition: i32,
    /// The first offset that the partition has.
    low: i64,
    /// What is behind this offset was read.
    start: i64,
    /// How long the next window is.
    step: i64,
    /// Whether the last window was full of messages, rather than of gaps.
    dense: bool,
    /// What was read and not taken yet, newest first.
    found: VecDeque<T>,
}

impl<T> Lane<T> {
    /// Whether nothing can be said about its newest message before more is read.
    fn is_open(&self) -> bool {
        self.found.is_empty() && self.start > self.low
    }
}

impl<T: Dated> Lane<T> {
    /// The offset before which everything is older than what was taken; none if there is nothing.
    fn rest(&self) -> Option<(i32, i64)> {
        let end = self.found.front().map_or(self.start, |newest| newest.offset().saturating_add(1));
        (end > self.low).then_some((self.partition, end))
    }
}

/// A search for the newest `count` messages.
#[derive(Debug)]
pub(super) struct Backlog<T> {
    lanes: Vec<Lane<T>>,
    newest: Vec<T>,
    count: usize,
}

impl<T: Dated> Backlog<T> {
    /// A search in `ranges`, beginning with windows of `step` offsets.
    pub(super) fn new(ranges: &[Window], count: usize, step: i64) -> Self {
        let lane =
            |range: &Window| Lane { partition: range.partition, low: range.from, start: range.to, step: step.max(1), dense: true, found: VecDeque::new() };
        Self { lanes: ranges.iter().map(lane).collect(), newest: Vec::new(), count }
    }

    /// What has to be read next, if about `budget` messages may be; nothing: all is found.
    pub(super) fn windows(&mut self, budget: usize) -> Vec<Window> {
        self.merge(Lane::is_open);
        if self.newest.len() >= self.count {
            return Vec::new();
        }
        let open = self.lanes.iter().filter(|lane| lane.is_open()).count();
        let share = i64::try_from(budget.checked_div(open).unwrap_or(0)).unwrap_or(i64::MAX).max(1);
        let window = |lane: &mut Lane<T>| {
            let length = if lane.dense { lane.step.min(share) } else { lane.step };
            Window { partition: lane.partition, from: lane.start.saturating_sub(length).max(lane.low), to: lane.start }
        };
        self.lanes.iter_mut().filter(|lane| lane.is_open()).map(window).collect()
    }

    /// `window` was read: it has `messages`, oldest first, of `scanned` that were looked at.
    pub(super) fn add(&mut self, window: Window, messages: Vec<T>, scanned: usize) {
        if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.partition == window.partition) {
            let length = window.to.saturating_sub(window.from);
            lane.start = window.from;
            lane.step = length.saturating_mul(GROWTH);
            lane.dense = i64::try_from(scanned).unwrap_or(i64::MAX) >= length / 2;
            lane.found.extend(messages.into_iter().rev());
        }
    }

    /// The newest messages, newest first; whether they are: not if the search was ended before; and for each partition that has older ones the offset before which they are.
    pub(super) fn finish(mut self) -> (Vec<T>, bool, BTreeMap<i32, i64>) {
        self.merge(Lane::is_open);
        let complete = self.newest.len() >= self.count || self.lanes.iter().all(|lane| lane.found.is_empty() && !lane.is_open());
        self.merge(|_| false);
        let older = self.lanes.iter().filter_map(Lane::rest).collect();
        (self.newest, complete, older)
    }

    /// Takes the newest of the lanes' newest, again and again, until there are enough or one of them `blocks`. A partition's own order is that of its offsets, whatever
    /// clocks said.
    fn merge(&mut self, blocks: impl Fn(&Lane<T>) -> bool) {
        while self.newest.len() < self.count && !self.lanes.iter().any(&blocks) {
            let heads = self.lanes.iter_mut().filter(|lane| !lane.found.is_empty());
            let Some(newest) = heads.max_by_key(|lane| lane.found.front().and_then(Dated::time)) else { return };
            self.newest.extend(newest.found.pop_front());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    struct Sent {
        time: i64,
        partition: i32,
        offset: i64,
    }

    impl Dated for Sent {
        fn time(&self) -> Option<i64> {
            Some(self.time)
        }

        fn offset(&self) -> i64 {
            self.offset
        }
    }

    type Topic = BTreeMap<i32, Vec<Sent>>;

    struct Search {
        found: Vec<Sent>,
        complete: bool,
        older: BTreeMap<i32, i64>,
        scanned: usize,
    }

    /// Reads what the search asks for, as Kafka would.
    fn search(topic: &Topic, ends: &BTreeMap<i32, i64>, count: usize, step: i64) -> Search {
        let ranges: Vec<Window> = ends.iter().map(|(partition, end)| Window { partition: *partition, from: 0, to: *end }).collect();
        let mut backlog = Backlog::new(&ranges, count, step);
        let mut scanned = 0;
        for round in 0.. {
            let windows = backlog.windows(usize::MAX);
            if windows.is_empty() {
                break;
            }
            assert!(round < 100, "{windows:?}");
            for window in windows {
                assert!(window.from < window.to, "{window:?}");
                let messages = topic.get(&window.partition).into_iter().flatten().filter(|sent| (window.from..window.to).contains(&sent.offset));
                let messages: Vec<Sent> = messages.copied().collect();
                scanned += messages.len();
                let length = messages.len();
                backlog.add(window, messages, length);
            }
        }
        let (found, complete, older) = backlog.finish();
        Search { found, complete, older, scanned }
    }

    /// Offsets with gaps, and times that rise with them.
    fn topic() -> impl Strategy<Value = (Topic, BTreeMap<i32, i64>)> {
        let partition = prop::collection::vec((1_i64..50, 0_i64..1000), 0..60);
        prop::collection::vec((partition, 0_i64..40), 1..6).prop_map(|partitions| {
            let (mut topic, mut ends) = (Topic::new(), BTreeMap::new());
            for (partition, (steps, rest)) in (0..).zip(partitions) {
                let (mut offset, mut time) = (-1, 0);
                for (gap, pause) in steps {
                    (offset, time) = (offset + gap, time + pause);
                    topic.entry(partition).or_default().push(Sent { time, partition, offset });
                }
                ends.insert(partition, offset + 1 + rest);
            }
            (topic, ends)
        })
    }

    proptest! {
        #[test]
        fn the_newest_of_all_are_found_whatever_the_gaps((topic, ends) in topic(), count in 0_usize..40, step in 1_i64..20) {
            let Search { found, complete, .. } = search(&topic, &ends, count, step);
            let mut all: Vec<Sent> = topic.values().flatten().copied().collect();
            all.sort_by_key(|sent| std::cmp::Reverse(sent.time));
            let times: Vec<i64> = all.iter().take(count).map(|sent| sent.time).collect();
            prop_assert!(complete);
            prop_assert_eq!(found.iter().map(|sent| sent.time).collect::<Vec<_>>(), times);
            for partition in ends.keys() {
                let offsets: Vec<i64> = found.iter().filter(|sent| sent.partition == *partition).map(|sent| sent.offset).collect();
                let newest: Vec<i64> = topic.get(partition).into_iter().flatten().rev().take(offsets.len()).map(|sent| sent.offset).collect();
                prop_assert_eq!(offsets, newest, "each partition's newest, newest first");
            }
        }

        #[test]
        fn page_by_page_each_message_is_found_once((topic, ends) in topic(), count in 1_usize..20, step in 1_i64..20) {
            let (mut places, mut found) = (ends, Vec::new());
            while !places.is_empty() {
                let page = search(&topic, &places, count, step);
                prop_assert!(page.older.iter().all(|(partition, end)| *end < places[partition] || !page.found.is_empty()));
                found.extend(page.found);
                places = page.older;
            }
            found.sort_unstable();
            let mut all: Vec<Sent> = topic.values().flatten().copied().collect();
            all.sort_unstable();
            prop_assert_eq!(found, all);
        }
    }

    fn full(partitions: i32, length: i64) -> (Topic, BTreeMap<i32, i64>) {
        let of = |partition| (0..length).map(|offset| Sent { time: offset, partition, offset }).collect();
        ((0..partitions).map(|partition| (partition, of(partition))).collect(), (0..partitions).map(|partition| (partition, length)).collect())
    }

    #[test]
    fn little_more_is_read_than_is_shown() {
        let (topic, ends) = full(10, 100_000);
        let Search { found, scanned, .. } = search(&topic, &ends, 50, 5);
        assert_eq!(found.len(), 50);
        assert!(scanned <= 300, "{scanned}");
    }

    #[test]
    fn a_long_gap_takes_few_windows() {
        let sent = Sent { time: 1, partition: 0, offset: 3 };
        let Search { found, complete, older, .. } = search(&BTreeMap::from([(0, vec![sent])]), &BTreeMap::from([(0, 1_000_000_000)]), 5, 5);
        assert_eq!((found, complete, older), (vec![sent], true, BTreeMap::new()));
    }

    #[test]
    fn a_budget_is_shared_by_the_partitions_that_are_read() {
        let ranges = [0, 1].map(|partition| Window { partition, from: 0, to: 1000 });
        let windows = Backlog::<Sent>::new(&ranges, 500, 500).windows(100);
        assert_eq!(windows, [0, 1].map(|partition| Window { partition, from: 950, to: 1000 }));
    }

    #[test]
    fn a_search_that_is_ended_early_says_so() {
        let ranges = [0, 1].map(|partition| Window { partition, from: 0, to: 10 });
        let mut backlog = Backlog::new(&ranges, 5, 2);
        let windows = backlog.windows(100);
        let sent = Sent { time: 1, partition: 0, offset: 9 };
        backlog.add(windows[0], vec![sent], 1);
        assert_eq!(backlog.finish(), (vec![sent], false, BTreeMap::from([(0, 8), (1, 10)])));
    }

    #[test]
    fn an_empty_topic_is_searched_at_once() {
        let mut backlog = Backlog::<Sent>::new(&[Window { partition: 0, from: 7, to: 7 }], 5, 2);
        assert_eq!((backlog.windows(100), backlog.finish()), (vec![], (vec![], true, BTreeMap::new())));
    }
}
