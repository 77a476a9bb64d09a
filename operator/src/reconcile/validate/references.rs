//! Reference data: where each reads from, and which columns SQL sees of it.

use tapeline_api::TradingPipelineSpec;
use tapeline_api::pipeline::mysql::{MySql, MySqlTable};
use tapeline_api::pipeline::references::{Reference, ReferenceField, ReferenceTable};
use tapeline_api::types::{FieldType, MySqlType};

use super::Validated;
use crate::reason::{Area, Problem, Reason, near_miss};

fn invalid(field: String, message: impl Into<String>) -> Problem {
    Problem::change(Area::Workers, Reason::InvalidSpec, field, message)
}

/// Finds the columns of each reference.
pub(super) fn validate(spec: &TradingPipelineSpec, validated: &mut Validated) {
    for (index, reference) in spec.references.iter().enumerate() {
        let path = format!("spec.references[{index}]");
        match columns(spec, reference, &path) {
            Ok(fields) => validated.references.push(ReferenceTable { name: reference.name.clone(), fields }),
            Err(problems) => validated.problems.extend(problems),
        }
    }
}

fn columns(spec: &TradingPipelineSpec, reference: &Reference, path: &str) -> Result<Vec<ReferenceField>, Vec<Problem>> {
    if let Some(stream) = spec.streams.iter().position(|stream| stream.name == reference.name) {
        return Err(vec![invalid(
            format!("{path}.name"),
            format!("spec.streams[{stream}] has this name too, and SQL could not tell them apart; choose another"),
        )]);
    }
    let Some(mysql) = &spec.mysql else {
        return Err(vec![invalid(format!("{path}.mysql"), "the pipeline has no MySQL; add spec.mysql")]);
    };
    let declared = reference.mysql.table.as_ref().and_then(|name| mysql.tables.iter().find(|table| table.name == *name));
    match declared {
        Some(table) if reference.fields.is_empty() => Ok(of_table(table)),
        Some(table) => given(reference, path, Some(table)),
        None if reference.fields.is_empty() => Err(vec![invalid(format!("{path}.fields"), unknown_columns(mysql, reference))]),
        None => given(reference, path, None),
    }
}

fn unknown_columns(mysql: &MySql, reference: &Reference) -> String {
    match &reference.mysql.table {
        Some(table) => {
            let hint = near_miss(table.as_str(), mysql.tables.iter().map(|table| table.name.as_str()));
            format!("spec.mysql.tables does not declare \"{table}\"{hint}, so its columns are not known; list those that queries use, with their types")
        }
        None => "the columns of a SELECT are not known before it runs; list them with their types".to_owned(),
    }
}

fn given(reference: &Reference, path: &str, table: Option<&MySqlTable>) -> Result<Vec<ReferenceField>, Vec<Problem>> {
    let mut problems = Vec::new();
    for (index, field) in reference.fields.iter().enumerate() {
        let path = format!("{path}.fields[{index}]");
        if matches!(field.type_, FieldType::List(_) | FieldType::Json) {
            problems.push(invalid(format!("{path}.type"), format!("MySQL has no {}; make it a string", field.type_)));
        }
        if let Some(table) = table
            && !table.columns.iter().any(|column| column.name == field.name)
        {
            let hint = near_miss(field.name.as_str(), table.columns.iter().map(|column| column.name.as_str()));
            problems.push(invalid(format!("{path}.name"), format!("no column \"{}\" in table \"{}\"{hint}", field.name, table.name)));
        }
    }
    if problems.is_empty() { Ok(reference.fields.clone()) } else { Err(problems) }
}

/// The columns of a declared table that SQL can see.
fn of_table(table: &MySqlTable) -> Vec<ReferenceField> {
    table.columns.iter().filter_map(|column| Some(ReferenceField { name: column.name.clone(), type_: field_type(column.type_)? })).collect()
}

fn field_type(type_: MySqlType) -> Option<FieldType> {
    Some(match type_ {
        MySqlType::Boolean => FieldType::Boolean,
        MySqlType::Tinyint | MySqlType::Smallint | MySqlType::Int => FieldType::Int,
        MySqlType::Bigint => FieldType::Bigint,
        MySqlType::Float => FieldType::Float,
        MySqlType::Double => FieldType::Double,
        MySqlType::Decimal { precision, scale } if precision <= 38 => FieldType::Decimal { precision, scale },
        MySqlType::Varchar(_) | MySqlType::Char(_) | MySqlType::Text => FieldType::String,
        MySqlType::Date => FieldType::Date,
        MySqlType::Timestamp(_) | MySqlType::Datetime(_) => FieldType::Timestamp,
        MySqlType::Decimal { .. } | MySqlType::Binary(_) => return None,
    })
}
