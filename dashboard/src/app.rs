//! What all requests share.

use std::ops::Deref;
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tapeline_api::TradingPipeline;
use tapeline_api::settings::DashboardSettings;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::events::Hub;
use crate::follow::Followed;
use crate::live::Live;
use crate::rows::Rows;
use crate::store::Credentials;
use crate::store::cassandra::Cassandra;
use crate::store::mongodb::MongoDb;
use crate::store::mysql::MySql;
use crate::store::topics::Topics;

/// A handle on everything.
#[derive(Clone)]
pub struct App(Arc<Shared>);

/// Everything.
pub struct Shared {
    /// What the operator wrote.
    pub settings: DashboardSettings,
    /// The folder of mounted Secrets.
    pub credentials: Credentials,
    /// The pipeline, its pods and Events.
    pub followed: Followed,
    /// Live numbers.
    pub live: Live,
    /// The rows of charts.
    pub rows: Rows,
    /// What is sent to open pages.
    pub hub: Hub,
    /// Cassandra, if the pipeline has it.
    pub cassandra: Option<Cassandra>,
    /// MySQL, if the pipeline has it.
    pub mysql: Option<Arc<MySql>>,
    /// MongoDB, if the pipeline has it.
    pub mongodb: Option<MongoDb>,
    /// Topics.
    pub topics: Topics,
    /// Ends what is open.
    pub stop: CancellationToken,
    /// What feeds open pages: awaited at the end.
    pub tasks: TaskTracker,
    metrics: Metrics,
}

struct Metrics {
    registry: Registry,
    viewers: Gauge,
    mysql_queries: Counter,
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl App {
    /// Everything, connected with nothing yet: stores are connected when somebody looks.
    #[must_use]
    pub fn new(settings: DashboardSettings, credentials: Credentials, followed: Followed, live: Live, tasks: TaskTracker, stop: CancellationToken) -> Self {
        let metrics = Metrics::new();
        let mysql = settings.mysql.clone().map(|connection| Arc::new(MySql::new(connection, credentials.clone())));
        Self(Arc::new(Shared {
            rows: Rows::new(mysql.clone(), metrics.mysql_queries.clone()),
            cassandra: settings.cassandra.clone().map(|connection| Cassandra::new(connection, credentials.clone())),
            mongodb: settings.mongodb.clone().map(|connection| MongoDb::new(connection, credentials.clone())),
            topics: Topics::new(settings.kafka.clone()),
            mysql,
            settings,
            credentials,
            followed,
            live,
            hub: Hub::default(),
            stop,
            tasks,
            metrics,
        }))
    }

    /// The pipeline, if it was read and is there.
    #[must_use]
    pub fn pipeline(&self) -> Option<Arc<TradingPipeline>> {
        self.followed.pipeline()
    }

    /// What all addresses begin with.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.settings.base_path
    }

    /// The metrics in the text format of `OpenMetrics`.
    ///
    /// # Errors
    /// Writing to a string, which does not fail.
    pub fn metrics(&self) -> Result<String, std::fmt::Error> {
        self.metrics.viewers.set(i64::try_from(self.live.viewers()).unwrap_or(i64::MAX));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metrics.registry)?;
        Ok(text)
    }
}

impl Metrics {
    fn new() -> Self {
        let mut registry = Registry::with_prefix("tapeline_dashboard");
        let (viewers, mysql_queries) = (Gauge::default(), Counter::default());
        registry.register("open_pages", "Pages that are open", viewers.clone());
        registry.register("chart_queries", "Queries sent to MySQL for the rows of charts", mysql_queries.clone());
        Self { registry, viewers, mysql_queries }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A dashboard for a pipeline of `spec`, without stores, that anybody may see under `base`.
    pub(crate) fn app(base: &str, spec: &Value) -> App {
        let settings = json!({
            "formatVersion": tapeline_api::settings::FORMAT_VERSION, "namespace": "demo", "pipeline": "p", "kafka": {"bootstrapServers": "k:9092"},
            "auth": "anybody", "basePath": base,
        });
        let followed = Followed::of(TradingPipeline::new("p", serde_json::from_value(spec.clone()).unwrap()));
        App::new(
            serde_json::from_value(settings).unwrap(),
            Credentials::new("/nowhere".into()),
            followed,
            Live::default(),
            TaskTracker::new(),
            CancellationToken::new(),
        )
    }
}
