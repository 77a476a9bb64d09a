//! What the driver's errors mean for the sink. Texts are for `/status` and conditions: they name no address and no value.

use std::time::Duration;

use scylla::errors::{DbError, ExecutionError, NewSessionError, PrepareError, RequestAttemptError};
use tapeline_api::report::ProblemClass;

use crate::sink::SinkError;

/// What went wrong, by what is to be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No answer, or one that says that the server cannot now.
    Unreachable(String),
    /// The server cannot follow: send less at once.
    Slow(String),
    /// User, password or permission.
    Denied(String),
    /// The keyspace, the table or a column is not there.
    Missing(String),
    /// The server does not take the statement with these values, in its words.
    Invalid(String),
    /// The statement is not the one that was prepared any more.
    Stale,
    /// A fault of Tapeline.
    Fault(String),
}

impl Trouble {
    pub(super) fn no_answer_within(limit: Duration) -> Self {
        Self::Slow(format!("Cassandra did not answer within {} s", limit.as_secs()))
    }
}

impl From<Trouble> for SinkError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Unreachable(text) | Trouble::Slow(text) => Self::outage(ProblemClass::StoreUnreachable, text),
            Trouble::Denied(text) => Self::outage(ProblemClass::StoreDenied, text),
            Trouble::Missing(text) => Self::outage(ProblemClass::TableMissing, text),
            Trouble::Invalid(text) => Self::outage(ProblemClass::TableMissing, format!("Cassandra refuses the statement: {text}")),
            Trouble::Stale => Self::outage(ProblemClass::TableMissing, "the table in Cassandra was changed"),
            Trouble::Fault(text) => Self::fatal(ProblemClass::Internal, text),
        }
    }
}

impl From<&NewSessionError> for Trouble {
    fn from(error: &NewSessionError) -> Self {
        denied(error).unwrap_or_else(|| match error {
            NewSessionError::FailedToResolveAnyHostname(_) => Self::Unreachable("no name among Cassandra's contact points can be resolved".to_owned()),
            _ => Self::Unreachable("no contact point of Cassandra answers".to_owned()),
        })
    }
}

impl From<&PrepareError> for Trouble {
    fn from(error: &PrepareError) -> Self {
        match error {
            PrepareError::AllAttemptsFailed { first_attempt } => match Self::from(first_attempt) {
                Self::Invalid(text) => Self::Missing(format!("Cassandra cannot prepare the statement: {text}")),
                other => other,
            },
            other => denied(other).unwrap_or_else(no_connection),
        }
    }
}

impl From<&ExecutionError> for Trouble {
    fn from(error: &ExecutionError) -> Self {
        match error {
            ExecutionError::LastAttemptError(attempt) => Self::from(attempt),
            ExecutionError::PrepareError(error) => Self::from(error),
            ExecutionError::RequestTimeout(limit) => Self::no_answer_within(*limit),
            ExecutionError::BadQuery(error) => Self::Fault(format!("rows cannot be written as a statement for Cassandra: {error}")),
            other => denied(other).unwrap_or_else(no_connection),
        }
    }
}

impl From<&RequestAttemptError> for Trouble {
    fn from(error: &RequestAttemptError) -> Self {
        match error {
            RequestAttemptError::DbError(code, text) => from_server(code, text),
            RequestAttemptError::SerializationError(_) | RequestAttemptError::CqlRequestSerialization(_) => {
                Self::Fault(format!("rows cannot be written as a statement for Cassandra: {error}"))
            }
            RequestAttemptError::RepreparedIdChanged { .. } | RequestAttemptError::RepreparedIdMissingInBatch => Self::Stale,
            RequestAttemptError::UnableToAllocStreamId => Self::Slow("Cassandra leaves too many requests without an answer".to_owned()),
            RequestAttemptError::BrokenConnectionError(_) => Self::Unreachable("the connection to Cassandra was closed".to_owned()),
            _ => Self::Unreachable("Cassandra's answer cannot be understood".to_owned()),
        }
    }
}

