//! Recorded bars: a CSV file, gzipped or not, becomes days with the bars of each. First step of a replay; [`crate::split`] is the next.

use std::io::Read;
use std::sync::Arc;

use csv::StringRecord;
use flate2::read::MultiGzDecoder;
use jiff::civil::Date;

/// One symbol's trading day.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// The symbol.
    pub ticker: Arc<str>,
    /// The price of the first trade.
    pub open: f64,
    /// The highest price.
    pub high: f64,
    /// The lowest price.
    pub low: f64,
    /// The price of the last trade.
    pub close: f64,
    /// What was traded.
    pub volume: u64,
}

/// The bars of a date, ordered by ticker.
#[derive(Debug, Clone, PartialEq)]
pub struct Day {
    /// The date.
    pub date: Date,
    /// Its bars, at least one.
    pub bars: Vec<Bar>,
}

/// Why a file holds no bars. Says where, never what is there: it is shown in `/status`.
#[derive(Debug, thiserror::Error)]
pub enum BarsError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// The file is no CSV file, or a gzipped one that is cut off.
    #[error("line {line}: {reason}")]
    Csv {
        /// The line, from 1.
        line: u64,
        /// What the reader says.
        reason: String,
    },
    /// The header lacks a column.
    #[error("line 1 has no column {column}; needed are {}", COLUMNS.join(", "))]
    MissingColumn {
        /// The column.
        column: &'static str,
    },
    /// A field is not what its column needs.
    #[error("line {line}, column {column}: not {expected}")]
    Field {
        /// The line, from 1.
        line: u64,
        /// The column.
        column: &'static str,
        /// What should be there.
        expected: &'static str,
    },
    /// Nothing but a header.
    #[error("has no bars")]
    Empty,
}

const COLUMNS: [&str; 7] = ["Ticker", "Date", "Open", "High", "Low", "Close", "Volume"];
const GZIP: [u8; 2] = [0x1F, 0x8B];
/// A day's volume is a bigint wherever it goes.
const MAX_VOLUME: u64 = i64::MAX.unsigned_abs();
/// Up to here every whole number is exact as a double.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// The days of a file's content, in the order of dates.
pub fn parse(content: &[u8]) -> Result<Vec<Day>, BarsError> {
    // By its first bytes, not by its name: a key of a ConfigMap need not end in `.gz`.
    if content.starts_with(&GZIP) { parse_csv(MultiGzDecoder::new(content)) } else { parse_csv(content.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(content)) }
}

fn parse_csv(content: impl Read) -> Result<Vec<Day>, BarsError> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(content);
    let columns = Columns::find(reader.headers().map_err(|error| malformed(&error))?)?;
    let mut bars: Vec<(Date, Bar)> = Vec::new();
    let mut record = StringRecord::new();
    while reader.read_record(&mut record).map_err(|error| malformed(&error))? {
        let previous = bars.last().map(|(_, bar)| Arc::clone(&bar.ticker));
        bars.push(columns.bar(&record, previous)?);
    }
    // Stable: two bars of one symbol and date stay in the file's order.
    bars.sort_by(|(date, bar), (other, another)| (date, &bar.ticker).cmp(&(other, &another.ticker)));
    let mut days: Vec<Day> = Vec::new();
    for (date, bar) in bars {
        match days.last_mut() {
            Some(day) if day.date == date => day.bars.push(bar),
            _ => days.push(Day { date, bars: vec![bar] }),
        }
    }
    if days.is_empty() { Err(BarsError::Empty) } else { Ok(days) }
}

/// Where each column of [`COLUMNS`] is.
struct Columns([usize; 7]);

impl Columns {
    fn find(header: &StringRecord) -> Result<Self, BarsError> {
        let mut places = [0; 7];
        for (place, column) in places.iter_mut().zip(COLUMNS) {
            *place = header.iter().position(|name| name.eq_ignore_ascii_case(column)).ok_or(BarsError::MissingColumn { column })?;
        }
        Ok(Self(places))
    }

    fn bar(&self, record: &StringRecord, previous: Option<Arc<str>>) -> Result<(Date, Bar), BarsError> {
        let [ticker, date, open, high, low, close, volume] = self.0;
        let line = record.position().map_or(0, csv::Position::line);
        let wrong = |column, expected| BarsError::Field { line, column, expected };
        let text = |place| record.get(place).unwrap_or("");
        let price = |place, column| {
            text(place).parse().ok().filter(|price: &f64| price.is_finite() && *price >= 0.0).ok_or_else(|| wrong(column, "a price, such as 118.56"))
        };
        let name = Some(text(ticker)).filter(|name| !name.is_empty()).ok_or_else(|| wrong("Ticker", "a symbol"))?;
        let bar = Bar {
            // Files are mostly ordered by symbol: one allocation for all its bars.
            ticker: previous.filter(|previous| **previous == *name).unwrap_or_else(|| name.into()),
            open: price(open, "Open")?,
            high: price(high, "High")?,
            low: price(low, "Low")?,
            close: price(close, "Close")?,
            volume: whole(text(volume)).ok_or_else(|| wrong("Volume", "a whole number, 0 or more"))?,
        };
        let date = Date::strptime("%Y-%m-%d", text(date)).map_err(|_| wrong("Date", "a date, such as 2000-03-01"))?;
        Ok((date, bar))
    }
}

