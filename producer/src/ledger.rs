//! What was sent and what is acknowledged. Decides what a message's headers may say and what the hint may say. Pure; [`crate::kafka::sender`] keeps it.

use std::collections::{BTreeMap, VecDeque};

use crate::search::{Hint, Position, Stamp};

/// The books of one process.
#[derive(Debug)]
pub struct Ledger {
    /// All ticks below are in the topic.
    floor: u64,
    /// Of the tick before `floor`.
    before: Option<Stamp>,
    /// Ticks from `floor` on that are in the topic.
    done: BTreeMap<u64, Stamp>,
    /// What earlier processes published.
    published: u64,
    /// Behind the highest tick that was in the topic at the start.
    resumed_end: u64,
    partitions: BTreeMap<i32, Track>,
    in_flight: usize,
    in_flight_bytes: usize,
    sent: u64,
    acknowledged: u64,
}

/// A partition, as this process knows it.
#[derive(Debug, Default)]
struct Track {
    /// All of ours below have ticks below the floor, once that is beyond `resumed_end`.
    settled: i64,
    /// Where the partition ends at least.
    end: i64,
    /// Acknowledged messages whose ticks are not below the floor yet, in the order of offsets, which is that of ticks.
    open: VecDeque<(u64, i64)>,
}

impl Ledger {
    /// Goes on from `position`.
    #[must_use]
    pub fn new(position: &Position) -> Self {
        Self {
            floor: position.floor,
            before: position.before,
            done: position.present.clone(),
            published: position.published,
            resumed_end: position.end,
            partitions: position.ends.iter().map(|(&partition, &end)| (partition, Track { settled: end, end, open: VecDeque::new() })).collect(),
            in_flight: 0,
            in_flight_bytes: 0,
            sent: 0,
            acknowledged: 0,
        }
    }

    /// What a message that is sent now says of acknowledged ticks ([`crate::mark::Mark::acked`]).
    ///
    /// Not the floor as long as that is below the highest tick which was there at the start: while gaps are filled, low ticks are appended behind high ones, and
    /// whoever searched back from the end until a tick below the floor would stop too early.
    #[must_use]
    pub const fn published(&self) -> u64 {
        if self.floor >= self.resumed_end { self.floor } else { self.published }
    }

    /// The first tick that is not in the topic for certain.
    #[must_use]
    pub const fn floor(&self) -> u64 {
        self.floor
    }

    /// Messages that are sent and not acknowledged.
    #[must_use]
    pub const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Their bytes.
    #[must_use]
    pub const fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes
    }

    /// Messages that were acknowledged to this process.
    #[must_use]
    pub const fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// A message is on its way.
    pub const fn send(&mut self, bytes: usize) {
        self.in_flight += 1;
        self.in_flight_bytes += bytes;
        self.sent += 1;
    }

    /// A message did not leave.
    pub const fn take_back(&mut self, bytes: usize) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(bytes);
    }

    /// A message is in the topic. Says no if that cannot be the topic which the messages before it went to, since its offsets begin anew.
    #[must_use]
    pub fn acknowledge(&mut self, tick: u64, stamp: Stamp, partition: i32, offset: i64, bytes: usize) -> bool {
        self.take_back(bytes);
        self.acknowledged += 1;
        self.done.insert(tick, stamp);
        while let Some(stamp) = self.done.remove(&self.floor) {
            self.before = Some(stamp);
            self.floor += 1;
        }
        let floor = self.floor;
        let track = self.partitions.entry(partition).or_default();
        let same = offset >= track.end;
        track.end = offset + 1;
        track.open.push_back((tick, offset));
        track.settle(floor);
        same
    }

    /// How many were sent, if all of them are acknowledged.
    #[must_use]
    pub fn quiet(&self) -> Option<u64> {
        (self.in_flight == 0).then_some(self.sent)
    }

    /// Takes note of where the partitions ended, asked for after [`Ledger::quiet`] said `sent`. Without effect if anything was sent since, for then the answer may
    /// count messages whose acknowledgement is still under way.
    pub fn ends(&mut self, sent: u64, ends: &BTreeMap<i32, i64>) {
        if self.quiet() == Some(sent) && self.floor >= self.resumed_end && self.done.is_empty() {
            for (&partition, &end) in ends {
                let track = self.partitions.entry(partition).or_default();
                track.settled = track.settled.max(end);
            }
        }
    }

    /// What the next process may rely on; nothing while gaps are filled, when the former hint stays true.
    #[must_use]
    pub fn hint(&mut self) -> Option<Hint> {
        let stamp = self.before.filter(|_| self.floor > 0 && self.floor >= self.resumed_end)?;
        let floor = self.floor;
        let offsets = self.partitions.iter_mut().map(|(&partition, track)| (partition, track.settle(floor))).collect();
        Some(Hint { acked: floor, stamp, offsets })
    }
}

