//! Reference data: loaded before the first record is read, and again on an interval while micro-batches go on. A load that fails keeps the last good one and says so.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, StringBuilder};
use arrow::compute::{CastOptions, cast_with_options};
use backon::{BackoffBuilder, ExponentialBuilder};
use futures::TryStreamExt;
use sqlx::mysql::{MySqlConnection, MySqlRow};
use sqlx::{AssertSqlSafe, Row};
use tapeline_api::names::SqlName;
use tapeline_api::report::{Problem, ProblemClass};
use tapeline_api::settings::ReferenceSettings;
use tapeline_query::plan::{CheckedQuery, reference_schema};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::consumer::Urgent;
use crate::settings::Credentials;
use crate::sink::SinkError;
use crate::sink::mysql::session::{classify, connect};
use crate::status::{Status, Who};

/// Bytes that a reference may have: its text, and what each value takes beside it, a null too.
const MOST: usize = 64 << 20;
const VALUE: usize = 16;
/// A load may take this long.
const LOAD: Duration = Duration::from_secs(60);
/// Waiting for the first load: from the first to the longest pause.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// The references of one query.
pub struct References {
    settings: Vec<ReferenceSettings>,
    credentials: Credentials,
    query: CheckedQuery,
    status: Arc<Status>,
}

impl References {
    /// Those that `query` joins.
    #[must_use]
    pub const fn new(settings: Vec<ReferenceSettings>, credentials: Credentials, query: CheckedQuery, status: Arc<Status>) -> Self {
        Self { settings, credentials, query, status }
    }

    /// Loads all of them, waiting for as long as it takes. False: the process is to end before that.
    pub async fn load(&self, mut stopping: watch::Receiver<Urgent>) -> bool {
        tokio::select! {
            () = self.load_all() => true,
            _ = stopping.wait_for(Option::is_some) => false,
        }
    }

    async fn load_all(&self) {
        for reference in &self.settings {
            let mut pauses = ExponentialBuilder::new().with_min_delay(BACKOFF.0).with_max_delay(BACKOFF.1).without_max_times().build();
            while let Err(problem) = self.load_one(reference).await {
                tracing::warn!(class = %problem.class, "{}", problem.message);
                self.status.waiting(Who::References, problem);
                tokio::time::sleep(pauses.next().unwrap_or(BACKOFF.1)).await;
            }
        }
        self.status.going_on(Who::References);
    }

    /// Loads each again on its interval, until the tasks are aborted.
    #[must_use]
    pub fn keep_fresh(self) -> JoinSet<()> {
        let this = Arc::new(self);
        let mut tasks = JoinSet::new();
        for index in 0..this.settings.len() {
            let this = Arc::clone(&this);
            tasks.spawn(async move {
                let Some(reference) = this.settings.get(index) else { return };
                loop {
                    tokio::time::sleep(Duration::from_millis(reference.refresh_ms)).await;
                    let result = this.load_one(reference).await;
                    if let Err(problem) = &result {
                        tracing::warn!(class = %problem.class, "the last good rows stay: {}", problem.message);
                    }
                    this.status.reference(reference.table.name.as_str(), result.err());
                }
            });
        }
        tasks
    }

    async fn load_one(&self, reference: &ReferenceSettings) -> Result<(), Problem> {
        let name = &reference.table.name;
        let load = async {
            let mut session = connect(&reference.connection, &self.credentials).await.map_err(|error| told(name, error))?;
            read(&mut session, reference).await
        };
        let rows = timeout(LOAD, load)
            .await
            .unwrap_or_else(|_elapsed| Err(Problem::new(ProblemClass::ReferenceUnreachable, format!("reference \"{name}\": MySQL does not answer in time"))))?;
        tracing::debug!(reference = %name, rows = rows.num_rows(), "loaded");
        self.query.set_reference(name, rows);
        Ok(())
    }
}

/// What is wrong with MySQL, with the name of the reference.
fn told(name: &SqlName, error: SinkError) -> Problem {
    match error {
        SinkError::Outage(problem) | SinkError::Fatal(problem) => {
            let class = if problem.class == ProblemClass::StoreUnreachable { ProblemClass::ReferenceUnreachable } else { problem.class };
            Problem { class, message: format!("reference \"{name}\": {}", problem.message), ..problem }
        }
        other => Problem::new(ProblemClass::Internal, format!("reference \"{name}\": {other}")),
    }
}

/// Each column as text, which the types of the reference are then read from: so MySQL's types need not be matched one by one.
fn select(reference: &ReferenceSettings) -> String {
    let columns: Vec<String> = reference.table.fields.iter().map(|field| format!("CAST({} AS CHAR)", field.name.backticked())).collect();
    let from = match (&reference.source.table, &reference.source.sql) {
        (Some(table), _) => table.backticked(),
        (None, sql) => format!("({}\n) AS `reference`", sql.as_deref().unwrap_or_default().trim().trim_end_matches(';')),
    };
    format!("SELECT {} FROM {from}", columns.join(", "))
}

