//! The settings that the operator wrote, and the mounted credentials.

use std::path::{Path, PathBuf};

use secrecy::SecretString;
use tapeline_api::settings::{FormatError, WorkerSettings, parse};

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// No such file.
    #[error("reading the settings {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Not those of this version.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// Reads the settings.
///
/// # Errors
/// They are not there, or of another version.
pub fn read(path: &Path) -> Result<WorkerSettings, SettingsError> {
    let text = std::fs::read(path).map_err(|error| SettingsError::Read { path: path.to_owned(), error })?;
    Ok(parse(&text)?)
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

impl Credentials {
    /// Those under `folder`.
    #[must_use]
    pub const fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// Those of `store` ("mysql", "cassandra"), if there are any.
    ///
    /// # Errors
    /// They are there and cannot be read.
    pub fn of(&self, store: &str) -> std::io::Result<Option<UserAndPassword>> {
        let folder = self.0.join(store);
        if !folder.try_exists()? {
            return Ok(None);
        }
        let user = std::fs::read_to_string(folder.join("username"))?;
        let password = std::fs::read_to_string(folder.join("password"))?;
        Ok(Some(UserAndPassword { user: user.trim_end_matches('\n').to_owned(), password: password.trim_end_matches('\n').into() }))
    }
}
