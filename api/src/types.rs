//! The column types of the three places where a pipeline names them: a stream's fields, Cassandra's tables and MySQL's tables.
//! Each is parsed from its usual spelling, kept in a canonical form, and written back in it.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantNames};

/// A type that Tapeline does not know in this place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a type that a {place} can have; it can be {known}")]
pub struct UnknownType {
    text: String,
    place: &'static str,
    known: &'static str,
}

/// The type of a stream's field, as SQL over the stream sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum FieldType {
    /// true or false
    Boolean,
    /// 32 bits, signed
    Int,
    /// 64 bits, signed
    Bigint,
    /// IEEE 754, 32 bits
    Float,
    /// IEEE 754, 64 bits
    Double,
    /// UTF-8 text
    String,
    /// A day without a time zone, `2024-08-25`
    Date,
    /// Microseconds since 1970 in UTC
    Timestamp,
    /// An exact number of `precision` digits, `scale` of them behind the point
    Decimal {
        /// Digits in all, 1 to 38
        precision: u8,
        /// Digits behind the point, at most `precision`
        scale: u8,
    },
    /// Whatever stands there, as its JSON text
    Json,
    /// An array of scalars
    List(ListItem),
}

/// What the elements of a list are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, EnumString)]
#[strum(serialize_all = "lowercase")]
#[allow(missing_docs, reason = "as the field types of these names")]
pub enum ListItem {
    Boolean,
    Bigint,
    Double,
    String,
}

const FIELD_TYPES: &str = "boolean, int, bigint, float, double, string, date, timestamp, decimal(precision,scale), json, \
     list(boolean), list(bigint), list(double) or list(string)";

impl FromStr for FieldType {
    type Err = UnknownType;

    fn from_str(text: &str) -> Result<Self, UnknownType> {
        Ok(match text {
            "boolean" => Self::Boolean,
            "int" => Self::Int,
            "bigint" => Self::Bigint,
            "float" => Self::Float,
            "double" => Self::Double,
            "string" => Self::String,
            "date" => Self::Date,
            "timestamp" => Self::Timestamp,
            "json" => Self::Json,
            _ if text.starts_with("list(") => match text.strip_prefix("list(").and_then(|rest| rest.strip_suffix(')')).map(str::parse) {
                Some(Ok(item)) => Self::List(item),
                _ => return Err(UnknownType { text: text.to_owned(), place: "stream's field", known: FIELD_TYPES }),
            },
            _ => match arguments(text, "decimal").as_deref() {
                Some(&[precision, scale]) if (1..=38).contains(&precision) && scale <= precision => {
                    Self::Decimal { precision: u8::try_from(precision).unwrap_or(38), scale: u8::try_from(scale).unwrap_or(0) }
                }
                _ => return Err(UnknownType { text: text.to_owned(), place: "stream's field", known: FIELD_TYPES }),
            },
        })
    }
}

impl fmt::Display for FieldType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boolean => "boolean",
            Self::Int => "int",
            Self::Bigint => "bigint",
            Self::Float => "float",
            Self::Double => "double",
            Self::String => "string",
            Self::Date => "date",
            Self::Timestamp => "timestamp",
            Self::Json => "json",
            Self::List(item) => return write!(f, "list({item})"),
            Self::Decimal { precision, scale } => return write!(f, "decimal({precision},{scale})"),
        })
    }
}

/// The type of a Cassandra column: those scalar types that rows of a query can be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Display, EnumString, IntoStaticStr, VariantNames)]
#[serde(try_from = "String", into = "String")]
#[strum(serialize_all = "lowercase", parse_err_ty = UnknownType, parse_err_fn = unknown_cql)]
#[allow(missing_docs, reason = "the variants are Cassandra's own names")]
pub enum CqlType {
    Boolean,
    Tinyint,
    Smallint,
    Int,
    Bigint,
    Float,
    Double,
    Decimal,
    Text,
    Date,
    Timestamp,
    Uuid,
}

const CQL_TYPES: &str = "boolean, tinyint, smallint, int, bigint, float, double, decimal, text, date, timestamp or uuid";

fn unknown_cql(text: &str) -> UnknownType {
    UnknownType { text: text.to_owned(), place: "Cassandra column", known: CQL_TYPES }
}

/// The type of a MySQL column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[allow(missing_docs, reason = "the variants are MySQL's own names")]
pub enum MySqlType {
    Boolean,
    Tinyint,
    Smallint,
    Int,
    Bigint,
    Float,
    Double,
    Date,
    Text,
    /// Characters, 1 to 16,383
    Varchar(u16),
    /// Characters, 1 to 255
    Char(u16),
    /// Digits of the fraction of a second, 0 to 6
    Timestamp(u8),
    /// Digits of the fraction of a second, 0 to 6
    Datetime(u8),
    Decimal {
        precision: u8,
        scale: u8,
    },
    /// Bytes, 1 to 255. Not to be declared: it is the type of the order columns that mode Merge needs.
    Binary(u16),
}

const MYSQL_TYPES: &str = "boolean, tinyint, smallint, int, bigint, float, double, decimal(p,s), varchar(n), char(n), text, date, timestamp(f) or datetime(f)";

impl FromStr for MySqlType {
    type Err = UnknownType;

