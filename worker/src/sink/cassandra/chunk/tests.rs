use arrow::array::{ArrayRef, Decimal128Array, Int32Array, StringArray};
use rstest::rstest;
use scylla::cluster::metadata::NativeType;

use super::*;

const fn native(type_: NativeType) -> ColumnType<'static> {
    ColumnType::Native(type_)
}

fn target(name: &str, type_: NativeType, key: Key) -> Target {
    Target { name: name.to_owned(), type_: native(type_), key }
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let rows = columns.first().map_or(0, |(_, column)| column.len());
    let ints = |n: usize| -> ArrayRef { Arc::new(Int32Array::from(vec![0; n])) };
    let rising: ArrayRef = Arc::new(Int64Array::from_iter_values(0..i64::try_from(rows).unwrap()));
    let origin = [(hidden::PARTITION, ints(rows)), (hidden::OFFSET, Arc::clone(&rising)), (hidden::INDEX, ints(rows)), (hidden::WRITE_TIME, rising)];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().chain(origin).map(|(name, column)| (name, column, true))).unwrap()
}

fn rows(columns: Vec<(&str, ArrayRef)>, targets: Vec<Target>, partition_key: Vec<usize>, nulls: Nulls) -> Arc<Rows> {
    Arc::new(Rows::new(batch(columns), Arc::new(Shape { columns: targets, partition_key }), nulls).unwrap())
}

