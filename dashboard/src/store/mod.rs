//! What the dashboard shows: read from the stores that the pipeline writes to, a page at a time, and never written.
//!
//! A page is found by what the one before ended with, so that it costs the same wherever it is, and rows that come meanwhile shift nothing.

pub mod cassandra;
pub mod mongodb;
pub mod mysql;
pub mod topics;

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use crate::table::Table;

/// Bytes of a page's values after which no further rows are read: a row may have megabytes, and the dashboard has 256 MiB in all.
pub(crate) const MOST_BYTES: usize = 16 << 20;
/// How much of its store and table a cursor carries, in bytes: enough to notice one of another table.
const SCOPE: usize = 6;

/// Why there is nothing to show. The text is for the page: it says what to do, and has no passwords.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store does not answer, or says that it cannot now. It goes by itself, or when somebody starts the store.
    #[error("{0}")]
    Unreachable(String),
    /// User, password or permission.
    #[error("{0}")]
    Denied(String),
    /// The table, view, collection, topic, partition or message is not there.
    #[error("{0}")]
    Missing(String),
    /// The store, or Tapeline, does not do what is asked for.
    #[error("{0}")]
    Refused(String),
    /// What is asked for is no such thing: a cursor of another table, a value that is not of its column's type.
    #[error("{0}")]
    Invalid(String),
}

/// A page of a table's rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The rows.
    pub table: Table,
    /// What the next page begins after, for the same call; none: this is the last one. May stand in an address as it is.
    pub next: Option<String>,
    /// The order of the rows in words: `newest first by id`, `by token`.
    pub order: String,
}

/// Where user names and passwords are mounted. They are read at each connection, so that a changed Secret needs no restart.
#[derive(Debug, Clone)]
pub struct Credentials(PathBuf);

/// A user name and password.
#[derive(Debug, Clone)]
pub struct UserAndPassword {
    /// The user.
    pub user: String,
    /// The password.
    pub password: SecretString,
}

impl PartialEq for UserAndPassword {
    fn eq(&self, other: &Self) -> bool {
        self.user == other.user && self.password.expose_secret() == other.password.expose_secret()
    }
}

impl Credentials {
    /// Those under `folder`.
    #[must_use]
    pub const fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// Those of `store` ("mysql", "cassandra"), if there are any: the files `<folder>/<store>/username` and `<folder>/<store>/password`.
    ///
    /// # Errors
    /// They are there and cannot be read.
    pub fn of(&self, store: &str) -> Result<Option<UserAndPassword>, StoreError> {
        let folder = self.0.join(store);
        let read = || -> std::io::Result<Option<UserAndPassword>> {
            if !folder.try_exists()? {
                return Ok(None);
            }
            let user = std::fs::read_to_string(folder.join("username"))?;
            let password = std::fs::read_to_string(folder.join("password"))?;
            Ok(Some(UserAndPassword { user: user.trim_end_matches('\n').to_owned(), password: password.trim_end_matches('\n').into() }))
        };
        read().map_err(|error| StoreError::Denied(format!("user and password of {store} cannot be read from their mounted Secret: {error}")))
    }
}

/// Waits for `store` no longer than `limit`: drivers have no limit for all that they do.
pub(crate) async fn in_time<T, E>(store: &str, limit: Duration, work: impl Future<Output = Result<T, E>>) -> Result<T, StoreError>
where
    StoreError: From<E>,
{
    match timeout(limit, work).await {
        Ok(result) => result.map_err(StoreError::from),
        Err(_elapsed) => Err(StoreError::Unreachable(format!(
            "{store} did not answer within {} s; try again, and look at its health if that does not help",
            limit.as_secs()
        ))),
    }
}

/// The order of rows by the columns of a key, in words.
pub(crate) fn descending(newest: bool, columns: &[&str]) -> String {
    format!("{} first by {}", if newest { "newest" } else { "greatest" }, columns.join(", "))
}

/// A cursor: `place` in what `scope` names, as text that may stand in an address.
pub(crate) fn seal(scope: &[&str], place: &[u8]) -> String {
    let mut bytes = fingerprint(scope);
    bytes.extend_from_slice(place);
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// The place that `cursor` holds, if it was sealed for `scope`. It may still be anything: the text comes from whoever asks.
pub(crate) fn open(scope: &[&str], cursor: &str) -> Result<Vec<u8>, StoreError> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).map_err(|_| not_a_cursor())?;
    match bytes.split_at_checked(SCOPE) {
        Some((of, place)) if of == fingerprint(scope) => Ok(place.to_vec()),
        _ => Err(not_a_cursor()),
    }
}

/// What a cursor is that says nothing about this table.
pub(crate) fn not_a_cursor() -> StoreError {
    StoreError::Invalid("this page's address does not belong to this table any more: begin with its first page".to_owned())
}

fn fingerprint(scope: &[&str]) -> Vec<u8> {
    let mut hash = Sha256::new();
    for part in scope {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into_iter().take(SCOPE).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn a_cursor_is_opened_by_the_table_that_it_is_of() {
        let cursor = seal(&["mysql", "trading", "profile"], b"[\"AAPL\"]");
        assert!(cursor.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')), "{cursor}");
        assert_eq!(open(&["mysql", "trading", "profile"], &cursor).unwrap(), b"[\"AAPL\"]");
    }

    #[rstest]
    #[case::other_table(&["mysql", "trading", "trades"])]
    #[case::names_that_run_together(&["mysql", "tradingprofile", ""])]
    fn a_cursor_of_another_table_is_invalid(#[case] scope: &[&str]) {
        let cursor = seal(&["mysql", "trading", "profile"], b"1");
        assert_eq!(open(scope, &cursor), Err(not_a_cursor()));
    }

    #[rstest]
    #[case("")]
    #[case("AAAA")]
    #[case("no base64!")]
    fn what_is_no_cursor_is_invalid(#[case] cursor: &str) {
        assert_eq!(open(&["mysql"], cursor), Err(not_a_cursor()));
    }

    #[test]
    fn credentials_are_those_that_are_mounted_now() {
        let folder = tempfile::tempdir().unwrap();
        let credentials = Credentials::new(folder.path().to_owned());
        assert_eq!(credentials.of("mysql"), Ok(None));
        let mysql = folder.path().join("mysql");
        std::fs::create_dir(&mysql).unwrap();
        let error = credentials.of("mysql").unwrap_err();
        assert!(matches!(&error, StoreError::Denied(text) if text.contains("mysql")), "{error}");
        for password in ["old\n", "new"] {
            std::fs::write(mysql.join("username"), "tapeline\n").unwrap();
            std::fs::write(mysql.join("password"), password).unwrap();
            let expected = UserAndPassword { user: "tapeline".to_owned(), password: password.trim().into() };
            assert_eq!(credentials.of("mysql"), Ok(Some(expected)));
        }
    }

    #[tokio::test]
    async fn a_store_that_is_frozen_is_not_waited_for_longer_than_the_limit() {
        let error = in_time("MySQL", Duration::ZERO, std::future::pending::<Result<(), StoreError>>()).await.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable(_)));
    }
}
