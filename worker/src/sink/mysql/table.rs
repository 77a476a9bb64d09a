//! The table that a sink writes to, as it is: whether it serves, and the statement for it. The operator has looked at the tables that the pipeline declares; this may
//! be another one.

use sqlx::mysql::MySqlConnection;
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::queries::MySqlMode;
use tapeline_api::report::ProblemClass;
use tapeline_query::plan::{Merge, order_column};

use super::super::SinkError;
use super::Output;
use super::statement::{Insert, Merged, OnDuplicate};

/// A table.
#[derive(Debug, Default, Clone)]
pub(super) struct Table {
    /// None for a view.
    engine: Option<String>,
    columns: Vec<Column>,
    /// Its unique keys, the primary key as `PRIMARY`.
    unique: Vec<String>,
}

/// A column of it.
#[derive(Debug, Clone)]
struct Column {
    name: String,
    /// Whether it belongs to the primary key.
    is_key: bool,
    /// Of text.
    collation: Option<String>,
    /// In MySQL's words.
    type_text: String,
}

/// The type of the columns that mode Merge has beside those of the query.
const ORDER_TYPE: &str = "binary(24)";

/// Looks at the table. One that is not there has no columns.
pub(super) async fn describe(session: &mut MySqlConnection, database: &SqlName, table: &SqlName) -> Result<Table, sqlx::Error> {
    let engines = sqlx::query_scalar("SELECT CAST(ENGINE AS CHAR) FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?");
    let Some(engine) = engines.bind(database.as_str()).bind(table.as_str()).fetch_optional(&mut *session).await? else { return Ok(Table::default()) };
    let columns = sqlx::query_as(
        "SELECT CAST(COLUMN_NAME AS CHAR), COLUMN_KEY = 'PRI', CAST(COLLATION_NAME AS CHAR), CAST(COLUMN_TYPE AS CHAR) FROM \
         information_schema.COLUMNS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION",
    );
    let columns: Vec<(String, bool, Option<String>, String)> = columns.bind(database.as_str()).bind(table.as_str()).fetch_all(&mut *session).await?;
    let unique = sqlx::query_scalar(
        "SELECT DISTINCT CAST(INDEX_NAME AS CHAR) FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND NON_UNIQUE = 0",
    );
    let unique = unique.bind(database.as_str()).bind(table.as_str()).fetch_all(session).await?;
    let columns = columns.into_iter().map(|(name, is_key, collation, type_text)| Column { name, is_key, collation, type_text }).collect();
    Ok(Table { engine, columns, unique })
}

fn refused(text: String) -> SinkError {
    SinkError::fatal(ProblemClass::StoreRefuses, text)
}

fn missing(text: String) -> SinkError {
    SinkError::outage(ProblemClass::TableMissing, text)
}

impl Table {
    /// The statement that writes `output` into it.
    pub(super) fn insert(&self, name: &SqlName, mode: MySqlMode, output: &Output) -> Result<Insert, SinkError> {
        self.check(name, mode, output)?;
        let on_duplicate = match mode {
            MySqlMode::Append => OnDuplicate::Refuse,
            MySqlMode::Upsert => OnDuplicate::Overwrite { key: self.key().map(str::to_owned).collect() },
            MySqlMode::Merge => {
                self.check_merge(name, output)?;
                let merged = output.merged().map(|(column, kind)| {
                    let is_text = self.column(column).is_some_and(|column| column.collation.is_some());
                    Merged { name: column.to_owned(), kind, is_text }
                });
                OnDuplicate::Merge(merged.collect())
            }
        };
        Ok(Insert::new(name, &output.all(), on_duplicate))
    }

    fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    fn key(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().filter(|column| column.is_key).map(|column| column.name.as_str())
    }

