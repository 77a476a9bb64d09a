//! Conditions from problems. Pure. What each situation looks like is the table of the tests; Helm 4 fails at once and for good on Stalled (probed), so only
//! what nobody but the author can cure is Stalled.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::writer::now;
use crate::reason::{Area, Cure, Problem, Reason};

/// How much of a list of problems a message holds.
const MAX_MESSAGE: usize = 1_500;

/// A pipeline as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Everything that is wrong, the worst first.
    pub problems: Vec<Problem>,
    /// What looks wrong, though everything runs.
    pub notices: Vec<Problem>,
    /// Items whose pods do not answer, if any.
    pub unread: Option<Problem>,
    /// Whether it is suspended and all pods are gone.
    pub suspended: bool,
}

/// The status of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Is {
    True,
    False,
    Unknown,
}

impl Is {
    const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// A condition without its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The condition's type.
    pub type_: &'static str,
    /// Its status.
    pub is: Is,
    /// Its reason.
    pub reason: Reason,
    /// Its message.
    pub message: String,
}

impl Said {
    fn new(type_: &'static str, is: Is, reason: Reason, message: impl Into<String>) -> Self {
        Self { type_, is, reason, message: message.into() }
    }
}

/// What looks wrong, though everything runs: no part of Ready, which whoever waits for it would otherwise never see.
pub const DEGRADED: &str = "Degraded";

/// Ready, Reconciling, Stalled, one for each of `areas`, and Degraded.
#[must_use]
pub fn conditions(health: &Health, areas: &[Area]) -> Vec<Said> {
    let worst = health.problems.iter().min_by_key(|problem| (problem.cure, problem.reason));
    let all = list(health.problems.iter());
    let (ready, reconciling, stalled) = match worst {
        Some(problem) if problem.cure == Cure::Change => {
            ((Is::False, problem.reason, all.clone()), (Is::False, Reason::Settled, String::new()), (Is::True, problem.reason, all))
        }
        Some(problem) => ((Is::False, problem.reason, all.clone()), (Is::True, problem.reason, all), not_stalled()),
        None if health.unread.is_some() => {
            let message = health.unread.as_ref().map(ToString::to_string).unwrap_or_default();
            ((Is::Unknown, Reason::StatusUnreachable, message.clone()), (Is::True, Reason::StatusUnreachable, message), not_stalled())
        }
        None if health.suspended => {
            let message = "suspended; no query and no producer runs, progress is kept".to_owned();
            ((Is::True, Reason::Suspended, message), (Is::False, Reason::Settled, String::new()), not_stalled())
        }
        None => {
            let message = "everything is as declared and runs".to_owned();
            ((Is::True, Reason::Ready, message), (Is::False, Reason::Settled, String::new()), not_stalled())
        }
    };
    let mut said = vec![of("Ready", ready), of("Reconciling", reconciling), of("Stalled", stalled)];
    said.extend(areas.iter().map(|area| area_condition(*area, health)));
    said.push(match health.notices.iter().min_by_key(|notice| notice.reason) {
        Some(first) => Said::new(DEGRADED, Is::True, first.reason, list(health.notices.iter())),
        None => Said::new(DEGRADED, Is::False, Reason::Settled, ""),
    });
    said
}

fn not_stalled() -> (Is, Reason, String) {
    (Is::False, Reason::NotStalled, String::new())
}

fn of(type_: &'static str, (is, reason, message): (Is, Reason, String)) -> Said {
    Said::new(type_, is, reason, message)
}

fn area_condition(area: Area, health: &Health) -> Said {
    let type_ = type_of(area);
    let own: Vec<&Problem> = health.problems.iter().filter(|problem| problem.area == area).collect();
    match own.iter().min_by_key(|problem| (problem.cure, problem.reason)) {
        Some(worst) => Said::new(type_, Is::False, worst.reason, list(own.iter().copied())),
        None if area == Area::Workers && health.unread.is_some() => {
            Said::new(type_, Is::Unknown, Reason::StatusUnreachable, health.unread.as_ref().map(ToString::to_string).unwrap_or_default())
        }
        None if area == Area::Workers && health.suspended => Said::new(type_, Is::True, Reason::Suspended, ""),
        None => Said::new(type_, Is::True, Reason::Ready, ""),
    }
}

/// The condition that speaks of an area.
#[must_use]
pub const fn type_of(area: Area) -> &'static str {
    match area {
        Area::Topics => "TopicsReady",
        Area::Cassandra => "CassandraReady",
        Area::MySql => "MySQLReady",
        Area::MongoDb => "MongoDBReady",
        Area::Workers => "WorkersReady",
        Area::Dashboard => "DashboardReady",
    }
}

/// The problems, the worst first, as far as they fit.
fn list<'a>(problems: impl Iterator<Item = &'a Problem>) -> String {
    let mut problems: Vec<&Problem> = problems.collect();
    problems.sort_by_key(|problem| (problem.cure, problem.reason));
    let mut message = String::new();
    for (index, problem) in problems.iter().enumerate() {
        let text = problem.to_string();
        if index > 0 && message.len() + text.len() > MAX_MESSAGE {
            return format!("{message}; and {} more", problems.len() - index);
        }
        if index > 0 {
            message.push_str("; ");
        }
        message.push_str(&cut(&text));
    }
    message
}

