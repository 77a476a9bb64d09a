//! Where a producer goes on: which ticks the topic holds, found from the end of each partition backwards in growing chunks. Pure; [`crate::kafka::tail`] reads.
//!
//! Two facts make it exact without reading everything. Within a partition a process's ticks ascend. And a process says that ticks are acknowledged
//! ([`crate::mark::Mark::acked`]) only beyond the highest tick that it found when it started (see [`crate::ledger`]). Hence: where one of our messages has a tick
//! below some published `acked`, all of ours before it in its partition are below it too, and need not be looked at.

use std::collections::BTreeMap;

use crate::mark::Mark;

/// How far back a partition is read at first, in offsets; each further round takes [`GROWTH`] times as many.
const FIRST_CHUNK: i64 = 64;
const GROWTH: i64 = 4;
const LARGEST_CHUNK: i64 = 1 << 20;

/// The offsets that a partition has: from `low`, up to and without `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first that is still there.
    pub low: i64,
    /// Behind the last.
    pub end: i64,
}

/// Offsets of a partition that are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The partition.
    pub partition: i32,
    /// The first offset.
    pub start: i64,
    /// Behind the last.
    pub end: i64,
}

/// What is remembered of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The id of its last trade.
    pub last_id: i64,
    /// See [`Mark::check`].
    pub check: Option<u64>,
}

/// What an earlier process left beside the topic: below these offsets all of ours have ticks below `acked`. It saves reading what others wrote since,
/// and survives the deletion of our messages by retention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// So many ticks, from the first on, were acknowledged.
    pub acked: u64,
    /// Of the last of them.
    pub stamp: Stamp,
    /// By partition.
    pub offsets: BTreeMap<i32, i64>,
}

impl Hint {
    /// Whether it speaks of this topic: one that was created anew, or cut by a broker's loss, ends below what the hint has seen.
    #[must_use]
    pub fn fits(&self, extents: &BTreeMap<i32, Extent>) -> bool {
        self.offsets.iter().all(|(partition, &offset)| extents.get(partition).is_some_and(|extent| offset <= extent.end))
    }
}

/// The last of our messages in the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Last {
    /// Its tick.
    pub tick: u64,
    /// What is remembered of it.
    pub stamp: Stamp,
    /// Its content, unless only the hint remembers it.
    pub payload: Option<Vec<u8>>,
}

/// Where to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The first tick that the topic does not hold.
    pub floor: u64,
    /// What is remembered of the one before.
    pub before: Option<Stamp>,
    /// Those ticks above `floor` that it holds.
    pub present: BTreeMap<u64, Stamp>,
    /// Behind the highest tick that it holds.
    pub end: u64,
    /// Up to where earlier processes published that all is acknowledged; at most `floor`.
    pub published: u64,
    /// The last of our messages.
    pub last: Option<Last>,
    /// Where each partition ended when it was looked at.
    pub ends: BTreeMap<i32, i64>,
}

/// Whether to believe what messages say of ticks that were acknowledged before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claims {
    /// They were in this topic, and may have been deleted since by retention.
    Trusted,
    /// They may have been in a topic of the same name that is gone. Only what is there counts, and all of it is read.
    Ignored,
}

/// A search under way.
#[derive(Debug)]
pub struct Search {
    claims: Claims,
    wants_content: bool,
    partitions: BTreeMap<i32, Reach>,
    chunk: i64,
    acked: u64,
    seen: BTreeMap<u64, Stamp>,
    before: Option<Stamp>,
    last: Option<Last>,
}

/// How far a partition is known.
#[derive(Debug)]
struct Reach {
    low: i64,
    /// Below it the hint says what there is.
    bottom: i64,
    read_from: i64,
    end: i64,
    lowest_tick: Option<u64>,
}

impl Search {
    /// A search over `extents`. `hint` must fit them, and is a claim too.
    #[must_use]
    pub fn new(extents: &BTreeMap<i32, Extent>, hint: Option<&Hint>, claims: Claims) -> Self {
        let hint = hint.filter(|_| claims == Claims::Trusted);
        let reach = |partition: i32, extent: &Extent| {
            let bottom = hint.and_then(|hint| hint.offsets.get(&partition)).map_or(extent.low, |&offset| offset.max(extent.low));
            Reach { low: extent.low, bottom: bottom.min(extent.end), read_from: extent.end, end: extent.end, lowest_tick: None }
        };
        Self {
            claims,
            wants_content: false,
            partitions: extents.iter().map(|(&partition, extent)| (partition, reach(partition, extent))).collect(),
            chunk: FIRST_CHUNK,
            acked: hint.map_or(0, |hint| hint.acked),
            seen: BTreeMap::new(),
            before: hint.map(|hint| hint.stamp),
            last: hint.and_then(|hint| Some(Last { tick: hint.acked.checked_sub(1)?, stamp: hint.stamp, payload: None })),
        }
    }