impl Track {
    fn settle(&mut self, floor: u64) -> i64 {
        while let Some((_, offset)) = self.open.pop_front_if(|(tick, _)| *tick < floor) {
            self.settled = self.settled.max(offset + 1);
        }
        self.settled
    }
}

#[cfg(test)]
mod tests {
    //! The rules are proved by play: processes send ticks into partitions, die at any moment with messages on their way, and others go on. Every tick must be in
    //! the topic exactly once in the end, however often that happens.

    use std::collections::{BTreeSet, VecDeque};

    use proptest::prelude::*;

    use super::*;
    use crate::mark::Mark;
    use crate::search::{Claims, Extent, Search};

    const TICKS: u64 = 300;
    const STAMP: Stamp = Stamp { last_id: 1, check: None };

    #[derive(Default)]
    struct Topic {
        partitions: Vec<Vec<Option<Mark>>>,
        hint: Option<Hint>,
    }

    impl Topic {
        /// As a start of the program does it.
        fn resume(&self) -> Position {
            let extents: BTreeMap<i32, Extent> =
                (0..).zip(&self.partitions).map(|(partition, log)| (partition, Extent { low: 0, end: i64::try_from(log.len()).unwrap() })).collect();
            let hint = self.hint.as_ref().filter(|hint| hint.fits(&extents));
            let mut search = Search::new(&extents, hint, Claims::Trusted);
            loop {
                let round = search.next_round();
                if round.is_empty() {
                    return search.position();
                }
                for range in round {
                    let log = &self.partitions[usize::try_from(range.partition).unwrap()];
                    for mark in log[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()].iter().flatten() {
                        search.observe(range.partition, mark, None);
                    }
                }
            }
        }

        fn ticks(&self) -> Vec<u64> {
            let mut ticks: Vec<u64> = self.partitions.iter().flatten().flatten().map(|mark| mark.tick).collect();
            ticks.sort_unstable();
            ticks
        }
    }

    struct Process {
        ledger: Ledger,
        todo: VecDeque<u64>,
        /// By partition: sent, not appended.
        sent: Vec<VecDeque<Mark>>,
        /// By partition: appended, the acknowledgement under way.
        appended: Vec<VecDeque<(u64, i64)>>,
    }

    impl Process {
        fn start(topic: &Topic) -> Self {
            let position = topic.resume();
            let known: BTreeSet<u64> = (0..position.floor).chain(position.present.keys().copied()).collect();
            let held = topic.ticks();
            assert_eq!(held.iter().copied().collect::<BTreeSet<_>>(), known, "what is found is what is there");
            assert_eq!(held.len(), known.len(), "nothing twice");
            let todo = (position.floor..TICKS).filter(|tick| !position.present.contains_key(tick)).collect();
            Self {
                ledger: Ledger::new(&position),
                todo,
                sent: vec![VecDeque::new(); topic.partitions.len()],
                appended: vec![VecDeque::new(); topic.partitions.len()],
            }
        }

