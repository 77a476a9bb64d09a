//! Queries and producers: SQL against streams, output against declared tables, and whether the stores that they name exist in the specification.

use tapeline_api::TradingPipelineSpec;
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::producers::{Producer, SymbolsFrom};
use tapeline_api::pipeline::queries::{MySqlMode, Query};

use super::{ValidQuery, Validated};
use crate::reason::{Area, Problem, Reason};
use crate::reconcile::check_query::{self, Checked};

fn invalid(field: String, message: impl Into<String>) -> Problem {
    Problem::change(Area::Workers, Reason::InvalidSpec, field, message)
}

fn invalid_sql(field: String, message: impl Into<String>) -> Problem {
    Problem::change(Area::Workers, Reason::InvalidSQL, field, message)
}

pub(super) fn queries(spec: &TradingPipelineSpec, validated: &mut Validated) {
    let mut bad_streams = Vec::new();
    for (index, stream) in spec.streams.iter().enumerate().filter(|(_, stream)| stream.dead_letter_topic.as_ref() == Some(&stream.topic)) {
        let message = "it is the stream's own topic, so a bad record would be read again for ever; name another topic";
        validated.problems.push(invalid(format!("spec.streams[{index}].deadLetterTopic"), message));
        bad_streams.push(stream.name.as_str());
    }
    for (index, query) in spec.queries.iter().enumerate() {
        let path = format!("spec.queries[{index}]");
        let mut problems = Vec::new();
        let checked = match check_query::check(&spec.streams, &query.sql) {
            Ok(checked) => Some(checked),
            Err(message) => {
                problems.push(invalid_sql(format!("{path}.sql"), message));
                None
            }
        };
        sink(spec, query, checked.as_ref(), &path, &mut problems);
        let stream = checked.as_ref().and_then(|checked| spec.streams.iter().position(|stream| stream.name.as_str() == checked.stream));
        if let (Some(checked), Some(stream), true) = (checked, stream, problems.is_empty())
            && !bad_streams.contains(&checked.stream.as_str())
        {
            validated.queries.insert(query.name.clone(), ValidQuery { stream, checked });
        }
        validated.problems.extend(problems.iter().cloned());
        validated.query_problems.insert(query.name.clone(), problems);
    }
}

fn sink(spec: &TradingPipelineSpec, query: &Query, checked: Option<&Checked>, path: &str, problems: &mut Vec<Problem>) {
    let row_wise = |who: &str| {
        let why = checked?.not_row_wise.as_ref()?;
        Some(invalid_sql(
            format!("{path}.sql"),
            format!(
                "{who} handles each row by itself, but {why}: a batch that is read again would overwrite what the first one wrote; use a MySQL table with mode Append"
            ),
        ))
    };
    let fits = |table: &SqlName, columns: &[check_query::TableColumn]| -> Vec<Problem> {
        let findings = checked.map(|checked| check_query::mismatches(checked, table.as_str(), columns)).unwrap_or_default();
        findings.into_iter().map(|finding| invalid_sql(format!("{path}.sql"), finding)).collect()
    };
    if let Some(sink) = &query.sink.cassandra {
        let Some(cassandra) = &spec.cassandra else {
            problems.push(invalid(format!("{path}.sink.cassandra"), "the pipeline has no Cassandra; add spec.cassandra, or choose another sink"));
            return;
        };
        problems.extend(row_wise("a query into Cassandra"));
        if let Some(table) = cassandra.tables.iter().find(|table| table.name == sink.table) {
            problems.extend(fits(&table.name, &check_query::cassandra_columns(table)));
        }
    } else if let Some(sink) = &query.sink.mysql {
        let Some(mysql) = &spec.mysql else {
            problems.push(invalid(format!("{path}.sink.mysql"), "the pipeline has no MySQL; add spec.mysql, or choose another sink"));
            return;
        };
        if sink.mode == MySqlMode::Upsert {
            problems.extend(row_wise("a query with mode Upsert"));
        }
        if let Some(table) = mysql.tables.iter().find(|table| table.name == sink.table) {
            problems.extend(fits(&table.name, &check_query::mysql_columns(table)));
        } else if mysql.views.iter().any(|view| view.name == sink.table) {
            problems.push(invalid(format!("{path}.sink.mysql.table"), "it is a view, which takes no rows; name a table"));
        }
    }
}

pub(super) fn producers(spec: &TradingPipelineSpec, validated: &mut Validated) {
    for (index, producer) in spec.producers.iter().enumerate() {
        let mut problems = Vec::new();
        if let Some((path, symbols)) = symbols(index, producer) {
            check_symbols(spec, &path, symbols, &mut problems);
        }
        if problems.is_empty() {
            validated.producers.insert(producer.name.clone());
        }
        validated.problems.extend(problems.iter().cloned());
        validated.producer_problems.insert(producer.name.clone(), problems);
    }
}

/// Where a producer's symbols come from, and the path of that field.
fn symbols(index: usize, producer: &Producer) -> Option<(String, &SymbolsFrom)> {
    let source = &producer.source;
    let simulate = source.simulate.as_ref().map(|simulate| ("simulate", &simulate.symbols_from));
    let replay = || source.replay.as_ref().and_then(|replay| replay.symbols_from.as_ref()).map(|symbols| ("replay", symbols));
    let (kind, symbols) = simulate.or_else(replay)?;
    Some((format!("spec.producers[{index}].source.{kind}.symbolsFrom.mysql"), symbols))
}

fn check_symbols(spec: &TradingPipelineSpec, path: &str, symbols: &SymbolsFrom, problems: &mut Vec<Problem>) {
    let Some(mysql) = &spec.mysql else {
        problems.push(invalid(path.to_owned(), "the pipeline has no MySQL; add spec.mysql"));
        return;
    };
    let Some(table) = mysql.tables.iter().find(|table| table.name == symbols.mysql.table) else { return };
    for needed in ["ticker", "sector", "shares"] {
        if !table.columns.iter().any(|column| column.name.as_str() == needed) {
            let message = format!("table \"{}\" has no column \"{needed}\"; symbols need ticker, sector and shares", table.name);
            problems.push(invalid(format!("{path}.table"), message));
        }
    }
}
