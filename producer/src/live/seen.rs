//! What was sent already, and what is missing, by the ids that a feed gives. Elements of one frame are never compared with each other: what a feed says twice in
//! one breath it means twice. Pure.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use super::mapping::Element;

/// How many elements are remembered, and at most twice as many: what a feed sends again after a broken connection is among the last ones. 16 bytes each.
const REMEMBERED: usize = 1 << 16;
/// Of how many keys the last number is remembered. A feed of more than that has keys that are no symbols.
const KEYS: usize = 1 << 16;

/// The memory.
#[derive(Debug)]
pub struct Seen {
    consecutive: bool,
    hashers: [RandomState; 2],
    /// Since the memory was full last; what comes again is among the last ones too.
    current: HashSet<u128>,
    /// Until then.
    previous: HashSet<u128>,
    last: HashMap<String, u64>,
}

/// Ids that are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Of which key.
    pub key: String,
    /// The first of them.
    pub first: u64,
    /// How many.
    pub missing: u64,
}

/// A frame's elements, sifted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sifted {
    /// Those that were not sent yet, in their order.
    pub new: Vec<Element>,
    /// How many were.
    pub repeats: u64,
    /// What is missing before them.
    pub gaps: Vec<Gap>,
}

impl Seen {
    /// An empty memory; `consecutive` if ids count up by one for each key.
    #[must_use]
    pub fn new(consecutive: bool) -> Self {
        let hashers = [RandomState::new(), RandomState::new()];
        Self { consecutive, hashers, current: HashSet::new(), previous: HashSet::new(), last: HashMap::new() }
    }

    /// Takes out of a frame what earlier ones had. What has no id is always new.
    pub fn sift(&mut self, frame: Vec<Element>) -> Sifted {
        let mut sifted = Sifted::default();
        let mut marks = Vec::new();
        for element in frame {
            let key = element.key.as_deref().unwrap_or_default();
            let Some(id) = element.id.as_deref() else {
                sifted.new.push(element);
                continue;
            };
            let mark = self.mark(key, id);
            marks.push(mark);
            if self.current.contains(&mark) || self.previous.contains(&mark) {
                sifted.repeats += 1;
                continue;
            }
            if let Some(number) = id.parse().ok().filter(|_| self.consecutive) {
                sifted.gaps.extend(self.count(key, number));
            }
            sifted.new.push(element);
        }
        for mark in marks {
            self.remember(mark);
        }
        sifted
    }

    /// What is missing before `number`. One that is late fills no gap that was told already.
    fn count(&mut self, key: &str, number: u64) -> Option<Gap> {
        let Some(last) = self.last.get_mut(key) else {
            if self.last.len() < KEYS {
                self.last.insert(key.to_owned(), number);
            }
            return None;
        };
        let before = *last;
        *last = before.max(number);
        let missing = number.checked_sub(before)?.checked_sub(1).filter(|missing| *missing > 0)?;
        Some(Gap { key: key.to_owned(), first: before + 1, missing })
    }

    /// Two hashes of 64 bits, so that no two elements are taken for one.
    fn mark(&self, key: &str, id: &str) -> u128 {
        let [high, low] = self.hashers.each_ref().map(|hasher| u128::from(hasher.hash_one((key, id))));
        high << 64 | low
    }

    fn remember(&mut self, mark: u128) {
        self.current.insert(mark);
        if self.current.len() == REMEMBERED {
            self.previous = std::mem::take(&mut self.current);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ids: &[(&str, u64)]) -> Vec<Element> {
        ids.iter().map(|(key, id)| Element { key: Some((*key).to_owned()), id: Some(id.to_string()), payload: format!("{key}{id}") }).collect()
    }

    fn new(sifted: &Sifted) -> Vec<&str> {
        sifted.new.iter().map(|element| element.payload.as_str()).collect()
    }

    #[test]
    fn what_comes_again_is_told_from_what_is_new() {
        let mut seen = Seen::new(true);
        assert_eq!(new(&seen.sift(frame(&[("a", 1), ("b", 7), ("a", 2)]))), ["a1", "b7", "a2"]);
        let again = seen.sift(frame(&[("a", 2), ("a", 3), ("b", 1)]));
        assert_eq!((new(&again), again.repeats, again.gaps.len()), (vec!["a3", "b1"], 1, 0));
    }

    #[test]
    fn missing_ids_are_counted_by_key() {
        let mut seen = Seen::new(true);
        seen.sift(frame(&[("a", 10), ("b", 5)]));
        let sifted = seen.sift(frame(&[("a", 11), ("b", 9), ("a", 14)]));
        let gap = |key: &str, first, missing| Gap { key: key.to_owned(), first, missing };
        assert_eq!(sifted.gaps, [gap("b", 6, 3), gap("a", 12, 2)]);
        let late = seen.sift(frame(&[("a", 12), ("a", 15)]));
        assert_eq!((new(&late), late.gaps.len()), (vec!["a12", "a15"], 0));
        assert_eq!(Seen::new(false).sift(frame(&[("a", 1), ("a", 9)])).gaps, []);
    }

    #[test]
    fn what_a_frame_has_twice_is_sent_twice() {
        let mut seen = Seen::new(false);
        let sifted = seen.sift(frame(&[("a", 1), ("a", 1)]));
        assert_eq!((new(&sifted), sifted.repeats), (vec!["a1", "a1"], 0));
        assert_eq!(seen.sift(frame(&[("a", 1)])).repeats, 1);
        let nameless = || vec![Element { key: None, id: None, payload: "x".to_owned() }; 2];
        assert_eq!((seen.sift(nameless()).new.len(), seen.sift(nameless()).new.len()), (2, 2));
    }

    #[test]
    fn memory_is_bounded() {
        let mut seen = Seen::new(true);
        for id in 0..(2 * REMEMBERED as u64 + 10) {
            seen.sift(frame(&[("a", id)]));
        }
        assert_eq!((seen.previous.len(), seen.current.len()), (REMEMBERED, 10));
        let last = REMEMBERED as u64;
        assert_eq!(seen.sift(frame(&[("a", last - 1), ("a", last)])).repeats, 1, "only the oldest are forgotten");
    }

    #[test]
    fn what_comes_again_and_again_is_not_forgotten() {
        let mut seen = Seen::new(false);
        seen.sift(frame(&[("old", 1)]));
        for id in 0..(3 * REMEMBERED as u64) {
            let again = seen.sift(frame(&[("old", 1), ("a", id)]));
            assert_eq!((new(&again).len(), again.repeats), (1, 1), "{id}");
        }
    }
}
