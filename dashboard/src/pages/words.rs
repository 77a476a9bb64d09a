//! Numbers and times as people read them.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What does not have to be escaped in a part of an address.
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The day, in UTC, as that is the day of `UTC_DATE()` in views.
#[must_use]
pub fn today() -> String {
    Timestamp::now().to_zoned(TimeZone::UTC).strftime("%A, %-d %B %Y").to_string()
}

/// `key=value&..`, escaped.
#[must_use]
pub fn query_string(pairs: impl Iterator<Item = (String, String)>) -> String {
    pairs.map(|(key, value)| format!("{}={}", part(&key), part(&value))).collect::<Vec<_>>().join("&")
}

/// A part of an address, escaped.
#[must_use]
pub fn part(text: &str) -> String {
    utf8_percent_encode(text, PART).to_string()
}

/// A whole number with thin gaps: `12 345`.
#[must_use]
pub fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    format!("{}{}", if number < 0 { "\u{2212}" } else { "" }, groups.join("\u{202f}"))
}

/// A rate, with so many digits as matter.
#[must_use]
pub fn rate(number: f64) -> String {
    #[allow(clippy::cast_possible_truncation, reason = "`as` saturates")]
    if number >= 10.0 || number == 0.0 { grouped(number.round() as i64) } else { format!("{number:.1}") }
}

/// Milliseconds: `12 ms`, `1.2 s`, `3 min`.
#[must_use]
pub fn millis(millis: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "one digit behind the point")]
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..60_000 => format!("{:.1} s", millis as f64 / 1_000.0),
        _ => seconds(i64::try_from(millis / 1_000).unwrap_or(i64::MAX)),
    }
}

/// Seconds: `12 s`, `3 min 5 s`, `2 h 3 min`, `4 d 5 h`.
#[must_use]
pub fn seconds(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3_600 => format!("{minutes} min {} s", seconds % 60),
        3_600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// A time as a machine reads it, for `<time datetime>`.
#[must_use]
pub fn machine(millis: i64) -> String {
    Timestamp::from_millisecond(millis).map_or_else(|_| String::new(), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// A time as a person reads it, in UTC.
#[must_use]
pub fn person(millis: i64) -> String {
    Timestamp::from_millisecond(millis).map_or_else(|_| String::new(), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1_000, -12_345, 1_234_567].map(grouped), ["0", "999", "1\u{202f}000", "\u{2212}12\u{202f}345", "1\u{202f}234\u{202f}567"]);
    }

    #[test]
    fn rates_and_durations_have_the_digits_that_matter() {
        assert_eq!([0.0, 0.25, 9.96, 10.4, 1234.5].map(rate), ["0", "0.2", "10.0", "10", "1\u{202f}235"]);
        assert_eq!([7, 1_250, 61_000].map(millis), ["7 ms", "1.2 s", "1 min 1 s"]);
        assert_eq!([0, 59, 3_725, 90_000].map(seconds), ["0 s", "59 s", "1 h 2 min", "1 d 1 h"]);
    }

    #[test]
    fn times_are_utc() {
        assert_eq!((machine(1_724_569_485_123), person(1_724_569_485_123)), ("2024-08-25T07:04:45Z".into(), "2024-08-25 07:04:45".into()));
    }
}