        fn send(&mut self, count: usize) {
            for _ in 0..count {
                let Some(tick) = self.todo.pop_front() else { return };
                let mark = Mark { tick, acked: self.ledger.published(), last_id: 1, check: None };
                let partitions = self.sent.len();
                self.sent[usize::try_from(tick).unwrap() % partitions].push_back(mark);
                self.ledger.send(1);
            }
        }

        fn append(&mut self, topic: &mut Topic, partition: usize, count: usize) {
            for _ in 0..count {
                let Some(mark) = self.sent[partition].pop_front() else { return };
                let log = &mut topic.partitions[partition];
                self.appended[partition].push_back((mark.tick, i64::try_from(log.len()).unwrap()));
                log.push(Some(mark));
            }
        }

        fn acknowledge(&mut self, partition: usize, count: usize) {
            for _ in 0..count {
                let Some((tick, offset)) = self.appended[partition].pop_front() else { return };
                assert!(self.ledger.acknowledge(tick, STAMP, i32::try_from(partition).unwrap(), offset, 1));
            }
        }

        fn finish(mut self, topic: &mut Topic) {
            self.send(usize::MAX);
            for partition in 0..self.sent.len() {
                self.append(topic, partition, usize::MAX);
                self.acknowledge(partition, usize::MAX);
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Send(usize),
        Append(usize, usize),
        Acknowledge(usize, usize),
        Foreign(usize, usize),
        Hint,
        Ends,
        AddPartition,
        Crash,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (1..40_usize).prop_map(Step::Send),
            8 => (0..8_usize, 1..20_usize).prop_map(|(at, count)| Step::Append(at, count)),
            6 => (0..8_usize, 1..20_usize).prop_map(|(at, count)| Step::Acknowledge(at, count)),
            1 => (0..8_usize, 1..300_usize).prop_map(|(at, count)| Step::Foreign(at, count)),
            1 => Just(Step::Hint),
            1 => Just(Step::Ends),
            1 => Just(Step::AddPartition),
            2 => Just(Step::Crash),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn every_tick_is_in_the_topic_once_whatever_dies(partitions in 1..5_usize, steps in steps()) {
            let mut topic = Topic { partitions: vec![Vec::new(); partitions], hint: None };
            let mut process = Process::start(&topic);
            for step in steps {
                let count = topic.partitions.len();
                match step {
                    Step::Send(n) => process.send(n),
                    Step::Append(at, n) => process.append(&mut topic, at % process.sent.len(), n),
                    Step::Acknowledge(at, n) => process.acknowledge(at % process.sent.len(), n),
                    Step::Foreign(at, n) => topic.partitions[at % count].extend(vec![None; n]),
                    Step::Hint => topic.hint = process.ledger.hint().or(topic.hint),
                    Step::Ends => {
                        if let Some(sent) = process.ledger.quiet() {
                            let ends = (0..).zip(&topic.partitions).map(|(at, log)| (at, i64::try_from(log.len()).unwrap())).collect();
                            process.ledger.ends(sent, &ends);
                        }
                    }
                    // The running process goes on with the partitions that it knows.
                    Step::AddPartition => topic.partitions.push(Vec::new()),
                    Step::Crash => process = Process::start(&topic),
                }
            }
            Process::start(&topic).finish(&mut topic);
            prop_assert_eq!(topic.ticks(), (0..TICKS).collect::<Vec<_>>());
            prop_assert_eq!(topic.resume().floor, TICKS);
        }
    }

    #[test]
    fn the_books_of_what_is_on_its_way_are_kept() {
        let mut ledger = Ledger::new(&Topic::default().resume());
        ledger.send(10);
        ledger.send(20);
        assert_eq!((ledger.in_flight(), ledger.in_flight_bytes(), ledger.quiet()), (2, 30, None));
        assert!(ledger.acknowledge(1, STAMP, 0, 0, 20));
        assert_eq!((ledger.floor(), ledger.acknowledged(), ledger.hint()), (0, 1, None));
        ledger.take_back(10);
        assert_eq!(ledger.quiet(), Some(2));
        assert!(!ledger.acknowledge(2, STAMP, 0, 0, 0), "the offset was taken already");
    }
}
