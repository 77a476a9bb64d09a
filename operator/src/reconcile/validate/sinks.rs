//! Sinks: whether their stores are in the specification, and whether the query's output fits. Whether the query is of a kind that they take, its check has said.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tapeline_api::TradingPipelineSpec;
use tapeline_api::names::{SqlName, TopicName};
use tapeline_api::pipeline::mysql::MySqlTable;
use tapeline_api::pipeline::queries::{CassandraSink, KafkaSink, MongoDbSink, MySqlSink, Query, Target};
use tapeline_api::progress::PROGRESS_TOPIC;

use super::queries::{INTO_PROGRESS, invalid, invalid_sql};
use crate::reason::{Problem, near_miss};
use crate::reconcile::check_query::{self, Checked};

/// Collects what is wrong with the sink of the query under `path`.
pub(super) fn sink(spec: &TradingPipelineSpec, query: &Query, checked: Option<&Checked>, path: &str, problems: &mut Vec<Problem>) {
    let Some(target) = query.sink.target() else { return };
    let mut check = Check { spec, checked, path, problems };
    match target {
        Target::Cassandra(sink) => check.cassandra(sink),
        Target::MySql(sink) => check.mysql(sink),
        Target::MongoDb(sink) => check.mongodb(sink),
        Target::Kafka(sink) => check.kafka(sink),
        Target::Blackhole => {}
    }
}

struct Check<'a> {
    spec: &'a TradingPipelineSpec,
    checked: Option<&'a Checked>,
    path: &'a str,
    problems: &'a mut Vec<Problem>,
}

impl Check<'_> {
    fn wrong(&mut self, field: &str, message: impl Into<String>) {
        self.problems.push(invalid(format!("{}.sink.{field}", self.path), message));
    }

    fn wrong_sql(&mut self, message: impl Into<String>) {
        self.problems.push(invalid_sql(format!("{}.sql", self.path), message));
    }

    fn fits(&mut self, table: &SqlName, columns: &[check_query::TableColumn]) {
        let findings = self.checked.map(|checked| check_query::mismatches(checked, table.as_str(), columns)).unwrap_or_default();
        for finding in findings {
            self.wrong_sql(finding);
        }
    }

    /// The table is not declared here: what no table takes is seen all the same.
    fn fits_some_table(&mut self) {
        for finding in self.checked.map(|checked| check_query::unfit(&checked.output)).unwrap_or_default() {
            self.wrong_sql(finding);
        }
    }

    /// Columns that the sink names are among those of the output, each once.
    fn columns(&mut self, field: &str, named: &[SqlName]) {
        let Some(checked) = self.checked else { return };
        let output: Vec<&str> = checked.output.iter().map(|column| column.name.as_str()).collect();
        let mut seen = BTreeSet::new();
        for (at, column) in named.iter().enumerate() {
            if !output.contains(&column.as_str()) {
                let hint = near_miss(column.as_str(), output.iter().copied());
                self.wrong(&format!("{field}[{at}]"), format!("no column \"{column}\" in the query's output{hint}"));
            } else if !seen.insert(column) {
                self.wrong(&format!("{field}[{at}]"), format!("column \"{column}\" is named twice; name it once"));
            }
        }
    }

    fn cassandra(&mut self, sink: &CassandraSink) {
        let Some(cassandra) = &self.spec.cassandra else {
            self.wrong("cassandra", "the pipeline has no Cassandra; add spec.cassandra, or choose another sink");
            return;
        };
        if let Some(table) = cassandra.tables.iter().find(|table| table.name == sink.table) {
            self.fits(&table.name, &check_query::cassandra_columns(table));
        } else {
            self.fits_some_table();
        }
    }

    fn mysql(&mut self, sink: &MySqlSink) {
        let Some(mysql) = &self.spec.mysql else {
            self.wrong("mysql", "the pipeline has no MySQL; add spec.mysql, or choose another sink");
            return;
        };
        if let Some(table) = mysql.tables.iter().find(|table| table.name == sink.table) {
            self.fits(&table.name, &check_query::mysql_columns(table));
            self.order_columns(table);
        } else if mysql.views.iter().any(|view| view.name == sink.table) {
            self.wrong("mysql.table", "it is a view, which takes no rows; name a table");
        } else {
            self.fits_some_table();
        }
    }

    /// Mode Merge adds columns of its own to the table.
    fn order_columns(&mut self, table: &MySqlTable) {
        match self.checked.map(Checked::order_columns) {
            Some(Err(message)) => self.wrong_sql(message),
            Some(Ok(columns)) => {
                for name in columns.iter().map(|column| &column.name).filter(|name| table.columns.iter().any(|declared| declared.name == **name)) {
                    let message = format!("table \"{}\" declares a column \"{name}\", which mode Merge adds for its own use; name it otherwise", table.name);
                    self.wrong("mysql.table", message);
                }
            }
            None => {}
        }
    }

    fn mongodb(&mut self, sink: &MongoDbSink) {
        if self.spec.mongodb.is_none() {
            self.wrong("mongodb", "the pipeline has no MongoDB; add spec.mongodb, or choose another sink");
            return;
        }
        if is_reserved(sink.collection.as_str()) {
            self.wrong("mongodb.collection", "collections with tapeline_ in front are Tapeline's own; name another");
        }
        self.columns("mongodb.id", &sink.id);
    }

    fn kafka(&mut self, sink: &KafkaSink) {
        let topic = &sink.topic;
        if topic.as_str() == PROGRESS_TOPIC {
            self.wrong("kafka.topic", INTO_PROGRESS);
        }
        let own = self.checked.and_then(|checked| self.spec.streams.iter().find(|stream| stream.name.as_str() == checked.stream));
        if let Some(stream) = own.filter(|stream| stream.topic == *topic) {
            let message =
                format!("it is the topic of the stream \"{}\" that the query reads, so its rows would be read again for ever; name another topic", stream.name);
            self.wrong("kafka.topic", message);
        }
        if let Some(stream) = self.spec.streams.iter().find(|stream| stream.dead_letter_topic.as_ref() == Some(topic)) {
            let message = format!("it is the dead-letter topic of the stream \"{}\", in which bad records are looked for; name another topic", stream.name);
            self.wrong("kafka.topic", message);
        }
        if sink.key.is_empty() && is_compacted(self.spec, topic) {
            self.wrong("kafka.key", "the topic is compacted, and takes no messages without a key; name the columns that make it");
        }
        self.columns("kafka.key", &sink.key);
    }
}

/// Whether a topic is declared as one that keeps the last message of each key.
fn is_compacted(spec: &TradingPipelineSpec, topic: &TopicName) -> bool {
    let declared = spec.kafka.topics.iter().find(|declared| declared.name == *topic).and_then(|declared| declared.config.get("cleanup.policy"));
    matches!(declared, Some(IntOrString::String(policy)) if policy.contains("compact"))
}

/// Whether a name is kept for Tapeline's own tables and collections.
pub(super) fn is_reserved(name: &str) -> bool {
    name.starts_with("tapeline_")
}
