//! Clients of the servers, each reached through one address from outside the cluster.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use mongodb::options::{ClientOptions, Credential, ServerAddress};
use rdkafka::ClientConfig;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::TranslationError;
use scylla::policies::address_translator::{AddressTranslator, UntranslatedPeer};
use sqlx::mysql::{MySqlPool, MySqlPoolOptions};

const CONNECT: Duration = Duration::from_secs(5);

/// Every node is reached through the one address that was given: it may be a forwarded port, and the address by which a node calls itself one that only pods reach.
struct Through(SocketAddr);

#[async_trait::async_trait]
impl AddressTranslator for Through {
    async fn translate_address(&self, _: &UntranslatedPeer) -> Result<SocketAddr, TranslationError> {
        Ok(self.0)
    }
}

/// A session with Cassandra at `address` (`host:port`), without user and password.
///
/// # Errors
/// It does not answer.
pub async fn cassandra(address: &str) -> Result<Session> {
    session(SessionBuilder::new(), address).await
}

/// A session with Cassandra at `address` (`host:port`) as `user`.
///
/// # Errors
/// It does not answer, or refuses.
pub async fn cassandra_as(user: &str, password: &str, address: &str) -> Result<Session> {
    session(SessionBuilder::new().user(user, password), address).await
}

async fn session(builder: SessionBuilder, address: &str) -> Result<Session> {
    let resolved = tokio::net::lookup_host(address).await.with_context(|| format!("looking up Cassandra's address {address}"))?.next();
    let resolved = resolved.with_context(|| format!("Cassandra's address {address} has no IP address"))?;
    let profile = ExecutionProfile::builder().request_timeout(Some(Duration::from_secs(60))).build();
    builder
        .known_node_addr(resolved)
        .address_translator(Arc::new(Through(resolved)))
        .connection_timeout(CONNECT)
        .default_execution_profile_handle(profile.into_handle())
        .build()
        .await
        .with_context(|| format!("connecting to Cassandra at {address}"))
}

/// A pool of connections with MySQL at `url` (`mysql://user:password@host:port`), in UTC.
///
/// # Errors
/// It does not answer, or refuses.
pub async fn mysql(url: &str) -> Result<MySqlPool> {
    let address = url.rsplit_once('@').map_or(url, |(_, address)| address);
    let pool = MySqlPoolOptions::new().max_connections(4).acquire_timeout(CONNECT).connect(url);
    Box::pin(pool).await.with_context(|| format!("connecting to MySQL at {address}"))
}

/// The user of the test bed's MongoDB, which is its password too, and is defined in `admin`.
pub const MONGODB_USER: &str = "tapeline";

/// A client of MongoDB at `address` (`host:port`), which connects when it is first used.
///
/// # Errors
/// The address is none.
pub fn mongodb(address: &str) -> Result<mongodb::Client> {
    let credential = Credential::builder().username(MONGODB_USER.to_owned()).password(MONGODB_USER.to_owned()).source("admin".to_owned()).build();
    let options = ClientOptions::builder()
        .hosts(vec![ServerAddress::parse(address)?])
        .direct_connection(true)
        .credential(credential)
        .connect_timeout(CONNECT)
        .server_selection_timeout(CONNECT)
        .max_pool_size(4)
        .build();
    mongodb::Client::with_options(options).with_context(|| format!("a client of MongoDB at {address}"))
}

/// The settings of any Kafka client at `address`.
#[must_use]
pub fn kafka(address: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address).set("socket.connection.setup.timeout.ms", "5000").set("broker.address.family", "v4").set("log_level", "3");
    config
}