    fn check(&self, name: &SqlName, mode: MySqlMode, output: &Output) -> Result<(), SinkError> {
        if self.columns.is_empty() {
            return Err(missing(format!("table \"{name}\" is not there: declare it under spec.mysql.tables, or create it")));
        }
        if let Some(column) = output.columns.iter().find(|column| self.column(column).is_none()) {
            return Err(missing(format!("table \"{name}\" has no column \"{column}\": add it to the table, or leave it out of the query")));
        }
        match self.engine.as_deref() {
            Some("InnoDB") => {}
            None => {
                return Err(refused(format!("table \"{name}\" is a view, of which nobody can tell whether it knows transactions: name the table behind it")));
            }
            // What a cut that fails has written would stay, and be written again.
            Some(engine) => {
                return Err(refused(format!(
                    "table \"{name}\" has the engine {engine}, which knows no transactions: run ALTER TABLE {} ENGINE=InnoDB and restart the query's pods, or use \
                     another table",
                    name.backticked()
                )));
            }
        }
        // ON DUPLICATE KEY UPDATE does not say which key: it would overwrite the row that has this one in common.
        if mode != MySqlMode::Append && self.unique.len() > 1 {
            let second = self.unique.iter().find(|key| *key != "PRIMARY").map_or("", String::as_str);
            return Err(refused(format!(
                "table \"{name}\" has a second unique key \"{second}\", by which mode {mode:?} may overwrite another row than the one meant: drop it or make it a \
                 plain index, and restart the query's pods, or use another table"
            )));
        }
        Ok(())
    }