/// A single text that is too long, cut at a character.
fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_MESSAGE) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// What is said, as conditions: the time moves only with the status.
#[must_use]
pub fn with_times(said: Vec<Said>, known: &[Condition], generation: i64) -> Vec<Condition> {
    said.into_iter()
        .map(|said| {
            let before = known.iter().find(|condition| condition.type_ == said.type_ && condition.status == said.is.as_str());
            Condition {
                type_: said.type_.to_owned(),
                status: said.is.as_str().to_owned(),
                reason: said.reason.to_string(),
                message: said.message,
                last_transition_time: before.map_or_else(now, |condition| condition.last_transition_time.clone()),
                observed_generation: Some(generation),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn problem(cure: Cure, reason: Reason) -> Problem {
        Problem { area: Area::Workers, reason, cure, field: "spec.queries[0]".into(), message: format!("{reason} happened") }
    }

    fn health(problems: Vec<Problem>) -> Health {
        Health { problems, notices: Vec::new(), unread: None, suspended: false }
    }

    /// The table of rule 6.
    #[rstest]
    #[case::all_is_well(health(vec![]), (Is::True, Reason::Ready), Is::False, Is::False)]
    #[case::rolling_out(health(vec![problem(Cure::Progress, Reason::Progressing)]), (Is::False, Reason::Progressing), Is::True, Is::False)]
    #[case::secret_missing(health(vec![problem(Cure::Waiting, Reason::SecretMissing)]), (Is::False, Reason::SecretMissing), Is::True, Is::False)]
    #[case::bad_sql(health(vec![problem(Cure::Change, Reason::InvalidSQL)]), (Is::False, Reason::InvalidSQL), Is::False, Is::True)]
    #[case::bad_sql_and_a_dead_server(
        health(vec![problem(Cure::Waiting, Reason::KafkaUnreachable), problem(Cure::Change, Reason::InvalidSQL)]), (Is::False, Reason::InvalidSQL), Is::False, Is::True)]
    #[case::unread(Health { unread: Some(problem(Cure::Waiting, Reason::StatusUnreachable)), ..health(vec![]) }, (Is::Unknown, Reason::StatusUnreachable), Is::True, Is::False)]
    #[case::suspended(Health { suspended: true, ..health(vec![]) }, (Is::True, Reason::Suspended), Is::False, Is::False)]
    fn what_each_situation_looks_like(#[case] health: Health, #[case] ready: (Is, Reason), #[case] reconciling: Is, #[case] stalled: Is) {
        let said = conditions(&health, &[]);
        assert_eq!((said[0].is, said[0].reason), ready);
        assert_eq!((said[1].type_, said[1].is), ("Reconciling", reconciling));
        assert_eq!((said[2].type_, said[2].is), ("Stalled", stalled));
    }

    #[test]
    fn a_problem_concerns_its_own_area() {
        let said = conditions(&health(vec![problem(Cure::Waiting, Reason::QueryFailed)]), &[Area::Topics, Area::Workers]);
        assert_eq!((said[3].type_, said[3].is), ("TopicsReady", Is::True));
        assert_eq!((said[4].type_, said[4].is), ("WorkersReady", Is::False));
        assert_eq!(said[4].message, "spec.queries[0]: QueryFailed happened");
    }

    #[test]
    fn what_only_looks_wrong_is_degraded_and_ready_all_the_same() {
        let good = conditions(&health(vec![]), &[Area::Workers]);
        assert_eq!((good[4].type_, good[4].is, good[4].reason), (DEGRADED, Is::False, Reason::Settled));
        let said = conditions(&Health { notices: vec![problem(Cure::Waiting, Reason::FieldNeverSeen)], ..health(vec![]) }, &[Area::Workers]);
        assert_eq!((said[0].is, said[3].is), (Is::True, Is::True));
        assert_eq!((said[4].is, said[4].reason, said[4].message.as_str()), (Is::True, Reason::FieldNeverSeen, "spec.queries[0]: FieldNeverSeen happened"));
    }

    #[test]
    fn long_lists_are_cut() {
        let problems = (0..100).map(|_| problem(Cure::Waiting, Reason::TableMissing)).collect();
        let message = conditions(&health(problems), &[])[0].message.clone();
        assert!(message.len() < MAX_MESSAGE + 50 && message.contains("; and ") && message.ends_with(" more"), "{message}");
    }

    #[test]
    fn the_time_moves_with_the_status_only() {
        let first = with_times(conditions(&health(vec![problem(Cure::Waiting, Reason::SecretMissing)]), &[]), &[], 1);
        let mut old = first.clone();
        for condition in &mut old {
            condition.last_transition_time.0 = "2020-01-01T00:00:00Z".parse().unwrap();
        }
        let same = with_times(conditions(&health(vec![problem(Cure::Waiting, Reason::TopicMissing)]), &[]), &old, 2);
        assert_eq!(same[0].last_transition_time, old[0].last_transition_time);
        let other = with_times(conditions(&health(vec![]), &[]), &old, 2);
        assert_ne!(other[0].last_transition_time, old[0].last_transition_time);
    }
}
