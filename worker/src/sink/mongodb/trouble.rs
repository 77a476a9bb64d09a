//! What the server's and the driver's errors mean for the sink. Texts are for `/status` and conditions: they name no address and no value.

use std::time::Duration;

use mongodb::bson::{Bson, Document};
use mongodb::error::{Error, ErrorKind};
use tapeline_api::report::ProblemClass;

use crate::sink::SinkError;

/// What went wrong, by what is to be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No answer, or one that says that the server cannot now.
    Unreachable(String),
    /// No answer in time: send less at once.
    Slow(String),
    /// User, password or permission.
    Denied(String),
    /// The collection is not there.
    Missing(String),
    /// The collection does not take documents, for what it is.
    Refuses(String),
    /// A fault of Tapeline.
    Fault(String),
}

impl Trouble {
    pub(super) fn no_answer_within(limit: Duration) -> Self {
        Self::Slow(format!("MongoDB did not answer within {} s", limit.as_secs()))
    }
}

impl From<Trouble> for SinkError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Unreachable(text) | Trouble::Slow(text) => Self::outage(ProblemClass::StoreUnreachable, text),
            Trouble::Denied(text) => Self::outage(ProblemClass::StoreDenied, text),
            Trouble::Missing(text) => Self::outage(ProblemClass::TableMissing, text),
            Trouble::Refuses(text) => Self::fatal(ProblemClass::StoreRefuses, text),
            Trouble::Fault(text) => Self::fatal(ProblemClass::Internal, text),
        }
    }
}

impl From<&Error> for Trouble {
    fn from(error: &Error) -> Self {
        tracing::debug!(%error, "mongodb");
        match &*error.kind {
            ErrorKind::Command(error) => by_code(error.code),
            ErrorKind::Authentication { .. } => denied(),
            ErrorKind::ServerSelection { .. } => Self::Unreachable("no server of MongoDB that takes writes answers".to_owned()),
            ErrorKind::InvalidArgument { message, .. } => Self::Fault(format!("MongoDB's driver refuses: {message}")),
            ErrorKind::IncompatibleServer { message, .. } => Self::Unreachable(format!("MongoDB's version does not fit: {message}")),
            _ => Self::Unreachable("the connection to MongoDB was lost".to_owned()),
        }
    }
}

fn denied() -> Trouble {
    Trouble::Denied("MongoDB refuses the user, the password or a permission: put them right in the Secret, or grant readWrite on the database".to_owned())
}

fn by_code(code: i32) -> Trouble {
    let unreachable = |text: &str| Trouble::Unreachable(text.to_owned());
    match code {
        13 | 18 | 8000 | 31 => denied(), // Unauthorized, AuthenticationFailed, Atlas' own, RoleNotFound
        26 => Trouble::Missing("the collection is not there".to_owned()),
        10107 | 13435 | 13436 | 10058 | 189 | 91 | 11600 | 11602 => unreachable("MongoDB has no primary that takes writes now"),
        64 | 100 => unreachable("a majority of MongoDB's members does not confirm writes"),
        50 | 202 | 262 => Trouble::Slow("MongoDB did not answer in time".to_owned()),
        14031 => unreachable("MongoDB's disk is full"),
        166 => unreachable("MongoDB takes no writes: an operator has locked it, or its disk is almost full"),
        code => unreachable(&format!("MongoDB answers with error {code}")),
    }
}

/// Statements of an update command that did nothing, by their place.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NotDone {
    /// Refused for what the document holds, and why.
    pub(super) refused: Vec<(usize, String)>,
    /// Those that were about to insert when a document with their `_id` came between.
    pub(super) taken: Vec<usize>,
}