fn bigints(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

fn texts(values: Vec<Option<&str>>) -> ArrayRef {
    Arc::new(StringArray::from(values))
}

fn of_ids(count: i64) -> Arc<Rows> {
    rows(vec![("id", bigints(0..count))], vec![target("id", NativeType::BigInt, Key::Partition)], vec![0], Nulls::Write)
}

fn in_chunks(rows: &Arc<Rows>, misfits: &[u32], place: impl FnMut(u32) -> u128) -> Vec<Vec<u32>> {
    let mut found = VecDeque::new();
    chunks(rows, misfits, place, &mut found);
    found.iter().map(|chunk| chunk.indices().to_vec()).collect()
}

fn serialized(rows: &Arc<Rows>) -> Vec<u8> {
    let mut found = VecDeque::new();
    chunks(rows, &[], |_| 0, &mut found);
    let mut buffer = Vec::new();
    for chunk in &found {
        let mut values = chunk.batch_values_iter();
        let mut writer = RowWriter::new(&mut buffer);
        while let Some(written) = values.serialize_next(&RowSerializationContext::empty(), &mut writer) {
            written.unwrap();
        }
    }
    buffer
}

#[test]
fn ten_rows_make_a_chunk() {
    assert_eq!(in_chunks(&of_ids(23), &[], |_| 0), [(0..10).collect::<Vec<_>>(), (10..20).collect(), (20..23).collect()]);
    assert_eq!(in_chunks(&of_ids(0), &[], |_| 0), Vec::<Vec<u32>>::new());
}

#[test]
fn misfits_stay_behind_and_their_neighbours_go() {
    assert_eq!(in_chunks(&of_ids(5), &[0, 3], |_| 0), [vec![1, 2, 4]]);
}

#[test]
fn rows_of_different_replicas_do_not_share_a_chunk() {
    let mut found = in_chunks(&of_ids(25), &[], |index| u128::from(index % 2));
    found.sort();
    assert_eq!(found, [vec![0, 2, 4, 6, 8, 10, 12, 14, 16, 18], vec![1, 3, 5, 7, 9, 11, 13, 15, 17, 19], vec![20, 22, 24], vec![21, 23]]);
}

#[test]
fn long_rows_make_smaller_chunks_and_a_huge_one_goes_alone() {
    let (long, huge) = ("x".repeat(2_000), "x".repeat(60_000));
    let texts = texts(vec![Some(&long), Some(&long), Some(&long), Some(&huge), Some("short")]);
    let targets = vec![target("id", NativeType::BigInt, Key::Partition), target("text", NativeType::Text, Key::No)];
    let rows = rows(vec![("id", bigints(0..5)), ("text", texts)], targets, vec![0], Nulls::Write);
    assert_eq!(in_chunks(&rows, &[], |_| 0), [vec![0, 1], vec![2], vec![3], vec![4]]);
}

#[rstest]
#[case(Nulls::Write, -1)]
#[case(Nulls::Keep, -2)]
fn a_row_is_its_columns_and_its_write_time(#[case] nulls: Nulls, #[case] length_of_null: i32) {
    let columns = vec![("id", bigints([7])), ("text", texts(vec![Some("ab")])), ("none", texts(vec![None]))];
    let targets =
        vec![target("id", NativeType::SmallInt, Key::Partition), target("text", NativeType::Text, Key::No), target("none", NativeType::Text, Key::No)];
    let expected = [&[0, 0, 0, 2, 0, 7][..], &[0, 0, 0, 2, b'a', b'b'], &length_of_null.to_be_bytes(), &[0, 0, 0, 8], &[0; 8]].concat();
    assert_eq!(serialized(&rows(columns, targets, vec![0], nulls)), expected);
}

#[test]
fn each_row_that_cannot_be_stored_is_found_with_its_reason() {
    let long = "x".repeat(MAX_KEY + 1);
    let columns = vec![
        ("name", texts(vec![Some("a"), Some(""), None, Some(&long), Some("b"), Some("c")])),
        ("count", Arc::new(Int64Array::from(vec![Some(1), Some(1 << 40), None, Some(1), Some(1 << 40), None])) as ArrayRef),
    ];
    let targets = vec![target("name", NativeType::Text, Key::Partition), target("count", NativeType::Int, Key::No)];
    let found = rows(columns, targets, vec![0], Nulls::Write).misfits();
    let expected = [
        (1, "column \"name\" of the table is text: it is the partition key and the value is empty"),
        (2, "column \"name\" of the table is text: it is part of the primary key and the value is null"),
        (3, "column \"name\" of the table is text: it is part of the primary key, of which Cassandra takes 65,535 bytes at most, and the value is longer"),
        (4, "column \"count\" of the table is int: the value is out of its range"),
    ];
    assert_eq!(found, expected.map(|(index, text)| (index, text.to_owned())));
}

#[test]
fn a_part_of_a_key_may_be_empty_but_all_parts_together_are_bounded() {
    let half = "x".repeat(40_000);
    let columns = vec![("a", texts(vec![Some(""), Some(&half)])), ("b", texts(vec![Some(""), Some(&half)])), ("c", bigints([1, 2]))];
    let targets = vec![target("a", NativeType::Text, Key::Part), target("b", NativeType::Text, Key::Part), target("c", NativeType::BigInt, Key::Part)];
    let found = rows(columns, targets, vec![0, 1], Nulls::Write).misfits();
    assert_eq!(found.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_row_that_is_longer_than_the_server_takes_is_found() {
    let huge = "x".repeat(MAX_ROW);
    let columns = vec![("id", bigints([1, 2])), ("text", texts(vec![Some("a"), Some(&huge)]))];
    let targets = vec![target("id", NativeType::BigInt, Key::Partition), target("text", NativeType::Text, Key::No)];
    let found = rows(columns, targets, vec![0], Nulls::Write).misfits();
    assert_eq!(found, [(1, "the row has 15728688 bytes, and Cassandra takes 16 MiB at most".to_owned())]);
}

#[test]
fn what_the_table_cannot_hold_at_all_is_named() {
    let shape = |type_| Arc::new(Shape { columns: vec![target("id", type_, Key::Partition)], partition_key: vec![0] });
    let error = Rows::new(batch(vec![("id", bigints([1]))]), shape(NativeType::Text), Nulls::Write).unwrap_err();
    assert_eq!(error.to_string(), "column \"id\" of the table is text, and the query gives Int64; change the table's column or the query");
    let without: ArrayRef = Arc::new(Decimal128Array::from(vec![1]));
    let error = Rows::new(RecordBatch::try_from_iter([("id", without)]).unwrap(), shape(NativeType::Decimal), Nulls::Write).unwrap_err();
    assert_eq!(error, Unfit::NoWriteTime);
}

#[test]
fn tokens_are_those_of_the_server() {
    let name = || ("name", texts(vec![Some("test")]));
    let one = rows(vec![name()], vec![target("name", NativeType::Text, Key::Partition)], vec![0], Nulls::Write);
    assert_eq!(one.token(0).value(), -6_017_608_668_500_074_083, "as in the driver's own test");
    let two = rows(
        vec![name(), ("id", bigints([1]))],
        vec![target("name", NativeType::Text, Key::Part), target("id", NativeType::BigInt, Key::Part)],
        vec![1, 0],
        Nulls::Write,
    );
    let encoded = [&[0, 8][..], &1_i64.to_be_bytes(), &[0, 0, 4], b"test", &[0]].concat();
    assert_eq!(two.token(0), Murmur3Partitioner.hash_one(&encoded), "each part in the table's order with its length and an end mark");
}

#[test]
fn suspects_go_one_by_one() {
    let mut found = VecDeque::new();
    chunks(&of_ids(3), &[], |_| 0, &mut found);
    let singles: Vec<_> = found.iter().flat_map(Chunk::singly).map(|chunk| (chunk.indices().to_vec(), chunk.suspect)).collect();
    assert_eq!(singles, [(vec![0], true), (vec![1], true), (vec![2], true)]);
}
