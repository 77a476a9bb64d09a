//! One client for each endpoint and its credentials, shared by all pipelines that name it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};

use super::{Credentials, cassandra, kafka, mongodb, mysql};

/// A client that nobody asked for in this time is closed. Longer than the reconcile's resync (5 min), so that pipelines at rest keep theirs.
const UNUSED_FOR: Duration = Duration::from_mins(15);

/// All clients of this process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Clients(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    kafka: Cache<kafka::Shared>,
    cassandra: Cache<cassandra::Shared>,
    mysql: Cache<mysql::Shared>,
    mongodb: Cache<mongodb::Shared>,
    repairs: kafka::Repairs,
    locks: cassandra::DdlLocks,
}

impl Clients {
    /// The client for a Kafka cluster. Connects when it is first used.
    #[must_use]
    pub fn kafka(&self, endpoint: kafka::Endpoint) -> kafka::Client {
        let mut key = Key::new().part(&endpoint.bootstrap_servers);
        for (name, value) in &endpoint.properties {
            key = key.part(name).part(value);
        }
        kafka::Client::new(self.0.kafka.get(key.finish()), endpoint, self.0.repairs.clone())
    }

    /// The client for a Cassandra cluster. Connects when it is first used.
    #[must_use]
    pub fn cassandra(&self, endpoint: cassandra::Endpoint) -> cassandra::Client {
        let mut key = Key::new();
        for contact_point in &endpoint.contact_points {
            key = key.part(contact_point);
        }
        let key = endpoint.credentials.iter().fold(key, Key::credentials).finish();
        cassandra::Client::new(self.0.cassandra.get(key), endpoint, self.0.locks.clone())
    }

    /// The client for a MySQL server. Connects when it is first used.
    #[must_use]
    pub fn mysql(&self, endpoint: mysql::Endpoint) -> mysql::Client {
        let key = Key::new().part(&endpoint.host).part(&endpoint.port.to_string()).credentials(&endpoint.credentials).finish();
        mysql::Client::new(self.0.mysql.get(key), endpoint)
    }

    /// The client for a MongoDB deployment. Connects when it is first used.
    #[must_use]
    pub fn mongodb(&self, endpoint: mongodb::Endpoint) -> mongodb::Client {
        let key = endpoint.hosts.iter().fold(Key::new(), |key, host| key.part(host));
        let key = key.part(endpoint.replica_set.as_deref().unwrap_or_default()).part(&endpoint.auth_source);
        let key = endpoint.credentials.iter().fold(key, Key::credentials).finish();
        mongodb::Client::new(self.0.mongodb.get(key), endpoint)
    }
}

type Digested = [u8; 32];

/// A key of the cache: a digest, so that no password is kept as one.
struct Key(Sha256);

impl Key {
    fn new() -> Self {
        Self(Sha256::new())
    }

    fn part(mut self, text: &str) -> Self {
        self.0.update(text.len().to_le_bytes());
        self.0.update(text.as_bytes());
        self
    }

    fn credentials(self, credentials: &Credentials) -> Self {
        self.part(&credentials.user).part(credentials.password.expose_secret())
    }

    fn finish(self) -> Digested {
        self.0.finalize().into()
    }
}

#[derive(Debug)]
struct Cache<T>(Mutex<HashMap<Digested, (Instant, Arc<T>)>>);

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Default> Cache<T> {
    fn get(&self, key: Digested) -> Arc<T> {
        let now = Instant::now();
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, (used, _)| now.duration_since(*used) < UNUSED_FOR);
        let (used, shared) = entries.entry(key).or_insert_with(|| (now, Arc::default()));
        *used = now;
        Arc::clone(shared)
    }
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    fn mysql(clients: &Clients, password: &str) -> Arc<mysql::Shared> {
        let credentials = Credentials { user: "root".into(), password: password.into(), field: "spec.mysql.credentialsSecretRef", secret: "mysql".into() };
        let endpoint = mysql::Endpoint { host: "mysql.data".into(), port: 3306, credentials };
        clients.mysql(endpoint).shared()
    }

    #[test]
    fn one_client_for_one_endpoint_and_password() {
        let clients = Clients::default();
        let first = mysql(&clients, "a");
        assert!(ptr::eq(&raw const *first, &raw const *mysql(&clients.clone(), "a")));
        assert!(!ptr::eq(&raw const *first, &raw const *mysql(&clients, "b")));
    }
}
