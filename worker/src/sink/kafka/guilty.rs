//! Who is at fault when brokers refuse messages that were sent singly.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use rdkafka::error::RDKafkaErrorCode;

use super::message::Encoder;
use super::writer::Batch;

/// What is at fault.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Guilty {
    /// Rows, by their place in the batch, and why.
    Rows(Vec<(usize, String)>),
    /// All rows: the sink has no key, and the topic wants one.
    Keyless,
    /// Dead letters, refused with this code.
    Letters(RDKafkaErrorCode),
    /// Progress.
    Progress,
    /// Rows with which nothing is wrong as far as can be seen, refused with this code.
    Nobody(RDKafkaErrorCode),
}

/// Finds it by the numbers that the messages of `batch` have: rows, then dead letters, then progress.
pub(super) fn guilty(encoder: &Encoder, batch: &Batch, refused: &[(usize, RDKafkaErrorCode)]) -> Result<Guilty, ArrowError> {
    let rows: usize = batch.rows.iter().map(RecordBatch::num_rows).sum();
    if refused.iter().any(|(number, _)| *number >= rows + batch.letters.len()) {
        return Ok(Guilty::Progress);
    }
    let Some((_, code)) = refused.iter().find(|(number, _)| *number < rows) else {
        return Ok(refused.first().map_or(Guilty::Rows(Vec::new()), |(_, code)| Guilty::Letters(*code)));
    };
    let is_of_key = |code: RDKafkaErrorCode| code == RDKafkaErrorCode::InvalidRecord;
    if is_of_key(*code) && encoder.has_no_key() {
        return Ok(Guilty::Keyless);
    }
    // What holds for one row holds for all that are as large, or without a key: to find them one by one would take a transaction each.
    let named = |place: usize| refused.iter().any(|(number, other)| *number == place && is_of_key(*other) == is_of_key(*code));
    let (mut sizes, mut limit) = (Vec::with_capacity(rows), usize::MAX);
    for rows in &batch.rows {
        let messages = encoder.encode(rows)?;
        for row in 0..rows.num_rows() {
            let (key, payload) = messages.get(row);
            let size = payload.len() + key.map_or(0, <[u8]>::len);
            if named(sizes.len()) {
                limit = limit.min(size);
            }
            sizes.push((size, key.is_none()));
        }
    }
    let why = if is_of_key(*code) { "the topic is compacted, and the key is null" } else { "the message is larger than the topic's max.message.bytes" };
    let is_guilty = |(size, is_without_key): &(usize, bool)| if is_of_key(*code) { *is_without_key } else { *size >= limit };
    let found: Vec<_> = sizes.iter().enumerate().filter(|(_, row)| is_guilty(row)).map(|(place, _)| (place, why.to_owned())).collect();
    Ok(if found.is_empty() { Guilty::Nobody(*code) } else { Guilty::Rows(found) })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};
    use rdkafka::error::RDKafkaErrorCode::{InvalidRecord, MessageSizeTooLarge};
    use rstest::rstest;

    use super::*;
    use crate::dead_letters::DeadLetter;
    use crate::sink::RefusedRow;

    /// Four rows in two record batches, of which the first is small and has no key, and the third is large; and a dead letter.
    fn batch() -> Batch {
        let rows = |keys: [Option<&str>; 2], texts: [&str; 2]| {
            let columns = [("key", Arc::new(StringArray::from(keys.to_vec())) as ArrayRef), ("text", Arc::new(StringArray::from(texts.to_vec())) as ArrayRef)];
            RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
        };
        let letter = DeadLetter::from(RefusedRow { partition: 0, offset: 1, index: 0, error: String::new(), payload: Vec::new() });
        let rows = vec![rows([None, Some("a")], ["", "small"]), rows([Some("b"), Some("c")], [&"large".repeat(1_000), "small"])];
        Batch { rows, letters: vec![letter], advances: Vec::new() }
    }

    /// The rows that are at fault, or what else is.
    fn found(key: &[&str], refused: &[(usize, RDKafkaErrorCode)]) -> Result<Vec<usize>, Guilty> {
        let columns = ["key".to_owned(), "text".to_owned()];
        match guilty(&Encoder::new(&columns, key).unwrap(), &batch(), refused).unwrap() {
            Guilty::Rows(rows) => Ok(rows.into_iter().map(|(place, _)| place).collect()),
            other => Err(other),
        }
    }

    #[rstest]
    #[case::too_large(&[(2, MessageSizeTooLarge)], Ok(vec![2]))]
    #[case::as_large_as_another(&[(1, MessageSizeTooLarge)], Ok(vec![1, 2, 3]))]
    #[case::without_a_key(&[(0, InvalidRecord)], Ok(vec![0]))]
    #[case::a_small_one_without_a_key_beside_a_large_one(&[(2, MessageSizeTooLarge), (0, InvalidRecord)], Ok(vec![2]))]
    #[case::and_the_other_way_round(&[(0, InvalidRecord), (2, MessageSizeTooLarge)], Ok(vec![0]))]
    #[case::letter(&[(4, InvalidRecord)], Err(Guilty::Letters(InvalidRecord)))]
    #[case::progress(&[(2, MessageSizeTooLarge), (5, MessageSizeTooLarge)], Err(Guilty::Progress))]
    fn who_is_at_fault(#[case] refused: &[(usize, RDKafkaErrorCode)], #[case] expected: Result<Vec<usize>, Guilty>) {
        assert_eq!(found(&["key"], refused), expected);
    }

    #[test]
    fn a_row_with_a_key_is_not_at_fault_for_having_none() {
        assert_eq!(found(&["text"], &[(1, InvalidRecord)]), Err(Guilty::Nobody(InvalidRecord)));
        assert_eq!(found(&[], &[(1, InvalidRecord)]), Err(Guilty::Keyless));
    }
}
