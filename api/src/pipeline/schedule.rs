//! `spec.producers[].schedule`: a producer that runs now and then instead of all the time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::{GoDuration, between};

/// When a producer runs. It is a CronJob `<pipeline>-producer-<name>` then, each of whose runs ends when everything is sent and acknowledged. Two runs never
/// overlap: one that is due while another is under way is left out, one that is started by hand (`kubectl create job --from=cronjob/..`) waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Schedule {
    /// Minute, hour, day of the month, month and day of the week as Kubernetes takes them (`*/5 * * * *`, `30 6 * * MON-FRI`), or `@hourly`, `@daily`, `@weekly`,
    /// `@monthly`, `@yearly`, `@every 90m`.
    #[schemars(length(min = 1, max = 200))]
    pub cron: String,
    /// The time zone of `cron`, such as Europe/Berlin.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 100))]
    pub time_zone: String,
    /// How long a run may take. One that is not done by then, as a broker or server is away, fails and says what it waited for.
    #[serde(default = "ten_minutes")]
    #[schemars(extend("x-kubernetes-validations" = between("10s", "720h")))]
    pub time_limit: GoDuration,
}

fn utc() -> String {
    "Etc/UTC".to_owned()
}

#[allow(clippy::expect_used, reason = "a constant that the test below parses")]
fn ten_minutes() -> GoDuration {
    "10m".parse().expect("a constant duration")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_schedule_needs_no_more_than_its_times() {
        let schedule: Schedule = serde_json::from_value(serde_json::json!({"cron": "@hourly"})).unwrap();
        assert_eq!((schedule.time_zone.as_str(), schedule.time_limit.get()), ("Etc/UTC", Duration::from_secs(600)));
    }
}