    fn from_str(text: &str) -> Result<Self, UnknownType> {
        let unknown = || UnknownType { text: text.to_owned(), place: "MySQL column", known: MYSQL_TYPES };
        let length = |name: &str, max: u32| match arguments(text, name).as_deref() {
            Some(&[n]) if (1..=max).contains(&n) => u16::try_from(n).ok(),
            _ => None,
        };
        let fraction = |name: &str| match arguments(text, name).as_deref() {
            Some(&[n]) if n <= 6 => u8::try_from(n).ok(),
            _ => (text == name).then_some(0),
        };
        Ok(match text {
            "boolean" => Self::Boolean,
            "tinyint" => Self::Tinyint,
            "smallint" => Self::Smallint,
            "int" => Self::Int,
            "bigint" => Self::Bigint,
            "float" => Self::Float,
            "double" => Self::Double,
            "date" => Self::Date,
            "text" => Self::Text,
            _ => {
                if let Some(n) = length("varchar", 16_383) {
                    Self::Varchar(n)
                } else if let Some(n) = length("char", 255) {
                    Self::Char(n)
                } else if let Some(n) = length("binary", 255) {
                    Self::Binary(n)
                } else if let Some(f) = fraction("timestamp") {
                    Self::Timestamp(f)
                } else if let Some(f) = fraction("datetime") {
                    Self::Datetime(f)
                } else {
                    match arguments(text, "decimal").as_deref() {
                        Some(&[p, s]) if (1..=65).contains(&p) && s <= 30 && s <= p => {
                            Self::Decimal { precision: u8::try_from(p).map_err(|_| unknown())?, scale: u8::try_from(s).map_err(|_| unknown())? }
                        }
                        _ => return Err(unknown()),
                    }
                }
            }
        })
    }
}

impl fmt::Display for MySqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean => f.write_str("boolean"),
            Self::Tinyint => f.write_str("tinyint"),
            Self::Smallint => f.write_str("smallint"),
            Self::Int => f.write_str("int"),
            Self::Bigint => f.write_str("bigint"),
            Self::Float => f.write_str("float"),
            Self::Double => f.write_str("double"),
            Self::Date => f.write_str("date"),
            Self::Text => f.write_str("text"),
            Self::Varchar(n) => write!(f, "varchar({n})"),
            Self::Char(n) => write!(f, "char({n})"),
            Self::Binary(n) => write!(f, "binary({n})"),
            Self::Timestamp(0) => f.write_str("timestamp"),
            Self::Timestamp(digits) => write!(f, "timestamp({digits})"),
            Self::Datetime(0) => f.write_str("datetime"),
            Self::Datetime(digits) => write!(f, "datetime({digits})"),
            Self::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
        }
    }
}

impl MySqlType {
    /// Whether values are text, which has a collation and may be part of a key only in a binary one.
    #[must_use]
    pub const fn is_text(self) -> bool {
        matches!(self, Self::Varchar(_) | Self::Char(_) | Self::Text)
    }
}

/// The numbers in `name(1,2)`.
fn arguments(text: &str, name: &str) -> Option<Vec<u32>> {
    let inner = text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')')?;
    inner.split(',').map(|number| number.trim().parse().ok()).collect()
}

macro_rules! text_type {
    ($name:ident, $pattern:literal) => {
        impl TryFrom<String> for $name {
            type Error = UnknownType;

            fn try_from(text: String) -> Result<Self, UnknownType> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "maxLength": 32, "pattern": $pattern})
            }
        }
    };
}

text_type!(
    FieldType,
    r"^(boolean|int|bigint|float|double|string|date|timestamp|json|list\((boolean|bigint|double|string)\)|decimal\(([1-9]|[12][0-9]|3[0-8]), ?([0-9]|[12][0-9]|3[0-8])\))$"
);
text_type!(CqlType, "^(boolean|tinyint|smallint|int|bigint|float|double|decimal|text|date|timestamp|uuid)$");
text_type!(
    MySqlType,
    r"^(boolean|tinyint|smallint|int|bigint|float|double|date|text|varchar\([1-9][0-9]{0,4}\)|char\([1-9][0-9]{0,2}\)|(timestamp|datetime)(\([0-6]\))?|decimal\([1-9][0-9]?, ?[0-9]{1,2}\))$"
);

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("decimal(18, 4)", Some("decimal(18,4)"))]
    #[case("bigint", Some("bigint"))]
    #[case("json", Some("json"))]
    #[case("list(string)", Some("list(string)"))]
    #[case("list(json)", None)]
    #[case("list(string", None)]
    #[case("decimal(39,0)", None)]
    #[case("decimal(4,5)", None)]
    #[case("text", None)]
    fn field_types(#[case] text: &str, #[case] canonical: Option<&str>) {
        assert_eq!(text.parse::<FieldType>().ok().map(|t| t.to_string()).as_deref(), canonical);
    }

    #[rstest]
    #[case("varchar(64)", Some("varchar(64)"))]
    #[case("timestamp(6)", Some("timestamp(6)"))]
    #[case("timestamp", Some("timestamp"))]
    #[case("timestamp(7)", None)]
    #[case("varchar", None)]
    #[case("varchar(0)", None)]
    #[case("decimal(65,30)", Some("decimal(65,30)"))]
    #[case("json", None)]
    fn mysql_types(#[case] text: &str, #[case] canonical: Option<&str>) {
        assert_eq!(text.parse::<MySqlType>().ok().map(|t| t.to_string()).as_deref(), canonical);
    }

    #[test]
    fn every_cql_type_is_in_the_message() {
        for name in <CqlType as strum::VariantNames>::VARIANTS {
            assert!(CQL_TYPES.contains(name), "{name}");
            assert_eq!(name.parse::<CqlType>().unwrap().to_string(), *name);
        }
        assert_eq!(
            "varchar".parse::<CqlType>().unwrap_err().to_string(),
            format!("\"varchar\" is not a type that a Cassandra column can have; it can be {CQL_TYPES}")
        );
    }
}
