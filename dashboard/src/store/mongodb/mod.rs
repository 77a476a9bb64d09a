//! Collections of MongoDB, newest `_id` first. Documents have no columns: those of a page are the fields of its documents.

mod cell;

use std::time::Duration;

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{ClientOptions, Credential, ReadPreference, SelectionCriteria, ServerAddress};
use mongodb::{Client, Database};
use secrecy::ExposeSecret;
use tapeline_api::names::SqlName;
use tapeline_api::settings::MongoDbConnection;
use tokio::sync::Mutex;

use super::{Credentials, MOST_BYTES, Page, StoreError, UserAndPassword, descending, in_time, not_a_cursor, open, seal};

/// How long a connection, and the search for a server, may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the server may take for a command, in its own time and in ours.
const COMMAND: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(15);
/// Connections to a server.
const CONNECTIONS: u32 = 2;

/// The MongoDB deployment of a pipeline, connected when it is first asked.
pub struct MongoDb {
    connection: MongoDbConnection,
    credentials: Credentials,
    client: Mutex<Option<(Option<UserAndPassword>, Client)>>,
}

impl MongoDb {
    /// The deployment that `connection` describes, with the user and password under `mongodb` of `credentials`, if there are any.
    #[must_use]
    pub fn new(connection: MongoDbConnection, credentials: Credentials) -> Self {
        Self { connection, credentials, client: Mutex::new(None) }
    }

    /// A page of `size` documents of `collection` by `_id`, greatest first: the first one, or the one after `cursor` (as [`Page::next`] gave it). Where `_id`s are of several
    /// types, pages go on with those of the type that the last one ended with, since MongoDB compares a value with those of its own type.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn page(&self, collection: &SqlName, cursor: Option<&str>, size: usize) -> Result<Page, StoreError> {
        let scope = ["mongodb", self.connection.database.as_str(), collection.as_str()];
        let filter = match cursor {
            None => doc! {},
            Some(cursor) => doc! {"_id": {"$lt": place(open(&scope, cursor)?)?}},
        };
        in_time("MongoDB", LIMIT, async {
            let database = self.database().await?;
            let (documents, more) = read(&database, collection, filter, size.max(1)).await?;
            if documents.is_empty() && cursor.is_none() {
                exists(&database, collection).await?;
            }
            let next = documents.last().and_then(|last| last.get("_id")).filter(|_| more);
            let next = next.and_then(|id| RawDocumentBuf::try_from(doc! {"_id": id.clone()}).ok()).map(|place| seal(&scope, place.as_bytes()));
            Ok::<_, StoreError>(Page { table: cell::table(documents), next, order: descending(false, &["_id"]) })
        })
        .await
    }

    /// The database, with a client that is made anew if the user or password is another one since. The driver reconnects by itself.
    async fn database(&self) -> Result<Database, StoreError> {
        let login = self.credentials.of("mongodb")?;
        let mut known = self.client.lock().await;
        let client = match known.take() {
            Some((used, client)) if used == login => client,
            _ => Client::with_options(self.options(login.as_ref())?)?,
        };
        *known = Some((login, client.clone()));
        Ok(client.database(self.connection.database.as_str()))
    }

    fn options(&self, login: Option<&UserAndPassword>) -> Result<ClientOptions, StoreError> {
        let hosts: Result<Vec<ServerAddress>, _> = self.connection.hosts.iter().map(ServerAddress::parse).collect();
        let mut options = ClientOptions::default();
        options.hosts = hosts.map_err(|error| StoreError::Invalid(format!("spec.mongodb.hosts: {error}")))?;
        options.repl_set_name.clone_from(&self.connection.replica_set);
        options.app_name = Some("tapeline-dashboard".to_owned());
        options.connect_timeout = Some(CONNECT);
        options.server_selection_timeout = Some(CONNECT);
        options.max_pool_size = Some(CONNECTIONS);
        // Something is shown while there is no primary.
        options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::PrimaryPreferred { options: None }));
        options.credential = login.map(|login| {
            Credential::builder()
                .username(login.user.clone())
                .password(login.password.expose_secret().to_owned())
                .source(self.connection.auth_source.clone())
                .build()
        });
        Ok(options)
    }
}

/// The `_id` that a page begins after.
fn place(bytes: Vec<u8>) -> Result<Bson, StoreError> {
    let document = RawDocumentBuf::from_bytes(bytes).ok().and_then(|raw| Document::try_from(raw).ok());
    document.and_then(|mut document| document.remove("_id")).ok_or_else(not_a_cursor)
}

