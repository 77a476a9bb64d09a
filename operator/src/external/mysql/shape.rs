//! A table as MySQL describes it, with types in the spelling of the specification.

use tapeline_api::types::MySqlType;

/// A table as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableShape {
    /// Its columns, in order.
    pub columns: Vec<ColumnShape>,
    /// The columns of its primary key, in order.
    pub primary_key: Vec<String>,
    /// Its other indexes.
    pub indexes: Vec<IndexShape>,
    /// Its engine.
    pub engine: String,
}

/// A column as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent properties of a column")]
pub struct ColumnShape {
    /// Its name.
    pub name: String,
    /// Its type, if it is one that a pipeline can declare.
    pub type_: Option<MySqlType>,
    /// Its type in MySQL's words.
    pub type_text: String,
    /// Whether it takes nulls.
    pub nullable: bool,
    /// Whether MySQL numbers the rows in it.
    pub auto_increment: bool,
    /// Whether a row that leaves it out gets a value other than null.
    pub has_default: bool,
    /// Whether its value is computed, so that none can be written.
    pub generated: bool,
    /// The collation of a text.
    pub collation: Option<String>,
    /// Whether it has properties that the specification cannot express (a default, a comment), which restating the column would lose.
    pub embellished: bool,
}

/// An index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexShape {
    /// Its name.
    pub name: String,
    /// Its columns, in order; empty for an expression or a prefix of a column.
    pub columns: Vec<String>,
}

impl TableShape {
    /// The column of this name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&ColumnShape> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// The type that MySQL shows as `column_type`, if a pipeline can declare it.
#[must_use]
pub(super) fn canonical(column_type: &str) -> Option<MySqlType> {
    if column_type == "tinyint(1)" {
        return Some(MySqlType::Boolean);
    }
    // Servers before 8.0.19 show a width that means nothing.
    let (name, rest) = column_type.split_once('(').unwrap_or((column_type, ""));
    match name {
        "tinyint" | "smallint" | "int" | "bigint" if rest.is_empty() || rest.ends_with(')') => name.parse().ok(),
        _ => column_type.parse().ok(),
    }
}

/// Whether a column of `actual` type serves as one that is declared as `declared`.
pub(super) fn serves(actual: Option<MySqlType>, declared: MySqlType) -> bool {
    use MySqlType::{Boolean, Tinyint};
    actual == Some(declared) || matches!((actual, declared), (Some(Boolean), Tinyint) | (Some(Tinyint), Boolean))
}

/// What it takes to make a column wider, if each of its values has its place in the wider type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Widening {
    /// Only the table's description changes.
    InPlace,
    /// The table is rewritten, and its writers wait.
    Rewrite,
}

/// How `from` can become `to` without losing anything.
pub(super) fn widening(from: MySqlType, to: MySqlType) -> Option<Widening> {
    use MySqlType::{Char, Datetime, Decimal, Double, Float, Text, Timestamp, Varchar};
    let fits = match (from, to) {
        (Varchar(from), Varchar(to)) if from < to => {
            // A length of more than 255 bytes takes two bytes in each row; a character is up to four.
            let two_bytes = |characters: u16| u32::from(characters) * 4 > 255;
            return Some(if two_bytes(from) == two_bytes(to) { Widening::InPlace } else { Widening::Rewrite });
        }
        (Char(from), Char(to)) => from < to,
        (Char(from), Varchar(to)) => from <= to,
        (Timestamp(from), Timestamp(to)) | (Datetime(from), Datetime(to)) => from < to,
        (Float, Double) | (Varchar(_) | Char(_), Text) => true,
        (Decimal { precision, scale }, Decimal { precision: to_precision, scale: to_scale }) => {
            scale <= to_scale && precision.saturating_sub(scale) <= to_precision.saturating_sub(to_scale)
        }
        _ => matches!((rank(from), rank(to)), (Some(from), Some(to)) if from < to),
    };
    fits.then_some(Widening::Rewrite)
}

fn rank(type_: MySqlType) -> Option<u8> {
    match type_ {
        MySqlType::Boolean | MySqlType::Tinyint => Some(1),
        MySqlType::Smallint => Some(2),
        MySqlType::Int => Some(3),
        MySqlType::Bigint => Some(4),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("tinyint(1)", Some("boolean"))]
    #[case("tinyint", Some("tinyint"))]
    #[case("tinyint(4)", Some("tinyint"))]
    #[case("int(11)", Some("int"))]
    #[case("bigint(20) unsigned", None)]
    #[case("bigint unsigned", None)]
    #[case("decimal(38,0)", Some("decimal(38,0)"))]
    #[case("timestamp(6)", Some("timestamp(6)"))]
    #[case("timestamp", Some("timestamp"))]
    #[case("longtext", None)]
    #[case("varchar(64)", Some("varchar(64)"))]
    #[case("enum('a','b')", None)]
    fn mysqls_spelling(#[case] column_type: &str, #[case] ours: Option<&str>) {
        assert_eq!(canonical(column_type).map(|type_| type_.to_string()).as_deref(), ours);
    }

    #[rstest]
    #[case("varchar(16)", "varchar(63)", Some(Widening::InPlace))]
    #[case("varchar(16)", "varchar(64)", Some(Widening::Rewrite))]
    #[case("varchar(64)", "varchar(255)", Some(Widening::InPlace))]
    #[case("varchar(64)", "varchar(16)", None)]
    #[case("int", "bigint", Some(Widening::Rewrite))]
    #[case("bigint", "int", None)]
    #[case("float", "double", Some(Widening::Rewrite))]
    #[case("double", "float", None)]
    #[case("decimal(10,2)", "decimal(12,4)", Some(Widening::Rewrite))]
    #[case("decimal(10,2)", "decimal(12,5)", None)]
    #[case("decimal(10,2)", "decimal(11,1)", None)]
    #[case("timestamp", "timestamp(6)", Some(Widening::Rewrite))]
    #[case("timestamp", "datetime", None)]
    #[case("int", "varchar(20)", None)]
    #[case("varchar(20)", "text", Some(Widening::Rewrite))]
    fn wider(#[case] from: &str, #[case] to: &str, #[case] how: Option<Widening>) {
        assert_eq!(widening(from.parse().unwrap(), to.parse().unwrap()), how);
    }
}