fn from_server(code: &DbError, text: &str) -> Trouble {
    match code {
        DbError::Overloaded => Trouble::Slow("Cassandra is overloaded".to_owned()),
        DbError::RateLimitReached { .. } => Trouble::Slow("Cassandra limits the rate of writes".to_owned()),
        DbError::WriteTimeout { received, required, .. } | DbError::ReadTimeout { received, required, .. } => {
            Trouble::Slow(format!("of the replicas of a row {required} must answer and {received} did in time"))
        }
        DbError::Unavailable { required, alive, .. } => {
            Trouble::Unreachable(format!("of the replicas of a row {required} must be alive and {alive} are: start the nodes of Cassandra that are down"))
        }
        DbError::WriteFailure { received, required, numfailures, .. } | DbError::ReadFailure { received, required, numfailures, .. } => Trouble::Unreachable(
            format!("of the replicas of a row {required} must succeed, {received} did and {numfailures} failed: see the logs of Cassandra's nodes"),
        ),
        DbError::IsBootstrapping => Trouble::Unreachable("Cassandra is starting".to_owned()),
        DbError::AuthenticationError => Trouble::Denied("Cassandra refuses user or password".to_owned()),
        DbError::Unauthorized => Trouble::Denied(format!("Cassandra refuses: {text}")),
        DbError::Invalid => Trouble::Invalid(text.to_owned()),
        DbError::ConfigError => Trouble::Missing(text.to_owned()),
        DbError::Unprepared { .. } => Trouble::Stale,
        DbError::SyntaxError => Trouble::Fault(format!("Cassandra does not understand a statement: {text}")),
        other => Trouble::Unreachable(format!("Cassandra fails: {other}")),
    }
}

fn no_connection() -> Trouble {
    Trouble::Unreachable("there is no connection to Cassandra".to_owned())
}

/// The driver wraps a refused login in layers that differ by where it struck.
fn denied(error: &impl std::fmt::Debug) -> Option<Trouble> {
    let text = format!("{error:?}");
    if text.contains("MissingAuthentication") {
        Some(Trouble::Denied("Cassandra asks for user and password, and there are none".to_owned()))
    } else if text.contains("AuthenticationError") || text.contains("BadCredentials") {
        Some(Trouble::Denied("Cassandra refuses user or password".to_owned()))
    } else if text.contains("Unauthorized") {
        Some(Trouble::Denied("Cassandra refuses the user's permission to connect".to_owned()))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use scylla::errors::WriteType;
    use scylla::statement::Consistency;

    use super::*;

    fn class_of(error: DbError) -> ProblemClass {
        let error = ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, "in the server's words".to_owned()));
        match SinkError::from(Trouble::from(&error)) {
            SinkError::Outage(problem) | SinkError::Fatal(problem) => problem.class,
            other => panic!("{other:?}"),
        }
    }

    #[rstest]
    #[case(DbError::Overloaded, ProblemClass::StoreUnreachable)]
    #[case(DbError::IsBootstrapping, ProblemClass::StoreUnreachable)]
    #[case(DbError::Unavailable { consistency: Consistency::LocalQuorum, required: 2, alive: 1 }, ProblemClass::StoreUnreachable)]
    #[case(DbError::WriteTimeout { consistency: Consistency::LocalQuorum, received: 1, required: 2, write_type: WriteType::UnloggedBatch }, ProblemClass::StoreUnreachable)]
    #[case(DbError::ServerError, ProblemClass::StoreUnreachable)]
    #[case(DbError::AuthenticationError, ProblemClass::StoreDenied)]
    #[case(DbError::Unauthorized, ProblemClass::StoreDenied)]
    #[case(DbError::SyntaxError, ProblemClass::Internal)]
    fn what_the_server_says_has_its_class(#[case] error: DbError, #[case] class: ProblemClass) {
        assert_eq!(class_of(error), class);
    }

    #[test]
    fn a_statement_that_cannot_be_prepared_lacks_its_table() {
        let first_attempt = RequestAttemptError::DbError(DbError::Invalid, "table real_time_data does not exist".to_owned());
        assert_eq!(
            Trouble::from(&PrepareError::AllAttemptsFailed { first_attempt }),
            Trouble::Missing("Cassandra cannot prepare the statement: table real_time_data does not exist".to_owned())
        );
    }

    #[test]
    fn no_text_names_an_address() {
        let error = NewSessionError::FailedToResolveAnyHostname(vec!["cassandra.secret:9042".to_owned()]);
        let Trouble::Unreachable(text) = Trouble::from(&error) else { panic!("not an outage") };
        assert!(!text.contains("secret"), "{text}");
    }
}