/// At most `size` documents, fewer if they are large, and whether there are more.
async fn read(database: &Database, collection: &SqlName, filter: Document, size: usize) -> Result<(Vec<Document>, bool), StoreError> {
    let limit = i64::try_from(size).unwrap_or(i64::MAX).saturating_add(1);
    let documents_of = database.collection::<RawDocumentBuf>(collection.as_str());
    let mut found = documents_of.find(filter).sort(doc! {"_id": -1}).limit(limit).max_time(COMMAND).await?;
    let (mut documents, mut bytes) = (Vec::new(), 0);
    while let Some(raw) = found.try_next().await? {
        if documents.len() >= size || bytes > MOST_BYTES {
            return Ok((documents, true));
        }
        bytes += raw.as_bytes().len();
        let document = Document::try_from(raw).map_err(|error| StoreError::Refused(format!("a document of {collection} cannot be read: {error}")))?;
        documents.push(document);
    }
    Ok((documents, false))
}

/// An empty answer is also what a collection gives that is not there.
async fn exists(database: &Database, collection: &SqlName) -> Result<(), StoreError> {
    let names = database.list_collection_names().filter(doc! {"name": collection.as_str()}).await?;
    if names.iter().any(|name| name == collection.as_str()) {
        return Ok(());
    }
    Err(StoreError::Missing(format!("the collection {collection} is not there: the pipeline's conditions say why it was not created, or create it")))
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        tracing::debug!(%error, "mongodb");
        let unreachable = |text: &str| Self::Unreachable(text.to_owned());
        match &*error.kind {
            ErrorKind::Command(error) => by_code(error.code, &error.message),
            ErrorKind::Authentication { .. } => denied(),
            ErrorKind::ServerSelection { .. } => unreachable("no server of MongoDB answers: look whether it runs, and at spec.mongodb.hosts and replicaSet"),
            ErrorKind::InvalidArgument { message, .. } => Self::Invalid(format!("MongoDB's driver refuses: {message}")),
            ErrorKind::IncompatibleServer { message, .. } => Self::Refused(format!("MongoDB's version does not fit: {message}")),
            _ => unreachable("the connection to MongoDB was lost: try again"),
        }
    }
}

fn denied() -> StoreError {
    StoreError::Denied("MongoDB refuses the user, the password or a permission: put them right in the Secret, or grant read on the database".to_owned())
}

fn by_code(code: i32, words: &str) -> StoreError {
    match code {
        13 | 18 | 31 | 8000 => denied(), // Unauthorized, AuthenticationFailed, RoleNotFound, Atlas' own
        26 => StoreError::Missing(format!("MongoDB: {words}")),
        50 | 202 | 262 => StoreError::Unreachable("MongoDB did not answer within 10 s: try again".to_owned()),
        10107 | 13435 | 13436 | 10058 | 189 | 91 | 11600 | 11602 => StoreError::Unreachable("MongoDB has no member that answers now: try again".to_owned()),
        _ => StoreError::Refused(format!("MongoDB answers with error {code}: {words}")),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn a_place_is_an_id_of_any_type() {
        for id in [Bson::Int64(7), Bson::String("a".to_owned()), Bson::Document(doc! {"ticker": "AAPL", "day": 1})] {
            let bytes = RawDocumentBuf::try_from(doc! {"_id": id.clone()}).unwrap().into_bytes();
            assert_eq!(place(bytes), Ok(id));
        }
    }

    #[rstest]
    #[case::nothing(vec![])]
    #[case::no_document(b"\xff\x00\x00\x00 something".to_vec())]
    #[case::no_id(RawDocumentBuf::new().into_bytes())]
    fn what_is_no_place_is_invalid(#[case] bytes: Vec<u8>) {
        assert_eq!(place(bytes), Err(not_a_cursor()));
    }

    #[rstest]
    #[case::permission(13, StoreError::Denied(String::new()))]
    #[case::password(18, StoreError::Denied(String::new()))]
    #[case::slow(50, StoreError::Unreachable(String::new()))]
    #[case::no_primary(13435, StoreError::Unreachable(String::new()))]
    #[case::anything_else(2, StoreError::Refused(String::new()))]
    fn what_mongodb_says(#[case] code: i32, #[case] expected: StoreError) {
        assert_eq!(std::mem::discriminant(&by_code(code, "words")), std::mem::discriminant(&expected));
    }
}
