//! The connection, and commands over it: each with a time limit, since the driver waits for a silent server for ever.

use std::time::Duration;

use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::options::{ClientOptions, Credential, ServerAddress};
use mongodb::{Client, Database};
use secrecy::ExposeSecret;
use tapeline_api::names::SqlName;
use tapeline_api::progress::PROGRESS_TABLE;
use tapeline_api::settings::MongoDbConnection;
use tokio::time::timeout;

use super::trouble::Trouble;
use crate::settings::Credentials;

/// How long a connection, or the search for a server that takes writes, may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a command may take.
const REQUEST: Duration = Duration::from_secs(10);
/// Connections to a server: as many as there are commands at once, and some for the driver's own questions.
const CONNECTIONS: u32 = 8;

/// Connects with the credentials as they are now, and looks whether the collections are there: a server would make one for the first document, which hides that it
/// was deleted, or never declared.
pub(super) async fn connect(connection: &MongoDbConnection, credentials: &Credentials, collection: &SqlName) -> Result<Database, Trouble> {
    let login = credentials.of("mongodb").map_err(|error| Trouble::Denied(format!("user and password of MongoDB cannot be read: {error}")))?;
    let hosts: Result<Vec<ServerAddress>, _> = connection.hosts.iter().map(ServerAddress::parse).collect();
    let mut options = ClientOptions::default();
    options.hosts = hosts.map_err(|error| Trouble::Fault(format!("spec.mongodb.hosts: {error}")))?;
    options.repl_set_name.clone_from(&connection.replica_set);
    options.app_name = Some("tapeline-worker".to_owned());
    options.connect_timeout = Some(CONNECT);
    options.server_selection_timeout = Some(CONNECT);
    options.max_pool_size = Some(CONNECTIONS);
    // The sink writes again itself, which is harmless; a single server refuses the driver's way.
    options.retry_writes = Some(false);
    if let Some(login) = &login {
        let credential = Credential::builder()
            .username(login.user.clone())
            .password(login.password.expose_secret().to_owned())
            .source(connection.auth_source.clone())
            .build();
        options.credential = Some(credential);
    }
    let client = Client::with_options(options).map_err(|error| Trouble::from(&error))?;
    let database = client.database(connection.database.as_str());
    let names = in_time(REQUEST, database.list_collection_names().into_future()).await?;
    for name in [collection.as_str(), PROGRESS_TABLE] {
        if !names.iter().any(|known| known == name) {
            let text = format!("the collection {name} is not there: declare it under spec.mongodb.collections, or create it");
            return Err(Trouble::Missing(text));
        }
    }
    Ok(database)
}

/// Runs a command.
pub(super) async fn run(database: &Database, command: Document) -> Result<Document, Trouble> {
    in_time(REQUEST, database.run_command(command).into_future()).await
}

/// The same with what was put together byte by byte.
pub(super) async fn run_raw(database: &Database, command: RawDocumentBuf) -> Result<Document, Trouble> {
    in_time(REQUEST, database.run_raw_command(command).into_future()).await
}

/// Writes count when a majority of the replica set has them: what fewer have can be rolled back. Where they cannot in time, the server says so before we give up.
pub(super) fn write_concern() -> Document {
    doc! {"w": "majority", "wtimeout": 8_000}
}

async fn in_time<T>(limit: Duration, work: impl Future<Output = mongodb::error::Result<T>>) -> Result<T, Trouble> {
    match timeout(limit, work).await {
        Ok(result) => result.map_err(|error| Trouble::from(&error)),
        Err(_elapsed) => Err(Trouble::no_answer_within(limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tapeline_api::report::ProblemClass;

    use crate::sink::SinkError;

    #[tokio::test]
    async fn a_server_that_is_frozen_is_an_outage() {
        let trouble = in_time(Duration::ZERO, std::future::pending::<mongodb::error::Result<()>>()).await.unwrap_err();
        assert_eq!(SinkError::from(trouble), SinkError::outage(ProblemClass::StoreUnreachable, "MongoDB did not answer within 0 s"));
    }
}
