//! A stream's schema and SQL to a checked plan; JSON messages to record batches; one micro-batch. No network: the operator uses it to check a pipeline before
//! anything runs, the worker to run it, so both say the same of the same SQL.
//!
//! The flow: [`schema`] says which columns a stream has, [`decode`] turns messages into batches of them, [`plan`] checks SQL over them and runs it, batch by
//! batch, and [`sink`] compares what comes out with the columns of a table.

pub mod decode;
mod functions;
pub mod plan;
pub mod record_uuid;
pub mod schema;
pub mod sink;

/// Turns an error of the engine into one line without its backtrace.
pub(crate) fn one_line(error: &datafusion::error::DataFusionError) -> String {
    let text = match error {
        datafusion::error::DataFusionError::SQL(parser_error, _) => parser_error.to_string(), // its own text wraps this one in `ParserError(..)`
        other => other.strip_backtrace(),
    };
    text.lines().next().unwrap_or_default().trim_start_matches("Error during planning: ").trim_start_matches("SQL error: ").to_owned()
}

/// The name of `candidates` that was probably meant by `name`, if one is near.
#[must_use]
pub fn near_miss<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|&(distance, candidate)| distance <= 1 + candidate.len() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

/// ` ; did you mean "x"?`, or nothing.
#[must_use]
pub fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    near_miss(name, candidates).map(|candidate| format!("; did you mean \"{candidate}\"?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses() {
        assert_eq!(near_miss("sectr", ["sector", "ticker"]), Some("sector"));
        assert_eq!(near_miss("colour", ["sector", "ticker"]), None);
    }
}
