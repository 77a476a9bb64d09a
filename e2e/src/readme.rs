//! The README of an example as a script: what it says to run, what it says to look at and what is then to be seen. It is read from the file that users read, so what
//! CI proves is what they are told.

use anyhow::{Context as _, Result, bail, ensure};

/// Something that a README says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Run these commands (` ```sh run `).
    Run(String),
    /// Let this run beside the rest (` ```sh server `).
    Server(String),
    /// Look with this, until it shows what stands in the ` ```text ` that follows.
    Look(Look, String),
    /// Remove what was applied (` ```sh delete `).
    Delete(String),
}

/// How to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Commands (` ```sh look `).
    Shell(String),
    /// SQL (` ```sql mysql `).
    MySql(String),
    /// CQL, in the Cassandra without users (` ```sql cassandra `).
    Cassandra(String),
    /// CQL, in that with users (` ```sql cassandra-auth `).
    CassandraAuth(String),
    /// An expression of mongosh (` ```js mongo `).
    Mongo(String),
    /// A call of kcat (` ```sh kcat `).
    Kcat(String),
}

/// The steps of a README, in order. Other blocks are for people.
///
/// # Errors
/// A block is not closed, something to look at is not followed by what is to be seen, or the other way round.
pub fn steps(markdown: &str) -> Result<Vec<Step>> {
    let (mut steps, mut look): (Vec<Step>, Option<Look>) = (Vec::new(), None);
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else { continue };
        let mut block = Vec::new();
        loop {
            match lines.next().with_context(|| format!("the block ```{kind} is not closed"))? {
                "```" => break,
                line => block.push(line),
            }
        }
        let text = block.join("\n");
        if kind == "text" {
            let look = look.take().with_context(|| format!("nothing says how to see\n{text}"))?;
            steps.push(Step::Look(look, text));
            continue;
        }
        ensure!(look.is_none(), "it is not said what is to be seen with {look:?}");
        match kind {
            "sh run" => steps.push(Step::Run(text)),
            "sh server" => steps.push(Step::Server(text)),
            "sh delete" => steps.push(Step::Delete(text)),
            "sh look" => look = Some(Look::Shell(text)),
            "sql mysql" => look = Some(Look::MySql(text)),
            "sql cassandra" => look = Some(Look::Cassandra(text)),
            "sql cassandra-auth" => look = Some(Look::CassandraAuth(text)),
            "js mongo" => look = Some(Look::Mongo(text)),
            "sh kcat" => look = Some(Look::Kcat(text)),
            "sh" | "sql" | "yaml" => {}
            other => bail!("unknown kind of block: ```{other}"),
        }
    }
    ensure!(look.is_none(), "it is not said what is to be seen with {look:?}");
    Ok(steps)
}

/// The cells of a table as MySQL's or Cassandra's shell prints it, the header first.
#[must_use]
pub fn cells(table: &str) -> Vec<Vec<String>> {
    let is_border = |line: &str| line.chars().all(|c| "+-".contains(c));
    let rows = table.lines().map(str::trim).filter(|line| !line.is_empty() && !is_border(line));
    rows.map(|row| {
        // Cassandra's shell draws no lines at the sides, and the last cell may be empty.
        let inner = row.strip_prefix('|').and_then(|row| row.strip_suffix('|')).unwrap_or(row);
        inner.split('|').map(|cell| cell.trim().to_owned()).collect()
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_come_in_order_and_other_blocks_are_for_people() {
        let text = "# A\n```sh run\nkubectl apply\nkubectl wait\n```\n```sh\nnot run\n```\nlook:\n```sql mysql\nSELECT 1;\n```\n```text\n1\n```\n```sh delete\nrm\n```\n";
        let look = Step::Look(Look::MySql("SELECT 1;".to_owned()), "1".to_owned());
        assert_eq!(steps(text).unwrap(), [Step::Run("kubectl apply\nkubectl wait".to_owned()), look, Step::Delete("rm".to_owned())]);
    }

    #[test]
    fn what_does_not_fit_together_is_an_error() {
        for (text, error) in [
            ("```sh run\n", "the block ```sh run is not closed"),
            ("```text\n1\n```", "nothing says how to see\n1"),
            ("```sql mysql\nSELECT 1\n```", "it is not said what is to be seen with"),
            ("```sql mysql\nSELECT 1\n```\n```sh run\nx\n```", "it is not said what is to be seen with"),
            ("```sql msql\nSELECT 1\n```", "unknown kind of block: ```sql msql"),
        ] {
            assert!(steps(text).unwrap_err().to_string().starts_with(error), "{text}");
        }
    }

    #[test]
    fn tables_of_both_shells_are_read() {
        let expected = vec![vec!["a", "b"], vec!["1", ""]];
        assert_eq!(cells("+---+---+\n| a | b |\n+---+---+\n| 1 |   |\n+---+---+"), expected);
        assert_eq!(cells(" a | b\n---+---\n 1 | \n"), expected);
        assert_eq!(cells(" count\n-------\n 4"), vec![vec!["count"], vec!["4"]]);
    }
}
