//! Who keeps changing a topic's setting back? Repairs are remembered in memory only: after a restart of the operator three more are made, which hurts nobody.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tapeline_api::names::TopicName;

use crate::external::Owner;

const WINDOW: Duration = Duration::from_hours(1);
const LIMIT: usize = 3;

/// The repairs of the last hour. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Repairs(Arc<Mutex<History>>);

/// When a pipeline set a key of a topic of a cluster to which value. By pipeline: of two that fight over a key, each only ever sets its own value.
type History = HashMap<(Owner, String, TopicName, String), Vec<(Instant, String)>>;

/// Settings that are left alone for now, as topic, key and value: putting another value into the specification is a new attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contested(BTreeSet<(TopicName, String, String)>);

impl Contested {
    /// Whether this value of this setting is contested.
    #[must_use]
    pub fn contains(&self, topic: &TopicName, key: &str, value: &str) -> bool {
        self.0.contains(&(topic.clone(), key.to_owned(), value.to_owned()))
    }

    /// For tests and messages: these settings are contested.
    #[must_use]
    pub fn from_settings(settings: impl IntoIterator<Item = (TopicName, String, String)>) -> Self {
        Self(settings.into_iter().collect())
    }
}

impl Repairs {
    /// A setting that was ours differed, and was set again.
    pub(super) fn note(&self, owner: &Owner, cluster: &str, topic: &TopicName, key: &str, value: &str) {
        self.note_at(Instant::now(), owner, cluster, topic, key, value);
    }

    fn note_at(&self, now: Instant, owner: &Owner, cluster: &str, topic: &TopicName, key: &str, value: &str) {
        let mut history = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        history.entry((owner.clone(), cluster.to_owned(), topic.clone(), key.to_owned())).or_default().push((now, value.to_owned()));
    }

    /// What is contested in a cluster for a pipeline.
    #[must_use]
    pub fn contested(&self, owner: &Owner, cluster: &str) -> Contested {
        self.contested_at(Instant::now(), owner, cluster)
    }

    fn contested_at(&self, now: Instant, owner: &Owner, cluster: &str) -> Contested {
        let mut history = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for sets in history.values_mut() {
            sets.retain(|(when, _)| now.saturating_duration_since(*when) < WINDOW);
        }
        history.retain(|_, sets| !sets.is_empty());
        let ours = history.iter().filter(|((by, of, ..), _)| by == owner && of == cluster);
        let contested = ours.filter_map(|((_, _, topic, key), sets)| {
            let (_, last) = sets.last()?;
            // Another value in between was a change of the specification, which starts the count anew.
            let repairs = sets.iter().rev().take_while(|(_, value)| value == last).count();
            (repairs >= LIMIT).then(|| (topic.clone(), key.clone(), last.clone()))
        });
        Contested(contested.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner::new("k", "trading", "volume")
    }

    #[test]
    fn the_fourth_repair_within_an_hour_is_not_made() {
        let (repairs, start) = (Repairs::default(), Instant::now());
        let topic: TopicName = "t".parse().unwrap();
        let minute = Duration::from_mins(1);
        let is_contested = |minutes, cluster, value| repairs.contested_at(start + minute * minutes, &owner(), cluster).contains(&topic, "retention.ms", value);
        for n in 0..3 {
            assert!(!is_contested(n, "c", "1"));
            repairs.note_at(start + minute * n, &owner(), "c", &topic, "retention.ms", "1");
        }
        assert!(is_contested(3, "c", "1"));
        assert!(!is_contested(3, "another", "1"));
        assert!(!is_contested(3, "c", "2"), "another value is a new attempt");
        assert!(!is_contested(63, "c", "1"), "an hour later");
    }

    #[test]
    fn of_two_pipelines_that_fight_each_is_told() {
        let (repairs, other) = (Repairs::default(), Owner::new("k", "other", "sales"));
        let topic: TopicName = "t".parse().unwrap();
        for _ in 0..3 {
            repairs.note(&owner(), "c", &topic, "retention.ms", "1");
            repairs.note(&other, "c", &topic, "retention.ms", "2");
        }
        assert!(repairs.contested(&owner(), "c").contains(&topic, "retention.ms", "1"));
        assert!(repairs.contested(&other, "c").contains(&topic, "retention.ms", "2"));
    }

    #[test]
    fn changes_of_the_specification_are_not_repairs() {
        let repairs = Repairs::default();
        let topic: TopicName = "t".parse().unwrap();
        for value in ["1", "2", "3", "4"] {
            repairs.note(&owner(), "c", &topic, "retention.ms", value);
        }
        assert_eq!(repairs.contested(&owner(), "c"), Contested::default());
    }
}
