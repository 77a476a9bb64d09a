//! The search for the rows that MySQL refuses for their content, by halving.

use sqlx::Executor;
use sqlx::mysql::MySqlConnection;
use tokio::time::timeout;

use super::session::{STATEMENT, in_time, late, refused_words};
use super::statement::together;
use super::transaction::{Failure, Work, insert};

/// With more refused rows than this, and more than half of those looked at, the search ends with what it has: each takes a statement or two, and so many mean
/// that the table does not fit the query, which the engine says.
const ENOUGH: usize = 1_000;

/// Finds refused rows, by their place in the pending rows, and why they are refused. Nothing stays written. Each statement has its own time limit: there are as
/// many as rows in the worst case.
pub(super) async fn find(session: &mut MySqlConnection, work: &Work) -> Result<Vec<(usize, String)>, Failure> {
    let rows = together(&work.rows).map_err(|error| Failure::Internal(error.to_string()))?;
    let mut search = Search::new(rows.num_rows(), work.insert.rows_per_statement());
    in_time(STATEMENT, session.execute("START TRANSACTION")).await.map_err(Failure::Other)?;
    while let Some((from, to)) = search.pick() {
        // A statement that fails is undone by itself, so no savepoint is needed.
        match timeout(STATEMENT, insert(session, &work.insert, &rows, from, to)).await {
            Ok(Ok(())) => search.accepted(from, to),
            Ok(Err(Failure::Other(error))) => match refused_words(&error) {
                Some(words) => search.refused(from, to, words),
                None => return Err(Failure::Other(error)),
            },
            Ok(Err(failure)) => return Err(failure),
            Err(_elapsed) => return Err(Failure::Other(late())),
        }
    }
    in_time(STATEMENT, session.execute("ROLLBACK")).await.map_err(Failure::Other)?;
    Ok(search.found)
}

/// What is still to be looked at, and what was found.
struct Search {
    /// The next one last.
    ranges: Vec<(usize, usize)>,
    found: Vec<(usize, String)>,
    accepted: usize,
}

impl Search {
    fn new(rows: usize, step: usize) -> Self {
        let ranges = (0..rows).step_by(step).rev().map(|from| (from, (from + step).min(rows))).collect();
        Self { ranges, found: Vec::new(), accepted: 0 }
    }

    /// The rows of the next statement.
    fn pick(&mut self) -> Option<(usize, usize)> {
        let is_enough = self.found.len() > ENOUGH && self.found.len() > self.accepted;
        if is_enough { None } else { self.ranges.pop() }
    }

    const fn accepted(&mut self, from: usize, to: usize) {
        self.accepted += to - from;
    }

    fn refused(&mut self, from: usize, to: usize, words: String) {
        if to - from == 1 {
            self.found.push((from, words));
        } else {
            let middle = from.midpoint(to);
            self.ranges.extend([(middle, to), (from, middle)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// Places found among `rows`, and statements that it took.
    fn search(rows: usize, is_bad: impl Fn(usize) -> bool) -> (Vec<usize>, usize) {
        let mut search = Search::new(rows, 1_000);
        let mut statements = 0;
        while let Some((from, to)) = search.pick() {
            statements += 1;
            if (from..to).any(&is_bad) { search.refused(from, to, String::new()) } else { search.accepted(from, to) }
        }
        (search.found.into_iter().map(|(place, _)| place).collect(), statements)
    }

    #[rstest]
    #[case::none(&[])]
    #[case::first_and_last(&[0, 2_499])]
    #[case::neighbours(&[999, 1_000, 1_001])]
    fn the_refused_rows_are_found_in_order(#[case] bad: &[usize]) {
        assert_eq!(search(2_500, |place| bad.contains(&place)).0, bad);
    }

    #[test]
    fn where_most_rows_are_refused_the_search_ends_early() {
        let (found, statements) = search(100_000, |_| true);
        assert_eq!(found, (0..=ENOUGH).collect::<Vec<_>>());
        assert!(statements < 3 * ENOUGH, "{statements} statements");
    }

    #[test]
    fn many_refused_rows_among_more_good_ones_are_all_found() {
        assert_eq!(search(20_000, |place| place % 5 == 0).0.len(), 4_000);
    }
}