async fn read(session: &mut MySqlConnection, reference: &ReferenceSettings) -> Result<RecordBatch, Problem> {
    let name = &reference.table.name;
    // The log may have the server's words, since the statement holds no contents of records; /status may not: they have the SQL in them, or the user and its address.
    let failed = |error: sqlx::Error| {
        tracing::warn!(reference = %name, %error, "reading");
        told(name, classify(&error))
    };
    let mut columns: Vec<StringBuilder> = reference.table.fields.iter().map(|_| StringBuilder::new()).collect();
    let mut bytes = 0;
    let mut rows = sqlx::query(AssertSqlSafe(select(reference))).fetch(session);
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        for (index, column) in columns.iter_mut().enumerate() {
            let value: Option<&str> = text(&row, index).map_err(failed)?;
            bytes += weight(value);
            column.append_option(value);
        }
        if bytes > MOST {
            let limit = MOST >> 20;
            let text = format!("reference \"{name}\" has more than {limit} MiB, which every worker holds in memory: take fewer rows or columns with mysql.sql");
            return Err(Problem::new(ProblemClass::OutOfMemory, text));
        }
    }
    let texts: Vec<ArrayRef> = columns.into_iter().map(|mut column| Arc::new(column.finish()) as ArrayRef).collect();
    typed(reference, &texts)
}

/// About how many bytes a value takes in memory.
fn weight(value: Option<&str>) -> usize {
    VALUE + value.map_or(0, str::len)
}

fn text(row: &MySqlRow, index: usize) -> Result<Option<&str>, sqlx::Error> {
    row.try_get(index)
}

/// The columns in the reference's types.
fn typed(reference: &ReferenceSettings, texts: &[ArrayRef]) -> Result<RecordBatch, Problem> {
    let name = &reference.table.name;
    let schema = reference_schema(&reference.table);
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let columns = texts.iter().zip(&reference.table.fields).zip(schema.fields()).map(|((text, field), column)| {
        cast_with_options(text, column.data_type(), &strict).map_err(|_values_are_not_told| {
            let what =
                format!("column \"{}\" of reference \"{name}\" has a value that is no {}: change the field's type, or the rows", field.name, field.type_);
            Problem::new(ProblemClass::TableMissing, what)
        })
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(schema, columns).map_err(|error| Problem::new(ProblemClass::Internal, format!("reference \"{name}\": {error}")))
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, StringArray};
    use arrow::datatypes::{Decimal128Type, Int64Type, TimestampMicrosecondType};

    use super::*;

    fn reference(source: serde_json::Value) -> ReferenceSettings {
        serde_json::from_value(serde_json::json!({
            "table": {"name": "profile", "fields": [
                {"name": "ticker", "type": "string"}, {"name": "shares", "type": "bigint"}, {"name": "factor", "type": "decimal(10,4)"},
                {"name": "listed", "type": "boolean"}, {"name": "since", "type": "timestamp"}
            ]},
            "connection": {"host": "mysql", "port": 3306, "database": "trading"}, "source": source, "refreshMs": 60_000
        }))
        .unwrap()
    }

    #[test]
    fn statements() {
        let columns = "SELECT CAST(`ticker` AS CHAR), CAST(`shares` AS CHAR), CAST(`factor` AS CHAR), CAST(`listed` AS CHAR), CAST(`since` AS CHAR)";
        assert_eq!(select(&reference(serde_json::json!({"table": "profile"}))), format!("{columns} FROM `profile`"));
        let sql = select(&reference(serde_json::json!({"sql": "SELECT * FROM profile -- all;"})));
        assert_eq!(sql, format!("{columns} FROM (SELECT * FROM profile -- all\n) AS `reference`"));
    }

    fn texts(rows: &[[Option<&str>; 5]]) -> Vec<ArrayRef> {
        (0..5).map(|column| Arc::new(rows.iter().map(|row| row[column]).collect::<StringArray>()) as ArrayRef).collect()
    }

    #[test]
    fn texts_become_what_the_fields_say() {
        let rows = [[Some("AAPL"), Some("15"), Some("1.2500"), Some("1"), Some("2024-08-25 07:04:45.123456")], [None; 5]];
        let batch = typed(&reference(serde_json::json!({"table": "profile"})), &texts(&rows)).unwrap();
        assert_eq!(batch.column(1).as_primitive::<Int64Type>().value(0), 15);
        assert_eq!(batch.column(2).as_primitive::<Decimal128Type>().value(0), 12_500);
        assert!(batch.column(3).as_boolean().value(0));
        assert_eq!(batch.column(4).as_primitive::<TimestampMicrosecondType>().value(0), 1_724_569_485_123_456);
        assert_eq!(batch.columns().iter().map(|column| column.null_count()).sum::<usize>(), 5);
    }

    #[test]
    fn nulls_and_short_values_take_room_too() {
        assert_eq!([None, Some(""), Some("AAPL")].map(weight), [16, 16, 20]);
    }

    #[test]
    fn a_value_that_does_not_fit_is_named_without_being_told() {
        let rows = [[Some("AAPL"), Some("many"), None, None, None]];
        let problem = typed(&reference(serde_json::json!({"table": "profile"})), &texts(&rows)).unwrap_err();
        assert_eq!(problem.message, "column \"shares\" of reference \"profile\" has a value that is no bigint: change the field's type, or the rows");
    }
}
