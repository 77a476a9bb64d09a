//! The document with a query's progress in all partitions of its topic: a change of one document happens whole or not at all, so beginnings are stored together, and
//! so is the progress of a cut, if every partition is where this worker thinks.

use std::collections::BTreeMap;

use mongodb::bson::{Bson, DateTime, Document, doc};
use tapeline_api::progress::{mongodb_progress_field, mongodb_progress_id};

use super::trouble::{Trouble, number};
use crate::sink::{Progress, ProgressKey};

/// From what to what the progress of a partition changes; from none, if there is none.
pub(super) type Change = (i32, Option<Progress>, Progress);

pub(super) fn id(key: &ProgressKey) -> String {
    mongodb_progress_id(&key.kafka_cluster, &key.query, &key.topic)
}

/// The document, if it is as it was before all `changes`.
pub(super) fn before(key: &ProgressKey, changes: &[Change]) -> Document {
    let mut filter = doc! {"_id": id(key)};
    for (partition, from, _) in changes {
        let path = path(*partition);
        match from {
            Some(from) => {
                filter.insert(format!("{path}.epoch"), from.epoch);
                filter.insert(format!("{path}.next_offset"), from.next_offset);
            }
            None => {
                filter.insert(path, doc! {"$exists": false});
            }
        }
    }
    filter
}

/// What `changes` do to it.
pub(super) fn update(key: &ProgressKey, changes: &[Change]) -> Document {
    let mut set = doc! {"sink_table": &key.sink_table, "plan_hash": &key.plan_hash, "updated_at": DateTime::now()};
    for (partition, _, to) in changes {
        set.insert(path(*partition), entry(*to));
    }
    doc! {"$set": set}
}

/// The document when there is none.
pub(super) fn first(key: &ProgressKey, changes: &[Change]) -> Document {
    let partitions: Document = changes.iter().map(|(partition, _, to)| (mongodb_progress_field(*partition), Bson::Document(entry(*to)))).collect();
    doc! {"_id": id(key), "partitions": partitions, "sink_table": &key.sink_table, "plan_hash": &key.plan_hash, "updated_at": DateTime::now()}
}

fn path(partition: i32) -> String {
    format!("partitions.{}", mongodb_progress_field(partition))
}

fn entry(Progress { epoch, next_offset, write_time }: Progress) -> Document {
    doc! {"epoch": epoch, "next_offset": next_offset, "write_time": write_time}
}

/// The progress that a document says.
pub(super) fn parse(document: &Document) -> Result<BTreeMap<i32, Progress>, Trouble> {
    let fault = || Trouble::Refuses("the document in tapeline_progress is not progress: put right what changed it".to_owned());
    let partitions = document.get_document("partitions").map_err(|_| fault())?;
    let one = |(field, entry): (&String, &Bson)| {
        let partition = field.strip_prefix('p')?.parse().ok()?;
        let entry = entry.as_document()?;
        let progress = Progress { epoch: number(entry, "epoch")?, next_offset: number(entry, "next_offset")?, write_time: number(entry, "write_time")? };
        Some((partition, progress))
    };
    partitions.iter().map(|part| one(part).ok_or_else(fault)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ProgressKey {
        let text = |text: &str| text.to_owned();
        ProgressKey { kafka_cluster: text("c"), query: text("n/p/q/0"), topic: text("ticks"), sink_table: text("out"), plan_hash: text("h") }
    }

    const fn at(epoch: i64, next_offset: i64) -> Progress {
        Progress { epoch, next_offset, write_time: 5 }
    }

    #[test]
    fn progress_is_compared_as_a_pair_in_every_partition() {
        let changes = [(0, Some(at(64, 10)), at(64, 20)), (7, None, at(64, 0))];
        assert_eq!(
            before(&key(), &changes),
            doc! {"_id": "c/n/p/q/0/ticks", "partitions.p0.epoch": 64_i64, "partitions.p0.next_offset": 10_i64, "partitions.p7": {"$exists": false}}
        );
        let set = update(&key(), &changes);
        assert_eq!(
            set.get_document("$set").unwrap().get_document("partitions.p0").unwrap(),
            &doc! {"epoch": 64_i64, "next_offset": 20_i64, "write_time": 5_i64}
        );
    }

    #[test]
    fn what_is_stored_first_is_read_again() {
        let stored = parse(&first(&key(), &[(0, None, at(64, 20)), (12, None, at(65, 3))])).unwrap();
        assert_eq!(stored, BTreeMap::from([(0, at(64, 20)), (12, at(65, 3))]));
    }

    #[test]
    fn what_is_not_progress_is_not_passed_over() {
        assert!(parse(&doc! {"partitions": {"p0": {"epoch": 1}}}).is_err());
        assert!(parse(&doc! {}).is_err());
    }
}