    /// Looks for the content of the last of our messages too, which a hint does not have: as far back as the last of ours in each partition.
    #[must_use]
    pub const fn with_content(mut self) -> Self {
        self.wants_content = true;
        self
    }

    /// What is to be read and observed next; nothing when all is known.
    pub fn next_round(&mut self) -> Vec<Range> {
        let (chunk, acked) = (self.chunk, self.acked);
        self.chunk = (chunk * GROWTH).min(LARGEST_CHUNK);
        let lacks_content = self.wants_content && self.last.as_ref().is_some_and(|last| last.payload.is_none());
        // Within a partition ours ascend, so the first that is found from the end is its last.
        let may_have_content = |reach: &Reach| lacks_content && reach.lowest_tick.is_none();
        let open = |reach: &Reach| {
            if reach.read_from > reach.bottom {
                reach.lowest_tick.is_none_or(|tick| tick >= acked)
            } else {
                reach.read_from > reach.low && may_have_content(reach)
            }
        };
        self.partitions
            .iter_mut()
            .filter(|(_, reach)| open(reach))
            .map(|(&partition, reach)| {
                let end = reach.read_from;
                reach.read_from = (end - chunk).max(if end > reach.bottom { reach.bottom } else { reach.low });
                Range { partition, start: reach.read_from, end }
            })
            .collect()
    }

    /// Takes note of one of our messages.
    pub fn observe(&mut self, partition: i32, mark: &Mark, payload: Option<&[u8]>) {
        let stamp = Stamp { last_id: mark.last_id, check: mark.check };
        if let Some(reach) = self.partitions.get_mut(&partition) {
            reach.lowest_tick = Some(reach.lowest_tick.map_or(mark.tick, |lowest| lowest.min(mark.tick)));
        }
        if self.last.as_ref().is_none_or(|last| mark.tick >= last.tick) {
            self.last = Some(Last { tick: mark.tick, stamp, payload: payload.map(<[u8]>::to_vec) });
        }
        if mark.tick >= self.acked {
            self.seen.insert(mark.tick, stamp);
        }
        if mark.acked > self.acked && self.claims == Claims::Trusted {
            self.acked = mark.acked;
            let above = self.seen.split_off(&mark.acked);
            self.before = self.seen.get(&(mark.acked - 1)).copied();
            self.seen = above;
        } else if mark.tick + 1 == self.acked {
            self.before = Some(stamp);
        }
    }