/// A whole number, also as `9616100.0`, which is how pandas writes it.
fn whole(text: &str) -> Option<u64> {
    if let Ok(number) = text.parse::<u64>() {
        return Some(number).filter(|&number| number <= MAX_VOLUME);
    }
    let (number, fraction) = text.split_once('.')?;
    let exact = text.parse::<f64>().is_ok_and(|value| (0.0..=MAX_EXACT).contains(&value));
    if exact && fraction.bytes().all(|digit| digit == b'0') { number.parse().ok() } else { None }
}

fn malformed(error: &csv::Error) -> BarsError {
    let line = error.position().map_or(1, csv::Position::line);
    let reason = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => format!("{len} fields instead of {expected_len}"),
        csv::ErrorKind::Utf8 { .. } => "not UTF-8".to_owned(),
        csv::ErrorKind::Io(error) => error.to_string(),
        _ => "not CSV".to_owned(),
    };
    BarsError::Csv { line, reason }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use rstest::rstest;

    use super::*;

    const FILE: &str =
        "Ticker,Date,Open,High,Low,Close,Volume,Adj Close\nMSFT,2000-03-02,1,4,0.5,2,100,9\nIBM,2000-03-02,1,4,0.5,2,7.0,9\nMSFT,2000-03-01,1,4,0.5,2,3,9\n";

    #[test]
    fn days_come_in_order_and_their_bars_by_ticker() {
        let days = parse(FILE.as_bytes()).unwrap();
        let seen: Vec<_> = days.iter().map(|day| (day.date.to_string(), day.bars.iter().map(|bar| (&*bar.ticker, bar.volume)).collect::<Vec<_>>())).collect();
        assert_eq!(seen, [("2000-03-01".to_owned(), vec![("MSFT", 3)]), ("2000-03-02".to_owned(), vec![("IBM", 7), ("MSFT", 100)])]);
    }

    #[test]
    fn a_gzipped_file_is_read_whatever_its_name() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(FILE.as_bytes()).unwrap();
        let gzip = gzip.finish().unwrap();
        assert_eq!(parse(&gzip).unwrap(), parse(FILE.as_bytes()).unwrap());
        let error = parse(gzip.get(..gzip.len() - 12).unwrap()).unwrap_err().to_string();
        assert!(error.starts_with("line "), "{error}");
    }

    #[rstest]
    #[case::missing_column("Ticker,Date,Open,High,Low,Close\n", "line 1 has no column Volume; needed are Ticker, Date, Open, High, Low, Close, Volume")]
    #[case::no_rows("ticker,date,open,high,low,close,volume\n", "has no bars")]
    #[case::empty("", "line 1 has no column Ticker; needed are Ticker, Date, Open, High, Low, Close, Volume")]
    #[case::price(
        "Ticker,Date,Open,High,Low,Close,Volume\nA,2000-01-01,1,1,1,1,1\nA,2000-01-02,1,x,1,1,1\n",
        "line 3, column High: not a price, such as 118.56"
    )]
    #[case::infinite("Ticker,Date,Open,High,Low,Close,Volume\nA,2000-01-01,1,1,inf,1,1\n", "line 2, column Low: not a price, such as 118.56")]
    #[case::volume("Ticker,Date,Open,High,Low,Close,Volume\nA,2000-01-01,1,1,1,1,-5\n", "line 2, column Volume: not a whole number, 0 or more")]
    #[case::fraction("Ticker,Date,Open,High,Low,Close,Volume\nA,2000-01-01,1,1,1,1,5.5\n", "line 2, column Volume: not a whole number, 0 or more")]
    #[case::too_large(
        "Ticker,Date,Open,High,Low,Close,Volume\nA,2000-01-01,1,1,1,1,9223372036854775808\n",
        "line 2, column Volume: not a whole number, 0 or more"
    )]
    #[case::date("Ticker,Date,Open,High,Low,Close,Volume\nA,01.02.2000,1,1,1,1,5\n", "line 2, column Date: not a date, such as 2000-03-01")]
    #[case::ticker("Ticker,Date,Open,High,Low,Close,Volume\n,2000-01-01,1,1,1,1,5\n", "line 2, column Ticker: not a symbol")]
    #[case::short_line("Ticker,Date,Open,High,Low,Close,Volume\nA,2000-01-01,1\n", "line 2: 3 fields instead of 7")]
    fn what_is_wrong_is_said_with_line_and_column(#[case] file: &str, #[case] message: &str) {
        assert_eq!(parse(file.as_bytes()).unwrap_err().to_string(), message);
    }

    #[test]
    fn the_example_has_the_volumes_that_its_readme_says() {
        let days = parse(include_bytes!("../../examples/data/stocks.csv.gz")).unwrap();
        let volume = |ticker: &str| days.iter().flat_map(|day| &day.bars).filter(|bar| &*bar.ticker == ticker).map(|bar| bar.volume).sum::<u64>();
        assert_eq!(days.len(), 3270);
        assert_eq!(days.iter().map(|day| day.bars.len()).sum::<usize>(), 12_154);
        assert_eq!(["AAPL", "FB", "GOOG", "IBM", "MSFT"].map(volume), [60_894_142_600, 11_158_019_000, 23_689_091_800, 22_882_631_500, 191_267_108_750]);
    }
}
