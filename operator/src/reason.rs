//! The closed list of reasons that conditions and Events show, and a problem: what is wrong with one part of the pipeline, where, and what to do.

use std::fmt;

use strum::{Display, EnumIter, IntoStaticStr};
use tapeline_api::report::{NoticeKind, ProblemClass};

/// Why a condition is what it is. New ones are added here and nowhere else; users match on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Display, IntoStaticStr, EnumIter)]
#[allow(missing_docs, reason = "the names say it; the problem's message says the rest")]
pub enum Reason {
    // Worst first: the first reason among a pipeline's problems is the one that its Ready shows.
    InvalidObject,
    InvalidSpec,
    InvalidSQL,
    WouldLoseData,
    ResourceConflict,
    NameTaken,
    SecretMissing,
    ConfigMapMissing,
    KafkaUnreachable,
    CassandraUnreachable,
    MySQLUnreachable,
    MongoDBUnreachable,
    FeedUnreachable,
    AccessDenied,
    OperationFailed,
    DataLoss,
    QueryFailed,
    ProducerFailed,
    TooManyBadRecords,
    TopicMissing,
    TableMissing,
    ConfigContested,
    KubernetesRefused,
    WorkersNotReady,
    Progressing,
    StatusUnreachable,
    ReferenceStale,
    FieldNeverSeen,
    RecreatedEmpty,
    Acknowledged,
    Pending,
    Suspended,
    NotStalled,
    Settled,
    Ready,
}

/// What makes a problem go away, which decides between Reconciling and Stalled: Helm gives up at once and for good on Stalled (probed on Helm 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cure {
    /// Only a change of this specification, or of the conflicting one.
    Change,
    /// Something outside may come or come back: a server, a Secret, a topic. The operator looks again by itself.
    Waiting,
    /// Nothing needs to be done: it is under way.
    Progress,
}

/// Which part of the pipeline a problem belongs to, and so which condition speaks of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Area {
    Topics,
    Cassandra,
    MySql,
    MongoDb,
    Workers,
    Dashboard,
}

impl Area {
    /// The system that it depends on, as metrics name it.
    #[must_use]
    pub const fn system(self) -> &'static str {
        match self {
            Self::Topics | Self::Workers | Self::Dashboard => "kafka",
            Self::Cassandra => "cassandra",
            Self::MySql => "mysql",
            Self::MongoDb => "mongodb",
        }
    }

    /// That this system does not answer.
    #[must_use]
    pub const fn unreachable(self) -> Reason {
        match self {
            Self::Topics | Self::Workers | Self::Dashboard => Reason::KafkaUnreachable,
            Self::Cassandra => Reason::CassandraUnreachable,
            Self::MySql => Reason::MySQLUnreachable,
            Self::MongoDb => Reason::MongoDBUnreachable,
        }
    }
}

/// What is wrong with a part of a pipeline: a topic, a table, a query.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// Whose it is.
    pub area: Area,
    /// In one word.
    pub reason: Reason,
    /// What makes it go away.
    pub cure: Cure,
    /// Where in the object (`spec.queries[1].sql`).
    pub field: String,
    /// What is wrong and what to do. No numbers that move and no times: it is shown in a condition.
    pub message: String,
}

impl Problem {
    /// One that only a change of the specification cures.
    #[must_use]
    pub fn change(area: Area, reason: Reason, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { area, reason, cure: Cure::Change, field: field.into(), message: message.into() }
    }

    /// One that goes away when something outside is put right.
    #[must_use]
    pub fn waiting(area: Area, reason: Reason, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { area, reason, cure: Cure::Waiting, field: field.into(), message: message.into() }
    }

    /// Work under way.
    #[must_use]
    pub fn progress(area: Area, reason: Reason, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { area, reason, cure: Cure::Progress, field: field.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.field, self.message) }
    }
}

impl From<ProblemClass> for Reason {
    fn from(class: ProblemClass) -> Self {
        match class {
            ProblemClass::KafkaUnreachable => Self::KafkaUnreachable,
            ProblemClass::TopicMissing => Self::TopicMissing,
            ProblemClass::StoreDenied | ProblemClass::FeedDenied => Self::AccessDenied,
            ProblemClass::FeedUnreachable => Self::FeedUnreachable,
            ProblemClass::FeedRefuses => Self::ProducerFailed,
            ProblemClass::TableMissing => Self::TableMissing,
            ProblemClass::TooManyBadRecords => Self::TooManyBadRecords,
            ProblemClass::DataLoss => Self::DataLoss,
            // Which store it is that does not answer depends on the query's sink; see `status::health`.
            ProblemClass::StoreUnreachable
            | ProblemClass::ReferenceUnreachable
            | ProblemClass::StoreRefuses
            | ProblemClass::BadRecord
            | ProblemClass::OutOfMemory
            | ProblemClass::InvalidSettings
            | ProblemClass::Internal => Self::QueryFailed,
        }
    }
}

impl From<NoticeKind> for Reason {
    fn from(kind: NoticeKind) -> Self {
        match kind {
            NoticeKind::FieldNeverSeen => Self::FieldNeverSeen,
            NoticeKind::ReferenceStale => Self::ReferenceStale,
        }
    }
}

/// The nearest of `known` to `given`, as a question behind a message: ` Did you mean "sector"?`
#[must_use]
pub fn near_miss<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let best = known.into_iter().map(|name| (strsim::damerau_levenshtein(given, name), name)).min();
    match best {
        Some((distance, name)) if distance > 0 && distance <= given.len().div_ceil(3) => format!("; did you mean \"{name}\"?"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use strum::IntoEnumIterator;

    use super::*;

    #[rstest]
    #[case("sectr", "; did you mean \"sector\"?")]
    #[case("sector", "")]
    #[case("zzz", "")]
    fn near_misses(#[case] given: &str, #[case] hint: &str) {
        assert_eq!(near_miss(given, ["sector", "ticker"]), hint);
    }

    #[test]
    fn every_reason_is_one_that_kubernetes_takes() {
        for reason in Reason::iter() {
            let text = reason.to_string();
            assert!(text.starts_with(|c: char| c.is_ascii_uppercase()) && text.bytes().all(|b| b.is_ascii_alphanumeric()), "{text}");
        }
    }
}
