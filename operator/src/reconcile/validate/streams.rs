//! Streams, as far as their declarations alone can be wrong. Types, paths and units are held by the schema; what is here compares fields with each other.

use tapeline_api::TradingPipelineSpec;
use tapeline_api::pipeline::streams::{Field, Stream};
use tapeline_api::progress::PROGRESS_TOPIC;

use super::Validated;
use super::queries::INTO_PROGRESS;
use crate::reason::{Area, Problem, Reason};

pub(super) fn validate(spec: &TradingPipelineSpec, validated: &mut Validated) {
    for (index, stream) in spec.streams.iter().enumerate() {
        let problems = problems(&format!("spec.streams[{index}]"), stream);
        if !problems.is_empty() {
            validated.bad_streams.insert(stream.name.clone());
        }
        validated.problems.extend(problems);
    }
}

fn problems(path: &str, stream: &Stream) -> Vec<Problem> {
    let wrong = |field: String, message: String| Problem::change(Area::Workers, Reason::InvalidSpec, format!("{path}.{field}"), message);
    let mut problems = Vec::new();
    if stream.dead_letter_topic.as_ref() == Some(&stream.topic) {
        let message = "it is the stream's own topic, so a bad record would be read again for ever; name another topic";
        problems.push(wrong("deadLetterTopic".to_owned(), message.to_owned()));
    }
    if stream.dead_letter_topic.as_ref().is_some_and(|topic| topic.as_str() == PROGRESS_TOPIC) {
        problems.push(wrong("deadLetterTopic".to_owned(), INTO_PROGRESS.to_owned()));
    }
    for (later, earlier) in stream.path_conflicts() {
        if let (Some(field), Some(other)) = (stream.fields.get(later), stream.fields.get(earlier)) {
            let at = if field.path.is_some() { "path" } else { "name" };
            problems.push(wrong(format!("fields[{later}].{at}"), conflict(field, other)));
        }
    }
    problems
}

/// How two fields stand in each other's way.
fn conflict(field: &Field, other: &Field) -> String {
    let (path, keys, other_keys) = (field.path_text(), field.keys(), other.keys());
    if keys == other_keys {
        return format!("field \"{}\" is read from \"{path}\" too; give one of them another path, and name the column twice in SQL (AS)", other.name);
    }
    let (parent, child) = if keys.len() < other_keys.len() { (field, other) } else { (other, field) };
    format!(
        "\"{}\" is read as a whole by field \"{}\", and as a part of it by field \"{}\" (\"{}\"); declare either the whole (as json) or its parts",
        parent.path_text(),
        parent.name,
        child.name,
        child.path_text()
    )
}