    /// What was found.
    #[must_use]
    pub fn position(mut self) -> Position {
        let (mut floor, mut before) = (self.acked, self.before);
        let end = self.seen.last_key_value().map_or(floor, |(&tick, _)| tick + 1);
        while let Some(stamp) = self.seen.remove(&floor) {
            floor += 1;
            before = Some(stamp);
        }
        Position {
            floor,
            before,
            present: self.seen,
            end,
            published: self.acked,
            last: self.last,
            ends: self.partitions.iter().map(|(&partition, reach)| (partition, reach.end)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(tick: u64, acked: u64) -> Mark {
        Mark { tick, acked, last_id: 0, check: None }
    }

    fn extents(ends: &[(i64, i64)]) -> BTreeMap<i32, Extent> {
        (0..).zip(ends).map(|(partition, &(low, end))| (partition, Extent { low, end })).collect()
    }

    #[test]
    fn an_empty_topic_begins_with_the_first_tick() {
        let mut search = Search::new(&extents(&[(0, 0), (5, 5)]), None, Claims::Trusted);
        assert_eq!(search.next_round(), []);
        let position = search.position();
        assert_eq!((position.floor, position.end, position.published, position.last), (0, 0, 0, None));
    }

    #[test]
    fn a_partition_is_read_until_one_of_ours_is_below_what_was_acknowledged() {
        let mut search = Search::new(&extents(&[(0, 1000), (0, 70)]), None, Claims::Trusted);
        assert_eq!(search.next_round(), [Range { partition: 0, start: 936, end: 1000 }, Range { partition: 1, start: 6, end: 70 }]);
        search.observe(0, &mark(8, 6), None);
        search.observe(0, &mark(9, 7), None);
        search.observe(1, &mark(6, 3), None);
        assert_eq!(search.next_round(), [Range { partition: 0, start: 680, end: 936 }], "partition 1 has tick 6, and up to 6 all is acknowledged");
        assert_eq!(search.next_round(), [Range { partition: 0, start: 0, end: 680 }]);
        assert_eq!(search.next_round(), [], "the start of the partition ends it too");
        let position = search.position();
        assert_eq!((position.floor, position.end, position.published), (7, 10, 7));
        assert_eq!(position.present.into_keys().collect::<Vec<_>>(), [8, 9]);
    }

    #[test]
    fn a_hint_bounds_what_is_read_and_outlives_the_messages() {
        let stamp = Stamp { last_id: 77, check: Some(3) };
        let hint = Hint { acked: 40, stamp, offsets: BTreeMap::from([(0, 990), (1, 10)]) };
        let extents = extents(&[(0, 1000), (60, 60), (0, 2)]);
        assert!(hint.fits(&extents));
        let mut search = Search::new(&extents, Some(&hint), Claims::Trusted);
        assert_eq!(search.next_round(), [Range { partition: 0, start: 990, end: 1000 }, Range { partition: 2, start: 0, end: 2 }]);
        assert_eq!(search.next_round(), []);
        let position = search.position();
        assert_eq!((position.floor, position.before, position.end), (40, Some(stamp), 40));
        assert_eq!(position.last, Some(Last { tick: 39, stamp, payload: None }));
    }

    #[test]
    fn the_content_of_the_last_message_is_looked_for_below_a_hint() {
        let stamp = Stamp { last_id: 77, check: None };
        let hint = Hint { acked: 40, stamp, offsets: BTreeMap::from([(0, 1000), (1, 500)]) };
        let mut search = Search::new(&extents(&[(0, 1000), (0, 500)]), Some(&hint), Claims::Trusted).with_content();
        assert_eq!(search.next_round(), [Range { partition: 0, start: 936, end: 1000 }, Range { partition: 1, start: 436, end: 500 }]);
        search.observe(1, &mark(38, 30), Some(b"38"));
        assert_eq!(search.next_round(), [Range { partition: 0, start: 680, end: 936 }], "what partition 1 has last is known");
        search.observe(0, &mark(39, 30), Some(b"39"));
        assert_eq!(search.next_round(), []);
        let position = search.position();
        assert_eq!((position.floor, position.end), (40, 40));
        assert_eq!(position.last.and_then(|last| last.payload).as_deref(), Some(b"39".as_slice()));
        let mut search = Search::new(&extents(&[(0, 1000), (0, 500)]), Some(&hint), Claims::Trusted);
        assert_eq!(search.next_round(), [], "who has no use for it does not read");
    }

    #[test]
    fn a_hint_above_the_end_speaks_of_another_topic() {
        let hint = Hint { acked: 40, stamp: Stamp { last_id: 1, check: None }, offsets: BTreeMap::from([(0, 11)]) };
        assert!(!hint.fits(&extents(&[(0, 10)])));
        assert!(!hint.fits(&BTreeMap::new()));
    }

    #[test]
    fn in_a_topic_that_was_created_anew_only_what_is_there_counts() {
        let mut search = Search::new(&extents(&[(0, 300)]), None, Claims::Ignored);
        assert_eq!(search.next_round(), [Range { partition: 0, start: 236, end: 300 }]);
        search.observe(0, &mark(430, 430), None);
        search.observe(0, &mark(431, 430), None);
        assert_eq!(search.next_round(), [Range { partition: 0, start: 0, end: 236 }]);
        let position = search.position();
        assert_eq!((position.floor, position.end, position.published, position.present.len()), (0, 432, 0, 2));
    }

    #[test]
    fn what_was_acknowledged_is_remembered_whichever_is_read_first() {
        let mut search = Search::new(&extents(&[(0, 10)]), None, Claims::Trusted);
        let _ = search.next_round();
        search.observe(0, &Mark { last_id: 5, ..mark(4, 0) }, None);
        search.observe(0, &mark(9, 5), None);
        assert_eq!(search.position().before, Some(Stamp { last_id: 5, check: None }));
        let mut search = Search::new(&extents(&[(0, 10)]), None, Claims::Trusted);
        let _ = search.next_round();
        search.observe(0, &mark(9, 5), None);
        search.observe(0, &Mark { last_id: 5, ..mark(4, 0) }, None);
        assert_eq!(search.position().before, Some(Stamp { last_id: 5, check: None }));
    }
}
