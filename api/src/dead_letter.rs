//! A message of a dead-letter topic: what the worker writes of a record or row, and the dashboard reads. Its value is the record, or the row as JSON; headers say where that
//! came from. Consumers outside of Tapeline read these headers, too: `docs/streams.md` lists them.

/// `namespace/pipeline`.
pub const PIPELINE: &str = "tapeline-pipeline";
/// The query that found it bad, or whose row was refused.
pub const QUERY: &str = "tapeline-query";
/// The topic that it came from.
pub const TOPIC: &str = "tapeline-topic";
/// The partition that it came from.
pub const PARTITION: &str = "tapeline-partition";
/// The offset that it came from.
pub const OFFSET: &str = "tapeline-offset";
/// Its place in the message's array; empty if the letter holds the whole message.
pub const INDEX: &str = "tapeline-index";
/// What is wrong.
pub const ERROR: &str = "tapeline-error";
/// What the letter holds: a [`Kind`].
pub const KIND: &str = "tapeline-kind";
/// On a message that is a letter sent once more: which one, `topic/partition/offset`.
pub const REPLAYED: &str = "tapeline-replayed";

/// What is kept of a record that the dead-letter topic refuses for its size, in bytes. Nothing in the letter says that it was cut but its size.
pub const CUT: usize = 256 << 10;

/// What a letter holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A message that could not be read, or one element of its array.
    Record,
    /// A row of a query, which a store refused: no message of the stream.
    Row,
}

impl Kind {
    /// As the header says it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Row => "row",
        }
    }

    /// What the headers `kind` and `index` say. Letters of before [`KIND`] was written have no `kind`: one of a whole message is a record, one with an index is either.
    #[must_use]
    pub fn of(kind: Option<&str>, index: &str) -> Option<Self> {
        match kind {
            Some(kind) => [Self::Record, Self::Row].into_iter().find(|known| known.as_str() == kind),
            None => index.is_empty().then_some(Self::Record),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::record(Some("record"), "", Some(Kind::Record))]
    #[case::element(Some("record"), "3", Some(Kind::Record))]
    #[case::row(Some("row"), "0", Some(Kind::Row))]
    #[case::of_a_later_version(Some("page"), "", None)]
    #[case::whole_message_of_before(None, "", Some(Kind::Record))]
    #[case::element_or_row_of_before(None, "0", None)]
    fn what_a_letter_holds(#[case] kind: Option<&str>, #[case] index: &str, #[case] expected: Option<Kind>) {
        assert_eq!(Kind::of(kind, index), expected);
    }
}
