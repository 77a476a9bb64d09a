//! What MongoDB's errors mean: somebody has to grant something, it passes, or the specification is wrong.

use std::time::Duration;

use mongodb::error::{CommandError, Error, ErrorKind, WriteFailure};

use crate::external::breaker::Fault;
use crate::external::{REQUEST_TIMEOUT, reach};

/// A document with that `_id` exists.
pub(super) const DUPLICATE_KEY: i32 = 11_000;
/// A collection or view of that name exists.
pub(super) const NAMESPACE_EXISTS: i32 = 48;
/// There is no such collection.
pub(super) const NAMESPACE_NOT_FOUND: i32 = 26;

/// The user may not do it.
const UNAUTHORIZED: i32 = 13;
/// User and password: MongoDB's own code, and that of Atlas.
const AUTHENTICATION: &[i32] = &[18, 8_000];
/// Whoever was asked is no longer the primary, not yet one again, or shuts down.
const NO_PRIMARY: &[i32] = &[91, 189, 10_058, 10_107, 11_600, 11_602, 13_435, 13_436];
/// What was declared cannot be: a closed list, as Helm gives up for good on what only a change of the specification is said to cure.
const REFUSED: &[i32] = &[
    67, // CannotCreateIndex
    73, // InvalidNamespace
    85, // IndexOptionsConflict
    86, // IndexKeySpecsConflict
];

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// It was answered, or could not be sent.
    Answer(Error),
    /// It was not answered in this time.
    Silence(Duration),
}

impl Failed {
    /// The server's code, if it answered with one.
    pub(super) fn code(&self) -> Option<i32> {
        match self {
            Self::Answer(error) => code(error).map(|(code, _)| code),
            Self::Silence(_) => None,
        }
    }

    /// MongoDB's words, if it does not take what was declared.
    pub(super) fn refusal(&self) -> Option<String> {
        match self {
            Self::Answer(error) => code(error).filter(|(code, _)| REFUSED.contains(code)).map(|(code, message)| format!("{message} (MongoDB error {code})")),
            Self::Silence(_) => None,
        }
    }

    /// What it means. `doing` completes "it may not ..".
    pub(super) fn fault(&self, doing: &str) -> Fault {
        match self {
            Self::Answer(error) => fault(error, doing),
            Self::Silence(limit) if *limit > REQUEST_TIMEOUT => {
                Fault::failed(format!("a change was not done within {} s; it is looked at and repeated", limit.as_secs()))
            }
            Self::Silence(limit) => Fault::unreachable(format!("no answer within {} s", limit.as_secs())),
        }
    }
}

/// Code and text of the server's answer.
fn code(error: &Error) -> Option<(i32, &str)> {
    match &*error.kind {
        ErrorKind::Command(CommandError { code, message, .. }) => Some((*code, message)),
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some((error.code, &error.message)),
        ErrorKind::Write(WriteFailure::WriteConcernError(error)) => Some((error.code, &error.message)),
        _ => None,
    }
}

/// What `error` means to the connection. Neither times nor addresses of clients are repeated from it: conditions show these texts.
pub(super) fn fault(error: &Error, doing: &str) -> Fault {
    if let Some((code, message)) = code(error) {
        return fault_of_code(code, message, doing);
    }
    match &*error.kind {
        ErrorKind::Authentication { .. } => Fault::denied("wrong user or password"),
        ErrorKind::Io(error) => Fault::unreachable(reach::describe(error)),
        // The ports answer, or it would have been said before.
        ErrorKind::ServerSelection { .. } => Fault::unreachable(
            "none of the servers that are found there takes writes; the members of a replica set are looked for by the names that they have in its configuration, and \
             spec.mongodb.replicaSet, if it is given, must be its name",
        ),
        ErrorKind::ConnectionPoolCleared { .. } | ErrorKind::Shutdown => Fault::unreachable("the connection was closed"),
        ErrorKind::DnsResolve { .. } => Fault::unreachable("the host name is not known"),
        ErrorKind::InvalidResponse { .. } => Fault::unreachable("what answers there does not speak MongoDB's protocol"),
        ErrorKind::InvalidArgument { message, .. } => Fault::invalid(message),
        kind => Fault::failed(kind.to_string()),
    }
}

fn fault_of_code(code: i32, message: &str, doing: &str) -> Fault {
    match code {
        code if AUTHENTICATION.contains(&code) => Fault::denied("wrong user or password"),
        UNAUTHORIZED if message.contains("requires authentication") => Fault::denied("it asks for them"),
        // MongoDB's text repeats the whole command, with the id of its session.
        UNAUTHORIZED => Fault::denied(format!("it may not {doing}")),
        code if NO_PRIMARY.contains(&code) => Fault::failed("the server that was asked takes no writes now; a primary is awaited"),
        code => Fault::failed(format!("{message} ({code})")),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::external::ErrorClass;

    #[rstest]
    #[case::password(18, "Authentication failed.", ErrorClass::Denied, "wrong user or password")]
    #[case::none_was_given(13, "Command listCollections requires authentication", ErrorClass::Denied, "it asks for them")]
    #[case::no_right(
        13,
        "not authorized on trading to execute command { listCollections: 1, lsid: { id: UUID(\"1\") } }",
        ErrorClass::Denied,
        "it may not list the collections of database trading"
    )]
    #[case::a_secondary(10_107, "not primary", ErrorClass::Failed, "the server that was asked takes no writes now; a primary is awaited")]
    #[case::of_a_later_version(65_535, "something new", ErrorClass::Failed, "something new (65535)")]
    fn what_an_answer_means(#[case] code: i32, #[case] message: &str, #[case] class: ErrorClass, #[case] detail: &str) {
        let fault = fault_of_code(code, message, "list the collections of database trading");
        assert_eq!((fault.class, fault.detail.as_str()), (class, detail));
    }

    #[test]
    fn a_slow_index_is_repeated_and_a_silent_server_is_away() {
        assert_eq!(Failed::Silence(crate::external::DDL_TIMEOUT).fault("").class, ErrorClass::Failed);
        assert_eq!(Failed::Silence(REQUEST_TIMEOUT).fault("").class, ErrorClass::Unreachable);
    }

    #[test]
    fn no_error_is_of_two_kinds() {
        assert!(REFUSED.iter().all(|code| !NO_PRIMARY.contains(code) && !AUTHENTICATION.contains(code) && *code != UNAUTHORIZED));
    }
}