/// What became of the statements of an update command.
pub(super) fn not_done(reply: &Document) -> Result<NotDone, Trouble> {
    let NotDone { mut refused, mut taken } = NotDone::default();
    let errors = reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
    for error in errors.iter().filter_map(Bson::as_document) {
        let code = number(error, "code").and_then(|code| i32::try_from(code).ok()).unwrap_or_default();
        let place = number(error, "index").and_then(|index| usize::try_from(index).ok());
        match code {
            11000 | 11001 if is_of_id(error) => taken.extend(place),
            11000 | 11001 => {
                let text =
                    "a document has a value that another has in a unique index beside that of _id: take the index away, or make its fields the sink's id";
                return Err(Trouble::Refuses(text.to_owned()));
            }
            // Closed: whatever is not known to be for the document's content is waited for.
            121 => refused.extend(place.map(|place| (place, "the collection's validator refuses the document".to_owned()))),
            10334 | 17419 | 17420 => refused.extend(place.map(|place| (place, "the document is larger than MongoDB takes".to_owned()))),
            code => return Err(by_code(code)),
        }
    }
    if let Ok(error) = reply.get_document("writeConcernError") {
        return Err(by_code(number(error, "code").and_then(|code| i32::try_from(code).ok()).unwrap_or(64)));
    }
    Ok(NotDone { refused, taken })
}

/// Whether it is the `_id` that is taken. Servers before 4.2, and others that speak the protocol, say it in words only.
fn is_of_id(error: &Document) -> bool {
    match error.get_document("keyPattern") {
        Ok(pattern) => pattern.keys().eq(["_id"]),
        Err(_) => error.get_str("errmsg").is_ok_and(|text| !text.contains("index: ") || text.contains("index: _id_")),
    }
}

/// A number, which servers give as an int32, an int64 or a double.
#[allow(clippy::cast_possible_truncation, reason = "counts and codes")]
pub(super) fn number(document: &Document, key: &str) -> Option<i64> {
    match document.get(key)? {
        Bson::Int32(value) => Some(i64::from(*value)),
        Bson::Int64(value) => Some(*value),
        Bson::Double(value) => Some(*value as i64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::done(doc! {"ok": 1.0, "n": 2}, Ok((vec![], vec![])))]
    #[case::id_is_taken(doc! {"ok": 1.0, "writeErrors": [{"index": 0, "code": 11000, "keyPattern": {"_id": 1}}]}, Ok((vec![], vec![0])))]
    #[case::id_is_taken_in_words(
        doc! {"ok": 1.0, "writeErrors": [{"index": 0, "code": 11000, "errmsg": "E11000 duplicate key error collection: t.c index: _id_ dup key: {}"}]},
        Ok((vec![], vec![0]))
    )]
    #[case::validator(doc! {"ok": 1.0, "writeErrors": [{"index": 5, "code": 121}]}, Ok((vec![5], vec![])))]
    #[case::unique_index(
        doc! {"ok": 1.0, "writeErrors": [{"index": 0, "code": 11000, "keyPattern": {"email": 1}}]},
        Err(ProblemClass::StoreRefuses)
    )]
    #[case::unique_index_in_words(
        doc! {"ok": 1.0, "writeErrors": [{"index": 0, "code": 11000, "errmsg": "E11000 duplicate key error collection: t.c index: email_1 dup key: {}"}]},
        Err(ProblemClass::StoreRefuses)
    )]
    #[case::permission(doc! {"ok": 1.0, "writeErrors": [{"index": 0, "code": 13}]}, Err(ProblemClass::StoreDenied))]
    #[case::stepped_down(doc! {"ok": 1.0, "writeErrors": [{"index": 0, "code": 10107}]}, Err(ProblemClass::StoreUnreachable))]
    #[case::no_majority(doc! {"ok": 1.0, "n": 1, "writeConcernError": {"code": 64}}, Err(ProblemClass::StoreUnreachable))]
    #[case::anything_else(doc! {"ok": 1.0, "writeErrors": [{"index": 0, "code": 4711}]}, Err(ProblemClass::StoreUnreachable))]
    fn a_reply(#[case] reply: Document, #[case] expected: Result<(Vec<usize>, Vec<usize>), ProblemClass>) {
        let places = |NotDone { refused, taken }: NotDone| (refused.into_iter().map(|(place, _)| place).collect(), taken);
        let result = not_done(&reply).map(places).map_err(|trouble| match SinkError::from(trouble) {
            SinkError::Outage(problem) | SinkError::Fatal(problem) => problem.class,
            other => panic!("{other:?}"),
        });
        assert_eq!(result, expected);
    }
}