    /// What merging needs: the groups are the primary key, texts that differ are different groups, and there are the order columns.
    fn check_merge(&self, name: &SqlName, output: &Output) -> Result<(), SinkError> {
        let mut groups: Vec<&str> = output.merged().filter(|(_, kind)| *kind == Merge::Key).map(|(column, _)| column).collect();
        let mut key: Vec<&str> = self.key().collect();
        let (shown_groups, shown_key) = (groups.join(", "), key.join(", "));
        groups.sort_unstable();
        key.sort_unstable();
        if groups != key {
            return Err(refused(format!(
                "table \"{name}\" has the primary key ({shown_key}), and the query groups by ({shown_groups}): mode Merge needs them to be the same columns"
            )));
        }
        // The other binary collations pad with spaces: 'a' and 'a ' are the same key.
        let folds = |collation: &String| collation != "utf8mb4_0900_bin" && collation != "binary";
        if let Some(column) = self.columns.iter().find(|column| column.is_key && column.collation.as_ref().is_some_and(folds)) {
            return Err(refused(format!(
                "column \"{}\" of the primary key of table \"{name}\" has the collation {}, by which texts that differ are one group: give it utf8mb4_0900_bin",
                column.name,
                column.collation.as_deref().unwrap_or_default()
            )));
        }
        for (column, _) in output.merged().filter(|(_, kind)| kind.has_order()) {
            let order = order_column(column);
            match self.column(&order) {
                Some(found) if found.type_text == ORDER_TYPE => {}
                Some(found) => {
                    return Err(refused(format!(
                        "column \"{order}\" of table \"{name}\" is {}, and mode Merge holds in it when the value in \"{column}\" was, as {ORDER_TYPE}: rename \
                         it, or the query's column",
                        found.type_text
                    )));
                }
                None => {
                    return Err(missing(format!(
                        "table \"{name}\" has no column \"{order}\", which holds when the value in \"{column}\" was: run ALTER TABLE {} ADD COLUMN `{order}` {ORDER_TYPE}",
                        name.backticked()
                    )));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn column(name: &str, is_key: bool) -> Column {
        let type_text = if name.ends_with("_order") { ORDER_TYPE } else { "bigint" };
        Column { name: name.to_owned(), is_key, collation: None, type_text: type_text.to_owned() }
    }

    fn table() -> Table {
        Table { engine: Some("InnoDB".to_owned()), columns: vec![column("id", true), column("name", false)], unique: vec!["PRIMARY".to_owned()] }
    }

    fn error(result: Result<Insert, SinkError>) -> (ProblemClass, String) {
        let Err(SinkError::Outage(problem) | SinkError::Fatal(problem)) = result else { unreachable!("it is not refused") };
        (problem.class, problem.message)
    }

    fn upsert_into(table: &Table) -> Result<Insert, SinkError> {
        table.insert(&"t".parse().unwrap(), MySqlMode::Upsert, &Output::of(&["id", "name"]))
    }

    #[rstest]
    #[case::missing(Table::default(), ProblemClass::TableMissing, "table \"t\" is not there: declare it under spec.mysql.tables, or create it")]
    #[case::column(Table { columns: vec![column("id", true)], ..table() }, ProblemClass::TableMissing, "table \"t\" has no column \"name\"")]
    #[case::engine(Table { engine: Some("MyISAM".to_owned()), ..table() }, ProblemClass::StoreRefuses, "the engine MyISAM, which knows no transactions: run ALTER TABLE `t`")]
    #[case::view(Table { engine: None, ..table() }, ProblemClass::StoreRefuses, "table \"t\" is a view")]
    #[case::second_key(Table { unique: vec!["PRIMARY".to_owned(), "by_name".to_owned()], ..table() }, ProblemClass::StoreRefuses, "a second unique key \"by_name\", by which mode Upsert")]
    fn a_table_that_does_not_serve_is_refused_with_a_remedy(#[case] table: Table, #[case] class: ProblemClass, #[case] message: &str) {
        let (found, text) = error(upsert_into(&table));
        assert_eq!(found, class);
        assert!(text.contains(message), "{text}");
    }

    #[test]
    fn one_unique_key_is_enough_for_upsert_and_append_takes_several() {
        assert!(upsert_into(&table()).is_ok());
        assert!(upsert_into(&Table { unique: vec!["by_id".to_owned()], ..table() }).is_ok(), "MySQL takes it for the primary key where there is none");
        let several = Table { unique: vec!["PRIMARY".to_owned(), "by_name".to_owned()], ..table() };
        assert!(several.insert(&"t".parse().unwrap(), MySqlMode::Append, &Output::of(&["id"])).is_ok());
    }

    fn candles() -> Output {
        Output { columns: vec!["id".to_owned(), "open".to_owned()], merge: vec![Merge::Key, Merge::First] }
    }

    #[rstest]
    #[case::good(vec![column("id", true), column("open", false), column("open_order", false)], "")]
    #[case::no_order(vec![column("id", true), column("open", false)], "no column \"open_order\", which holds when the value in \"open\" was: run ALTER TABLE `t`")]
    #[case::somebody_elses_order(
        vec![column("id", true), column("open", false), Column { type_text: "int".to_owned(), ..column("open_order", false) }],
        "column \"open_order\" of table \"t\" is int, and mode Merge holds in it when"
    )]
    #[case::another_key(vec![column("id", true), column("open", true), column("open_order", false)], "has the primary key (id, open), and the query groups by (id)")]
    #[case::folding(vec![Column { collation: Some("utf8mb4_0900_ai_ci".to_owned()), ..column("id", true) }, column("open", false), column("open_order", false)],
        "has the collation utf8mb4_0900_ai_ci, by which texts that differ are one group")]
    #[case::padding(vec![Column { collation: Some("utf8mb4_bin".to_owned()), ..column("id", true) }, column("open", false), column("open_order", false)],
        "has the collation utf8mb4_bin, by which texts that differ are one group")]
    #[case::exact(vec![Column { collation: Some("utf8mb4_0900_bin".to_owned()), ..column("id", true) }, column("open", false), column("open_order", false)], "")]
    fn what_merging_needs(#[case] columns: Vec<Column>, #[case] message: &str) {
        let result = Table { columns, ..table() }.insert(&"t".parse().unwrap(), MySqlMode::Merge, &candles());
        if message.is_empty() {
            assert!(result.is_ok());
        } else {
            let (_, text) = error(result);
            assert!(text.contains(message), "{text}");
        }
    }
}
