use std::sync::Arc;

use rstest::rstest;

use super::*;

fn bytes(column: ArrayRef, target: NativeType) -> Result<Vec<u8>, Misfit> {
    let cell = Cell::new(&column, &ColumnType::Native(target)).expect("a type that fits");
    let mut scratch = Scratch::default();
    let bytes = cell.bytes(0, &mut scratch).map(<[u8]>::to_vec);
    assert!(bytes.is_ok() || cell.may_misfit(), "what does not fit is looked for");
    bytes
}

fn decimal(value: i128, scale: i8) -> ArrayRef {
    Arc::new(Decimal128Array::from(vec![value]).with_precision_and_scale(38, scale).expect("a decimal type"))
}

fn text(value: &str) -> ArrayRef {
    Arc::new(StringArray::from(vec![value]))
}

#[rstest]
#[case(NativeType::TinyInt, -128, Ok(vec![0x80]))]
#[case(NativeType::TinyInt, 127, Ok(vec![0x7f]))]
#[case(NativeType::TinyInt, 128, Err(Misfit::OutOfRange))]
#[case(NativeType::TinyInt, -129, Err(Misfit::OutOfRange))]
#[case(NativeType::SmallInt, -32_768, Ok(vec![0x80, 0]))]
#[case(NativeType::SmallInt, 32_768, Err(Misfit::OutOfRange))]
#[case(NativeType::Int, 2_147_483_647, Ok(vec![0x7f, 0xff, 0xff, 0xff]))]
#[case(NativeType::Int, 2_147_483_648, Err(Misfit::OutOfRange))]
#[case(NativeType::Int, -2_147_483_649, Err(Misfit::OutOfRange))]
#[case(NativeType::BigInt, i64::MIN, Ok(vec![0x80, 0, 0, 0, 0, 0, 0, 0]))]
#[case(NativeType::BigInt, 258, Ok(vec![0, 0, 0, 0, 0, 0, 1, 2]))]
#[case(NativeType::Float, 3, Ok(3_f32.to_be_bytes().to_vec()))]
#[case(NativeType::Double, -3, Ok((-3_f64).to_be_bytes().to_vec()))]
#[case(NativeType::Decimal, 128, Ok(vec![0, 0, 0, 0, 0, 0x80]))]
fn integers(#[case] target: NativeType, #[case] value: i64, #[case] expected: Result<Vec<u8>, Misfit>) {
    assert_eq!(bytes(Arc::new(Int64Array::from(vec![value])), target), expected);
}

#[rstest]
#[case(0, 0, vec![0, 0, 0, 0, 0])]
#[case(127, 2, vec![0, 0, 0, 2, 0x7f])]
#[case(128, 2, vec![0, 0, 0, 2, 0, 0x80])]
#[case(-1, 0, vec![0, 0, 0, 0, 0xff])]
#[case(-128, 0, vec![0, 0, 0, 0, 0x80])]
#[case(-129, 0, vec![0, 0, 0, 0, 0xff, 0x7f])]
#[case(i128::MIN, 38, [&[0, 0, 0, 38, 0x80][..], &[0; 15]].concat())]
#[case(i128::MAX, 0, [&[0, 0, 0, 0, 0x7f][..], &[0xff; 15]].concat())]
fn decimals(#[case] value: i128, #[case] scale: i8, #[case] expected: Vec<u8>) {
    assert_eq!(bytes(decimal(value, scale), NativeType::Decimal), Ok(expected));
}

#[rstest]
#[case(1_200, 2, NativeType::TinyInt, Ok(vec![12]))]
#[case(1_201, 2, NativeType::TinyInt, Err(Misfit::NotWhole))]
#[case(12_800, 2, NativeType::TinyInt, Err(Misfit::OutOfRange))]
#[case(12, -1, NativeType::TinyInt, Ok(vec![120]))]
#[case(i128::from(i64::MAX), 0, NativeType::BigInt, Ok(i64::MAX.to_be_bytes().to_vec()))]
#[case(i128::from(i64::MAX) + 1, 0, NativeType::BigInt, Err(Misfit::OutOfRange))]
#[case(i128::MAX, -30, NativeType::BigInt, Err(Misfit::OutOfRange))]
#[case(15, 1, NativeType::Double, Ok(1.5_f64.to_be_bytes().to_vec()))]
#[case(15, 1, NativeType::Float, Ok(1.5_f32.to_be_bytes().to_vec()))]
#[case(123_456_789_012_345_678_901_234_567, 9, NativeType::Double, Ok(123_456_789_012_345_678.901_234_567_f64.to_be_bytes().to_vec()))]
#[case(15, -2, NativeType::Double, Ok(1_500_f64.to_be_bytes().to_vec()))]
fn decimals_elsewhere(#[case] value: i128, #[case] scale: i8, #[case] target: NativeType, #[case] expected: Result<Vec<u8>, Misfit>) {
    assert_eq!(bytes(decimal(value, scale), target), expected);
}

