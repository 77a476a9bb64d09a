//! The recording `examples/data/stocks.csv.gz`, read by itself: what a test expects of it must not come from the producer that replays it.

use std::fs::File;

use anyhow::{Context as _, Result};
use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use crate::command::repository;

/// A symbol's day.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names say it")]
pub struct Bar {
    pub ticker: String,
    /// As `2000-03-01`.
    pub date: String,
    pub open: f64,
    pub high: f64,
    pub low: f64,
    pub close: f64,
    pub volume: i64,
}

/// All bars, in the file's order.
///
/// # Errors
/// The file is not there, or a line is no bar.
pub fn bars() -> Result<Vec<Bar>> {
    let path = repository().join("examples/data/stocks.csv.gz");
    let file = File::open(&path).with_context(|| path.display().to_string())?;
    let bars = csv::Reader::from_reader(MultiGzDecoder::new(file)).into_deserialize().collect::<Result<_, _>>();
    bars.with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::golden::{BARS, BY_TICKER, DAYS, MONTHS, Volumes, volumes};

    #[test]
    fn the_golden_numbers_are_those_of_the_file() {
        let bars = bars().unwrap();
        let mut sums = Volumes::new();
        for bar in &bars {
            *sums.entry(bar.ticker.clone()).or_default() += bar.volume;
        }
        assert_eq!(sums, volumes(&BY_TICKER));
        let days: BTreeSet<&str> = bars.iter().map(|bar| bar.date.as_str()).collect();
        let months: BTreeSet<(&str, &str)> = bars.iter().map(|bar| (bar.ticker.as_str(), &bar.date[..7])).collect();
        assert_eq!([bars.len() as u64, days.len() as u64, months.len() as u64], [BARS, DAYS, MONTHS]);
    }

    /// So a bar is the candle of its own four prices.
    #[test]
    fn no_bar_opens_or_closes_outside_of_its_range() {
        for bar in bars().unwrap() {
            assert!(bar.low <= bar.open.min(bar.close) && bar.high >= bar.open.max(bar.close), "{bar:?}");
        }
    }
}