#[rstest]
#[case(NativeType::Double, 0.1, 0.1_f64.to_be_bytes().to_vec())]
#[case(NativeType::Float, 0.1, 0.1_f32.to_be_bytes().to_vec())]
#[case(NativeType::Float, 1e300, f32::INFINITY.to_be_bytes().to_vec())]
fn floats(#[case] target: NativeType, #[case] value: f64, #[case] expected: Vec<u8>) {
    assert_eq!(bytes(Arc::new(Float64Array::from(vec![value])), target), Ok(expected));
}

#[rstest]
#[case(NativeType::Text, "Köln", Ok("Köln".as_bytes().to_vec()))]
#[case(NativeType::Text, "", Ok(vec![]))]
#[case(NativeType::Ascii, "Cologne", Ok(b"Cologne".to_vec()))]
#[case(NativeType::Ascii, "Köln", Err(Misfit::NotAscii))]
#[case(NativeType::Uuid, "00112233-4455-6677-8899-AABBCCDDEEFF", Ok(vec![0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]))]
#[case(NativeType::Uuid, "00112233-4455-6677-8899", Err(Misfit::NotUuid))]
#[case(NativeType::Uuid, "", Err(Misfit::NotUuid))]
fn texts(#[case] target: NativeType, #[case] value: &str, #[case] expected: Result<Vec<u8>, Misfit>) {
    assert_eq!(bytes(text(value), target), expected);
}

#[rstest]
#[case(0, NativeType::Date, vec![0x80, 0, 0, 0])]
#[case(-1, NativeType::Date, vec![0x7f, 0xff, 0xff, 0xff])]
#[case(i32::MIN, NativeType::Date, vec![0, 0, 0, 0])]
#[case(19_960, NativeType::Timestamp, 1_724_544_000_000_i64.to_be_bytes().to_vec())]
fn dates(#[case] days: i32, #[case] target: NativeType, #[case] expected: Vec<u8>) {
    assert_eq!(bytes(Arc::new(Date32Array::from(vec![days])), target), Ok(expected));
}

#[rstest]
#[case(1_999, 1)]
#[case(-1, -1)]
#[case(-1_000, -1)]
#[case(i64::MIN, -9_223_372_036_854_776)]
fn a_timestamp_is_cut_to_the_millisecond_before(#[case] micros: i64, #[case] millis: i64) {
    assert_eq!(bytes(Arc::new(TimestampMicrosecondArray::from(vec![micros])), NativeType::Timestamp), Ok(millis.to_be_bytes().to_vec()));
}

#[test]
fn booleans() {
    assert_eq!(bytes(Arc::new(BooleanArray::from(vec![true])), NativeType::Boolean), Ok(vec![1]));
    assert_eq!(bytes(Arc::new(BooleanArray::from(vec![false])), NativeType::Boolean), Ok(vec![0]));
}

#[rstest]
#[case(text("x"), NativeType::BigInt)]
#[case(Arc::new(Int64Array::from(vec![1])), NativeType::Text)]
#[case(Arc::new(Int64Array::from(vec![1])), NativeType::Counter)]
#[case(Arc::new(Float64Array::from(vec![1.0])), NativeType::Decimal)]
#[case(Arc::new(BooleanArray::from(vec![true])), NativeType::Int)]
#[case(Arc::new(Date32Array::from(vec![1])), NativeType::BigInt)]
#[case(Arc::new(TimestampMicrosecondArray::from(vec![1])), NativeType::Date)]
fn types_that_do_not_fit(#[case] column: ArrayRef, #[case] target: NativeType) {
    assert!(Cell::new(&column, &ColumnType::Native(target)).is_none());
}

#[test]
fn a_type_that_is_not_plain_takes_nothing() {
    assert!(Cell::new(&text("x"), &ColumnType::Tuple(vec![ColumnType::Native(NativeType::Text)])).is_none());
}
